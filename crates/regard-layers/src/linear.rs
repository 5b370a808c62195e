//! Linear layers.

use regard_memory::{Frame, Need, Rows, RowsMut, chunks_of};

use crate::layer::check_rows;
use crate::{Before, Error, Gradients, Initial, Layer, Multiplier, Parameter, Parameters, Pass, Scope, Side, Size};

/// Columns whose sums one task makes.
const COLUMNS: usize = 128;

/// `y = x·Wᵀ + b`: parameters `weight [outputs, inputs]` and `bias [outputs]`.
///
/// ```
/// use ndarray::Array3;
/// use regard_layers::{Bias, Linear, Mode, Parameters, Workspace, run};
///
/// let mut parameters = Parameters::new(7);
/// let layer = Linear::new(&mut parameters.root(), 8, 3, Bias::Learned)?;
/// let x = Array3::from_shape_fn((2, 5, 8), |(b, t, c)| ((b * 31 + t * 7 + c) as f32).sin());
/// let y = run(&layer, &parameters, &mut Workspace::new()?, Mode::Evaluation, x.view())?;
/// assert_eq!(y.dim(), (2, 5, 3));
/// # Ok::<(), regard_layers::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    matrix: Matrix,
    bias: Option<Parameter>,
}

/// Whether a layer adds numbers of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bias {
    /// It does not.
    None,
    /// It learns them.
    Learned,
}

/// A matrix among parameters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix {
    pub weight: Parameter,
    pub inputs: usize,
    pub outputs: usize,
    pub order: Order,
}

/// How a matrix lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// `[outputs, inputs]`.
    OutputsFirst,
    /// `[inputs, outputs]`.
    InputsFirst,
}

impl Linear {
    /// A layer whose weights begin uniform within `1/√inputs`, as PyTorch's do.
    ///
    /// # Errors
    /// The scope has such parameters, or there is no memory for them.
    pub fn new(scope: &mut Scope<'_>, inputs: usize, outputs: usize, bias: Bias) -> Result<Linear, Error> {
        Linear::with(scope, inputs, outputs, bias, Initial::of_inputs(inputs))
    }

    /// A layer whose weights begin so; biases begin as PyTorch's do.
    ///
    /// # Errors
    /// As [`Linear::new`].
    pub fn with(
        scope: &mut Scope<'_>,
        inputs: usize,
        outputs: usize,
        bias: Bias,
        initial: Initial,
    ) -> Result<Linear, Error> {
        let weight = scope.add("weight", &[outputs, inputs], initial)?;
        let bias = match bias {
            Bias::None => None,
            Bias::Learned => Some(scope.add_vector("bias", &[outputs], Initial::of_inputs(inputs))?),
        };
        Ok(Linear { matrix: Matrix { weight, inputs, outputs, order: Order::OutputsFirst }, bias })
    }

    /// The results of rows `[rows, inputs]`.
    pub(crate) fn apply(&self, pass: &mut Pass<'_>, x: Rows<'_, f32>, out: RowsMut<'_, f32>) -> Result<(), Error> {
        self.matrix.apply(pass, x, self.bias, out)
    }

    /// The gradients of the parameters, added, and that of the input, which goes to `dx` if it is asked for.
    pub(crate) fn differentiate(
        &self,
        pass: &mut Pass<'_>,
        x: Rows<'_, f32>,
        dout: Rows<'_, f32>,
        gradients: &mut Gradients,
        dx: Option<(Before<'_>, RowsMut<'_, f32>)>,
    ) -> Result<(), Error> {
        self.matrix.differentiate(pass, x, dout, gradients, dx)?;
        if let Some(bias) = self.bias {
            pass.add_rows(dout, gradients.of_mut(bias))?;
        }
        Ok(())
    }
}

impl Matrix {
    /// `x·W`, and a bias.
    pub(crate) fn apply(
        &self,
        pass: &mut Pass<'_>,
        x: Rows<'_, f32>,
        bias: Option<Parameter>,
        out: RowsMut<'_, f32>,
    ) -> Result<(), Error> {
        let parameters = pass.parameters;
        let weight = self.rows(parameters)?;
        let before = bias.map_or(Before::Replaced, |bias| Before::Bias(parameters.of(bias)));
        let right = match self.order {
            Order::OutputsFirst => Side::Transposed(weight),
            Order::InputsFirst => Side::AsIs(weight),
        };
        pass.multiply(Side::AsIs(x), right, before, out)
    }

