//! What the cases compute on: normal random numbers, the same in every run, and the same for the peer.

use std::f32::consts::TAU;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use half::{bf16, f16};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use regard_attention::{Differentiable, Shape};

use crate::bench::case::Case;

/// The queries, keys and values of a case, and the gradient of its result; each contiguous.
pub(crate) struct Inputs<T> {
    /// `[batch, heads, queries, dim]`.
    pub(crate) q: Vec<T>,
    /// `[batch, kv_heads, keys, dim]`.
    pub(crate) k: Vec<T>,
    /// `[batch, kv_heads, keys, dim]`.
    pub(crate) v: Vec<T>,
    /// `[batch, heads, queries, dim]`; empty unless the case asks for gradients.
    pub(crate) grad: Vec<T>,
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
        let grad = if case.backward { queries } else { 0 };
        let shared = |mut numbers: Vec<T>| {
            share(&mut numbers, case);
            numbers
        };
        let (k, v) = (shared(numbers(2, keys)), shared(numbers(3, keys)));
        Inputs { q: numbers(1, queries), k, v, grad: numbers(4, grad) }
    }
}

/// Gives all batch entries the prefix of the first.
fn share<T: Copy>(numbers: &mut [T], case: &Case) {
    let Shape { kv_heads, keys, dim_k: dim, .. } = case.shape;
    let (first, others) = numbers.split_at_mut(kv_heads * keys * dim);
    for entry in others.chunks_exact_mut(first.len()) {
        for (to, from) in entry.chunks_exact_mut(keys * dim).zip(first.chunks_exact(keys * dim)) {
            to[..case.prefix * dim].copy_from_slice(&from[..case.prefix * dim]);
        }
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
pub(crate) trait Stored: Differentiable + Into<f64> {
    /// Its bytes, little-endian.
    fn bytes(self) -> impl AsRef<[u8]>;
}

impl Stored for f32 {
    fn bytes(self) -> impl AsRef<[u8]> {
        self.to_le_bytes()
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
    use crate::bench::case::parse;

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
    fn batch_entries_share_the_prefix_and_nothing_else() {
        let text = r#"[{"id": "a", "batch": 3, "heads": 2, "kv_heads": 2, "queries": 1, "keys": 5, "dim": 2, "dtype": "f32",
            "mask": "none", "prefix": 4}]"#;
        let inputs = Inputs::<f32>::random(&parse(text).unwrap()[0]);
        for numbers in [&inputs.k, &inputs.v] {
            let row = |batch: usize, head: usize, key: usize| &numbers[((batch * 2 + head) * 5 + key) * 2..][..2];
            for (batch, head, key) in (1..3).flat_map(|b| (0..2).flat_map(move |h| (0..5).map(move |j| (b, h, j)))) {
                assert_eq!(row(0, head, key) == row(batch, head, key), key < 4);
                assert_ne!(row(batch, 0, key), row(batch, 1, key));
            }
        }
        assert_ne!(inputs.k, inputs.v);
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
