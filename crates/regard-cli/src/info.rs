//! `regard info`: what is in a model's file or folder, from the headers alone.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::Path;

use indicatif::{DecimalBytes, HumanCount};
use regard_layers::{ContextUse, MixerKind};
use regard_models::chat::ChatTemplate;
use regard_models::description::Mixer;
use regard_models::encoder::{EncoderDescription, Pooling};
use regard_models::gguf::{Gguf, Value};
use regard_models::sampling::Preferences;
use regard_models::tokenizer::Tokenizer;
use regard_models::{CacheDtype, Description, Folder, Optional, Precision};
use serde::Serialize;

use crate::error::Error;
use crate::output::print_line;
use crate::{learned, pull};

/// Arguments of `regard info`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Only the header is read, so this also tells what a file is that cannot be run.

Examples:
  regard info
  regard info model.gguf --context 2048
  regard info model.gguf --json | jq .layers
  regard info ./Qwen3-0.6B")]
pub(crate) struct Arguments {
    /// Path of a GGUF file or of a Hugging Face folder, or the name of a model [default: SmolLM2-135M-Instruct]
    #[arg(value_name = "PATH|NAME")]
    model: Option<String>,
    /// Tokens to state the cache's memory for [default: the model's own limit]
    #[arg(short, long, value_name = "N")]
    context: Option<NonZeroUsize>,
    /// Print one JSON object instead of lines
    #[arg(long)]
    json: bool,
}

/// Runs `regard info`.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Error> {
    let path = pull::resolve(arguments.model.as_deref().unwrap_or(pull::WRITER))?;
    let facts = Facts::read(&path, arguments.context.map(NonZeroUsize::get))?;
    print_line(&if arguments.json { serde_json::json!(facts).to_string() } else { facts.lines() })
}

/// One line about the file at `path`.
pub(crate) fn summary(path: &Path) -> Result<String, Error> {
    let facts = Facts::read(path, None)?;
    Ok(printable(&format!(
        "{}: architecture {}, {:.1} million parameters, {}{}",
        facts.name.as_deref().unwrap_or("no name"),
        facts.architecture,
        facts.parameters as f64 / 1e6,
        facts.tensor_counts(),
        facts.obstacle.map_or_else(String::new, |obstacle| format!("; it cannot be run: {obstacle}")),
    )))
}

/// A text from a file, which is not to command the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
}

/// What a header says. `None` is what it does not say.
#[derive(Default, Serialize)]
struct Facts {
    file: String,
    bytes: u64,
    name: Option<String>,
    architecture: String,
    parameters: u64,
    layers: Option<u64>,
    width: Option<u64>,
    hidden_width: Option<u64>,
    query_heads: Option<u64>,
    key_value_heads: Option<u64>,
    head_size: Option<u64>,
    context_length: Option<u64>,
    vocabulary: Option<u64>,
    tokenizer: Option<String>,
    pre_tokenizer: Option<String>,
    chat_template: bool,
    tensor_types: BTreeMap<String, usize>,
    /// Memory that the keys and values of a context need, if the model can be run.
    cache: Option<CacheFacts>,
    /// What its makers sample with, by the names of options.
    sampling: BTreeMap<&'static str, f64>,
    /// What it is beside all this, if it is an encoder.
    encoder: Option<EncoderFacts>,
    /// What it is beside all this, if `regard train` made it and no decoder runs it.
    learned: Option<LearnedFacts>,
    /// Why it cannot be run.
    obstacle: Option<String>,
}

/// How an encoder makes vectors, and what it takes.
#[derive(Serialize)]
struct EncoderFacts {
    pooling: &'static str,
    normalized: bool,
    /// What products are computed in unless asked otherwise.
    precision: &'static str,
    bytes_f32: u64,
    bytes_bf16: u64,
    bytes_int8: u64,
}

