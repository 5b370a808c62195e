//! Both passes in f64: against the definition, PyTorch, and central differences.

use ndarray::{Array4, ArrayD, ArrayView4, Axis};
use proptest::prelude::*;
use regard_attention::{
    Attention, Error, Gradients as Slopes, Inputs, Options, Outputs, Plan, Segment, Sequences, Shape, Upstream,
    attention,
};
use regard_masks::Mask;
use regard_memory::{Tensor, TensorMut};
use regard_oracle::{Attended, Gradients, Problem, Set, Sizes, golden, problems, problems_of, widen};
use regard_threads::Pool;

use crate::support::{Doubled, close, pool, tries};

/// What two ways of adding the same numbers up in f64 differ by, with room: thousands of them cost some 10⁻¹³.
const ROUNDING: f64 = 1e-12;

fn judge(
    (attended, gradients): (&Attended, &Gradients),
    (exact, slopes): (&Attended, &Gradients),
) -> Result<(), String> {
    for (part, ours, exact) in [
        ("out", &attended.out, &exact.out),
        ("lse", &attended.lse, &exact.lse),
        ("dq", &gradients.dq, &slopes.dq),
        ("dk", &gradients.dk, &slopes.dk),
        ("dv", &gradients.dv, &slopes.dv),
        ("dbias", &gradients.dbias, &slopes.dbias),
        ("dsinks", &gradients.dsinks, &slopes.dsinks),
    ] {
        close(ours, exact, ROUNDING).map_err(|what| format!("{part}: {what}"))?;
    }
    Ok(())
}

/// Both passes are as their definition says.
fn are_right(problem: &Problem) -> Result<(), TestCaseError> {
    let doubled = Doubled::new(problem);
    let attended = doubled.run();
    let gradients = doubled.backward(&attended);
    let exact = Doubled::define(problem, |call| (call.exact(), call.gradients(&doubled.dout, &doubled.dlse)));
    judge((&attended, &gradients), (&exact.0, &exact.1)).map_err(TestCaseError::fail)
}

/// Several panels, blocks of queries and splits of the keys.
pub(crate) fn large() -> impl Strategy<Value = Problem> {
    let sizes = (1..=2_usize, 1..=2_usize, 1..=3_usize, 1..=250_usize, 60..1100_usize, 1..=9_usize, 1..=9_usize);
    problems_of(sizes.prop_map(|(batch, kv_heads, group, queries, keys, dim_k, dim_v)| Sizes {
        batch,
        heads: kv_heads * group,
        kv_heads,
        queries: queries.min(60_000 / keys),
        keys,
        dim_k,
        dim_v,
    }))
}

proptest! {
    #![proptest_config(tries(300))]

    #[test]
    fn small_calls(problem in problems()) {
        are_right(&problem)?;
    }

    /// NaN and infinities spread to whom they are kept for, and no further.
    #[test]
    fn odd_numbers(
        problem in problems(),
        places in prop::collection::vec((0..4_usize, any::<usize>(), prop::sample::select(vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY])), 1..5),
    ) {
        let mut problem = problem;
        for (tensor, at, odd) in places {
            let Problem { q, k, v, dout, .. } = &mut problem;
            let numbers = [q, k, v, dout][tensor].as_mut_slice();
            if !numbers.is_empty() {
                let at = at % numbers.len();
                numbers[at] = odd;
            }
        }
        are_right(&problem)?;
    }
}

