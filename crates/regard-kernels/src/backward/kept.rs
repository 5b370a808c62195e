//! The products over the pairs that are kept, one by one: where a side holds numbers that are not finite, 0·∞ would be NaN.

use super::pairs::Transposable;
use crate::PANEL;

/// The keys that bits name.
fn keys_of(bits: u64) -> impl Iterator<Item = usize> {
    (0..PANEL).filter(move |key| bits >> key & 1 == 1)
}

/// `C[key] += a[row][key]·B[row]`, with `a` in steps down the columns of a panel, for the rows from `first` on.
pub(super) fn add_over_rows<E: Transposable>(
    a: &[E::A],
    first: usize,
    panel: usize,
    live: &[u64],
    b: &[E::B],
    width: usize,
    sums: &mut [f32],
) {
    for (row, &bits) in (first..).zip(live) {
        for key in keys_of(bits) {
            let x = E::value(a, PANEL, row, key);
            let sums = &mut sums[(panel * PANEL + key) * width..][..width];
            sums.iter_mut().enumerate().for_each(|(c, sum)| *sum += x * E::value(b, width, row, c));
        }
    }
}

/// `C[row] += a[row][key]·B[key]`, with `a` in steps along the rows of a panel, for the rows from `first` on.
pub(super) fn add_over_keys<E: Transposable>(
    a: &[E::A],
    first: usize,
    panel: usize,
    live: &[u64],
    b: &[E::B],
    width: usize,
    sums: &mut [f32],
) {
    for (row, &bits) in (first..).zip(live) {
        let a = &a[row * PANEL / E::DEPTH..][..PANEL / E::DEPTH];
        let sums = &mut sums[row * width..][..width];
        for key in keys_of(bits) {
            let x = E::weight(a, key);
            sums.iter_mut().enumerate().for_each(|(c, sum)| *sum += x * E::value(b, width, panel * PANEL + key, c));
        }
    }
}