impl EncoderFacts {
    fn of(description: &EncoderDescription, folder: &Folder) -> Self {
        let words = folder.tensors().find(|(name, ..)| name.ends_with("embeddings.word_embeddings.weight"));
        let stored = if words.is_some_and(|(_, _, kind)| kind == "F32") { 4 } else { 2 };
        let bytes = |precision| description.weight_bytes(precision, stored);
        Self {
            pooling: match description.pooling {
                Pooling::Mean => "mean",
                Pooling::Cls => "first token",
                Pooling::LastToken => "last token",
            },
            normalized: description.normalized,
            precision: match description.precision() {
                Precision::F32 => "f32",
                Precision::Bf16 => "bf16",
                Precision::Int8 => "int8",
            },
            bytes_f32: bytes(Precision::F32),
            bytes_bf16: bytes(Precision::Bf16),
            bytes_int8: bytes(Precision::Int8),
        }
    }

    fn rows(&self) -> [(&'static str, String); 3] {
        let vector = if self.normalized { "scaled to length 1" } else { "not normalised" };
        let [f32, bf16, int8] = [self.bytes_f32, self.bytes_bf16, self.bytes_int8].map(DecimalBytes);
        [
            ("pooling", format!("{}, {vector}", self.pooling)),
            ("computed in", format!("{} unless --dtype asks otherwise", self.precision)),
            ("memory", format!("weights of {bf16} in bf16, {f32} in f32, {int8} in int8")),
        ]
    }
}

/// What a model of `regard train` is made of.
#[derive(Serialize)]
struct LearnedFacts {
    mixer: String,
    objective: String,
    shared_context: bool,
}

impl LearnedFacts {
    fn of(description: &learned::Description) -> Self {
        let [mixer, objective] = description.words();
        Self { mixer, objective, shared_context: description.config.context == ContextUse::Shared }
    }

    fn rows(&self) -> [(&'static str, String); 3] {
        let shared = if self.shared_context { "yes" } else { "no" };
        [("mixer", self.mixer.clone()), ("objective", self.objective.clone()), ("shared context", shared.to_owned())]
    }
}

/// What a folder says of sampling, by the names of options.
fn sampling(folder: &Folder) -> Result<BTreeMap<&'static str, f64>, Error> {
    let Preferences { temperature, top_k, top_p, min_p, repeat_penalty } = Preferences::from_folder(folder)?;
    // As short as they were written.
    let plain = |number: f32| number.to_string().parse().unwrap_or(f64::from(number));
    let all = [
        ("temperature", temperature.map(plain)),
        ("top-k", top_k.map(|k| k as f64)),
        ("top-p", top_p.map(plain)),
        ("min-p", min_p.map(plain)),
        ("repeat-penalty", repeat_penalty.map(plain)),
    ];
    Ok(all.into_iter().filter_map(|(name, number)| Some((name, number?))).collect())
}

#[derive(Serialize)]
struct CacheFacts {
    context: usize,
    bytes_f32: usize,
    bytes_f16_or_bf16: usize,
    bytes_int8: usize,
}

impl CacheFacts {
    fn of(description: &Description, context: Option<usize>) -> Self {
        let context = context.unwrap_or(description.context);
        let bytes = |dtype| description.cache_bytes_per_token(dtype).saturating_mul(context);
        let [bytes_f32, bytes_f16_or_bf16, bytes_int8] =
            [CacheDtype::F32, CacheDtype::F16, CacheDtype::Int8].map(bytes);
        Self { context, bytes_f32, bytes_f16_or_bf16, bytes_int8 }
    }
}

impl Facts {
    fn read(path: &Path, context: Option<usize>) -> Result<Self, Error> {
        if path.is_dir() { Self::of_folder(&Folder::open(path)?, context) } else { Self::of_file(path, context) }
    }

