//! The products over the pairs that are kept, one by one: where a side holds numbers that are not finite, 0·∞ would be NaN.

use regard_simd::Isa;

use super::pairs::Transposable;
use crate::PANEL;
use crate::kept::AddKept;

/// The keys that bits name.
fn keys_of(bits: u64) -> impl Iterator<Item = usize> {
    (0..PANEL).filter(move |key| bits >> key & 1 == 1)
}

/// The row of a step of `B`.
fn row<B>(b: &[B], width: usize, step: usize) -> &[B] {
    &b[step * width..][..width]
}

/// `C[key] += a[row][key]·B[row]`, with `a` in steps down the columns of a panel, for the rows from `first` on.
#[allow(clippy::too_many_arguments, reason = "both sides of a product, and where it goes")]
pub(super) fn add_over_rows<E: Transposable>(
    isa: Isa,
    a: &[E::A],
    first: usize,
    panel: usize,
    live: &[u64],
    b: &[E::B],
    width: usize,
    sums: &mut [f32],
) {
    let first = first / E::DEPTH;
    for key in keys_of(live.iter().fold(0, |all, bits| all | bits)) {
        let kept = AddKept::<E, _, _> {
            steps: live.len().div_ceil(E::DEPTH),
            a: &a[first * PANEL + key..],
            a_step: PANEL,
            row: |step| row(b, width, first + step),
            kept: |row| live.get(row).is_some_and(|bits| bits >> key & 1 == 1),
            sums: &mut sums[(panel * PANEL + key) * width..][..width],
        };
        E::run(isa, kept);
    }
}

/// `C[row] += a[row][key]·B[key]`, with `a` in steps along the rows of a panel, for the rows from `first` on.
#[allow(clippy::too_many_arguments, reason = "both sides of a product, and where it goes")]
pub(super) fn add_over_keys<E: Transposable>(
    isa: Isa,
    a: &[E::A],
    first: usize,
    panel: usize,
    live: &[u64],
    b: &[E::B],
    width: usize,
    sums: &mut [f32],
) {
    let words = PANEL / E::DEPTH;
    for (at, &bits) in (first..).zip(live) {
        let kept = AddKept::<E, _, _> {
            steps: ((u64::BITS - bits.leading_zeros()) as usize).div_ceil(E::DEPTH),
            a: &a[at * words..][..words],
            a_step: 1,
            row: |step| row(b, width, panel * words + step),
            kept: |key| bits >> key & 1 == 1,
            sums: &mut sums[at * width..][..width],
        };
        E::run(isa, kept);
    }
}
