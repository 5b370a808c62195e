//! A packed weight gives back what the file holds, however it was packed; so embedding lookup is exact.

use proptest::prelude::*;
use rand::RngExt;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use regard_kernels::{Kernels, PANEL, Weight, WeightFormat};
use regard_memory::Parts;
use regard_simd::Isa;

use crate::support::{Layer, Stored, layers, seeded, tries};

/// Every row of the weight is what the format says, rounded once.
fn is_the_file(weight: &Weight, stored: &Stored) -> Result<(), TestCaseError> {
    for isa in Isa::available() {
        for output in 0..stored.outputs {
            let mut row = vec![f32::NAN; stored.inputs];
            Kernels::new(isa).embed(weight, output, &mut row).unwrap();
            let exact: Vec<f32> =
                stored.output(output).iter().map(|[scaled, minimum]| (scaled + minimum) as f32).collect();
            prop_assert_eq!(row, exact, "{}: row {}", isa, output);
        }
    }
    Ok(())
}

/// The rows of a range as pieces, in any order.
fn pieces(random: &mut ChaCha8Rng, rows: std::ops::Range<usize>) -> Vec<std::ops::Range<usize>> {
    let mut pieces = Vec::new();
    let mut at = rows.start;
    while at < rows.end {
        let end = random.random_range(at + 1..=rows.end);
        pieces.push(at..end);
        at = end;
    }
    pieces.shuffle(random);
    pieces
}

proptest! {
    #![proptest_config(tries(96))]

    #[test]
    fn in_any_pieces(layer in layers(), panels in 1..4_usize) {
        let Layer { format, inputs, outputs, seed, .. } = layer;
        let mut random = seeded(seed);
        let stored = Stored::random(&mut random, format, outputs, inputs);
        is_the_file(&stored.packed(), &stored)?;
        let row_bytes = format.row_bytes(inputs).unwrap();

        let mut weight = Weight::zeroed(format, outputs, inputs).unwrap();
        for rows in pieces(&mut random, 0..outputs) {
            weight.part().pack(rows.start, &stored.bytes[rows.start * row_bytes..rows.end * row_bytes]).unwrap();
        }
        is_the_file(&weight, &stored)?;

        let mut weight = Weight::zeroed(format, outputs, inputs).unwrap();
        let parts = weight.parts(panels);
        for i in 0..parts.count() {
            // SAFETY: each part is taken once.
            let mut part = unsafe { parts.part(i) };
            prop_assert_eq!(part.rows(), i * panels * PANEL..((i + 1) * panels * PANEL).min(outputs));
            for rows in pieces(&mut random, part.rows()) {
                part.pack(rows.start, &stored.bytes[rows.start * row_bytes..rows.end * row_bytes]).unwrap();
            }
        }
        is_the_file(&weight, &stored)?;
    }
}

#[test]
fn takes_the_bytes_of_whole_panels() {
    for format in WeightFormat::ALL {
        let weight = Weight::zeroed(format, 130, 768).unwrap();
        assert_eq!(weight.bytes(), 192 * format.row_bytes(768).unwrap(), "{format}");
        assert_eq!((weight.format(), weight.outputs(), weight.inputs(), weight.panels()), (format, 130, 768, 3));
        assert_eq!(
            [0..1, 1..3, 3..3, 0..usize::MAX].map(|panels| weight.columns(panels)),
            [0..64, 64..130, 130..130, 0..130]
        );
    }
}

#[test]
fn one_part_has_all_panels_if_it_may() {
    for panels in [3, 1 << 40, 1 << 63, usize::MAX] {
        let mut weight = Weight::zeroed(WeightFormat::Q4_0, 130, 64).unwrap();
        let parts = weight.parts(panels);
        assert_eq!(parts.count(), 1, "{panels}");
        // SAFETY: the one part is taken once.
        assert_eq!(unsafe { parts.part(0) }.rows(), 0..130, "{panels}");
    }
}
