//! What is measured: cases of attention, as `bench/cases.json` and files of its form state them.

mod read;
#[cfg(test)]
mod tests;

use std::ops::Range;

use regard_attention::{CacheDtype, Segment, Shape};
use regard_masks::Mask;
use serde_json::Value;

pub(crate) use self::read::parse;

/// One case of attention.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// Its name, unique in its file.
    pub(crate) id: String,
    pub(crate) shape: Shape,
    pub(crate) dtype: Dtype,
    pub(crate) keep: Keep,
    /// Queries and keys of sequences that are packed one after the other into each batch entry; empty where a batch entry
    /// is a sequence.
    pub(crate) packed: Vec<(usize, usize)>,
    /// Whether packed sequences are given to the engine one by one all the same.
    pub(crate) apart: bool,
    /// Keys that all batch entries begin with, and that the engine is told of; 0 where it is told of none.
    pub(crate) prefix: usize,
    /// What keys and values are kept in; `None` where they are given as they come.
    pub(crate) cache: Option<Kept>,
    /// How a cache stores numbers.
    pub(crate) cache_dtype: CacheDtype,
    /// Whether forward and backward are timed together.
    pub(crate) backward: bool,
    /// Another of our own ways, to compare with in a peer's place.
    pub(crate) versus: Option<Box<Case>>,
    pub(crate) target: Target,
    /// As it stood in the file, for peers that read the same form.
    pub(crate) source: Value,
}

/// What a case is meant to reach.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Target {
    /// The peer's time over ours, at least.
    pub(crate) ratio: Option<f64>,
    /// The share of the machine's limit, at least.
    pub(crate) share: Option<f64>,
    /// Scratch in millions of bytes, at most.
    pub(crate) scratch_mb: Option<f64>,
}

/// How queries, keys, values and the result are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dtype {
    F32,
    Bf16,
    F16,
}

impl Dtype {
    pub(crate) fn bytes(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::Bf16 | Dtype::F16 => 2,
        }
    }

    /// A cache of the same numbers.
    pub(crate) fn cached(self) -> CacheDtype {
        match self {
            Dtype::F32 => CacheDtype::F32,
            Dtype::Bf16 => CacheDtype::Bf16,
            Dtype::F16 => CacheDtype::F16,
        }
    }
}

/// How a cache lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    Contiguous,
    Paged,
}

/// Which keys a query sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    All,
    Causal,
    Window {
        window: usize,
        globals: usize,
    },
    CausalWindow {
        window: usize,
        globals: usize,
    },
    /// So many keys in a thousand, drawn at random for each query.
    Random {
        per_mille: u8,
    },
}

impl Keep {
    /// Whether the query at position `p` sees key `j`, as `bench/README.md` says it.
    pub(crate) fn keeps(self, p: i64, j: i64) -> bool {
        match self {
            // Only questions of the plan's crossovers are so, and these are not checked.
            Keep::Random { .. } => unreachable!("no file has such a case"),
            Keep::All => true,
            Keep::Causal => j <= p,
            Keep::Window { window, globals } => (p - j).unsigned_abs() <= window as u64 || j < globals as i64,
            Keep::CausalWindow { window, globals } => j <= p && (p - j < window as i64 || j < globals as i64),
        }
    }

    /// The same as the engine is told it.
    pub(crate) fn mask(self) -> Mask {
        match self {
            Keep::All => Mask::full(),
            Keep::Causal => Mask::causal(),
            Keep::Window { window, globals } => with_globals(Mask::window(Some(window), Some(window)), globals),
            Keep::CausalWindow { window, globals: 0 } => Mask::window(Some(window - 1), Some(0)),
            Keep::Random { per_mille } => Mask::random(f64::from(per_mille) / 1000.0, 1).expect("a share of all keys"),
            Keep::CausalWindow { window, globals } => {
                Mask::causal() & with_globals(Mask::window(Some(window - 1), None), globals)
            }
        }
    }
}

fn with_globals(mask: Mask, globals: usize) -> Mask {
    if globals == 0 { mask } else { mask | Mask::prefix(globals) }
}

impl Case {
    /// One query a batch entry: what a generation loop does.
    pub(crate) fn is_decode(&self) -> bool {
        self.shape.queries == 1 && !self.backward
    }

    /// Bytes of a key and its value, as they come from memory.
    pub(crate) fn key_bytes(&self) -> usize {
        let dims = self.shape.dim_k + self.shape.dim_v;
        match (self.cache, self.cache_dtype) {
            (None, _) => dims * self.dtype.bytes(),
            // Each has a scale of its own.
            (Some(_), CacheDtype::Int8) => dims + 2 * size_of::<f32>(),
            (Some(_), dtype) => dims * dtype.bytes(),
        }
    }

    /// Numbers of queries (and of the result), and of keys (and of values).
    pub(crate) fn lengths(&self) -> (usize, usize) {
        let Shape { batch, heads, kv_heads, queries, keys, dim_k, .. } = self.shape;
        (batch * heads * queries * dim_k, batch * kv_heads * keys * dim_k)
    }

    /// The sequences of each batch entry, as rows of it: queries and keys.
    pub(crate) fn stretches(&self) -> Vec<(Range<usize>, Range<usize>)> {
        if self.packed.is_empty() {
            return vec![(0..self.shape.queries, 0..self.shape.keys)];
        }
        let mut from = (0, 0);
        let next = |&(queries, keys): &(usize, usize)| {
            let (first, key) = from;
            from = (first + queries, key + keys);
            (first..from.0, key..from.1)
        };
        self.packed.iter().map(next).collect()
    }

    /// The sequences of all batch entries.
    pub(crate) fn segments(&self) -> Vec<Segment> {
        let stretches = self.stretches();
        let of = |batch| {
            let segment = move |(queries, keys)| Segment { batch, queries, keys };
            stretches.iter().cloned().map(segment)
        };
        (0..self.shape.batch).flat_map(of).collect()
    }
}
