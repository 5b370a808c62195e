//! The tokens of a GGUF file.

use std::collections::HashSet;

use tokenizers::Model as _;
use tokenizers::models::bpe::{BPE, BpeBuilder, Vocab};

use super::special::{self, Kind, Piece, Specials};
use super::spelling::{SPACE, Spelling};
use super::split::{PRE_TOKENIZERS, Split};
use super::{MAX_TOKENS, Marks, Special, alphabet};
use crate::error::{Error, Optional, Result};
use crate::gguf::{Gguf, Strings};

/// The most bytes of a SentencePiece token: what its merges are is found by cutting it everywhere.
const MAX_PIECE: usize = 512;
/// The most merges for each SentencePiece token; published vocabularies have two.
const MAX_MERGES: usize = 16;

const MODEL: &str = "tokenizer.ggml.model";
const TOKENS: &str = "tokenizer.ggml.tokens";
const MERGES: &str = "tokenizer.ggml.merges";
const SCORES: &str = "tokenizer.ggml.scores";

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

/// BPE by the vocabulary of a file.
pub(super) struct Words {
    vocabulary: Vocabulary,
    style: Style,
    bpe: BPE,
    specials: Specials,
    adds_bos: bool,
    adds_eos: bool,
}

/// What is merged.
enum Style {
    /// Words, of a letter for each byte.
    Letters(Split),
    /// A text as a whole, in SentencePiece's letters.
    Pieces {
        /// Whether a space is put before a text, and before one that follows a token that was looked for.
        space: bool,
        /// Whether the whitespace that follows such a token belongs to it.
        trims: bool,
    },
}

impl Words {
    /// What `file` describes, and the tokens that begin and end.
    pub(super) fn read(file: &Gguf) -> Result<(Words, Marks)> {
        match file.string(MODEL)? {
            "gpt2" => Self::read_letters(file),
            "llama" => Self::read_pieces(file),
            other => Err(unsupported(file, MODEL, format!("tokeniser {other:?}"), "gpt2, llama")),
        }
    }

    /// Byte-level BPE, whose merges stand in the file.
    fn read_letters(file: &Gguf) -> Result<(Words, Marks)> {
        const PRE: &str = "tokenizer.ggml.pre";
        let pre = file.string(PRE).optional()?.unwrap_or("default");
        let split = Split::named(pre)
            .ok_or_else(|| unsupported(file, PRE, format!("pre-tokeniser {pre:?}"), &PRE_TOKENIZERS.join(", ")))?
            .map_err(|error| Error::Tokenize(error.to_string()))?;
        let vocabulary = read_vocabulary(file)?;
        let merges = read_merges(file, &vocabulary)?;
        // In Llama 3's manner a word that is a token is that token, whatever the merges would make of it.
        let whole = pre == "llama-bpe";
        let bpe = |builder: BpeBuilder| builder.ignore_merges(whole);
        Self::new(file, vocabulary, merges, Style::Letters(split), bpe, whole)
    }

    /// SentencePiece's BPE: of two neighbours that are a token together the pair of the highest score is merged first.
    fn read_pieces(file: &Gguf) -> Result<(Words, Marks)> {
        let vocabulary = read_vocabulary(file)?;
        let merges = merges_by_score(file, &vocabulary)?;
        let style = Style::Pieces {
            space: file.bool("tokenizer.ggml.add_space_prefix").optional()?.unwrap_or(true),
            // So Phi-3's tokeniser has it, and the file does not say.
            trims: file.string("general.architecture").optional()? == Some("phi3"),
        };
        Self::new(file, vocabulary, merges, style, |builder| builder.byte_fallback(true), true)
    }

