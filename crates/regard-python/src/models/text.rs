//! A text as a model writes it: token by token, until one ends it, a stop string does, or there is no room.

use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use regard_models::generate::{DraftModel, Generator, Grammar, Lookup};
use regard_models::sampling::SamplingOptions;
use regard_models::{CacheDtype, Model, Result};
use regard_threads::interrupted;

use super::failed;

/// What is to be written.
pub(super) struct Writing {
    pub(super) prompt: Vec<u32>,
    pub(super) max_tokens: usize,
    /// Tokens of the session, those of the prompt included.
    pub(super) context: usize,
    pub(super) cache: CacheDtype,
    pub(super) sampling: SamplingOptions,
    pub(super) stop: Vec<String>,
    /// A JSON schema that the text is held to.
    pub(super) schema: Option<String>,
    /// A smaller model that guesses; without one guesses are looked up in the text.
    pub(super) draft: Option<Arc<Model>>,
}

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// The model ended it, or a stop string did.
    Whole,
    /// There was no room for more tokens, or nobody wanted more.
    Cut,
}

impl Writing {
    /// Writes the text, and gives each piece to `show` as soon as it is certain; its answer says whether to go on.
    ///
    /// # Errors
    /// The model's, and `ValueError` for JSON that was cut.
    pub(super) fn write(&self, model: &Model, show: &mut dyn FnMut(String) -> bool) -> PyResult<()> {
        match self.write_to(model, show).map_err(failed)? {
            Ending::Cut if self.schema.is_some() => Err(PyValueError::new_err(
                "the JSON was cut before its end: raise `max_tokens` or `context`, or give the schema an end",
            )),
            _ => Ok(()),
        }
    }

    fn write_to(&self, model: &Model, show: &mut dyn FnMut(String) -> bool) -> Result<Ending> {
        let mut generator = self.generator(model)?;
        generator.read_while(&self.prompt, &mut |_, _| !interrupted())?;
        let tokenizer = model.tokenizer();
        let (mut characters, mut stops) = (tokenizer.stream(), Stops::new(&self.stop));
        let mut ending = Ending::Cut;
        for _ in 0..self.max_tokens {
            if interrupted() {
                return Ok(Ending::Cut);
            }
            let Some(token) = generator.next_token()? else { break };
            if tokenizer.ends_generation(token) {
                ending = Ending::Whole;
                break;
            }
            let (piece, stopped) = stops.push(characters.push(token));
            if !piece.is_empty() && !show(piece) {
                return Ok(Ending::Cut);
            }
            if stopped {
                return Ok(Ending::Whole);
            }
        }
        // What waited for more is part of the text.
        let (piece, stopped) = stops.push(characters.finish());
        let rest = if stopped { piece } else { piece + &stops.held };
        if !rest.is_empty() {
            show(rest);
        }
        Ok(ending)
    }

    fn generator<'m>(&'m self, model: &'m Model) -> Result<Generator<'m>> {
        let generator = Generator::new(model.session(self.context, self.cache)?, self.sampling.clone())?;
        let generator = match &self.draft {
            Some(draft) => generator.with_draft(DraftModel::new(draft.session(self.context, self.cache)?))?,
            None => generator.with_draft(Lookup::default())?,
        };
        match &self.schema {
            Some(schema) => generator.with_grammar(Grammar::json_schema(schema, model)?),
            None => Ok(generator),
        }
    }
}

/// Watches a text for stop strings. It ends where the first of them is complete; of two that end there the longer counts.
struct Stops<'a> {
    strings: &'a [String],
    /// The longest end of the text so far that begins a stop string.
    held: String,
}

impl<'a> Stops<'a> {
    /// None of the strings may be empty.
    fn new(strings: &'a [String]) -> Self {
        Stops { strings, held: String::new() }
    }

    /// Takes the next piece: what is certain to be no part of a stop string, and whether one is complete.
    fn push(&mut self, piece: &str) -> (String, bool) {
        for character in piece.chars() {
            self.held.push(character);
            let ends = self.strings.iter().filter(|string| self.held.ends_with(*string));
            if let Some(longest) = ends.map(String::len).max() {
                self.held.truncate(self.held.len() - longest);
                return (std::mem::take(&mut self.held), true);
            }
        }
        let begins = |&at: &usize| self.strings.iter().any(|string| string.starts_with(&self.held[at..]));
        let certain = self.held.char_indices().map(|(at, _)| at).find(begins).unwrap_or(self.held.len());
        (self.held.drain(..certain).collect(), false)
    }
}
