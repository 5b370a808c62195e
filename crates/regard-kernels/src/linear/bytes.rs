//! Products of quantised weights and quantised activations.
//!
//! Within a block of 32 inputs a product of codes is an exact sum of integers; the scales of both sides make it a number,
//! and blocks are added in f32, always in the order of the inputs. So a row has the same bits whether it comes alone or
//! with others.

use regard_memory::RowsMut;
use regard_simd::{Kernel, Simd};

use super::quantized::{ActivationBlock, QuantizedRows};
use super::slab::{Block, HALF, Row};
use super::{Epilogue, for_tiles};
use crate::PANEL;
use crate::product::Accumulators;

/// `y[rows, panels·64] = x[rows, inputs] · Wᵀ`.
pub(super) struct ByteProduct<'a, const WORDS: usize, const FACTORS: usize> {
    /// `[panels][inputs / 32]`.
    pub(super) slabs: &'a [Block<WORDS, FACTORS>],
    pub(super) x: QuantizedRows<'a>,
    pub(super) out: RowsMut<'a, f32>,
    pub(super) epilogue: Epilogue,
}

impl<const WORDS: usize, const FACTORS: usize> Kernel for ByteProduct<'_, WORDS, FACTORS> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let ByteProduct { slabs, x, mut out, epilogue } = self;
        let blocks = ActivationBlock::per_row(x.inputs());
        for (panel, slabs) in slabs.chunks_exact(blocks).enumerate() {
            for_tiles!(x.rows(), |row, R| {
                let x = &x.blocks[row * blocks..][..R * blocks];
                let mut sums = [[0.0; PANEL]; R];
                multiply_rows::<S, WORDS, FACTORS, R>(s, slabs, x, &mut sums);
                epilogue.finish(s, &sums, row, panel * PANEL, &mut out);
            });
        }
    }
}

/// The products of `R` rows and one panel: `x` is `[R][blocks]`.
#[inline(always)]
fn multiply_rows<S: Simd, const WORDS: usize, const FACTORS: usize, const R: usize>(
    s: S,
    slabs: &[Block<WORDS, FACTORS>],
    x: &[ActivationBlock],
    sums: &mut [Row<f32>; R],
) {
    // Each output has two accumulators, one of integers and one of floats. As many vectors as the register file carries:
    // 32 registers with four strips, else 16.
    match (S::STRIPS, R) {
        (4.., 1 | 2) | (_, 1) => multiply_strips::<S, WORDS, FACTORS, R, 4>(s, slabs, x, sums),
        (4.., _) | (_, 2) => multiply_strips::<S, WORDS, FACTORS, R, 2>(s, slabs, x, sums),
        _ => multiply_strips::<S, WORDS, FACTORS, R, 1>(s, slabs, x, sums),
    }
}

/// [`multiply_rows`], `W` vectors of outputs at a time.
#[inline(always)]
fn multiply_strips<S: Simd, const WORDS: usize, const FACTORS: usize, const R: usize, const W: usize>(
    s: S,
    slabs: &[Block<WORDS, FACTORS>],
    x: &[ActivationBlock],
    sums: &mut [Row<f32>; R],
) {
    assert_eq!(x.len(), R * slabs.len());
    for column in (0..PANEL).step_by(W * S::LANES) {
        let mut tile = [[s.splat(0.0); W]; R];
        for (b, slab) in slabs.iter().enumerate() {
            // SAFETY: block `b` of row `r` is within `x`, asserted above.
            let x = std::array::from_fn(|r| unsafe { x.get_unchecked(r * slabs.len() + b) });
            multiply_block::<S, WORDS, FACTORS, R, W>(s, slab, column, x, &mut tile);
        }
        for (tile, sums) in tile.iter().zip(&mut *sums) {
            for (&sum, to) in tile.iter().zip(sums[column..].chunks_exact_mut(S::LANES)) {
                // SAFETY: a chunk holds LANES numbers.
                unsafe { s.store(to.as_mut_ptr(), sum) };
            }
        }
    }
}

/// Adds the products of one block of inputs and `W` vectors of outputs from `column` on.
#[inline(always)]
fn multiply_block<S: Simd, const WORDS: usize, const FACTORS: usize, const R: usize, const W: usize>(
    s: S,
    slab: &Block<WORDS, FACTORS>,
    column: usize,
    x: [&ActivationBlock; R],
    tile: &mut Accumulators<S, R, W>,
) {
    let minimum = Block::<WORDS, FACTORS>::MINIMUM;
    let mut dots = [[s.splat_i32(0); W]; R];
    add_dots::<S, WORDS, FACTORS, R, W>(s, slab, column, x.map(|x| &x.high), &mut dots);
    for (x, dots) in x.iter().zip(&mut dots) {
        let negated_sum = s.splat_i32(x.negated_sum);
        let offset = if WORDS == HALF { s.shl::<3>(negated_sum) } else { s.shl::<7>(negated_sum) };
        for dot in dots {
            // At most 32·255·32512: far from the end of 32 bits.
            *dot = s.shl::<8>(*dot);
            if !minimum {
                *dot = s.add_i32(*dot, offset);
            }
        }
    }
    add_dots::<S, WORDS, FACTORS, R, W>(s, slab, column, x.map(|x| &x.low), &mut dots);
    for w in 0..W {
        let d = slab.factor(s, 0, column + w * S::LANES);
        let m = slab.factor(s, FACTORS - 1, column + w * S::LANES);
        for ((x, dots), tile) in x.iter().zip(&dots).zip(&mut *tile) {
            if minimum {
                tile[w] = s.fma(m, s.splat(x.sum), tile[w]);
            }
            tile[w] = s.fma(s.to_f32(dots[w]), s.mul(d, s.splat(x.scale)), tile[w]);
        }
    }
}

/// Adds the products of a block's codes and one byte of the activations' codes.
#[inline(always)]
fn add_dots<S: Simd, const WORDS: usize, const FACTORS: usize, const R: usize, const W: usize>(
    s: S,
    slab: &Block<WORDS, FACTORS>,
    column: usize,
    x: [&[i32; 2 * HALF]; R],
    dots: &mut [[S::I32; W]; R],
) {
    for pair in 0..HALF {
        for group in [pair, pair + HALF] {
            let mut codes = [s.splat_i32(0); W];
            for (w, codes) in codes.iter_mut().enumerate() {
                *codes = slab.codes(s, group, column + w * S::LANES);
            }
            for (x, dots) in x.iter().zip(&mut *dots) {
                let x = s.splat_i32(x[group]);
                for (dot, &codes) in dots.iter_mut().zip(&codes) {
                    *dot = if WORDS == HALF { s.dot_u7_i8(*dot, codes, x) } else { s.dot_u8_i8(*dot, codes, x) };
                }
            }
        }
    }
}
