//! Language models of every mixer.

use proptest::prelude::*;
use regard_attention::Direction;
use regard_layers::{
    Batch, ContextUse, Error, Gradients, Head, HeadSizes, LanguageConfig, LanguageModel, LanguageState, LinearConfig,
    LinearRule, MixerKind, Mode, Objective, Parameters, Recomputation, SharedAttentionContext, Size, Workspace,
};
use regard_oracle::layers::{
    Activation, MultiHead, Rotary, SharedContext, StateSpace, Tensor, Tensors, cross_entropy, embedding, feed_forward,
    linear, rms_norm,
};
use regard_simd::Isa;
use regard_threads::Pool;

use crate::every::{RULES, moved};
use crate::support::{Draw, Made, amplified_by_norm, narrow, tries};
use crate::{linear_attention, weights};

const TRAINING: Mode = Mode::Training { first_sequence: 5 };

fn mixers() -> Vec<MixerKind> {
    RULES.into_iter().map(MixerKind::Linear).chain([MixerKind::Softmax, MixerKind::StateSpace]).collect()
}

/// A model of two blocks.
fn config(mixer: MixerKind, context: ContextUse) -> LanguageConfig {
    LanguageConfig {
        vocabulary: 19,
        width: 12,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 6,
        hidden: 17,
        mixer,
        objective: Objective::Causal,
        eps: 1e-3,
        rope_theta: 100.0,
        head: Head::Tied,
        context,
        dropout: 0.0,
    }
}

/// A model with its parameters, what its blocks share, and text.
struct Bench {
    model: LanguageModel,
    parameters: Parameters,
    context: Option<SharedAttentionContext>,
    size: Size,
    tokens: Vec<u32>,
    targets: Vec<u32>,
    weights: Vec<f32>,
}

impl Bench {
    fn new(config: LanguageConfig, size: Size, seed: u64) -> Bench {
        let mut parameters = Parameters::new(seed);
        let model = LanguageModel::new(&mut parameters, config).unwrap();
        moved(&mut parameters);
        let mut draw = Draw(seed);
        let context = (config.context == ContextUse::Shared).then(|| {
            let mut context = SharedAttentionContext::new(config.width).unwrap();
            context.set_matrix(&narrow(&draw.normal(&[config.width; 2], 1.0).values)).unwrap();
            context
        });
        let mut text = || -> Vec<u32> {
            let numbers = draw.normal(&[size.rows()], 1e4).values;
            numbers.iter().map(|x| x.abs() as u32 % config.vocabulary as u32).collect()
        };
        let (tokens, targets) = (text(), text());
        // One row in four does not count.
        let weights = text().iter().map(|&number| if number % 4 == 0 { 0.0 } else { 1.0 }).collect();
        Bench { model, parameters, context, size, tokens, targets, weights }
    }

