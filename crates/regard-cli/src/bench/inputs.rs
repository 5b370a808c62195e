//! What the cases compute on: normal random numbers, the same in every run, and the same for the peer.

use std::borrow::Cow;
use std::f32::consts::TAU;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use half::{bf16, f16};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use regard_attention::Element;

use crate::bench::case::Case;

/// The queries, keys and values of a case, each contiguous.
pub(crate) struct Inputs<T> {
    /// `[batch, heads, queries, dim]`.
    pub(crate) q: Vec<T>,
    /// `[batch, kv_heads, keys, dim]`.
    pub(crate) k: Vec<T>,
    /// `[batch, kv_heads, keys, dim]`.
    pub(crate) v: Vec<T>,
}

impl<T: Stored> Inputs<T> {
    pub(crate) fn random(case: &Case) -> Self {
        let (queries, keys) = case.lengths();
        let numbers = |stream, len| {
            let mut generator = ChaCha8Rng::seed_from_u64(stream);
            let mut numbers = Vec::with_capacity(len + 1);
            while numbers.len() < len {
                let pair = normal_pair(&mut generator).map(T::from_f32);
                numbers.extend(pair);
            }
            numbers.truncate(len);
            numbers
        };
        Inputs { q: numbers(1, queries), k: numbers(2, keys), v: numbers(3, keys) }
    }
}

/// Two independent normal numbers, by the method of Box and Muller.
fn normal_pair(generator: &mut ChaCha8Rng) -> [f32; 2] {
    // In (0, 1]: the logarithm of 0 would be −∞.
    let radius = (-2.0 * (1.0 - generator.random::<f32>()).ln()).sqrt();
    let (sin, cos) = (TAU * generator.random::<f32>()).sin_cos();
    [radius * cos, radius * sin]
}

/// A number type, and how files hold it.
pub(crate) trait Stored: Element {
    /// Its bytes, little-endian.
    fn bytes(self) -> impl AsRef<[u8]>;
    /// The same numbers in f32.
    fn widened(numbers: &[Self]) -> Cow<'_, [f32]> {
        numbers.iter().map(|number| number.to_f32()).collect()
    }
}

impl Stored for f32 {
    fn bytes(self) -> impl AsRef<[u8]> {
        self.to_le_bytes()
    }
    fn widened(numbers: &[Self]) -> Cow<'_, [f32]> {
        Cow::Borrowed(numbers)
    }
}

impl Stored for bf16 {
    fn bytes(self) -> impl AsRef<[u8]> {
        self.to_le_bytes()
    }
}

impl Stored for f16 {
    fn bytes(self) -> impl AsRef<[u8]> {
        self.to_le_bytes()
    }
}

/// Writes numbers to a file, one after the other.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn write<T: Stored>(path: &Path, numbers: &[T]) -> io::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    numbers.iter().try_for_each(|number| file.write_all(number.bytes().as_ref()))?;
    file.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Moments of the normal distribution: 0, 1, 0, 3; with the standard errors of 100,000 samples in mind.
    #[test]
    fn the_numbers_are_normal() {
        let mut generator = ChaCha8Rng::seed_from_u64(5);
        let numbers: Vec<f64> = (0..50_000).flat_map(|_| normal_pair(&mut generator)).map(f64::from).collect();
        let moment = |power| numbers.iter().map(|x| x.powi(power)).sum::<f64>() / numbers.len() as f64;
        for (power, expected, error) in [(1, 0.0, 0.02), (2, 1.0, 0.03), (3, 0.0, 0.07), (4, 3.0, 0.2)] {
            assert!((moment(power) - expected).abs() < error, "{power}: {}", moment(power));
        }
    }

    #[test]
    fn files_are_little_endian() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("numbers");
        write(&path, &[1.0_f32, -2.5]).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), [0, 0, 0x80, 0x3F, 0, 0, 0x20, 0xC0]);
        write(&path, &[bf16::from_f32(-2.5)]).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), [0x20, 0xC0]);
    }
}
