//! A weight matrix in the layout that the kernels read.

use std::fmt;
use std::ops::Range;

use regard_memory::{AlignedBuffer, Chunks, Pages, Parts, Region, cast_slice, cast_slice_mut, chunks_of};

use super::slab::Slab;
use crate::{Error, PANEL, WeightFormat};

/// Names the slab of a format as a type, for an expression; or only that of a block format, with another expression for plain
/// numbers.
macro_rules! with_slab {
    ($format:expr, $slab:ident => $body:expr) => {
        with_slab!(@ $format, [$slab => $body], [$slab => $body])
    };
    ($format:expr, blocks $slab:ident => $body:expr, numbers => $numbers:expr) => {
        with_slab!(@ $format, [_Slab => $numbers], [$slab => $body])
    };
    (@ $format:expr, [$number:ident => $of_number:expr], [$block:ident => $of_block:expr]) => {{
        macro_rules! number {
            ($type:ty) => {{
                type $number = $crate::linear::slab::Row<$type>;
                $of_number
            }};
        }
        macro_rules! block {
            ($type:ident) => {{
                type $block = $crate::linear::blocks::$type;
                $of_block
            }};
        }
        match $format {
            $crate::WeightFormat::F32 => number!(f32),
            $crate::WeightFormat::F16 => number!(half::f16),
            $crate::WeightFormat::Bf16 => number!(half::bf16),
            $crate::WeightFormat::Q8_0 => block!(Q8_0),
            $crate::WeightFormat::Q4_0 => block!(Q4_0),
            $crate::WeightFormat::Q4_1 => block!(Q4_1),
            $crate::WeightFormat::Q5_0 => block!(Q5_0),
            $crate::WeightFormat::Q5_1 => block!(Q5_1),
            $crate::WeightFormat::Q4K => block!(Q4K),
            $crate::WeightFormat::Q5K => block!(Q5K),
            $crate::WeightFormat::Q6K => block!(Q6K),
        }
    }};
}

/// A weight matrix `[outputs, inputs]`, packed: panels of [`PANEL`] outputs, each as long as in the file (the last panel is
/// filled up with zeros).
///
/// It is made empty and takes rows of a file in any order and pieces, from several threads if wished, so that the bytes of
/// the file can be let go as they are read.
///
/// ```
/// use regard_kernels::{Kernels, Weight, WeightFormat};
/// use regard_simd::Isa;
///
/// // [outputs = 2, inputs = 3] in f32, as a file holds it.
/// let bytes: Vec<u8> = [1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0].iter().flat_map(|x| x.to_le_bytes()).collect();
/// let mut weight = Weight::zeroed(WeightFormat::F32, 2, 3)?;
/// weight.part().pack(0, &bytes)?;
///
/// let mut row = [0.0; 3];
/// Kernels::new(Isa::best()).embed(&weight, 1, &mut row)?;
/// assert_eq!(row, [4.0, 5.0, 6.0]);
/// # Ok::<(), regard_kernels::Error>(())
/// ```
pub struct Weight {
    shape: Shape,
    bytes: AlignedBuffer<u8>,
}

#[derive(Clone, Copy)]
struct Shape {
    format: WeightFormat,
    outputs: usize,
    inputs: usize,
}

impl Shape {
    /// Bytes of a row in the file.
    fn row_bytes(self) -> usize {
        self.inputs / self.format.block_inputs() * self.format.block_bytes()
    }

    /// Bytes of a panel: those of its rows.
    fn panel_bytes(self) -> usize {
        PANEL * self.row_bytes()
    }
}

impl Weight {
    /// A weight of zeros, to be packed.
    ///
    /// # Errors
    /// [`Error::Size`] if `inputs` is no whole number of the format's blocks; [`Error::Memory`] if there is no room.
    pub fn zeroed(format: WeightFormat, outputs: usize, inputs: usize) -> Result<Weight, Error> {
        Self::made(format, outputs, inputs, |bytes| AlignedBuffer::zeroed_on(Pages::Huge, bytes))
    }

    /// The same in memory that it shares with others: those that are used together and read in this order.
    ///
    /// # Errors
    /// As [`zeroed`](Self::zeroed).
    pub fn zeroed_in(
        region: &mut Region,
        format: WeightFormat,
        outputs: usize,
        inputs: usize,
    ) -> Result<Weight, Error> {
        Self::made(format, outputs, inputs, |bytes| region.zeroed(bytes))
    }

    fn made(
        format: WeightFormat,
        outputs: usize,
        inputs: usize,
        zeroed: impl FnOnce(usize) -> regard_memory::Result<AlignedBuffer<u8>>,
    ) -> Result<Weight, Error> {
        if !inputs.is_multiple_of(format.block_inputs()) {
            let expected = match format.block_inputs() {
                256 => "a whole number of blocks of 256",
                _ => "a whole number of blocks of 32",
            };
            return Err(Error::Size { name: "inputs", has: inputs, expected });
        }
        let overflow = Error::Size { name: "outputs", has: outputs, expected: "few enough for the address space" };
        let panel = format.row_bytes(inputs).and_then(|bytes| bytes.checked_mul(PANEL)).ok_or(overflow.clone())?;
        let bytes = outputs.div_ceil(PANEL).checked_mul(panel).ok_or(overflow)?;
        Ok(Weight { shape: Shape { format, outputs, inputs }, bytes: zeroed(bytes)? })
    }

    /// How the weights are stored.
    pub fn format(&self) -> WeightFormat {
        self.shape.format
    }

