//! The pairs of a block of queries with a few panels of keys: their weights and the gradients of their scores.

use std::ops::Range;

use regard_simd::Simd;

use crate::compiled::CompiledAlike;
use crate::{Bf16, Error, F32, Operand, PANEL, ROWS};

/// An operand whose `A` can be written with steps that run down a column too, as the product with a transpose reads it.
pub trait Transposable: Operand<B = <Self as Operand>::A> + CompiledAlike {
    /// Writes a step of each of `LANES` columns, made of as many rows as a step is deep; further ones are not looked at.
    ///
    /// # Safety
    /// `to` must be writable for `LANES` steps.
    unsafe fn store_steps<S: Simd>(s: S, to: *mut Self::A, rows: [S::F32; 2]);
}

impl Transposable for F32 {
    #[inline(always)]
    unsafe fn store_steps<S: Simd>(s: S, to: *mut f32, [row, _]: [S::F32; 2]) {
        // SAFETY: the caller's.
        unsafe { s.store(to, row) }
    }
}

impl Transposable for Bf16 {
    #[inline(always)]
    unsafe fn store_steps<S: Simd>(s: S, to: *mut u32, [even, odd]: [S::F32; 2]) {
        // SAFETY: the caller's.
        unsafe { s.store_i32(to.cast(), s.pair_bf16(even, odd)) }
    }
}

/// The pairs of a block of query rows with a few panels of keys: the softmax weights `P` of each, and the gradient `ds` of
/// its score. Panel by panel, so that what a product reads at once lies together.
///
/// A tile of rows is written by [`Kernels::recompute`](crate::Kernels::recompute), or cleared. The buffer is the caller's:
/// [`Pairs::words`] for some rows and panels.
///
/// ```
/// use regard_kernels::{Bf16, Pairs};
///
/// let mut buffer = vec![0; Pairs::<Bf16>::words(96, 4)];
/// let mut pairs = Pairs::<Bf16>::new(&mut buffer, 96, 4)?;
/// pairs.clear(0, 0..4)?;
/// # Ok::<(), regard_kernels::Error>(())
/// ```
#[derive(Debug)]
pub struct Pairs<'a, E: Transposable> {
    /// `[panels]` of: weights, `[rows / DEPTH][PANEL]`, in steps down the columns; gradients, the same; and where a step is
    /// deeper than one, gradients once more, `[rows][PANEL / DEPTH]`, in steps along the rows.
    words: &'a mut [E::A],
    rows: usize,
    panels: usize,
}

/// What a pair has.
#[derive(Clone, Copy)]
pub(super) enum Of {
    Weights,
    Gradients,
}

impl<'a, E: Transposable> Pairs<'a, E> {
    /// Words of buffer that this many rows, in whole tiles, and panels need.
    pub const fn words(rows: usize, panels: usize) -> usize {
        Self::panel_words(Self::padded(rows)).saturating_mul(panels)
    }

    const fn padded(rows: usize) -> usize {
        rows.div_ceil(ROWS).saturating_mul(ROWS)
    }

    const fn panel_words(rows: usize) -> usize {
        let matrices = if E::DEPTH == 1 { 2 } else { 3 };
        rows.saturating_mul(PANEL / E::DEPTH).saturating_mul(matrices)
    }

    /// Room for `rows` rows and `panels` panels, in which nothing stands yet that is meant to be read.
    ///
    /// # Errors
    /// The buffer does not hold [`Pairs::words`]`(rows, panels)`.
    pub fn new(buffer: &'a mut [E::A], rows: usize, panels: usize) -> Result<Self, Error> {
        Error::check_length("pairs", buffer.len(), Self::words(rows, panels))?;
        Ok(Pairs { words: buffer, rows: Self::padded(rows), panels })
    }

    /// Makes the pairs of tile `tile` with some panels 0, as if a mask removed them all.
    ///
    /// # Errors
    /// There is no such tile or panel.
    pub fn clear(&mut self, tile: usize, panels: Range<usize>) -> Result<(), Error> {
        self.check(tile, &panels)?;
        panels.for_each(|panel| self.tile_mut(tile, panel).clear());
        Ok(())
    }

    /// Rows that there is room for, in whole tiles.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Panels that there is room for.
    pub fn panels(&self) -> usize {
        self.panels
    }

