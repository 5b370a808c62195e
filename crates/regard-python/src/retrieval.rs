//! Attention to what an index finds.

use ndarray::{Array3, Array4};
use pyo3::exceptions::{PyIndexError, PyValueError};
use pyo3::prelude::*;
use regard_graph::{Parameters, Retrieval, Retrieved, Sight};

use crate::arrays::{finish, new_like, pair, single};
use crate::attention::fitting;
use crate::dtype::Dtype;
use crate::error::{of_graph, wrong_type};
use crate::foreign::View;
use crate::index::{PyIndex, parameters};
use crate::numbers::{self, number};
use crate::work::detached;

/// What :func:`retrieve` gives: a state over the keys that it saw, ready to be merged with that over others.
#[pyclass(frozen, generic, module = "regard", name = "Retrieved")]
pub(crate) struct PyRetrieved {
    /// The results, ``[batch, heads, queries, dim_v]`` in float32.
    #[pyo3(get)]
    out: Py<PyAny>,
    /// The log-sum-exps, ``[batch, heads, queries]``.
    #[pyo3(get)]
    lse: Py<PyAny>,
    retrieved: Retrieved,
    shape: [usize; 3],
}

#[pymethods]
impl PyRetrieved {
    /// The keys that were found for a query and are not among those of its window and the first ones, ascending. None where
    /// nothing was searched, because as many were asked for as there are.
    fn keys(
        &self,
        batch: &Bound<'_, PyAny>,
        head: &Bound<'_, PyAny>,
        query: &Bound<'_, PyAny>,
    ) -> PyResult<Vec<usize>> {
        let [batch, head, query] =
            [("batch", batch), ("head", head), ("query", query)].map(|(name, at)| numbers::count(name, at));
        let at = [batch?, head?, query?];
        for ((name, at), all) in ["batch", "head", "query"].into_iter().zip(at).zip(self.shape) {
            if at >= all {
                return Err(PyIndexError::new_err(format!("`{name}` is {at}; there are {all}, from 0 on")));
            }
        }
        Ok(self.retrieved.keys(at[0], at[1], at[2]).to_vec())
    }

    /// For how many of the searches, one for each query of each head, all keys were looked at instead of the graph.
    #[getter]
    fn scans(&self) -> usize {
        self.retrieved.scans()
    }

    fn __repr__(&self) -> String {
        let [batch, heads, queries] = self.shape;
        format!("<Retrieved of a batch of {batch}, {heads} heads and {queries} queries>")
    }
}

