//! Pictures of masks, read back.

use std::collections::HashMap;

use proptest::prelude::*;
use regard_draw::{Picture, Style, Theme, draw_mask};
use regard_masks::Mask;

use crate::support::{Areas, Pixels, allows, masks};

/// Words of an SVG, in order.
fn words(svg: &str) -> Vec<String> {
    let document = roxmltree::Document::parse(svg).unwrap();
    let texts = document.descendants().filter(|node| node.has_tag_name("text"));
    texts.map(|node| node.text().unwrap_or("").trim().to_owned()).collect()
}

fn draw(mask: &Mask, n_q: usize, n_k: usize, offset: i64, style: &Style) -> Picture {
    draw_mask(mask, n_q, n_k, offset, style).unwrap()
}

proptest! {
    #[test]
    fn every_pair_has_its_colour(
        mask in masks(),
        n_q in 1..50_usize,
        n_k in 1..90_usize,
        offset in -40..70_i64,
        size in 128..700_usize,
        theme in prop_oneof![Just(Theme::Light), Just(Theme::Dark), Just(Theme::Reader)],
    ) {
        let picture = draw(&mask, n_q, n_k, offset, &Style { size, theme, ..Style::default() });
        prop_assert_eq!(picture.cells(), [n_q, n_k]);
        let (pixels, areas) = (Pixels::decode(&picture.png()), Areas::parse(&picture.svg()));
        prop_assert_eq!(picture.size(), [pixels.width, pixels.height]);
        let (live, removed) =
            if theme == Theme::Dark { ([0x56, 0xb4, 0xe9], [0x24, 0x2a, 0x32]) } else { ([0, 0x72, 0xb2], [0xe8, 0xec, 0xf0]) };
        for i in 0..n_q {
            for j in 0..n_k {
                let lives = allows(&mask, i, j, n_k, offset);
                let at = picture.middle(i, j);
                prop_assert_eq!(pixels.at(at), if lives { live } else { removed });
                prop_assert_eq!(areas.at(at), if lives { ("live", 1000) } else { ("empty", 1000) });
            }
        }
    }

    #[test]
    fn cells_are_shaded_by_the_share_that_lives(
        mask in masks(),
        n_q in 1..90_usize,
        n_k in 1..150_usize,
        offset in -40..70_i64,
        cells in 1..60_usize,
    ) {
        let picture = draw(&mask, n_q, n_k, offset, &Style { cells, ..Style::default() });
        let (pixels, areas) = (Pixels::decode(&picture.png()), Areas::parse(&picture.svg()));
        let [rows, columns] = picture.cells();
        prop_assert!(rows <= cells && columns <= cells);
        let cell = [n_q.div_ceil(cells), n_k.div_ceil(cells)];
        // A colour and an opacity stand for a range of shares, and for the same ones in both formats.
        let mut shades: HashMap<(u32, [u8; 3]), [f64; 2]> = HashMap::new();
        for row in 0..rows {
            for column in 0..columns {
                let pairs: Vec<bool> = (row * cell[0]..n_q.min((row + 1) * cell[0]))
                    .flat_map(|i| (column * cell[1]..n_k.min((column + 1) * cell[1])).map(move |j| (i, j)))
                    .map(|(i, j)| allows(&mask, i, j, n_k, offset))
                    .collect();
                let live = pairs.iter().filter(|&&live| live).count();
                let (class, opacity) = areas.at(picture.middle(row, column));
                prop_assert_eq!(class == "empty", live == 0);
                prop_assert_eq!(class == "live" && opacity == 1000, live == pairs.len());
                let share = live as f64 / pairs.len() as f64;
                let shade = if class == "live" { opacity } else { 0 };
                let range = shades.entry((shade, pixels.at(picture.middle(row, column)))).or_insert([share; 2]);
                *range = [range[0].min(share), range[1].max(share)];
            }
        }
        let mut shades: Vec<_> = shades.into_iter().collect();
        shades.sort_by_key(|&((opacity, _), _)| opacity);
        for pair in shades.windows(2) {
            let [((a, colour_a), low), ((b, colour_b), high)] = [pair[0], pair[1]];
            prop_assert!(a < b && colour_a != colour_b, "{:?}", pair);
            prop_assert!(low[1] < high[0], "shares of shades overlap: {:?}", pair);
            // Blue covers a grey that is lighter in every channel.
            prop_assert!((0..3).all(|channel| colour_a[channel] >= colour_b[channel]), "{:?}", pair);
        }
        prop_assert!(shades.iter().all(|(_, [least, most])| most - least < 0.1), "{:?}", shades);
    }

    #[test]
    fn pictures_are_the_same_each_time(mask in masks(), n in 1..200_usize) {
        let twice = [(); 2].map(|()| draw(&mask, n, n, 0, &Style { cells: 32, ..Style::default() }));
        prop_assert_eq!(twice[0].svg(), twice[1].svg());
        prop_assert_eq!(twice[0].png(), twice[1].png());
    }

    #[test]
    fn nothing_stands_outside_the_picture(
        mask in masks(), n_q in 1..100_000_usize, n_k in 1..100_000_usize, cells in 1..100_usize,
    ) {
        // The first queries alone, as the words are what may be too wide.
        let mask = mask & Mask::prefix(50);
        let picture = draw(&mask, n_q % 300 + 1, n_k, 0, &Style { cells, ..Style::default() });
        let [width, height] = picture.size();
        let svg = picture.svg();
        for (class, _, [x, y, w, h]) in Areas::parse(&svg).0 {
            prop_assert!(x + w <= width && y + h <= height, "{} at {} {} {} {}", class, x, y, w, h);
        }
        let document = roxmltree::Document::parse(&svg).unwrap();
        for text in document.descendants().filter(|node| node.has_tag_name("text")) {
            let number = |name| text.attribute(name).unwrap().parse::<usize>().unwrap();
            let (x, long) = (number("x"), 8 * text.text().unwrap_or("").trim().chars().count());
            let (before, after) = match text.attribute("text-anchor") {
                None => (0, long),
                Some("middle") => (long / 2, long / 2),
                Some(_) => (long, 0),
            };
            prop_assert!(before <= x && x + after <= width && number("y") <= height, "{:?} of {}", text.text(), width);
        }
    }
}

