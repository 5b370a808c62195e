//! Keys and values already seen, and attention over them.

use std::sync::{Mutex, MutexGuard};

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use regard_attention::{Cache, Cached, Element, Error, PAGE, PagePool, PagedCache, Plan, Sequences, Shape};
use regard_kernels::Number;
use regard_memory::{Arena, Tensor};
use regard_simd::Isa;
use regard_threads::Pool;

use crate::arrays::{Copies, same_dtype};
use crate::dtype::{Scalar, cache_dtype, cache_dtype_name, with_narrow_type};
use crate::error::{of_attention, wrong_type};
use crate::foreign::View;
use crate::mask::mask_of;
use crate::numbers::count;
use crate::options::{Call, DECODE};
use crate::results::{Results, results};
use crate::terms::OwnTerms;
use crate::work::locked;

/// The keys and values of one sequence and layer, in the layout that the kernels read.
///
/// Args:
///     kv_heads: key/value heads.
///     dim: numbers of a key.
///     dim_v: numbers of a value; as of a key unless given.
///     capacity: tokens, at most. Memory is reserved for all, and taken as they come.
///     dtype: how numbers are stored: ``"bfloat16"``, ``"float16"``, ``"float32"`` or ``"int8"``.
///
/// >>> import numpy as np, regard
/// >>> rng = np.random.default_rng(0)
/// >>> cache = regard.Cache(2, 64, capacity=1024, dtype="float32")
/// >>> k, v = rng.standard_normal((2, 2, 100, 64), dtype=np.float32)
/// >>> cache.append(k, v)
/// >>> len(cache)
/// 100
/// >>> q = rng.standard_normal((8, 1, 64), dtype=np.float32)
/// >>> bool(np.allclose(regard.decode(q, cache), regard.attention(q, k, v), atol=1e-6))
/// True
#[pyclass(frozen, module = "regard", name = "Cache")]
pub(crate) struct PyCache(Mutex<Cache>);

#[pymethods]
impl PyCache {
    #[new]
    #[pyo3(signature = (kv_heads, dim, dim_v=None, *, capacity, dtype="bfloat16"))]
    fn new(
        kv_heads: &Bound<'_, PyAny>,
        dim: &Bound<'_, PyAny>,
        dim_v: Option<&Bound<'_, PyAny>>,
        capacity: &Bound<'_, PyAny>,
        dtype: &str,
    ) -> PyResult<Self> {
        let (kv_heads, dim, dim_v) = sizes(kv_heads, dim, dim_v)?;
        let cache = Cache::new(cache_dtype("dtype", dtype)?, kv_heads, dim, dim_v, count("capacity", capacity)?);
        cache.map(|cache| PyCache(Mutex::new(cache))).map_err(of_attention)
    }

    /// Appends tokens: keys ``[kv_heads, tokens, dim]`` and values ``[kv_heads, tokens, dim_v]``, or with a batch axis of 1 in
    /// front. Where they do not fit nothing is written.
    fn append(&self, py: Python<'_>, k: &Bound<'_, PyAny>, v: &Bound<'_, PyAny>) -> PyResult<()> {
        append(py, k, v, &self.0)
    }

    /// Forgets the tokens from ``len`` on; of a cache that has no more, none.
    fn truncate(&self, len: &Bound<'_, PyAny>) -> PyResult<()> {
        locked(len.py(), &self.0)?.truncate(count("len", len)?);
        Ok(())
    }

    /// A copy that goes its own way.
    fn fork(&self, py: Python<'_>) -> PyResult<Self> {
        let cache = &*locked(py, &self.0)?;
        py.detach(|| cache.fork()).map(|copy| PyCache(Mutex::new(copy))).map_err(of_attention)
    }

    /// Tokens, at most.
    #[getter]
    fn capacity(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(locked(py, &self.0)?.capacity())
    }

    /// Bytes that a full cache takes.
    #[getter]
    fn nbytes(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(locked(py, &self.0)?.bytes())
    }

