//! Attention of what is near, and attention to a few tokens that all see.

use regard_attention::{Inputs, Options, Outputs, Shape, Upstream};
use regard_masks::Mask;
use regard_memory::{Frame, Need, chunks_of};

use crate::projections::Projections;
use crate::workspace::{heads_of, heads_of_mut};
use crate::{Bias, Error, Gradients, HeadSizes, Initial, Layer, Parameter, Pass, Scope, Size};

/// Rows of a task.
const BLOCK: usize = 64;

/// Local-global attention between its projections. Two softmaxes, of the keys within a window and of the keys of a list, meet in
/// a gate that is learned for each head and channel: `out = g·local + (1 − g)·global`, `g = σ(gate[h, c])`. A row that sees no key
/// of the list returns its local part alone. Or, joint, one softmax over both.
///
/// Parameters `q_proj`, `k_proj`, `v_proj`, `o_proj`, and of two softmaxes `gate [heads, dim_v]`.
///
/// ```
/// use ndarray::Array3;
/// use regard_layers::{
///     HeadSizes, LocalGlobalAttention, LocalGlobalConfig, Mode, Parameters, Workspace, run,
/// };
///
/// let mut parameters = Parameters::new(7);
/// let config = LocalGlobalConfig { window: 2, ..LocalGlobalConfig::new(HeadSizes::new(32, 4)) };
/// let mut layer = LocalGlobalAttention::new(&mut parameters.scope("attention"), config)?;
/// layer.set_indices(&[0, 5]);
/// let x = Array3::from_shape_fn((2, 9, 32), |(b, t, c)| ((b * 31 + t * 7 + c) as f32).sin());
/// let y = run(&layer, &parameters, &mut Workspace::new()?, Mode::Evaluation, x.view())?;
/// assert_eq!(y.dim(), (2, 9, 32));
/// # Ok::<(), regard_layers::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct LocalGlobalAttention {
    projections: Projections,
    sight: Sight,
    window: usize,
    gate: Option<Parameter>,
    /// Keys that all see, in order, each once.
    indices: Vec<usize>,
    /// Of the local part and of the global one; of a joint softmax the same twice.
    masks: [Mask; 2],
}

/// What local-global attention is made of.
#[derive(Clone, Copy, Debug)]
pub struct LocalGlobalConfig {
    /// Widths and heads.
    pub sizes: HeadSizes,
    /// How far a row sees to each side: `|i − j| ≤ window`.
    pub window: usize,
    /// Whether a row sees those behind it.
    pub sight: Sight,
    /// How both parts meet.
    pub form: LocalGlobalForm,
}

/// Which tokens a token may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sight {
    /// Itself and those before it.
    Causal,
    /// All.
    Both,
}

/// How the local and the global part meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LocalGlobalForm {
    /// Two softmaxes and a learned gate.
    TwoSoftmaxes,
    /// One softmax over the keys of both.
    Joint,
}

impl LocalGlobalConfig {
    /// A window of 64 to both sides, two softmaxes.
    pub fn new(sizes: HeadSizes) -> LocalGlobalConfig {
        LocalGlobalConfig { sizes, window: 64, sight: Sight::Both, form: LocalGlobalForm::TwoSoftmaxes }
    }
}

/// What local-global attention keeps for its backward pass.
#[derive(Debug)]
pub struct LocalGlobalKept<'a> {
    x: &'a [f32],
    projected: [&'a [f32]; 3],
    /// The results and the log-sum-exp of each softmax; of a joint one the second are empty.
    parts: [(&'a [f32], &'a [f32]); 2],
    /// What went into the last projection.
    mixed: &'a [f32],
}

impl LocalGlobalAttention {
    /// Makes the layer's parameters; gates begin at one half. No key is global before [`LocalGlobalAttention::set_indices`].
    ///
    /// # Errors
    /// A setting is out of its range, the scope has such parameters, or there is no memory for them.
    pub fn new(scope: &mut Scope<'_>, config: LocalGlobalConfig) -> Result<LocalGlobalAttention, Error> {
        let LocalGlobalConfig { sizes, window, sight, form } = config;
        let projections = Projections::new(scope, sizes, [Bias::None; 2], None)?;
        let gate = match form {
            LocalGlobalForm::TwoSoftmaxes => {
                Some(scope.add_vector("gate", &[sizes.heads, sizes.dim_v], Initial::Constant(0.0))?)
            }
            LocalGlobalForm::Joint => None,
        };
        let masks = [Mask::full(), Mask::full()];
        let mut layer = LocalGlobalAttention { projections, sight, window, gate, indices: Vec::new(), masks };
        layer.set_indices(&[]);
        Ok(layer)
    }

