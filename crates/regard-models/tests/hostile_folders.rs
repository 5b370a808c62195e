//! Broken and hostile folders: an error that names the file and the field, and nothing worse.

mod support;

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use regard_kernels::RotaryScaling;
use regard_models::chat::{Message, Turn};
use regard_models::description::{Description, Mixer};
use regard_models::{CacheDtype, Encoder, Folder, LoadOptions, Model, Precision};
use serde_json::{Value, json};
use support::fixture;
use tempfile::TempDir;

/// A copy of a sound folder, to be spoiled.
struct Copy(TempDir);

impl Copy {
    fn of(name: &str) -> Copy {
        Copy::from(&fixture("folders").join(name))
    }

    fn from(folder: &Path) -> Copy {
        let copy = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let to = copy.path().join(path.file_name().unwrap());
            if path.is_dir() {
                fs::create_dir(&to).unwrap();
                fs::copy(path.join("config.json"), to.join("config.json")).unwrap();
            } else {
                fs::copy(&path, to).unwrap();
            }
        }
        Copy(copy)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(self, name: &str, content: impl AsRef<[u8]>) -> Copy {
        fs::write(self.path().join(name), content).unwrap();
        self
    }

    fn without(self, name: &str) -> Copy {
        fs::remove_file(self.path().join(name)).unwrap();
        self
    }

    /// With a setting of config.json changed.
    fn set(self, key: &str, value: Value) -> Copy {
        let mut config: Value = serde_json::from_slice(&fs::read(self.path().join("config.json")).unwrap()).unwrap();
        config[key] = value;
        self.write("config.json", config.to_string())
    }

    /// With the header of the weights changed, and the data as it is.
    fn header(self, change: impl FnOnce(&mut Value)) -> Copy {
        let file = fs::read(self.path().join("model.safetensors")).unwrap();
        let len = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        let mut header: Value = serde_json::from_slice(&file[8..8 + len]).unwrap();
        change(&mut header);
        let header = header.to_string();
        let file = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &file[8 + len..]].concat();
        self.write("model.safetensors", file)
    }

    fn load(&self) -> Result<Model, String> {
        let options = LoadOptions { threads: Some(1), isa: None };
        Model::load(self.path(), &options).map_err(|error| error.to_string())
    }

    /// Loading fails, and the message, without the folder's own path, is this.
    fn refused(&self, message: &str) {
        self.says(self.load().err(), message);
    }

    /// The same of an encoder.
    fn is_no_encoder(&self, message: &str) {
        let options = LoadOptions { threads: Some(1), isa: None };
        let error = Encoder::load(self.path(), Precision::F32, &options).err();
        self.says(error.map(|error| error.to_string()), message);
    }

    fn says(&self, error: Option<String>, message: &str) {
        let error = error.unwrap_or_else(|| panic!("loaded, expected {message:?}"));
        let error = error
            .replace(&format!("{}/", self.path().display()), "")
            .replace(&self.path().display().to_string(), "FOLDER");
        assert_eq!(error, message);
    }
}

#[test]
fn the_copy_is_sound() {
    assert!(Copy::of("llama").load().is_ok());
    assert!(Copy::of("mistral").load().is_ok());
}

#[test]
fn files_that_are_not_there() {
    Copy::of("llama").without("config.json").refused(
        "FOLDER: config.json: missing; a folder of a model has config.json, model.safetensors or its shards, and tokenizer.json",
    );
    Copy::of("llama").without("tokenizer.json").refused("FOLDER: tokenizer.json: missing");
    Copy::of("llama").without("model.safetensors").refused("FOLDER: model.safetensors: missing");
    let shard = "model-00002-of-00003.safetensors";
    Copy::of("mistral").without(shard).refused(&format!("FOLDER: {shard}: missing"));
    // What is of use, and can be done without.
    assert!(Copy::of("llama").without("tokenizer_config.json").load().is_ok());
}

