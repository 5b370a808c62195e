//! The text that a model reads, and the queries and keys of its layers.

use std::path::Path;

use ndarray::Array4;
use regard_models::description::{Attention, Mixer};
use regard_models::tokenizer::Special;
use regard_models::{Model, Observed, Session};
use regard_select::Select;

use crate::bench::select::{BLOCK, HELD_OUT, TRAINING};
use crate::error::Error;
use crate::input;
use crate::output::say;

/// Windows of a text: from its beginning those that are learned from, from its end those that are held out.
///
/// # Errors
/// The text cannot be read, or is too short for windows of so many tokens.
pub(crate) fn windows(text: &Path, model: &Model, tokens: usize) -> Result<[Vec<Vec<u32>>; 2], Error> {
    let least = 4 * BLOCK;
    if tokens < least {
        let problem =
            format!("--context {tokens}: a window of fewer than {least} tokens leaves next to nothing to choose");
        return Err(Error::Usage(problem));
    }
    let all = model.tokenizer().encode(&input::text(text)?, Special::AsText)?;
    let count = TRAINING + HELD_OUT;
    if all.len() / tokens < count {
        let text = text.display();
        let problem =
            format!("{text}: {} tokens are fewer than {count} windows of {tokens}: lower --context", all.len());
        return Err(Error::Usage(problem));
    }
    let first = model.tokenizer().first_token()?;
    let cut = |tokens_of: &[u32], count: usize| -> Vec<Vec<u32>> {
        let begin = |window: &[u32]| first.iter().chain(&window[first.iter().len()..]).copied().collect();
        tokens_of.chunks_exact(tokens).take(count).map(begin).collect()
    };
    Ok([cut(&all, TRAINING), cut(&all[all.len() - HELD_OUT * tokens..], HELD_OUT)])
}

/// A layer whose tokens see all earlier ones, and what its attention was of last.
pub(crate) struct Layer {
    /// Which block of the model.
    block: usize,
    pub(crate) attention: Attention,
    /// `[1, heads, tokens, dim_k]`.
    pub(crate) q: Array4<f32>,
    /// `[1, kv_heads, tokens, dim_k]`.
    pub(crate) k: Array4<f32>,
}

/// The layers of a model that see more than a window.
///
/// # Errors
/// There are none.
pub(crate) fn layers(model: &Model, path: &Path, tokens: usize) -> Result<Vec<Layer>, Error> {
    let mut layers = Vec::new();
    for (block, of) in model.description().blocks.iter().enumerate() {
        let Mixer::Attention(attention) = &of.mixer;
        if attention.window.is_none_or(|window| window >= tokens) {
            let array = |heads| Array4::zeros((1, heads, tokens, attention.dim_k));
            let (q, k) = (array(attention.heads), array(attention.kv_heads));
            layers.push(Layer { block, attention: attention.clone(), q, k });
        }
    }
    let all = model.description().blocks.len();
    match layers.len() {
        0 => {
            Err(Error::Usage(format!("{}: all its layers see a window of fewer than {tokens} tokens", path.display())))
        }
        count if count < all => {
            say!("{} of {all} layers see a window, and are left out", all - count);
            Ok(layers)
        }
        _ => Ok(layers),
    }
}

/// Reads a window; the layers then hold its queries and keys.
///
/// # Errors
/// As [`Session::feed`].
pub(crate) fn read(session: &mut Session<'_>, window: &[u32], layers: &mut [Layer]) -> Result<(), Error> {
    session.truncate(0);
    session.feed_observed(window, &mut |seen| {
        if let Some(layer) = layers.iter_mut().find(|layer| layer.block == seen.block) {
            layer.take(seen);
        }
    })?;
    Ok(())
}

impl Layer {
    /// Its blocks, to be chosen from.
    pub(crate) fn select(&self) -> Select<'_> {
        let select = Select::new(self.q.view(), self.k.view()).block(BLOCK);
        match self.attention.scale {
            Some(scale) => select.scale(scale),
            None => select,
        }
    }

    fn take(&mut self, seen: &Observed<'_>) {
        for (array, tensor) in [(&mut self.q, seen.queries), (&mut self.k, seen.keys)] {
            let [_, heads, rows, dim] = tensor.shape();
            let tokens = array.dim().2;
            let numbers = array.as_slice_mut().expect("it was made contiguous");
            for head in 0..heads {
                for row in 0..rows {
                    let to = (head * tokens + seen.first + row) * dim;
                    numbers[to..to + dim].copy_from_slice(tensor.rows(0, head).row(row));
                }
            }
        }
    }
}
