//! Shapes, options, sequences and masks that fit no call: each is named, with what it has and what was expected.

use std::ops::Range;

use regard_attention::{Dropout, Error, Offset, Options, Plan, Segment, Sequences, Shape};
use regard_masks::Mask;

const SHAPE: Shape = Shape { batch: 2, heads: 4, kv_heads: 2, queries: 5, keys: 7, dim_k: 8, dim_v: 3 };

fn plan(options: Options) -> Result<(), Error> {
    Plan::new(SHAPE, &Mask::causal(), &options).map(|_| ())
}

fn axis(tensor: &'static str, axis: &'static str, has: usize, expected: impl ToString) -> Result<(), Error> {
    Err(Error::Axis { tensor, axis, has, expected: expected.to_string() })
}

#[test]
fn heads_form_groups_and_axes_have_something_on_them() {
    let plan = |shape| Plan::new(shape, &Mask::full(), &Options::default()).map(|_| ());
    let groups = |heads, kv_heads: usize| {
        axis("queries", "heads", heads, format!("a multiple of the {kv_heads} key/value heads"))
    };
    assert_eq!(plan(Shape { heads: 5, ..SHAPE }), groups(5, 2));
    assert_eq!(plan(Shape { heads: 1, ..SHAPE }), groups(1, 2));
    for (shape, tensor, of) in [
        (Shape { heads: 0, ..SHAPE }, "queries", "heads"),
        (Shape { kv_heads: 0, ..SHAPE }, "keys", "heads"),
        (Shape { dim_k: 0, ..SHAPE }, "queries", "dim"),
        (Shape { dim_v: 0, ..SHAPE }, "values", "dim"),
    ] {
        assert_eq!(plan(shape), axis(tensor, of, 0, "at least 1"));
    }
}

#[test]
fn an_error_says_what_there_is_and_what_was_expected() {
    let error = plan(Options { offset: Offset::Each(vec![1]), ..Options::default() }).expect_err("one offset for two");
    assert_eq!(error.to_string(), "`offsets` has sequences 1, expected 2");
    let error = plan(Options { scale: Some(f64::NAN), ..Options::default() }).expect_err("no scale");
    assert_eq!(error.to_string(), "scale is NaN, it must be a number that is finite in f32, times log2(e) too");
}

#[test]
fn scales_are_finite_in_f32() {
    for scale in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 3e38, f64::MIN] {
        let error = plan(Options { scale: Some(scale), ..Options::default() }).expect_err("no scale");
        assert!(matches!(error, Error::Option { option: "scale", .. }), "{scale}: {error}");
    }
    for scale in [0.0, -2.5, 1e30, 1e-300] {
        assert_eq!(plan(Options { scale: Some(scale), ..Options::default() }), Ok(()), "{scale}");
    }
}

#[test]
fn softcaps_are_positive_and_finite() {
    for cap in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0, -1.0, 1e-60, 1e60, 5e-324] {
        let error = plan(Options { softcap: Some(cap), ..Options::default() }).expect_err("no cap");
        assert!(matches!(error, Error::Option { option: "softcap", .. }), "{cap}: {error}");
    }
    assert_eq!(plan(Options { softcap: Some(1e-3), ..Options::default() }), Ok(()));
}

#[test]
fn probabilities_leave_something() {
    for probability in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.1, 1.0, 1.5] {
        let dropout = Some(Dropout { probability, seed: 1 });
        let error = plan(Options { dropout, ..Options::default() }).expect_err("no probability");
        assert!(matches!(error, Error::Option { option: "dropout", .. }), "{probability}: {error}");
    }
    let dropout = Some(Dropout { probability: 0.0, seed: 1 });
    assert_eq!(plan(Options { dropout, ..Options::default() }), Ok(()));
}

#[test]
fn lengths_are_one_for_each_batch_entry_and_no_longer_than_it() {
    let lengths = |queries: Option<&[usize]>, keys: Option<&[usize]>| {
        let [queries, keys] = [queries, keys].map(|lengths| lengths.map(<[usize]>::to_vec));
        plan(Options { sequences: Sequences::Lengths { queries, keys }, ..Options::default() })
    };
    assert_eq!(lengths(Some(&[5, 0]), Some(&[0, 7])), Ok(()));
    assert_eq!(lengths(Some(&[5]), None), axis("query_lengths", "batch", 1, 2));
    assert_eq!(lengths(None, Some(&[7, 7, 7])), axis("key_lengths", "batch", 3, 2));
    assert_eq!(lengths(Some(&[5, 6]), None), axis("query_lengths", "seq", 6, "at most 5"));
    assert_eq!(lengths(None, Some(&[usize::MAX, 1])), axis("key_lengths", "seq", usize::MAX, "at most 7"));
}

fn packed(segments: &[(usize, Range<usize>, Range<usize>)]) -> Result<(), Error> {
    let segment = |(batch, queries, keys): &(usize, Range<usize>, Range<usize>)| Segment {
        batch: *batch,
        queries: queries.clone(),
        keys: keys.clone(),
    };
    let sequences = Sequences::Packed(segments.iter().map(segment).collect());
    plan(Options { sequences, ..Options::default() })
}

