//! Token ids against llama.cpp's, which `tests/peers/tokens.py` wrote down; and text that comes back.

mod support;

use proptest::prelude::*;
use regard_models::gguf::Gguf;
use regard_models::tokenizer::{Special, Tokenizer};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::sync::LazyLock;
use support::{fetched, fixture, json};

const MODEL: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// A string as the format writes it.
fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// The bytes of a file with one run of bytes exchanged for another.
fn exchange(bytes: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    let at = bytes.windows(old.len()).position(|window| window == old).expect("the file holds the old bytes");
    [&bytes[..at], new, &bytes[at + old.len()..]].concat()
}

/// The small vocabulary with the named pre-tokeniser.
fn small(pre: &str) -> Gguf {
    let head = [string("tokenizer.ggml.pre"), 8_u32.to_le_bytes().to_vec()].concat();
    let [old, new] = ["smollm", pre].map(|name| [head.clone(), string(name)].concat());
    let bytes = std::fs::read(fixture("tokens-small.gguf")).unwrap();
    Gguf::parse(exchange(&bytes, &old, &new), "small.gguf").unwrap()
}

fn check(tokenizer: &Tokenizer, reference: &Value) {
    let cases = reference["cases"].as_array().unwrap();
    assert!(cases.len() > 30);
    for case in cases {
        let text = case["text"].as_str().unwrap();
        for (special, key) in [(Special::Parse, "parsed"), (Special::AsText, "as_text")] {
            assert_eq!(tokenizer.encode(text, special).unwrap(), ids(&case[key]), "{text:?} {special:?}");
        }
    }
    assert_eq!(tokenizer.ends().collect::<Vec<_>>(), ids(&reference["ends"]));
    for id in 0..tokenizer.vocab_size() as u32 {
        assert_eq!(tokenizer.ends_generation(id), tokenizer.ends().any(|end| end == id));
    }
}

#[test]
fn a_small_vocabulary_under_every_pre_tokeniser() {
    let reference = json("tokens.json");
    let pres = reference["small"].as_object().unwrap();
    assert_eq!(pres.len(), 5);
    for (pre, reference) in pres {
        println!("{pre}");
        let tokenizer = Tokenizer::from_gguf(&small(pre)).unwrap();
        check(&tokenizer, reference);
        assert_eq!(tokenizer.encode_sequence("Hello", Special::AsText).unwrap(), ids(&reference["sequence"]));
    }
}

#[test]
fn smollm2() {
    let Some(path) = fetched(MODEL) else { return };
    let tokenizer = Tokenizer::from_gguf(&Gguf::open(&path).unwrap()).unwrap();
    let reference = &json("tokens.json")["smollm2"];
    check(&tokenizer, reference);
    assert_eq!(tokenizer.vocab_size(), 49152);

    for (name, chunks) in reference["chunks"].as_object().unwrap() {
        let Some(path) = fetched(name) else { return };
        let text = std::fs::read(path).unwrap();
        let chunks = chunks.as_array().unwrap();
        assert_eq!(text.chunks(64 << 10).len(), chunks.len());
        for (index, (bytes, chunk)) in text.chunks(64 << 10).zip(chunks).enumerate() {
            let text = String::from_utf8_lossy(bytes);
            let ids = tokenizer.encode(&text, Special::AsText).unwrap();
            assert_eq!(ids.len() as u64, chunk[0].as_u64().unwrap(), "{name}, chunk {index}");
            let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
            let hash: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hash, chunk[1].as_str().unwrap(), "{name}, chunk {index}");
            if name != "noise.jpg" {
                assert_eq!(tokenizer.decode(&ids), text, "{name}, chunk {index}");
            }
        }
    }
}

static SMOLLM: LazyLock<Tokenizer> = LazyLock::new(|| Tokenizer::from_gguf(&small("smollm")).unwrap());

