//! Layouts long enough that tiles repeat.

use proptest::prelude::*;
use regard_masks::{BlockLayout, Gather, Mask, Span, TileShape};

use crate::expand::expand;
use crate::set::{Set, cases};

/// What moves with the position, beside what stays.
fn sets() -> impl Strategy<Value = Set> {
    let or = |a, b| Set::Or(Box::new(a), Box::new(b));
    let window = (prop::option::of(0..100_usize), prop::option::weighted(0.8, 0..100_usize))
        .prop_map(|(l, r)| Set::Window(l, r));
    let sinks = (window.clone(), 0..140_usize).prop_map(move |(set, n)| or(set, Set::Prefix(n)));
    let global = (window.clone(), prop::collection::vec(0..900_usize, 0..4))
        .prop_map(move |(set, keys)| or(set, Set::GlobalKeys(keys)));
    let two = (global.clone(), 0..100_usize, 100..300_usize).prop_map(move |(set, near, far)| {
        let band = Set::And(
            Box::new(Set::Not(Box::new(Set::Window(Some(near), None)))),
            Box::new(Set::Window(Some(far), Some(0))),
        );
        or(set, band)
    });
    prop_oneof![window, sinks, global, two]
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn a_long_layout_keeps_what_the_masks_keep(
        mut sets in prop::collection::vec(sets(), 1..=3),
        one in prop::bool::ANY,
        (n_q, n_k) in if cfg!(miri) { (60..100_usize, 60..100_usize) } else { (1..900_usize, 1..900_usize) },
        offset in -100..200_i64,
        rows in prop_oneof![Just(6_usize), Just(16), 1..70_usize],
        gather in prop::option::of(Just(Gather { rim: 1.0, panel: 1.0, key: 0.1 })),
    ) {
        let tile = TileShape { rows, group: sets.len() };
        if one {
            sets.truncate(1);
        }
        let masks: Vec<Mask> = sets.iter().map(Set::mask).collect();
        let mut layout = BlockLayout::new();
        layout.compile_with(&masks, n_q, n_k, offset, tile, gather).unwrap();
        let holds = |r: usize, j: usize| sets[r % tile.group % sets.len()].holds((r / tile.group) as i64 + offset, j, n_k);
        let all = n_q * tile.group;
        prop_assert_eq!(layout.tiles().len(), all.div_ceil(rows));
        let mut pairs = 0;
        for t in layout.tiles() {
            let of_tile = t * rows..((t + 1) * rows).min(all);
            for (r, row) in of_tile.clone().zip(&expand(&layout, t)) {
                for (j, &kept) in row.iter().enumerate() {
                    prop_assert_eq!(kept, holds(r, j), "tile {} row {} key {}", t, r, j);
                    pairs += u64::from(kept);
                }
            }
            for span in layout.tile(t) {
                let panels = span.panels();
                let whole = of_tile.clone().all(|r| (panels.start * 64..panels.end * 64).all(|j| j < n_k && holds(r, j)));
                prop_assert_eq!(matches!(span, Span::Full(_)), whole);
            }
        }
        prop_assert_eq!(layout.live_pairs(), pairs / (tile.group as u64));
    }
}
