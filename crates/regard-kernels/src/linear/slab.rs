//! How a packed panel stores a weight.
//!
//! A panel holds the [`PANEL`] outputs of a product side by side, so that a vector is one step of neighbouring outputs. It is
//! a run of *slabs*: each holds the next few inputs, for all outputs of the panel. A single token reads it from front to
//! back, and it is as long as what the file stores.

use half::{bf16, f16};
use regard_memory::{Pod, Zeroable};
use regard_simd::Simd;

use crate::{Number, PANEL};

/// A row of a panel: one number of each output.
pub(crate) type Row<T> = [T; PANEL];

/// The next `DEPTH` inputs of the outputs of a panel.
pub(crate) trait Slab: Pod + Send + Sync {
    /// Inputs that a slab holds.
    const DEPTH: usize;
    /// Bytes of a row of the file that a slab holds.
    const BYTES: usize;

    /// Takes over `BYTES` bytes of a row of the file as the weights of the output `column`.
    fn put(&mut self, column: usize, bytes: &[u8]);
    /// The weights of one output, exactly: `[DEPTH]`.
    fn get(&self, column: usize, to: &mut [f32]);
    /// The weights of all outputs, exactly: `[DEPTH][PANEL]`.
    fn widen<S: Simd>(&self, s: S, to: &mut [Row<f32>]);
    /// The slabs as they are, if they are rows of f32.
    fn as_f32(_slabs: &[Self]) -> Option<&[Row<f32>]> {
        None
    }
}

/// Plain numbers: a slab is one input.
macro_rules! number_slab {
    ($number:ty, $as_f32:expr) => {
        impl Slab for Row<$number> {
            const DEPTH: usize = 1;
            const BYTES: usize = size_of::<$number>();

            #[inline(always)]
            fn put(&mut self, column: usize, bytes: &[u8]) {
                self[column] = <$number>::from_le_bytes(std::array::from_fn(|i| bytes[i]));
            }
            fn get(&self, column: usize, to: &mut [f32]) {
                to[0] = self[column].to_f32();
            }
            #[inline(always)]
            fn widen<S: Simd>(&self, s: S, to: &mut [Row<f32>]) {
                for at in (0..PANEL).step_by(S::LANES) {
                    // SAFETY: both rows hold PANEL numbers, which LANES divides.
                    unsafe { s.store(to[0][at..].as_mut_ptr(), Number::load(s, self[at..].as_ptr())) };
                }
            }
            fn as_f32(slabs: &[Self]) -> Option<&[Row<f32>]> {
                $as_f32(slabs)
            }
        }
    };
}

number_slab!(f32, Some);
number_slab!(f16, |_| None);
number_slab!(bf16, |_| None);

/// Inputs of a quantised block.
pub(crate) const BLOCK: usize = 32;
/// Inputs whose codes fill a word of four bytes.
pub(crate) const GROUP: usize = 4;
/// Words of codes that hold the low nibbles, or the first half of the bytes, of a block.
pub(crate) const HALF: usize = BLOCK / GROUP / 2;

/// Quantised weights: a slab is a block of 32 inputs.
///
/// A code is an unsigned number `u`, and the weight is `d·(u − OFFSET)`, or `d·u + m` where there are minima. `WORDS` is 8
/// for bytes: word `g` of an output holds the codes of inputs `4g..4g + 4`. It is 4 for nibbles: the low ones of word `g` are
/// inputs `4g..4g + 4`, the high ones the inputs 16 further on, which is also how the file pairs them. `FACTORS` is 1 for
/// scales, 2 for scales and minima.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Block<const WORDS: usize, const FACTORS: usize> {
    pub(crate) codes: [Row<u32>; WORDS],
    pub(crate) factors: [Row<f16>; FACTORS],
}

/// `Q8_0` in a panel.
pub(crate) type Bytes = Block<8, 1>;
/// `Q4_0` in a panel.
pub(crate) type Nibbles = Block<4, 1>;
/// `Q4_1` in a panel.
pub(crate) type NibblesWithMinimum = Block<4, 2>;

// SAFETY: zeros are words and half-words.
unsafe impl<const WORDS: usize, const FACTORS: usize> Zeroable for Block<WORDS, FACTORS> {}
// SAFETY: any bits are words and half-words, and both fields are whole numbers of 128 bytes, so there is no padding.
unsafe impl<const WORDS: usize, const FACTORS: usize> Pod for Block<WORDS, FACTORS> {}

impl<const WORDS: usize, const FACTORS: usize> Block<WORDS, FACTORS> {
    /// Whether the weights have a minimum.
    pub(crate) const MINIMUM: bool = FACTORS == 2;
    /// Whether a word holds the codes of eight inputs.
    pub(crate) const NIBBLES: bool = WORDS == HALF;
    /// The code of a weight of 0, as a power of two, where the weights have no minimum.
    pub(crate) const OFFSET_BITS: i32 = if Self::NIBBLES { 3 } else { 7 };

