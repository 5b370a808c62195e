//! Keys and values in bytes: each row as whole numbers of −127 to 127, and the scale that they are multiplied by.
//!
//! The scale is the row's largest magnitude over 127, and so belongs to one token and head: a long row of an attention
//! sink does not coarsen its neighbours. Products see the whole numbers; the scale of a key multiplies its scores, that of
//! a value its weights ([`Kernels::scale_scores`], [`Kernels::scale_weights`]).
//!
//! A row that holds a number which is not finite has the scale NaN and zeros for numbers. Whoever sees it gets NaN, and
//! because the packed numbers are finite, a weight of 0 multiplies them safely: masking scores and weights is enough.

use regard_memory::Rows;
use regard_simd::{Kernel, Simd};

use crate::{COLUMNS, Error, Int8, Kernels, Number, Operand, PANEL};

/// Keys that are staged before they are transposed.
const STAGE: usize = 16;
/// Dimensions that are staged at once.
const STAGE_DIMS: usize = 64;

/// The least scale: smaller ones have less digits than a float. Rows below `127·2⁻¹²⁶` count as zeros.
const LEAST_SCALE: f32 = f32::MIN_POSITIVE;

impl Kernels {
    /// Writes keys into packed panels of bytes: row `j` of `keys` becomes key `at + j`, with the scale `scales[at + j]`.
    ///
    /// - `keys`: `[n, d_k]`;
    /// - `panels`: `[panels][d_k][PANEL]`;
    /// - `scales`: `[panels][PANEL]`.
    ///
    /// # Errors
    /// Panels or scales do not hold `at + n` keys.
    pub fn pack_keys_int8<T: Number>(
        self,
        keys: Rows<'_, T>,
        at: usize,
        panels: &mut [i8],
        scales: &mut [f32],
    ) -> Result<(), Error> {
        let end = at.saturating_add(keys.rows());
        let panel = keys.cols().saturating_mul(PANEL);
        Error::check_length("key panels", panels.len(), end.div_ceil(PANEL).saturating_mul(panel))?;
        Error::check_length("key scales", scales.len(), end)?;
        self.isa().run(PackKeys { keys, at, panels, scales });
        Ok(())
    }

    /// Writes values into packed rows of bytes: row `j` of `values` becomes value `at + j`, with the scale `scales[at + j]`;
    /// its columns past `d_v` become 0.
    ///
    /// - `values`: `[n, d_v]`;
    /// - `packed`: `[keys][width]`, `width ≥ d_v` and a multiple of 16;
    /// - `scales`: `[keys]`.
    ///
    /// # Errors
    /// `packed` or `scales` do not hold `at + n` values, or `width` does not fit.
    pub fn pack_values_int8<T: Number>(
        self,
        values: Rows<'_, T>,
        at: usize,
        packed: &mut [i8],
        width: usize,
        scales: &mut [f32],
    ) -> Result<(), Error> {
        if width < values.cols() || !width.is_multiple_of(COLUMNS) {
            return Err(Error::Size { name: "value width", has: width, expected: "a multiple of 16, d_v at least" });
        }
        let end = at.saturating_add(values.rows());
        Error::check_length("values", packed.len(), end.saturating_mul(width))?;
        Error::check_length("value scales", scales.len(), end)?;
        self.isa().run(PackValues { values, at, packed, width, scales });
        Ok(())
    }
}

struct PackKeys<'a, T> {
    keys: Rows<'a, T>,
    at: usize,
    panels: &'a mut [i8],
    scales: &'a mut [f32],
}

impl<T: Number> Kernel for PackKeys<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let PackKeys { keys, at, panels, scales } = self;
        let dim = keys.cols();
        let mut stage = [0; STAGE * STAGE_DIMS];
        let mut j = 0;
        while j < keys.rows() {
            // Squares where a whole one fits, single keys before and behind them.
            let key = at + j;
            let square = key % STAGE == 0 && j + STAGE <= keys.rows();
            let count = if square { STAGE } else { 1 };
            for r in 0..count {
                scales[key + r] = scale_of(s, keys.row(j + r));
            }
            let panel = &mut panels[key / PANEL * dim * PANEL..][..dim * PANEL];
            for first in (0..dim).step_by(STAGE_DIMS) {
                let dims = first..dim.min(first + STAGE_DIMS);
                for (r, stage) in stage.chunks_exact_mut(STAGE_DIMS).enumerate().take(count) {
                    quantize(s, &keys.row(j + r)[dims.clone()], scales[key + r], &mut stage[..dims.len()]);
                }
                let to = &mut panel[first * PANEL + key % PANEL..];
                if square {
                    Int8::transpose(s, &stage, STAGE_DIMS, dims.len(), to, PANEL);
                } else {
                    for (step, &number) in stage[..dims.len()].iter().enumerate() {
                        to[step * PANEL] = number;
                    }
                }
            }
            j += count;
        }
    }
}

struct PackValues<'a, T> {
    values: Rows<'a, T>,
    at: usize,
    packed: &'a mut [i8],
    width: usize,
    scales: &'a mut [f32],
}

impl<T: Number> Kernel for PackValues<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let PackValues { values, at, packed, width, scales } = self;
        for j in 0..values.rows() {
            let row = values.row(j);
            let (to, padding) = packed[(at + j) * width..][..width].split_at_mut(row.len());
            scales[at + j] = scale_of(s, row);
            quantize(s, row, scales[at + j], to);
            padding.fill(0);
        }
    }
}

/// The scale of a row: the largest magnitude over 127; 0 where that is too small, NaN where a number is not finite.
#[inline(always)]
fn scale_of<S: Simd, T: Number>(s: S, row: &[T]) -> f32 {
    let (mut max, mut wild) = (s.splat(0.0), s.splat(0.0));
    let whole = row.len() / S::LANES * S::LANES;
    for at in (0..whole).step_by(S::LANES) {
        // SAFETY: `at + LANES ≤ row.len()`.
        let x = unsafe { T::load(s, row[at..].as_ptr()) };
        max = s.max(s.abs(x), max);
        // 0 times a number is 0, unless it is not finite.
        wild = s.fma(x, s.splat(0.0), wild);
    }
    let (mut max, mut wild) = (s.reduce_max(max), s.reduce_add(wild));
    for x in &row[whole..] {
        max = max.max(x.to_f32().abs());
        wild += 0.0 * x.to_f32();
    }
    match max / 127.0 {
        _ if wild.is_nan() => f32::NAN,
        scale if scale < LEAST_SCALE => 0.0,
        scale => scale,
    }
}

/// Each number over the scale, to the nearest whole number, ties to even; zeros where the scale is 0 or NaN.
#[inline(always)]
fn quantize<S: Simd, T: Number>(s: S, row: &[T], scale: f32, to: &mut [i8]) {
    // Not NaN: it is larger than no number.
    let factor = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    let factors = s.splat(factor);
    let whole = row.len() / S::LANES * S::LANES;
    for at in (0..whole).step_by(S::LANES) {
        // SAFETY: both hold `at + LANES` numbers.
        unsafe {
            // Not over 127 by more than rounding. What is not finite becomes NaN, and that 0.
            let x = s.mul(T::load(s, row[at..].as_ptr()), factors);
            s.store_low_bytes(to[at..][..S::LANES].as_mut_ptr(), s.to_i32(x));
        }
    }
    for (to, x) in to[whole..].iter_mut().zip(&row[whole..]) {
        *to = (x.to_f32() * factor).round_ties_even() as i8;
    }
}
