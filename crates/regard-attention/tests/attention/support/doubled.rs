//! The oracle's problems as calls of the engine in f64.

use regard_attention::{Inputs, Outputs, Plan, Terms, Upstream};
use regard_memory::{Tensor, TensorMut};
use regard_oracle::{Attended, Attention, Gradients, Problem, widen};
use regard_simd::Isa;
use regard_threads::Pool;

use super::{Asked, keeps, pool};

/// A problem whose numbers are f64, and may be moved.
#[derive(Clone)]
pub(crate) struct Doubled {
    pub(crate) problem: Problem,
    pub(crate) q: Vec<f64>,
    pub(crate) k: Vec<f64>,
    pub(crate) v: Vec<f64>,
    pub(crate) bias: Vec<f64>,
    pub(crate) sinks: Vec<f64>,
    pub(crate) dout: Vec<f64>,
    pub(crate) dlse: Vec<f64>,
    slopes: Option<Vec<f64>>,
}

impl Doubled {
    pub(crate) fn new(problem: &Problem) -> Doubled {
        let Problem { q, k, v, bias, slopes, sinks, dout, dlse, .. } = problem;
        let [q, k, v, dout, dlse] = [q, k, v, dout, dlse].map(|x| widen(x));
        let bias = bias.as_ref().map_or(vec![], |(_, values)| widen(values));
        let [slopes, sinks] = [slopes, sinks].map(|x| x.as_deref().map(widen));
        Doubled { problem: problem.clone(), q, k, v, bias, sinks: sinks.unwrap_or_default(), dout, dlse, slopes }
    }

    pub(crate) fn plan(&self) -> Plan {
        Asked::new(&self.problem, Isa::best()).plan()
    }

    /// Answers about the problem from its definition, as long as its numbers are not moved.
    pub(crate) fn define<R>(problem: &Problem, answer: impl FnOnce(Attention<'_>) -> R) -> R {
        problem.define(|pair| keeps(problem, pair), answer)
    }

    pub(crate) fn inputs(&self) -> Inputs<'_, f64, f64> {
        let sizes = self.problem.sizes;
        let bias = self.problem.bias.as_ref();
        Inputs {
            q: Tensor::contiguous(&self.q, sizes.q()).expect("queries"),
            k: Tensor::contiguous(&self.k, sizes.k()).expect("keys"),
            v: Tensor::contiguous(&self.v, sizes.v()).expect("values"),
            terms: Terms {
                bias: bias.map(|(shape, _)| Tensor::contiguous(&self.bias, *shape).expect("a bias")),
                slopes: self.slopes.as_deref(),
                sinks: self.problem.sinks.is_some().then_some(&self.sinks[..]),
                sequence_ids: None,
            },
        }
    }

    pub(crate) fn run(&self) -> Attended {
        self.run_on(&self.plan(), pool())
    }

    pub(crate) fn run_on(&self, plan: &Plan, pool: &Pool) -> Attended {
        let sizes = self.problem.sizes;
        let (mut out, mut lse) = (blank(sizes.out()), blank(sizes.lse()));
        let outputs = Outputs::state(whole(&mut out, sizes.out()), whole(&mut lse, sizes.lse()));
        plan.run_f64(&self.inputs(), outputs, pool).expect("a run");
        Attended { out, lse }
    }

    pub(crate) fn backward(&self, attended: &Attended) -> Gradients {
        self.backward_on(attended, &self.plan(), pool())
    }

    pub(crate) fn backward_on(&self, attended: &Attended, plan: &Plan, pool: &Pool) -> Gradients {
        let (sizes, bias) = (self.problem.sizes, self.problem.bias.as_ref());
        let (mut dq, mut dk, mut dv) = (blank(sizes.q()), blank(sizes.k()), blank(sizes.v()));
        let (mut dbias, mut dsinks) = (vec![f64::NAN; self.bias.len()], vec![f64::NAN; self.sinks.len()]);
        let upstream = Upstream {
            out: Tensor::contiguous(&attended.out, sizes.out()).expect("a tensor"),
            lse: Tensor::contiguous(&attended.lse, sizes.lse()).expect("a tensor"),
            out_gradient: Tensor::contiguous(&self.dout, sizes.out()).expect("a tensor"),
            lse_gradient: Some(Tensor::contiguous(&self.dlse, sizes.lse()).expect("a tensor")),
        };
        let gradients = regard_attention::Gradients {
            q: whole(&mut dq, sizes.q()),
            k: whole(&mut dk, sizes.k()),
            v: whole(&mut dv, sizes.v()),
            bias: bias.map(|(shape, _)| whole(&mut dbias, *shape)),
            sinks: self.problem.sinks.is_some().then_some(&mut dsinks[..]),
        };
        plan.backward_f64(&self.inputs(), &upstream, gradients, pool).expect("a run");
        Gradients { dq, dk, dv, dbias, dsinks }
    }
}

fn blank(shape: [usize; 4]) -> Vec<f64> {
    vec![f64::NAN; shape.iter().product()]
}

fn whole(x: &mut [f64], shape: [usize; 4]) -> TensorMut<'_, f64> {
    TensorMut::contiguous(x, shape).expect("numbers for the shape")
}

/// Equal, infinities and NaN included, but for rounding in f64.
pub(crate) fn close(ours: &[f64], exact: &[f64], tolerance: f64) -> Result<(), String> {
    if ours.len() != exact.len() {
        return Err(format!("{} numbers, expected {}", ours.len(), exact.len()));
    }
    let same =
        |(&a, &b): (&f64, &f64)| a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= tolerance * (1.0 + b.abs());
    match ours.iter().zip(exact).position(|pair| !same(pair)) {
        None => Ok(()),
        Some(at) => Err(format!("number {at} is {}, expected {}", ours[at], exact[at])),
    }
}
