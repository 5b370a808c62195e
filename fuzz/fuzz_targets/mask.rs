//! Mask expressions as text, compiled for some shape and run: pairs that live are those of the definition, and attention
//! over them is that of the reference.
#![no_main]

use libfuzzer_sys::fuzz_target;
use regard_attention::{Crossovers, Inputs, Offset, Options, Outputs, Plan, Shape};
use regard_masks::Mask;
use regard_memory::{Arena, Tensor, TensorMut};
use regard_oracle::{Attention, Sizes, numbers, widen};
use regard_threads::Pool;

fuzz_target!(|data: &[u8]| {
    let [queries, keys, group, offset, text @ ..] = data else { return };
    // Longer ones take the pair by pair definition seconds.
    let Some(Ok(text)) = (text.len() <= 200).then(|| std::str::from_utf8(text)) else { return };
    let Ok(mask) = text.parse::<Mask>() else { return };
    // What is written is read again as the same, unless a long list was cut short.
    let written = mask.to_string();
    assert!(written.contains('…') || written.parse::<Mask>().as_ref() == Ok(&mask), "{written}");

    let (queries, keys, heads) = (usize::from(queries % 40), usize::from(*keys), usize::from(group % 3) + 1);
    let offset = i64::from(*offset) - 64;
    let shape = Shape { batch: 1, heads, kv_heads: 1, queries, keys, dim_k: 5, dim_v: 3 };
    // By tiles or by edges.
    let edge = if *group & 64 == 0 { 1.0 } else { 0.0 };
    let crossovers = Crossovers { edge, ..Crossovers::default() };
    let options = Options { offset: Offset::Same(offset), crossovers, ..Options::default() };
    // A mask may tell more heads apart than there are.
    let Ok(plan) = Plan::new(shape, &mask, &options) else { return };
    let allows = |h: usize, i: usize, j: usize| mask.select(0, h).allows(i as i64 + offset, j, keys);
    let live: usize =
        (0..heads).map(|h| (0..queries * keys).filter(|at| allows(h, at / keys, at % keys)).count()).sum();
    assert_eq!(plan.live_pairs(), live as u64, "{mask}");

    let sizes = Sizes { batch: 1, heads, kv_heads: 1, queries, keys, dim_k: 5, dim_v: 3 };
    let [q, k, v] = [(1, sizes.q()), (2, sizes.k()), (3, sizes.v())].map(|(seed, x)| numbers(seed, x.iter().product()));
    let mut out = vec![f32::NAN; sizes.out().iter().product()];
    let tensor = |x, shape| Tensor::contiguous(x, shape).expect("made for the shape");
    let inputs = Inputs::new(tensor(&q, sizes.q()), tensor(&k, sizes.k()), tensor(&v, sizes.v()));
    let outputs = Outputs::new(TensorMut::contiguous(&mut out, sizes.out()).expect("made for the shape"));
    plan.run(&inputs, outputs, &mut Arena::new(), Pool::global()).expect("a run");
    let exact = Attention {
        sizes,
        q: &widen(&q),
        k: &widen(&k),
        v: &widen(&v),
        sequences: Some(&sizes.whole(Some(offset))),
        allows: &|pair| allows(pair.head, pair.i, pair.j),
        ..Attention::default()
    }
    .exact();
    for (x, y) in out.iter().zip(&exact.out) {
        assert!((f64::from(*x) - y).abs() < 1e-5, "{mask}: {x}, exactly {y}");
    }
});
