//! Linear attention between its projections.

use regard_attention::{Direction, Recurrence, RecurrentGradients, RecurrentInputs, RecurrentOutputs};
use regard_kernels::Rotary;
use regard_memory::{Frame, Need, Rows, RowsMut, Tensor, TensorMut, chunks_of};

use crate::projections::Projections;
use crate::rotary::Turn;
use crate::state::BatchState;
use crate::workspace::{heads_of, heads_of_mut};
use crate::{Before, Bias, Error, Gradients, HeadSizes, Initial, Layer, Linear, Norm, NormKind, Pass, Scope, Size};

/// What the logarithm of a gate is divided by, so that gates begin near 1: the temperature of Yang et al., 2023, section 4.4.
const TEMPERATURE: f32 = 16.0;

/// Rows of a task.
const BLOCK: usize = 64;

/// Linear attention between its projections: `out(norm(recurrence(q(x), k(x), v(x))))`, where each head's results are divided by
/// their root mean square (as in RetNet, GLA and DeltaNet, whose results grow with what the state holds).
///
/// Parameters `q_proj`, `k_proj`, `v_proj`, `o_proj` and `norm.weight [dim_v]`; with gates `decay_proj`, of which
/// `ln a = ln σ(z) / 16`; with the delta rule `beta_proj`, `β = σ(z)`, and queries and keys of length 1.
///
/// ```
/// use ndarray::Array3;
/// use regard_layers::{HeadSizes, LinearAttention, LinearConfig, LinearRule, Mode, Parameters, Workspace, run};
///
/// let mut parameters = Parameters::new(7);
/// let config = LinearConfig::new(HeadSizes::new(32, 4), LinearRule::GatedDelta);
/// let layer = LinearAttention::new(&mut parameters.scope("mixer"), config)?;
/// let x = Array3::from_shape_fn((2, 9, 32), |(b, t, c)| ((b * 31 + t * 7 + c) as f32).sin());
/// let y = run(&layer, &parameters, &mut Workspace::new()?, Mode::Evaluation, x.view())?;
/// assert_eq!(y.dim(), (2, 9, 32));
/// # Ok::<(), regard_layers::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct LinearAttention {
    projections: Projections,
    direction: Direction,
    rotary: Option<Rotary>,
    decay: Option<Linear>,
    beta: Option<Linear>,
    /// Of each head's results.
    norm: Norm,
    /// `1/√dim_k`, `dim_k` times: what a row of this root mean square has the length 1 by.
    unit: Vec<f32>,
}

/// The rule by which a state changes from token to token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinearRule {
    /// Each key writes its value: `S + k ⊗ v`.
    Plain,
    /// A gate for each key/value head: `a·S + k ⊗ v` (Mamba-2, RetNet with learned gates).
    Gated,
    /// A gate for each channel of the keys: `diag(a)·S + k ⊗ v` (gated linear attention).
    GatedByChannel,
    /// What the state lacks of the value is written: `S + β·k ⊗ (v − Sᵀk)` (DeltaNet).
    Delta,
    /// The same with a gate for each key/value head (Gated DeltaNet).
    GatedDelta,
}

impl LinearRule {
    fn is_delta(self) -> bool {
        matches!(self, LinearRule::Delta | LinearRule::GatedDelta)
    }

    /// Gates of a row.
    fn gates(self, sizes: HeadSizes) -> usize {
        match self {
            LinearRule::Plain | LinearRule::Delta => 0,
            LinearRule::Gated | LinearRule::GatedDelta => sizes.kv_heads,
            LinearRule::GatedByChannel => sizes.kv_heads * sizes.dim_k,
        }
    }
}

/// What linear attention between projections is made of.
#[derive(Clone, Debug)]
pub struct LinearConfig {
    /// Widths and heads.
    pub sizes: HeadSizes,
    /// How the state changes.
    pub rule: LinearRule,
    /// Which tokens a token sees; only the plain rule has a form in which it sees those behind it.
    pub direction: Direction,
    /// Rotary positions of queries and keys: half-split, as in Hugging Face's models (RetNet turns them so too). Without them, and
    /// in both directions, results do not depend on the order of the tokens.
    pub rotary: Option<Rotary>,
    /// What weights are at first: of the first projections, and of the last one. Uniform within `1/√inputs` unless given.
    pub initial: Option<[Initial; 2]>,
}