proptest! {
    #![proptest_config(tries(40))]

    #[test]
    fn large_calls(problem in large()) {
        are_right(&problem)?;
    }

    #[test]
    fn the_same_bits_on_any_number_of_threads(problem in large()) {
        let doubled = Doubled::new(&problem);
        let bits = |pool: &Pool| {
            let attended = doubled.run_on(&doubled.plan(), pool);
            let Gradients { dq, dk, dv, dbias, dsinks } = doubled.backward_on(&attended, &doubled.plan(), pool);
            [attended.out, attended.lse, dq, dk, dv, dbias, dsinks].map(|x| bits(&x))
        };
        let two = bits(pool());
        for threads in [1, 3] {
            prop_assert!(bits(&Pool::new(threads).expect("threads")) == two, "{} threads", threads);
        }
    }

    /// With one head, two batch entries and two packed segments lie in memory alike.
    #[test]
    fn the_same_bits_alone_in_a_batch_and_packed(
        (queries, keys, dim) in (1..200_usize, 1..700_usize, 1..9_usize),
        seed in any::<u64>(),
    ) {
        let sizes = |batch, times| {
            let (queries, keys) = (times * queries, times * keys);
            Sizes { batch, heads: 1, kv_heads: 1, queries, keys, dim_k: dim, dim_v: dim }
        };
        let set = Set::causal_window(keys / 2);
        let batch = Problem { softcap: Some(5.0), ..Problem::of(sizes(2, 1), set, seed) };
        let halves = batch.sequences.iter().map(|of| {
            let (first, key) = (of.batch * queries, of.batch * keys);
            regard_oracle::Sequence { batch: 0, queries: first..first + queries, keys: key..key + keys, ..of.clone() }
        });
        let packed = Problem { sizes: sizes(1, 2), sequences: halves.collect(), ..batch.clone() };
        let results = |problem: &Problem| {
            let doubled = Doubled::new(problem);
            let attended = doubled.run();
            let Gradients { dq, dk, dv, .. } = doubled.backward(&attended);
            [attended.out, attended.lse, dq, dk, dv].map(|x| bits(&x))
        };
        let together = results(&batch);
        prop_assert!(results(&packed) == together, "packed");
        for entry in 0..2 {
            let half = |x: &[f32]| x[entry * x.len() / 2..][..x.len() / 2].to_vec();
            let Problem { q, k, v, dout, dlse, .. } = &batch;
            let [q, k, v, dout, dlse] = [q, k, v, dout, dlse].map(|x| half(x));
            let sequences = sizes(1, 1).whole(None);
            let alone = Problem { sizes: sizes(1, 1), sequences, q, k, v, dout, dlse, ..batch.clone() };
            let alone = results(&alone);
            for (alone, together) in alone.iter().zip(&together) {
                prop_assert!(alone[..] == together[entry * alone.len()..][..alone.len()], "entry {}", entry);
            }
        }
    }
}

fn bits(x: &[f64]) -> Vec<u64> {
    x.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn pytorch_says_the_same() {
    // Its dropout keeps other weights.
    let cases: Vec<_> = golden().into_iter().filter(|case| case.problem.dropout.is_none()).collect();
    assert!(cases.len() > 25);
    for case in &cases {
        let doubled = Doubled::new(&case.problem);
        let attended = doubled.run();
        let gradients = doubled.backward(&attended);
        judge((&attended, &gradients), (&case.attended, &case.gradients))
            .unwrap_or_else(|what| panic!("{}: {what}", case.name));
    }
}

/// So small that every number can be moved by itself.
fn tiny() -> impl Strategy<Value = Problem> {
    let sizes = (1..=2_usize, 1..=2_usize, 1..=2_usize, 0..=4_usize, 0..=6_usize, 1..=3_usize, 1..=3_usize);
    problems_of(sizes.prop_map(|(batch, kv_heads, group, queries, keys, dim_k, dim_v)| Sizes {
        batch,
        heads: kv_heads * group,
        kv_heads,
        queries,
        keys,
        dim_k,
        dim_v,
    }))
}

impl Doubled {
    /// `Σ dout·out + Σ dlse·lse`, over the queries that have a log-sum-exp.
    fn value(&self, plan: &Plan) -> f64 {
        let attended = self.run_on(plan, pool());
        let out: f64 = attended.out.iter().zip(&self.dout).map(|(x, d)| x * d).sum();
        let lse = attended.lse.iter().zip(&self.dlse).filter(|(lse, _)| lse.is_finite()).map(|(x, d)| x * d);
        out + lse.sum::<f64>()
    }

    /// The derivatives of the value by every number of a tensor, to the fourth order of the step.
    fn differences(&self, tensor: impl Fn(&mut Doubled) -> &mut Vec<f64>) -> Vec<f64> {
        // What is left out grows as the step's fourth power, what rounding costs as its inverse: both are below 1e−10 of
        // the numbers here.
        const STEP: f64 = 3e-4;
        let (mut moved, plan) = (self.clone(), self.plan());
        let count = tensor(&mut moved).len();
        let mut value = |at: usize, steps: f64| {
            let before = tensor(&mut moved)[at];
            tensor(&mut moved)[at] += steps * STEP;
            let value = moved.value(&plan);
            tensor(&mut moved)[at] = before;
            value
        };
        let mut derivative =
            |at| (8.0 * (value(at, 1.0) - value(at, -1.0)) - (value(at, 2.0) - value(at, -2.0))) / (12.0 * STEP);
        (0..count).map(&mut derivative).collect()
    }
}

proptest! {
    #![proptest_config(tries(100))]

    #[test]
    fn gradients_are_what_central_differences_say(problem in tiny()) {
        let doubled = Doubled::new(&problem);
        let gradients = doubled.backward(&doubled.run());
        for (name, gradient, differences) in [
            ("dq", &gradients.dq, doubled.differences(|x| &mut x.q)),
            ("dk", &gradients.dk, doubled.differences(|x| &mut x.k)),
            ("dv", &gradients.dv, doubled.differences(|x| &mut x.v)),
            ("dbias", &gradients.dbias, doubled.differences(|x| &mut x.bias)),
            ("dsinks", &gradients.dsinks, doubled.differences(|x| &mut x.sinks)),
        ] {
            close(gradient, &differences, 1e-7)
                .map_err(|what| TestCaseError::fail(format!("{name}: {what}")))?;
        }
    }
}

#[test]
fn tensors_need_no_order() {
    let sizes = Sizes { batch: 2, heads: 4, kv_heads: 2, queries: 70, keys: 90, dim_k: 5, dim_v: 3 };
    let doubled = Doubled::new(&Problem::of(sizes, Set::Causal, 1));
    let attended = doubled.run();
    let whole = doubled.backward(&attended);
    // In memory `[seq, batch, heads, dim]`.
    let swapped = |x: &[f64], shape: [usize; 4]| -> Vec<f64> {
        let array = ArrayView4::from_shape(shape, x).expect("numbers for the shape");
        array.permuted_axes([2, 0, 1, 3]).iter().copied().collect()
    };
    let strides = |[batch, heads, _, dim]: [usize; 4]| [heads * dim, dim, batch * heads * dim];
    let [q, k, v] = [(&doubled.q, sizes.q()), (&doubled.k, sizes.k()), (&doubled.v, sizes.v())]
        .map(|(x, shape)| (swapped(x, shape), shape));
    let [out, lse, dout, dlse] = [
        (&attended.out, sizes.out()),
        (&attended.lse, sizes.lse()),
        (&doubled.dout, sizes.out()),
        (&doubled.dlse, sizes.lse()),
    ]
    .map(|(x, shape)| (swapped(x, shape), shape));
    fn tensor<'a>(
        (x, shape): &'a (Vec<f64>, [usize; 4]),
        strides: &dyn Fn([usize; 4]) -> [usize; 3],
    ) -> Tensor<'a, f64> {
        Tensor::new(x, *shape, strides(*shape)).expect("a tensor")
    }
    let inputs = Inputs::new(tensor(&q, &strides), tensor(&k, &strides), tensor(&v, &strides));
    let mut blank = [sizes.out(), sizes.lse(), sizes.q(), sizes.k(), sizes.v()]
        .map(|shape| (vec![f64::NAN; shape.iter().product()], shape));
    let [our_out, our_lse, dq, dk, dv] =
        blank.each_mut().map(|(x, shape)| TensorMut::new(x, *shape, strides(*shape)).expect("a tensor"));
    let plan = doubled.plan();
    plan.run_f64(&inputs, Outputs::state(our_out, our_lse), pool()).expect("a run");
    let upstream = Upstream {
        out: tensor(&out, &strides),
        lse: tensor(&lse, &strides),
        out_gradient: tensor(&dout, &strides),
        lse_gradient: Some(tensor(&dlse, &strides)),
    };
    plan.backward_f64(&inputs, &upstream, Slopes::new(dq, dk, dv), pool()).expect("a run");
    let expected = [&attended.out, &attended.lse, &whole.dq, &whole.dk, &whole.dv];
    for ((ours, shape), expected) in blank.iter().zip(expected) {
        assert_eq!(bits(ours), bits(&swapped(expected, *shape)));
    }
}

