//! Any bytes as a model: the header, every array and tensor, the tokeniser.
#![no_main]

use libfuzzer_sys::fuzz_target;
use regard_models::gguf::{Gguf, dequantize};
use regard_models::tokenizer::{Special, Tokenizer};

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = Gguf::parse(bytes.to_vec(), "fuzz.gguf") else { return };
    for (key, _) in file.metadata() {
        let _ = (file.strings(key).is_ok(), file.i32s(key).is_ok(), file.f32s(key).is_ok());
    }
    let (mut bytes, mut numbers) = (Vec::new(), Vec::new());
    for tensor in file.tensors() {
        file.read_tensor(tensor, &mut bytes).expect("a tensor lies in its file");
        if let Ok(kind) = file.kind(tensor) {
            numbers.resize((tensor.row_len() * tensor.rows()) as usize, 0.0);
            dequantize(kind, &bytes, &mut numbers);
        }
    }
    if let Ok(tokenizer) = Tokenizer::from_gguf(&file) {
        let text = "<|im_start|>user\nIt's 12 o'clock — 好\u{10ffff}<|im_end|>";
        let ids = tokenizer.encode(text, Special::Parse).expect("any text has tokens");
        tokenizer.decode(&ids);
    }
});
