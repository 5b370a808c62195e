//! Masks, and their layouts.

use std::hash::{DefaultHasher, Hash, Hasher};

use numpy::ndarray::ArrayViewD;
use numpy::{PyArray1, PyArrayDescrMethods, PyReadonlyArrayDyn, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::{PyMemoryError, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString, PyTuple, PyType};
use regard_attention::{Offset, Options, Sequences, Shape};
use regard_draw::{Picture, Style, draw_layout, draw_mask};
use regard_kernels::ROWS;
use regard_masks::{BlockLayout, Edges, Mask, TileShape};
use regard_threads::interrupted;

use crate::arrays::room;
use crate::error::{of_draw, of_mask, of_memory, wrong_type};
use crate::foreign::numpy;
use crate::numbers::{self, count, number, position, whole, whole_numbers};
use crate::work::detached;

/// Pairs that are drawn where nobody says how many.
const DRAWN: usize = 48;

/// Which (query, key) pairs live: a set of pairs, combined with ``|``, ``&`` and ``~``.
///
/// Query ``i`` stands at position ``p = i + offset`` among the keys; unless a call says otherwise the last query stands at the
/// last key. A mask costs what it keeps: of an empty tile nothing is computed, and a full one needs no mask.
///
/// >>> from regard import Mask
/// >>> mask = Mask.causal() & (Mask.window(2, None) | Mask.prefix(1))
/// >>> print(mask.draw(6, 6))
/// █·····
/// ██····
/// ███···
/// ████··
/// █·███·
/// █··███
/// <BLANKLINE>
/// >>> mask
/// Mask("causal & (window(2, ∞) | prefix(1))")
/// >>> mask == Mask("causal & (window(2, inf) | prefix(1))")
/// True
#[pyclass(frozen, eq, module = "regard", name = "Mask")]
#[derive(Clone, PartialEq)]
pub(crate) struct PyMask(pub(crate) Mask);

#[pymethods]
impl PyMask {
    /// The mask of an expression, as ``str`` of a mask writes it.
    #[new]
    fn new(expression: &Bound<'_, PyAny>) -> PyResult<Self> {
        let text = expression.cast::<PyString>().map_err(|_| {
            wrong_type("expression", "text such as \"causal & window(31, inf)\"; Mask.dense takes arrays", expression)
        })?;
        parsed(text.to_str()?).map(PyMask)
    }

    /// Every pair.
    #[staticmethod]
    fn full() -> Self {
        PyMask(Mask::full())
    }

    /// Keys up to the query's own position, ``j <= p``.
    #[staticmethod]
    fn causal() -> Self {
        PyMask(Mask::causal())
    }

    /// Keys at most ``left`` before and ``right`` after the query's position, both inclusive; None is unbounded. (A "window of
    /// W" of Hugging Face is ``causal() & window(W - 1, None)``.)
    #[staticmethod]
    fn window(left: Option<&Bound<'_, PyAny>>, right: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        let bound = |name, given: Option<&Bound<'_, PyAny>>| given.map(|bound| count(name, bound)).transpose();
        Ok(PyMask(Mask::window(bound("left", left)?, bound("right", right)?)))
    }

    /// These keys, for every query.
    #[staticmethod]
    fn global_keys(indices: &Bound<'_, PyAny>) -> PyResult<Self> {
        Ok(PyMask(Mask::global_keys(numbers::indices("indices", indices)?)))
    }

    /// Every key, for queries at these positions.
    #[staticmethod]
    fn global_queries(indices: &Bound<'_, PyAny>) -> PyResult<Self> {
        Ok(PyMask(Mask::global_queries(numbers::indices("indices", indices)?)))
    }

    /// The keys that an array of booleans keeps, ``[keys]``, or another set for each batch entry, ``[batch, keys]``: padding on
    /// any side. Keys beyond the array, as a cache that has grown holds them, are not kept.
    #[staticmethod]
    fn keys(kept: &Bound<'_, PyAny>) -> PyResult<Self> {
        let array = booleans("kept", kept)?;
        let kept = all_of(array.as_array(), array.shape())?;
        match *array.shape() {
            [_] => Ok(PyMask(Mask::keys(&kept))),
            [batch, keys] => {
                let entries = (0..batch).map(|b| Mask::keys(&kept[b * keys..(b + 1) * keys]));
                Mask::by_batch(entries).map(PyMask).map_err(of_mask)
            }
            ref shape => {
                Err(PyValueError::new_err(format!("`kept` has shape {shape:?}; expected [keys] or [batch, keys]")))
            }
        }
    }

    /// Keys of the query's own block: ``p // size == j // size``.
    #[staticmethod]
    fn block_diagonal(size: &Bound<'_, PyAny>) -> PyResult<Self> {
        Mask::block_diagonal(count("size", size)?).map(PyMask).map_err(of_mask)
    }

    /// Every ``step``-th key, from the first on.
    #[staticmethod]
    fn strided(step: &Bound<'_, PyAny>) -> PyResult<Self> {
        Mask::strided(count("step", step)?).map(PyMask).map_err(of_mask)
    }

    /// Keys drawn at random: each query sees ``round(density * keys)`` different ones, by a generator that is keyed by the seed
    /// and the query's position.
    #[staticmethod]
    fn random(density: &Bound<'_, PyAny>, seed: &Bound<'_, PyAny>) -> PyResult<Self> {
        Mask::random(number("density", density)?, whole("seed", seed)?).map(PyMask).map_err(of_mask)
    }

    /// The first ``n`` keys.
    #[staticmethod]
    fn prefix(n: &Bound<'_, PyAny>) -> PyResult<Self> {
        Ok(PyMask(Mask::prefix(count("n", n)?)))
    }

    /// The edges of a graph: a list or array ``[edges, 2]`` of pairs ``(query, key)``, or compressed rows as a tuple
    /// ``(indptr, indices)`` or a matrix of SciPy's in CSR form. With ``symmetric`` an edge goes both ways.
    ///
    /// >>> from regard import Mask
    /// >>> ring = Mask.edges([(p, (p + 1) % 4) for p in range(4)], symmetric=True)
    /// >>> print(ring.draw(4, 4))
    /// ·█·█
    /// █·█·
    /// ·█·█
    /// █·█·
    /// <BLANKLINE>
    #[staticmethod]
    #[pyo3(signature = (pairs, symmetric=false))]
    fn edges(pairs: &Bound<'_, PyAny>, symmetric: bool) -> PyResult<Self> {
        let edges = if symmetric { Edges::Symmetric } else { Edges::Directed };
        let rows = |offsets: &Bound<'_, PyAny>, targets: &Bound<'_, PyAny>| {
            let (offsets, targets) = (whole_numbers("indptr", offsets)?.0, whole_numbers("indices", targets)?.0);
            Mask::edges(&offsets, &targets, edges).map(PyMask).map_err(of_mask)
        };
        if let Ok(both) = pairs.cast::<PyTuple>() {
            if both.len() != 2 {
                let problem = format!(
                    "`pairs` is a tuple of {}; expected (indptr, indices), or pairs in a list or array",
                    both.len()
                );
                return Err(PyValueError::new_err(problem));
            }
            let hint = |error: PyErr| match error.is_instance_of::<PyValueError>(pairs.py()) {
                true => PyValueError::new_err(format!(
                    "{}; a tuple is read as (indptr, indices): pairs come in a list or an array",
                    error.value(pairs.py())
                )),
                false => error,
            };
            return rows(&both.get_item(0)?, &both.get_item(1)?).map_err(hint);
        }
        let (indptr, targets) = (intern!(pairs.py(), "indptr"), intern!(pairs.py(), "indices"));
        if pairs.hasattr(indptr)? && pairs.hasattr(targets)? {
            return rows(&pairs.getattr(indptr)?, &pairs.getattr(targets)?);
        }
        let (numbers, shape) = whole_numbers("pairs", pairs)?;
        if !matches!(shape[..], [_, 2] | [0]) {
            return Err(PyValueError::new_err(format!("`pairs` has shape {shape:?}; expected [edges, 2]")));
        }
        let pairs = numbers.chunks_exact(2).map(|pair| (pair[0], pair[1]));
        Mask::edge_pairs(pairs, edges).map(PyMask).map_err(of_mask)
    }

    /// Square blocks of ``size`` queries and keys, those that an array of booleans ``[rows, columns]`` keeps.
    #[staticmethod]
    fn blocks(block_mask: &Bound<'_, PyAny>, size: &Bound<'_, PyAny>) -> PyResult<Self> {
        let size = count("size", size)?;
        let kept = booleans("block_mask", block_mask)?;
        match *kept.shape() {
            [rows, columns] => {
                Mask::blocks(size, rows, columns, &all_of(kept.as_array(), kept.shape())?).map(PyMask).map_err(of_mask)
            }
            ref shape => {
                Err(PyValueError::new_err(format!("`block_mask` has shape {shape:?}; expected [rows, columns]")))
            }
        }
    }

    /// An array of booleans, ``[queries, keys]`` up to ``[batch or 1, heads or 1, queries, keys]``: the pairs that are kept, the
    /// last query at the last key. Pairs beyond the array are not kept: a mask is a set, whatever the sizes of a call.
    #[staticmethod]
    fn dense(array: &Bound<'_, PyAny>) -> PyResult<Self> {
        let kept = booleans("array", array)?;
        let shape = axes_of("array", 2, kept.shape())?;
        let (py, kept) = (array.py(), kept.as_array());
        let dense = || Mask::dense_array(shape, &all_of(kept, &shape)?).map_err(of_mask);
        detached(py, dense)?.map(PyMask)
    }

    /// Another mask for each batch entry.
    #[staticmethod]
    fn by_batch(masks: Vec<PyRef<'_, PyMask>>) -> PyResult<Self> {
        Mask::by_batch(masks.iter().map(|mask| mask.0.clone())).map(PyMask).map_err(of_mask)
    }

    /// Another mask for each query head.
    #[staticmethod]
    fn by_head(masks: Vec<PyRef<'_, PyMask>>) -> PyResult<Self> {
        Mask::by_head(masks.iter().map(|mask| mask.0.clone())).map(PyMask).map_err(of_mask)
    }

    fn __or__(&self, other: &PyMask) -> PyMask {
        PyMask(self.0.clone() | other.0.clone())
    }

    fn __and__(&self, other: &PyMask) -> PyMask {
        PyMask(self.0.clone() & other.0.clone())
    }

    fn __invert__(&self) -> PyMask {
        PyMask(!self.0.clone())
    }

    /// Whether the query at position ``p`` sees key ``j`` of ``n_k`` keys: the definition of the mask.
    fn allows(&self, p: &Bound<'_, PyAny>, j: &Bound<'_, PyAny>, n_k: &Bound<'_, PyAny>) -> PyResult<bool> {
        Ok(self.0.allows(position("p", "a whole number", p)?, count("j", j)?, count("n_k", n_k)?))
    }

    /// The mask of one batch entry and query head, of one that differs by these.
    fn select(&self, batch: &Bound<'_, PyAny>, head: &Bound<'_, PyAny>) -> PyResult<PyMask> {
        Ok(PyMask(self.0.select(count("batch", batch)?, count("head", head)?)))
    }

    /// What kernels compute of the mask for so many queries and keys.
    #[pyo3(signature = (n_q, n_k, offset=None))]
    fn layout(
        &self,
        n_q: &Bound<'_, PyAny>,
        n_k: &Bound<'_, PyAny>,
        offset: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Layout> {
        let (py, (n_q, n_k, first)) = (n_q.py(), place(n_q, n_k, offset)?);
        self.same_for_all("layout")?;
        let mut layout = BlockLayout::new().that_ends(interrupted);
        let tile = TileShape { rows: ROWS, group: 1 };
        detached(py, || layout.compile(&self.0, n_q, n_k, first, tile).map(|_| ()))?.map_err(of_mask)?;
        Ok(Layout(layout))
    }

    /// The mask as an array of booleans ``[n_q, n_k]``, or ``[batch, heads, n_q, n_k]`` of one that differs by these; with
    /// ``additive`` of float32, 0 where a pair is kept and −inf where not.
    #[pyo3(signature = (n_q, n_k, offset=None, additive=false))]
    fn to_numpy<'py>(
        &self,
        n_q: &Bound<'py, PyAny>,
        n_k: &Bound<'py, PyAny>,
        offset: Option<&Bound<'py, PyAny>>,
        additive: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (py, (n_q, n_k, offset)) = (n_q.py(), place(n_q, n_k, offset)?);
        let (batch, heads) = (self.0.batch().map_err(of_mask)?, self.0.heads().map_err(of_mask)?);
        let sizes = [batch, heads, n_q, n_k];
        let array = if additive {
            let rows = |mask: &Mask, rows, first| mask.to_additive(rows, n_k, first);
            PyArray1::from_vec(py, detached(py, || self.all_pairs(sizes, offset, rows))?.map_err(too_many)?).into_any()
        } else {
            let rows = |mask: &Mask, rows, first| mask.to_bool(rows, n_k, first);
            PyArray1::from_vec(py, detached(py, || self.all_pairs(sizes, offset, rows))?.map_err(too_many)?).into_any()
        };
        let shape = if batch * heads == 1 { &sizes[2..] } else { &sizes[..] };
        array.call_method1(intern!(py, "reshape"), (PyTuple::new(py, shape)?,))
    }

    /// The mask as text, ``█`` for a pair that is kept and ``·`` for one that is not.
    #[pyo3(signature = (n_q, n_k, offset=None))]
    fn draw(
        &self,
        n_q: &Bound<'_, PyAny>,
        n_k: &Bound<'_, PyAny>,
        offset: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<String> {
        let (n_q, n_k, first) = place(n_q, n_k, offset)?;
        if n_q.saturating_mul(n_k) > 1 << 24 {
            return Err(PyValueError::new_err(format!(
                "{n_q} × {n_k} pairs are too many to be drawn as text: .svg shades them"
            )));
        }
        Ok(self.0.draw(n_q, n_k, first).to_string())
    }

    /// The mask as a picture, in SVG; large ones are shaded.
    #[pyo3(signature = (n_q, n_k, offset=None))]
    fn svg(
        &self,
        n_q: &Bound<'_, PyAny>,
        n_k: &Bound<'_, PyAny>,
        offset: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<String> {
        let (py, place) = (n_q.py(), place(n_q, n_k, offset)?);
        detached(py, || self.picture(place).map(|picture| picture.svg()))?
    }

    /// The mask as a picture, the bytes of a PNG file.
    #[pyo3(signature = (n_q, n_k, offset=None))]
    fn png<'py>(
        &self,
        n_q: &Bound<'py, PyAny>,
        n_k: &Bound<'py, PyAny>,
        offset: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let (py, place) = (n_q.py(), place(n_q, n_k, offset)?);
        let png = detached(py, || self.picture(place).map(|picture| picture.png()))??;
        Ok(PyBytes::new(py, &png))
    }

    /// What a notebook shows: the first queries and keys.
    fn _repr_svg_(&self) -> Option<String> {
        self.picture((DRAWN, DRAWN, 0)).ok().map(|picture| picture.svg())
    }

    fn __str__(&self) -> String {
        self.0.to_string()
    }

    fn __hash__(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.0.to_string().hash(&mut hasher);
        hasher.finish()
    }

    /// Its expression, where that says all.
    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyType>, (String,))> {
        let expression = self.0.to_string();
        match expression.parse::<Mask>() {
            Ok(mask) if mask == self.0 => Ok((py.get_type::<PyMask>(), (expression,))),
            _ => Err(PyTypeError::new_err(format!(
                "cannot pickle {}: a mask that holds arrays is made anew from these",
                self.__repr__()
            ))),
        }
    }

    /// Itself: a mask does not change.
    fn __copy__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    /// Itself: a mask does not change.
    fn __deepcopy__<'py>(slf: PyRef<'py, Self>, _memo: &Bound<'_, PyAny>) -> PyRef<'py, Self> {
        slf
    }

    fn __repr__(&self) -> String {
        format!("Mask(\"{}\")", self.0)
    }
}

impl PyMask {
    /// The pairs of all batch entries and heads one after the other, as `rows` has those of some queries of one, of which the
    /// first stands there.
    fn all_pairs<P: Copy>(
        &self,
        sizes: [usize; 4],
        first: i64,
        rows: impl Fn(&Mask, usize, i64) -> Result<Vec<P>, regard_masks::Error>,
    ) -> Result<Vec<P>, Pairs> {
        /// Pairs between which it is asked whether to go on.
        const AT_ONCE: usize = 1 << 16;

        let [batch, heads, n_q, n_k] = sizes;
        let step = (AT_ONCE / n_k.max(1)).max(1);
        let mut pairs = room(&sizes).map_err(|error| Pairs::Memory(sizes, error))?;
        for (b, h) in (0..batch).flat_map(|b| (0..heads).map(move |h| (b, h))) {
            let mask = self.0.select(b, h);
            for at in (0..n_q).step_by(step).take_while(|_| !interrupted()) {
                pairs.extend(rows(&mask, step.min(n_q - at), first.saturating_add(at as i64)).map_err(Pairs::Mask)?);
            }
        }
        Ok(pairs)
    }

    fn picture(&self, (n_q, n_k, first): (usize, usize, i64)) -> PyResult<Picture> {
        self.same_for_all("a picture")?;
        draw_mask(&self.0, n_q, n_k, first, &Style::default()).map_err(of_draw)
    }

    fn same_for_all(&self, what: &str) -> PyResult<()> {
        let (batch, heads) = (self.0.batch().map_err(of_mask)?, self.0.heads().map_err(of_mask)?);
        if (batch, heads) == (1, 1) {
            return Ok(());
        }
        let differs = format!("the mask differs by {batch} batch entries and {heads} heads");
        Err(PyValueError::new_err(format!("{differs}: {what} is of one, .select(batch, head)")))
    }
}

/// What kernels compute of a mask: which panels of 64 keys are full, on its rim or empty, for each tile of 6 queries.
///
/// >>> from regard import Mask
/// >>> layout = (Mask.causal() & Mask.window(127, None)).layout(1024, 1024)
/// >>> round(layout.density, 3), layout.live_pairs
/// (0.117, 122944)
#[pyclass(frozen, module = "regard", name = "Layout")]
pub(crate) struct Layout(BlockLayout);

#[pymethods]
impl Layout {
    /// The share of all pairs that the mask keeps.
    #[getter]
    fn density(&self) -> f64 {
        self.0.density()
    }

    /// Pairs that the mask keeps.
    #[getter]
    fn live_pairs(&self) -> u64 {
        self.0.live_pairs()
    }

    /// Pairs that kernels compute, live or not: what a call costs.
    #[getter]
    fn cost(&self) -> u64 {
        self.0.cost().computed()
    }

    /// ``(queries, keys)``.
    #[getter]
    fn shape(&self) -> (usize, usize) {
        (self.0.n_q(), self.0.n_k())
    }

    /// The layout as a picture, in SVG.
    fn svg(&self, py: Python<'_>) -> PyResult<String> {
        let drawn = detached(py, || draw_layout(&self.0, &Style::default()).map(|picture| picture.svg()))?;
        drawn.map_err(of_draw)
    }

    /// The layout as a picture, the bytes of a PNG file.
    fn png<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let drawn = detached(py, || draw_layout(&self.0, &Style::default()).map(|picture| picture.png()))?;
        Ok(PyBytes::new(py, &drawn.map_err(of_draw)?))
    }

    /// What a notebook shows.
    fn _repr_svg_(&self, py: Python<'_>) -> Option<String> {
        self.svg(py).ok()
    }

    fn __str__(&self) -> String {
        self.0.to_string()
    }

    fn __repr__(&self) -> String {
        let (n_q, n_k) = self.shape();
        format!("<Layout of {n_q} queries × {n_k} keys: {:.1}% of the pairs live>", 100.0 * self.density())
    }
}

