//! The sides of a product in words: numbers in f32, where they lie if that is well, or pairs of bf16, rounded as they are packed.

use regard_kernels::{Band, Before as Sum, Kernels, Left};
use regard_memory::{Pod, Rows, RowsMut};

use super::Side;
use super::plan::CHUNK;

/// Steps up to which the left side is read where it lies, whichever way it lies.
const FEW_STEPS: usize = 32;

pub(super) const FITS: &str = "sizes were checked";

/// 32 bits of a side.
pub(super) trait Word: Pod + Send + Sync {
    /// Steps of the sum that a word holds; beside the last ones of a side stands 0.
    const DEPTH: usize;

    /// A chunk of the left side. What is written anew goes to `scratch`, for up to so many words of a row.
    fn left<'s>(kernels: Kernels, a: Side<'s>, words: usize, scratch: &'s mut [Self]) -> Left<'s, Self>;

    /// A block of the right side, if it lies as it is read.
    fn in_place(b: Side<'_>) -> Option<Rows<'_, Self>>;

    /// Writes a block of the right side as rows of `width`, with 0 behind its columns.
    fn pack(kernels: Kernels, b: Side<'_>, width: usize, to: &mut [Self], scratch: &mut [Self]);

    /// `C ← sum + A·B`.
    fn multiply(kernels: Kernels, a: Left<'_, Self>, b: Rows<'_, Self>, sum: Sum<'_>, c: RowsMut<'_, f32>);
}

impl Word for f32 {
    const DEPTH: usize = 1;

    fn left<'s>(kernels: Kernels, a: Side<'s>, words: usize, scratch: &'s mut [f32]) -> Left<'s> {
        match a {
            Side::AsIs(a) => Left::Rows(a),
            Side::Transposed(a) if a.rows() <= FEW_STEPS => Left::Columns(a),
            Side::Transposed(a) => {
                let (steps, rows) = (a.rows(), a.cols());
                kernels.transpose(a, RowsMut::new(scratch, rows, steps, words).expect(FITS)).expect(FITS);
                Left::Rows(Rows::new(scratch, rows, steps, words).expect(FITS))
            }
        }
    }

    fn in_place(b: Side<'_>) -> Option<Rows<'_, f32>> {
        match b {
            Side::AsIs(b) => Some(b),
            Side::Transposed(_) => None,
        }
    }

    fn pack(kernels: Kernels, b: Side<'_>, width: usize, to: &mut [f32], _scratch: &mut [f32]) {
        match b {
            Side::AsIs(b) => {
                for (to, from) in to.chunks_exact_mut(width).zip(b.iter()) {
                    to[..from.len()].copy_from_slice(from);
                    to[from.len()..].fill(0.0);
                }
            }
            Side::Transposed(b) => {
                kernels.transpose(b, RowsMut::new(to, b.cols(), width, width).expect(FITS)).expect(FITS);
            }
        }
    }

    fn multiply(kernels: Kernels, a: Left<'_>, b: Rows<'_, f32>, sum: Sum<'_>, c: RowsMut<'_, f32>) {
        kernels.multiply(a, b, Band::Whole, sum, c).expect(FITS);
    }
}

impl Word for u32 {
    const DEPTH: usize = 2;

    fn left<'s>(kernels: Kernels, a: Side<'s>, words: usize, scratch: &'s mut [u32]) -> Left<'s, u32> {
        match a {
            Side::AsIs(a) => {
                let (rows, pairs) = (a.rows(), a.cols().div_ceil(Self::DEPTH));
                kernels.round_to_bf16(a, RowsMut::new(scratch, rows, pairs, words).expect(FITS)).expect(FITS);
                Left::Rows(Rows::new(scratch, rows, pairs, words).expect(FITS))
            }
            Side::Transposed(a) => {
                let (pairs, rows) = (a.rows().div_ceil(Self::DEPTH), a.cols());
                kernels.pair_rows(a, RowsMut::new(scratch, pairs, rows, CHUNK).expect(FITS)).expect(FITS);
                Left::Columns(Rows::new(scratch, pairs, rows, CHUNK).expect(FITS))
            }
        }
    }

    fn in_place(_b: Side<'_>) -> Option<Rows<'_, u32>> {
        None
    }

    fn pack(kernels: Kernels, b: Side<'_>, width: usize, to: &mut [u32], scratch: &mut [u32]) {
        match b {
            Side::AsIs(b) => {
                let pairs = b.rows().div_ceil(Self::DEPTH);
                kernels.pair_rows(b, RowsMut::new(to, pairs, width, width).expect(FITS)).expect(FITS);
            }
            Side::Transposed(b) => {
                let (columns, pairs) = (b.rows(), b.cols().div_ceil(Self::DEPTH));
                kernels.round_to_bf16(b, RowsMut::new(scratch, columns, pairs, pairs).expect(FITS)).expect(FITS);
                let rounded = Rows::new(scratch, columns, pairs, pairs).expect(FITS);
                kernels.transpose(rounded, RowsMut::new(to, pairs, width, width).expect(FITS)).expect(FITS);
            }
        }
    }

    fn multiply(kernels: Kernels, a: Left<'_, u32>, b: Rows<'_, u32>, sum: Sum<'_>, c: RowsMut<'_, f32>) {
        kernels.multiply_pairs(a, b, sum, c).expect(FITS);
    }
}
