//! Memory-careful inference: a fixed number of pages for all conversations, which share the pages of their common beginning.
//!
//!     cargo run --release -p regard --example memory

use regard::memory::{Arena, Tensor, TensorMut};
use regard::simd::Isa;
use regard::threads::Pool;
use regard::{CacheDtype, Mask, Options, Outputs, PAGE, PagePool, PagedCache, Plan, Shape, Terms};

const HEADS: usize = 8;
const KV_HEADS: usize = 2;
const DIM: usize = 64;
/// Tokens that all conversations begin with, and that each then writes.
const PROMPT: usize = 2048;
const ANSWER: usize = 300;

/// The keys, values or queries of some tokens: numbers that follow from a counter.
fn numbers(heads: usize, tokens: usize, stream: usize) -> Vec<f32> {
    (0..heads * tokens * DIM).map(|i| ((i * 7919 + stream * 104_729) as f32 * 0.001).sin()).collect()
}

fn append(cache: &mut PagedCache, tokens: usize, stream: usize) -> Result<(), regard::AttentionError> {
    let (k, v) = (numbers(KV_HEADS, tokens, stream), numbers(KV_HEADS, tokens, stream + 1));
    let shape = [1, KV_HEADS, tokens, DIM];
    cache.append(Tensor::contiguous(&k, shape)?, Tensor::contiguous(&v, shape)?, Isa::best(), Pool::global())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // 16 pages and no more, whatever happens: a full pool refuses before it writes.
    let pages = PagePool::new(CacheDtype::Bf16, KV_HEADS, DIM, DIM, 16)?;
    println!("16 pages of {PAGE} tokens, {} KiB each, in bf16", pages.page_bytes() >> 10);

    let mut prompt = PagedCache::new(&pages);
    append(&mut prompt, PROMPT, 1)?;
    println!("a prompt of {PROMPT} tokens takes {} pages", pages.used());
    let mut conversations: Vec<PagedCache> = (0..3).map(|_| prompt.fork()).collect();
    println!("three conversations that begin with it: still {} pages", pages.used());
    drop(prompt);

    // What a step needs is known before it is taken.
    let shape = Shape {
        batch: conversations.len(),
        heads: HEADS,
        kv_heads: KV_HEADS,
        queries: 1,
        keys: PROMPT + ANSWER,
        dim_k: DIM,
        dim_v: DIM,
    };
    let mut plan = Plan::new(shape, &Mask::causal(), &Options::default())?;
    let mut scratch = Arena::new();
    println!(
        "a step takes {} KiB of scratch",
        plan.need_cached(CacheDtype::Bf16, Pool::global().threads()).bytes() >> 10
    );

    let mut out = vec![0f32; conversations.len() * HEADS * DIM];
    for token in 0..ANSWER {
        for (index, cache) in conversations.iter_mut().enumerate() {
            append(cache, 1, 10 + index * ANSWER + token)?;
        }
        // All conversations in one call, whatever their lengths.
        let lengths: Vec<usize> = conversations.iter().map(PagedCache::len).collect();
        plan.resize_keys(1, &lengths)?;
        let q = numbers(shape.batch * HEADS, 1, token);
        let all = [shape.batch, HEADS, 1, DIM];
        let outputs = Outputs::new(TensorMut::contiguous(&mut out, all)?);
        let caches: Vec<&PagedCache> = conversations.iter().collect();
        plan.run_cached(
            Tensor::contiguous(&q, all)?,
            &caches,
            Terms::default(),
            outputs,
            &mut scratch,
            Pool::global(),
        )?;
    }
    println!("after {ANSWER} tokens each: {} pages, the prompt's shared", pages.used());

    // One more conversation does not fit; nothing is written, and the others go on.
    let mut another = PagedCache::new(&pages);
    match append(&mut another, PROMPT, 2) {
        Err(error) => println!("another prompt: {error}"),
        Ok(()) => println!("another prompt fits: {} pages", pages.used()),
    }
    conversations.truncate(1);
    println!("two conversations end: {} pages", pages.used());
    Ok(())
}
