//! Activations as bytes, or pairs of them.

use std::ops::Range;

use regard_memory::{Pod, Rows, Zeroable};
use regard_simd::{Kernel, Simd};

use super::codes::{BLOCK, GROUP, GROUPS};
use crate::{Error, Kernels};

/// 32 consecutive activations of a row as whole numbers with a scale: `x = scale·code`. A code is made of signed bytes, since
/// products of these are what CPUs are fast at: of two, `256·high + low` between −32512 and 32512, or of one between −127 and
/// 127.
///
/// A block that holds a NaN or an infinity has the scale NaN, and so gives NaN in every product.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ActivationBlock<const BYTES: usize = 2> {
    /// The high bytes and, if there are two, the low ones: four a word, the first in the lowest byte.
    pub(super) bytes: [[i32; GROUPS]; BYTES],
    /// What a code of 1 stands for.
    pub(super) scale: f32,
    /// Minus the sums of the codes of both halves: what an offset of the weights' codes adds to a product is a multiple.
    pub(super) negated_sums: [i32; 2],
    /// The sum of the numbers that the codes stand for, which a minimum of the weights is multiplied by.
    pub(super) sum: f32,
}

// SAFETY: zeros are codes, a scale and sums.
unsafe impl<const BYTES: usize> Zeroable for ActivationBlock<BYTES> {}
// SAFETY: words of plain numbers alone: any bits are values, and there is no padding.
unsafe impl<const BYTES: usize> Pod for ActivationBlock<BYTES> {}

impl<const BYTES: usize> Default for ActivationBlock<BYTES> {
    fn default() -> Self {
        ActivationBlock { bytes: [[0; GROUPS]; BYTES], scale: 0.0, negated_sums: [0; 2], sum: 0.0 }
    }
}

impl<const BYTES: usize> ActivationBlock<BYTES> {
    /// The largest code: `127` in the highest byte.
    const MAX_CODE: f32 = match BYTES {
        1 => 127.0,
        2 => 32_512.0,
        _ => panic!("a code is one byte or two"),
    };

    /// Blocks in a row of `inputs` activations; the last may not be full.
    pub const fn per_row(inputs: usize) -> usize {
        inputs.div_ceil(BLOCK)
    }

    /// The numbers that the block stands for: `[32]`.
    pub fn dequantized(&self) -> [f32; BLOCK] {
        let byte = |words: &[i32; GROUPS], k: usize| words[k / GROUP].to_le_bytes()[k % GROUP] as i8;
        std::array::from_fn(|k| {
            let code = self.bytes.iter().fold(0.0, |code, words| 256.0 * code + f32::from(byte(words, k)));
            self.scale * code
        })
    }
}

/// A matrix `[rows, inputs]` of quantised activations.
#[derive(Clone, Copy, Debug)]
pub struct QuantizedRows<'a, const BYTES: usize = 2> {
    pub(super) blocks: &'a [ActivationBlock<BYTES>],
    rows: usize,
    inputs: usize,
}

impl<'a, const BYTES: usize> QuantizedRows<'a, BYTES> {
    /// Looks at blocks that [`Kernels::quantize`] wrote: `[rows][inputs / 32]`.
    ///
    /// # Errors
    /// [`Error::Size`] if `inputs` is no multiple of 32; [`Error::Length`] if there are too few or too many blocks.
    pub fn new(blocks: &'a [ActivationBlock<BYTES>], rows: usize, inputs: usize) -> Result<Self, Error> {
        if !inputs.is_multiple_of(BLOCK) {
            return Err(Error::Size { name: "inputs", has: inputs, expected: "a multiple of 32" });
        }
        let expected = rows.saturating_mul(ActivationBlock::<BYTES>::per_row(inputs));
        if blocks.len() != expected {
            return Err(Error::Length { name: "activation blocks", has: blocks.len(), expected });
        }
        Ok(QuantizedRows { blocks, rows, inputs })
    }

    /// How many rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Some of the rows.
    ///
    /// # Panics
    /// There are no such rows.
    #[must_use]
    pub fn block(&self, rows: Range<usize>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows {rows:?} of {}", self.rows);
        let of_row = ActivationBlock::<BYTES>::per_row(self.inputs);
        QuantizedRows { blocks: &self.blocks[rows.start * of_row..rows.end * of_row], rows: rows.len(), ..*self }
    }

    /// Activations in a row.
    pub fn inputs(&self) -> usize {
        self.inputs
    }
}

