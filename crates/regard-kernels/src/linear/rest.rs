//! A second helping of bytes: what rounding activations to bytes leaves over, as bytes again.

use regard_memory::{Rows, cast_slice};
use regard_simd::{Kernel, Simd};

use super::quantized::{ActivationBlock, quantize_block};
use super::slab::BLOCK;
use crate::{Error, Kernels};

impl Kernels {
    /// Rounds to bytes what [`Kernels::quantize`] has left over: `x − coarse`, so that `coarse + rest` has some 15 bits
    /// behind the largest number of a block. The product with both, one stored and one added, is nearly that of f32, and
    /// where weights come from memory costs what one of them does.
    ///
    /// - `x`: `[rows, inputs]`, `inputs` a multiple of 32;
    /// - `coarse`: what `quantize` made of it, `[rows][inputs / 32]`;
    /// - `rest`: `[rows][inputs / 32]`.
    ///
    /// ```
    /// use regard_kernels::{ActivationBlock, Kernels};
    /// use regard_memory::Rows;
    /// use regard_simd::Isa;
    ///
    /// let x: Vec<f32> = (0..32).map(|i| (i as f32).sin()).collect();
    /// let (rows, kernels) = (Rows::contiguous(&x, 1, 32)?, Kernels::new(Isa::best()));
    /// let (mut coarse, mut rest) = ([ActivationBlock::default()], [ActivationBlock::default()]);
    /// kernels.quantize(rows, &mut coarse)?;
    /// kernels.quantize_rest(rows, &coarse, &mut rest)?;
    /// for ((x, coarse), rest) in x.iter().zip(coarse[0].dequantized()).zip(rest[0].dequantized()) {
    ///     assert!((x - coarse - rest).abs() < 2e-5);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Size`] if `inputs` is no multiple of 32; [`Error::Length`] if `coarse` or `rest` is too short or too long.
    pub fn quantize_rest(
        self,
        x: Rows<'_, f32>,
        coarse: &[ActivationBlock],
        rest: &mut [ActivationBlock],
    ) -> Result<(), Error> {
        if !x.cols().is_multiple_of(BLOCK) {
            return Err(Error::Size { name: "inputs", has: x.cols(), expected: "a multiple of 32" });
        }
        let expected = x.rows() * ActivationBlock::per_row(x.cols());
        for (name, has) in [("activation blocks", coarse.len()), ("rest blocks", rest.len())] {
            if has != expected {
                return Err(Error::Length { name, has, expected });
            }
        }
        self.isa().run(QuantizeRest { x, coarse, rest });
        Ok(())
    }
}

struct QuantizeRest<'a> {
    x: Rows<'a, f32>,
    coarse: &'a [ActivationBlock],
    rest: &'a mut [ActivationBlock],
}

impl Kernel for QuantizeRest<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut blocks = self.coarse.iter().zip(self.rest);
        for row in self.x.iter() {
            for (x, (coarse, rest)) in row.as_chunks::<BLOCK>().0.iter().zip(&mut blocks) {
                let codes: &[i8] = cast_slice(&coarse.codes);
                let mut left = *x;
                for (left, &code) in left.iter_mut().zip(codes) {
                    *left -= coarse.scale * f32::from(code);
                }
                quantize_block(s, &left, rest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regard_simd::Isa;

    use super::*;

    proptest! {
        #[test]
        fn both_make_the_number(
            x in prop::collection::vec(-1.0f32..1.0, 64),
            exponents in prop::collection::vec(-20i32..20, 2),
        ) {
            let x: Vec<f32> = x.iter().enumerate().map(|(i, x)| x * 2f32.powi(exponents[i / 32])).collect();
            let rows = Rows::contiguous(&x, 1, 64).unwrap();
            for isa in Isa::available() {
                let kernels = Kernels::new(isa);
                let (mut coarse, mut rest) = ([ActivationBlock::default(); 2], [ActivationBlock::default(); 2]);
                kernels.quantize(rows, &mut coarse).unwrap();
                kernels.quantize_rest(rows, &coarse, &mut rest).unwrap();
                for (b, x) in x.chunks(32).enumerate() {
                    let max = x.iter().fold(0.0f32, |max, x| max.max(x.abs()));
                    let (coarse, rest) = (coarse[b].dequantized(), rest[b].dequantized());
                    for i in 0..32 {
                        // Half a step of each: 1/254 of the largest number, and 1/254 of that.
                        prop_assert!((x[i] - coarse[i] - rest[i]).abs() <= max * 1.6e-5, "{isa}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_not_finite_spoils_its_block_alone() {
        let mut x = [0.25; 64];
        x[40] = f32::INFINITY;
        let rows = Rows::contiguous(&x, 1, 64).unwrap();
        for isa in Isa::available() {
            let kernels = Kernels::new(isa);
            let (mut coarse, mut rest) = ([ActivationBlock::default(); 2], [ActivationBlock::default(); 2]);
            kernels.quantize(rows, &mut coarse).unwrap();
            kernels.quantize_rest(rows, &coarse, &mut rest).unwrap();
            assert!(rest[0].dequantized().iter().all(|x| x.is_finite()), "{isa}");
            assert!(rest[1].dequantized().iter().all(|x| x.is_nan()), "{isa}");
        }
    }
}
