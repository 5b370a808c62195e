//! A row's bits depend neither on the other rows, nor on how the work is shared out.

use proptest::prelude::*;
use rand::RngExt;
use regard_kernels::{Epilogue, Kernels, PANEL, Weight};
use regard_memory::RowsMut;
use regard_simd::Isa;

use crate::support::{Layer, Rounded, Stored, kinds, layers, numbers, product, seeded, tries};

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// The whole product, the first panels by one thread and those from `middle` on by another.
fn by_two_threads(kernels: Kernels, weight: &Weight, x: &Rounded, rows: usize, middle: usize) -> Vec<f32> {
    let (outputs, inputs) = (weight.outputs(), weight.inputs());
    let mut y = vec![f32::NAN; rows * outputs];
    let out = RowsMut::contiguous(&mut y, rows, outputs).unwrap();
    let (left, right) = out.split_columns_at((middle * PANEL).min(outputs));
    let work = |panels, out| {
        kernels.linear(weight, panels, x.rows(0..rows, inputs), out, Epilogue::STORE).unwrap();
    };
    std::thread::scope(|scope| {
        scope.spawn(|| work(0..middle, left));
        work(middle..weight.panels(), right);
    });
    y
}

proptest! {
    #![proptest_config(tries(64))]

    #[test]
    fn same_bits(layer in layers()) {
        let Layer { format, rows, inputs, outputs, seed } = layer;
        let mut random = seeded(seed);
        let weight = Stored::random(&mut random, format, outputs, inputs).packed();
        let x = numbers(&mut random, rows * inputs);
        let (a, b) = (random.random_range(0..=rows), random.random_range(0..=rows));
        let some = a.min(b)..a.max(b);
        let middle = random.random_range(0..=weight.panels());
        for &kind in kinds(format) {
            for isa in Isa::available() {
                let kernels = Kernels::new(isa);
                let rounded = Rounded::new(kernels, kind, &x, rows, inputs);
                let whole = bits(&product(kernels, &weight, rounded.rows(0..rows, inputs), rows));
                let shared = by_two_threads(kernels, &weight, &rounded, rows, middle);
                prop_assert_eq!(&bits(&shared), &whole, "{} {:?}: two threads", isa, kind);
                let part = product(kernels, &weight, rounded.rows(some.clone(), inputs), some.len());
                let expected = &whole[some.start * outputs..some.end * outputs];
                prop_assert_eq!(bits(&part), expected, "{} {:?}: rows {:?} of {}", isa, kind, &some, rows);
                if rows > 0 {
                    let row = a.min(rows - 1);
                    // Alone from the start: rounding sees the one row too.
                    let alone = Rounded::new(kernels, kind, &x[row * inputs..][..inputs], 1, inputs);
                    let alone = product(kernels, &weight, alone.rows(0..1, inputs), 1);
                    prop_assert_eq!(bits(&alone), &whole[row * outputs..][..outputs], "{} {:?}: row {}", isa, kind, row);
                }
            }
        }
    }
}
