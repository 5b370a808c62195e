//! The text that a run learns from: files, what they become, and what of them is held out.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use indicatif::DecimalBytes;
use regard_models::tokenizer::{Special, Tokenizer, learn, with_last};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::settings::{Goal, Settings};
use crate::error::Error;
use crate::output::say;
use crate::progress;

/// What stands between files, and ends a text.
pub(crate) const END: &str = "<|endoftext|>";
/// What denoising puts where a token is hidden.
pub(crate) const MASK: &str = "<mask>";
/// Tokens that bpe makes unless told otherwise.
const VOCABULARY: usize = 2048;
/// Bytes that learning takes for each token, about.
const TOKEN_BYTES: u64 = 256;
/// Text that is cut into tokens at once.
const PIECE: usize = 1 << 16;

/// A file that is learned from: enough to know it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
    pub(crate) sha256: String,
}

/// Files as they were read.
pub(crate) struct Texts {
    pub(crate) sources: Vec<Source>,
    texts: Vec<String>,
}

/// What a run learns from, in tokens.
pub(crate) struct Corpus {
    /// To learn from.
    pub(crate) learned: Vec<u32>,
    /// Held out.
    pub(crate) held_out: Vec<u32>,
    /// Bytes of what is held out.
    pub(crate) held_out_bytes: usize,
}

/// Refuses more tokens than text can give, each merge of two being found in it, or memory hold.
fn check_vocabulary(vocabulary: usize, bytes: usize, special: usize) -> Result<(), Error> {
    let most = bytes.saturating_add(256 + special);
    if vocabulary > most {
        let problem =
            format!("--vocabulary is {vocabulary}, and a text of {bytes} bytes gives {most} tokens at the most");
        return Err(Error::Usage(problem));
    }
    let needed = (vocabulary as u64).saturating_mul(TOKEN_BYTES);
    match regard_memory::available() {
        Some(free) if needed > free => Err(Error::Usage(format!(
            "--vocabulary is {vocabulary}, which takes {} to learn, and {} of memory are free",
            DecimalBytes(needed),
            DecimalBytes(free)
        ))),
        _ => Ok(()),
    }
}

