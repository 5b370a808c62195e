//! Multi-head attention in all its forms.

use std::ops::Range;

use ndarray::{Array3, ArrayView3, Axis, Slice};
use proptest::prelude::*;
use regard_kernels::DropoutRow;
use regard_layers::{
    Bias, KeyGradients, KeyHeads, Keys, Mode, MultiHeadAttention, MultiHeadCache, MultiHeadConfig, Parameters,
    Workspace,
};
use regard_masks::Mask;
use regard_oracle::layers::{MultiHead, Tensor, Tensors, differences};
use regard_oracle::{Dropout, Pair};

use crate::support::{Draw, Made, SEED, array, array4, hold_results, narrow, size, tensor, tries, twice, with_weights};

/// `[batch, heads, tokens, d]` as `[batch, tokens, heads, d]`, and the other way round.
fn swapped(tensor: &Tensor) -> Tensor {
    let &[batch, a, b, d] = &tensor.shape[..] else { panic!("{:?} has not four axes", tensor.shape) };
    let row = |i: usize| &tensor.values[((i / (a * b) * a + i % a) * b + i / a % b) * d..][..d];
    Tensor::new(&[batch, b, a, d], (0..batch * a * b).flat_map(|i| row(i).iter().copied()).collect())
}

/// Some tokens of each sequence.
fn tokens(x: &Array3<f32>, range: Range<usize>) -> ArrayView3<'_, f32> {
    x.slice_axis(Axis(1), Slice::from(range))
}

/// A configuration that makes weights of these shapes.
pub(crate) fn config_of(given: &Tensors) -> MultiHeadConfig {
    let &[heads, dim_v, outputs] = &given["w_out"].shape[..] else { panic!("`w_out` has three axes") };
    let q = given.get("w_qkv").unwrap_or_else(|| &given["w_q"]);
    let kv = ["w_kv", "w_k"].into_iter().find_map(|name| given.get(name));
    let kv_heads = kv.map_or(heads, |kv| kv.shape[kv.shape.len() - 3]);
    MultiHeadConfig {
        outputs,
        share_kv_across_n_heads: heads / kv_heads,
        dim_k: q.shape[2],
        dim_v,
        bias: if given.get("b_out").is_some() { Bias::Learned } else { Bias::None },
        ..MultiHeadConfig::new(q.shape[3], heads)
    }
}

/// What the layer makes of `x` over itself, over `memory`, or over `k` and `v` `[batch, heads, tokens, d]`, whichever is given.
pub(crate) fn made(
    config: &MultiHeadConfig,
    heads: KeyHeads,
    given: &Tensors,
    dout: &Tensor,
    mode: Mode,
    workspace: &mut Workspace,
) -> Made {
    let (layer, parameters) = with_weights(|scope| MultiHeadAttention::new(scope, config.clone()), given);
    let of = |name: &str| given.get(name).map(|tensor| narrow(&tensor.values)).unwrap_or_default();
    let (x, memory, dout) = (of("x"), of("memory"), narrow(&dout.values));
    let [k, v] = ["k", "v"].map(|name| given.get(name).map(|t| narrow(&swapped(t).values)).unwrap_or_default());
    let size = size(&given["x"]);
    let keys = match (given.get("memory"), given.get("k")) {
        (Some(memory_of), _) => Keys::Memory { rows: &memory, tokens: memory_of.shape[1] },
        (_, Some(k_of)) => Keys::Given { k: &k, v: &v, tokens: k_of.shape[2] },
        _ => Keys::Own,
    };
    let need = layer.attend_need(size, &keys, heads).and(layer.attend_backward_need(size, &keys, heads));
    twice(&parameters, |gradients| {
        let (mut tape, mut pass) = workspace.pass(&parameters, mode, need).unwrap();
        let (out, kept) = layer.attend(&mut pass, size, &x, keys, heads, &mut tape).unwrap();
        let out = Tensor::new(&[size.batch, size.tokens, config.outputs], out.iter().map(|&x| x.into()).collect());
        let [mut dx, mut dmemory] = [&x, &memory].map(|x| vec![0.0; x.len()]);
        let [mut dk, mut dv] = [&k, &v].map(|x| vec![f32::NAN; x.len()]);
        let dkeys = match keys {
            Keys::Own => KeyGradients::None,
            Keys::Memory { .. } => KeyGradients::Memory(&mut dmemory),
            Keys::Given { .. } => KeyGradients::Given { k: &mut dk, v: &mut dv },
        };
        layer.attend_backward(&mut pass, size, kept, &dout, gradients, &mut dx, dkeys, &mut tape).unwrap();
        let like =
            |name: &str, values: &[f32]| Tensor::new(&given[name].shape, values.iter().map(|&x| x.into()).collect());
        let mut inputs = vec![("x", like("x", &dx))];
        match keys {
            Keys::Own => {}
            Keys::Memory { .. } => inputs.push(("memory", like("memory", &dmemory))),
            Keys::Given { .. } => {
                for (name, gradient) in [("k", dk), ("v", dv)] {
                    let mut shape = given[name].shape.clone();
                    shape.swap(1, 2);
                    let values = gradient.iter().map(|&x| x.into()).collect();
                    inputs.push((name, swapped(&Tensor::new(&shape, values))));
                }
            }
        }
        (out, inputs)
    })
}

