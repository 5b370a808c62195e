//! The factors that make numbers of codes: a scale for each run of inputs, and in some formats a minimum.

use half::f16;
use regard_memory::{Pod, Zeroable};
use regard_simd::Simd;

use super::codes::LOW;
use super::slab::Row;
use crate::PANEL;

/// The factors of a slab, for all outputs of a panel.
///
/// With a code `u`, a weight is `scale·u + minimum`, or without minima `scale·(u − offset)` where the offset is half the
/// range of the codes. A scale has at most 18 significant bits, so that its product with a code is exact in f32, and a weight
/// is rounded once whether or not multiplication and addition are one.
pub(crate) trait Factors: Pod + Send + Sync {
    /// Inputs that share factors: 32 or 16.
    const RUN: usize;
    /// Whether there are minima.
    const MINIMUM: bool;

    /// The scales of a run, for the outputs from `column` on.
    fn scale<S: Simd>(&self, s: S, run: usize, column: usize) -> S::F32;
    /// The minima of a run. Where there are none they are −0, which changes no number it is added to.
    #[inline(always)]
    fn minimum<S: Simd>(&self, s: S, _run: usize, _column: usize) -> S::F32 {
        s.splat(-0.0)
    }
    /// The scale and the minimum of one output.
    fn get(&self, run: usize, column: usize) -> (f32, f32);
}

/// A scale for the whole slab.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct Scale(pub(super) Row<f16>);

/// A scale and a minimum for the whole slab.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct ScaleAndMinimum {
    pub(super) scale: Row<f16>,
    pub(super) minimum: Row<f16>,
}

/// A scale and a minimum of 6 bits for each of eight blocks, in units of the slab.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct SixBits {
    pub(super) scale: Row<f16>,
    /// Negated: the file's minima are subtracted.
    pub(super) minimum: Row<f16>,
    /// Of block `4h + i`, the low 6 bits of byte `i` of word `h` are the scale, and the two above them the low bits of the
    /// minimum, whose upper four are the nibble `h` of byte `i` of word 2. So one vector operation finds them for any block.
    pub(super) packed: [Row<u32>; 3],
}

/// A signed scale for each half of eight blocks, in units of the slab.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct SignedBytes {
    pub(super) scale: Row<f16>,
    pub(super) packed: [Row<i8>; 16],
}

/// Plain old data of whole rows.
macro_rules! rows {
    ($($factors:ty),*) => {$(
        // SAFETY: zeros are rows of half-words, words and bytes.
        unsafe impl Zeroable for $factors {}
        // SAFETY: any bits are such rows; a row is a whole number of 64 bytes, so there is no padding.
        unsafe impl Pod for $factors {}
    )*};
}
rows!(Scale, ScaleAndMinimum, SixBits, SignedBytes);

#[inline(always)]
fn widened<S: Simd>(s: S, row: &Row<f16>, column: usize) -> S::F32 {
    // SAFETY: a vector from a whole number of vectors on lies within the row.
    unsafe { s.load_f16(row[column..][..S::LANES].as_ptr().cast()) }
}

impl Factors for Scale {
    const RUN: usize = 32;
    const MINIMUM: bool = false;

    #[inline(always)]
    fn scale<S: Simd>(&self, s: S, _run: usize, column: usize) -> S::F32 {
        widened(s, &self.0, column)
    }
    fn get(&self, _run: usize, column: usize) -> (f32, f32) {
        (self.0[column].to_f32(), -0.0)
    }
}

impl Factors for ScaleAndMinimum {
    const RUN: usize = 32;
    const MINIMUM: bool = true;

    #[inline(always)]
    fn scale<S: Simd>(&self, s: S, _run: usize, column: usize) -> S::F32 {
        widened(s, &self.scale, column)
    }
    #[inline(always)]
    fn minimum<S: Simd>(&self, s: S, _run: usize, column: usize) -> S::F32 {
        widened(s, &self.minimum, column)
    }
    fn get(&self, _run: usize, column: usize) -> (f32, f32) {
        (self.scale[column].to_f32(), self.minimum[column].to_f32())
    }
}

