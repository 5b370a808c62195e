//! A graph over the keys, and the masks that follow from it.

use ndarray::Array2;
use numpy::{PyArray1, PyArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use regard_graph::{Error, Index, Parameters};
use regard_masks::Edges;
use regard_memory::chunks_of;
use regard_threads::Pool;

use crate::arrays::single;
use crate::error::of_graph;
use crate::foreign::View;
use crate::mask::PyMask;
use crate::numbers;
use crate::work::detached;

/// A Hierarchical Navigable Small World graph over the keys of a head, searched by inner product, whose levels and links are
/// masks: query ``p`` is node ``p``.
///
/// Args:
///     keys: ``[keys, dim]``, float32.
///     links: links of a node on each level at most; twice as many on level 0.
///     ef_construction: nodes that are looked at for the links of a new one.
///     seed: of the order of insertion; each in its own place unless given.
///
/// >>> import numpy as np, regard
/// >>> keys = np.random.default_rng(0).standard_normal((300, 16), dtype=np.float32)
/// >>> index = regard.Index(keys)
/// >>> mask = regard.Mask.causal() & index.adaptive()
/// >>> 0 < mask.layout(300, 300).density < 0.5
/// True
#[pyclass(frozen, module = "regard", name = "Index")]
pub(crate) struct PyIndex(pub(crate) Index);

#[pymethods]
impl PyIndex {
    #[new]
    #[pyo3(
        signature = (keys, *, links=None, ef_construction=None, seed=None),
        text_signature = "(keys, *, links=16, ef_construction=100, seed=None)"
    )]
    fn new(
        keys: &Bound<'_, PyAny>,
        links: Option<&Bound<'_, PyAny>>,
        ef_construction: Option<&Bound<'_, PyAny>>,
        seed: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let keys = rows("keys", keys)?;
        let parameters = parameters(links, ef_construction, seed)?;
        let (py, numbers) = (keys.0.object.py(), keys.1.view());
        detached(py, || Index::new(numbers, &parameters))?.map(PyIndex).map_err(of_graph)
    }

    /// The keys with the largest inner products with each query, as the graph finds them: the largest first.
    ///
    /// Args:
    ///     queries: ``[queries, dim]``, float32.
    ///     count: keys for each, or all of them where they are fewer.
    ///     width: nodes that a search keeps in view (``ef``); twice the count unless given. The more, the less is missed.
    ///
    /// Returns:
    ///     ``[queries, count]``, NumPy's int64.
    #[pyo3(signature = (queries, count, width=None))]
    fn nearest<'py>(
        &self,
        queries: &Bound<'py, PyAny>,
        count: &Bound<'py, PyAny>,
        width: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        /// Queries that one task searches for.
        const BLOCK: usize = 32;

        let py = queries.py();
        let count = numbers::count("count", count)?;
        let width = width.map_or(Ok(count.saturating_mul(2)), |width| numbers::count("width", width))?;
        let (_, queries) = rows("queries", queries)?;
        let mut found: Vec<Result<Vec<usize>, Error>> = vec![Ok(Vec::new()); queries.nrows()];
        detached(py, || {
            Pool::global().run(chunks_of(&mut found, BLOCK), |block, found| {
                for (at, found) in found.iter_mut().enumerate() {
                    let query = queries.row(block * BLOCK + at);
                    let query = query.as_slice().expect("rows without gaps");
                    *found = self.0.nearest(query, count, width).map(|nearest| nearest.keys);
                }
            });
        })?;
        let mut keys = Vec::new();
        for found in found {
            keys.extend(found.map_err(of_graph)?.into_iter().map(|key| key as i64));
        }
        let shape = [queries.nrows(), count.min(self.0.nodes())];
        Ok(PyArray1::from_vec(py, keys).reshape(shape)?.into_any())
    }

    /// Every query sees the nodes whose level is at least ``level``; with 0 these are all nodes.
    fn layers(&self, level: &Bound<'_, PyAny>) -> PyResult<PyMask> {
        self.0.layers(numbers::count("level", level)?).map(PyMask).map_err(of_graph)
    }

    /// Node ``i`` sees the nodes whose level is at least its own.
    fn hierarchy(&self) -> PyMask {
        PyMask(self.0.hierarchy())
    }

    /// Node ``i`` sees its neighbours in the graph, and itself.
    #[pyo3(signature = (symmetric=false))]
    fn edges(&self, symmetric: bool) -> PyResult<PyMask> {
        let edges = if symmetric { Edges::Symmetric } else { Edges::Directed };
        self.0.edges(edges).map(PyMask).map_err(of_graph)
    }

    /// The edges together with a window of ``window`` keys, half of them to each side; twice the mean degree unless given.
    #[pyo3(signature = (window=None))]
    fn adaptive(&self, window: Option<&Bound<'_, PyAny>>) -> PyResult<PyMask> {
        let window = window.map(|window| numbers::count("window", window)).transpose()?;
        self.0.adaptive(window).map(PyMask).map_err(of_graph)
    }

    /// The highest level of each node.
    #[getter]
    fn levels(&self) -> Vec<usize> {
        self.0.levels().iter().map(|&level| usize::from(level)).collect()
    }

    /// The neighbours of a node on a level.
    fn neighbours(&self, level: &Bound<'_, PyAny>, node: &Bound<'_, PyAny>) -> PyResult<Vec<usize>> {
        let (level, node) = (numbers::count("level", level)?, numbers::count("node", node)?);
        self.0.neighbours(level, node).map(<[usize]>::to_vec).map_err(of_graph)
    }

    /// Numbers of a key.
    #[getter]
    fn dim(&self) -> usize {
        self.0.dim()
    }

    /// Links of a node on level 0, on average.
    #[getter]
    fn mean_degree(&self) -> f64 {
        self.0.mean_degree()
    }

    fn __len__(&self) -> usize {
        self.0.nodes()
    }

    fn __repr__(&self) -> String {
        let (nodes, dim, highest) = (self.0.nodes(), self.0.dim(), self.0.highest_level());
        format!("<Index of {nodes} keys of {dim} numbers on levels up to {highest}>")
    }
}

/// How an index is built.
pub(crate) fn parameters(
    links: Option<&Bound<'_, PyAny>>,
    ef_construction: Option<&Bound<'_, PyAny>>,
    seed: Option<&Bound<'_, PyAny>>,
) -> PyResult<Parameters> {
    let usual = Parameters::default();
    Ok(Parameters {
        links: links.map_or(Ok(usual.links), |links| numbers::count("links", links))?,
        ef_construction: ef_construction
            .map_or(Ok(usual.ef_construction), |nodes| numbers::count("ef_construction", nodes))?,
        seed: seed.map(|seed| numbers::whole("seed", seed)).transpose()?,
    })
}

/// Rows of float32 without gaps.
fn rows<'py>(name: &'static str, array: &Bound<'py, PyAny>) -> PyResult<(View<'py>, Array2<f32>)> {
    let (view, numbers) = single(name, array)?;
    if view.axes() != 2 {
        return Err(PyValueError::new_err(format!("`{name}` has shape {:?}; expected [{name}, dim]", view.shape())));
    }
    let shape = (view.shape()[0], view.shape()[1]);
    let rows = numbers.into_shape_with_order(shape).expect("as many as were read");
    Ok((view, rows))
}
