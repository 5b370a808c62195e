//! Shapes that are refused, numbers at the ends of their types, and expressions without end.

use regard_masks::{BlockLayout, Error, LayoutSize, MAX_TILE_ROWS, Mask, Runs, TileShape};

const TILE: TileShape = TileShape { rows: 6, group: 1 };

#[test]
fn shapes_that_cannot_be_laid_out_are_refused_and_change_nothing() {
    let mut layout = BlockLayout::new();
    layout.compile(&Mask::causal(), 10, 100, 90, TILE).unwrap();
    let before = layout.to_string();
    let mut refused = |n_q, n_k, tile| {
        let error = layout.compile(&Mask::causal(), n_q, n_k, 0, tile).unwrap_err();
        assert_eq!((layout.n_q(), layout.n_k(), layout.to_string()), (10, 100, before.clone()));
        error
    };
    for (rows, group) in [(0, 1), (1, 0), (MAX_TILE_ROWS + 1, 1)] {
        let tile = TileShape { rows, group };
        assert_eq!(refused(10, 10, tile), Error::Tile(tile));
    }
    let tile = TileShape { rows: 6, group: 4 };
    assert_eq!(refused(usize::MAX / 2, 10, tile), Error::TooManyQueries { n_q: usize::MAX / 2, group: 4 });
    for n_k in [usize::MAX, usize::MAX - 64, (64 << 31) + 1] {
        assert_eq!(refused(1, n_k, TILE), Error::TooManyKeys { n_k });
    }
    assert_eq!(refused(usize::MAX, 10, TILE), Error::LayoutTooLarge { n_q: usize::MAX, n_k: 10 });
}

#[test]
fn what_memory_cannot_hold_is_refused() {
    let too_large = |n_q, n_k| Err(Error::ArrayTooLarge { n_q, n_k });
    assert_eq!(Mask::full().to_bool(usize::MAX, 2, 0), too_large(usize::MAX, 2));
    assert_eq!(Mask::full().to_bool(usize::MAX / 2, 2, 0), too_large(usize::MAX / 2, 2));
    assert_eq!(Mask::full().to_bool(usize::MAX, 0, 0), Ok(vec![]));
    let (n_q, n_k) = (1 << 40, 1 << 37);
    let reserved = BlockLayout::new().reserve(&Mask::full(), n_q, n_k, TILE);
    assert_eq!(reserved, Err(Error::LayoutTooLarge { n_q, n_k }));
    assert_eq!(LayoutSize::bound(&Mask::full(), n_q, n_k, TILE), Err(Error::LayoutTooLarge { n_q, n_k }));
}

/// The widest layout: as many keys as can be numbered take no more room than a few.
#[test]
fn many_keys_in_one_run_cost_nothing() {
    let n_k = 64 << 31;
    let mut layout = BlockLayout::new();
    layout.compile(&Mask::causal(), 3, n_k, n_k as i64 - 3, TILE).unwrap();
    assert_eq!(layout.tile_live_panels(0), 1 << 31);
    assert_eq!(layout.live_pairs(), 3 * n_k as u64 - 3);
    assert_eq!(layout.size(), LayoutSize { tiles: 1, spans: 2, words: 6, ..LayoutSize::default() });
}

#[test]
fn positions_and_distances_may_lie_at_the_ends_of_their_types() {
    let far = usize::MAX;
    let masks = [
        Mask::causal(),
        !Mask::causal(),
        Mask::window(Some(far), Some(far)),
        Mask::window(Some(0), Some(0)),
        Mask::window(Some(far), Some(0)) & !Mask::window(Some(0), Some(far)),
        Mask::prefix(far) & !Mask::prefix(far - 1),
    ];
    let mut runs = Runs::new();
    for mask in masks {
        for p in [i64::MIN, i64::MIN + 1, -1, 0, 1, i64::MAX - 1, i64::MAX] {
            mask.runs(p, far, &mut runs);
            for j in [0, 1, i64::MAX as usize - 1, i64::MAX as usize, i64::MAX as usize + 1, far - 2, far - 1] {
                let held = runs.as_slice().iter().any(|run| run.contains(&j));
                assert_eq!(held, mask.allows(p, j, far), "{mask}: ({p}, {j})");
            }
        }
        let mut layout = BlockLayout::new();
        for offset in [i64::MIN, i64::MAX] {
            layout.compile(&mask, 9, 130, offset, TILE).unwrap();
            let array = mask.to_bool(9, 130, offset).unwrap();
            assert_eq!(layout.live_pairs(), array.iter().filter(|&&kept| kept).count() as u64, "{mask}");
        }
    }
}

