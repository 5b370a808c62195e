//! Models that `regard train` made: what their folders say, and what runs those that no decoder runs.

mod source;

use std::fs;
use std::path::{Path, PathBuf};

use regard_layers::{
    ContextUse, Head, LanguageConfig, LanguageModel, MixerKind, Objective, Parameters, SharedAttentionContext,
    load_model,
};
use regard_models::Folder;
use regard_models::sampling::Preferences;
use regard_models::tokenizer::Tokenizer;
use serde_json::{Value, json};

pub(crate) use self::source::{LearnedSource, Net, Rounds};
use crate::error::Error;
use crate::train::{Goal, Mixer};

/// The model type of what only this program runs.
const TYPE: &str = "regard";
/// The file of settings.
const NAME: &str = "config.json";
/// The file of weights.
pub(crate) const WEIGHTS: &str = "model.safetensors";

/// A model, ready to run.
pub(crate) struct Learned {
    model: LanguageModel,
    parameters: Parameters,
    context: Option<SharedAttentionContext>,
    tokenizer: Tokenizer,
    preferences: Preferences,
    /// Tokens that it was made for.
    limit: usize,
}

impl Learned {
    /// The model in a folder, and none where it is not one of these.
    pub(crate) fn open(path: &Path) -> Result<Option<Learned>, Error> {
        let Some(description) = Description::read(path)? else { return Ok(None) };
        let folder = Folder::open(path)?;
        description.check(&folder)?;
        let Description { config, limit } = description;
        let tokenizer = Tokenizer::from_folder(&folder)?;
        if tokenizer.vocab_size() > config.vocabulary {
            let (tokens, rows) = (tokenizer.vocab_size(), config.vocabulary);
            return Err(malformed(path, format!("vocab_size is {rows}, and tokenizer.json has {tokens} tokens")));
        }
        let preferences = Preferences::from_folder(&folder)?;
        let (model, parameters, context) = load_model(&path.join(WEIGHTS), config)?;
        Ok(Some(Learned { model, parameters, context, tokenizer, preferences, limit }))
    }

    /// What computes.
    pub(crate) fn net(&self) -> Net<'_> {
        Net { model: &self.model, parameters: &self.parameters, context: self.context.as_ref() }
    }

    /// Its tokens.
    pub(crate) fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// How its folder says that tokens are sampled.
    pub(crate) fn preferences(&self) -> &Preferences {
        &self.preferences
    }

    /// Tokens that it was made for.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// What it was trained for.
    pub(crate) fn objective(&self) -> Objective {
        self.model.config().objective
    }
}

/// What the config.json of such a model says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Description {
    pub(crate) config: LanguageConfig,
    /// Tokens of the windows that it was trained on.
    pub(crate) limit: usize,
}

impl Description {
    /// Whether transformers and our own decoder have such models: Llamas.
    fn is_llama(&self) -> bool {
        let LanguageConfig { mixer, objective, context, .. } = self.config;
        (mixer, objective, context) == (MixerKind::Softmax, Objective::Causal, ContextUse::None)
    }

    /// The config.json. That of a Llama is one that transformers reads; any other has a model type of its own.
    pub(crate) fn json(&self, bos_eos: [Option<u32>; 2]) -> Value {
        let LanguageConfig { vocabulary, width, layers, heads, kv_heads, head_dim, hidden, eps, .. } = self.config;
        let kind = if self.is_llama() {
            json!({"architectures": ["LlamaForCausalLM"], "model_type": "llama"})
        } else {
            json!({
                "model_type": TYPE,
                "mixer": Mixer::of(self.config.mixer),
                "objective": Goal::of(self.config.objective),
                "shared_context": self.config.context == ContextUse::Shared,
            })
        };
        let sizes = json!({
            "vocab_size": vocabulary,
            "hidden_size": width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": head_dim,
            "intermediate_size": hidden,
            "hidden_act": "silu",
            "max_position_embeddings": self.limit,
            "rms_norm_eps": short(eps),
            "rope_theta": short(self.config.rope_theta),
            "attention_bias": false,
            "mlp_bias": false,
            "attention_dropout": short(self.config.dropout),
            "tie_word_embeddings": self.config.head == Head::Tied,
            "initializer_range": 0.02,
            "bos_token_id": bos_eos[0],
            "eos_token_id": bos_eos[1],
            "torch_dtype": "float32",
        });
        match (kind, sizes) {
            (Value::Object(mut kind), Value::Object(sizes)) => {
                kind.extend(sizes);
                Value::Object(kind)
            }
            (_, sizes) => sizes,
        }
    }

