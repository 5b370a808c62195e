//! Products of weights and activations that are numbers: f32, or pairs of bf16.
//!
//! Weights that are not stored as the product wants them are widened, a piece at a time that stays in the first cache.
//! Every output is one sum in the order of the inputs, so a row has the same bits whether it comes alone or with others.

use std::ops::Range;

use regard_memory::{Rows, RowsMut};
use regard_simd::{Kernel, Simd};

use super::codes::BLOCK;
use super::slab::{Row, Slab};
use super::{Epilogue, for_tiles};
use crate::product::multiply_add;
use crate::{Bf16, F32, Operand, PANEL, ROWS};

/// Steps of a panel that are widened and multiplied at a time: 16 KiB, a third to half of a first-level cache.
const STEPS: usize = 64;
/// The same where there are more rows than are summed at once: a whole panel of a small model is widened once for all of them,
/// and read from a second-level cache (192 KiB).
const MANY_STEPS: usize = 768;
/// Rows that use a widened piece before it is widened again: widening then costs some percent of the products, and the
/// sums of so many rows (24 KiB) still stay near.
const ROWS_AT_ONCE: usize = 96;

/// `y[rows, panels·64] = x[rows, inputs] · Wᵀ`.
pub(super) struct NumberProduct<'a, E: Operand, T> {
    /// `[panels][inputs / DEPTH]`, of the slab.
    pub(super) slabs: &'a [T],
    pub(super) inputs: usize,
    /// `[rows, ⌈inputs / DEPTH⌉]`, of the operand.
    pub(super) x: Rows<'a, E::A>,
    pub(super) out: RowsMut<'a, f32>,
    pub(super) epilogue: Epilogue<'a>,
}

/// An operand that a weight can be widened to.
pub(super) trait Widen: Operand {
    /// Writes the weights of some inputs of a panel as steps: `to` is `[⌈inputs / DEPTH⌉][PANEL]`. They begin and end with a
    /// step of the slabs.
    fn widen<S: Simd, T: Slab>(s: S, slabs: &[T], inputs: Range<usize>, to: &mut [Row<Self::B>]);
    /// The weights as steps, where they are stored so.
    fn stored<T: Slab>(slabs: &[T]) -> Option<&[Row<Self::B>]>;
}

impl Widen for F32 {
    #[inline(always)]
    fn widen<S: Simd, T: Slab>(s: S, slabs: &[T], inputs: Range<usize>, to: &mut [Row<f32>]) {
        for (input, to) in inputs.step_by(T::STEP).zip(to.chunks_exact_mut(T::STEP)) {
            slabs[input / T::DEPTH].widen(s, input % T::DEPTH / T::STEP, to);
        }
    }
    fn stored<T: Slab>(slabs: &[T]) -> Option<&[Row<f32>]> {
        T::as_f32(slabs)
    }
}

impl Widen for Bf16 {
    #[inline(always)]
    fn widen<S: Simd, T: Slab>(s: S, slabs: &[T], inputs: Range<usize>, to: &mut [Row<u32>]) {
        let mut rows = [[0.0; PANEL]; BLOCK];
        for (from, to) in inputs.clone().step_by(BLOCK).zip(to.chunks_mut(BLOCK / 2)) {
            // An odd last input stands beside 0.
            let count = BLOCK.min(inputs.end - from);
            rows[count..].fill([0.0; PANEL]);
            F32::widen(s, slabs, from..from + count, &mut rows);
            for (pair, to) in rows.as_chunks::<2>().0[..count.div_ceil(2)].iter().zip(to) {
                round_pair(s, pair, to);
            }
        }
    }
    fn stored<T: Slab>(_slabs: &[T]) -> Option<&[Row<u32>]> {
        None
    }
}

/// Rounds two rows to bf16, the first into the low halves.
#[inline(always)]
fn round_pair<S: Simd>(s: S, pair: &[Row<f32>; 2], to: &mut Row<u32>) {
    let mut halves = [[0_u16; PANEL]; 2];
    for at in (0..PANEL).step_by(S::LANES) {
        // SAFETY: all rows hold PANEL numbers, which LANES divides.
        unsafe {
            for (row, halves) in pair.iter().zip(&mut halves) {
                s.store_bf16(halves[at..].as_mut_ptr(), s.load(row[at..].as_ptr()));
            }
            let [low, high] = halves.each_ref().map(|halves| s.to_bits(s.load_bf16(halves[at..].as_ptr())));
            s.store_i32(to[at..].as_mut_ptr().cast(), s.add_i32(s.shr::<16>(low), high));
        }
    }
}

