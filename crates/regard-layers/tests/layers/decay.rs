//! What loses a share of itself in every step of an optimiser, and what does not.

use regard_kernels::Activation;
use regard_layers::{
    Bias, ContextInlet, Embedding, FeedForward, FeedForwardKind, FlashAttention, FlashConfig, Gradients, HeadSizes,
    Initial, LinearAttention, LinearConfig, LinearRule, LocalGlobalAttention, LocalGlobalConfig, MultiHeadAttention,
    MultiHeadConfig, Norm, NormKind, Optimiser, OptimiserConfig, Parameters, Sinks, StateSpace, StateSpaceConfig,
    Workspace,
};
use regard_masks::Mask;

use crate::every::moved;
use crate::support::SEED;

/// Parameters of all layers that have any but a norm's or a linear layer's.
fn parameters() -> Parameters {
    let mut parameters = Parameters::new(SEED);
    let mut root = parameters.root();
    let sizes = HeadSizes::new(8, 2);
    Embedding::new(&mut root.scope("table"), 9, 8, Initial::Normal(1.0)).unwrap();
    for share_kv_across_n_heads in [1, 2] {
        let config = MultiHeadConfig { share_kv_across_n_heads, bias: Bias::Learned, ..MultiHeadConfig::new(8, 2) };
        MultiHeadAttention::new(&mut root.scope(&format!("multi_head{share_kv_across_n_heads}")), config).unwrap();
    }
    let flash =
        FlashConfig { sinks: Sinks::Learned, bias: [Bias::Learned; 2], ..FlashConfig::new(sizes, Mask::causal()) };
    FlashAttention::new(&mut root.scope("flash"), flash).unwrap();
    LocalGlobalAttention::new(&mut root.scope("local_global"), LocalGlobalConfig::new(sizes)).unwrap();
    let linear = LinearConfig::new(sizes, LinearRule::GatedDelta);
    LinearAttention::new(&mut root.scope("linear"), linear).unwrap();
    StateSpace::new(&mut root.scope("state_space"), StateSpaceConfig::new(8, 2)).unwrap();
    let kind = FeedForwardKind::Gated(Activation::Silu);
    FeedForward::new(&mut root.scope("feeding"), kind, 8, 10, Bias::Learned).unwrap();
    Norm::new(&mut root.scope("norm"), NormKind::Layer, 8, 1e-5).unwrap();
    ContextInlet::new(&mut root.scope("context")).unwrap();
    parameters
}

/// Where no gradient moves it, a matrix keeps `1 − rate·decay` of itself, and a vector all.
#[test]
fn matrices_decay_and_vectors_do_not() {
    let mut parameters = parameters();
    moved(&mut parameters);
    let names: Vec<String> = parameters.names().map(str::to_owned).collect();
    let of = |parameters: &Parameters, name: &str| parameters.get(name).unwrap().into_owned();
    let before: Vec<_> = names.iter().map(|name| of(&parameters, name)).collect();
    let config = OptimiserConfig { decay: 0.5, ..OptimiserConfig::default() };
    let mut optimiser = Optimiser::new(&parameters, config).unwrap();
    let gradients = Gradients::new(&parameters).unwrap();
    optimiser.step(&Workspace::new().unwrap(), &mut parameters, &gradients, 0.5).unwrap();
    for (name, before) in names.iter().zip(before) {
        let (path, last) = name.rsplit_once('.').unwrap();
        let matrix = last.starts_with("w_") || (last == "weight" && !path.ends_with("norm"));
        let factor = if matrix { 0.75 } else { 1.0 };
        let off = (of(&parameters, name) - before * factor).fold(0.0f32, |most, x| x.abs().max(most));
        assert!(off < 1e-6, "{name} keeps {factor} of itself: off by {off}");
    }
}