impl LinearConfig {
    /// Causal.
    pub fn new(sizes: HeadSizes, rule: LinearRule) -> LinearConfig {
        LinearConfig { sizes, rule, direction: Direction::Causal, rotary: None, initial: None }
    }

    /// With rotary positions of all dimensions at this base.
    #[must_use]
    pub fn with_rotary(self, theta: f32) -> LinearConfig {
        LinearConfig { rotary: Some(self.sizes.rotary(theta)), ..self }
    }
}

/// What linear attention keeps for its backward pass.
#[derive(Debug)]
pub struct LinearAttentionKept<'a> {
    x: &'a [f32],
    /// Queries and keys before they were made of length 1; else nothing.
    long: [&'a [f32]; 2],
    /// Queries, keys and values.
    projected: [&'a [f32]; 3],
    /// What the gates' sigmoids are of, and the logarithms of the gates.
    gates: [&'a mut [f32]; 2],
    beta: &'a [f32],
    /// What the recurrence gave, and its norm.
    attended: &'a [f32],
    normed: &'a [f32],
}

/// What linear attention remembers of a batch of sequences: the sums `[batch, kv_heads, dim_k, dim_v]`, however many tokens there
/// were.
#[derive(Clone, Debug)]
pub struct LinearAttentionState {
    sums: BatchState,
    /// Tokens that were read of each sequence.
    tokens: usize,
}

impl LinearAttentionState {
    /// Forgets all tokens.
    pub fn clear(&mut self) {
        self.sums.clear();
        self.tokens = 0;
    }
}

impl LinearAttention {
    /// Makes the layer's parameters.
    ///
    /// # Errors
    /// A setting is out of its range, the rule has no form in which tokens see those behind them, the scope has such parameters,
    /// or there is no memory for them.
    pub fn new(scope: &mut Scope<'_>, config: LinearConfig) -> Result<LinearAttention, Error> {
        let LinearConfig { sizes, rule, direction, rotary, initial } = config;
        sizes.check_rotary(rotary.as_ref())?;
        if direction == Direction::Both && rule != LinearRule::Plain {
            return Err(regard_attention::Error::Causal.into());
        }
        let projections = Projections::new(scope, sizes, [Bias::None; 2], initial)?;
        let into = initial.map_or(Initial::of_inputs(sizes.width), |[into, _]| into);
        let mut gate = |name, outputs| -> Result<Option<Linear>, Error> {
            if outputs == 0 {
                return Ok(None);
            }
            Ok(Some(Linear::with(&mut scope.scope(name), sizes.width, outputs, Bias::Learned, into)?))
        };
        let decay = gate("decay_proj", rule.gates(sizes))?;
        let beta = gate("beta_proj", if rule.is_delta() { sizes.kv_heads } else { 0 })?;
        let norm = Norm::new(&mut scope.scope("norm"), NormKind::Rms, sizes.dim_v, 1e-5)?;
        let unit = vec![1.0 / (sizes.dim_k as f32).sqrt(); if rule.is_delta() { sizes.dim_k } else { 0 }];
        Ok(LinearAttention { projections, direction, rotary, decay, beta, norm, unit })
    }

    fn gates(&self) -> usize {
        self.decay.map_or(0, |decay| decay.outputs())
    }

    fn betas(&self) -> usize {
        self.beta.map_or(0, |beta| beta.outputs())
    }

    fn state_len(&self, size: Size) -> usize {
        let HeadSizes { kv_heads, dim_k, dim_v, .. } = self.projections.sizes;
        size.batch.saturating_mul(kv_heads * dim_k * dim_v)
    }

    fn recurrence(&self, pass: &Pass<'_>) -> Result<Recurrence, Error> {
        Ok(Recurrence::new(Some(pass.kernels.isa()))?.with_direction(self.direction))
    }

    /// What the layer remembers of `batch` sequences before their first token.
    ///
    /// # Errors
    /// Tokens see those behind them, so that there is nothing to begin with; or there is no memory for it.
    pub fn state(&self, batch: usize) -> Result<LinearAttentionState, Error> {
        if self.direction == Direction::Both {
            return Err(Error::setting("direction", "both", "causal, where tokens are read one after the other"));
        }
        let HeadSizes { kv_heads, dim_k, dim_v, .. } = self.projections.sizes;
        Ok(LinearAttentionState { sums: BatchState::new(batch, kv_heads * dim_k * dim_v)?, tokens: 0 })
    }

    /// The results of the next tokens of sequences, `x [batch, tokens, width]`: what a token costs does not depend on how many
    /// came before. All tokens in chunks equal all in one pass, within rounding. Takes [`Layer::forward_need`] from the tape.
    ///
    /// # Errors
    /// `x` has another size, or the state is another layer's.
    pub fn stream<'a>(
        &self,
        pass: &mut Pass<'_>,
        size: Size,
        x: &'a [f32],
        state: &mut LinearAttentionState,
        tape: &mut Frame<'a>,
    ) -> Result<&'a mut [f32], Error> {
        state.sums.check(size, self.state_len(size))?;
        let (out, after, _) = self.mix(pass, size, x, Some((state.sums.numbers(), state.tokens)), tape)?;
        state.sums.replace(after);
        state.tokens += size.tokens;
        Ok(out)
    }

    fn inputs_of<'t>(
        &self,
        size: Size,
        [q, k, v]: [&'t [f32]; 3],
        log_decay: &'t [f32],
        beta: &'t [f32],
        before: Option<&'t [f32]>,
    ) -> Result<RecurrentInputs<'t, f32>, Error> {
        let HeadSizes { heads, kv_heads, dim_k, dim_v, .. } = self.projections.sizes;
        let state = before.map(|state| Tensor::contiguous(state, [size.batch, kv_heads, dim_k, dim_v])).transpose()?;
        let log_decay = match self.gates() {
            0 => None,
            gates => Some(heads_of(log_decay, size, kv_heads, gates / kv_heads)?),
        };
        let beta = if self.betas() == 0 { None } else { Some(heads_of(beta, size, kv_heads, 1)?) };
        Ok(RecurrentInputs {
            log_decay,
            beta,
            state,
            ..RecurrentInputs::new(
                heads_of(q, size, heads, dim_k)?,
                heads_of(k, size, kv_heads, dim_k)?,
                heads_of(v, size, kv_heads, dim_v)?,
            )
        })
    }

    /// Results, the state behind the last tokens, and what the backward pass needs; behind a state, and so many tokens.
    fn mix<'a>(
        &self,
        pass: &mut Pass<'_>,
        size: Size,
        x: &'a [f32],
        before: Option<(&[f32], usize)>,
        tape: &mut Frame<'a>,
    ) -> Result<(&'a mut [f32], &'a [f32], LinearAttentionKept<'a>), Error> {
        let (rows, HeadSizes { heads, kv_heads, dim_k, dim_v, .. }) = (size.rows(), self.projections.sizes);
        let out = tape.take(rows * self.outputs());
        let [q, k, v] = self.projections.project(pass, size, x, tape)?;
        if let Some(rotary) = &self.rotary {
            let first = before.map_or(0, |(_, tokens)| tokens);
            pass.rotate(rotary, Turn::Forth, size, first, dim_k, q)?;
            pass.rotate(rotary, Turn::Forth, size, first, dim_k, k)?;
        }
        let input = Rows::contiguous(x, rows, self.inputs())?;
        let [z, log_decay] = [tape.take::<f32>(rows * self.gates()), tape.take(rows * self.gates())];
        if let Some(decay) = &self.decay {
            decay.apply(pass, input, RowsMut::contiguous(z, rows, decay.outputs())?)?;
            let (kernels, z) = (pass.kernels, &*z);
            pass.pool.run(chunks_of(&mut *log_decay, BLOCK * decay.outputs()), |index, log_decay| {
                log_decay.copy_from_slice(&z[index * BLOCK * decay.outputs()..][..log_decay.len()]);
                kernels.log_sigmoid(log_decay);
                log_decay.iter_mut().for_each(|x| *x /= TEMPERATURE);
            });
        }
        let beta = tape.take(rows * self.betas());
        let (mut q, mut k, mut long): (&[f32], &[f32], [&[f32]; 2]) = (q, k, [&[], &[]]);
        if let Some(layer) = &self.beta {
            layer.apply(pass, input, RowsMut::contiguous(beta, rows, layer.outputs())?)?;
            pass.kernels.sigmoid(beta);
            long = [q, k];
            let [short_q, short_k] = [tape.take(q.len()), tape.take(k.len())];
            for (long, short) in long.into_iter().zip([&mut *short_q, &mut *short_k]) {
                pass.shorten(&self.unit, long, short);
            }
            (q, k) = (short_q, short_k);
        }
        let (attended, normed) = (tape.take(rows * heads * dim_v), tape.take(rows * heads * dim_v));
        let state = tape.take(self.state_len(size));
        let projected = [q, k, &*v];
        let inputs = self.inputs_of(size, projected, log_decay, beta, before.map(|(state, _)| state))?;
        let outputs = RecurrentOutputs {
            out: heads_of_mut(attended, size, heads, dim_v)?,
            state: TensorMut::contiguous(&mut *state, [size.batch, kv_heads, dim_k, dim_v])?,
        };
        self.recurrence(pass)?.run(&inputs, outputs, pass.scratch, pass.pool)?;
        self.norm.apply(pass, attended, normed);
        self.projections.finish(pass, size, normed, out)?;
        Ok((out, state, LinearAttentionKept { x, long, projected, gates: [z, log_decay], beta, attended, normed }))
    }
}

