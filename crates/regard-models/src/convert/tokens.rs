//! The tokens of a folder, as GGUF files state them.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::chat::{self, ChatTemplate};
use crate::folder::Folder;
use crate::gguf::{Gguf, Setting, header};
use crate::tokenizer::{Kind, MAX_TOKENS, PRE_TOKENIZERS, Special, Tokenizer, byte};
use crate::{Error, Result};

const NAME: &str = "tokenizer.json";

/// Every pre-tokeniser cuts this in a way of its own.
const PROBE: &str = "I'm sure we'll DON'T  they've  1 12 123 1234567 3.14159 x1y22z333 0x7f\n\n\t def f(x):\n    return \
    x**2;  \r\n  $100 €200 100% #tag a_b-c.d/e https://example.org/?a=b&c=%20d !!!???... ((a)) [b] {c} <d> \"quoted\" «g» — … \
    naïve café Straße Ærø Привет, мир! Γειά σου 你好，世界。こんにちは 안녕하세요 مرحبا שלום नमस्ते สวัสดี ½²Ⅷ٣ \
    😀👩‍👧🏳️‍🌈👍🏽 ∀x∈ℝ 𝒜 \u{a0}\u{2003}\u{3000}end\u{200b} trailing   ";

/// The tokens of a folder whose model has so many, and its template. What is written is read again, and held against the
/// folder's own tokeniser: so the name of the pre-tokeniser is found, which a folder does not have.
pub(super) fn of(folder: &Folder, vocabulary: usize) -> Result<Vec<(String, Setting)>> {
    let file = folder.path().join(NAME).display().to_string();
    let unsupported = |field: &str, found: &str, supported: &str| Error::Unsupported {
        file: file.clone(),
        field: field.to_owned(),
        found: found.to_owned(),
        supported: supported.to_owned(),
    };
    if vocabulary > MAX_TOKENS {
        return Err(Error::Unsupported {
            file: folder.path().join("config.json").display().to_string(),
            field: "vocab_size".to_owned(),
            found: vocabulary.to_string(),
            supported: format!("up to {MAX_TOKENS}"),
        });
    }
    let tokenizer = Tokenizer::from_folder(folder)?;
    let json = folder.json(NAME)?.unwrap_or_default();
    let model = &json["model"];
    if model["type"].as_str().is_some_and(|kind| kind != "BPE") {
        return Err(unsupported("model.type", &format!("tokeniser {}", model["type"]), "BPE"));
    }
    let pieces = model["byte_fallback"] == true;
    let (texts, types) = tokens(&json, vocabulary, pieces);
    for (id, text) in (0..).zip(&texts).filter(|(id, _)| types[*id as usize] != Kind::Unused.number()) {
        let own = tokenizer.token_text(id).unwrap_or_default();
        if own != text && own.replace('▁', " ") != *text {
            let problem = format!("token {id} is both {own:?} and {text:?}");
            return Err(Error::Malformed { file: file.clone(), field: "added_tokens".to_owned(), problem });
        }
    }
    let merges = merges(model).ok_or_else(|| Error::Malformed {
        file: file.clone(),
        field: "model.merges".to_owned(),
        problem: "expected pairs of tokens".to_owned(),
    })?;

    let mut common = vec![set("tokens", Setting::Strings(texts.clone())), set("token_type", Setting::I32s(types))];
    common.extend(marks(folder, &tokenizer)?);
    if let Some((_, source)) = ChatTemplate::source_in(folder)? {
        common.push((chat::KEY.to_owned(), Setting::String(source)));
    }
    let candidates: Vec<Vec<(String, Setting)>> = if pieces {
        let begins = tokenizer.encode("a", Special::Parse)?.first().and_then(|&id| tokenizer.token_text(id));
        let space = begins.is_some_and(|text| text.starts_with('▁'));
        let own = [
            set("model", Setting::String("llama".to_owned())),
            set("pre", Setting::String("default".to_owned())),
            set("scores", Setting::F32s(scores(&texts, &merges))),
            set("add_space_prefix", Setting::Bool(space)),
        ];
        vec![own.to_vec()]
    } else {
        let merges: Vec<String> = merges.iter().map(|[left, right]| format!("{left} {right}")).collect();
        let named = |pre: &&str| {
            let own = [
                set("model", Setting::String("gpt2".to_owned())),
                set("pre", Setting::String((*pre).to_owned())),
                set("merges", Setting::Strings(merges.clone())),
            ];
            own.to_vec()
        };
        PRE_TOKENIZERS.iter().map(named).collect()
    };
    let mut problem = None;
    for own in candidates {
        let settings = [own, common.clone()].concat();
        match read_again(&settings, &file) {
            Ok(written) if agree(&tokenizer, &written)? => return Ok([settings, ends(&tokenizer, &written)].concat()),
            Ok(_) => {}
            Err(error) => problem = Some(error),
        }
    }
    match problem {
        Some(error) => Err(error),
        None => Err(unsupported(
            "tokeniser",
            "a way to cut texts that GGUF files have no name for",
            &PRE_TOKENIZERS.join(", "),
        )),
    }
}

fn set(key: &str, value: Setting) -> (String, Setting) {
    (format!("tokenizer.ggml.{key}"), value)
}

