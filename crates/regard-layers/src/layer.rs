//! What all layers have in common.

use ndarray::{Array3, ArrayView3};
use regard_memory::{Frame, Need};

use crate::{Error, Gradients, Mode, Parameters, Pass, Size, Workspace};

/// A layer: rows `[batch, tokens, inputs]` become rows `[batch, tokens, outputs]`, and gradients go back.
///
/// Rows lie without gaps. What the forward pass keeps lies on a tape that the caller gives; a layer states beforehand how much
/// it takes. [`run`] and [`gradients`] do all of it over arrays.
pub trait Layer {
    /// What the backward pass needs of the forward pass.
    type Kept<'a>;

    /// Numbers of a row that goes in.
    fn inputs(&self) -> usize;

    /// Numbers of a row that comes out.
    fn outputs(&self) -> usize;

    /// What [`Layer::forward`] takes from the tape, results included.
    fn forward_need(&self, size: Size) -> Need;

    /// What [`Layer::backward`] takes from its frame.
    fn backward_need(&self, size: Size) -> Need;

    /// The results of `x`, and what is kept.
    ///
    /// # Errors
    /// `x` has another size, or something does not fit.
    fn forward<'a>(
        &self,
        pass: &mut Pass<'_>,
        size: Size,
        x: &'a [f32],
        tape: &mut Frame<'a>,
    ) -> Result<(&'a mut [f32], Self::Kept<'a>), Error>;

    /// Adds the gradients of the parameters to `gradients`, and that of the input to `dx`, from that of the results. What was kept
    /// is used up: gradients may take its place.
    ///
    /// # Errors
    /// As [`Layer::forward`].
    #[allow(clippy::too_many_arguments, reason = "both passes' inputs and both places that gradients go to")]
    fn backward(
        &self,
        pass: &mut Pass<'_>,
        size: Size,
        kept: Self::Kept<'_>,
        dout: &[f32],
        gradients: &mut Gradients,
        dx: &mut [f32],
        frame: &mut Frame<'_>,
    ) -> Result<(), Error>;
}

/// The results of a layer over an array `[batch, tokens, inputs]`.
///
/// # Errors
/// As [`Layer::forward`].
pub fn run<L: Layer>(
    layer: &L,
    parameters: &Parameters,
    workspace: &mut Workspace,
    mode: Mode,
    x: ArrayView3<'_, f32>,
) -> Result<Array3<f32>, Error> {
    let (size, x) = rows(layer, x)?;
    let need = Need::of::<f32>(x.len()).and(layer.forward_need(size));
    let (mut tape, mut pass) = workspace.pass(parameters, mode, need)?;
    let input = tape.take(x.len());
    input.copy_from_slice(&x);
    let (out, _) = layer.forward(&mut pass, size, input, &mut tape)?;
    Ok(array(size, layer.outputs(), out))
}

/// The results of a layer over an array `[batch, tokens, inputs]`, and the gradient of its input, where `dout` makes that of the
/// results `[batch, tokens, outputs]`. Those of parameters are added to `gradients`.
///
/// # Errors
/// As [`Layer::forward`].
pub fn gradients<L: Layer>(
    layer: &L,
    parameters: &Parameters,
    workspace: &mut Workspace,
    mode: Mode,
    x: ArrayView3<'_, f32>,
    dout: ArrayView3<'_, f32>,
    gradients: &mut Gradients,
) -> Result<(Array3<f32>, Array3<f32>), Error> {
    let (size, x) = rows(layer, x)?;
    let expected = (size.batch, size.tokens, layer.outputs());
    if dout.dim() != expected {
        return Err(Error::shape("gradient of results", dout.shape(), format!("{expected:?}, as the results")));
    }
    let dout: Vec<f32> = dout.iter().copied().collect();
    let need = Need::of::<f32>(x.len()).times(2);
    let need = need.and(layer.forward_need(size)).and(layer.backward_need(size));
    let (mut tape, mut pass) = workspace.pass(parameters, mode, need)?;
    let input = tape.take(x.len());
    input.copy_from_slice(&x);
    let (out, kept) = layer.forward(&mut pass, size, input, &mut tape)?;
    let dx = tape.take_zeroed(x.len());
    layer.backward(&mut pass, size, kept, &dout, gradients, dx, &mut tape)?;
    Ok((array(size, layer.outputs(), out), array(size, layer.inputs(), dx)))
}

fn rows<L: Layer>(layer: &L, x: ArrayView3<'_, f32>) -> Result<(Size, Vec<f32>), Error> {
    let (batch, tokens, width) = x.dim();
    if width != layer.inputs() {
        return Err(Error::shape("input", x.shape(), format!("[batch, tokens, {}]", layer.inputs())));
    }
    Ok((Size { batch, tokens }, x.iter().copied().collect()))
}

fn array(Size { batch, tokens }: Size, width: usize, rows: &[f32]) -> Array3<f32> {
    Array3::from_shape_vec((batch, tokens, width), rows.to_vec()).expect("as many numbers as the shape says")
}

/// Refuses rows of another size.
pub(crate) fn check_rows(tensor: &str, rows: &[f32], size: Size, width: usize) -> Result<(), Error> {
    let expected = size.rows().saturating_mul(width);
    if rows.len() == expected {
        return Ok(());
    }
    let Size { batch, tokens } = size;
    Err(Error::shape(tensor, &[rows.len()], format!("[{batch}, {tokens}, {width}], {expected} numbers")))
}
