//! Activations as pairs of bytes.

use regard_memory::{Pod, Rows, Zeroable};
use regard_simd::{Kernel, Simd};

use super::codes::{BLOCK, GROUP, GROUPS};
use crate::{Error, Kernels};

/// 32 consecutive activations of a row as numbers of 16 bits with a scale: `x = scale·code`, codes between −32512 and
/// 32512. A code is two signed bytes, `256·high + low`, since products of bytes are what CPUs are fast at.
///
/// A block that holds a NaN or an infinity has the scale NaN, and so gives NaN in every product.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ActivationBlock {
    /// The high bytes, four a word, the first in the lowest byte.
    pub(super) high: [i32; GROUPS],
    /// The low bytes, likewise.
    pub(super) low: [i32; GROUPS],
    /// What a code of 1 stands for.
    pub(super) scale: f32,
    /// Minus the sums of the codes of both halves: what an offset of the weights' codes adds to a product is a multiple.
    pub(super) negated_sums: [i32; 2],
    /// The sum of the numbers that the codes stand for, which a minimum of the weights is multiplied by.
    pub(super) sum: f32,
}

/// The largest code: `127·256`.
const MAX_CODE: f32 = 32_512.0;

// SAFETY: zeros are codes, a scale and sums.
unsafe impl Zeroable for ActivationBlock {}
// SAFETY: twenty words of plain numbers: any bits are values, and there is no padding.
unsafe impl Pod for ActivationBlock {}

impl ActivationBlock {
    /// Blocks in a row of `inputs` activations.
    pub const fn per_row(inputs: usize) -> usize {
        inputs.div_ceil(BLOCK)
    }

    /// The numbers that the block stands for: `[32]`.
    pub fn dequantized(&self) -> [f32; BLOCK] {
        let byte = |words: &[i32; GROUPS], k: usize| words[k / GROUP].to_le_bytes()[k % GROUP] as i8;
        std::array::from_fn(|k| {
            let code = 256.0 * f32::from(byte(&self.high, k)) + f32::from(byte(&self.low, k));
            self.scale * code
        })
    }
}

/// A matrix `[rows, inputs]` of quantised activations.
#[derive(Clone, Copy, Debug)]
pub struct QuantizedRows<'a> {
    pub(super) blocks: &'a [ActivationBlock],
    rows: usize,
    inputs: usize,
}

impl<'a> QuantizedRows<'a> {
    /// Looks at blocks that [`Kernels::quantize`] wrote: `[rows][inputs / 32]`.
    ///
    /// # Errors
    /// [`Error::Size`] if `inputs` is no multiple of 32; [`Error::Length`] if there are too few or too many blocks.
    pub fn new(blocks: &'a [ActivationBlock], rows: usize, inputs: usize) -> Result<Self, Error> {
        check_inputs(inputs)?;
        let expected = rows.saturating_mul(ActivationBlock::per_row(inputs));
        if blocks.len() != expected {
            return Err(Error::Length { name: "activation blocks", has: blocks.len(), expected });
        }
        Ok(QuantizedRows { blocks, rows, inputs })
    }

    /// How many rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Activations in a row.
    pub fn inputs(&self) -> usize {
        self.inputs
    }
}

fn check_inputs(inputs: usize) -> Result<(), Error> {
    if inputs.is_multiple_of(BLOCK) {
        Ok(())
    } else {
        Err(Error::Size { name: "inputs", has: inputs, expected: "a multiple of 32" })
    }
}

impl Kernels {
    /// Rounds activations to 16 bits, to the nearest of 65025 steps in each block of 32: `scale = max |x| / 32512`.
    ///
    /// - `x`: `[rows, inputs]`, `inputs` a multiple of 32;
    /// - `out`: `[rows][inputs / 32]`.
    ///
    /// A number is off by at most half a step; numbers below 1e-34 may become 0.
    ///
    /// ```
    /// use regard_kernels::{ActivationBlock, Kernels};
    /// use regard_memory::Rows;
    /// use regard_simd::Isa;
    ///
    /// let x: Vec<f32> = (0..32).map(|i| (i as f32).sin()).collect();
    /// let mut block = [ActivationBlock::default()];
    /// Kernels::new(Isa::best()).quantize(Rows::contiguous(&x, 1, 32)?, &mut block)?;
    /// for (x, rounded) in x.iter().zip(block[0].dequantized()) {
    ///     assert!((x - rounded).abs() < 0.51 / 32512.0);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Size`] if `inputs` is no multiple of 32; [`Error::Length`] if `out` is too short or too long.
    pub fn quantize(self, x: Rows<'_, f32>, out: &mut [ActivationBlock]) -> Result<(), Error> {
        check_inputs(x.cols())?;
        let expected = x.rows().saturating_mul(ActivationBlock::per_row(x.cols()));
        if out.len() != expected {
            return Err(Error::Length { name: "activation blocks", has: out.len(), expected });
        }
        self.isa().run(Quantize { x, out });
        Ok(())
    }
}

struct Quantize<'a> {
    x: Rows<'a, f32>,
    out: &'a mut [ActivationBlock],
}

impl Kernel for Quantize<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut out = self.out.iter_mut();
        for row in self.x.iter() {
            for (x, block) in row.as_chunks::<BLOCK>().0.iter().zip(&mut out) {
                quantize_block(s, x, block);
            }
        }
    }
}

#[inline(always)]
fn quantize_block<S: Simd>(s: S, x: &[f32; BLOCK], block: &mut ActivationBlock) {
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
    let inverse = MAX_CODE / max;
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
        // The nearest multiple of 256; a code right between two is moved up, so that the low byte is −128 and not 128.
        let high = s.round(s.fma(code, s.splat(1.0 / 256.0), s.splat(1.0 / 1024.0)));
        let low = s.fma(high, s.splat(-256.0), code);
        // SAFETY: a word holds four codes, and the codes of the block are as many as its numbers.
        unsafe {
            s.store_low_bytes(block.high.as_mut_ptr().cast::<i8>().add(at), s.to_i32(high));
            s.store_low_bytes(block.low.as_mut_ptr().cast::<i8>().add(at), s.to_i32(low));
        }
    }
    block.scale = max / MAX_CODE;
    // Integers below 2²⁴, so exact.
    let [first, second] = sums.map(|sum| s.reduce_add(sum));
    block.negated_sums = [-first as i32, -second as i32];
    block.sum = block.scale * (first + second);
}
