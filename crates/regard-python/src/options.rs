//! What a call of attention may be told beside its arrays: the keywords that all functions share.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyString, PyTuple};
use regard_attention::{Dropout, Offset, Options, Plan, Segment, Sequences, Shape};
use regard_masks::Mask;

use crate::arrays::Copies;
use crate::error::{of_attention, wrong_type};
use crate::numbers::{as_list, count, indices, number, numbers, position, whole};
use crate::work::detached;

/// A function by its name, and the keywords that it takes.
pub(crate) struct Keywords {
    function: &'static str,
    takes: &'static [&'static [&'static str]],
}

/// Which pairs there are, and how their scores are worked out.
const PAIRS: &[&str] = &["key_lengths", "query_lengths", "segments", "offset", "scale", "softcap"];
/// What joins the scores, in arrays.
const TERMS: &[&str] = &["bias", "alibi", "sinks"];

pub(crate) const ATTENTION: Keywords = Keywords {
    function: "attention",
    takes: &[PAIRS, TERMS, &["dropout", "seed", "sequence_ids", "return_lse", "out", "copy"]],
};
pub(crate) const BACKWARD: Keywords =
    Keywords { function: "attention_backward", takes: &[PAIRS, TERMS, &["dropout", "seed", "sequence_ids", "copy"]] };
pub(crate) const SCORES: Keywords =
    Keywords { function: "scores", takes: &[PAIRS, TERMS, &["stage", "batch", "heads", "rows", "copy"]] };
pub(crate) const PLAN: Keywords = Keywords { function: "plan", takes: &[PAIRS, &["dropout", "seed", "dtype"]] };
/// A call of a plan.
pub(crate) const PLANNED: Keywords =
    Keywords { function: "Plan", takes: &[TERMS, &["sequence_ids", "return_lse", "out", "copy"]] };
pub(crate) const PREFIX: Keywords =
    Keywords { function: "prefix_attention", takes: &[&["scale", "softcap", "sinks", "return_lse", "out", "copy"]] };
pub(crate) const DECODE: Keywords =
    Keywords { function: "decode", takes: &[&["offset", "scale", "softcap", "return_lse", "out", "copy"], TERMS] };

/// The keywords of attention, read.
#[derive(Default)]
pub(crate) struct Call<'py> {
    pub(crate) options: Options,
    pub(crate) bias: Option<Bound<'py, PyAny>>,
    pub(crate) slopes: Option<Vec<f64>>,
    pub(crate) sinks: Option<Vec<f64>>,
    pub(crate) sequence_ids: Option<Vec<u64>>,
    pub(crate) copies: Copies,
    /// Segments are given by lengths, which say nothing of the batch entry.
    in_one_entry: bool,
    /// The keywords that are a function's own.
    others: Vec<(String, Bound<'py, PyAny>)>,
}

impl<'py> Call<'py> {
    /// Reads the keywords of a function.
    ///
    /// # Errors
    /// `TypeError` for a keyword that it does not take, or a value of the wrong type; `ValueError` for one out of its range.
    pub(crate) fn of(Keywords { function, takes }: &Keywords, given: Option<&Bound<'py, PyDict>>) -> PyResult<Self> {
        let mut call = Call::default();
        let Some(keywords) = given else { return Ok(call) };
        let (mut keys, mut queries, mut segments) = (None, None, None);
        let (mut probability, mut seed) = (0.0_f32, None);
        for (name, value) in keywords {
            let name = name.cast::<PyString>()?;
            let name = name.to_str()?;
            if !takes.iter().any(|names| names.contains(&name)) {
                let problem = format!("{function}() got an unexpected keyword argument '{name}'");
                return Err(PyTypeError::new_err(problem));
            }
            let given = (!value.is_none()).then_some(&value);
            match name {
                "key_lengths" => keys = given.map(|value| indices("key_lengths", value)).transpose()?,
                "query_lengths" => queries = given.map(|value| indices("query_lengths", value)).transpose()?,
                "segments" => {
                    if let Some((given, in_one_entry)) = given.map(segments_of).transpose()? {
                        (segments, call.in_one_entry) = (Some(given), in_one_entry);
                    }
                }
                "offset" => call.options.offset = given.map_or(Ok(Offset::AtEnd), offset_of)?,
                "bias" => call.bias = given.cloned(),
                "scale" => call.options.scale = given.map(|value| number("scale", value)).transpose()?,
                "softcap" => call.options.softcap = given.map(|value| number("softcap", value)).transpose()?,
                "alibi" => call.slopes = given.map(|value| numbers("alibi", value)).transpose()?,
                "sinks" => call.sinks = given.map(|value| numbers("sinks", value)).transpose()?,
                "dropout" => {
                    let chance = given.map_or(Ok(0.0), |value| number("dropout", value))?;
                    if !(0.0..1.0).contains(&chance) {
                        let problem = format!("`dropout` is {chance}; expected a probability, at least 0 and below 1");
                        return Err(PyValueError::new_err(problem));
                    }
                    probability = chance as f32;
                }
                "seed" => seed = given.map(|value| whole("seed", value)).transpose()?,
                "sequence_ids" => {
                    let ids = given.map(|value| indices("sequence_ids", value)).transpose()?;
                    call.sequence_ids = ids.map(|ids| ids.into_iter().map(|id| id as u64).collect());
                }
                "copy" => {
                    let allowed = given.map_or(Ok(true), |value| truth("copy", value))?;
                    call.copies = if allowed { Copies::Allowed } else { Copies::Refused };
                }
                _ => call.others.push((name.to_owned(), value)),
            }
        }
        if probability > 0.0 {
            let Some(seed) = seed else {
                return Err(PyValueError::new_err(
                    "`dropout` needs a `seed`, by which the backward pass drops the same weights",
                ));
            };
            call.options.dropout = Some(Dropout { probability, seed });
        }
        call.options.sequences = match (segments, queries.is_some() || keys.is_some()) {
            (Some(_), true) => {
                return Err(PyValueError::new_err(
                    "`segments` have lengths of their own: leave out key_lengths and query_lengths",
                ));
            }
            (Some(segments), false) => Sequences::Packed(segments),
            (None, true) => Sequences::Lengths { queries, keys },
            (None, false) => Sequences::Whole,
        };
        Ok(call)
    }