    /// What the codes are too large by.
    const OFFSET: f32 = if Self::MINIMUM { 0.0 } else { (1 << Self::OFFSET_BITS) as f32 };

    /// The codes of a group of four inputs as unsigned bytes, for the outputs from `column` on.
    #[inline(always)]
    pub(crate) fn codes<S: Simd>(&self, s: S, group: usize, column: usize) -> S::I32 {
        // SAFETY: a vector from a whole number of vectors on lies within the row.
        let load = |row: &Row<u32>| unsafe { s.load_i32(row[column..][..S::LANES].as_ptr().cast()) };
        let low = s.splat_i32(0x0F0F_0F0F);
        match (Self::NIBBLES, group < HALF) {
            (false, _) => load(&self.codes[group]),
            (true, true) => s.and(load(&self.codes[group]), low),
            (true, false) => s.and(s.shr::<4>(load(&self.codes[group - HALF])), low),
        }
    }

    /// A row of factors, widened, from output `column` on.
    #[inline(always)]
    pub(crate) fn factor<S: Simd>(&self, s: S, factor: usize, column: usize) -> S::F32 {
        // SAFETY: a vector from a whole number of vectors on lies within the row.
        unsafe { s.load_f16(self.factors[factor][column..][..S::LANES].as_ptr().cast()) }
    }

    fn get(&self, column: usize, to: &mut [f32]) {
        let d = self.factors[0][column].to_f32();
        let m = if Self::MINIMUM { self.factors[1][column].to_f32() } else { 0.0 };
        for (k, to) in to[..BLOCK].iter_mut().enumerate() {
            let (group, byte) = (k / GROUP, k % GROUP);
            let code = if Self::NIBBLES {
                self.codes[group % HALF][column] >> (4 * (group / HALF)) >> (8 * byte) & 0xF
            } else {
                self.codes[group][column] >> (8 * byte) & 0xFF
            };
            *to = d * (code as f32 - Self::OFFSET) + m;
        }
    }

    #[inline(always)]
    fn widen<S: Simd>(&self, s: S, to: &mut [Row<f32>]) {
        let to = &mut to[..BLOCK];
        for column in (0..PANEL).step_by(S::LANES) {
            let d = self.factor(s, 0, column);
            let m = if Self::MINIMUM { self.factor(s, 1, column) } else { s.splat(0.0) };
            for (group, to) in to.chunks_exact_mut(GROUP).enumerate() {
                widen_group(s, self.codes(s, group, column), (d, Self::OFFSET, m), column, to);
            }
        }
    }
}

/// `d·(u − offset) + m` of the four codes in every lane, into four rows.
#[inline(always)]
fn widen_group<S: Simd>(
    s: S,
    codes: S::I32,
    (d, offset, m): (S::F32, f32, S::F32),
    column: usize,
    to: &mut [Row<f32>],
) {
    let byte = s.splat_i32(0xFF);
    let each =
        [s.and(codes, byte), s.and(s.shr::<8>(codes), byte), s.and(s.shr::<16>(codes), byte), s.shr::<24>(codes)];
    for (code, to) in each.into_iter().zip(to) {
        let u = s.sub(s.to_f32(code), s.splat(offset));
        // The product is exact (a scale has 11 bits and a code 8), so that one or two roundings are the same.
        // SAFETY: a vector from a whole number of vectors on lies within the row.
        unsafe { s.store(to[column..][..S::LANES].as_mut_ptr(), s.fma(d, u, m)) };
    }
}

/// Four bytes of a file's block as a word.
fn word(bytes: &[u8], group: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[group * GROUP + i]))
}

fn half(bytes: &[u8], at: usize) -> f16 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// A block format: the bytes of the file, and the change that makes its codes unsigned.
macro_rules! block_slab {
    ($slab:ty, $bytes:literal, $flip:literal) => {
        impl Slab for $slab {
            const DEPTH: usize = BLOCK;
            const BYTES: usize = $bytes;

            #[inline(always)]
            fn put(&mut self, column: usize, bytes: &[u8]) {
                let (factors, codes) = bytes.split_at(size_of::<f16>() * self.factors.len());
                for (i, row) in self.factors.iter_mut().enumerate() {
                    row[column] = half(factors, size_of::<f16>() * i);
                }
                for (group, row) in self.codes.iter_mut().enumerate() {
                    row[column] = word(codes, group) ^ $flip;
                }
            }
            fn get(&self, column: usize, to: &mut [f32]) {
                self.get(column, to);
            }
            #[inline(always)]
            fn widen<S: Simd>(&self, s: S, to: &mut [Row<f32>]) {
                self.widen(s, to);
            }
        }
    };
}

block_slab!(Bytes, 34, 0x8080_8080);
block_slab!(Nibbles, 18, 0);
block_slab!(NibblesWithMinimum, 20, 0);
