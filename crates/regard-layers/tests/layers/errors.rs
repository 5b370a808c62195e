//! What is refused, and that it is said with both sides.

use ndarray::{Array3, Array4};
use regard_attention::Direction;
use regard_kernels::{Activation, Rotary, RotaryScaling};
use regard_layers::{
    Batch, Bias, ContextInlet, ContextUse, Embedding, Error, FeedForward, FeedForwardKind, FlashAttention, FlashConfig,
    Gradients, Head, HeadSizes, Initial, KeyGradients, KeyHeads, Keys, LanguageConfig, LanguageModel, Layer, Linear,
    LinearAttention, LinearConfig, LinearRule, LocalGlobalAttention, LocalGlobalConfig, Mixer, MixerKind, Mode,
    MultiHeadAttention, MultiHeadCache, MultiHeadConfig, Norm, NormKind, NotFinite, Objective, Optimiser,
    OptimiserConfig, Parameters, Recomputation, Schedule, SharedAttentionContext, Size, StateSpace, StateSpaceConfig,
    Trainer, TrainingConfig, TransformerBlock, Workspace, cross_entropy, cross_entropy_need, gradient_norm, gradients,
    load_model, run,
};
use regard_masks::Mask;
use regard_memory::Need;
use regard_oracle::numbers;

use crate::support::SEED;

/// Holds that something is refused, and that the message says all of this.
#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Error>, says: &[&str]) {
    let error = result.expect_err("it is refused").to_string();
    for part in says {
        assert!(error.contains(part), "`{error}` does not say `{part}`");
    }
}