impl Texts {
    /// Reads files. Each must be a text, and one that says something.
    pub(crate) fn read(paths: &[PathBuf]) -> Result<Texts, Error> {
        let (mut sources, mut texts, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
        let mut total = 0;
        for path in paths {
            let failed = |source| Error::Data { path: path.clone(), problem: unreadable(&source) };
            let place = fs::canonicalize(path).map_err(failed)?;
            if place.is_dir() {
                let problem = "it is a folder: name the files in it".to_owned();
                return Err(Error::Data { path: path.clone(), problem });
            }
            if !seen.insert(place.clone()) {
                let problem = "it is named twice: name it once".to_owned();
                return Err(Error::Data { path: path.clone(), problem });
            }
            let about = fs::metadata(&place).map_err(failed)?;
            if !about.is_file() {
                let problem = "it is no regular file: write the text to one first".to_owned();
                return Err(Error::Data { path: path.clone(), problem });
            }
            total = about.len().saturating_add(total);
            if let Some(free) = regard_memory::available().filter(|&free| total > free) {
                let problem = format!(
                    "with it there are {} of text, and {} of memory are free: take a part of it",
                    DecimalBytes(total),
                    DecimalBytes(free)
                );
                return Err(Error::Data { path: path.clone(), problem });
            }
            let bytes = fs::read(path).map_err(failed)?;
            let sha256 = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            let len = bytes.len() as u64;
            let mut text = String::from_utf8(bytes).map_err(|error| {
                let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
                let line = 1 + valid.iter().filter(|&&byte| byte == b'\n').count();
                let problem = format!(
                    "line {line} is not UTF-8 (byte {} of the file): convert it, as by `iconv -f latin1 -t utf-8`",
                    valid.len()
                );
                Error::Data { path: path.clone(), problem }
            })?;
            // A byte order mark is no text.
            if text.starts_with('\u{feff}') {
                text.drain(..'\u{feff}'.len_utf8());
            }
            if text.trim().is_empty() {
                let problem = "there is no text in it: leave it out, or name another".to_owned();
                return Err(Error::Data { path: path.clone(), problem });
            }
            sources.push(Source { path: place, bytes: len, sha256 });
            texts.push(text);
        }
        Ok(Texts { sources, texts })
    }

    /// Refuses files that are others than those a run was begun with; where they lie does not matter.
    pub(crate) fn check_against(&self, begun: &[Source], run: &Path) -> Result<(), Error> {
        if self.sources.len() != begun.len() {
            return Err(Error::Usage(format!(
                "--data names {} files, and the run in {} was begun with {}: name the same, or leave it out",
                self.sources.len(),
                run.display(),
                begun.len()
            )));
        }
        for (now, then) in self.sources.iter().zip(begun) {
            if (now.bytes, &now.sha256) != (then.bytes, &then.sha256) {
                let told = |source: &Source| format!("{} bytes, sha256 {:.12}…", source.bytes, source.sha256);
                let problem = format!(
                    "it holds other text ({}) than the run in {} was begun with ({}): bring that back, or begin another \
                     run with another --out",
                    told(now),
                    run.display(),
                    told(then)
                );
                return Err(Error::Data { path: now.path.clone(), problem });
            }
        }
        Ok(())
    }

    /// How much of a text is learned from.
    fn learned_bytes(text: &str, settings: &Settings) -> usize {
        text.floor_char_boundary((text.len() as f64 * (1.0 - settings.eval_share.0)) as usize)
    }

    /// The tokenizer.json of a new run: of bytes, of byte pairs of what is learned from, or what another file says.
    pub(crate) fn tokenizer(&self, settings: &Settings) -> Result<String, Error> {
        let mut special = vec![END];
        if settings.objective == Goal::Denoising {
            special.push(MASK);
        }
        match settings.tokenizer.as_str() {
            "byte" => Ok(learn([""], 256 + special.len(), &special)?),
            "bpe" => {
                let waiting = progress::spinner("learning byte pairs");
                let learned = self.texts.iter().map(|text| &text[..Self::learned_bytes(text, settings)]);
                let pieces: Vec<&str> = learned.flat_map(pieces).collect();
                let vocabulary = settings.vocabulary.map_or(VOCABULARY, |vocabulary| vocabulary.get());
                if settings.vocabulary.is_some() {
                    check_vocabulary(vocabulary, pieces.iter().map(|piece| piece.len()).sum(), special.len())?;
                }
                let json = learn(pieces, vocabulary, &special)?;
                waiting.finish_and_clear();
                Ok(json)
            }
            path => {
                let path = Path::new(path);
                let json = fs::read_to_string(path).map_err(|error| {
                    Error::Usage(format!(
                        "--tokenizer {}: {}; it is byte, bpe, or the path of a tokenizer.json",
                        path.display(),
                        unreadable(&error)
                    ))
                })?;
                // Whatever is wrong with it is said with its name.
                Tokenizer::from_json(&json, &path.display().to_string())?;
                if settings.objective == Goal::Denoising { Ok(with_last(&json, MASK)?) } else { Ok(json) }
            }
        }
    }

    /// The texts in tokens, with the token that ends a text between files.
    pub(crate) fn tokens(&self, tokenizer: &Tokenizer, settings: &Settings) -> Result<Corpus, Error> {
        let waiting = progress::spinner("cutting the text into tokens");
        let own = ["byte", "bpe"].contains(&settings.tokenizer.as_str());
        let end = tokenizer.token_id(END).or(tokenizer.eos());
        let mut corpus = Corpus { learned: Vec::new(), held_out: Vec::new(), held_out_bytes: 0 };
        let mut lengths = Vec::with_capacity(self.texts.len());
        for text in &self.texts {
            let (learned, held_out) = text.split_at(Self::learned_bytes(text, settings));
            let before = corpus.learned.len();
            corpus.held_out_bytes += held_out.len();
            for (part, tokens) in [(learned, &mut corpus.learned), (held_out, &mut corpus.held_out)] {
                if part.is_empty() {
                    continue;
                }
                if !tokens.is_empty() {
                    tokens.extend(end);
                }
                if own {
                    pieces(part).try_for_each(|piece| {
                        tokens.extend(tokenizer.encode(piece, Special::AsText)?);
                        Ok::<(), Error>(())
                    })?;
                } else {
                    tokens.extend(tokenizer.encode(part, Special::AsText)?);
                }
            }
            let between = usize::from(before > 0 && end.is_some());
            lengths.push((corpus.learned.len() - before).saturating_sub(between));
        }
        waiting.finish_and_clear();
        self.check_lengths(&corpus, settings)?;
        for (source, tokens) in self.sources.iter().zip(lengths).filter(|(_, tokens)| *tokens <= settings.context.get())
        {
            let context = settings.context.get();
            say!(
                "{}: {tokens} tokens to learn from, and a window takes {}: its windows reach into other files",
                source.path.display(),
                context.saturating_add(1)
            );
        }
        Ok(corpus)
    }

    /// Refuses texts without a window.
    fn check_lengths(&self, corpus: &Corpus, settings: &Settings) -> Result<(), Error> {
        let context = settings.context.get();
        let path = self.sources[0].path.clone();
        let others = match self.sources.len() {
            1 => String::new(),
            files => format!(" and {} more", files - 1),
        };
        let bytes: u64 = self.sources.iter().map(|source| source.bytes).sum();
        let whole = format!("of {}{others}", DecimalBytes(bytes));
        if corpus.learned.len() <= context {
            let problem = format!(
                "the text {whole} gives {} tokens to learn from, and a window of --context {context} takes {}: lower \
                 --context, or name more text",
                corpus.learned.len(),
                context + 1
            );
            return Err(Error::Data { path, problem });
        }
        if corpus.held_out_bytes > 0 && corpus.held_out.len() <= context {
            let problem = format!(
                "of the text {whole} --eval-share {} holds out {} tokens, and a window of --context {context} takes {}: \
                 raise --eval-share, lower --context, name more text, or give --eval-share 0",
                settings.eval_share,
                corpus.held_out.len(),
                context + 1
            );
            return Err(Error::Data { path, problem });
        }
        Ok(())
    }
}

/// What the system says, without the number.
fn unreadable(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file: check its name".to_owned(),
        _ => format!("it cannot be read: {error}"),
    }
}