impl Layer for LinearAttention {
    type Kept<'a> = LinearAttentionKept<'a>;

    fn inputs(&self) -> usize {
        self.projections.sizes.width
    }

    fn outputs(&self) -> usize {
        self.projections.sizes.width
    }

    fn forward_need(&self, size: Size) -> Need {
        let [q, k, v, attended] = self.projections.sizes.needs(size);
        let of = |width: usize| Need::of::<f32>(size.rows().saturating_mul(width));
        let twice = if self.beta.is_some() { q.and(k) } else { Need::NONE };
        let kept = q.and(k).and(v).and(twice).and(attended.times(2)).and(self.projections.out_need(size));
        kept.and(of(self.gates()).times(2)).and(of(self.betas())).and(Need::of::<f32>(self.state_len(size)))
    }

    fn backward_need(&self, size: Size) -> Need {
        let [q, k, v, attended] = self.projections.sizes.needs(size);
        let of = |width: usize| Need::of::<f32>(size.rows().saturating_mul(width));
        let HeadSizes { heads, .. } = self.projections.sizes;
        let twice = if self.beta.is_some() { q.and(k) } else { Need::NONE };
        let norm = self.norm.need(size.rows().saturating_mul(heads));
        let own = q.and(k).and(v).and(twice).and(attended.times(2)).and(norm);
        own.and(of(self.gates())).and(of(self.betas())).and(Need::of::<f32>(self.state_len(size)))
    }