    fn batch(&self) -> Batch<'_> {
        Batch { size: self.size, tokens: &self.tokens, targets: &self.targets, weights: &self.weights }
    }

    fn learn(&mut self, recomputation: Recomputation, workspace: &mut Workspace) -> Result<(f64, Gradients), Error> {
        let Bench { model, parameters, context, size, tokens, targets, weights } = self;
        let mut gradients = Gradients::new(parameters)?;
        let batch = Batch { size: *size, tokens, targets, weights };
        let to = &mut gradients;
        let loss = model.learn(parameters, workspace, TRAINING, batch, recomputation, to, context.as_mut())?;
        Ok((loss, gradients))
    }

    /// The logits `[batch, tokens, vocabulary]`.
    fn predicted(&self, tokens: &[u32], workspace: &mut Workspace) -> Vec<f32> {
        let mut logits = vec![f32::NAN; self.size.rows() * self.model.config().vocabulary];
        let to = &mut logits;
        self.model.predict(&self.parameters, workspace, self.size, tokens, self.context.as_ref(), to).unwrap();
        logits
    }

    fn given(&self) -> Tensors {
        let tensor = |name: &str| {
            let array = self.parameters.get(name).unwrap();
            Tensor::new(array.shape(), array.iter().map(|&x| x.into()).collect())
        };
        self.parameters.names().map(|name| (name, tensor(name))).collect()
    }

    /// The loss by the formulas, and how much the mixers' norms amplify errors.
    fn exact(&self, t: &Tensors) -> (f64, f64) {
        let &LanguageConfig { width, layers, heads, kv_heads, head_dim, mixer, objective, eps, .. } =
            self.model.config();
        let (eps, causal) = (f64::from(eps), objective == Objective::Causal);
        let sizes = HeadSizes { width, heads, kv_heads, dim_k: head_dim, dim_v: head_dim };
        let tokens: Vec<usize> = self.tokens.iter().map(|&token| token as usize).collect();
        let table = &t["model.embed_tokens.weight"];
        let mut x = embedding(table, &tokens).reshaped(&[self.size.batch, self.size.tokens, width]);
        let s = self
            .context
            .as_ref()
            .map(|context| Tensor::new(&[width, width], context.matrix().iter().map(|&x| x.into()).collect()));
        let mut amplified = 1.0f64;
        for layer in 0..layers {
            let part = t.under(&format!("model.layers.{layer}."));
            if let (Some(s), Some(scale)) = (&s, part.get("context.scale")) {
                x = SharedContext::apply(&x, s, scale.values[0]);
            }
            let normed = rms_norm(&x, &part["input_layernorm.weight"], eps);
            let attention = part.under("self_attn.");
            let mixed = match mixer {
                MixerKind::Softmax => {
                    let rotary = Some(Rotary { theta: self.model.config().rope_theta.into(), dims: None });
                    let allows = |i: usize, j: usize| !causal || j <= i;
                    let layer = MultiHead { allows: &allows, rotary, ..MultiHead::default() };
                    layer.forward(&normed, None, &weights::heads(&attention, sizes))
                }
                MixerKind::Linear(rule) => {
                    let direction = if causal { Direction::Causal } else { Direction::Both };
                    let config = LinearConfig { direction, ..LinearConfig::new(sizes, rule) };
                    let theta = (!causal).then_some(self.model.config().rope_theta.into());
                    let attention = weights::heads(&attention, sizes);
                    let (mixed, times) = linear_attention::exact(&config, theta, &normed, &attention);
                    amplified = amplified.max(times);
                    mixed
                }
                MixerKind::StateSpace => {
                    let layer = StateSpace { heads: 2 * width / head_dim, groups: 1, epsilon: eps };
                    amplified = amplified.max(amplified_by_norm(&layer.gated(&normed, &attention), eps));
                    layer.forward(&normed, &attention)
                }
            };
            x = x.plus(&mixed);
            let normed = rms_norm(&x, &part["post_attention_layernorm.weight"], eps);
            x = x.plus(&feed_forward(&normed, &weights::feed_forward_back(&part.under("mlp.")), Activation::Silu));
        }
        let normed = rms_norm(&x, &t["model.norm.weight"], eps);
        let logits = linear(&normed, t.get("lm_head.weight").unwrap_or(table), None);
        let counts = |(&target, &weight): (&u32, &f32)| (weight != 0.0).then_some(target as usize);
        let targets: Vec<Option<usize>> = self.targets.iter().zip(&self.weights).map(counts).collect();
        (cross_entropy(&logits, &targets) * targets.iter().flatten().count() as f64, amplified)
    }
}

proptest! {
    #![proptest_config(tries(24))]

    /// The loss of a batch and all gradients, with activations kept or computed again.
    #[test]
    fn models_are_the_references(
        mixer in prop::sample::select(mixers()),
        shared in any::<bool>(),
        own_head in any::<bool>(),
        denoising in any::<bool>(),
        recomputed in any::<bool>(),
        (batch, tokens, seed) in (1usize..=3, 1usize..=20, any::<u64>()),
    ) {
        let context = if shared { ContextUse::Shared } else { ContextUse::None };
        let both = [MixerKind::Softmax, MixerKind::Linear(LinearRule::Plain)].contains(&mixer);
        let config = LanguageConfig {
            head: if own_head { Head::Own } else { Head::Tied },
            objective: if denoising && both { Objective::Denoising } else { Objective::Causal },
            ..config(mixer, context)
        };
        let (mut bench, mut workspace) = (Bench::new(config, Size { batch, tokens }, seed), Workspace::new().unwrap());
        let recomputation = if recomputed { Recomputation::Blocks } else { Recomputation::None };
        let (loss, gradients) = bench.learn(recomputation, &mut workspace).unwrap();
        let given = bench.given();
        let gradient = |name: &str| {
            let gradient = gradients.get(&bench.parameters, name).unwrap();
            Tensor::new(gradient.shape(), gradient.iter().map(|&x| x.into()).collect())
        };
        let gradient = bench.parameters.names().map(|name| (name, gradient(name))).collect();
        let (exact, amplified) = bench.exact(&given);
        let made = Made { out: Tensor::new(&[1], vec![loss]), gradient, amplified };
        let name = format!("{config:?}");
        made.hold_results(&name, &Tensor::new(&[1], vec![exact]));
        let one = Tensor::new(&[1], vec![1.0]);
        made.hold_along(&name, &given, &one, Tensors::clone, |t| Tensor::new(&[1], vec![bench.exact(t).0]));
        let evaluated =
            bench.model.evaluate(&bench.parameters, &mut workspace, bench.batch(), bench.context.as_ref()).unwrap();
        prop_assert_eq!(loss, evaluated);
    }
}