/// A layer and what it reads.
#[derive(Clone, Debug)]
struct Problem {
    config: MultiHeadConfig,
    heads: KeyHeads,
    source: Source,
    batch: usize,
    queries: usize,
    keys: usize,
    seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Source {
    Own,
    Memory,
    Given,
}

/// Tokens up to so many, and numbers of a head.
fn problems(tokens: usize, dim: usize) -> impl Strategy<Value = Problem> {
    let sizes = (1usize..=2, 1usize..=3, 1..=dim, 1..=dim, any::<bool>());
    let config = (sizes, 1usize..=6, 1usize..=6, any::<bool>(), prop::option::of(0.2..0.8f64)).prop_map(
        |((kv_heads, share, dim_k, dim_v, apart), inputs, outputs, biased, scale)| MultiHeadConfig {
            inputs,
            outputs,
            heads: kv_heads * share,
            share_kv_across_n_heads: share,
            dim_k,
            dim_v: if apart { dim_v } else { dim_k },
            scale,
            bias: if biased { Bias::Learned } else { Bias::None },
            ..MultiHeadConfig::new(1, 1)
        },
    );
    let masks = prop_oneof![
        2 => Just(Mask::full()),
        2 => Just(Mask::causal()),
        1 => (0usize..4, 0usize..4).prop_map(|(left, right)| Mask::window(Some(left), Some(right))),
        1 => Just(Mask::global_keys([0, 2]) & Mask::causal()),
    ];
    let heads = prop_oneof![2 => Just(KeyHeads::All), 1 => Just(KeyHeads::First)];
    let source = prop_oneof![Just(Source::Own), Just(Source::Memory), Just(Source::Given)];
    let counts = (1usize..=3, 1..=tokens, 1..=tokens, any::<u64>());
    (config, masks, heads, source, counts).prop_map(|(config, mask, heads, source, (batch, queries, keys, seed))| {
        let keys = if source == Source::Own { queries } else { keys };
        Problem { config: MultiHeadConfig { mask, ..config }, heads, source, batch, queries, keys, seed }
    })
}

impl Problem {
    /// Weights and inputs.
    fn given(&self) -> Tensors {
        let MultiHeadConfig { inputs, outputs, heads, share_kv_across_n_heads, dim_k, dim_v, bias, .. } = self.config;
        let (kv_heads, mut draw) = (heads / share_kv_across_n_heads, Draw(self.seed));
        let mut weight = |shape: &[usize], inputs: usize| draw.normal(shape, 0.8 * (inputs as f64).powf(-0.5));
        let mut given = Tensors::default().and("w_out", weight(&[heads, dim_v, outputs], heads * dim_v));
        if dim_k != dim_v {
            given = given.and("w_q", weight(&[1, heads, dim_k, inputs], inputs));
            given = given.and("w_k", weight(&[kv_heads, dim_k, inputs], inputs));
            given = given.and("w_v", weight(&[kv_heads, dim_v, inputs], inputs));
        } else if share_kv_across_n_heads > 1 {
            given = given.and("w_q", weight(&[1, heads, dim_k, inputs], inputs));
            given = given.and("w_kv", weight(&[2, kv_heads, dim_k, inputs], inputs));
        } else {
            given = given.and("w_qkv", weight(&[3, heads, dim_k, inputs], inputs));
        }
        if bias == Bias::Learned {
            let shapes: [(&str, &[usize]); 4] = [
                ("b_q", &[heads, dim_k]),
                ("b_k", &[kv_heads, dim_k]),
                ("b_v", &[kv_heads, dim_v]),
                ("b_out", &[outputs]),
            ];
            given = shapes.into_iter().fold(given, |all, (name, shape)| all.and(name, weight(shape, 4)));
        }
        given = given.and("x", weight(&[self.batch, self.queries, inputs], 1));
        match self.source {
            Source::Own => given,
            Source::Memory => given.and("memory", weight(&[self.batch, self.keys, inputs], 1)),
            Source::Given => {
                let kv_heads = if self.heads == KeyHeads::First { 1 } else { kv_heads };
                let given = given.and("k", weight(&[self.batch, kv_heads, self.keys, dim_k], 1));
                given.and("v", weight(&[self.batch, kv_heads, self.keys, dim_v], 1))
            }
        }
    }

