//! The tokens of a GGUF file.

use tokenizers::Model as _;
use tokenizers::models::bpe::{BPE, Vocab};

use super::special::{self, Kind, Piece, Specials};
use super::split::Split;
use super::{Marks, Special, alphabet};
use crate::error::{Error, Optional, Result};
use crate::gguf::{Gguf, Strings};

/// The most tokens of a vocabulary: several times the largest published one, and a bound on what a file can cost.
const MAX_TOKENS: usize = 1 << 20;

const TOKENS: &str = "tokenizer.ggml.tokens";
const MERGES: &str = "tokenizer.ggml.merges";

/// The tokens of a file: what they say and what they are.
pub(super) struct Vocabulary {
    texts: Strings,
    kinds: Vec<Kind>,
}

impl Vocabulary {
    pub(super) fn len(&self) -> usize {
        self.texts.len()
    }

    /// The token as the file writes it; empty beyond the vocabulary.
    pub(super) fn text(&self, id: u32) -> &str {
        self.texts.get(id as usize).unwrap_or_default()
    }

    pub(super) fn kind(&self, id: u32) -> Kind {
        self.kinds.get(id as usize).copied().unwrap_or(Kind::Unknown)
    }
}

/// Byte-level BPE by the vocabulary and the merges of a file.
pub(super) struct Words {
    vocabulary: Vocabulary,
    split: Split,
    bpe: BPE,
    specials: Specials,
    adds_bos: bool,
    adds_eos: bool,
}

impl Words {
    /// What `file` describes, and the tokens that begin and end.
    pub(super) fn read(file: &Gguf) -> Result<(Words, Marks)> {
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
        let marks = Marks { bos: read_id(file, "bos", &vocabulary)?, eos: read_id(file, "eos", &vocabulary)?, ends };
        let words = Words {
            specials: Specials::new(&vocabulary),
            adds_bos: flag("tokenizer.ggml.add_bos_token")?.unwrap_or(pre == "llama-bpe"),
            adds_eos: flag("tokenizer.ggml.add_eos_token")?.unwrap_or(false),
            vocabulary,
            split,
            bpe,
        };
        Ok((words, marks))
    }

    pub(super) fn encode(&self, text: &str, special: Special) -> Result<Vec<u32>> {
        let mut ids = Vec::with_capacity(text.len() / 4);
        for piece in self.specials.pieces(&self.vocabulary, text, special == Special::Parse) {
            match piece {
                Piece::Token(id) => ids.push(id),
                Piece::Text(range) => self.encode_text(&text[range], &mut ids)?,
            }
        }
        Ok(ids)
    }

    pub(super) fn encode_sequence(&self, text: &str, special: Special, marks: &Marks) -> Result<Vec<u32>> {
        let mut ids = self.encode(text, special)?;
        if let (true, Some(bos)) = (self.adds_bos, marks.bos)
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
        }
        if let (true, Some(eos)) = (self.adds_eos, marks.eos)
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

    pub(super) fn bytes(&self, id: u32, bytes: &mut Vec<u8>) {
        let text = self.vocabulary.text(id);
        match self.vocabulary.kind(id) {
            Kind::Control | Kind::Unknown => {}
            Kind::UserDefined => bytes.extend(text.bytes()),
            Kind::Normal => alphabet::spell(text, bytes),
        }
    }

    pub(super) fn text(&self, id: u32) -> Option<&str> {
        self.vocabulary.texts.get(id as usize)
    }

    pub(super) fn id(&self, text: &str) -> Option<u32> {
        self.bpe.token_to_id(text).filter(|&id| (id as usize) < self.vocabulary.len())
    }

    pub(super) fn len(&self) -> usize {
        self.vocabulary.len()
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