/// Makes something in parameters of its own.
fn new<T>(make: impl FnOnce(&mut regard_layers::Scope<'_>) -> Result<T, Error>) -> Result<T, Error> {
    make(&mut Parameters::new(SEED).root())
}

fn rows(batch: usize, tokens: usize, width: usize) -> Array3<f32> {
    Array3::from_shape_vec((batch, tokens, width), numbers(1, batch * tokens * width)).unwrap()
}

fn multi_head(config: MultiHeadConfig) -> (MultiHeadAttention, Parameters) {
    let mut parameters = Parameters::new(SEED);
    (MultiHeadAttention::new(&mut parameters.root(), config).unwrap(), parameters)
}

#[test]
fn heads_that_do_not_divide() {
    let config = MultiHeadConfig { share_kv_across_n_heads: 3, ..MultiHeadConfig::new(24, 4) };
    refused(new(|scope| MultiHeadAttention::new(scope, config)), &["share_kv_across_n_heads is 3", "4 heads"]);
    let sizes = HeadSizes { kv_heads: 3, ..HeadSizes::new(24, 4) };
    let both = ["kv_heads is 3", "4 heads"];
    refused(new(|scope| FlashAttention::new(scope, FlashConfig::new(sizes, Mask::full()))), &both);
    refused(new(|scope| LinearAttention::new(scope, LinearConfig::new(sizes, LinearRule::Plain))), &both);
    refused(new(|scope| LocalGlobalAttention::new(scope, LocalGlobalConfig::new(sizes))), &both);
    let config = StateSpaceConfig { groups: 3, ..StateSpaceConfig::new(24, 4) };
    refused(new(|scope| StateSpace::new(scope, config)), &["groups is 3", "4 heads"]);
    // More heads than numbers leave none for each.
    refused(new(|scope| MultiHeadAttention::new(scope, MultiHeadConfig::new(2, 4))), &["dim_k is 0", "at least 1"]);
    refused(new(|scope| MultiHeadAttention::new(scope, MultiHeadConfig::new(8, 0))), &["heads is 0", "at least 1"]);
    refused(new(|scope| StateSpace::new(scope, StateSpaceConfig::new(8, 0))), &["heads is 0", "at least 1"]);
    let model = |config| LanguageModel::new(&mut Parameters::new(SEED), config);
    refused(model(LanguageConfig { kv_heads: 3, ..LANGUAGE }), &["kv_heads is 3", "4 heads"]);
    let config = LanguageConfig { head_dim: 7, mixer: MixerKind::StateSpace, ..LANGUAGE };
    refused(model(config), &["head_dim is 7", "24"]);
}

#[test]
fn settings_out_of_range() {
    let nan = f32::NAN;
    for dropout in [1.0, -0.1, nan] {
        let config = MultiHeadConfig { dropout, ..MultiHeadConfig::new(8, 2) };
        refused(new(|scope| MultiHeadAttention::new(scope, config)), &["dropout", "below 1"]);
        let config = FlashConfig { dropout, ..FlashConfig::new(HeadSizes::new(8, 2), Mask::full()) };
        refused(new(|scope| FlashAttention::new(scope, config)), &["dropout", "below 1"]);
    }
    for eps in [-1.0, nan, f32::INFINITY] {
        refused(new(|scope| Norm::new(scope, NormKind::Rms, 4, eps)), &["eps is", "at least 0"]);
    }
    let rotary = Some(Rotary::new(6, 100.0, &RotaryScaling::None, usize::MAX));
    let config = FlashConfig { rotary, ..FlashConfig::new(HeadSizes::new(8, 2), Mask::full()) };
    refused(new(|scope| FlashAttention::new(scope, config)), &["rotary dimensions is 6", "the 4 of a head"]);
    let config =
        LinearConfig { direction: Direction::Both, ..LinearConfig::new(HeadSizes::new(8, 2), LinearRule::Delta) };
    assert!(new(|scope| LinearAttention::new(scope, config)).is_err());
    for mixer in [MixerKind::StateSpace, MixerKind::Linear(LinearRule::Gated)] {
        let config = LanguageConfig { objective: Objective::Denoising, mixer, ..LANGUAGE };
        assert!(LanguageModel::new(&mut Parameters::new(SEED), config).is_err(), "{mixer:?}");
    }
    let parameters = Parameters::new(SEED);
    let optimiser = |config| Optimiser::new(&parameters, config);
    refused(optimiser(OptimiserConfig { betas: [1.0, 0.9], ..OptimiserConfig::default() }), &["β₁ is 1", "below 1"]);
    refused(optimiser(OptimiserConfig { betas: [0.9, nan], ..OptimiserConfig::default() }), &["β₂ is NaN", "below 1"]);
    refused(optimiser(OptimiserConfig { clip: Some(-1.0), ..OptimiserConfig::default() }), &["clip is -1"]);
    for config in [LanguageConfig { vocabulary: 0, ..LANGUAGE }, LanguageConfig { layers: 0, ..LANGUAGE }] {
        refused(LanguageModel::new(&mut Parameters::new(SEED), config), &["is 0", "at least 1"]);
    }
    // Sizes that no memory holds.
    for size in [1 << 40, usize::MAX / 3] {
        let _ = new(|scope| Linear::new(scope, size, size, Bias::None)).expect_err("too large");
        let sizes = HeadSizes { width: size, heads: size, kv_heads: size, dim_k: size, dim_v: size };
        let _ = new(|scope| FlashAttention::new(scope, FlashConfig::new(sizes, Mask::full()))).expect_err("too large");
        let config = MultiHeadConfig { dim_k: size, dim_v: size, ..MultiHeadConfig::new(size, size) };
        let _ = new(|scope| MultiHeadAttention::new(scope, config)).expect_err("too large");
        let config = StateSpaceConfig { state: size, head_dim: size, ..StateSpaceConfig::new(size, size) };
        let _ = new(|scope| StateSpace::new(scope, config)).expect_err("too large");
        let _ = SharedAttentionContext::new(size).expect_err("too large");
    }
}

#[test]
fn indices_out_of_range() {
    let mut parameters = Parameters::new(SEED);
    let table = Embedding::new(&mut parameters.root(), 5, 3, Initial::Normal(1.0)).unwrap();
    let mut workspace = Workspace::new().unwrap();
    let mut sums = Gradients::new(&parameters).unwrap();
    let (_, pass) = workspace.pass(&parameters, Mode::Evaluation, Need::NONE).unwrap();
    let says = ["token is 5", "below 5"];
    refused(table.forward(&pass, &[4, 5], &mut [0.0; 6]), &says);
    refused(table.backward(&pass, &[4, 5], &[0.0; 6], &mut sums), &says);
    refused(table.forward(&pass, &[4], &mut [0.0; 6]), &["has shape [6]", "[1, 3]"]);
    assert!(sums.values().iter().all(|&sum| sum == 0.0));

    // A target that counts; one that does not may be anything.
    let (mut frame, pass) = workspace.pass(&parameters, Mode::Evaluation, cross_entropy_need(2)).unwrap();
    let mut loss = |weights: &[f32]| cross_entropy(&pass, &mut [0.0; 10], 5, &[5, 1], weights, &mut frame);
    refused(loss(&[1.0, 1.0]), &["target is 5", "below 5"]);
    assert!((loss(&[0.0, 1.0]).unwrap() - 5f64.ln()).abs() < 1e-6);
    refused(loss(&[1.0]), &["`weights` has shape [1]", "[2]"]);

    let mut parameters = Parameters::new(SEED);
    let config = LocalGlobalConfig::new(HeadSizes::new(8, 2));
    let mut layer = LocalGlobalAttention::new(&mut parameters.root(), config).unwrap();
    layer.set_indices(&[3, 9, 0]);
    let says = ["global index is 9", "below 9, the tokens"];
    refused(run(&layer, &parameters, &mut workspace, Mode::Evaluation, rows(1, 9, 8).view()), &says);
    assert!(run(&layer, &parameters, &mut workspace, Mode::Evaluation, rows(1, 10, 8).view()).is_ok());

    let (mut model, text) = (trainer(NotFinite::Stop), vec![1, 2, 31, 3, 1, 2, 31, 3, 1, 2, 31, 3]);
    refused(model.step(&text), &["token is 31", "below 31"]);
    refused(model.evaluate(&text, 2), &["token is 31", "below 31"]);
}

#[test]
fn self_and_cross_are_not_mixed_up() {
    let (layer, parameters) = multi_head(MultiHeadConfig::new(8, 2));
    let mut workspace = Workspace::new().unwrap();
    let (x, memory) = (rows(2, 3, 8), rows(2, 5, 8));
    let mut cache = MultiHeadCache::new(&layer, KeyHeads::All, 2, 6).unwrap();

    // A cache is read before it is written.
    refused(
        layer.call(x.view()).cache(&cache).run(&parameters, &mut workspace),
        &["cache is empty", "written before it is read"],
    );
    // What holds a memory's tokens is not streamed into, nor the other way round.
    layer.fill(memory.view(), &mut cache, &parameters, &mut workspace).unwrap();
    let says = ["a memory's tokens", "a sequence's own tokens"];
    refused(layer.next(x.view(), &mut cache, &parameters, &mut workspace), &says);
    assert_eq!(cache.len(), 5);
    refused(layer.fill(memory.view(), &mut cache, &parameters, &mut workspace), &["5 of 6", "5 more"]);
    cache.clear();
    layer.next(x.view(), &mut cache, &parameters, &mut workspace).unwrap();
    refused(layer.call(x.view()).cache(&cache).run(&parameters, &mut workspace), &says);
    refused(layer.fill(memory.view(), &mut cache, &parameters, &mut workspace), &says);
    // Another layer's, and another batch's.
    let (other, others) = multi_head(MultiHeadConfig { share_kv_across_n_heads: 2, ..MultiHeadConfig::new(8, 2) });
    let says = ["2 heads", "1 heads", "keys of 4"];
    refused(other.next(x.view(), &mut cache, &others, &mut workspace), &says);
    refused(layer.next(rows(3, 1, 8).view(), &mut cache, &parameters, &mut workspace), &["batch is 3", "2"]);

    // Shapes of a call.
    let mut call = |call: regard_layers::MultiHeadCall<'_>| call.run(&parameters, &mut workspace);
    refused(call(layer.call(rows(2, 3, 7).view())), &["input", "[2, 3, 8]"]);
    refused(call(layer.call(x.view()).memory(rows(1, 5, 8).view())), &["`memory` has shape [1, 5, 8]", "a batch of 2"]);
    refused(call(layer.call(x.view()).memory(rows(2, 5, 9).view())), &["memory", "[2, 5, 8]"]);
    let keys = |batch, tokens, heads, dim| Array4::<f32>::zeros((batch, tokens, heads, dim));
    let given = |k: &Array4<f32>, v: &Array4<f32>| {
        layer.call(x.view()).keys(k.view(), v.view()).run(&parameters, &mut Workspace::new()?)
    };
    let good = keys(2, 5, 2, 4);
    given(&good, &good).unwrap();
    // One axis is another, or two are, of as many numbers in all.
    for wrong in [[1, 5, 2, 4], [2, 5, 1, 4], [2, 5, 2, 3], [2, 5, 4, 2], [5, 2, 2, 4]] {
        let keys = Array4::<f32>::zeros(wrong);
        let expected = format!("[2, {}, 2, 4]", wrong[1]);
        refused(given(&keys, &good), &["`keys`", &format!("{wrong:?}"), &expected]);
    }
    for wrong in [[1, 5, 2, 4], [2, 4, 2, 4], [2, 10, 1, 4], [2, 5, 4, 2]] {
        refused(given(&good, &Array4::zeros(wrong)), &["`values`", &format!("{wrong:?}"), "[2, 5, 2, 4]"]);
    }
    let first = keys(2, 5, 1, 4);
    let reused = |k: &Array4<f32>| {
        let call = layer.call(x.view()).keys(k.view(), first.view()).reuse_first_head_kv();
        call.run(&parameters, &mut Workspace::new()?)
    };
    reused(&first).unwrap();
    refused(reused(&good), &["`keys`", "[2, 5, 2, 4]", "[2, 5, 1, 4]"]);
    refused(call(layer.call(x.view()).batch_chunk(0)), &["batch_chunk is 0", "at least 1"]);
    refused(call(layer.call(x.view()).cache(&cache).batch_chunk(1)), &["batch_chunk is 1", "cache"]);
    let (narrow, weights) = multi_head(MultiHeadConfig { outputs: 5, ..MultiHeadConfig::new(8, 2) });
    refused(
        narrow.call(x.view()).add_input().run(&weights, &mut Workspace::new().unwrap()),
        &["add_input is on 8 inputs", "5"],
    );

    // Gradients of keys go where keys came from.
    let size = Size { batch: 2, tokens: 3 };
    let flat: Vec<f32> = x.iter().copied().collect();
    let mut sums = Gradients::new(&parameters).unwrap();
    let need = layer.forward_need(size).and(layer.backward_need(size));
    let (mut tape, mut pass) = workspace.pass(&parameters, Mode::Evaluation, need).unwrap();
    let (_, kept) = layer.attend(&mut pass, size, &flat, Keys::Own, KeyHeads::All, &mut tape).unwrap();
    let (mut dx, mut dmemory) = ([0.0; 48], [0.0; 48]);
    let dkeys = KeyGradients::Memory(&mut dmemory);
    refused(
        layer.attend_backward(&mut pass, size, kept, &flat, &mut sums, &mut dx, dkeys, &mut tape),
        &["those of a memory", "none, as keys are the input's own"],
    );
}

#[test]
fn shapes_of_layers() {
    let mut parameters = Parameters::new(SEED);
    let layer = Linear::new(&mut parameters.root(), 8, 3, Bias::None).unwrap();
    let mut workspace = Workspace::new().unwrap();
    refused(run(&layer, &parameters, &mut workspace, Mode::Evaluation, rows(2, 3, 7).view()), &["[2, 3, 7]", "8]"]);
    let mut sums = Gradients::new(&parameters).unwrap();
    let (x, dout) = (rows(2, 3, 8), rows(2, 3, 4));
    refused(
        gradients(&layer, &parameters, &mut workspace, Mode::Evaluation, x.view(), dout.view(), &mut sums),
        &["[2, 3, 4]", "(2, 3, 3)"],
    );
    // Parts of a block of different widths.
    let block = new(|scope| {
        let norms = [
            Norm::new(&mut scope.scope("1"), NormKind::Rms, 8, 1e-5)?,
            Norm::new(&mut scope.scope("2"), NormKind::Rms, 9, 1e-5)?,
        ];
        let mixer = FlashAttention::new(&mut scope.scope("3"), FlashConfig::new(HeadSizes::new(8, 2), Mask::full()))?;
        let kind = FeedForwardKind::Plain(Activation::Silu);
        let feeding = FeedForward::new(&mut scope.scope("4"), kind, 8, 9, Bias::None)?;
        TransformerBlock::new(norms, Mixer::Softmax(mixer), feeding)
    });
    refused(block, &["second norm is 9", "8, the inputs of the mixer"]);
    // One name for two tensors.
    let twice = new(|scope| {
        Linear::new(scope, 2, 2, Bias::None)?;
        Linear::new(scope, 2, 2, Bias::None)
    });
    refused(twice, &["`weight` is taken"]);

    // The shared context: of another width, where there is none, and none where there is one.
    let mut context = SharedAttentionContext::new(4).unwrap();
    refused(context.set_matrix(&[0.0; 9]), &["[9]", "[4, 4]"]);
    let parameters = Parameters::new(SEED);
    let (mut frame, mut pass) = workspace.pass(&parameters, Mode::Evaluation, context.observe_need()).unwrap();
    let size = Size { batch: 1, tokens: 3 };
    refused(
        context.observe(&mut pass, size, &[0.0; 12], &[0.0; 9], &mut frame),
        &["results of the mixer", "12 numbers"],
    );
    let mut parameters = Parameters::new(SEED);
    let inlet = ContextInlet::new(&mut parameters.root()).unwrap();
    let (mut frame, mut pass) = workspace.pass(&parameters, Mode::Evaluation, Need::of::<f32>(6)).unwrap();
    refused(context.apply(&mut pass, inlet, &[0.0; 6], &mut frame), &["[6]", "[rows, 4]"]);

    let mut parameters = Parameters::new(SEED);
    let model = LanguageModel::new(&mut parameters, LANGUAGE).unwrap();
    let mut logits = vec![0.0; 3 * LANGUAGE.vocabulary];
    let mut predict =
        |size, tokens: &[u32], context| model.predict(&parameters, &mut workspace, size, tokens, context, &mut logits);
    refused(predict(size, &[1, 2], None), &["`tokens` has shape [2]", "[1, 3]"]);
    refused(predict(Size { batch: 1, tokens: 2 }, &[1, 2], None), &["logits", "62 numbers"]);
    refused(predict(size, &[1, 2, 3], Some(&context)), &["shared context is given", "none"]);
    let mut parameters = Parameters::new(SEED);
    let shared =
        LanguageModel::new(&mut parameters, LanguageConfig { context: ContextUse::Shared, ..LANGUAGE }).unwrap();
    let mut predict = |context| shared.predict(&parameters, &mut workspace, size, &[1, 2, 3], context, &mut logits);
    refused(predict(None), &["shared context is none", "given"]);
    refused(predict(Some(&context)), &["shared context is 4", "12"]);
    let mut sums = Gradients::new(&parameters).unwrap();
    let batch = Batch { size, tokens: &[1, 2, 3], targets: &[1, 2], weights: &[1.0; 3] };
    let mut context = SharedAttentionContext::new(12).unwrap();
    let learned = shared.learn(
        &parameters,
        &mut workspace,
        Mode::Evaluation,
        batch,
        Recomputation::None,
        &mut sums,
        Some(&mut context),
    );
    refused(learned, &["logits", "[2, 31]"]);
}

const LANGUAGE: LanguageConfig = LanguageConfig {
    vocabulary: 31,
    width: 12,
    layers: 2,
    heads: 4,
    kv_heads: 2,
    head_dim: 6,
    hidden: 10,
    mixer: MixerKind::Softmax,
    objective: Objective::Causal,
    eps: 1e-5,
    rope_theta: 100.0,
    head: Head::Tied,
    context: ContextUse::None,
    dropout: 0.0,
};

fn training(not_finite: NotFinite) -> TrainingConfig {
    TrainingConfig {
        batch: 2,
        tokens: 4,
        accumulation: 2,
        schedule: Schedule { rate: 0.01, warmup: 1, steps: 9, last: 0.1 },
        optimiser: OptimiserConfig::default(),
        recomputation: Recomputation::None,
        seed: SEED,
        not_finite,
    }
}

fn trainer(not_finite: NotFinite) -> Trainer {
    let config = LanguageConfig { context: ContextUse::Shared, ..LANGUAGE };
    Trainer::new(config, training(not_finite), Workspace::new().unwrap()).unwrap()
}

const NAME: &str = "model.layers.1.mlp.up_proj.weight";

/// Gradients that are no numbers are named, and nothing changes, or the step is skipped.
#[test]
fn gradients_that_are_not_finite() {
    let mut parameters = Parameters::new(SEED);
    LanguageModel::new(&mut parameters, LANGUAGE).unwrap();
    let workspace = Workspace::new().unwrap();
    let mut optimiser = Optimiser::new(&parameters, OptimiserConfig::default()).unwrap();
    let before = parameters.values().to_vec();
    let names: Vec<String> = parameters.names().map(str::to_owned).collect();
    let mut start = 0;
    for name in &names {
        for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut sums = Gradients::new(&parameters).unwrap();
            // Where it lies: tensors lie one after the other, each on lines of its own.
            let len = sums.get(&parameters, name).unwrap().len();
            sums.values_mut()[start + len / 2] = wrong;
            let says = [&format!("`{name}`")[..], "not finite"];
            refused(gradient_norm(&workspace, &parameters, &sums), &says);
            refused(optimiser.step(&workspace, &mut parameters, &sums, 0.1), &says);
        }
        start += parameters.get(name).unwrap().len().next_multiple_of(16);
    }
    assert_eq!((parameters.values(), optimiser.steps()), (&before[..], 0));
    assert!(optimiser.moments().iter().all(|moment| moment.iter().all(|&x| x == 0.0)));

    let text: Vec<u32> = (0..40).map(|i| i * 7 % 31).collect();
    let mut stopped = trainer(NotFinite::Stop);
    stopped.parameters_mut().get_mut(NAME).unwrap()[[3, 3]] = f32::NAN;
    let matrix = stopped.context().unwrap().matrix().to_vec();
    refused(stopped.step(&text), &["not finite", "gradient of `"]);
    assert_eq!((stopped.steps(), stopped.context().unwrap().matrix()), (0, &matrix[..]));
    let mut skipped = trainer(NotFinite::Skip);
    skipped.parameters_mut().get_mut(NAME).unwrap()[[3, 3]] = f32::NAN;
    let before: Vec<u32> = skipped.parameters().values().iter().map(|x| x.to_bits()).collect();
    let report = skipped.step(&text).unwrap();
    assert!(report.skipped.is_some_and(|name| skipped.parameters().names().any(|other| other == name)));
    assert_eq!((skipped.steps(), skipped.context().unwrap().matrix()), (1, &matrix[..]));
    assert_eq!(skipped.parameters().values().iter().map(|x| x.to_bits()).collect::<Vec<_>>(), before);
}

