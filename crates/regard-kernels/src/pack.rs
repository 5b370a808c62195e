//! Into the layouts that the products read, and out of them.
//!
//! Keys stand in panels of [`PANEL`]: `[steps][PANEL]` words, so that a vector holds one step of neighbouring keys.
//! Values stand in rows of keys, padded to a whole number of vectors: `[keys / DEPTH][width]`. Queries stay rows.

use regard_memory::{Rows, RowsMut};
use regard_simd::{Kernel, Simd};

use crate::{COLUMNS, Error, Kernels, Number, Operand, PANEL, ROWS, RowState};

/// Keys that are staged before a square of them is transposed.
const STAGE: usize = 16;
/// Dimensions that are staged at once.
const STAGE_DIMS: usize = 64;

/// Words that hold `n` rows from row `at` on, `together` of them taking `size` words.
fn words(at: usize, n: usize, together: usize, size: usize) -> usize {
    at.saturating_add(n).div_ceil(together).saturating_mul(size)
}

impl Kernels {
    /// Writes keys into packed panels: row `j` of `keys` becomes key `at + j`.
    ///
    /// - `keys`: `[n, d_k]`;
    /// - `panels`: `[panels][⌈d_k / DEPTH⌉][PANEL]`.
    ///
    /// # Errors
    /// The panels do not hold `at + n` keys.
    pub fn pack_keys<E: Operand, T: Number>(
        self,
        keys: Rows<'_, T>,
        at: usize,
        panels: &mut [E::B],
    ) -> Result<(), Error> {
        let steps = keys.cols().div_ceil(E::DEPTH);
        Error::check_length("key panels", panels.len(), words(at, keys.rows(), PANEL, steps.saturating_mul(PANEL)))?;
        self.isa().run(PackKeys::<E, T> { keys, at, steps, panels });
        Ok(())
    }

    /// Writes values into packed rows: row `j` of `values` becomes value `at + j`, its columns past `d_v` become 0.
    /// Tells whether all of them are finite.
    ///
    /// - `values`: `[n, d_v]`;
    /// - `packed`: `[⌈keys / DEPTH⌉][width]`, `width ≥ d_v` and a multiple of 16.
    ///
    /// # Errors
    /// `packed` does not hold `at + n` keys, or `width` does not fit.
    pub fn pack_values<E: Operand, T: Number>(
        self,
        values: Rows<'_, T>,
        at: usize,
        packed: &mut [E::B],
        width: usize,
    ) -> Result<bool, Error> {
        if width < values.cols() || !width.is_multiple_of(COLUMNS) {
            return Err(Error::Size { name: "value width", has: width, expected: "a multiple of 16, d_v at least" });
        }
        Error::check_length("values", packed.len(), words(at, values.rows(), E::DEPTH, width))?;
        Ok(self.isa().run(PackValues::<E, T> { values, at, packed, width }))
    }

    /// Copies scattered keys and their values side by side into a panel of each. Behind the last, values become 0 and keys
    /// stay what they were.
    ///
    /// - `panel`: keys `[steps][PANEL]` and values `[PANEL / DEPTH][width]` of panel number such;
    /// - `list`: the keys, at most [`PANEL`];
    /// - `to_keys`: `[steps][PANEL]`; `to_values`: `[PANEL / DEPTH][width]`.
    ///
    /// # Errors
    /// A slice is too short, or the list too long.
    pub fn gather<'a, E: Operand>(
        self,
        (steps, width): (usize, usize),
        panel: impl Fn(usize) -> (&'a [E::B], &'a [E::B]),
        list: &[u32],
        to_keys: &mut [E::B],
        to_values: &mut [E::B],
    ) -> Result<(), Error> {
        if list.len() > PANEL {
            return Err(Error::Size { name: "gathered keys", has: list.len(), expected: "at most 64" });
        }
        Error::check_length("gathered key panel", to_keys.len(), steps.saturating_mul(PANEL))?;
        Error::check_length("gathered values", to_values.len(), (PANEL / E::DEPTH).saturating_mul(width))?;
        for (place, &key) in list.iter().enumerate() {
            let ((keys, values), key) = (panel(key as usize / PANEL), key as usize % PANEL);
            Error::check_length("key panel", keys.len(), steps.saturating_mul(PANEL))?;
            Error::check_length("values", values.len(), (PANEL / E::DEPTH).saturating_mul(width))?;
            for step in 0..steps {
                to_keys[step * PANEL + place] = keys[step * PANEL + key];
            }
            let from = &values[key / E::DEPTH * width..][..width];
            let to = &mut to_values[place / E::DEPTH * width..][..width];
            for (to, &from) in to.iter_mut().zip(from) {
                E::move_value(from, key % E::DEPTH, place % E::DEPTH, to);
            }
        }
        to_values[list.len().div_ceil(E::DEPTH) * width..][..(PANEL - list.len()) / E::DEPTH * width]
            .fill(E::B::default());
        Ok(())
    }

    /// Writes one query row as `A` of a product, times `factor`; elements past `d_k` become 0.
    ///
    /// # Errors
    /// `out` does not hold `⌈d_k / DEPTH⌉` words.
    pub fn pack_query<E: Operand, T: Number>(self, row: &[T], factor: f32, out: &mut [E::A]) -> Result<(), Error> {
        Error::check_length("packed query", out.len(), row.len().div_ceil(E::DEPTH))?;
        E::run(self.isa(), PackQuery::<E, T> { row, factor, out });
        Ok(())
    }

    /// Row `r` of a finished tile: `out = gain·o / sum`, all 0 where no key was seen, and its log-sum-exp (natural, −∞ where
    /// no key was seen and there is no sink).
    ///
    /// - `sums`: `[ROWS][width]`; `out`: `[d_v]`, `d_v ≤ width`.
    ///
    /// # Errors
    /// `sums` is too short, `out` too long, or `r` no row.
    pub fn finish<T: Number>(
        self,
        state: &RowState,
        r: usize,
        sums: &[f32],
        width: usize,
        ending: Ending,
        out: &mut [T],
    ) -> Result<f32, Error> {
        Error::check_length("sums", sums.len(), ROWS.saturating_mul(width))?;
        Error::check_length("width", width, out.len())?;
        if r >= ROWS {
            return Err(Error::Size { name: "row", has: r, expected: "less than 6" });
        }
        let (max, sum, fall) = ending.join(state.max[r], state.sum[r]);
        // No key: 1 / 0 would make NaN of the sums, which are 0.
        let factor = if sum == 0.0 { 0.0 } else { fall * ending.gain / sum };
        self.isa().run(Finish { sums: &sums[r * width..][..out.len()], factor, out });
        // In f64, so that the result is rounded once.
        let lse = std::f64::consts::LN_2 * (f64::from(max) + f64::from(sum).log2());
        // Of a row without keys it is the sink, to the bit.
        Ok(if state.sum[r] == 0.0 { ending.sink } else { lse as f32 })
    }
}

