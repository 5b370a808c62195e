//! Random numbers that are the same on every machine.

/// Normal numbers that follow from a seed.
pub fn numbers(seed: u64, len: usize) -> Vec<f32> {
    // SplitMix64 (Steele, Lea and Flood, 2014), and the polar form of Box and Muller.
    let mut state = seed.wrapping_mul(0xD1B5_4A32_D192_ED03) ^ 0x9E37_79B9_7F4A_7C15;
    let mut uniform = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(state) as f64 / (1u64 << 53) as f64
    };
    (0..len)
        .map(|_| {
            let (radius, angle) = ((-2.0 * (1.0 - uniform()).ln()).sqrt(), std::f64::consts::TAU * uniform());
            (radius * angle.cos()) as f32
        })
        .collect()
}

/// The 53 best of 64 well-mixed bits.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (x ^ (x >> 31)) >> 11
}

/// The same numbers in f64.
pub fn widen<T: Copy + Into<f64>>(numbers: &[T]) -> Vec<f64> {
    numbers.iter().map(|&x| x.into()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Moments of the normal distribution: 0, 1, 0, 3; with the standard errors of 100,000 samples in mind.
    #[test]
    fn numbers_are_normal_and_their_own() {
        let x = widen(&numbers(5, 100_000));
        let moment = |power| x.iter().map(|x| x.powi(power)).sum::<f64>() / x.len() as f64;
        for (power, expected, error) in [(1, 0.0, 0.02), (2, 1.0, 0.03), (3, 0.0, 0.07), (4, 3.0, 0.2)] {
            assert!((moment(power) - expected).abs() < error, "{power}: {}", moment(power));
        }
        assert_eq!(numbers(5, 10), numbers(5, 100_000)[..10]);
        assert_ne!(numbers(6, 10), numbers(5, 10));
    }
}
