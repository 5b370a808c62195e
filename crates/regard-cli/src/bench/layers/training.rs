//! Steps of training of a language model of ten million parameters, and what memory they take.

use regard_kernels::peak::Unit;
use regard_layers::{
    Batch, ContextUse, Head, LanguageConfig, MixerKind, NotFinite, Objective, OptimiserConfig, Precision,
    Recomputation, Schedule, Size, Trainer, TrainingConfig, Workspace,
};
use regard_oracle::layers::{
    Activation, Block, MultiHead, Norm, Rotary, Tensor, Tensors, cross_entropy, embedding, linear, rms_norm,
};
use regard_simd::Isa;
use regard_threads::Pool;
use serde_json::{Map, json};

use super::NO_TARGET;
use crate::bench::case::Target;
use crate::bench::limit::Work;
use crate::bench::memory::Meter;
use crate::bench::model::Clock;
use crate::bench::peer::Peer;
use crate::bench::report::{Accuracy, Amount, Figures};
use crate::error::Error;

const VOCABULARY: usize = 256;
const WIDTH: usize = 384;
const LAYERS: usize = 6;
const HEADS: usize = 6;
const HIDDEN: usize = 1024;
const TOKENS: usize = 256;
const BATCH: usize = 16;
/// Tokens of the sequence that both sides' losses are checked on, in f64.
const CHECK: usize = 64;

/// What a loss may be off by, beside itself: its rounding in f32 is far below.
const BOUND: f64 = 1e-5;
/// The same where products are in bf16: what one number is off by that is rounded to it.
const BOUND_BF16: f64 = 1.0 / 256.0;

/// A case.
#[derive(Clone, Copy, Debug)]
pub(super) struct TrainingCase {
    recomputation: Recomputation,
    /// Whether memory is kept from step to step.
    reuse: bool,
    precision: Precision,
}

impl TrainingCase {
    pub(super) fn all() -> impl Iterator<Item = TrainingCase> {
        let plain = TrainingCase { recomputation: Recomputation::None, reuse: true, precision: Precision::F32 };
        let ways = [Recomputation::None, Recomputation::Blocks]
            .into_iter()
            .flat_map(move |recomputation| [true, false].map(|reuse| TrainingCase { recomputation, reuse, ..plain }));
        ways.chain([TrainingCase { precision: Precision::Bf16, ..plain }])
    }

    pub(super) fn id(&self) -> String {
        let recomputed = if self.recomputation == Recomputation::Blocks { "-recomputed" } else { "" };
        let precision = if self.precision == Precision::Bf16 { "-bf16" } else { "" };
        format!("training-10m{precision}{recomputed}{}", if self.reuse { "" } else { "-fresh" })
    }

    /// Each parameter of a matrix meets each token, and each pair of tokens meets, in f32 always; backward twice as much.
    fn work(&self, isa: Isa) -> [Work; 2] {
        let matrices = LAYERS * (4 * WIDTH * WIDTH + 3 * WIDTH * HIDDEN) + VOCABULARY * WIDTH;
        let pairs = LAYERS * 4 * WIDTH * (TOKENS + 1) / 2;
        let pairs_of_bf16 = self.precision == Precision::Bf16 && isa.has_bf16_dots();
        let unit = if pairs_of_bf16 { Unit::Bf16 } else { Unit::F32 };
        [(2 * matrices, unit), (pairs, Unit::F32)].map(|(flops, unit)| Work {
            flops: (3 * BATCH * TOKENS * flops) as f64,
            unit,
            bytes: 0.0,
        })
    }

