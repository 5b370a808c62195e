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

    check_chunks(&tokenizer, reference, true);
}

/// Long texts, by the digests of the ids of their parts.
fn check_chunks(tokenizer: &Tokenizer, reference: &Value, comes_back: bool) {
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
            // Spaces that llama.cpp puts before a text, and behind tokens that are looked for in it, come back too.
            if comes_back && name != "noise.jpg" {
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
        "small.gguf: tokenizer.ggml.pre: pre-tokeniser \"tekken\" is not supported (supported: llama-bpe, \
         qwen2, gpt-2, smollm, default)"
    );
    let bytes = std::fs::read(fixture("tokens-small.gguf")).unwrap();
    let head = [string("tokenizer.ggml.model"), 8_u32.to_le_bytes().to_vec()].concat();
    let [old, new] = ["gpt2", "t5"].map(|name| [head.clone(), string(name)].concat());
    let file = Gguf::parse(exchange(&bytes, &old, &new), "t5.gguf").unwrap();
    let error = Tokenizer::from_gguf(&file).err().unwrap().to_string();
    assert_eq!(error, "t5.gguf: tokenizer.ggml.model: tokeniser \"t5\" is not supported (supported: gpt2, llama)");
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

fn check_pieces(tokenizer: &Tokenizer, reference: &Value, comes_back: bool) {
    check(tokenizer, reference);
    assert_eq!(tokenizer.encode_sequence("Hello", Special::AsText).unwrap(), ids(&reference["sequence"]));
    check_chunks(tokenizer, reference, comes_back);
}

#[test]
fn pieces_merge_by_score() {
    let reference = json("pieces.json");
    for name in ["llama", "gemma", "phi3"] {
        println!("{name}");
        let file = Gguf::open(&fixture(&format!("pieces-{name}.gguf"))).unwrap();
        check_pieces(&Tokenizer::from_gguf(&file).unwrap(), &reference[name], name == "gemma");
    }
}

/// A published vocabulary, which `tests/peers/pieces.py --real` wrote.
#[test]
fn published_pieces() {
    let Some(path) = std::env::var_os("REGARD_PIECES").map(std::path::PathBuf::from) else {
        eprintln!("SKIPPED: REGARD_PIECES names no file");
        return;
    };
    let reference = std::fs::read(path.with_extension("json")).unwrap();
    let tokenizer = Tokenizer::from_gguf(&Gguf::open(&path).unwrap()).unwrap();
    check_pieces(&tokenizer, &serde_json::from_slice(&reference).unwrap(), false);
}

#[test]
fn pieces_say_what_they_stand_for() {
    let open = |name: &str| Tokenizer::from_gguf(&Gguf::open(&fixture(name)).unwrap()).unwrap();
    let tokenizer = open("pieces-gemma.gguf");
    for text in ["Call me Ishmael.", "  two spaces, \ttab\n\nand ☃ 😀 <s>", ""] {
        let ids = tokenizer.encode(text, Special::AsText).unwrap();
        assert_eq!(tokenizer.decode(&ids), text);
    }
    // The space that is put before a text is part of what it says.
    let tokenizer = open("pieces-llama.gguf");
    let ids = tokenizer.encode("Call me", Special::AsText).unwrap();
    assert_eq!(tokenizer.decode(&ids), " Call me");
    // A control token that is typed is text.
    let typed = tokenizer.encode("<s></s><|end|>", Special::AsText).unwrap();
    let controls = ["<s>", "</s>", "<|end|>"].map(|text| tokenizer.token_id(text).unwrap());
    assert!(typed.iter().all(|id| !controls.contains(id)), "{typed:?}");
}

#[test]
fn a_vocabulary_of_pieces_that_does_not_fit_together_is_refused() {
    let bytes = std::fs::read(fixture("pieces-llama.gguf")).unwrap();
    let key = |name: &str| string(&format!("tokenizer.ggml.{name}"));
    let cases = [
        (key("scores"), key("scared"), "tokenizer.ggml.scores: missing"),
        (
            [key("scores"), vec![9, 0, 0, 0, 6, 0, 0, 0]].concat(),
            [key("scores"), vec![9, 0, 0, 0, 5, 0, 0, 0]].concat(),
            "tokenizer.ggml.scores: expected an array of f32",
        ),
    ];
    for (old, new, message) in cases {
        let file = Gguf::parse(exchange(&bytes, &old, &new), "bad.gguf").unwrap();
        let error = Tokenizer::from_gguf(&file).err().unwrap().to_string();
        assert!(error.starts_with(&format!("bad.gguf: {message}")), "{error}");
    }
    // The key is followed by two types and a length.
    let fifth = bytes.windows(key("scores").len()).position(|window| window == key("scores")).unwrap()
        + key("scores").len()
        + 16
        + 5 * 4;
    for score in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut bytes = bytes.clone();
        bytes[fifth..fifth + 4].copy_from_slice(&score.to_le_bytes());
        let error = Tokenizer::from_gguf(&Gguf::parse(bytes, "bad.gguf").unwrap()).err().unwrap().to_string();
        let problem = format!("that of token 5 is {score}, expected a finite number");
        assert_eq!(error, format!("bad.gguf: tokenizer.ggml.scores: {problem}"));
    }
}
