//! The shared attention context.

use proptest::prelude::*;
use regard_layers::{ContextInlet, Mode, Parameters, SharedAttentionContext, Size, Workspace};
use regard_oracle::layers::{SharedContext, Tensor, Tensors};

use crate::support::{Draw, RESULT, narrow, near, tries, twice, with_weights};

/// A context with this matrix.
fn context(s: &Tensor) -> SharedAttentionContext {
    let mut context = SharedAttentionContext::new(s.width()).unwrap();
    context.set_matrix(&narrow(&s.values)).unwrap();
    context
}

/// Takes in `x` and `y` `[batch, tokens, D]`.
fn observe(context: &mut SharedAttentionContext, size: Size, x: &[f32], y: &[f32]) {
    let (parameters, mut workspace) = (Parameters::new(1), Workspace::new().unwrap());
    let (mut frame, mut pass) = workspace.pass(&parameters, Mode::Evaluation, context.observe_need()).unwrap();
    context.observe(&mut pass, size, x, y, &mut frame).unwrap();
}

/// `X'` of rows `[rows, D]`.
fn applied(context: &SharedAttentionContext, scale: f64, x: &[f32]) -> Vec<f32> {
    let scale = Tensors::from_iter([("scale", Tensor::new(&[1], vec![scale]))]);
    let (inlet, parameters) = with_weights(ContextInlet::new, &scale);
    let mut workspace = Workspace::new().unwrap();
    let need = context.need(x.len() / context.width());
    let (mut tape, mut pass) = workspace.pass(&parameters, Mode::Evaluation, need).unwrap();
    context.apply(&mut pass, inlet, x, &mut tape).unwrap().to_vec()
}

fn matrix(context: &SharedAttentionContext) -> Tensor {
    let width = context.width();
    Tensor::new(&[width, width], context.matrix().iter().map(|&x| x.into()).collect())
}

proptest! {
    #![proptest_config(tries(40))]

    #[test]
    fn it_is_applied_as_the_reference_is(seed in any::<u64>(), batch in 1usize..4, tokens in 1usize..40, width in 1usize..24) {
        let mut draw = Draw(seed);
        let (s, g) = (draw.normal(&[width, width], 1.0), draw.normal(&[batch, tokens, width], 1.0));
        let given = Tensors::from_iter([("scale", draw.normal(&[1], 1.0)), ("x", draw.normal(&[batch, tokens, width], 1.0))]);
        let (x, scale) = (&given["x"], given["scale"].values[0]);
        let (inlet, parameters) = with_weights(ContextInlet::new, &given);
        let (context, mut workspace, rows) = (context(&s), Workspace::new().unwrap(), narrow(&x.values));
        let made = twice(&parameters, |gradients| {
            let need = context.need(batch * tokens).times(2);
            let (mut tape, mut pass) = workspace.pass(&parameters, Mode::Evaluation, need).unwrap();
            let out = context.apply(&mut pass, inlet, &rows, &mut tape).unwrap();
            let mut d = narrow(&g.values);
            context.apply_backward(&mut pass, inlet, &rows, &mut d, gradients, &mut tape).unwrap();
            let like = |rows: &[f32]| Tensor::new(&x.shape, rows.iter().map(|&x| x.into()).collect());
            (like(out), vec![("x", like(&d))])
        });
        let (dx, dscale) = SharedContext::gradients(x, &s, scale, &g);
        let gradients = Tensors::from_iter([("x", dx), ("scale", Tensor::new(&[1], vec![dscale]))]);
        made.hold("shared context", &SharedContext::apply(x, &s, scale), &gradients);
        made.hold_along("shared context", &given, &g, Tensors::clone, |t| {
            SharedContext::apply(&t["x"], &s, t["scale"].values[0])
        });
    }

    /// A batch is its rows one by one, and no later row reaches an earlier one: the same bits.
    #[test]
    fn rows_are_on_their_own(seed in any::<u64>(), rows in 2usize..200, width in 1usize..70, at in any::<prop::sample::Index>()) {
        let mut draw = Draw(seed);
        let context = context(&draw.normal(&[width, width], 1.0));
        let x = narrow(&draw.normal(&[rows, width], 1.0).values);
        let all = applied(&context, 0.7, &x);
        let alone: Vec<f32> = x.chunks(width).flat_map(|row| applied(&context, 0.7, row)).collect();
        prop_assert_eq!(&all, &alone);
        let (mut moved, at) = (x.clone(), at.index(rows));
        moved[at * width..].iter_mut().for_each(|x| *x = f32::NAN);
        prop_assert_eq!(&applied(&context, 0.7, &moved)[..at * width], &all[..at * width]);
    }

    /// `S` follows what was seen, sequence by sequence and observation by observation.
    #[test]
    fn it_is_updated_as_the_reference_is(
        seed in any::<u64>(),
        batch in 1usize..4,
        lengths in prop::collection::vec(1usize..100, 1..4),
        width in 1usize..12,
    ) {
        let mut draw = Draw(seed);
        let mut s = draw.normal(&[width, width], 0.5);
        let mut context = context(&s);
        for tokens in lengths {
            // What goes in and what comes out go together in some channels; one of them never changes.
            let x = draw.normal(&[batch, tokens, width], 1.0);
            let y = x.with(&draw.normal(&[batch, tokens, width], 1.0), |x, other| f64::from((0.6 * x + other + 2.0) as f32));
            let x = x.by_row(width, |row| [&[0.625], &row[1..]].concat());
            observe(&mut context, Size { batch, tokens }, &narrow(&x.values), &narrow(&y.values));
            let sequences: Vec<_> = (0..batch).map(|entry| (x.part(entry), y.part(entry))).collect();
            s = SharedContext::default().updated(&s, &sequences);
        }
        context.update();
        near("shared context, updated", &matrix(&context), &s, RESULT, 1.0);
        // Nothing is left to be taken in.
        let before = context.matrix().to_vec();
        context.update();
        prop_assert_eq!(context.matrix(), &before[..]);
    }
}

