//! What a block does with each token alone.

use regard_kernels::Activation;
use regard_memory::{Frame, Need, Rows, RowsMut, chunks_of};

use crate::layer::check_rows;
use crate::{Before, Bias, Error, Gradients, Initial, Layer, Linear, Pass, Scope, Size};

/// Numbers of a task.
const BLOCK: usize = 1 << 13;

/// A feed-forward layer: `down(activation(gate(x)) · up(x))`, a gated linear unit (Shazeer, 2020), or without a gate
/// `down(activation(up(x)))`. Parameters `gate_proj`, `up_proj` and `down_proj`, each a [`Linear`] layer's.
///
/// ```
/// use ndarray::Array3;
/// use regard_kernels::Activation;
/// use regard_layers::{Bias, FeedForward, FeedForwardKind, Mode, Parameters, Workspace, run};
///
/// let mut parameters = Parameters::new(7);
/// let kind = FeedForwardKind::Gated(Activation::Silu);
/// let layer = FeedForward::new(&mut parameters.scope("mlp"), kind, 16, 40, Bias::None)?;
/// let x = Array3::from_shape_fn((1, 5, 16), |(_, t, c)| ((t * 7 + c) as f32).sin());
/// let y = run(&layer, &parameters, &mut Workspace::new()?, Mode::Evaluation, x.view())?;
/// assert_eq!(y.dim(), (1, 5, 16));
/// # Ok::<(), regard_layers::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct FeedForward {
    activation: Activation,
    gate: Option<Linear>,
    up: Linear,
    down: Linear,
}

/// What is between the products of a feed-forward layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedForwardKind {
    /// `activation(gate(x)) · up(x)`: SwiGLU, GeGLU.
    Gated(Activation),
    /// `activation(up(x))`.
    Plain(Activation),
}

impl FeedForward {
    /// A layer from `width` numbers over `hidden` ones back to `width`.
    ///
    /// # Errors
    /// The scope has such parameters, or there is no memory for them.
    pub fn new(
        scope: &mut Scope<'_>,
        kind: FeedForwardKind,
        width: usize,
        hidden: usize,
        bias: Bias,
    ) -> Result<FeedForward, Error> {
        let initial = [Initial::of_inputs(width), Initial::of_inputs(hidden)];
        FeedForward::with(scope, kind, width, hidden, bias, initial)
    }

    /// A layer whose weights begin so: those to `hidden`, and those from there.
    ///
    /// # Errors
    /// As [`FeedForward::new`].
    pub fn with(
        scope: &mut Scope<'_>,
        kind: FeedForwardKind,
        width: usize,
        hidden: usize,
        bias: Bias,
        [into, back]: [Initial; 2],
    ) -> Result<FeedForward, Error> {
        let (activation, gate) = match kind {
            FeedForwardKind::Gated(activation) => {
                (activation, Some(Linear::with(&mut scope.scope("gate_proj"), width, hidden, bias, into)?))
            }
            FeedForwardKind::Plain(activation) => (activation, None),
        };
        let up = Linear::with(&mut scope.scope("up_proj"), width, hidden, bias, into)?;
        let down = Linear::with(&mut scope.scope("down_proj"), hidden, width, bias, back)?;
        Ok(FeedForward { activation, gate, up, down })
    }

    fn hidden(&self) -> usize {
        self.up.outputs()
    }

    /// Numbers between the products, of all rows.
    fn between(&self, size: Size) -> usize {
        size.rows().saturating_mul(self.hidden())
    }
}

/// What a feed-forward layer keeps.
#[derive(Debug)]
pub struct FeedForwardKept<'a> {
    x: &'a [f32],
    /// What the gate gave, and what `up` did; without a gate nothing of the former.
    gate: &'a mut [f32],
    up: &'a mut [f32],
    /// What went into `down`.
    hidden: &'a [f32],
}

impl Layer for FeedForward {
    type Kept<'a> = FeedForwardKept<'a>;

    fn inputs(&self) -> usize {
        self.up.inputs()
    }

    fn outputs(&self) -> usize {
        self.down.outputs()
    }

