//! Retrieval against the definition in f64, and what later tokens change.

use ndarray::{Array4, ArrayView4, s};
use proptest::prelude::*;
use regard_graph::{Index, Parameters, Retrieval, Retrieved, Sight};
use regard_oracle::{Pair, Precision, within_twice_plain};

use crate::common::{exact, heads, top};

const PARAMETERS: Parameters = Parameters { links: 6, ef_construction: 30, seed: None };

/// Whether the state is that of these pairs, as near as it must be. Its two parts are rounded once each, and once when they are
/// merged: four units in the last place are allowed where the plain method is off by less.
fn is_of(
    retrieved: &Retrieved,
    inputs: [ArrayView4<'_, f32>; 3],
    allows: &dyn Fn(&Pair) -> bool,
) -> Result<(), String> {
    let (expected, out_error, lse_error) = exact(inputs, allows);
    let floor = |x: &[f64]| {
        4.0 * Precision::F32.ulp(x.iter().filter(|x| x.is_finite()).fold(1.0, |most: f64, x| most.max(x.abs())))
    };
    let (out, lse) = (retrieved.out.as_slice().unwrap(), retrieved.lse.as_slice().unwrap());
    within_twice_plain(out, &expected.out, out_error, floor(&expected.out)).map_err(|error| format!("out: {error}"))?;
    within_twice_plain(lse, &expected.lse, lse_error, floor(&expected.lse)).map_err(|error| format!("lse: {error}"))
}

fn sight() -> impl Strategy<Value = Sight> {
    prop_oneof![Just(Sight::All), Just(Sight::Filtered), Just(Sight::Grown)]
}

type Window = Option<(Option<usize>, Option<usize>)>;

fn windowed(retrieval: Retrieval, window: Window) -> Retrieval {
    match window {
        Some((left, right)) => retrieval.window(left, right),
        None => retrieval,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn retrieval_is_as_defined(
        batch in 1usize..3, kv_heads in 1usize..3, group in 1usize..4,
        queries in 0usize..40, keys in 0usize..60, dim_k in 1usize..20, dim_v in 1usize..20,
        count in 1usize..70, wide in any::<bool>(), sight in sight(), first in 0usize..5,
        window in proptest::option::of((proptest::option::of(0usize..9), proptest::option::of(0usize..9))),
    ) {
        let q = heads(1, [batch, kv_heads * group, queries, dim_k]);
        let k = heads(2, [batch, kv_heads, keys, dim_k]);
        let v = heads(3, [batch, kv_heads, keys, dim_v]);
        let inputs = [q.view(), k.view(), v.view()];
        let width = if wide { keys.max(1) } else { 1 };
        let retrieval = Retrieval::new(count).width(width).sight(sight).first(first).parameters(PARAMETERS);
        let retrieved = windowed(retrieval, window).run(q.view(), k.view(), v.view()).unwrap();

        let seen = |p: i64, j: usize| sight == Sight::All || j as i64 <= p;
        let near = |p: i64, j: usize| {
            let (left, right) = window.unwrap_or_default();
            let left = left.is_none_or(|left| p - left as i64 <= j as i64);
            let right = right.is_none_or(|right| j as i64 <= p + right as i64);
            j < first || window.is_some() && left && right
        };
        for (b, h, i) in ndarray::indices((batch, kv_heads * group, queries)) {
            let p = i as i64 + keys as i64 - queries as i64;
            let visible: Vec<usize> = (0..keys).filter(|&j| seen(p, j)).collect();
            let rows: Vec<_> = visible.iter().map(|&j| k.slice(s![b, h / group, j, ..]).to_vec()).collect();
            let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
            let found: Vec<usize> = (0..keys).filter(|&j| retrieved.sees(b, h, i, j)).collect();
            // What is not near is found, and as many of those as there are among the first.
            prop_assert!(found.iter().all(|&j| seen(p, j)));
            prop_assert!(visible.iter().filter(|&&j| near(p, j)).all(|j| found.contains(j)));
            if wide || count >= keys {
                let best = top(q.slice(s![b, h, i, ..]).as_slice().unwrap(), &rows, count);
                let expected: Vec<usize> =
                    visible.iter().enumerate().filter(|(at, j)| best.contains(at) || near(p, **j)).map(|(_, &j)| j).collect();
                prop_assert_eq!(&found, &expected);
            }
            prop_assert!(found.iter().filter(|&&j| !near(p, j)).count() <= count);
        }
        is_of(&retrieved, inputs, &|pair| retrieved.sees(pair.batch, pair.head, pair.i, pair.j)).unwrap();
        if count >= keys {
            is_of(&retrieved, inputs, &|pair| seen(pair.p, pair.j)).unwrap();
        }
    }

    #[test]
    fn nothing_later_reaches_a_result_of_a_grown_index(
        seq in 2usize..300, cut in 1usize..299, count in 1usize..20, group in 1usize..3, left in 0usize..20,
    ) {
        let cut = cut.min(seq - 1);
        let q = heads(4, [1, 2 * group, seq, 12]);
        let (mut k, mut v) = (heads(5, [1, 2, seq, 12]), heads(6, [1, 2, seq, 7]));
        let retrieval = Retrieval::new(count).width(count + 5).sight(Sight::Grown).window(Some(left), None).first(2);
        let retrieval = retrieval.parameters(PARAMETERS);
        let before = retrieval.run(q.view(), k.view(), v.view()).unwrap();
        // Everything later is another, and larger.
        k.slice_mut(s![.., .., cut.., ..]).mapv_inplace(|x| 3.0 - 5.0 * x);
        v.slice_mut(s![.., .., cut.., ..]).mapv_inplace(|x| -7.0 * x);
        let after = retrieval.run(q.view(), k.view(), v.view()).unwrap();
        let bits = |x: &Array4<f32>| x.slice(s![.., .., ..cut, ..]).mapv(f32::to_bits);
        prop_assert_eq!(bits(&before.out), bits(&after.out));
        prop_assert_eq!(
            before.lse.slice(s![.., .., ..cut]).mapv(f32::to_bits),
            after.lse.slice(s![.., .., ..cut]).mapv(f32::to_bits)
        );
    }
}

#[test]
fn a_filtered_index_attends_to_nothing_later() {
    let (q, k) = (heads(4, [1, 2, 600, 12]), heads(5, [1, 1, 600, 12]));
    let v = heads(6, [1, 1, 600, 5]);
    let retrieval = Retrieval::new(8).sight(Sight::Filtered).window(Some(15), Some(3)).parameters(PARAMETERS);
    let retrieved = retrieval.run(q.view(), k.view(), v.view()).unwrap();
    assert!(retrieved.scans() < 1200, "the graph is used");
    // Values beyond a query change nothing: only which keys are found depends on later keys.
    let mut later = v.clone();
    later.slice_mut(s![.., .., 300.., ..]).fill(f32::NAN);
    let other = retrieval.run(q.view(), k.view(), later.view()).unwrap();
    let upto = s![.., .., ..300, ..];
    assert_eq!(retrieved.out.slice(upto), other.out.slice(upto));
    for (h, i) in (0..2).flat_map(|h| (0..600).map(move |i| (h, i))) {
        assert!(retrieved.keys(0, h, i).iter().all(|&j| j + 15 < i));
        assert!((i + 1..600).all(|j| !retrieved.sees(0, h, i, j)));
    }
}

#[test]
fn indexes_can_be_used_again() {
    let (q, k, v) = (heads(4, [2, 4, 150, 12]), heads(5, [2, 2, 200, 12]), heads(6, [2, 2, 200, 5]));
    let build = |(b, h)| Index::new(k.slice(s![b, h, .., ..]), &PARAMETERS).unwrap();
    let indexes: Vec<Index> = [(0, 0), (0, 1), (1, 0), (1, 1)].map(build).into_iter().collect();
    for sight in [Sight::All, Sight::Filtered] {
        let retrieval = Retrieval::new(9).sight(sight).window(Some(4), Some(0)).parameters(PARAMETERS);
        let built = retrieval.run(q.view(), k.view(), v.view()).unwrap();
        let given = retrieval.run_with(q.view(), k.view(), v.view(), &indexes).unwrap();
        let scans = (built.scans(), given.scans());
        assert_eq!((built.out, built.lse, scans.0), (given.out, given.lse, scans.1));
    }
}
