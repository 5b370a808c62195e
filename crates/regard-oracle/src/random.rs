//! Random problems, and what they are made of, as strategies of `proptest`.

use std::collections::BTreeSet;
use std::ops::Range;

use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::{Problem, Sequence, Set, Sizes, numbers};

/// Small calls with any options: up to 40 queries and keys, none and one among them, heads in groups, odd sizes.
pub fn problems() -> impl Strategy<Value = Problem> {
    let length = || prop_oneof![1 => Just(0), 2 => Just(1), 20 => 1..=40_usize];
    let dim_k = prop_oneof![1 => Just(1), 4 => 1..=20_usize];
    let dim_v = prop_oneof![1 => Just(1), 4 => 1..=20_usize];
    let sizes = (1..=3_usize, 1..=3_usize, 1..=4_usize, length(), length(), dim_k, dim_v);
    problems_of(sizes.prop_map(|(batch, kv_heads, group, queries, keys, dim_k, dim_v)| Sizes {
        batch,
        heads: kv_heads * group,
        kv_heads,
        queries,
        keys,
        dim_k,
        dim_v,
    }))
}

/// Calls of some sizes with any options, none of which is rare and none of which is always there.
pub fn problems_of(sizes: impl Strategy<Value = Sizes>) -> impl Strategy<Value = Problem> {
    sizes
        .prop_flat_map(|sizes| {
            // The last one makes scores of any spread: all weights alike, or nearly one of them all.
            let spread = (sizes.dim_k as f32).sqrt();
            let spread = (0.01f32..6.0).prop_map(move |x| Some(x / spread));
            let scale =
                prop_oneof![4 => Just(None), 1 => Just(Some(0.0)), 2 => (-1f32..1.0).prop_map(Some), 1 => spread];
            let softcap = prop_oneof![2 => Just(None), 1 => (0.5f32..30.0).prop_map(Some)];
            let dropout = prop_oneof![3 => Just(None), 1 => (0f32..0.9).prop_map(Some)];
            let per_head = || proptest::option::weighted(0.3, Just(()));
            let options = (scale, softcap, dropout, biases(sizes), per_head(), per_head());
            (Just(sizes), sequences(sizes), sets(sizes), options, any::<u64>())
        })
        .prop_map(|(sizes, sequences, set, options, seed)| {
            let (scale, softcap, dropout, bias, slopes, sinks) = options;
            let heads = sizes.heads;
            let slopes = slopes.map(|()| numbers(!seed, heads).iter().map(|x| 0.3 * x.abs()).collect());
            let sinks = sinks.map(|()| vec![0.0; heads]);
            let call =
                Problem { sizes, sequences, set, scale, softcap, bias, slopes, sinks, dropout, ..Problem::default() };
            call.redrawn(seed)
        })
}

/// A bias over any of the axes, which may remove some pairs; its other numbers are still to be drawn.
fn biases(sizes: Sizes) -> impl Strategy<Value = Option<([usize; 4], Vec<f32>)>> {
    let full = [sizes.batch, sizes.heads, sizes.queries, sizes.keys];
    let shape =
        any::<[bool; 4]>().prop_map(move |over| std::array::from_fn(|axis| if over[axis] { full[axis] } else { 1 }));
    let removes = prop_oneof![1 => Just(f32::NEG_INFINITY), 1 => Just(-1.2f32)];
    let bias = (shape, removes, any::<u64>()).prop_map(|(shape, below, seed): ([usize; 4], _, _)| {
        let removed = |x: f32| if x < below { f32::NEG_INFINITY } else { 0.0 };
        (shape, numbers(seed, shape.iter().product()).into_iter().map(removed).collect())
    });
    proptest::option::weighted(0.4, bias)
}

