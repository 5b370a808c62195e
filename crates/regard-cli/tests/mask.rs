//! `regard mask` from outside.

#[allow(dead_code, reason = "shared with the tests of commands that need a model")]
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use regard_draw::{Style, draw_layout, draw_mask};
use regard_masks::{BlockLayout, Mask, TileShape};
use serde_json::Value;
use support::{Ran, regard, run};
use tempfile::TempDir;

fn mask(arguments: &[&str]) -> Ran {
    let folder = TempDir::new().unwrap();
    run(regard(folder.path()).arg("mask").args(arguments), "")
}

fn succeeds(arguments: &[&str]) -> Ran {
    let ran = mask(arguments);
    assert_eq!(0, ran.code, "{arguments:?}: {ran:?}");
    ran
}

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&succeeds(&[arguments, &["--json"]].concat()).stdout).unwrap()
}

/// The pairs that a mask keeps, by its definition.
fn pairs(mask: &Mask, n_q: usize, n_k: usize, offset: i64) -> Vec<Vec<bool>> {
    (0..n_q).map(|i| (0..n_k).map(|j| mask.allows(i as i64 + offset, j, n_k)).collect()).collect()
}

/// Expressions, as their masks write them.
fn masks() -> impl Strategy<Value = Mask> {
    let primitives = prop_oneof![
        Just(Mask::full()),
        Just(Mask::causal()),
        (0..20_usize, 0..20_usize).prop_map(|(left, right)| Mask::window(Some(left), Some(right))),
        (0..40_usize).prop_map(|left| Mask::window(Some(left), None)),
        (0..40_usize).prop_map(Mask::prefix),
        prop::collection::vec(0..70_usize, 0..5).prop_map(Mask::global_keys),
        prop::collection::vec(0..70_usize, 0..5).prop_map(Mask::global_queries),
        (1..9_usize).prop_map(|step| Mask::strided(step).unwrap()),
        (1..30_usize).prop_map(|size| Mask::block_diagonal(size).unwrap()),
        (0.0..1.0, 0..99_u64).prop_map(|(density, seed)| Mask::random(density, seed).unwrap()),
    ];
    primitives.prop_recursive(2, 5, 2, |mask| {
        prop_oneof![
            mask.clone().prop_map(|a| !a),
            (mask.clone(), mask.clone()).prop_map(|(a, b)| a & b),
            (mask.clone(), mask).prop_map(|(a, b)| a | b),
        ]
    })
}

proptest! {
    // Each case starts the command three times.
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_is_told_is_what_the_mask_allows(
        keeps in masks(), n_q in 1..60_usize, n_k in 1..80_usize, offset in -20..80_i64, group in 1..4_usize,
    ) {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("pairs.npy").display().to_string();
        let numbers = [n_q.to_string(), n_k.to_string(), offset.to_string(), group.to_string()];
        let [queries, keys, offset_text, group_text] = numbers.each_ref().map(String::as_str);
        let text = keeps.to_string();
        let arguments = [&text, "-q", queries, "-k", keys, "--offset", offset_text, "-g", group_text];
        let pairs = pairs(&keeps, n_q, n_k, offset);

        let drawn = succeeds(&arguments).stdout;
        for (line, row) in drawn.lines().zip(&pairs) {
            prop_assert_eq!(line, row.iter().map(|&live| if live { '█' } else { '·' }).collect::<String>());
        }
        prop_assert!(drawn.lines().nth(n_q) == Some("") && drawn.lines().count() == n_q + 8, "{}", drawn);

        let facts = json(&arguments);
        let live = pairs.iter().flatten().filter(|&&live| live).count();
        let starts = |row: &Vec<bool>| (0..n_k).filter(|&j| row[j] && (j == 0 || !row[j - 1])).count();
        prop_assert_eq!(&facts["mask"], &text);
        prop_assert_eq!(&facts["live_pairs"], live);
        prop_assert_eq!(&facts["runs"], pairs.iter().map(starts).sum::<usize>());
        prop_assert!((facts["density"].as_f64().unwrap() - live as f64 / (n_q * n_k) as f64).abs() < 1e-12);
        // Each tile of six rows computes, of a panel of 64 keys, from the first 16 that any of its rows sees to the last.
        let tiles: Vec<BTreeSet<usize>> = (0..(n_q * group).div_ceil(6))
            .map(|tile| {
                let rows = (tile * 6..(n_q * group).min((tile + 1) * 6)).map(|row| &pairs[row / group]);
                rows.flat_map(|row| (0..n_k).filter(|&j| row[j]).map(|j| j / 16)).collect()
            })
            .collect();
        let stretch = |tile: &BTreeSet<usize>, panel: usize| {
            let seen = || tile.range(4 * panel..4 * panel + 4);
            seen().next_back().map_or(0, |last| 16 * (last + 1 - seen().next().unwrap()))
        };
        let rows = |tile: usize| (n_q * group - tile * 6).min(6);
        let computed_of = |(at, tile)| (0..n_k.div_ceil(64)).map(|panel| stretch(tile, panel) * rows(at)).sum::<usize>();
        let computed: usize = tiles.iter().enumerate().map(computed_of).sum();
        if facts["layout"]["gathered"] == 0 {
            prop_assert_eq!(&facts["computed_pairs"], computed);
        }
        prop_assert_eq!(&facts["layout"]["tiles"], tiles.len());

        let written = succeeds(&[&arguments[..], &["--bool", &file]].concat());
        prop_assert!(written.stderr.contains("wrote") && !written.stdout.contains('█'), "{:?}", written);
        let bytes = fs::read(&file).unwrap();
        let flat: Vec<u8> = pairs.iter().flatten().map(|&live| live.into()).collect();
        prop_assert_eq!(&bytes[bytes.len() - flat.len()..], flat);
    }
}

