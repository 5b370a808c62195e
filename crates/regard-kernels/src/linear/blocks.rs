//! Quantised weights: codes and factors, in the arrangements of the files' formats.

use half::f16;
use regard_memory::{Pod, Zeroable};
use regard_simd::Simd;

use super::codes::{BLOCK, Codes, GROUP, GROUPS, LOW, bytes_of};
use super::factors::{Factors, Scale, ScaleAndMinimum, SignedBytes, SixBits};
use super::slab::{Row, Slab};
use crate::PANEL;

/// A slab of quantised weights: `BLOCKS` times 32 inputs, with codes of `BITS` bits. What is read first stands first.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Blocks<F, const BLOCKS: usize, const BITS: usize> {
    factors: F,
    codes: [Codes<BITS>; BLOCKS],
}

/// `Q8_0` in a panel.
pub(crate) type Q8_0 = Blocks<Scale, 1, 8>;
/// `Q4_0` in a panel.
pub(crate) type Q4_0 = Blocks<Scale, 1, 4>;
/// `Q4_1` in a panel.
pub(crate) type Q4_1 = Blocks<ScaleAndMinimum, 1, 4>;
/// `Q5_0` in a panel.
pub(crate) type Q5_0 = Blocks<Scale, 1, 5>;
/// `Q5_1` in a panel.
pub(crate) type Q5_1 = Blocks<ScaleAndMinimum, 1, 5>;
/// `Q4_K` in a panel.
pub(crate) type Q4K = Blocks<SixBits, 8, 4>;
/// `Q5_K` in a panel.
pub(crate) type Q5K = Blocks<SixBits, 8, 5>;
/// `Q6_K` in a panel.
pub(crate) type Q6K = Blocks<SignedBytes, 8, 6>;

// SAFETY: zeros are factors and codes.
unsafe impl<F: Factors, const BLOCKS: usize, const BITS: usize> Zeroable for Blocks<F, BLOCKS, BITS> {}
// SAFETY: any bits are factors and words; both fields are whole numbers of 64 bytes, so there is no padding.
unsafe impl<F: Factors, const BLOCKS: usize, const BITS: usize> Pod for Blocks<F, BLOCKS, BITS> {}

/// What a product of bytes needs of a slab.
pub(crate) trait Quantized: Slab {
    /// The factors of its weights.
    type Factors: Factors;
    /// Bits of a code.
    const BITS: usize;

    fn factors(&self) -> &Self::Factors;
    /// The codes of four inputs as unsigned bytes, for the outputs from `column` on.
    fn codes<S: Simd>(&self, s: S, block: usize, group: usize, column: usize) -> S::I32;
}

impl<F: Factors, const BLOCKS: usize, const BITS: usize> Quantized for Blocks<F, BLOCKS, BITS>
where
    Self: Slab,
{
    type Factors = F;
    const BITS: usize = BITS;

    #[inline(always)]
    fn factors(&self) -> &F {
        &self.factors
    }
    #[inline(always)]
    fn codes<S: Simd>(&self, s: S, block: usize, group: usize, column: usize) -> S::I32 {
        self.codes[block].vector(s, group, column)
    }
}

impl<F: Factors, const BLOCKS: usize, const BITS: usize> Blocks<F, BLOCKS, BITS> {
    /// Inputs of the slab.
    const INPUTS: usize = BLOCKS * BLOCK;
    /// What the codes are too large by.
    const OFFSET: f32 = if F::MINIMUM { 0.0 } else { (1 << (BITS - 1)) as f32 };

    fn get(&self, column: usize, to: &mut [f32]) {
        for (run, to) in to[..Self::INPUTS].chunks_exact_mut(F::RUN).enumerate() {
            let (scale, minimum) = self.factors.get(run, column);
            let input = run * F::RUN;
            let groups = self.codes[input / BLOCK].get(column);
            for (word, to) in groups[input % BLOCK / GROUP..].iter().zip(to.chunks_exact_mut(GROUP)) {
                for (code, to) in word.to_le_bytes().into_iter().zip(to) {
                    *to = scale * (f32::from(code) - Self::OFFSET) + minimum;
                }
            }
        }
    }

    #[inline(always)]
    fn widen<S: Simd>(&self, s: S, block: usize, to: &mut [Row<f32>]) {
        let to = &mut to[..BLOCK];
        let offset = s.splat(Self::OFFSET);
        for column in (0..PANEL).step_by(S::LANES) {
            for (part, to) in to.chunks_exact_mut(F::RUN).enumerate() {
                let run = block * (BLOCK / F::RUN) + part;
                let (scale, minimum) = (self.factors.scale(s, run, column), self.factors.minimum(s, run, column));
                for (group, to) in to.chunks_exact_mut(GROUP).enumerate() {
                    let codes = self.codes[block].vector(s, part * (F::RUN / GROUP) + group, column);
                    for (code, to) in bytes_of(s, codes).into_iter().zip(to) {
                        let u = s.sub(s.to_f32(code), offset);
                        // SAFETY: a vector from a whole number of vectors on lies within the row.
                        unsafe { s.store(to[column..][..S::LANES].as_mut_ptr(), s.fma(scale, u, minimum)) };
                    }
                }
            }
        }
    }
}