#[test]
fn words_say_what_is_drawn() {
    let mask = Mask::causal() & (Mask::window(Some(3), None) | Mask::prefix(2));
    let said = words(&draw(&mask, 64, 72, 8, &Style::default()).svg());
    assert_eq!(
        said[..3],
        [
            "causal & (window(3, ∞) | prefix(2))",
            "64 queries × 72 keys, offset 8",
            // Four keys of the window and two of the prefix in each row.
            "8.33% of the pairs live: 384 of 4608"
        ]
    );
    for word in ["live", "removed", "keys", "queries", "0", "32", "64"] {
        assert!(said.iter().any(|text| text == word), "no {word:?} in {said:?}");
    }
    let titled = Style { title: Some("<the \"first\" & last>\u{1}".into()), cells: 16, ..Style::default() };
    let said = words(&draw(&mask, 64, 72, 8, &titled).svg());
    assert_eq!(said[0], "<the \"first\" & last>\u{fffd}");
    assert!(said.contains(&"a cell is 4 × 5 pairs".to_owned()), "{said:?}");
}

#[test]
fn long_titles_are_wrapped_and_whole_for_those_who_do_not_see() {
    let mask = (0..40).map(Mask::prefix).reduce(|a, b| a | b).unwrap();
    let svg = draw(&mask, 8, 8, 0, &Style::default()).svg();
    let document = roxmltree::Document::parse(&svg).unwrap();
    let title = document.descendants().find(|node| node.has_tag_name("title")).unwrap();
    assert_eq!(title.text().unwrap().trim(), mask.to_string());
    let bold = |node: &roxmltree::Node<'_, '_>| node.attribute("class").is_some_and(|class| class.contains("bold"));
    let lines: Vec<&str> = document.descendants().filter(bold).map(|node| node.text().unwrap().trim()).collect();
    assert_eq!(lines.len(), 4);
    assert!(lines[3].ends_with('…'), "{lines:?}");
    assert!(mask.to_string().starts_with(&lines[..3].join(" ")), "{lines:?}");
}

#[test]
fn numbers_stand_at_their_queries_and_keys() {
    for (n_q, n_k, cells) in [(20, 30, 128), (1000, 700, 50), (3, 5000, 128), (300, 1, 7)] {
        let picture = draw(&Mask::causal(), n_q, n_k, 0, &Style { cells, ..Style::default() });
        let cell = [n_q.div_ceil(cells), n_k.div_ceil(cells)];
        let svg = picture.svg();
        let document = roxmltree::Document::parse(&svg).unwrap();
        let mut seen = [0, 0];
        for text in document.descendants().filter(|node| node.has_tag_name("text")) {
            let Ok(number) = text.text().unwrap().trim().parse::<usize>() else { continue };
            let place = |name| text.attribute(name).unwrap().parse::<usize>().unwrap();
            match text.attribute("text-anchor") {
                Some("middle") => {
                    assert_eq!(place("x"), picture.middle(0, number / cell[1])[0]);
                    seen[1] += 1;
                }
                Some("end") => {
                    // Below the line by half of a digit's height.
                    assert_eq!(place("y"), picture.middle(number / cell[0], 0)[1] + 5);
                    seen[0] += 1;
                }
                _ => panic!("{number} is of no axis"),
            }
        }
        assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}");
        assert!(n_k < 100 || seen[1] > 3, "{seen:?}");
    }
}

#[test]
fn an_svg_follows_the_reader_unless_told() {
    let svg = |theme| draw(&Mask::causal(), 4, 4, 0, &Style { theme, ..Style::default() }).svg();
    assert!(svg(Theme::Reader).contains("prefers-color-scheme: dark"));
    for theme in [Theme::Light, Theme::Dark] {
        assert!(!svg(theme).contains("prefers-color-scheme"));
    }
    assert!(svg(Theme::Light).contains("#ffffff") && !svg(Theme::Dark).contains("#ffffff"));
}
