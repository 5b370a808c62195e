//! Pictures of layouts, read back, against what the layout holds of each block.

use proptest::prelude::*;
use regard_draw::{Style, draw_layout};
use regard_masks::{BlockLayout, Gather, Mask, PANEL, TileShape};

use crate::support::{Areas, Pixels, allows, masks};

/// What becomes of the block of tile `t` and `panel`, asked key by key.
fn kind(layout: &BlockLayout, t: usize, panel: usize) -> &'static str {
    use regard_masks::Span;
    let span = layout.tile(t).find(|span| span.panels().contains(&panel));
    let gathered = layout.gathered(t).any(|list| list.keys.iter().any(|&key| key as usize / PANEL == panel));
    match span {
        Some(Span::Full(_)) => "full",
        Some(Span::Rim { .. }) => "rim",
        None if gathered => "gathered",
        None => "empty",
    }
}

fn colour(kind: &str) -> [u8; 3] {
    match kind {
        "full" => [0x00, 0x72, 0xb2],
        "rim" => [0xe6, 0x9f, 0x00],
        "gathered" => [0xcc, 0x79, 0xa7],
        _ => [0xe8, 0xec, 0xf0],
    }
}

prop_compose! {
    fn layouts()(
        mask in masks(),
        n_q in 1..120_usize,
        n_k in 1..500_usize,
        offset in -60..400_i64,
        rows in 1..40_usize,
        group in 1..5_usize,
        gather in prop::option::of(Just(Gather { rim: 1.0, panel: 1.0, key: 0.05 })),
    ) -> (Mask, i64, BlockLayout) {
        let mut layout = BlockLayout::new();
        let tile = TileShape { rows, group };
        layout.compile_with(std::slice::from_ref(&mask), n_q, n_k, offset, tile, gather).unwrap();
        (mask, offset, layout)
    }
}

proptest! {
    #[test]
    fn every_block_has_its_colour((mask, offset, layout) in layouts()) {
        let picture = draw_layout(&layout, &Style { cells: 512, ..Style::default() }).unwrap();
        let (tiles, panels) = (layout.tiles().len(), layout.panels());
        prop_assert_eq!(picture.cells(), [tiles, panels]);
        let svg = picture.svg();
        let (pixels, areas) = (Pixels::decode(&picture.png()), Areas::parse(&svg));
        let mut counts = std::collections::HashMap::new();
        for t in 0..tiles {
            for panel in 0..panels {
                let kind = kind(&layout, t, panel);
                let at = picture.middle(t, panel);
                prop_assert_eq!(areas.at(at), (kind, 1000));
                prop_assert_eq!(pixels.at(at), colour(kind));
                *counts.entry(kind).or_insert(0) += 1;
                // By the definition of the mask: whether any pair lives, and whether all do.
                let pairs = layout.tile_queries(t).flat_map(|i| (panel * PANEL..(panel + 1) * PANEL).map(move |j| (i, j)));
                let lives: Vec<bool> =
                    pairs.map(|(i, j)| j < layout.n_k() && allows(&mask, i, j, layout.n_k(), offset)).collect();
                prop_assert_eq!(kind == "empty", !lives.contains(&true));
                prop_assert_eq!(kind == "full", !lives.contains(&false));
            }
        }
        for kind in ["full", "rim", "gathered", "empty"] {
            let entry = format!(">\n{kind} {}\n<", counts.get(kind).unwrap_or(&0));
            prop_assert!(svg.replace(&entry, "").len() + entry.len() == svg.len(), "no {:?} in {}", entry, svg);
        }
    }

    #[test]
    fn cells_of_several_blocks_tell_what_they_have((_, _, layout) in layouts(), cells in 1..12_usize) {
        let picture = draw_layout(&layout, &Style { cells, ..Style::default() }).unwrap();
        let areas = Areas::parse(&picture.svg());
        let (tiles, panels) = (layout.tiles().len(), layout.panels());
        let cell = [tiles.div_ceil(cells), panels.div_ceil(cells)];
        let [rows, columns] = picture.cells();
        prop_assert_eq!([rows, columns], [tiles.div_ceil(cell[0]), panels.div_ceil(cell[1])]);
        for row in 0..rows {
            for column in 0..columns {
                let mut kinds: Vec<&str> = (row * cell[0]..tiles.min((row + 1) * cell[0]))
                    .flat_map(|t| (column * cell[1]..panels.min((column + 1) * cell[1])).map(move |panel| (t, panel)))
                    .map(|(t, panel)| kind(&layout, t, panel))
                    .collect();
                kinds.sort_unstable();
                kinds.dedup();
                let expected = match kinds[..] {
                    [one] => one,
                    ["empty", "gathered"] => "gathered",
                    _ => "rim",
                };
                prop_assert_eq!(areas.at(picture.middle(row, column)).0, expected);
            }
        }
    }
}

#[test]
fn words_say_what_is_drawn() {
    let mut layout = BlockLayout::new();
    layout.compile(&Mask::causal(), 1000, 1000, 0, TileShape { rows: 60, group: 3 }).unwrap();
    let svg = draw_layout(&layout, &Style { cells: 16, ..Style::default() }).unwrap().svg();
    let document = roxmltree::Document::parse(&svg).unwrap();
    let texts = document.descendants().filter(|node| node.has_tag_name("text"));
    let said: Vec<&str> = texts.map(|node| node.text().unwrap().trim()).collect();
    assert_eq!(
        said[..3],
        [
            "layout",
            "1000 queries × 1000 keys, 50.0% of the pairs live",
            "tiles of 60 rows, 3 a query, × panels of 64 keys"
        ]
    );
    assert!(said[3].starts_with("a cell is 4 × 1 blocks"), "{said:?}");
}