#[test]
fn files_hold_the_pictures_and_text_comes_when_asked_for() {
    let folder = TempDir::new().unwrap();
    let [svg, png] = ["a.svg", "a.png"].map(|name| folder.path().join(name));
    let files = ["--svg", svg.to_str().unwrap(), "--png", png.to_str().unwrap(), "--size", "300"];
    let text = "causal & (window(100, inf) | prefix(7))";
    let keeps: Mask = text.parse().unwrap();
    let style = Style { size: 300, title: Some(keeps.to_string()), ..Style::default() };

    let arguments = [&[text, "--queries", "300", "--keys", "400"], &files[..]].concat();
    let ran = succeeds(&arguments);
    assert!(!ran.stdout.contains('█') && ran.stdout.contains("computed"), "{ran:?}");
    let picture = draw_mask(&keeps, 300, 400, 100, &style).unwrap();
    assert_eq!(picture.svg(), fs::read_to_string(&svg).unwrap());
    assert_eq!(picture.png(), fs::read(&png).unwrap());
    assert!(succeeds(&[&arguments[..], &["--text"]].concat()).stdout.contains("one character"));

    let ran = succeeds(&[&arguments[..], &["--layout", "--text", "--group", "2"]].concat());
    let mut layout = BlockLayout::new();
    layout.compile(&keeps, 300, 400, 100, TileShape { rows: 6, group: 2 }).unwrap();
    assert!(ran.stdout.starts_with(&layout.to_string()), "{ran:?}");
    let picture = draw_layout(&layout, &style).unwrap();
    assert_eq!(picture.svg(), fs::read_to_string(&svg).unwrap());
    assert_eq!(picture.png(), fs::read(&png).unwrap());
    assert_eq!(2, fs::read_dir(folder.path()).unwrap().count(), "nothing else is left");
}

#[test]
fn batch_entries_and_heads_are_chosen() {
    let text = "causal & by_head(window(1, inf), window(4, inf)) & by_batch(full, full, prefix(3))";
    let live = |more: &[&str]| json(&[&[text, "-q", "10"], more].concat())["live_pairs"].as_u64().unwrap();
    assert_eq!(19, live(&[]));
    assert_eq!(40, live(&["--head", "1"]));
    assert_eq!(6, live(&["--batch", "2"]));
    assert_eq!(15, live(&["--batch", "2", "--head", "1"]));
    // A group of both heads computes for both.
    let group = json(&[text, "-q", "10", "--group", "2", "--head", "1"]);
    assert_eq!((40, 2), (group["live_pairs"].as_u64().unwrap(), group["group"].as_u64().unwrap()));
    let share = group["live_share_of_computed"].as_f64().unwrap();
    assert!((share - 59.0 / (20.0 * 16.0)).abs() < 1e-12, "{share}");
}

