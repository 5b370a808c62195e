//! What PyTorch makes of layers, in f64 (`scripts/golden-layers`), and what ours make of the same.

use std::collections::BTreeMap;

use ndarray::Array4;
use regard_kernels::{Activation, Rotary, RotaryScaling};
use regard_layers::{
    Bias, ContextInlet, Embedding, FeedForward, FeedForwardKind, FlashAttention, FlashConfig, HeadSizes, Initial,
    KeyHeads, Linear, LinearAttention, LinearConfig, LinearRule, LocalGlobalAttention, LocalGlobalConfig,
    LocalGlobalForm, Mixer, Mode, Norm, NormKind, Parameters, Scope, SharedAttentionContext, Sight, StateSpace,
    StateSpaceConfig, TransformerBlock, Workspace, cross_entropy, cross_entropy_need,
};
use regard_masks::Mask;
use regard_memory::Need;
use regard_oracle::layers::{Case, Tensor, Tensors, cases, rms_norm};
use regard_simd::Isa;
use regard_threads::Pool;
use serde_json::Value;

use crate::support::{GRADIENT, Made, RESULT, array4, made, narrow, near, size, twice, with_weights};
use crate::{linear_attention, multi_head, weights};

static TORCH: &[u8] = include_bytes!("../golden/layers.safetensors");

/// The cases by layer. Activations and rotary positions are no layers here; they are held through those that use them.
#[test]
fn pytorch_says_the_same() {
    for isa in Isa::available() {
        let mut workspace = Workspace::on(isa, Pool::global());
        let mut held = BTreeMap::<String, usize>::new();
        let cases = cases(TORCH);
        for case in &cases {
            judge(case, &mut workspace);
            *held.entry(case.layer().to_owned()).or_default() += 1;
        }
        let enough = [
            ("multi_head", 19),
            ("local_global", 6),
            ("block", 6),
            ("linear_attention", 5),
            ("recurrence", 7),
            ("state_space", 3),
            ("feed_forward", 3),
        ];
        for (layer, count) in enough {
            assert_eq!(held[layer], count, "{layer}");
        }
    }
}

fn judge(case: &Case, workspace: &mut Workspace) {
    match case.layer() {
        "linear" | "rms_norm" | "layer_norm" | "feed_forward" => of_rows(case, workspace),
        "embedding" => embedding(case, workspace),
        "cross_entropy" => loss(case, workspace),
        "multi_head" if case.settings["rotary"].is_object() => flash(case, workspace),
        "multi_head" => attention(case, workspace),
        "local_global" => local_global(case, workspace),
        "shared_context" => shared_context(case, workspace),
        "shared_context_update" => shared_context_update(case, workspace),
        "block" => block(case, workspace),
        "linear_attention" => linear_attention(case, workspace),
        "recurrence" => recurrence(case),
        "state_space" => state_space(case, workspace),
        "activation" | "rotary" => {}
        other => panic!("{}: a layer `{other}`", case.name),
    }
}

fn activation(case: &Case) -> Activation {
    match case.settings["activation"].as_str() {
        Some("silu") => Activation::Silu,
        Some("gelu") => Activation::Gelu,
        Some("gelu_tanh") => Activation::GeluTanh,
        other => panic!("{}: activation {other:?}", case.name),
    }
}

fn epsilon(case: &Case) -> f32 {
    case.number("epsilon").expect("an epsilon") as f32
}

/// Whether there is a bias of this name.
fn bias(of: &Tensors, name: &str) -> Bias {
    if of.get(name).is_some() { Bias::Learned } else { Bias::None }
}

/// With other names and places.
fn hold_as(case: &Case, made: &Made, renamed: impl Fn(&Tensors) -> Tensors) {
    made.hold(&case.name, &case.out["out"], &renamed(&case.gradient));
}