impl Kernels {
    /// Rounds activations to 16 bits or, into blocks of one byte, to 8: to the nearest of 65025 or 255 steps in each block of
    /// 32, `scale = max |x| / 32512` or `max |x| / 127`.
    ///
    /// - `x`: `[rows, inputs]`;
    /// - `out`: `[rows][⌈inputs / 32⌉]`. What a row does not have of its last block counts as 0.
    ///
    /// A number is off by at most half a step; numbers below 1e-34 may become 0.
    ///
    /// ```
    /// use regard_kernels::{ActivationBlock, Kernels};
    /// use regard_memory::Rows;
    /// use regard_simd::Isa;
    ///
    /// let x: Vec<f32> = (0..32).map(|i| (i as f32).sin()).collect();
    /// let (mut two, mut one) = ([ActivationBlock::<2>::default()], [ActivationBlock::<1>::default()]);
    /// let (kernels, rows) = (Kernels::new(Isa::best()), Rows::contiguous(&x, 1, 32)?);
    /// kernels.quantize(rows, &mut two)?;
    /// kernels.quantize(rows, &mut one)?;
    /// for (i, x) in x.iter().enumerate() {
    ///     assert!((x - two[0].dequantized()[i]).abs() < 0.51 / 32512.0);
    ///     assert!((x - one[0].dequantized()[i]).abs() < 0.51 / 127.0);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Length`] if `out` is too short or too long.
    pub fn quantize<const BYTES: usize>(
        self,
        x: Rows<'_, f32>,
        out: &mut [ActivationBlock<BYTES>],
    ) -> Result<(), Error> {
        let expected = x.rows().saturating_mul(ActivationBlock::<BYTES>::per_row(x.cols()));
        if out.len() != expected {
            return Err(Error::Length { name: "activation blocks", has: out.len(), expected });
        }
        self.isa().run(Quantize { x, out });
        Ok(())
    }
}

struct Quantize<'a, const BYTES: usize> {
    x: Rows<'a, f32>,
    out: &'a mut [ActivationBlock<BYTES>],
}

impl<const BYTES: usize> Kernel for Quantize<'_, BYTES> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut out = self.out.iter_mut();
        for row in self.x.iter() {
            let (whole, rest) = row.as_chunks::<BLOCK>();
            for (x, block) in whole.iter().zip(&mut out) {
                quantize_block(s, x, block);
            }
            if !rest.is_empty() {
                let mut last = [0.0; BLOCK];
                last[..rest.len()].copy_from_slice(rest);
                out.next().into_iter().for_each(|block| quantize_block(s, &last, block));
            }
        }
    }
}

#[inline(always)]
fn quantize_block<S: Simd, const BYTES: usize>(s: S, x: &[f32; BLOCK], block: &mut ActivationBlock<BYTES>) {
    // SAFETY: LANES divides 32, so a vector from a whole number of vectors on lies within the block.
    let load = |at: usize| unsafe { s.load(x[at..].as_ptr()) };
    let zero = s.splat(0.0);
    let (mut max, mut spoiled) = (zero, zero);
    for at in (0..BLOCK).step_by(S::LANES) {
        max = s.max(s.abs(load(at)), max);
        // 0 as long as all are finite, else NaN.
        spoiled = s.fma(load(at), zero, spoiled);
    }
    let (max, spoiled) = (s.reduce_max(max), s.reduce_add(spoiled) != 0.0);
    let inverse = ActivationBlock::<BYTES>::MAX_CODE / max;
    if spoiled || !inverse.is_finite() {
        // The other case: all 0, or so small that the inverse overflows.
        let scale = if spoiled { f32::NAN } else { 0.0 };
        *block = ActivationBlock { scale, sum: scale, ..ActivationBlock::default() };
        return;
    }
    let mut sums = [zero; 2];
    for at in (0..BLOCK).step_by(S::LANES) {
        let code = s.round(s.mul(load(at), s.splat(inverse)));
        let sum = &mut sums[at / (BLOCK / 2)];
        *sum = s.add(*sum, code);
        // SAFETY: a word holds four codes, and the words of either byte as many as the block has numbers.
        let mut store = |byte: usize, x: S::F32| unsafe {
            s.store_low_bytes(block.bytes[byte].as_mut_ptr().cast::<i8>().add(at), s.to_i32(x));
        };
        if BYTES == 1 {
            store(0, code);
            continue;
        }
        // The nearest multiple of 256; a code right between two is moved up, so that the low byte is −128 and not 128.
        let high = s.round(s.fma(code, s.splat(1.0 / 256.0), s.splat(1.0 / 1024.0)));
        store(0, high);
        store(1, s.fma(high, s.splat(-256.0), code));
    }
    block.scale = max / ActivationBlock::<BYTES>::MAX_CODE;
    // Integers below 2²⁴, so exact.
    let [first, second] = sums.map(|sum| s.reduce_add(sum));
    block.negated_sums = [-first as i32, -second as i32];
    block.sum = block.scale * (first + second);
}
