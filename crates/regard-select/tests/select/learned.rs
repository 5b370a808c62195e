//! What a selector learns.

use ndarray::Array4;
use regard_select::{Budget, Error, Lesson, Select, Selector, Training};

use crate::naive::draw;

/// A text in blocks of 8 whose means mislead: of three kinds of blocks one key of eight is large, of three others all are alike
/// and smaller; a query looks for one kind of either sort, and the large key is what it finds. Its block has the smaller mean.
fn text(seed: u64) -> (Array4<f32>, Array4<f32>) {
    let (tokens, dim) = (384, 6);
    let noise = draw(seed, (2, 2, tokens, dim), 0.3);
    let drawn = draw(seed + 100, (1, 2, tokens / 8, 1), 1e3).mapv(|x| x.abs() as usize);
    let q = Array4::from_shape_fn((2, 2, tokens, dim), |(b, h, i, c)| {
        let wants = drawn[[0, 0, i / 8, 0]];
        let is_wanted = c == wants % 3 || c == 3 + wants / 3 % 3;
        noise[[b, h, i, c]] + if is_wanted { 4.0 } else { 0.0 }
    });
    let k = Array4::from_shape_fn((2, 1, tokens, dim), |(b, _, j, c)| {
        let signal = match drawn[[0, 1, j / 8, 0]] % dim {
            kind if kind != c => 0.0,
            kind if kind >= 3 => 2.5,
            _ if j % 8 == 5 => 12.0,
            _ => 0.0,
        };
        noise[[b, 0, j, c]] + signal
    });
    (q, k)
}

fn lesson((q, k): &(Array4<f32>, Array4<f32>)) -> Lesson {
    Select::new(q.view(), k.view()).block(8).lesson().unwrap()
}

const TRAINING: Training = Training { rank: 8, steps: 120, rate: 0.02, decay: 0.01, seed: 5 };

#[test]
fn training_makes_the_loss_on_other_text_smaller_too() {
    let lessons: Vec<_> = (1..4).map(|seed| lesson(&text(seed))).collect();
    let (q, k) = text(9);
    let held_out = [lesson(&(q.clone(), k.clone()))];
    let before = Selector::train(&lessons, &Training { steps: 0, ..TRAINING }).unwrap();
    let after = Selector::train(&lessons, &TRAINING).unwrap();
    assert_eq!((before.losses.len(), after.losses.len()), (1, TRAINING.steps + 1));
    assert!((before.losses[0] - after.losses[0]).abs() < 1e-12);
    let loss = |selector: &Selector, lessons: &[Lesson]| selector.loss(lessons).unwrap();
    let last = after.losses[TRAINING.steps];
    assert!((loss(&after.selector, &lessons) - last).abs() < 1e-12 && last < after.losses[0]);
    let [old, new] = [&before, &after].map(|trained| loss(&trained.selector, &held_out));
    assert!(new < 0.7 * old, "{old} and {new}");

    // Before it has learned anything it is block routing.
    let select = Select::new(q.view(), k.view()).block(8);
    let (untrained, pooled) = (select.learned(&before.selector).unwrap(), select.pooled().unwrap());
    for (one, other) in [(0, 0), (1, 1)].map(|(b, h)| (untrained.of(b, h).to_owned(), pooled.of(b, h).to_owned())) {
        assert!(one.iter().zip(&other).all(|(one, other)| one == other || (one - other).abs() < 1e-12));
    }
    let exact = select.exact().unwrap();
    let kept = |selector| exact.kept(&select.learned(selector).unwrap().top(Budget::Blocks(6)).unwrap()).unwrap();
    let [old, new] = [kept(&before.selector), kept(&after.selector)];
    assert!(new > old + 0.05, "{old} and {new}");
}

#[test]
fn seeds_repeat_bit_for_bit() {
    let lessons = [lesson(&text(1))];
    let train = |seed| Selector::train(&lessons, &Training { seed, steps: 10, ..TRAINING }).unwrap();
    assert_eq!(train(1), train(1));
    assert_ne!(train(1), train(2));
}

#[test]
fn texts_without_a_choice_teach_nothing() {
    let x = draw(1, (1, 2, 16, 4), 1.0);
    let lesson = Select::new(x.view(), x.view()).block(8).lesson().unwrap();
    let trained = Selector::train(&[lesson], &Training { steps: 3, ..TRAINING }).unwrap();
    assert_eq!(trained.losses, [0.0; 4]);
}

#[test]
fn a_rate_that_is_too_high_is_said() {
    let lessons = [lesson(&text(1))];
    let error = Selector::train(&lessons, &Training { rate: 1e200, steps: 20, ..TRAINING }).unwrap_err();
    assert!(matches!(error, Error::Diverged { rate: 1e200, .. }), "{error}");
}

#[test]
fn lessons_and_texts_must_be_of_the_same_heads() {
    let lessons = [lesson(&text(1))];
    let trained = Selector::train(&lessons, &Training { steps: 1, ..TRAINING }).unwrap();
    assert_eq!((trained.selector.heads(), trained.selector.dim()), (2, 6));
    let x = draw(1, (1, 4, 30, 6), 1.0);
    let select = Select::new(x.view(), x.view()).block(8);
    let error = select.learned(&trained.selector).unwrap_err().to_string();
    assert_eq!(error, "`queries` has heads 4, expected 2");
    let other = select.lesson().unwrap();
    assert_eq!(trained.selector.loss(std::slice::from_ref(&other)).unwrap_err().to_string(), error);
    let error = Selector::train(&[lessons[0].clone(), other], &TRAINING).unwrap_err().to_string();
    assert_eq!(error, "`lesson` has heads 4, expected 2");
}
