//! The tokens of a folder: its tokenizer.json.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::{Once, OnceLock};

use serde_json::Value;
use tokenizers::{Encoding, PostProcessor, Tokenizer as Fast, TruncationDirection};

use super::special::{self, Kind};
use super::spelling::{self, Spelling};
use super::{MAX_TOKENS, Marks, Special};
use crate::{Error, Folder, Result};

const NAME: &str = "tokenizer.json";

/// The most that the rules of a tokeniser may lengthen a text; those of published ones make a space three bytes.
const MAX_GROWTH: f64 = 64.0;

/// Of a text that is to be cut so many bytes for each token are looked at first; English has four or five.
const BYTES_A_TOKEN: usize = 16;
/// How much more of it is looked at where that was too little.
const MORE: usize = 4;

/// What tokenizer.json says.
pub(super) struct Words {
    /// Control tokens that stand in a text are those tokens.
    parsing: Fast,
    /// They are text. Made when it is first asked for.
    as_text: OnceLock<Fast>,
    texts: Vec<String>,
    kinds: Vec<Kind>,
    spelling: Spelling,
    /// What messages call the file.
    file: String,
    /// How far before a place in a text what stands behind it counts, but for words that reach there.
    reach: usize,
}

impl Words {
    /// What the folder describes, and the tokens that begin and end.
    pub(super) fn read(folder: &Folder) -> Result<(Words, Marks)> {
        let file = folder.path().join(NAME).display().to_string();
        let text = folder
            .text(NAME)?
            .ok_or_else(|| Error::Missing { file: folder.path().display().to_string(), field: NAME.to_owned() })?;
        let words = Words::parse(&text, file)?;
        let marks = read_marks(folder, &words.parsing, words.len())?;
        Ok((words, marks))
    }

    /// What a tokenizer.json says that messages call `file`.
    pub(super) fn parse(text: &str, file: String) -> Result<Words> {
        let malformed =
            |problem: String| Error::Malformed { file: file.clone(), field: "tokeniser".to_owned(), problem };
        let json: Value = serde_json::from_str(text).map_err(|error| malformed(error.to_string()))?;
        let spelling = if has_type(&json["decoder"], "ByteLevel") { Spelling::Letters } else { Spelling::Pieces };
        let growth = growth(&json["normalizer"]).max(growth(&json["pre_tokenizer"]));
        if growth > MAX_GROWTH {
            return Err(malformed(format!(
                "its rules make a text up to {growth:.0} times as long, more than {MAX_GROWTH}"
            )));
        }
        // Merges that are left out at random are for training: a text has one way to be cut.
        if json["model"]["dropout"].as_f64().is_some_and(|share| share > 0.0) {
            return Err(malformed("model.dropout leaves merges out at random: set it to null".to_owned()));
        }
        drop(json);
        let parsed = guarded(|| Fast::from_str(text));
        let mut parsing = parsed.and_then(|fast| fast.map_err(|error| error.to_string())).map_err(malformed)?;
        // What a file says of lengths is for training.
        parsing.with_padding(None);
        parsing.with_truncation(None).map_err(|error| malformed(error.to_string()))?;

        let by_id: BTreeMap<u32, String> = parsing.get_vocab(true).into_iter().map(|(text, id)| (id, text)).collect();
        let len = by_id.last_key_value().map_or(0, |(&id, _)| id as usize + 1);
        if len == 0 || len > MAX_TOKENS {
            return Err(malformed(format!("its tokens are numbered up to {len}, expected 1 to {MAX_TOKENS}")));
        }
        let (mut texts, mut kinds) = (vec![String::new(); len], vec![Kind::Unknown; len]);
        for (id, text) in by_id {
            let is_byte = spelling == Spelling::Pieces && spelling::byte(&text).is_some();
            kinds[id as usize] = if is_byte { Kind::Byte } else { Kind::Normal };
            texts[id as usize] = text;
        }
        for (&id, added) in parsing.get_added_tokens_decoder().iter() {
            if let Some(kind) = kinds.get_mut(id as usize) {
                *kind = if added.special { Kind::Control } else { Kind::UserDefined };
            }
        }
        // Whatever the rules make impossible is said now.
        for text in ["", "A word, é 1"] {
            let tried = guarded(|| parsing.encode_fast(text, true).map(drop));
            tried.and_then(|tried| tried.map_err(|error| error.to_string())).map_err(malformed)?;
        }
        // An added token is looked for as it is, and rules may have lengthened what is read as it.
        let longest = parsing.get_added_tokens_decoder().values().map(|added| added.content.len()).max();
        let reach = 64 + 4 * longest.unwrap_or(0);
        Ok(Words { parsing, as_text: OnceLock::new(), texts, kinds, spelling, file, reach })
    }

