//! Mamba-2: a state-space model as gated linear attention.

use regard_attention::{Recurrence, RecurrentGradients, RecurrentInputs, RecurrentOutputs};
use regard_kernels::Activation;
use regard_memory::{Frame, Need, Rows, RowsMut, Tensor, TensorMut, chunks_of};

use crate::convolution::Convolution;
use crate::layer::check_rows;
use crate::state::BatchState;
use crate::workspace::{heads_of, heads_of_mut};
use crate::{Before, Bias, Error, Gradients, Initial, Layer, Linear, Norm, NormKind, Parameter, Pass, Scope, Size};

/// Rows of a task.
const BLOCK: usize = 16;

/// The mixer of Mamba-2 (Dao and Gu, 2024, section 7): the gated rule with `B` as keys, `C` as queries and `x·Δ` as values, where
/// `ln a = −e^A·Δ`, `Δ = softplus(δ + b)`; a short convolution before it, and a gate and a norm behind:
/// `out(norm((rule + D·x)∘silu(z)))`, where the norm is of each group of heads by itself.
///
/// Parameters, by the names that `transformers` has: `in_proj.weight [2·inner + 2·groups·state + heads, width]` (rows `z`, `x`, `B`, `C`,
/// `δ`), `conv1d.weight [inner + 2·groups·state, 1, taps]` and `conv1d.bias`, `A_log`, `D` and `dt_bias`, each `[heads]`,
/// `norm.weight [inner]`, `out_proj.weight [width, inner]`, with `inner = heads·head_dim`.
///
/// ```
/// use ndarray::Array3;
/// use regard_layers::{Mode, Parameters, StateSpace, StateSpaceConfig, Workspace, run};
///
/// let mut parameters = Parameters::new(7);
/// let layer = StateSpace::new(&mut parameters.scope("mixer"), StateSpaceConfig::new(32, 4))?;
/// let x = Array3::from_shape_fn((2, 9, 32), |(b, t, c)| ((b * 31 + t * 7 + c) as f32).sin());
/// let y = run(&layer, &parameters, &mut Workspace::new()?, Mode::Evaluation, x.view())?;
/// assert_eq!(y.dim(), (2, 9, 32));
/// # Ok::<(), regard_layers::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct StateSpace {
    config: StateSpaceConfig,
    input: Linear,
    convolution: Convolution,
    a_log: Parameter,
    d: Parameter,
    dt_bias: Parameter,
    norm: Norm,
    out: Linear,
}

/// What Mamba-2's mixer is made of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StateSpaceConfig {
    /// Numbers of a row, in and out.
    pub width: usize,
    /// Heads, each with a gate and a state of its own.
    pub heads: usize,
    /// Numbers of a value.
    pub head_dim: usize,
    /// Keys and queries of a row, which heads share; they divide the heads.
    pub groups: usize,
    /// Numbers of a key and of a query.
    pub state: usize,
    /// Rows that the convolution sees.
    pub taps: usize,
    /// What keeps the norm's root from 0.
    pub eps: f32,
}

impl StateSpaceConfig {
    /// Twice as wide inside as outside, one key and query of 64 for all heads, four taps.
    pub fn new(width: usize, heads: usize) -> StateSpaceConfig {
        let head_dim = width.saturating_mul(2).checked_div(heads).unwrap_or(0);
        StateSpaceConfig { width, heads, head_dim, groups: 1, state: 64, taps: 4, eps: 1e-5 }
    }

