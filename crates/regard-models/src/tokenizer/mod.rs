//! Text to tokens and back, by the vocabulary in a model's file.
//!
//! The merges are the `tokenizers` crate's; the expressions that cut a text into words are the published ones. Token
//! ids equal those of `llama.cpp` on the same file.

mod alphabet;
mod special;
mod split;
mod stream;

use std::collections::BTreeSet;

use tokenizers::Model as _;
use tokenizers::models::bpe::{BPE, Vocab};

use crate::error::{Error, Optional, Result};
use crate::gguf::{Gguf, Strings};
use special::{Kind, Piece, Specials};
use split::Split;

pub use stream::DecodeStream;

/// The most tokens of a vocabulary: several times the largest published one, and a bound on what a file can cost.
const MAX_TOKENS: usize = 1 << 20;

const TOKENS: &str = "tokenizer.ggml.tokens";
const MERGES: &str = "tokenizer.ggml.merges";

/// What to do with the text of a control token, such as `<|im_start|>`, where it stands in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// It is that token: for the output of a chat template.
    Parse,
    /// It is text like any other: for what a user typed, who cannot end a turn by typing its token.
    AsText,
}

/// The tokens of a file: what they say and what they are.
struct Vocabulary {
    texts: Strings,
    kinds: Vec<Kind>,
}

impl Vocabulary {
    fn len(&self) -> usize {
        self.texts.len()
    }

    /// The token as the file writes it; empty beyond the vocabulary.
    fn text(&self, id: u32) -> &str {
        self.texts.get(id as usize).unwrap_or_default()
    }

    fn kind(&self, id: u32) -> Kind {
        self.kinds.get(id as usize).copied().unwrap_or(Kind::Unknown)
    }
}

/// A tokeniser.
pub struct Tokenizer {
    vocabulary: Vocabulary,
    split: Split,
    bpe: BPE,
    specials: Specials,
    bos: Option<u32>,
    eos: Option<u32>,
    adds_bos: bool,
    adds_eos: bool,
    ends: BTreeSet<u32>,
}

impl Tokenizer {
    /// The tokeniser that `file` describes.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`], by name, for a kind of tokeniser or pre-tokeniser that is unknown here; an error that
    /// names the key where the vocabulary, its merges or its special ids do not fit together.
    pub fn from_gguf(file: &Gguf) -> Result<Tokenizer> {
        let model = file.string("tokenizer.ggml.model")?;
        if model != "gpt2" {
            return Err(unsupported(file, "tokenizer.ggml.model", format!("tokeniser {model:?}"), "gpt2"));
        }
        const PRE: &str = "tokenizer.ggml.pre";
        let pre = file.string(PRE).optional()?.unwrap_or("default");
        let split = Split::named(pre)
            .ok_or_else(|| unsupported(file, PRE, format!("pre-tokeniser {pre:?}"), Split::NAMES))?
            .map_err(|error| Error::Tokenize(error.to_string()))?;

        let mut vocabulary = read_vocabulary(file)?;
        let bpe = read_merges(file, &vocabulary, pre == "llama-bpe")?;
        let mut ends = special::ends(|text| bpe.token_to_id(text));
        // Some files list these as plain text, which they never are.
        for &id in &ends {
            vocabulary.kinds[id as usize] = Kind::Control;
        }
        for name in ["eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep"] {
            ends.extend(read_id(file, name, &vocabulary)?);
        }
        let flag = |key| file.bool(key).optional();
        Ok(Tokenizer {
            specials: Specials::new(&vocabulary),
            bos: read_id(file, "bos", &vocabulary)?,
            eos: read_id(file, "eos", &vocabulary)?,
            adds_bos: flag("tokenizer.ggml.add_bos_token")?.unwrap_or(pre == "llama-bpe"),
            adds_eos: flag("tokenizer.ggml.add_eos_token")?.unwrap_or(false),
            vocabulary,
            split,
            bpe,
            ends,
        })
    }

    /// The tokens of `text`, and nothing before or after them.
    ///
    /// Bytes that no token of the vocabulary stands for are left out.
    ///
    /// # Errors
    ///
    /// [`Error::Tokenize`] if the `tokenizers` crate fails, which no text is known to cause.
    pub fn encode(&self, text: &str, special: Special) -> Result<Vec<u32>> {
        let mut ids = Vec::with_capacity(text.len() / 4);
        for piece in self.specials.pieces(&self.vocabulary, text, special == Special::Parse) {
            match piece {
                Piece::Token(id) => ids.push(id),
                Piece::Text(range) => self.encode_text(&text[range], &mut ids)?,
            }
        }
        Ok(ids)
    }

