//! The settings of a model, as GGUF files state them.

use regard_kernels::{Activation, Rotary, RotaryScaling, WeightFormat};

use super::tokens;
use crate::checkpoint::Checkpoint;
use crate::description::{self, Attention, Description, Mixer, Norm};
use crate::family::Family;
use crate::folder::Folder;
use crate::gguf::Setting;
use crate::{Error, Result};

/// What a file says beside its weights.
pub(super) struct Settings {
    pub(super) settings: Vec<(String, Setting)>,
    /// Those that are tensors: their names and numbers.
    pub(super) factors: Vec<(String, Vec<f32>)>,
}

/// The settings of a folder's model whose matrices are stored in `format`.
pub(super) fn of(
    folder: &Folder,
    family: &Family,
    description: &Description,
    format: WeightFormat,
) -> Result<Settings> {
    let unsupported = |field: &str, found: String, supported: &str| Error::Unsupported {
        file: folder.file().to_owned(),
        field: field.to_owned(),
        found,
        supported: supported.to_owned(),
    };
    let layers = || {
        description.blocks.iter().map(|block| {
            let Mixer::Attention(attention) = &block.mixer;
            attention
        })
    };
    // Windows and rotations are told apart below; all else is alike in all blocks.
    let block = &description.blocks[0];
    let attention =
        layers().find(|attention| attention.window.is_none()).or(layers().next()).expect("there is a block");
    let Norm::Rms { eps } = block.norm;
    if block.feed_forward.activation != family.activation {
        let name = |activation| match activation {
            Activation::Silu => "silu",
            Activation::Gelu => "gelu",
            Activation::GeluTanh => "gelu_pytorch_tanh",
        };
        let found = format!("activation {}", name(block.feed_forward.activation));
        return Err(unsupported("hidden_act", found, &format!("{} in GGUF files", name(family.activation))));
    }
    let file_type = match format {
        WeightFormat::F16 => 1,
        WeightFormat::Q8_0 => 7,
        WeightFormat::Bf16 => 32,
        _ => 0,
    };
    let tokens = tokens::of(folder, description.vocabulary)?;
    let name: String =
        folder.path().file_name().map_or_else(|| family.architecture.to_owned(), |name| name.to_string_lossy().into());
    // By this name llama.cpp knows whether the whitespace behind control tokens belongs to them, as Phi-3's pieces have it.
    let has_pieces = tokens.iter().any(|(_, value)| *value == Setting::String("llama".to_owned()));
    let is_called_so = ["phi-3", "phi3"].iter().any(|phi| name.to_lowercase().contains(phi));
    let name = match (family.architecture == "phi3", has_pieces, is_called_so) {
        (true, true, false) => format!("Phi-3 {name}"),
        (_, true, _) | (_, _, false) => name,
        (_, false, true) => "phi".to_owned(),
    };
    let mut settings = vec![
        ("general.architecture".to_owned(), Setting::String(family.architecture.to_owned())),
        ("general.type".to_owned(), Setting::String("model".to_owned())),
        ("general.name".to_owned(), Setting::String(name)),
        ("general.file_type".to_owned(), Setting::U32(file_type)),
        ("general.quantization_version".to_owned(), Setting::U32(2)),
    ];
    let mut set = |key: &str, value: Setting| settings.push((format!("{}.{key}", family.architecture), value));
    for (key, size) in [
        ("context_length", description.context),
        ("embedding_length", description.width),
        ("block_count", description.blocks.len()),
        ("feed_forward_length", block.feed_forward.hidden),
        ("attention.head_count", attention.heads),
        ("attention.head_count_kv", attention.kv_heads),
        ("attention.key_length", attention.dim_k),
        ("attention.value_length", attention.dim_v),
        ("rope.dimension_count", attention.rotary.dims),
        ("vocab_size", description.vocabulary),
    ] {
        set(key, Setting::U32(size as u32));
    }
    set("attention.layer_norm_rms_epsilon", Setting::F32(eps));
    set("rope.freq_base", Setting::F32(attention.rotary.theta));
    if let Some(scale) = attention.scale {
        set("attention.scale", Setting::F32(scale as f32));
    }
    let windows: Vec<Option<usize>> = layers().map(|attention| attention.window).collect();
    if let Some(windowed) = layers().find(|attention| attention.window.is_some()) {
        let window = windowed.window.unwrap_or_default();
        set("attention.sliding_window", Setting::U32(window as u32));
        if family.window_theta.is_some() {
            set("rope.freq_base_swa", Setting::F32(windowed.rotary.theta));
        }
        let usual = |layer: usize| family.window_pattern.is_none_or(|every| !(layer + 1).is_multiple_of(every));
        if windows.iter().enumerate().any(|(layer, window)| window.is_some() != usual(layer)) {
            let pattern = windows.iter().map(Option::is_some).collect();
            set("attention.sliding_window_pattern", Setting::Bools(pattern));
        }
    }
    let factors = rotation(attention, &mut set).map_err(|found| {
        unsupported("rope_scaling", found, "default, linear, llama3, longrope, and yarn with truncate")
    })?;
    settings.extend(tokens);
    Ok(Settings { settings, factors })
}

/// States the rule of a rotation: by settings, or by tensors that are returned.
///
/// # Errors
/// What GGUF files have no words for.
fn rotation(attention: &Attention, set: &mut dyn FnMut(&str, Setting)) -> Result<Vec<(String, Vec<f32>)>, String> {
    let description::Rotary { dims, theta, ref scaling, .. } = attention.rotary;
    let mut rule = |name: &str| set("rope.scaling.type", Setting::String(name.to_owned()));
    let frequencies = |scaling: &RotaryScaling| Rotary::new(dims, theta, scaling, 0).frequencies().to_vec();
    match *scaling {
        RotaryScaling::None => {}
        RotaryScaling::Linear(factor) => {
            rule("linear");
            set("rope.scaling.factor", Setting::F32(factor));
        }
        RotaryScaling::Factors(_) | RotaryScaling::Llama3 { .. } => {
            let pairs = frequencies(&RotaryScaling::None).into_iter().zip(frequencies(scaling));
            let factors = pairs.map(|(plain, scaled)| (plain / scaled) as f32).collect();
            return Ok(vec![("rope_freqs.weight".to_owned(), factors)]);
        }
        RotaryScaling::LongRope { ref short, ref long, amplitude, original } => {
            set("rope.scaling.attn_factor", Setting::F32(amplitude));
            set("rope.scaling.original_context_length", Setting::U32(original as u32));
            let tensors = [("rope_factors_long", long), ("rope_factors_short", short)];
            return Ok(tensors.map(|(name, factors)| (format!("{name}.weight"), factors.clone())).to_vec());
        }
        RotaryScaling::Yarn { whole: false, .. } => return Err("YaRN with truncate = false".to_owned()),
        RotaryScaling::Yarn { factor, turns: [fast, slow], amplitude, original, .. } => {
            rule("yarn");
            // Readers multiply by what the paper has.
            let usual = 0.1 * factor.max(1.0).ln() + 1.0;
            for (key, number) in [
                ("rope.scaling.factor", factor),
                ("rope.scaling.attn_factor", amplitude / usual),
                ("rope.scaling.yarn_beta_fast", fast),
                ("rope.scaling.yarn_beta_slow", slow),
            ] {
                set(key, Setting::F32(number));
            }
            set("rope.scaling.original_context_length", Setting::U32(original as u32));
        }
        RotaryScaling::Dynamic { .. } => return Err("a base that grows with the context".to_owned()),
    }
    Ok(Vec::new())
}
