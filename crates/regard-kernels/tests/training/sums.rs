//! Sums against f64, and the bits of those that are shared out.

use proptest::prelude::*;
use regard_kernels::{Error, Kernels};
use regard_memory::Rows;
use regard_simd::Isa;

use crate::{ROUNDING, bits, doubles, numbers};

proptest! {
    #[test]
    fn squares(len in 0..20_000_usize, size in -40..40_i32, seed: u64) {
        let x: Vec<f32> = numbers(seed, len, 1.0).iter().map(|x| x * 2f32.powi(size)).collect();
        let exact: f64 = doubles(&x).iter().map(|x| x * x).sum();
        for isa in Isa::available() {
            let sum = Kernels::new(isa).sum_of_squares(&x);
            // The longest sum of a lane is of 512 squares, with errors of either sign.
            prop_assert!((sum - exact).abs() <= 32.0 * ROUNDING * exact, "{isa}: {sum}, {exact}");
        }
    }

    #[test]
    fn slices(len in 0..100_usize, cut in 0..100_usize, a in -2.0..2.0_f32, seed: u64) {
        let (x, y, cut) = (numbers(seed, len, 2.0), numbers(!seed, len, 2.0), cut.min(len));
        for isa in Isa::available() {
            let (kernels, mut sum, mut scaled) = (Kernels::new(isa), y.clone(), y.clone());
            kernels.add(&x, &mut sum).unwrap();
            kernels.add_scaled(a, &x[..cut], &mut scaled[..cut]).unwrap();
            kernels.add_scaled(a, &x[cut..], &mut scaled[cut..]).unwrap();
            let mut whole = y.clone();
            kernels.add_scaled(a, &x, &mut whole).unwrap();
            prop_assert_eq!(bits(&whole), bits(&scaled), "{}", isa);
            for i in 0..len {
                prop_assert_eq!(sum[i], x[i] + y[i]);
                let exact = f64::from(a) * f64::from(x[i]) + f64::from(y[i]);
                prop_assert!((f64::from(scaled[i]) - exact).abs() <= 6.0 * ROUNDING + ROUNDING * exact.abs(), "{isa}");
            }
        }
    }

    #[test]
    fn products(len in 0..100_usize, seed: u64) {
        let (a, x, y) = (numbers(seed, len, 2.0), numbers(!seed, len, 2.0), numbers(seed ^ 1, len, 2.0));
        for isa in Isa::available() {
            let mut sum = y.clone();
            Kernels::new(isa).add_products(&a, &x, &mut sum).unwrap();
            for i in 0..len {
                let exact = f64::from(a[i]) * f64::from(x[i]) + f64::from(y[i]);
                prop_assert!((f64::from(sum[i]) - exact).abs() <= 6.0 * ROUNDING + ROUNDING * exact.abs(), "{isa}");
            }
        }
    }

    /// Columns are summed one row after the other, whichever columns are summed together.
    #[test]
    fn columns(rows in 0..12_usize, cols in 0..70_usize, behind in 0..3_usize, cut in 0..70_usize, seed: u64) {
        let (stride, cut) = (cols + behind, cut.min(cols));
        let (data, start) = (numbers(seed, rows * stride, 2.0), numbers(!seed, cols, 2.0));
        let matrix = Rows::new(&data, rows, cols, stride).unwrap();
        let exact: Vec<f32> = (0..cols).map(|c| matrix.iter().fold(start[c], |sum, row| sum + row[c])).collect();
        for isa in Isa::available() {
            let (kernels, mut out) = (Kernels::new(isa), start.clone());
            let (left, right) = matrix.split_columns_at(cut);
            kernels.add_rows(left, &mut out[..cut]).unwrap();
            kernels.add_rows(right, &mut out[cut..]).unwrap();
            prop_assert_eq!(bits(&out), bits(&exact), "{}", isa);
        }
    }
}

#[test]
fn what_is_not_finite_shows() {
    for isa in Isa::available() {
        for at in [0, 17, 2047, 2048, 4999] {
            let mut x = vec![1.0; 5000];
            x[at] = f32::NAN;
            assert!(Kernels::new(isa).sum_of_squares(&x).is_nan(), "{isa}");
            x[at] = f32::NEG_INFINITY;
            assert_eq!(Kernels::new(isa).sum_of_squares(&x), f64::INFINITY, "{isa}");
        }
    }
}

#[test]
fn lengths_are_named() {
    let kernels = Kernels::new(Isa::best());
    let expected = Error::Length { name: "what is added", has: 2, expected: 3 };
    assert_eq!(kernels.add(&[0.0; 2], &mut [0.0; 3]).unwrap_err(), expected);
    assert_eq!(kernels.add_scaled(1.0, &[0.0; 2], &mut [0.0; 3]).unwrap_err(), expected);
    let rows = Rows::contiguous(&[0.0; 6], 2, 3).unwrap();
    let expected = Error::Length { name: "sums of columns", has: 2, expected: 3 };
    assert_eq!(kernels.add_rows(rows, &mut [0.0; 2]).unwrap_err(), expected);
}