    fn inner(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Numbers of the keys, and of the queries, of a row.
    fn keys(&self) -> usize {
        self.groups * self.state
    }

    /// Channels of the convolution.
    fn channels(&self) -> usize {
        self.inner() + 2 * self.keys()
    }

    /// Columns of the first projection.
    fn columns(&self) -> usize {
        self.inner() + self.channels() + self.heads
    }
}

/// What Mamba-2's mixer keeps for its backward pass.
#[derive(Debug)]
pub struct StateSpaceKept<'a> {
    x: &'a [f32],
    /// What goes into the convolution, and its results before SiLU and after it.
    convolved: [&'a [f32]; 3],
    /// `z`, `δ + b`, `Δ`, and the logarithms of the gates.
    z: &'a mut [f32],
    delta: &'a mut [f32],
    step: &'a [f32],
    log_decay: &'a [f32],
    /// `x·Δ`.
    values: &'a [f32],
    /// What the rule gave with `D·x`, that times the gate, and its norm.
    mixed: &'a mut [f32],
    gated: &'a [f32],
    normed: &'a [f32],
}

/// `ln(i + 1)`: decays of 1, 2, 3 … to begin with.
fn first_decay(i: usize, _count: usize) -> f32 {
    (i as f32 + 1.0).ln()
}

/// What softplus takes to steps between 0.001 and 0.1, evenly in their logarithm.
fn first_step(i: usize, count: usize) -> f32 {
    let share = (i as f32 + 0.5) / count as f32;
    let step = 0.001 * 100f32.powf(share);
    step.exp_m1().ln()
}

/// What Mamba-2's mixer remembers of a batch of sequences, however many tokens there were: the rows that the convolution still
/// sees, and the sums `[batch, heads, state, head_dim]`.
#[derive(Clone, Debug)]
pub struct StateSpaceState {
    past: BatchState,
    sums: BatchState,
}

impl StateSpaceState {
    /// Forgets all tokens.
    pub fn clear(&mut self) {
        self.past.clear();
        self.sums.clear();
    }
}

impl StateSpace {
    /// Makes the layer's parameters.
    ///
    /// # Errors
    /// A setting is out of its range, the scope has such parameters, or there is no memory for them.
    pub fn new(scope: &mut Scope<'_>, config: StateSpaceConfig) -> Result<StateSpace, Error> {
        StateSpace::with(scope, config, None)
    }

    /// A layer whose first and last projections begin so; unless given, uniform within `1/√inputs`.
    ///
    /// # Errors
    /// As [`StateSpace::new`].
    pub fn with(
        scope: &mut Scope<'_>,
        config: StateSpaceConfig,
        initial: Option<[Initial; 2]>,
    ) -> Result<StateSpace, Error> {
        let StateSpaceConfig { width, heads, head_dim, groups, state, taps, eps } = config;
        let sizes = [("width", width), ("heads", heads), ("head_dim", head_dim), ("groups", groups)];
        for (setting, has) in sizes.into_iter().chain([("state", state), ("taps", taps)]) {
            if has == 0 {
                return Err(Error::setting(setting, has, "at least 1"));
            }
        }
        if !heads.is_multiple_of(groups) {
            return Err(Error::setting("groups", groups, format!("a divisor of the {heads} heads")));
        }
        let inner = config.inner();
        let [into, back] = initial.unwrap_or([Initial::of_inputs(width), Initial::of_inputs(inner)]);
        Ok(StateSpace {
            config,
            input: Linear::with(&mut scope.scope("in_proj"), width, config.columns(), Bias::None, into)?,
            convolution: Convolution::new(&mut scope.scope("conv1d"), config.channels(), taps)?,
            a_log: scope.add_vector("A_log", &[heads], Initial::Function(first_decay))?,
            d: scope.add_vector("D", &[heads], Initial::Constant(1.0))?,
            dt_bias: scope.add_vector("dt_bias", &[heads], Initial::Function(first_step))?,
            norm: Norm::in_groups(&mut scope.scope("norm"), NormKind::Rms, [groups, inner / groups], eps)?,
            out: Linear::with(&mut scope.scope("out_proj"), inner, width, Bias::None, back)?,
        })
    }

    fn state_len(&self, size: Size) -> usize {
        size.batch.saturating_mul(self.config.inner() * self.config.state)
    }