#[test]
fn settings_that_make_no_sense() {
    let set = |key: &str, value: Value| Copy::of("llama").set(key, value);
    set("model_type", json!("bloom")).refused(
        "config.json: model_type: model type \"bloom\" is not supported (supported: llama, mistral, qwen2, qwen3, gemma3_text, phi3)",
    );
    set("hidden_size", json!(null)).refused("config.json: hidden_size: missing");
    set("hidden_size", json!("forty"))
        .refused("config.json: hidden_size: expected an unsigned integer of 32 bits, found \"forty\"");
    set("hidden_size", json!(-3))
        .refused("config.json: hidden_size: expected an unsigned integer of 32 bits, found -3");
    set("hidden_size", json!(0)).refused("config.json: hidden_size: it is 0, expected 1 to 16777216");
    set("num_key_value_heads", json!(3))
        .refused("config.json: num_key_value_heads: 4 query heads are no multiple of 3 key/value heads");
    set("num_hidden_layers", json!(4_000_000))
        .refused("config.json: num_hidden_layers: 4000000 blocks in a file of 35 tensors");
    set("rms_norm_eps", json!(-1e-5)).refused("config.json: rms_norm_eps: it is -0.00001, expected a positive number");
    set("hidden_act", json!("relu")).refused(
        "config.json: hidden_act: activation \"relu\" is not supported (supported: silu, gelu, gelu_pytorch_tanh, gelu_new)",
    );
    set("quantization_config", json!({"bits": 4})).refused(
        "config.json: quantization_config: {\"bits\":4} is not supported (supported: weights in F32, F16 and BF16; GGUF files for quantised ones)",
    );
    set("vocab_size", json!(41)).refused("config.json: vocab_size: it is 41, but the embedding has 264 rows");
    set("rope_parameters", json!({"rope_theta": -1.0}))
        .refused("config.json: rope_theta: it is -1, expected a positive number");
    set("rope_parameters", json!([])).refused("config.json: rope_parameters: expected an object, found []");
    set("eos_token_id", json!("</s>"))
        .refused("config.json: eos_token_id: it is \"</s>\", expected a token's number or a list of them");
    let gemma = |key: &str, value: Value| Copy::of("gemma3").set(key, value);
    gemma("sliding_window", json!(0))
        .refused("config.json: sliding_window: it is 0, expected at least 1, or null for none");
    gemma("query_pre_attn_scalar", json!(-4))
        .refused("config.json: query_pre_attn_scalar: it is -4, expected a positive number");
    for name in ["generation_config.json", "tokenizer_config.json"] {
        Copy::of("llama").write(name, "[]").refused(&format!("{name}: JSON: expected an object"));
    }
    set("rope_parameters", json!({"rope_type": "magic", "rope_theta": 1e4})).refused(
        "config.json: rope_type: rotary scaling \"magic\" is not supported (supported: default, linear, dynamic, llama3, yarn, longrope)",
    );
    set("rope_parameters", json!({"rope_type": "linear", "rope_theta": 1e4, "factor": 0}))
        .refused("config.json: factor: it is 0, expected a number over 0");
    set("rope_parameters", json!({"rope_type": "linear", "rope_theta": 1e4}))
        .refused("config.json: rope_parameters.factor: missing");
    Copy::of("phi3").set("rope_parameters", json!({"rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 0.5, "short_factor": [1.0], "long_factor": [1.0, 1.0, 1.0, 1.0]})).refused(
        "config.json: short_factor: expected an array of 4 numbers over 0",
    );
    Copy::of("llama").write("config.json", "[]").refused("config.json: config.json: expected an object");
    let error = Copy::of("llama").write("config.json", "{\"a\": ").load().err().unwrap();
    assert!(error.contains("config.json: JSON: EOF while parsing"), "{error}");
}

#[test]
fn settings_that_say_two_things() {
    let copy = Copy::of("llama");
    // The weights hold biases, which the settings deny.
    let error = copy.set("attention_bias", json!(false)).load().err().unwrap_or_default();
    assert!(
        error.contains("attention_bias: it is false, and the weights hold model.layers.0.self_attn.q_proj.bias"),
        "{error}"
    );
    let gemma = |rotation: Value| Copy::of("gemma3").set("rope_parameters", rotation);
    gemma(json!({"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_type": "linear", "factor": 2.0}}))
        .refused(
            "config.json: rope_parameters.sliding_attention: \"linear\" of layers with a window is not supported (supported: default)",
        );
    gemma(json!({"full_attention": [], "sliding_attention": {}}))
        .refused("config.json: full_attention: expected an object, found []");
    Copy::of("llama")
        .set("rope_parameters", json!({"rope_theta": {"v": 1e6}}))
        .refused("config.json: rope_theta: expected a number, found {\"v\":1000000.0}");
    for (template, said) in [(json!([]), None), (json!({"a": 1}), Some("{\"a\":1}")), (json!(false), Some("false"))] {
        let settings = json!({"chat_template": template}).to_string();
        let copy = Copy::of("llama").write("tokenizer_config.json", settings);
        match said {
            None => assert!(copy.load().unwrap().chat_template().is_none()),
            Some(said) => copy.refused(&format!(
                "tokenizer_config.json: chat_template: it is {said}, expected a text, or a list of texts with names"
            )),
        }
    }
    Copy::of("llama")
        .write("tokenizer_config.json", json!({"bos_token": 5}).to_string())
        .refused("tokenizer_config.json: bos_token: it is 5, expected a text or an object with one");
    Copy::of("llama").without("model.safetensors").write("pytorch_model.bin", "").refused(
        "FOLDER: pytorch_model.bin: a file that runs code when it is read is not supported (supported: model.safetensors: transformers' save_pretrained writes it)",
    );
    let encoder = || Copy::from(&fixture("encoders").join("mpnet"));
    encoder().set("is_decoder", json!(true)).is_no_encoder(
        "config.json: is_decoder: a causal model of this type is not supported (supported: encoders, whose tokens see each other)",
    );
    let module = |name: &str, path: &str| json!({"type": format!("sentence_transformers.models.{name}"), "path": path});
    let modules = json!([module("Transformer", ""), module("Normalize", "2"), module("Pooling", "1_Pooling")]);
    encoder().write("modules.json", modules.to_string()).is_no_encoder(
        "modules.json: type: Pooling in this place is not supported (supported: Transformer, then Pooling, then Normalize or nothing)",
    );
}

/// What transformers takes where a file says nothing.
#[test]
fn settings_that_are_left_out_are_the_familys() {
    let without = |name: &str, keys: &[&str]| {
        let copy = Copy::of(name);
        let mut config: Value = serde_json::from_slice(&fs::read(copy.path().join("config.json")).unwrap()).unwrap();
        keys.iter().for_each(|key| drop(config.as_object_mut().unwrap().remove(*key)));
        let copy = copy.write("config.json", config.to_string());
        Description::from_folder(&Folder::open(copy.path()).unwrap())
    };
    let attention = |description: &Description, layer: usize| {
        let Mixer::Attention(attention) = &description.blocks[layer].mixer;
        attention.clone()
    };
    let gemma = without("gemma3", &["query_pre_attn_scalar", "rope_parameters", "head_dim"]).unwrap();
    assert_eq!(attention(&gemma, 1).scale, Some(1.0 / 16.0));
    assert_eq!((attention(&gemma, 0).rotary.theta, attention(&gemma, 1).rotary.theta), (1e4, 1e6));
    assert_eq!(attention(&gemma, 0).dim_k, 256);
    // As the first files of Gemma 3 have it: the scaling is that of the layers that see all keys.
    let scaled = Copy::of("gemma3")
        .set("rope_parameters", Value::Null)
        .set("rope_scaling", json!({"rope_type": "linear", "factor": 8.0}))
        .set("rope_theta", json!(5e5))
        .set("rope_local_base_freq", json!(2e4));
    let gemma = Description::from_folder(&Folder::open(scaled.path()).unwrap()).unwrap();
    let [windowed, whole] = [0, 1].map(|layer| attention(&gemma, layer).rotary);
    assert_eq!((windowed.theta, windowed.scaling), (2e4, RotaryScaling::None));
    assert_eq!((whole.theta, whole.scaling), (5e5, RotaryScaling::Linear(8.0)));
    let mistral = without("mistral", &["sliding_window"]).unwrap();
    assert_eq!(attention(&mistral, 0).window, Some(4096));
    // Qwen's windows are off unless they are switched on, and then begin behind 28 layers.
    let qwen = without("qwen2-window", &["use_sliding_window", "layer_types"]).unwrap();
    assert!((0..qwen.blocks.len()).all(|layer| attention(&qwen, layer).window.is_none()));
    let qwen = without("qwen2-window", &["max_window_layers", "layer_types"]).unwrap();
    assert!((0..qwen.blocks.len()).all(|layer| attention(&qwen, layer).window.is_none()));
}

/// An output matrix that is not the embedding is one, whatever the settings say; a copy of it is none.
#[test]
fn a_tied_matrix_that_differs_is_its_own() {
    let logits = |copy: &Copy| {
        let model = copy.load().unwrap();
        let mut session = model.session(8, CacheDtype::F32).unwrap();
        (model.description().tied, session.feed(&[3, 5, 7]).unwrap().to_vec())
    };
    let (tied, own) = logits(&Copy::of("llama"));
    assert!(!tied, "the fixture has an output matrix of its own");
    assert_eq!(logits(&Copy::of("llama").set("tie_word_embeddings", json!(true))), (false, own));
    let copy = Copy::of("llama");
    let mut weights = fs::read(copy.path().join("model.safetensors")).unwrap();
    let [head, embedding] = ["lm_head.weight", "model.embed_tokens.weight"].map(|name| place(&weights, name));
    weights.copy_within(embedding, head.start);
    let twice = || Copy::of("llama").write("model.safetensors", &weights);
    let (tied, by_embedding) = logits(&twice().set("tie_word_embeddings", json!(true)));
    assert!(tied);
    assert_eq!(logits(&twice()), (false, by_embedding));
}

/// Where the numbers of a tensor lie in a file of weights.
fn place(weights: &[u8], ending: &str) -> std::ops::Range<usize> {
    let len = u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&weights[8..8 + len]).unwrap();
    let (_, tensor) = header.as_object().unwrap().iter().find(|(name, _)| name.ends_with(ending)).unwrap();
    assert_eq!(tensor["dtype"], "F32");
    let [start, end] = [0, 1].map(|i| 8 + len + tensor["data_offsets"][i].as_u64().unwrap() as usize);
    start..end
}

