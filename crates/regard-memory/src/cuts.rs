//! Sequences within a tensor, cut into blocks: which rows each task has to itself.

use std::ops::Range;

use crate::{Error, Parts, Result, TensorMut};

/// Disjoint stretches of rows of a `[batch, heads, seq, dim]`, each cut into blocks for each group of heads.
///
/// Block `q` of group `g` of stretch `s` is part `first(s) + g · blocks(s) + q`: the blocks of one stretch and group lie
/// next to each other.
///
/// ```
/// use regard_memory::{Cuts, Parts, TensorMut};
///
/// // Two sequences packed into ten rows, for one group of two heads; blocks of four rows.
/// let cuts = Cuts::new(1, [(0, 0..6, 4), (0, 6..10, 4)])?;
/// assert_eq!(cuts.count(), 3);
/// assert_eq!(cuts.place(1), (0, 0, 1));
/// assert_eq!(cuts.rows(1), 4..6);
/// let mut data = vec![0; 2 * 10];
/// let parts = TensorMut::contiguous(&mut data, [1, 2, 10, 1])?.cut(2, &cuts)?;
/// assert_eq!(parts.count(), 3);
/// # Ok::<(), regard_memory::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Cuts {
    groups: usize,
    stretches: Vec<Stretch>,
    count: usize,
    /// What every tensor that is cut so must have.
    batch: usize,
    seq: usize,
}

#[derive(Clone, Debug)]
struct Stretch {
    batch: usize,
    rows: Range<usize>,
    block: usize,
    blocks: usize,
    first: usize,
}

impl Cuts {
    /// Cuts stretches `(batch entry, rows, rows of a block)` for so many groups of heads. Stretches without rows have no
    /// blocks.
    ///
    /// # Errors
    ///
    /// [`Error::Stretches`] if two of them share rows; [`Error::Overflow`] if there are more blocks than can be counted.
    pub fn new(groups: usize, stretches: impl IntoIterator<Item = (usize, Range<usize>, usize)>) -> Result<Cuts> {
        let mut cuts = Cuts::default();
        cuts.set(groups, stretches)?;
        Ok(cuts)
    }

    /// [`Cuts::new`] in the place of these, which keeps their capacity. On an error there are no cuts.
    ///
    /// # Errors
    ///
    /// As [`Cuts::new`].
    pub fn set(
        &mut self,
        groups: usize,
        stretches: impl IntoIterator<Item = (usize, Range<usize>, usize)>,
    ) -> Result<()> {
        *self = Cuts { groups, stretches: std::mem::take(&mut self.stretches), count: 0, batch: 0, seq: 0 };
        self.stretches.clear();
        let pushed = stretches.into_iter().try_for_each(|stretch| self.push(stretch)).and_then(|()| self.check());
        if pushed.is_err() {
            (self.stretches, self.count) = (Vec::new(), 0);
        }
        pushed
    }

    /// Makes room for so many stretches in all: [`Cuts::set`] with no more of them, in order, allocates nothing.
    pub fn reserve(&mut self, stretches: usize) {
        self.stretches.reserve(stretches.saturating_sub(self.stretches.len()));
    }

    fn push(&mut self, (batch, rows, block): (usize, Range<usize>, usize)) -> Result<()> {
        // What ends before it begins has no rows, and must not look as if it made room for others.
        let rows = rows.start..rows.end.max(rows.start);
        let overflow = Error::Overflow { what: "blocks" };
        let blocks = rows.len().div_ceil(block.max(1));
        let parts = blocks.checked_mul(self.groups).ok_or(overflow.clone())?;
        self.stretches.push(Stretch { batch, rows: rows.clone(), block: block.max(1), blocks, first: self.count });
        self.count = self.count.checked_add(parts).ok_or(overflow)?;
        if !rows.is_empty() {
            self.batch = self.batch.max(batch.saturating_add(1));
            self.seq = self.seq.max(rows.end);
        }
        Ok(())
    }

    /// Refuses stretches that share rows.
    fn check(&self) -> Result<()> {
        let apart = |a: &Stretch, b: &Stretch| a.batch < b.batch || a.batch == b.batch && a.rows.end <= b.rows.start;
        if self.stretches.windows(2).all(|pair| apart(&pair[0], &pair[1])) {
            return Ok(());
        }
        let mut sorted: Vec<&Stretch> = self.stretches.iter().filter(|stretch| !stretch.rows.is_empty()).collect();
        sorted.sort_by_key(|stretch| (stretch.batch, stretch.rows.start));
        match sorted.windows(2).find(|pair| !apart(pair[0], pair[1])) {
            Some(pair) => Err(Error::Stretches {
                batch: pair[0].batch,
                first: pair[0].rows.clone(),
                second: pair[1].rows.clone(),
            }),
            None => Ok(()),
        }
    }

    /// How many blocks there are in all.
    pub fn count(&self) -> usize {
        self.count
    }

    /// How many stretches there are.
    pub fn stretches(&self) -> usize {
        self.stretches.len()
    }

    /// The blocks of a stretch and group.
    ///
    /// # Panics
    ///
    /// If there is no such stretch or group.
    pub fn blocks(&self, stretch: usize, group: usize) -> Range<usize> {
        assert!(group < self.groups, "group {group} of {}", self.groups);
        let Stretch { first, blocks, .. } = self.stretches[stretch];
        first + group * blocks..first + (group + 1) * blocks
    }

    /// The stretch, the group of heads, and which block of theirs.
    ///
    /// # Panics
    ///
    /// If there is no such block.
    pub fn place(&self, index: usize) -> (usize, usize, usize) {
        let stretch = self.stretch_of(index);
        let Stretch { first, blocks, .. } = self.stretches[stretch];
        (stretch, (index - first) / blocks, (index - first) % blocks)
    }