    /// `−e^A` of each head.
    fn rates<'p>(&self, pass: &Pass<'p>) -> impl Iterator<Item = f32> + use<'p> {
        pass.parameters.of(self.a_log).iter().map(|a| -a.exp())
    }

    fn inputs_of<'t>(
        &self,
        size: Size,
        convolved: &'t [f32],
        values: &'t [f32],
        log_decay: &'t [f32],
        before: Option<&'t [f32]>,
    ) -> Result<RecurrentInputs<'t, f32>, Error> {
        let StateSpaceConfig { heads, head_dim, groups, state, .. } = self.config;
        let (inner, keys) = (self.config.inner(), self.config.keys());
        let rows = Rows::contiguous(convolved, size.rows(), self.config.channels())?;
        let (k, q) = rows.split_columns_at(inner).1.split_columns_at(keys);
        Ok(RecurrentInputs {
            log_decay: Some(heads_of(log_decay, size, heads, 1)?),
            state: before.map(|sums| Tensor::contiguous(sums, [size.batch, heads, state, head_dim])).transpose()?,
            ..RecurrentInputs::new(
                Tensor::of_rows(q, size.batch, groups)?,
                Tensor::of_rows(k, size.batch, groups)?,
                heads_of(values, size, heads, head_dim)?,
            )
        })
    }

    fn recurrence(&self, pass: &Pass<'_>) -> Result<Recurrence, Error> {
        Ok(Recurrence::new(Some(pass.kernels.isa()))?.with_scale(1.0)?)
    }

    /// What the layer remembers of `batch` sequences before their first token.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn state(&self, batch: usize) -> Result<StateSpaceState, Error> {
        let sums = self.config.inner() * self.config.state;
        Ok(StateSpaceState {
            past: BatchState::new(batch, self.convolution.remembered())?,
            sums: BatchState::new(batch, sums)?,
        })
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
        state: &mut StateSpaceState,
        tape: &mut Frame<'a>,
    ) -> Result<&'a mut [f32], Error> {
        let StateSpaceState { past, sums } = state;
        past.check(size, size.batch.saturating_mul(self.convolution.remembered()))?;
        sums.check(size, self.state_len(size))?;
        let (out, after, kept) = self.mix(pass, size, x, Some([past.numbers(), sums.numbers()]), tape)?;
        self.convolution.remember(size, kept.convolved[0], past.numbers_mut());
        sums.replace(after);
        Ok(out)
    }

    /// Results, the sums behind the last tokens, and what the backward pass needs; behind rows that the convolution still sees,
    /// and sums.
    fn mix<'a>(
        &self,
        pass: &mut Pass<'_>,
        size: Size,
        x: &'a [f32],
        before: Option<[&[f32]; 2]>,
        tape: &mut Frame<'a>,
    ) -> Result<(&'a mut [f32], &'a [f32], StateSpaceKept<'a>), Error> {
        check_rows("input", x, size, self.inputs())?;
        let StateSpaceConfig { heads, head_dim, state, .. } = self.config;
        let (rows, inner, channels, columns) =
            (size.rows(), self.config.inner(), self.config.channels(), self.config.columns());
        let out = tape.take(rows * self.outputs());
        let projected = tape.take(rows * columns);
        self.input.apply(
            pass,
            Rows::contiguous(x, rows, self.inputs())?,
            RowsMut::contiguous(&mut *projected, rows, columns)?,
        )?;
        // Its parts, each without gaps.
        let (z, mixture) = (tape.take::<f32>(rows * inner), tape.take::<f32>(rows * channels));
        let (delta, step) = (tape.take::<f32>(rows * heads), tape.take::<f32>(rows * heads));
        let bias = pass.parameters.of(self.dt_bias);
        for (row, projected) in projected.chunks_exact(columns).enumerate() {
            z[row * inner..][..inner].copy_from_slice(&projected[..inner]);
            mixture[row * channels..][..channels].copy_from_slice(&projected[inner..inner + channels]);
            for ((to, from), bias) in delta[row * heads..].iter_mut().zip(&projected[inner + channels..]).zip(bias) {
                *to = from + bias;
            }
        }
        let (unbent, convolved) = self.convolution.forward(pass, size, before.map(|[past, _]| past), mixture, tape);
        step.copy_from_slice(delta);
        pass.kernels.softplus(step);
        let log_decay = tape.take(rows * heads);
        for (to, step) in log_decay.chunks_exact_mut(heads).zip(step.chunks_exact(heads)) {
            to.iter_mut().zip(step).zip(self.rates(pass)).for_each(|((to, step), rate)| *to = rate * step);
        }
        let values = tape.take(rows * inner);
        let (steps, from) = (&*step, &*convolved);
        pass.pool.run(chunks_of(&mut *values, BLOCK * inner), |block, values| {
            for (i, values) in values.chunks_exact_mut(inner).enumerate() {
                let row = block * BLOCK + i;
                values.copy_from_slice(&from[row * channels..][..inner]);
                for (values, step) in values.chunks_exact_mut(head_dim).zip(&steps[row * heads..]) {
                    values.iter_mut().for_each(|value| *value *= step);
                }
            }
        });
        let (mixed, gated, normed) = (tape.take(rows * inner), tape.take(rows * inner), tape.take(rows * inner));
        let sums = tape.take(self.state_len(size));
        let outputs = RecurrentOutputs {
            out: heads_of_mut(mixed, size, heads, head_dim)?,
            state: TensorMut::contiguous(&mut *sums, [size.batch, heads, state, head_dim])?,
        };
        let inputs = self.inputs_of(size, convolved, values, log_decay, before.map(|[_, sums]| sums))?;
        self.recurrence(pass)?.run(&inputs, outputs, pass.scratch, pass.pool)?;
        let (kernels, skip, gate) = (pass.kernels, pass.parameters.of(self.d), &*z);
        let parts = (chunks_of(&mut *mixed, BLOCK * inner), chunks_of(&mut *gated, BLOCK * inner));
        pass.pool.run(parts, |block, (mixed, gated)| {
            for (i, mixed) in mixed.chunks_exact_mut(inner).enumerate() {
                let from = &from[(block * BLOCK + i) * channels..][..inner];
                let heads = mixed.chunks_exact_mut(head_dim).zip(from.chunks_exact(head_dim)).zip(skip);
                heads.for_each(|((mixed, x), d)| kernels.add_scaled(*d, x, mixed).expect("heads of one width"));
            }
            let gate = &gate[block * BLOCK * inner..][..mixed.len()];
            kernels.gate(Activation::Silu, gate, mixed, gated).expect("rows of one width");
        });
        self.norm.apply(pass, gated, normed);
        let through = Rows::contiguous(&*normed, rows, inner)?;
        self.out.apply(pass, through, RowsMut::contiguous(&mut *out, rows, self.outputs())?)?;
        let convolved = [&*mixture, &*unbent, &*convolved];
        Ok((out, sums, StateSpaceKept { x, convolved, z, delta, step, log_decay, values, mixed, gated, normed }))
    }
}

