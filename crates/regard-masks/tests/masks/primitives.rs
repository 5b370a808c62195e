//! What a primitive promises beside its set, and what it refuses.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use proptest::prelude::*;
use regard_masks::{Edges, Error, Mask, Runs};

use crate::set::cases;

fn row(mask: &Mask, p: i64, n_k: usize) -> Vec<usize> {
    let mut runs = Runs::new();
    mask.runs(p, n_k, &mut runs);
    runs.as_slice().iter().cloned().flatten().collect()
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn a_random_row_keeps_its_share(density in 0.0..=1.0, seed: u64, p: i64, n_k in 0..700_usize) {
        let mask = Mask::random(density, seed).unwrap();
        let keys = row(&mask, p, n_k);
        prop_assert_eq!(keys.len(), (density * n_k as f64).round() as usize);
        let allowed: Vec<usize> = (0..n_k).filter(|&j| mask.allows(p, j, n_k)).collect();
        prop_assert_eq!(&keys, &allowed);
        // Within a part of the keys other paths lead to the same.
        let part = row(&(&mask & Mask::prefix(40)), p, n_k);
        prop_assert_eq!(part, keys.into_iter().filter(|&j| j < 40).collect::<Vec<_>>());
    }

    #[test]
    fn pairs_that_come_again_or_in_another_order_change_nothing(
        pairs in prop::collection::vec((0..30_usize, 0..30_usize), 1..60),
        again in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let mask = Mask::edge_pairs(pairs.clone(), Edges::Directed).unwrap();
        let more = again.iter().map(|index| *index.get(&pairs)).chain(pairs.iter().rev().copied());
        prop_assert_eq!(&mask, &Mask::edge_pairs(more, Edges::Directed).unwrap());
    }
}

/// Each of `n` keys, and each two of them, is kept as often as chance would have it, in rows and in seeds.
#[test]
#[cfg_attr(miri, ignore = "draws millions of keys")]
fn random_keys_are_drawn_evenly() {
    for n_k in [2_usize, 3, 5, 8, 17, 33] {
        let kept = n_k.div_ceil(2);
        let rows = 40_000;
        for by_seed in [false, true] {
            let mut single = vec![0_u32; n_k];
            let mut double = vec![0_u32; n_k * n_k];
            for draw in 0..rows {
                let (p, seed) = if by_seed { (7, draw as u64) } else { (draw - rows / 2, 7) };
                let keys = row(&Mask::random(kept as f64 / n_k as f64, seed).unwrap(), p, n_k);
                for &a in &keys {
                    single[a] += 1;
                    keys.iter().filter(|&&b| b != a).for_each(|&b| double[a * n_k + b] += 1);
                }
            }
            // Six standard deviations of a count of independent draws; of thousands of counts none is that far off.
            let check = |count: u32, share: f64| {
                let expected = rows as f64 * share;
                let deviation = (expected * (1.0 - share)).sqrt();
                assert!((f64::from(count) - expected).abs() <= 6.0 * deviation, "{n_k}: {count} for {expected}");
            };
            let share = kept as f64 / n_k as f64;
            single.iter().for_each(|&count| check(count, share));
            let share = share * (kept - 1) as f64 / (n_k - 1) as f64;
            let pairs = double.iter().enumerate().filter(|(at, _)| at / n_k != at % n_k);
            pairs.for_each(|(_, &count)| check(count, share));
        }
    }
}

#[test]
fn what_makes_no_set_is_refused() {
    let refused = |mask: Result<Mask, Error>, expected: &str| {
        assert_eq!(mask.unwrap_err().to_string(), expected);
    };
    refused(Mask::block_diagonal(0), "block_diagonal: size 0; expected a size of at least 1");
    refused(Mask::strided(0), "strided: step 0; expected a step of at least 1");
    refused(Mask::random(f64::NAN, 1), "random: density NaN; expected 0 to 1");
    refused(Mask::random(1.0 + f64::EPSILON, 1), "random: density 1.0000000000000002; expected 0 to 1");
    refused(
        Mask::random(-f64::MIN_POSITIVE, 1).map_err(|_| Error::TooManyKeys { n_k: 1 }),
        &Error::TooManyKeys { n_k: 1 }.to_string(),
    );
    refused(Mask::blocks(0, 1, 1, &[true]), "blocks: size 0; expected a size of at least 1");
    refused(Mask::blocks(4, 2, 3, &[true; 5]), "blocks: 5 elements; expected 2 × 3");
    refused(Mask::dense(2, 3, &[true; 7]), "dense: 7 elements; expected 2 × 3");
    refused(Mask::dense_at(-1, usize::MAX, 2, &[true; 2]), &format!("dense: 2 elements; expected {} × 2", usize::MAX));
    let columns = u32::MAX as usize;
    refused(Mask::dense(0, columns, &[]), &format!("dense: {columns} columns; expected fewer than 2³² − 1"));
    for (offsets, targets) in [(&[][..], &[][..]), (&[1, 2], &[0, 0]), (&[0, 1], &[0, 0]), (&[0, 2, 1, 2], &[0, 0])] {
        let error = format!(
            "edges: {} offsets for {} targets; expected offsets that ascend from 0 to {}",
            offsets.len(),
            targets.len(),
            targets.len()
        );
        refused(Mask::edges(offsets, targets, Edges::Directed), &error);
    }
    let far = [(3, columns)];
    refused(Mask::edge_pairs(far, Edges::Directed), "edges: the pair (3, 4294967295); expected keys below 2³² − 1");
    refused(
        Mask::edge_pairs([(columns, 3)], Edges::Symmetric),
        "edges: the pair (3, 4294967295); expected keys below 2³² − 1",
    );
}

