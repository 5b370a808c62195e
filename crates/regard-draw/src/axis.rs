//! Axes: which numbers stand where.

/// The numbers `0..count` along cells of a picture.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Axis {
    pub(crate) name: &'static str,
    pub(crate) count: usize,
    pub(crate) cells: usize,
    /// Number `n` stands in cell `n · times / over`.
    pub(crate) times: usize,
    pub(crate) over: usize,
}

impl Axis {
    /// The cell in which a number stands.
    fn cell_of(&self, number: usize) -> usize {
        (number as u128 * self.times as u128 / self.over as u128) as usize
    }

    /// The numbers that are written, each with its cell, where cells are `width` pixels wide and numbers stand at least
    /// `apart` pixels from one another. They are the multiples of a power of two, as tiles and panels often are.
    pub(crate) fn ticks(&self, width: usize, apart: usize) -> impl Iterator<Item = (usize, usize)> {
        let least = (apart as u128 * self.over as u128).div_ceil(width as u128 * self.times as u128);
        let step = usize::try_from(least.next_power_of_two()).unwrap_or(usize::MAX);
        (0..self.count).step_by(step).map(|number| (number, self.cell_of(number)))
    }

    /// The longest number that may be written.
    pub(crate) fn widest(&self) -> usize {
        (self.count - 1).to_string().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_apart_and_in_their_cells() {
        // A key a cell of 4 pixels.
        let axis = Axis { name: "keys", count: 100, cells: 100, times: 1, over: 1 };
        assert_eq!(axis.ticks(4, 60).collect::<Vec<_>>(), [0, 16, 32, 48, 64, 80, 96].map(|key| (key, key)));
        // Two queries of four heads fill a tile of 8, and a cell has three tiles.
        let axis = Axis { name: "queries", count: 50, cells: 9, times: 4, over: 24 };
        assert_eq!(axis.ticks(10, 20).collect::<Vec<_>>(), [(0, 0), (16, 2), (32, 5), (48, 8)]);
        // All numbers, where they have room.
        let axis = Axis { name: "keys", count: 3, cells: 3, times: 1, over: 1 };
        assert_eq!(axis.ticks(24, 20).collect::<Vec<_>>(), [(0, 0), (1, 1), (2, 2)]);
    }

    #[test]
    fn numbers_of_any_size_are_counted() {
        let axis = Axis { name: "keys", count: usize::MAX, cells: 1, times: 1, over: usize::MAX };
        assert_eq!(axis.ticks(1, 100).collect::<Vec<_>>(), [(0, 0)]);
        assert_eq!(axis.widest(), usize::MAX.to_string().len());
    }
}