    /// Replaces the tokens that all see, those of a level of an index, say. An index that is there twice counts once.
    pub fn set_indices(&mut self, indices: &[usize]) {
        self.indices = indices.to_vec();
        self.indices.sort_unstable();
        self.indices.dedup();
        let global = Mask::global_keys(self.indices.iter().copied());
        let (local, global) = match self.sight {
            Sight::Causal => (Mask::window(Some(self.window), Some(0)), global & Mask::causal()),
            Sight::Both => (Mask::window(Some(self.window), Some(self.window)), global),
        };
        self.masks = match self.gate {
            Some(_) => [local, global],
            None => [local.clone() | global.clone(), local | global],
        };
    }

    /// The tokens that all see.
    pub fn indices(&self) -> &[usize] {
        &self.indices
    }

    /// Softmaxes of a row.
    fn softmaxes(&self) -> usize {
        1 + usize::from(self.gate.is_some())
    }

    fn shape(&self, size: Size) -> Shape {
        let HeadSizes { heads, kv_heads, dim_k, dim_v, .. } = self.projections.sizes;
        Shape { batch: size.batch, heads, kv_heads, queries: size.tokens, keys: size.tokens, dim_k, dim_v }
    }

    fn inputs_of<'t>(&self, size: Size, [q, k, v]: [&'t [f32]; 3]) -> Result<Inputs<'t, f32>, Error> {
        let HeadSizes { heads, kv_heads, dim_k, dim_v, .. } = self.projections.sizes;
        Ok(Inputs::new(
            heads_of(q, size, heads, dim_k)?,
            heads_of(k, size, kv_heads, dim_k)?,
            heads_of(v, size, kv_heads, dim_v)?,
        ))
    }

    fn check(&self, size: Size) -> Result<(), Error> {
        match self.indices.last() {
            Some(&index) if index >= size.tokens => {
                Err(Error::setting("global index", index, format!("below {}, the tokens", size.tokens)))
            }
            _ => Ok(()),
        }
    }
}

/// `σ(z)` of each gate.
fn gates(kernels: regard_kernels::Kernels, z: &[f32], g: &mut [f32]) {
    g.copy_from_slice(z);
    kernels.sigmoid(g);
}

impl Layer for LocalGlobalAttention {
    type Kept<'a> = LocalGlobalKept<'a>;

    fn inputs(&self) -> usize {
        self.projections.sizes.width
    }

    fn outputs(&self) -> usize {
        self.projections.sizes.width
    }

    fn forward_need(&self, size: Size) -> Need {
        let HeadSizes { heads, dim_v, .. } = self.projections.sizes;
        let [q, k, v, attended] = self.projections.sizes.needs(size);
        let lse = Need::of::<f32>(size.rows().saturating_mul(heads));
        let mixed = if self.gate.is_some() { attended.and(Need::of::<f32>(heads * dim_v)) } else { Need::NONE };
        let parts = attended.and(lse).times(self.softmaxes());
        q.and(k).and(v).and(parts).and(mixed).and(self.projections.out_need(size))
    }

    fn backward_need(&self, size: Size) -> Need {
        let HeadSizes { heads, dim_v, .. } = self.projections.sizes;
        let [q, k, v, attended] = self.projections.sizes.needs(size);
        let each = q.and(k).and(v).and(attended).times(self.softmaxes());
        let sums = Need::of::<f32>(size.rows().div_ceil(BLOCK).saturating_mul(heads * dim_v));
        let gate = attended.and(sums).and(Need::of::<f32>(heads * dim_v));
        each.and(if self.gate.is_some() { gate } else { Need::NONE })
    }