#[test]
fn wrong_command_lines_end_with_2_and_point() {
    for (arguments, words) in [
        (&["causal & windw(3, 0)"][..], &["byte 9", "`windw`", "\n  causal & windw(3, 0)\n           ^\n"][..]),
        (&["∞"], &["byte 0", "\n  ∞\n  ^\n"]),
        (&["full |"], &["the end", "\n  full |\n        ^\n"]),
        (&[""], &["the end"]),
        (&["full", "--queries", "0"], &["--queries"]),
        (&["full", "--keys", "0"], &["--keys"]),
        (&["full", "--group", "0"], &["--group"]),
        (&["full", "--queries", "-3"], &["-3"]),
        (&["full", "--json", "--text"], &["--json", "--text"]),
        (&["full", "--size", "3", "--svg", "never.svg"], &["size 3", "128 to 8192"]),
        (&["full", "--head", "1"], &["--head 1", "1 heads"]),
        (&["by_batch(full, causal)", "--batch", "2"], &["--batch 2", "2 batch entries"]),
        (&["by_head(full, causal, full)", "--group", "2"], &["--group 2", "3 heads"]),
        (&[], &["EXPRESSION"]),
    ] {
        let ran = mask(arguments);
        assert_eq!((2, ""), (ran.code, &*ran.stdout), "{arguments:?}: {ran:?}");
        assert_eq!(1, ran.stderr.matches("error: ").count(), "{ran:?}");
        for word in words {
            assert!(ran.stderr.contains(word), "no {word:?} in {:?}", ran.stderr);
        }
    }
    // Only what is around the place is shown of a long one.
    let long = format!("{}oops{}", "full | ".repeat(500), " | full".repeat(500));
    let ran = mask(&[&long]);
    let lines: Vec<&str> = ran.stderr.lines().collect();
    let column = lines[2].find('^').unwrap();
    assert!(lines[1].len() < 90 && lines[1][column..].starts_with("oops"), "{ran:?}");
}

#[test]
fn what_cannot_be_done_ends_with_1() {
    let folder = TempDir::new().unwrap();
    let absent = folder.path().join("absent/picture").display().to_string();
    for (arguments, words) in [
        (&["full", "--svg", &absent][..], &["cannot write", "absent"][..]),
        (&["full", "--png", "/"], &["cannot write /"]),
        (&["full", "-q", "18446744073709551615", "-k", "1"], &["18446744073709551615 queries"]),
        (&["full", "-q", "1", "-k", "18446744073709551615"], &["keys: 18446744073709551615"]),
        (&["strided(2)", "-q", "1", "-k", "4000000000"], &["runs"]),
    ] {
        let ran = mask(arguments);
        assert_eq!((1, ""), (ran.code, &*ran.stdout), "{arguments:?}: {ran:?}");
        for word in words {
            assert!(ran.stderr.contains(word), "no {word:?} in {:?}", ran.stderr);
        }
    }
}

#[test]
fn the_documentations_pictures_are_what_its_commands_draw() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let page = fs::read_to_string(root.join("docs/masks.md")).unwrap();
    let folder = TempDir::new().unwrap();
    let mut drawn = BTreeSet::new();
    for command in page.lines().filter_map(|line| line.strip_prefix("regard mask ")) {
        // One quoted expression, and words after it.
        let (expression, words) = command.strip_prefix('\'').and_then(|rest| rest.split_once('\'')).unwrap();
        let words: Vec<&str> = words.split_whitespace().collect();
        let (options, [.., file]) = words.split_at(words.len() - 1) else { panic!("{command}") };
        let name = file.strip_prefix("docs/masks/").unwrap();
        assert!(page.contains(&format!("](masks/{name})")), "{name} is not shown");
        let path: PathBuf = folder.path().join(name);
        succeeds(&[&[expression], options, &[path.to_str().unwrap()]].concat());
        let [kept, fresh] = [&root.join(file), &path].map(|path| fs::read_to_string(path).unwrap());
        assert!(kept == fresh, "{file} is stale: run scripts/draw-masks");
        drawn.insert(name.to_owned());
    }
    let names = fs::read_dir(root.join("docs/masks")).unwrap().map(|entry| entry.unwrap().file_name());
    let kept: BTreeSet<String> = names.map(|name| name.into_string().unwrap()).collect();
    assert_eq!(kept, drawn, "every picture has its command");
    assert!(drawn.len() > 15);
}
