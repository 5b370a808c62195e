//! Texts that are cut, against the same texts tokenised whole.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn data(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(folder)
}

/// Tokenisers of every kind that encoders and decoders have, and one that cuts no words.
fn tokenisers() -> Vec<(Words, Marks)> {
    let names = ["encoders/bert", "folders/qwen3", "folders/gemma3", "folders/llama-pieces"];
    let mut all: Vec<_> = names.map(|name| Words::read(&Folder::open(&data(name)).unwrap()).unwrap()).into();
    all.extend([bert(), unigram(), letters()].map(|tokenizer| in_folder(&tokenizer)));
    all
}

fn in_folder(tokenizer: &Value) -> (Words, Marks) {
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(data("encoders/bert").join(name), folder.path().join(name)).unwrap();
    }
    fs::write(folder.path().join(NAME), tokenizer.to_string()).unwrap();
    Words::read(&Folder::open(folder.path()).unwrap()).unwrap()
}

fn added(id: u32, content: &str, strips: bool) -> Value {
    json!({ "id": id, "content": content, "single_word": false, "lstrip": strips, "rstrip": strips, "normalized": strips,
        "special": false })
}

fn around(begin: &str, end: &str) -> Value {
    json!({ "type": "RobertaProcessing", "sep": [end, 1], "cls": [begin, 0], "trim_offsets": true, "add_prefix_space": false })
}

/// As the large ones of BERT's family have it: accents are stripped, and each ideograph is a word.
fn bert() -> Value {
    let words = ["[CLS]", "[SEP]", "[UNK]", "the", "whale", "##s", "a", "##b", "##a", "b", ".", "鲸", "e", "##e", "!"];
    let vocabulary: serde_json::Map<_, _> =
        words.iter().zip(0..).map(|(word, id)| (word.to_string(), json!(id))).collect();
    json!({
        "added_tokens": [added(15, "<mask>", true), added(16, "a  b.", false)],
        "normalizer": { "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": { "type": "BertProcessing", "sep": ["[SEP]", 1], "cls": ["[CLS]", 0] },
        "model": { "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": vocabulary },
    })
}

/// SentencePiece's pieces in words, as XLM-RoBERTa has them.
fn unigram() -> Value {
    let pieces =
        ["<s>", "</s>", "<unk>", "▁", "▁the", "▁wh", "ale", "s", "a", "b", "e", "ab", "▁a", ".", "鲸", "é", "aba", "!"];
    let pieces: Vec<Value> = pieces.iter().zip(0..).map(|(piece, at)| json!([piece, -f64::from(at)])).collect();
    json!({
        "added_tokens": [added(18, "<mask>", true)],
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "NFKC" }, { "type": "Strip", "strip_left": false, "strip_right": true },
            { "type": "Replace", "pattern": { "Regex": " {2,}" }, "content": " " },
        ] },
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [
            { "type": "WhitespaceSplit" }, { "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true },
        ] },
        "post_processor": around("<s>", "</s>"),
        "model": { "type": "Unigram", "unk_id": 2, "vocab": pieces },
    })
}

/// A letter for each byte, in the words of GPT-2's rule.
fn letters() -> Value {
    let alphabet = (0..=255).map(super::super::alphabet::letter).map(String::from);
    let words =
        ["<s>", "</s>"].map(String::from).into_iter().chain(alphabet).chain(["Ġt", "he", "ĠĠ", "ab"].map(String::from));
    let vocabulary: serde_json::Map<_, _> = words.zip(0..).map(|(word, id)| (word, json!(id))).collect();
    json!({
        "added_tokens": [added(262, "<mask>", true)],
        "normalizer": { "type": "NFC" },
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "decoder": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "post_processor": around("<s>", "</s>"),
        "model": { "type": "BPE", "vocab": vocabulary, "merges": ["Ġ t", "h e", "Ġ Ġ", "a b"] },
    })
}

/// Words, and what may reach back from where a text is cut.
fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        6 => prop::sample::select(vec!["the ", "whale", "whales ", "a", "b", "ab", "aba ", "e", "3", "'s "]).prop_map(String::from),
        2 => prop::sample::select(vec![".", "!", ", ", "鲸", "。", "\n", "\r\n", "<mask>", "<ma", "sk>", "a  b.", "🐋"]).prop_map(String::from),
        1 => (prop::sample::select(vec![" ", "\n", "a", "\u{301}", "\u{323}", "e\u{301}", "鲸", "ж", "9", "-", "\u{200d}"]), 1..200_usize)
            .prop_map(|(piece, times)| piece.repeat(times)),
        1 => any::<char>().prop_map(String::from),
    ];
    prop::collection::vec(piece, 0..400).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    /// A text that is cut has the tokens that it has whole, but for those in its middle.
    #[test]
    fn a_cut_changes_no_token(text in text(), limit in 2..60_usize, repeat in 1..4_usize) {
        let text = text.repeat(repeat);
        for (words, marks) in tokenisers() {
            for special in [Special::AsText, Special::Parse] {
                let fast = words.fast(special);
                let around = fast.get_post_processor().map_or(0, |processor| processor.added_tokens(false));
                let mut whole = words.encode_sequence(&text, special, &marks).unwrap();
                if whole.len() > limit && around <= limit {
                    // One before it, or one before and one behind.
                    let end = whole.split_off(whole.len() - around.saturating_sub(1));
                    whole.truncate(limit - end.len());
                    whole.extend(end);
                }
                whole.truncate(limit);
                prop_assert_eq!(words.encode_up_to(&text, special, &marks, limit).unwrap(), whole);
            }
        }
    }
}

#[test]
fn of_a_long_text_only_the_beginning_is_looked_at() {
    let text = "the whales, a ab.\n鲸鲸\t".repeat(100_000);
    for (index, (words, _)) in tokenisers().into_iter().enumerate() {
        let beginning = words.beginning(words.fast(Special::AsText), &text, 64).unwrap();
        assert_eq!(index != 3, beginning.len() < 10_000, "{index}: {} tokens", beginning.len());
    }
}