    pub(super) fn measure<'m>(
        &self,
        clock: impl Fn(Option<String>) -> Clock<'m>,
        isa: Isa,
        pool: &'static Pool,
        threads: usize,
        torch: Option<&mut Peer>,
    ) -> Result<Figures, Error> {
        let mut trainer = self.trainer(isa, pool)?;
        let text = text(20_000);
        let exact = exact_loss(&trainer, &text[..=CHECK]);
        let bound = if self.precision == Precision::Bf16 { BOUND_BF16 } else { BOUND };
        let judge = |loss: f64| vec![Accuracy { of: "loss", error: (loss / exact - 1.0).abs(), bound }];
        let accuracy = judge(loss(&mut trainer, &text[..=CHECK])?);
        // The peer has one way alone.
        let plain = self.reuse && self.recomputation == Recomputation::None;
        let mut torch = torch.filter(|_| plain);
        let (mut of_torch, mut name) = (Vec::new(), None);
        if let Some(torch) = torch.as_deref_mut() {
            let (said, loss) = self.ask(&trainer, &text, threads, torch)?;
            of_torch = judge(loss);
            name = Some(said);
        }
        let mut meter = Meter::default();
        let ours = || {
            meter.count(|| {
                if !self.reuse {
                    *trainer.workspace() = Workspace::on(isa, pool).with_precision(self.precision);
                }
                trainer.step(&text)
            })?;
            meter.end_call();
            Ok(())
        };
        let peer = |calls| torch.as_mut().map_or(Ok(Vec::new()), |torch| torch.step(calls));
        let amount = Some(Amount { count: BATCH * TOKENS, of: "tokens" });
        let mut figures = clock(name).time(&self.work(isa), amount, accuracy, ours, peer)?;
        let asked = plain && self.precision == Precision::F32;
        figures.target = if asked { Target { ratio: Some(1.5), ..NO_TARGET } } else { NO_TARGET };
        figures.memory = Some(meter.memory());
        if let Some(peer) = &mut figures.peer {
            peer.accuracy = of_torch;
        }
        Ok(figures)
    }

    fn trainer(&self, isa: Isa, pool: &'static Pool) -> Result<Trainer, Error> {
        let model = LanguageConfig {
            vocabulary: VOCABULARY,
            width: WIDTH,
            layers: LAYERS,
            heads: HEADS,
            kv_heads: HEADS,
            head_dim: WIDTH / HEADS,
            hidden: HIDDEN,
            mixer: MixerKind::Softmax,
            objective: Objective::Causal,
            eps: 1e-5,
            rope_theta: 10_000.0,
            head: Head::Tied,
            context: ContextUse::None,
            dropout: 0.0,
        };
        let config = TrainingConfig {
            batch: BATCH,
            tokens: TOKENS,
            accumulation: 1,
            schedule: Schedule { rate: 1e-3, warmup: 10, steps: 1000, last: 0.1 },
            optimiser: OptimiserConfig::default(),
            recomputation: self.recomputation,
            seed: 7,
            not_finite: NotFinite::Stop,
        };
        Ok(Trainer::new(model, config, Workspace::on(isa, pool).with_precision(self.precision))?)
    }

    /// Hands PyTorch the model and the text; gives its name and the loss of its check.
    fn ask(&self, trainer: &Trainer, text: &[u32], threads: usize, torch: &mut Peer) -> Result<(String, f64), Error> {
        let mut weights = Map::new();
        for name in trainer.parameters().names() {
            let numbers: Vec<f32> = trainer.parameters().get(name).into_iter().flatten().copied().collect();
            weights.insert(name.into(), json!(torch.hand(name, &numbers)?));
        }
        let tokens = torch.hand("tokens", &floats(&text[..BATCH * (TOKENS + 1)]))?;
        let check = torch.hand("check", &floats(&text[..=CHECK]))?;
        let request = json!({
            "vocabulary": VOCABULARY, "width": WIDTH, "layers": LAYERS, "heads": HEADS, "hidden": HIDDEN,
            "threads": threads, "tokens": TOKENS, "check": CHECK, "bf16": self.precision == Precision::Bf16, "weights": weights,
            "inputs": {"tokens": tokens, "check": check},
        });
        let answer = torch.ask(&request.to_string())?;
        let [loss] = torch.output([1])?;
        Ok((answer["peer"].as_str().unwrap_or("torch").to_owned(), f64::from(loss[0])))
    }
}

/// Tokens without any order: what is learned does not matter to the time it takes.
fn text(len: u32) -> Vec<u32> {
    (0..len).map(|i| i.wrapping_mul(2_654_435_761) >> 24).collect()
}

/// The mean loss of one sequence.
fn loss(trainer: &mut Trainer, text: &[u32]) -> Result<f64, Error> {
    let tokens = text.len() - 1;
    let weights = vec![1.0 / tokens as f32; tokens];
    let size = Size { batch: 1, tokens };
    let batch = Batch { size, tokens: &text[..tokens], targets: &text[1..], weights: &weights };
    Ok(trainer.evaluate_batch(batch)?)
}

/// The same in f64, by the formulas.
fn exact_loss(trainer: &Trainer, text: &[u32]) -> f64 {
    let tensor = |name: &str| -> Tensor {
        let array = trainer.parameters().get(name).expect("a parameter of the model");
        Tensor::new(array.shape(), array.iter().map(|&x| f64::from(x)).collect())
    };
    let ids: Vec<usize> = text.iter().map(|&token| token as usize).collect();
    let table = tensor("model.embed_tokens.weight");
    let rows = embedding(&table, &ids[..ids.len() - 1]);
    let mut x = rows.reshaped(&[1, ids.len() - 1, WIDTH]);
    let dim = WIDTH / HEADS;
    for layer in 0..LAYERS {
        let of = |name: &str| tensor(&format!("model.layers.{layer}.{name}.weight"));
        let head_rows = |name: &str| of(name).reshaped(&[1, HEADS, dim, WIDTH]);
        // `o_proj [outputs, inputs]` as `w_out [heads, dim, outputs]`.
        let o_proj = of("self_attn.o_proj");
        let turned = (0..WIDTH * WIDTH).map(|i| o_proj.values[i % WIDTH * WIDTH + i / WIDTH]).collect();
        let joined: Vec<f64> =
            ["q", "k", "v"].iter().flat_map(|p| head_rows(&format!("self_attn.{p}_proj")).values).collect();
        let weights = Tensors::from_iter([
            ("attention_norm.weight", of("input_layernorm")),
            ("feed_forward_norm.weight", of("post_attention_layernorm")),
            ("attention.w_qkv", Tensor::new(&[3, HEADS, dim, WIDTH], joined)),
            ("attention.w_out", Tensor::new(&[HEADS, dim, WIDTH], turned)),
            ("feed_forward.w_gate", of("mlp.gate_proj")),
            ("feed_forward.w_up", of("mlp.up_proj")),
            ("feed_forward.w_down", of("mlp.down_proj")),
        ]);
        let rotary = Some(Rotary { theta: 10_000.0, dims: None });
        let attention = MultiHead { allows: &|i, j| j <= i, rotary, ..MultiHead::default() };
        let block = Block { norm: Norm::Rms(1e-5), attention, activation: Activation::Silu };
        x = block.forward(&x, &weights);
    }
    let normed = rms_norm(&x, &tensor("model.norm.weight"), 1e-5);
    let targets: Vec<_> = ids[1..].iter().map(|&target| Some(target)).collect();
    cross_entropy(&linear(&normed, &table, None), &targets)
}

/// Tokens as numbers that can be handed on.
fn floats(tokens: &[u32]) -> Vec<f32> {
    tokens.iter().map(|&token| token as f32).collect()
}