#[test]
fn vectors_that_are_no_numbers_are_errors() {
    let encoder = || Copy::from(&fixture("encoders").join("bert"));
    let path = encoder();
    let mut spoilt = fs::read(path.path().join("model.safetensors")).unwrap();
    // Finite weights, whose products overflow.
    for name in ["encoder.layer.0.intermediate.dense.weight", "encoder.layer.0.output.dense.weight"] {
        let numbers = place(&spoilt, name);
        for number in spoilt[numbers].chunks_exact_mut(4) {
            let large = f32::from_le_bytes(number.try_into().unwrap()) * 1e30;
            number.copy_from_slice(&large.to_le_bytes());
        }
    }
    let path = path.write("model.safetensors", spoilt);
    let options = LoadOptions { threads: Some(1), isa: None };
    let encoder = Encoder::load(path.path(), Precision::F32, &options).unwrap();
    let error = encoder.encode(&["", "a b"]).unwrap_err().to_string();
    assert!(error.starts_with("the vector of text 2 is no number"), "{error}");
}

#[test]
fn a_template_knows_the_tokens_that_have_a_text() {
    let chat = "{{ bos_token }}|{{ eos_token }}|{{ messages[0].content }}";
    let rendered = |copy: Copy| {
        let model = copy.load().unwrap();
        let template = model.chat_template().unwrap();
        template.render(&[Message::new("user", "?")], Turn::Open).unwrap()
    };
    let copy = || Copy::of("llama").set("bos_token_id", json!(1)).write("chat_template.jinja", chat);
    // As of transformers' tokenisers, to which the numbers of config.json say nothing.
    let settings = |settings: Value| copy().write("tokenizer_config.json", settings.to_string());
    assert_eq!(rendered(settings(json!({}))), "||?");
    assert_eq!(rendered(settings(json!({"bos_token": "<a>", "eos_token": {"content": "<b>"}}))), "<a>|<b>|?");
    let map = json!({"bos_token": "<c>", "eos_token": "<d>"}).to_string();
    assert_eq!(rendered(settings(json!({"bos_token": "<a>"})).write("special_tokens_map.json", map)), "<a>|<d>|?");
}