    fn dout(&self) -> Tensor {
        Draw(!self.seed).normal(&[self.batch, self.queries, self.config.outputs], 1.0)
    }

    /// What the reference makes of it; weights fall as `keeps` says.
    fn exact(&self, given: &Tensors, keeps: Option<&dyn Fn(&Pair) -> bool>) -> Tensor {
        let before = self.keys as i64 - self.queries as i64;
        let layer = MultiHead {
            allows: &|query, key| self.config.mask.allows(query as i64 + before, key, self.keys),
            reuse_first_head_kv: self.heads == KeyHeads::First,
            scale: self.config.scale,
            dropout: keeps.map(|keeps| Dropout { probability: self.config.dropout.into(), keeps }),
            ..MultiHead::default()
        };
        match self.source {
            Source::Given => layer.over(&given["x"], &given["k"], &given["v"], given),
            _ => layer.forward(&given["x"], given.get("memory"), given),
        }
    }

    fn made(&self, given: &Tensors, mode: Mode, workspace: &mut Workspace) -> Made {
        made(&self.config, self.heads, given, &self.dout(), mode, workspace)
    }

    /// The same over arrays, with `x` added where it can be.
    fn called(&self, given: &Tensors, chunk: Option<usize>, workspace: &mut Workspace) -> Tensor {
        let (layer, parameters) = with_weights(|scope| MultiHeadAttention::new(scope, self.config.clone()), given);
        let (x, memory) = (array(&given["x"]), given.get("memory").map(array));
        let [k, v] = ["k", "v"].map(|name| given.get(name).map(|tensor| array4(&swapped(tensor))));
        let mut call = layer.call(x.view());
        if let Some(memory) = &memory {
            call = call.memory(memory.view());
        }
        if let (Some(k), Some(v)) = (&k, &v) {
            call = call.keys(k.view(), v.view());
        }
        if self.heads == KeyHeads::First {
            call = call.reuse_first_head_kv();
        }
        if let Some(chunk) = chunk {
            call = call.batch_chunk(chunk);
        }
        if self.adds_input() {
            call = call.add_input();
        }
        tensor(&call.run(&parameters, workspace).unwrap())
    }

    fn adds_input(&self) -> bool {
        self.config.inputs == self.config.outputs
    }

