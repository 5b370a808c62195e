//! What attention to chosen blocks takes, beside attention to all.

use regard_attention::{Inputs, Options, Outputs, Plan, Shape};
use regard_masks::Mask;
use regard_memory::{Arena, Tensor, TensorMut};
use regard_oracle::numbers;
use regard_simd::Isa;
use regard_threads::Pool;

use crate::bench::measure::{alternate, median, turn};
use crate::bench::select::layers::Layer;
use crate::error::Error;

/// Attention of one layer over a window.
pub(crate) struct Timing<'a> {
    layer: &'a Layer,
    shape: Shape,
    options: Options,
    v: Vec<f32>,
    out: Vec<f32>,
    scratch: Arena,
    pool: &'a Pool,
}

/// Seconds of a call, its plan included.
pub(crate) struct Times {
    pub(crate) chosen: f64,
    pub(crate) all: f64,
}

impl<'a> Timing<'a> {
    pub(crate) fn new(layer: &'a Layer, isa: Isa, pool: &'a Pool) -> Self {
        let (_, heads, tokens, dim_k) = layer.q.dim();
        let (kv_heads, dim_v) = (layer.attention.kv_heads, layer.attention.dim_v);
        let shape = Shape { batch: 1, heads, kv_heads, queries: tokens, keys: tokens, dim_k, dim_v };
        let options = Options { isa: Some(isa), scale: layer.attention.scale, ..Options::default() };
        let v = numbers(1, kv_heads * tokens * dim_v);
        let out = vec![0.0; heads * tokens * dim_v];
        Timing { layer, shape, options, v, out, scratch: Arena::new(), pool }
    }

    fn run(&mut self, mask: &Mask, lse: Option<&mut [f32]>) -> Result<(), Error> {
        let Shape { heads, kv_heads, queries, keys, dim_v, .. } = self.shape;
        let memory = regard_attention::Error::from;
        let plan = Plan::new(self.shape, mask, &self.options)?;
        let array = |array| Tensor::try_from(array).map_err(memory);
        let v = Tensor::contiguous(&self.v, [1, kv_heads, keys, dim_v]).map_err(memory)?;
        let inputs = Inputs::new(array(self.layer.q.view())?, array(self.layer.k.view())?, v);
        let out = TensorMut::contiguous(&mut self.out, [1, heads, queries, dim_v]).map_err(memory)?;
        let outputs = match lse {
            Some(lse) => Outputs::state(out, TensorMut::contiguous(lse, [1, heads, queries, 1]).map_err(memory)?),
            None => Outputs::new(out),
        };
        Ok(plan.run(&inputs, outputs, &mut self.scratch, self.pool)?)
    }

    /// The share of the softmax mass that a mask keeps, by the log-sum-exps that the engine gives: the mean over queries.
    pub(crate) fn kept(&mut self, mask: &Mask) -> Result<f64, Error> {
        let mut of = |mask: &Mask| {
            let mut lse = vec![0.0; self.shape.heads * self.shape.queries];
            self.run(mask, Some(&mut lse)).map(|()| lse)
        };
        let (part, whole) = (of(mask)?, of(&Mask::causal())?);
        let shares = part.iter().zip(&whole).map(|(part, whole)| f64::from(part - whole).exp());
        Ok(shares.sum::<f64>() / part.len() as f64)
    }

    /// Both in turn.
    pub(crate) fn time(&mut self, mask: &Mask) -> Result<Times, Error> {
        let this = std::cell::RefCell::new(self);
        let ours = || this.borrow_mut().run(mask, None);
        let all = |calls| turn(calls, || this.borrow_mut().run(&Mask::causal(), None));
        let times = alternate(ours, all, || ())?;
        Ok(Times { chosen: median(times.ours), all: median(times.peer) })
    }
}
