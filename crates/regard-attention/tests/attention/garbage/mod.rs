//! Shapes that no call has, of everything at once: nothing panics, overflows or asks for the impossible, and what is refused
//! writes nothing.

mod caches;
mod calls;
mod doors;

use std::ops::Range;

use proptest::prelude::*;
use proptest::sample::select;
use regard_attention::{Crossovers, Dropout, Error, Offset, Options, Segment, Sequences, Shape};
use regard_masks::{Gather, Mask};
use regard_memory::{Tensor, TensorMut};
use regard_simd::Isa;

/// Sizes that calls have, and sizes that no memory holds.
fn size() -> impl Strategy<Value = usize> {
    let huge = select(vec![1 << 44, 1 << 58, usize::MAX / 2, usize::MAX - 62, usize::MAX]);
    prop_oneof![30 => 0..4_usize, 4 => select(vec![7, 64, 65]), 1 => huge]
}

fn shape() -> impl Strategy<Value = Shape> {
    let heads =
        prop_oneof![3 => (0..3_usize, 0..3_usize).prop_map(|(kv, group)| (kv * group, kv)), 1 => (size(), size())];
    (size(), heads, size(), size(), size(), size()).prop_map(
        |(batch, (heads, kv_heads), queries, keys, dim_k, dim_v)| Shape {
            batch,
            heads,
            kv_heads,
            queries,
            keys,
            dim_k,
            dim_v,
        },
    )
}

fn option() -> impl Strategy<Value = Option<f64>> {
    let odd = select(vec![f64::NAN, f64::INFINITY, -1.0, 0.0, 1e-320, 1e300]);
    prop_oneof![4 => Just(None), 2 => (0.01..5.0).prop_map(Some), 1 => odd.prop_map(Some)]
}

fn range() -> impl Strategy<Value = Range<usize>> {
    (size(), size()).prop_map(|(start, end)| start..end)
}

fn sequences() -> impl Strategy<Value = Sequences> {
    let lengths = || prop::option::of(prop::collection::vec(size(), 0..4));
    let segment = (size(), range(), range()).prop_map(|(batch, queries, keys)| Segment { batch, queries, keys });
    prop_oneof![
        3 => Just(Sequences::Whole),
        1 => (lengths(), lengths()).prop_map(|(queries, keys)| Sequences::Lengths { queries, keys }),
        1 => prop::collection::vec(segment, 0..4).prop_map(Sequences::Packed),
    ]
}

fn cost() -> impl Strategy<Value = f32> {
    select(vec![0.0, 0.5, 1.0, -1.0, 1e30, f32::INFINITY, f32::NAN])
}

fn options() -> impl Strategy<Value = Options> {
    let offset = prop_oneof![
        3 => Just(Offset::AtEnd),
        1 => any::<i64>().prop_map(Offset::Same),
        1 => prop::collection::vec(any::<i64>(), 0..4).prop_map(Offset::Each),
    ];
    let isa = select(Isa::available().collect::<Vec<_>>());
    let crossovers = prop_oneof![
        3 => Just(Crossovers::default()),
        1 => (size(), size(), size()).prop_map(|(keys_of_a_head, keys_of_a_strip, keys_of_a_split)| {
            Crossovers { keys_of_a_head, keys_of_a_strip, keys_of_a_split, ..Crossovers::default() }
        }),
        2 => [cost(), cost(), cost(), cost()].prop_map(|[edge, rim, panel, key]| {
            Crossovers { edge, gather: Gather { rim, panel, key }, ..Crossovers::default() }
        }),
    ];
    (option(), option(), option(), sequences(), offset, isa, crossovers).prop_map(
        |(scale, softcap, dropout, sequences, offset, isa, crossovers)| Options {
            scale,
            softcap,
            dropout: dropout.map(|probability| Dropout { probability: probability as f32 / 6.0, seed: 3 }),
            sequences,
            offset,
            isa: Some(isa),
            crossovers,
        },
    )
}

fn masks() -> impl Strategy<Value = Mask> {
    let primitive = prop_oneof![
        Just(Mask::full()),
        Just(Mask::causal()),
        (prop::option::of(size()), prop::option::of(size())).prop_map(|(left, right)| Mask::window(left, right)),
        size().prop_map(Mask::prefix),
        prop::collection::vec(size(), 0..5).prop_map(Mask::global_keys),
        prop::collection::vec(size(), 0..5).prop_map(Mask::global_queries),
        size().prop_filter_map("a size", |size| Mask::block_diagonal(size).ok()),
        size().prop_filter_map("a step", |step| Mask::strided(step).ok()),
        (0..6_usize, 0..6_usize, any::<[bool; 36]>()).prop_filter_map("an array", |(n_q, n_k, kept)| Mask::dense(
            n_q,
            n_k,
            &kept[..n_q * n_k]
        )
        .ok()),
    ];
    primitive.prop_recursive(2, 6, 3, |mask| {
        let each = prop::collection::vec(mask.clone(), 0..4);
        prop_oneof![
            mask.clone().prop_map(|a| !a),
            (mask.clone(), mask.clone()).prop_map(|(a, b)| a & b),
            (mask.clone(), mask).prop_map(|(a, b)| a | b),
            each.clone().prop_filter_map("masks", |each| Mask::by_batch(each).ok()),
            each.prop_filter_map("masks", |each| Mask::by_head(each).ok()),
        ]
    })
}

/// The shapes that tensors have that are not what the plan says.
fn others() -> impl Strategy<Value = Vec<[usize; 4]>> {
    prop::collection::vec([size(), size(), size(), size()], 1..3)
}

/// Which shape each tensor has: most often the first, that of the plan.
fn picks() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(0..8_usize, 8)
}

/// Numbers for tensors that are not huge.
static NUMBERS: [f32; 4096] = [0.5; 4096];

/// A tensor of the right shape, or of one of the others; none where there are not so many numbers.
fn tensor(right: [usize; 4], others: &[[usize; 4]], pick: usize) -> Option<Tensor<'static, f32>> {
    let shape = if pick < 6 { right } else { others[pick % others.len()] };
    let len = shape.iter().try_fold(1_usize, |len, &size| len.checked_mul(size))?;
    Tensor::contiguous(NUMBERS.get(..len)?, shape).ok()
}

/// What stands where something is to be written.
const BEFORE: f32 = -7.25;

/// Room for a tensor of as many numbers as another, in which it is seen whether something is written.
struct Target {
    numbers: Vec<f32>,
    shape: [usize; 4],
}

impl Target {
    fn like(tensor: &Tensor<'_, f32>) -> Target {
        Target { numbers: vec![BEFORE; tensor.shape().iter().product()], shape: tensor.shape() }
    }

    fn view(&mut self) -> TensorMut<'_, f32> {
        TensorMut::contiguous(&mut self.numbers, self.shape).expect("room for all of it")
    }
}

/// What is refused has written nothing.
fn nothing_of_what_is_refused(result: Result<(), Error>, targets: &[&Target]) {
    let untouched = targets.iter().flat_map(|target| &target.numbers).all(|&x| x == BEFORE);
    assert!(result.is_ok() || untouched, "{result:?}, but something was written");
}