fn of_rows(case: &Case, workspace: &mut Workspace) {
    let (dout, mode) = (&case.dout["out"], Mode::Evaluation);
    match case.layer() {
        "linear" => {
            let renamed = |of: &Tensors| {
                let name = |name| match name {
                    "w" => "weight",
                    "b" => "bias",
                    other => other,
                };
                of.iter().map(|(old, tensor)| (name(old), tensor.clone())).collect::<Tensors>()
            };
            let given = renamed(&case.given);
            let &[outputs, inputs] = &given["weight"].shape[..] else { panic!("a matrix") };
            let bias = bias(&given, "bias");
            let new = |scope: &mut Scope<'_>| Linear::new(scope, inputs, outputs, bias);
            hold_as(case, &made(new, &given, dout, mode, workspace), renamed);
        }
        "feed_forward" => {
            let given = weights::feed_forward(&case.given);
            let activation = activation(case);
            let kind = match given.get("gate_proj.weight") {
                Some(_) => FeedForwardKind::Gated(activation),
                None => FeedForwardKind::Plain(activation),
            };
            let &[hidden, width] = &given["up_proj.weight"].shape[..] else { panic!("a matrix") };
            let bias = bias(&given, "up_proj.bias");
            let new = |scope: &mut Scope<'_>| FeedForward::new(scope, kind, width, hidden, bias);
            hold_as(case, &made(new, &given, dout, mode, workspace), weights::feed_forward);
        }
        norm => {
            let kind = if norm == "rms_norm" { NormKind::Rms } else { NormKind::Layer };
            let width = case.given["weight"].width();
            // Ours always has a bias, which does nothing while it is 0.
            let none = Tensors::from_iter([("bias", Tensor::new(&[width], vec![0.0; width]))]);
            let given = none.iter().chain(case.given.iter()).map(|(name, t)| (name, t.clone())).collect();
            let new = |scope: &mut Scope<'_>| Norm::new(scope, kind, width, epsilon(case));
            hold_as(case, &made(new, &given, dout, mode, workspace), Tensors::clone);
        }
    }
}

fn embedding(case: &Case, workspace: &mut Workspace) {
    let table = &case.given["table"];
    let given = Tensors::from_iter([("weight", table.clone())]);
    let new = |scope: &mut Scope<'_>| Embedding::new(scope, table.shape[0], table.width(), Initial::Constant(0.0));
    let (layer, parameters) = with_weights(new, &given);
    let tokens: Vec<u32> = case.constant["tokens"].values.iter().map(|&token| token as u32).collect();
    let (out, dout) = (&case.out["out"], narrow(&case.dout["out"].values));
    let made = twice(&parameters, |gradients| {
        let (_, pass) = workspace.pass(&parameters, Mode::Evaluation, Need::NONE).unwrap();
        let mut rows = vec![f32::NAN; dout.len()];
        layer.forward(&pass, &tokens, &mut rows).unwrap();
        layer.backward(&pass, &tokens, &dout, gradients).unwrap();
        (Tensor::new(&out.shape, rows.iter().map(|&x| x.into()).collect()), vec![])
    });
    let rounded: Vec<f64> = narrow(&out.values).iter().map(|&x| x.into()).collect();
    assert_eq!(made.out.values, rounded, "rows are copied");
    hold_as(case, &made, |of| Tensors::from_iter([("weight", of["table"].clone())]));
}

fn loss(case: &Case, workspace: &mut Workspace) {
    let (logits, dloss) = (&case.given["logits"], case.dout["out"].values[0]);
    let targets = &case.constant["targets"].values;
    let count = targets.iter().filter(|&&target| target >= 0.0).count();
    // Those that are ignored may be anything.
    let ours: Vec<u32> = targets.iter().map(|&target| if target < 0.0 { u32::MAX } else { target as u32 }).collect();
    let weight = |&target: &f64| if target < 0.0 { 0.0 } else { dloss / count as f64 };
    let counts: Vec<f32> = targets.iter().map(|target| weight(target) as f32).collect();
    let parameters = Parameters::new(1);
    let need = cross_entropy_need(targets.len());
    let (mut frame, pass) = workspace.pass(&parameters, Mode::Evaluation, need).unwrap();
    let mut gradient = narrow(&logits.values);
    let loss = cross_entropy(&pass, &mut gradient, logits.width(), &ours, &counts, &mut frame).unwrap();
    let gradient = Tensor::new(&logits.shape, gradient.iter().map(|&x| x.into()).collect());
    let out = Tensor::new(&[], vec![loss / dloss]);
    let made = Made { out, gradient: Tensors::from_iter([("logits", gradient)]), amplified: 1.0 };
    hold_as(case, &made, Tensors::clone);
}

/// The mask of a case, of so many queries and keys.
fn mask(case: &Case, queries: usize, keys: usize) -> Mask {
    let causal = if case.flag("causal") { Mask::causal() } else { Mask::full() };
    let Some(seen) = case.constant.get("mask") else { return causal };
    let seen: Vec<bool> = seen.values.iter().map(|&seen| seen == 1.0).collect();
    // The last query stands at the last key.
    causal & Mask::dense_at(keys as i64 - queries as i64, queries, keys, &seen).unwrap()
}

