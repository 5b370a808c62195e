//! Layouts by blocks of keys.

use proptest::prelude::*;
use regard_masks::{BlockLayout, Error, Gather, Mask, Span, TileShape};

use crate::set::{Set, Shape, cases, sets, shapes};

fn compiled(set: &Set, shape: Shape, gather: Option<Gather>) -> BlockLayout {
    let mut layout = BlockLayout::new();
    layout.compile_with(&[set.mask()], shape.n_q, shape.n_k, shape.offset, shape.tile, gather).unwrap();
    layout
}

/// The parts of a tile's spans that lie in these panels, one panel each, with the words of a rim.
fn parts(layout: &BlockLayout, t: usize, panels: std::ops::Range<usize>) -> Vec<(usize, Option<&[u64]>)> {
    let single = |span: Span<'_>| match span {
        Span::Full(panels) => panels.map(|panel| (panel, None)).collect::<Vec<_>>(),
        Span::Rim { panel, .. } => vec![(panel, Some(()))],
    };
    let words = layout.tile(t).filter_map(|span| match span {
        Span::Rim { panel, bits } => Some((panel, bits)),
        Span::Full(_) => None,
    });
    let words: Vec<_> = words.collect();
    let all = layout.tile(t).flat_map(single).filter(|(panel, _)| panels.contains(panel));
    all.map(|(panel, rim)| (panel, rim.map(|()| words.iter().find(|word| word.0 == panel).unwrap().1))).collect()
}

proptest! {
    #![proptest_config(cases(600))]

    #[test]
    fn a_block_has_the_tiles_that_keep_some_of_it(
        set in sets(), shape in shapes(), panels_per_block in 1..5_usize, gather: bool,
    ) {
        let gather = gather.then_some(Gather { rim: 1.0, panel: 1.0, key: 0.05 });
        let layout = compiled(&set, shape, gather);
        let transpose = layout.transpose(panels_per_block).unwrap();
        prop_assert!(transpose.blocks().len() <= layout.panels().div_ceil(panels_per_block));
        for b in 0..layout.panels().div_ceil(panels_per_block) {
            let panels = b * panels_per_block..(b + 1) * panels_per_block;
            let expected: Vec<_> =
                layout.tiles().map(|t| (t, parts(&layout, t, panels.clone()))).filter(|(_, parts)| !parts.is_empty()).collect();
            if !transpose.blocks().contains(&b) {
                prop_assert!(expected.is_empty());
                continue;
            }
            let block = transpose.block(&layout, b);
            prop_assert_eq!(block.len(), expected.len());
            for ((t, spans), (expected_t, expected)) in block.zip(expected) {
                prop_assert_eq!(t, expected_t);
                let mut has = Vec::new();
                let mut after = 0;
                for span in spans {
                    prop_assert!(after <= span.panels().start && !span.panels().is_empty());
                    after = span.panels().end;
                    match span {
                        Span::Full(panels) => has.extend(panels.map(|panel| (panel, None))),
                        Span::Rim { panel, bits } => has.push((panel, Some(bits))),
                    }
                }
                prop_assert_eq!(has, expected);
            }
        }
    }

    #[test]
    fn a_list_has_the_tiles_that_gather_it(set in sets(), shape in shapes(), key in 0.0..0.2_f32) {
        let layout = compiled(&set, shape, Some(Gather { rim: 1.0, panel: 0.5, key }));
        let transpose = layout.transpose(3).unwrap();
        for list in 0..layout.lists() as u32 {
            let expected = layout.tiles().flat_map(|t| layout.gathered(t).map(move |gathered| (t, gathered)));
            let expected: Vec<_> = expected.filter(|(_, gathered)| gathered.list == list).collect();
            prop_assert!(!expected.is_empty(), "a list is used");
            prop_assert_eq!(transpose.list(&layout, list).collect::<Vec<_>>(), expected);
        }
    }
}

#[test]
fn blocks_without_panels_are_refused() {
    assert_eq!(BlockLayout::new().transpose(0).unwrap_err(), Error::PanelsPerBlock);
    assert_eq!(Error::PanelsPerBlock.to_string(), "panels of a block: 0; expected at least 1");
}

/// A block may be larger than all keys, and keys may be many as long as few are kept.
#[test]
fn blocks_take_no_room_beyond_what_is_kept() {
    let tile = TileShape { rows: 6, group: 1 };
    let mut layout = BlockLayout::new();
    layout.compile(&Mask::prefix(200), 20, 64 << 31, 0, tile).unwrap();
    let transpose = layout.transpose(1).unwrap();
    assert_eq!(transpose.blocks(), 0..4);
    let whole = layout.transpose(usize::MAX).unwrap();
    assert_eq!(whole.blocks(), 0..1);
    assert!(whole.block(&layout, 0).all(|(t, spans)| spans.eq(layout.tile(t))));
    assert_eq!(whole.panels_per_block(), usize::MAX);
}

#[test]
#[should_panic(expected = "a transpose belongs to the layout that was transposed")]
fn a_transpose_of_another_layout_is_noticed() {
    let tile = TileShape { rows: 6, group: 1 };
    let mut layout = BlockLayout::new();
    layout.compile(&Mask::causal(), 300, 300, 0, tile).unwrap();
    let transpose = layout.transpose(2).unwrap();
    layout.compile(&Mask::causal(), 100, 100, 0, tile).unwrap();
    transpose.block(&layout, 1).for_each(drop);
}