impl Layer for StateSpace {
    type Kept<'a> = StateSpaceKept<'a>;

    fn inputs(&self) -> usize {
        self.config.width
    }

    fn outputs(&self) -> usize {
        self.config.width
    }

    fn forward_need(&self, size: Size) -> Need {
        let StateSpaceConfig { heads, .. } = self.config;
        let of = |width: usize| Need::of::<f32>(size.rows().saturating_mul(width));
        let inner = of(self.config.inner());
        let projected = of(self.config.columns()).and(of(self.config.channels())).and(inner).and(of(heads).times(3));
        let mixed = inner.times(4).and(Need::of::<f32>(self.state_len(size)));
        self.out.forward_need(size).and(projected).and(self.convolution.need(size)).and(mixed)
    }

    fn backward_need(&self, size: Size) -> Need {
        let StateSpaceConfig { heads, .. } = self.config;
        let of = |width: usize| Need::of::<f32>(size.rows().saturating_mul(width));
        let inner = of(self.config.inner());
        let sums = Need::of::<f32>(size.rows().div_ceil(BLOCK).saturating_mul(heads));
        let columns = of(self.config.columns()).and(of(self.config.channels()).times(2));
        let own = inner.times(3).and(columns).and(of(heads)).and(sums).and(Need::of::<f32>(self.state_len(size)));
        own.and(self.norm.need(size.rows())).and(self.convolution.backward_need(size))
    }