/// Why there is no array of a mask's pairs.
enum Pairs {
    Memory([usize; 4], regard_memory::Error),
    Mask(regard_masks::Error),
}

fn too_many(pairs: Pairs) -> PyErr {
    match pairs {
        Pairs::Memory([batch, heads, n_q, n_k], error) => PyMemoryError::new_err(format!(
            "{batch} × {heads} × {n_q} × {n_k} pairs are too many for an array: {error}"
        )),
        Pairs::Mask(error) => of_mask(error),
    }
}

/// Queries, keys, and where the first query stands: so that the last one stands at the last key unless given.
fn place(
    n_q: &Bound<'_, PyAny>,
    n_k: &Bound<'_, PyAny>,
    offset: Option<&Bound<'_, PyAny>>,
) -> PyResult<(usize, usize, i64)> {
    let (n_q, n_k) = (count("n_q", n_q)?, count("n_k", n_k)?);
    let first = offset.map(|offset| position("offset", "a whole number", offset)).transpose()?;
    Ok((n_q, n_k, first.unwrap_or_else(|| at_end(n_q, n_k))))
}

/// Where the first query stands if the last one stands at the last key.
fn at_end(n_q: usize, n_k: usize) -> i64 {
    n_k as i64 - n_q as i64
}

fn parsed(expression: &str) -> PyResult<Mask> {
    expression.parse().map_err(of_mask)
}