    fn of_folder(folder: &Folder, context: Option<usize>) -> Result<Self, Error> {
        let tokenizer = Tokenizer::from_folder(folder);
        let template = ChatTemplate::from_folder(folder).is_ok_and(|template| template.is_some());
        let mut tensor_types = BTreeMap::new();
        let mut parameters = 0;
        for (_, shape, kind) in folder.tensors() {
            *tensor_types.entry(kind.to_owned()).or_default() += 1;
            parameters += shape.iter().product::<u64>();
        }
        let number = |number: usize| Some(number as u64);
        let facts = Self {
            file: folder.path().display().to_string(),
            bytes: folder.size(),
            name: folder.path().file_name().map(|name| name.to_string_lossy().into_owned()),
            parameters,
            tokenizer: tokenizer.is_ok().then(|| "tokenizer.json".to_owned()),
            chat_template: template,
            tensor_types,
            obstacle: tokenizer.err().map(|error| error.to_string()),
            ..Self::default()
        };
        if let Some(description) = learned::Description::read(folder.path())? {
            let config = description.config;
            return Ok(Self {
                layers: number(config.layers),
                width: number(config.width),
                hidden_width: number(config.hidden),
                query_heads: number(learned::heads(&config)),
                key_value_heads: number(match config.mixer {
                    // All heads share one key and query.
                    MixerKind::StateSpace => 1,
                    _ => config.kv_heads,
                }),
                head_size: number(config.head_dim),
                context_length: number(description.limit),
                vocabulary: number(config.vocabulary),
                sampling: sampling(folder)?,
                architecture: "regard, of `regard train`".to_owned(),
                learned: Some(LearnedFacts::of(&description)),
                obstacle: learned::Learned::open(folder.path()).err().map(|error| error.to_string()).or(facts.obstacle),
                ..facts
            });
        }
        let description = match (Description::from_folder(folder), EncoderDescription::from_folder(folder)) {
            (Ok(description), _) => description,
            (Err(_), Ok(encoder)) => {
                let of_encoder = EncoderFacts::of(&encoder, folder);
                return Ok(Self {
                    layers: number(encoder.layers),
                    width: number(encoder.width),
                    hidden_width: number(encoder.hidden),
                    query_heads: number(encoder.heads),
                    key_value_heads: number(encoder.heads),
                    head_size: number(encoder.width / encoder.heads),
                    context_length: number(encoder.context),
                    vocabulary: number(encoder.vocabulary),
                    architecture: encoder.architecture,
                    encoder: Some(of_encoder),
                    ..facts
                });
            }
            (Err(error), Err(_)) => return Err(error.into()),
        };
        let block = description.blocks.first();
        let attention = block.map(|block| match &block.mixer {
            Mixer::Attention(attention) => attention,
        });
        Ok(Self {
            layers: number(description.blocks.len()),
            width: number(description.width),
            hidden_width: block.and_then(|block| number(block.feed_forward.hidden)),
            query_heads: attention.and_then(|attention| number(attention.heads)),
            key_value_heads: attention.and_then(|attention| number(attention.kv_heads)),
            head_size: attention.and_then(|attention| number(attention.dim_k)),
            context_length: number(description.context),
            vocabulary: number(description.vocabulary),
            cache: Some(CacheFacts::of(&description, context)),
            sampling: sampling(folder)?,
            architecture: description.architecture,
            ..facts
        })
    }

    fn of_file(path: &Path, context: Option<usize>) -> Result<Self, Error> {
        let file = Gguf::open(path)?;
        let architecture = file.string("general.architecture")?.to_owned();
        let text = |key: &str| Ok::<_, Error>(file.string(key).optional()?.map(str::to_owned));
        let number = |key: &str| Ok::<_, Error>(file.u32(&format!("{architecture}.{key}")).optional()?.map(u64::from));
        let mut tensor_types = BTreeMap::new();
        for tensor in file.tensors() {
            *tensor_types.entry(tensor.type_name().to_owned()).or_default() += 1;
        }
        let width = number("embedding_length")?;
        let query_heads = number("attention.head_count")?;
        let described = describe(&file);
        Ok(Self {
            file: file.file().to_owned(),
            bytes: file.size(),
            name: text("general.name")?,
            parameters: file.tensors().iter().map(|tensor| tensor.dims.iter().product::<u64>()).sum(),
            layers: number("block_count")?,
            width,
            hidden_width: number("feed_forward_length")?,
            query_heads,
            key_value_heads: number("attention.head_count_kv")?.or(query_heads),
            head_size: number("attention.key_length")?.or_else(|| width?.checked_div(query_heads?)),
            context_length: number("context_length")?,
            vocabulary: file.metadata().find_map(|(key, value)| match value {
                Value::Array(tokens) if key == "tokenizer.ggml.tokens" => Some(tokens.len()),
                _ => None,
            }),
            tokenizer: text("tokenizer.ggml.model")?,
            pre_tokenizer: text("tokenizer.ggml.pre")?,
            chat_template: file.string("tokenizer.chat_template").optional()?.is_some(),
            tensor_types,
            cache: described.as_ref().ok().map(|description| CacheFacts::of(description, context)),
            obstacle: described.err().map(|error| error.to_string()),
            sampling: BTreeMap::new(),
            encoder: None,
            learned: None,
            architecture,
        })
    }

