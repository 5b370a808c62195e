//! A beginning that many sequences share: they are as if each had it, within rounding.

use half::bf16;
use proptest::prelude::*;
use regard_attention::{
    Dropout, Error, Inputs, Offset, Options, Outputs, Segment, Sequences, Shape, SharedPrefix, Terms,
};
use regard_masks::Mask;
use regard_memory::{Arena, Tensor, TensorMut};
use regard_oracle::{Problem, Set, Sizes, numbers};
use regard_simd::Isa;

use crate::support::{Asked, Forward, Outcome, Stored, mask, on, pool, shape_of, soiled, store, tries};

/// A call in whole, of which all sequences have the first keys in common.
fn shared() -> impl Strategy<Value = (Problem, usize)> {
    let dim = || prop::sample::select(vec![1, 16, 33]);
    let prefix = prop_oneof![1 => Just(0), 3 => 1..200_usize, 1 => 1025..1400_usize];
    let sizes = (1..=3_usize, 1..=2_usize, 1..=3_usize, 1..=5_usize, prefix, 0..90_usize, dim(), dim());
    let options = (prop::option::of(0.1f32..2.0), prop::option::of(1f32..30.0), any::<bool>(), any::<u64>());
    (sizes, options).prop_map(|((batch, kv_heads, group, queries, prefix, own, dim_k, dim_v), options)| {
        let (scale, softcap, sinks, seed) = options;
        let heads = kv_heads * group;
        let sizes = Sizes { batch, heads, kv_heads, queries, keys: prefix + own, dim_k, dim_v };
        // Queries of no key of their own still see all of the beginning.
        let set = Set::Prefix(prefix) | Set::Causal;
        let call = Problem { scale, softcap, sinks: sinks.then(|| vec![0.0; heads]), ..Problem::of(sizes, set, seed) };
        let mut call = call.redrawn(seed);
        for (x, dim) in [(&mut call.k, dim_k), (&mut call.v, dim_v)] {
            let entry = kv_heads * (prefix + own) * dim;
            let (first, others) = x.split_at_mut(entry);
            for (at, x) in others.iter_mut().enumerate() {
                if at % ((prefix + own) * dim) < prefix * dim {
                    *x = first[at % entry];
                }
            }
        }
        (call, prefix)
    })
}

/// Some keys of each head of some batch entries.
fn part(x: &[f32], [_, heads, seq, dim]: [usize; 4], batch: usize, keys: std::ops::Range<usize>) -> Vec<f32> {
    let rows = (0..batch * heads).map(|head| head * seq);
    rows.flat_map(|first| &x[(first + keys.start) * dim..(first + keys.end) * dim]).copied().collect()
}

fn run<T: Stored>(problem: &Problem, prefix: usize, isa: Isa) -> Outcome {
    let sizes = problem.sizes;
    let own = sizes.keys - prefix;
    let options =
        Options { sequences: Default::default(), offset: Default::default(), ..Asked::new(problem, isa).options() };
    let shape = Shape { keys: own, ..shape_of(sizes) };
    let mut attention = SharedPrefix::new(shape, prefix, &mask(&Set::Causal), &options).expect("a plan");
    let of = |x: &[f32], shape, batch, keys| store::<T>(&part(x, shape, batch, keys));
    let q = store::<T>(&problem.q);
    let (k, v) = (
        of(&problem.k, sizes.k(), sizes.batch, prefix..sizes.keys),
        of(&problem.v, sizes.v(), sizes.batch, prefix..sizes.keys),
    );
    let (prefix_k, prefix_v) = (of(&problem.k, sizes.k(), 1, 0..prefix), of(&problem.v, sizes.v(), 1, 0..prefix));
    let [batch, heads, _, dim_k] = sizes.k();
    let inputs = Inputs {
        terms: Terms { sinks: problem.sinks.as_deref(), ..Terms::default() },
        ..Inputs::new(
            Tensor::contiguous(&q, sizes.q()).expect("queries"),
            Tensor::contiguous(&k, [batch, heads, own, dim_k]).expect("keys"),
            Tensor::contiguous(&v, [batch, heads, own, sizes.dim_v]).expect("values"),
        )
    };
    let mut out = vec![T::from_f32(f32::NAN); sizes.out().iter().product()];
    let mut lse = vec![f32::NAN; sizes.lse().iter().product()];
    attention
        .run(
            &inputs,
            Tensor::contiguous(&prefix_k, [1, heads, prefix, dim_k]).expect("keys"),
            Tensor::contiguous(&prefix_v, [1, heads, prefix, sizes.dim_v]).expect("values"),
            Outputs::state(
                TensorMut::contiguous(&mut out, sizes.out()).expect("a tensor"),
                TensorMut::contiguous(&mut lse, sizes.lse()).expect("a tensor"),
            ),
            &mut soiled(),
            pool(),
        )
        .expect("a run");
    Outcome { out: out.iter().map(|x| x.to_f32()).collect(), lse }
}

