//! Norms of rows.

use regard_memory::{Frame, Need, chunks_of};

use crate::layer::check_rows;
use crate::{Error, Gradients, Initial, Layer, Parameter, Pass, Scope, Size};

/// Rows of a task. The gradients of the weights are sums over such blocks, one after the other, so that they do not depend
/// on the number of threads.
const BLOCK: usize = 64;

/// RMSNorm or LayerNorm with learned weights: parameters `weight [width]` and, of LayerNorm, `bias [width]`.
///
/// ```
/// use ndarray::Array3;
/// use regard_layers::{Mode, Norm, NormKind, Parameters, Workspace, run};
///
/// let mut parameters = Parameters::new(7);
/// let norm = Norm::new(&mut parameters.scope("norm"), NormKind::Rms, 2, 1e-6)?;
/// let x = Array3::from_shape_vec((1, 1, 2), vec![3.0, 4.0]).unwrap();
/// let y = run(&norm, &parameters, &mut Workspace::new()?, Mode::Evaluation, x.view())?;
/// assert!((y[[0, 0, 0]] - 3.0 / 12.5f32.sqrt()).abs() < 1e-5);
/// # Ok::<(), regard_layers::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    kind: NormKind,
    /// Numbers that are divided by one root, and how often there are so many in a row.
    width: usize,
    groups: usize,
    eps: f32,
    weight: Parameter,
    bias: Option<Parameter>,
}

/// What a row is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// `x / √(mean(x²) + eps) · weight` (Zhang and Sennrich, 2019).
    Rms,
    /// `(x − mean(x)) / √(var(x) + eps) · weight + bias` (Ba et al., 2016).
    Layer,
}

impl Norm {
    /// A norm whose weights begin at 1 and whose biases begin at 0.
    ///
    /// # Errors
    /// `eps` is negative or no number, the scope has such parameters, or there is no memory for them.
    pub fn new(scope: &mut Scope<'_>, kind: NormKind, width: usize, eps: f32) -> Result<Norm, Error> {
        Norm::in_groups(scope, kind, [1, width], eps)
    }

    /// A norm of each of so many groups of a row by itself, with weights of its own.
    pub(crate) fn in_groups(
        scope: &mut Scope<'_>,
        kind: NormKind,
        [groups, width]: [usize; 2],
        eps: f32,
    ) -> Result<Norm, Error> {
        if !(eps >= 0.0 && eps.is_finite()) {
            return Err(Error::setting("eps", eps, "at least 0, and finite"));
        }
        let row = groups.saturating_mul(width);
        let weight = scope.add_vector("weight", &[row], Initial::Constant(1.0))?;
        let bias = match kind {
            NormKind::Rms => None,
            NormKind::Layer => Some(scope.add_vector("bias", &[row], Initial::Constant(0.0))?),
        };
        Ok(Norm { kind, width, groups, eps, weight, bias })
    }

    /// Numbers of a row.
    fn row(&self) -> usize {
        self.groups * self.width
    }

    /// The results of rows, in place of what stands in `out`.
    pub(crate) fn apply(&self, pass: &Pass<'_>, x: &[f32], out: &mut [f32]) {
        let (kernels, width, eps) = (pass.kernels, self.width, self.eps);
        let weight = pass.parameters.of(self.weight);
        let bias = self.bias.map(|bias| pass.parameters.of(bias));
        let block = (BLOCK * self.row()).max(1);
        pass.pool.run(chunks_of(out, block), |index, out| {
            let x = &x[index * block..][..out.len()];
            for (i, (x, out)) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)).enumerate() {
                let group = i % self.groups * width..(i % self.groups + 1) * width;
                match bias {
                    None => kernels.rms_norm(x, &weight[group], eps, out),
                    Some(bias) => kernels.layer_norm(x, &weight[group.clone()], &bias[group], eps, out),
                }
                .expect("rows of one width");
            }
        });
    }

    /// What [`Norm::differentiate`] takes.
    pub(crate) fn need(&self, rows: usize) -> Need {
        Need::of::<f32>(rows.div_ceil(BLOCK).saturating_mul(self.parts() * self.row()))
    }

    /// How many tensors are learned.
    fn parts(&self) -> usize {
        1 + usize::from(self.bias.is_some())
    }

    /// Adds the gradient of the input to `dx`, and those of the parameters.
    pub(crate) fn differentiate(
        &self,
        pass: &Pass<'_>,
        x: &[f32],
        dout: &[f32],
        gradients: &mut Gradients,
        dx: &mut [f32],
        frame: &mut Frame<'_>,
    ) -> Result<(), Error> {
        let (kernels, width, eps) = (pass.kernels, self.width, self.eps);
        if width == 0 || x.is_empty() {
            return Ok(());
        }
        let weight = pass.parameters.of(self.weight);
        let (block, each) = (BLOCK * self.row(), self.parts() * self.row());
        let mut frame = frame.scope();
        let sums = frame.take_zeroed::<f32>(x.len().div_ceil(block) * each);
        pass.pool.run((chunks_of(dx, block), chunks_of(sums, each)), |index, (dx, sums)| {
            let (dweight, dbias) = sums.split_at_mut(self.row());
            let range = index * block..index * block + dx.len();
            let rows = x[range.clone()].chunks_exact(width).zip(dout[range].chunks_exact(width));
            for (i, ((x, dout), dx)) in rows.zip(dx.chunks_exact_mut(width)).enumerate() {
                let group = i % self.groups * width..(i % self.groups + 1) * width;
                let (weight, dweight) = (&weight[group.clone()], &mut dweight[group.clone()]);
                match self.kind {
                    NormKind::Rms => kernels.rms_norm_backward(x, weight, eps, dout, dx, dweight),
                    NormKind::Layer => {
                        kernels.layer_norm_backward(x, weight, eps, dout, dx, [dweight, &mut dbias[group]])
                    }
                }
                .expect("rows of one width");
            }
        });
        for sums in sums.chunks_exact(each) {
            let (dweight, dbias) = sums.split_at(self.row());
            kernels.add(dweight, gradients.of_mut(self.weight))?;
            if let Some(bias) = self.bias {
                kernels.add(dbias, gradients.of_mut(bias))?;
            }
        }
        Ok(())
    }
}

impl Layer for Norm {
    type Kept<'a> = &'a [f32];

    fn inputs(&self) -> usize {
        self.row()
    }

    fn outputs(&self) -> usize {
        self.row()
    }

    fn forward_need(&self, size: Size) -> Need {
        Need::of::<f32>(size.rows().saturating_mul(self.row()))
    }

    fn backward_need(&self, size: Size) -> Need {
        self.need(size.rows())
    }

    fn forward<'a>(
        &self,
        pass: &mut Pass<'_>,
        size: Size,
        x: &'a [f32],
        tape: &mut Frame<'a>,
    ) -> Result<(&'a mut [f32], &'a [f32]), Error> {
        check_rows("input", x, size, self.row())?;
        let out = tape.take(x.len());
        self.apply(pass, x, out);
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
        frame: &mut Frame<'_>,
    ) -> Result<(), Error> {
        check_rows("gradient of results", dout, size, self.row())?;
        self.differentiate(pass, kept, dout, gradients, dx, frame)
    }
}
