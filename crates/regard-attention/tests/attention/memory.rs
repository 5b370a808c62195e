//! Scratch grows with the keys, never with the pairs.

use regard_attention::{CacheDtype, Crossovers, Gradients, Inputs, Options, Outputs, Plan, Shape, Upstream};
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

/// Twice the tokens of a mask of one density are four times the pairs. Those of a row that keeps 135 keys are kept from one
/// step to the next; one that keeps 270 goes in tiles, though it would be faster by edges.
#[test]
fn gradients_of_scattered_pairs_take_little_too() {
    let scratch_of = |n: usize| {
        let shape = [1, 1, n, 32];
        let sizes = Shape { batch: 1, heads: 1, kv_heads: 1, queries: n, keys: n, dim_k: 32, dim_v: 32 };
        let plan = Plan::new(sizes, &Mask::random(0.045, 1).expect("a mask"), &Options::default()).expect("a plan");
        let (q, lse) = (numbers(1, 32 * n), vec![5.0; n]);
        let read = tokens(&q, shape, 0..n);
        let lse = tokens(&lse, [1, 1, n, 1], 0..n);
        let [mut dq, mut dk, mut dv] = [(); 3].map(|()| vec![0.0f32; 32 * n]);
        let [dq, dk, dv] = [&mut dq, &mut dk, &mut dv].map(|x| TensorMut::contiguous(x, shape).expect("a tensor"));
        let upstream = Upstream { out: read, lse, out_gradient: read, lse_gradient: None };
        let mut scratch = Arena::new();
        let inputs = Inputs::new(read, read, read);
        plan.backward(&inputs, &upstream, Gradients::new(dq, dk, dv), &mut scratch, pool()).expect("a run");
        scratch.capacity()
    };
    let (few, many) = (scratch_of(3000), scratch_of(6000));
    assert!(2 * many < 5 * few, "{few} and {many} bytes");
}