    /// The stretch of a block.
    fn stretch_of(&self, index: usize) -> usize {
        assert!(index < self.count, "block {index} of {}", self.count);
        // Where all are alike, as the entries of a batch are, it is the one that one would expect there.
        if let Some(share) = index.checked_mul(self.stretches.len()) {
            let Stretch { first, blocks, .. } = self.stretches[share / self.count];
            if first <= index && index - first < blocks * self.groups {
                return share / self.count;
            }
        }
        // The last that begins here or before: those without blocks begin where the next does.
        self.stretches.partition_point(|stretch| stretch.first <= index) - 1
    }

    /// The rows of a block, within its batch entry.
    ///
    /// # Panics
    ///
    /// If there is no such block.
    pub fn rows(&self, index: usize) -> Range<usize> {
        let (stretch, _, block) = self.place(index);
        self.stretches[stretch].rows_of(block)
    }
}

impl Stretch {
    fn rows_of(&self, block: usize) -> Range<usize> {
        let start = self.rows.start + block * self.block;
        start..self.rows.end.min(start.saturating_add(self.block))
    }
}

/// A tensor by cuts; see [`TensorMut::cut`].
#[derive(Debug)]
pub struct CutParts<'a, 'c, T> {
    whole: TensorMut<'a, T>,
    heads: usize,
    cuts: &'c Cuts,
}

impl<'a, T> TensorMut<'a, T> {
    /// The parts that cuts make of a tensor with `heads` heads a group: part `i` has the shape
    /// `[1, heads, rows of block i, dim]`.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`] if the tensor has not that many heads, or ends before the cuts do.
    pub fn cut(self, heads: usize, cuts: &Cuts) -> Result<CutParts<'a, '_, T>> {
        let [batch, has, seq, dim] = self.shape();
        if cuts.count > 0 && (heads.checked_mul(cuts.groups) != Some(has) || batch < cuts.batch || seq < cuts.seq) {
            let expected = vec![batch.max(cuts.batch), heads.saturating_mul(cuts.groups), seq.max(cuts.seq), dim];
            return Err(Error::ShapeMismatch { tensor: "tensor", has: self.shape().to_vec(), expected });
        }
        Ok(CutParts { whole: self, heads, cuts })
    }
}

// SAFETY: sharing gives nothing but `part`, which moves `TensorMut` to another thread.
unsafe impl<T: Send> Sync for CutParts<'_, '_, T> {}

// SAFETY: index to (stretch, group, block) is one to one, stretches share no rows, and groups and blocks of one are
// disjoint.
unsafe impl<'a, T: Send> Parts for CutParts<'a, '_, T> {
    type Part = TensorMut<'a, T>;

    fn count(&self) -> usize {
        self.cuts.count
    }

    unsafe fn part(&self, index: usize) -> TensorMut<'a, T> {
        let (stretch, group, block) = self.cuts.place(index);
        let stretch = &self.cuts.stretches[stretch];
        // SAFETY: within the tensor, which `cut` has checked; the caller takes each index once, and the parts are disjoint.
        unsafe { self.whole.piece(stretch.batch, group * self.heads, self.heads, stretch.rows_of(block)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_rows_are_refused() {
        let cuts = |stretches: &[(usize, Range<usize>, usize)]| Cuts::new(2, stretches.iter().cloned());
        assert!(cuts(&[(0, 0..5, 2), (1, 0..5, 2), (0, 5..6, 2)]).is_ok());
        assert!(cuts(&[(0, 3..3, 2), (0, 0..5, 2)]).is_ok());
        #[allow(clippy::reversed_empty_ranges, reason = "what is asked for")]
        let reversed = [(0, 0..10, 4), (0, 10..2, 4), (0, 2..12, 4)];
        assert!(cuts(&reversed).is_err());
        assert!(matches!(
            cuts(&[(0, 0..5, 2), (1, 0..5, 2), (0, 4..6, 2)]),
            Err(Error::Stretches { batch: 0, first: Range { start: 0, end: 5 }, second: Range { start: 4, end: 6 } })
        ));
        assert!(cuts(&[(0, 0..usize::MAX, 1), (1, 0..usize::MAX, 1)]).is_err());
    }

    #[test]
    fn every_row_is_in_one_part() {
        let mut data = vec![0u32; 2 * 4 * 9];
        let mut tensor = TensorMut::contiguous(&mut data, [2, 4, 9, 1]).unwrap();
        let cuts = Cuts::new(2, [(1, 0..9, 4), (0, 7..7, 3), (0, 2..7, 5), (0, 7..9, 1)]).unwrap();
        {
            let parts = tensor.reborrow().cut(2, &cuts).unwrap();
            assert_eq!(parts.count(), 2 * (3 + 1 + 2));
            for index in 0..parts.count() {
                // SAFETY: each index once.
                let mut part = unsafe { parts.part(index) };
                assert_eq!(part.shape()[2], cuts.rows(index).len());
                for head in 0..2 {
                    for row in 0..part.shape()[2] {
                        part.rows_mut(0, head).row_mut(row)[0] += 1 + index as u32;
                    }
                }
            }
        }
        for (at, &x) in data.iter().enumerate() {
            let (batch, row) = (at / 36, at % 9);
            assert_eq!(x == 0, batch == 0 && row < 2, "element {at}");
        }
        let mut small = vec![0u32; 2 * 4 * 8];
        assert!(TensorMut::contiguous(&mut small, [2, 4, 8, 1]).unwrap().cut(2, &cuts).is_err());
        assert!(TensorMut::contiguous(&mut [0u32; 72], [2, 4, 9, 1]).unwrap().cut(1, &cuts).is_err());
    }
}
