//! Shapes that do not fit are errors that name what does not fit, and nothing panics.

use proptest::prelude::*;
use regard_kernels::{
    ActivationBlock, ActivationKind, Activations, Ending, Epilogue, Error, F32, Kernels, QuantizedRows, RowState,
    ScoreTile, Stretch, Weight, WeightFormat,
};
use regard_memory::{Rows, RowsMut};
use regard_simd::Isa;

use crate::support::Rounded;

fn kernels() -> Kernels {
    Kernels::new(Isa::best())
}

/// A product of a weight `[70, 256]` and `x`.
fn linear(
    format: WeightFormat,
    panels: std::ops::Range<usize>,
    x: Activations<'_>,
    out: (usize, usize),
) -> Result<(), Error> {
    let weight = Weight::zeroed(format, 70, 256).unwrap();
    let mut y = vec![0.0; out.0 * out.1];
    let y = RowsMut::contiguous(&mut y, out.0, out.1).unwrap();
    kernels().linear(&weight, panels, x, y, Epilogue::STORE)
}

fn length(name: &'static str, has: usize, expected: usize) -> Result<(), Error> {
    Err(Error::Length { name, has, expected })
}

#[test]
fn products_name_what_does_not_fit() {
    let x = [1.0; 2 * 256];
    let f32 = Rounded::new(kernels(), ActivationKind::F32, &x, 2, 256);
    let bf16 = Rounded::new(kernels(), ActivationKind::Bf16, &x, 2, 256);
    let quantized =
        [ActivationKind::Quantized, ActivationKind::Bytes].map(|kind| Rounded::new(kernels(), kind, &x, 2, 256));
    for format in WeightFormat::ALL {
        for x in [&f32, &bf16] {
            assert_eq!(linear(format, 0..2, x.rows(0..2, 256), (2, 70)), Ok(()));
            assert_eq!(linear(format, 1..2, x.rows(0..2, 256), (2, 6)), Ok(()));
            assert_eq!(linear(format, 1..2, x.rows(0..2, 256), (2, 70)), length("out columns", 70, 6));
            assert_eq!(linear(format, 0..2, x.rows(0..2, 256), (3, 70)), length("out rows", 3, 2));
        }
        assert_eq!(linear(format, 0..2, f32.rows(0..4, 128), (4, 70)), length("activation row", 128, 256));
        assert_eq!(linear(format, 0..2, bf16.rows(0..4, 128), (4, 70)), length("activation row", 64, 128));
        #[allow(clippy::reversed_empty_ranges, reason = "the mistake that is made here")]
        for panels in [0..3, 3..3, 2..1, 0..usize::MAX, usize::MAX..0] {
            let error = linear(format, panels.clone(), f32.rows(0..2, 256), (2, 70)).unwrap_err();
            assert!(matches!(error, Error::Size { name: "last panel", has, .. } if has == panels.end), "{error}");
        }
        for x in &quantized {
            let result = linear(format, 0..2, x.rows(0..2, 256), (2, 70));
            if format.is_quantized() {
                assert_eq!(result, Ok(()));
                assert_eq!(linear(format, 0..2, x.rows(0..4, 128), (4, 70)), length("activation row", 128, 256));
            } else {
                assert!(matches!(result, Err(Error::Size { name: "weight block", has: 1, .. })), "{result:?}");
            }
        }
    }
}

#[test]
fn rounding_names_what_does_not_fit() {
    let x = [1.0; 66];
    let mut blocks = [ActivationBlock::<2>::default(); 3];
    let rows = Rows::contiguous(&x, 2, 33).unwrap();
    let mut pairs = [0; 51];
    let mut round = |rows_of: usize, pairs_of: usize| {
        kernels().round_to_bf16(rows, RowsMut::new(&mut pairs, rows_of, pairs_of, pairs_of).unwrap())
    };
    assert_eq!(round(2, 16), length("bf16 pairs", 16, 17));
    assert_eq!(round(3, 17), length("bf16 rows", 3, 2));
    assert_eq!(round(2, 17), Ok(()));
    assert_eq!(kernels().quantize(rows, &mut blocks), length("activation blocks", 3, 4));
    let rows = Rows::contiguous(&x[..64], 2, 32).unwrap();
    assert_eq!(kernels().quantize(rows, &mut blocks), length("activation blocks", 3, 2));
    assert_eq!(QuantizedRows::new(&blocks, 2, 32).map(|_| ()), length("activation blocks", 3, 2));
    assert_eq!(QuantizedRows::new(&blocks, usize::MAX, 64).map(|_| ()), length("activation blocks", 3, usize::MAX));
    assert!(QuantizedRows::new(&blocks, 3, 31).is_err());
}

/// A view of one row again and again, so often that the size of the result is beyond the address space.
#[test]
fn endless_rows_are_errors() {
    let x = [1.0; 32];
    let rows = Rows::new(&x, 1 << 60, 32, 0).unwrap();
    assert!(kernels().round_to_bf16(rows, RowsMut::new(&mut [], 0, 16, 16).unwrap()).is_err());
    let rows = Rows::new(&[1.0; 64], 1 << 63, 64, 0).map(|rows| kernels().quantize::<2>(rows, &mut []));
    assert!(rows.is_ok_and(|result| result.is_err()));
}

