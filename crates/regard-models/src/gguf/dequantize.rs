//! The published formulas of the storage types, in plain single precision.

use super::layout::GgmlType;
use half::{bf16, f16};

/// Writes the numbers that `bytes`, whole blocks of `kind`, stand for.
///
/// This is the reference that faster paths are held against: the same operations in the same order as the `gguf`
/// Python package, so the same bits.
///
/// # Panics
///
/// If `bytes` and `numbers` are not the same whole number of blocks.
///
/// ```
/// use regard_models::gguf::{GgmlType, dequantize};
///
/// let mut numbers = [0.0; 2];
/// dequantize(GgmlType::BF16, &[0x80, 0x3f, 0x00, 0xc0], &mut numbers);
/// assert_eq!(numbers, [1.0, -2.0]);
/// ```
pub fn dequantize(kind: GgmlType, bytes: &[u8], numbers: &mut [f32]) {
    let (len, size) = (kind.block_len(), kind.block_bytes());
    assert!(
        bytes.len().is_multiple_of(size) && numbers.len() == bytes.len() / size * len,
        "{} bytes of {kind} are not {} numbers",
        bytes.len(),
        numbers.len()
    );
    for (block, out) in bytes.chunks_exact(size).zip(numbers.chunks_exact_mut(len)) {
        match kind {
            GgmlType::F32 => out[0] = f32::from_le_bytes([block[0], block[1], block[2], block[3]]),
            GgmlType::F16 => out[0] = half_at(block, 0),
            GgmlType::BF16 => out[0] = bf16::from_le_bytes([block[0], block[1]]).to_f32(),
            GgmlType::Q8_0 => {
                let d = half_at(block, 0);
                for (out, &q) in out.iter_mut().zip(&block[2..]) {
                    *out = f32::from(q as i8) * d;
                }
            }
            GgmlType::Q4_0 => {
                let d = half_at(block, 0);
                nibbles(&block[2..], out, |q| d * f32::from(q as i8 - 8));
            }
            GgmlType::Q4_1 => {
                let (d, m) = (half_at(block, 0), half_at(block, 2));
                nibbles(&block[4..], out, |q| d * f32::from(q) + m);
            }
        }
    }
}

/// Whether all numbers that `bytes`, whole blocks of `kind`, stand for are finite.
///
/// ```
/// use regard_models::gguf::{GgmlType, is_finite};
///
/// assert!(is_finite(GgmlType::F32, &1.5f32.to_le_bytes()));
/// assert!(!is_finite(GgmlType::F32, &f32::NAN.to_le_bytes()));
/// ```
pub fn is_finite(kind: GgmlType, bytes: &[u8]) -> bool {
    // Codes are finite: of a block only its factors may not be.
    let halves: &[usize] = match kind {
        GgmlType::F32 => {
            return bytes.as_chunks().0.iter().all(|&number| f32::from_le_bytes(number).is_finite());
        }
        GgmlType::BF16 => {
            return bytes.as_chunks().0.iter().all(|&number| bf16::from_le_bytes(number).is_finite());
        }
        GgmlType::F16 | GgmlType::Q8_0 | GgmlType::Q4_0 => &[0],
        GgmlType::Q4_1 => &[0, 2],
    };
    bytes.chunks_exact(kind.block_bytes()).all(|block| halves.iter().all(|&at| half_at(block, at).is_finite()))
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// The low nibbles of 16 bytes are the first 16 numbers of the block, the high ones the last 16.
fn nibbles(bytes: &[u8], out: &mut [f32], number: impl Fn(u8) -> f32) {
    let (low, high) = out.split_at_mut(bytes.len());
    for ((&byte, low), high) in bytes.iter().zip(low).zip(high) {
        *low = number(byte & 0x0f);
        *high = number(byte >> 4);
    }
}
