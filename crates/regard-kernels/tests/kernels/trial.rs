//! The product that techniques are measured on, against its definition.

use proptest::prelude::*;
use regard_kernels::trial::{Access, score};
use regard_kernels::{Error, Kernels, PANEL, ROWS};
use regard_simd::Isa;

use crate::support::{ROUNDING, numbers, seeded, tries};

proptest! {
    #![proptest_config(tries(48))]

    #[test]
    fn every_access_is_a_product(steps in 0..70_usize, panels in 0..4_usize, lines in 0..200_usize, seed: u64) {
        let mut random = seeded(seed);
        let queries = numbers(&mut random, ROWS * steps);
        let keys = numbers(&mut random, panels * steps * PANEL);
        for isa in Isa::available() {
            for access in [Access::Unchecked, Access::Checked, Access::Ahead(lines)] {
                let mut scores = vec![f32::NAN; panels * ROWS * PANEL];
                score(Kernels::new(isa), access, steps, &queries, &keys, &mut scores).unwrap();
                for (at, &score) in scores.iter().enumerate() {
                    let (panel, row, column) = (at / PANEL / ROWS, at / PANEL % ROWS, at % PANEL);
                    let products = (0..steps).map(|k| {
                        f64::from(queries[row * steps + k]) * f64::from(keys[(panel * steps + k) * PANEL + column])
                    });
                    let (sum, magnitude) = products.fold((0.0, 0.0), |(sum, all), x| (sum + x, all + x.abs()));
                    // The smallest numbers may be lost where products are rounded before they are added.
                    let bound = magnitude * (2 * steps + 2) as f64 * ROUNDING + steps as f64 * f64::from(f32::MIN_POSITIVE);
                    prop_assert!((f64::from(score) - sum).abs() <= bound, "{isa} {access:?} {at}: {score}, exactly {sum}");
                }
            }
        }
    }
}

#[test]
fn lengths_are_compared() {
    let kernels = Kernels::new(Isa::best());
    let numbers = vec![1.0; 2 * ROWS * PANEL];
    let ask = |queries: usize, panels: usize, scores: usize| {
        score(kernels, Access::Unchecked, 3, &numbers[..queries], &numbers[..panels], &mut vec![0.0; scores])
    };
    let length = |name, has, expected| Err(Error::Length { name, has, expected });
    assert_eq!(ask(18, 192, 384), Ok(()));
    assert_eq!(ask(17, 192, 384), length("queries", 17, 18));
    assert_eq!(ask(18, 191, 384), length("key panels", 191, 192));
    assert_eq!(ask(18, 192, 385), length("scores", 385, 384));
    assert_eq!(ask(18, 192, 768), length("key panels", 192, 384));
}
