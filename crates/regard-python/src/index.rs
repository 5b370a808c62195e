//! A graph over the keys, and the masks that follow from it.

use ndarray::ArrayView2;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use regard_graph::{Index, Parameters};
use regard_masks::Edges;

use crate::arrays::Copies;
use crate::dtype::Dtype;
use crate::error::of_graph;
use crate::foreign::View;
use crate::mask::PyMask;
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
pub(crate) struct PyIndex(Index);

#[pymethods]
impl PyIndex {
    #[new]
    #[pyo3(signature = (keys, *, links=16, ef_construction=100, seed=None))]
    fn new(keys: &Bound<'_, PyAny>, links: usize, ef_construction: usize, seed: Option<u64>) -> PyResult<Self> {
        let view = View::of("keys", keys)?.readable(Copies::Allowed)?;
        if view.axes() != 2 || view.dtype != Dtype::F32 {
            let (shape, dtype) = (view.shape(), view.dtype.name());
            return Err(PyValueError::new_err(format!(
                "`keys` has shape {shape:?} of {dtype}; expected [keys, dim] of float32"
            )));
        }
        let numbers = view.read_as(|number: f32| number)?;
        let shape = (view.shape()[0], view.shape()[1]);
        let parameters = Parameters { links, ef_construction, seed };
        let built = detached(keys.py(), || {
            let keys = ArrayView2::from_shape(shape, &numbers).expect("as many as were read");
            Index::new(keys, &parameters)
        })?;
        built.map(PyIndex).map_err(of_graph)
    }

    /// Every query sees the nodes whose level is at least ``level``; with 0 these are all nodes.
    fn layers(&self, level: usize) -> PyResult<PyMask> {
        self.0.layers(level).map(PyMask).map_err(of_graph)
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
    fn adaptive(&self, window: Option<usize>) -> PyResult<PyMask> {
        self.0.adaptive(window).map(PyMask).map_err(of_graph)
    }

    /// The highest level of each node.
    #[getter]
    fn levels(&self) -> Vec<usize> {
        self.0.levels().iter().map(|&level| usize::from(level)).collect()
    }

    /// The neighbours of a node on a level.
    fn neighbours(&self, level: usize, node: usize) -> PyResult<Vec<usize>> {
        self.0.neighbours(level, node).map(<[usize]>::to_vec).map_err(of_graph)
    }

    /// Links of a node on level 0, on average.
    #[getter]
    fn mean_degree(&self) -> f64 {
        self.0.mean_degree()
    }

    fn __len__(&self) -> usize {
        self.0.nodes()
    }
}