    fn forward<'a>(
        &self,
        pass: &mut Pass<'_>,
        size: Size,
        x: &'a [f32],
        tape: &mut Frame<'a>,
    ) -> Result<(&'a mut [f32], LocalGlobalKept<'a>), Error> {
        self.check(size)?;
        let (rows, HeadSizes { heads, dim_v, .. }) = (size.rows(), self.projections.sizes);
        let width = heads * dim_v;
        let out = tape.take(rows * self.outputs());
        let projected = self.projections.project(pass, size, x, tape)?.map(|part| &*part);
        let inputs = self.inputs_of(size, projected)?;
        let options = Options { isa: Some(pass.kernels.isa()), ..Options::default() };
        let mut parts: [(&[f32], &[f32]); 2] = [(&[], &[]); 2];
        for (part, mask) in parts.iter_mut().zip(&self.masks).take(self.softmaxes()) {
            let (attended, lse) = (tape.take(rows * width), tape.take(rows * heads));
            let to = Outputs::state(heads_of_mut(attended, size, heads, dim_v)?, heads_of_mut(lse, size, heads, 1)?);
            pass.plans.get(self.shape(size), mask, &options)?.run(&inputs, to, pass.scratch, pass.pool)?;
            *part = (attended, lse);
        }
        let mut mixed = parts[0].0;
        if let Some(gate) = self.gate {
            let (g, to) = (tape.take(width), tape.take(rows * width));
            gates(pass.kernels, pass.parameters.of(gate), g);
            let (g, [(local, _), (global, lse)]) = (&*g, parts);
            pass.pool.run(chunks_of(&mut *to, BLOCK * width), |index, to| {
                for (i, to) in to.chunks_exact_mut(dim_v).enumerate() {
                    // A row and head.
                    let at = index * BLOCK * heads + i;
                    let (local, global) = (&local[at * dim_v..][..dim_v], &global[at * dim_v..][..dim_v]);
                    if lse[at] == f32::NEG_INFINITY {
                        to.copy_from_slice(local);
                        continue;
                    }
                    let g = &g[i % heads * dim_v..][..dim_v];
                    for (((to, l), f), g) in to.iter_mut().zip(local).zip(global).zip(g) {
                        *to = g * l + (1.0 - g) * f;
                    }
                }
            });
            mixed = to;
        }
        self.projections.finish(pass, size, mixed, out)?;
        Ok((out, LocalGlobalKept { x, projected, parts, mixed }))
    }

    fn backward(
        &self,
        pass: &mut Pass<'_>,
        size: Size,
        kept: LocalGlobalKept<'_>,
        dout: &[f32],
        gradients: &mut Gradients,
        dx: &mut [f32],
        frame: &mut Frame<'_>,
    ) -> Result<(), Error> {
        let (rows, HeadSizes { heads, kv_heads, dim_k, dim_v, .. }) = (size.rows(), self.projections.sizes);
        let width = heads * dim_v;
        let LocalGlobalKept { x, projected, parts, mixed } = kept;
        let mut frame = frame.scope();
        let first = frame.take(rows * width);
        self.projections.finish_backward(pass, size, mixed, dout, gradients, first)?;
        let mut dparts: [&mut [f32]; 2] = [first, &mut []];
        if let Some(gate) = self.gate {
            let dmixed = frame.take(rows * width);
            dmixed.copy_from_slice(dparts[0]);
            dparts[1] = frame.take(rows * width);
            let g = frame.take(width);
            gates(pass.kernels, pass.parameters.of(gate), g);
            let (g, dmixed, [(local, _), (global, lse)]) = (&*g, &*dmixed, parts);
            // Of each block of rows what the gates' gradients add up to.
            let sums = frame.take_zeroed::<f32>(rows.div_ceil(BLOCK) * width);
            let [dlocal, dglobal] = &mut dparts;
            let each = BLOCK * width;
            let places = (chunks_of(dlocal, each), chunks_of(dglobal, each), chunks_of(sums, width));
            pass.pool.run(places, |index, (dlocal, dglobal, sums)| {
                for (i, (dlocal, dglobal)) in
                    dlocal.chunks_exact_mut(dim_v).zip(dglobal.chunks_exact_mut(dim_v)).enumerate()
                {
                    let (at, head) = (index * BLOCK * heads + i, i % heads * dim_v);
                    if lse[at] == f32::NEG_INFINITY {
                        dglobal.fill(0.0);
                        continue;
                    }
                    for c in 0..dim_v {
                        let (d, g) = (dmixed[at * dim_v + c], g[head + c]);
                        (dlocal[c], dglobal[c]) = (g * d, (1.0 - g) * d);
                        sums[head + c] += d * (local[at * dim_v + c] - global[at * dim_v + c]) * g * (1.0 - g);
                    }
                }
            });
            for sums in sums.chunks_exact(width) {
                pass.kernels.add(sums, gradients.of_mut(gate))?;
            }
        }
        let inputs = self.inputs_of(size, projected)?;
        let options = Options { isa: Some(pass.kernels.isa()), ..Options::default() };
        let [q_width, k_width, v_width, _] = self.projections.sizes.widths();
        let mut sums: Option<[&mut [f32]; 3]> = None;
        for (((attended, lse), dattended), mask) in
            parts.into_iter().zip(&dparts).zip(&self.masks).take(self.softmaxes())
        {
            let [dq, dk, dv] = [q_width, k_width, v_width].map(|width| frame.take::<f32>(rows * width));
            let upstream = Upstream {
                out: heads_of(attended, size, heads, dim_v)?,
                lse: heads_of(lse, size, heads, 1)?,
                out_gradient: heads_of(dattended, size, heads, dim_v)?,
                lse_gradient: None,
            };
            let to = regard_attention::Gradients::new(
                heads_of_mut(dq, size, heads, dim_k)?,
                heads_of_mut(dk, size, kv_heads, dim_k)?,
                heads_of_mut(dv, size, kv_heads, dim_v)?,
            );
            let plan = pass.plans.get(self.shape(size), mask, &options)?;
            plan.backward(&inputs, &upstream, to, pass.scratch, pass.pool)?;
            sums = Some(match sums {
                None => [dq, dk, dv],
                Some(sums) => {
                    for (part, sum) in [&mut *dq, &mut *dk, &mut *dv].into_iter().zip(sums) {
                        pass.add(sum, part);
                    }
                    [dq, dk, dv]
                }
            });
        }
        let [dq, dk, dv] = sums.expect("there is a softmax");
        self.projections.project_backward(pass, size, x, [dq, dk, dv], gradients, dx)
    }
}