    /// The tokens that end a text by what they are called; nothing else is said of them.
    pub(super) fn marks(&self) -> Marks {
        let ends = special::ends(|text| self.id(text));
        Marks { bos: None, eos: ends.first().copied(), ends }
    }

    fn fast(&self, special: Special) -> &Fast {
        match special {
            Special::Parse => &self.parsing,
            Special::AsText => self.as_text.get_or_init(|| {
                let mut fast = self.parsing.clone();
                fast.set_encode_special_tokens(true);
                fast
            }),
        }
    }

    fn ids(&self, text: &str, special: Special, whole: bool) -> Result<Vec<u32>> {
        let encoding = guarded(|| self.fast(special).encode_fast(text, whole));
        let encoding = encoding.and_then(|encoding| encoding.map_err(|error| error.to_string()));
        Ok(encoding.map_err(|problem| self.failed(problem))?.get_ids().to_vec())
    }

    fn failed(&self, problem: String) -> Error {
        Error::Tokenize(format!("{}: {problem}", self.file))
    }

    pub(super) fn encode(&self, text: &str, special: Special) -> Result<Vec<u32>> {
        self.ids(text, special, false)
    }

    pub(super) fn encode_sequence(&self, text: &str, special: Special, marks: &Marks) -> Result<Vec<u32>> {
        let ids = self.ids(text, special, true)?;
        Ok(begun_once(ids, marks))
    }

    /// The same of at most `limit` tokens: those that begin and end a sequence, and between them the text's first ones.
    pub(super) fn encode_up_to(&self, text: &str, special: Special, marks: &Marks, limit: usize) -> Result<Vec<u32>> {
        let fast = self.fast(special);
        let around = fast.get_post_processor().map_or(0, |processor| processor.added_tokens(false));
        let room = limit.saturating_sub(around);
        let whole = |mut encoding: Encoding| {
            encoding.truncate(room, 0, TruncationDirection::Right);
            encoding.take_overflowing();
            fast.post_process(encoding, None, true)
        };
        let encoding = guarded(|| self.beginning(fast, text, room).and_then(whole));
        let encoding = encoding.and_then(|encoding| encoding.map_err(|error| error.to_string()));
        let mut ids = encoding.map_err(|problem| self.failed(problem))?.get_ids().to_vec();
        ids.truncate(limit);
        Ok(begun_once(ids, marks))
    }

    /// So much of a text that its first `room` tokens are those of the whole.
    fn beginning(&self, fast: &Fast, text: &str, room: usize) -> tokenizers::Result<Encoding> {
        let mut len = self.reach.saturating_add(room.saturating_mul(BYTES_A_TOKEN));
        while len < text.len() {
            let beginning = &text[..text.floor_char_boundary(len)];
            let encoding = fast.encode(beginning, false)?;
            if settled(&encoding, beginning, self.reach) >= room {
                return Ok(encoding);
            }
            len = len.saturating_mul(MORE);
        }
        fast.encode_fast(text, false)
    }

    pub(super) fn bytes(&self, id: u32, bytes: &mut Vec<u8>) {
        if let Some(text) = self.text(id) {
            self.spelling.spell(self.kinds[id as usize], text, bytes);
        }
    }

    pub(super) fn text(&self, id: u32) -> Option<&str> {
        self.texts.get(id as usize).map(String::as_str)
    }

    pub(super) fn id(&self, text: &str) -> Option<u32> {
        self.parsing.token_to_id(text)
    }

    pub(super) fn len(&self) -> usize {
        self.texts.len()
    }
}

/// How many of the first tokens of a text's beginning no going on can change.
///
/// Words are found from the front, and each is cut into tokens by itself. So what follows the beginning counts for its last
/// word, for an added token that begins within `reach` of its end, and through whitespace and marks that belong to either. None of
/// it counts for the words before a character that is there to be seen and joins nothing before it.
fn settled(encoding: &Encoding, beginning: &str, reach: usize) -> usize {
    let stands_alone = |c: char| c.is_ascii_graphic() || ('\u{3400}'..='\u{9fff}').contains(&c);
    let end = beginning.floor_char_boundary(beginning.len().saturating_sub(reach));
    let Some(wall) = beginning[..end].rfind(stands_alone) else { return 0 };
    let (places, words) = (encoding.get_offsets(), encoding.get_word_ids());
    match places.iter().position(|&(_, end)| end > wall) {
        Some(first) => words.iter().take_while(|&&word| word < words[first]).count(),
        // The rules drop it.
        None => 0,
    }
}

