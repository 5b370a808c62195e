//! Text to tokens and back, by the vocabulary in a model's file or folder.
//!
//! The merges are the `tokenizers` crate's, and of a folder so is all else. Token ids equal those of `llama.cpp` on the same
//! file, and of `transformers` on the same folder.

mod alphabet;
mod folder;
mod gguf;
mod learn;
mod special;
mod spelling;
mod split;
mod stream;

use std::collections::BTreeSet;

use crate::chat::{ChatTemplate, Message, Turn};
use crate::error::{Error, Result};
use crate::folder::Folder;
use crate::gguf::Gguf;

pub use learn::{learn, with_last};
pub(crate) use special::Kind;
pub(crate) use spelling::byte;
pub(crate) use split::PRE_TOKENIZERS;
pub use stream::DecodeStream;

/// The most tokens of a vocabulary: several times the largest published one, and a bound on what a file can cost.
pub(crate) const MAX_TOKENS: usize = 1 << 20;

/// What to do with the text of a control token, such as `<|im_start|>`, where it stands in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// It is that token: for the output of a chat template.
    Parse,
    /// It is text like any other: for what a user typed, who cannot end a turn by typing its token.
    AsText,
}

/// The tokens that begin and end a text.
#[derive(Debug, Default)]
struct Marks {
    bos: Option<u32>,
    eos: Option<u32>,
    /// Those that end a generation.
    ends: BTreeSet<u32>,
}

/// A tokeniser.
pub struct Tokenizer {
    words: Words,
    marks: Marks,
}

enum Words {
    Gguf(Box<gguf::Words>),
    Folder(Box<folder::Words>),
}

/// Calls the same method of either.
macro_rules! words {
    ($self:ident, $words:ident => $call:expr) => {
        match &$self.words {
            Words::Gguf($words) => $call,
            Words::Folder($words) => $call,
        }
    };
}

impl Tokenizer {
    /// The tokeniser that `file` describes.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](crate::Error::Unsupported), by name, for a kind of tokeniser or pre-tokeniser that is unknown here; an
    /// error that names the key where the vocabulary, its merges or its special ids do not fit together.
    pub fn from_gguf(file: &Gguf) -> Result<Tokenizer> {
        let (words, marks) = gguf::Words::read(file)?;
        Ok(Tokenizer { words: Words::Gguf(Box::new(words)), marks })
    }

    /// The tokeniser of a folder: tokenizer.json, and what tokenizer_config.json, generation_config.json and config.json say of
    /// the tokens that begin and end a text.
    ///
    /// # Errors
    ///
    /// There is no tokenizer.json, or one of the files breaks its rules.
    pub fn from_folder(folder: &Folder) -> Result<Tokenizer> {
        let (words, marks) = folder::Words::read(folder)?;
        Ok(Tokenizer { words: Words::Folder(Box::new(words)), marks })
    }

    /// The tokeniser that the text of a tokenizer.json describes, which messages call `name`. A token ends a text if it is called
    /// so.
    ///
    /// # Errors
    ///
    /// The text breaks its rules.
    pub fn from_json(text: &str, name: &str) -> Result<Tokenizer> {
        let words = folder::Words::parse(text, name.to_owned())?;
        let marks = words.marks();
        Ok(Tokenizer { words: Words::Folder(Box::new(words)), marks })
    }

    /// Whether the model has embeddings, which are so many, of the tokens of a folder that it cannot do without: those that stand
    /// around every text, those of a conversation, and of those that end a text one. Others beyond stand in published folders, and
    /// are refused where a text has them.
    pub(crate) fn check_within(
        &self,
        folder: &Folder,
        vocabulary: usize,
        template: Option<&ChatTemplate>,
    ) -> Result<()> {
        let beyond = |id: &u32| *id as usize >= vocabulary;
        let refused = |id: u32, role: &str| {
            let text = self.token_text(id).unwrap_or_default();
            Err(Error::Malformed {
                file: folder.path().join("tokenizer.json").display().to_string(),
                field: format!("{text:?}"),
                problem: format!("{role} has number {id}, and the model has embeddings of {vocabulary} tokens"),
            })
        };
        if let Some(id) = self.encode_sequence("", Special::Parse)?.into_iter().find(beyond) {
            return refused(id, "a token that stands around every text");
        }
        // A template may refuse so short a conversation.
        if let Some(Ok(text)) = template.map(|template| template.render(&[Message::new("user", "?")], Turn::Open))
            && let Some(id) = self.encode(&text, Special::Parse)?.into_iter().find(beyond)
        {
            return refused(id, "a token of the chat template");
        }
        match self.eos().filter(beyond) {
            Some(id) if self.ends().all(|end| beyond(&end)) => refused(id, "the only token that ends a text"),
            _ => Ok(()),
        }
    }

