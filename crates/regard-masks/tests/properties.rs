//! Masks, runs and layouts against a set theory of a few plain lines.

use std::ops::Range;

use proptest::prelude::*;
use regard_masks::{BlockLayout, LayoutSize, Mask, PANEL, Runs, Span, TileShape};

/// An expression, as the oracle reads it.
#[derive(Clone, Debug)]
enum Set {
    Full,
    Causal,
    Window(Option<usize>, Option<usize>),
    Prefix(usize),
    Not(Box<Set>),
    And(Box<Set>, Box<Set>),
    Or(Box<Set>, Box<Set>),
}

impl Set {
    /// The definitions of the primitives and of the set operations, word for word.
    fn holds(&self, p: i64, j: usize) -> bool {
        let key = j as i64;
        match self {
            Set::Full => true,
            Set::Causal => key <= p,
            Set::Window(left, right) => {
                left.is_none_or(|left| p - left as i64 <= key) && right.is_none_or(|right| key <= p + right as i64)
            }
            Set::Prefix(n) => j < *n,
            Set::Not(a) => !a.holds(p, j),
            Set::And(a, b) => a.holds(p, j) && b.holds(p, j),
            Set::Or(a, b) => a.holds(p, j) || b.holds(p, j),
        }
    }

    fn mask(&self) -> Mask {
        match self {
            Set::Full => Mask::full(),
            Set::Causal => Mask::causal(),
            Set::Window(left, right) => Mask::window(*left, *right),
            Set::Prefix(n) => Mask::prefix(*n),
            Set::Not(a) => !a.mask(),
            Set::And(a, b) => a.mask() & b.mask(),
            Set::Or(a, b) => a.mask() | b.mask(),
        }
    }
}

fn sets() -> impl Strategy<Value = Set> {
    let distance = || prop_oneof![1 => Just(None), 4 => (0..90_usize).prop_map(Some)];
    let primitive = prop_oneof![
        1 => Just(Set::Full),
        2 => Just(Set::Causal),
        4 => (distance(), distance()).prop_map(|(left, right)| Set::Window(left, right)),
        2 => (0..260_usize).prop_map(Set::Prefix),
    ];
    primitive.prop_recursive(4, 24, 2, |set| {
        prop_oneof![
            set.clone().prop_map(|a| Set::Not(Box::new(a))),
            (set.clone(), set.clone()).prop_map(|(a, b)| Set::And(Box::new(a), Box::new(b))),
            (set.clone(), set).prop_map(|(a, b)| Set::Or(Box::new(a), Box::new(b))),
        ]
    })
}

/// Counts of keys, with what is odd about panels of 64 among them.
fn key_counts() -> impl Strategy<Value = usize> {
    prop_oneof![Just(0), Just(1), Just(63), Just(64), Just(65), Just(128), Just(129), 0..330_usize]
}

#[derive(Clone, Copy, Debug)]
struct Shape {
    n_q: usize,
    n_k: usize,
    offset: i64,
    tile: TileShape,
}

prop_compose! {
    fn shapes()(
        n_q in prop_oneof![Just(0), Just(1), 0..40_usize],
        n_k in key_counts(),
        offset in -150..350_i64,
        group in 1..=5_usize,
        rows in 1..=8_usize,
    ) -> Shape {
        Shape { n_q, n_k, offset, tile: TileShape { rows, group } }
    }
}

fn compiled(mask: &Mask, shape: Shape) -> BlockLayout {
    let mut layout = BlockLayout::new();
    layout.compile(mask, shape.n_q, shape.n_k, shape.offset, shape.tile).unwrap();
    layout
}

