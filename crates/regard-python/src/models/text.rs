//! A text as a model writes it: token by token, until one ends it, a stop string does, or there is no room.

use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use regard_models::generate::{DraftModel, Generator, Grammar, Lookup, Stops};
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
        let (mut characters, mut stops) = (tokenizer.stream(), Stops::new(self.stop.clone()));
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
            let mut certain = String::new();
            stops.push(characters.push(token), &mut certain);
            if !certain.is_empty() && !show(certain) {
                return Ok(Ending::Cut);
            }
            if stops.hit().is_some() {
                return Ok(Ending::Whole);
            }
        }
        // What waited for more is part of the text.
        let mut rest = String::new();
        stops.push(characters.finish(), &mut rest);
        stops.finish(&mut rest);
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