/// A mask, or its expression; None for anything else.
pub(crate) fn by_name(given: &Bound<'_, PyAny>) -> PyResult<Option<Mask>> {
    if let Ok(mask) = given.cast::<PyMask>() {
        return Ok(Some(mask.get().0.clone()));
    }
    given.cast::<PyString>().ok().map(|expression| parsed(expression.to_str()?)).transpose()
}

/// The mask that a caller gave for a call: a mask, an expression, or booleans whose rows are those of the query.
pub(crate) fn mask_of(given: Option<&Bound<'_, PyAny>>, shape: &Shape, options: &Options) -> PyResult<Mask> {
    let Some(given) = given else { return Ok(Mask::full()) };
    if let Some(mask) = by_name(given)? {
        return Ok(mask);
    }
    let array = booleans("mask", given)?;
    let has = axes_of("mask", 1, array.shape())?;
    let expected = [shape.batch, shape.heads, shape.queries, shape.keys];
    if has.iter().zip(expected).any(|(&has, expected)| has != 1 && has != expected) {
        let has = array.shape();
        return Err(PyValueError::new_err(format!("`mask` has shape {has:?}; expected {expected:?}, or 1 for any")));
    }
    if matches!(options.sequences, Sequences::Packed(_)) {
        let problem = "a `mask` of booleans has no meaning for segments: make it of regard.Mask";
        return Err(PyValueError::new_err(problem));
    }
    if has.contains(&0) {
        // There are no pairs.
        return Ok(Mask::full());
    }
    let firsts: Vec<i64> = (0..shape.batch).map(|entry| first(entry, shape, options)).collect();
    let (py, array) = (given.py(), array.as_array());
    detached(py, || mask_of_pairs(array, [has[0], has[1], has[2], shape.keys], &firsts))?
}

