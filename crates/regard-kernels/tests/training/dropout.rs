//! Dropout of a row of activations against what its counter says of each number.

use proptest::prelude::*;
use regard_kernels::{DropoutRow, Kernels};
use regard_simd::Isa;

use crate::{ROUNDING, numbers};

proptest! {
    #[test]
    fn falls_as_it_is_keyed(len in 0..300_usize, probability in 0.0..0.99_f32, seed: u64) {
        let (x, row) = (numbers(seed, len, 3.0), DropoutRow::new(seed, 1, 2, 3, probability));
        let gain = 1.0 / (1.0 - f64::from(probability));
        for isa in Isa::available() {
            let mut y = x.clone();
            Kernels::new(isa).drop_row(row, &mut y);
            for (i, (&x, &y)) in x.iter().zip(&y).enumerate() {
                if row.keeps(i as u32) {
                    let exact = f64::from(x) * gain;
                    // The probability is in steps of 2⁻³².
                    prop_assert!((f64::from(y) - exact).abs() <= 3.0 * ROUNDING * exact.abs(), "{isa}: {y}, {exact}");
                } else {
                    prop_assert_eq!(y.to_bits(), 0, "{}", isa);
                }
            }
        }
    }
}

#[test]
fn none_and_all() {
    for isa in Isa::available() {
        let (kernels, x) = (Kernels::new(isa), numbers(1, 77, 3.0));
        let (mut none, mut all) = (x.clone(), x.clone());
        kernels.drop_row(DropoutRow::new(1, 2, 3, 4, 0.0), &mut none);
        kernels.drop_row(DropoutRow::new(1, 2, 3, 4, 1.0), &mut all);
        assert_eq!((none, all), (x, vec![0.0; 77]), "{isa}");
    }
}
