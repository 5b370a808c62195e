//! What an encoder is made of.

use regard_kernels::Activation;
use serde_json::Value;

use super::Precision;
use crate::family::ENCODERS;
use crate::{Error, Folder, Optional, Result};

/// An encoder: embeddings, layers that norm what they give, and how a text becomes one vector.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderDescription {
    /// The family's name, as config.json has it.
    pub architecture: String,
    /// Tokens that have an embedding.
    pub vocabulary: usize,
    /// Numbers of a token between layers.
    pub width: usize,
    /// The most tokens of a text.
    pub context: usize,
    /// Layers.
    pub layers: usize,
    /// Heads of attention; they divide the width.
    pub heads: usize,
    /// Numbers between the two layers of a feed-forward.
    pub hidden: usize,
    /// What a feed-forward applies between the two.
    pub activation: Activation,
    /// What keeps the root of a LayerNorm from 0.
    pub eps: f32,
    /// The position that the first token has in the table of positions.
    pub first_position: usize,
    /// What is added to scores by distance, if anything is.
    pub relative: Option<RelativeBias>,
    /// How tokens become one vector.
    pub pooling: Pooling,
    /// Whether the vector is scaled to length 1.
    pub normalized: bool,
    /// Whether texts are read in lower case.
    pub lower_case: bool,
    /// What is put before every text.
    pub prompt: String,
}

/// A learned bias of the scores by the distance from query to key, in buckets that grow with it (Raffel et al., 2019,
/// section 2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelativeBias {
    /// Half of them for keys before the query.
    pub buckets: usize,
    /// From here on all distances share a bucket.
    pub furthest: usize,
}

/// How the tokens of a text become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The mean of all.
    Mean,
    /// The first one.
    Cls,
    /// The last one.
    LastToken,
}

/// No table of an encoder is larger: what sizes are multiplied from stays far from overflow.
const MAX_SIZE: u32 = 1 << 24;

impl EncoderDescription {
    /// What products are computed in unless asked otherwise: bf16 where no vector is known to move by more than a cosine of
    /// 0.9995. With MPNet's bias one real line in a thousand does (to 0.997, and no less in PyTorch with the same rounding).
    pub fn precision(&self) -> Precision {
        if self.relative.is_some() { Precision::F32 } else { Precision::Bf16 }
    }

    /// Bytes of the weights in a precision, but for what fills panels up: of the tables `stored` bytes a number, as in the
    /// folder, and of what products are made with as the precision has it.
    pub fn weight_bytes(&self, precision: Precision, stored: usize) -> u64 {
        // Three sizes of a hostile folder are more than 64 bits.
        let [layers, width, hidden, stored] = [self.layers, self.width, self.hidden, stored].map(|size| size as u128);
        let products = layers * (4 * width + 2 * hidden) * width;
        let products = match precision {
            Precision::F32 => products * stored,
            Precision::Bf16 => products * 2,
            // A scale for every 32.
            Precision::Int8 => products.div_ceil(32) * 34,
        };
        let words = self.vocabulary as u128 * width * stored;
        let positions = self.context as u128 * width * 4;
        u64::try_from(words + positions + products).unwrap_or(u64::MAX)
    }

