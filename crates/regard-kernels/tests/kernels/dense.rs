//! Products of small matrices, triangular systems, and what is done to rows, against sums in f64.

use half::bf16;
use proptest::prelude::*;
use rand::RngExt;
use regard_kernels::{Band, Before, COLUMNS, Kernels, Left, Scaling};
use regard_memory::{Rows, RowsMut};
use regard_simd::Isa;

use crate::support::{ROUNDING, seeded, tries};

fn draw(random: &mut rand_chacha::ChaCha8Rng, len: usize) -> Vec<f32> {
    (0..len).map(|_| random.random_range(-1.0_f32..1.0)).collect()
}

/// Sums of `terms` numbers of at most `size` are off by this at most.
fn allowed(terms: usize, size: f64) -> f64 {
    (terms as f64 + 4.0) * 2.0 * size * ROUNDING
}

proptest! {
    #![proptest_config(tries(60))]

    #[test]
    fn products_are_sums(
        rows in 0..=40_usize, steps in 0..=40_usize, vectors in 1..=5_usize, gap in 0..=3_usize,
        down: bool, band in 0..4_usize, before in 0..3_usize, seed: u64,
    ) {
        let mut random = seeded(seed);
        let columns = vectors * COLUMNS;
        let (a_rows, a_cols) = if down { (steps, rows) } else { (rows, steps) };
        let (a_stride, b_stride, c_stride) = (a_cols + gap, columns + gap, columns + gap);
        let a = draw(&mut random, a_rows * a_stride + 1);
        let b = draw(&mut random, steps * b_stride + columns);
        let c = draw(&mut random, rows * c_stride + columns);
        let factors = draw(&mut random, rows);
        let band = [Band::Whole, Band::ColumnsTo, Band::StepsTo, Band::StepsFrom][band];
        let before = [Before::Replaced, Before::Kept, Before::Times(&factors)][before];
        let of = |r: usize, k: usize| if down { a[k * a_stride + r] } else { a[r * a_stride + k] };
        for isa in Isa::available() {
            let mut out = c.clone();
            let sides = Rows::new(&a, a_rows, a_cols, a_stride).unwrap();
            let left = if down { Left::Columns(sides) } else { Left::Rows(sides) };
            let right = Rows::new(&b, steps, columns, b_stride).unwrap();
            let to = RowsMut::new(&mut out, rows, columns, c_stride).unwrap();
            Kernels::new(isa).multiply(left, right, band, before, to).unwrap();
            for (r, j) in (0..rows).flat_map(|r| (0..columns).map(move |j| (r, j))) {
                let has = |k: usize| match band {
                    Band::StepsTo => k <= r,
                    Band::StepsFrom => k >= r,
                    _ => true,
                };
                if band == Band::ColumnsTo && j > r {
                    continue;
                }
                let mut sum: f64 =
                    (0..steps).filter(|&k| has(k)).map(|k| f64::from(of(r, k)) * f64::from(b[k * b_stride + j])).sum();
                sum += f64::from(c[r * c_stride + j]) * match before {
                    Before::Replaced => 0.0,
                    Before::Kept => 1.0,
                    Before::Times(factors) => f64::from(factors[r]),
                };
                let off = (f64::from(out[r * c_stride + j]) - sum).abs();
                prop_assert!(off <= allowed(steps, steps as f64 / 2.0 + 1.0), "{} {:?} row {} column {}", isa, band, r, j);
            }
        }
    }

    /// Of pairs the numbers are those that rounding leaves, whichever way a side is packed.
    #[test]
    fn products_of_pairs_are_sums_of_rounded_numbers(
        rows in 0..=40_usize, steps in 0..=41_usize, vectors in 1..=5_usize, gap in 0..=3_usize,
        down: bool, turned: bool, before in 0..3_usize, seed: u64,
    ) {
        let mut random = seeded(seed);
        let (columns, pairs) = (vectors * COLUMNS, steps.div_ceil(2));
        let (a, b) = (draw(&mut random, rows * steps), draw(&mut random, steps * columns));
        let c = draw(&mut random, rows * columns);
        let factors = draw(&mut random, rows);
        let before = [Before::Replaced, Before::Kept, Before::Times(&factors)][before];
        let transposed = |x: &[f32], cols: usize| -> Vec<f32> {
            (0..x.len()).map(|at| x[at % (x.len() / cols) * cols + at / (x.len() / cols)]).collect()
        };
        for isa in Isa::available() {
            let kernels = Kernels::new(isa);
            // Rows of steps are rounded, columns of them paired; either may be turned over afterwards.
            let along = |x: &[f32], rows: usize| {
                let mut words = vec![7; rows * pairs];
                let to = RowsMut::contiguous(&mut words, rows, pairs).unwrap();
                kernels.round_to_bf16(Rows::contiguous(x, rows, steps).unwrap(), to).unwrap();
                words
            };
            let down_columns = |x: &[f32], cols: usize| {
                let mut words = vec![7; pairs * (cols + gap)];
                let to = RowsMut::contiguous(&mut words, pairs, cols + gap).unwrap();
                kernels.pair_rows(Rows::contiguous(x, steps, cols).unwrap(), to).unwrap();
                assert!(words.chunks(cols + gap).all(|row| row[cols..].iter().all(|&word| word == 0)));
                words
            };
            let left = if down { down_columns(&transposed(&a, steps.max(1)), rows) } else { along(&a, rows) };
            let left = match down {
                true => Left::Columns(Rows::new(&left, pairs, rows, rows + gap).unwrap()),
                false => Left::Rows(Rows::contiguous(&left, rows, pairs).unwrap()),
            };
            let right = match turned {
                true => {
                    let across = along(&transposed(&b, columns), columns);
                    let mut words = vec![7; pairs * (columns + gap)];
                    let to = RowsMut::contiguous(&mut words, pairs, columns + gap).unwrap();
                    kernels.transpose(Rows::contiguous(&across, columns, pairs).unwrap(), to).unwrap();
                    words
                }
                false => down_columns(&b, columns),
            };
            let right = Rows::new(&right, pairs, columns, columns + gap).unwrap();
            let mut out = c.clone();
            let to = RowsMut::contiguous(&mut out, rows, columns).unwrap();
            kernels.multiply_pairs(left, right, before, to).unwrap();
            let rounded = |x: f32| bf16::from_f32(x).to_f64();
            for (r, j) in (0..rows).flat_map(|r| (0..columns).map(move |j| (r, j))) {
                let mut sum: f64 = (0..steps).map(|k| rounded(a[r * steps + k]) * rounded(b[k * columns + j])).sum();
                sum += f64::from(c[r * columns + j]) * match before {
                    Before::Replaced => 0.0,
                    Before::Kept => 1.0,
                    Before::Times(factors) => f64::from(factors[r]),
                };
                let off = (f64::from(out[r * columns + j]) - sum).abs();
                prop_assert!(off <= allowed(steps, steps as f64 / 2.0 + 1.0), "{} row {} column {}: {}", isa, r, j, off);
            }
        }
    }

    /// Every number goes to its place, zeros fill the rest of the rows, and nothing else is touched.
    #[test]
    fn transposing_turns_over(
        rows in 0..=40_usize, cols in 0..=40_usize, behind in 0..=20_usize, gap in 0..=3_usize, seed: u64,
    ) {
        let from = draw(&mut seeded(seed), rows * (cols + gap));
        let stride = rows + behind + gap;
        for isa in Isa::available() {
            let mut to = vec![7.0; cols * stride];
            let view = Rows::new(&from, rows, cols, cols + gap).unwrap();
            let out = RowsMut::new(&mut to, cols, rows + behind, stride).unwrap();
            Kernels::new(isa).transpose(view, out).unwrap();
            for (at, &x) in to.iter().enumerate() {
                let (col, row) = (at / stride, at % stride);
                let expected = match row {
                    _ if row < rows => from[row * (cols + gap) + col],
                    _ if row < rows + behind => 0.0,
                    _ => 7.0,
                };
                prop_assert_eq!(x, expected, "{} row {} column {}", isa, col, row);
            }
        }
    }

    /// What stands on the other side of a triangle is not looked at.
    #[test]
    fn triangles_have_no_other_side(n in 1..=40_usize, lower: bool, down: bool, seed: u64) {
        let mut random = seeded(seed);
        let a: Vec<f32> = (0..n * n)
            .map(|at| {
                let (i, j) = if down { (at % n, at / n) } else { (at / n, at % n) };
                if (lower && j > i) || (!lower && j < i) { f32::NAN } else { random.random_range(-1.0_f32..1.0) }
            })
            .collect();
        let b = draw(&mut random, n * COLUMNS);
        let band = if lower { Band::StepsTo } else { Band::StepsFrom };
        for isa in Isa::available() {
            let mut out = vec![0.0; n * COLUMNS];
            let side = Rows::contiguous(&a, n, n).unwrap();
            let left = if down { Left::Columns(side) } else { Left::Rows(side) };
            let to = RowsMut::contiguous(&mut out, n, COLUMNS).unwrap();
            let right = Rows::contiguous(&b, n, COLUMNS).unwrap();
            Kernels::new(isa).multiply(left, right, band, Before::Replaced, to).unwrap();
            prop_assert!(out.iter().all(|x| x.is_finite()), "{}", isa);
        }
    }

    /// `(I − T)·X` and `(I − T)ᵀ·X` are the right sides again.
    #[test]
    fn systems_are_solved(n in 0..=64_usize, vectors in 1..=5_usize, transposed: bool, seed: u64) {
        let mut random = seeded(seed);
        let columns = vectors * COLUMNS;
        // Nothing but what is under the diagonal counts.
        let t: Vec<f32> = (0..n * n)
            .map(|at| if at % n < at / n { random.random_range(-0.2_f32..0.2) } else { f32::NAN })
            .collect();
        let b = draw(&mut random, n * columns);
        for isa in Isa::available() {
            let mut x = b.clone();
            let (side, to) = (Rows::contiguous(&t, n, n).unwrap(), RowsMut::contiguous(&mut x, n, columns).unwrap());
            match transposed {
                true => Kernels::new(isa).solve_transposed(side, to).unwrap(),
                false => Kernels::new(isa).solve(side, to).unwrap(),
            }
            let largest = x.iter().fold(1.0_f64, |most, x| most.max(f64::from(x.abs())));
            for (i, j) in (0..n).flat_map(|i| (0..columns).map(move |j| (i, j))) {
                let sum: f64 = match transposed {
                    true => (i + 1..n).map(|k| f64::from(t[k * n + i]) * f64::from(x[k * columns + j])).sum(),
                    false => (0..i).map(|k| f64::from(t[i * n + k]) * f64::from(x[k * columns + j])).sum(),
                };
                let off = (f64::from(x[i * columns + j]) - sum - f64::from(b[i * columns + j])).abs();
                prop_assert!(off <= allowed(n, largest), "{} row {} column {}: {}", isa, i, j, off);
            }
        }
    }

    #[test]
    fn rows_are_scaled_added_and_multiplied(rows in 0..=9_usize, cols in 0..=50_usize, way in 0..3_usize, seed: u64) {
        let mut random = seeded(seed);
        let (x, each) = (draw(&mut random, rows * cols), draw(&mut random, rows * cols));
        let factors = draw(&mut random, rows);
        let scaling = match way {
            0 => Scaling::All(0.7),
            1 => Scaling::Rows(&factors),
            _ => Scaling::Each(Rows::contiguous(&each, rows, cols).unwrap()),
        };
        let factor = |at: usize| [0.7, factors.get(at / cols.max(1)).copied().unwrap_or(0.0), each[at]][way];
        let from = Rows::contiguous(&x, rows, cols).unwrap();
        for isa in Isa::available() {
            let kernels = Kernels::new(isa);
            let mut scaled = vec![f32::NAN; (rows + 1) * (cols + 3)];
            kernels.scale_rows(from, scaling, RowsMut::contiguous(&mut scaled, rows + 1, cols + 3).unwrap()).unwrap();
            let mut added = each.clone();
            kernels.add_scaled_rows(from, scaling, RowsMut::contiguous(&mut added, rows, cols).unwrap()).unwrap();
            for at in 0..rows * cols {
                let product = x[at] * factor(at);
                prop_assert_eq!(scaled[at / cols * (cols + 3) + at % cols], product);
                prop_assert!((f64::from(added[at]) - f64::from(each[at]) - f64::from(x[at]) * f64::from(factor(at))).abs() < 1e-6);
            }
            // What is beyond is 0.
            let beyond = |at: usize| at / (cols + 3) >= rows || at % (cols + 3) >= cols;
            prop_assert!((0..scaled.len()).filter(|&at| beyond(at)).all(|at| scaled[at] == 0.0));
            let mut dots = vec![1.0; rows];
            kernels.add_dots(from, Rows::contiguous(&each, rows, cols).unwrap(), &mut dots).unwrap();
            let mut maxima = vec![0.0; rows];
            kernels.row_maxima(from, &mut maxima).unwrap();
            let live = cols / 2;
            let mut powers = x.clone();
            kernels.exp_rows(RowsMut::contiguous(&mut powers, rows, cols).unwrap(), live, &factors, 0.5).unwrap();
            for r in 0..rows {
                let row = &x[r * cols..][..cols];
                let dot: f64 = row.iter().zip(&each[r * cols..]).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                prop_assert!((f64::from(dots[r]) - 1.0 - dot).abs() <= allowed(cols, cols as f64 + 1.0));
                prop_assert_eq!(maxima[r], row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
                for (c, (&power, &x)) in powers[r * cols..][..cols].iter().zip(row).enumerate() {
                    let exact = if c < live { 0.5 * (f64::from(x) - f64::from(factors[r])).exp() } else { 0.0 };
                    prop_assert!((f64::from(power) - exact).abs() <= 8.0 * ROUNDING * exact, "{} {} {}", isa, power, exact);
                }
            }
        }
    }
}

#[test]
fn sizes_that_do_not_fit() {
    let kernels = Kernels::new(Isa::best());
    let (a, mut c) = ([0.0; 64], [0.0; 64]);
    let rows = |rows, cols| Rows::contiguous(&a[..rows * cols], rows, cols).unwrap();
    let mut product = |left, right, columns| {
        let out = RowsMut::contiguous(&mut c[..2 * columns], 2, columns).unwrap();
        kernels.multiply(left, right, Band::Whole, Before::Replaced, out).map_err(|error| error.to_string())
    };
    assert!(product(Left::Rows(rows(2, 3)), rows(3, 16), 16).is_ok());
    assert!(product(Left::Rows(rows(3, 3)), rows(3, 16), 16).unwrap_err().contains("rows of a product"));
    assert!(product(Left::Columns(rows(2, 2)), rows(3, 16), 16).unwrap_err().contains("steps of a product"));
    assert!(product(Left::Rows(rows(2, 3)), rows(3, 16), 24).unwrap_err().contains("columns of a product"));
    assert!(product(Left::Rows(rows(2, 3)), rows(3, 20), 20).unwrap_err().contains("a multiple of 16"));
    let (pairs, mut to) = ([0; 64], [0; 64]);
    let words = |rows, cols| Rows::contiguous(&pairs[..rows * cols], rows, cols).unwrap();
    let out = RowsMut::contiguous(&mut c[..32], 2, 16).unwrap();
    let refused = kernels.multiply_pairs(Left::Rows(words(2, 3)), words(2, 16), Before::Replaced, out);
    assert!(refused.unwrap_err().to_string().contains("steps of a product"));
    let mut pair = |rows, cols| {
        let to = RowsMut::contiguous(&mut to[..rows * cols], rows, cols).unwrap();
        kernels.pair_rows(Rows::contiguous(&a[..15], 5, 3).unwrap(), to).map_err(|error| error.to_string())
    };
    assert!(pair(3, 3).is_ok());
    assert!(pair(2, 3).unwrap_err().contains("rows of pairs"));
    assert!(pair(3, 2).unwrap_err().contains("columns of pairs"));
    let x = RowsMut::contiguous(&mut c[..48], 3, 16).unwrap();
    assert!(kernels.solve(rows(2, 2), x).unwrap_err().to_string().contains("rows of a triangle"));
}
