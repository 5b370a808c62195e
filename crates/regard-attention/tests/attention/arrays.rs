//! Calls through the door for `ndarray`: no pool, no scratch, no strides but the array's own.

use half::{bf16, f16};
use ndarray::{Array4, ArrayView4, Axis};
use proptest::prelude::*;
use regard_attention::{Attention, Error, Options, attention, attention_with};
use regard_masks::Mask;
use regard_oracle::{Problem, Set, Sizes, problems};
use regard_simd::Isa;

use crate::support::{Asked, Outcome, Results, SEED, Slopes, Stored, bits, calls, mask, store, tries};

fn view<T>(x: &[T], shape: [usize; 4]) -> ArrayView4<'_, T> {
    ArrayView4::from_shape(shape, x).expect("numbers for the shape")
}

fn flat<T: Stored, D: ndarray::Dimension>(array: ndarray::Array<T, D>) -> Vec<f32> {
    array.iter().map(|x| x.to_f32()).collect()
}

/// A call of the function, which knows of options but of no bias, slopes or sinks.
fn through_arrays<T: Stored>(problem: &Problem) -> Outcome {
    let sizes = problem.sizes;
    let [q, k, v] = [&problem.q, &problem.k, &problem.v].map(|x| store::<T>(x));
    let (q, k, v) = (view(&q, sizes.q()), view(&k, sizes.k()), view(&v, sizes.v()));
    let options = Asked::new(problem, Isa::best()).options();
    let (out, lse) = attention_with(q, k, v, &mask(&problem.set), &options).expect("a result");
    Outcome { out: flat(out), lse: flat(lse) }
}

/// Both passes through the builder, with all that it takes: the result, the state, and the gradients.
fn step_by_step<T: Stored>(problem: &Problem) -> Result<(Vec<f32>, Outcome, Slopes), Error> {
    let sizes = problem.sizes;
    let Options { sequences, offset, .. } = Asked::new(problem, Isa::best()).options();
    let [q, k, v, dout] = [&problem.q, &problem.k, &problem.v, &problem.dout].map(|x| store::<T>(x));
    let mut call = Attention::new(view(&q, sizes.q()), view(&k, sizes.k()), view(&v, sizes.v()))
        .mask(mask(&problem.set))
        .sequences(sequences)
        .offset(offset);
    if let Some(scale) = problem.scale {
        call = call.scale(scale.into());
    }
    if let Some(cap) = problem.softcap {
        call = call.softcap(cap.into());
    }
    if let Some((shape, x)) = &problem.bias {
        call = call.bias(view(x, *shape));
    }
    if let Some(slopes) = &problem.slopes {
        call = call.alibi(slopes);
    }
    if let Some(sinks) = &problem.sinks {
        call = call.sinks(sinks);
    }
    if let Some(probability) = problem.dropout {
        call = call.dropout(probability, SEED, None);
    }
    let (out, (wide, lse)) = (call.run()?, call.state()?);
    let dlse = view(&problem.dlse, sizes.lse());
    let dlse = dlse.index_axis(Axis(3), 0);
    let gradients = call.backward(out.view(), lse.view(), view(&dout, sizes.out()), Some(dlse))?;
    let slopes = Slopes {
        dq: flat(gradients.q),
        dk: flat(gradients.k),
        dv: flat(gradients.v),
        dbias: gradients.bias.map(flat).unwrap_or_default(),
        dsinks: gradients.sinks.map(flat).unwrap_or_default(),
    };
    Ok((flat(out), Outcome { out: flat(wide), lse: flat(lse) }, slopes))
}

fn is_the_same_call<T: Stored>(problem: &Problem) -> Result<(), TestCaseError> {
    let asked = Asked::new(problem, Isa::best());
    let (narrow, wide) = (asked.run::<T, T>(), asked.run::<T, f32>());
    let expected = asked.backward::<T, f32>(&narrow);
    let (out, outcome, slopes) = step_by_step::<T>(problem).expect("results");
    prop_assert_eq!(bits(&out), bits(&narrow.out));
    let (ours, expected) = (Results { outcome, slopes }, Results { outcome: wide, slopes: expected });
    for ((name, ours), (_, expected)) in ours.bits().into_iter().zip(expected.bits()) {
        prop_assert!(ours == expected, "{name}");
    }
    let plain = Problem { bias: None, slopes: None, sinks: None, ..problem.clone() };
    prop_assert!(through_arrays::<T>(&plain).bits() == Asked::new(&plain, Isa::best()).run::<T, T>().bits());
    Ok(())
}

proptest! {
    #![proptest_config(tries(40))]

    #[test]
    fn give_the_same_bits(problem in prop_oneof![problems(), calls()]) {
        is_the_same_call::<f32>(&problem)?;
        is_the_same_call::<bf16>(&problem)?;
        is_the_same_call::<f16>(&problem)?;
    }
}

