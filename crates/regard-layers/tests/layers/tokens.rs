//! What looks at one token at a time, and both ends of a model.

use proptest::prelude::*;
use regard_kernels::Activation;
use regard_layers::{
    Bias, Embedding, FeedForward, FeedForwardKind, Initial, Linear, Mode, Norm, NormKind, Parameters, Scope, Workspace,
    cross_entropy, cross_entropy_need,
};
use regard_memory::Need;
use regard_oracle::layers::{self, Tensor, Tensors, differences, feed_forward, layer_norm, linear, rms_norm};

use crate::support::{Draw, GRADIENT, amplified_by_norm, hold_results, made, narrow, near, tries, twice, with_weights};
use crate::weights;

/// Batch, tokens, inputs, outputs, and what numbers are drawn by.
fn sizes() -> impl Strategy<Value = ([usize; 4], u64)> {
    ((1usize..=3, 1usize..=70, 1usize..=20, 1usize..=20), any::<u64>())
        .prop_map(|((batch, tokens, inputs, outputs), seed)| ([batch, tokens, inputs, outputs], seed))
}

fn workspace() -> Workspace {
    Workspace::new().unwrap()
}

const ACTIVATIONS: [(Activation, layers::Activation); 3] = [
    (Activation::Silu, layers::Activation::Silu),
    (Activation::Gelu, layers::Activation::Gelu),
    (Activation::GeluTanh, layers::Activation::GeluTanh),
];

