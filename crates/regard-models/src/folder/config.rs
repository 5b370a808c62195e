//! The settings of a folder's model.

use std::fs;
use std::path::{Path, PathBuf};

use regard_kernels::{Activation, RotaryScaling};
use serde_json::{Map, Value};

use super::json;
use crate::family::{EncoderFamily, Family};
use crate::{Error, Optional, Result};

const NAME: &str = "config.json";

/// What config.json calls the numbers that GGUF files name so.
const KEYS: &[(&str, &str)] = &[
    ("embedding_length", "hidden_size"),
    ("block_count", "num_hidden_layers"),
    ("attention.head_count", "num_attention_heads"),
    ("attention.head_count_kv", "num_key_value_heads"),
    ("attention.key_length", "head_dim"),
    ("attention.value_length", "head_dim"),
    ("attention.layer_norm_epsilon", "layer_norm_eps"),
    ("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
    ("feed_forward_length", "intermediate_size"),
    ("context_length", "max_position_embeddings"),
    ("vocab_size", "vocab_size"),
    ("rope.dimension_count", "partial_rotary_factor"),
    ("rope.freq_base", "rope_theta"),
    ("rope.freq_base_swa", "rope_local_base_freq"),
    ("attention.scale", "query_pre_attn_scalar"),
];

/// What `transformers` takes for settings that a file of a model type leaves out, where that is not what follows from others:
/// the defaults of its configuration classes (`configuration_*.py` of huggingface/transformers, version 5.23).
const USUAL: &[(&str, &str)] = &[
    ("llama", r#"{"rms_norm_eps": 1e-6, "max_position_embeddings": 2048}"#),
    (
        "mistral",
        r#"{"rms_norm_eps": 1e-6, "max_position_embeddings": 131072, "num_key_value_heads": 8, "sliding_window": 4096}"#,
    ),
    (
        "qwen2",
        r#"{"rms_norm_eps": 1e-6, "max_position_embeddings": 32768, "use_sliding_window": false, "max_window_layers": 28}"#,
    ),
    (
        "qwen3",
        r#"{"rms_norm_eps": 1e-6, "max_position_embeddings": 32768, "use_sliding_window": false, "max_window_layers": 28,
            "head_dim": 128}"#,
    ),
    (
        "gemma3_text",
        r#"{"rms_norm_eps": 1e-6, "max_position_embeddings": 131072, "num_key_value_heads": 4, "head_dim": 256,
            "query_pre_attn_scalar": 256, "sliding_window": 4096, "rope_theta": 1000000.0}"#,
    ),
    ("phi3", r#"{"rms_norm_eps": 1e-5, "max_position_embeddings": 4096, "original_max_position_embeddings": 4096}"#),
];

/// What a folder without settings holds that tells what was meant.
fn instead(folder: &Path) -> String {
    let Ok(entries) = fs::read_dir(folder) else { return String::new() };
    let mut names: Vec<_> = entries.flatten().map(|entry| PathBuf::from(entry.file_name())).collect();
    names.sort();
    let is_gguf = |name: &&PathBuf| name.extension().is_some_and(|extension| extension == "gguf");
    match names.iter().find(is_gguf) {
        _ if names.is_empty() => ": the folder is empty".to_owned(),
        Some(name) => format!(": the folder holds {}, which is a model by itself", name.display()),
        None => String::new(),
    }
}

/// The settings, an object.
pub(crate) struct Config {
    /// What messages call it.
    pub(super) file: String,
    values: Map<String, Value>,
}

impl Config {
    pub(crate) fn read(folder: &Path) -> Result<Config> {
        let path = folder.join(NAME);
        let missing = || Error::NoModel { folder: folder.display().to_string(), found: instead(folder) };
        let file = path.display().to_string();
        match json(&path)?.ok_or_else(missing)? {
            Value::Object(mut values) => {
                let usual = USUAL.iter().find(|(name, _)| values.get("model_type").is_some_and(|own| own == name));
                let usual: Map<String, Value> =
                    usual.and_then(|(_, usual)| serde_json::from_str(usual).ok()).unwrap_or_default();
                for (key, value) in usual {
                    values.entry(key).or_insert(value);
                }
                Ok(Config { file, values })
            }
            _ => Err(Error::Malformed { file, field: NAME.to_owned(), problem: "expected an object".to_owned() }),
        }
    }

    /// The entry of the table that a decoder belongs to.
    pub(crate) fn decoder<'f>(&self, families: &'f [Family]) -> Result<&'f Family> {
        self.entry(families, |family| family.model_types)
    }

    /// The entry of the table that an encoder belongs to.
    pub(crate) fn encoder<'f>(&self, families: &'f [EncoderFamily]) -> Result<&'f EncoderFamily> {
        self.entry(families, |family| family.model_types)
    }

    /// Refuses to make one file of an encoder.
    pub(crate) fn refuse_encoders(&self, families: &[EncoderFamily]) -> Result<()> {
        if self.encoder(families).is_err() {
            return Ok(());
        }
        let found = format!("a GGUF file of {:?}, which is an encoder,", self.string("model_type")?);
        Err(self.unsupported("model_type", found, "GGUF files of decoders; encoders stay folders"))
    }

    fn entry<'f, F>(&self, families: &'f [F], types: impl Fn(&F) -> &'static [&'static str]) -> Result<&'f F> {
        let model_type = self.string("model_type")?;
        families.iter().find(|family| types(family).contains(&model_type)).ok_or_else(|| {
            let supported: Vec<_> = families.iter().flat_map(&types).copied().collect();
            self.unsupported("model_type", format!("model type {model_type:?}"), &supported.join(", "))
        })
    }

    /// What config.json calls a number that GGUF files call `key`.
    pub(super) fn key(key: &str) -> &str {
        KEYS.iter().find(|(gguf, _)| *gguf == key).map_or(key, |(_, own)| own)
    }

    /// A value that is there and not null.
    pub(super) fn value(&self, key: &str) -> Result<&Value> {
        let value = self.values.get(key).filter(|value| !value.is_null());
        value.ok_or_else(|| Error::Missing { file: self.file.clone(), field: key.to_owned() })
    }

    pub(crate) fn string(&self, key: &str) -> Result<&str> {
        let value = self.value(key)?;
        value.as_str().ok_or_else(|| self.wrong_type(key, "a string", value))
    }

    pub(crate) fn bool(&self, key: &str) -> Result<bool> {
        let value = self.value(key)?;
        value.as_bool().ok_or_else(|| self.wrong_type(key, "a truth value", value))
    }

    pub(crate) fn size(&self, key: &str) -> Result<u32> {
        self.size_in(key, self.value(key)?)
    }

    pub(crate) fn number(&self, key: &str) -> Result<f32> {
        self.number_in(key, self.value(key)?)
    }

    fn size_in(&self, key: &str, value: &Value) -> Result<u32> {
        let size = value.as_u64().and_then(|size| u32::try_from(size).ok());
        size.ok_or_else(|| self.wrong_type(key, "an unsigned integer of 32 bits", value))
    }

    fn number_in(&self, key: &str, value: &Value) -> Result<f32> {
        value.as_f64().map(|number| number as f32).ok_or_else(|| self.wrong_type(key, "a number", value))
    }

    /// The activation of the feed-forward layers, the usual one unless the file says.
    pub(crate) fn activation(&self, usual: Activation) -> Result<Activation> {
        let key = if self.values.contains_key("hidden_activation") { "hidden_activation" } else { "hidden_act" };
        match self.string(key).optional()? {
            None => Ok(usual),
            Some("silu" | "swish") => Ok(Activation::Silu),
            Some("gelu") => Ok(Activation::Gelu),
            Some("gelu_pytorch_tanh" | "gelu_new" | "gelu_fast") => Ok(Activation::GeluTanh),
            Some(other) => {
                Err(self.unsupported(key, format!("activation {other:?}"), "silu, gelu, gelu_pytorch_tanh, gelu_new"))
            }
        }
    }

    /// Refuses what would be computed wrongly if it were left out.
    pub(super) fn refuse_unknown(&self) -> Result<()> {
        for (key, supported) in [
            ("quantization_config", "weights in F32, F16 and BF16; GGUF files for quantised ones"),
            ("attn_logit_softcapping", "plain scores"),
            ("final_logit_softcapping", "plain logits"),
            ("num_local_experts", "models without experts"),
            ("use_bidirectional_attention", "causal attention"),
        ] {
            if let Some(value) = self.value(key).optional()?
                && *value != Value::Bool(false)
            {
                return Err(self.unsupported(key, shortened(value), supported));
            }
        }
        Ok(())
    }

    /// For each layer the keys that a query sees, where it does not see all.
    pub(super) fn windows(&self, family: &Family, layers: usize) -> Result<Vec<Option<usize>>> {
        const KEY: &str = "sliding_window";
        let used = self.bool("use_sliding_window").optional()?.unwrap_or(true);
        // The plain Llama has none, whatever its file says.
        let used = used && self.string("model_type").is_ok_and(|name| name != "llama");
        let window = match self.size(KEY).optional()?.filter(|_| used) {
            None => return Ok(vec![None; layers]),
            Some(0) => return Err(self.malformed(KEY, "it is 0, expected at least 1, or null for none".to_owned())),
            Some(window) => window as usize,
        };
        let pattern = match self.size("sliding_window_pattern").optional()? {
            Some(pattern) => Some((pattern as usize).max(1)),
            None => family.window_pattern,
        };
        if let Some(types) = self.value("layer_types").optional()? {
            let types = types.as_array().filter(|types| types.len() >= layers);
            let problem = || format!("expected an array of {layers} names");
            let types = types.ok_or_else(|| self.malformed("layer_types", problem()))?;
            let layer = |kind: &Value| match kind.as_str() {
                Some("full_attention") => Ok(None),
                Some("sliding_attention") => Ok(Some(window)),
                _ => Err(self.unsupported("layer_types", shortened(kind), "full_attention, sliding_attention")),
            };
            return types[..layers].iter().map(layer).collect();
        }
        // In Qwen's files the first layers see all.
        let first = self.size("max_window_layers").optional()?.unwrap_or(0) as usize;
        let sees_all =
            |layer: usize| layer < first || pattern.is_some_and(|pattern| (layer + 1).is_multiple_of(pattern));
        Ok((0..layers).map(|layer| (!sees_all(layer)).then_some(window)).collect())
    }

    /// The settings of the rotation of layers that see all keys, or of those with a window: an object of its own in new files,
    /// of which there is one for each kind of layer where these differ.
    fn rotation(&self, kind: &str) -> Result<Option<&Map<String, Value>>> {
        let object = |key: &str| match self.value(key).optional()? {
            None => Ok(None),
            Some(Value::Object(settings)) => Ok(Some(settings)),
            Some(other) => Err(self.wrong_type(key, "an object", other)),
        };
        let settings = match object("rope_parameters")? {
            Some(settings) => Some(settings),
            None => object("rope_scaling")?,
        };
        let Some(settings) = settings else { return Ok(None) };
        const KINDS: [&str; 2] = ["full_attention", "sliding_attention"];
        if !KINDS.iter().any(|kind| settings.contains_key(*kind)) {
            // One object is that of the layers that see all keys: beside them those with a window have a base of their own.
            return Ok((kind == KINDS[0]).then_some(settings));
        }
        match settings.get(kind) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(settings)) => Ok(Some(settings)),
            Some(other) => Err(self.wrong_type(kind, "an object", other)),
        }
    }

    /// One of the settings of a rotation.
    fn of_rotation(&self, kind: &str, key: &str) -> Result<Option<&Value>> {
        Ok(self.rotation(kind)?.and_then(|rotation| rotation.get(key)))
    }

    /// The base of the frequencies.
    pub(super) fn theta(&self) -> Result<f32> {
        match self.of_rotation("full_attention", "rope_theta")? {
            Some(theta) => self.number_in("rope_theta", theta),
            None => self.number("rope_theta"),
        }
    }

    /// The same of layers with a window, where they have their own.
    pub(super) fn window_theta(&self) -> Result<f32> {
        for key in ["rope_type", "type"] {
            if let Some(kind) = self.of_rotation("sliding_attention", key)?
                && kind != "default"
            {
                let found = format!("{} of layers with a window", shortened(kind));
                return Err(self.unsupported("rope_parameters.sliding_attention", found, "default"));
            }
        }
        match self.of_rotation("sliding_attention", "rope_theta")? {
            Some(theta) => self.number_in("rope_theta", theta),
            None => self.number("rope_local_base_freq"),
        }
    }

    /// The share of a head's dimensions that turn.
    pub(super) fn rotated_share(&self) -> Result<f32> {
        const KEY: &str = "partial_rotary_factor";
        // Other families turn whole heads, whatever their files say.
        if self.string("model_type").is_ok_and(|name| name != "phi3") {
            return Ok(1.0);
        }
        match self.of_rotation("full_attention", KEY)? {
            Some(share) => self.number_in(KEY, share),
            None => self.number(KEY),
        }
    }

    /// The rule by which the frequencies of layers that see all keys are scaled, of so many dimensions: what
    /// `modeling_rope_utils.py` of huggingface/transformers makes of these settings.
    pub(super) fn scaling(&self, dims: usize) -> Result<RotaryScaling> {
        let Some(rotation) = self.rotation("full_attention")? else { return Ok(RotaryScaling::None) };
        let given = self.values.get("rope_parameters").is_some_and(|settings| !settings.is_null());
        let name = if given { "rope_parameters" } else { "rope_scaling" };
        let value = |key: &str| {
            let value = rotation.get(key).filter(|value| !value.is_null());
            value.ok_or_else(|| Error::Missing { file: self.file.clone(), field: format!("{name}.{key}") })
        };
        let number = |key: &str| {
            let number = self.number_in(key, value(key)?)?;
            let problem = || format!("it is {number}, expected a number over 0");
            if number.is_normal() && number > 0.0 { Ok(number) } else { Err(self.malformed(key, problem())) }
        };
        let original = || {
            const KEY: &str = "original_max_position_embeddings";
            let size = match value(KEY).and_then(|size| self.size_in(KEY, size)).optional()? {
                Some(size) => size,
                None => match self.size(KEY).optional()? {
                    Some(size) => size,
                    None => self.size("max_position_embeddings")?,
                },
            };
            if size > 0 { Ok(size as usize) } else { Err(self.malformed(KEY, "it is 0".to_owned())) }
        };
        let factors = |key: &str| {
            let list = value(key)?.as_array().filter(|list| list.len() == dims / 2);
            let problem = || format!("expected an array of {} numbers over 0", dims / 2);
            let factor = |number: &Value| {
                let number = number.as_f64().map(|number| number as f32);
                number.filter(|number| number.is_normal() && *number > 0.0)
            };
            list.and_then(|list| list.iter().map(factor).collect::<Option<Vec<f32>>>())
                .ok_or_else(|| self.malformed(key, problem()))
        };
        let kind = match rotation.get("rope_type").or_else(|| rotation.get("type")) {
            None => return Ok(RotaryScaling::None),
            Some(kind) => kind.as_str().unwrap_or_default(),
        };
        match kind {
            "default" => Ok(RotaryScaling::None),
            "linear" => Ok(RotaryScaling::Linear(number("factor")?)),
            "dynamic" => {
                let original = self.size("max_position_embeddings")?.max(1) as usize;
                Ok(RotaryScaling::Dynamic { factor: number("factor")?, original })
            }
            "llama3" => {
                let (low, high) = (number("low_freq_factor")?, number("high_freq_factor")?);
                if low >= high {
                    let problem = format!("it is {high}, expected more than low_freq_factor, {low}");
                    return Err(self.malformed("high_freq_factor", problem));
                }
                Ok(RotaryScaling::Llama3 { factor: number("factor")?, low, high, original: original()? })
            }
            "yarn" => {
                let factor = number("factor")?;
                let scale = |m: f32| if factor > 1.0 { 0.1 * m * factor.ln() + 1.0 } else { 1.0 };
                let amplitude = match number("attention_factor").optional()? {
                    Some(amplitude) => amplitude,
                    None => match (number("mscale").optional()?, number("mscale_all_dim").optional()?) {
                        (Some(m), Some(all)) => scale(m) / scale(all),
                        _ => scale(1.0),
                    },
                };
                let turns = |key: &str, usual: f32| Ok::<_, Error>(number(key).optional()?.unwrap_or(usual));
                Ok(RotaryScaling::Yarn {
                    factor,
                    turns: [turns("beta_fast", 32.0)?, turns("beta_slow", 1.0)?],
                    whole: value("truncate").optional()?.and_then(Value::as_bool).unwrap_or(true),
                    amplitude,
                    original: original()?,
                })
            }
            "longrope" | "su" => {
                let original = original()?;
                let amplitude = match number("attention_factor").optional()? {
                    Some(amplitude) => amplitude,
                    None => {
                        let longer = self.size("max_position_embeddings")? as f32 / original as f32;
                        let factor = number("factor").optional()?.unwrap_or(longer);
                        if factor > 1.0 { (1.0 + factor.ln() / (original as f32).ln()).sqrt() } else { 1.0 }
                    }
                };
                let (short, long) = (factors("short_factor")?, factors("long_factor")?);
                Ok(RotaryScaling::LongRope { short, long, amplitude, original })
            }
            other => Err(self.unsupported(
                "rope_type",
                format!("rotary scaling {other:?}"),
                "default, linear, dynamic, llama3, yarn, longrope",
            )),
        }
    }

    pub(crate) fn malformed(&self, key: &str, problem: String) -> Error {
        Error::Malformed { file: self.file.clone(), field: key.to_owned(), problem }
    }

    pub(crate) fn unsupported(&self, key: &str, found: String, supported: &str) -> Error {
        let (file, field, supported) = (self.file.clone(), key.to_owned(), supported.to_owned());
        Error::Unsupported { file, field, found, supported }
    }

    fn wrong_type(&self, key: &str, expected: &'static str, found: &Value) -> Error {
        Error::WrongType { file: self.file.clone(), key: key.to_owned(), expected, found: shortened(found) }
    }
}

/// A value as a message shows it.
fn shortened(value: &Value) -> String {
    const SHOWN: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
