//! Where packed keys, values and queries stand, and how a finished row is written.

use half::{bf16, f16};
use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use regard_kernels::{Bf16, COLUMNS, Ending, Error, F16, F32, Kernels, Number, Operand, PANEL, ROWS, RowState};
use regard_memory::Rows;
use regard_simd::Isa;

use crate::support::{numbers, seeded, tries};

/// How an operand stores a number within the word of its step.
trait Word: Operand<B: std::fmt::Debug + PartialEq> {
    fn word(step: &[f32]) -> Self::B;
}

impl Word for F32 {
    fn word(step: &[f32]) -> f32 {
        step[0]
    }
}

impl Word for F16 {
    fn word(step: &[f32]) -> u16 {
        f16::from_f32(step[0]).to_bits()
    }
}

impl Word for Bf16 {
    fn word(step: &[f32]) -> u32 {
        let half = |k: usize| u32::from(bf16::from_f32(step.get(k).copied().unwrap_or(0.0)).to_bits());
        half(0) | half(1) << 16
    }
}

/// A matrix, of which some rows are packed at once, and at which place.
#[derive(Clone, Copy, Debug)]
struct Packed {
    before: usize,
    rows: usize,
    cols: usize,
    seed: u64,
}

fn packed() -> impl Strategy<Value = Packed> {
    let shape = (0..150_usize, 0..150_usize, 0..140_usize, any::<u64>());
    shape.prop_map(|(before, rows, cols, seed)| Packed { before, rows, cols, seed })
}

fn random<T: Number>(random: &mut ChaCha8Rng, count: usize) -> Vec<T> {
    numbers(random, count).into_iter().map(T::from_f32).collect()
}

fn keys_stand_in_panels<E: Word, T: Number>(case: Packed) -> Result<(), TestCaseError> {
    let Packed { before, rows, cols, seed } = case;
    let n = before + rows;
    let x: Vec<T> = random(&mut seeded(seed), n * cols);
    let steps = cols.div_ceil(E::DEPTH);
    for isa in Isa::available() {
        let mut panels = vec![E::B::default(); n.div_ceil(PANEL) * steps * PANEL];
        let (first, second) = Rows::contiguous(&x, n, cols).unwrap().split_rows_at(before);
        Kernels::new(isa).pack_keys::<E, T>(second, before, &mut panels).unwrap();
        Kernels::new(isa).pack_keys::<E, T>(first, 0, &mut panels).unwrap();
        for key in 0..n {
            let row: Vec<f32> = x[key * cols..][..cols].iter().map(|x| x.to_f32()).collect();
            for (step, row) in row.chunks(E::DEPTH).enumerate() {
                let at = (key / PANEL * steps + step) * PANEL + key % PANEL;
                prop_assert_eq!(&panels[at], &E::word(row), "{}: key {}, step {}", isa, key, step);
            }
        }
    }
    Ok(())
}

