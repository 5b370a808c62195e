//! PyTorch and TabPFN as second opinions.

use regard_oracle::Recurrence;
use regard_oracle::layers::{
    Activation, Block, Case, LocalGlobal, MultiHead, Norm, Rotary, SharedContext, StateSpace, Tensor, Tensors, cases,
    cross_entropy, differences, embedding, feed_forward, layer_norm, linear, rms_norm,
};

use crate::close;

static TORCH: &[u8] = include_bytes!("../../../../regard-layers/tests/golden/layers.safetensors");
static TABPFN: &[u8] = include_bytes!("../../../../regard-layers/tests/golden/tabpfn.safetensors");

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
        "state_space" => {
            let size = |name: &str| case.number(name).expect("a size") as usize;
            let layer = StateSpace { heads: size("heads"), groups: size("groups"), epsilon: epsilon() };
            layer.forward(&t["x"], t)
        }
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
    // Layers of linear attention, and blocks with other mixers than softmax, are held beside their own tests.
    let elsewhere = |case: &&Case| case.layer() == "linear_attention" || case.settings["mixer"].is_object();
    for case in cases.iter().filter(|case| !elsewhere(case)) {
        assert!(case.gradient != Tensors::default() || case.layer() == "shared_context_update", "{}", case.name);
        judge(case).unwrap();
    }
}

/// A case of TabPFN's in our words: weights without the underscore, one axis of batch.
fn translated(case: &Case) -> Case {
    let flat = |tensor: &Tensor| {
        let [.., tokens, width] = tensor.shape[..] else { panic!("tokens") };
        tensor.reshaped(&[tensor.values.len() / (tokens * width), tokens, width])
    };
    let renamed = |tensors: &Tensors| -> Tensors {
        let ours = |(name, tensor): (&str, &Tensor)| match name {
            "x_kv" => ("memory".to_owned(), flat(tensor)),
            "x" | "out" => (name.to_owned(), flat(tensor)),
            name => (name.trim_start_matches('_').to_owned(), tensor.clone()),
        };
        tensors.iter().map(ours).collect()
    };
    let Case { given, constant, out, dout, gradient, .. } = case;
    let [given, constant, out, dout, gradient] = [given, constant, out, dout, gradient].map(renamed);
    Case { given, constant, out, dout, gradient, ..case.clone() }
}

/// What a cache `[batch, keys, (2,) heads, d]` holds of keys (0) or values (1), as ours: `[batch, heads, keys, d]`.
fn of_cache(cache: &Tensor, part: usize) -> Tensor {
    let [batch, keys, ref parts @ .., heads, d] = cache.shape[..] else { panic!("a cache") };
    let mut values = Vec::new();
    for b in 0..batch {
        for h in 0..heads {
            for key in 0..keys {
                let at = if parts.is_empty() { b * keys + key } else { (b * keys + key) * 2 + part };
                values.extend_from_slice(&cache.values[(at * heads + h) * d..][..d]);
            }
        }
    }
    Tensor::new(&[batch, heads, keys, d], values)
}

/// What is kept of a call, and what comes of reading it.
fn judge_cache(case: &Case) -> Result<(), String> {
    let (t, constant) = (&case.given, &case.constant);
    let joint = constant.get("kv_cache");
    let [theirs_k, theirs_v] =
        [("k_cache", 0), ("v_cache", 1)].map(|(name, part)| of_cache(joint.unwrap_or_else(|| &constant[name]), part));
    with_multi_head(case, |layer| {
        // Of the two forms, one can keep the first head alone.
        let first = case.flag("only_cache_first_head_kv") && joint.is_some();
        let kept = MultiHead { reuse_first_head_kv: layer.reuse_first_head_kv || first, ..layer };
        let memory = t.get("memory").unwrap_or(&t["x"]);
        let (k, v) = kept.keys_values(memory, t);
        let (y, y_read) = (layer.forward(&t["x"], t.get("memory"), t), layer.over(&constant["x_read"], &k, &v, t));
        let pairs = [(&k, &theirs_k), (&v, &theirs_v), (&y, &case.out["y"]), (&y_read, &case.out["y_read"])];
        pairs.iter().try_for_each(|(ours, theirs)| {
            assert_eq!(ours.shape, theirs.shape, "{}", case.name);
            close(&ours.values, &theirs.values, 1e-11).map_err(|what| format!("{}: {what}", case.name))
        })
    })
}

#[test]
fn tabpfn_says_the_same() {
    let cases: Vec<Case> = cases(TABPFN).iter().map(translated).collect();
    assert!(cases.len() > 30);
    for case in &cases {
        if case.flag("cached") { judge_cache(case) } else { judge(case) }.unwrap();
    }
}