/// The texts and types of so many tokens. Those that the model has no embedding for are left out, and embeddings without a
/// token get one that no text asks for.
fn tokens(json: &Value, vocabulary: usize, pieces: bool) -> (Vec<String>, Vec<i32>) {
    let mut texts: Vec<String> = (0..vocabulary).map(|id| format!("[PAD{id}]")).collect();
    let mut types = vec![Kind::Unused.number(); vocabulary];
    let mut put = |id: &Value, text: String, kind: Kind| {
        let id = id.as_u64().and_then(|id| usize::try_from(id).ok()).filter(|&id| id < vocabulary);
        if let Some(id) = id {
            (texts[id], types[id]) = (text, kind.number());
        }
    };
    let unknown = json["model"]["unk_token"].as_str().filter(|_| pieces);
    for (text, id) in json["model"]["vocab"].as_object().into_iter().flatten() {
        let is_byte = pieces && byte(text).is_some();
        put(id, text.clone(), if is_byte { Kind::Byte } else { Kind::Normal });
    }
    for added in json["added_tokens"].as_array().into_iter().flatten() {
        let text = added["content"].as_str().unwrap_or_default();
        match added["special"] == true {
            true => {
                put(&added["id"], text.to_owned(), if Some(text) == unknown { Kind::Unknown } else { Kind::Control })
            }
            // Looked for in the text itself, where spaces are spaces.
            false => {
                put(&added["id"], if pieces { text.replace('▁', " ") } else { text.to_owned() }, Kind::UserDefined)
            }
        }
    }
    (texts, types)
}

/// The merges in order: lines of two tokens in old files, pairs in new ones.
fn merges(model: &Value) -> Option<Vec<[String; 2]>> {
    let pair = |merge: &Value| match (merge.as_str(), merge.as_array().map(Vec::as_slice)) {
        (Some(line), _) => line.split_once(' ').map(|(left, right)| [left.to_owned(), right.to_owned()]),
        (None, Some([left, right])) => Some([left.as_str()?.to_owned(), right.as_str()?.to_owned()]),
        _ => None,
    };
    model["merges"].as_array()?.iter().map(pair).collect()
}

/// Scores in whose order pieces merge as in the list: what is never merged has the lowest.
fn scores(texts: &[String], merges: &[[String; 2]]) -> Vec<f32> {
    let mut ranks = std::collections::HashMap::new();
    for (rank, pair) in merges.iter().enumerate() {
        ranks.entry(pair.concat()).or_insert(rank);
    }
    texts.iter().map(|text| -(*ranks.get(text).unwrap_or(&merges.len()) as f32)).collect()
}

/// The tokens that begin and end a text, and whether they are put there.
fn marks(folder: &Folder, tokenizer: &Tokenizer) -> Result<Vec<(String, Setting)>> {
    let mut settings = Vec::new();
    for (name, id) in [("bos", tokenizer.bos()), ("eos", tokenizer.eos())] {
        settings.extend(id.map(|id| set(&format!("{name}_token_id"), Setting::U32(id))));
    }
    let (plain, whole) = (tokenizer.encode("a", Special::Parse)?, tokenizer.encode_sequence("a", Special::Parse)?);
    let at = whole.windows(plain.len().max(1)).position(|window| window == plain);
    let around = at.map(|at| (&whole[..at], &whole[at + plain.len()..]));
    let adds = |ids: &[u32], mark: Option<u32>| match *ids {
        [] => Some(false),
        [id] if Some(id) == mark => Some(true),
        _ => None,
    };
    let both = around.and_then(|(before, after)| Some((adds(before, tokenizer.bos())?, adds(after, tokenizer.eos())?)));
    let (bos, eos) = both.ok_or_else(|| Error::Unsupported {
        file: folder.path().join(NAME).display().to_string(),
        field: "post_processor".to_owned(),
        found: "a template of several tokens".to_owned(),
        supported: "one token that begins a text, and one that ends it".to_owned(),
    })?;
    settings.extend([set("add_bos_token", Setting::Bool(bos)), set("add_eos_token", Setting::Bool(eos))]);
    Ok(settings)
}

/// Tokens that end a generation, beyond those that readers know by their text.
fn ends(tokenizer: &Tokenizer, written: &Tokenizer) -> Vec<(String, Setting)> {
    let known: BTreeSet<u32> = written.ends().collect();
    let more = tokenizer.ends().filter(|end| !known.contains(end));
    more.zip(["eot", "eom"]).map(|(end, name)| set(&format!("{name}_token_id"), Setting::U32(end))).collect()
}

/// The tokeniser that a reader of these settings has.
fn read_again(settings: &[(String, Setting)], file: &str) -> Result<Tokenizer> {
    Tokenizer::from_gguf(&Gguf::parse(header(settings, &[]), file)?)
}

/// Whether both cut texts alike.
fn agree(a: &Tokenizer, b: &Tokenizer) -> Result<bool> {
    for text in [PROBE, "a"] {
        if a.encode_sequence(text, Special::AsText)? != b.encode_sequence(text, Special::AsText)? {
            return Ok(false);
        }
    }
    Ok(true)
}