/// One run that cuts a panel at either end is the most that its bound allows for.
#[test]
fn a_run_between_two_rims_takes_its_whole_bound() {
    let window = Mask::window(Some(149), Some(0));
    let bound = LayoutSize::bound(&window, 1, 1000, TILE).unwrap();
    assert_eq!(bound, LayoutSize { tiles: 1, spans: 3, words: 2 * TILE.rows, ..LayoutSize::default() });
    let mut layout = BlockLayout::new();
    layout.compile(&window, 1, 1000, 420, TILE).unwrap();
    assert_eq!(layout.size(), bound);
}

/// A position stands for distances up to 2⁶⁴: checked by hand, as no plain arithmetic of the oracle reaches it.
#[test]
fn windows_reach_as_far_as_they_say() {
    let reach = Mask::window(Some(usize::MAX), Some(0));
    assert!(reach.allows(i64::MAX, 0, 1) && !reach.allows(-1, 0, 1));
    let ahead = Mask::window(Some(0), Some(usize::MAX));
    assert!(ahead.allows(i64::MIN, (1 << 63) - 1, usize::MAX) && !ahead.allows(i64::MIN, 1 << 63, usize::MAX));
}

#[test]
fn a_deep_expression_needs_no_deep_stack() {
    const DEPTH: usize = if cfg!(miri) { 200 } else { 200_000 };
    const WIDTH: usize = if cfg!(miri) { 20 } else { 1000 };
    let mut mask = Mask::prefix(3);
    for n in 0..DEPTH {
        mask = !(mask | Mask::window(Some(n), Some(0)));
    }
    let mut right = Mask::full();
    for _ in 0..WIDTH {
        right = Mask::causal() & right;
    }
    let mask = mask & right;
    let mut runs = Runs::new();
    mask.runs(5, 10, &mut runs);
    let kept: Vec<usize> = (0..10).filter(|&j| mask.allows(5, j, 10)).collect();
    assert_eq!(runs.as_slice().iter().cloned().flatten().collect::<Vec<_>>(), kept);
    assert!(mask.max_runs(10) > DEPTH);
}

#[test]
#[cfg_attr(miri, ignore = "65,536 rows take an interpreter minutes")]
fn a_large_layout_is_drawn_small() {
    let mut layout = BlockLayout::new();
    layout.compile(&Mask::causal(), 1 << 16, 1 << 16, 0, TileShape { rows: 64, group: 1 }).unwrap();
    let drawing = layout.to_string();
    let lines: Vec<&str> = drawing.lines().collect();
    assert_eq!(lines.len(), 65);
    for (line, text) in lines[..64].iter().enumerate() {
        let expected = "█".repeat(2 * line) + "▒▒" + &"·".repeat(126 - 2 * line);
        assert_eq!(*text, expected);
    }
    assert_eq!(lines[64], "(one character: 16 tiles × 8 panels)");
}

#[test]
fn a_layout_of_nothing_is_drawn_as_nothing() {
    let mut layout = BlockLayout::new();
    assert_eq!((layout.to_string(), layout.density()), (String::new(), 0.0));
    layout.compile(&Mask::full(), 7, 0, 0, TILE).unwrap();
    assert_eq!((layout.to_string(), layout.tiles(), layout.density()), ("\n\n".into(), 0..2, 0.0));
}
