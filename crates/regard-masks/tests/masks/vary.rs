//! Masks that differ by batch entry and by head.

use proptest::prelude::*;
use regard_masks::{BlockLayout, Error, Gather, Mask, Runs, TileShape};

use crate::expand::expand;
use crate::set::{BATCH, HEADS, Shape, cases, key_counts, shapes, varying_sets};

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn a_selected_mask_is_that_of_its_entry_and_head(set in varying_sets(), p in -120..420_i64, n_k in key_counts()) {
        let mask = set.mask();
        prop_assert!([1, BATCH].contains(&mask.batch().unwrap()));
        prop_assert!([1, HEADS].contains(&mask.heads().unwrap()));
        let mut runs = Runs::new();
        for batch in 0..BATCH {
            for head in 0..HEADS {
                let one = mask.select(batch, head);
                prop_assert_eq!((one.batch().unwrap(), one.heads().unwrap()), (1, 1));
                one.runs(p, n_k, &mut runs);
                for j in 0..n_k {
                    let expected = set.holds_in((batch, head), p, j, n_k);
                    prop_assert_eq!(one.allows(p, j, n_k), expected, "entry {} head {}: ({}, {})", batch, head, p, j);
                    prop_assert_eq!(runs.as_slice().iter().any(|run| run.contains(&j)), expected);
                }
            }
        }
    }

    /// As attention uses it: for each batch entry the masks of the heads of a group, in one layout.
    #[test]
    fn a_group_is_laid_out_by_what_is_selected(set in varying_sets(), shape in shapes(), gather: bool) {
        let Shape { n_q, n_k, offset, tile: TileShape { rows, .. } } = shape;
        let tile = TileShape { rows, group: HEADS };
        let gather = gather.then_some(Gather { rim: 1.0, panel: 1.0, key: 0.02 });
        let mask = set.mask();
        for batch in 0..BATCH {
            let heads: Vec<Mask> = (0..HEADS).map(|head| mask.select(batch, head)).collect();
            let mut layout = BlockLayout::new();
            layout.compile_with(&heads, n_q, n_k, offset, tile, gather).unwrap();
            for t in layout.tiles() {
                let range = t * rows..((t + 1) * rows).min(n_q * HEADS);
                for (r, row) in range.zip(expand(&layout, t)) {
                    let expected = |j| set.holds_in((batch, r % HEADS), (r / HEADS) as i64 + offset, j, n_k);
                    prop_assert!((0..n_k).map(expected).eq(row), "entry {} row {}", batch, r);
                }
            }
        }
    }

    #[test]
    fn one_that_is_not_selected_from_answers_for_the_first(set in varying_sets(), p in -120..420_i64, n_k in key_counts()) {
        let mask = set.mask();
        let first = mask.select(0, 0);
        let (mut runs, mut of_first) = (Runs::new(), Runs::new());
        mask.runs(p, n_k, &mut runs);
        first.runs(p, n_k, &mut of_first);
        prop_assert_eq!(runs.as_slice(), of_first.as_slice());
        prop_assert!(runs.as_slice().len() <= mask.max_runs(n_k));
        prop_assert!((0..n_k).all(|j| mask.allows(p, j, n_k) == first.allows(p, j, n_k)));
        prop_assert_eq!(mask.draw(7, n_k, p).to_string(), first.draw(7, n_k, p).to_string());
        let tile = TileShape { rows: 3, group: 2 };
        let mut layouts = [BlockLayout::new(), BlockLayout::new()];
        layouts[0].compile(&mask, 7, n_k, p, tile).unwrap();
        layouts[1].compile(&first, 7, n_k, p, tile).unwrap();
        prop_assert!(layouts[0].tiles().all(|t| layouts[0].tile(t).eq(layouts[1].tile(t))));
    }
}

#[test]
fn what_does_not_vary_alike_is_refused() {
    let by_batch = |count: usize| Mask::by_batch((0..count).map(Mask::prefix)).unwrap();
    let by_head = |count: usize| Mask::by_head((0..count).map(Mask::prefix)).unwrap();
    let refused = |axis, has| Error::Vary { axis, has };

    let mask = by_batch(2) & by_batch(3);
    assert_eq!(mask.batch(), Err(refused("batch entries", [2, 3])));
    assert_eq!(mask.heads(), Ok(1));
    assert_eq!(
        mask.batch().unwrap_err().to_string(),
        "mask: its parts tell 2 and 3 batch entries apart; expected the same number, or 1"
    );
    assert_eq!((by_head(2) | !by_head(5)).heads(), Err(refused("heads", [2, 5])));
    // The parts may stand in different places of an expression.
    let mask = by_batch(2) & Mask::by_head([Mask::causal(), by_batch(3), Mask::full()]).unwrap();
    assert_eq!((mask.batch(), mask.heads()), (Err(refused("batch entries", [2, 3])), Ok(3)));
    assert_eq!(Mask::by_batch([by_batch(2), by_batch(2), Mask::full()]), Err(refused("batch entries", [3, 2])));
    assert_eq!(Mask::by_head([by_head(4), Mask::full()]), Err(refused("heads", [2, 4])));
    assert_eq!(Mask::by_head([]).unwrap_err().to_string(), "by_head: no mask; expected at least one");
    let error = Mask::dense_array([2, 1, 3, 2], &[true; 11]).unwrap_err().to_string();
    assert_eq!(
        error,
        "dense: 11 elements in 2 × 1 × 3 × 2; expected one for each pair, of at least one batch entry and head"
    );
    assert!(Mask::dense_array([0, 1, 3, 2], &[]).is_err() && Mask::dense_array([1, 0, 3, 2], &[]).is_err());
    assert!(Mask::dense_array([usize::MAX, 2, 1, 1], &[]).is_err());
}

/// What varies by batch within what varies by batch is decided where they meet.
#[test]
fn masks_may_nest_without_end() {
    let mut mask = Mask::prefix(1);
    for depth in 0..if cfg!(miri) { 50 } else { 5000 } {
        mask = Mask::by_batch([mask, Mask::prefix(depth)]).unwrap();
        mask = Mask::by_head([Mask::prefix(2), mask]).unwrap();
    }
    assert_eq!(mask.select(0, 0), Mask::prefix(2));
    assert_eq!(mask.select(0, 1), Mask::prefix(1));
    // Nobody said what an entry is that was not told apart.
    assert_eq!(mask.select(2, 1), Mask::prefix(0));
}

#[test]
fn many_masks_are_written_in_short() {
    let mask = !Mask::by_head((0..10).map(Mask::prefix)).unwrap();
    let list: Vec<String> = (0..8).map(|n| format!("prefix({n})")).collect();
    assert_eq!(mask.to_string(), format!("!by_head({}, … 2 more)", list.join(", ")));
}