impl Kernels {
    /// Writes `factor·Σ parts`, summed in the order of the parts; 0 where there are none.
    ///
    /// - `parts`: row `r` of each begins at `r·stride`;
    /// - `out`: `[rows, cols]`.
    ///
    /// # Errors
    /// A part is too short.
    pub fn store_sum<T: Number>(
        self,
        parts: &[&[f32]],
        stride: usize,
        factor: f32,
        out: RowsMut<'_, T>,
    ) -> Result<(), Error> {
        if out.rows() == 0 || out.cols() == 0 {
            return Ok(());
        }
        let expected = (out.rows() - 1).saturating_mul(stride).saturating_add(out.cols());
        for part in parts {
            Error::check_length("part of a sum", part.len(), expected)?;
        }
        self.isa().run(StoreSum { parts, stride, factor, out });
        Ok(())
    }
}

/// How rows end: what joins their denominator, and what their results are multiplied by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ending {
    /// A logit (natural) that joins the denominator and has no value; −∞ for none.
    pub sink: f32,
    /// What a result is multiplied by: 1, or where weights fell `1 / (1 − probability)`.
    pub gain: f32,
}

impl Default for Ending {
    fn default() -> Self {
        Ending { sink: f32::NEG_INFINITY, gain: 1.0 }
    }
}

impl Ending {
    /// The maximum and sum of a row (base 2) with the sink, and what the row's weights are multiplied by for it.
    fn join(self, max: f32, sum: f32) -> (f32, f32, f32) {
        if self.sink == f32::NEG_INFINITY {
            return (max, sum, 1.0);
        }
        let sink = self.sink * std::f32::consts::LOG2_E;
        // A row that has seen no key has the maximum −∞ and the sum 0. A NaN in either goes on.
        let most = if max > sink { max } else { sink };
        let fall = if sum == 0.0 { 1.0 } else { (max - most).exp2() };
        (most, sum * fall + (sink - most).exp2(), fall)
    }
}

struct PackKeys<'a, E: Operand, T> {
    keys: Rows<'a, T>,
    at: usize,
    steps: usize,
    panels: &'a mut [E::B],
}

impl<E: Operand, T: Number> Kernel for PackKeys<'_, E, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let PackKeys { keys, at, steps, panels } = self;
        let (n, dim) = (keys.rows(), keys.cols());
        let mut stage = [E::B::default(); STAGE * STAGE_DIMS];
        for first_dim in (0..dim).step_by(STAGE_DIMS) {
            let dims = STAGE_DIMS.min(dim - first_dim);
            let (first_step, steps_here) = (first_dim / E::DEPTH, dims.div_ceil(E::DEPTH));
            let mut j = 0;
            while j < n {
                // Squares where a whole one fits, single keys before and behind them.
                let key = at + j;
                let square = key % STAGE == 0 && j + STAGE <= n;
                let count = if square { STAGE } else { 1 };
                for r in 0..count {
                    E::stage(s, &keys.row(j + r)[first_dim..][..dims], &mut stage[r * STAGE_DIMS..][..steps_here]);
                }
                let panel = &mut panels[key / PANEL * steps * PANEL..][..steps * PANEL];
                let to = &mut panel[first_step * PANEL..];
                if square {
                    E::transpose(s, &stage, STAGE_DIMS, steps_here, &mut to[key % PANEL..], PANEL);
                } else {
                    for (k, &word) in stage[..steps_here].iter().enumerate() {
                        to[k * PANEL + key % PANEL] = word;
                    }
                }
                j += count;
            }
        }
    }
}