fn attention(case: &Case, workspace: &mut Workspace) {
    let queries = case.given["x"].shape[1];
    let keys = case.given.get("memory").map_or(queries, |memory| memory.shape[1]);
    let config = multi_head::config_of(&case.given);
    let config =
        regard_layers::MultiHeadConfig { mask: mask(case, queries, keys), scale: case.number("scale"), ..config };
    let heads = if case.flag("reuse_first_head_kv") { KeyHeads::First } else { KeyHeads::All };
    let dout = &case.dout["out"];
    let mut made = multi_head::made(&config, heads, &case.given, dout, Mode::Evaluation, workspace);
    if case.flag("add_input") {
        made.out = made.out.plus(&case.given["x"]);
        made.gradient["x"] = made.gradient["x"].plus(dout);
    }
    hold_as(case, &made, Tensors::clone);
}

/// The sizes of projections.
fn sizes(of: &Tensors) -> HeadSizes {
    let config = multi_head::config_of(of);
    let kv_heads = config.heads / config.share_kv_across_n_heads;
    HeadSizes { width: config.inputs, heads: config.heads, kv_heads, dim_k: config.dim_k, dim_v: config.dim_v }
}

fn rotary(case: &Case, dim: usize) -> Option<Rotary> {
    let settings = &case.settings["rotary"];
    let theta = settings["theta"].as_f64()? as f32;
    let dims = settings["dims"].as_u64().map_or(dim, |dims| dims as usize);
    Some(Rotary::new(dims, theta, &RotaryScaling::None, usize::MAX))
}

fn flash_config(case: &Case, of: &Tensors) -> FlashConfig {
    let sizes = sizes(of);
    let config = FlashConfig::new(sizes, mask(case, 0, 0));
    let bias = [bias(of, "b_q"), bias(of, "b_out")];
    FlashConfig { rotary: rotary(case, sizes.dim_k), scale: case.number("scale"), bias, ..config }
}

fn flash(case: &Case, workspace: &mut Workspace) {
    let new = |scope: &mut Scope<'_>| FlashAttention::new(scope, flash_config(case, &case.given));
    let given = weights::projections(&case.given);
    hold_as(case, &made(new, &given, &case.dout["out"], Mode::Evaluation, workspace), weights::projections);
}

fn local_global(case: &Case, workspace: &mut Workspace) {
    let indices = case.settings["globals"].as_array().expect("indices").iter();
    let indices: Vec<usize> = indices.map(|index| index.as_u64().expect("an index") as usize).collect();
    let biased = case.given.get("b_q").is_some();
    let sizes = sizes(&case.given);
    let config = LocalGlobalConfig {
        window: case.number("window").expect("a window") as usize,
        sight: if case.flag("causal") { Sight::Causal } else { Sight::Both },
        form: if case.flag("joint") { LocalGlobalForm::Joint } else { LocalGlobalForm::TwoSoftmaxes },
        ..LocalGlobalConfig::new(HeadSizes { width: sizes.width + usize::from(biased), ..sizes })
    };
    let new = |scope: &mut Scope<'_>| {
        let mut layer = LocalGlobalAttention::new(scope, config)?;
        layer.set_indices(&indices);
        Ok(layer)
    };
    let mut given = weights::projections(&case.given).and("dout", case.dout["out"].clone());
    let mut gradient = weights::projections(&case.gradient);
    let mut out = case.out["out"].clone();
    if biased {
        // Ours has none: they are what an input that is always 1 weighs.
        let bias = &case.given["b_out"];
        out =
            out.by_row(out.width() + 1, |row| row.iter().zip(&bias.values).map(|(x, b)| x - b).chain([0.0]).collect());
        (given, gradient) = (weights::with_ones(&given), weights::with_ones(&gradient));
    }
    let mut made = made(new, &given, &given["dout"], Mode::Evaluation, workspace);
    if biased {
        // Nobody knows the gradient of that input.
        let x = &mut made.gradient["x"];
        *x = x.by_row(x.width(), |row| [&row[..row.len() - 1], &[1.0]].concat());
    }
    made.hold(&case.name, &out, &gradient);
}

fn shared_context(case: &Case, workspace: &mut Workspace) {
    let (x, s) = (&case.given["x"], &case.constant["s"]);
    let (inlet, parameters) = with_weights(ContextInlet::new, &case.given);
    let mut context = SharedAttentionContext::new(s.width()).unwrap();
    context.set_matrix(&narrow(&s.values)).unwrap();
    let made = twice(&parameters, |gradients| {
        let need = context.need(x.values.len() / s.width()).times(2);
        let (mut tape, mut pass) = workspace.pass(&parameters, Mode::Evaluation, need).unwrap();
        let rows = narrow(&x.values);
        let out = context.apply(&mut pass, inlet, &rows, &mut tape).unwrap();
        let mut d = narrow(&case.dout["out"].values);
        context.apply_backward(&mut pass, inlet, &rows, &mut d, gradients, &mut tape).unwrap();
        let like = |rows: &[f32]| Tensor::new(&x.shape, rows.iter().map(|&x| x.into()).collect());
        (like(out), vec![("x", like(&d))])
    });
    hold_as(case, &made, Tensors::clone);
}

