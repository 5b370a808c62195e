//! The results of a call, and what it writes them to.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use regard_attention::{Error, Outputs, Shape};
use regard_memory::Arena;

use crate::arrays::{finish, new_like};
use crate::attention::expect_shape;
use crate::dtype::{Dtype, Scalar};
use crate::error::of_attention;
use crate::foreign::{AXES, View};
use crate::options::Call;
use crate::work::{detached, with_scratch};

/// What a call writes to.
pub(crate) enum Results<'a, T, W> {
    /// In the numbers of the query.
    Same(Outputs<'a, T, W>),
    /// In those that states are merged in.
    Wide(Outputs<'a, W, W>),
}

/// The results of a call as its caller asked for them, `out` or `(out, lse)`, written by `compute`; what it reads beside is
/// `inputs`.
pub(crate) fn results<'py, T: Scalar<Wide: Scalar>>(
    call: &Call<'py>,
    q: &View<'py>,
    shape: Shape,
    inputs: &[&View<'py>],
    compute: impl FnOnce(Results<'_, T, T::Wide>, &mut Arena) -> Result<(), Error> + Send,
) -> PyResult<Bound<'py, PyAny>> {
    let Shape { batch, heads, queries, dim_v, .. } = shape;
    let (py, wide) = (q.object.py(), T::DTYPE.wide());
    let with_lse = call.flag("return_lse")?;
    let dtypes = if with_lse { [wide, T::DTYPE] } else { [T::DTYPE; 2] };
    let mut out = result(call.own("out"), q, [batch, heads, queries, dim_v], dtypes)?;
    if !with_lse {
        let results = Results::Same(Outputs::new(out.tensor_mut::<T>(inputs)?));
        detached(py, || with_scratch(|scratch| compute(results, scratch)))?.map_err(of_attention)?;
        return finish(out, q);
    }
    let mut lse = new_like(q, "lse", [1, batch, heads, queries], wide, q.axes() - 1)?.column();
    let lses = lse.tensor_mut::<T::Wide>(inputs)?;
    let results = if out.dtype == wide {
        Results::Wide(Outputs::state(out.tensor_mut::<T::Wide>(inputs)?, lses))
    } else {
        Results::Same(Outputs::state(out.tensor_mut::<T>(inputs)?, lses))
    };
    detached(py, || with_scratch(|scratch| compute(results, scratch)))?.map_err(of_attention)?;
    Ok(PyTuple::new(py, [finish(out, q)?, finish(lse, q)?])?.into_any())
}

/// The array that a caller gave for the result, of one of two types, or a new one of the first.
fn result<'py>(
    given: Option<&Bound<'py, PyAny>>,
    like: &View<'py>,
    shape: [usize; AXES],
    dtypes: [Dtype; 2],
) -> PyResult<View<'py>> {
    let Some(given) = given else { return new_like(like, "out", shape, dtypes[0], like.axes()) };
    let view = View::to_write("out", given)?;
    if !dtypes.contains(&view.dtype) {
        let (has, expected) = (view.dtype.name(), dtypes[0].name());
        return Err(PyTypeError::new_err(format!("`out` has dtype {has}, expected {expected}")));
    }
    expect_shape(&view, &shape[AXES - like.axes()..])?;
    view.tell_written()?;
    Ok(view)
}