    /// What a folder describes.
    ///
    /// # Errors
    /// A setting is missing, unknown or makes no sense.
    pub fn from_folder(folder: &Folder) -> Result<EncoderDescription> {
        let config = folder.config();
        let family = config.encoder(&ENCODERS)?;
        let size = |key: &str| match config.size(key)? {
            size @ 1..=MAX_SIZE => Ok(size as usize),
            size => Err(config.malformed(key, format!("it is {size}, expected 1 to {MAX_SIZE}"))),
        };
        let (width, heads) = (size("hidden_size")?, size("num_attention_heads")?);
        if width % heads != 0 {
            let problem = format!("{heads} heads do not divide a width of {width}");
            return Err(config.malformed("num_attention_heads", problem));
        }
        let eps = match config.number("layer_norm_eps")? {
            eps if eps.is_finite() && eps > 0.0 => eps,
            eps => return Err(config.malformed("layer_norm_eps", format!("it is {eps}, expected a positive number"))),
        };
        if let Some(kind) = config.string("position_embedding_type").optional()?
            && kind != "absolute"
        {
            return Err(config.unsupported("position_embedding_type", format!("{kind:?}"), "absolute"));
        }
        if config.bool("is_decoder").optional()? == Some(true) {
            let supported = "encoders, whose tokens see each other";
            return Err(config.unsupported("is_decoder", "a causal model of this type".to_owned(), supported));
        }
        let first_position = match family.positions_after_padding {
            true => config.size("pad_token_id").optional()?.unwrap_or(1) as usize + 1,
            false => 0,
        };
        let positions = size("max_position_embeddings")?;
        if first_position >= positions {
            let problem = format!("{positions} positions, of which the first {first_position} are no token's");
            return Err(config.malformed("max_position_embeddings", problem));
        }
        let relative = match family.relative {
            false => None,
            true => {
                const KEY: &str = "relative_attention_num_buckets";
                let buckets = config.size(KEY).optional()?.unwrap_or(32) as usize;
                if !buckets.is_multiple_of(4) || buckets == 0 || buckets > 4096 {
                    return Err(config.malformed(KEY, format!("it is {buckets}, expected a multiple of 4 up to 4096")));
                }
                Some(RelativeBias { buckets, furthest: 128 })
            }
        };
        let sentences = Sentences::read(folder)?;
        let (pooling, normalized) = pooling(folder, !sentences.prompt.is_empty())?;
        Ok(EncoderDescription {
            architecture: config.string("model_type")?.to_owned(),
            vocabulary: size("vocab_size")?,
            width,
            context: sentences.limit.min(positions - first_position),
            layers: size("num_hidden_layers")?,
            heads,
            hidden: size("intermediate_size")?,
            activation: config.activation(Activation::Gelu)?,
            eps,
            first_position,
            relative,
            pooling,
            normalized,
            lower_case: sentences.lower_case,
            prompt: sentences.prompt,
        })
    }
}

/// What sentence-transformers does with a text before its tokens are made, and how many of these it looks at.
struct Sentences {
    limit: usize,
    lower_case: bool,
    prompt: String,
}

impl Sentences {
    fn read(folder: &Folder) -> Result<Sentences> {
        const SETTINGS: &str = "sentence_bert_config.json";
        const PROMPTS: &str = "config_sentence_transformers.json";
        let malformed = |file: &str, field: &str, found: &Value, expected: &str| Error::Malformed {
            file: folder.path().join(file).display().to_string(),
            field: field.to_owned(),
            problem: format!("it is {found}, expected {expected}"),
        };
        let said = folder.settings(SETTINGS)?;
        let limit = match &said["max_seq_length"] {
            // Then what the tokeniser says, which may be a number that stands for none.
            Value::Null => {
                let tokeniser = folder.settings("tokenizer_config.json")?;
                tokeniser["model_max_length"].as_u64().filter(|&limit| limit > 0).unwrap_or(u64::MAX)
            }
            limit => limit
                .as_u64()
                .filter(|&limit| limit > 0)
                .ok_or_else(|| malformed(SETTINGS, "max_seq_length", limit, "a positive whole number"))?,
        };
        let lower_case = match &said["do_lower_case"] {
            Value::Null => false,
            Value::Bool(lower) => *lower,
            other => return Err(malformed(SETTINGS, "do_lower_case", other, "true or false")),
        };
        let prompts = folder.settings(PROMPTS)?;
        let prompt = match &prompts["default_prompt_name"] {
            Value::Null => String::new(),
            name => {
                let prompt = name.as_str().and_then(|name| prompts["prompts"][name].as_str());
                prompt
                    .ok_or_else(|| malformed(PROMPTS, "default_prompt_name", name, "a name among prompts"))?
                    .to_owned()
            }
        };
        Ok(Sentences { limit: usize::try_from(limit).unwrap_or(usize::MAX), lower_case, prompt })
    }
}

