//! A layer bound to what it is called with.

use std::ops::RangeInclusive;
use std::sync::Arc;

use pyo3::prelude::*;
use regard_layers::{Error, Gradients, Layer, Size};

use super::arrays::Array;
use super::module::Ground;

/// A layer and what it is called with: all that a backward pass needs, since what lies between is computed again. The same bits
/// come of it, and between the passes nothing lies in memory but the inputs (Chen et al., 2016).
pub(super) trait Call: Send + Sync {
    /// The shape of the results.
    fn shape(&self) -> Vec<usize>;

    /// Sequences, each of which dropout knows by a number.
    fn batch(&self) -> usize;

    /// The results.
    ///
    /// # Errors
    /// As [`Layer::forward`].
    fn forward(&self, ground: Ground<'_>) -> Result<Array, Error>;

    /// The gradients of the inputs that have some; those of parameters are added.
    ///
    /// # Errors
    /// As [`Layer::backward`].
    fn backward(&self, ground: Ground<'_>, dout: &[f32], gradients: &mut Gradients) -> Result<Vec<Array>, Error>;
}

/// What binds a layer to an argument.
pub(super) trait Function: Send {
    /// The call of `x`.
    ///
    /// # Errors
    /// It is no array that the layer takes.
    fn bind(&self, x: &Bound<'_, PyAny>) -> PyResult<Box<dyn Call>>;
}

/// How the rows of an array belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tokens {
    /// Each is by itself, whatever axes there are.
    Apart,
    /// They are sequences: `[batch, tokens, width]` or `[tokens, width]`.
    InSequences,
}

impl Tokens {
    /// Axes that an array may have.
    pub(super) fn axes(self) -> RangeInclusive<usize> {
        match self {
            Tokens::Apart => 1..=4,
            Tokens::InSequences => 2..=3,
        }
    }

    fn size(self, array: &Array) -> Size {
        match self {
            Tokens::Apart => array.apart(),
            Tokens::InSequences => array.size(),
        }
    }
}

/// Any layer of rows.
pub(super) struct OfRows<L>(pub(super) Arc<L>, pub(super) Tokens);

impl<L: Layer + Send + Sync + 'static> Function for OfRows<L> {
    fn bind(&self, x: &Bound<'_, PyAny>) -> PyResult<Box<dyn Call>> {
        let OfRows(layer, tokens) = self;
        let x = Array::rows("x", x, layer.inputs(), &tokens.axes())?;
        Ok(Box::new(CallOfRows { layer: layer.clone(), size: tokens.size(&x), x }))
    }
}

/// What binds a layer to sequences.
pub(super) fn in_sequences<L: Layer + Send + Sync + 'static>(layer: &Arc<L>) -> Box<dyn Function> {
    Box::new(OfRows(layer.clone(), Tokens::InSequences))
}

struct CallOfRows<L> {
    layer: Arc<L>,
    size: Size,
    x: Array,
}

impl<L: Layer + Send + Sync> Call for CallOfRows<L> {
    fn shape(&self) -> Vec<usize> {
        self.x.shape_of_width(self.layer.outputs())
    }

    fn batch(&self) -> usize {
        self.size.batch
    }

    fn forward(&self, ground: Ground<'_>) -> Result<Array, Error> {
        if self.x.numbers.is_empty() {
            return Array::zeros(self.shape());
        }
        let Ground { parameters, workspace, mode } = ground;
        let (mut tape, mut pass) = workspace.pass(parameters, mode, self.layer.forward_need(self.size))?;
        let (out, _) = self.layer.forward(&mut pass, self.size, &self.x.numbers, &mut tape)?;
        Array::copy(self.shape(), out)
    }

    fn backward(&self, ground: Ground<'_>, dout: &[f32], gradients: &mut Gradients) -> Result<Vec<Array>, Error> {
        let (Ground { parameters, workspace, mode }, layer, size) = (ground, &*self.layer, self.size);
        let mut dx = Array::zeros(self.x.shape.clone())?;
        if dx.numbers.is_empty() {
            return Ok(vec![dx]);
        }
        let need = layer.forward_need(size).and(layer.backward_need(size));
        let (mut tape, mut pass) = workspace.pass(parameters, mode, need)?;
        let (_, kept) = layer.forward(&mut pass, size, &self.x.numbers, &mut tape)?;
        layer.backward(&mut pass, size, kept, dout, gradients, &mut dx.numbers, &mut tape)?;
        Ok(vec![dx])
    }
}
