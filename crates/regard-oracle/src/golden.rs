//! Calls that PyTorch has solved, as `scripts/golden-attention` writes them.

use std::collections::BTreeSet;

use safetensors::SafeTensors;

use crate::{Attended, Gradients, Pair, Problem, Sequence, Set, Sizes};

static FILE: &[u8] = include_bytes!("../golden/attention.safetensors");

/// A call, and what PyTorch makes of it in f64.
#[derive(Clone, Debug)]
pub struct Golden {
    /// What is special about it.
    pub name: String,
    /// The call.
    pub problem: Problem,
    /// The output and the log-sum-exp.
    pub attended: Attended,
    /// The gradients of `Σ dout·out + Σ dlse·lse`.
    pub gradients: Gradients,
    /// `[batch, heads, queries, keys]`: the weights that dropout keeps; empty without dropout.
    kept: Vec<bool>,
}

impl Golden {
    /// Whether dropout keeps the weight of a pair.
    pub fn keeps(&self, pair: &Pair) -> bool {
        let Sizes { heads, queries, keys, .. } = self.problem.sizes;
        self.kept[((pair.batch * heads + pair.head) * queries + pair.query) * keys + pair.key]
    }
}

/// All of them.
///
/// ```
/// use regard_oracle::golden;
///
/// for case in golden() {
///     let ours = case.problem.define(|pair| case.keeps(pair), |call| call.exact());
///     assert_eq!(ours.out.len(), case.attended.out.len(), "{}", case.name);
/// }
/// ```
pub fn golden() -> Vec<Golden> {
    let file = SafeTensors::deserialize(FILE).expect("a file of safetensors");
    let names: BTreeSet<&str> = file.names().into_iter().filter_map(|name| Some(name.split_once('/')?.0)).collect();
    names.into_iter().map(|name| Case { file: &file, name }.read()).collect()
}

/// The tensors of one case.
struct Case<'a> {
    file: &'a SafeTensors<'a>,
    name: &'a str,
}

impl Case<'_> {
    fn read(&self) -> Golden {
        let &[batch, heads, kv_heads, queries, keys, dim_k, dim_v] = &self.integers("sizes")[..] else {
            panic!("{}: seven sizes", self.name)
        };
        let sizes = [batch, heads, kv_heads, queries, keys, dim_k, dim_v].map(|size| size as usize);
        let [batch, heads, kv_heads, queries, keys, dim_k, dim_v] = sizes;
        let sequence = |line: &[i64]| {
            let at = |column: usize| line[column] as usize;
            Sequence { batch: at(0), queries: at(1)..at(2), keys: at(3)..at(4), offset: line[5] }
        };
        let one = |part| self.has(part).then(|| self.singles(part)[0]);
        let some = |part| self.has(part).then(|| self.singles(part));
        let problem = Problem {
            sizes: Sizes { batch, heads, kv_heads, queries, keys, dim_k, dim_v },
            sequences: self.integers("sequences").chunks(6).map(sequence).collect(),
            set: self.set(),
            scale: one("scale"),
            softcap: one("softcap"),
            bias: some("bias").map(|values| (self.shape("bias"), values)),
            slopes: some("slopes"),
            sinks: some("sinks"),
            dropout: one("dropout"),
            q: self.singles("q"),
            k: self.singles("k"),
            v: self.singles("v"),
            dout: self.singles("dout"),
            dlse: self.singles("dlse"),
        };
        let doubles = |part| if self.has(part) { self.doubles(part) } else { vec![] };
        let [dq, dk, dv, dbias, dsinks] = ["dq", "dk", "dv", "dbias", "dsinks"].map(doubles);
        Golden {
            name: self.name.to_owned(),
            problem,
            attended: Attended { out: self.doubles("out"), lse: self.doubles("lse") },
            gradients: Gradients { dq, dk, dv, dbias, dsinks },
            kept: if self.has("keeps") { self.bools("keeps") } else { vec![] },
        }
    }

    /// A mask is one of rows in the tensors: its calls are of whole batch entries whose first query stands at 0.
    fn set(&self) -> Set {
        let mut set = Set::Full;
        if self.has("causal") {
            set = Set::Causal;
        }
        if self.has("window") {
            let reach = self.integers("window");
            set = set & Set::Window(Some(reach[0] as usize), Some(reach[1] as usize));
        }
        if self.has("mask") {
            let [batch, heads, queries, columns] = self.shape("mask");
            let cells = self.bools("mask");
            let mut arrays = cells.chunks(queries * columns);
            let mut dense = || Set::Dense { columns, cells: arrays.next().expect("one for each head").to_vec() };
            let by_head = |sets: Vec<Set>| if heads == 1 { sets[0].clone() } else { Set::ByHead(sets) };
            let entries: Vec<Set> = (0..batch).map(|_| by_head((0..heads).map(|_| dense()).collect())).collect();
            set = if batch == 1 { entries[0].clone() } else { Set::ByBatch(entries) };
        }
        set
    }

    fn path(&self, part: &str) -> String {
        format!("{}/{part}", self.name)
    }

    fn has(&self, part: &str) -> bool {
        self.file.tensor(&self.path(part)).is_ok()
    }

    fn shape(&self, part: &str) -> [usize; 4] {
        let tensor = self.file.tensor(&self.path(part)).expect("a part of the case");
        tensor.shape().try_into().expect("four axes")
    }

    /// A tensor's numbers of `N` bytes each.
    fn numbers<const N: usize, T>(&self, part: &str, number: impl Fn([u8; N]) -> T) -> Vec<T> {
        let tensor = self.file.tensor(&self.path(part)).unwrap_or_else(|_| panic!("{} is missing", self.path(part)));
        let (bytes, rest) = tensor.data().as_chunks::<N>();
        assert!(rest.is_empty() && tensor.dtype().bitsize() == 8 * N, "{} is of another type", self.path(part));
        bytes.iter().map(|&bytes| number(bytes)).collect()
    }

    fn singles(&self, part: &str) -> Vec<f32> {
        self.numbers(part, f32::from_le_bytes)
    }

    fn doubles(&self, part: &str) -> Vec<f64> {
        self.numbers(part, f64::from_le_bytes)
    }

    fn integers(&self, part: &str) -> Vec<i64> {
        self.numbers(part, i64::from_le_bytes)
    }

    fn bools(&self, part: &str) -> Vec<bool> {
        self.numbers(part, |[byte]: [u8; 1]| byte != 0)
    }
}
