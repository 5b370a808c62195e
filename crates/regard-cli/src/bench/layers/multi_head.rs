//! Multi-head attention of a sequence among itself, 256 wide, 8 heads.

use regard_kernels::peak::Unit;
use regard_layers::{Gradients, Layer, Mode, MultiHeadAttention, MultiHeadConfig, Parameters, Size, Workspace};
use regard_memory::Need;
use regard_oracle::layers::{MultiHead, Tensor, Tensors};
use regard_oracle::{numbers, widen};
use regard_simd::Isa;
use regard_threads::Pool;
use serde_json::{Map, json};

use super::NO_TARGET;
use crate::bench::case::Target;
use crate::bench::limit::Work;
use crate::bench::memory::Meter;
use crate::bench::model::Clock;
use crate::bench::peer::Peer;
use crate::bench::report::{Accuracy, Figures};
use crate::error::Error;

const WIDTH: usize = 256;
const HEADS: usize = 8;
const TOKENS: [usize; 5] = [8, 16, 32, 64, 128];

/// How far along a direction the differences in f64 go.
const STEP: f64 = 1e-4;

/// What a result may be off by, beside the largest: chains of 256 products in f32, three of them one after the other.
const BOUND: f64 = 4e-6;

/// A case.
#[derive(Clone, Copy, Debug)]
pub(super) struct MultiHeadCase {
    tokens: usize,
    backward: bool,
}

/// What is computed on.
struct Inputs {
    w_qkv: Vec<f32>,
    w_out: Vec<f32>,
    x: Vec<f32>,
    grad: Vec<f32>,
}

impl MultiHeadCase {
    pub(super) fn all() -> impl Iterator<Item = MultiHeadCase> {
        [false, true].into_iter().flat_map(|backward| TOKENS.map(|tokens| MultiHeadCase { tokens, backward }))
    }

    pub(super) fn id(&self) -> String {
        format!("multi-head-{}{}", self.tokens, if self.backward { "-train" } else { "" })
    }

    /// Four projections and two products of all pairs; backward two of each.
    fn work(&self) -> Work {
        let forward = 2 * self.tokens * 4 * WIDTH * WIDTH + 4 * self.tokens * self.tokens * WIDTH;
        let passes = if self.backward { 3 } else { 1 };
        Work { flops: (forward * passes) as f64, unit: Unit::F32, bytes: 0.0 }
    }

    pub(super) fn measure<'m>(
        &self,
        clock: impl Fn(Option<String>) -> Clock<'m>,
        isa: Isa,
        pool: &'static Pool,
        threads: usize,
        mut torch: Option<&mut Peer>,
    ) -> Result<Figures, Error> {
        let inputs = Inputs::new(self.tokens);
        let mut call = Call::new(*self, &inputs, isa, pool)?;
        call.run()?;
        let accuracy = self.judge(&inputs, &call.answer());
        let (mut of_torch, mut name) = (Vec::new(), None);
        if let Some(torch) = torch.as_deref_mut() {
            let (said, answer) = self.ask(&inputs, threads, torch)?;
            of_torch = self.judge(&inputs, &answer);
            name = Some(said);
        }
        let peer = |calls| torch.as_mut().map_or(Ok(Vec::new()), |torch| torch.step(calls));
        let mut figures = clock(name).time(&[self.work()], None, accuracy, || call.run(), peer)?;
        figures.target = Target { ratio: Some(2.0), ..NO_TARGET };
        figures.memory = Some(call.meter.memory());
        if let Some(peer) = &mut figures.peer {
            peer.accuracy = of_torch;
        }
        Ok(figures)
    }

    /// Hands PyTorch the case; gives its name and its answer.
    fn ask(&self, inputs: &Inputs, threads: usize, torch: &mut Peer) -> Result<(String, [Vec<f32>; 4]), Error> {
        let mut at = Map::new();
        for (name, numbers) in [("w_qkv", &inputs.w_qkv), ("w_out", &inputs.w_out), ("x", &inputs.x)] {
            at.insert(name.into(), json!(torch.hand(name, numbers)?));
        }
        if self.backward {
            at.insert("grad".into(), json!(torch.hand("grad", &inputs.grad)?));
        }
        let request = json!({"inputs": at, "width": WIDTH, "heads": HEADS, "threads": threads});
        let answer = torch.ask(&request.to_string())?;
        let name = answer["peer"].as_str().unwrap_or("torch").to_owned();
        let of = |numbers: &[f32]| if self.backward { numbers.len() } else { 0 };
        let lengths = [inputs.x.len(), of(&inputs.x), of(&inputs.w_qkv), of(&inputs.w_out)];
        Ok((name, torch.output(lengths)?))
    }

    /// How far off the results are from those in f64, beside the largest of them; and how far all gradients together, along a
    /// random direction, from central differences in f64, beside their length.
    fn judge(&self, inputs: &Inputs, [out, dx, dw_qkv, dw_out]: &[Vec<f32>; 4]) -> Vec<Accuracy> {
        let exact = inputs.exact(&[&inputs.x, &inputs.w_qkv, &inputs.w_out].map(|numbers| widen(numbers)));
        let most = exact.iter().fold(0.0_f64, |most, x| most.max(x.abs()));
        let worst = |most: f64, x: f64| if x.is_nan() { f64::INFINITY } else { most.max(x) };
        let off = out.iter().zip(&exact).map(|(x, y)| (f64::from(*x) - y).abs()).fold(0.0, worst);
        let mut all = vec![Accuracy { of: "out", error: off / most, bound: BOUND }];
        if self.backward {
            let at = [&inputs.x, &inputs.w_qkv, &inputs.w_out].map(|numbers| widen(numbers));
            let directions =
                [(7, &at[0]), (8, &at[1]), (9, &at[2])].map(|(stream, x)| widen(&numbers(stream, x.len())));
            let value = |step: f64| -> f64 {
                let moved = [0, 1, 2].map(|i| -> Vec<f64> {
                    at[i].iter().zip(&directions[i]).map(|(x, d)| x + step * d / (WIDTH as f64).sqrt()).collect()
                });
                inputs.exact(&moved).iter().zip(&inputs.grad).map(|(y, g)| y * f64::from(*g)).sum()
            };
            let differences =
                (8.0 * (value(STEP) - value(-STEP)) - (value(2.0 * STEP) - value(-2.0 * STEP))) / (12.0 * STEP);
            let (mut slope, mut square) = (0.0, 0.0);
            for (gradient, direction) in [dx, dw_qkv, dw_out].into_iter().zip(&directions) {
                for (g, d) in gradient.iter().zip(direction) {
                    slope += f64::from(*g) * d / (WIDTH as f64).sqrt();
                    square += f64::from(*g).powi(2);
                }
            }
            let error = (slope - differences).abs() / (square / WIDTH as f64).sqrt();
            all.push(Accuracy { of: "gradients", error: worst(0.0, error), bound: BOUND });
        }
        all
    }
}