/// The mask of booleans that stand for an array of this shape, where the first query of each batch entry is at its place.
fn mask_of_pairs(array: ArrayViewD<'_, u8>, shape: [usize; 4], firsts: &[i64]) -> PyResult<Mask> {
    let [batch, heads, queries, keys] = shape;
    let kept = all_of(array, &shape)?;
    if queries == 1 {
        // The same keys for all queries, wherever these stand.
        let head = |at: usize| Mask::keys(&kept[at * keys..][..keys]);
        let entry = |b: usize| Mask::by_head((0..heads).map(|h| head(b * heads + h)));
        return Mask::by_batch((0..batch).map(entry).collect::<Result<Vec<_>, _>>().map_err(of_mask)?).map_err(of_mask);
    }
    // Its rows are queries, wherever these stand; a mask is over positions.
    let dense = |first: i64| Mask::dense_array_at(first, shape, &kept).map_err(of_mask);
    if firsts.windows(2).all(|two| two[0] == two[1]) {
        return dense(firsts.first().copied().unwrap_or(0));
    }
    let entry = |(b, &first): (usize, &i64)| {
        let mask = dense(first)?;
        Mask::by_head((0..heads).map(|h| mask.select(b.min(batch - 1), h))).map_err(of_mask)
    };
    Mask::by_batch(firsts.iter().enumerate().map(entry).collect::<PyResult<Vec<_>>>()?).map_err(of_mask)
}