#[test]
fn a_context_that_no_memory_holds_is_refused_before_it_is_taken() {
    let model = Copy::of("llama").load().unwrap();
    let error = model.session(1 << 40, CacheDtype::F32).err().unwrap().to_string();
    assert!(error.starts_with("keys and values of 1099511627776 tokens take "), "{error}");
    let error = model.check_room(usize::MAX, 1 << 20, CacheDtype::Int8).unwrap_err().to_string();
    assert!(error.contains(&format!("1048576 tokens in {} sessions each take ", usize::MAX)), "{error}");
    assert!(model.check_room(2, 512, CacheDtype::F32).is_ok());
}

#[test]
fn weights_that_do_not_fit() {
    let (name, shape) = ("model.layers.1.mlp.down_proj.weight", "[40, 56]");
    Copy::of("llama")
        .set("intermediate_size", json!(57))
        .refused("FOLDER: model.layers.0.mlp.gate_proj.weight: it has shape [56, 40], expected [57, 40]");
    Copy::of("llama")
        .header(|header| header[name]["shape"] = json!([56, 40]))
        .refused(&format!("FOLDER: {name}: it has shape [56, 40], expected {shape}"));
    let renamed = |header: &mut Value| {
        let tensor = header.as_object_mut().unwrap().remove(name).unwrap();
        header["model.layers.1.mlp.down.weight"] = tensor;
    };
    Copy::of("llama").header(renamed).refused(&format!("FOLDER: {name}: missing"));
    let more = |header: &mut Value| {
        let tensor = header.as_object_mut().unwrap().remove("model.layers.1.mlp.down_proj.bias").unwrap();
        header["model.layers.1.mlp.experts.bias"] = tensor;
    };
    Copy::of("llama").header(more).refused(
        "FOLDER: model.layers.1.mlp.experts.bias: this tensor is not supported (supported: the weights of a plain llama, and nothing beside them)",
    );
    // A bias that the settings promise.
    Copy::of("llama-dynamic")
        .set("attention_bias", json!(true))
        .refused("FOLDER: model.layers.0.self_attn.q_proj.bias: missing");
    Copy::of("llama")
        .header(|header| header[name]["dtype"] = json!("I32"))
        .refused(&format!("model.safetensors: {name}: tensor type I32 is not supported (supported: F32, F16, BF16)"));
}