/// Six bits of each byte.
const SIX: u32 = 0x3F3F_3F3F;
/// Two bits of each byte.
const TWO: u32 = 0x0303_0303;

impl SixBits {
    /// Takes over the factors of an output: eight scales and minima in three words, as the file has them.
    ///
    /// There the low 6 bits of word 0 are the scales of blocks 0 to 3, and those of word 1 the minima. Of blocks 4 to 7, word
    /// 2 has the low four bits, of scales in low nibbles and of minima in high ones; the two above are at the top of words 0
    /// and 1.
    #[inline(always)]
    pub(super) fn put_packed(&mut self, column: usize, [first, second, third]: [u32; 3]) {
        let upper = |word: u32| (word >> 6 & TWO) << 4;
        let scales = [first & SIX, third & LOW | upper(first)];
        let minima = [second & SIX, third >> 4 & LOW | upper(second)];
        self.packed[0][column] = scales[0] | (minima[0] & TWO) << 6;
        self.packed[1][column] = scales[1] | (minima[1] & TWO) << 6;
        self.packed[2][column] = minima[0] >> 2 & LOW | (minima[1] >> 2 & LOW) << 4;
    }

    /// `word >> shift & mask` for the outputs from `column` on.
    #[inline(always)]
    fn bits<S: Simd>(&self, s: S, word: usize, shift: usize, mask: i32, column: usize) -> S::I32 {
        // SAFETY: a vector from a whole number of vectors on lies within the row.
        let word = unsafe { s.load_i32(self.packed[word][column..][..S::LANES].as_ptr().cast()) };
        s.and(s.shr_by(word, shift as u32), s.splat_i32(mask))
    }
}

impl Factors for SixBits {
    const RUN: usize = 32;
    const MINIMUM: bool = true;

    #[inline(always)]
    fn scale<S: Simd>(&self, s: S, run: usize, column: usize) -> S::F32 {
        let (word, byte) = (run / 4, run % 4);
        let units = self.bits(s, word, 8 * byte, 0x3F, column);
        s.mul(widened(s, &self.scale, column), s.to_f32(units))
    }
    #[inline(always)]
    fn minimum<S: Simd>(&self, s: S, run: usize, column: usize) -> S::F32 {
        let (word, byte) = (run / 4, run % 4);
        let upper = self.bits(s, 2, 8 * byte + 4 * word, 0xF, column);
        let units = s.add_i32(s.shl::<2>(upper), self.bits(s, word, 8 * byte + 6, 0x3, column));
        s.mul(widened(s, &self.minimum, column), s.to_f32(units))
    }
    fn get(&self, run: usize, column: usize) -> (f32, f32) {
        let (word, byte) = (run / 4, run % 4);
        let bits = |word: usize, shift: usize| self.packed[word][column] >> shift;
        let scale = bits(word, 8 * byte) & 0x3F;
        let minimum = (bits(2, 8 * byte + 4 * word) & 0xF) << 2 | bits(word, 8 * byte + 6) & 0x3;
        (self.scale[column].to_f32() * scale as f32, self.minimum[column].to_f32() * minimum as f32)
    }
}

impl Factors for SignedBytes {
    const RUN: usize = 16;
    const MINIMUM: bool = false;

    #[inline(always)]
    fn scale<S: Simd>(&self, s: S, run: usize, column: usize) -> S::F32 {
        // SAFETY: a vector from a whole number of vectors on lies within the row.
        let units = unsafe { s.load_i8(self.packed[run][column..][..S::LANES].as_ptr()) };
        s.mul(widened(s, &self.scale, column), units)
    }
    fn get(&self, run: usize, column: usize) -> (f32, f32) {
        (self.scale[column].to_f32() * f32::from(self.packed[run][column]), -0.0)
    }
}

const _: () = assert!(PANEL.is_multiple_of(64));
