//! Linear layers: `y = x · Wᵀ` for the weights of a file.

pub(crate) mod blocks;
mod bytes;
mod codes;
mod epilogue;
mod factors;
mod format;
mod numbers;
mod quantized;
pub(crate) mod slab;
mod weight;

use std::ops::Range;

use regard_memory::{Rows, RowsMut, cast_slice_mut};
use regard_simd::{Isa, Kernel, Simd};

use self::bytes::ByteProduct;
use self::epilogue::Nothing;
use self::numbers::NumberProduct;
pub(crate) use self::slab::Slab;
pub(crate) use self::weight::with_slab;
use crate::{Bf16, Error, F32, Kernels, Operand, PANEL};

pub use epilogue::Epilogue;
pub use format::WeightFormat;
pub use quantized::{ActivationBlock, QuantizedRows};
pub use weight::{Weight, WeightPart, WeightParts};

/// What a linear layer takes, and with it how exactly it computes. The weights are what the file says in all of them.
#[derive(Clone, Copy, Debug)]
pub enum Activations<'a> {
    /// `[rows, inputs]` in f32: products as exact as f32.
    F32(Rows<'a, f32>),
    /// `[rows, ⌈inputs / 2⌉]` pairs of bf16, the first of a pair in the low half (see [`Kernels::round_to_bf16`]): weights are
    /// rounded to bf16 as well, sums are f32.
    Bf16(Rows<'a, u32>),
    /// `[rows, inputs]` as pairs of bytes (see [`Kernels::quantize`]), for weights in a block format: exact but for the
    /// rounding of the activations to 16 bits.
    Quantized(QuantizedRows<'a>),
    /// `[rows, inputs]` as single bytes, for weights in a block format: half of the products, and activations of 8 bits.
    Bytes(QuantizedRows<'a, 1>),
}

impl Activations<'_> {
    /// How many rows.
    pub fn rows(&self) -> usize {
        match self {
            Activations::F32(x) => x.rows(),
            Activations::Bf16(x) => x.rows(),
            Activations::Quantized(x) => x.rows(),
            Activations::Bytes(x) => x.rows(),
        }
    }

    /// Some of the rows.
    ///
    /// # Panics
    /// There are no such rows.
    #[must_use]
    pub fn block(&self, rows: Range<usize>) -> Self {
        match self {
            Activations::F32(x) => Activations::F32(x.block(rows, 0..x.cols())),
            Activations::Bf16(x) => Activations::Bf16(x.block(rows, 0..x.cols())),
            Activations::Quantized(x) => Activations::Quantized(x.block(rows)),
            Activations::Bytes(x) => Activations::Bytes(x.block(rows)),
        }
    }
}

/// The kinds of [`Activations`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ActivationKind {
    /// [`Activations::F32`].
    F32,
    /// [`Activations::Bf16`].
    Bf16,
    /// [`Activations::Quantized`].
    Quantized,
    /// [`Activations::Bytes`].
    Bytes,
}

impl Kernels {
    /// The outputs of some panels of a linear layer, for all rows: `y = x · Wᵀ`, and what the epilogue makes of it.
    ///
    /// - `x`: `[rows, inputs]`, as one of [`Activations`];
    /// - `out`: `[rows, columns]`, where the columns are [`Weight::columns`] of `panels`.
    ///
    /// Callers share the work out by panels. A row's bits depend neither on the other rows nor on how panels are shared
    /// out. A NaN in a row of `x` makes that row NaN, and no other.
    ///
    /// ```
    /// use regard_kernels::{Activations, Epilogue, Kernels, Weight, WeightFormat};
    /// use regard_memory::{Rows, RowsMut, cast_slice_mut};
    /// use regard_simd::{Isa, Kernel, Simd};
    ///
    /// // [outputs = 2, inputs = 3]
    /// let bytes: Vec<u8> = [1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    /// let mut weight = Weight::zeroed(WeightFormat::F32, 2, 3)?;
    /// weight.part().pack(0, &bytes)?;
    ///
    /// let x = Activations::F32(Rows::contiguous(&[1.0, 1.0, 1.0], 1, 3)?);
    /// let mut y = [0.5, 0.5];
    /// let out = RowsMut::contiguous(&mut y, 1, 2)?;
    /// Kernels::new(Isa::best()).linear(&weight, 0..weight.panels(), x, out, Epilogue::ADD)?;
    /// assert_eq!(y, [6.5, 15.5]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Length`] if `x` and the weight, or `out`, a bias and the product, differ in shape; [`Error::Size`] if there are no
    /// such panels, or if quantised activations meet weights that are plain numbers.
    pub fn linear(
        self,
        weight: &Weight,
        panels: Range<usize>,
        x: Activations<'_>,
        out: RowsMut<'_, f32>,
        epilogue: Epilogue<'_>,
    ) -> Result<(), Error> {
        let same =
            |name, has, expected| if has == expected { Ok(()) } else { Err(Error::Length { name, has, expected }) };
        if panels.start > panels.end || panels.end > weight.panels() {
            return Err(Error::Size { name: "last panel", has: panels.end, expected: "within the weight" });
        }
        let inputs = weight.inputs();
        let (rows, words, expected) = match x {
            Activations::F32(x) => (x.rows(), x.cols(), inputs),
            Activations::Bf16(x) => (x.rows(), x.cols(), inputs.div_ceil(2)),
            Activations::Quantized(x) => (x.rows(), x.inputs(), inputs),
            Activations::Bytes(x) => (x.rows(), x.inputs(), inputs),
        };
        same("activation row", words, expected)?;
        same("out rows", out.rows(), rows)?;
        same("out columns", out.cols(), weight.columns(panels.clone()).len())?;
        same("bias", epilogue.bias.map_or(out.cols(), <[f32]>::len), out.cols())?;
        let isa = self.isa();
        if inputs == 0 {
            isa.run(Nothing { out, epilogue });
            return Ok(());
        }
        match x {
            Activations::F32(x) => with_slab!(weight.format(), T => {
                let slabs = slabs_of::<T>(weight, panels);
                isa.run(NumberProduct::<F32, T> { slabs, inputs, x, out, epilogue });
            }),
            Activations::Bf16(x) => with_slab!(weight.format(), T => {
                let slabs = slabs_of::<T>(weight, panels);
                isa.run_bf16(NumberProduct::<Bf16, T> { slabs, inputs, x, out, epilogue });
            }),
            Activations::Quantized(x) => return byte_product(isa, weight, panels, x, out, epilogue),
            Activations::Bytes(x) => return byte_product(isa, weight, panels, x, out, epilogue),
        }
        Ok(())
    }

    /// Rounds activations to pairs of bf16, the nearest ones: `x`: `[rows, inputs]`, `out`: `[rows, ⌈inputs / 2⌉]`. Beside an odd
    /// last one stands 0.
    ///
    /// # Errors
    /// [`Error::Length`] if `out` has another shape.
    pub fn round_to_bf16(self, x: Rows<'_, f32>, out: RowsMut<'_, u32>) -> Result<(), Error> {
        for (name, has, expected) in
            [("bf16 rows", out.rows(), x.rows()), ("bf16 pairs", out.cols(), x.cols().div_ceil(Bf16::DEPTH))]
        {
            if has != expected {
                return Err(Error::Length { name, has, expected });
            }
        }
        self.isa().run_bf16(RoundToBf16 { x, out });
        Ok(())
    }
}

/// [`Kernels::linear`] of quantised activations.
fn byte_product<const BYTES: usize>(
    isa: Isa,
    weight: &Weight,
    panels: Range<usize>,
    x: QuantizedRows<'_, BYTES>,
    out: RowsMut<'_, f32>,
    epilogue: Epilogue<'_>,
) -> Result<(), Error> {
    with_slab!(
        weight.format(),
        blocks T => isa.run_bytes(ByteProduct { slabs: slabs_of::<T>(weight, panels), x, out, epilogue }),
        numbers => {
            let expected = "32: quantised activations take weights of a block format";
            return Err(Error::Size { name: "weight block", has: 1, expected });
        }
    );
    Ok(())
}

/// [`Kernels::round_to_bf16`] of shapes that fit.
struct RoundToBf16<'a> {
    x: Rows<'a, f32>,
    out: RowsMut<'a, u32>,
}