fn values_stand_in_rows<E: Word, T: Number>(case: Packed) -> Result<(), TestCaseError> {
    let Packed { before, rows, cols, seed } = case;
    let n = before + rows;
    let mut x: Vec<T> = random(&mut seeded(seed), n * cols);
    let spoiled = seed.is_multiple_of(3) && !x.is_empty();
    if spoiled {
        let at = seed as usize % x.len();
        x[at] = T::from_f32(f32::INFINITY);
    }
    let width = cols.next_multiple_of(COLUMNS);
    for isa in Isa::available() {
        // What stood there before does not shine through, and the element behind the last value becomes 0.
        let mut packed = vec![E::word(&[7.0, 7.0]); n.div_ceil(E::DEPTH) * width];
        let (first, second) = Rows::contiguous(&x, n, cols).unwrap().split_rows_at(before);
        let mut finite = Kernels::new(isa).pack_values::<E, T>(first, 0, &mut packed, width).unwrap();
        finite &= Kernels::new(isa).pack_values::<E, T>(second, before, &mut packed, width).unwrap();
        prop_assert_eq!(finite, !spoiled, "{}", isa);
        for (step, words) in packed.chunks(width.max(1)).enumerate() {
            for (column, word) in words.iter().enumerate() {
                let keys = step * E::DEPTH..((step + 1) * E::DEPTH).min(n);
                let value = |key| if column < cols { T::to_f32(x[key * cols + column]) } else { 0.0 };
                let column_step: Vec<f32> = keys.map(value).collect();
                prop_assert_eq!(word, &E::word(&column_step), "{}: step {}, column {}", isa, step, column);
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(tries(24))]

    #[test]
    fn keys(case in packed()) {
        keys_stand_in_panels::<F32, f32>(case)?;
        keys_stand_in_panels::<F16, f16>(case)?;
        keys_stand_in_panels::<F16, f32>(case)?;
        keys_stand_in_panels::<Bf16, bf16>(case)?;
        keys_stand_in_panels::<Bf16, f32>(case)?;
    }

    #[test]
    fn values(case in packed()) {
        values_stand_in_rows::<F32, f32>(case)?;
        values_stand_in_rows::<F16, f16>(case)?;
        values_stand_in_rows::<F32, bf16>(case)?;
        values_stand_in_rows::<Bf16, bf16>(case)?;
        values_stand_in_rows::<Bf16, f16>(case)?;
    }

    #[test]
    fn queries(cols in 0..140_usize, factor in -3.0..3.0_f32, seed: u64) {
        let x: Vec<f32> = random(&mut seeded(seed), cols);
        for isa in Isa::available() {
            let kernels = Kernels::new(isa);
            let (mut words, mut pairs) = (vec![f32::NAN; cols], vec![u32::MAX; cols.div_ceil(2)]);
            kernels.pack_query::<F32, f32>(&x, factor, &mut words).unwrap();
            kernels.pack_query::<Bf16, f32>(&x, factor, &mut pairs).unwrap();
            let expected: Vec<f32> = x.iter().map(|x| x * factor).collect();
            prop_assert_eq!(&words, &expected, "{}", isa);
            let expected: Vec<u32> = expected.chunks(2).map(Bf16::word).collect();
            prop_assert_eq!(&pairs, &expected, "{}", isa);
        }
    }

    #[test]
    fn finished_rows(d_v in 0..70_usize, row in 0..ROWS, max in -50.0..50.0_f32, sum in 0.5..1e4_f32, seed: u64) {
        let width = d_v.next_multiple_of(COLUMNS);
        let sums: Vec<f32> = random(&mut seeded(seed), ROWS * width);
        let mut state = RowState::default();
        (state.max[row], state.sum[row]) = (max, sum);
        for isa in Isa::available() {
            let mut out = vec![f32::NAN; d_v];
            let lse = Kernels::new(isa).finish(&state, row, &sums, width, Ending::default(), &mut out).unwrap();
            let exact = std::f64::consts::LN_2 * (f64::from(max) + f64::from(sum).log2());
            prop_assert_eq!(lse, exact as f32);
            let factor = 1.0 / sum;
            let expected: Vec<f32> = sums[row * width..][..d_v].iter().map(|x| x * factor).collect();
            prop_assert_eq!(&out, &expected, "{}", isa);
            let mut rounded = vec![bf16::NAN; d_v];
            Kernels::new(isa).finish(&state, row, &sums, width, Ending::default(), &mut rounded).unwrap();
            prop_assert_eq!(&rounded, &expected.iter().copied().map(bf16::from_f32).collect::<Vec<_>>(), "{}", isa);
            let empty = Kernels::new(isa).finish(&RowState::default(), row, &sums, width, Ending::default(), &mut out).unwrap();
            prop_assert_eq!(empty, f32::NEG_INFINITY);
            prop_assert!(out.iter().all(|&x| x == 0.0), "{isa}: no key, no value");
        }
    }
}

#[test]
fn shapes_are_named() {
    let kernels = Kernels::new(Isa::best());
    let x = [1.0_f32; 6];
    let rows = Rows::contiguous(&x, 2, 3).unwrap();
    let error = kernels.pack_keys::<F32, f32>(rows, 63, &mut [0.0; 192]).unwrap_err();
    assert_eq!(error, Error::Length { name: "key panels", has: 192, expected: 384 });
    let error = kernels.pack_values::<Bf16, f32>(rows, 1, &mut [0; 16], 16).unwrap_err();
    assert_eq!(error, Error::Length { name: "values", has: 16, expected: 32 });
    let error = kernels.pack_values::<F32, f32>(rows, 0, &mut [0.0; 64], 8).unwrap_err();
    assert!(matches!(error, Error::Size { name: "value width", has: 8, .. }), "{error}");
    let error = kernels.pack_query::<F32, f32>(&x, 1.0, &mut [0.0; 5]).unwrap_err();
    assert_eq!(error, Error::Length { name: "packed query", has: 5, expected: 6 });
    let error =
        kernels.finish(&RowState::default(), ROWS, &[0.0; 96], 16, Ending::default(), &mut x.clone()).unwrap_err();
    assert!(matches!(error, Error::Size { name: "row", has: ROWS, .. }), "{error}");
}
