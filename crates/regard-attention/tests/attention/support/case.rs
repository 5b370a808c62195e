//! Random calls.

use std::fmt;

use proptest::prelude::*;
use regard_attention::{Offset, Options, Shape};
use regard_masks::Mask;
use regard_oracle::{Attention, Precision, Set, Sizes, numbers, widen};
use regard_simd::Isa;

use super::{Order, mask, orders, sets};

/// A call, but for its numbers, which follow from the seed.
#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) shape: Shape,
    pub(crate) set: Set,
    pub(crate) scale: Option<f32>,
    pub(crate) offset: Option<i64>,
    /// Of queries, keys, values, out and lse.
    pub(crate) orders: [Order; 5],
    /// The standard deviation of queries, and so of scores.
    pub(crate) spread: f32,
    pub(crate) seed: u64,
}

/// On one line: failures are read by people.
impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Case { shape, set, scale, offset, orders, spread, seed } = self;
        write!(f, "{shape:?}, {set:?}, scale {scale:?}, offset {offset:?}, {orders:?}, spread {spread}, seed {seed}")
    }
}

/// Numbers without gaps, `[batch, heads, seq, dim]` each.
#[derive(Clone, Debug)]
pub(crate) struct Inputs {
    pub(crate) q: Vec<f32>,
    pub(crate) k: Vec<f32>,
    pub(crate) v: Vec<f32>,
}

impl Inputs {
    /// The same in another precision.
    pub(crate) fn rounded(&self, precision: Precision) -> Inputs {
        let round = |x: &[f32]| x.iter().map(|&x| precision.round(x)).collect();
        Inputs { q: round(&self.q), k: round(&self.k), v: round(&self.v) }
    }
}

impl Case {
    /// A plain call of this shape.
    pub(crate) fn of(shape: Shape, set: Set, seed: u64) -> Case {
        Case { shape, set, scale: None, offset: None, orders: [Order::CONTIGUOUS; 5], spread: 1.0, seed }
    }

    /// Shapes of queries, keys, values, out and lse.
    pub(crate) fn shapes(&self) -> [[usize; 4]; 5] {
        let Shape { batch, heads, kv_heads, queries, keys, dim_k, dim_v } = self.shape;
        [
            [batch, heads, queries, dim_k],
            [batch, kv_heads, keys, dim_k],
            [batch, kv_heads, keys, dim_v],
            [batch, heads, queries, dim_v],
            [batch, heads, queries, 1],
        ]
    }

    /// Normal numbers in f32.
    pub(crate) fn inputs(&self) -> Inputs {
        let [q, k, v] = [0, 1, 2].map(|tensor| {
            let len = self.shapes()[tensor].iter().product();
            numbers(self.seed.wrapping_mul(3).wrapping_add(tensor as u64), len)
        });
        Inputs { q: q.into_iter().map(|x| x * self.spread).collect(), k, v }
    }

    pub(crate) fn options(&self, isa: Isa) -> Options {
        Options {
            scale: self.scale.map(f64::from),
            offset: self.offset.map_or(Offset::AtEnd, Offset::Same),
            isa: Some(isa),
            ..Options::default()
        }
    }

    pub(crate) fn mask(&self) -> Mask {
        mask(&self.set)
    }

    pub(crate) fn offset(&self) -> i64 {
        self.offset.unwrap_or(self.shape.keys as i64 - self.shape.queries as i64)
    }

    /// Whether query `i` sees key `j`.
    pub(crate) fn sees(&self, i: usize, j: usize) -> bool {
        self.set.holds(0, 0, i as i64 + self.offset(), j)
    }

    /// Pairs of a query and a key that it sees, of all heads.
    pub(crate) fn pairs(&self) -> usize {
        let Shape { batch, heads, queries, keys, .. } = self.shape;
        let seen = |i| (0..keys).filter(|&j| self.sees(i, j)).count();
        batch * heads * (0..queries).map(seen).sum::<usize>()
    }

    /// Answers about the call from its definition.
    pub(crate) fn define<R>(&self, inputs: &Inputs, answer: impl FnOnce(Attention<'_>) -> R) -> R {
        let Shape { batch, heads, kv_heads, queries, keys, dim_k, dim_v } = self.shape;
        let sizes = Sizes { batch, heads, kv_heads, queries, keys, dim_k, dim_v };
        answer(Attention {
            sizes,
            q: &widen(&inputs.q),
            k: &widen(&inputs.k),
            v: &widen(&inputs.v),
            sequences: Some(&sizes.whole(self.offset)),
            allows: &|pair| self.set.holds(pair.batch, pair.head, pair.p, pair.j),
            scale: self.scale.map(f64::from),
            ..Attention::default()
        })
    }
}

/// Multiply-adds of a case that the oracle can do in a few milliseconds.
const WORK: usize = 3_000_000;

/// Shapes of every regime, with what is odd about tiles of 6 rows, panels of 64 keys and blocks of 1024.
fn shapes() -> impl Strategy<Value = Shape> {
    let dim = || prop_oneof![3 => prop::sample::select(vec![1, 7, 16, 33, 64, 80, 128]), 1 => 1..130_usize];
    let few = || prop::sample::select(vec![0, 1, 2, 5, 6, 7, 63, 64, 65, 128, 129, 300, 511, 512]);
    let group = || prop_oneof![8 => 1..=5_usize, 1 => prop::sample::select(vec![17, 24, 40, 71, 100])];
    let heads = (1..=3_usize, 1..=3_usize, group(), few(), few());
    let blocks = (1..=2_usize, 1..=2_usize, group(), 1..200_usize, 513..2200_usize);
    let splits = (1..=2_usize, 1..=2_usize, group(), 1..=7_usize, 1025..3000_usize);
    (prop_oneof![3 => heads, 2 => blocks, 2 => splits], dim(), dim()).prop_map(
        |((mut batch, kv_heads, group, mut queries, keys), dim_k, dim_v)| {
            let work = |batch, queries| batch * kv_heads * group * queries * keys * (dim_k + dim_v);
            if work(batch, queries) > WORK {
                batch = 1;
            }
            while work(batch, queries) > WORK && queries > 1 {
                queries /= 2;
            }
            Shape { batch, heads: kv_heads * group, kv_heads, queries, keys, dim_k, dim_v }
        },
    )
}

/// Calls of every kind.
pub(crate) fn cases() -> impl Strategy<Value = Case> {
    let scale = prop_oneof![
        4 => Just(None),
        1 => Just(Some(0.0)),
        1 => Just(Some(-0.125f32)),
        1 => (-1f32..1.0).prop_map(Some),
    ];
    let offset = prop_oneof![
        4 => Just(None),
        1 => Just(Some(0)),
        2 => (-70..700_i64).prop_map(Some),
        1 => (-3000..3000_i64).prop_map(Some),
    ];
    let orders = [orders(), orders(), orders(), orders(), orders()];
    let spread = prop_oneof![3 => Just(1.0), 1 => 0.01..6f32];
    (shapes(), sets(), scale, offset, orders, spread, any::<u64>()).prop_map(
        |(shape, set, scale, offset, orders, spread, seed)| Case { shape, set, scale, offset, orders, spread, seed },
    )
}