/// How sentence-transformers' modules make one vector of a text: the mean, where they say nothing.
fn pooling(folder: &Folder, prompted: bool) -> Result<(Pooling, bool)> {
    const MODULES: &str = "modules.json";
    let refused = |file: &str, field: &str, found: String, supported: &str| Error::Unsupported {
        file: folder.path().join(file).display().to_string(),
        field: field.to_owned(),
        found,
        supported: supported.to_owned(),
    };
    let unsupported = |field: &str, found: String, supported: &str| refused(MODULES, field, found, supported);
    let (mut pooling, mut normalized) = (Pooling::Mean, false);
    let modules = match folder.json(MODULES)? {
        None => Vec::new(),
        Some(Value::Array(modules)) => modules,
        Some(_) => return Err(unsupported("modules", "no list".to_owned(), "a list of modules")),
    };
    // Each works on what the one before it gives.
    let mut last = 0;
    for module in &modules {
        let kind = module["type"].as_str().unwrap_or_default();
        let name = kind.rsplit('.').next().unwrap_or_default();
        let place =
            ["Transformer", "Pooling", "Normalize"].iter().position(|known| *known == name).map_or(0, |at| at + 1);
        if place != 0 && place <= last {
            let found = format!("{name} in this place");
            return Err(unsupported("type", found, "Transformer, then Pooling, then Normalize or nothing"));
        }
        last = place;
        match Some(name) {
            Some("Transformer") => {}
            Some("Normalize") => normalized = true,
            Some("Pooling") => {
                let path = module["path"].as_str().unwrap_or_default();
                // A name and nothing else: no file outside the folder is opened.
                if path.is_empty() || path.contains(['/', '\\']) || path.starts_with('.') {
                    return Err(unsupported("path", format!("{path:?}"), "the name of a folder"));
                }
                let settings = folder.json(&format!("{path}/config.json"))?.ok_or_else(|| Error::Missing {
                    file: folder.path().display().to_string(),
                    field: format!("{path}/config.json"),
                })?;
                let file = format!("{path}/config.json");
                if prompted && settings["include_prompt"] == false {
                    let supported = "prompts that count, or no default prompt";
                    return Err(refused(&file, "include_prompt", "false".to_owned(), supported));
                }
                pooling = pooling_of(&settings)
                    .map_err(|found| refused(&file, "pooling_mode", found, "mean, the first and the last token"))?;
            }
            _ => return Err(unsupported("type", format!("module {kind:?}"), "Transformer, Pooling, Normalize")),
        }
    }
    Ok((pooling, normalized))
}

/// One flag for each way, or a name.
fn pooling_of(settings: &Value) -> Result<Pooling, String> {
    let named = |name: &str| match name {
        "mean" | "mean_tokens" => Ok(Pooling::Mean),
        "cls" | "cls_token" => Ok(Pooling::Cls),
        "lasttoken" | "last_token" => Ok(Pooling::LastToken),
        other => Err(format!("pooling {other:?}")),
    };
    match &settings["pooling_mode"] {
        Value::Null => {}
        Value::String(name) => return named(name),
        other => return Err(format!("pooling {other}")),
    }
    let mut set = Vec::new();
    for (key, value) in settings.as_object().into_iter().flatten() {
        match (key.strip_prefix("pooling_mode_"), value) {
            (Some(name), Value::Bool(true)) => set.push(name),
            (None, _) | (_, Value::Bool(false)) => {}
            (Some(_), other) => return Err(format!("{key} {other}")),
        }
    }
    match set[..] {
        [] => Ok(Pooling::Mean),
        [name] => named(name),
        _ => Err(format!("pooling by {}", set.join(" and "))),
    }
}
