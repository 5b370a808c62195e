//! Refusals name what is wrong and what was expected.

use ndarray::{Array2, Array4};
use regard_graph::{Error, GrowingIndex, Index, Measure, Parameters, Retrieval, Sight};
use regard_masks::Mask;

use crate::common::{clustered, heads};

fn says<T>(result: Result<T, Error>, expected: &str) {
    match result {
        Ok(_) => panic!("is refused: {expected}"),
        Err(error) => assert_eq!(error.to_string(), expected),
    }
}

#[test]
fn of_indexes() {
    let new = |shape: (usize, usize)| Index::new(Array2::zeros(shape).view(), &Parameters::default());
    says(new((0, 4)), "`keys` has nodes 0, expected at least 1");
    says(new((4, 0)), "`keys` has dim 0, expected at least 1");
    for bad in [f32::NAN, f32::INFINITY] {
        let mut keys = clustered(1, 9, 4, 3);
        keys[[7, 2]] = bad;
        let expected = format!("`keys` holds {bad} at [7, 2], expected finite numbers");
        says(Index::new(keys.view(), &Parameters::default()), &expected);
    }
    let with = |parameters: &Parameters| Index::new(clustered(1, 9, 4, 3).view(), parameters);
    let default = Parameters::default();
    for links in [0, 1, 256] {
        says(with(&Parameters { links, ..default }), &format!("links is {links}, it must be 2 to 255"));
    }
    for ef_construction in [0, usize::MAX] {
        let expected = format!("ef_construction is {ef_construction}, it must be 1 to 65536");
        says(with(&Parameters { ef_construction, ..default }), &expected);
    }

    let index = with(&default).unwrap();
    let highest = index.highest_level();
    let expected = format!("level {} of an index whose levels are 0 to {highest}", highest + 1);
    says(index.layers(highest + 1), &expected);
    says(index.neighbours(highest + 1, 0), &expected);
    says(index.neighbours(0, 9), "node 9 of an index of 9 nodes");
    says(index.nearest(&[0.0; 3], 1, 1), "`query` has dim 3, expected 4");
    says(index.nearest(&[0.0; 4], 0, 1), "count is 0, it must be at least 1");
    says(index.nearest(&[0.0; 4], 1, 0), "width is 0, it must be at least 1");
    says(index.nearest(&[0.0, f32::NAN, 0.0, 0.0], 1, 1), "`query` holds NaN at [1], expected finite numbers");
    says(index.nearest_of_first(&[0.0; 4], 1, 1, 10), "node 9 of an index of 9 nodes");
    // No number is too large to be asked for.
    assert_eq!(index.nearest(&[0.0; 4], usize::MAX, usize::MAX).unwrap().keys.len(), 9);
    assert_eq!(index.nearest(&[0.0; 4], 1, usize::MAX).unwrap().keys.len(), 1);
    // Twice 2⁶³ is more than any number of nodes, not none.
    let index = Index::new(clustered(1, 10, 4, 3).view(), &default).unwrap();
    assert!(index.nearest_of_first(&[0.0; 4], 1, 1 << 63, 5).unwrap().exact);
}

#[test]
fn of_growing_indexes() {
    says(GrowingIndex::new(0, &Parameters::default()), "`keys` has dim 0, expected at least 1");
    let seeded = Parameters { seed: Some(3), ..Parameters::default() };
    says(GrowingIndex::new(4, &seeded), "seed is 3, it must be none where keys are inserted in their own order");
    let mut index = GrowingIndex::new(2, &Parameters::default()).unwrap();
    says(index.insert(&[1.0]), "`key` has dim 1, expected 2");
    says(index.insert(&[1.0, f32::NEG_INFINITY]), "`key` holds -inf at [1], expected finite numbers");
    assert_eq!(index.nodes(), 0);
    says(index.nearest(&[1.0], 1, 1), "`query` has dim 1, expected 2");
}

