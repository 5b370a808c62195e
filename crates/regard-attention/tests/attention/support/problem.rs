//! The oracle's problems as calls of the engine.

use regard_attention::{
    Differentiable, Dropout, Gradients, Inputs, Offset, Options, Outputs, Plan, Segment, Sequences, Shape, Terms,
    Upstream,
};
use regard_kernels::DropoutRow;
use regard_memory::{Tensor, TensorMut};
use regard_oracle::{Pair, Problem};
use regard_simd::Isa;
use regard_threads::Pool;

use super::{Outcome, mask, soiled, store};

/// The seed of every problem's dropout.
const SEED: u64 = 0x5EED;

/// A problem that the engine is asked, and what it is asked through.
pub(crate) struct Asked<'a> {
    pub(crate) problem: &'a Problem,
    pub(crate) isa: Isa,
    pub(crate) pool: &'a Pool,
}

/// Gradients in f32, without gaps.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slopes {
    pub(crate) dq: Vec<f32>,
    pub(crate) dk: Vec<f32>,
    pub(crate) dv: Vec<f32>,
    pub(crate) dbias: Option<Vec<f32>>,
    pub(crate) dsinks: Option<Vec<f32>>,
}

impl Asked<'_> {
    pub(crate) fn shape(&self) -> Shape {
        let regard_oracle::Sizes { batch, heads, kv_heads, queries, keys, dim_k, dim_v } = self.problem.sizes;
        Shape { batch, heads, kv_heads, queries, keys, dim_k, dim_v }
    }

    pub(crate) fn plan(&self) -> Plan {
        let Problem { sequences, scale, softcap, dropout, set, .. } = self.problem;
        let segments = sequences.iter().map(|sequence| Segment {
            batch: sequence.batch,
            queries: sequence.queries.clone(),
            keys: sequence.keys.clone(),
        });
        let options = Options {
            scale: scale.map(f64::from),
            softcap: softcap.map(f64::from),
            dropout: dropout.map(|probability| Dropout { probability, seed: SEED }),
            sequences: Sequences::Packed(segments.collect()),
            offset: Offset::Each(sequences.iter().map(|sequence| sequence.offset).collect()),
            isa: Some(self.isa),
            ..Options::default()
        };
        Plan::new(self.shape(), &mask(set), &options).expect("a plan")
    }

    /// Whether dropout keeps a weight.
    pub(crate) fn keeps(problem: &Problem, pair: &Pair) -> bool {
        let probability = problem.dropout.unwrap_or(0.0);
        DropoutRow::new(SEED, pair.sequence as u64, pair.head as u64, pair.i as u64, probability).keeps(pair.j as u32)
    }

    fn with_inputs<T: Differentiable, R>(&self, ask: impl FnOnce(&Inputs<'_, T>) -> R) -> R {
        let Problem { sizes, q, k, v, bias, slopes, sinks, .. } = self.problem;
        let [q, k, v] = [q, k, v].map(|x| store::<T>(x));
        let bias = bias.as_ref().map(|(shape, x)| Tensor::contiguous(x, *shape).expect("a bias"));
        ask(&Inputs {
            q: Tensor::contiguous(&q, sizes.q()).expect("queries"),
            k: Tensor::contiguous(&k, sizes.k()).expect("keys"),
            v: Tensor::contiguous(&v, sizes.v()).expect("values"),
            terms: Terms { bias, slopes: slopes.as_deref(), sinks: sinks.as_deref(), sequence_ids: None },
        })
    }

    pub(crate) fn run<T: Differentiable>(&self) -> Outcome {
        let sizes = self.problem.sizes;
        let mut out = vec![T::from_f32(f32::NAN); sizes.out().iter().product()];
        let mut lse = vec![f32::NAN; sizes.lse().iter().product()];
        let outputs = Outputs::state(
            TensorMut::contiguous(&mut out, sizes.out()).expect("a tensor"),
            TensorMut::contiguous(&mut lse, sizes.lse()).expect("a tensor"),
        );
        self.with_inputs::<T, _>(|inputs| self.plan().run(inputs, outputs, &mut soiled(), self.pool)).expect("a run");
        Outcome { out: out.iter().map(|x| x.to_f32()).collect(), lse }
    }

    /// The gradients, from the results of a forward pass.
    pub(crate) fn backward<T: Differentiable>(&self, outcome: &Outcome) -> Slopes {
        let (problem, sizes) = (self.problem, self.problem.sizes);
        let [out, dout] = [&outcome.out, &problem.dout].map(|x| store::<T>(x));
        let blank = |shape: [usize; 4]| vec![f32::NAN; shape.iter().product()];
        let (mut dq, mut dk, mut dv) = (blank(sizes.q()), blank(sizes.k()), blank(sizes.v()));
        let mut dbias = problem.bias.as_ref().map(|(shape, _)| blank(*shape));
        let mut dsinks = problem.sinks.as_ref().map(|sinks| vec![f32::NAN; sinks.len()]);
        let upstream = Upstream {
            out: Tensor::contiguous(&out, sizes.out()).expect("a tensor"),
            lse: Tensor::contiguous(&outcome.lse, sizes.lse()).expect("a tensor"),
            out_gradient: Tensor::contiguous(&dout, sizes.out()).expect("a tensor"),
            lse_gradient: Some(Tensor::contiguous(&problem.dlse, sizes.lse()).expect("a tensor")),
        };
        let shape = problem.bias.as_ref().map(|(shape, _)| *shape);
        let gradients = Gradients {
            q: TensorMut::contiguous(&mut dq, sizes.q()).expect("a tensor"),
            k: TensorMut::contiguous(&mut dk, sizes.k()).expect("a tensor"),
            v: TensorMut::contiguous(&mut dv, sizes.v()).expect("a tensor"),
            bias: dbias.as_mut().zip(shape).map(|(x, shape)| TensorMut::contiguous(x, shape).expect("a tensor")),
            sinks: dsinks.as_deref_mut(),
        };
        self.with_inputs::<T, _>(|inputs| {
            self.plan().backward(inputs, &upstream, gradients, &mut soiled(), self.pool).expect("a run");
        });
        Slopes { dq, dk, dv, dbias, dsinks }
    }
}
