//! What layers are made of, said by keywords.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyString};
use regard_kernels::Activation;
use regard_layers::{Bias, FeedForwardKind, HeadSizes, LinearRule, NormKind};
use regard_masks::Mask;

use crate::error::wrong_type;
use crate::mask::by_name;
use crate::numbers;

/// The largest width, head or number of heads. Products of three of them can be counted.
const MOST: usize = 1 << 20;

/// The keywords of a constructor, read one by one.
pub(super) struct Settings<'py> {
    class: &'static str,
    given: Vec<(String, Bound<'py, PyAny>)>,
}

impl<'py> Settings<'py> {
    /// Those that a caller gave. None counts as not given.
    pub(super) fn of(class: &'static str, keywords: Option<&Bound<'py, PyDict>>) -> PyResult<Self> {
        let each = |(name, value): (Bound<'py, PyAny>, _)| Ok((name.cast::<PyString>()?.to_str()?.to_owned(), value));
        let given = keywords.into_iter().flatten().map(each).collect::<PyResult<_>>()?;
        Ok(Settings { class, given })
    }

    /// One of them.
    pub(super) fn take(&mut self, name: &str) -> Option<Bound<'py, PyAny>> {
        let at = self.given.iter().position(|(is, _)| is == name)?;
        Some(self.given.swap_remove(at).1).filter(|value| !value.is_none())
    }

    /// Whether one was given, be it None.
    pub(super) fn given(&self, name: &str) -> bool {
        self.given.iter().any(|(is, _)| is == name)
    }

    /// Refuses those that nobody has taken.
    ///
    /// # Errors
    /// `TypeError`.
    pub(super) fn end(self) -> PyResult<()> {
        match self.given.first() {
            None => Ok(()),
            Some((name, _)) => {
                let class = self.class;
                Err(PyTypeError::new_err(format!("{class}() got an unexpected keyword argument '{name}'")))
            }
        }
    }

    /// A size, if it is given.
    pub(super) fn size(&mut self, name: &str) -> PyResult<Option<usize>> {
        self.take(name).map(|value| size(name, &value)).transpose()
    }

    /// A whole number, 0 or more.
    pub(super) fn count(&mut self, name: &str, usual: u64) -> PyResult<u64> {
        self.take(name).map_or(Ok(usual), |value| numbers::whole(name, &value))
    }

    /// A number, if it is given.
    pub(super) fn number(&mut self, name: &str) -> PyResult<Option<f64>> {
        self.take(name).map(|value| numbers::number(name, &value)).transpose()
    }

    /// A number as layers have it.
    pub(super) fn real(&mut self, name: &str, usual: f32) -> PyResult<f32> {
        let Some(number) = self.number(name)? else { return Ok(usual) };
        match number as f32 {
            real if real.is_finite() => Ok(real),
            _ => Err(PyValueError::new_err(format!("`{name}` is {number}; expected a number that float32 holds"))),
        }
    }

    /// Whether something is so.
    pub(super) fn flag(&mut self, name: &str, usual: bool) -> PyResult<bool> {
        self.take(name).map_or(Ok(usual), |value| match value.cast::<PyBool>() {
            Ok(flag) => Ok(flag.is_true()),
            Err(_) => Err(wrong_type(name, "True or False", &value)),
        })
    }

    /// Whether a projection adds numbers that it learns.
    pub(super) fn bias(&mut self, name: &str, usual: bool) -> PyResult<Bias> {
        Ok(if self.flag(name, usual)? { Bias::Learned } else { Bias::None })
    }

    /// One of a few, by name.
    pub(super) fn choice<T: Copy>(&mut self, name: &str, choices: &[(&str, T)], usual: &str) -> PyResult<T> {
        match self.take(name) {
            None => choose(name, usual, choices),
            Some(value) => {
                let text = value.cast::<PyString>().map_err(|_| wrong_type(name, "a name", &value))?;
                choose(name, text.to_str()?, choices)
            }
        }
    }

