//! Layouts whose scattered keys are gathered.

use proptest::prelude::*;
use regard_masks::{BlockLayout, Gather, LayoutSize, Mask, PANEL, Span, TileShape};

use crate::expand::expand;
use crate::set::{Set, Shape, cases, sets, shapes};

fn costs() -> impl Strategy<Value = Gather> {
    let cost = || prop_oneof![Just(0.0_f32), 0.0..3.0_f32];
    (cost(), cost(), 0.0..0.1_f32).prop_map(|(rim, panel, key)| Gather { rim, panel, key })
}

/// A shape, and sets for all heads or for each of them.
fn groups() -> impl Strategy<Value = (Shape, Vec<Set>)> {
    (shapes(), any::<bool>()).prop_flat_map(|(shape, each)| {
        (Just(shape), prop::collection::vec(sets(), if each { shape.tile.group } else { 1 }))
    })
}

fn compiled(sets: &[Set], shape: Shape, gather: Option<Gather>) -> BlockLayout {
    let masks: Vec<Mask> = sets.iter().map(Set::mask).collect();
    let mut layout = BlockLayout::new();
    layout.compile_with(&masks, shape.n_q, shape.n_k, shape.offset, shape.tile, gather).unwrap();
    layout
}

/// The columns that any row keeps of the rims of a tile.
fn rims(layout: &BlockLayout, t: usize) -> Vec<(usize, u64)> {
    let rims = layout.tile(t).filter_map(|span| match span {
        Span::Rim { panel, bits } => Some((panel, bits.iter().fold(0, |any, word| any | word))),
        Span::Full(_) => None,
    });
    rims.collect()
}

fn fulls(layout: &BlockLayout, t: usize) -> Vec<usize> {
    let fulls = layout.tile(t).filter(|span| matches!(span, Span::Full(_)));
    fulls.flat_map(|span| span.panels()).collect()
}

fn gathered_keys(layout: &BlockLayout, t: usize) -> Vec<u32> {
    layout.gathered(t).flat_map(|gathered| gathered.keys.iter().copied()).collect()
}

proptest! {
    #![proptest_config(cases(1000))]

    #[test]
    fn a_layout_keeps_what_the_masks_keep((shape, sets) in groups(), gather in costs()) {
        let Shape { n_q, n_k, offset, tile } = shape;
        let layout = compiled(&sets, shape, Some(gather));
        for t in layout.tiles() {
            for (r, row) in expand(&layout, t).iter().enumerate() {
                let r = t * tile.rows + r;
                if r >= n_q * tile.group {
                    continue;
                }
                let set = &sets[r % tile.group % sets.len()];
                for (j, &kept) in row.iter().enumerate() {
                    let expected = set.holds((r / tile.group) as i64 + offset, j, n_k);
                    prop_assert_eq!(kept, expected, "tile {} row {} key {}", t, r, j);
                }
            }
        }
    }

    /// What is gathered are rims of the layout without gathering: those with the fewest keys, as many as cost least.
    #[test]
    fn rims_are_gathered_where_the_costs_say_so((shape, sets) in groups(), gather in costs()) {
        let plain = compiled(&sets, shape, None);
        let layout = compiled(&sets, shape, Some(gather));
        prop_assert_eq!((plain.live_pairs(), plain.tiles()), (layout.live_pairs(), layout.tiles()));
        let mut before: Vec<u32> = Vec::new();
        for t in layout.tiles() {
            prop_assert_eq!(fulls(&plain, t), fulls(&layout, t));
            let left = rims(&layout, t);
            let all = rims(&plain, t);
            let (kept, mut gone): (Vec<_>, Vec<_>) = all.iter().partition(|rim| left.contains(rim));
            prop_assert_eq!(&kept, &left);
            let keys = |rim: &(usize, u64)| (0..64).filter(|b| rim.1 >> b & 1 == 1).map(|b| (rim.0 * PANEL + b) as u32).collect::<Vec<_>>();
            prop_assert_eq!(gone.iter().flat_map(keys).collect::<Vec<_>>(), gathered_keys(&layout, t));
            // The costs of gathering the first 0, 1, 2, … rims by their number of keys.
            let mut sorted = all.clone();
            sorted.sort_by_key(|rim| (rim.1.count_ones(), rim.0));
            let cost = |count: usize| {
                let keys: Vec<u32> = sorted[..count].iter().flat_map(keys).collect();
                let new = keys.iter().filter(|key| !before.contains(key)).count();
                (sorted.len() - count) as f64 * f64::from(gather.rim)
                    + keys.len().div_ceil(64) as f64 * f64::from(gather.panel)
                    + new as f64 * f64::from(gather.key)
            };
            let least = (0..=sorted.len()).map(cost).fold(f64::INFINITY, f64::min);
            prop_assert!(cost(gone.len()) <= least + 1e-9 * (1.0 + least));
            gone.sort_by_key(|rim| (rim.1.count_ones(), rim.0));
            prop_assert_eq!(&gone[..], &sorted[..gone.len()]);
            before = gathered_keys(&layout, t);
        }
    }

    /// Every pair that is live is computed, and every other pair that is computed stands beside a live one.
    #[test]
    fn a_cost_counts_pairs((shape, sets) in groups(), gather in prop::option::of(costs())) {
        let Shape { n_q, n_k, offset, tile } = shape;
        let layout = compiled(&sets, shape, gather);
        let cost = layout.cost();
        let all = n_q * tile.group;
        let live = |r: usize| {
            let set = &sets[r % tile.group % sets.len()];
            (0..n_k).filter(|&j| set.holds((r / tile.group) as i64 + offset, j, n_k)).count() as u64
        };
        prop_assert_eq!(cost.live, (0..all).map(live).sum::<u64>());
        let (mut full, mut rim, mut gathered) = (0, 0, 0);
        for r in 0..all {
            let t = r / tile.rows;
            full += 64 * fulls(&layout, t).len() as u64;
            // Stretches of 16 keys, from the first one with a live pair to the last.
            let stretches = |bits: u64| {
                let with = || (0..4).filter(|stretch| bits >> (16 * stretch) & 0xFFFF != 0);
                with().next_back().map_or(0, |last| last + 1 - with().next().unwrap_or(last))
            };
            rim += rims(&layout, t).into_iter().map(|rim| 16 * stretches(rim.1)).sum::<u64>();
            gathered += 64 * layout.gathered(t).len() as u64;
        }
        prop_assert_eq!((cost.full, cost.rim, cost.gathered), (full, rim, gathered));
        prop_assert_eq!(cost.rims, (0..all).map(|r| 64 * rims(&layout, r / tile.rows).len() as u64).sum::<u64>());
        prop_assert_eq!(cost.computed(), full + rim + gathered);
        prop_assert!(cost.full <= cost.live && cost.live <= cost.computed());
        let share = if cost.computed() == 0 { 1.0 } else { cost.live as f64 / cost.computed() as f64 };
        prop_assert_eq!(cost.live_share(), share);
    }

    #[test]
    fn compiling_again_leaves_nothing_behind(a in groups(), b in groups(), costs in (costs(), prop::option::of(costs()))) {
        let mut layout = compiled(&a.1, a.0, Some(costs.0));
        let fresh = compiled(&b.1, b.0, costs.1);
        let masks: Vec<Mask> = b.1.iter().map(Set::mask).collect();
        layout.compile_with(&masks, b.0.n_q, b.0.n_k, b.0.offset, b.0.tile, costs.1).unwrap();
        prop_assert_eq!(layout.size(), fresh.size());
        for t in fresh.tiles() {
            prop_assert!(layout.tile(t).eq(fresh.tile(t)) && layout.gathered(t).eq(fresh.gathered(t)), "tile {}", t);
        }
    }
}