#[test]
#[allow(clippy::reversed_empty_ranges, reason = "they are to be refused")]
fn segments_lie_within_their_batch_entry() {
    assert_eq!(packed(&[(1, 0..5, 3..7), (0, 2..2, 7..7)]), Ok(()));
    assert_eq!(packed(&[(2, 0..5, 3..7)]), axis("segment", "batch", 2, "less than 2"));
    assert_eq!(packed(&[(0, 0..6, 3..7)]), axis("segment of queries", "seq", 6, "at most 5"));
    assert_eq!(packed(&[(0, 0..5, 3..8)]), axis("segment of keys", "seq", 8, "at most 7"));
    assert_eq!(packed(&[(0, 4..3, 0..7)]), axis("segment of queries", "seq", 3, "its start, 4, or more"));
    assert_eq!(packed(&[(0, 0..5, 6..0)]), axis("segment of keys", "seq", 0, "its start, 6, or more"));
}

#[test]
fn segments_share_no_queries() {
    let overlap = |first: Range<usize>, second: Range<usize>| {
        Err(Error::Memory(regard_memory::Error::Stretches { batch: 1, first, second }))
    };
    assert_eq!(packed(&[(1, 0..3, 0..3), (1, 2..5, 3..7)]), overlap(0..3, 2..5));
    assert_eq!(packed(&[(1, 2..5, 3..7), (0, 0..5, 0..7), (1, 0..3, 0..3)]), overlap(0..3, 2..5));
    assert_eq!(packed(&[(1, 0..5, 0..3), (1, 2..3, 3..7)]), overlap(0..5, 2..3));
    // Of keys they may.
    assert_eq!(packed(&[(1, 0..3, 0..7), (1, 3..5, 0..7)]), Ok(()));
}

#[test]
fn offsets_are_one_for_each_sequence() {
    let offsets = |each: &[i64]| plan(Options { offset: Offset::Each(each.to_vec()), ..Options::default() });
    assert_eq!(offsets(&[i64::MIN, i64::MAX]), Ok(()));
    assert_eq!(offsets(&[1]), axis("offsets", "sequences", 1, 2));
    assert_eq!(offsets(&[1, 2, 3]), axis("offsets", "sequences", 3, 2));
}

#[test]
fn masks_tell_apart_what_there_is() {
    let of = |mask: &Mask| Plan::new(SHAPE, mask, &Options::default()).map(|_| ());
    let each = |count| vec![Mask::causal(); count];
    for count in [1, 2] {
        assert_eq!(of(&Mask::by_batch(each(count)).expect("masks")), Ok(()));
    }
    for count in [1, 4] {
        assert_eq!(of(&!Mask::by_head(each(count)).expect("masks")), Ok(()));
    }
    assert_eq!(of(&Mask::by_batch(each(3)).expect("masks")), axis("mask", "batch", 3, "2 or 1"));
    // Heads of queries, not of keys.
    let by_head = Mask::causal() & Mask::by_head(each(2)).expect("masks");
    assert_eq!(of(&by_head), axis("mask", "heads", 2, "4 or 1"));
}

#[test]
fn sizes_that_no_memory_holds_are_refused() {
    let huge = 1 << 44;
    let lengths = Sequences::Lengths { queries: None, keys: None };
    for (shape, sequences) in [
        // A batch of nothing takes no memory, but a list of its sequences does; and so does one of its dead rows.
        (Shape { batch: huge, queries: 0, ..SHAPE }, Sequences::Whole),
        (Shape { batch: huge, keys: 0, ..SHAPE }, lengths),
        (Shape { batch: huge, ..SHAPE }, Sequences::Packed(vec![])),
        (Shape { queries: usize::MAX, ..SHAPE }, Sequences::Whole),
        (Shape { keys: usize::MAX, ..SHAPE }, Sequences::Whole),
    ] {
        let options = Options { sequences, ..Options::default() };
        assert!(Plan::new(shape, &Mask::causal(), &options).is_err(), "{shape:?}");
    }
    // Heads are all alike, and no list.
    let shape = Shape { heads: 2 * huge, kv_heads: huge, ..SHAPE };
    let plan = Plan::new(shape, &Mask::full(), &Options::default()).expect("a plan");
    assert_eq!(plan.live_pairs(), 2 * 2 * (huge as u64) * 5 * 7);
    let by_head = Mask::by_batch([Mask::full(), Mask::causal()]).expect("masks");
    assert!(Plan::new(shape, &by_head, &Options::default()).is_err(), "a layout for each head");
}

#[test]
fn a_plan_that_is_resized_keeps_what_it_has_where_it_refuses() {
    let packed = Sequences::Packed(vec![Segment { batch: 0, queries: 0..5, keys: 0..7 }]);
    let lengths = Sequences::Lengths { queries: None, keys: Some(vec![3, 7]) };
    for sequences in [packed, lengths] {
        let options = Options { sequences, ..Options::default() };
        let mut plan = Plan::new(SHAPE, &Mask::causal(), &options).expect("a plan");
        let before = plan.to_string();
        assert!(plan.resize(4, 6).is_err(), "the sequences would not fit");
        assert!(plan.resize_keys(5, &[7]).is_err(), "a length is missing");
        assert_eq!((plan.shape(), plan.to_string()), (SHAPE, before));
    }
    let mut plan = Plan::new(SHAPE, &Mask::causal(), &Options::default()).expect("a plan");
    let before = plan.to_string();
    assert!(plan.resize_keys(5, &[7, usize::MAX]).is_err());
    assert!(plan.resize(usize::MAX, 7).is_err());
    assert_eq!((plan.shape(), plan.to_string()), (SHAPE, before));
}
