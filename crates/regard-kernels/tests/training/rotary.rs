//! The transpose of a rotation: `⟨rotate(x), y⟩ = ⟨x, rotate_back(y)⟩`.

use proptest::prelude::*;
use regard_kernels::{Kernels, Rotary, RotaryOrder, RotaryScaling};
use regard_simd::Isa;

use crate::{ROUNDING, doubles, numbers};

fn dot(x: &[f32], y: &[f32]) -> f64 {
    doubles(x).iter().zip(doubles(y)).map(|(x, y)| x * y).sum()
}

proptest! {
    #[test]
    fn is_the_transpose(
        pairs in 0..70_usize,
        behind in 0..9_usize,
        heads in 0..5_usize,
        position in 0..100_000_usize,
        amplitude in 0.5..2.0_f32,
        seed: u64,
    ) {
        let dim = 2 * pairs + behind;
        prop_assume!(dim > 0);
        let (x, y) = (numbers(seed, heads * dim, 1.0), numbers(!seed, heads * dim, 1.0));
        let one = vec![1.0; pairs];
        let scaling = RotaryScaling::LongRope { short: one.clone(), long: one, amplitude, original: 1 };
        let rotary = Rotary::new(2 * pairs, 1e4, &scaling, 1);
        let mut turn = vec![0.0; 2 * pairs];
        rotary.turn(position, &mut turn);
        for isa in Isa::available() {
            for order in [RotaryOrder::Interleaved, RotaryOrder::HalfSplit] {
                let (kernels, mut forth, mut back) = (Kernels::new(isa), x.clone(), y.clone());
                kernels.rotate(order, &turn, dim, &mut forth).unwrap();
                kernels.rotate_back(order, &turn, dim, &mut back).unwrap();
                // Each number of either is off by three roundings of at most 4.
                let bound = 24.0 * ROUNDING * (heads * dim) as f64;
                prop_assert!((dot(&forth, &y) - dot(&x, &back)).abs() <= bound, "{isa} {order:?}");
                // There and back is the amplitude's square times what was.
                kernels.rotate_back(order, &turn, dim, &mut forth).unwrap();
                for (i, (&after, &before)) in forth.iter().zip(&x).enumerate() {
                    let factor = if i % dim < 2 * pairs { f64::from(amplitude).powi(2) } else { 1.0 };
                    prop_assert!((f64::from(after) - factor * f64::from(before)).abs() <= 48.0 * ROUNDING, "{isa} {order:?}");
                }
            }
        }
    }
}

#[test]
fn shapes_are_checked() {
    let kernels = Kernels::new(Isa::best());
    assert!(kernels.rotate_back(RotaryOrder::Interleaved, &[1.0; 3], 4, &mut [0.0; 4]).is_err());
    assert!(kernels.rotate_back(RotaryOrder::HalfSplit, &[1.0; 2], 4, &mut [0.0; 6]).is_err());
}
