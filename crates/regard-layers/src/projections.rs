//! The linear layers around attention of tokens among each other.

use regard_kernels::{Rotary, RotaryScaling};
use regard_memory::{Frame, Need, Rows, RowsMut};

use crate::layer::check_rows;
use crate::{Before, Bias, Error, Gradients, Initial, Linear, Pass, Scope, Size};

/// The sizes of attention between its projections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadSizes {
    /// Numbers of a row, in and out.
    pub width: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; they divide the query heads.
    pub kv_heads: usize,
    /// Numbers of a query and of a key.
    pub dim_k: usize,
    /// Numbers of a value.
    pub dim_v: usize,
}

impl HeadSizes {
    /// Heads of `width / heads` numbers, each with its own keys and values.
    pub fn new(width: usize, heads: usize) -> HeadSizes {
        let dim = width.checked_div(heads).unwrap_or(0);
        HeadSizes { width, heads, kv_heads: heads, dim_k: dim, dim_v: dim }
    }

    fn check(&self) -> Result<(), Error> {
        for (setting, has) in [
            ("width", self.width),
            ("heads", self.heads),
            ("kv_heads", self.kv_heads),
            ("dim_k", self.dim_k),
            ("dim_v", self.dim_v),
        ] {
            if has == 0 {
                return Err(Error::setting(setting, has, "at least 1"));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(Error::setting("kv_heads", self.kv_heads, format!("a divisor of the {} heads", self.heads)));
        }
        Ok(())
    }

    /// Rotary positions of all dimensions of queries and keys at this base.
    pub(crate) fn rotary(&self, theta: f32) -> Rotary {
        Rotary::new(self.dim_k / 2 * 2, theta, &RotaryScaling::None, usize::MAX)
    }

    /// Refuses positions of more dimensions than there are.
    pub(crate) fn check_rotary(&self, rotary: Option<&Rotary>) -> Result<(), Error> {
        match rotary.filter(|rotary| rotary.dims() > self.dim_k) {
            Some(rotary) => {
                let expected = format!("at most the {} of a head", self.dim_k);
                Err(Error::setting("rotary dimensions", rotary.dims(), expected))
            }
            None => Ok(()),
        }
    }

    /// Numbers of queries, keys, values and results of a row.
    pub(crate) fn widths(&self) -> [usize; 4] {
        let HeadSizes { heads, kv_heads, dim_k, dim_v, .. } = *self;
        [heads * dim_k, kv_heads * dim_k, kv_heads * dim_v, heads * dim_v]
    }

    /// Room for each of these, of all rows.
    pub(crate) fn needs(&self, size: Size) -> [Need; 4] {
        self.widths().map(|width| Need::of::<f32>(size.rows().saturating_mul(width)))
    }
}

/// Projections to queries, keys and values, and back: `q_proj`, `k_proj`, `v_proj` and `o_proj`, each a [`Linear`] layer's
/// parameters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Projections {
    pub sizes: HeadSizes,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
}

impl Projections {
    /// With biases of the first three and of the last one, beginning so, or as [`Linear::new`].
    pub(crate) fn new(
        scope: &mut Scope<'_>,
        sizes: HeadSizes,
        [bias, out_bias]: [Bias; 2],
        initial: Option<[Initial; 2]>,
    ) -> Result<Projections, Error> {
        sizes.check()?;
        let HeadSizes { width, heads, kv_heads, dim_k, dim_v } = sizes;
        let attended = heads.saturating_mul(dim_v);
        let [into, back] = initial.unwrap_or([Initial::of_inputs(width), Initial::of_inputs(attended)]);
        let mut project = |name, heads: usize, dim: usize| {
            Linear::with(&mut scope.scope(name), width, heads.saturating_mul(dim), bias, into)
        };
        let (q, k) = (project("q_proj", heads, dim_k)?, project("k_proj", kv_heads, dim_k)?);
        let v = project("v_proj", kv_heads, dim_v)?;
        let out = Linear::with(&mut scope.scope("o_proj"), attended, width, out_bias, back)?;
        Ok(Projections { sizes, q, k, v, out })
    }

    /// Room for the last results.
    pub(crate) fn out_need(&self, size: Size) -> Need {
        Need::of::<f32>(size.rows().saturating_mul(self.sizes.width))
    }

    /// Queries, keys and values of `x`.
    pub(crate) fn project<'a>(
        &self,
        pass: &mut Pass<'_>,
        size: Size,
        x: &[f32],
        tape: &mut Frame<'a>,
    ) -> Result<[&'a mut [f32]; 3], Error> {
        let (rows, width) = (size.rows(), self.sizes.width);
        check_rows("input", x, size, width)?;
        let [q, k, v, _] = self.sizes.widths();
        let mut projected = [q, k, v].map(|width| tape.take(rows * width));
        let x = Rows::contiguous(x, rows, width)?;
        for ((layer, out), width) in [&self.q, &self.k, &self.v].into_iter().zip(&mut projected).zip([q, k, v]) {
            layer.apply(pass, x, RowsMut::contiguous(out, rows, width)?)?;
        }
        Ok(projected)
    }

    /// The last projection.
    pub(crate) fn finish(
        &self,
        pass: &mut Pass<'_>,
        size: Size,
        attended: &[f32],
        out: &mut [f32],
    ) -> Result<(), Error> {
        let [.., attended_width] = self.sizes.widths();
        let attended = Rows::contiguous(attended, size.rows(), attended_width)?;
        self.out.apply(pass, attended, RowsMut::contiguous(out, size.rows(), self.sizes.width)?)
    }

    /// The gradient of what was attended, written, and those of the last projection.
    pub(crate) fn finish_backward(
        &self,
        pass: &mut Pass<'_>,
        size: Size,
        attended: &[f32],
        dout: &[f32],
        gradients: &mut Gradients,
        dattended: &mut [f32],
    ) -> Result<(), Error> {
        check_rows("gradient of results", dout, size, self.sizes.width)?;
        let (rows, [.., width]) = (size.rows(), self.sizes.widths());
        let dout = Rows::contiguous(dout, rows, self.sizes.width)?;
        let to = RowsMut::contiguous(dattended, rows, width)?;
        let attended = Rows::contiguous(attended, rows, width)?;
        self.out.differentiate(pass, attended, dout, gradients, Some((Before::Replaced, to)))
    }

    /// Adds the gradient of `x`, and those of the first projections, from those of queries, keys and values.
    pub(crate) fn project_backward(
        &self,
        pass: &mut Pass<'_>,
        size: Size,
        x: &[f32],
        dprojected: [&[f32]; 3],
        gradients: &mut Gradients,
        dx: &mut [f32],
    ) -> Result<(), Error> {
        let (rows, width, [q, k, v, _]) = (size.rows(), self.sizes.width, self.sizes.widths());
        check_rows("gradient of the input", dx, size, width)?;
        let x = Rows::contiguous(x, rows, width)?;
        for ((layer, dout), columns) in [&self.q, &self.k, &self.v].into_iter().zip(dprojected).zip([q, k, v]) {
            let dout = Rows::contiguous(dout, rows, columns)?;
            let to = RowsMut::contiguous(dx, rows, width)?;
            layer.differentiate(pass, x, dout, gradients, Some((Before::Kept, to)))?;
        }
        Ok(())
    }
}
