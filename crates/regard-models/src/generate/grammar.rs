//! Texts that are made to follow a rule: JSON of a schema.

use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{JsonCompileOptions, Matcher, ParserFactory};

use serde_json::Value;

use crate::model::Model;
use crate::{Error, Result};

/// What a text may be. Tokens that no such text goes on with never come, and it ends where it is whole.
pub struct Grammar<'m> {
    model: &'m Model,
    matcher: Matcher,
}

impl Clone for Grammar<'_> {
    /// The same rule for another text: the schema and the model's tokens are not gone through again.
    fn clone(&self) -> Self {
        Grammar { model: self.model, matcher: self.matcher.deep_clone() }
    }
}

impl<'m> Grammar<'m> {
    /// JSON that a [JSON schema](https://json-schema.org) describes, written in tokens of a model. References lead within the
    /// schema only.
    ///
    /// # Errors
    /// [`Error::Schema`]: the schema is none, or asks for what cannot be held while a text is written; or the model has no token
    /// that ends a text.
    pub fn json_schema(schema: &str, model: &'m Model) -> Result<Grammar<'m>> {
        let mut schema: Value = serde_json::from_str(schema).map_err(|error| Error::Schema(error.to_string()))?;
        if !schema.is_object() {
            return Err(Error::Schema(format!("it is {schema}, expected an object")));
        }
        // One space where JSON may have any: a small model would go on with spaces for ever.
        let spaces =
            JsonCompileOptions { whitespace_pattern: Some("[ ]?".to_owned()), ..JsonCompileOptions::default() };
        spaces.apply_to(&mut schema);
        let mut factory = ParserFactory::new_simple(&words(model)?).map_err(failed)?;
        factory.quiet();
        let parser = factory.create_parser(TopLevelGrammar::from_json_schema(schema)).map_err(failed)?;
        let mut grammar = Grammar { model, matcher: Matcher::new(Ok(parser)) };
        // What is wrong with some schemas only shows when a text begins.
        grammar.matcher.compute_mask().map_err(failed)?;
        Ok(grammar)
    }

    /// The model in whose tokens it is.
    pub(super) fn model(&self) -> &'m Model {
        self.model
    }

    /// Makes the logits of tokens that may not come −∞.
    pub(super) fn mask(&mut self, logits: &mut [f32]) -> Result<()> {
        let allowed = self.matcher.compute_mask_or_eos().map_err(failed)?;
        for (token, logit) in (0..).zip(logits) {
            if !allowed.is_allowed(token) {
                *logit = f32::NEG_INFINITY;
            }
        }
        Ok(())
    }

    /// Notes the token that came.
    pub(super) fn accept(&mut self, token: u32) -> Result<()> {
        if self.matcher.is_stopped() {
            return Ok(());
        }
        self.matcher.consume_token(token).map_err(failed)
    }

    /// Begins another text.
    pub(super) fn restart(&mut self) -> Result<()> {
        self.matcher.reset().map_err(failed)
    }
}

/// What the library says, without the state of its parser behind it.
fn failed(error: anyhow::Error) -> Error {
    let said = error.to_string();
    if said.contains("NoExtensionBias") {
        return Error::Schema("no text follows it, or none that ends".to_owned());
    }
    let mut lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or("it cannot be held to").to_owned();
    // Some messages show the place below, and only then say what is wrong with it.
    match lines.next_back().filter(|_| first.ends_with(':')) {
        Some(last) => Error::Schema(format!("{first} {last}")),
        None => Error::Schema(first),
    }
}

/// What the tokens of a model say, as the grammar wants it.
fn words(model: &Model) -> Result<TokEnv> {
    let (tokenizer, vocabulary) = (model.tokenizer(), model.description().vocabulary);
    let end = tokenizer.eos().or_else(|| tokenizer.ends().next());
    let end = end.filter(|&end| (end as usize) < vocabulary);
    let end = end.ok_or_else(|| Error::Schema("the model has no token that ends a text".to_owned()))?;
    let word = |id: u32| {
        let mut bytes = Vec::new();
        tokenizer.bytes(id, &mut bytes);
        match tokenizer.token_text(id) {
            // Tokens without a text of their own are no part of any.
            Some(text) if bytes.is_empty() && !text.is_empty() => {
                [&[TokTrie::SPECIAL_TOKEN_MARKER], text.as_bytes()].concat()
            }
            _ => bytes,
        }
    };
    let words: Vec<Vec<u8>> = (0..vocabulary as u32).map(word).collect();
    let info = TokRxInfo::new(vocabulary as u32, end);
    Ok(Arc::new(ApproximateTokEnv::new(TokTrie::from(&info, &words))))
}
