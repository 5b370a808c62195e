//! Mask expressions as text, compiled for some shape and run: pairs that live are those of the definition, and attention
//! over them and its gradients are those of the reference.
#![no_main]

use half::{bf16, f16};
use libfuzzer_sys::fuzz_target;
use regard_attention::{
    Crossovers, Differentiable, Element, Gradients, Inputs, Offset, Options, Outputs, Plan, Shape, Upstream,
};
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

    let run = match group >> 4 & 3 {
        0 | 1 => run::<f32>,
        2 => run::<bf16>,
        _ => run::<f16>,
    };
    run(&plan, &mask, offset, &allows);
});

/// Runs a plan forward and backward, and compares with the reference.
fn run<T: Stored>(plan: &Plan, mask: &Mask, offset: i64, allows: &dyn Fn(usize, usize, usize) -> bool) {
    let Shape { heads, queries, keys, dim_k, dim_v, .. } = plan.shape();
    let sizes = Sizes { batch: 1, heads, kv_heads: 1, queries, keys, dim_k, dim_v };
    let drawn = |seed, shape: [usize; 4]| numbers(seed, shape.iter().product());
    let [q, k, v] = [(1, sizes.q()), (2, sizes.k()), (3, sizes.v())]
        .map(|(seed, shape)| drawn(seed, shape).into_iter().map(T::from_f32).collect::<Vec<T>>());
    let inputs = Inputs::new(tensor(&q, sizes.q()), tensor(&k, sizes.k()), tensor(&v, sizes.v()));
    let mut out = vec![f32::NAN; sizes.out().iter().product()];
    let mut lse = vec![f32::NAN; sizes.lse().iter().product()];
    let outputs = Outputs::state(tensor_mut(&mut out, sizes.out()), tensor_mut(&mut lse, sizes.lse()));
    let mut scratch = Arena::new();
    plan.run(&inputs, outputs, &mut scratch, Pool::global()).expect("a run");

    let [dout, dlse] = [(4, sizes.out()), (5, sizes.lse())].map(|(seed, shape)| drawn(seed, shape));
    let upstream = Upstream {
        out: tensor(&out, sizes.out()),
        lse: tensor(&lse, sizes.lse()),
        out_gradient: tensor(&dout, sizes.out()),
        lse_gradient: Some(tensor(&dlse, sizes.lse())),
    };
    let [mut dq, mut dk, mut dv] = [&q, &k, &v].map(|x| vec![f32::NAN; x.len()]);
    let gradients =
        Gradients::new(tensor_mut(&mut dq, sizes.q()), tensor_mut(&mut dk, sizes.k()), tensor_mut(&mut dv, sizes.v()));
    plan.backward(&inputs, &upstream, gradients, &mut scratch, Pool::global()).expect("a backward run");

    let reference = Attention {
        sizes,
        q: &widen(&q),
        k: &widen(&k),
        v: &widen(&v),
        sequences: Some(&sizes.whole(Some(offset))),
        allows: &|pair| allows(pair.head, pair.i, pair.j),
        ..Attention::default()
    };
    let (exact, slopes) = (reference.exact(), reference.gradients(&widen(&dout), &widen(&dlse)));
    let results = [
        ("out", &out, &exact.out),
        ("lse", &lse, &exact.lse),
        ("dq", &dq, &slopes.dq),
        ("dk", &dk, &slopes.dk),
        ("dv", &dv, &slopes.dv),
    ];
    for (name, ours, exact) in results {
        let largest = exact.iter().filter(|x| x.is_finite()).fold(1.0f64, |most, x| most.max(x.abs()));
        for (&x, &y) in ours.iter().zip(exact) {
            let x = f64::from(x);
            assert!(x == y || (x - y).abs() <= T::CLOSE * largest, "{name} over {mask}: {x}, exactly {y}");
        }
    }
}

/// What inputs are stored in.
trait Stored: Element + Differentiable + Into<f64> {
    /// How far a result may be off, of the largest.
    const CLOSE: f64;
}

impl Stored for f32 {
    const CLOSE: f64 = 2e-5;
}

impl Stored for bf16 {
    const CLOSE: f64 = 0.03;
}

impl Stored for f16 {
    const CLOSE: f64 = 0.004;
}

fn tensor<T>(x: &[T], shape: [usize; 4]) -> Tensor<'_, T> {
    Tensor::contiguous(x, shape).expect("made for the shape")
}

fn tensor_mut<T>(x: &mut [T], shape: [usize; 4]) -> TensorMut<'_, T> {
    TensorMut::contiguous(x, shape).expect("made for the shape")
}