/// Attention over a window and the first keys, exactly, and over the keys with the largest inner products, as an HNSW index of
/// the keys finds them.
///
/// Args:
///     q, k, v: ``[batch, heads, seq, dim]`` and so on as in :func:`attention`; float32.
///     count: keys to find for each query. With all of them nothing is searched, and the result is that of exact attention.
///     width: nodes that a search keeps in view (``ef``); twice the count unless given. The more, the less is missed.
///     sight: ``"all"`` keys; ``"filtered"``: those up to the query's own position, out of an index of all keys; ``"grown"``: the
///         same out of an index that grows as the queries go on, so that nothing depends on later keys.
///     window: ``(left, right)``: these keys are attended to exactly, None for unbounded.
///     first: so are the first keys, so many.
///     scale: of the scores; ``1/√dim`` unless given.
///     indexes: an :class:`Index` for each key/value head of each batch entry in turn; built in the call unless given.
///     links, ef_construction, seed: how they are built, as of :class:`Index`.
///
/// Returns:
///     :class:`Retrieved` with ``out``, ``lse`` and ``keys(batch, head, query)``. The last query stands at the last key.
///
/// >>> import numpy as np, regard
/// >>> q, k, v = np.random.default_rng(0).standard_normal((3, 1, 2, 300, 16), dtype=np.float32)
/// >>> retrieved = regard.retrieve(q, k, v, 8, window=(15, 0), first=4, sight="grown")
/// >>> retrieved.out.shape
/// (1, 2, 300, 16)
/// >>> all(4 <= key < 284 for key in retrieved.keys(0, 1, 299))
/// True
#[pyfunction]
#[pyo3(
    signature = (q, k, v, count, *, width=None, sight="all", window=None, first=None, scale=None, indexes=None, links=None, ef_construction=None, seed=None),
    text_signature = "(q, k, v, count, *, width=None, sight='all', window=None, first=0, scale=None, indexes=None, links=16, ef_construction=100, seed=None)"
)]
#[allow(clippy::too_many_arguments, reason = "Python's arguments are named")]
pub(crate) fn retrieve<'py>(
    q: &Bound<'py, PyAny>,
    k: &Bound<'py, PyAny>,
    v: &Bound<'py, PyAny>,
    count: &Bound<'py, PyAny>,
    width: Option<&Bound<'py, PyAny>>,
    sight: &str,
    window: Option<&Bound<'py, PyAny>>,
    first: Option<&Bound<'py, PyAny>>,
    scale: Option<&Bound<'py, PyAny>>,
    indexes: Option<&Bound<'py, PyAny>>,
    links: Option<&Bound<'py, PyAny>>,
    ef_construction: Option<&Bound<'py, PyAny>>,
    seed: Option<&Bound<'py, PyAny>>,
) -> PyResult<PyRetrieved> {
    if indexes.is_some() && (links.is_some() || ef_construction.is_some() || seed.is_some()) {
        return Err(PyValueError::new_err(
            "`indexes` are built already: `links`, `ef_construction` and `seed` are for those built in the call",
        ));
    }

    let sight = match sight {
        "all" => Sight::All,
        "filtered" => Sight::Filtered,
        "grown" => Sight::Grown,
        _ => {
            let expected = "expected 'all', 'filtered' or 'grown'";
            return Err(PyValueError::new_err(format!("`sight` is '{sight}'; {expected}")));
        }
    };
    let parameters: Parameters = parameters(links, ef_construction, seed)?;
    let mut retrieval = Retrieval::new(numbers::count("count", count)?).sight(sight).parameters(parameters);
    if let Some(width) = width {
        retrieval = retrieval.width(numbers::count("width", width)?);
    }
    if let Some(window) = window {
        let (left, right) = pair("window", "(left, right)", window)?;
        let bound = |bound: &Bound<'py, PyAny>| (!bound.is_none()).then(|| numbers::count("window", bound)).transpose();
        retrieval = retrieval.window(bound(&left)?, bound(&right)?);
    }
    if let Some(first) = first {
        retrieval = retrieval.first(numbers::count("first", first)?);
    }
    if let Some(scale) = scale {
        retrieval = retrieval.scale(number("scale", scale)?);
    }
    let ((q_view, q), (k_view, k), (v_view, v)) = (single("q", q)?, single("k", k)?, single("v", v)?);
    let shape = fitting(&q_view, &k_view, &v_view)?;
    let py = q_view.object.py();
    let held: Option<Vec<Bound<'py, PyIndex>>> = match indexes {
        None => None,
        Some(given) => {
            let each = given.try_iter().map_err(|_| wrong_type("indexes", "a list of regard.Index", given))?;
            let one = |index: PyResult<Bound<'py, PyAny>>| {
                let index = index?;
                let of_index = index.cast::<PyIndex>().cloned();
                of_index.map_err(|_| wrong_type("indexes", "a list of regard.Index", &index))
            };
            Some(each.map(one).collect::<PyResult<_>>()?)
        }
    };
    let indexes = held.as_ref().map(|held| held.iter().map(|index| &index.get().0).collect::<Vec<_>>());
    let retrieved = detached(py, || match &indexes {
        None => retrieval.run(q.view(), k.view(), v.view()),
        Some(indexes) => retrieval.run_with(q.view(), k.view(), v.view(), indexes),
    })?;
    let retrieved = retrieved.map_err(of_graph)?;
    let out = of_array4(&q_view, "out", &retrieved.out)?;
    let lse = of_array3(&q_view, "lse", &retrieved.lse)?;
    Ok(PyRetrieved { out, lse, retrieved, shape: [shape.batch, shape.heads, shape.queries] })
}

/// An array of the kind of the query with these numbers.
fn of_array4(like: &View<'_>, name: &'static str, array: &Array4<f32>) -> PyResult<Py<PyAny>> {
    let (batch, heads, queries, dim) = array.dim();
    let mut view = new_like(like, name, [batch, heads, queries, dim], Dtype::F32, like.axes())?;
    let mut tensor = view.tensor_mut::<f32>(&[])?;
    for ((b, h, i), row) in ndarray::indices((batch, heads, queries)).into_iter().zip(array.rows()) {
        let to = tensor.rows_mut(b, h);
        row.iter().zip(to.block(i..i + 1, 0..dim).row_mut(0)).for_each(|(&from, to)| *to = from);
    }
    finish(view, like).map(Bound::unbind)
}

fn of_array3(like: &View<'_>, name: &'static str, array: &Array3<f32>) -> PyResult<Py<PyAny>> {
    let (batch, heads, queries) = array.dim();
    let mut view = new_like(like, name, [1, batch, heads, queries], Dtype::F32, like.axes() - 1)?.column();
    let mut tensor = view.tensor_mut::<f32>(&[])?;
    for ((b, h, i), &number) in array.indexed_iter() {
        tensor.rows_mut(b, h).row_mut(i)[0] = number;
    }
    finish(view, like).map(Bound::unbind)
}