/// Numbers at the ends of their types make sets, too.
#[test]
fn primitives_take_any_number() {
    let far = usize::MAX;
    assert_eq!(row(&Mask::global_keys([far, far - 1, 3]), 0, 10), [3]);
    assert!(Mask::global_keys([far - 1]).allows(0, far - 1, far));
    assert_eq!(row(&Mask::global_queries([far, 2]), 2, 3), [0, 1, 2]);
    assert_eq!(row(&Mask::global_queries([i64::MAX as usize]), i64::MAX, 2), [0, 1]);
    assert_eq!(row(&Mask::block_diagonal(far).unwrap(), i64::MAX, 2), [0, 1]);
    assert_eq!(row(&Mask::block_diagonal(far).unwrap(), -1, 2), []);
    assert_eq!(row(&Mask::strided(far).unwrap(), 0, 100), [0]);
    let strided = Mask::strided(far - 1).unwrap();
    assert!(strided.allows(0, far - 1, far) && !strided.allows(0, far - 2, far));
    let blocks = Mask::blocks(far, 1, 2, &[true, true]).unwrap();
    assert_eq!(row(&blocks, i64::MAX, 3), [0, 1, 2]);
    assert_eq!(row(&Mask::edge_pairs([(far, 1), (2, 2)], Edges::Directed).unwrap(), 2, 3), [2]);
    assert_eq!(row(&Mask::dense_at(i64::MIN, 1, 2, &[true, true]).unwrap(), i64::MIN, 2), [0, 1]);
    assert_eq!(row(&Mask::dense_at(i64::MAX, 2, 1, &[true, true]).unwrap(), i64::MAX, 2), [0]);
    assert_eq!(row(&Mask::dense(far, 0, &[]).unwrap(), 3, 5), []);
    assert_eq!(row(&Mask::random(1.0, 0).unwrap(), i64::MIN, 3), [0, 1, 2]);
    assert_eq!(row(&Mask::random(-0.0, 0).unwrap(), 0, 3), []);
}

/// Scattered keys cost what a window leaves of them: this would not end if all keys were looked at for every row.
#[test]
#[cfg_attr(miri, ignore = "sixty thousand rows")]
fn a_window_is_not_paid_for_with_the_keys_beyond_it() {
    let keys = 1 << 30;
    let window = Mask::window(Some(99), Some(0));
    let masks = [
        &window & Mask::strided(10).unwrap(),
        Mask::strided(10).unwrap() & &window | Mask::prefix(3),
        !(!&window | !Mask::strided(10).unwrap()) & &window,
        &window & !Mask::strided(10).unwrap() & Mask::causal(),
        &window & Mask::random(0.5, 3).unwrap(),
    ];
    for mask in masks {
        let mut runs = Runs::new();
        for p in keys as i64 / 2..keys as i64 / 2 + 10_000 {
            mask.runs(p, keys, &mut runs);
            assert!((10..=92).contains(&runs.keys()), "{mask}: {}", runs.keys());
        }
    }
}

#[test]
fn equal_masks_are_equal_and_hash_alike() {
    let hash = |mask: &Mask| {
        let mut hasher = DefaultHasher::new();
        mask.hash(&mut hasher);
        hasher.finish()
    };
    let dense = |last| Mask::dense(2, 2, &[true, false, false, last]).unwrap();
    let (a, b) = (dense(true) & Mask::causal(), dense(true) & Mask::causal());
    assert_eq!((&a, hash(&a)), (&b, hash(&b)));
    assert_ne!(a, dense(false) & Mask::causal());
    assert_eq!(Mask::global_keys([3, 1, 3]), Mask::global_keys([1, 3]));
    assert_ne!(Mask::global_keys([1]), Mask::global_queries([1]));
    assert_eq!(Mask::random(0.0, 1), Mask::random(-0.0, 1));
}

#[test]
fn long_lists_are_written_in_short() {
    let list = Mask::global_keys((0..1000).step_by(2)).to_string();
    assert!(list.starts_with("global_keys(0, 2, 4, ") && list.ends_with(", … 468 more)"), "{list}");
    assert_eq!(Mask::keys(&[true, false, true, true]).to_string(), "keys(0, 2..4)");
    assert_eq!(Mask::dense(3, 2, &[true; 6]).unwrap().to_string(), "dense(3 × 2 from -1)");
    assert_eq!(Mask::blocks(8, 1, 2, &[true; 2]).unwrap().to_string(), "blocks(1 × 2 of 8)");
    assert_eq!(Mask::edge_pairs([(1, 2), (2, 1)], Edges::Symmetric).unwrap().to_string(), "edges(2 pairs)");
    assert_eq!(
        (Mask::random(0.1, 7).unwrap() & !Mask::strided(8).unwrap()).to_string(),
        "random(0.1, 7) & !strided(8)"
    );
}
