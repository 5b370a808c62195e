//! Shapes that do not fit are errors that name what does not fit, and nothing panics.

use proptest::prelude::*;
use regard_kernels::{
    Bf16, COLUMNS, Dropout, DropoutRow, Error, F32, GradientRows, Kernels, KeyNumbers, KeyPanels, PANEL, Pairs, ROWS,
    Region, RowAdjustment, Weighing,
};
use regard_simd::Isa;

fn length(name: &'static str, has: usize, expected: usize) -> Result<(), Error> {
    Err(Error::Length { name, has, expected })
}

#[test]
fn recomputing_names_what_does_not_fit() {
    let kernels = Kernels::new(Isa::best());
    let mut buffer = vec![0; Pairs::<Bf16>::words(8, 3)];
    let words = buffer.len();
    assert_eq!(Pairs::<Bf16>::new(&mut buffer[1..], 8, 3).map(|_| ()), length("pairs", words - 1, words));
    let mut pairs = Pairs::<Bf16>::new(&mut buffer, 8, 3).unwrap();
    assert_eq!((pairs.rows(), pairs.panels()), (12, 3));
    assert_eq!(pairs.clear(1, 0..3), Ok(()));
    assert_eq!(pairs.clear(2, 0..1), length("rows of pairs", 12, 18));
    assert_eq!(pairs.clear(usize::MAX, 0..1), length("rows of pairs", 12, usize::MAX));
    assert_eq!(pairs.clear(0, 1..4), length("panels of pairs", 3, 4));

    let (words, floats) = ([0; 3 * 2 * PANEL], [0.0; 6]);
    let rows = GradientRows::<Bf16> {
        rows: 6,
        steps: (2, 1),
        queries: &words[..12],
        output_gradients: &words[..6],
        lse: &floats,
        delta: &floats,
    };
    let keys = KeyPanels::<Bf16> { keys: &words[..256], values: &words[..128], live: None };
    let mut recompute = |rows: &GradientRows<'_, Bf16>, keys: &KeyPanels<'_, Bf16>, panels: std::ops::Range<usize>| {
        kernels.recompute(rows, keys, &mut Weighing::plain(1.0), &mut pairs, 0, panels)
    };
    assert_eq!(recompute(&rows, &keys, 0..2), Ok(()));
    assert_eq!(recompute(&rows, &keys, 1..3), Ok(()));
    assert_eq!(recompute(&rows, &keys, 2..4), length("panels of pairs", 3, 4));
    assert_eq!(recompute(&rows, &keys, 0..3), length("key panels", 256, 384));
    assert_eq!(recompute(&rows, &KeyPanels { values: &words[..127], ..keys }, 0..2), length("value panels", 127, 128));
    assert_eq!(recompute(&GradientRows { queries: &words[..11], ..rows }, &keys, 0..2), length("queries", 11, 12));
    let short = GradientRows { output_gradients: &words[..5], ..rows };
    assert_eq!(recompute(&short, &keys, 0..2), length("output gradients", 5, 6));
    assert_eq!(recompute(&GradientRows { lse: &floats[1..], ..rows }, &keys, 0..2), length("log-sum-exps", 5, 6));
    assert_eq!(recompute(&GradientRows { delta: &floats[1..], ..rows }, &keys, 0..2), length("deltas", 5, 6));
    for count in [0, 7] {
        let result = recompute(&GradientRows { rows: count, ..rows }, &keys, 0..2);
        assert!(matches!(result, Err(Error::Size { name: "rows", has, .. }) if has == count), "{result:?}");
    }
    assert_eq!(recompute(&rows, &KeyPanels { live: Some(&[1; 5]), ..keys }, 0..1), length("live bits", 5, 6));
    let two = recompute(&rows, &KeyPanels { live: Some(&[1; 6]), ..keys }, 0..2);
    assert!(matches!(two, Err(Error::Size { name: "key panels with live bits", has: 2, .. })), "{two:?}");

    let mut weigh = |weighing: &mut Weighing<'_>| kernels.recompute(&rows, &keys, weighing, &mut pairs, 0, 0..2);
    let adjustments = [RowAdjustment::default(); 5];
    let result = weigh(&mut Weighing { rows: &adjustments, ..Weighing::plain(1.0) });
    assert_eq!(result, length("row adjustments", 5, 6));
    let dropped = [DropoutRow::new(1, 2, 3, 4, 0.5); 5];
    let dropout = Dropout { rows: &dropped, numbers: KeyNumbers::From(0), gain: 2.0 };
    let result = weigh(&mut Weighing { dropout: Some(dropout), ..Weighing::plain(1.0) });
    assert_eq!(result, length("rows of dropout", 5, 6));
    let mut d_scores = [0.0; 6 * 128 - 1];
    let result = weigh(&mut Weighing { d_scores: Some(&mut d_scores), ..Weighing::plain(1.0) });
    assert_eq!(result, length("gradients of scores", 767, 768));

    let rows = kernels.dot(&[1.0f32; 3], &[1.0f32; 4]);
    assert!(matches!(rows, Err(Error::Length { has: 4, expected: 3, .. })), "{rows:?}");
}