proptest! {
    #![proptest_config(tries(32))]

    #[test]
    fn linear_layers_are_the_references(([batch, tokens, inputs, outputs], seed) in sizes(), biased in any::<bool>()) {
        let mut draw = Draw(seed);
        let mut given = Tensors::from_iter([("weight", draw.weight(outputs, inputs))]);
        if biased {
            given = given.and("bias", draw.normal(&[outputs], 1.0));
        }
        let given = given.and("x", draw.normal(&[batch, tokens, inputs], 1.0));
        let dout = draw.normal(&[batch, tokens, outputs], 1.0);
        let bias = if biased { Bias::Learned } else { Bias::None };
        let exact = |t: &Tensors| linear(&t["x"], &t["weight"], t.get("bias"));
        let new = |scope: &mut Scope<'_>| Linear::new(scope, inputs, outputs, bias);
        let made = made(new, &given, &dout, Mode::Evaluation, &mut workspace());
        made.hold_results("linear", &exact(&given));
        made.hold_along("linear", &given, &dout, Tensors::clone, exact);
    }

    #[test]
    fn norms_are_the_references(([batch, tokens, width, _], seed) in sizes(), rms in any::<bool>(), eps in 1e-6f32..1.0) {
        let mut draw = Draw(seed);
        let mut given = Tensors::from_iter([("weight", draw.around_one(width))]);
        if !rms {
            given = given.and("bias", draw.normal(&[width], 1.0));
        }
        let given = given.and("x", draw.normal(&[batch, tokens, width], 1.0));
        let dout = draw.normal(&[batch, tokens, width], 1.0);
        let kind = if rms { NormKind::Rms } else { NormKind::Layer };
        let exact = |t: &Tensors| match rms {
            true => rms_norm(&t["x"], &t["weight"], eps.into()),
            false => layer_norm(&t["x"], &t["weight"], t.get("bias"), eps.into()),
        };
        let mut made = made(|scope: &mut Scope<'_>| Norm::new(scope, kind, width, eps), &given, &dout, Mode::Evaluation, &mut workspace());
        // Rows as they are before they are divided.
        let centred = if rms { given["x"].clone() } else {
            given["x"].by_row(width, |x| {
                let mean = x.iter().sum::<f64>() / width as f64;
                x.iter().map(|x| x - mean).collect()
            })
        };
        made.amplified = amplified_by_norm(&centred, eps.into());
        made.hold_results("norm", &exact(&given));
        made.hold_along("norm", &given, &dout, Tensors::clone, exact);
    }

    #[test]
    fn feed_forward_layers_are_the_references(
        ([batch, tokens, width, hidden], seed) in sizes(),
        gated in any::<bool>(),
        biased in any::<bool>(),
        (ours, theirs) in prop::sample::select(&ACTIVATIONS),
    ) {
        let mut draw = Draw(seed);
        let mut given = Tensors::from_iter([("w_up", draw.weight(hidden, width)), ("w_down", draw.weight(width, hidden))]);
        if gated {
            given = given.and("w_gate", draw.weight(hidden, width));
        }
        if biased {
            given = given.and("b_up", draw.normal(&[hidden], 1.0)).and("b_down", draw.normal(&[width], 1.0));
            if gated {
                given = given.and("b_gate", draw.normal(&[hidden], 1.0));
            }
        }
        let given = given.and("x", draw.normal(&[batch, tokens, width], 1.0));
        let dout = draw.normal(&[batch, tokens, width], 1.0);
        let kind = if gated { FeedForwardKind::Gated(ours) } else { FeedForwardKind::Plain(ours) };
        let bias = if biased { Bias::Learned } else { Bias::None };
        let new = |scope: &mut Scope<'_>| FeedForward::new(scope, kind, width, hidden, bias);
        let exact = |t: &Tensors| feed_forward(&t["x"], t, theirs);
        let made = made(new, &weights::feed_forward(&given), &dout, Mode::Evaluation, &mut workspace());
        made.hold_results("feed-forward", &exact(&given));
        made.hold_along("feed-forward", &given, &dout, weights::feed_forward, exact);
    }

    /// Rows of the table, and the sums of the gradients of those that are the same.
    #[test]
    fn embeddings_are_the_references(
        seed in any::<u64>(),
        count in 1usize..40,
        width in 1usize..40,
        rows in prop::collection::vec(any::<prop::sample::Index>(), 0..80),
    ) {
        let mut draw = Draw(seed);
        let tokens: Vec<usize> = rows.iter().map(|row| row.index(count)).collect();
        let (table, dout) = (draw.normal(&[count, width], 1.0), draw.normal(&[tokens.len(), width], 1.0));
        let given = Tensors::from_iter([("weight", table.clone())]);
        let new = |scope: &mut Scope<'_>| Embedding::new(scope, count, width, Initial::Constant(0.0));
        let (layer, parameters) = with_weights(new, &given);
        let (numbers, rows) = (tokens.iter().map(|&token| token as u32).collect::<Vec<_>>(), narrow(&dout.values));
        let mut workspace = workspace();
        let made = twice(&parameters, |gradients| {
            let (_, pass) = workspace.pass(&parameters, Mode::Evaluation, Need::NONE).unwrap();
            let mut out = vec![f32::NAN; rows.len()];
            layer.forward(&pass, &numbers, &mut out).unwrap();
            layer.backward(&pass, &numbers, &rows, gradients).unwrap();
            (Tensor::new(&dout.shape, out.iter().map(|&x| x.into()).collect()), vec![])
        });
        prop_assert_eq!(&made.out, &layers::embedding(&table, &tokens));
        let mut sums = Tensor::new(&table.shape, vec![0.0; count * width]);
        for (token, row) in tokens.iter().zip(dout.rows()) {
            sums.values[token * width..][..width].iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        }
        near("gradient of an embedding", &made.gradient["weight"], &sums, GRADIENT, 1.0);
    }

    /// The mean over rows that count, of any weights, and its gradient.
    #[test]
    fn the_loss_is_the_references(
        seed in any::<u64>(),
        vocabulary in 1usize..70,
        rows in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 1..20),
        spread in 0.1..20.0f64,
    ) {
        let logits = Draw(seed).normal(&[rows.len(), vocabulary], spread);
        let targets: Vec<Option<usize>> =
            rows.iter().map(|(target, counts)| counts.then(|| target.index(vocabulary))).collect();
        let count = targets.iter().flatten().count().max(1);
        // What does not count may be beyond the vocabulary.
        let ours: Vec<u32> = targets.iter().map(|target| target.map_or(u32::MAX, |target| target as u32)).collect();
        let counts: Vec<f32> = targets.iter().map(|target| if target.is_some() { 1.0 / count as f32 } else { 0.0 }).collect();
        let (parameters, mut workspace) = (Parameters::new(1), workspace());
        let (mut frame, pass) = workspace.pass(&parameters, Mode::Evaluation, cross_entropy_need(rows.len())).unwrap();
        let mut gradient = narrow(&logits.values);
        let loss = cross_entropy(&pass, &mut gradient, vocabulary, &ours, &counts, &mut frame).unwrap();
        let exact = |t: &Tensors| layers::cross_entropy(&t["logits"], &targets);
        let given = Tensors::from_iter([("logits", logits.clone())]);
        hold_results("loss", &Tensor::new(&[1], vec![loss]), &Tensor::new(&[1], vec![exact(&given)]));
        let gradient = Tensor::new(&logits.shape, gradient.iter().map(|&x| x.into()).collect());
        near("gradient of the loss", &gradient, &differences(&given, exact)["logits"], GRADIENT, 1.0 / count as f64);
    }
}
