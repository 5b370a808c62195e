//! Our side of a case: everything prepared, and one call of it.

use regard_attention::{Cache, CacheDtype, Error, Options, Plan, Shape};
use regard_memory::{Arena, Tensor, TensorMut};
use regard_simd::Isa;
use regard_threads::Pool;

use crate::bench::case::{Case, Dtype};
use crate::bench::inputs::{Inputs, Stored};

/// Bytes of keys and values that decoding rotates over: more than caches hold.
pub(crate) const FROM_MEMORY: usize = 128 << 20;

/// A case, ready to be called.
pub(crate) struct Ours<'a, T: Stored> {
    inputs: &'a Inputs<T>,
    plan: Plan,
    /// In a decode case copies of the keys and values, in each a cache for every sequence.
    copies: Vec<Vec<Cache>>,
    /// The copy whose turn it is.
    next: usize,
    /// `[batch, heads, queries, dim]`.
    pub(crate) out: Vec<T>,
    scratch: Arena,
    pool: &'a Pool,
}

impl<'a, T: Stored> Ours<'a, T> {
    pub(crate) fn new(case: &Case, inputs: &'a Inputs<T>, isa: Isa, pool: &'a Pool) -> Result<Self, Error> {
        // A cache holds one sequence.
        let shape = if case.is_decode() { Shape { batch: 1, ..case.shape } } else { case.shape };
        let plan = Plan::new(shape, &case.keep.mask(), &Options { isa: Some(isa), ..Options::default() })?;
        let mut copies = Vec::new();
        if case.is_decode() {
            copies.push(caches(case, inputs, isa, pool)?);
            let bytes: usize = copies[0].iter().map(Cache::bytes).sum();
            for _ in 1..FROM_MEMORY.div_ceil(bytes) {
                copies.push(copies[0].iter().map(Cache::fork).collect::<Result<_, _>>()?);
            }
        }
        let out = vec![T::default(); inputs.q.len()];
        Ok(Ours { inputs, plan, copies, next: 0, out, scratch: Arena::new(), pool })
    }

    /// The plan: of one sequence in a decode case, else of the whole call.
    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// One call; the result then stands in `out`.
    pub(crate) fn call(&mut self) -> Result<(), Error> {
        let Shape { batch, heads, kv_heads, queries, keys, dim_k, dim_v } = self.plan.shape();
        if self.copies.is_empty() {
            return self.plan.run(
                Tensor::contiguous(&self.inputs.q, [batch, heads, queries, dim_k])?,
                Tensor::contiguous(&self.inputs.k, [batch, kv_heads, keys, dim_k])?,
                Tensor::contiguous(&self.inputs.v, [batch, kv_heads, keys, dim_v])?,
                TensorMut::contiguous(&mut self.out, [batch, heads, queries, dim_v])?,
                None,
                &mut self.scratch,
                self.pool,
            );
        }
        let copy = &self.copies[self.next];
        self.next = (self.next + 1) % self.copies.len();
        let (queries, results) = (self.inputs.q.chunks_exact(heads * dim_k), self.out.chunks_exact_mut(heads * dim_v));
        for ((cache, q), out) in copy.iter().zip(queries).zip(results) {
            self.plan.run_cached(
                Tensor::contiguous(q, [1, heads, 1, dim_k])?,
                cache,
                TensorMut::contiguous(out, [1, heads, 1, dim_v])?,
                None,
                &mut self.scratch,
                self.pool,
            )?;
        }
        Ok(())
    }
}

/// A full cache for every sequence.
fn caches<T: Stored>(case: &Case, inputs: &Inputs<T>, isa: Isa, pool: &Pool) -> Result<Vec<Cache>, Error> {
    let Shape { kv_heads, keys, dim_k, dim_v, .. } = case.shape;
    let dtype = match case.dtype {
        Dtype::F32 => CacheDtype::F32,
        Dtype::Bf16 => CacheDtype::Bf16,
        Dtype::F16 => CacheDtype::F16,
    };
    let sequences = inputs.k.chunks_exact(kv_heads * keys * dim_k).zip(inputs.v.chunks_exact(kv_heads * keys * dim_v));
    sequences
        .map(|(k, v)| {
            let mut cache = Cache::new(dtype, kv_heads, dim_k, dim_v, keys)?;
            let k = Tensor::contiguous(k, [1, kv_heads, keys, dim_k])?;
            let v = Tensor::contiguous(v, [1, kv_heads, keys, dim_v])?;
            cache.append(k, v, isa, pool)?;
            Ok(cache)
        })
        .collect()
}
