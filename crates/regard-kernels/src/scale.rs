//! Numbers that stand for a multiple of themselves, such as keys and values in bytes: the scale of a key multiplies its
//! scores, that of a value its weights.

use regard_simd::{Kernel, Simd};

use crate::{COLUMNS, Error, Kernels, Operand, PANEL, ROWS, ScoreTile};

impl Kernels {
    /// Multiplies the scores in the columns `at..at + keys` by a number for each key, and takes their maxima. The tile's
    /// maxima were forgotten before ([`ScoreTile::forget_maxima`]).
    ///
    /// - `scales`: `[keys]`, to a whole multiple of 16; a key with NaN scores NaN;
    /// - `live`: with one panel only, the bits of the keys that each row keeps; the others score −∞.
    ///
    /// # Errors
    /// The tile has no such columns, `at` is no multiple of 16, or a slice is too short.
    pub fn scale_scores(
        self,
        rows: usize,
        scales: &[f32],
        live: Option<&[u64]>,
        (at, keys): (usize, usize),
        tile: &mut ScoreTile<'_>,
    ) -> Result<(), Error> {
        let columns = Columns::new(rows, scales, live, (at, keys), tile)?;
        self.isa().run(ScaleScores { columns, tile });
        Ok(())
    }

    /// Multiplies the softmax weights in the columns `at..at + keys` by a number for each key, for operands whose weights are
    /// single precision. The state's sums stay those of the weights before.
    ///
    /// - `scales` and `live` as in [`Kernels::scale_scores`]; what a row does not keep has the weight 0.
    ///
    /// # Errors
    /// As [`Kernels::scale_scores`].
    pub fn scale_weights<E: Operand<A = f32>>(
        self,
        rows: usize,
        scales: &[f32],
        live: Option<&[u64]>,
        (at, keys): (usize, usize),
        tile: &mut ScoreTile<'_>,
    ) -> Result<(), Error> {
        let columns = Columns::new(rows, scales, live, (at, keys), tile)?;
        self.isa().run(ScaleWeights { columns, tile });
        Ok(())
    }
}

/// Columns of a tile, with what they are multiplied by.
#[derive(Clone, Copy)]
struct Columns<'t> {
    rows: usize,
    scales: &'t [f32],
    bits: [u64; ROWS],
    masked: bool,
    at: usize,
    keys: usize,
}

impl<'t> Columns<'t> {
    fn new(
        rows: usize,
        scales: &'t [f32],
        live: Option<&[u64]>,
        (at, keys): (usize, usize),
        tile: &ScoreTile<'_>,
    ) -> Result<Self, Error> {
        if !(1..=ROWS).contains(&rows) {
            return Err(Error::Size { name: "rows", has: rows, expected: "between 1 and 6" });
        }
        Error::check_length("tile columns", tile.columns(), at.saturating_add(keys))?;
        if !at.is_multiple_of(COLUMNS) {
            return Err(Error::Size { name: "first column", has: at, expected: "a multiple of 16" });
        }
        Error::check_length("scales", scales.len(), keys.next_multiple_of(COLUMNS))?;
        let mut bits = [u64::MAX; ROWS];
        if let Some(live) = live {
            Error::check_length("live bits", live.len(), rows)?;
            if keys > PANEL {
                return Err(Error::Size { name: "keys with live bits", has: keys, expected: "at most 64" });
            }
            bits[..rows].copy_from_slice(&live[..rows]);
        }
        Ok(Columns { rows, scales, bits, masked: live.is_some(), at, keys })
    }

    /// For each vector of row `r`: `row[at..] ← scale·row[at..]`, or `masked` where the row does not keep the key. What comes
    /// out is also given to `see`.
    ///
    /// # Safety
    /// `row` holds the columns, and what is behind them to a multiple of 16.
    #[inline(always)]
    unsafe fn multiply<S: Simd>(&self, s: S, r: usize, row: *mut f32, masked: f32, mut see: impl FnMut(S::F32)) {
        for column in (0..self.keys).step_by(S::LANES) {
            let left = self.keys - column;
            let exist = if left < PANEL { (1 << left) - 1 } else { u64::MAX };
            let bits = if self.masked { self.bits[r] >> column } else { u64::MAX };
            let kept = s.mask_from_bits((bits & exist) as u32);
            // SAFETY: the caller's, and the scales reach to a multiple of 16 too.
            unsafe {
                let row = row.add(self.at + column);
                let scaled = s.mul(s.load(row), s.load(self.scales[column..].as_ptr()));
                // Not multiplied away: the scale of a key that is masked may be NaN.
                let x = s.select(kept, scaled, s.splat(masked));
                s.store(row, x);
                see(x);
            }
        }
    }
}

struct ScaleScores<'t, 'a> {
    columns: Columns<'t>,
    tile: &'t mut ScoreTile<'a>,
}

impl Kernel for ScaleScores<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for r in 0..self.columns.rows {
            let (scores, maxima) = self.tile.row_mut(r);
            // SAFETY: the tile has the columns, in multiples of 16, and a row of COLUMNS maxima.
            unsafe {
                let mut max = s.load(maxima.as_ptr());
                // The running maximum stands second: it survives a NaN, which the weights will show.
                self.columns.multiply(
                    s,
                    r,
                    scores.as_mut_ptr(),
                    f32::NEG_INFINITY,
                    #[inline(always)]
                    |x| max = s.max(x, max),
                );
                s.store(maxima.as_mut_ptr(), max);
            }
        }
    }
}

struct ScaleWeights<'t, 'a> {
    columns: Columns<'t>,
    tile: &'t mut ScoreTile<'a>,
}

impl Kernel for ScaleWeights<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for r in 0..self.columns.rows {
            let (weights, _) = self.tile.row_mut(r);
            // SAFETY: the tile has the columns, in multiples of 16.
            unsafe {
                self.columns.multiply(
                    s,
                    r,
                    weights.as_mut_ptr(),
                    0.0,
                    #[inline(always)]
                    |_| {},
                )
            };
        }
    }
}
