//! All queries of one head, block by block: scores, softmax, weighted values.

use regard_memory::{Ahead, LINE, Rows, RowsMut, cast_slice_mut, prefetch_write};
use regard_simd::{Kernel, Simd, math};

use super::product::Product;
use super::softmax::Scores;
use super::{BLOCK, MOST, SmallHead, pad, same};
use crate::kept::AddKept;
use crate::number::{NumberRows, NumberRowsMut};
use crate::{COLUMNS, Number, Operand, PANEL, Transposable};

pub struct Attend<'t, 'a, 'd, E: Transposable> {
    pub(super) head: &'t mut SmallHead<'a, E>,
    pub(super) queries: NumberRows<'d>,
    pub(super) factor: f32,
    pub(super) live: Option<&'d [u64]>,
    pub(super) out: NumberRowsMut<'d>,
    pub(super) lse: Option<RowsMut<'d, f32>>,
    pub(super) ahead: &'t mut Ahead,
}

/// A number for each row of a block, in whole vectors.
type OfRows = [f32; MOST.next_multiple_of(COLUMNS)];

impl<E: Transposable> Kernel for Attend<'_, '_, '_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Attend { head, queries, factor, live, mut out, mut lse, ahead } = self;
        let SmallHead { keys, columns, count, dim_k, values, dim_v, ref mut work, .. } = *head;
        let (steps, width, live_words) = (dim_k.div_ceil(E::DEPTH), pad(dim_v), count.div_ceil(PANEL));
        let stride = score_stride(columns);
        let (scores, work) = work.split_at_mut(MOST * stride);
        let (products, packed) = work.split_at_mut(MOST * width);
        let (scores, packed): (_, &mut [E::A]) = (scores.as_mut_ptr(), cast_slice_mut(packed));

        let queries_in_place: Option<Rows<'_, E::A>> = queries.as_f32().and_then(same);
        let out_in_place = out.as_f32_mut().is_some() && dim_v == width;
        // Only where a key is masked may what it holds not be multiplied by its weight of 0.
        let wild = live.is_some() && !all_finite::<S, E>(s, values);
        let blocks = queries.rows().saturating_sub(MOST - BLOCK).div_ceil(BLOCK).max(1);
        let lines = ahead.lines().div_ceil(3 * blocks);

        let mut first = 0;
        while first < queries.rows() {
            let left = queries.rows() - first;
            let rows = if left <= MOST { left } else { BLOCK };
            ahead.fetch(lines);
            out.fetch(first, rows);

            let (a, a_row) = match queries_in_place {
                Some(queries) => (queries.as_ptr().wrapping_add(first * queries.stride()), queries.stride()),
                None => {
                    for r in 0..rows {
                        queries.pack::<S, E>(s, first + r, &mut packed[r * steps..][..steps]);
                    }
                    (packed.as_ptr(), steps)
                }
            };
            let (b, b_step, vectors) = (keys.as_ptr(), columns, count.div_ceil(S::LANES));
            let (c, c_row, factors) = (scores, stride, (&raw const factor, 0));
            // SAFETY: the queries are `rows` rows of `steps` words, the keys `steps` of `columns`, which are whole vectors, and
            // the scores have room for MOST rows of as many.
            unsafe { Product::<E> { rows, vectors, steps, a, a_row, b, b_step, c, c_row, factors }.compute(s) };

            ahead.fetch(lines);
            let (mut maxima, mut sums): (OfRows, OfRows) = ([0.0; _], [0.0; _]);
            let live = live.map(|live| &live[first * live_words..]);
            let weigh = Scores { words: scores, stride, rows, keys: count, live };
            // SAFETY: these are the scores from above.
            unsafe { weigh.weigh::<S, E>(s, &mut maxima, &mut sums) };

            ahead.fetch(lines);
            let inverse = inverse(s, &sums);
            if wild {
                for r in 0..rows {
                    // SAFETY: a row of weights, whose words are no wider than those of scores.
                    let weights = unsafe { std::slice::from_raw_parts(scores.add(r * stride).cast::<E::A>(), columns) };
                    let products = &mut products[r * width..][..width];
                    products.fill(0.0);
                    let kept = |key: usize| live.is_none_or(|live| keeps(&live[r * live_words..], key));
                    let (steps, row) = (count.div_ceil(E::DEPTH), |step| values.row(step));
                    // Behind the last key no value is one.
                    let kept = |key| key < count && kept(key);
                    AddKept::<E, _, _> { steps, a: weights, a_step: 1, row, kept, sums: products }.add(s);
                    products.iter_mut().for_each(|sum| *sum = *sum * inverse[r] + 0.0);
                    out.store(s, products, first + r);
                }
            } else {
                let (a, a_row, steps) = (scores.cast_const().cast(), stride, count.div_ceil(E::DEPTH));
                let (b, b_step, vectors) = (values.as_ptr(), values.stride(), dim_v.div_ceil(S::LANES));
                let (c, c_row) = match out.as_f32_mut() {
                    Some(out) if out_in_place => (out.as_mut_ptr().wrapping_add(first * out.stride()), out.stride()),
                    _ => (products.as_mut_ptr(), width),
                };
                let factors = (inverse.as_ptr(), 1);
                // SAFETY: the weights are words no wider than scores, and so lie `stride` words apart; values are rows of
                // `width` words, which are whole vectors; so are the rows of `out`, if it is used, and those of `products`.
                unsafe { Product::<E> { rows, vectors, steps, a, a_row, b, b_step, c, c_row, factors }.compute(s) };
                if !out_in_place {
                    for (r, products) in products.chunks_exact(width.max(1)).take(rows).enumerate() {
                        out.store(s, products, first + r);
                    }
                }
            }
            if let Some(lse) = &mut lse {
                let logarithms = logarithms(s, &maxima, &sums);
                for (r, &logarithm) in logarithms[..rows].iter().enumerate() {
                    lse.row_mut(first + r)[0] = logarithm;
                }
            }
            first += rows;
        }
    }
}