/// The door for `ndarray`, with everything that fits through it.
#[test]
fn through_arrays() {
    let sizes = Sizes { batch: 2, heads: 4, kv_heads: 2, queries: 30, keys: 90, dim_k: 5, dim_v: 3 };
    let problem = Problem {
        softcap: Some(2.0),
        bias: Some(([1, 4, 30, 1], vec![0.0; 120])),
        slopes: Some(vec![0.1, 0.02, 0.0, 0.3]),
        sinks: Some(vec![0.0; 4]),
        ..Problem::of(sizes, Set::Causal, 1)
    };
    let problem = problem.redrawn(2);
    let doubled = Doubled::new(&problem);
    let array =
        |x: &[f64], shape: [usize; 4]| Array4::from_shape_vec(shape, x.to_vec()).expect("numbers for the shape");
    let flat = |x: ArrayD<f64>| x.into_raw_vec_and_offset().0;
    let (q, k, v) = (array(&doubled.q, sizes.q()), array(&doubled.k, sizes.k()), array(&doubled.v, sizes.v()));
    let bias = array(&doubled.bias, [1, 4, 30, 1]);
    let slopes = widen(problem.slopes.as_deref().expect("slopes"));
    let call = Attention::new(q.view(), k.view(), v.view())
        .mask(Mask::causal())
        .softcap(2.0)
        .bias(bias.view())
        .alibi(&slopes)
        .sinks(&doubled.sinks);
    let (out, lse) = call.state().expect("a result");
    assert_eq!(call.run().expect("a result"), out);
    let (dout, dlse) = (array(&doubled.dout, sizes.out()), array(&doubled.dlse, sizes.lse()));
    let dlse = dlse.index_axis(Axis(3), 0);
    let slopes = call.backward(out.view(), lse.view(), dout.view(), Some(dlse)).expect("gradients");
    let attended = Attended { out: flat(out.into_dyn()), lse: flat(lse.into_dyn()) };
    let gradients = Gradients {
        dq: flat(slopes.q.into_dyn()),
        dk: flat(slopes.k.into_dyn()),
        dv: flat(slopes.v.into_dyn()),
        dbias: flat(slopes.bias.expect("a bias").into_dyn()),
        dsinks: flat(slopes.sinks.expect("sinks").into_dyn()),
    };
    let exact = Doubled::define(&problem, |call| (call.exact(), call.gradients(&doubled.dout, &doubled.dlse)));
    judge((&attended, &gradients), (&exact.0, &exact.1)).expect("both passes");

    let plain = Problem { softcap: None, bias: None, slopes: None, sinks: None, ..problem };
    let exact = Doubled::define(&plain, |call| call.exact());
    let out = attention(q.view(), k.view(), v.view(), &Mask::causal()).expect("a result");
    close(&flat(out.into_dyn()), &exact.out, ROUNDING).expect("out");
}