    fn forward<'a>(
        &self,
        pass: &mut Pass<'_>,
        size: Size,
        x: &'a [f32],
        tape: &mut Frame<'a>,
    ) -> Result<(&'a mut [f32], StateSpaceKept<'a>), Error> {
        let (out, _, kept) = self.mix(pass, size, x, None, tape)?;
        Ok((out, kept))
    }

    fn backward(
        &self,
        pass: &mut Pass<'_>,
        size: Size,
        kept: StateSpaceKept<'_>,
        dout: &[f32],
        gradients: &mut Gradients,
        dx: &mut [f32],
        frame: &mut Frame<'_>,
    ) -> Result<(), Error> {
        check_rows("gradient of results", dout, size, self.outputs())?;
        let StateSpaceConfig { heads, head_dim, groups, state, .. } = self.config;
        let (rows, inner, channels, columns, keys) =
            (size.rows(), self.config.inner(), self.config.channels(), self.config.columns(), self.config.keys());
        let StateSpaceKept { x, convolved, z, delta, step, log_decay, values, mixed, gated, normed } = kept;
        let [mixture, before, convolved] = convolved;
        let kernels = pass.kernels;
        let mut frame = frame.scope();

        let (dnormed, dgated) = (frame.take(rows * inner), frame.take_zeroed::<f32>(rows * inner));
        let through = Rows::contiguous(normed, rows, inner)?;
        let dout = Rows::contiguous(dout, rows, self.outputs())?;
        let to = RowsMut::contiguous(&mut *dnormed, rows, inner)?;
        self.out.differentiate(pass, through, dout, gradients, Some((Before::Replaced, to)))?;
        self.norm.differentiate(pass, gated, dnormed, gradients, dgated, &mut frame)?;

        // The gate and what it met become their gradients.
        let each = BLOCK * inner;
        let dgated = &*dgated;
        pass.pool.run((chunks_of(&mut *z, each), chunks_of(&mut *mixed, each)), |block, (z, mixed)| {
            let dgated = &dgated[block * each..][..z.len()];
            kernels.gate_backward(Activation::Silu, z, mixed, dgated).expect("rows of one width");
        });
        let (dz, dmixed) = (&*z, &*mixed);

        let (dvalues, dconvolved) = (frame.take(rows * inner), frame.take(rows * channels));
        let ddecay = frame.take(rows * heads);
        let dstate = frame.take(self.state_len(size));
        let inputs = self.inputs_of(size, convolved, values, log_decay, None)?;
        let (_, beside) = RowsMut::contiguous(&mut *dconvolved, rows, channels)?.split_columns_at(inner);
        let (dk, dq) = beside.split_columns_at(keys);
        let to = RecurrentGradients {
            q: TensorMut::of_rows(dq, size.batch, groups)?,
            k: TensorMut::of_rows(dk, size.batch, groups)?,
            v: heads_of_mut(dvalues, size, heads, head_dim)?,
            log_decay: heads_of_mut(ddecay, size, heads, 1)?,
            beta: TensorMut::contiguous(&mut [], [0; 4])?,
            state: TensorMut::contiguous(dstate, [size.batch, heads, state, head_dim])?,
        };
        let dmixed_heads = heads_of(dmixed, size, heads, head_dim)?;
        self.recurrence(pass)?.backward(&inputs, dmixed_heads, None, to, pass.scratch, pass.pool)?;

        // Values were x·Δ, and D·x was added: what x, D and Δ get of it. Gradients of Δ take its place.
        let skip = pass.parameters.of(self.d);
        let sums = frame.take_zeroed::<f32>(rows.div_ceil(BLOCK) * heads);
        let dsteps = delta_gradients(delta, kernels);
        let (dvalues, ddecay) = (&*dvalues, &*ddecay);
        let rates = pass.parameters.of(self.a_log);
        let parts = (
            chunks_of(&mut *dconvolved, BLOCK * channels),
            chunks_of(&mut *dsteps, BLOCK * heads),
            chunks_of(&mut *sums, heads),
        );
        pass.pool.run(parts, |block, (dconvolved, dsteps, sums)| {
            for (i, (dconvolved, dsteps)) in
                dconvolved.chunks_exact_mut(channels).zip(dsteps.chunks_exact_mut(heads)).enumerate()
            {
                let row = block * BLOCK + i;
                for head in 0..heads {
                    let at = head * head_dim..(head + 1) * head_dim;
                    let x = &convolved[row * channels..][at.clone()];
                    let (dv, dm) = (&dvalues[row * inner..][at.clone()], &dmixed[row * inner..][at.clone()]);
                    let dx = &mut dconvolved[at];
                    dx.fill(0.0);
                    kernels.add_scaled(step[row * heads + head], dv, dx).expect("heads of one width");
                    kernels.add_scaled(skip[head], dm, dx).expect("heads of one width");
                    sums[head] += kernels.dot(dm, x).expect("heads of one width");
                    // What softplus lets through, times what Δ gets: of the values, and of the gate.
                    dsteps[head] *= kernels.dot(dv, x).expect("heads of one width")
                        - rates[head].exp() * ddecay[row * heads + head];
                }
            }
        });
        for sums in sums.chunks_exact(heads) {
            kernels.add(sums, gradients.of_mut(self.d))?;
        }
        // ln a = −e^A·Δ, so its derivative by A is itself.
        let da = gradients.of_mut(self.a_log);
        for (ddecay, log_decay) in ddecay.chunks_exact(heads).zip(log_decay.chunks_exact(heads)) {
            kernels.add_products(ddecay, log_decay, da)?;
        }
        pass.add_rows(Rows::contiguous(&*dsteps, rows, heads)?, gradients.of_mut(self.dt_bias))?;

        let dmixture = frame.take(rows * channels);
        self.convolution.backward(pass, size, mixture, before, dconvolved, gradients, dmixture, &mut frame)?;
        let dprojected = frame.take(rows * columns);
        for (row, to) in dprojected.chunks_exact_mut(columns).enumerate() {
            to[..inner].copy_from_slice(&dz[row * inner..][..inner]);
            to[inner..inner + channels].copy_from_slice(&dmixture[row * channels..][..channels]);
            to[inner + channels..].copy_from_slice(&dsteps[row * heads..][..heads]);
        }
        let x = Rows::contiguous(x, rows, self.inputs())?;
        let dprojected = Rows::contiguous(&*dprojected, rows, columns)?;
        let to = RowsMut::contiguous(dx, rows, self.inputs())?;
        self.input.differentiate(pass, x, dprojected, gradients, Some((Before::Kept, to)))
    }
}

/// The derivative of softplus, in place of what it was taken of.
fn delta_gradients(delta: &mut [f32], kernels: regard_kernels::Kernels) -> &mut [f32] {
    kernels.sigmoid(delta);
    delta
}