/// Ours always takes in one part of a hundred.
const RATE: f64 = 0.01;

fn shared_context_update(case: &Case, workspace: &mut Workspace) {
    let (x, y, s) = (&case.constant["x"], &case.constant["y"], &case.constant["s"]);
    let rate = case.number("rate").expect("a rate");
    let theirs = s.with(&case.out["s"], |before, after| {
        let similarity = (after - (1.0 - rate) * before) / rate;
        (1.0 - RATE) * before + RATE * similarity
    });
    let mut context = SharedAttentionContext::new(s.width()).unwrap();
    context.set_matrix(&narrow(&s.values)).unwrap();
    let parameters = Parameters::new(1);
    let (mut frame, mut pass) = workspace.pass(&parameters, Mode::Evaluation, context.observe_need()).unwrap();
    let [rows, results] = [x, y].map(|tensor| narrow(&tensor.values));
    context.observe(&mut pass, size(x), &rows, &results, &mut frame).unwrap();
    assert_eq!(context.matrix(), narrow(&s.values), "nothing has changed yet");
    context.update();
    let ours = Tensor::new(&s.shape, context.matrix().iter().map(|&x| x.into()).collect());
    near(&case.name, &ours, &theirs, RESULT, 0.0);
}

fn block(case: &Case, workspace: &mut Workspace) {
    let (attention, mixer) = (case.given.under("attention."), case.given.under("mixer."));
    let settings = &case.settings["mixer"];
    let renamed = |of: &Tensors| {
        let mixer = weights::under("mixer.", &weights::projections(&of.under("attention.")));
        let mixer = mixer.chain(weights::under("mixer.", &of.under("mixer.")));
        let feeding = weights::under("feed_forward.", &weights::feed_forward(&of.under("feed_forward.")));
        let others = ["attention_norm.weight", "attention_norm.bias", "feed_forward_norm.weight"];
        let others = others.into_iter().chain(["feed_forward_norm.bias", "x"]);
        let others = others.filter_map(|name| Some((name.to_owned(), of.get(name)?.clone())));
        mixer.chain(feeding).chain(others).collect::<Tensors>()
    };
    let given = renamed(&case.given);
    let kind = if case.settings["norm"] == "rms_norm" { NormKind::Rms } else { NormKind::Layer };
    let &[hidden, width] = &given["feed_forward.up_proj.weight"].shape[..] else { panic!("a matrix") };
    let feeding = match given.get("feed_forward.gate_proj.weight") {
        Some(_) => FeedForwardKind::Gated(activation(case)),
        None => FeedForwardKind::Plain(activation(case)),
    };
    let bias = bias(&given, "feed_forward.up_proj.bias");
    let new = |scope: &mut Scope<'_>| {
        let first = Norm::new(&mut scope.scope("attention_norm"), kind, width, epsilon(case))?;
        let second = Norm::new(&mut scope.scope("feed_forward_norm"), kind, width, epsilon(case))?;
        let mut scope_of_mixer = scope.scope("mixer");
        let mixer = match (attention.get("w_out"), settings["rule"].is_string()) {
            (Some(_), _) => Mixer::Softmax(FlashAttention::new(&mut scope_of_mixer, flash_config(case, &attention))?),
            (None, true) => Mixer::Linear(LinearAttention::new(&mut scope_of_mixer, linear_config(settings, &mixer))?),
            (None, false) => {
                Mixer::StateSpace(StateSpace::new(&mut scope_of_mixer, state_space_config(settings, &mixer))?)
            }
        };
        let feeding = FeedForward::new(&mut scope.scope("feed_forward"), feeding, width, hidden, bias)?;
        TransformerBlock::new([first, second], mixer, feeding)
    };
    let mut made = made(new, &given, &case.dout["out"], Mode::Evaluation, workspace);
    if settings["rule"].is_string() {
        let x = rms_norm(&case.given["x"], &given["attention_norm.weight"], epsilon(case).into());
        made.amplified = exact_linear(&linear_config(settings, &mixer), &x, &mixer).1;
    }
    hold_as(case, &made, renamed);
}