impl<E: Widen, T: Slab> Kernel for NumberProduct<'_, E, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let stored = E::stored(self.slabs).is_some();
        match !stored && self.x.rows() > ROWS_AT_ONCE && self.x.cols() <= MANY_STEPS {
            true => self.multiply::<S, MANY_STEPS>(s),
            false => self.multiply::<S, STEPS>(s),
        }
    }
}

impl<E: Widen, T: Slab> NumberProduct<'_, E, T> {
    /// The product, `N` steps widened at a time.
    #[inline(always)]
    fn multiply<S: Simd, const N: usize>(self, s: S) {
        let NumberProduct { slabs, inputs, x, mut out, epilogue } = self;
        let mut widened = [[E::B::default(); PANEL]; N];
        let mut sums = [[0.0; PANEL]; ROWS_AT_ONCE];
        for (panel, slabs) in slabs.chunks_exact(inputs / T::DEPTH).enumerate() {
            // The steps that are widened now.
            let mut near = 0..0;
            for row in (0..x.rows()).step_by(ROWS_AT_ONCE) {
                let rows = ROWS_AT_ONCE.min(x.rows() - row);
                let sums = &mut sums[..rows];
                sums.fill([0.0; PANEL]);
                for first in (0..x.cols()).step_by(N) {
                    let steps = first..x.cols().min(first + N);
                    let b = match E::stored(slabs) {
                        Some(stored) => &stored[steps.clone()],
                        None => {
                            if near != steps {
                                let inputs = steps.start * E::DEPTH..inputs.min(steps.end * E::DEPTH);
                                E::widen(s, slabs, inputs, &mut widened);
                                near = steps.clone();
                            }
                            &widened
                        }
                    };
                    multiply_piece::<S, E>(s, x.block(row..row + rows, steps), b, sums);
                }
                epilogue.finish(s, sums, row, panel * PANEL, &mut out);
            }
        }
    }
}

/// Adds to `sums` the product of `x`: `[rows, steps]` with `b`: `[steps][PANEL]`.
#[inline(always)]
fn multiply_piece<S: Simd, E: Operand>(s: S, x: Rows<'_, E::A>, b: &[Row<E::B>], sums: &mut [Row<f32>]) {
    assert!(b.len() >= x.cols() && sums.len() == x.rows());
    for_tiles!(x.rows(), |row, R| {
        // SAFETY: rows `row..row + R` are of `x` and of `sums`, and `b` has as many steps as `x`.
        unsafe {
            let a = x.as_ptr().add(row * x.stride());
            let sums = sums[row..][..R].as_mut_ptr().cast();
            match (S::STRIPS, R) {
                (4.., _) | (_, 1 | 2) => multiply_strips::<S, E, R, 4>(s, x.cols(), a, x.stride(), b, sums),
                _ => multiply_strips::<S, E, R, 2>(s, x.cols(), a, x.stride(), b, sums),
            }
        }
    });
}

/// # Safety
/// `R` rows of `steps` words at `a`, `stride` apart; `steps` rows in `b`; `R` rows of `PANEL` sums at `sums`.
#[inline(always)]
unsafe fn multiply_strips<S: Simd, E: Operand, const R: usize, const W: usize>(
    s: S,
    steps: usize,
    a: *const E::A,
    stride: usize,
    b: &[Row<E::B>],
    sums: *mut f32,
) {
    for column in (0..PANEL).step_by(W * S::LANES) {
        let at = |r: usize, w: usize| r * PANEL + column + w * S::LANES;
        // SAFETY: the caller's; `W` vectors from `column` on lie within a panel.
        unsafe {
            let mut tile = [[s.splat(0.0); W]; R];
            for (r, row) in tile.iter_mut().enumerate() {
                for (w, sum) in row.iter_mut().enumerate() {
                    *sum = s.load(sums.add(at(r, w)));
                }
            }
            let b = b.as_ptr().cast::<E::B>().add(column);
            let tile = multiply_add::<S, E, R, W>(s, steps, a, (stride, 1), b, PANEL, tile);
            for (r, row) in tile.iter().enumerate() {
                for (w, &sum) in row.iter().enumerate() {
                    s.store(sums.add(at(r, w)), sum);
                }
            }
        }
    }
}

const _: () =
    assert!(STEPS.is_multiple_of(BLOCK) && MANY_STEPS.is_multiple_of(BLOCK) && ROWS_AT_ONCE.is_multiple_of(ROWS));