    pub(super) fn check(&self, tile: usize, panels: &Range<usize>) -> Result<(), Error> {
        Error::check_length("rows of pairs", self.rows, tile.saturating_add(1).saturating_mul(ROWS))?;
        Error::check_length("panels of pairs", self.panels, panels.start.max(panels.end))
    }

    fn matrix_words(&self) -> usize {
        self.rows * PANEL / E::DEPTH
    }

    /// What a panel has of one tile.
    pub(super) fn tile_mut(&mut self, tile: usize, panel: usize) -> TileMatrices<'_, E> {
        let (matrix, words) = (self.matrix_words(), ROWS * PANEL / E::DEPTH);
        let of_panel = Self::panel_words(self.rows);
        let (weights, gradients) = self.words[panel * of_panel..][..of_panel].split_at_mut(matrix);
        let (gradients, gradient_rows) = gradients.split_at_mut(matrix);
        let of_tile = tile * words..tile * words + words;
        let gradient_rows = if E::DEPTH == 1 { gradient_rows } else { &mut gradient_rows[of_tile.clone()] };
        TileMatrices { weights: &mut weights[of_tile.clone()], gradients: &mut gradients[of_tile], gradient_rows }
    }

    /// `[rows / DEPTH][PANEL]`, with steps down the columns.
    pub(super) fn columns(&self, panel: usize, of: Of) -> &[E::A] {
        let at = panel * Self::panel_words(self.rows) + of as usize * self.matrix_words();
        &self.words[at..][..self.matrix_words()]
    }

    /// The gradients of a panel, `[rows][PANEL / DEPTH]`, with steps along the rows.
    pub(super) fn gradient_rows(&self, panel: usize) -> &[E::A] {
        // Where a step is one element the two orders are the same.
        let last = if E::DEPTH == 1 { 1 } else { 2 };
        let at = panel * Self::panel_words(self.rows) + last * self.matrix_words();
        &self.words[at..][..self.matrix_words()]
    }
}

/// What a panel has of one tile.
pub(super) struct TileMatrices<'a, E: Transposable> {
    /// `[ROWS / DEPTH][PANEL]`, in steps down the columns.
    pub weights: &'a mut [E::A],
    /// The same.
    pub gradients: &'a mut [E::A],
    /// `[ROWS][PANEL / DEPTH]`, in steps along the rows; none where these would be the same.
    pub gradient_rows: &'a mut [E::A],
}

impl<E: Transposable> TileMatrices<'_, E> {
    /// Makes all pairs 0.
    pub(super) fn clear(&mut self) {
        self.weights.fill(E::A::default());
        self.gradients.fill(E::A::default());
        self.gradient_rows.fill(E::A::default());
    }
}

/// The pairs of a block that a product runs over. Rows and keys are counted from the block's first ones.
#[derive(Clone, Debug)]
pub enum Region<'a> {
    /// Every pair of these rows and keys, in whole steps. The removed ones are 0 and multiply what stands on the other side
    /// of the product, which must be finite.
    Whole {
        /// Rows of the block.
        rows: Range<usize>,
        /// Keys of the block.
        keys: Range<usize>,
    },
    /// Only the pairs of one panel that bits name: the others are not looked at, whatever stands on the other side. Slow,
    /// and rare.
    Kept {
        /// The row of the first bits.
        row: usize,
        /// The panel.
        panel: usize,
        /// For each row the bits of the keys that it keeps.
        live: &'a [u64],
    },
}

impl Region<'_> {
    /// Whether the pairs hold the region; gives the rows and keys up to which it goes.
    pub(super) fn check<E: Transposable>(&self, pairs: &Pairs<'_, E>) -> Result<(usize, usize), Error> {
        let (rows, keys) = match self {
            Region::Whole { rows, keys } => (rows.start.max(rows.end), keys.start.max(keys.end)),
            Region::Kept { row, panel, live } => {
                let all = live.iter().fold(0, |all, bits| all | bits);
                // The panel must be there, even if no key of it is kept.
                let seen = (u64::BITS - all.leading_zeros()).max(1) as usize;
                (row.saturating_add(live.len()), panel.saturating_mul(PANEL).saturating_add(seen))
            }
        };
        Error::check_length("rows of pairs", pairs.rows, rows)?;
        Error::check_length("keys of pairs", pairs.panels.saturating_mul(PANEL), keys)?;
        Ok((rows, keys))
    }
}