#[test]
fn products_name_what_does_not_fit() {
    let kernels = Kernels::new(Isa::best());
    let mut buffer = vec![0; Pairs::<Bf16>::words(12, 2)];
    let pairs = Pairs::<Bf16>::new(&mut buffer, 12, 2).unwrap();
    let (b, mut sums) = ([0; PANEL * COLUMNS], [0.0; 2 * PANEL * COLUMNS]);
    let whole = |rows, keys| Region::Whole { rows, keys };
    let mut add = |region: Region<'_>, b: &[u32], width: usize, floats: usize| {
        kernels.add_value_gradients(&pairs, region.clone(), b, width, &mut sums[..floats])?;
        kernels.add_key_gradients(&pairs, region, b, width, &mut sums[..floats])
    };
    assert_eq!(add(whole(0..12, 0..128), &b[..96], 16, 2048), Ok(()));
    assert_eq!(add(whole(0..11, 0..128), &b[..96], 16, 2048), Ok(()));
    assert_eq!(add(whole(0..13, 0..128), &b, 16, 2048), length("rows of pairs", 12, 13));
    assert_eq!(add(whole(0..12, 0..129), &b, 16, 2048), length("keys of pairs", 128, 129));
    assert_eq!(add(whole(0..11, 0..128), &b[..95], 16, 2048), length("packed rows", 95, 96));
    assert_eq!(add(whole(0..12, 0..128), &b, 16, 2047), length("gradient sums", 2047, 2048));
    let odd = add(whole(1..12, 0..128), &b, 16, 2048);
    assert!(matches!(odd, Err(Error::Size { name: "first row", has: 1, .. })), "{odd:?}");
    let narrow = add(whole(0..12, 0..128), &b, 8, 2048);
    assert!(matches!(narrow, Err(Error::Size { name: "gradient width", has: 8, .. })), "{narrow:?}");
    let kept = |row, panel, live| Region::Kept { row, panel, live };
    assert_eq!(add(kept(10, 1, &[1 << 63, 1]), &b[..96], 16, 2048), Ok(()));
    assert_eq!(add(kept(11, 1, &[1, 1]), &b, 16, 2048), length("rows of pairs", 12, 13));
    assert_eq!(add(kept(0, 2, &[1]), &b, 16, 2048), length("keys of pairs", 128, 129));

    let mut add = |region, b: &[u32], width, floats: usize| {
        kernels.add_query_gradients(&pairs, region, b, width, &mut sums[..floats])
    };
    assert_eq!(add(whole(0..12, 0..128), &b, 16, 192), Ok(()));
    assert_eq!(add(whole(0..12, 0..128), &b[1..], 16, 192), length("packed keys", 1023, 1024));
    assert_eq!(add(whole(0..12, 0..128), &b, 16, 191), length("gradient sums", 191, 192));
    let odd = add(whole(0..12, 1..128), &b, 16, 192);
    assert!(matches!(odd, Err(Error::Size { name: "first key", has: 1, .. })), "{odd:?}");
}

proptest! {
    /// Any sizes: taken or refused, without a panic.
    #[test]
    fn no_size_panics(
        (rows, panels) in (0..14_usize, 0..3_usize),
        (first_row, last_row, first_key, last_key) in (size(), size(), size(), size()),
        width in size(),
        kept in any::<bool>(),
        (b, floats) in (0..4000_usize, 0..4000_usize),
    ) {
        let kernels = Kernels::new(Isa::best());
        let mut buffer = vec![0.0; Pairs::<F32>::words(rows, panels)];
        let mut pairs = Pairs::<F32>::new(&mut buffer, rows, panels).unwrap();
        let _ = pairs.clear(first_row, first_key..last_key);
        let (b, mut sums) = (vec![0.0; b], vec![0.0; floats]);
        let live = [u64::MAX; ROWS];
        let region = if kept {
            Region::Kept { row: first_row, panel: first_key, live: &live[..last_row % 7] }
        } else {
            Region::Whole { rows: first_row..last_row, keys: first_key..last_key }
        };
        let _ = kernels.add_value_gradients(&pairs, region.clone(), &b, width, &mut sums);
        let _ = kernels.add_key_gradients(&pairs, region.clone(), &b, width, &mut sums);
        let _ = kernels.add_query_gradients(&pairs, region, &b, width, &mut sums);
        let queries = GradientRows::<F32> {
            rows: last_row % 8,
            steps: (width, last_key),
            queries: &b,
            output_gradients: &b,
            lse: &b,
            delta: &b,
        };
        let keys = KeyPanels { keys: &b, values: &b, live: kept.then_some(&live) };
        let _ = kernels.recompute(&queries, &keys, &mut Weighing::plain(1.0), &mut pairs, first_row, first_key..last_key);
    }
}

/// Small ones, and those that wrap.
fn size() -> impl Strategy<Value = usize> {
    prop_oneof![6 => 0..20_usize, 3 => (0..9_usize).prop_map(|n| n * 16), 1 => usize::MAX - 20..=usize::MAX]
}
