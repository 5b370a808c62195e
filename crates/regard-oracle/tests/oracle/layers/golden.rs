//! PyTorch as a second opinion.

use regard_oracle::Recurrence;
use regard_oracle::layers::{
    Activation, Block, Case, LocalGlobal, MultiHead, Norm, Rotary, SharedContext, Tensor, Tensors, cases,
    cross_entropy, differences, embedding, feed_forward, layer_norm, linear, rms_norm,
};

use crate::close;

static TORCH: &[u8] = include_bytes!("../../../../regard-layers/tests/golden/layers.safetensors");

fn activation(case: &Case) -> Activation {
    match case.settings["activation"].as_str() {
        Some("silu") => Activation::Silu,
        Some("gelu") => Activation::Gelu,
        Some("gelu_tanh") => Activation::GeluTanh,
        other => panic!("{}: activation {other:?}", case.name),
    }
}

fn rotary(case: &Case) -> Option<Rotary> {
    let rotary = &case.settings["rotary"];
    Some(Rotary { theta: rotary["theta"].as_f64()?, dims: rotary["dims"].as_u64().map(|dims| dims as usize) })
}

/// A multi-head layer as a case sets it, to be used.
fn with_multi_head<R>(case: &Case, f: impl Fn(MultiHead<'_>) -> R) -> R {
    let mask = case.constant.get("mask");
    let allowed = |i: usize, j: usize| mask.is_none_or(|mask| mask.values[i * mask.width() + j] == 1.0);
    f(MultiHead {
        allows: &|i, j| (!case.flag("causal") || j <= i) && allowed(i, j),
        reuse_first_head_kv: case.flag("reuse_first_head_kv"),
        add_input: case.flag("add_input"),
        rotary: rotary(case),
        scale: case.number("scale"),
        dropout: None,
    })
}

fn local_global(case: &Case) -> LocalGlobal {
    let globals = case.settings["globals"].as_array().expect("indices").iter();
    LocalGlobal {
        window: case.number("window").expect("a window") as usize,
        globals: globals.map(|index| index.as_u64().expect("an index") as usize).collect(),
        causal: case.flag("causal"),
        joint: case.flag("joint"),
    }
}

fn norm(case: &Case) -> Norm {
    let epsilon = case.number("epsilon").expect("an epsilon");
    if case.settings["norm"] == "rms_norm" { Norm::Rms(epsilon) } else { Norm::Layer(epsilon) }
}

fn recurrence(case: &Case, t: &Tensors) -> Tensors {
    let of = |name: &str| t.get(name).map_or(vec![], |tensor| tensor.values.clone());
    let heads = |name: &str| t.get(name).map_or(1, |tensor| tensor.shape[1]);
    let (q, v) = (&t["q"], &t["v"]);
    let call = Recurrence {
        batch: q.shape[0],
        tokens: q.shape[2],
        dim_k: q.shape[3],
        dim_v: v.shape[3],
        heads: ["q", "k", "v", "log_decay", "beta"].map(heads),
        q: of("q"),
        k: of("k"),
        v: of("v"),
        log_decay: of("log_decay"),
        beta: of("beta"),
        state: of("state"),
        scale: case.number("scale").expect("a scale"),
        both: false,
    };
    let (out, state) = call.exact();
    let parts = [("out", out), ("state", state)];
    parts.into_iter().map(|(name, values)| (name, Tensor::new(&case.out[name].shape, values))).collect()
}

/// What the oracle makes of a case, given these tensors.
fn computed(case: &Case, t: &Tensors) -> Tensors {
    let constant = |name: &str| &case.constant[name];
    let epsilon = || case.number("epsilon").expect("an epsilon");
    let out = match case.layer() {
        "linear" => linear(&t["x"], &t["w"], t.get("b")),
        "rms_norm" => rms_norm(&t["x"], &t["weight"], epsilon()),
        "layer_norm" => layer_norm(&t["x"], &t["weight"], t.get("bias"), epsilon()),
        "activation" => {
            let activation = activation(case);
            t["x"].by_row(t["x"].width(), |x| x.iter().map(|&x| activation.of(x)).collect())
        }
        "feed_forward" => feed_forward(&t["x"], t, activation(case)),
        "embedding" => {
            let tokens: Vec<usize> = constant("tokens").values.iter().map(|&token| token as usize).collect();
            embedding(&t["table"], &tokens).reshaped(&case.out["out"].shape)
        }
        "cross_entropy" => {
            let targets = constant("targets").values.iter().map(|&target| (target >= 0.0).then_some(target as usize));
            Tensor::new(&[], vec![cross_entropy(&t["logits"], &targets.collect::<Vec<_>>())])
        }
        "rotary" => rotary(case).expect("positions").apply(&t["x"], 0),
        "multi_head" => with_multi_head(case, |layer| layer.forward(&t["x"], t.get("memory"), t)),
        "local_global" => local_global(case).forward(&t["x"], t),
        "shared_context" => SharedContext::apply(&t["x"], constant("s"), t["scale"].values[0]),
        "shared_context_update" => {
            let context = SharedContext { rate: case.number("rate").expect("a rate"), ..SharedContext::default() };
            let (x, y) = (constant("x"), constant("y"));
            let sequences: Vec<_> = (0..x.shape[0]).map(|b| (x.part(b), y.part(b))).collect();
            return Tensors::default().and("s", context.updated(constant("s"), &sequences));
        }
        "block" => with_multi_head(case, |attention| {
            Block { norm: norm(case), attention, activation: activation(case) }.forward(&t["x"], t)
        }),
        "recurrence" => return recurrence(case, t),
        other => panic!("{}: a layer `{other}`", case.name),
    };
    Tensors::default().and("out", out)
}

/// Outputs, and central differences where gradients are known.
fn judge(case: &Case) -> Result<(), String> {
    let said = |what: &str, name: &str| format!("{}: {what} {name}: ", case.name);
    let out = computed(case, &case.given);
    for (name, theirs) in case.out.iter() {
        assert_eq!(out[name].shape, theirs.shape, "{}", said("output", name));
        close(&out[name].values, &theirs.values, 1e-11).map_err(|what| said("output", name) + &what)?;
    }
    let loss = |t: &Tensors| {
        let out = computed(case, t);
        case.dout.iter().map(|(name, dout)| out[name].dot(dout)).sum()
    };
    if case.gradient == Tensors::default() {
        return Ok(());
    }
    let slopes = differences(&case.given, loss);
    for (name, slope) in slopes.iter() {
        close(&slope.values, &case.gradient[name].values, 1e-7).map_err(|what| said("gradient", name) + &what)?;
    }
    Ok(())
}

#[test]
fn pytorch_says_the_same() {
    let cases = cases(TORCH);
    assert!(cases.len() > 50);
    for case in &cases {
        judge(case).unwrap();
    }
}
