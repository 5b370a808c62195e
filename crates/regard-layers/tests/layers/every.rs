//! Every layer, of one width.

use regard_attention::Direction;
use regard_kernels::Activation;
use regard_layers::{
    Bias, Error, FeedForward, FeedForwardKind, FlashAttention, FlashConfig, HeadSizes, Layer, Linear, LinearAttention,
    LinearConfig, LinearRule, LocalGlobalAttention, LocalGlobalConfig, LocalGlobalForm, Mixer, MultiHeadAttention,
    MultiHeadConfig, Norm, NormKind, Parameters, Scope, Sight, Sinks, StateSpace, StateSpaceConfig, TransformerBlock,
};
use regard_masks::Mask;
use regard_oracle::numbers;

/// Numbers of a row.
pub(crate) const WIDTH: usize = 24;

pub(crate) const RULES: [LinearRule; 5] =
    [LinearRule::Plain, LinearRule::Gated, LinearRule::GatedByChannel, LinearRule::Delta, LinearRule::GatedDelta];

/// What is done with each layer.
pub(crate) trait Visit {
    fn layer<L: Layer>(&mut self, layer: &L, of: &Visited<'_>);
}

/// A layer's name, whether later tokens may reach earlier ones, and what it has learned.
pub(crate) struct Visited<'p> {
    pub(crate) name: String,
    pub(crate) sight: Sight,
    pub(crate) parameters: &'p Parameters,
}

/// Moves all parameters away from where they begin.
pub(crate) fn moved(parameters: &mut Parameters) {
    let noise = numbers(17, parameters.values().len());
    parameters.values_mut().iter_mut().zip(noise).for_each(|(value, noise)| *value += 0.2 * noise);
}

fn visit<L: Layer>(
    visit: &mut impl Visit,
    name: String,
    sight: Sight,
    new: impl FnOnce(&mut Scope<'_>) -> Result<L, Error>,
) {
    let mut parameters = Parameters::new(3);
    let layer = new(&mut parameters.root()).unwrap();
    moved(&mut parameters);
    visit.layer(&layer, &Visited { name, sight, parameters: &parameters });
}

fn block(scope: &mut Scope<'_>, mixer: Mixer) -> Result<TransformerBlock, Error> {
    let norms = [
        Norm::new(&mut scope.scope("norm1"), NormKind::Rms, WIDTH, 1e-5)?,
        Norm::new(&mut scope.scope("norm2"), NormKind::Layer, WIDTH, 1e-5)?,
    ];
    let kind = FeedForwardKind::Gated(Activation::Silu);
    TransformerBlock::new(norms, mixer, FeedForward::new(&mut scope.scope("feeding"), kind, WIDTH, 40, Bias::None)?)
}

/// All layers, each in its variants. Dropout is on where there is any.
pub(crate) fn every_layer(to: &mut impl Visit) {
    let sizes = HeadSizes { kv_heads: 2, dim_v: 5, ..HeadSizes::new(WIDTH, 4) };
    visit(to, "linear".into(), Sight::Causal, |scope| Linear::new(scope, WIDTH, WIDTH, Bias::Learned));
    for kind in [NormKind::Rms, NormKind::Layer] {
        visit(to, format!("{kind:?}"), Sight::Causal, |scope| Norm::new(scope, kind, WIDTH, 1e-5));
    }
    for kind in [FeedForwardKind::Gated(Activation::Silu), FeedForwardKind::Plain(Activation::Gelu)] {
        let new = |scope: &mut Scope<'_>| FeedForward::new(scope, kind, WIDTH, 40, Bias::Learned);
        visit(to, format!("{kind:?}"), Sight::Causal, new);
    }
    for (mask, sight) in
        [(Mask::full(), Sight::Both), (Mask::causal(), Sight::Causal), (Mask::window(Some(9), Some(0)), Sight::Causal)]
    {
        for (share_kv_across_n_heads, dim_v) in [(1, 6), (2, 6), (2, 5)] {
            let config = MultiHeadConfig {
                share_kv_across_n_heads,
                dim_v,
                mask: mask.clone(),
                bias: Bias::Learned,
                dropout: 0.1,
                ..MultiHeadConfig::new(WIDTH, 4)
            };
            visit(to, format!("{config:?}"), sight, |scope| MultiHeadAttention::new(scope, config.clone()));
        }
        let flash = FlashConfig {
            sinks: Sinks::Learned,
            softcap: Some(4.0),
            dropout: 0.1,
            ..FlashConfig::new(sizes, mask).with_rotary(100.0)
        };
        visit(to, format!("{flash:?}"), sight, |scope| FlashAttention::new(scope, flash.clone()));
        visit(to, format!("block of {flash:?}"), sight, |scope| {
            let mixer = FlashAttention::new(&mut scope.scope("mixer"), flash.clone())?;
            block(scope, Mixer::Softmax(mixer))
        });
    }
    for sight in [Sight::Both, Sight::Causal] {
        for form in [LocalGlobalForm::TwoSoftmaxes, LocalGlobalForm::Joint] {
            let config = LocalGlobalConfig { sizes, window: 3, sight, form };
            visit(to, format!("{config:?}"), sight, |scope| {
                let mut layer = LocalGlobalAttention::new(scope, config)?;
                layer.set_indices(&[0]);
                Ok(layer)
            });
        }
    }
    let both = LinearConfig { direction: Direction::Both, ..LinearConfig::new(sizes, LinearRule::Plain) };
    visit(to, format!("{both:?}"), Sight::Both, |scope| LinearAttention::new(scope, both));
    for rule in RULES {
        let config = LinearConfig::new(sizes, rule);
        visit(to, format!("{config:?}"), Sight::Causal, |scope| LinearAttention::new(scope, config.clone()));
        visit(to, format!("block of {config:?}"), Sight::Causal, |scope| {
            let mixer = LinearAttention::new(&mut scope.scope("mixer"), config)?;
            block(scope, Mixer::Linear(mixer))
        });
    }
    let config = StateSpaceConfig { groups: 2, state: 9, ..StateSpaceConfig::new(WIDTH, 4) };
    visit(to, format!("{config:?}"), Sight::Causal, |scope| StateSpace::new(scope, config));
    visit(to, format!("block of {config:?}"), Sight::Causal, |scope| {
        let mixer = StateSpace::new(&mut scope.scope("mixer"), config)?;
        block(scope, Mixer::StateSpace(mixer))
    });
}