/// Tiles in a row that gather the same keys use one panel.
#[test]
#[cfg_attr(miri, ignore = "lists repeat over thousands of rows")]
fn a_list_is_shared() {
    let tile = TileShape { rows: 6, group: 1 };
    let gather = Some(Gather { rim: 1.0, panel: 0.5, key: 0.01 });
    let n = 12_000;
    let globals = (0..90).map(|key| key * n / 100 + key % 7);
    let mask = Mask::global_keys(globals.clone());
    let mut layout = BlockLayout::new();
    layout.compile_with(std::slice::from_ref(&mask), n, n, 0, tile, gather).unwrap();
    assert_eq!(layout.size().spans, 0);
    assert_eq!((layout.lists(), layout.size().keys), (2, 90));
    for t in layout.tiles() {
        assert!(layout.gathered(t).map(|gathered| gathered.list).eq([0, 1]), "tile {t}");
        assert!(gathered_keys(&layout, t).into_iter().eq(globals.clone().map(|key| key as u32)));
    }
    // Every fourth key up to the query's own: only the last list grows.
    let strided = Mask::causal() & Mask::strided(4).unwrap();
    layout.compile_with(std::slice::from_ref(&strided), n, n, 0, tile, gather).unwrap();
    for t in layout.tiles().skip(1) {
        let lists = |t| layout.gathered(t).map(|gathered| gathered.list).collect::<Vec<_>>();
        let (now, before) = (lists(t), lists(t - 1));
        let whole = layout.gathered(t - 1).take_while(|gathered| gathered.keys.len() == 64).count();
        assert_eq!(now[..whole], before[..whole], "tile {t}");
    }
    // A tile makes one list, and another one where it fills a panel.
    assert!(layout.lists() <= layout.tiles().len() + n / 256);
}

#[test]
fn a_layout_without_a_policy_gathers_nothing() {
    let tile = TileShape { rows: 6, group: 1 };
    let mut layout = BlockLayout::new();
    layout.compile(&Mask::strided(9).unwrap(), 50, 500, 0, tile).unwrap();
    assert!(layout.tiles().all(|t| layout.gathered(t).len() == 0));
    let LayoutSize { gathered, lists, keys, .. } = layout.size();
    assert_eq!((gathered, lists, keys), (0, 0, 0));
}

/// Keys beyond what a list can number stay rims.
#[test]
fn keys_beyond_all_numbers_are_not_gathered() {
    let far = u32::MAX as usize;
    let mask = Mask::global_keys([3, 200, far - 1, far, far + 1, far + 300]);
    let mut layout = BlockLayout::new();
    let gather = Some(Gather { rim: 1.0, panel: 0.0, key: 0.0 });
    layout.compile_with(&[mask], 1, far + 500, 0, TileShape { rows: 1, group: 1 }, gather).unwrap();
    assert_eq!(gathered_keys(&layout, 0), [3, 200, u32::MAX - 1, u32::MAX]);
    assert_eq!(rims(&layout, 0), [((far + 1) / 64, 1), ((far + 300) / 64, 1 << ((far + 300) % 64))]);
}