    /// A mask, or its expression; every pair unless given.
    pub(super) fn mask(&mut self) -> PyResult<Mask> {
        let Some(given) = self.take("mask") else { return Ok(Mask::full()) };
        by_name(&given)?.ok_or_else(|| wrong_type("mask", "a regard.Mask or its expression", &given))
    }

    /// The sizes of heads.
    pub(super) fn heads(&mut self, dim: usize, heads: usize) -> PyResult<HeadSizes> {
        let (dim_k, dim_v, kv_heads) = (self.size("dim_k")?, self.size("dim_v")?, self.size("kv_heads")?);
        let dim_k = dim_k.map_or_else(|| split("dim", dim, heads, "dim_k"), Ok)?;
        Ok(HeadSizes { width: dim, heads, kv_heads: kv_heads.unwrap_or(heads), dim_k, dim_v: dim_v.unwrap_or(dim_k) })
    }

    /// The base of rotary positions, if there are any.
    pub(super) fn rotary(&mut self) -> PyResult<Option<f32>> {
        const NONE: f32 = f32::INFINITY;
        match self.real("rotary", NONE)? {
            NONE => Ok(None),
            theta if theta >= 1.0 => Ok(Some(theta)),
            theta => {
                let expected = "expected the base of the positions' frequencies, at least 1 and usually 10000";
                Err(PyValueError::new_err(format!("`rotary` is {theta}; {expected}")))
            }
        }
    }

    /// A feed-forward layer's form.
    pub(super) fn feed_forward(&mut self) -> PyResult<FeedForwardKind> {
        let choices = [("silu", Activation::Silu), ("gelu", Activation::Gelu), ("gelu_tanh", Activation::GeluTanh)];
        let activation = self.choice("activation", &choices, "silu")?;
        let gated = self.flag("gated", true)?;
        Ok(if gated { FeedForwardKind::Gated(activation) } else { FeedForwardKind::Plain(activation) })
    }

    /// What a row is divided by.
    pub(super) fn norm(&mut self, name: &str) -> PyResult<NormKind> {
        self.choice(name, &[("rms", NormKind::Rms), ("layer", NormKind::Layer)], "rms")
    }

    /// The seed that parameters are drawn by.
    pub(super) fn seed(&mut self) -> PyResult<u64> {
        self.count("seed", 0)
    }
}

/// The rules of linear attention.
pub(super) const RULES: [(&str, LinearRule); 5] = [
    ("linear", LinearRule::Plain),
    ("gated", LinearRule::Gated),
    ("gated_by_channel", LinearRule::GatedByChannel),
    ("delta", LinearRule::Delta),
    ("gated_delta", LinearRule::GatedDelta),
];

/// A width, or a number of heads.
pub(super) fn size(name: &str, value: &Bound<'_, PyAny>) -> PyResult<usize> {
    match numbers::count(name, value)? {
        size @ 1..=MOST => Ok(size),
        other => Err(PyValueError::new_err(format!("`{name}` is {other}; expected from 1 to {MOST}"))),
    }
}

/// So many numbers of each head.
pub(super) fn split(name: &str, numbers: usize, heads: usize, instead: &str) -> PyResult<usize> {
    if numbers.is_multiple_of(heads) {
        return Ok(numbers / heads);
    }
    let problem = format!("the {heads} heads do not divide `{name}`, {numbers}: give `{instead}`");
    Err(PyValueError::new_err(problem))
}

fn choose<T: Copy>(name: &str, text: &str, choices: &[(&str, T)]) -> PyResult<T> {
    if let Some((_, choice)) = choices.iter().find(|(is, _)| *is == text) {
        return Ok(*choice);
    }
    let names: Vec<String> = choices.iter().map(|(is, _)| format!("'{is}'")).collect();
    Err(PyValueError::new_err(format!("`{name}` is '{text}'; expected one of {}", names.join(", "))))
}