fn size_in(settings: &Value, name: &str) -> usize {
    settings[name].as_u64().expect("a size") as usize
}

fn linear_config(settings: &Value, of: &Tensors) -> LinearConfig {
    let rule = match settings["rule"].as_str() {
        Some("plain") => LinearRule::Plain,
        Some("gated") => LinearRule::Gated,
        Some("gated by channel") => LinearRule::GatedByChannel,
        Some("delta") => LinearRule::Delta,
        Some("gated delta") => LinearRule::GatedDelta,
        other => panic!("the rule {other:?}"),
    };
    let [heads, kv_heads] = ["heads", "kv_heads"].map(|name| size_in(settings, name));
    let (width, dim_k) = (of["q_proj.weight"].width(), of["q_proj.weight"].shape[0] / heads);
    LinearConfig::new(HeadSizes { width, heads, kv_heads, dim_k, dim_v: of["norm.weight"].width() }, rule)
}

/// The formulas that other tests hold the layer against, and how much its norm amplifies errors.
fn exact_linear(config: &LinearConfig, x: &Tensor, of: &Tensors) -> (Tensor, f64) {
    linear_attention::exact(config, None, x, &weights::heads(of, config.sizes))
}

fn linear_attention(case: &Case, workspace: &mut Workspace) {
    let config = linear_config(&case.settings, &case.given);
    let (exact, amplified) = exact_linear(&config, &case.given["x"], &case.given);
    near(&format!("{}: the formulas", case.name), &exact, &case.out["out"], 1e-11, 1.0);
    let new = |scope: &mut Scope<'_>| LinearAttention::new(scope, config);
    let made = made(new, &case.given, &case.dout["out"], Mode::Evaluation, workspace);
    hold_as(case, &Made { amplified, ..made }, Tensors::clone);
}

fn state_space_config(settings: &Value, of: &Tensors) -> StateSpaceConfig {
    let [heads, groups] = ["heads", "groups"].map(|name| size_in(settings, name));
    let taps = of["conv1d.weight"].width();
    let &[width, inner] = &of["out_proj.weight"].shape[..] else { panic!("a matrix") };
    let state = (of["conv1d.weight"].shape[0] - inner) / (2 * groups);
    let eps = settings["epsilon"].as_f64().expect("an epsilon") as f32;
    StateSpaceConfig { width, heads, head_dim: inner / heads, groups, state, taps, eps }
}

fn state_space(case: &Case, workspace: &mut Workspace) {
    let config = state_space_config(&case.settings, &case.given);
    let new = |scope: &mut Scope<'_>| StateSpace::new(scope, config);
    hold_as(case, &made(new, &case.given, &case.dout["out"], Mode::Evaluation, workspace), Tensors::clone);
}

/// The rule alone, which linear attention and Mamba-2 stand on.
fn recurrence(case: &Case) {
    let given: BTreeMap<&str, Array4<f32>> = case.given.iter().map(|(name, t)| (name, array4(t))).collect();
    let view = |name: &str| given.get(name).map(|array| array.view());
    let mut call = regard_attention::LinearAttention::new(given["q"].view(), given["k"].view(), given["v"].view());
    call = view("log_decay").map_or(call.clone(), |log_decay| call.log_decay(log_decay));
    call = view("beta").map_or(call.clone(), |beta| call.beta(beta));
    call = view("state").map_or(call.clone(), |state| call.state(state));
    call = call.scale(case.number("scale").expect("a scale"));
    let (out, state) = call.run().unwrap();
    let like =
        |tensor: &Tensor, array: &Array4<f32>| Tensor::new(&tensor.shape, array.iter().map(|&x| x.into()).collect());
    for (name, ours) in [("out", out), ("state", state)] {
        near(&format!("{}: {name}", case.name), &like(&case.out[name], &ours), &case.out[name], RESULT, 0.0);
    }
    let (dout, dstate) = (array4(&case.dout["out"]), array4(&case.dout["state"]));
    let gradients = call.backward(dout.view(), Some(dstate.view())).unwrap();
    let parts = [("q", Some(gradients.q)), ("k", Some(gradients.k)), ("v", Some(gradients.v))];
    let parts = parts.into_iter().chain([("log_decay", gradients.log_decay), ("beta", gradients.beta)]);
    for (name, ours) in parts.chain([("state", Some(gradients.state))]) {
        if let Some(theirs) = case.gradient.get(name) {
            let what = format!("{}: gradient of {name}", case.name);
            near(&what, &like(theirs, &ours.expect("a gradient")), theirs, GRADIENT, 0.0);
        }
    }
}