struct PackValues<'a, E: Operand, T> {
    values: Rows<'a, T>,
    at: usize,
    packed: &'a mut [E::B],
    width: usize,
}

impl<E: Operand, T: Number> Kernel for PackValues<'_, E, T> {
    type Output = bool;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> bool {
        let PackValues { values, at, packed, width } = self;
        let dim = values.cols();
        let mut finite = true;
        for j in 0..values.rows() {
            let (row, key) = (values.row(j), at + j);
            finite &= all_stay_finite::<S, E, T>(s, row);
            let to = &mut packed[key / E::DEPTH * width..][..width];
            E::put_value(s, row, key % E::DEPTH, to);
            E::clear_value(key % E::DEPTH, &mut to[dim..]);
        }
        finite
    }
}

/// Whether all numbers are finite, and still are once they are stored.
#[inline(always)]
fn all_stay_finite<S: Simd, E: Operand, T: Number>(s: S, row: &[T]) -> bool {
    let (zero, one, overflow) = (s.splat(0.0), s.splat(1.0), s.splat(E::OVERFLOW));
    let mut wild = zero;
    let chunks = row.chunks_exact(S::LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        // SAFETY: a chunk holds LANES numbers.
        let x = unsafe { T::load(s, chunk.as_ptr()) };
        // A NaN is under no bound.
        wild = s.add(wild, s.select(s.lt(s.abs(x), overflow), zero, one));
    }
    let mut finite = s.reduce_add(wild) == 0.0;
    for x in rest {
        finite &= x.to_f32().abs() < E::OVERFLOW;
    }
    finite
}

struct PackQuery<'a, E: Operand, T> {
    row: &'a [T],
    factor: f32,
    out: &'a mut [E::A],
}

impl<E: Operand, T: Number> Kernel for PackQuery<'_, E, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let PackQuery { row, factor, out } = self;
        let factors = s.splat(factor);
        let whole = row.len() / S::LANES * S::LANES;
        for at in (0..whole).step_by(S::LANES) {
            // SAFETY: `at + LANES ≤ row.len()`, and `out` holds as many elements (`Kernels::pack_query`).
            unsafe { E::store(s, out.as_mut_ptr(), at, s.mul(factors, T::load(s, row[at..].as_ptr()))) };
        }
        for k in whole..row.len().next_multiple_of(E::DEPTH) {
            let x = row.get(k).map_or(0.0, |x| x.to_f32() * factor);
            E::put(out, k, x);
        }
    }
}

struct StoreSum<'a, T> {
    parts: &'a [&'a [f32]],
    stride: usize,
    factor: f32,
    out: RowsMut<'a, T>,
}

impl<T: Number> Kernel for StoreSum<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let StoreSum { parts, stride, factor, mut out } = self;
        // Not −0 where there is nothing to be summed, whatever the factor's sign.
        let (factors, zero) = (s.splat(factor), s.splat(0.0));
        let whole = out.cols() / S::LANES * S::LANES;
        for r in 0..out.rows() {
            let row = out.row_mut(r);
            for at in (0..whole).step_by(S::LANES) {
                let mut sum = s.splat(0.0);
                for part in parts {
                    // SAFETY: a part holds all elements of the row (`Kernels::store_sum`).
                    sum = s.add(sum, unsafe { s.load(part.as_ptr().add(r * stride + at)) });
                }
                // SAFETY: `at + LANES ≤ row.len()`.
                unsafe { T::store(s, row[at..].as_mut_ptr(), s.add(s.mul(factors, sum), zero)) };
            }
            for (at, x) in row.iter_mut().enumerate().skip(whole) {
                *x = T::from_f32(factor * parts.iter().map(|part| part[r * stride + at]).sum::<f32>() + 0.0);
            }
        }
    }
}

struct Finish<'a, T> {
    sums: &'a [f32],
    factor: f32,
    out: &'a mut [T],
}

impl<T: Number> Kernel for Finish<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Finish { sums, factor, out } = self;
        // A sum that underflowed to −0 or 0 owes its sign to what was multiplied by 0: adding 0 makes it 0.
        let (factors, zero) = (s.splat(factor), s.splat(0.0));
        let whole = out.len() / S::LANES * S::LANES;
        for at in (0..whole).step_by(S::LANES) {
            // SAFETY: `at + LANES ≤ out.len() ≤ sums.len()`.
            unsafe {
                let x = s.add(s.mul(factors, s.load(sums[at..].as_ptr())), zero);
                T::store(s, out[at..].as_mut_ptr(), x);
            }
        }
        for (x, sum) in out[whole..].iter_mut().zip(&sums[whole..]) {
            *x = T::from_f32(sum * factor + 0.0);
        }
    }
}
