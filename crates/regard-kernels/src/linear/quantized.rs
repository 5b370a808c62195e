//! Activations as bytes.

use regard_memory::{Pod, Rows, Zeroable};
use regard_simd::{Kernel, Simd};

use super::slab::{BLOCK, GROUP};
use crate::{Error, Kernels};

/// 32 consecutive activations of a row as bytes with a scale: `x = scale·code`, codes between −127 and 127.
///
/// A block that holds a NaN or an infinity has the scale NaN, and so gives NaN in every product.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ActivationBlock {
    /// Four codes a word, the first in the lowest byte.
    pub(super) codes: [i32; BLOCK / GROUP],
    /// What a code of 1 stands for.
    pub(super) scale: f32,
    /// Minus the sum of the codes: what an offset of the weights' codes adds to a product is a multiple of it.
    pub(super) negated_sum: i32,
    /// The sum of the numbers.
    pub(super) sum: f32,
}

// SAFETY: zeros are codes, a scale and a sum.
unsafe impl Zeroable for ActivationBlock {}
// SAFETY: ten words of plain numbers: any bits are values, and there is no padding.
unsafe impl Pod for ActivationBlock {}

impl ActivationBlock {
    /// Blocks in a row of `inputs` activations.
    pub const fn per_row(inputs: usize) -> usize {
        inputs.div_ceil(BLOCK)
    }

    /// The numbers that the block stands for: `[32]`.
    pub fn dequantized(&self) -> [f32; BLOCK] {
        std::array::from_fn(|k| {
            let code = self.codes[k / GROUP].to_le_bytes()[k % GROUP] as i8;
            self.scale * f32::from(code)
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
    /// Rounds activations to bytes, to the nearest of 255 steps in each block of 32: `scale = max |x| / 127`.
    ///
    /// - `x`: `[rows, inputs]`, `inputs` a multiple of 32;
    /// - `out`: `[rows][inputs / 32]`.
    ///
    /// A number is off by at most half a step; numbers below 4e-37 may become 0.
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
    ///     assert!((x - rounded).abs() < 0.5001 / 127.0);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Size`] if `inputs` is no multiple of 32; [`Error::Length`] if `out` is too short or too long.
    pub fn quantize(self, x: Rows<'_, f32>, out: &mut [ActivationBlock]) -> Result<(), Error> {
        check_inputs(x.cols())?;
        let expected = x.rows() * ActivationBlock::per_row(x.cols());
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
pub(super) fn quantize_block<S: Simd>(s: S, x: &[f32; BLOCK], block: &mut ActivationBlock) {
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
    let inverse = 127.0 / max;
    if spoiled || !inverse.is_finite() {
        // The other case: all 0, or so small that 127 / max overflows.
        let scale = if spoiled { f32::NAN } else { 0.0 };
        *block = ActivationBlock { codes: [0; BLOCK / GROUP], scale, negated_sum: 0, sum: scale };
        return;
    }
    let mut sum = zero;
    for at in (0..BLOCK).step_by(S::LANES) {
        let code = s.round(s.mul(load(at), s.splat(inverse)));
        sum = s.add(sum, code);
        // SAFETY: a word holds four codes, and the codes of the block are as many as its numbers.
        unsafe { s.store_low_bytes(block.codes.as_mut_ptr().cast::<i8>().add(at), s.to_i32(code)) };
    }
    block.scale = max / 127.0;
    let sum = s.reduce_add(sum);
    block.negated_sum = -sum as i32;
    block.sum = block.scale * sum;
}