    fn new(
        file: &Gguf,
        mut vocabulary: Vocabulary,
        merges: Vec<(String, String)>,
        style: Style,
        with: impl FnOnce(BpeBuilder) -> BpeBuilder,
        adds_bos: bool,
    ) -> Result<(Words, Marks)> {
        let builder = BPE::builder().vocab_and_merges(ids(file, &vocabulary)?, merges).unk_token(UNKNOWN.to_owned());
        let bpe = with(builder).build().map_err(|error| malformed(file, TOKENS, error.to_string()))?;
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
            adds_bos: flag("tokenizer.ggml.add_bos_token")?.unwrap_or(adds_bos),
            adds_eos: flag("tokenizer.ggml.add_eos_token")?.unwrap_or(false),
            vocabulary,
            style,
            bpe,
        };
        Ok((words, marks))
    }

    pub(super) fn encode(&self, text: &str, special: Special) -> Result<Vec<u32>> {
        let mut ids = Vec::with_capacity(text.len() / 4);
        // What stands before the text that is next, if that is not text.
        let mut before = None;
        let mut first = true;
        for piece in self.specials.pieces(&self.vocabulary, text, special == Special::Parse) {
            match piece {
                Piece::Token(id) => {
                    ids.push(id);
                    before = Some(id);
                }
                Piece::Text(range) => {
                    let text = match before {
                        Some(id) if self.trims_after(id) => {
                            text[range].trim_start_matches(|c: char| c.is_ascii_whitespace())
                        }
                        _ => &text[range],
                    };
                    if !text.is_empty() {
                        self.encode_text(text, first || before.is_some(), &mut ids)?;
                    }
                    before = None;
                }
            }
            first = false;
        }
        Ok(ids)
    }

    fn trims_after(&self, id: u32) -> bool {
        let keeps = ["<unk>", "<s>", "<|endoftext|>"].contains(&self.vocabulary.text(id));
        matches!(self.style, Style::Pieces { trims: true, .. }) && !keeps
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

    /// `begins`: no text stands right before it.
    fn encode_text(&self, text: &str, begins: bool, ids: &mut Vec<u32>) -> Result<()> {
        let mut merged = |text: &str| {
            let tokens = self.bpe.tokenize(text).map_err(|error| Error::Tokenize(error.to_string()))?;
            ids.extend(tokens.iter().map(|token| token.id).filter(|&id| (id as usize) < self.vocabulary.len()));
            Ok(())
        };
        let mut letters = String::new();
        match &self.style {
            Style::Letters(split) => split.words(text, |word| {
                letters.clear();
                letters.extend(word.bytes().map(alphabet::letter));
                merged(&letters)
            }),
            Style::Pieces { space, .. } => {
                letters.extend((*space && begins).then_some(SPACE));
                letters.extend(text.chars().map(|c| if c == ' ' { SPACE } else { c }));
                merged(&letters)
            }
        }
    }

    pub(super) fn bytes(&self, id: u32, bytes: &mut Vec<u8>) {
        let spelling = match self.style {
            Style::Letters(_) => Spelling::Letters,
            Style::Pieces { .. } => Spelling::Pieces,
        };
        spelling.spell(self.vocabulary.kind(id), self.vocabulary.text(id), bytes);
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

/// One id beyond the vocabulary stands for the bytes that no token stands for. It keeps their place, so that nothing merges
/// across them, and is dropped afterwards.
const UNKNOWN: &str = "";

/// The ids of all tokens by their texts.
fn ids(file: &Gguf, vocabulary: &Vocabulary) -> Result<Vocab> {
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
    Ok(ids)
}

fn read_merges(file: &Gguf, vocabulary: &Vocabulary) -> Result<Vec<(String, String)>> {
    let known: HashSet<&str> = vocabulary.texts.iter().filter(|text| !text.is_empty()).collect();
    let lines = file.strings(MERGES)?;
    let mut merges = Vec::with_capacity(lines.len());
    for (index, line) in lines.iter().enumerate() {
        let pair = line.split_once(' ').filter(|(left, right)| {
            known.contains(left) && known.contains(right) && known.contains(&*[*left, *right].concat())
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
    Ok(merges)
}

/// Every two tokens that are a third one together, those with the highest score of that first.
fn merges_by_score(file: &Gguf, vocabulary: &Vocabulary) -> Result<Vec<(String, String)>> {
    let scores = file.f32s(SCORES)?;
    if scores.len() != vocabulary.len() {
        let problem = format!("{} scores for {} tokens", scores.len(), vocabulary.len());
        return Err(malformed(file, SCORES, problem));
    }
    if let Some((id, score)) = scores.iter().enumerate().find(|(_, score)| !score.is_finite()) {
        return Err(malformed(file, SCORES, format!("that of token {id} is {score}, expected a finite number")));
    }
    // Bytes stand for what has no other token, and the text of a control token is no way to write it.
    let normal = |id: usize| vocabulary.kinds[id] == Kind::Normal;
    let texts = || vocabulary.texts.iter().enumerate().filter(|&(id, text)| normal(id) && !text.is_empty());
    let known: HashSet<&str> = texts().map(|(_, text)| text).collect();
    let mut pairs = Vec::new();
    for (id, text) in texts() {
        if text.len() > MAX_PIECE {
            let problem = format!("token {id} has {} bytes, more than {MAX_PIECE}", text.len());
            return Err(malformed(file, TOKENS, problem));
        }
        let cuts = text.char_indices().skip(1).map(|(at, _)| text.split_at(at));
        pairs.extend(cuts.filter(|(left, right)| known.contains(left) && known.contains(right)).map(|pair| (id, pair)));
        if pairs.len() > MAX_MERGES * vocabulary.len() {
            let problem = format!("its tokens are made of each other in more than {MAX_MERGES} ways each");
            return Err(malformed(file, TOKENS, problem));
        }
    }
    pairs.sort_by(|(a, _), (b, _)| scores[*b].total_cmp(&scores[*a]));
    Ok(pairs.into_iter().map(|(_, (left, right))| (left.to_owned(), right.to_owned())).collect())
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