impl Kernel for RoundToBf16<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (x, out) in self.x.iter().zip(self.out.into_rows()) {
            let out: &mut [u16] = cast_slice_mut(out);
            let (vectors, rest) = x.split_at(x.len() / S::LANES * S::LANES);
            let (halves, others) = out.split_at_mut(vectors.len());
            for (x, halves) in vectors.chunks_exact(S::LANES).zip(halves.chunks_exact_mut(S::LANES)) {
                // SAFETY: both chunks hold LANES numbers.
                unsafe { s.store_bf16(halves.as_mut_ptr(), s.load(x.as_ptr())) };
            }
            if !others.is_empty() {
                // As a vector too: the bits of a number do not depend on where it stands.
                let (mut last, mut halves) = ([0.0; PANEL], [0; PANEL]);
                last[..rest.len()].copy_from_slice(rest);
                // SAFETY: arrays of PANEL ≥ LANES numbers.
                unsafe { s.store_bf16(halves.as_mut_ptr(), s.load(last.as_ptr())) };
                others.copy_from_slice(&halves[..others.len()]);
            }
        }
    }
}

/// The slabs of some panels.
fn slabs_of<T: Slab>(weight: &Weight, panels: Range<usize>) -> &[T] {
    let panel = weight.inputs() / T::DEPTH;
    &weight.slabs()[panels.start * panel..panels.end * panel]
}

/// Runs a body for tiles of 6, 4, 2 and 1 rows that make up a number of rows, with the tile's size as a constant.
macro_rules! for_tiles {
    ($rows:expr, |$row:ident, $size:ident| $body:block) => {{
        let rows = $rows;
        let mut $row = 0;
        while $row < rows {
            $row += match rows - $row {
                6.. => for_tiles!(@ $size = $crate::ROWS, $body),
                4 | 5 => for_tiles!(@ $size = 4, $body),
                2 | 3 => for_tiles!(@ $size = 2, $body),
                _ => for_tiles!(@ $size = 1, $body),
            };
        }
    }};
    (@ $size:ident = $value:expr, $body:block) => {{
        const $size: usize = $value;
        $body
        $size
    }};
}
use for_tiles;