/// Words from a row of scores to the next: not a multiple of a page's fraction, so that rows do not crowd into the same
/// cache sets.
pub(super) const fn score_stride(columns: usize) -> usize {
    columns.saturating_add(COLUMNS)
}

/// Whether bit `key` is set.
fn keeps(live: &[u64], key: usize) -> bool {
    live[key / PANEL] >> (key % PANEL) & 1 == 1
}

/// The body for whichever number type the rows have.
macro_rules! for_number {
    ($rows:expr, $all:ident, $name:ident => $body:expr) => {
        match $rows {
            $all::F32($name) => $body,
            $all::Bf16($name) => $body,
            $all::F16($name) => $body,
        }
    };
}

impl NumberRows<'_> {
    /// Writes a row as `A` of a product.
    #[inline(always)]
    fn pack<S: Simd, E: Operand>(self, s: S, row: usize, to: &mut [E::A]) {
        for_number!(self, NumberRows, rows => pack_row::<S, E, _>(s, rows.row(row), to));
    }
}

impl NumberRowsMut<'_> {
    /// Asks for the lines that so many results will be written to.
    #[inline(always)]
    fn fetch(&mut self, first: usize, rows: usize) {
        for_number!(self, NumberRowsMut, out => fetch_to_write(out, first, rows));
    }

    /// Rounds the first numbers of a row into another.
    #[inline(always)]
    fn store<S: Simd>(&mut self, s: S, from: &[f32], row: usize) {
        for_number!(self, NumberRowsMut, out => store_row(s, from, out.row_mut(row)));
    }
}

/// Asks for the lines that results will be written to.
#[inline(always)]
fn fetch_to_write<T>(out: &mut RowsMut<'_, T>, first: usize, rows: usize) {
    for r in first..first + rows {
        for line in out.row_mut(r).chunks_mut(LINE / size_of::<T>()) {
            prefetch_write(line.as_mut_ptr());
        }
    }
}

/// Whether all values are finite.
#[inline(always)]
fn all_finite<S: Simd, E: Operand>(s: S, values: Rows<'_, E::B>) -> bool {
    let mut sum = s.splat(0.0);
    // SAFETY: a step of `A` is readable, and so is a row of values, which is whole vectors.
    unsafe {
        let zero = E::spread(s, &E::A::default());
        for row in values.iter() {
            for column in (0..row.len()).step_by(S::LANES) {
                // 0 times a number is 0, unless it is not finite.
                sum = E::multiply_add(s, sum, zero, E::load(s, row.as_ptr().add(column)));
            }
        }
    }
    s.reduce_add(sum) == 0.0
}

/// Writes a row as `A` of a product.
#[inline(always)]
fn pack_row<S: Simd, E: Operand, T: Number>(s: S, row: &[T], to: &mut [E::A]) {
    let whole = row.len() / S::LANES * S::LANES;
    for at in (0..whole).step_by(S::LANES) {
        // SAFETY: `at + LANES ≤ row.len()`, and `to` holds as many elements.
        unsafe { E::store(s, to.as_mut_ptr(), at, T::load(s, row[at..].as_ptr())) };
    }
    for k in whole..row.len().next_multiple_of(E::DEPTH) {
        E::put(to, k, row.get(k).map_or(0.0, |x| x.to_f32()));
    }
}

/// Rounds the first numbers of a row into another.
#[inline(always)]
fn store_row<S: Simd, T: Number>(s: S, from: &[f32], to: &mut [T]) {
    let whole = to.len() / S::LANES * S::LANES;
    for at in (0..whole).step_by(S::LANES) {
        // SAFETY: both rows hold `at + LANES` numbers.
        unsafe { T::store(s, to[at..].as_mut_ptr(), s.load(from[at..][..S::LANES].as_ptr())) };
    }
    for (to, &from) in to[whole..].iter_mut().zip(&from[whole..]) {
        *to = T::from_f32(from);
    }
}

/// One over each sum; 0 for 0, so that a row that has seen no key stays 0.
#[inline(always)]
fn inverse<S: Simd>(s: S, sums: &OfRows) -> OfRows {
    let mut inverse = [0.0; _];
    for at in (0..sums.len()).step_by(S::LANES) {
        // SAFETY: both hold whole vectors.
        unsafe {
            let sum = s.load(sums[at..].as_ptr());
            let some = s.lt(s.splat(0.0), sum);
            // A NaN stays one.
            s.store(inverse[at..].as_mut_ptr(), s.select(some, s.div(s.splat(1.0), sum), sum));
        }
    }
    inverse
}

/// The log-sum-exp `ln 2·max + ln sum` of each row.
#[inline(always)]
fn logarithms<S: Simd>(s: S, maxima: &OfRows, sums: &OfRows) -> OfRows {
    let mut logarithms = [0.0; _];
    for at in (0..sums.len()).step_by(S::LANES) {
        // SAFETY: all hold whole vectors.
        unsafe {
            let (max, sum) = (s.load(maxima[at..].as_ptr()), s.load(sums[at..].as_ptr()));
            s.store(logarithms[at..].as_mut_ptr(), s.fma(max, s.splat(std::f32::consts::LN_2), math::ln(s, sum)));
        }
    }
    logarithms
}
