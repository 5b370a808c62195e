//! Random directions: normal vectors that are orthogonal within blocks.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::Error;

/// The random directions of FAVOR+: rows that are orthogonal within blocks of `dim`, each as long as a normal vector is.
///
/// ```
/// use regard_attention::FavorFeatures;
///
/// let features = FavorFeatures::new(64, 128, 7)?;
/// let rows = features.rows();
/// let dot = |a: usize, b: usize| rows[a * 64..][..64].iter().zip(&rows[b * 64..]).map(|(x, y)| x * y).sum::<f32>();
/// assert!(dot(0, 1).abs() < 1e-3 && dot(0, 0) > 20.0);
/// # Ok::<(), regard_attention::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct FavorFeatures {
    pub(super) dim: usize,
    pub(super) count: usize,
    /// `[count][dim]`.
    pub(super) rows: Vec<f32>,
}

impl FavorFeatures {
    /// `count` features of queries and keys of `dim` numbers; another seed draws others.
    ///
    /// # Errors
    /// One of both is 0, or there is no memory for so many numbers.
    pub fn new(dim: usize, count: usize, seed: u64) -> Result<FavorFeatures, Error> {
        for (option, has) in [("features", count), ("dim", dim)] {
            if has == 0 {
                return Err(Error::Option { option, has: 0.0, expected: "at least 1" });
            }
        }
        let none =
            || regard_memory::Error::OutOfMemory { bytes: count.saturating_mul(dim).saturating_mul(size_of::<f32>()) };
        let len = count.checked_mul(dim).ok_or_else(none)?;
        let mut rows = Vec::new();
        rows.try_reserve_exact(len).map_err(|_| none())?;
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        // Box and Muller's transformation.
        let mut normal = || {
            let (u, v): (f64, f64) = (random.random(), random.random());
            (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()
        };
        let mut block: Vec<Vec<f64>> = Vec::new();
        while rows.len() < len {
            if block.len() == dim {
                block.clear();
            }
            // Gram and Schmidt, twice: what rounding left of the others goes too.
            let mut row: Vec<f64> = (0..dim).map(|_| normal()).collect();
            for _ in 0..2 {
                for other in &block {
                    let share: f64 = row.iter().zip(other).map(|(x, y)| x * y).sum();
                    row.iter_mut().zip(other).for_each(|(x, y)| *x -= share * y);
                }
            }
            let length = row.iter().map(|x| x * x).sum::<f64>().sqrt();
            if length < 1e-9 {
                continue;
            }
            row.iter_mut().for_each(|x| *x /= length);
            let norm = (0..dim).map(|_| normal().powi(2)).sum::<f64>().sqrt();
            rows.extend(row.iter().map(|x| (x * norm) as f32));
            block.push(row);
        }
        Ok(FavorFeatures { dim, count, rows })
    }

    /// Numbers of a query and of a key.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// How many features there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The directions, `[count][dim]`.
    pub fn rows(&self) -> &[f32] {
        &self.rows
    }
}