/// Gradients whose squares are beyond f32 are finite still, and beside them one that is not is named.
#[test]
fn gradients_that_are_large() {
    let mut parameters = Parameters::new(SEED);
    let mut root = parameters.root();
    for name in ["first", "second", "third"] {
        Linear::new(&mut root.scope(name), 5, 3, Bias::None).unwrap();
    }
    let workspace = Workspace::new().unwrap();
    let mut sums = Gradients::new(&parameters).unwrap();
    let places: Vec<usize> = (0..3).map(|tensor| tensor * 16).collect();
    (sums.values_mut()[places[0]], sums.values_mut()[places[1]]) = (3e30, -4e30);
    let length = gradient_norm(&workspace, &parameters, &sums).unwrap();
    assert!((length / 5e30 - 1.0).abs() < 1e-6, "{length}");
    // Shortened to 1, they are moved along as any others.
    let mut optimiser = Optimiser::new(&parameters, OptimiserConfig::default()).unwrap();
    optimiser.step(&workspace, &mut parameters, &sums, 0.1).unwrap();
    assert!(parameters.values().iter().all(|x| x.is_finite()));

    for wrong in [f32::INFINITY, f32::NAN] {
        sums.values_mut()[places[2]] = wrong;
        refused(gradient_norm(&workspace, &parameters, &sums), &["`third.weight`", "not finite"]);
    }
}