#[test]
fn arrays_need_no_order() {
    let sizes = Sizes { batch: 2, heads: 4, kv_heads: 2, queries: 70, keys: 90, dim_k: 20, dim_v: 24 };
    let problem = Problem::of(sizes, Set::Causal, 1);
    // In memory `[batch, seq, heads, dim]`, as projections leave them.
    let array = |x: &[f32], shape: [usize; 4]| -> Array4<f32> {
        view(x, shape).permuted_axes([0, 2, 1, 3]).as_standard_layout().into_owned()
    };
    let (q, k, v) = (array(&problem.q, sizes.q()), array(&problem.k, sizes.k()), array(&problem.v, sizes.v()));
    let swap = |x| ArrayView4::permuted_axes(x, [0, 2, 1, 3]);
    let out = attention(swap(q.view()), swap(k.view()), swap(v.view()), &Mask::causal()).expect("a result");
    assert_eq!(flat(out), through_arrays::<f32>(&problem).out);
}

/// Nothing in, nothing out, and nothing flows back into what the batch does not hold.
#[test]
fn an_empty_batch_has_empty_results() {
    for (queries, keys) in [(0, 0), (1, 2000), (5, 7), (300, 3000)] {
        for mask in
            [Mask::full(), Mask::causal(), Mask::random(0.01, 1).expect("a mask"), Mask::window(Some(9), Some(0))]
        {
            let sizes = Sizes { batch: 0, heads: 4, kv_heads: 2, queries, keys, dim_k: 8, dim_v: 3 };
            let sinks = [1.0, f32::NAN, 2.0, 3.0];
            macro_rules! both_passes {
                ($number:ty, $sinks:expr) => {{
                    let view = |shape| ArrayView4::<$number>::from_shape(shape, &[]).expect("no numbers");
                    let (q, k, v) = (view(sizes.q()), view(sizes.k()), view(sizes.v()));
                    let call = Attention::new(q, k, v).mask(mask.clone()).sinks($sinks);
                    let (out, (_, lse)) = (call.run().expect("a result"), call.state().expect("a state"));
                    assert_eq!((out.shape(), lse.shape()), (&[0, 4, queries, 3][..], &[0, 4, queries][..]));
                    let slopes =
                        call.backward(out.view(), lse.view(), out.view(), Some(lse.view())).expect("gradients");
                    assert_eq!((slopes.q.shape(), slopes.k.shape()), (q.shape(), k.shape()));
                    assert!(slopes.sinks.expect("those of sinks").iter().all(|x| *x == 0.0));
                }};
            }
            both_passes!(f32, &sinks);
            both_passes!(bf16, &sinks);
            both_passes!(f16, &sinks);
            let sinks = sinks.map(f64::from);
            both_passes!(f64, &sinks);
        }
    }
}

#[test]
fn arrays_that_do_not_fit() {
    let array = |shape: [usize; 4]| Array4::<f32>::from_elem(shape, 0.5);
    let call = |[q, k, v]: [[usize; 4]; 3]| {
        attention(array(q).view(), array(k).view(), array(v).view(), &Mask::causal()).map(|_| ())
    };
    let axis =
        |tensor, axis, has, expected: usize| Err(Error::Axis { tensor, axis, has, expected: expected.to_string() });
    let [q, k, v] = [[2, 4, 5, 8], [2, 2, 7, 8], [2, 2, 7, 3]];
    assert_eq!(call([q, k, v]), Ok(()));
    assert_eq!(call([q, [3, 2, 7, 8], v]), axis("keys", "batch", 3, 2));
    assert_eq!(call([q, [2, 2, 7, 9], v]), axis("keys", "dim", 9, 8));
    assert_eq!(call([q, k, [2, 2, 6, 3]]), axis("values", "seq", 6, 7));
    assert_eq!(call([q, k, [2, 1, 7, 3]]), axis("values", "heads", 1, 2));
}

#[test]
fn results_that_no_memory_holds_are_refused() {
    // Without keys the values take no memory, however wide they are.
    for dim_v in [1 << 44, isize::MAX as usize] {
        let nothing = |dim| ArrayView4::<f32>::from_shape([1, 1, 0, dim], &[]).expect("an empty array");
        let (q, k, v) = (Array4::<f32>::zeros([1, 1, 8, 4]), nothing(4), nothing(dim_v));
        assert!(matches!(attention(q.view(), k, v, &Mask::causal()), Err(Error::Memory(_))));
        let call = Attention::new(q.view(), k, v);
        assert!(matches!(call.run(), Err(Error::Memory(_))));
        assert!(matches!(call.state(), Err(Error::Memory(_))));
    }
}

#[test]
fn an_array_that_runs_backwards_is_refused() {
    let array = |shape: [usize; 4]| Array4::<f32>::from_elem(shape, 0.5);
    let (q, k, v) = (array([2, 4, 5, 8]), array([2, 2, 7, 8]), array([2, 2, 7, 3]));
    for (tensor, name) in ["queries", "keys", "values"].into_iter().enumerate() {
        let mut arrays = [q.view(), k.view(), v.view()];
        arrays[tensor].invert_axis(Axis(2));
        let [q, k, v] = arrays;
        let error = attention(q, k, v, &Mask::causal()).expect_err("an axis runs backwards").to_string();
        assert!(error.contains(name), "{error}");
    }
}