#[test]
fn what_does_not_fit() {
    let shape = Shape { batch: 1, heads: 2, kv_heads: 1, queries: 4, keys: 4, dim_k: 3, dim_v: 2 };
    let numbers = vec![0.5; 100];
    let tensor = |shape: [usize; 4]| Tensor::contiguous(&numbers[..shape.iter().product()], shape).expect("a tensor");
    let inputs = Inputs::new(tensor([1, 2, 4, 3]), tensor([1, 1, 4, 3]), tensor([1, 1, 4, 2]));
    let plan = Plan::new(shape, &Mask::full(), &Options::default()).expect("a plan");
    let axis =
        |tensor, axis, has, expected: usize| Err(Error::Axis { tensor, axis, has, expected: expected.to_string() });

    let mut out = [7.0; 16];
    let mut run = |plan: &Plan, inputs: &Inputs<'_, f64, f64>, shape: [usize; 4]| {
        let out = TensorMut::contiguous(&mut out[..shape.iter().product()], shape).expect("a tensor");
        plan.run_f64(inputs, Outputs::new(out), pool())
    };
    assert_eq!(run(&plan, &inputs, [1, 2, 4, 1]), axis("out", "dim", 1, 2));
    let narrow = Inputs { k: tensor([1, 1, 4, 2]), ..inputs };
    assert_eq!(run(&plan, &narrow, [1, 2, 4, 2]), axis("keys", "dim", 2, 3));
    assert!(out.iter().all(|&x| x == 7.0), "something was written");

    let upstream = |lse| Upstream {
        out: tensor([1, 2, 4, 2]),
        lse: tensor(lse),
        out_gradient: tensor([1, 2, 4, 2]),
        lse_gradient: None,
    };
    let (mut dq, mut dk, mut dv, mut more) = (vec![7.0; 24], vec![7.0; 12], vec![7.0; 8], vec![7.0; 4]);
    let mut backward = |plan: &Plan, lse, bias: bool, sinks: bool| {
        let (bias_of, sinks_of) = more.split_at_mut(2);
        let of = TensorMut::contiguous(&mut dq, [1, 2, 4, 3]).expect("a tensor");
        let gradients = Slopes {
            bias: bias.then(|| TensorMut::contiguous(bias_of, [1, 2, 1, 1]).expect("a tensor")),
            sinks: sinks.then_some(sinks_of),
            ..Slopes::new(
                of,
                TensorMut::contiguous(&mut dk, [1, 1, 4, 3]).expect("a tensor"),
                TensorMut::contiguous(&mut dv, [1, 1, 4, 2]).expect("a tensor"),
            )
        };
        plan.backward_f64(&inputs, &upstream(lse), gradients, pool())
    };
    assert_eq!(backward(&plan, [1, 2, 4, 2], false, false), axis("lse", "dim", 2, 1));
    assert_eq!(backward(&plan, [1, 2, 4, 1], true, false), Err(Error::NoTerm { tensor: "bias" }));
    assert_eq!(backward(&plan, [1, 2, 4, 1], false, true), Err(Error::NoTerm { tensor: "sinks" }));
    let segment = |queries| Segment { batch: 0, queries, keys: 0..4 };
    let shared = Sequences::Packed(vec![segment(0..2), segment(2..4)]);
    let shared = Plan::new(shape, &Mask::full(), &Options { sequences: shared, ..Options::default() }).expect("a plan");
    assert_eq!(backward(&shared, [1, 2, 4, 1], false, false), Err(Error::SharedKeys));
    assert!([&dq, &dk, &dv, &more].iter().all(|x| x.iter().all(|&x| x == 7.0)), "something was written");
}
