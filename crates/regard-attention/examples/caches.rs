//! What a token costs over caches of every kind: one query, 32 heads over 8 of 128 dimensions, keys and values from memory.
//!
//! `cargo run --release -p regard-attention --example caches -- [TOKENS...]`

use std::time::Instant;

use regard_attention::{Cache, CacheDtype, Cached, Options, Outputs, PAGE, PagePool, PagedCache, Plan, Shape, Terms};
use regard_masks::Mask;
use regard_memory::{Arena, Tensor, TensorMut};
use regard_simd::Isa;
use regard_threads::Pool;

const HEADS: usize = 32;
const KV_HEADS: usize = 8;
const DIM: usize = 128;

/// Bytes that the calls rotate over: more than caches hold.
const FROM_MEMORY: usize = 192 << 20;

/// Calls that are timed.
const CALLS: usize = 60;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let mut lengths: Vec<usize> = std::env::args().skip(1).map(|arg| arg.parse()).collect::<Result<_, _>>()?;
    if lengths.is_empty() {
        lengths = vec![8192, 32768];
    }
    println!("{} threads, {}", Pool::global().threads(), Isa::best());
    println!("{:>8} {:>6} {:>14} {:>14} {:>7}", "tokens", "stored", "in one piece", "in pages", "ratio");
    for tokens in lengths {
        for dtype in [CacheDtype::F32, CacheDtype::F16, CacheDtype::Bf16, CacheDtype::Int8] {
            let bytes = 2 * KV_HEADS * tokens * DIM * dtype.bytes();
            let copies = FROM_MEMORY.div_ceil(bytes);
            let pages = PagePool::new(dtype, KV_HEADS, DIM, DIM, copies * tokens.div_ceil(PAGE))?;
            let (mut whole, mut paged) = (Vec::new(), Vec::new());
            for _ in 0..copies {
                whole.push(Cache::new(dtype, KV_HEADS, DIM, DIM, tokens)?);
                paged.push(PagedCache::new(&pages));
            }
            fill(
                |k, v| whole.iter_mut().try_for_each(|cache| cache.append(k, v, Isa::best(), Pool::global())),
                tokens,
            )?;
            fill(
                |k, v| paged.iter_mut().try_for_each(|cache| cache.append(k, v, Isa::best(), Pool::global())),
                tokens,
            )?;
            let (whole, paged) = (time(&whole, tokens)?, time(&paged, tokens)?);
            let cell = |seconds: f64| format!("{:.2} ms {:>3.0} GB/s", seconds * 1e3, bytes as f64 / seconds / 1e9);
            println!("{tokens:>8} {dtype:>6?} {:>16} {:>16} {:>7.3}", cell(whole), cell(paged), paged / whole);
        }
    }
    Ok(())
}

/// Hands out tokens until there are enough.
fn fill(
    mut append: impl FnMut(Tensor<'_, f32>, Tensor<'_, f32>) -> Result<(), regard_attention::Error>,
    tokens: usize,
) -> Result<(), Failure> {
    for first in (0..tokens).step_by(PAGE) {
        let n = PAGE.min(tokens - first);
        let numbers = |seed: usize| -> Vec<f32> {
            (0..KV_HEADS * n * DIM).map(|i| ((i + seed * 7919 + first * 31) as f32 * 0.377).sin()).collect()
        };
        let (k, v) = (numbers(1), numbers(2));
        let shape = [1, KV_HEADS, n, DIM];
        append(Tensor::contiguous(&k, shape)?, Tensor::contiguous(&v, shape)?)?;
    }
    Ok(())
}

/// Seconds of a call: the median of many, each over the next of the caches.
fn time<C: Cached>(caches: &[C], tokens: usize) -> Result<f64, Failure> {
    let shape = Shape { batch: 1, heads: HEADS, kv_heads: KV_HEADS, queries: 1, keys: tokens, dim_k: DIM, dim_v: DIM };
    let plan = Plan::new(shape, &Mask::causal(), &Options::default())?;
    let q: Vec<f32> = (0..HEADS * DIM).map(|i| (i as f32 * 0.7).cos()).collect();
    let mut out = vec![0.0_f32; HEADS * DIM];
    let mut scratch = Arena::new();
    let mut seconds = Vec::new();
    for call in 0..CALLS + caches.len() {
        let q = Tensor::contiguous(&q, [1, HEADS, 1, DIM])?;
        let to = Outputs::new(TensorMut::contiguous(&mut out, [1, HEADS, 1, DIM])?);
        let begin = Instant::now();
        plan.run_cached(q, &[&caches[call % caches.len()]], Terms::default(), to, &mut scratch, Pool::global())?;
        seconds.push(begin.elapsed().as_secs_f64());
    }
    // The first round warms up.
    let timed = &mut seconds[caches.len()..];
    timed.sort_by(f64::total_cmp);
    Ok(timed[CALLS / 2])
}
