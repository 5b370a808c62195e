//! Layouts, read back pair by pair.

use regard_masks::{BlockLayout, Mask, PANEL, Span};

use crate::set::Shape;

pub(crate) fn compiled(mask: &Mask, shape: Shape) -> BlockLayout {
    let mut layout = BlockLayout::new();
    layout.compile(mask, shape.n_q, shape.n_k, shape.offset, shape.tile).unwrap();
    layout
}

/// What each row of a tile keeps, `[rows, n_k]`, read from its spans and what is gathered; and a check of what holds for
/// each of them.
pub(crate) fn expand(layout: &BlockLayout, t: usize) -> Vec<Vec<bool>> {
    let panels = layout.n_k().div_ceil(PANEL);
    let mut rows = vec![vec![false; panels * PANEL]; layout.tile_shape().rows];
    let mut next = 0;
    let mut after_full = false;
    for span in layout.tile(t) {
        let range = span.panels();
        assert!(next <= range.start && !range.is_empty() && range.end <= panels, "spans ascend within the keys");
        match span {
            Span::Full(range) => {
                assert!(!after_full || next < range.start, "full stretches are maximal");
                assert!(range.end * PANEL <= layout.n_k(), "full panels exist");
                rows.iter_mut().for_each(|row| row[range.start * PANEL..range.end * PANEL].fill(true));
                after_full = true;
            }
            Span::Rim { panel, bits } => {
                assert_eq!(bits.len(), rows.len());
                assert!(bits.iter().any(|&word| word != 0), "empty panels do not appear");
                for (row, word) in rows.iter_mut().zip(bits) {
                    (0..PANEL).for_each(|b| row[panel * PANEL + b] = word >> b & 1 == 1);
                }
                after_full = false;
            }
        }
        next = range.end;
    }
    let spans: Vec<_> = layout.tile(t).map(|span| span.panels()).collect();
    let mut next_key = 0;
    for gathered in layout.gathered(t) {
        assert_eq!((gathered.bits.len(), gathered.keys), (rows.len(), layout.list(gathered.list)));
        assert!((1..=64).contains(&gathered.keys.len()));
        for (b, &key) in gathered.keys.iter().enumerate() {
            let key = key as usize;
            assert!(next_key <= key, "keys ascend over all lists");
            next_key = key + 1;
            assert!(spans.iter().all(|panels| !panels.contains(&(key / PANEL))), "what is gathered is in no span");
            assert!(gathered.bits.iter().any(|word| word >> b & 1 == 1), "a key is gathered for some row");
            rows.iter_mut().zip(gathered.bits).for_each(|(row, word)| row[key] = word >> b & 1 == 1);
        }
        let beyond = |word: &u64| gathered.keys.len() < 64 && word >> gathered.keys.len() != 0;
        assert!(!gathered.bits.iter().any(beyond), "bits of keys that are not in the list");
    }
    for row in &mut rows {
        assert!(row.drain(layout.n_k()..).all(|kept| !kept), "keys that do not exist are not kept");
    }
    rows
}
