//! Masks that are chosen by content.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use regard_attention::Direction;
use regard_select::{Budget, Select};

use crate::arrays::single;
use crate::attention::fitting;
use crate::error::of_select;
use crate::mask::PyMask;
use crate::numbers::{count, number};
use crate::work::detached;

/// The mask that keeps, for each block of queries, the blocks of keys that matter most to it: its own, the first, and those that
/// a rule chooses by their scores. It is for these queries and keys, and another for each batch entry and head.
///
/// Args:
///     q, k: ``[batch, heads, seq, dim]`` and ``[batch, kv_heads, keys, dim]``, also with fewer axes in front, as attention takes
///         them, after rotation; float32.
///     by: what scores blocks. ``"pooled"``: the product of mean query and mean key (MoBA); ``"estimated"``: the softmax mass,
///         estimated from means and variances; ``"exact"``: the softmax mass itself, which costs more than attention.
///     blocks: so many blocks of keys are kept for each block of queries,
///     share: or this share of the blocks that it sees,
///     mass: or every block that holds this share of its row's mass,
///     window: or the narrowest window of blocks that with the first one holds this share of it. One of the four is given.
///     size: positions of a block; the kernels' panels are of 64 keys.
///     causal: whether a query sees keys up to its own position only.
///     scale: of the scores; ``1/√dim`` unless given.
///
/// Returns:
///     A :class:`Mask`, with the causal one in it where ``causal`` is. The last query stands at the last key.
///
/// >>> import numpy as np, regard
/// >>> q = np.random.default_rng(0).standard_normal((1, 4, 512, 32), dtype=np.float32)
/// >>> mask = regard.select(q, q, blocks=3)
/// >>> regard.attention(q, q, q, mask).shape
/// (1, 4, 512, 32)
#[pyfunction]
#[pyo3(
    signature = (q, k, *, by="pooled", blocks=None, share=None, mass=None, window=None, size=None, causal=true, scale=None),
    text_signature = "(q, k, *, by='pooled', blocks=None, share=None, mass=None, window=None, size=64, causal=True, scale=None)"
)]
#[allow(clippy::too_many_arguments, reason = "Python's arguments are named")]
pub(crate) fn select<'py>(
    q: &Bound<'py, PyAny>,
    k: &Bound<'py, PyAny>,
    by: &str,
    blocks: Option<&Bound<'py, PyAny>>,
    share: Option<&Bound<'py, PyAny>>,
    mass: Option<&Bound<'py, PyAny>>,
    window: Option<&Bound<'py, PyAny>>,
    size: Option<&Bound<'py, PyAny>>,
    causal: bool,
    scale: Option<&Bound<'py, PyAny>>,
) -> PyResult<PyMask> {
    /// What is kept of the blocks.
    enum Rule {
        Top(Budget),
        Above(f64),
        Window(f64),
    }

    let rule = match (blocks, share, mass, window) {
        (Some(blocks), None, None, None) => Rule::Top(Budget::Blocks(count("blocks", blocks)?)),
        (None, Some(share), None, None) => Rule::Top(Budget::Share(number("share", share)?)),
        (None, None, Some(mass), None) => Rule::Above(number("mass", mass)?),
        (None, None, None, Some(window)) => Rule::Window(number("window", window)?),
        _ => {
            let problem = "select() needs one of `blocks`, `share`, `mass` and `window`, and only one";
            return Err(PyTypeError::new_err(problem));
        }
    };
    if !matches!(by, "pooled" | "estimated" | "exact") {
        return Err(PyValueError::new_err(format!("`by` is '{by}'; expected 'pooled', 'estimated' or 'exact'")));
    }
    let (size, scale) = (size.map(|size| count("size", size)), scale.map(|scale| number("scale", scale)));
    let (size, scale) = (size.transpose()?, scale.transpose()?);
    let ((q_view, q), (k_view, k)) = (single("q", q)?, single("k", k)?);
    fitting(&q_view, &k_view, &k_view)?;
    let direction = if causal { Direction::Causal } else { Direction::Both };
    let mask = detached(q_view.object.py(), || {
        let mut select = Select::new(q.view(), k.view()).direction(direction);
        if let Some(size) = size {
            select = select.block(size);
        }
        if let Some(scale) = scale {
            select = select.scale(scale);
        }
        let scores = match by {
            "estimated" => select.estimated()?,
            "exact" => select.exact()?,
            _ => select.pooled()?,
        };
        let choice = match rule {
            Rule::Top(budget) => scores.top(budget)?,
            Rule::Above(mass) => scores.above(mass)?,
            Rule::Window(share) => scores.window(share)?,
        };
        choice.mask()
    })?;
    mask.map(PyMask).map_err(of_select)
}
