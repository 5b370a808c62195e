//! Layers around attention, and blocks of them.

use regard_oracle::layers::{Activation, Block, LocalGlobal, MultiHead, Norm, Rotary, Tensor, Tensors};

use super::{drawn, random, same};

const E: usize = 6;

/// Four heads over as many, whose keys and values are of different size.
fn weights(kv_heads: usize) -> Tensors {
    let (k, v) = ([kv_heads, 3, E], [kv_heads, 5, E]);
    let (b_k, b_v) = ([kv_heads, 3], [kv_heads, 5]);
    let parts = drawn(10, [("w_q", &[1, 4, 3, E]), ("w_k", &k), ("w_v", &v), ("w_out", &[4, 5, E])]);
    let biases = drawn(20, [("b_q", &[4, 3]), ("b_k", &b_k), ("b_v", &b_v), ("b_out", &[E])]);
    parts.iter().chain(biases.iter()).map(|(name, tensor)| (name, tensor.clone())).collect()
}

/// Parts of the first axis, in this order.
fn parts(tensor: &Tensor, order: &[usize]) -> Tensor {
    let mut shape = tensor.shape.clone();
    shape[0] = order.len();
    Tensor::new(&shape, order.iter().flat_map(|&at| tensor.part(at).values).collect())
}

/// The same weights with other heads of keys and values.
fn with_kv_heads(weights: &Tensors, order: &[usize]) -> Tensors {
    let kv = ["w_k", "w_v", "b_k", "b_v"];
    kv.into_iter().fold(weights.clone(), |all, name| all.and(name, parts(&weights[name], order)))
}

#[test]
fn no_query_is_a_mean() {
    // Of queries that are 0 every key has the same weight.
    let nothing = Tensor::new(&[4, 3], vec![0.0; 12]);
    let weights = weights(4).and("w_q", Tensor::new(&[1, 4, 3, E], vec![0.0; 72])).and("b_q", nothing);
    let (x, memory) = (random(1, &[2, 3, E]), random(2, &[2, 5, E]));
    let y = MultiHead::default().forward(&x, Some(&memory), &weights);
    let (w_v, b_v, w_out) = (&weights["w_v"], &weights["b_v"], &weights["w_out"]);
    for (place, y) in y.rows().enumerate() {
        let mean = |s: usize| (0..5).map(|t| memory.values[(place / 3 * 5 + t) * E + s]).sum::<f64>() / 5.0;
        for (e, &y) in y.iter().enumerate() {
            let value = |at: usize| b_v.values[at] + (0..E).map(|s| w_v.values[at * E + s] * mean(s)).sum::<f64>();
            let exact =
                weights["b_out"].values[e] + (0..20).map(|at| value(at) * w_out.values[at * E + e]).sum::<f64>();
            assert!((y - exact).abs() < 1e-12, "{y} and {exact}");
        }
    }
}

#[test]
fn forms_of_weights_say_the_same() {
    let layer = MultiHead::default();
    let x = random(1, &[2, 4, E]);
    let parts = drawn(10, [("w_qkv", &[3, 4, 3, E]), ("w_out", &[4, 3, E])]);
    let exact = layer.forward(&x, None, &parts);
    let [q, k, v] = [0, 1, 2].map(|at| parts["w_qkv"].part(at));
    let w_out = Tensors::default().and("w_out", parts["w_out"].clone()).and("w_q", q.reshaped(&[1, 4, 3, E]));
    let w_kv = Tensor::new(&[2, 4, 3, E], [k.values.clone(), v.values.clone()].concat());
    same(&layer.forward(&x, None, &w_out.clone().and("w_kv", w_kv)), &exact);
    same(&layer.forward(&x, None, &w_out.and("w_k", k).and("w_v", v)), &exact);
    // Over itself is over a memory that is itself, and the input is added last.
    same(&layer.forward(&x, Some(&x), &parts), &exact);
    let added = MultiHead { add_input: true, ..layer };
    same(&added.forward(&x, None, &parts), &exact.plus(&x));
}

#[test]
fn shared_heads_are_repeated_ones() {
    let layer = MultiHead { rotary: Some(Rotary { theta: 100.0, dims: Some(2) }), ..MultiHead::default() };
    let (x, memory) = (random(1, &[2, 3, E]), random(2, &[2, 5, E]));
    let of = |layer: MultiHead<'_>, weights: &Tensors| layer.forward(&x, Some(&memory), weights);
    same(&of(layer, &weights(2)), &of(layer, &with_kv_heads(&weights(2), &[0, 0, 1, 1])));
    let first = MultiHead { reuse_first_head_kv: true, ..layer };
    same(&of(first, &weights(4)), &of(layer, &with_kv_heads(&weights(4), &[0; 4])));
    same(&of(first, &weights(2)), &of(layer, &with_kv_heads(&weights(2), &[0])));
    // Keys and values can be made before, and then only of that head.
    let (k, v) = first.keys_values(&memory, &weights(2));
    assert_eq!((&k.shape[..], &v.shape[..]), (&[2, 1, 5, 3][..], &[2, 1, 5, 5][..]));
    same(&first.over(&x, &k, &v, &weights(2)), &of(first, &weights(2)));
}