    /// What the config.json in a folder says, if it is of our own type.
    pub(crate) fn read(folder: &Path) -> Result<Option<Description>, Error> {
        let Ok(text) = fs::read_to_string(folder.join(NAME)) else { return Ok(None) };
        let Ok(all) = serde_json::from_str::<Value>(&text) else { return Ok(None) };
        if all["model_type"] != TYPE {
            return Ok(None);
        }
        let refused =
            |key: &str, expected: &str| malformed(folder, format!("{key} is {}, expected {expected}", all[key]));
        // Sizes of 32 bits: their products are counted in 64 and held against the file.
        let size = |key: &str| match all[key].as_u64() {
            Some(size @ 1..=0xFFFF_FFFF) => Ok(size as usize),
            _ => Err(refused(key, "a whole number from 1 on")),
        };
        let number = |key: &str| match all[key].as_f64().map(|number| number as f32) {
            Some(number) if number.is_finite() && number >= 0.0 => Ok(number),
            _ => Err(refused(key, "a number, at least 0")),
        };
        let flag = |key: &str| all[key].as_bool().ok_or_else(|| refused(key, "true or false"));
        let named = |key: &str, names: &str| refused(key, names);
        let mixer: Mixer = serde_json::from_value(all["mixer"].clone())
            .map_err(|_| named("mixer", "softmax, plain, gated, channel, delta, gated-delta or state-space"))?;
        let objective: Goal =
            serde_json::from_value(all["objective"].clone()).map_err(|_| named("objective", "causal or denoising"))?;
        let config = LanguageConfig {
            vocabulary: size("vocab_size")?,
            width: size("hidden_size")?,
            layers: size("num_hidden_layers")?,
            heads: size("num_attention_heads")?,
            kv_heads: size("num_key_value_heads")?,
            head_dim: size("head_dim")?,
            hidden: size("intermediate_size")?,
            mixer: mixer.kind(),
            objective: objective.objective(),
            eps: number("rms_norm_eps")?,
            rope_theta: number("rope_theta")?,
            head: if flag("tie_word_embeddings")? { Head::Tied } else { Head::Own },
            context: if flag("shared_context")? { ContextUse::Shared } else { ContextUse::None },
            dropout: number("attention_dropout")?,
        };
        Ok(Some(Description { config, limit: size("max_position_embeddings")? }))
    }

    /// Refuses sizes beyond what the folder's weights hold: what is drawn first and then overwritten costs what config.json says.
    pub(crate) fn check(&self, folder: &Folder) -> Result<(), Error> {
        let (needed, held) = (count(&self.config), folder.size() / size_of::<f32>() as u64);
        if needed <= held {
            return Ok(());
        }
        let problem = format!("its sizes make {needed} parameters, and {WEIGHTS} holds {held}");
        Err(malformed(folder.path(), problem))
    }

    /// What it is, in words.
    pub(crate) fn words(&self) -> [String; 2] {
        let name = |value: Value| value.as_str().unwrap_or_default().to_owned();
        [name(json!(Mixer::of(self.config.mixer))), name(json!(Goal::of(self.config.objective)))]
    }
}

/// What is wrong with the folder of a whole run, where a model is asked for.
pub(crate) fn in_run(path: &Path) -> Option<Error> {
    let last = path.join("latest");
    let is_run = !path.join(NAME).exists() && last.join(NAME).exists();
    is_run.then(|| {
        Error::Usage(format!("{} is the folder of a run; its last model is {}", path.display(), last.display()))
    })
}

/// Heads of a mixer: those of Mamba-2 are of twice the width.
pub(crate) fn heads(config: &LanguageConfig) -> usize {
    match config.mixer {
        MixerKind::StateSpace => 2 * config.width / config.head_dim,
        _ => config.heads,
    }
}

/// The numbers that are learned, by the sizes alone; gates, their norms and a shared context are a little more, and not counted.
pub(crate) fn count(config: &LanguageConfig) -> u64 {
    let [vocabulary, width, layers, heads, kv_heads, head_dim, hidden] =
        [config.vocabulary, config.width, config.layers, config.heads, config.kv_heads, config.head_dim, config.hidden]
            .map(|size| size as u64);
    let tables = vocabulary.saturating_mul(width).saturating_mul(if config.head == Head::Tied { 1 } else { 2 });
    let mixer = match config.mixer {
        // Six times the width into Mamba-2's heads and back, and what it learns beside.
        MixerKind::StateSpace => width.saturating_mul(6).saturating_add(128),
        _ => heads.saturating_add(kv_heads).saturating_mul(2).saturating_mul(head_dim),
    };
    let block = mixer.saturating_add(hidden.saturating_mul(3)).saturating_add(2).saturating_mul(width);
    tables.saturating_add(block.saturating_mul(layers)).saturating_add(width)
}

/// A number as short as it was meant, not as f64 has it.
fn short(number: f32) -> f64 {
    number.to_string().parse().unwrap_or(f64::from(number))
}

fn malformed(folder: &Path, problem: String) -> Error {
    let file: PathBuf = folder.join(NAME);
    Error::Model(regard_models::Error::Malformed {
        file: file.display().to_string(),
        field: "sizes".to_owned(),
        problem,
    })
}

#[cfg(test)]
mod tests {
    use regard_layers::LinearRule;

    use super::*;

    fn config(mixer: MixerKind, context: ContextUse) -> LanguageConfig {
        LanguageConfig {
            vocabulary: 37,
            width: 24,
            layers: 3,
            heads: 4,
            kv_heads: 2,
            head_dim: 6,
            hidden: 40,
            mixer,
            objective: Objective::Causal,
            eps: 1e-5,
            rope_theta: 10_000.0,
            head: Head::Own,
            context,
            dropout: 0.1,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        for mixer in [MixerKind::Softmax, MixerKind::Linear(LinearRule::GatedByChannel)] {
            let description = Description { config: config(mixer, ContextUse::Shared), limit: 9 };
            fs::write(folder.path().join(NAME), description.json([None, Some(3)]).to_string()).unwrap();
            assert_eq!(Some(description), Description::read(folder.path()).unwrap());
        }
        let llama = Description { config: config(MixerKind::Softmax, ContextUse::None), limit: 9 };
        assert_eq!("llama", llama.json([None; 2])["model_type"]);
    }

    #[test]
    fn parameters_are_counted_by_sizes() {
        let config = config(MixerKind::Softmax, ContextUse::None);
        let mut parameters = Parameters::new(0);
        LanguageModel::new(&mut parameters, config).unwrap();
        assert_eq!(parameters.count() as u64, count(&config));
        assert_eq!(u64::MAX, count(&LanguageConfig { width: usize::MAX, ..config }));
    }
}