    /// Whether dropout keeps a weight of a pass that begins with this sequence.
    fn keeps(&self, first_sequence: u64, pair: &Pair) -> bool {
        let seed = Parameters::new(SEED).root().seed();
        let (sequence, head, query) = (first_sequence + pair.batch as u64, pair.head as u64, pair.i as u64);
        DropoutRow::new(seed, sequence, head, query, self.config.dropout).keeps(pair.j as u32)
    }
}

proptest! {
    #![proptest_config(tries(60))]

    #[test]
    fn small_ones_are_the_references(problem in problems(7, 5)) {
        let (given, dout, mut workspace) = (problem.given(), problem.dout(), Workspace::new().unwrap());
        let made = problem.made(&given, Mode::Evaluation, &mut workspace);
        let slopes = differences(&given, |given| problem.exact(given, None).dot(&dout));
        made.hold(&format!("{problem:?}"), &problem.exact(&given, None), &slopes);
    }

    /// A call over arrays gives the same, however many sequences go at a time.
    #[test]
    fn calls_over_arrays_are_the_references(problem in problems(9, 6), chunk in prop::option::of(1usize..5)) {
        let (given, mut workspace) = (problem.given(), Workspace::new().unwrap());
        let exact = problem.exact(&given, None);
        let exact = if problem.adds_input() { exact.plus(&given["x"]) } else { exact };
        hold_results(&format!("{problem:?}"), &problem.called(&given, chunk, &mut workspace), &exact);
        prop_assert_eq!(problem.called(&given, chunk, &mut workspace), problem.called(&given, chunk, &mut workspace));
    }

    /// What falls depends on the seed, the sequence, the head, the query and the key, and on nothing else.
    #[test]
    fn weights_fall_in_training(problem in problems(6, 4), dropout in 0.1f32..0.7, first_sequence in any::<u32>()) {
        let problem = Problem { config: MultiHeadConfig { dropout, ..problem.config }, ..problem };
        let (given, dout, mut workspace) = (problem.given(), problem.dout(), Workspace::new().unwrap());
        let first_sequence = u64::from(first_sequence);
        let keeps = |pair: &Pair| problem.keeps(first_sequence, pair);
        let exact = |given: &Tensors| problem.exact(given, Some(&keeps));
        let made = problem.made(&given, Mode::Training { first_sequence }, &mut workspace);
        made.hold(&format!("{problem:?}"), &exact(&given), &differences(&given, |given| exact(given).dot(&dout)));
        // Nothing falls in an evaluation.
        let made = problem.made(&given, Mode::Evaluation, &mut workspace);
        hold_results("evaluation", &made.out, &problem.exact(&given, None));
    }

    /// A memory that was written to a cache, in two parts, and again after it was cleared.
    #[test]
    fn a_cache_is_the_memory(problem in problems(9, 6), cut in any::<prop::sample::Index>(), spare in 0usize..3) {
        let problem = Problem { source: Source::Memory, ..problem };
        let (given, mut workspace) = (problem.given(), Workspace::new().unwrap());
        let (layer, parameters) = with_weights(|scope| MultiHeadAttention::new(scope, problem.config.clone()), &given);
        let (x, memory, cut) = (array(&given["x"]), array(&given["memory"]), cut.index(problem.keys + 1));
        let capacity = problem.keys + spare;
        let mut cache = MultiHeadCache::new(&layer, problem.heads, problem.batch, capacity).unwrap();
        let exact = problem.exact(&given, None);
        for _ in 0..2 {
            for part in [0..cut, cut..problem.keys] {
                layer.fill(tokens(&memory, part), &mut cache, &parameters, &mut workspace).unwrap();
            }
            prop_assert_eq!((cache.len(), cache.batch()), (problem.keys, problem.batch));
            let out = layer.call(x.view()).cache(&cache).run(&parameters, &mut workspace).unwrap();
            hold_results(&format!("{problem:?}"), &tensor(&out), &exact);
            cache.clear();
            prop_assert!(cache.is_empty());
        }
    }

    /// Own tokens in chunks are all tokens in one pass.
    #[test]
    fn chunks_of_a_stream_are_one_pass(problem in problems(40, 6), cuts in prop::collection::vec(1usize..9, 40)) {
        let mask = problem.config.mask.clone() & Mask::causal();
        let keys = problem.queries;
        let config = MultiHeadConfig { mask, ..problem.config };
        let problem = Problem { source: Source::Own, keys, config, ..problem };
        let (given, mut workspace) = (problem.given(), Workspace::new().unwrap());
        let (layer, parameters) = with_weights(|scope| MultiHeadAttention::new(scope, problem.config.clone()), &given);
        let (x, exact) = (array(&given["x"]), problem.exact(&given, None));
        let mut cache = MultiHeadCache::new(&layer, problem.heads, problem.batch, problem.keys).unwrap();
        let mut out = Array3::zeros((problem.batch, problem.queries, problem.config.outputs));
        let mut first = 0;
        for chunk in cuts {
            let rows = first..(first + chunk).min(problem.queries);
            let next = layer.next(tokens(&x, rows.clone()), &mut cache, &parameters, &mut workspace).unwrap();
            out.slice_axis_mut(Axis(1), Slice::from(rows.clone())).assign(&next);
            first = rows.end;
            if first == problem.queries {
                break;
            }
        }
        hold_results(&format!("{problem:?}"), &tensor(&out), &exact);
    }
}

proptest! {
    #![proptest_config(tries(16))]

    /// Many tokens, which go other ways through the engine.
    #[test]
    fn large_ones_are_the_references(problem in problems(140, 20)) {
        let (given, dout, mut workspace) = (problem.given(), problem.dout(), Workspace::new().unwrap());
        let made = problem.made(&given, Mode::Evaluation, &mut workspace);
        let name = format!("{problem:?}");
        made.hold_results(&name, &problem.exact(&given, None));
        made.hold_along(&name, &given, &dout, Tensors::clone, |given| problem.exact(given, None));
    }
}

/// Over no keys at all, or from no queries, there is an answer, or it is said that there is none.
#[test]
fn nothing_to_read_is_no_panic() {
    let mut parameters = Parameters::new(SEED);
    let config = MultiHeadConfig { share_kv_across_n_heads: 2, ..MultiHeadConfig::new(8, 4) };
    let layer = MultiHeadAttention::new(&mut parameters.root(), config).unwrap();
    let mut workspace = Workspace::new().unwrap();
    for (batch, queries, keys) in [(0, 3, 3), (2, 0, 3), (2, 3, 0), (2, 0, 0), (0, 0, 0)] {
        let (x, memory) = (Array3::zeros((batch, queries, 8)), Array3::zeros((batch, keys, 8)));
        let given = array4(&Tensor::new(&[batch, keys, 2, 2], vec![0.0; batch * keys * 4]));
        let calls = [layer.call(x.view()).memory(memory.view()), layer.call(x.view()).keys(given.view(), given.view())];
        for call in calls {
            let out = call.run(&parameters, &mut workspace);
            println!("{batch}, {queries}, {keys}: {out:?}");
            assert!(out.is_err() || out.is_ok_and(|out| out == Array3::<f32>::zeros((batch, queries, 8))));
        }
        for heads in [KeyHeads::All, KeyHeads::First] {
            let Ok(mut cache) = MultiHeadCache::new(&layer, heads, batch, keys) else { continue };
            if layer.fill(memory.view(), &mut cache, &parameters, &mut workspace).is_ok() {
                let out = layer.call(x.view()).cache(&cache).run(&parameters, &mut workspace);
                println!("{batch}, {queries}, {keys}, cached: {out:?}");
                assert!(out.is_err() || out.is_ok_and(|out| out == Array3::<f32>::zeros((batch, queries, 8))));
            }
            cache.clear();
            let _ = layer.next(x.view(), &mut cache, &parameters, &mut workspace);
        }
    }
}