    /// `210 Q4_1, 61 F32`, the most frequent first.
    fn tensor_counts(&self) -> String {
        let mut counts: Vec<_> = self.tensor_types.iter().collect();
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let counts: Vec<_> = counts.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        format!("{} tensors", counts.join(", "))
    }

    fn lines(&self) -> String {
        let or_unknown = |value: Option<u64>| value.map_or("unknown".to_owned(), |value| value.to_string());
        let name = |value: &Option<String>| value.clone().unwrap_or("unknown".into());
        let cache = self.cache.as_ref().map_or("none".to_owned(), |cache| {
            let of = |bytes| DecimalBytes(bytes as u64);
            let [wide, narrow, least] = [cache.bytes_f32, cache.bytes_f16_or_bf16, cache.bytes_int8].map(of);
            format!("{narrow} in f16 or bf16, {wide} in f32, {least} in int8, for {} tokens", cache.context)
        });
        let sampling = match &self.sampling {
            said if said.is_empty() => "as usual".to_owned(),
            said => said.iter().map(|(name, number)| format!("{name} {number}")).collect::<Vec<_>>().join(", "),
        };
        let tokenizer = format!(
            "{}{}, {} tokens",
            name(&self.tokenizer),
            self.pre_tokenizer.as_ref().map_or_else(String::new, |name| format!(" ({name})")),
            or_unknown(self.vocabulary)
        );
        let head = or_unknown(self.head_size);
        let (heads, context, by) = match &self.encoder {
            Some(_) => {
                let limit = format!("{} tokens of a text", or_unknown(self.context_length));
                (
                    format!("{} of {head}", or_unknown(self.query_heads)),
                    limit,
                    ", by `regard embed` and `regard search`",
                )
            }
            None => {
                let [query, key_value] = [self.query_heads, self.key_value_heads].map(or_unknown);
                let heads = format!("{query} query, {key_value} key/value, of {head}");
                let by = if self.learned.is_some() { ", by `regard generate`" } else { "" };
                (heads, or_unknown(self.context_length), by)
            }
        };
        let mut rows = vec![
            ("file", format!("{}, {}", self.file, DecimalBytes(self.bytes))),
            ("name", name(&self.name)),
            ("architecture", self.architecture.clone()),
            (
                "parameters",
                match self.parameters {
                    few @ 0..1_000_000 => HumanCount(few).to_string(),
                    many => format!("{:.1} million", many as f64 / 1e6),
                },
            ),
            ("tensors", self.tensor_counts()),
            ("layers", or_unknown(self.layers)),
            ("width", format!("{}, feed-forward {}", or_unknown(self.width), or_unknown(self.hidden_width))),
            ("heads", heads),
            ("context", context),
            ("tokenizer", tokenizer),
        ];
        match (&self.encoder, &self.learned) {
            (Some(encoder), _) => rows.extend(encoder.rows()),
            (_, Some(learned)) => {
                rows.extend(learned.rows());
                rows.push(("sampling", sampling));
            }
            _ => rows.extend([
                ("chat template", if self.chat_template { "yes" } else { "no" }.into()),
                ("sampling", sampling),
                ("cache", cache),
            ]),
        }
        let run = self.obstacle.as_ref().map_or(format!("yes{by}"), |obstacle| format!("no: {obstacle}"));
        rows.push(("can be run", run));
        let lines = rows.iter().map(|(label, value)| format!("{label:<15}{}", printable(value)));
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// What the model is made of, if everything that running it reads from the header is known here.
fn describe(file: &Gguf) -> Result<Description, regard_models::Error> {
    let description = Description::from_gguf(file)?;
    file.tensors().iter().try_for_each(|tensor| file.kind(tensor).map(drop))?;
    Tokenizer::from_gguf(file)?;
    Ok(description)
}
