//! What does not fit is named, with what it has and what was expected.

use regard_attention::{Cache, CacheDtype, Error, Inputs, Options, Outputs, Plan, Shape, Terms, attention};
use regard_masks::Mask;
use regard_memory::{Arena, Tensor, TensorMut};
use regard_simd::Isa;

use crate::support::{numbers, pool};

const SHAPE: Shape = Shape { batch: 2, heads: 4, kv_heads: 2, queries: 5, keys: 7, dim_k: 8, dim_v: 3 };

/// The shapes of queries, keys, values, out and lse that fit.
const FITTING: [[usize; 4]; 5] = [[2, 4, 5, 8], [2, 2, 7, 8], [2, 2, 7, 3], [2, 4, 5, 3], [2, 4, 5, 1]];
const NAMES: [&str; 5] = ["queries", "keys", "values", "out", "lse"];
const AXES: [&str; 4] = ["batch", "heads", "seq", "dim"];

fn run(shapes: [[usize; 4]; 5]) -> Result<(), Error> {
    let plan = Plan::new(SHAPE, &Mask::causal(), &Options::default())?;
    let [q, k, v, mut out, mut lse] = shapes.map(|shape| numbers(1, shape.iter().product()));
    let inputs = Inputs::new(
        Tensor::contiguous(&q, shapes[0])?,
        Tensor::contiguous(&k, shapes[1])?,
        Tensor::contiguous(&v, shapes[2])?,
    );
    let (out, lse) = (TensorMut::contiguous(&mut out, shapes[3])?, TensorMut::contiguous(&mut lse, shapes[4])?);
    plan.run(&inputs, Outputs::state(out, lse), &mut Arena::new(), pool())
}

fn axis(tensor: &'static str, axis: &'static str, has: usize, expected: impl ToString) -> Error {
    Error::Axis { tensor, axis, has, expected: expected.to_string() }
}

#[test]
fn every_axis_of_every_tensor_is_looked_at() {
    assert_eq!(run(FITTING), Ok(()));
    for tensor in 0..5 {
        for along in 0..4 {
            for wrong in [0, FITTING[tensor][along] + 1] {
                let mut shapes = FITTING;
                shapes[tensor][along] = wrong;
                let expected = axis(NAMES[tensor], AXES[along], wrong, FITTING[tensor][along]);
                assert_eq!(run(shapes), Err(expected));
            }
        }
    }
    let text = axis("keys", "dim", 9, 8).to_string();
    assert_eq!(text, "`keys` has dim 9, expected 8");
}

#[test]
fn shapes_that_no_call_has() {
    let plan = |shape| Plan::new(shape, &Mask::full(), &Options::default()).map(|_| ());
    let groups = |heads, kv_heads: usize| {
        Err(axis("queries", "heads", heads, format!("a multiple of the {kv_heads} key/value heads")))
    };
    assert_eq!(plan(Shape { heads: 5, ..SHAPE }), groups(5, 2));
    assert_eq!(plan(Shape { heads: 1, ..SHAPE }), groups(1, 2));
    assert_eq!(plan(Shape { kv_heads: 0, ..SHAPE }), groups(4, 0));
    assert_eq!(plan(Shape { dim_k: 0, ..SHAPE }), Err(axis("queries", "dim", 0, "at least 1")));
}

#[test]
fn scales_are_finite() {
    for scale in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 3e38, f64::MIN] {
        let error = Plan::new(SHAPE, &Mask::full(), &Options { scale: Some(scale), ..Options::default() });
        let error = error.expect_err("no scale");
        assert!(matches!(error, Error::Option { option: "scale", .. }), "{error}");
    }
}

#[test]
fn a_size_that_cannot_be_leaves_the_plan_as_it_was() {
    let mut plan = Plan::new(SHAPE, &Mask::causal(), &Options::default()).expect("a plan");
    let before = plan.to_string();
    assert!(plan.resize(usize::MAX, usize::MAX).is_err());
    assert_eq!((plan.shape(), plan.to_string()), (SHAPE, before));
}

