//! Rotary positions against the papers' formulas.

use std::f64::consts::PI;

use proptest::prelude::*;
use rand::RngExt;
use regard_kernels::{Error, Kernels, Rotary, RotaryOrder, RotaryScaling};
use regard_simd::Isa;

use crate::support::{ROUNDING, seeded};

/// `θ^(−2i/dims)`: Su et al., 2021, section 3.2.2.
fn frequency(theta: f32, dims: usize, pair: usize) -> f64 {
    (-2.0 * pair as f64 / dims as f64 * f64::from(theta).ln()).exp()
}

/// The rule of Llama 3.1: what turns slowly is slowed down by `factor`, what turns fast is left alone, and between the two
/// it goes over smoothly in the number of turns within the context that the model was trained on.
fn llama3(frequency: f64) -> f64 {
    let (factor, low, high, context) = (8.0, 1.0, 4.0, 8192.0);
    let turns = context * frequency / (2.0 * PI);
    let smooth = (turns - low) / (high - low);
    if turns < low {
        frequency / factor
    } else if turns > high {
        frequency
    } else {
        (1.0 - smooth) * frequency / factor + smooth * frequency
    }
}

/// The cosines and sines of a position are those of these frequencies, whose rounding may move an angle.
fn turns_by(rotary: &Rotary, position: usize, frequencies: &[f64], rounding: f64) -> Result<(), TestCaseError> {
    let mut turn = vec![f32::NAN; 2 * frequencies.len()];
    prop_assert_eq!(rotary.dims(), turn.len());
    rotary.turn(position, &mut turn);
    let (cos, sin) = turn.split_at(frequencies.len());
    for ((&cos, &sin), &frequency) in cos.iter().zip(sin).zip(frequencies) {
        let angle = position as f64 * frequency;
        // Logarithms and powers in f64 are rounded too.
        let bound = ROUNDING + angle * (rounding + 1e-14);
        prop_assert!((f64::from(cos) - angle.cos()).abs() <= bound, "cos {angle} = {cos}");
        prop_assert!((f64::from(sin) - angle.sin()).abs() <= bound, "sin {angle} = {sin}");
    }
    Ok(())
}

proptest! {
    #[test]
    fn scaled_as_published(
        pairs in 0..70_usize,
        position in 0..2_000_000_usize,
        theta in 1e2..1e6_f32,
        factor in 0.5..40.0_f32,
        missing in 0..4_usize,
    ) {
        let dims = 2 * pairs;
        let plain: Vec<f64> = (0..pairs).map(|pair| frequency(theta, dims, pair)).collect();
        turns_by(&Rotary::new(dims, theta, &RotaryScaling::None, 4096), position, &plain, 0.0)?;

        // Chen et al., 2023: positions are interpolated.
        let linear: Vec<f64> = plain.iter().map(|frequency| frequency / f64::from(factor)).collect();
        turns_by(&Rotary::new(dims, theta, &RotaryScaling::Linear(factor), 4096), position, &linear, 0.0)?;

        let mut scaled: Vec<f64> = plain.iter().map(|&frequency| llama3(frequency)).collect();
        let mut factors: Vec<f32> = plain.iter().zip(&scaled).map(|(plain, scaled)| (plain / scaled) as f32).collect();
        // Without a factor a frequency stays.
        let stated = pairs.saturating_sub(missing);
        factors.truncate(stated);
        scaled[stated..].copy_from_slice(&plain[stated..]);
        turns_by(&Rotary::new(dims, theta, &RotaryScaling::Factors(factors), 4096), position, &scaled, ROUNDING)?;

        let rule = RotaryScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 8192 };
        let scaled: Vec<f64> = plain.iter().map(|&frequency| llama3(frequency)).collect();
        turns_by(&Rotary::new(dims, theta, &rule, 4096), position, &scaled, 1e-15)?;
    }

    /// The two orders are one rotation of different pairs, and what stands behind them stays, bit for bit.
    #[test]
    fn pairs_turn(pairs in 0..70_usize, behind in 0..9_usize, heads in 0..5_usize, seed: u64) {
        let dim = 2 * pairs + behind;
        prop_assume!(dim > 0);
        let mut random = seeded(seed);
        let x: Vec<f32> = (0..heads * dim).map(|_| random.random_range(-4.0..4.0)).collect();
        let angles: Vec<f64> = (0..pairs).map(|_| random.random_range(-PI..PI)).collect();
        let turn: Vec<f32> =
            angles.iter().map(|a| a.cos() as f32).chain(angles.iter().map(|a| a.sin() as f32)).collect();
        for isa in Isa::available() {
            for order in [RotaryOrder::Interleaved, RotaryOrder::HalfSplit] {
                let mut y = x.clone();
                Kernels::new(isa).rotate(order, &turn, dim, &mut y).unwrap();
                for (x, y) in x.chunks(dim).zip(y.chunks(dim)) {
                    for (pair, angle) in angles.iter().enumerate() {
                        let (i, j) = match order {
                            RotaryOrder::Interleaved => (2 * pair, 2 * pair + 1),
                            RotaryOrder::HalfSplit => (pair, pair + pairs),
                        };
                        let (a, b) = (f64::from(x[i]), f64::from(x[j]));
                        let bound = 3.0 * ROUNDING * (a.abs() + b.abs());
                        prop_assert!((f64::from(y[i]) - (a * angle.cos() - b * angle.sin())).abs() <= bound, "{isa}");
                        prop_assert!((f64::from(y[j]) - (a * angle.sin() + b * angle.cos())).abs() <= bound, "{isa}");
                    }
                    prop_assert_eq!(&x[2 * pairs..], &y[2 * pairs..], "{}", isa);
                }
            }
        }
    }
}

#[test]
fn nan_stays_in_its_pair() {
    for isa in Isa::available() {
        let mut y: Vec<f32> = (0..40).map(|i| i as f32).collect();
        y[3] = f32::NAN;
        Kernels::new(isa).rotate(RotaryOrder::HalfSplit, &[0.6; 36], 40, &mut y).unwrap();
        let nan: Vec<usize> = (0..40).filter(|&i| y[i].is_nan()).collect();
        assert_eq!(nan, [3, 21], "{isa}");
    }
}

#[test]
fn shapes_are_named() {
    let rotate = |turn: &[f32], dim, heads: &mut [f32]| {
        Kernels::new(Isa::best()).rotate(RotaryOrder::Interleaved, turn, dim, heads).unwrap_err()
    };
    assert!(matches!(rotate(&[1.0; 3], 4, &mut [0.0; 4]), Error::Size { name: "turn", has: 3, .. }));
    assert!(matches!(rotate(&[1.0; 6], 4, &mut [0.0; 4]), Error::Size { name: "turn", has: 6, .. }));
    assert_eq!(rotate(&[1.0; 2], 4, &mut [0.0; 7]), Error::Length { name: "heads", has: 7, expected: 4 });
    assert!(matches!(rotate(&[], 0, &mut [0.0; 7]), Error::Length { name: "heads", has: 7, .. }));
}