    /// How numbers are stored.
    #[getter]
    fn dtype(&self, py: Python<'_>) -> PyResult<&'static str> {
        Ok(cache_dtype_name(locked(py, &self.0)?.dtype()))
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(locked(py, &self.0)?.len())
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let cache = locked(py, &self.0)?;
        Ok(format!("<Cache of {} of {} tokens in {}>", cache.len(), cache.capacity(), cache_dtype_name(cache.dtype())))
    }
}

/// Pages for the keys and values of many sequences, and a limit that they never exceed together.
///
/// Args:
///     kv_heads, dim, dim_v, dtype: as of :class:`Cache`.
///     pages: of ``PagePool.page`` tokens each, at most.
#[pyclass(frozen, module = "regard", name = "PagePool")]
pub(crate) struct PyPagePool {
    pool: PagePool,
    sizes: (usize, usize, usize),
}

#[pymethods]
impl PyPagePool {
    #[new]
    #[pyo3(signature = (kv_heads, dim, dim_v=None, *, pages, dtype="bfloat16"))]
    fn new(
        kv_heads: &Bound<'_, PyAny>,
        dim: &Bound<'_, PyAny>,
        dim_v: Option<&Bound<'_, PyAny>>,
        pages: &Bound<'_, PyAny>,
        dtype: &str,
    ) -> PyResult<Self> {
        let (sizes, pages) = (sizes(kv_heads, dim, dim_v)?, count("pages", pages)?);
        let pool =
            PagePool::new(cache_dtype("dtype", dtype)?, sizes.0, sizes.1, sizes.2, pages).map_err(of_attention)?;
        Ok(PyPagePool { pool, sizes })
    }

    /// Tokens of a page.
    #[classattr]
    fn page() -> usize {
        PAGE
    }

    /// Pages, at most.
    #[getter]
    fn pages(&self) -> usize {
        self.pool.limit()
    }

    /// Pages in use; one that several caches share counts once.
    #[getter]
    fn used(&self) -> usize {
        self.pool.used()
    }

    fn __repr__(&self) -> String {
        format!("<PagePool: {} of {} pages in use>", self.pool.used(), self.pool.limit())
    }
}

/// The keys and values of one sequence and layer in pages of a pool; forks share what they have in common.
///
/// >>> import numpy as np, regard
/// >>> pool = regard.PagePool(2, 64, pages=8)
/// >>> cache = regard.PagedCache(pool)
/// >>> cache.append(*np.zeros((2, 2, 300, 64), dtype=np.float32))
/// >>> branch = cache.fork()
/// >>> pool.used, len(branch)
/// (2, 300)
#[pyclass(frozen, module = "regard", name = "PagedCache")]
pub(crate) struct PyPagedCache {
    cache: Mutex<PagedCache>,
    sizes: (usize, usize, usize),
}

#[pymethods]
impl PyPagedCache {
    #[new]
    fn new(pool: &PyPagePool) -> Self {
        PyPagedCache { cache: Mutex::new(PagedCache::new(&pool.pool)), sizes: pool.sizes }
    }

    /// Appends tokens: keys ``[kv_heads, tokens, dim]`` and values ``[kv_heads, tokens, dim_v]``, or with a batch axis of 1 in
    /// front. Where the pool has too few pages nothing is written.
    fn append(&self, py: Python<'_>, k: &Bound<'_, PyAny>, v: &Bound<'_, PyAny>) -> PyResult<()> {
        append(py, k, v, &self.cache)
    }

    /// Forgets the tokens from ``len`` on, of a cache that has no more none; pages that nobody else holds are free again.
    fn truncate(&self, len: &Bound<'_, PyAny>) -> PyResult<()> {
        locked(len.py(), &self.cache)?.truncate(count("len", len)?);
        Ok(())
    }

    /// A cache that begins as this one does, and shares its pages.
    fn fork(&self, py: Python<'_>) -> PyResult<Self> {
        Ok(PyPagedCache { cache: Mutex::new(locked(py, &self.cache)?.fork()), sizes: self.sizes })
    }

    /// Pages that it holds, alone or with others.
    #[getter]
    fn pages(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(locked(py, &self.cache)?.pages())
    }

