//! Tokenisers made of text, for models that have none yet.

use std::str::FromStr;

use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer as Fast, TokenizerImpl};

use crate::{Error, Result};

/// Bytes: the alphabet of every tokeniser that is made here.
const BYTES: usize = 256;
/// Pairs that stand only once in a text say nothing about others.
const LEAST_FREQUENT: u64 = 2;

/// The tokenizer.json of a byte-level BPE of at most `vocabulary` tokens: the 256 bytes, the merges of pairs that are most frequent in
/// `texts` (Sennrich et al., 2016), and at the end `special` tokens. With room for no merge each byte is a token.
///
/// ```
/// use regard_models::tokenizer::{Special, Tokenizer, learn};
///
/// let bytes = Tokenizer::from_json(&learn([""], 257, &["<mask>"])?, "bytes")?;
/// assert_eq!(bytes.vocab_size(), 257);
/// assert_eq!(bytes.token_id("<mask>"), Some(256));
/// assert_eq!(bytes.encode("né", Special::AsText)?.len(), 3);
///
/// let text = "the whale, the whale ".repeat(9);
/// let words = Tokenizer::from_json(&learn([&*text], 300, &[])?, "words")?;
/// let tokens = words.encode("the whale", Special::AsText)?;
/// assert_eq!((tokens.len(), &*words.decode(&tokens)), (2, "the whale"));
/// # Ok::<(), regard_models::Error>(())
/// ```
///
/// # Errors
///
/// [`Error::Setting`] if the vocabulary has no room for the bytes and the special tokens.
pub fn learn<'t>(
    texts: impl IntoIterator<Item = &'t str, IntoIter: Send>,
    vocabulary: usize,
    special: &[&str],
) -> Result<String> {
    let least = BYTES + special.len();
    if vocabulary < least {
        let problem = format!("a vocabulary of {vocabulary} tokens has no room for {BYTES} bytes and {special:?}");
        return Err(Error::Setting(format!("{problem}: it takes {least} or more")));
    }
    // A word that goes over a space merges with nothing: where there are no merges words need not be found.
    let bytes = ByteLevel::new(false, true, vocabulary > least);
    let mut tokenizer: TokenizerImpl<
        BPE,
        tokenizers::NormalizerWrapper,
        ByteLevel,
        tokenizers::PostProcessorWrapper,
        ByteLevel,
    > = TokenizerImpl::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(bytes)).with_decoder(Some(bytes));
    let mut trainer = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(vocabulary - special.len())
        .min_frequency(LEAST_FREQUENT)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    tokenizer.train(&mut trainer, texts.into_iter()).map_err(failed)?;
    let special = special.iter().map(|text| AddedToken::from(*text, true));
    tokenizer.add_special_tokens(special).map_err(failed)?;
    tokenizer.to_string(true).map_err(failed)
}

/// A tokenizer.json with the special token `text` as its last one: it is put there, unless it stands there already.
///
/// # Errors
///
/// [`Error::Setting`] if it is another one than the last; [`Error::Tokenize`] if the text is no tokenizer.json.
pub fn with_last(json: &str, text: &str) -> Result<String> {
    let mut tokenizer = Fast::from_str(json).map_err(failed)?;
    let last = tokenizer.get_vocab(true).into_values().max().unwrap_or(0);
    match tokenizer.token_to_id(text) {
        Some(id) if id == last => return Ok(json.to_owned()),
        Some(id) => {
            return Err(Error::Setting(format!("{text} is token {id} of the tokeniser, and must be its last, {last}")));
        }
        None => {}
    }
    tokenizer.add_special_tokens([AddedToken::from(text, true)]).map_err(failed)?;
    tokenizer.to_string(true).map_err(failed)
}

fn failed(error: tokenizers::Error) -> Error {
    Error::Tokenize(error.to_string())
}