/// Where the first query of a batch entry stands.
fn first(entry: usize, shape: &Shape, options: &Options) -> i64 {
    match (&options.offset, &options.sequences) {
        (Offset::Same(offset), _) => *offset,
        (Offset::Each(each), _) => each.get(entry).copied().unwrap_or_default(),
        (Offset::AtEnd, Sequences::Lengths { queries, keys }) => {
            let length = |lengths: &Option<Vec<usize>>, all: usize| {
                lengths.as_ref().and_then(|lengths| lengths.get(entry).copied()).unwrap_or(all)
            };
            at_end(length(queries, shape.queries), length(keys, shape.keys))
        }
        (Offset::AtEnd, _) => at_end(shape.queries, shape.keys),
    }
}

/// The shape `[batch, heads, queries, keys]` of an array of so many axes up to four.
fn axes_of(name: &str, least: usize, shape: &[usize]) -> PyResult<[usize; 4]> {
    if !(least..=4).contains(&shape.len()) {
        let expected = if least == 1 { "[keys]" } else { "[queries, keys]" };
        let problem = format!("`{name}` has shape {shape:?}; expected {expected} up to [batch, heads, queries, keys]");
        return Err(PyValueError::new_err(problem));
    }
    let mut all = [1; 4];
    all[4 - shape.len()..].copy_from_slice(shape);
    Ok(all)
}