fn is_right<T: Stored>(problem: &Problem, prefix: usize) -> Result<(), TestCaseError> {
    let problem = problem.rounded(T::PRECISIONS.stored);
    let reference = Forward::new(&problem, T::PRECISIONS);
    for isa in Isa::available() {
        on(isa, reference.judge(&run::<T>(&problem, prefix, isa)))?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(tries(40))]

    #[test]
    fn is_there_for_all((problem, prefix) in shared()) {
        is_right::<f32>(&problem, prefix)?;
        is_right::<bf16>(&problem, prefix)?;
    }
}

const SHAPE: Shape = Shape { batch: 2, heads: 4, kv_heads: 2, queries: 3, keys: 5, dim_k: 8, dim_v: 3 };

#[test]
fn what_has_no_meaning_over_a_prefix_is_refused() {
    let new = |options| SharedPrefix::new(SHAPE, 7, &Mask::causal(), &options).map(|_| ());
    let segment = Segment { batch: 0, queries: 0..3, keys: 0..5 };
    for sequences in [Sequences::Packed(vec![segment]), Sequences::Lengths { queries: None, keys: Some(vec![5, 5]) }] {
        assert_eq!(new(Options { sequences, ..Options::default() }), Err(Error::Unshared));
    }
    let dropout = Some(Dropout { probability: 0.5, seed: 1 });
    assert_eq!(new(Options { dropout, ..Options::default() }), Err(Error::Unshared));
    assert_eq!(new(Options { offset: Offset::Each(vec![0, 0]), ..Options::default() }), Err(Error::Unshared));
    assert!(new(Options { scale: Some(f64::NAN), ..Options::default() }).is_err());
    assert!(
        SharedPrefix::new(Shape { queries: usize::MAX, ..SHAPE }, 7, &Mask::causal(), &Options::default()).is_err()
    );
}

/// A call of these shapes: queries, own keys and values, shared ones, out and lse. Nothing is written where it is refused.
fn call(shapes: [[usize; 4]; 7], bias: bool, slopes: usize) -> Result<(), Error> {
    let mut attention = SharedPrefix::new(SHAPE, 7, &Mask::causal(), &Options::default())?;
    let given = shapes.map(|shape| numbers(1, shape.iter().product()));
    let of = |at: usize| Tensor::contiguous(&given[at], shapes[at]).expect("a tensor");
    let terms =
        Terms { bias: bias.then(|| of(0)), slopes: (slopes > 0).then(|| &given[0][..slopes]), ..Terms::default() };
    let inputs = Inputs { terms, ..Inputs::new(of(0), of(1), of(2)) };
    let [mut out, mut lse] = [5, 6].map(|at: usize| vec![-7.25; given[at].len()]);
    let outputs =
        Outputs::state(TensorMut::contiguous(&mut out, shapes[5])?, TensorMut::contiguous(&mut lse, shapes[6])?);
    let result = attention.run(&inputs, of(3), of(4), outputs, &mut Arena::new(), pool());
    assert!(result.is_ok() || out.iter().chain(&lse).all(|&x: &f32| x == -7.25), "something was written");
    result
}

#[test]
fn every_axis_of_every_tensor_is_looked_at() {
    let fitting = [[2, 4, 3, 8], [2, 2, 5, 8], [2, 2, 5, 3], [1, 2, 7, 8], [1, 2, 7, 3], [2, 4, 3, 3], [2, 4, 3, 1]];
    let names = ["queries", "keys", "values", "prefix keys", "prefix values", "out", "lse"];
    assert_eq!(call(fitting, false, 0), Ok(()));
    for (tensor, name) in names.into_iter().enumerate() {
        for (along, axis) in ["batch", "heads", "seq", "dim"].into_iter().enumerate() {
            let right: usize = fitting[tensor][along];
            for wrong in [0, right + 1] {
                let mut shapes = fitting;
                shapes[tensor][along] = wrong;
                let expected = Error::Axis { tensor: name, axis, has: wrong, expected: right.to_string() };
                assert_eq!(call(shapes, false, 0), Err(expected));
            }
        }
    }
    assert!(call(fitting, true, 0).is_err(), "a bias");
    assert_eq!(call(fitting, false, 4), Err(Error::Unshared));
}