    /// Decides how a call of this shape and mask is computed.
    ///
    /// # Errors
    /// `ValueError` where the options do not fit the shape.
    pub(crate) fn plan(&self, py: Python<'_>, shape: Shape, mask: &Mask) -> PyResult<Plan> {
        /// Pairs of a head from which on a mask is laid out without the interpreter's lock, which takes a while itself.
        const LONG: usize = 1 << 16;

        if self.in_one_entry && shape.batch != 1 {
            return Err(PyValueError::new_err(format!(
                "`segments` are lengths in a batch of {}, of which entry they do not say: give tuples (batch, (first query, \
                 end), (first key, end))",
                shape.batch
            )));
        }
        let options = &self.options;
        let decide = || Plan::new(shape, mask, options);
        let long = shape.queries.saturating_mul(shape.keys) >= LONG;
        if long { detached(py, decide)? } else { decide() }.map_err(of_attention)
    }

    /// One of a function's own keywords, unless it is None.
    pub(crate) fn own(&self, name: &str) -> Option<&Bound<'py, PyAny>> {
        self.others.iter().find(|(is, _)| is == name).map(|(_, value)| value).filter(|value| !value.is_none())
    }

    /// A keyword that is true or false; false unless given.
    pub(crate) fn flag(&self, name: &str) -> PyResult<bool> {
        self.own(name).map_or(Ok(false), |value| truth(name, value))
    }
}

fn truth(name: &str, value: &Bound<'_, PyAny>) -> PyResult<bool> {
    value.cast::<PyBool>().map(|flag| flag.is_true()).map_err(|_| wrong_type(name, "True or False", value))
}

/// One number, or one for each sequence.
fn offset_of(value: &Bound<'_, PyAny>) -> PyResult<Offset> {
    let expected = "a whole number, or one for each batch entry";
    let list = as_list(value)?;
    match list.try_iter() {
        Ok(each) => {
            Ok(Offset::Each(each.map(|offset| position("offset", expected, &offset?)).collect::<PyResult<_>>()?))
        }
        Err(_) => Ok(Offset::Same(position("offset", expected, &list)?)),
    }
}

/// Lengths of segments that follow each other in the only batch entry, or tuples `(batch, (from, to), (from, to))`; and
/// whether there are lengths among them.
fn segments_of(value: &Bound<'_, PyAny>) -> PyResult<(Vec<Segment>, bool)> {
    const EXPECTED: &str = "lengths, or tuples (batch, (first query, end), (first key, end))";
    let list = as_list(value)?;
    let each = list.try_iter().map_err(|_| wrong_type("segments", EXPECTED, value))?;
    let (mut end, mut lengths) = (0_usize, false);
    let one = |segment: PyResult<Bound<'_, PyAny>>| {
        let segment = segment?;
        if let Ok(whole_one) = segment.cast::<PyTuple>() {
            let (batch, queries, keys): (usize, (usize, usize), (usize, usize)) =
                whole_one.extract().map_err(|_| wrong_type("segments", EXPECTED, whole_one))?;
            return Ok(Segment { batch, queries: queries.0..queries.1, keys: keys.0..keys.1 });
        }
        lengths = true;
        let start = end;
        end = start.saturating_add(count("segments", &segment)?);
        Ok(Segment { batch: 0, queries: start..end, keys: start..end })
    };
    let segments = each.map(one).collect::<PyResult<_>>()?;
    Ok((segments, lengths))
}