#[test]
fn a_mask_removes_keys() {
    let (x, memory) = (random(1, &[1, 3, E]), random(2, &[1, 5, E]));
    let masked = MultiHead { allows: &|query, key| query != 1 && key < 2, ..MultiHead::default() };
    let y = masked.forward(&x, Some(&memory), &weights(4));
    let short = Tensor::new(&[1, 2, E], memory.values[..2 * E].to_vec());
    let exact = MultiHead::default().forward(&x, Some(&short), &weights(4));
    for query in [0, 2] {
        same(&y.part(0).part(query), &exact.part(0).part(query));
    }
    // A query that sees nothing keeps the bias.
    same(&y.part(0).part(1), &weights(4)["b_out"]);
}

const FAR: usize = 100;

/// A layer's output where all gates have this logit.
fn gated(layer: &LocalGlobal, x: &Tensor, gate: f64) -> Tensor {
    layer.forward(x, &weights(2).and("gate", Tensor::new(&[4, 5], vec![gate; 20])))
}

#[test]
fn gates_choose_between_local_and_global() {
    let x = random(1, &[2, 7, E]);
    for causal in [false, true] {
        let layer = LocalGlobal { window: 1, globals: vec![4, 2, 4], causal, joint: false };
        let seen = |i: usize, j: usize| !causal || j <= i;
        let only = |allows: &dyn Fn(usize, usize) -> bool| {
            MultiHead { allows, ..MultiHead::default() }.forward(&x, None, &weights(2))
        };
        let local = only(&|i, j| seen(i, j) && i.abs_diff(j) <= 1);
        same(&gated(&layer, &x, 1000.0), &local);
        // Rows before the first global key have none if causal.
        let global = |i: usize, j: usize| seen(i, j) && [2, 4].contains(&j);
        same(
            &gated(&layer, &x, -1000.0),
            &only(&|i, j| if causal && i < 2 { seen(i, j) && i - j <= 1 } else { global(i, j) }),
        );
        same(&gated(&LocalGlobal { globals: vec![], ..layer.clone() }, &x, -3.0), &local);
        // One softmax over the union.
        let joint = LocalGlobal { joint: true, ..layer.clone() };
        let union = only(&|i, j| seen(i, j) && (i.abs_diff(j) <= 1 || [2, 4].contains(&j)));
        same(&joint.forward(&x, &weights(2)), &union);
        // Where both see all, no gate matters; a logit of ln 3 takes three quarters of the local part.
        let all = LocalGlobal { window: FAR, globals: (0..7).collect(), causal, joint: false };
        same(&gated(&all, &x, 0.3), &only(&seen));
        let (one, other) = (gated(&layer, &x, 1000.0), gated(&layer, &x, -1000.0));
        same(&gated(&layer, &x, 3f64.ln()), &one.with(&other, |one, other| 0.75 * one + 0.25 * other));
    }
}

#[test]
fn gates_are_by_head_and_channel() {
    let layer = LocalGlobal { window: 0, globals: vec![0], ..LocalGlobal::default() };
    // One token that sees the first, and one channel of one head that looks there.
    let ones = Tensor::new(&[1, 2, 2, 2], vec![1.0; 8]);
    let v = random(1, &[1, 2, 2, 2]);
    let gate = Tensor::new(&[2, 2], vec![1000.0, 1000.0, -1000.0, 1000.0]);
    let mut exact = v.clone();
    exact.values[6] = v.values[4];
    same(&layer.attend(&ones, &ones, &v, Some(&gate)), &exact);
}

#[test]
fn a_block_is_the_sum_of_its_parts() {
    let x = random(1, &[2, 3, E]);
    let inner = drawn(30, [("feed_forward.w_up", &[8, E]), ("feed_forward.w_down", &[E, 8])]);
    let norms = drawn(40, [("attention_norm.weight", &[E]), ("feed_forward_norm.weight", &[E])]);
    let outer: Vec<_> = weights(2).iter().map(|(name, tensor)| (format!("attention.{name}"), tensor.clone())).collect();
    let named = |tensors: &Tensors| tensors.iter().map(|(name, t)| (name.to_owned(), t.clone())).collect::<Vec<_>>();
    let weights: Tensors = named(&inner).into_iter().chain(named(&norms)).chain(outer).collect();
    let causal = MultiHead { allows: &|i, j| j <= i, ..MultiHead::default() };
    let block = Block { norm: Norm::Rms(1e-5), attention: causal, activation: Activation::Gelu };
    let silent = |weights: &Tensors, name: &str| {
        let zeros = vec![0.0; weights[name].values.len()];
        weights.clone().and(name, Tensor::new(&weights[name].shape, zeros))
    };
    // Without one part and the other's bias, x is what comes out.
    let neither = silent(&silent(&silent(&weights, "attention.w_out"), "attention.b_out"), "feed_forward.w_down");
    same(&block.forward(&x, &neither), &x);
    // The parts, one after the other.
    let alone = block.forward(&x, &silent(&weights, "feed_forward.w_down"));
    let deaf = silent(&silent(&weights, "attention.w_out"), "attention.b_out");
    same(&block.forward(&x, &weights), &block.forward(&alone, &deaf));
}