/// What each row of a tile keeps, `[rows, n_k]`, read from its spans; and a check of what holds for every span.
fn expand(layout: &BlockLayout, t: usize) -> Vec<Vec<bool>> {
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
    for row in &mut rows {
        assert!(row.drain(layout.n_k()..).all(|kept| !kept), "keys that do not exist are not kept");
    }
    rows
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 1000 }) })]

    #[test]
    fn runs_are_the_definition(set in sets(), p in -120..420_i64, n_k in key_counts()) {
        let mask = set.mask();
        let mut runs = Runs::new();
        mask.runs(p, n_k, &mut runs);
        let runs = runs.as_slice();
        prop_assert!(runs.iter().all(|run| !run.is_empty() && run.end <= n_k));
        prop_assert!(runs.windows(2).all(|pair| pair[0].end < pair[1].start), "sorted, disjoint, maximal: {runs:?}");
        prop_assert!(runs.len() <= mask.max_runs());
        for j in 0..n_k {
            let expected = set.holds(p, j);
            prop_assert_eq!(mask.allows(p, j), expected, "allows({}, {})", p, j);
            prop_assert_eq!(runs.iter().any(|run| run.contains(&j)), expected, "key {} in {:?}", j, runs);
        }
    }

    #[test]
    fn a_layout_keeps_what_the_mask_keeps(set in sets(), shape in shapes()) {
        let Shape { n_q, offset, tile, .. } = shape;
        let layout = compiled(&set.mask(), shape);
        prop_assert_eq!(layout.tiles().len(), (n_q * tile.group).div_ceil(tile.rows));
        for t in layout.tiles() {
            let rows = expand(&layout, t);
            for (r, row) in rows.iter().enumerate() {
                let i = (t * tile.rows + r) / tile.group;
                if i < n_q {
                    prop_assert!(layout.tile_queries(t).contains(&i));
                    for (j, &kept) in row.iter().enumerate() {
                        prop_assert_eq!(kept, set.holds(i as i64 + offset, j), "tile {} row {} key {}", t, r, j);
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
            let keeps = |r: usize, j: usize| j < n_k && set.holds((r / tile.group) as i64 + offset, j);
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
            .map(|(p, j)| set.holds(p, j))
            .collect();
        let live = expected.iter().filter(|&&kept| kept).count();
        let layout = compiled(&mask, shape);
        prop_assert_eq!(layout.live_pairs(), live as u64);
        let density = if n_q * n_k == 0 { 0.0 } else { live as f64 / (n_q * n_k) as f64 };
        prop_assert!((layout.density() - density).abs() <= f64::EPSILON);
        let drawing: String = mask.draw(n_q, n_k, offset).to_string();
        let drawn: Vec<bool> = drawing.chars().filter(|&glyph| glyph != '\n').map(|glyph| glyph == '█').collect();
        prop_assert_eq!(&drawn, &expected);
        prop_assert_eq!(mask.to_bool(n_q, n_k, offset).unwrap(), expected);
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

    #[test]
    fn a_written_mask_reads_as_the_same_set(set in sets(), p in -120..420_i64, j in 0..330_usize) {
        let mask = set.mask();
        let text = mask.to_string();
        prop_assert_eq!(Reader::read(&text, p as i128, j as i128), mask.allows(p, j), "{}", text);
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

    #[test]
    fn a_layout_stays_within_its_bound(set in sets(), shape in shapes(), n_q in 0..3_usize, fewer in 0..64_usize) {
        let mask = set.mask();
        let bound = LayoutSize::bound(&mask, n_q, shape.n_k, shape.tile).unwrap();
        let size = compiled(&mask, Shape { n_q, n_k: shape.n_k.saturating_sub(fewer), ..shape }).size();
        prop_assert!(size.tiles <= bound.tiles && size.spans <= bound.spans && size.words <= bound.words);
        prop_assert!(size.bytes() <= bound.bytes());
    }
}

/// Reads a written mask by descent, with the precedence of Rust's operators.
struct Reader<'a> {
    rest: &'a str,
    p: i128,
    j: i128,
}

impl Reader<'_> {
    fn read(text: &str, p: i128, j: i128) -> bool {
        let mut reader = Reader { rest: text, p, j };
        let value = reader.union();
        assert_eq!(reader.rest, "", "all of it is read");
        value
    }

    fn eat(&mut self, token: &str) -> bool {
        let rest = self.rest.strip_prefix(token);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn union(&mut self) -> bool {
        let mut value = self.intersection();
        while self.eat(" | ") {
            value |= self.intersection();
        }
        value
    }

    fn intersection(&mut self) -> bool {
        let mut value = self.atom();
        while self.eat(" & ") {
            value &= self.atom();
        }
        value
    }

    fn atom(&mut self) -> bool {
        if self.eat("!") {
            !self.atom()
        } else if self.eat("(") {
            let value = self.union();
            assert!(self.eat(")"));
            value
        } else if self.eat("full") {
            true
        } else if self.eat("causal") {
            self.j <= self.p
        } else if self.eat("prefix(") {
            let n = self.number().unwrap();
            assert!(self.eat(")"));
            self.j < n
        } else {
            assert!(self.eat("window("));
            let left = self.number();
            assert!(self.eat(", "));
            let right = self.number();
            assert!(self.eat(")"));
            left.is_none_or(|left| self.p - left <= self.j) && right.is_none_or(|right| self.j <= self.p + right)
        }
    }

    fn number(&mut self) -> Option<i128> {
        if self.eat("∞") {
            return None;
        }
        let digits = self.rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, rest) = self.rest.split_at(digits);
        self.rest = rest;
        Some(number.parse().unwrap())
    }
}