#[test]
fn weights_that_are_no_numbers() {
    for (folder, number) in [("llama", &f32::NAN.to_le_bytes()[..]), ("qwen2", &[0x80, 0x7F])] {
        let copy = Copy::of(folder);
        let path = copy.path().join("model.safetensors");
        let mut file = fs::read(&path).unwrap();
        let end = file.len() - number.len();
        file[end..].copy_from_slice(number);
        fs::write(&path, file).unwrap();
        let error = copy.load().err().unwrap();
        assert!(error.ends_with("it holds NaN or infinite numbers, which no sound model does"), "{error}");
    }
}

/// A block's scale is an f16: what is finite in f32 may not be in bytes.
#[test]
fn weights_that_are_too_large_for_bytes() {
    const NAME: &str = "encoder.layer.0.output.dense.weight";
    let copy = Copy::from(&fixture("encoders").join("bert"));
    let path = copy.path().join("model.safetensors");
    let mut file = fs::read(&path).unwrap();
    let len = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&file[8..8 + len]).unwrap();
    let at = 8 + len + header[NAME]["data_offsets"][0].as_u64().unwrap() as usize;
    file[at..at + 4].copy_from_slice(&1e30_f32.to_le_bytes());
    fs::write(&path, file).unwrap();
    let load = |precision| Encoder::load(copy.path(), precision, &LoadOptions::default());
    assert!(load(Precision::F32).is_ok());
    let error = load(Precision::Int8).err().unwrap().to_string();
    assert!(error.ends_with(&format!("{NAME}: it holds numbers that are too large for Q8_0")), "{error}");
}

#[test]
fn headers_that_break_the_format() {
    let write = |bytes: &[u8]| Copy::of("llama").write("model.safetensors", bytes);
    write(b"").refused("model.safetensors: header: the file has 0 bytes, no safetensors file is so short");
    write(&u64::MAX.to_le_bytes())
        .refused("model.safetensors: header: a header of 18446744073709551615 bytes does not fit a file of 8");
    let error = write(b"\x02\0\0\0\0\0\0\0{]").load().err().unwrap();
    assert!(error.contains("model.safetensors: header: "), "{error}");
    let copy = Copy::of("llama");
    let file = fs::read(copy.path().join("model.safetensors")).unwrap();
    let error = copy.write("model.safetensors", &file[..file.len() - 1]).load().err().unwrap();
    assert!(error.contains("and the file has"), "{error}");
    for change in [json!([0, 3]), json!([5, 1]), json!([0, u64::MAX])] {
        let error = Copy::of("llama").header(|header| header["lm_head.weight"]["data_offsets"] = change).load();
        assert!(error.err().unwrap().contains("model.safetensors: header: "));
    }
}

#[test]
fn no_file_outside_the_folder_is_opened() {
    for name in ["../model.safetensors", "/etc/passwd", "a/b", "", ".."] {
        let index = json!({"weight_map": {"lm_head.weight": name}}).to_string();
        Copy::of("mistral").write("model.safetensors.index.json", index).refused(&format!(
            "model.safetensors.index.json: weight_map: lm_head.weight is in {name:?}, expected the name of a file in the folder"
        ));
    }
    Copy::of("mistral")
        .write("model.safetensors.index.json", "{}")
        .refused("model.safetensors.index.json: weight_map: expected an object of tensors and their files");
}

#[test]
fn tokenisers_that_are_none() {
    for text in ["", "{}", "[]", "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 4294967295}, \"merges\": []}}"] {
        let error = Copy::of("llama").write("tokenizer.json", text).load().err().unwrap();
        assert!(error.contains("tokenizer.json: tokeniser: "), "{error}");
    }
    let error = Copy::of("llama").write("chat_template.jinja", "{% if %}").load().err().unwrap();
    assert!(error.contains("chat_template.jinja, line 1: "), "{error}");
}