/// A sequence that begins with its token twice, because its text does, keeps one.
fn begun_once(mut ids: Vec<u32>, marks: &Marks) -> Vec<u32> {
    if let ([first, second, ..], Some(bos)) = (&ids[..], marks.bos)
        && *first == bos
        && *second == bos
    {
        ids.remove(0);
    }
    ids
}

/// How many times as long a text may become by an object of tokenizer.json that replaces, and those that it is a sequence of.
fn growth(value: &Value) -> f64 {
    let lists = ["normalizers", "pretokenizers"].iter().filter_map(|list| value[list].as_array()).flatten();
    let own = match (value["content"].as_str(), value["pattern"]["String"].as_str()) {
        (Some(content), Some(pattern)) => content.len() as f64 / pattern.len().max(1) as f64,
        // An expression may find what is empty.
        (Some(content), None) => content.len() as f64 + 1.0,
        _ => 1.0,
    };
    lists.map(growth).fold(own.max(1.0), |product, growth| product * growth)
}

/// Whether an object of tokenizer.json, or one that it is a sequence of, is of this type.
fn has_type(value: &Value, kind: &str) -> bool {
    value["type"] == kind
        || ["decoders", "pretokenizers"]
            .iter()
            .filter_map(|list| value[list].as_array())
            .flatten()
            .any(|value| value["type"] == kind)
}

/// What the `tokenizers` crate does with a file's rules, some of which it takes for granted and panics without: a template
/// whose tokens are in no table, pieces of length 0, a character map that ends too early.
fn guarded<T>(work: impl FnOnce() -> T) -> std::result::Result<T, String> {
    thread_local! {
        static GUARDED: Cell<bool> = const { Cell::new(false) };
    }
    static HOOK: Once = Once::new();
    // What the panic would print is said in the error.
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !GUARDED.try_with(Cell::get).unwrap_or(false) {
                usual(panic);
            }
        }));
    });
    GUARDED.set(true);
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    GUARDED.set(false);
    done.map_err(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        format!("its rules do not fit together ({})", said.unwrap_or("they make the tokeniser stop"))
    })
}

fn read_marks(folder: &Folder, fast: &Fast, len: usize) -> Result<Marks> {
    let mut files = Vec::new();
    for name in ["generation_config.json", "config.json"] {
        files.push((name, folder.settings(name)?));
    }
    // A number, or several. Small models that are made of a family's usual settings have numbers beyond their tokens.
    let numbered = |(name, file): &(&str, Value), key: &str| -> Result<Vec<u32>> {
        let value = &file[key];
        let values = match value {
            Value::Null => &[],
            Value::Array(values) => &values[..],
            one => std::slice::from_ref(one),
        };
        if values.iter().any(|value| value.as_i64().is_none()) {
            let problem = format!("it is {value}, expected a token's number or a list of them");
            let file = folder.path().join(name).display().to_string();
            return Err(Error::Malformed { file, field: key.to_owned(), problem });
        }
        let ids = values.iter().filter_map(Value::as_u64).filter(|&id| id < len as u64);
        Ok(ids.map(|id| id as u32).collect())
    };
    let mut numbers = BTreeMap::<&str, Vec<u32>>::new();
    for key in ["bos_token_id", "eos_token_id"] {
        for file in &files {
            numbers.entry(key).or_default().extend(numbered(file, key)?);
        }
    }
    let mark = |name: &str, id: &str| {
        let named = folder.special_token(name)?.and_then(|text| fast.token_to_id(&text));
        Ok::<_, Error>(named.or_else(|| numbers[id].first().copied()))
    };
    let (bos, eos) = (mark("bos_token", "bos_token_id")?, mark("eos_token", "eos_token_id")?);
    let mut ends = special::ends(|text| fast.token_to_id(text));
    ends.extend(eos);
    ends.extend(&numbers["eos_token_id"]);
    Ok(Marks { bos, eos, ends })
}

#[cfg(test)]
mod tests;