impl Inputs {
    fn new(tokens: usize) -> Inputs {
        let draw = |stream: u64, len: usize, size: f32| -> Vec<f32> {
            numbers(stream, len).iter().map(|x| x * size).collect()
        };
        let narrow = 1.0 / (WIDTH as f32).sqrt();
        Inputs {
            w_qkv: draw(1, 3 * WIDTH * WIDTH, narrow),
            w_out: draw(2, WIDTH * WIDTH, narrow),
            x: draw(3, tokens * WIDTH, 1.0),
            grad: draw(4, tokens * WIDTH, 1.0),
        }
    }

    /// The results in f64, of `x`, `w_qkv` and `w_out`.
    fn exact(&self, [x, w_qkv, w_out]: &[Vec<f64>; 3]) -> Vec<f64> {
        let dim = WIDTH / HEADS;
        let weights = Tensors::from_iter([
            ("w_qkv", Tensor::new(&[3, HEADS, dim, WIDTH], w_qkv.clone())),
            ("w_out", Tensor::new(&[HEADS, dim, WIDTH], w_out.clone())),
        ]);
        let x = Tensor::new(&[1, x.len() / WIDTH, WIDTH], x.clone());
        MultiHead::default().forward(&x, None, &weights).values
    }
}

/// Our side, ready to be called.
struct Call {
    case: MultiHeadCase,
    parameters: Parameters,
    layer: MultiHeadAttention,
    workspace: Workspace,
    gradients: Gradients,
    x: Vec<f32>,
    grad: Vec<f32>,
    out: Vec<f32>,
    dx: Vec<f32>,
    meter: Meter,
}

impl Call {
    fn new(case: MultiHeadCase, inputs: &Inputs, isa: Isa, pool: &'static Pool) -> Result<Self, Error> {
        let mut parameters = Parameters::new(0);
        let layer = MultiHeadAttention::new(&mut parameters.root(), MultiHeadConfig::new(WIDTH, HEADS))?;
        for (name, numbers) in [("w_qkv", &inputs.w_qkv), ("w_out", &inputs.w_out)] {
            let weight = parameters.get_mut(name).into_iter().flatten();
            weight.zip(numbers).for_each(|(to, from)| *to = *from);
        }
        Ok(Call {
            case,
            gradients: Gradients::new(&parameters)?,
            parameters,
            layer,
            workspace: Workspace::on(isa, pool),
            x: inputs.x.clone(),
            grad: inputs.grad.clone(),
            out: vec![0.0; inputs.x.len()],
            dx: vec![0.0; inputs.x.len()],
            meter: Meter::default(),
        })
    }

    /// One call; gradients replace those of the call before, as PyTorch's accumulate: the work is the same.
    fn run(&mut self) -> Result<(), Error> {
        let Call { case, parameters, layer, workspace, gradients, x, grad, out, dx, meter } = self;
        let size = Size { batch: 1, tokens: case.tokens };
        let work = || -> Result<(), regard_layers::Error> {
            let need = layer.forward_need(size);
            if !case.backward {
                let (mut tape, mut pass) = workspace.pass(parameters, Mode::Evaluation, need)?;
                let (result, _) = layer.forward(&mut pass, size, x, &mut tape)?;
                out.copy_from_slice(result);
                return Ok(());
            }
            gradients.clear();
            let need: Need = need.and(layer.backward_need(size));
            let (mut tape, mut pass) = workspace.pass(parameters, Mode::Training { first_sequence: 0 }, need)?;
            let (result, kept) = layer.forward(&mut pass, size, x, &mut tape)?;
            out.copy_from_slice(result);
            dx.fill(0.0);
            layer.backward(&mut pass, size, kept, grad, gradients, dx, &mut tape)
        };
        meter.count(work)?;
        meter.end_call();
        Ok(())
    }

    /// Results, and the gradients of `x`, `w_qkv` and `w_out`.
    fn answer(&self) -> [Vec<f32>; 4] {
        let of = |name: &str| -> Vec<f32> {
            self.gradients.get(&self.parameters, name).into_iter().flatten().copied().collect()
        };
        match self.case.backward {
            false => [self.out.clone(), Vec::new(), Vec::new(), Vec::new()],
            true => [self.out.clone(), self.dx.clone(), of("w_qkv"), of("w_out")],
        }
    }
}
