//! The limit of a pool: beyond it nothing happens.

use regard_attention::{CacheDtype, Error, PAGE, PagePool, PagedCache};
use regard_memory::Tensor;
use regard_oracle::{Problem, Set, Sizes, numbers};
use regard_simd::Isa;

use crate::support::{DTYPES, pool, run_cached, tokens};

const HEADS: usize = 2;
const DIM: usize = 16;

fn pages(limit: usize) -> PagePool {
    PagePool::new(CacheDtype::F32, HEADS, DIM, DIM, limit).expect("a pool")
}

fn append(cache: &mut PagedCache, x: &[f32], range: std::ops::Range<usize>) -> Result<(), Error> {
    let of = |range| tokens(x, [1, HEADS, x.len() / HEADS / DIM, DIM], range);
    cache.append(of(range.clone()), of(range), Isa::best(), pool())
}

/// What one query sees of a cache.
fn bits(cache: &PagedCache) -> (Vec<u32>, Vec<u32>) {
    let keys = cache.len();
    let sizes = Sizes { batch: 1, heads: HEADS, kv_heads: HEADS, queries: 1, keys, dim_k: DIM, dim_v: DIM };
    run_cached(&Problem::of(sizes, Set::Causal, 3), &[cache], Isa::best()).bits()
}

#[test]
fn a_full_pool_refuses_and_all_caches_keep_what_they_have() {
    let x = numbers(1, HEADS * 4 * PAGE * DIM);
    let pool = pages(3);
    let (mut first, mut second) = (PagedCache::new(&pool), PagedCache::new(&pool));
    append(&mut first, &x, 0..PAGE + 9).expect("two pages");
    append(&mut second, &x, 50..60).expect("a page");
    let before = (bits(&first), bits(&second));
    for (of_first, more, pages) in [(true, PAGE, 1), (false, 2 * PAGE, 2), (false, PAGE, 1)] {
        let cache = if of_first { &mut first } else { &mut second };
        let len = cache.len();
        let error = append(cache, &x, 0..more).expect_err("no page is left");
        assert_eq!(error, Error::PoolFull { used: 3, limit: 3, more: pages });
        assert_eq!(error.to_string(), format!("the pool has 3 of 3 pages in use, {pages} more do not fit"));
        assert_eq!((cache.len(), pool.used()), (len, 3));
    }
    assert_eq!((bits(&first), bits(&second)), before);
    // What fits into the pages that they have still goes in.
    append(&mut second, &x, 60..50 + PAGE).expect("the rest of a page");
    assert_eq!((second.len(), pool.used()), (PAGE, 3));
    // A page that is free again serves another.
    second.truncate(0);
    assert_eq!(pool.used(), 2);
    append(&mut first, &x, PAGE + 9..3 * PAGE).expect("the third page");
    let mut alone = PagedCache::new(&pages(3));
    append(&mut alone, &x, 0..3 * PAGE).expect("three pages");
    assert_eq!(bits(&first), bits(&alone));
}

#[test]
fn a_fork_that_cannot_part_changes_nothing() {
    let x = numbers(2, HEADS * 2 * PAGE * DIM);
    let pool = pages(1);
    let mut first = PagedCache::new(&pool);
    append(&mut first, &x, 0..30).expect("a page");
    let mut fork = first.fork();
    let before = bits(&first);
    assert_eq!(append(&mut fork, &x, 100..101), Err(Error::PoolFull { used: 1, limit: 1, more: 1 }));
    assert_eq!(append(&mut first, &x, 100..101), Err(Error::PoolFull { used: 1, limit: 1, more: 1 }));
    append(&mut fork, &x, 0..0).expect("nothing needs no page");
    assert_eq!((bits(&first), bits(&fork), pool.used()), (before.clone(), before, 1));
    // Alone again, it goes on in the page that it has.
    drop(first);
    append(&mut fork, &x, 30..PAGE).expect("the rest of the page");
    let mut alone = PagedCache::new(&pages(1));
    append(&mut alone, &x, 0..PAGE).expect("a page");
    assert_eq!((bits(&fork), pool.used()), (bits(&alone), 1));
}

#[test]
fn tokens_of_other_sizes_are_refused() {
    let x = numbers(3, 8 * DIM * 8);
    let pool = pages(4);
    let mut cache = PagedCache::new(&pool);
    append(&mut cache, &x[..HEADS * 8 * DIM], 0..8).expect("room");
    let before = bits(&cache);
    let right = [1, HEADS, 8, DIM];
    for (k, v) in [
        ([2, HEADS, 8, DIM], right),
        ([1, HEADS + 1, 8, DIM], right),
        ([1, HEADS, 8, DIM - 1], right),
        (right, [1, HEADS, 7, DIM]),
        (right, [1, HEADS, 8, DIM + 1]),
        (right, [1, 1, 8, DIM]),
    ] {
        let of = |shape: [usize; 4]| Tensor::contiguous(&x[..shape.iter().product()], shape).expect("a tensor");
        let error = cache.append(of(k), of(v), Isa::best(), crate::support::pool()).expect_err("another shape");
        assert!(matches!(error, Error::Axis { .. }), "{error}");
    }
    assert_eq!((bits(&cache), cache.len(), pool.used()), (before, 8, 1));
}

#[test]
fn pools_that_no_memory_holds_are_errors() {
    for dtype in DTYPES {
        for (kv_heads, dim_k, dim_v, pages) in [
            (0, 16, 16, 1),
            (1, 0, 16, 1),
            (1, 16, 0, 1),
            (1, 16, 16, 0),
            (usize::MAX, 16, 16, 1),
            (1, usize::MAX, 16, 1),
            (1, 16, 1 << 59, 1),
        ] {
            assert!(PagePool::new(dtype, kv_heads, dim_k, dim_v, pages).is_err(), "{kv_heads} {dim_k} {dim_v} {pages}");
        }
        // A limit is no memory, but a page is: one that nobody has is an error when it is asked for.
        let pool = PagePool::new(dtype, 1 << 24, 1 << 18, 16, usize::MAX).expect("a pool");
        let mut cache = PagedCache::new(&pool);
        let shape = [1, 1 << 24, 1, 1 << 18];
        let tensor = |dim| Tensor::new(&[0.0_f32; 1 << 18], shape_of(shape, dim), [0, 0, 0]);
        if let (Ok(k), Ok(v)) = (tensor(1 << 18), tensor(16)) {
            assert!(matches!(cache.append(k, v, Isa::best(), crate::support::pool()), Err(Error::Memory(_))));
        }
        assert_eq!((cache.len(), pool.used()), (0, 0));
    }
}

fn shape_of([batch, heads, seq, _]: [usize; 4], dim: usize) -> [usize; 4] {
    [batch, heads, seq, dim]
}
