//! Any bytes as one of the files of a folder, beside others that are sound: settings, headers of weights, tokeniser, template
//! and modules; then a few tokens through what it describes, as a decoder and as an encoder, and the folder as a GGUF file.
#![no_main]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use regard_models::chat::{Message, Turn};
use regard_models::gguf::WeightFormat;
use regard_models::tokenizer::Special;
use regard_models::{CacheDtype, Conversion, Encoder, Folder, LoadOptions, Model, Precision};

const OPTIONS: LoadOptions = LoadOptions { threads: Some(1), isa: None };

/// A folder and the file of it that is replaced.
const FILES: [(&str, &str); 16] = [
    ("folders/llama-dynamic", "config.json"),
    ("folders/llama-dynamic", "model.safetensors"),
    ("folders/llama-dynamic", "tokenizer.json"),
    ("folders/llama-dynamic", "tokenizer_config.json"),
    ("folders/mistral", "model.safetensors.index.json"),
    ("encoders/mpnet", "config.json"),
    ("encoders/mpnet", "modules.json"),
    ("encoders/mpnet", "1_Pooling/config.json"),
    ("encoders/mpnet", "tokenizer.json"),
    ("folders/qwen3", "config.json"),
    ("folders/llama-pieces", "tokenizer.json"),
    ("folders/llama-dynamic", "generation_config.json"),
    ("folders/llama-dynamic", "special_tokens_map.json"),
    ("folders/llama-dynamic", "chat_template.jinja"),
    ("encoders/mpnet", "sentence_bert_config.json"),
    ("encoders/mpnet", "config_sentence_transformers.json"),
];

/// Copies of the folders, of this process alone.
static COPIES: LazyLock<PathBuf> = LazyLock::new(|| {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/regard-models/tests/data");
    let copies = std::env::temp_dir().join(format!("regard-fuzz-{}", std::process::id()));
    for folder in [
        "folders/llama-dynamic",
        "folders/llama-pieces",
        "folders/qwen3",
        "folders/mistral",
        "encoders/mpnet",
        "encoders/mpnet/1_Pooling",
    ] {
        fs::create_dir_all(copies.join(folder)).expect("a folder");
        for entry in
            fs::read_dir(data.join(folder)).expect("the fixture").flatten().filter(|entry| entry.path().is_file())
        {
            fs::copy(entry.path(), copies.join(folder).join(entry.file_name())).expect("a copy");
        }
    }
    copies
});

fuzz_target!(|bytes: &[u8]| {
    let [which, content @ ..] = bytes else { return };
    let (folder, name) = FILES[usize::from(*which) % FILES.len()];
    let folder = COPIES.join(folder);
    let path = folder.join(name);
    // Some files are there only when they are spoiled.
    let sound = fs::read(&path).ok();
    // Of the weights the header, before the numbers as they are.
    let spoiled = if let Some(sound) = sound.as_ref().filter(|_| name == "model.safetensors") {
        let header = u64::from_le_bytes(sound[..8].try_into().expect("eight bytes")) as usize;
        [&(content.len() as u64).to_le_bytes(), content, &sound[8 + header..]].concat()
    } else {
        content.to_vec()
    };
    fs::write(&path, spoiled).expect("a copy");
    if folder.ends_with("mpnet") {
        if let Ok(encoder) = Encoder::load(&folder, Precision::F32, &OPTIONS) {
            let _ = encoder.encode(&["the whale", "", "a sea of ships <s>"]).is_ok();
        }
    } else if let Ok(model) = Model::load(&folder, &OPTIONS) {
        if let Ok(mut session) = model.session(16, CacheDtype::F16) {
            let _ = session.feed(&[0, 1, 2]).is_ok();
        }
        let _ = model.tokenizer().encode("a b <|im_end|>", Special::AsText).is_ok();
        let _ =
            model.chat_template().map(|template| template.render(&[Message::new("user", "Hi!")], Turn::Open).is_ok());
    }
    if let Ok(folder) = Folder::open(&folder)
        && let Ok(conversion) = Conversion::new(&folder, WeightFormat::Q8_0)
    {
        let _ = conversion.write(&mut std::io::sink(), &mut |_| ()).is_ok();
    }
    match sound {
        Some(sound) => fs::write(&path, sound),
        None => fs::remove_file(&path),
    }
    .expect("a copy");
});
