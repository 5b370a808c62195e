//! Products of codes are exact sums of integers: no instruction saturates, no offset is lost.

use half::f16;
use proptest::prelude::*;
use regard_kernels::{ActivationKind, Kernels, Weight, WeightFormat};
use regard_simd::Isa;

use crate::support::{Rounded, product, tries};

/// A block of 32 codes with the scale 1, and the minimum 0, as a file holds it.
fn block(format: WeightFormat, codes: &[i32]) -> Vec<u8> {
    let one = f16::ONE.to_le_bytes();
    let nibbles = |offset: i32| -> Vec<u8> {
        (0..16).map(|i| (codes[i] + offset) as u8 | ((codes[i + 16] + offset) as u8) << 4).collect()
    };
    match format {
        WeightFormat::Q8_0 => [&one[..], &codes.iter().map(|&q| q as i8 as u8).collect::<Vec<_>>()].concat(),
        WeightFormat::Q4_0 => [&one[..], &nibbles(8)].concat(),
        _ => [&one[..], &[0, 0], &nibbles(0)].concat(),
    }
}

fn codes(format: WeightFormat) -> std::ops::RangeInclusive<i32> {
    match format {
        WeightFormat::Q8_0 => -128..=127,
        WeightFormat::Q4_0 => -8..=7,
        _ => 0..=15,
    }
}

/// Any numbers of a range, or its ends alone.
fn of(range: std::ops::RangeInclusive<i32>) -> impl Strategy<Value = Vec<i32>> {
    let ends = prop::sample::select(vec![*range.start(), *range.end()]);
    prop_oneof![
        prop::collection::vec(range, 32),
        prop::collection::vec(ends.clone(), 32),
        ends.prop_map(|x| vec![x; 32])
    ]
}

fn cases() -> impl Strategy<Value = (WeightFormat, Vec<Vec<i32>>, Vec<Vec<i32>>)> {
    let format = prop::sample::select(vec![WeightFormat::Q8_0, WeightFormat::Q4_0, WeightFormat::Q4_1]);
    format.prop_flat_map(|format| {
        let weights = prop::collection::vec(of(codes(format)), 1..70);
        let rows = prop::collection::vec(of(-32_512..=32_512), 1..9);
        (Just(format), weights, rows)
    })
}

proptest! {
    #![proptest_config(tries(64))]

    #[test]
    fn sums_are_integers((format, weights, mut rows) in cases()) {
        // The largest code makes a step of 1.
        rows.iter_mut().for_each(|row| row[31] = if row[31] < 0 { -32_512 } else { 32_512 });
        let bytes: Vec<u8> = weights.iter().flat_map(|codes| block(format, codes)).collect();
        let mut weight = Weight::zeroed(format, weights.len(), 32).unwrap();
        weight.part().pack(0, &bytes).unwrap();
        let x: Vec<f32> = rows.iter().flatten().map(|&x| x as f32).collect();
        let exact: Vec<f32> = rows
            .iter()
            .flat_map(|x| weights.iter().map(|w| x.iter().zip(w).map(|(&x, &w)| x * w).sum::<i32>() as f32))
            .collect();
        for isa in Isa::available() {
            let kernels = Kernels::new(isa);
            let rounded = Rounded::new(kernels, ActivationKind::Quantized, &x, rows.len(), 32);
            let y = product(kernels, &weight, rounded.rows(0..rows.len(), 32), rows.len());
            prop_assert_eq!(&y, &exact, "{} {}", isa, format);
        }
    }
}