    /// How numbers are stored.
    #[getter]
    fn dtype(&self, py: Python<'_>) -> PyResult<&'static str> {
        Ok(cache_dtype_name(locked(py, &self.cache)?.dtype()))
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(locked(py, &self.cache)?.len())
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let cache = locked(py, &self.cache)?;
        let (tokens, pages, dtype) = (cache.len(), cache.pages(), cache_dtype_name(cache.dtype()));
        Ok(format!("<PagedCache of {tokens} tokens on {pages} pages in {dtype}>"))
    }
}

/// Key/value heads, and the numbers of a key and of a value.
fn sizes(
    kv_heads: &Bound<'_, PyAny>,
    dim: &Bound<'_, PyAny>,
    dim_v: Option<&Bound<'_, PyAny>>,
) -> PyResult<(usize, usize, usize)> {
    let dim_k = count("dim", dim)?;
    Ok((count("kv_heads", kv_heads)?, dim_k, dim_v.map_or(Ok(dim_k), |dim_v| count("dim_v", dim_v))?))
}

/// What both kinds of cache do.
trait Grows: Cached + Send {
    fn tokens(&self) -> usize;
    fn add<T: Element>(&mut self, k: Tensor<'_, T>, v: Tensor<'_, T>) -> Result<(), Error>;
}

macro_rules! grows {
    ($($cache:ty),*) => {$(
        impl Grows for $cache {
            fn tokens(&self) -> usize {
                self.len()
            }

            fn add<T: Element>(&mut self, k: Tensor<'_, T>, v: Tensor<'_, T>) -> Result<(), Error> {
                self.append(k, v, Isa::from_environment()?, Pool::global())
            }
        }
    )*};
}
grows!(Cache, PagedCache);

fn append<C: Grows>(py: Python<'_>, k: &Bound<'_, PyAny>, v: &Bound<'_, PyAny>, cache: &Mutex<C>) -> PyResult<()> {
    let view = |name, array| View::of(name, array)?.readable(Copies::Allowed);
    let (k, v) = (view("k", k)?, view("v", v)?);
    same_dtype(&k, &[&v])?;
    let mut cache = locked(py, cache)?;
    let cache = &mut *cache;
    // It is not interrupted: a cache holds whole tokens.
    with_narrow_type!(k, T => {
        let (k, v) = (k.tensor::<T>()?, v.tensor()?);
        py.detach(|| cache.add(k, v)).map_err(of_attention)
    })
}

/// Attention over caches: a few new queries over all tokens so far.
///
/// Args:
///     q: ``[batch, heads, queries, dim]``, also ``[heads, queries, dim]``; float32, bfloat16 or float16.
///     cache: a :class:`Cache` or :class:`PagedCache`, or a list of them of one kind, one for each batch entry.
///     mask: as in :func:`attention`; causal unless given. The last query stands at the last token.
///
/// and ``offset``, ``bias``, ``scale``, ``softcap``, ``alibi``, ``sinks``, ``return_lse`` and ``out`` as there.
///
/// Returns:
///     ``[batch, heads, queries, dim_v]`` as the query is; or ``(out, lse)``.
#[pyfunction]
#[pyo3(
    signature = (q, cache, mask=None, **options),
    text_signature = "(q, cache, mask=None, *, offset=None, bias=None, scale=None, softcap=None, alibi=None, sinks=None, return_lse=False, out=None, copy=True)"
)]
pub(crate) fn decode<'py>(
    q: &Bound<'py, PyAny>,
    cache: &Bound<'py, PyAny>,
    mask: Option<&Bound<'py, PyAny>>,
    options: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyAny>> {
    const EXPECTED: &str = "a Cache or a PagedCache, or a list of one kind, one for each batch entry";
    const LENGTHS: &str = "a cache knows its tokens";
    let without = [("key_lengths", LENGTHS), ("query_lengths", LENGTHS), ("segments", LENGTHS)];
    for (name, why) in without.into_iter().chain([("dropout", "nothing is trained on a cache")]) {
        if options.is_some_and(|options| options.contains(name).unwrap_or(false)) {
            return Err(PyTypeError::new_err(format!("decode() takes no `{name}`: {why}")));
        }
    }
    let call = Call::of(&DECODE, options)?;
    let py = q.py();
    let all: Vec<Bound<'py, PyAny>> = match cache.try_iter() {
        Ok(each) => each.collect::<PyResult<_>>()?,
        Err(_) => vec![cache.clone()],
    };
    if let Some(caches) = all.iter().map(|cache| cache.cast::<PyCache>().ok()).collect::<Option<Vec<_>>>() {
        let sizes = |cache: &&Bound<'py, PyCache>| -> PyResult<_> {
            let cache = locked(py, &cache.get().0)?;
            Ok((cache.kv_heads(), cache.dims()[0], cache.dims()[1]))
        };
        let sizes = caches.first().map(sizes).transpose()?;
        let caches: Vec<&Mutex<Cache>> = caches.iter().map(|cache| &cache.get().0).collect();
        return over(q, &caches, sizes, mask, call);
    }
    if let Some(caches) = all.iter().map(|cache| cache.cast::<PyPagedCache>().ok()).collect::<Option<Vec<_>>>() {
        let sizes = caches.first().map(|cache| cache.get().sizes);
        let caches: Vec<&Mutex<PagedCache>> = caches.iter().map(|cache| &cache.get().cache).collect();
        return over(q, &caches, sizes, mask, call);
    }
    Err(wrong_type("cache", EXPECTED, all.first().unwrap_or(cache)))
}

