//! Text from tokens, one at a time.

use super::Tokenizer;

/// Decodes a growing sequence of tokens, and never shows a part of a character.
///
/// A token of a byte-level vocabulary can end inside a character; its bytes wait for the token that completes it.
///
/// ```no_run
/// # fn generate() -> Vec<u32> { Vec::new() }
/// # let file = regard_models::gguf::Gguf::open("model.gguf".as_ref())?;
/// # let tokenizer = regard_models::tokenizer::Tokenizer::from_gguf(&file)?;
/// let mut stream = tokenizer.stream();
/// for token in generate() {
///     print!("{}", stream.push(token));
/// }
/// print!("{}", stream.finish());
/// # Ok::<(), regard_models::Error>(())
/// ```
pub struct DecodeStream<'a> {
    tokenizer: &'a Tokenizer,
    /// The bytes of an unfinished character.
    pending: Vec<u8>,
    /// What the last call returned.
    text: String,
}

impl<'a> DecodeStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, pending: Vec::new(), text: String::new() }
    }

    /// The text that `id` completes: empty while a character is unfinished. Bytes that can never become a character
    /// come out as U+FFFD.
    pub fn push(&mut self, id: u32) -> &str {
        self.tokenizer.bytes(id, &mut self.pending);
        self.text.clear();
        let mut taken = 0;
        for chunk in self.pending.utf8_chunks() {
            self.text.push_str(chunk.valid());
            taken += chunk.valid().len();
            let last = taken + chunk.invalid().len() == self.pending.len();
            if last && unfinished(chunk.invalid()) {
                break;
            }
            self.text.push(char::REPLACEMENT_CHARACTER);
            taken += chunk.invalid().len();
        }
        self.pending.drain(..taken);
        &self.text
    }

    /// The end of the text: U+FFFD if a character is still unfinished. The stream is then as new.
    pub fn finish(&mut self) -> &str {
        self.text.clear();
        self.text.push_str(&String::from_utf8_lossy(&self.pending));
        self.pending.clear();
        &self.text
    }
}

/// Whether more bytes could still make a character of these, which are no character yet; so of none.
fn unfinished(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).map_or_else(|error| error.error_len().is_none(), |_| bytes.is_empty())
}
