//! Products of quantised weights and quantised activations.
//!
//! Within a block of 32 inputs a product of codes is an exact sum of integers; the scales of both sides make it a number,
//! and blocks are added in f32, always in the order of the inputs. So a row has the same bits whether it comes alone or
//! with others.

use regard_memory::{LINE, RowsMut, prefetch_stream};
use regard_simd::{Kernel, Simd};

use super::blocks::Quantized;
use super::codes::{BLOCK, GROUP, GROUPS};
use super::factors::Factors;
use super::quantized::{ActivationBlock, QuantizedRows};
use super::slab::Row;
use super::{Epilogue, for_tiles};
use crate::PANEL;
use crate::product::Accumulators;

/// Bytes of a weight that are asked for before they are needed: what memory gives in some hundreds of nanoseconds. Rows of
/// several words, planes and factors are too many streams for the CPU's own prefetcher: without this, a single row of `Q4_K`
/// reads at a fifth of the memory's pace; with it, at nearly all of it.
const AHEAD: usize = 16 << 10;

/// `y[rows, panels·64] = x[rows, inputs] · Wᵀ`.
pub(super) struct ByteProduct<'a, T, const BYTES: usize> {
    /// `[panels][inputs / DEPTH]`.
    pub(super) slabs: &'a [T],
    pub(super) x: QuantizedRows<'a, BYTES>,
    pub(super) out: RowsMut<'a, f32>,
    pub(super) epilogue: Epilogue<'a>,
}

impl<T: Quantized, const BYTES: usize> Kernel for ByteProduct<'_, T, BYTES> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let ByteProduct { slabs, x, mut out, epilogue } = self;
        let blocks = ActivationBlock::<BYTES>::per_row(x.inputs());
        for (panel, slabs) in slabs.chunks_exact(x.inputs() / T::DEPTH).enumerate() {
            for_tiles!(x.rows(), |row, R| {
                let x = &x.blocks[row * blocks..][..R * blocks];
                let mut sums = [[0.0; PANEL]; R];
                multiply_rows::<S, T, BYTES, R>(s, slabs, x, &mut sums);
                epilogue.finish(s, &mut sums, row, panel * PANEL, &mut out);
            });
        }
    }
}

/// The products of `R` rows and one panel: `x` is `[R][blocks]`.
#[inline(always)]
fn multiply_rows<S: Simd, T: Quantized, const BYTES: usize, const R: usize>(
    s: S,
    slabs: &[T],
    x: &[ActivationBlock<BYTES>],
    sums: &mut [Row<f32>; R],
) {
    // Each output has two accumulators, one of integers and one of floats. As many vectors as the register file carries:
    // 32 registers with four strips, else 16.
    match (S::STRIPS, R) {
        (4.., 1 | 2) | (_, 1) => multiply_strips::<S, T, BYTES, R, 4>(s, slabs, x, sums),
        (4.., _) | (_, 2) => multiply_strips::<S, T, BYTES, R, 2>(s, slabs, x, sums),
        _ => multiply_strips::<S, T, BYTES, R, 1>(s, slabs, x, sums),
    }
}

/// [`multiply_rows`], `W` vectors of outputs at a time.
#[inline(always)]
fn multiply_strips<S: Simd, T: Quantized, const BYTES: usize, const R: usize, const W: usize>(
    s: S,
    slabs: &[T],
    x: &[ActivationBlock<BYTES>],
    sums: &mut [Row<f32>; R],
) {
    let of_slab = T::DEPTH / BLOCK;
    let blocks = slabs.len() * of_slab;
    assert_eq!(x.len(), R * blocks);
    for column in (0..PANEL).step_by(W * S::LANES) {
        let mut tile = [[s.splat(0.0); W]; R];
        for (i, slab) in slabs.iter().enumerate() {
            for block in 0..of_slab {
                if column == 0 {
                    prefetch_block(slab, block);
                }
                // SAFETY: block `i·of_slab + block` of row `r` is within `x`, asserted above.
                let x = std::array::from_fn(|r| unsafe { x.get_unchecked(r * blocks + i * of_slab + block) });
                multiply_run::<S, T, BYTES, R, W, 0>(s, slab, block, column, x, &mut tile);
                if T::Factors::RUN < BLOCK {
                    multiply_run::<S, T, BYTES, R, W, 1>(s, slab, block, column, x, &mut tile);
                }
            }
        }
        for (tile, sums) in tile.iter().zip(&mut *sums) {
            for (&sum, to) in tile.iter().zip(sums[column..].chunks_exact_mut(S::LANES)) {
                // SAFETY: a chunk holds LANES numbers.
                unsafe { s.store(to.as_mut_ptr(), sum) };
            }
        }
    }
}

/// Asks for the block's share of a slab, [`AHEAD`] of the place where it may lie.
#[inline(always)]
fn prefetch_block<T: Quantized>(slab: &T, block: usize) {
    let bytes = size_of::<T>() / (T::DEPTH / BLOCK);
    let ahead = std::ptr::from_ref(slab).cast::<u8>().wrapping_add(block * bytes + AHEAD);
    for at in (0..bytes).step_by(LINE) {
        prefetch_stream(ahead.wrapping_add(at));
    }
}

