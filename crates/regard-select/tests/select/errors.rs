//! What is refused, and in which words.

use ndarray::Array4;
use regard_attention::Direction;
use regard_select::{Blocks, Budget, Error, Select, Selector, Training};

use crate::naive::draw;

fn x(batch: usize, heads: usize, tokens: usize, dim: usize) -> Array4<f32> {
    draw(1, (batch, heads, tokens, dim), 1.0)
}

#[test]
fn shapes_that_do_not_fit_are_named() {
    let refused = |q: &Array4<f32>, k: &Array4<f32>| Select::new(q.view(), k.view()).pooled().unwrap_err().to_string();
    let q = x(2, 4, 10, 8);
    for (k, words) in [
        (x(1, 4, 10, 8), "`keys` has batch 1, expected 2"),
        (x(2, 4, 10, 6), "`keys` has dim 6, expected 8"),
        (x(2, 3, 10, 8), "`keys` has heads 3, expected a divisor of the 4 heads of `queries`"),
        (x(2, 0, 10, 8), "`keys` has heads 0, expected a divisor of the 4 heads of `queries`"),
        (x(2, 4, 0, 8), "`keys` has tokens 0, expected at least 1"),
        (x(2, 4, 9, 8), "`queries` has tokens 10, expected at most those of `keys`, 9, where no offset is given"),
    ] {
        assert_eq!(refused(&q, &k), words);
    }
    assert_eq!(refused(&x(0, 1, 5, 4), &x(0, 1, 5, 4)), "`queries` has batch 0, expected at least 1");
    assert_eq!(refused(&x(1, 0, 5, 4), &x(1, 1, 5, 4)), "`queries` has heads 0, expected at least 1");
    assert_eq!(refused(&x(1, 1, 0, 4), &x(1, 1, 5, 4)), "`queries` has tokens 0, expected at least 1");
    assert_eq!(refused(&x(1, 1, 5, 0), &x(1, 1, 5, 0)), "`queries` has dim 0, expected at least 1");
}

#[test]
fn numbers_that_are_none_are_named() {
    for (bad, words) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")] {
        let (mut q, mut k) = (x(2, 4, 20, 8), x(2, 2, 20, 8));
        k[[1, 0, 17, 3]] = bad;
        let all = |q: &Array4<f32>, k: &Array4<f32>| {
            let select = Select::new(q.view(), k.view()).block(8);
            let of = |scores: Result<_, Error>| scores.map(drop).unwrap_err().to_string();
            [
                of(select.pooled().map(drop)),
                of(select.estimated().map(drop)),
                of(select.exact().map(drop)),
                of(select.lesson().map(drop)),
            ]
        };
        for said in all(&q, &k) {
            assert_eq!(said, format!("`keys` holds {words} at [1, 0, 17, 3], expected finite numbers"));
        }
        q[[0, 3, 19, 7]] = bad;
        for said in all(&q, &k) {
            assert_eq!(said, format!("`queries` holds {words} at [0, 3, 19, 7], expected finite numbers"));
        }
    }
    // Large ones are numbers.
    let most = Array4::from_elem((1, 1, 20, 4), f32::MAX);
    let select = Select::new(most.view(), most.view()).block(4);
    for scores in [select.pooled(), select.estimated(), select.exact()] {
        let choice = scores.unwrap().top(Budget::Blocks(3)).unwrap();
        assert_eq!(choice.count(), 1 + 2 + 3 + 3 + 3);
    }
}

#[test]
fn parameters_out_of_their_range_are_named() {
    let x = x(1, 1, 20, 4);
    let select = Select::new(x.view(), x.view()).block(4);
    let said = |refused: Result<(), Error>| refused.unwrap_err().to_string();
    assert_eq!(said(select.clone().block(0).pooled().map(drop)), "block size is 0, it must be at least 1");
    for (scale, words) in [(0.0, "0"), (-1.0, "-1"), (f64::NAN, "NaN"), (f64::INFINITY, "inf")] {
        let words = format!("scale is {words}, it must be positive and finite in f32");
        assert_eq!(said(select.clone().scale(scale).exact().map(drop)), words);
    }
    let far = said(select.clone().offset(usize::MAX).pooled().map(drop));
    assert_eq!(far, format!("offset is {}, it must be a position, and those of 20 queries with it", usize::MAX));
    let scores = select.pooled().unwrap();
    assert_eq!(said(scores.top(Budget::Blocks(0)).map(drop)), "budget is 0, it must be at least 1");
    assert_eq!(said(scores.top(Budget::Share(1.5)).map(drop)), "budget is 1.5, it must be a share in 0 to 1");
    assert_eq!(said(scores.top(Budget::Share(f64::NAN)).map(drop)), "budget is NaN, it must be a share in 0 to 1");
    assert_eq!(said(scores.window(0.0).map(drop)), "share of the mass is 0, it must be above 0, and at most 1");
    assert_eq!(said(scores.window(f64::NAN).map(drop)), "share of the mass is NaN, it must be above 0, and at most 1");
    assert_eq!(said(scores.above(f64::NAN).map(drop)), "share of the mass is NaN, it must be in 0 to 1");
    assert_eq!(said(Selector::train(&[], &Training::default()).map(drop)), "lessons is 0, it must be at least 1");
    let lessons = [select.lesson().unwrap()];
    let train = |training| said(Selector::train(&lessons, &training).map(drop));
    let default = Training::default();
    assert_eq!(train(Training { rate: -1.0, ..default }), "rate is -1, it must be 0 or above, and finite");
    assert_eq!(train(Training { decay: f64::NAN, ..default }), "decay is NaN, it must be 0 or above, and finite");
}

#[test]
fn a_choice_is_measured_by_scores_of_its_own_blocks() {
    let x = x(1, 2, 20, 4);
    let of = |size| Select::new(x.view(), x.view()).block(size);
    let choice = of(8).pooled().unwrap().top(Budget::Blocks(2)).unwrap();
    let said = of(4).exact().unwrap().kept(&choice).unwrap_err().to_string();
    assert_eq!(
        said,
        "`choice` is of 20 queries from position 0 over 20 keys in blocks of 8, causal, expected 20 queries from position 0 \
         over 20 keys in blocks of 4, causal"
    );
    let one = x.slice(ndarray::s![.., ..1, .., ..]);
    let said = Select::new(one, one).block(8).exact().unwrap().kept(&choice).unwrap_err().to_string();
    assert_eq!(said, "`choice` has heads 2, expected 1");
}

#[test]
fn blocks_of_any_size_are_counted() {
    let blocks = Blocks::new(3, 5, usize::MAX, Direction::Causal, None).unwrap();
    assert_eq!((blocks.rows(), blocks.columns(), blocks.count(), blocks.pairs(0, 0)), (1, 1, 1, 3 + 4 + 5));
    // Queries beyond all keys see all of them.
    let blocks = Blocks::new(2, 5, 2, Direction::Causal, Some(11)).unwrap();
    assert_eq!((blocks.rows(), blocks.seen(0), blocks.seen(1), blocks.own(1)), (2, 3, 3, 2));
    assert_eq!((blocks.queries_of(0), blocks.queries_of(1), blocks.pairs(1, 2)), (0..1, 1..2, 1));
}
