//! What TabPFN's own module makes of random data, in f64 (`scripts/golden-tabpfn`), and what ours makes of the same.

use ndarray::{Array3, ArrayView3, Axis, Slice, concatenate};
use regard_layers::{KeyHeads, Mode, MultiHeadAttention, MultiHeadCache, MultiHeadConfig, Parameters, Workspace};
use regard_oracle::layers::{Case, Tensor, Tensors, cases};

use crate::multi_head::{config_of, made};
use crate::support::{array, array4, hold_results, tensor, with_weights};

static TABPFN: &[u8] = include_bytes!("../golden/tabpfn.safetensors");

/// All axes of `x` before the last two are batch.
fn flat(tensor: &Tensor) -> Tensor {
    let [.., tokens, width] = tensor.shape[..] else { panic!("{:?} has no tokens", tensor.shape) };
    tensor.reshaped(&[tensor.values.len() / (tokens * width), tokens, width])
}

/// Our names: without the underscore.
fn renamed(tensors: &Tensors) -> Tensors {
    let ours = |(name, tensor): (&str, &Tensor)| match name {
        "x" => (name.to_owned(), flat(tensor)),
        "x_kv" => ("memory".to_owned(), flat(tensor)),
        name => (name.trim_start_matches('_').to_owned(), tensor.clone()),
    };
    tensors.iter().map(ours).collect()
}

/// A case with our names, the layer, and where it works.
struct Bench<'a> {
    case: &'a Case,
    given: Tensors,
    layer: MultiHeadAttention,
    parameters: Parameters,
    workspace: Workspace,
}

impl Bench<'_> {
    fn new(case: &Case) -> Bench<'_> {
        let given = renamed(&case.given);
        let config = MultiHeadConfig { scale: case.number("scale"), ..config_of(&given) };
        let shared = case.number("share_kv_across_n_heads").unwrap_or(config.share_kv_across_n_heads as f64);
        assert_eq!(config.share_kv_across_n_heads as f64, shared, "{}", case.name);
        let (layer, parameters) = with_weights(|scope| MultiHeadAttention::new(scope, config), &given);
        Bench { case, given, layer, parameters, workspace: Workspace::new().unwrap() }
    }

    fn heads(&self) -> KeyHeads {
        if self.case.flag("reuse_first_head_kv") { KeyHeads::First } else { KeyHeads::All }
    }

    /// Results and, where they are known, gradients.
    fn hold(&mut self) {
        let config = self.layer.config().clone();
        let (out, dout) = (flat(&self.case.out["out"]), self.case.dout.get("out").map(flat));
        hold_results(&self.case.name, &self.called(), &out);
        if let Some(dout) = dout {
            let mut made = made(&config, self.heads(), &self.given, &dout, Mode::Evaluation, &mut self.workspace);
            if self.case.flag("add_input") {
                made.out = made.out.plus(&self.given["x"]);
                made.gradient["x"] = made.gradient["x"].plus(&dout);
            }
            made.hold(&self.case.name, &out, &renamed(&self.case.gradient));
        }
    }

    /// The results of a call over arrays.
    fn called(&mut self) -> Tensor {
        let (x, memory) = (array(&self.given["x"]), self.given.get("memory").map(array));
        let mut call = self.layer.call(x.view());
        if let Some(memory) = &memory {
            call = call.memory(memory.view());
        }
        if self.heads() == KeyHeads::First {
            call = call.reuse_first_head_kv();
        }
        if self.case.flag("add_input") {
            call = call.add_input();
        }
        if let Some(factor) = self.case.number("save_peak_mem_factor") {
            call = call.batch_chunk(x.dim().0.div_ceil(factor as usize));
        }
        tensor(&call.run(&self.parameters, &mut self.workspace).unwrap())
    }

    /// A cache that is written, then read, in their chunks; and their own keys and values, given.
    fn hold_cached(&mut self) {
        hold_results(&format!("{}, written", self.case.name), &self.called(), &self.case.out["y"]);
        let (name, constant, out) = (&self.case.name, &self.case.constant, &self.case.out["y_read"]);
        let joint = constant.get("_kv_cache");
        // Of their two forms, one can keep the first head alone.
        let first = self.case.flag("only_cache_first_head_kv") && joint.is_some();
        let heads = if first { KeyHeads::First } else { self.heads() };
        let memory = array(self.given.get("memory").unwrap_or(&self.given["x"]));
        let x = array(&constant["x_read"]);
        let mut cache = MultiHeadCache::new(&self.layer, heads, memory.dim().0, memory.dim().1).unwrap();
        self.layer.fill(memory.view(), &mut cache, &self.parameters, &mut self.workspace).unwrap();
        let chunks = self.case.settings["read_in_chunks"].as_array();
        let whole = vec![x.dim().1];
        let chunks = chunks.map_or(whole, |all| all.iter().map(|n| n.as_u64().unwrap() as usize).collect());
        let mut parts: Vec<Array3<f32>> = Vec::new();
        let mut at = 0;
        for chunk in chunks {
            let rows = x.slice_axis(Axis(1), Slice::from(at..at + chunk));
            parts.push(self.layer.call(rows).cache(&cache).run(&self.parameters, &mut self.workspace).unwrap());
            at += chunk;
        }
        let views: Vec<ArrayView3<'_, f32>> = parts.iter().map(|part| part.view()).collect();
        let read = concatenate(Axis(1), &views).unwrap();
        hold_results(&format!("{name}, read"), &tensor(&read), out);

        let apart = |name: &str| constant.get(name).map(array4);
        let (k, v) = match joint {
            Some(joint) => {
                let &[batch, keys, 2, heads, d] = &joint.shape[..] else { panic!("{:?}", joint.shape) };
                let part = |at: usize| {
                    let of = |i: usize| joint.values[(i / (heads * d) * 2 + at) * heads * d + i % (heads * d)];
                    array4(&Tensor::new(&[batch, keys, heads, d], (0..batch * keys * heads * d).map(of).collect()))
                };
                (part(0), part(1))
            }
            None => (apart("_k_cache").unwrap(), apart("_v_cache").unwrap()),
        };
        let call = self.layer.call(x.view()).keys(k.view(), v.view());
        let call = if heads == KeyHeads::First { call.reuse_first_head_kv() } else { call };
        let given = call.run(&self.parameters, &mut self.workspace).unwrap();
        hold_results(&format!("{name}, given"), &tensor(&given), out);
    }
}

#[test]
fn tabpfn_says_the_same() {
    let cases = cases(TABPFN);
    assert!(cases.len() >= 36, "{}", cases.len());
    for case in &cases {
        let mut bench = Bench::new(case);
        if case.flag("cached") { bench.hold_cached() } else { bench.hold() }
    }
}
