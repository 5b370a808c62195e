//! Caches in one piece and in pages, and calls over them.

use proptest::prelude::*;
use proptest::sample::select;
use regard_attention::{Cache, Cached, Options, Outputs, PagePool, PagedCache, Plan, Shape, Terms};
use regard_masks::Mask;
use regard_memory::Arena;
use regard_simd::Isa;

use super::{Target, nothing_of_what_is_refused, others, picks, size, tensor};
use crate::support::{DTYPES, pool, tries};

/// A call over caches, of which any tensor may be of another shape.
fn call(shape: Shape, others: &[[usize; 4]], picks: &[usize], cache: &impl Cached) -> Option<()> {
    let Shape { batch, heads, queries, keys, dim_k, dim_v, .. } = shape;
    let plan = Plan::new(shape, &Mask::causal(), &Options::default()).ok()?;
    let q = tensor([batch, heads, queries, dim_k], others, picks[2])?;
    let out = tensor([batch, heads, queries, dim_v], others, picks[3])?;
    let bias = (picks[5] > 1).then(|| tensor([batch, heads, queries, keys], others, picks[5])).flatten();
    let caches = vec![cache; 1 + picks[4] / 6];
    let mut to = Target::like(&out);
    let terms = Terms { bias, ..Terms::default() };
    let result = plan.run_cached(q, &caches, terms, Outputs::new(to.view()), &mut Arena::new(), pool());
    nothing_of_what_is_refused(result, &[&to]);
    Some(())
}

proptest! {
    #![proptest_config(tries(3000))]

    #[test]
    fn of_any_shape(
        (kv_heads, dim_k, dim_v, capacity) in (size(), size(), size(), size()),
        dtype in select(&DTYPES[..]),
        (others, picks) in (others(), picks()),
        (queries, group, len) in (0..4_usize, 0..4_usize, size()),
    ) {
        let isa = Isa::best();
        let k = tensor([1, kv_heads, 3, dim_k], &others, picks[0]);
        let v = tensor([1, kv_heads, 3, dim_v], &others, picks[1]);
        let shape = |keys| Shape { batch: 1, heads: kv_heads.saturating_mul(group), kv_heads, queries, keys, dim_k, dim_v };
        let _ = Cache::new(dtype, kv_heads, dim_k, dim_v, capacity);
        let cache = Cache::new(dtype, kv_heads, dim_k, dim_v, capacity.min(1 << 20));
        let pages = PagePool::new(dtype, kv_heads, dim_k, dim_v, capacity);
        let (Some(k), Some(v)) = (k, v) else { return Ok(()) };
        if let Ok(mut cache) = cache {
            for _ in 0..3 {
                let before = cache.len();
                let appended = cache.append(k, v, isa, pool());
                prop_assert_eq!(cache.len(), before + if appended.is_ok() { k.shape()[2] } else { 0 });
            }
            cache.truncate(len);
            call(shape(cache.len()), &others, &picks, &cache);
        }
        if let Ok(pages) = pages {
            let mut cache = PagedCache::new(&pages);
            for _ in 0..3 {
                let (before, used) = (cache.len(), pages.used());
                let appended = cache.append(k, v, isa, pool());
                prop_assert!(appended.is_ok() || (cache.len(), pages.used()) == (before, used));
            }
            cache.truncate(len);
            call(shape(cache.len()), &others, &picks, &cache);
            prop_assert!(cache.fork().len() == cache.len() && pages.used() <= pages.limit());
        }
    }
}
