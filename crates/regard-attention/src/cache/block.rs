//! What caches are made of: blocks of panels of all heads.

use std::ops::Range;

use regard_kernels::{Bf16, F16, F32, Int8, Kernels, Operand, PANEL};
use regard_memory::{AlignedBuffer, LINE, Tensor, cast_slice, cast_slice_mut, chunks_of};
use regard_threads::Pool;

use crate::panels::{PanelSize, Run, RunMut};
use crate::shape::expect;
use crate::task::Failure;
use crate::{CacheDtype, Element, Error};

/// Numbers from which on the cores share the writing: fewer are written before another core has heard of them.
const SHARED: usize = 1 << 14;

/// What a block holds, and where: for each head in turn its keys, its values, the scales of both where they have some, and
/// a flag a panel; see [`Run`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockFormat {
    pub dtype: CacheDtype,
    pub kv_heads: usize,
    pub dim_k: usize,
    pub dim_v: usize,
    pub size: PanelSize,
    /// Panels of a head.
    panels: usize,
    /// Bytes of a head, whole lines.
    head_bytes: usize,
}

impl BlockFormat {
    /// The format of blocks of so many tokens.
    ///
    /// # Errors
    /// A size is 0 or too large for the memory.
    pub(crate) fn new(
        dtype: CacheDtype,
        kv_heads: usize,
        (dim_k, dim_v): (usize, usize),
        tokens: usize,
    ) -> Result<BlockFormat, Error> {
        for (option, has) in [("kv_heads", kv_heads), ("dim_k", dim_k), ("dim_v", dim_v), ("capacity", tokens)] {
            if has == 0 {
                return Err(Error::Option { option, has: 0.0, expected: "at least 1" });
            }
        }
        let (size, word) = match dtype {
            CacheDtype::F32 => sizes::<F32>(dim_k, dim_v),
            CacheDtype::F16 => sizes::<F16>(dim_k, dim_v),
            CacheDtype::Bf16 => sizes::<Bf16>(dim_k, dim_v),
            CacheDtype::Int8 => sizes::<Int8>(dim_k, dim_v),
        };
        let panels = tokens.div_ceil(PANEL);
        let head_bytes = || {
            let numbers = size.keys.checked_add(size.values)?.checked_mul(word)?;
            let others = 2 * size.scales * size_of::<f32>() + 1;
            numbers.checked_add(others)?.checked_mul(panels)?.checked_next_multiple_of(LINE)
        };
        let overflow = regard_memory::Error::Overflow { what: "cache" };
        let head_bytes = head_bytes().ok_or(overflow.clone())?;
        head_bytes.checked_mul(kv_heads).ok_or(overflow)?;
        Ok(BlockFormat { dtype, kv_heads, dim_k, dim_v, size, panels, head_bytes })
    }

    /// Bytes of a block.
    pub(crate) fn bytes(&self) -> usize {
        self.kv_heads * self.head_bytes
    }

    /// Whether both hold tokens of the same kind.
    pub(crate) fn check_tokens<T>(&self, keys: &Tensor<'_, T>, values: &Tensor<'_, T>) -> Result<(), Error> {
        let n = keys.shape()[2];
        expect("keys", keys.shape(), [1, self.kv_heads, n, self.dim_k])?;
        expect("values", values.shape(), [1, self.kv_heads, n, self.dim_v])
    }

    /// Writes some of the tokens of `keys` and `values` into a block, from position `at` on, all cores together.
    pub(crate) fn write<T: Element>(
        &self,
        block: &mut [u8],
        at: usize,
        (keys, values): (Tensor<'_, T>, Tensor<'_, T>),
        tokens: Range<usize>,
        kernels: Kernels,
        pool: &Pool,
    ) -> Result<(), Error> {
        let write = |head: usize, bytes: &mut [u8]| -> Result<(), Error> {
            let keys = keys.rows(0, head).block(tokens.clone(), 0..self.dim_k);
            let values = values.rows(0, head).block(tokens.clone(), 0..self.dim_v);
            match self.dtype {
                CacheDtype::F32 => self.run_mut::<F32>(bytes).write(kernels, at, keys, values)?,
                CacheDtype::F16 => self.run_mut::<F16>(bytes).write(kernels, at, keys, values)?,
                CacheDtype::Bf16 => self.run_mut::<Bf16>(bytes).write(kernels, at, keys, values)?,
                CacheDtype::Int8 => self.run_mut::<Int8>(bytes).write_scaled(kernels, at, keys, values)?,
            }
            Ok(())
        };
        if self.kv_heads * tokens.len() * (self.dim_k + self.dim_v) < SHARED {
            return block
                .chunks_exact_mut(self.head_bytes)
                .enumerate()
                .try_for_each(|(head, bytes)| write(head, bytes));
        }
        let failure = Failure::default();
        pool.run(chunks_of(block, self.head_bytes), |head, bytes| failure.catch(|| write(head, bytes)));
        failure.into_result()
    }

    /// The panels of a head. `E` is the operand of the format's numbers.
    pub(crate) fn head<'a, E: Operand>(&self, block: &'a AlignedBuffer<u8>, head: usize) -> Run<'a, E> {
        let bytes = &block[head * self.head_bytes..][..self.head_bytes];
        let [keys, values, scales] = self.lengths::<E>();
        let (keys, rest) = bytes.split_at(keys);
        let (values, rest) = rest.split_at(values);
        let (of_keys, rest) = rest.split_at(scales);
        let (of_values, rest) = rest.split_at(scales);
        Run {
            size: self.size,
            keys: cast_slice(keys),
            values: cast_slice(values),
            scales: (cast_slice(of_keys), cast_slice(of_values)),
            wild: &rest[..self.panels],
        }
    }

    fn run_mut<'a, E: Operand>(&self, bytes: &'a mut [u8]) -> RunMut<'a, E> {
        let [keys, values, scales] = self.lengths::<E>();
        let (keys, rest) = bytes.split_at_mut(keys);
        let (values, rest) = rest.split_at_mut(values);
        let (of_keys, rest) = rest.split_at_mut(scales);
        let (of_values, rest) = rest.split_at_mut(scales);
        RunMut {
            size: self.size,
            keys: cast_slice_mut(keys),
            values: cast_slice_mut(values),
            scales: (cast_slice_mut(of_keys), cast_slice_mut(of_values)),
            wild: &mut rest[..self.panels],
        }
    }

    /// Bytes of a head's keys, its values, and of the scales of either. All are whole lines.
    fn lengths<E: Operand>(&self) -> [usize; 3] {
        let of = |words: usize, word: usize| self.panels * words * word;
        let PanelSize { keys, values, scales, .. } = self.size;
        [of(keys, size_of::<E::B>()), of(values, size_of::<E::B>()), of(scales, size_of::<f32>())]
    }
}

/// The words of a panel, and the bytes of a word.
fn sizes<E: Operand>(dim_k: usize, dim_v: usize) -> (PanelSize, usize) {
    (PanelSize::of::<E>(dim_k, dim_v), size_of::<E::B>())
}
