//! Random calls of every regime.

use proptest::prelude::*;
use regard_oracle::{Problem, Sizes, problems_of};

/// Multiply-adds of a call that the oracle can do in a few milliseconds.
const WORK: usize = 4_000_000;
/// As many more for each pair.
const LOOK: usize = 64;

/// Sizes of every regime, with what is odd about tiles of 6 rows, panels of 64 keys and blocks of 1024.
fn regimes() -> impl Strategy<Value = Sizes> {
    let dim = || prop_oneof![3 => prop::sample::select(vec![1, 7, 16, 33, 64, 80, 128]), 1 => 1..130_usize];
    let few = || prop::sample::select(vec![1, 2, 5, 6, 7, 63, 64, 65, 128, 129, 300, 511, 512]);
    let group = || prop_oneof![8 => 1..=5_usize, 1 => prop::sample::select(vec![17, 24, 40, 71, 100])];
    let heads = (1..=3_usize, 1..=3_usize, group(), few(), few());
    let blocks = (1..=2_usize, 1..=2_usize, group(), 1..200_usize, 513..2200_usize);
    let splits = (1..=2_usize, 1..=2_usize, group(), 1..=7_usize, 1025..3000_usize);
    (prop_oneof![3 => heads, 2 => blocks, 2 => splits], dim(), dim()).prop_map(
        |((mut batch, kv_heads, group, mut queries, keys), dim_k, dim_v)| {
            let work = |batch, queries| batch * kv_heads * group * queries * keys * (dim_k + dim_v + LOOK);
            if work(batch, queries) > WORK {
                batch = 1;
            }
            while work(batch, queries) > WORK && queries > 1 {
                queries /= 2;
            }
            Sizes { batch, heads: kv_heads * group, kv_heads, queries, keys, dim_k, dim_v }
        },
    )
}

/// Calls of every regime, with any options.
pub(crate) fn calls() -> impl Strategy<Value = Problem> {
    problems_of(regimes())
}