/// A text in pieces that byte-level tokenisers cut as they cut the whole: they end between a letter or a digit and a line end, where
/// every word of the whole does.
fn pieces(text: &str) -> impl Iterator<Item = &str> + Send {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let bytes = rest.as_bytes();
        let wall = |&at: &usize| bytes[at] == b'\n' && bytes[at - 1].is_ascii_alphanumeric();
        let end = (PIECE..bytes.len()).find(wall).unwrap_or(bytes.len());
        let (piece, after) = rest.split_at(end);
        rest = after;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_have_the_tokens_of_the_whole() {
        let text = "It was.\n\n  The whale's 1 one\nwhale,\r\n\tand so — é on\n".repeat(6000);
        let cut: Vec<&str> = pieces(&text).collect();
        assert!(cut.len() > 3 && cut.concat() == text);
        for vocabulary in [257, 400] {
            let json = learn(pieces(&text), vocabulary, &[END]).unwrap();
            let tokenizer = Tokenizer::from_json(&json, "test").unwrap();
            let encode = |text: &str| tokenizer.encode(text, Special::AsText).unwrap();
            let tokens: Vec<u32> = cut.iter().flat_map(|piece| encode(piece)).collect();
            assert!(tokens == encode(&text), "{vocabulary}");
            assert!(vocabulary == 400 || tokens.len() == text.len());
        }
    }
}