#[test]
fn of_retrieval() {
    let (q, k, v) = (heads(1, [1, 4, 9, 6]), heads(2, [1, 2, 9, 6]), heads(3, [1, 2, 9, 5]));
    let run = |retrieval: &Retrieval| retrieval.run(q.view(), k.view(), v.view());
    says(run(&Retrieval::new(0)), "count is 0, it must be at least 1");
    says(run(&Retrieval::new(1).width(0)), "width is 0, it must be at least 1");
    says(run(&Retrieval::new(1).scale(-1.0)), "scale is -1, it must be positive and finite");
    says(run(&Retrieval::new(1).scale(f64::NAN)), "scale is NaN, it must be positive and finite");
    let seeded = Parameters { seed: Some(3), ..Parameters::default() };
    let grown = Retrieval::new(1).sight(Sight::Grown);
    says(
        run(&Retrieval::new(99).sight(Sight::Grown).parameters(seeded)),
        "seed is 3, it must be none where keys are inserted in their own order",
    );
    says(
        run(&grown.clone().parameters(seeded)),
        "seed is 3, it must be none where keys are inserted in their own order",
    );
    // What fits in f64 and not in f32 is attention's to refuse.
    assert!(matches!(run(&Retrieval::new(1).scale(1e300)), Err(Error::Attention(_))));

    let mut bad = k.clone();
    bad[[0, 1, 8, 5]] = f32::NAN;
    let expected = "`keys` holds NaN at [0, 1, 8, 5], expected finite numbers";
    says(Retrieval::new(1).run(q.view(), bad.view(), v.view()), expected);
    says(Retrieval::new(99).run(q.view(), bad.view(), v.view()), expected);
    let mut bad = q.clone();
    bad[[0, 3, 0, 0]] = f32::INFINITY;
    let expected = "`queries` holds inf at [0, 3, 0, 0], expected finite numbers";
    says(Retrieval::new(1).run(bad.view(), k.view(), v.view()), expected);

    let other: Array4<f32> = heads(2, [1, 3, 9, 6]);
    let result = Retrieval::new(1).run(q.view(), other.view(), other.view());
    says(result, "`queries` has heads 4, expected a multiple of the 3 key/value heads");
    let other = heads(2, [1, 2, 9, 7]);
    says(Retrieval::new(1).run(q.view(), other.view(), v.view()), "`keys` has dim 7, expected 6");

    let index = || Index::new(clustered(1, 9, 6, 3).view(), &Parameters::default()).unwrap();
    let with = |retrieval: &Retrieval, indexes: &[Index]| retrieval.run_with(q.view(), k.view(), v.view(), indexes);
    says(with(&Retrieval::new(1), &[index()]), "`indexes` has heads 1, expected 2");
    says(with(&grown, &[index(), index()]), "sight is Grown, it must be All or Filtered with indexes over all keys");
    let small = Index::new(clustered(1, 8, 6, 3).view(), &Parameters::default()).unwrap();
    says(with(&Retrieval::new(1), &[index(), small]), "`indexes` has nodes 8, expected 9");
    let flat = Index::new(clustered(1, 9, 5, 3).view(), &Parameters::default()).unwrap();
    says(with(&Retrieval::new(1), &[flat, index()]), "`indexes` has dim 5, expected 6");
}

#[test]
fn of_reports() {
    let (q, k) = (heads(1, [1, 4, 9, 6]), heads(2, [1, 2, 9, 6]));
    let measure = Measure::new(q.view(), k.view());
    says(measure.clone().top(0).mask(&Mask::full()), "top is 0, it must be at least 1");
    says(measure.clone().scale(0.0).mask(&Mask::full()), "scale is 0, it must be positive and finite");
    let varies = Mask::by_head([Mask::full(), Mask::causal(), Mask::full()]).unwrap();
    assert!(matches!(measure.mask(&varies), Err(Error::Attention(_))));
    let other = heads(2, [1, 2, 8, 6]);
    let retrieved = Retrieval::new(1).run(q.view(), other.view(), other.view()).unwrap();
    says(measure.retrieved(&retrieved), "`retrieved` has keys 8, expected 9");
    assert!(Measure::new(q.view(), heads(2, [2, 2, 9, 6]).view()).mask(&Mask::full()).is_err());

    let all = Retrieval::new(2).run(q.view(), k.view(), k.view()).unwrap();
    let expected =
        "the mask of exact attention is one that lacks pairs which the retrieval saw, it must be one that has them all";
    says(measure.clone().of(Mask::causal()).retrieved(&all), expected);
    let whole = Retrieval::new(9).run(q.view(), k.view(), k.view()).unwrap();
    says(measure.clone().of(Mask::causal()).retrieved(&whole), expected);
    says(
        measure.clone().scale(0.5).retrieved(&Retrieval::new(2).scale(0.25).run(q.view(), k.view(), k.view()).unwrap()),
        "scale is 0.5, it must be that of the retrieval, 0.25",
    );
    let mut cut = all.clone();
    cut.lse = cut.lse.slice(ndarray::s![.., .., ..5]).to_owned();
    says(measure.retrieved(&cut), "`retrieved lse` has queries 5, expected 9");
    // Finite numbers, and scores that are not.
    let large = q.mapv(|_| 1e20);
    let error = Measure::new(large.view(), k.mapv(|_| 1e20).view()).mask(&Mask::causal()).unwrap_err();
    assert!(error.to_string().starts_with("`log-sum-exps of exact attention` holds "), "{error}");
}
