//! The cache of layouts.

use std::sync::Arc;

use proptest::prelude::*;
use regard_masks::{BlockLayout, Error, Gather, LayoutCache, Mask, TileShape};

use crate::set::cases;

const TILE: TileShape = TileShape { rows: 6, group: 1 };

fn get(cache: &LayoutCache, n: usize) -> Arc<BlockLayout> {
    cache.get(&[Mask::causal()], n, n, 0, TILE, None).unwrap()
}

/// Sizes of layouts are multiples of this.
const STEP: usize = if cfg!(miri) { 2 } else { 50 };

/// What the cache holds of the layouts of `n` queries and keys.
fn bytes(n: usize) -> usize {
    let cache = LayoutCache::new(usize::MAX);
    get(&cache, n);
    cache.bytes()
}

/// Layouts that are asked for one after the other.
const CALLS: usize = if cfg!(miri) { 8 } else { 60 };

proptest! {
    #![proptest_config(cases(200))]

    /// A list of sizes, the last that was used at the end, does the same.
    #[test]
    fn the_least_recently_used_goes_first(sizes in prop::collection::vec(1..12_usize, 1..CALLS), room in 1..2000_usize) {
        let bytes: Vec<usize> = (0..12).map(|size| bytes(size * STEP)).collect();
        let limit = bytes[1] + room;
        let cache = LayoutCache::new(limit);
        let mut kept: Vec<(usize, Arc<BlockLayout>)> = Vec::new();
        for size in sizes {
            let layout = get(&cache, size * STEP);
            prop_assert_eq!(layout.n_q(), size * STEP);
            match kept.iter().position(|(held, _)| *held == size) {
                Some(at) => {
                    let held = kept.remove(at);
                    prop_assert!(Arc::ptr_eq(&held.1, &layout), "it was kept");
                    kept.push(held);
                }
                None if bytes[size] <= limit => {
                    prop_assert!(kept.iter().all(|(_, held)| !Arc::ptr_eq(held, &layout)));
                    while kept.iter().map(|(held, _)| bytes[*held]).sum::<usize>() + bytes[size] > limit {
                        kept.remove(0);
                    }
                    kept.push((size, layout));
                }
                None => {}
            }
            prop_assert_eq!(cache.len(), kept.len());
            prop_assert_eq!(cache.bytes(), kept.iter().map(|(held, _)| bytes[*held]).sum::<usize>());
            prop_assert!(cache.bytes() <= cache.limit());
        }
    }
}

#[test]
fn whatever_a_layout_depends_on_is_told_apart() {
    let cache = LayoutCache::new(1 << 20);
    let masks = [Mask::causal(), Mask::full()];
    let tile = TileShape { rows: 6, group: 2 };
    let gather = Gather { rim: 1.0, panel: 2.0, key: 0.5 };
    let calls = [
        (&masks[..1], 10, 20, 10, tile, None),
        (&masks[1..], 10, 20, 10, tile, None),
        (&masks[..], 10, 20, 10, tile, None),
        (&masks[..1], 11, 20, 10, tile, None),
        (&masks[..1], 10, 21, 10, tile, None),
        (&masks[..1], 10, 20, 9, tile, None),
        (&masks[..1], 10, 20, 10, TileShape { rows: 5, group: 2 }, None),
        (&masks[..1], 10, 20, 10, TileShape { rows: 6, group: 1 }, None),
        (&masks[..1], 10, 20, 10, tile, Some(gather)),
        (&masks[..1], 10, 20, 10, tile, Some(Gather { rim: 1.5, ..gather })),
        (&masks[..1], 10, 20, 10, tile, Some(Gather { panel: 1.5, ..gather })),
        (&masks[..1], 10, 20, 10, tile, Some(Gather { key: 1.5, ..gather })),
    ];
    let all = || {
        calls.map(|(masks, n_q, n_k, offset, tile, gather)| cache.get(masks, n_q, n_k, offset, tile, gather).unwrap())
    };
    let (first, again) = (all(), all());
    assert_eq!(cache.len(), calls.len());
    for (a, layout) in first.iter().enumerate() {
        for (b, other) in again.iter().enumerate() {
            assert_eq!(Arc::ptr_eq(layout, other), a == b, "{a} and {b}");
        }
        let (masks, n_q, n_k, offset, tile, gather) = calls[a];
        let mut fresh = BlockLayout::new();
        fresh.compile_with(masks, n_q, n_k, offset, tile, gather).unwrap();
        assert!(fresh.tiles().all(|t| fresh.tile(t).eq(layout.tile(t)) && fresh.gathered(t).eq(layout.gathered(t))));
    }
    cache.clear();
    assert!(cache.is_empty() && cache.bytes() == 0);
}

/// Masks are kept alive by the cache, and so are what they hold.
#[test]
fn the_arrays_of_masks_are_counted() {
    let limit = if cfg!(miri) { 1000 } else { 100_000 };
    let cache = LayoutCache::new(limit);
    let alternate: Vec<bool> = (0..limit).map(|key| key % 2 == 0).collect();
    for mask in [
        Mask::keys(&alternate),
        Mask::dense(1, alternate.len(), &alternate).unwrap(),
        Mask::by_batch([Mask::causal(), Mask::keys(&alternate)]).unwrap(),
    ] {
        cache.get(&[mask], 1, 10, 0, TILE, None).unwrap();
        assert!(cache.is_empty());
    }
    cache.get(&[Mask::by_batch([Mask::causal(), Mask::full()]).unwrap()], 1, 10, 0, TILE, None).unwrap();
    assert_eq!(cache.len(), 1);
}

#[test]
fn what_cannot_be_compiled_is_not_kept() {
    let cache = LayoutCache::new(1 << 20);
    let tile = TileShape { rows: 0, group: 1 };
    assert_eq!(cache.get(&[Mask::causal()], 1, 1, 0, tile, None).unwrap_err(), Error::Tile(tile));
    assert!(cache.is_empty());
}

#[test]
fn threads_share_what_they_make() {
    let (rounds, step) = if cfg!(miri) { (4, 2) } else { (300, 10) };
    let cache = LayoutCache::new(4 * bytes(30 * step));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let cache = &cache;
            scope.spawn(move || {
                for round in 0..rounds {
                    let n = 1 + (round * 7 + thread * 3) % 30 * step;
                    assert_eq!(get(cache, n).live_pairs(), (n * (n + 1) / 2) as u64);
                    assert!(cache.bytes() <= cache.limit());
                }
            });
        }
    });
    let layout = get(&cache, 100);
    assert!(Arc::ptr_eq(&layout, &get(&cache, 100)));
}
