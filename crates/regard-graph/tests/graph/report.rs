//! Reports against shares that are counted and summed in f64.

use ndarray::s;
use regard_graph::{Index, Measure, Parameters, Report, Retrieval, Sight};
use regard_masks::{Edges, Mask};

use crate::common::{exact, heads, top};

/// Whether a query (batch entry, head, number) sees a key.
type Sees<'a> = Box<dyn Fn(usize, usize, usize, usize) -> bool + 'a>;

#[test]
fn shares_are_as_defined() {
    let (q, k) = (heads(1, [2, 4, 90, 12]), heads(2, [2, 2, 110, 12]));
    let inputs = [q.view(), k.view(), k.view()];
    let index = Index::new(k.slice(s![0, 0, .., ..]), &Parameters { links: 3, ..Parameters::default() }).unwrap();
    let retrieval = Retrieval::new(6).width(6).sight(Sight::Filtered).window(Some(3), None).first(1);
    let retrieved = retrieval.run(q.view(), k.view(), k.view()).unwrap();
    let masks = [
        Mask::full(),
        Mask::by_head([Mask::window(Some(3), Some(9)), Mask::full(), !Mask::full(), Mask::prefix(4)]).unwrap(),
        index.edges(Edges::Directed).unwrap(),
    ];
    for of in [Mask::full(), Mask::causal()] {
        let measure = Measure::new(q.view(), k.view()).of(of.clone()).top(5);
        let mut cases: Vec<(Report, Sees<'_>)> = Vec::new();
        for mask in &masks {
            let sees = |b, h, i, j| mask.select(b, h).allows(i as i64 + 20, j, 110) && of.allows(i as i64 + 20, j, 110);
            cases.push((measure.mask(mask).unwrap(), Box::new(sees)));
        }
        if of == Mask::causal() {
            cases.push((measure.retrieved(&retrieved).unwrap(), Box::new(|b, h, i, j| retrieved.sees(b, h, i, j))));
        }
        let (all, ..) = exact(inputs, &|pair| of.allows(pair.p, pair.j, 110));
        for (report, sees) in cases {
            let (part, ..) = exact(inputs, &|pair| sees(pair.batch, pair.head, pair.i, pair.j));
            let (mut masses, mut recalls, mut kept, mut pairs) = (Vec::new(), Vec::new(), 0, 0);
            for (row, (b, h, i)) in ndarray::indices((2, 4, 90)).into_iter().enumerate() {
                masses.push((part.lse[row] - all.lse[row]).exp());
                let visible: Vec<usize> = (0..110).filter(|&j| of.allows(i as i64 + 20, j, 110)).collect();
                let rows: Vec<Vec<f32>> = visible.iter().map(|&j| k.slice(s![b, h / 2, j, ..]).to_vec()).collect();
                let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
                let best = top(q.slice(s![b, h, i, ..]).as_slice().unwrap(), &rows, 5);
                recalls.push(best.iter().filter(|&&at| sees(b, h, i, visible[at])).count() as f64 / best.len() as f64);
                pairs += visible.len();
                kept += visible.iter().filter(|&&j| sees(b, h, i, j)).count();
            }
            let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
            let lowest = |x: &[f64]| x.iter().copied().fold(f64::INFINITY, f64::min);
            assert_eq!((report.queries, report.top), (720, 5));
            for (has, expected) in [
                (report.density, kept as f64 / pairs as f64),
                (report.mass.mean, mean(&masses)),
                (report.mass.lowest, lowest(&masses)),
                (report.recall.mean, mean(&recalls)),
                (report.recall.lowest, lowest(&recalls)),
            ] {
                // Log-sum-exps of some tens are rounded to 1e-6 or so.
                assert!((has - expected).abs() < 2e-5, "{report}: {has}, and exactly {expected}");
            }
        }
    }
}

#[test]
fn all_keys_are_all_of_the_mass() {
    let x = heads(1, [1, 2, 70, 8]);
    let retrieved = Retrieval::new(70).sight(Sight::Grown).run(x.view(), x.view(), x.view()).unwrap();
    let report = Measure::new(x.view(), x.view()).of(Mask::causal()).retrieved(&retrieved).unwrap();
    assert_eq!((report.density, report.recall.lowest), (1.0, 1.0));
    assert!(report.mass.lowest > 0.99999);
    assert_eq!(retrieved.scans(), 0);
}

#[test]
fn keys_of_equal_products_will_do() {
    // All keys are the same, so any of them is one of the best.
    let x = ndarray::Array4::from_elem((1, 1, 20, 4), 0.5f32);
    let report = Measure::new(x.view(), x.view()).top(3).mask(&Mask::window(Some(0), Some(2))).unwrap();
    assert!(report.recall.mean > 0.9 && report.recall.lowest < 0.5, "{report}");
}

#[test]
fn more_equals_make_up_for_no_better_key() {
    // Products 5, 1, 1, 1: of the best two the first is not kept.
    let (q, mut k) =
        (ndarray::Array4::from_elem((1, 1, 1, 1), 1.0f32), ndarray::Array4::from_elem((1, 1, 4, 1), 1.0f32));
    k[[0, 0, 0, 0]] = 5.0;
    let report = Measure::new(q.view(), k.view()).top(2).mask(&!Mask::prefix(1)).unwrap();
    assert_eq!(report.recall.mean, 0.5);
}

#[test]
fn queries_that_see_nothing_do_not_count() {
    let (q, k) = (heads(1, [1, 1, 9, 4]), heads(2, [1, 1, 5, 4]));
    let measure = Measure::new(q.view(), k.view()).of(Mask::causal());
    assert_eq!(measure.mask(&Mask::full()).unwrap().queries, 5);
    let none = Measure::new(q.view(), k.view()).of(!Mask::full()).mask(&Mask::full()).unwrap();
    assert_eq!(none.queries, 0);
    assert!(none.mass.mean.is_nan() && none.recall.lowest.is_nan());
}
