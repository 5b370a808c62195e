//! Masks, runs and layouts against a set theory of a few plain lines.

use std::ops::Range;

use proptest::prelude::*;
use regard_masks::{LayoutSize, Mask, PANEL, Runs, Span, TileShape};

use crate::expand::{compiled, expand};
use crate::set::{Shape, cases, key_counts, sets, shapes};

proptest! {
    #![proptest_config(cases(1000))]

    #[test]
    fn runs_are_the_definition(set in sets(), p in -120..420_i64, n_k in key_counts()) {
        let mask = set.mask();
        let mut runs = Runs::new();
        mask.runs(p, n_k, &mut runs);
        let runs = runs.as_slice();
        prop_assert!(runs.iter().all(|run| !run.is_empty() && run.end <= n_k));
        prop_assert!(runs.windows(2).all(|pair| pair[0].end < pair[1].start), "sorted, disjoint, maximal: {runs:?}");
        prop_assert!(runs.len() <= mask.max_runs(n_k));
        for j in 0..n_k {
            let expected = set.holds(p, j, n_k);
            prop_assert_eq!(mask.allows(p, j, n_k), expected, "allows({}, {})", p, j);
            prop_assert_eq!(runs.iter().any(|run| run.contains(&j)), expected, "key {} in {:?}", j, runs);
        }
    }

    #[test]
    fn a_layout_keeps_what_the_mask_keeps(set in sets(), shape in shapes()) {
        let Shape { n_q, n_k, offset, tile } = shape;
        let layout = compiled(&set.mask(), shape);
        prop_assert_eq!(layout.tiles().len(), (n_q * tile.group).div_ceil(tile.rows));
        for t in layout.tiles() {
            let rows = expand(&layout, t);
            for (r, row) in rows.iter().enumerate() {
                let i = (t * tile.rows + r) / tile.group;
                if i < n_q {
                    prop_assert!(layout.tile_queries(t).contains(&i));
                    for (j, &kept) in row.iter().enumerate() {
                        prop_assert_eq!(kept, set.holds(i as i64 + offset, j, n_k), "tile {} row {} key {}", t, r, j);
                    }
                }
            }
        }
    }

    #[test]
    fn a_panel_is_full_only_if_every_row_keeps_it_and_a_rim_otherwise(set in sets(), shape in shapes()) {
        let Shape { n_q, n_k, offset, tile } = shape;
        let layout = compiled(&set.mask(), shape);
        for t in layout.tiles() {
            let rows: Vec<usize> = (t * tile.rows..((t + 1) * tile.rows).min(n_q * tile.group)).collect();
            let keeps = |r: usize, j: usize| j < n_k && set.holds((r / tile.group) as i64 + offset, j, n_k);
            let mut live = 0;
            for span in layout.tile(t) {
                live += span.panels().len();
                for panel in span.panels() {
                    let keys: Range<usize> = panel * PANEL..(panel + 1) * PANEL;
                    let whole = rows.iter().all(|&r| keys.clone().all(|j| keeps(r, j)));
                    prop_assert_eq!(matches!(span, Span::Full(_)), whole, "tile {} panel {}", t, panel);
                    if let Span::Rim { bits, .. } = span {
                        prop_assert!(bits[rows.len()..].iter().all(|&word| word == 0), "rows beyond the last query");
                    }
                }
            }
            prop_assert_eq!(layout.tile_live_panels(t), live);
        }
    }

    #[test]
    fn live_pairs_and_arrays_agree(set in sets(), shape in shapes()) {
        let Shape { n_q, n_k, offset, .. } = shape;
        let mask = set.mask();
        let expected: Vec<bool> = (0..n_q as i64)
            .flat_map(|i| (0..n_k).map(move |j| (i + offset, j)))
            .map(|(p, j)| set.holds(p, j, n_k))
            .collect();
        let live = expected.iter().filter(|&&kept| kept).count();
        let layout = compiled(&mask, shape);
        prop_assert_eq!(layout.live_pairs(), live as u64);
        let density = if n_q * n_k == 0 { 0.0 } else { live as f64 / (n_q * n_k) as f64 };
        prop_assert!((layout.density() - density).abs() <= f64::EPSILON);
        let drawing: String = mask.draw(n_q, n_k, offset).to_string();
        let drawn: Vec<bool> = drawing.chars().filter(|&glyph| glyph != '\n').map(|glyph| glyph == '█').collect();
        prop_assert_eq!(&drawn, &expected);
        prop_assert_eq!(&mask.to_bool(n_q, n_k, offset).unwrap(), &expected);
        let bias: Vec<f32> = expected.iter().map(|&kept| if kept { 0.0 } else { f32::NEG_INFINITY }).collect();
        prop_assert_eq!(mask.to_additive(n_q, n_k, offset).unwrap(), bias);
    }

    #[test]
    fn the_laws_of_de_morgan_hold(a in sets(), b in sets(), p in -120..420_i64, n_k in key_counts()) {
        let (a, b) = (a.mask(), b.mask());
        let runs = |mask: Mask| {
            let mut runs = Runs::new();
            mask.runs(p, n_k, &mut runs);
            runs.as_slice().to_vec()
        };
        prop_assert_eq!(runs(!(&a | &b)), runs(!&a & !&b));
        prop_assert_eq!(runs(!(&a & &b)), runs(!&a | !&b));
        prop_assert_eq!(runs(!!&a), runs(a));
    }

    /// Queries from a tile's edge on are laid out alike, alone or as part of the whole.
    #[test]
    fn a_chunk_is_its_part_of_the_whole(set in sets(), shape in shapes(), start in any::<prop::sample::Index>()) {
        let mask = set.mask();
        let whole = compiled(&mask, shape);
        // `rows` queries fill whole tiles, whatever the group.
        let i0 = start.index(shape.n_q / shape.tile.rows + 1) * shape.tile.rows;
        let chunk = Shape { n_q: shape.n_q - i0, offset: shape.offset + i0 as i64, ..shape };
        let chunk = compiled(&mask, chunk);
        let first = i0 * shape.tile.group / shape.tile.rows;
        prop_assert_eq!(first + chunk.tiles().len(), whole.tiles().len());
        for t in chunk.tiles() {
            prop_assert!(chunk.tile(t).eq(whole.tile(first + t)), "tile {}", t);
        }
    }

    #[test]
    fn compiling_again_leaves_nothing_behind(a in sets(), b in sets(), first in shapes(), second in shapes()) {
        let mut layout = compiled(&a.mask(), first);
        layout.compile(&b.mask(), second.n_q, second.n_k, second.offset, second.tile).unwrap();
        let fresh = compiled(&b.mask(), second);
        prop_assert_eq!(layout.live_pairs(), fresh.live_pairs());
        prop_assert_eq!(layout.tiles(), fresh.tiles());
        for t in fresh.tiles() {
            prop_assert!(layout.tile(t).eq(fresh.tile(t)), "tile {}", t);
        }
    }

    /// A layout takes no more room than the runs of its rows and the panels that these fill.
    #[test]
    fn a_layout_is_as_large_as_what_it_keeps(set in sets(), shape in shapes()) {
        let Shape { n_q, n_k, offset, tile } = shape;
        let mask = set.mask();
        let layout = compiled(&mask, shape);
        let mut runs = Runs::new();
        let mut spans = 0;
        for row in 0..n_q * tile.group {
            mask.runs((row / tile.group) as i64 + offset, n_k, &mut runs);
            spans += runs.as_slice().iter().map(|run| 3 + run.len() / PANEL).sum::<usize>();
        }
        prop_assert!(layout.size().spans <= spans);
        prop_assert!(layout.size().words <= layout.size().spans * tile.rows);
    }

    /// The rims of a window repeat whenever a tile begins at the same key of a panel. Few of them are held again.
    #[test]
    #[cfg_attr(miri, ignore = "rims repeat over thousands of rows")]
    fn equal_rims_share_their_words(left in 0..3000_usize, right in 0..3000_usize, n in 0..20_usize, rows in 1..=8_usize) {
        let mask = Mask::window(Some(left), Some(right)) | Mask::prefix(n);
        let shape = Shape { n_q: 3000, n_k: 3000, offset: 0, tile: TileShape { rows, group: 1 } };
        let layout = compiled(&mask, shape);
        let mut rims: Vec<Vec<u64>> = Vec::new();
        for span in layout.tiles().flat_map(|t| layout.tile(t)) {
            if let Span::Rim { bits, .. } = span {
                rims.push(bits.to_vec());
            }
        }
        let all = rims.len();
        rims.sort_unstable();
        rims.dedup();
        prop_assert!(layout.size().words >= rims.len() * rows);
        prop_assert!(layout.size().words <= (rims.len() + all / 5) * rows, "{} of {} differ", rims.len(), all);
    }

    #[test]
    fn a_layout_stays_within_its_bound(set in sets(), shape in shapes(), n_q in 0..3_usize, fewer in 0..64_usize) {
        let mask = set.mask();
        let bound = LayoutSize::bound(&mask, n_q, shape.n_k, shape.tile).unwrap();
        let size = compiled(&mask, Shape { n_q, n_k: shape.n_k.saturating_sub(fewer), ..shape }).size();
        prop_assert!(size.tiles <= bound.tiles && size.spans <= bound.spans && size.words <= bound.words);
        prop_assert!(size.bytes() <= bound.bytes());
    }
}