    /// The tokens of `text` as a model expects a whole sequence: with the token that begins one, and the one that ends
    /// one, where the file asks for them. A text that already begins with its token gets no second one.
    ///
    /// # Errors
    ///
    /// As [`encode`](Self::encode).
    pub fn encode_sequence(&self, text: &str, special: Special) -> Result<Vec<u32>> {
        let mut ids = self.encode(text, special)?;
        if let (true, Some(bos)) = (self.adds_bos, self.bos)
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
        }
        if let (true, Some(eos)) = (self.adds_eos, self.eos)
            && ids.last() != Some(&eos)
        {
            ids.push(eos);
        }
        Ok(ids)
    }

    fn encode_text(&self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        let mut letters = String::new();
        self.split.words(text, |word| {
            letters.clear();
            letters.extend(word.bytes().map(alphabet::letter));
            let tokens = self.bpe.tokenize(&letters).map_err(|error| Error::Tokenize(error.to_string()))?;
            ids.extend(tokens.iter().map(|token| token.id).filter(|&id| (id as usize) < self.vocabulary.len()));
            Ok(())
        })
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
        let text = self.vocabulary.text(id);
        match self.vocabulary.kind(id) {
            Kind::Control | Kind::Unknown => {}
            Kind::UserDefined => bytes.extend(text.bytes()),
            Kind::Normal => {
                for letter in text.chars() {
                    match alphabet::byte(letter) {
                        Some(byte) => bytes.push(byte),
                        None => bytes.extend(letter.encode_utf8(&mut [0; 4]).bytes()),
                    }
                }
            }
        }
    }

    /// The token as the file writes it, such as `Ġthe` or `<|im_end|>`.
    pub fn token_text(&self, id: u32) -> Option<&str> {
        self.vocabulary.texts.get(id as usize)
    }

    /// The token that the file writes so.
    pub fn token_id(&self, text: &str) -> Option<u32> {
        self.bpe.token_to_id(text).filter(|&id| (id as usize) < self.vocabulary.len())
    }

    /// How many tokens the vocabulary has.
    pub fn vocab_size(&self) -> usize {
        self.vocabulary.len()
    }

    /// The token that begins a sequence, if the file names one.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends a sequence, if the file names one.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Whether `id` ends a generation: the end of a text, of a turn, or of a file.
    pub fn ends_generation(&self, id: u32) -> bool {
        self.ends.contains(&id)
    }

    /// Every token that ends a generation, in order.
    pub fn ends(&self) -> impl Iterator<Item = u32> {
        self.ends.iter().copied()
    }
}

fn read_vocabulary(file: &Gguf) -> Result<Vocabulary> {
    let texts = file.strings(TOKENS)?;
    if texts.len() > MAX_TOKENS {
        return Err(malformed(file, TOKENS, format!("{} tokens are more than {MAX_TOKENS}", texts.len())));
    }
    const TYPES: &str = "tokenizer.ggml.token_type";
    let kinds = match file.i32s(TYPES).optional()? {
        Some(numbers) if numbers.len() != texts.len() => {
            let problem = format!("{} types for {} tokens", numbers.len(), texts.len());
            return Err(malformed(file, TYPES, problem));
        }
        Some(numbers) => numbers.into_iter().map(Kind::numbered).collect(),
        None => vec![Kind::Normal; texts.len()],
    };
    Ok(Vocabulary { texts, kinds })
}

/// `whole_words`: a word that is a token is that token, whatever the merges would make of it.
fn read_merges(file: &Gguf, vocabulary: &Vocabulary, whole_words: bool) -> Result<BPE> {
    // One id beyond the vocabulary stands for the bytes that no token stands for. It keeps their place, so that
    // nothing merges across them, and is dropped afterwards.
    const UNKNOWN: &str = "";
    let mut ids = Vocab::with_capacity(vocabulary.len() + 1);
    for (id, text) in vocabulary.texts.iter().enumerate() {
        // An empty token is padding, and no text can ask for it.
        if text.is_empty() {
            continue;
        }
        if let Some(first) = ids.insert(text.to_owned(), id as u32) {
            return Err(malformed(file, TOKENS, format!("tokens {first} and {id} are both {text:?}")));
        }
    }
    ids.insert(UNKNOWN.to_owned(), vocabulary.len() as u32);

    let lines = file.strings(MERGES)?;
    let mut merges = Vec::with_capacity(lines.len());
    for (index, line) in lines.iter().enumerate() {
        let pair = line.split_once(' ').filter(|(left, right)| {
            let known = |text: &str| !text.is_empty() && ids.contains_key(text);
            known(left) && known(right) && known(&[*left, *right].concat())
        });
        let Some((left, right)) = pair else {
            return Err(malformed(
                file,
                MERGES,
                format!("merge {index}, {line:?}, does not join two tokens to a third"),
            ));
        };
        merges.push((left.to_owned(), right.to_owned()));
    }
    BPE::builder()
        .vocab_and_merges(ids, merges)
        .unk_token(UNKNOWN.to_owned())
        .ignore_merges(whole_words)
        .build()
        .map_err(|error| malformed(file, MERGES, error.to_string()))
}

fn read_id(file: &Gguf, name: &str, vocabulary: &Vocabulary) -> Result<Option<u32>> {
    let key = format!("tokenizer.ggml.{name}_token_id");
    match file.u32(&key).optional()? {
        Some(id) if id as usize >= vocabulary.len() => {
            Err(malformed(file, &key, format!("{id} is beyond the {} tokens", vocabulary.len())))
        }
        id => Ok(id),
    }
}

fn malformed(file: &Gguf, key: &str, problem: String) -> Error {
    Error::Malformed { file: file.file().to_owned(), field: key.to_owned(), problem }
}

fn unsupported(file: &Gguf, key: &str, found: String, supported: &str) -> Error {
    Error::Unsupported { file: file.file().to_owned(), field: key.to_owned(), found, supported: supported.to_owned() }
}