    /// Rows of the matrix: what a product gives.
    pub fn outputs(&self) -> usize {
        self.shape.outputs
    }

    /// Columns of the matrix: what a product takes.
    pub fn inputs(&self) -> usize {
        self.shape.inputs
    }

    /// Panels of [`PANEL`] outputs, the last perhaps not full.
    pub fn panels(&self) -> usize {
        self.shape.outputs.div_ceil(PANEL)
    }

    /// The outputs of these panels, to be used as columns of the product.
    ///
    /// ```
    /// use regard_kernels::{Weight, WeightFormat};
    ///
    /// let weight = Weight::zeroed(WeightFormat::F16, 100, 8)?;
    /// assert_eq!(weight.panels(), 2);
    /// assert_eq!(weight.columns(1..2), 64..100);
    /// # Ok::<(), regard_kernels::Error>(())
    /// ```
    pub fn columns(&self, panels: Range<usize>) -> Range<usize> {
        let at = |panel: usize| panel.saturating_mul(PANEL).min(self.shape.outputs);
        at(panels.start)..at(panels.end)
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// All of it, to be packed.
    pub fn part(&mut self) -> WeightPart<'_> {
        WeightPart { shape: self.shape, first: 0, bytes: &mut self.bytes }
    }

    /// Parts of `panels` panels, to be packed by one task each; the last may have fewer.
    ///
    /// # Panics
    /// `panels` is 0.
    pub fn parts(&mut self, panels: usize) -> WeightParts<'_> {
        assert!(panels > 0, "a part has at least one panel");
        let each = panels.saturating_mul(self.shape.panel_bytes()).max(1);
        WeightParts { shape: self.shape, panels, chunks: chunks_of(&mut self.bytes, each) }
    }

    /// The slabs of one panel after the other. `T` must be the slab of the format.
    pub(crate) fn slabs<T: Slab>(&self) -> &[T] {
        cast_slice(&self.bytes)
    }
}

impl fmt::Debug for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shape { format, outputs, inputs } = self.shape;
        write!(f, "Weight({format} [{outputs}, {inputs}])")
    }
}

/// Some panels of a [`Weight`], to be packed.
pub struct WeightPart<'a> {
    shape: Shape,
    /// The first row of the matrix that stands here.
    first: usize,
    bytes: &'a mut [u8],
}

impl WeightPart<'_> {
    /// The rows of the matrix that belong here.
    pub fn rows(&self) -> Range<usize> {
        let rows = self.bytes.len().checked_div(self.shape.row_bytes()).unwrap_or(0);
        self.first..(self.first + rows).min(self.shape.outputs)
    }

    /// Takes over rows of the matrix from `row` on, as the file holds them: `[rows][row bytes]`.
    ///
    /// # Errors
    /// [`Error::Length`] if the bytes are no whole number of rows; [`Error::Size`] if not all of the rows belong here.
    pub fn pack(&mut self, row: usize, bytes: &[u8]) -> Result<(), Error> {
        let row_bytes = self.shape.row_bytes();
        if row_bytes == 0 || !bytes.len().is_multiple_of(row_bytes) {
            let expected = bytes.len().checked_div(row_bytes).unwrap_or(0) * row_bytes;
            return if bytes.is_empty() {
                Ok(())
            } else {
                Err(Error::Length { name: "weight rows", has: bytes.len(), expected })
            };
        }
        let here = self.rows();
        let count = bytes.len() / row_bytes;
        if row < here.start || row > here.end || count > here.end - row {
            return Err(Error::Size {
                name: "weight row",
                has: row,
                expected: "with all rows behind it, of this part",
            });
        }
        with_slab!(self.shape.format, T => pack_rows::<T>(row - here.start, bytes, row_bytes, cast_slice_mut(self.bytes)));
        Ok(())
    }
}

/// Scatters rows into slabs: a panel at a time, and there slab by slab, so that what is written is written from front to
/// back.
fn pack_rows<T: Slab>(first: usize, bytes: &[u8], row_bytes: usize, slabs: &mut [T]) {
    let depth = row_bytes / T::BYTES;
    let (mut at, mut rest) = (first, bytes);
    while !rest.is_empty() {
        let column = at % PANEL;
        let (rows, behind) = rest.split_at(rest.len().min((PANEL - column) * row_bytes));
        for (k, slab) in slabs[at / PANEL * depth..][..depth].iter_mut().enumerate() {
            for (i, row) in rows.chunks_exact(row_bytes).enumerate() {
                slab.put(column + i, &row[k * T::BYTES..][..T::BYTES]);
            }
        }
        at += rows.len() / row_bytes;
        rest = behind;
    }
}

/// A [`Weight`] as parts to be packed; see [`Weight::parts`].
pub struct WeightParts<'a> {
    shape: Shape,
    panels: usize,
    chunks: Chunks<'a, u8>,
}

// SAFETY: the chunks are disjoint, and part `i` is chunk `i`.
unsafe impl<'a> Parts for WeightParts<'a> {
    type Part = WeightPart<'a>;

    fn count(&self) -> usize {
        self.chunks.count()
    }

    unsafe fn part(&self, index: usize) -> WeightPart<'a> {
        // SAFETY: the caller's promise is the one that is needed.
        let bytes = unsafe { self.chunks.part(index) };
        WeightPart { shape: self.shape, first: index * self.panels * PANEL, bytes }
    }
}

pub(crate) use with_slab;