/// A step that is refused in its second batch is as if it had not been: the first one's context is forgotten.
#[test]
fn a_refused_step_changes_nothing() {
    // The second half is beyond the vocabulary.
    let good: Vec<u32> = (0..400).map(|i| i * i % 31).collect();
    let bad = [&good[..200], &[31; 200]].concat();
    let mut seen = 0;
    for seed in 0..20 {
        let make = || {
            let config = LanguageConfig { context: ContextUse::Shared, ..LANGUAGE };
            let training = TrainingConfig { seed, batch: 1, ..training(NotFinite::Stop) };
            Trainer::new(config, training, Workspace::new().unwrap()).unwrap()
        };
        let (mut once, mut refused) = (make(), make());
        seen += u32::from(refused.step(&bad).is_err());
        if refused.steps() == 0 {
            assert_eq!(refused.step(&good).unwrap(), once.step(&good).unwrap());
            assert_eq!(refused.context().unwrap().matrix(), once.context().unwrap().matrix(), "seed {seed}");
            assert_eq!(refused.parameters().values(), once.parameters().values());
        }
    }
    assert!(seen > 5, "some steps are refused");
}

#[test]
fn text_that_is_too_short() {
    let mut trainer = trainer(NotFinite::Stop);
    for len in [0, 1, 4] {
        refused(trainer.step(&vec![1; len]), &[&format!("is {len}"), "at least 5"]);
        refused(trainer.evaluate(&vec![1; len], 3), &[&format!("is {len}"), "at least 5"]);
    }
    assert!(trainer.step(&[1; 5]).is_ok() && trainer.evaluate(&[1; 5], 3).is_ok());
    for config in [
        TrainingConfig { batch: 0, ..training(NotFinite::Stop) },
        TrainingConfig { tokens: 0, ..training(NotFinite::Stop) },
        TrainingConfig { accumulation: 0, ..training(NotFinite::Stop) },
    ] {
        refused(Trainer::new(LANGUAGE, config, Workspace::new().unwrap()), &["is 0", "at least 1"]);
    }
}

