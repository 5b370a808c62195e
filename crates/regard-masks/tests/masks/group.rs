//! Layouts of groups whose heads have masks of their own.

use proptest::prelude::*;
use regard_masks::{BlockLayout, Error, Mask, Span, TileShape};

use crate::expand::expand;
use crate::set::{Set, Shape, cases, sets, shapes};

/// A shape, and a set for each head of its group.
fn groups() -> impl Strategy<Value = (Shape, Vec<Set>)> {
    shapes().prop_flat_map(|shape| (Just(shape), prop::collection::vec(sets(), shape.tile.group)))
}

proptest! {
    #![proptest_config(cases(600))]

    #[test]
    fn a_row_keeps_what_the_mask_of_its_head_keeps((shape, sets) in groups()) {
        let Shape { n_q, n_k, offset, tile } = shape;
        let masks: Vec<Mask> = sets.iter().map(Set::mask).collect();
        let mut layout = BlockLayout::new();
        layout.compile_group(&masks, n_q, n_k, offset, tile).unwrap();
        let holds = |r: usize, j: usize| sets[r % tile.group].holds((r / tile.group) as i64 + offset, j, n_k);
        let all = n_q * tile.group;
        let mut pairs = 0;
        for t in layout.tiles() {
            let rows = t * tile.rows..((t + 1) * tile.rows).min(all);
            let expanded = expand(&layout, t);
            for (r, row) in rows.clone().zip(&expanded) {
                for (j, &kept) in row.iter().enumerate() {
                    prop_assert_eq!(kept, holds(r, j), "tile {} row {} key {}", t, r, j);
                    pairs += u64::from(kept);
                }
            }
            for span in layout.tile(t) {
                let panels = span.panels();
                let whole = rows.clone().all(|r| (panels.start * 64..panels.end * 64).all(|j| j < n_k && holds(r, j)));
                prop_assert_eq!(matches!(span, Span::Full(_)), whole);
            }
        }
        prop_assert_eq!(layout.live_pairs(), pairs / tile.group as u64);
        let density = if all * n_k == 0 { 0.0 } else { pairs as f64 / (all * n_k) as f64 };
        prop_assert!((layout.density() - density).abs() <= f64::EPSILON);
    }

    #[test]
    fn one_mask_is_that_of_all_heads(set in sets(), shape in shapes()) {
        let Shape { n_q, n_k, offset, tile } = shape;
        let (mut one, mut each) = (BlockLayout::new(), BlockLayout::new());
        one.compile(&set.mask(), n_q, n_k, offset, tile).unwrap();
        each.compile_group(&vec![set.mask(); tile.group], n_q, n_k, offset, tile).unwrap();
        prop_assert!(one.tiles().eq(each.tiles()) && one.tiles().all(|t| one.tile(t).eq(each.tile(t))));
        prop_assert_eq!((one.live_pairs(), one.density()), (each.live_pairs(), each.density()));
    }
}

#[test]
fn a_number_of_masks_that_no_group_has_is_refused() {
    let mut layout = BlockLayout::new();
    let tile = TileShape { rows: 6, group: 3 };
    for masks in [0, 2, 4] {
        let error = layout.compile_group(&vec![Mask::full(); masks], 5, 5, 0, tile);
        assert_eq!(error, Err(Error::Masks { masks, group: 3 }));
    }
    assert_eq!(
        Error::Masks { masks: 2, group: 3 }.to_string(),
        "masks: 2 for a group of 3; expected 1, or one for each head"
    );
}
