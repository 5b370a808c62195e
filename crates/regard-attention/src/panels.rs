//! Keys and values of one key/value head in the layout that the kernels read.

use regard_kernels::{COLUMNS, Error, Kernels, Number, Operand, PANEL};
use regard_memory::Rows;

/// How many words a panel of a head takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PanelSize {
    /// Steps of a product over a key.
    pub steps: usize,
    /// Columns of a value, a whole number of vectors.
    pub width: usize,
    /// Words of a panel of keys.
    pub keys: usize,
    /// Words of a panel of values.
    pub values: usize,
}

impl PanelSize {
    pub(crate) fn of<E: Operand>(dim_k: usize, dim_v: usize) -> PanelSize {
        // What no memory holds saturates, and is refused where memory is asked for.
        let (steps, width) = (dim_k.div_ceil(E::DEPTH), dim_v.checked_next_multiple_of(COLUMNS).unwrap_or(usize::MAX));
        let (keys, values) = (steps.saturating_mul(PANEL), width.saturating_mul(PANEL / E::DEPTH));
        PanelSize { steps, width, keys, values }
    }
}

/// Consecutive panels of one head. Keys past the last one are dead: a layout never keeps them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Panels<'a, E: Operand> {
    pub size: PanelSize,
    /// `[panels][steps][PANEL]`.
    pub keys: &'a [E::B],
    /// `[panels][PANEL / DEPTH][width]`.
    pub values: &'a [E::B],
    /// Per panel, whether a value in it is not finite.
    pub wild: &'a [u8],
}

/// The same to be written.
#[derive(Debug)]
pub(crate) struct PanelsMut<'a, E: Operand> {
    pub size: PanelSize,
    pub keys: &'a mut [E::B],
    pub values: &'a mut [E::B],
    pub wild: &'a mut [u8],
}

impl<'a, E: Operand> PanelsMut<'a, E> {
    /// Writes keys and values from position `at` on.
    pub(crate) fn write<T: Number>(
        &mut self,
        kernels: Kernels,
        at: usize,
        keys: Rows<'_, T>,
        values: Rows<'_, T>,
    ) -> Result<(), Error> {
        kernels.pack_keys::<E, T>(keys, at, self.keys)?;
        let mut done = 0;
        while done < values.rows() {
            let (panel, within) = ((at + done) / PANEL, (at + done) % PANEL);
            let count = (PANEL - within).min(values.rows() - done);
            let rows = values.block(done..done + count, 0..values.cols());
            let packed = &mut self.values[panel * self.size.values..][..self.size.values];
            let finite = kernels.pack_values::<E, T>(rows, within, packed, self.size.width)?;
            if within == 0 {
                // The panel is begun: whatever stood in it goes, for weights of 0 will meet the values of dead keys.
                packed[count.div_ceil(E::DEPTH) * self.size.width..].fill(E::B::default());
                self.wild[panel] = 0;
            }
            self.wild[panel] |= u8::from(!finite);
            done += count;
        }
        Ok(())
    }

    pub(crate) fn as_ref(&self) -> Panels<'_, E> {
        Panels { size: self.size, keys: self.keys, values: self.values, wild: self.wild }
    }
}
