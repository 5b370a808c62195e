//! Scores on request, against their definition.

use half::{bf16, f16};
use proptest::prelude::*;
use regard_attention::{Chosen, Element, Error, Inputs, Options, Plan, Real, Shape, Stage, Terms};
use regard_masks::Mask;
use regard_memory::Tensor;
use regard_oracle::{Precision, Problem, problems};

use crate::double::large;
use crate::support::{Doubled, close, store, tries};

const STAGES: [(Stage, regard_oracle::Stage); 4] = [
    (Stage::Raw, regard_oracle::Stage::Raw),
    (Stage::Capped, regard_oracle::Stage::Capped),
    (Stage::Masked, regard_oracle::Stage::Masked),
    (Stage::Weights, regard_oracle::Stage::Weights),
];

/// Indices of an axis: some, in any order, some of them twice.
fn choose(picks: &[usize], extent: usize) -> Vec<usize> {
    picks.iter().filter_map(|pick| pick.checked_rem(extent)).collect()
}

/// Whether all stages of the chosen rows are as the definition says, to the precision in which they are given.
fn are_right<T: Real>(
    problem: &Problem,
    inputs: &Inputs<'_, T, T::Wide>,
    picks: &[usize],
    tolerance: f64,
) -> Result<(), TestCaseError> {
    let sizes = problem.sizes;
    let [batch, heads, rows] = [sizes.batch, sizes.heads, sizes.queries].map(|extent| choose(picks, extent));
    let plan = Doubled::new(problem).plan();
    for (stage, defined) in STAGES {
        let ours = plan.scores(inputs, stage, Chosen { batch: &batch, heads: &heads, rows: &rows }).expect("scores");
        prop_assert_eq!(ours.dim(), (batch.len(), heads.len(), rows.len(), sizes.keys));
        let exact: Vec<f64> = Doubled::define(problem, |call| {
            let each = batch.iter().flat_map(|&b| heads.iter().map(move |&h| (b, h)));
            each.flat_map(|(b, h)| call.scores(defined, b, h, &rows)).collect()
        });
        let ours: Vec<f64> = ours.iter().map(|&x| x.into()).collect();
        close(&ours, &exact, tolerance).map_err(|what| TestCaseError::fail(format!("{stage:?}: {what}")))?;
    }
    Ok(())
}

/// The same of numbers that are stored in 32 bits or less. Scores are rounded once, to f32.
fn are_right_in<T: Element>(problem: &Problem, picks: &[usize], precision: Precision) -> Result<(), TestCaseError> {
    let problem = problem.rounded(precision);
    let Problem { sizes, q, k, v, bias, slopes, sinks, .. } = &problem;
    let [q, k, v] = [q, k, v].map(|x| store::<T>(x));
    let bias = bias.as_ref().map(|(shape, x)| Tensor::contiguous(x, *shape).expect("a bias"));
    let terms = Terms { bias, slopes: slopes.as_deref(), sinks: sinks.as_deref(), sequence_ids: None };
    let q = Tensor::contiguous(&q, sizes.q()).expect("queries");
    let k = Tensor::contiguous(&k, sizes.k()).expect("keys");
    let v = Tensor::contiguous(&v, sizes.v()).expect("values");
    are_right(&problem, &Inputs { terms, ..Inputs::new(q, k, v) }, picks, f32::EPSILON.into())
}

proptest! {
    #![proptest_config(tries(100))]

    #[test]
    fn of_any_rows(problem in problems(), picks in prop::collection::vec(any::<usize>(), 0..6)) {
        are_right(&problem, &Doubled::new(&problem).inputs(), &picks, 1e-12)?;
        are_right_in::<f32>(&problem, &picks, Precision::F32)?;
        are_right_in::<bf16>(&problem, &picks, Precision::Bf16)?;
        are_right_in::<f16>(&problem, &picks, Precision::F16)?;
    }
}

proptest! {
    #![proptest_config(tries(8))]

    #[test]
    fn of_many_keys(problem in large(), picks in prop::collection::vec(any::<usize>(), 1..6)) {
        are_right(&problem, &Doubled::new(&problem).inputs(), &picks, 1e-12)?;
    }
}

#[test]
fn what_there_is_not_is_named() {
    let shape = Shape { batch: 2, heads: 4, kv_heads: 2, queries: 3, keys: 5, dim_k: 2, dim_v: 1 };
    let numbers = vec![0.5f32; 100];
    let tensor = |shape: [usize; 4]| Tensor::contiguous(&numbers[..shape.iter().product()], shape).expect("a tensor");
    let inputs = Inputs::new(tensor([2, 4, 3, 2]), tensor([2, 2, 5, 2]), tensor([2, 2, 5, 1]));
    let plan = Plan::new(shape, &Mask::causal(), &Options::default()).expect("a plan");
    let ask = |inputs, batch: &[usize], heads: &[usize], rows: &[usize]| {
        plan.scores(inputs, Stage::Raw, Chosen { batch, heads, rows }).map(|scores| scores.dim())
    };
    let axis = |tensor, axis, has, expected: &str| Err(Error::Axis { tensor, axis, has, expected: expected.into() });
    assert_eq!(ask(&inputs, &[1], &[3, 0], &[2]), Ok((1, 2, 1, 5)));
    assert_eq!(ask(&inputs, &[0, 2], &[3], &[2]), axis("chosen batch entries", "batch", 2, "less than 2"));
    assert_eq!(ask(&inputs, &[1], &[4], &[2]), axis("chosen heads", "heads", 4, "less than 4"));
    assert_eq!(ask(&inputs, &[1], &[3], &[2, 3]), axis("chosen rows", "seq", 3, "less than 3"));
    let short = Inputs { k: tensor([2, 2, 4, 2]), ..inputs };
    assert_eq!(ask(&short, &[1], &[3], &[2]), axis("keys", "seq", 4, "5"));
}