/// Adds the products of a run of inputs that share factors, the block or its half `PART`, and `W` vectors of outputs from
/// `column` on.
#[inline(always)]
fn multiply_run<S: Simd, T: Quantized, const BYTES: usize, const R: usize, const W: usize, const PART: usize>(
    s: S,
    slab: &T,
    block: usize,
    column: usize,
    x: [&ActivationBlock<BYTES>; R],
    tile: &mut Accumulators<S, R, W>,
) {
    let (minimum, whole) = (T::Factors::MINIMUM, T::Factors::RUN == BLOCK);
    let mut offsets = [s.splat_i32(0); R];
    if !minimum {
        for (x, offset) in x.iter().zip(&mut offsets) {
            let negated_sum = if whole { x.negated_sums[0] + x.negated_sums[1] } else { x.negated_sums[PART] };
            *offset = s.splat_i32(negated_sum << (T::BITS - 1));
        }
    }
    let dots = products::<S, T, BYTES, R, W, PART>(s, slab, block, column, x, offsets);
    let run = block * (BLOCK / T::Factors::RUN) + PART;
    for w in 0..W {
        let d = slab.factors().scale(s, run, column + w * S::LANES);
        let m = slab.factors().minimum(s, run, column + w * S::LANES);
        for ((x, dots), tile) in x.iter().zip(&dots).zip(&mut *tile) {
            if minimum {
                // Only a whole block has the sum of its activations.
                const { assert!(!T::Factors::MINIMUM || T::Factors::RUN == BLOCK) };
                tile[w] = s.fma(m, s.splat(x.sum), tile[w]);
            }
            tile[w] = s.fma(s.to_f32(dots[w]), s.mul(d, s.splat(x.scale)), tile[w]);
        }
    }
}

/// The products of a run's codes and what they are off by, at most 32·255·32512: far from the end of 32 bits.
#[inline(always)]
fn products<S: Simd, T: Quantized, const BYTES: usize, const R: usize, const W: usize, const PART: usize>(
    s: S,
    slab: &T,
    block: usize,
    column: usize,
    x: [&ActivationBlock<BYTES>; R],
    offsets: [S::I32; R],
) -> [[S::I32; W]; R] {
    if BYTES == 1 {
        // Begun with the offset, which then costs nothing.
        let mut dots = [[offsets[0]; W]; R];
        for (dots, offset) in dots.iter_mut().zip(offsets) {
            *dots = [offset; W];
        }
        add_dots::<S, T, R, W, PART>(s, slab, block, column, x.map(|x| &x.bytes[0]), &mut dots);
        return dots;
    }
    let zero = s.splat_i32(0);
    let mut dots = [[zero; W]; R];
    if R == 1 {
        // There are registers for both sums side by side, and codes are taken apart once.
        let mut both = [[zero; W]; 2];
        add_dots::<S, T, 2, W, PART>(s, slab, block, column, [&x[0].bytes[0], &x[0].bytes[1]], &mut both);
        let [high, low] = both;
        dots = [std::array::from_fn(|w| s.add_i32(s.shl::<8>(high[w]), low[w])); R];
    } else {
        add_dots::<S, T, R, W, PART>(s, slab, block, column, x.map(|x| &x.bytes[0]), &mut dots);
        dots.as_flattened_mut().iter_mut().for_each(|dot| *dot = s.shl::<8>(*dot));
        add_dots::<S, T, R, W, PART>(s, slab, block, column, x.map(|x| &x.bytes[1]), &mut dots);
    }
    for (dots, offset) in dots.iter_mut().zip(offsets) {
        dots.iter_mut().for_each(|dot| *dot = s.add_i32(*dot, offset));
    }
    dots
}

/// Adds the products of a run's codes and one byte of the activations' codes.
#[inline(always)]
fn add_dots<S: Simd, T: Quantized, const R: usize, const W: usize, const PART: usize>(
    s: S,
    slab: &T,
    block: usize,
    column: usize,
    x: [&[i32; GROUPS]; R],
    dots: &mut [[S::I32; W]; R],
) {
    for pair in 0..T::Factors::RUN / GROUP / 2 {
        // Where a run has both, groups whose nibbles share a word stand beside each other, so that it is read once.
        let pair = if T::Factors::RUN == BLOCK { [pair, pair + 4] } else { [0, 1].map(|i| 4 * PART + 2 * pair + i) };
        for group in pair {
            let mut codes = [s.splat_i32(0); W];
            for (w, codes) in codes.iter_mut().enumerate() {
                *codes = slab.codes(s, block, group, column + w * S::LANES);
            }
            for (x, dots) in x.iter().zip(&mut *dots) {
                let x = s.splat_i32(x[group]);
                for (dot, &codes) in dots.iter_mut().zip(&codes) {
                    *dot = if T::BITS < 8 { s.dot_u7_i8(*dot, codes, x) } else { s.dot_u8_i8(*dot, codes, x) };
                }
            }
        }
    }
}