    /// The tokens of `text`, and nothing before or after them.
    ///
    /// Bytes that no token of the vocabulary stands for are left out.
    ///
    /// # Errors
    ///
    /// [`Error::Tokenize`] if the `tokenizers` crate fails, which no text is known to cause.
    pub fn encode(&self, text: &str, special: Special) -> Result<Vec<u32>> {
        words!(self, words => words.encode(text, special))
    }

    /// The tokens of `text` as a model expects a whole sequence: with the token that begins one, and the one that ends
    /// one, where the file asks for them. A text that already begins with its token gets no second one.
    ///
    /// # Errors
    ///
    /// As [`encode`](Self::encode).
    pub fn encode_sequence(&self, text: &str, special: Special) -> Result<Vec<u32>> {
        words!(self, words => words.encode_sequence(text, special, &self.marks))
    }

    /// The same of at most `limit` tokens. By a folder's files those that begin and end a sequence stay, and between them come the
    /// text's first ones; no more of it is looked at than they depend on.
    pub(crate) fn encode_up_to(&self, text: &str, special: Special, limit: usize) -> Result<Vec<u32>> {
        match &self.words {
            Words::Folder(words) => words.encode_up_to(text, special, &self.marks, limit),
            Words::Gguf(words) => {
                let mut ids = words.encode_sequence(text, special, &self.marks)?;
                ids.truncate(limit);
                Ok(ids)
            }
        }
    }

    /// The text of `ids`. Control tokens have none; bytes that are not UTF-8 come out as U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut bytes = Vec::new();
        for &id in ids {
            self.bytes(id, &mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Decodes a sequence that grows by one token at a time.
    pub fn stream(&self) -> DecodeStream<'_> {
        DecodeStream::new(self)
    }

    /// Appends the bytes that a token stands for: none for a control token, or for one beyond the vocabulary.
    pub fn bytes(&self, id: u32, bytes: &mut Vec<u8>) {
        words!(self, words => words.bytes(id, bytes));
    }

    /// The token as the file writes it, such as `Ġthe` or `<|im_end|>`.
    pub fn token_text(&self, id: u32) -> Option<&str> {
        words!(self, words => words.text(id))
    }

    /// The token that the file writes so.
    pub fn token_id(&self, text: &str) -> Option<u32> {
        words!(self, words => words.id(text))
    }

    /// How many tokens the vocabulary has.
    pub fn vocab_size(&self) -> usize {
        words!(self, words => words.len())
    }

    /// The token that begins a sequence, if the file names one.
    pub fn bos(&self) -> Option<u32> {
        self.marks.bos
    }

    /// The token that a sequence begins with, if the file asks for one.
    ///
    /// # Errors
    ///
    /// As [`encode_sequence`](Self::encode_sequence).
    pub fn first_token(&self) -> Result<Option<u32>> {
        let empty = self.encode_sequence("", Special::AsText)?;
        Ok(self.bos().filter(|bos| empty.first() == Some(bos)))
    }

    /// The token that ends a sequence, if the file names one.
    pub fn eos(&self) -> Option<u32> {
        self.marks.eos
    }

    /// Whether `id` ends a generation: the end of a text, of a turn, or of a file.
    pub fn ends_generation(&self, id: u32) -> bool {
        self.marks.ends.contains(&id)
    }

    /// Every token that ends a generation, in order.
    pub fn ends(&self) -> impl Iterator<Item = u32> {
        self.marks.ends.iter().copied()
    }
}