    fn forward<'a>(
        &self,
        pass: &mut Pass<'_>,
        size: Size,
        x: &'a [f32],
        tape: &mut Frame<'a>,
    ) -> Result<(&'a mut [f32], LinearAttentionKept<'a>), Error> {
        let (out, _, kept) = self.mix(pass, size, x, None, tape)?;
        Ok((out, kept))
    }

    fn backward(
        &self,
        pass: &mut Pass<'_>,
        size: Size,
        kept: LinearAttentionKept<'_>,
        dout: &[f32],
        gradients: &mut Gradients,
        dx: &mut [f32],
        frame: &mut Frame<'_>,
    ) -> Result<(), Error> {
        let (rows, HeadSizes { heads, kv_heads, dim_k, dim_v, .. }) = (size.rows(), self.projections.sizes);
        let LinearAttentionKept { x, long, projected, gates: [z, log_decay], beta, attended, normed } = kept;
        let mut frame = frame.scope();
        let [q_width, k_width, v_width, width] = self.projections.sizes.widths();
        let (dnormed, dattended) = (frame.take(rows * width), frame.take_zeroed(rows * width));
        self.projections.finish_backward(pass, size, normed, dout, gradients, dnormed)?;
        self.norm.differentiate(pass, attended, dnormed, gradients, dattended, &mut frame)?;

        let [mut dq, mut dk, dv] = [q_width, k_width, v_width].map(|width| frame.take::<f32>(rows * width));
        let ddecay = frame.take(rows * self.gates());
        let dbeta = frame.take(rows * self.betas());
        let dstate = frame.take(self.state_len(size));
        let inputs = self.inputs_of(size, projected, log_decay, beta, None)?;
        let none = || TensorMut::contiguous(&mut [], [0; 4]);
        let to = RecurrentGradients {
            q: heads_of_mut(dq, size, heads, dim_k)?,
            k: heads_of_mut(dk, size, kv_heads, dim_k)?,
            v: heads_of_mut(dv, size, kv_heads, dim_v)?,
            log_decay: match self.gates() {
                0 => none()?,
                gates => heads_of_mut(ddecay, size, kv_heads, gates / kv_heads)?,
            },
            beta: if self.betas() == 0 { none()? } else { heads_of_mut(dbeta, size, kv_heads, 1)? },
            state: TensorMut::contiguous(dstate, [size.batch, kv_heads, dim_k, dim_v])?,
        };
        let douts = heads_of(dattended, size, heads, dim_v)?;
        self.recurrence(pass)?.backward(&inputs, douts, None, to, pass.scratch, pass.pool)?;

        let input = Rows::contiguous(x, rows, self.inputs())?;
        if let Some(layer) = &self.decay {
            // d ln σ(z) = 1 − σ(z).
            let (kernels, each) = (pass.kernels, BLOCK * layer.outputs());
            pass.pool.run((chunks_of(z, each), chunks_of(&mut *ddecay, each)), |_, (z, d)| {
                kernels.sigmoid(z);
                d.iter_mut().zip(z).for_each(|(d, s)| *d *= (1.0 - *s) / TEMPERATURE);
            });
            let dout = Rows::contiguous(ddecay, rows, layer.outputs())?;
            let to = RowsMut::contiguous(dx, rows, self.inputs())?;
            layer.differentiate(pass, input, dout, gradients, Some((Before::Kept, to)))?;
        }
        if let Some(layer) = &self.beta {
            dbeta.iter_mut().zip(beta).for_each(|(d, b)| *d *= b * (1.0 - b));
            let dout = Rows::contiguous(dbeta, rows, layer.outputs())?;
            let to = RowsMut::contiguous(dx, rows, self.inputs())?;
            layer.differentiate(pass, input, dout, gradients, Some((Before::Kept, to)))?;
            let [long_q, long_k] = long;
            let (dlong_q, dlong_k) = (frame.take_zeroed(long_q.len()), frame.take_zeroed(long_k.len()));
            for (long, d, to) in [(long_q, &*dq, &mut *dlong_q), (long_k, &*dk, &mut *dlong_k)] {
                pass.shorten_backward(&self.unit, long, d, to)?;
            }
            (dq, dk) = (dlong_q, dlong_k);
        }
        if let Some(rotary) = &self.rotary {
            pass.rotate(rotary, Turn::Back, size, 0, dim_k, dq)?;
            pass.rotate(rotary, Turn::Back, size, 0, dim_k, dk)?;
        }
        self.projections.project_backward(pass, size, x, [dq, dk, dv], gradients, dx)
    }
}

