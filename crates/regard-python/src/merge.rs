//! States that merge.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use regard_attention::merge as merge_rows;
use regard_memory::TensorMut;

use crate::arrays::{Copies, finish, new_like, pair};
use crate::attention::expect_shape;
use crate::dtype::{Dtype, Scalar};
use crate::error::of_attention;
use crate::foreign::View;
use crate::work::detached;

/// Merges two states ``(out, lse)`` of the same queries over different keys into that over all of them.
///
/// Args:
///     a, b: pairs as ``attention(..., return_lse=True)`` gives them.
///
/// Returns:
///     ``(out, lse)``: with ``m = max(a, b)``, ``out = (e^(a−m)·out_a + e^(b−m)·out_b) / (e^(a−m) + e^(b−m))`` and ``lse = m +
///     log(e^(a−m) + e^(b−m))``. Two states that have seen no key make one that has seen none.
///
/// >>> import numpy as np, regard
/// >>> q, k, v = np.random.default_rng(0).standard_normal((3, 4, 60, 32), dtype=np.float32)
/// >>> halves = [regard.attention(q, k[:, at], v[:, at], return_lse=True) for at in (slice(0, 25), slice(25, 60))]
/// >>> out, lse = regard.merge(*halves)
/// >>> bool(np.allclose(out, regard.attention(q, k, v), atol=1e-6))
/// True
#[pyfunction]
pub(crate) fn merge<'py>(a: &Bound<'py, PyAny>, b: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let (a, b) = (pair("a", "(out, lse)", a)?, pair("b", "(out, lse)", b)?);
    let view = |name, array| View::of(name, array)?.readable(Copies::Allowed);
    let (a_out, a_lse, b_out, b_lse) =
        (view("out of a", &a.0)?, view("lse of a", &a.1)?, view("out of b", &b.0)?, view("lse of b", &b.1)?);
    let dtype = a_out.dtype;
    for view in [&a_out, &a_lse, &b_out, &b_lse] {
        if view.dtype != dtype || !matches!(dtype, Dtype::F32 | Dtype::F64) {
            let (name, has) = (view.name, view.dtype.name());
            let problem =
                format!("`{name}` has dtype {has}; expected all float32 or all float64, as return_lse=True gives them");
            return Err(PyTypeError::new_err(problem));
        }
    }
    let shape = a_out.shape();
    if shape.is_empty() {
        return Err(PyValueError::new_err("`out of a` has no axes; expected [..., queries, dim]"));
    }
    expect_shape(&b_out, shape)?;
    expect_shape(&a_lse, &shape[..shape.len() - 1])?;
    expect_shape(&b_lse, &shape[..shape.len() - 1])?;
    let states = [(a_out, a_lse.column()), (b_out, b_lse.column())];
    match dtype {
        Dtype::F64 => merge_of::<f64>(&states),
        _ => merge_of::<f32>(&states),
    }
}

fn merge_of<'py, W: Scalar<Wide = W>>(states: &[(View<'py>, View<'py>); 2]) -> PyResult<Bound<'py, PyAny>> {
    let [(a_out, a_lse), (b_out, b_lse)] = states;
    let (py, axes) = (a_out.object.py(), a_out.axes());
    let [batch, heads, queries, _] = a_out.shape4();
    let mut out = new_like(a_out, "out", a_out.shape4(), W::DTYPE, axes)?;
    let mut lse = new_like(a_out, "lse", [1, batch, heads, queries], W::DTYPE, axes - 1)?.column();
    {
        let (a_out, a_lse, b_out, b_lse) =
            (a_out.tensor::<W>()?, a_lse.tensor::<W>()?, b_out.tensor::<W>()?, b_lse.tensor::<W>()?);
        let (mut out, mut lse): (TensorMut<'_, W>, TensorMut<'_, W>) = (out.tensor_mut(&[])?, lse.tensor_mut(&[])?);
        let work = || {
            for (b, h) in (0..batch).flat_map(|b| (0..heads).map(move |h| (b, h))) {
                for i in 0..queries {
                    let (mut row, mut lses) = (out.rows_mut(b, h), lse.rows_mut(b, h));
                    row.row_mut(i).copy_from_slice(a_out.rows(b, h).row(i));
                    let (own, other) = (a_lse.rows(b, h).row(i)[0], b_lse.rows(b, h).row(i)[0]);
                    lses.row_mut(i)[0] = merge_rows(row.row_mut(i), own, b_out.rows(b, h).row(i), other)?;
                }
            }
            Ok(())
        };
        detached(py, work)?.map_err(of_attention)?;
    }
    Ok(PyTuple::new(py, [finish(out, a_out)?, finish(lse, a_out)?])?.into_any())
}
