//! Scratch grows with the keys, never with the pairs.

use regard_attention::{CacheDtype, Crossovers, Inputs, Options, Outputs, Plan, Shape};
use regard_masks::Mask;
use regard_memory::{Arena, TensorMut};
use regard_oracle::numbers;

use crate::support::{pool, tokens};

#[test]
fn long_sequences_take_little() {
    let (n, dim) = (65_536, 64);
    let shape = Shape { batch: 1, heads: 1, kv_heads: 1, queries: n, keys: n, dim_k: dim, dim_v: dim };
    let plan =
        |mask, crossovers| Plan::new(shape, &mask, &Options { crossovers, ..Options::default() }).expect("a plan");
    let window = || Mask::causal() & Mask::window(Some(63), None);
    let q = numbers(1, n * dim);
    let view = tokens(&q, [1, 1, n, dim], 0..n);
    let mut out = vec![0.0f32; n * dim];
    let mut scratch_of = |plan: Plan| {
        let mut scratch = Arena::new();
        let to = TensorMut::contiguous(&mut out, [1, 1, n, dim]).expect("a tensor");
        plan.run(&Inputs::new(view, view, view), Outputs::new(to), &mut scratch, pool()).expect("a run");
        scratch.capacity()
    };
    let crossovers = Crossovers::default();
    // Strips hold what their windows keep.
    let strips = scratch_of(plan(window(), crossovers));
    assert!(strips < 2_000_000, "{strips} bytes");
    // Without strips scratch follows from the shape: a window takes what the triangle takes, and a second instead of a
    // minute.
    let blocks = scratch_of(plan(window(), Crossovers { keys_of_a_strip: 0, ..crossovers }));
    assert!(blocks >= 2 * n * dim * 4, "keys and values are packed");
    let limit = 64_000_000;
    assert!(blocks < limit, "{blocks} bytes");

    let causal = plan(Mask::causal(), crossovers);
    let need = causal.need_cached(CacheDtype::F32, 16).bytes();
    assert!(need > 0 && need < limit, "{need} bytes");
}
