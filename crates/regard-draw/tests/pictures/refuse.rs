//! What no picture can be made of is refused, and says why.

use proptest::prelude::*;
use regard_draw::{Error, Style, draw_layout, draw_mask};
use regard_masks::{BlockLayout, Mask, TileShape};

use crate::support::masks;

#[test]
fn pictures_of_nothing_are_refused() {
    let style = Style::default();
    assert_eq!(draw_mask(&Mask::full(), 0, 3, 0, &style).unwrap_err(), Error::Empty { n_q: 0, n_k: 3 });
    assert_eq!(draw_mask(&Mask::full(), 3, 0, 0, &style).unwrap_err(), Error::Empty { n_q: 3, n_k: 0 });
    assert_eq!(draw_layout(&BlockLayout::new(), &style).unwrap_err(), Error::Empty { n_q: 0, n_k: 0 });
    let mut layout = BlockLayout::new();
    layout.compile(&Mask::full(), 3, 0, 0, TileShape { rows: 2, group: 1 }).unwrap();
    let error = draw_layout(&layout, &style).unwrap_err();
    assert_eq!(error.to_string(), "picture: 3 queries × 0 keys; expected at least one of each");
}

#[test]
fn sizes_that_no_picture_has_are_refused() {
    let mut layout = BlockLayout::new();
    layout.compile(&Mask::full(), 3, 3, 0, TileShape { rows: 2, group: 1 }).unwrap();
    for (cells, size, words) in [
        (0, 512, "style: cells 0; expected 1 to 1024"),
        (1025, 2000, "style: cells 1025; expected 1 to 1024"),
        (128, 127, "style: size 127; expected 128 to 8192"),
        (1, 8193, "style: size 8193; expected 1 to 8192"),
    ] {
        let style = Style { cells, size, ..Style::default() };
        assert_eq!(draw_mask(&Mask::full(), 3, 3, 0, &style).unwrap_err().to_string(), words);
        assert_eq!(draw_layout(&layout, &style).unwrap_err().to_string(), words);
    }
}

proptest! {
    #[test]
    fn garbage_is_drawn_or_refused(
        mask in masks(),
        n_q in prop_oneof![0..20_usize, Just(1 << 40), any::<usize>()],
        n_k in prop_oneof![0..20_usize, 0..100_000_usize, Just(1 << 32), any::<usize>()],
        offset in any::<i64>(),
        cells in prop_oneof![0..9_usize, any::<usize>()],
        size in prop_oneof![0..99_usize, any::<usize>()],
        title in prop::option::of(any::<String>()),
    ) {
        // A row of the keys `0..2³²` may have more runs than are worth a test's time.
        let mask = if n_k > 100_000 { mask & Mask::prefix(1000) } else { mask };
        let style = Style { cells, size, title, ..Style::default() };
        if let Ok(picture) = draw_mask(&mask, n_q, n_k, offset, &style) {
            prop_assert!(n_q > 0 && n_k > 0 && (1..=1024).contains(&cells) && (cells..=8192).contains(&size));
            prop_assert!(roxmltree::Document::parse(&picture.svg()).is_ok());
            prop_assert!(png::Decoder::new(std::io::Cursor::new(picture.png())).read_info().is_ok());
        }
    }
}