/// Samples stand over all of a sequence: each of the rows that the formula names moves `S`, the last ones too, and no other does.
#[test]
fn samples_stand_over_all_of_a_sequence() {
    const WIDTH: usize = 3;
    for tokens in 33..64 {
        let mut draw = Draw(tokens as u64);
        let [x, y] = [0, 1].map(|_| narrow(&draw.normal(&[1, tokens, WIDTH], 1.0).values));
        let seen = |x: &[f32]| {
            let mut context = SharedAttentionContext::new(WIDTH).unwrap();
            observe(&mut context, Size { batch: 1, tokens }, x, &y);
            context.update();
            context.matrix().to_vec()
        };
        let (before, sampled) = (seen(&x), regard_oracle::layers::sampled_rows(tokens, 32));
        assert!(sampled[0] == 0 && sampled[31] + 2 >= tokens);
        for row in 0..tokens {
            let mut x = x.clone();
            x[row * WIDTH + 1] += 1.0;
            assert_eq!(seen(&x) != before, sampled.contains(&row), "row {row} of {tokens}");
        }
    }
}

/// Sequences of one row say nothing, and what is forgotten has not been seen.
#[test]
fn some_observations_change_nothing() {
    let mut draw = Draw(5);
    let s = draw.normal(&[4, 4], 1.0);
    let mut context = context(&s);
    let rows = narrow(&draw.normal(&[6, 4], 1.0).values);
    observe(&mut context, Size { batch: 6, tokens: 1 }, &rows, &rows);
    context.update();
    assert_eq!(context.matrix(), narrow(&s.values));
    observe(&mut context, Size { batch: 1, tokens: 6 }, &rows, &rows);
    context.forget();
    context.update();
    assert_eq!(context.matrix(), narrow(&s.values));
    observe(&mut context, Size { batch: 1, tokens: 6 }, &rows, &rows);
    context.update();
    assert_ne!(context.matrix(), narrow(&s.values));
}