/// Files of another model, and what are none, are refused with both sides; nothing changes.
#[test]
fn checkpoints_of_another_shape() {
    let folder = tempfile::tempdir().unwrap();
    let [model, state, other_model, other_state, none] =
        ["model", "state", "other", "other-state", "none"].map(|name| folder.path().join(name));
    let text: Vec<u32> = (0..40).map(|i| i * 7 % 31).collect();
    let mut ours = trainer(NotFinite::Stop);
    ours.step(&text).unwrap();
    ours.save_model(&model).unwrap();
    ours.save_state(&state).unwrap();
    let config = LanguageConfig { hidden: 11, ..*ours.model().config() };
    let mut other = Trainer::new(config, training(NotFinite::Stop), Workspace::new().unwrap()).unwrap();
    other.step(&text).unwrap();
    other.save_model(&other_model).unwrap();
    other.save_state(&other_state).unwrap();

    let before = (ours.parameters().values().to_vec(), ours.context().unwrap().matrix().to_vec(), ours.steps());
    let length = before.0.len().to_string();
    refused(ours.restore(&other_model, &state), &["mlp.", "[11, 12]", "[10, 12]"]);
    refused(ours.restore(&model, &other_state), &["first", &length]);
    refused(ours.restore(&model, &model), &["model", "lacks `first`"]);
    refused(ours.restore(&state, &state), &["state", "lacks `"]);
    refused(ours.restore(&none, &state), &["none", "reading it"]);
    std::fs::write(&none, b"no tensors").unwrap();
    refused(ours.restore(&none, &state), &["none", "reading it"]);
    // Cut off in the middle.
    let bytes = std::fs::read(&model).unwrap();
    for len in [0, 7, 100, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&none, &bytes[..len]).unwrap();
        refused(ours.restore(&none, &state), &["none", "reading it"]);
    }
    let after = (ours.parameters().values().to_vec(), ours.context().unwrap().matrix().to_vec(), ours.steps());
    assert_eq!(before, after);

    refused(load_model(&model, config), &["mlp.", "[10, 12]", "[11, 12]"]);
    refused(load_model(&model, LanguageConfig { layers: 3, ..*ours.model().config() }), &["lacks", "layers.2."]);
    // A model without a shared context leaves it alone; one with it needs it.
    let alone = Trainer::new(LANGUAGE, training(NotFinite::Stop), Workspace::new().unwrap()).unwrap();
    alone.save_model(&none).unwrap();
    refused(load_model(&none, *ours.model().config()), &["none", "lacks `"]);
    let (_, parameters, context) = load_model(&model, *ours.model().config()).unwrap();
    assert_eq!(parameters.values(), ours.parameters().values());
    assert_eq!(context.unwrap().matrix(), ours.context().unwrap().matrix());

    // What is restored goes on as if it had never stopped.
    let mut restored = trainer(NotFinite::Stop);
    restored.restore(&model, &state).unwrap();
    for _ in 0..3 {
        assert_eq!(restored.step(&text).unwrap(), ours.step(&text).unwrap());
    }
    assert_eq!(restored.parameters().values(), ours.parameters().values());
    assert_eq!(restored.context().unwrap().matrix(), ours.context().unwrap().matrix());
}