/// What keeps the length of a row from 0, for each of its numbers.
const EPS: f32 = 1e-6;

impl Pass<'_> {
    /// Rows of the length 1: each `x / √(Σx² + n·eps)`, where `unit` holds `n` times `1/√n`.
    fn shorten(&self, unit: &[f32], long: &[f32], short: &mut [f32]) {
        let (kernels, each) = (self.kernels, BLOCK * unit.len());
        self.pool.run(chunks_of(short, each), |index, short| {
            let long = long[index * each..][..short.len()].chunks_exact(unit.len());
            for (long, short) in long.zip(short.chunks_exact_mut(unit.len())) {
                kernels.rms_norm(long, unit, EPS, short).expect("rows of one width");
            }
        });
    }

    /// Adds the gradient of what [`Pass::shorten`] takes.
    fn shorten_backward(&mut self, unit: &[f32], long: &[f32], dshort: &[f32], dlong: &mut [f32]) -> Result<(), Error> {
        let (kernels, each) = (self.kernels, BLOCK * unit.len());
        let (worker, threads) = (Need::of::<f32>(unit.len()), self.pool.threads());
        let mut frame = self.scratch.frame(worker.times(threads))?;
        self.pool.run_in(frame.split(threads, worker), chunks_of(dlong, each), |frame, index, dlong| {
            // The unit is not learned.
            let unused = frame.scope().take_zeroed(unit.len());
            let range = index * each..index * each + dlong.len();
            let rows = long[range.clone()].chunks_exact(unit.len()).zip(dshort[range].chunks_exact(unit.len()));
            for ((long, dshort), dlong) in rows.zip(dlong.chunks_exact_mut(unit.len())) {
                kernels.rms_norm_backward(long, unit, EPS, dshort, dlong, unused).expect("rows of one width");
            }
        });
        Ok(())
    }
}