    fn forward_need(&self, size: Size) -> Need {
        let between = Need::of::<f32>(self.between(size));
        between.times(2 + usize::from(self.gate.is_some())).and(self.down.forward_need(size))
    }

    fn backward_need(&self, size: Size) -> Need {
        Need::of::<f32>(self.between(size))
    }

    fn forward<'a>(
        &self,
        pass: &mut Pass<'_>,
        size: Size,
        x: &'a [f32],
        tape: &mut Frame<'a>,
    ) -> Result<(&'a mut [f32], FeedForwardKept<'a>), Error> {
        check_rows("input", x, size, self.inputs())?;
        let (rows, width) = (size.rows(), self.hidden());
        let input = Rows::contiguous(x, rows, self.inputs())?;
        let out = tape.take(rows * self.outputs());
        let (up, hidden) = (tape.take(rows * width), tape.take(rows * width));
        self.up.apply(pass, input, RowsMut::contiguous(up, rows, width)?)?;
        let (kernels, activation) = (pass.kernels, self.activation);
        let gate = match &self.gate {
            None => tape.take(0),
            Some(gate) => {
                let numbers = tape.take(rows * width);
                gate.apply(pass, input, RowsMut::contiguous(numbers, rows, width)?)?;
                numbers
            }
        };
        if self.gate.is_some() {
            pass.pool.run(chunks_of(hidden, BLOCK), |index, hidden| {
                let range = index * BLOCK..index * BLOCK + hidden.len();
                kernels.gate(activation, &gate[range.clone()], &up[range], hidden).expect("blocks of one length");
            });
        } else {
            pass.pool.run(chunks_of(hidden, BLOCK), |index, hidden| {
                hidden.copy_from_slice(&up[index * BLOCK..][..hidden.len()]);
                kernels.activate(activation, hidden);
            });
        }
        let hidden = &*hidden;
        let through = Rows::contiguous(hidden, rows, width)?;
        self.down.apply(pass, through, RowsMut::contiguous(out, rows, self.outputs())?)?;
        Ok((out, FeedForwardKept { x, gate, up, hidden }))
    }

    fn backward(
        &self,
        pass: &mut Pass<'_>,
        size: Size,
        kept: FeedForwardKept<'_>,
        dout: &[f32],
        gradients: &mut Gradients,
        dx: &mut [f32],
        frame: &mut Frame<'_>,
    ) -> Result<(), Error> {
        check_rows("gradient of results", dout, size, self.outputs())?;
        let (rows, width) = (size.rows(), self.hidden());
        let x = Rows::contiguous(kept.x, rows, self.inputs())?;
        let dout = Rows::contiguous(dout, rows, self.outputs())?;
        let mut frame = frame.scope();
        let dhidden = frame.take(rows * width);
        let through = Rows::contiguous(kept.hidden, rows, width)?;
        let to = RowsMut::contiguous(dhidden, rows, width)?;
        self.down.differentiate(pass, through, dout, gradients, Some((Before::Replaced, to)))?;
        let (kernels, activation) = (pass.kernels, self.activation);
        let FeedForwardKept { gate, up, .. } = kept;
        match &self.gate {
            Some(layer) => {
                let parts = (chunks_of(gate, BLOCK), chunks_of(up, BLOCK));
                pass.pool.run(parts, |index, (gate, up)| {
                    let dhidden = &dhidden[index * BLOCK..][..up.len()];
                    kernels.gate_backward(activation, gate, up, dhidden).expect("blocks of one length");
                });
                let dgate = Rows::contiguous(gate, rows, width)?;
                let to = RowsMut::contiguous(dx, rows, self.inputs())?;
                layer.differentiate(pass, x, dgate, gradients, Some((Before::Kept, to)))?;
            }
            None => pass.pool.run((chunks_of(up, BLOCK), chunks_of(dhidden, BLOCK)), |_, (up, dhidden)| {
                kernels.activate_backward(activation, up, dhidden).expect("blocks of one length");
                up.copy_from_slice(dhidden);
            }),
        }
        let dup = Rows::contiguous(up, rows, width)?;
        let to = RowsMut::contiguous(dx, rows, self.inputs())?;
        self.up.differentiate(pass, x, dup, gradients, Some((Before::Kept, to)))
    }
}