fn over<'py, C: Grows>(
    q: &Bound<'py, PyAny>,
    caches: &[&Mutex<C>],
    sizes: Option<(usize, usize, usize)>,
    mask: Option<&Bound<'py, PyAny>>,
    mut call: Call<'py>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = q.py();
    let q = View::of("q", q)?.readable(call.copies)?;
    let [batch, heads, queries, dim_k] = q.shape4();
    let Some((kv_heads, dim, dim_v)) = sizes.filter(|_| caches.len() == batch) else {
        let problem = format!("`cache` has {} caches; `q` has a batch of {batch}: one for each", caches.len());
        return Err(PyValueError::new_err(problem));
    };
    if q.axes() < 2 || dim_k != dim || heads == 0 || !heads.is_multiple_of(kv_heads) {
        let (shape, heads) = (q.shape(), format!("heads a multiple of {kv_heads}"));
        let expected = format!("expected [batch, heads, queries, {dim}], {heads}, as the cache has");
        return Err(PyValueError::new_err(format!("`q` has shape {shape:?}; {expected}")));
    }
    for (at, cache) in caches.iter().enumerate() {
        if caches[..at].iter().any(|other| std::ptr::eq(*other, *cache)) {
            return Err(PyValueError::new_err("`cache` has one cache twice: give its fork"));
        }
    }
    // In the order of their addresses, so that two calls never wait for each other.
    let mut order: Vec<usize> = (0..caches.len()).collect();
    order.sort_by_key(|&at| std::ptr::from_ref(caches[at]).addr());
    let mut guards: Vec<Option<MutexGuard<'_, C>>> = caches.iter().map(|_| None).collect();
    for at in order {
        guards[at] = Some(locked(py, caches[at])?);
    }
    let guards: Vec<MutexGuard<'_, C>> = guards.into_iter().flatten().collect();
    let lengths: Vec<usize> = guards.iter().map(|cache| cache.tokens()).collect();
    let keys = lengths.iter().copied().max().unwrap_or(0);
    if lengths.iter().any(|&len| len != keys) {
        call.options.sequences = Sequences::Lengths { queries: None, keys: Some(lengths) };
    }
    let shape = Shape { batch, heads, kv_heads, queries, keys, dim_k, dim_v };
    let mask = match mask {
        None => regard_masks::Mask::causal(),
        Some(_) => mask_of(mask, &shape, &call.options)?,
    };
    let plan = call.plan(py, shape, &mask)?;
    let caches: Vec<&C> = guards.iter().map(|guard| &**guard).collect();
    with_narrow_type!(q, T => run::<T, C>(&plan, &q, &caches, &call))
}

fn run<'py, T: Element + Scalar<Wide = f32> + Number, C: Grows>(
    plan: &Plan,
    q: &View<'py>,
    caches: &[&C],
    call: &Call<'py>,
) -> PyResult<Bound<'py, PyAny>> {
    let own = OwnTerms::<f32>::of(call, plan.shape())?;
    let (tensor, terms) = (q.tensor::<T>()?, own.terms()?);
    let compute = |results: Results<'_, T, f32>, scratch: &mut Arena| match results {
        Results::Same(outputs) => plan.run_cached(tensor, caches, terms, outputs, scratch, Pool::global()),
        Results::Wide(outputs) => plan.run_cached(tensor, caches, terms, outputs, scratch, Pool::global()),
    };
    results(call, q, plan.shape(), &own.inputs([q]), compute)
}
