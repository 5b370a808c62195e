//! Any text as a JSON schema, and a few tokens of a text that is held to it.
#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use regard_models::generate::{Generator, Grammar};
use regard_models::sampling::SamplingOptions;
use regard_models::{CacheDtype, LoadOptions, Model};

static MODEL: LazyLock<Model> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/regard-models/tests/data/folders/qwen3");
    Model::load(&folder, &LoadOptions { threads: Some(1), isa: None }).expect("the fixture is sound")
});

fuzz_target!(|schema: &str| {
    let Ok(grammar) = Grammar::json_schema(schema, &MODEL) else { return };
    let session = MODEL.session(16, CacheDtype::F16).expect("a session");
    let generator = Generator::new(session, SamplingOptions::greedy()).expect("sound options");
    let Ok(mut generator) = generator.with_grammar(grammar) else { return };
    if generator.read(&[0]).is_ok() {
        while let Ok(Some(token)) = generator.next_token() {
            if MODEL.tokenizer().ends_generation(token) {
                break;
            }
        }
    }
});