#[test]
fn arrays_that_do_not_fit() {
    let array = |shape: [usize; 4]| ndarray::Array4::<f32>::from_elem(shape, 0.5);
    let call = |[q, k, v]: [[usize; 4]; 3]| {
        attention(array(q).view(), array(k).view(), array(v).view(), &Mask::causal()).map(|_| ())
    };
    let [q, k, v] = [FITTING[0], FITTING[1], FITTING[2]];
    assert_eq!(call([q, k, v]), Ok(()));
    assert_eq!(call([q, [3, 2, 7, 8], v]), Err(axis("keys", "batch", 3, 2)));
    assert_eq!(call([q, [2, 2, 7, 9], v]), Err(axis("keys", "dim", 9, 8)));
    assert_eq!(call([q, k, [2, 2, 6, 3]]), Err(axis("values", "seq", 6, 7)));
    assert_eq!(call([q, k, [2, 1, 7, 3]]), Err(axis("values", "heads", 1, 2)));
    let mut backwards = array(q);
    backwards.invert_axis(ndarray::Axis(2));
    let error = attention(backwards.view(), array(k).view(), array(v).view(), &Mask::causal());
    let error = error.expect_err("an axis runs backwards").to_string();
    assert!(error.contains("queries"), "{error}");
}

#[test]
fn caches() {
    for (sizes, option) in
        [([0, 8, 3, 9], "kv_heads"), ([2, 0, 3, 9], "dim_k"), ([2, 8, 0, 9], "dim_v"), ([2, 8, 3, 0], "capacity")]
    {
        let [kv_heads, dim_k, dim_v, capacity] = sizes;
        let error = Cache::new(CacheDtype::F16, kv_heads, dim_k, dim_v, capacity).map(|_| ());
        assert_eq!(error, Err(Error::Option { option, has: 0.0, expected: "at least 1" }));
    }
    assert!(Cache::new(CacheDtype::F32, 2, 8, 3, usize::MAX).is_err());

    let mut cache = Cache::new(CacheDtype::F32, 2, 8, 3, 9).expect("a cache");
    let mut append = |k: [usize; 4], v: [usize; 4]| {
        let [keys, values] = [k, v].map(|shape| numbers(1, shape.iter().product()));
        cache.append(Tensor::contiguous(&keys, k)?, Tensor::contiguous(&values, v)?, Isa::best(), pool())
    };
    assert_eq!(append([2, 2, 4, 8], [1, 2, 4, 3]), Err(axis("keys", "batch", 2, 1)));
    assert_eq!(append([1, 2, 4, 7], [1, 2, 4, 3]), Err(axis("keys", "dim", 7, 8)));
    assert_eq!(append([1, 2, 4, 8], [1, 2, 3, 3]), Err(axis("values", "seq", 3, 4)));
    assert_eq!(append([1, 2, 4, 8], [1, 1, 4, 3]), Err(axis("values", "heads", 1, 2)));
    assert_eq!(append([1, 2, 4, 8], [1, 2, 4, 3]), Ok(()));

    let run = |shape: Shape, q: [usize; 4], out: [usize; 4], lse: [usize; 4]| {
        let [numbers, mut to, mut sums] = [q, out, lse].map(|shape| numbers(1, shape.iter().product()));
        let plan = Plan::new(shape, &Mask::causal(), &Options::default())?;
        let (to, sums) = (TensorMut::contiguous(&mut to, out)?, TensorMut::contiguous(&mut sums, lse)?);
        let q = Tensor::contiguous(&numbers, q)?;
        plan.run_cached(q, &[&cache], Terms::default(), Outputs::state(to, sums), &mut Arena::new(), pool())
    };
    let shape = Shape { batch: 1, queries: 1, keys: 4, ..SHAPE };
    let (q, out, lse) = ([1, 4, 1, 8], [1, 4, 1, 3], [1, 4, 1, 1]);
    assert_eq!(run(shape, q, out, lse), Ok(()));
    assert_eq!(run(Shape { keys: 5, ..shape }, q, out, lse), Err(axis("cache", "seq", 4, 5)));
    let wide = run(Shape { dim_v: 4, ..shape }, q, [1, 4, 1, 4], lse);
    assert_eq!(wide, Err(axis("cached values", "dim", 3, 4)));
    assert_eq!(run(shape, [2, 4, 1, 8], out, lse), Err(axis("queries", "batch", 2, 1)));
    assert_eq!(run(shape, q, [1, 4, 2, 3], lse), Err(axis("out", "seq", 2, 1)));
    assert_eq!(run(shape, q, out, [1, 4, 1, 2]), Err(axis("lse", "dim", 2, 1)));
}