    /// As [`Linear::differentiate`].
    pub(crate) fn differentiate(
        &self,
        pass: &mut Pass<'_>,
        x: Rows<'_, f32>,
        dout: Rows<'_, f32>,
        gradients: &mut Gradients,
        dx: Option<(Before<'_>, RowsMut<'_, f32>)>,
    ) -> Result<(), Error> {
        let weight = self.rows(pass.parameters)?;
        let (left, right, by) = match self.order {
            Order::OutputsFirst => (dout, x, Side::AsIs(weight)),
            Order::InputsFirst => (x, dout, Side::Transposed(weight)),
        };
        let dweight = RowsMut::contiguous(gradients.of_mut(self.weight), weight.rows(), weight.cols())?;
        pass.multiply(Side::Transposed(left), Side::AsIs(right), Before::Kept, dweight)?;
        match dx {
            Some((before, dx)) => pass.multiply(Side::AsIs(dout), by, before, dx),
            None => Ok(()),
        }
    }

    fn rows<'p>(&self, parameters: &'p Parameters) -> Result<Rows<'p, f32>, Error> {
        let (rows, columns) = match self.order {
            Order::OutputsFirst => (self.outputs, self.inputs),
            Order::InputsFirst => (self.inputs, self.outputs),
        };
        Ok(Rows::contiguous(parameters.of(self.weight), rows, columns)?)
    }
}

impl Layer for Linear {
    type Kept<'a> = &'a [f32];

    fn inputs(&self) -> usize {
        self.matrix.inputs
    }

    fn outputs(&self) -> usize {
        self.matrix.outputs
    }

    fn forward_need(&self, size: Size) -> Need {
        Need::of::<f32>(size.rows().saturating_mul(self.outputs()))
    }

    fn backward_need(&self, _size: Size) -> Need {
        Need::NONE
    }

    fn forward<'a>(
        &self,
        pass: &mut Pass<'_>,
        size: Size,
        x: &'a [f32],
        tape: &mut Frame<'a>,
    ) -> Result<(&'a mut [f32], &'a [f32]), Error> {
        check_rows("input", x, size, self.inputs())?;
        let out = tape.take(size.rows() * self.outputs());
        let rows = Rows::contiguous(x, size.rows(), self.inputs())?;
        self.apply(pass, rows, RowsMut::contiguous(out, size.rows(), self.outputs())?)?;
        Ok((out, x))
    }

    fn backward(
        &self,
        pass: &mut Pass<'_>,
        size: Size,
        kept: &[f32],
        dout: &[f32],
        gradients: &mut Gradients,
        dx: &mut [f32],
        _frame: &mut Frame<'_>,
    ) -> Result<(), Error> {
        check_rows("gradient of results", dout, size, self.outputs())?;
        let x = Rows::contiguous(kept, size.rows(), self.inputs())?;
        let dout = Rows::contiguous(dout, size.rows(), self.outputs())?;
        let dx = RowsMut::contiguous(dx, size.rows(), self.inputs())?;
        self.differentiate(pass, x, dout, gradients, Some((Before::Kept, dx)))
    }
}

impl Pass<'_> {
    /// `C ← before + A·B`.
    pub(crate) fn multiply(
        &mut self,
        a: Side<'_>,
        b: Side<'_>,
        before: Before<'_>,
        out: RowsMut<'_, f32>,
    ) -> Result<(), Error> {
        let steps = match a {
            Side::AsIs(a) => a.cols(),
            Side::Transposed(a) => a.rows(),
        };
        let multiplier = Multiplier::new(self.kernels, self.pool).with_precision(self.precision);
        let need = multiplier.need(out.rows(), out.cols(), steps);
        multiplier.multiply(a, b, before, out, &mut self.scratch.frame(need)?)
    }

    /// Adds up the rows: of each column the sum, in their order.
    pub(crate) fn add_rows(&mut self, rows: Rows<'_, f32>, sums: &mut [f32]) -> Result<(), Error> {
        let kernels = self.kernels;
        if rows.cols() != sums.len() {
            return Err(Error::shape("sums", &[sums.len()], format!("[{}]", rows.cols())));
        }
        self.pool.run(chunks_of(sums, COLUMNS), |index, sums| {
            let columns = index * COLUMNS..index * COLUMNS + sums.len();
            kernels.add_rows(rows.block(0..rows.rows(), columns), sums).expect("as many columns as sums");
        });
        Ok(())
    }
}