/// Four bytes of a file's block as a word.
fn word(bytes: &[u8], group: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[group * GROUP + i]))
}

fn half(bytes: &[u8], at: usize) -> f16 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// Nibbles of 32 inputs: the first 16 in the low ones of 16 bytes, the last 16 in the high ones.
fn paired(bytes: &[u8]) -> [u32; GROUPS] {
    std::array::from_fn(|g| word(bytes, g % 4) >> (4 * (g / 4)) & LOW)
}

/// The fifth bits of 32 inputs, input `i` in bit `i`, each as the bit above a nibble.
fn fifth(bits: u32) -> [u32; GROUPS] {
    // The product puts bit `i` of four to bit `8i`, and others to places that are masked away.
    std::array::from_fn(|g| (((bits >> (4 * g) & 0xF) * 0x0020_4081) & 0x0101_0101) << 4)
}

/// `N` bits from bit `bit` on of 32 bytes, one of each input, as the bits above a nibble.
fn plane<const N: u32>(bytes: &[u8], bit: usize) -> [u32; GROUPS] {
    let mask = ((1 << N) - 1) * 0x0101_0101;
    std::array::from_fn(|g| (word(bytes, g) >> bit & mask) << 4)
}

/// The nibbles `high` (0 or 1) of 32 bytes, one of each input.
fn nibbles(bytes: &[u8], high: usize) -> [u32; GROUPS] {
    std::array::from_fn(|g| word(bytes, g) >> (4 * high) & LOW)
}

fn with(low: [u32; GROUPS], upper: [u32; GROUPS]) -> [u32; GROUPS] {
    std::array::from_fn(|g| low[g] | upper[g])
}

impl Scale {
    #[inline(always)]
    fn put(&mut self, column: usize, bytes: &[u8]) {
        self.0[column] = half(bytes, 0);
    }
}

impl ScaleAndMinimum {
    #[inline(always)]
    fn put(&mut self, column: usize, bytes: &[u8]) {
        self.scale[column] = half(bytes, 0);
        self.minimum[column] = half(bytes, 2);
    }
}

impl SixBits {
    #[inline(always)]
    fn put(&mut self, column: usize, bytes: &[u8]) {
        self.scale[column] = half(bytes, 0);
        self.minimum[column] = -half(bytes, 2);
        self.put_packed(column, std::array::from_fn(|i| word(&bytes[4..], i)));
    }
}

impl SignedBytes {
    /// Sixteen scales and, behind them, their unit.
    #[inline(always)]
    fn put(&mut self, column: usize, bytes: &[u8]) {
        self.scale[column] = half(bytes, 16);
        for (row, &byte) in self.packed.iter_mut().zip(bytes) {
            row[column] = byte as i8;
        }
    }
}

/// A block format: its bytes in the file, where its factors start there, and the codes of its block `b` of 32 inputs.
macro_rules! block_slab {
    ($slab:ty, $bytes:literal, factors: $factors:literal, |$file:ident, $b:ident| $codes:expr) => {
        impl Slab for $slab {
            const DEPTH: usize = Self::INPUTS;
            const STEP: usize = BLOCK;
            const BYTES: usize = $bytes;

            #[inline(always)]
            fn put(&mut self, column: usize, bytes: &[u8]) {
                let $file: &[u8; $bytes] = bytes.try_into().expect("the bytes of a block");
                self.factors.put(column, &$file[$factors..]);
                for ($b, codes) in self.codes.iter_mut().enumerate() {
                    codes.put(column, $codes);
                }
            }
            fn get(&self, column: usize, to: &mut [f32]) {
                self.get(column, to);
            }
            #[inline(always)]
            fn widen<S: Simd>(&self, s: S, step: usize, to: &mut [Row<f32>]) {
                self.widen(s, step, to);
            }
        }

        const _: () = assert!(size_of::<$slab>() == PANEL * $bytes, "as long as in the file");
    };
}

block_slab!(Q8_0, 34, factors: 0, |file, _b| std::array::from_fn(|g| word(&file[2..], g) ^ 0x8080_8080));
block_slab!(Q4_0, 18, factors: 0, |file, _b| paired(&file[2..]));
block_slab!(Q4_1, 20, factors: 0, |file, _b| paired(&file[4..]));
block_slab!(Q5_0, 22, factors: 0, |file, _b| with(paired(&file[6..]), fifth(word(&file[2..], 0))));
block_slab!(Q5_1, 24, factors: 0, |file, _b| with(paired(&file[8..]), fifth(word(&file[4..], 0))));
// Bytes of nibbles belong to two neighbouring blocks, and a byte of fifth bits to all eight.
block_slab!(Q4K, 144, factors: 0, |file, b| nibbles(&file[16 + b / 2 * 32..], b % 2));
block_slab!(Q5K, 176, factors: 0, |file, b| {
    with(nibbles(&file[48 + b / 2 * 32..], b % 2), plane::<1>(&file[16..], b))
});
// Bytes of nibbles belong to blocks that are two apart, and a byte of upper bits to four.
block_slab!(Q6K, 210, factors: 192, |file, b| {
    with(nibbles(&file[b / 4 * 64 + b % 2 * 32..], b / 2 % 2), plane::<2>(&file[128 + b / 4 * 32..], b % 4 * 2))
});
