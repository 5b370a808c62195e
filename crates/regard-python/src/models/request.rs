//! What a caller asks of a text: the keywords that `generate` and `stream` share.

use std::hash::{BuildHasher, RandomState};

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyString};
use regard_models::chat::{Message, Turn};
use regard_models::sampling::{Preferences, SamplingOptions};
use regard_models::tokenizer::Special;
use regard_models::{CacheDtype, Model};

use super::decoder::PyDecoder;
use super::failed;
use super::text::Writing;
use crate::dtype::cache_dtype;
use crate::error::wrong_type;
use crate::numbers::{number, whole};
use crate::work::detached;

/// Tokens of a text at most, where nobody says how many.
const MAX_TOKENS: usize = 512;

/// What a text goes on from.
enum Prompt {
    Text(String),
    Messages(Vec<Message>),
}

/// The keywords, read. What is None follows from the model or the prompt.
struct Asked<'py> {
    max_tokens: usize,
    context: Option<usize>,
    cache: CacheDtype,
    sampling: Preferences,
    repeat_last_n: usize,
    seed: Option<u64>,
    stop: Vec<String>,
    raw: bool,
    schema: Option<String>,
    draft: Option<Bound<'py, PyDecoder>>,
}

/// What is to be written after a prompt.
///
/// # Errors
/// `TypeError` for a keyword that there is not, or a value of the wrong type; `ValueError` for one out of its range, or a prompt
/// that does not fit.
pub(super) fn writing<'py>(
    function: &str,
    model: &Model,
    prompt: &Bound<'py, PyAny>,
    options: Option<&Bound<'py, PyDict>>,
) -> PyResult<Writing> {
    let asked = Asked::of(function, options)?;
    let sampling = asked.sampling(model.preferences());
    sampling.validate().map_err(failed)?;
    let (text, raw) = (Prompt::of(prompt)?, asked.raw);
    let prompt = detached(prompt.py(), || text.tokens(model, raw))??;
    let limit = model.description().context;
    let context = asked.context.unwrap_or_else(|| prompt.len().saturating_add(asked.max_tokens).min(limit));
    if prompt.len() >= context {
        let tokens = prompt.len();
        let problem = format!("the prompt has {tokens} tokens, and the context of {context} holds the text too");
        return Err(PyValueError::new_err(problem));
    }
    model.check_room(1, context, asked.cache).map_err(failed)?;
    Ok(Writing {
        prompt,
        max_tokens: asked.max_tokens,
        context,
        cache: asked.cache,
        sampling,
        stop: asked.stop,
        schema: asked.schema,
        draft: asked.draft.map(|draft| draft.get().model()),
    })
}

impl<'py> Asked<'py> {
    fn of(function: &str, options: Option<&Bound<'py, PyDict>>) -> PyResult<Self> {
        let mut asked = Asked {
            max_tokens: MAX_TOKENS,
            context: None,
            cache: CacheDtype::F16,
            sampling: Preferences::default(),
            repeat_last_n: SamplingOptions::default().repeat_last_n,
            seed: None,
            stop: Vec::new(),
            raw: false,
            schema: None,
            draft: None,
        };
        for (name, value) in options.into_iter().flatten() {
            let name = name.cast::<PyString>()?;
            asked.set(function, name.to_str()?, &value)?;
        }
        if asked.schema.is_some() && !asked.stop.is_empty() {
            return Err(PyValueError::new_err("JSON of a `json_schema` ends where it is whole: leave out `stop`"));
        }
        Ok(asked)
    }

    fn set(&mut self, function: &str, name: &str, value: &Bound<'py, PyAny>) -> PyResult<()> {
        // None is what is usual.
        let given = (!value.is_none()).then_some(value);
        let real = |value| number(name, value).map(|number| number as f32);
        let count = |value| whole(name, value).map(|count| usize::try_from(count).unwrap_or(usize::MAX));
        match (name, given) {
            ("max_tokens", Some(value)) => self.max_tokens = positive(name, value)?,
            ("context", Some(value)) => self.context = Some(positive(name, value)?),
            ("cache_dtype", Some(value)) => self.cache = cache_dtype(name, &text(name, value)?)?,
            ("temperature", given) => self.sampling.temperature = given.map(real).transpose()?,
            ("top_k", given) => self.sampling.top_k = given.map(count).transpose()?,
            ("top_p", given) => self.sampling.top_p = given.map(real).transpose()?,
            ("min_p", given) => self.sampling.min_p = given.map(real).transpose()?,
            ("repeat_penalty", given) => self.sampling.repeat_penalty = given.map(real).transpose()?,
            ("repeat_last_n", Some(value)) => self.repeat_last_n = count(value)?,
            ("seed", given) => self.seed = given.map(|value| whole(name, value)).transpose()?,
            ("stop", Some(value)) => self.stop = stops(value)?,
            ("raw", Some(value)) => {
                self.raw = value.cast::<PyBool>().map_err(|_| wrong_type(name, "True or False", value))?.is_true();
            }
            ("json_schema", given) => self.schema = given.map(schema).transpose()?,
            ("draft", Some(value)) => {
                let draft = value.cast::<PyDecoder>().map_err(|_| wrong_type(name, "a Decoder", value))?;
                self.draft = Some(draft.clone());
            }
            ("max_tokens" | "context" | "cache_dtype" | "repeat_last_n" | "stop" | "raw" | "draft", None) => {}
            _ => {
                let problem = format!("{function}() got an unexpected keyword argument '{name}'");
                return Err(PyTypeError::new_err(problem));
            }
        }
        Ok(())
    }

