//! Any bytes as a whole model: what the description says of it, its weights, and a few tokens through it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use regard_models::gguf::Gguf;
use regard_models::{CacheDtype, LoadOptions, Model};

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = Gguf::parse(bytes.to_vec(), "fuzz.gguf") else { return };
    let Ok(model) = Model::from_gguf(&file, &LoadOptions { threads: Some(1), isa: None }) else { return };
    let Ok(mut session) = model.session(16, CacheDtype::F16) else { return };
    let _ = session.feed(&[0, 1, 2]).is_ok();
    let _ = session.feed(&[3]).is_ok();
});