#[test]
fn tokenisers_that_blow_texts_up_or_cut_them_at_random() {
    let tokenizer = |change: &dyn Fn(&mut Value)| tokenizer(Copy::of("llama"), change);
    let replace = |pattern: Value| json!({ "type": "Replace", "pattern": pattern, "content": "a".repeat(20) });
    let twice = [replace(json!({ "String": "a" })), replace(json!({ "String": "a" }))];
    tokenizer(&|json| json["normalizer"] = json!({ "type": "Sequence", "normalizers": twice }))
        .refused("tokenizer.json: tokeniser: its rules make a text up to 400 times as long, more than 64");
    let anywhere = tokenizer(&|json| {
        let rules: Vec<Value> = (0..3).map(|_| replace(json!({ "Regex": "" }))).collect();
        json["normalizer"] = json!({ "type": "Sequence", "normalizers": rules });
    });
    assert!(anywhere.load().err().unwrap().ends_with("up to 9261 times as long, more than 64"));
    assert!(tokenizer(&|json| json["normalizer"] = replace(json!({ "String": " " }))).load().is_ok());
    tokenizer(&|json| json["model"]["dropout"] = json!(0.5))
        .refused("tokenizer.json: tokeniser: model.dropout leaves merges out at random: set it to null");
    // A number that two tokens have.
    let taken = tokenizer(&|json| {
        let added = json!({ "id": 200, "content": "<tool>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": false });
        json["added_tokens"].as_array_mut().unwrap().push(added);
    });
    let folder = Folder::open(taken.path()).unwrap();
    let error =
        regard_models::Conversion::new(&folder, regard_models::gguf::WeightFormat::F16).err().unwrap().to_string();
    assert!(error.contains("added_tokens: token 200 is both"), "{error}");
}

/// Published folders have added tokens that their models have no embedding for, which no text needs.
#[test]
fn tokens_beyond_the_embedding() {
    const VOCABULARY: u32 = 264;
    let add = |json: &mut Value, content: &str, id: u32| {
        let added = json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true });
        json["added_tokens"].as_array_mut().unwrap().push(added);
    };
    let qwen = || tokenizer(Copy::of("qwen3"), &|json| add(json, "<|turn|>", VOCABULARY));
    let model = qwen().load().unwrap();
    let tokens = model.tokenizer().encode("a<|turn|>", regard_models::tokenizer::Special::Parse).unwrap();
    let error = model.session(16, CacheDtype::F16).unwrap().feed(&tokens).unwrap_err().to_string();
    assert_eq!(error, "token 264, \"<|turn|>\", is not in the vocabulary of 264");

    let numbers = "has number 264, and the model has embeddings of 264 tokens";
    let template = "{% for message in messages %}<|turn|>{{ message.content }}{% endfor %}";
    let refused = format!("tokenizer.json: \"<|turn|>\": a token of the chat template {numbers}");
    qwen().write("chat_template.jinja", template).refused(&refused);

    let around = |json: &mut Value, begin: &str, id: u32| {
        let special = json!({ begin: { "id": begin, "ids": [id], "tokens": [begin] } });
        let token = json!({ "SpecialToken": { "id": begin, "type_id": 0 } });
        let text = json!({ "Sequence": { "id": "A", "type_id": 0 } });
        json["post_processor"] = json!({ "type": "TemplateProcessing", "single": [token, text], "pair": [text, text],
            "special_tokens": special });
    };
    let refused = format!("tokenizer.json: \"<|turn|>\": a token that stands around every text {numbers}");
    tokenizer(qwen(), &|json| around(json, "<|turn|>", VOCABULARY)).refused(&refused);

    // One that ends a text, beside others and alone.
    let ends = || {
        let settings = json!({ "eos_token": "<|turn|>" }).to_string();
        qwen().write("tokenizer_config.json", settings).without("generation_config.json")
    };
    assert!(ends().set("eos_token_id", json!([2, VOCABULARY])).load().is_ok());
    let alone = tokenizer(ends().set("eos_token_id", json!(VOCABULARY)), &|json| {
        *json =
            serde_json::from_str(&json.to_string().replace("<|im_end|>", "<|x|>").replace("<|endoftext|>", "<|y|>"))
                .unwrap();
    });
    alone.refused(&format!("tokenizer.json: \"<|turn|>\": the only token that ends a text {numbers}"));

    let bert = Copy::from(&fixture("encoders").join("bert"));
    let bert = tokenizer(bert, &|json| {
        add(json, "<far>", 46);
        around(json, "<far>", 46);
    });
    bert.is_no_encoder(
        "tokenizer.json: \"<far>\": a token that stands around every text has number 46, and the model has embeddings of 46 tokens",
    );
}