/// Texts of characters that the small vocabulary has tokens for, with its special tokens among them.
fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "[ -~\n\t]{0,12}",
        "[àéøж你😀\u{301}]{1,4}",
        prop::sample::select(vec!["<|im_end|>", "<tool>", "<|end|>", "<|end_of|>", "<|", "<tool><tool>"])
            .prop_map(str::to_owned),
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn text_comes_back(text in text()) {
        let ids = SMOLLM.encode(&text, Special::AsText).unwrap();
        prop_assert_eq!(SMOLLM.decode(&ids), text);
    }

    #[test]
    fn a_stream_says_what_decoding_says(ids in prop::collection::vec(0_u32..720, 0..40)) {
        let mut stream = SMOLLM.stream();
        let mut text = String::new();
        for &id in &ids {
            text += stream.push(id);
        }
        text += stream.finish();
        prop_assert_eq!(text, SMOLLM.decode(&ids));
    }

    #[test]
    fn a_stream_shows_whole_characters_as_soon_as_they_are_whole(text in text()) {
        let mut stream = SMOLLM.stream();
        let mut shown = String::new();
        let mut bytes = Vec::new();
        for id in SMOLLM.encode(&text, Special::AsText).unwrap() {
            shown += stream.push(id);
            SMOLLM.bytes(id, &mut bytes);
            let whole = std::str::from_utf8(&bytes).map_or_else(|error| error.valid_up_to(), str::len);
            prop_assert_eq!(shown.as_bytes(), &bytes[..whole]);
        }
        prop_assert_eq!(stream.finish(), "");
    }
}

#[test]
fn a_control_token_has_no_text() {
    let ids = SMOLLM.encode("a<|im_end|>b<tool>", Special::Parse).unwrap();
    assert_eq!(SMOLLM.decode(&ids), "ab<tool>");
    assert_eq!(ids[1], SMOLLM.token_id("<|im_end|>").unwrap());
    assert_eq!(SMOLLM.token_text(ids[1]), Some("<|im_end|>"));
    assert!(SMOLLM.ends_generation(ids[1]));
}

#[test]
fn bytes_without_a_token_are_left_out() {
    // U+40000 starts with a byte that the vocabulary has no token for.
    let ids = SMOLLM.encode("a\u{40000}b", Special::AsText).unwrap();
    assert_eq!(SMOLLM.decode(&ids), String::from_utf8_lossy(b"a\x80\x80\x80b"));
}

#[test]
fn what_is_unknown_is_refused_by_name() {
    let error = Tokenizer::from_gguf(&small("tekken")).err().unwrap().to_string();
    assert_eq!(
        error,
        "small.gguf: tokenizer.ggml.pre: pre-tokeniser \"tekken\" is not supported (supported: default, gpt-2, \
         llama-bpe, qwen2, smollm)"
    );
    let bytes = std::fs::read(fixture("tokens-small.gguf")).unwrap();
    let head = [string("tokenizer.ggml.model"), 8_u32.to_le_bytes().to_vec()].concat();
    let [old, new] = ["gpt2", "llama"].map(|name| [head.clone(), string(name)].concat());
    let file = Gguf::parse(exchange(&bytes, &old, &new), "llama.gguf").unwrap();
    let error = Tokenizer::from_gguf(&file).err().unwrap().to_string();
    assert_eq!(error, "llama.gguf: tokenizer.ggml.model: tokeniser \"llama\" is not supported (supported: gpt2)");
}

#[test]
fn a_vocabulary_that_does_not_fit_together_is_refused() {
    let bytes = std::fs::read(fixture("tokens-small.gguf")).unwrap();
    let cases = [
        (string("Ġ t"), string("Ġ \u{7f}"), "tokenizer.ggml.merges: merge 2, \"Ġ \\u{7f}\", does not join"),
        (string("<reponame>"), string("<|im_end|>"), "tokenizer.ggml.tokens: tokens 1 and 5 are both"),
        (
            [string("tokenizer.ggml.eos_token_id"), [4, 0, 0, 0, 1, 0].to_vec()].concat(),
            [string("tokenizer.ggml.eos_token_id"), [4, 0, 0, 0, 1, 9].to_vec()].concat(),
            "tokenizer.ggml.eos_token_id: 2305 is beyond the",
        ),
    ];
    for (old, new, message) in cases {
        let file = Gguf::parse(exchange(&bytes, &old, &new), "bad.gguf").unwrap();
        let error = Tokenizer::from_gguf(&file).err().unwrap().to_string();
        assert!(error.starts_with(&format!("bad.gguf: {message}")), "{error}");
    }
}