/// Both kinds of models by all mixers.
fn every_config() -> impl Iterator<Item = LanguageConfig> {
    let contexts = [ContextUse::None, ContextUse::Shared];
    mixers().into_iter().flat_map(move |mixer| contexts.map(|context| config(mixer, context)))
}

/// All that denoise.
fn denoising() -> impl Iterator<Item = LanguageConfig> {
    let both =
        |config: &LanguageConfig| [MixerKind::Softmax, MixerKind::Linear(LinearRule::Plain)].contains(&config.mixer);
    every_config().filter(both).map(|config| LanguageConfig { objective: Objective::Denoising, ..config })
}

#[test]
fn no_later_token_reaches_an_earlier_one() {
    let mut workspace = Workspace::new().unwrap();
    for config in every_config() {
        let size = Size { batch: 2, tokens: 70 };
        let bench = Bench::new(config, size, 3);
        let before = bench.predicted(&bench.tokens, &mut workspace);
        for cut in [1, 36, 69] {
            let mut tokens = bench.tokens.clone();
            for sequence in tokens.chunks_mut(size.tokens) {
                sequence[cut..].iter_mut().for_each(|token| *token = (*token + 7) % config.vocabulary as u32);
            }
            let after = bench.predicted(&tokens, &mut workspace);
            let sequence = size.tokens * config.vocabulary;
            for (before, after) in before.chunks(sequence).zip(after.chunks(sequence)) {
                let (earlier, later) = before.split_at(cut * config.vocabulary);
                assert_eq!(after[..earlier.len()], *earlier, "{config:?}: {cut}");
                assert_ne!(after[earlier.len()..], *later, "{config:?}: {cut}");
            }
        }
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let workspace = |threads| Workspace::on(Isa::best(), Box::leak(Box::new(Pool::new(threads).unwrap())));
    let (mut one, mut two) = (workspace(1), workspace(2));
    for config in every_config() {
        let config = LanguageConfig { dropout: 0.1, ..config };
        let passes = |workspace: &mut Workspace| {
            let mut bench = Bench::new(config, Size { batch: 3, tokens: 70 }, 3);
            let (loss, gradients) = bench.learn(Recomputation::None, workspace).unwrap();
            bench.context.iter_mut().for_each(SharedAttentionContext::update);
            let matrix = bench.context.map(|context| context.matrix().to_vec());
            (loss, gradients.values().to_vec(), matrix)
        };
        assert!(passes(&mut one) == passes(&mut two), "{config:?}");
    }
}

/// A text that is read in pieces gives what it gives at once, and reads anew once the state is cleared.
#[test]
fn pieces_are_the_whole() {
    let mut workspace = Workspace::new().unwrap();
    for config in every_config() {
        let (size, vocabulary) = (Size { batch: 3, tokens: 90 }, config.vocabulary);
        let Bench { model, parameters, tokens, context, .. } = &Bench::new(config, size, 3);
        let mut all = vec![f32::NAN; size.rows() * vocabulary];
        model.predict(parameters, &mut workspace, size, tokens, context.as_ref(), &mut all).unwrap();
        let mut state = model.state(3, 90).unwrap();
        for pieces in [&[90][..], &[1, 2, 3, 64, 5, 15], &[70, 1, 1, 1, 1, 16]] {
            for &piece in pieces {
                let first = state.tokens();
                let shown: Vec<u32> = (0..3).flat_map(|text| &tokens[text * 90 + first..][..piece]).copied().collect();
                let (piece, mut last) = (Size { tokens: piece, ..size }, vec![f32::NAN; 3 * vocabulary]);
                let context = context.as_ref();
                model.stream(parameters, &mut workspace, piece, &shown, &mut state, context, &mut last).unwrap();
                let end = state.tokens();
                for (text, last) in last.chunks(vocabulary).enumerate() {
                    let all = &all[(text * 90 + end - 1) * vocabulary..][..vocabulary];
                    let off = last.iter().zip(all).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                    assert!(off < 2e-5, "{config:?}: {off} at token {end} of {pieces:?}");
                }
            }
            assert_eq!(state.tokens(), 90);
            state.clear();
        }
    }
}

/// What cannot be read on is refused, and nothing of it is remembered.
#[test]
fn a_refused_piece_is_not_read() {
    let mut workspace = Workspace::new().unwrap();
    for config in every_config() {
        let Bench { model, parameters, tokens, context, .. } = &Bench::new(config, Size { batch: 1, tokens: 9 }, 3);
        let mut read = |tokens: &[u32], size: Size, state: &mut LanguageState, logits: &mut [f32]| {
            let result = model.stream(parameters, &mut workspace, size, tokens, state, context.as_ref(), logits);
            result.map_err(|error| error.to_string())
        };
        let (one, mut logits) = (Size { batch: 1, tokens: 1 }, vec![0.0; config.vocabulary]);
        let mut state = model.state(1, 9).unwrap();
        read(tokens, Size { batch: 1, tokens: 9 }, &mut state, &mut logits).unwrap();
        let mut expected = logits.clone();

        let mut refused = |tokens: &[u32], size, what: &str| {
            let error = read(tokens, size, &mut state, &mut logits).unwrap_err();
            assert!(error.contains(what), "{config:?}: {error}");
            assert_eq!(state.tokens(), 9);
        };
        refused(&[], Size { batch: 1, tokens: 0 }, "at least 1");
        refused(&[1, 2], Size { batch: 2, tokens: 1 }, "expected [2, 1, 19]");
        refused(&[config.vocabulary as u32], one, "token is");
        if config.mixer == MixerKind::Softmax {
            refused(&[1], one, "do not fit");
        }
        // A state with more room has read the same and goes on.
        let mut other = model.state(1, 10).unwrap();
        read(tokens, Size { batch: 1, tokens: 9 }, &mut other, &mut logits).unwrap();
        assert_eq!(expected, logits);
        read(&[2], one, &mut other, &mut expected).unwrap();
        if config.mixer != MixerKind::Softmax {
            read(&[2], one, &mut state, &mut logits).unwrap();
            assert_eq!(expected, logits, "{config:?}: what was refused has left nothing");
        }
    }
    // Another model's state.
    let of = |mixer| Bench::new(config(mixer, ContextUse::None), Size { batch: 1, tokens: 1 }, 3);
    let (a, b) = (of(MixerKind::Softmax), of(MixerKind::StateSpace));
    let mut state = b.model.state(1, 9).unwrap();
    let (size, mut logits) = (Size { batch: 1, tokens: 1 }, vec![0.0; 19]);
    let error = a.model.stream(&a.parameters, &mut workspace, size, &[1], &mut state, None, &mut logits);
    assert!(error.unwrap_err().to_string().contains("another mixer's"));
}

/// What denoises tells places apart: what stands before a mask is not what stands behind it.
#[test]
fn denoising_sees_the_order_of_tokens() {
    let mut workspace = Workspace::new().unwrap();
    for config in denoising() {
        let bench = Bench::new(config, Size { batch: 1, tokens: 7 }, 3);
        let error = bench.model.state(1, 9).expect_err("what denoises does not read on").to_string();
        assert!(error.contains("causal"), "{error}");
        let of_mask = |logits: &[f32], place: usize| logits[place * config.vocabulary..][..config.vocabulary].to_vec();
        let one = of_mask(&bench.predicted(&[1, 2, 3, 18, 4, 5, 6], &mut workspace), 3);
        let other = of_mask(&bench.predicted(&[4, 5, 6, 18, 1, 2, 3], &mut workspace), 3);
        let off = one.iter().zip(&other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(off > 1e-3, "{config:?}: {off}");
    }
}

/// More blocks than a stack holds are refused.
#[test]
fn as_many_blocks_as_are_allowed_learn() {
    let of = |layers| LanguageConfig {
        layers,
        width: 4,
        heads: 1,
        kv_heads: 1,
        head_dim: 4,
        hidden: 4,
        ..config(MixerKind::Softmax, ContextUse::None)
    };
    let mut bench = Bench::new(of(1000), Size { batch: 1, tokens: 2 }, 3);
    let mut workspace = Workspace::new().unwrap();
    for recomputation in [Recomputation::None, Recomputation::Blocks] {
        assert!(bench.learn(recomputation, &mut workspace).unwrap().0.is_finite());
    }
    let error = LanguageModel::new(&mut Parameters::new(3), of(1001)).unwrap_err();
    assert_eq!(error.to_string(), "layers is 1001, it must be at most 1000");
}

/// Of no tokens at all there is an answer, or it is said that there is none.
#[test]
fn no_tokens_are_no_panic() {
    let mut workspace = Workspace::new().unwrap();
    for config in every_config() {
        for (batch, tokens) in [(0, 0), (0, 5), (2, 0)] {
            let size = Size { batch, tokens };
            let mut bench = Bench::new(config, size, 3);
            for recomputation in [Recomputation::None, Recomputation::Blocks] {
                if let Ok((loss, gradients)) = bench.learn(recomputation, &mut workspace) {
                    assert!(loss == 0.0 && gradients.values().iter().all(|&x| x == 0.0), "{config:?}: {size:?}");
                }
            }
            let (model, parameters, context) = (&bench.model, &bench.parameters, bench.context.as_ref());
            let loss = model.evaluate(parameters, &mut workspace, bench.batch(), context);
            assert!(loss.is_err() || loss == Ok(0.0), "{config:?}: {size:?}: {loss:?}");
            let _ = model.predict(parameters, &mut workspace, size, &[], context, &mut []);
        }
    }
}