/// Where no token stands around a text, an empty one has none at all.
#[test]
fn texts_without_a_token() {
    let copy = Copy::from(&fixture("encoders").join("bert"));
    let mut json: Value = serde_json::from_slice(&fs::read(copy.path().join("tokenizer.json")).unwrap()).unwrap();
    json["post_processor"] = Value::Null;
    let copy = copy.write("tokenizer.json", json.to_string());
    let encoder = Encoder::load(copy.path(), Precision::F32, &LoadOptions::default()).unwrap();
    let [whale, sea] = ["the whale", "the sea"].map(|text| encoder.encode(&[text]).unwrap().remove(0));
    assert_eq!(
        encoder.encode(&["", "the whale", " ", "the sea"]).unwrap(),
        [&vec![0.0; 48], &whale, &vec![0.0; 48], &sea].map(Clone::clone)
    );
    assert!(whale.iter().any(|x| *x != 0.0));
}

/// A copy with its tokenizer.json changed.
fn tokenizer(copy: Copy, change: &dyn Fn(&mut Value)) -> Copy {
    let mut json: Value = serde_json::from_slice(&fs::read(copy.path().join("tokenizer.json")).unwrap()).unwrap();
    change(&mut json);
    copy.write("tokenizer.json", json.to_string())
}

/// The `tokenizers` crate takes these for granted, and stops where they do not hold.
#[test]
fn a_tokeniser_whose_rules_do_not_fit_together_is_refused() {
    let bert = || Copy::from(&fixture("encoders").join("bert"));
    let spoil = |key: &'static str, value: Value| tokenizer(bert(), &|json| json[key] = value.clone());
    let sequence = json!([{ "Sequence": { "id": "B", "type_id": 0 } }]);
    let processor = |single: &Value| json!({ "type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": {} });
    let named = json!([{ "SpecialToken": { "id": "<s>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }]);
    for folder in [
        spoil("post_processor", processor(&named)),
        spoil("post_processor", processor(&sequence)),
        spoil("pre_tokenizer", json!({ "type": "FixedLength", "length": 0 })),
        spoil("normalizer", json!({ "type": "Precompiled", "precompiled_charsmap": "AAAA" })),
        spoil("normalizer", json!({ "type": "Precompiled", "precompiled_charsmap": "BAAAAP///38AAA==" })),
    ] {
        let options = LoadOptions { threads: Some(1), isa: None };
        let error = Encoder::load(folder.path(), Precision::F32, &options).err().expect("refused").to_string();
        assert!(error.contains("tokenizer.json: tokeniser: "), "{error}");
    }
}

/// What sentence-transformers does with a text before it is cut into tokens.
#[test]
fn an_encoders_folder_says_how_texts_are_read() {
    let bert = || Copy::from(&fixture("encoders").join("bert"));
    let load = |folder: &Copy| {
        Encoder::load(folder.path(), Precision::F32, &LoadOptions { threads: Some(1), isa: None }).unwrap()
    };
    let vector = |folder: &Copy, text: &str| load(folder).encode(&[text]).unwrap();
    let cased = || tokenizer(bert(), &|json| json["normalizer"] = Value::Null);
    let lower = cased().write("sentence_bert_config.json", r#"{"do_lower_case": true}"#);
    assert_eq!(vector(&lower, "A Bé"), vector(&cased(), "a bé"));

    let prompts = r#"{"prompts": {"query": "a b "}, "default_prompt_name": "query"}"#;
    let prompted = bert().write("config_sentence_transformers.json", prompts);
    assert_eq!(vector(&prompted, "c"), vector(&bert(), "a b c"));
    assert_ne!(vector(&prompted, "c"), vector(&bert(), "c"));

    let short =
        bert().write("sentence_bert_config.json", "{}").write("tokenizer_config.json", r#"{"model_max_length": 5}"#);
    assert_eq!(load(&short).description().context, 5);
    let both = bert()
        .write("sentence_bert_config.json", r#"{"max_seq_length": 7}"#)
        .write("tokenizer_config.json", r#"{"model_max_length": 5}"#);
    assert_eq!(load(&both).description().context, 7);

    bert()
        .write("sentence_bert_config.json", r#"{"max_seq_length": "16"}"#)
        .is_no_encoder("sentence_bert_config.json: max_seq_length: it is \"16\", expected a positive whole number");
    bert().write("config_sentence_transformers.json", r#"{"default_prompt_name": "query"}"#).is_no_encoder(
        "config_sentence_transformers.json: default_prompt_name: it is \"query\", expected a name among prompts",
    );
    bert().without("1_Pooling/config.json").is_no_encoder("FOLDER: 1_Pooling/config.json: missing");
    let modes = r#"{"pooling_mode": ["mean", "cls"]}"#;
    bert().write("1_Pooling/config.json", modes).is_no_encoder(
        "1_Pooling/config.json: pooling_mode: pooling [\"mean\",\"cls\"] is not supported (supported: mean, the first and the last token)",
    );
}

#[test]
fn encoders_that_make_no_sense() {
    let copy = |name: &str| Copy::from(&fixture("encoders").join(name));
    let set = |key: &str, value: Value| copy("bert").set(key, value);
    Copy::of("llama").is_no_encoder(
        "config.json: model_type: model type \"llama\" is not supported (supported: bert, roberta, xlm-roberta, camembert, mpnet)",
    );
    set("num_attention_heads", json!(5))
        .is_no_encoder("config.json: num_attention_heads: 5 heads do not divide a width of 48");
    set("layer_norm_eps", json!(0)).is_no_encoder("config.json: layer_norm_eps: it is 0, expected a positive number");
    set("position_embedding_type", json!("relative_key"))
        .is_no_encoder("config.json: position_embedding_type: \"relative_key\" is not supported (supported: absolute)");
    set("max_position_embeddings", json!(99))
        .is_no_encoder("FOLDER: embeddings.position_embeddings.weight: it has shape [66, 48], expected [99, 48]");
    copy("roberta")
        .set("max_position_embeddings", json!(2))
        .is_no_encoder("config.json: max_position_embeddings: 2 positions, of which the first 2 are no token's");
    set("num_hidden_layers", json!(3)).is_no_encoder("FOLDER: encoder.layer.2.attention.self.query.weight: missing");
    set("num_hidden_layers", json!(1)).is_no_encoder(
        "FOLDER: encoder.layer.1.attention.output.LayerNorm.bias: this tensor is not supported (supported: the weights of a plain bert, and nothing beside them)",
    );
    let modules =
        |kind: &str, path: &str| copy("bert").write("modules.json", json!([{"type": kind, "path": path}]).to_string());
    modules("sentence_transformers.models.Dense", "2_Dense").is_no_encoder(
        "modules.json: type: module \"sentence_transformers.models.Dense\" is not supported (supported: Transformer, Pooling, Normalize)",
    );
    modules("sentence_transformers.models.Pooling", "../x")
        .is_no_encoder("modules.json: path: \"../x\" is not supported (supported: the name of a folder)");
    copy("bert").write("1_Pooling/config.json", json!({"pooling_mode_max_tokens": true}).to_string()).is_no_encoder(
        "1_Pooling/config.json: pooling_mode: pooling \"max_tokens\" is not supported (supported: mean, the first and the last token)",
    );
    copy("bert").without("tokenizer.json").is_no_encoder("FOLDER: tokenizer.json: missing");
    let file = fixture("encoders").join("bert/config.json");
    let error = Encoder::load(&file, Precision::F32, &LoadOptions::default()).err().unwrap().to_string();
    assert!(
        error.ends_with(
            "path: a file is not supported (supported: a folder with config.json, model.safetensors and tokenizer.json)"
        ),
        "{error}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    /// Whatever stands in one of the files, loading ends, and what loads runs.
    #[test]
    fn spoiled_bytes_are_survived(
        folder in prop::sample::select(vec!["llama-dynamic", "mistral", "phi3"]),
        file in prop::sample::select(vec!["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::weighted(0.1, any::<prop::sample::Index>()),
    ) {
        let copy = Copy::of(folder);
        let path = copy.path().join(file);
        prop_assume!(path.exists());
        let mut bytes = fs::read(&path).unwrap();
        // The header of the weights is where a byte matters most.
        let reach = if file.ends_with("safetensors") { bytes.len().min(3000) } else { bytes.len() };
        for (at, byte) in changes {
            bytes[at.index(reach)] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        fs::write(&path, bytes).unwrap();
        match Folder::open(copy.path()).and_then(|folder| Model::from_folder(&folder, &LoadOptions { threads: Some(1), isa: None })) {
            Ok(model) => {
                let mut session = model.session(8, CacheDtype::F16).unwrap();
                let _ = session.feed(&[0, 1, 2]).map(drop);
                let _ = model.tokenizer().encode("a b", regard_models::tokenizer::Special::Parse);
            }
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }
}
