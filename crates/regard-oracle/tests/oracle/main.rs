//! The reference proved: against central differences, against itself in other words, and against PyTorch.
#![forbid(unsafe_code)]

mod differences;
mod forward;
mod golden;
mod layers;

mod scores;

use proptest::prelude::*;
use regard_oracle::Pair;

/// As many cases of a property as its cost allows, new ones every time.
fn tries(cases: u32) -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(cases);
    ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 500, ..ProptestConfig::default() }
}

/// A dropout that depends on all that it may: keeps about two weights of three.
fn keeps(pair: &Pair) -> bool {
    let Pair { sequence, head, i, j, .. } = *pair;
    let mixed = [sequence, head, i, j]
        .into_iter()
        .fold(17u64, |hash, x| (hash ^ x as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23));
    mixed % 3 != 0
}

/// Equal, infinities and NaN included, but for rounding in f64.
fn close(ours: &[f64], theirs: &[f64], tolerance: f64) -> Result<(), String> {
    if ours.len() != theirs.len() {
        return Err(format!("{} numbers, expected {}", ours.len(), theirs.len()));
    }
    let same =
        |(&a, &b): (&f64, &f64)| a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= tolerance * (1.0 + b.abs());
    match ours.iter().zip(theirs).position(|pair| !same(pair)) {
        None => Ok(()),
        Some(at) => Err(format!("number {at} is {}, expected {}", ours[at], theirs[at])),
    }
}
