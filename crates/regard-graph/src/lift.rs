//! From the largest inner product to the smallest distance, and the numbers that both are made of.
//!
//! An HNSW graph is navigated by a distance. With all keys within a radius `R`, one more coordinate makes the key with the
//! largest product the nearest one (Bachrach et al., 2014, "Speeding up the Xbox recommender system using a Euclidean
//! transformation for inner-product spaces", section 3.2): `k ↦ (k/R, √(1 − ‖k/R‖²))` puts every key on the unit sphere,
//! and `q ↦ (q/‖q‖, 0)`, so that `‖q' − k'‖² = 2 − 2·q·k / (R·‖q‖)`.

/// The radius by which keys are lifted to the sphere; 0 where all keys are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lift {
    radius: f64,
}

impl Lift {
    pub(crate) fn new(radius: f64) -> Self {
        Lift { radius }
    }

    /// Whether a key of this norm is within the radius.
    pub(crate) fn holds(self, norm: f64) -> bool {
        norm <= self.radius
    }

    /// A key on the sphere, `[dim + 1]`.
    pub(crate) fn key(self, key: &[f32]) -> Vec<f32> {
        // Keys of 0 are lifted by any radius.
        let radius = if self.radius > 0.0 { self.radius } else { 1.0 };
        let inside = key.iter().map(move |&x| f64::from(x) / radius);
        let square: f64 = inside.clone().map(|x| x * x).sum();
        // The largest key's square may round to just above 1.
        inside.chain([(1.0 - square).max(0.0).sqrt()]).map(|x| x as f32).collect()
    }

    /// A query beside the keys, `[dim + 1]`.
    pub(crate) fn query(self, query: &[f32]) -> Vec<f32> {
        let norm = norm(query);
        let length = if norm > 0.0 { norm } else { 1.0 };
        query.iter().map(|&x| (f64::from(x) / length) as f32).chain([0.0]).collect()
    }
}

const LANES: usize = 8;

/// `a·b` in f64.
pub(crate) fn product(a: &[f32], b: &[f32]) -> f64 {
    lanes(a, b, |x, y| f64::from(x) * f64::from(y)).iter().sum()
}

/// `‖x‖`, in f64: no square of finite numbers overflows.
pub(crate) fn norm(x: &[f32]) -> f64 {
    product(x, x).sqrt()
}

/// `‖a − b‖²` in f32.
pub(crate) fn squared_distance(a: &[f32], b: &[f32]) -> f32 {
    lanes(a, b, |x, y| (x - y) * (x - y)).iter().sum()
}

/// The sums of `of` over pairs of elements, in lanes that a compiler can make vectors of.
fn lanes<S: Copy + Default + std::ops::AddAssign>(a: &[f32], b: &[f32], of: impl Fn(f32, f32) -> S) -> [S; LANES] {
    let mut sums = [S::default(); LANES];
    let (whole_a, whole_b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    for ((sum, &x), &y) in sums.iter_mut().zip(whole_a.remainder()).zip(whole_b.remainder()) {
        *sum += of(x, y);
    }
    for (x, y) in whole_a.zip(whole_b) {
        for lane in 0..LANES {
            sums[lane] += of(x[lane], y[lane]);
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_order_as_products_do() {
        let numbers = regard_oracle::numbers(3, 40 * 13);
        let keys: Vec<&[f32]> = numbers.chunks_exact(13).collect();
        let lift = Lift::new(keys.iter().map(|key| norm(key)).fold(0.0, f64::max));
        let query = &regard_oracle::numbers(4, 13);
        for key in &keys {
            let lifted = lift.key(key);
            assert!((norm(&lifted) - 1.0).abs() < 1e-6);
            let distance = f64::from(squared_distance(&lift.query(query), &lifted));
            let expected = 2.0 - 2.0 * product(query, key) / (lift.radius * norm(query));
            assert!((distance - expected).abs() < 1e-5, "{distance} and {expected}");
        }
    }

    #[test]
    fn extreme_numbers_stay_finite() {
        for key in [[f32::MAX; 3], [f32::from_bits(1); 3], [0.0; 3]] {
            let lift = Lift::new(norm(&key));
            assert!(lift.key(&key).iter().chain(&lift.query(&key)).all(|x| x.is_finite()));
            assert!(lift.holds(norm(&key)));
        }
    }

    #[test]
    fn products_are_sums_over_all_elements() {
        for dim in [0, 1, 7, 8, 9, 31] {
            let (a, b) = (regard_oracle::numbers(1, dim), regard_oracle::numbers(2, dim));
            let sum: f64 = a.iter().zip(&b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum();
            assert!((product(&a, &b) - sum).abs() < 1e-12);
        }
    }
}