#[test]
fn lookup_names_what_does_not_fit() {
    let weight = Weight::zeroed(WeightFormat::Q8_0, 70, 64).unwrap();
    for row in [70, 128, usize::MAX] {
        let error = kernels().embed(&weight, row, &mut [0.0; 64]).unwrap_err();
        assert!(matches!(error, Error::Size { name: "embedding row", has, .. } if has == row), "{error}");
    }
    assert_eq!(kernels().embed(&weight, 0, &mut [0.0; 63]), length("embedding", 63, 64));
    let none = Weight::zeroed(WeightFormat::F32, 0, 64).unwrap();
    assert!(kernels().embed(&none, 0, &mut [0.0; 64]).is_err());
}

#[test]
fn weights_have_possible_shapes() {
    for format in WeightFormat::ALL {
        for (outputs, inputs) in [(1 << 60, 1 << 20), (usize::MAX, 32), (1, 1 << 60), (usize::MAX, usize::MAX - 31)] {
            assert!(Weight::zeroed(format, outputs, inputs).is_err(), "{format} {outputs} {inputs}");
        }
        assert_eq!(
            format.row_bytes(usize::MAX - 255).is_none(),
            format.block_bytes() > format.block_inputs(),
            "{format}"
        );
        if format.is_quantized() {
            let (block, inputs) = (format.block_inputs(), format.block_inputs() + 1);
            let error = Weight::zeroed(format, 1, inputs).unwrap_err();
            assert!(matches!(error, Error::Size { name: "inputs", has, .. } if has == inputs), "{error}");
            assert!(error.to_string().ends_with(&format!("a whole number of blocks of {block}")), "{error}");
        }
    }
}

proptest! {
    /// Bytes of any length at any row: taken if they are whole rows of the matrix, else an error.
    #[test]
    fn bytes_are_whole_rows(
        format in prop::sample::select(&WeightFormat::ALL[..]),
        (outputs, inputs) in (0..80_usize, 0..3_usize),
        row in prop_oneof![0..90_usize, usize::MAX - 3..=usize::MAX],
        bytes in prop::collection::vec(any::<u8>(), 0..700),
        cut in any::<bool>(),
    ) {
        let inputs = inputs * format.block_inputs();
        let row_bytes = format.row_bytes(inputs).unwrap();
        let whole = bytes.len().checked_div(row_bytes).unwrap_or(0) * row_bytes;
        let bytes = if cut { &bytes[..whole] } else { &bytes };
        let mut weight = Weight::zeroed(format, outputs, inputs).unwrap();
        match weight.part().pack(row, bytes) {
            Ok(()) => {
                prop_assert_eq!(bytes.len(), whole);
                prop_assert!(whole == 0 || row + whole / row_bytes <= outputs);
            }
            Err(Error::Length { name: "weight rows", has, expected }) => {
                prop_assert_eq!((has, expected), (bytes.len(), whole));
                prop_assert!(has != expected);
            }
            Err(Error::Size { name: "weight row", has, .. }) => {
                prop_assert_eq!(has, row);
                prop_assert!(row > outputs || row + whole / row_bytes > outputs);
            }
            Err(error) => prop_assert!(false, "{}", error),
        }
    }
}

#[test]
fn sizes_whose_products_wrap_are_refused() {
    let kernels = kernels();
    let half = 1usize << 63;
    let mut words = vec![0.0f32; ScoreTile::words(64)];
    assert!(ScoreTile::new(&mut words, half).is_err());
    assert!(ScoreTile::new(&mut words, usize::MAX).is_err());

    let mut tile = ScoreTile::new(&mut words, 64).unwrap();
    let (queries, panel) = (vec![0.0f32; 6], vec![0.0f32; 64]);
    for steps in [half + 1, half / 32 + 1, usize::MAX] {
        assert!(
            kernels.score::<F32>(6, steps, &queries, &[Stretch::whole(&panel, 1)], &mut tile).is_err(),
            "{steps} steps"
        );
    }
    kernels.score::<F32>(6, 1, &queries, &[Stretch::whole(&panel, 1)], &mut tile).unwrap();

    let (mut state, mut out) = (RowState::default(), vec![0.0f32; 6 * 16]);
    let values = vec![0.0f32; 64 * 16];
    for (at, keys) in [(usize::MAX - 15, 16), (0, usize::MAX), (16, 49)] {
        let result = kernels.accumulate::<F32>(6, &tile, (at, keys), &values, 16, &mut state, &mut out);
        assert!(result.is_err(), "keys {at} and {keys} more");
    }
    for width in [half / 2, usize::MAX - 15] {
        let result = kernels.accumulate::<F32>(6, &tile, (0, 64), &values, width, &mut state, &mut out);
        assert!(result.is_err(), "width {width}");
    }
    for at in [1, 64, usize::MAX - 15] {
        let result = kernels.accumulate_kept::<F32>(&[1 << 63], &tile, at, &values, 16, &mut state, &mut out);
        assert!(result.is_err(), "a kept key {at} + 63");
    }
    let keys = Rows::contiguous(&queries, 6, 1).unwrap();
    for at in [59, usize::MAX - 5, usize::MAX] {
        assert!(kernels.pack_keys::<F32, f32>(keys, at, &mut panel.clone()).is_err(), "keys from {at}");
        assert!(kernels.pack_values::<F32, f32>(keys, at, &mut panel.clone(), 16).is_err(), "values from {at}");
    }
    assert!(kernels.finish::<f32>(&state, 0, &out, half, Ending::default(), &mut [0.0]).is_err());
}
