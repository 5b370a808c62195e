//! Linear layers against sums of products of the weights that the file defines.

use proptest::prelude::*;
use regard_kernels::{Activation, ActivationKind, Epilogue, Kernels};
use regard_memory::RowsMut;
use regard_simd::Isa;

use crate::support::{Layer, ROUNDING, Rounded, Stored, kinds, layers, numbers, seeded, tries};

/// A product of one row and one output, and how far off it may be.
fn dot(kind: ActivationKind, x: &[f32], weights: &[[f64; 2]]) -> (f64, f64) {
    let (mut exact, mut off, mut magnitude) = (0.0, f64::from(f32::MIN_POSITIVE), 0.0);
    for (x, weights) in x.chunks(32).zip(weights.chunks(32)) {
        let largest = x.iter().fold(0.0, |most: f64, x| most.max(f64::from(x.abs())));
        for (&x, &[scaled, minimum]) in x.iter().zip(weights) {
            let (x, weight) = (f64::from(x), scaled + minimum);
            exact += x * weight;
            off += match kind {
                ActivationKind::F32 => 0.0,
                // Both sides are rounded to 8 bits, so off by at most 2⁻⁸.
                ActivationKind::Bf16 => (x * weight).abs() * (2f64.powi(-7) + 2f64.powi(-16)),
                ActivationKind::Quantized => weight.abs() * 0.51 * largest / 32_512.0,
                ActivationKind::Bytes => weight.abs() * 0.5001 * largest / 127.0,
            };
            magnitude += x.abs() * (scaled.abs() + minimum.abs());
        }
    }
    // One sum after the other, or twice a block; pairs of bf16 round twice, and so do scales and what they scale.
    let in_blocks = matches!(kind, ActivationKind::Quantized | ActivationKind::Bytes);
    let summed = if in_blocks { 2 * x.len() / 32 } else { x.len() };
    (exact, off + magnitude * (2 * summed + 8) as f64 * ROUNDING)
}

/// The product, stored over garbage or added to what is there, within a wider matrix.
fn is_the_definition(layer: Layer, kind: ActivationKind) -> Result<(), TestCaseError> {
    let Layer { format, rows, inputs, outputs, seed } = layer;
    let mut random = seeded(seed);
    let stored = Stored::random(&mut random, format, outputs, inputs);
    let weight = stored.packed();
    let x = numbers(&mut random, rows * inputs);
    let stride = outputs + 3;
    let before = numbers(&mut random, rows * stride);
    let bias = numbers(&mut random, outputs);
    let expected: Vec<(f64, f64)> = (0..rows * outputs)
        .map(|at| dot(kind, &x[at / outputs * inputs..][..inputs], stored.output(at % outputs)))
        .collect();
    for isa in Isa::available() {
        let kernels = Kernels::new(isa);
        let rounded = Rounded::new(kernels, kind, &x, rows, inputs);
        let biased = Epilogue { bias: Some(&bias), ..Epilogue::STORE };
        let activated = Epilogue { activation: Some(Activation::Silu), ..Epilogue { add: true, ..biased } };
        for epilogue in [Epilogue::STORE, Epilogue::ADD, biased, activated] {
            let mut y = before.clone();
            let out = RowsMut::new(&mut y, rows, outputs, stride).unwrap();
            kernels.linear(&weight, 0..weight.panels(), rounded.rows(0..rows, inputs), out, epilogue).unwrap();
            for (row, (y, before)) in y.chunks(stride).zip(before.chunks(stride)).enumerate() {
                prop_assert_eq!(&y[outputs..], &before[outputs..], "{}: columns of somebody else", isa);
                for (column, (&y, &before)) in y[..outputs].iter().zip(before).enumerate() {
                    let (mut exact, bound) = expected[row * outputs + column];
                    exact += epilogue.bias.map_or(0.0, |bias| f64::from(bias[column]));
                    // Rounded to f32 after the bias. SiLU's slope is below 1.1, and it is off by 4·10⁻⁶ of what it gives.
                    let mut bound = bound + 2.0 * ROUNDING * exact.abs();
                    if epilogue.activation.is_some() {
                        exact /= 1.0 + (-exact).exp();
                        bound = 1.1 * bound + 4e-6 * exact.abs() + 1e-37;
                    }
                    if epilogue.add {
                        exact += f64::from(before);
                    }
                    let bound = bound + 2.0 * ROUNDING * exact.abs();
                    let error = (f64::from(y) - exact).abs();
                    prop_assert!(
                        error <= bound,
                        "{isa}, {epilogue:?}, ({row}, {column}): {y}, exactly {exact}, off by {error:e} of {bound:e}"
                    );
                }
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(tries(96))]

    #[test]
    fn of_any_shape(layer in layers()) {
        for &kind in kinds(layer.format) {
            is_the_definition(layer, kind)?;
        }
    }

    /// Where little is summed, nothing hides that a number was cut instead of rounded.
    #[test]
    fn of_few_inputs(mut layer in layers()) {
        layer.inputs = if layer.format.is_quantized() { layer.format.block_inputs() } else { 1 + layer.inputs % 3 };
        for &kind in kinds(layer.format) {
            is_the_definition(layer, kind)?;
        }
    }
}