/// An array as NumPy has it.
fn as_numpy<'py>(array: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyUntypedArray>> {
    let array = numpy(array.py())?.call_method1(intern!(array.py(), "asarray"), (array,))?;
    Ok(array.cast_into::<PyUntypedArray>()?)
}

/// An array of booleans.
fn booleans<'py>(name: &str, array: &Bound<'py, PyAny>) -> PyResult<PyReadonlyArrayDyn<'py, u8>> {
    let (py, array) = (array.py(), as_numpy(array)?);
    let dtype = array.dtype();
    if dtype.kind() != b'b' {
        let fix = "True where a query sees a key; scores are added to by `bias`";
        return Err(PyTypeError::new_err(format!("`{name}` has dtype {dtype}; expected booleans, {fix}")));
    }
    // Python's libraries take every byte but 0 for True.
    array.call_method1(intern!(py, "view"), (intern!(py, "uint8"),))?.extract()
}

/// All of them in the order of the axes, where an axis of 1 may stand for more. A view may repeat one more often than memory
/// can hold it.
fn all_of(array: ArrayViewD<'_, u8>, shape: &[usize]) -> PyResult<Vec<bool>> {
    let mut all = room(shape).map_err(of_memory)?;
    let problem = || PyValueError::new_err(format!("{:?} does not broadcast to {shape:?}", array.shape()));
    all.extend(array.broadcast(shape).ok_or_else(problem)?.iter().map(|byte| *byte != 0));
    Ok(all)
}