/// Whole batch entries, padded ones, or packed ones, some of which may be empty and between which there may be gaps; each at
/// its own offset, or all at one.
pub fn sequences(sizes: Sizes) -> impl Strategy<Value = Vec<Sequence>> {
    let Sizes { batch, queries, keys, .. } = sizes;
    let reach = queries.max(keys) as i64 + 3;
    let offset = || prop_oneof![3 => Just(None), 1 => Just(Some(0)), 2 => (-reach..=reach).prop_map(Some)];
    let whole = offset().prop_map(move |offset| sizes.whole(offset));
    let place = move |batch, queries: Range<usize>, keys: Range<usize>, offset: Option<i64>| {
        let last = keys.len() as i64 - queries.len() as i64;
        Sequence { batch, queries, keys, offset: offset.unwrap_or(last) }
    };
    let padded = proptest::collection::vec((0..=queries, 0..=keys, offset()), batch).prop_map(move |lengths| {
        let lengths = lengths.into_iter().enumerate();
        lengths.map(|(batch, (queries, keys, offset))| place(batch, 0..queries, 0..keys, offset)).collect()
    });
    // From one cut to the next is a segment, unless it is left out.
    let cuts = proptest::collection::vec((0..=queries, 0..=keys), 0..5);
    let left_out = proptest::collection::vec(proptest::bool::weighted(0.15), 5);
    let packed = proptest::collection::vec((cuts, left_out, offset()), batch).prop_map(move |entries| {
        let mut sequences = Vec::new();
        for (batch, (mut cuts, left_out, offset)) in entries.into_iter().enumerate() {
            cuts.extend([(0, 0), (queries, keys)]);
            let (mut queries, mut keys): (Vec<_>, Vec<_>) = cuts.into_iter().unzip();
            queries.sort_unstable();
            keys.sort_unstable();
            let segments = queries.windows(2).zip(keys.windows(2)).zip(left_out).filter(|(_, left_out)| !left_out);
            sequences.extend(segments.map(|((q, k), _)| place(batch, q[0]..q[1], k[0]..k[1], offset)));
        }
        sequences
    });
    prop_oneof![2 => whole, 1 => padded, 1 => packed]
}

/// Masks whose distances, lists and arrays fit the lengths of a call: primitives, the usual unions and intersections of
/// models, expressions that no model has, and all of these by batch entry and by head.
pub fn sets(sizes: Sizes) -> impl Strategy<Value = Set> {
    let Sizes { batch, heads, .. } = sizes;
    primitives(sizes).prop_recursive(3, 12, 3, move |set| {
        let each = |count| proptest::collection::vec(set.clone(), count);
        prop_oneof![
            2 => set.clone().prop_map(|a| !a),
            3 => (set.clone(), set.clone()).prop_map(|(a, b)| a & b),
            3 => (set.clone(), set.clone()).prop_map(|(a, b)| a | b),
            1 => each(batch).prop_map(Set::ByBatch),
            1 => each(heads).prop_map(Set::ByHead),
        ]
    })
}

fn primitives(sizes: Sizes) -> impl Strategy<Value = Set> {
    let reach = sizes.queries.max(sizes.keys) + 2;
    // A key, or a position.
    let key = move || 0..reach;
    let bound = move || prop_oneof![1 => Just(None), 4 => key().prop_map(Some)];
    let places = move || proptest::collection::vec(key(), 0..6);
    let pairs = move |most| proptest::collection::btree_set((key(), key()), 0..most);
    // An array larger than this would be slow to draw, and what lies beyond it is not in the set.
    let side = reach.min(100);
    // Of few, half or most.
    let below = || select(vec![-1.5f32, 0.0, 1.5]);
    let bits = |len, below, seed| -> Vec<bool> { numbers(seed, len).into_iter().map(|x| x < below).collect() };
    let dense = (0..=side, 0..=side, below(), any::<u64>())
        .prop_map(move |(rows, columns, below, seed)| Set::Dense { columns, cells: bits(rows * columns, below, seed) });
    // Padding on one side or both, or anything.
    let padding = (key(), key()).prop_map(|(a, b)| Set::KeySet((0..a.max(b)).map(|j| j >= a.min(b)).collect()));
    let key_set =
        (key(), below(), any::<u64>()).prop_map(move |(len, below, seed)| Set::KeySet(bits(len, below, seed)));
    let blocks = (1..=9_usize, 1..=9_usize, proptest::collection::vec(any::<(Index, Index)>(), 0..12)).prop_map(
        move |(rows, columns, places)| {
            let place = |(row, column): (Index, Index)| {
                (row.index(reach.div_ceil(rows)), column.index(reach.div_ceil(columns)))
            };
            Set::Blocks { rows, columns, blocks: places.into_iter().map(place).collect::<BTreeSet<_>>() }
        },
    );
    prop_oneof![
        2 => Just(Set::Full),
        4 => Just(Set::Causal),
        2 => (bound(), bound()).prop_map(|(left, right)| Set::Window(left, right)),
        2 => key().prop_map(Set::causal_window),
        1 => key().prop_map(Set::Prefix),
        1 => places().prop_map(Set::GlobalKeys),
        1 => places().prop_map(Set::GlobalQueries),
        1 => padding,
        1 => key_set,
        1 => (1..=reach).prop_map(Set::BlockDiagonal),
        1 => (1..=reach.min(12)).prop_map(Set::Strided),
        1 => (pairs(4 * reach.min(200)), any::<bool>()).prop_map(|(edges, symmetric)| Set::Edges { edges, symmetric }),
        1 => blocks,
        1 => dense,
    ]
}