    /// What is asked for, then what the model's makers say, then what is usual.
    fn sampling(&self, model: &Preferences) -> SamplingOptions {
        let (asked, usual) = (&self.sampling, SamplingOptions::default());
        SamplingOptions {
            temperature: asked.temperature.or(model.temperature).unwrap_or(usual.temperature),
            top_k: asked.top_k.or(model.top_k).unwrap_or(usual.top_k),
            top_p: asked.top_p.or(model.top_p).unwrap_or(usual.top_p),
            min_p: asked.min_p.or(model.min_p).unwrap_or(usual.min_p),
            repeat_penalty: asked.repeat_penalty.or(model.repeat_penalty).unwrap_or(usual.repeat_penalty),
            repeat_last_n: self.repeat_last_n,
            seed: self.seed.unwrap_or_else(|| RandomState::new().hash_one(0)),
        }
    }
}

impl Prompt {
    fn of(prompt: &Bound<'_, PyAny>) -> PyResult<Prompt> {
        const EXPECTED: &str = "a text, or messages such as [{'role': 'user', 'content': 'Hi!'}]";
        if let Ok(text) = prompt.cast::<PyString>() {
            return Ok(Prompt::Text(text.to_str()?.to_owned()));
        }
        let each = prompt.try_iter().map_err(|_| wrong_type("prompt", EXPECTED, prompt))?;
        let message = |(index, message): (usize, PyResult<Bound<'_, PyAny>>)| {
            let message = message?;
            let message = message.cast::<PyDict>().map_err(|_| wrong_type("prompt", EXPECTED, prompt))?;
            let part = |key: &str| match message.get_item(key)? {
                Some(part) => text(&format!("prompt[{index}]['{key}']"), &part),
                None => Err(PyValueError::new_err(format!("`prompt[{index}]` has no '{key}'; expected {EXPECTED}"))),
            };
            Ok(Message::new(part("role")?, part("content")?))
        };
        let messages: Vec<_> = each.enumerate().map(message).collect::<PyResult<_>>()?;
        if messages.is_empty() {
            return Err(PyValueError::new_err(format!("`prompt` has no messages; expected {EXPECTED}")));
        }
        Ok(Prompt::Messages(messages))
    }

    /// Its tokens: through the chat template where there is one, unless it is to be left out.
    fn tokens(self, model: &Model, raw: bool) -> PyResult<Vec<u32>> {
        let tokens = match (self, model.chat_template().filter(|_| !raw)) {
            (Prompt::Text(text), None) => model.tokenizer().encode_sequence(&text, Special::AsText),
            (Prompt::Messages(_), None) => {
                let why = if raw { "`raw` leaves it out" } else { "the model has none" };
                let problem = format!("messages need a chat template, and {why}: give the `prompt` as a text");
                return Err(PyValueError::new_err(problem));
            }
            (prompt, Some(template)) => {
                let messages = match prompt {
                    Prompt::Messages(messages) => messages,
                    Prompt::Text(text) => vec![Message::new("user", text)],
                };
                let rendered = template.render(&messages, Turn::Open);
                rendered.and_then(|text| model.tokenizer().encode(&text, Special::Parse))
            }
        };
        tokens.map_err(failed)
    }
}

/// A string.
fn text(name: &str, value: &Bound<'_, PyAny>) -> PyResult<String> {
    let text = value.cast::<PyString>().map_err(|_| wrong_type(name, "a string", value))?;
    text.to_str().map(str::to_owned)
}

/// A whole number from 1 on.
fn positive(name: &str, value: &Bound<'_, PyAny>) -> PyResult<usize> {
    match whole(name, value)? {
        0 => Err(PyValueError::new_err(format!("`{name}` is 0; expected at least 1"))),
        count => Ok(usize::try_from(count).unwrap_or(usize::MAX)),
    }
}

/// One stop string, or several.
fn stops(value: &Bound<'_, PyAny>) -> PyResult<Vec<String>> {
    let strings = match value.cast::<PyString>() {
        Ok(one) => vec![one.to_str()?.to_owned()],
        Err(_) => {
            let each = value.try_iter().map_err(|_| wrong_type("stop", "a string, or a list of strings", value))?;
            each.map(|string| text("stop", &string?)).collect::<PyResult<_>>()?
        }
    };
    match strings.iter().any(String::is_empty) {
        true => Err(PyValueError::new_err("`stop` has an empty string, with which every text would end at once")),
        false => Ok(strings),
    }
}

/// A JSON schema: its text, or what Python's `json` makes one of.
fn schema(value: &Bound<'_, PyAny>) -> PyResult<String> {
    if let Ok(text) = value.cast::<PyString>() {
        return Ok(text.to_str()?.to_owned());
    }
    let py = value.py();
    py.import(intern!(py, "json"))?.call_method1(intern!(py, "dumps"), (value,))?.extract()
}
