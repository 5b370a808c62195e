//! Keys and values in bytes: the numbers that they stand for, and softmax attention over these.

use half::bf16;
use proptest::prelude::*;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use regard_kernels::{COLUMNS, Ending, Error, Int8, Kernels, Number, PANEL, ROWS, RowState, ScoreTile, Stretch};
use regard_memory::Rows;
use regard_oracle::Precision;
use regard_simd::Isa;

use crate::problem::Problem;
use crate::support::{seeded, tries};

/// Softmax weights of degree 5 are within 2.3 ULP.
const WEIGHT: f64 = 2.3 / 8_388_608.0;

/// Rows of very different magnitudes, some of them zeros.
fn rows(random: &mut ChaCha8Rng, rows: usize, dim: usize) -> Vec<f32> {
    let row = |_| {
        let magnitude = [0.0, 1e-38, 1e-3, 1.0, 1.0, 300.0][random.random_range(0..6)];
        (0..dim).map(|_| magnitude * random.random_range(-1.0..1.0)).collect::<Vec<f32>>()
    };
    (0..rows).flat_map(row).collect()
}

/// Packed keys `[panels][d_k][PANEL]` as numbers `[keys][d_k]`.
fn codes_of_keys(panels: &[i8], keys: usize, dim: usize) -> Vec<i8> {
    let code = |i: usize| panels[(i / dim / PANEL * dim + i % dim) * PANEL + i / dim % PANEL];
    (0..keys * dim).map(code).collect()
}

/// Packs rows as keys and as values, in two calls, and gives the codes of both, `[rows][dim]`, with their scales.
fn pack<T: Number>(kernels: Kernels, data: &[T], dim: usize, cut: usize) -> [(Vec<i8>, Vec<f32>); 2] {
    let n = data.len() / dim;
    let (panels, width) = (n.div_ceil(PANEL), dim.next_multiple_of(COLUMNS));
    let (mut keys, mut values) = (vec![99; panels * dim * PANEL], vec![99; n * width]);
    let (mut key_scales, mut value_scales) = (vec![-1.0; n], vec![-1.0; n]);
    let (first, second) = Rows::contiguous(data, n, dim).unwrap().split_rows_at(cut);
    for (rows, at) in [(first, 0), (second, cut)] {
        kernels.pack_keys_int8(rows, at, &mut keys, &mut key_scales).unwrap();
        kernels.pack_values_int8(rows, at, &mut values, width, &mut value_scales).unwrap();
    }
    assert!(values.chunks(width).all(|row| row[dim..].iter().all(|&code| code == 0)), "padding");
    let values = values.chunks(width).flat_map(|row| row[..dim].to_vec()).collect();
    [(codes_of_keys(&keys, n, dim), key_scales), (values, value_scales)]
}

fn judge_packing<T: Number>(numbers: &[f32], dim: usize, cut: usize) -> Result<(), TestCaseError> {
    let data: Vec<T> = numbers.iter().map(|&x| T::from_f32(x)).collect();
    for isa in Isa::available() {
        for (codes, scales) in pack(Kernels::new(isa), &data, dim, cut) {
            for ((row, codes), scale) in data.chunks(dim).zip(codes.chunks(dim)).zip(scales) {
                let row: Vec<f64> = row.iter().map(|x| f64::from(x.to_f32())).collect();
                let most = row.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
                if row.iter().any(|x| !x.is_finite()) {
                    prop_assert!(scale.is_nan() && codes.iter().all(|&code| code == 0), "{isa}: {scale}");
                } else if scale == 0.0 {
                    prop_assert!(most < 127.0 * f64::from(f32::MIN_POSITIVE) && codes.iter().all(|&code| code == 0));
                } else {
                    let scale = f64::from(scale);
                    prop_assert!((scale * 127.0 / most - 1.0).abs() < 1e-6, "{isa}: {scale} for {most}");
                    for (x, &code) in row.iter().zip(codes) {
                        let off = (x / scale - f64::from(code)).abs();
                        prop_assert!(off < 0.5001, "{isa}: {code} for {}", x / scale);
                    }
                }
            }
        }
    }
    Ok(())
}

/// A problem's keys and values in bytes, folded tile by tile, and the problem of what they stand for.
fn fold(problem: &Problem, isa: Isa) -> (Problem, Vec<f32>, Vec<f32>) {
    let Problem { rows, d_k, d_v, keys, scale, .. } = *problem;
    let (kernels, panels, width) = (Kernels::new(isa), keys.div_ceil(PANEL), d_v.next_multiple_of(COLUMNS));
    let (mut packed_keys, mut packed_values) = (vec![99; panels * d_k * PANEL], vec![99; panels * PANEL * width]);
    // What stands behind the last key must not count.
    let (mut key_scales, mut value_scales) = (vec![f32::NAN; panels * PANEL], vec![f32::NAN; panels * PANEL]);
    let (k, v) = (Rows::contiguous(&problem.k, keys, d_k).unwrap(), Rows::contiguous(&problem.v, keys, d_v).unwrap());
    kernels.pack_keys_int8(k, 0, &mut packed_keys, &mut key_scales).unwrap();
    kernels.pack_values_int8(v, 0, &mut packed_values, width, &mut value_scales).unwrap();

    let stands_for = |code: i8, scale: f32| f32::from(code) * scale;
    let mut stored = problem.clone();
    let codes = codes_of_keys(&packed_keys, keys, d_k);
    stored.k = codes.iter().enumerate().map(|(i, &code)| stands_for(code, key_scales[i / d_k])).collect();
    stored.v =
        (0..keys * d_v).map(|i| stands_for(packed_values[i / d_v * width + i % d_v], value_scales[i / d_v])).collect();

    let mut queries = vec![0.0; ROWS * d_k];
    queries[..rows * d_k].copy_from_slice(&problem.q);
    let mut buffer = vec![f32::NAN; ScoreTile::words(2 * PANEL)];
    let mut tile = ScoreTile::new(&mut buffer, 2 * PANEL).unwrap();
    let (mut state, mut sums) = (RowState::default(), vec![0.0; ROWS * width]);
    let mut panel = 0;
    while panel < panels {
        let full = |panel: usize| problem.live.iter().all(|row| row.get(panel) == Some(&u64::MAX));
        let together = if full(panel) && full(panel + 1) { 2 } else { 1 };
        let bits: Vec<u64> = problem.live.iter().map(|row| row[panel]).collect();
        let here = panel * PANEL..(panel + together) * PANEL;
        let some = &packed_keys[here.start * d_k..here.end * d_k];
        let is_full = full(panel);
        let stretch = if is_full { Stretch::<Int8>::whole(some, together) } else { Stretch::rim(some, &bits) };
        let seen = stretch.columns();
        let bits: Vec<u64> = bits.iter().map(|row| row.unbounded_shr(seen.start as u32)).collect();
        let live = (!is_full).then_some(&bits[..]);
        let here = here.start + seen.start..here.start + seen.end;
        tile.clear();
        kernels.score::<Int8>(rows, d_k, &queries, &[stretch], &mut tile).unwrap();
        let columns = (0, tile.columns());
        tile.forget_maxima();
        kernels.scale_scores(rows, &key_scales[here.clone()], live, columns, &mut tile).unwrap();
        kernels.softmax::<Int8>(rows, scale * std::f32::consts::LOG2_E, &mut tile, &mut state).unwrap();
        kernels.scale_weights::<Int8>(rows, &value_scales[here.clone()], live, columns, &mut tile).unwrap();
        let values = &packed_values[here.start * width..here.end * width];
        kernels.accumulate::<Int8>(rows, &tile, columns, values, width, &mut state, &mut sums).unwrap();
        panel += together;
    }
    let mut out = vec![f32::NAN; rows * d_v];
    let finish = |row: usize| {
        let out = &mut out[row * d_v..][..d_v];
        kernels.finish(&state, row, &sums, width, Ending::default(), out).unwrap()
    };
    let lse = (0..rows).map(finish).collect();
    (stored, out, lse)
}

fn problems() -> impl Strategy<Value = Problem> {
    let shape = (1..=ROWS, (1..140_usize, 1..140_usize), 0..400_usize);
    (shape, any::<u64>()).prop_map(|((rows, dims, keys), seed)| Problem::random(rows, dims, keys, Precision::F32, seed))
}

proptest! {
    #![proptest_config(tries(96))]

    #[test]
    fn stand_for_their_numbers(n in 1..150_usize, dim in 1..150_usize, cut in any::<prop::sample::Index>(), seed in any::<u64>()) {
        let numbers = rows(&mut seeded(seed), n, dim);
        let cut = cut.index(n + 1);
        judge_packing::<f32>(&numbers, dim, cut)?;
        judge_packing::<bf16>(&numbers, dim, cut)?;
    }

    #[test]
    fn a_number_that_is_not_finite_spoils_its_row_alone(n in 1..40_usize, dim in 1..100_usize, at in any::<prop::sample::Index>(), seed in any::<u64>()) {
        let mut random = seeded(seed);
        let mut numbers = rows(&mut random, n, dim);
        let at = at.index(numbers.len());
        numbers[at] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][random.random_range(0..3)];
        judge_packing::<f32>(&numbers, dim, 0)?;
    }

    #[test]
    fn are_attended_to(problem in problems()) {
        for isa in Isa::available() {
            let (stored, out, lse) = fold(&problem, isa);
            stored.check(isa, &out, &lse, WEIGHT, 0.0)?;
        }
    }

    /// A key or a value that is not finite is NaN for the rows that keep it, and for no other.
    #[test]
    fn nan_is_seen_where_it_is_kept(mut problem in problems(), at in any::<prop::sample::Index>(), in_key in any::<bool>()) {
        let numbers = if in_key { &mut problem.k } else { &mut problem.v };
        prop_assume!(!numbers.is_empty());
        let at = at.index(numbers.len());
        numbers[at] = f32::NAN;
        let spoiled = at / if in_key { problem.d_k } else { problem.d_v };
        for isa in Isa::available() {
            let (stored, out, lse) = fold(&problem, isa);
            stored.check(isa, &out, &lse, WEIGHT, 0.0)?;
            for (row, out) in out.chunks(problem.d_v).enumerate() {
                let sees = problem.keeps(row, spoiled);
                prop_assert!(out.iter().all(|y| y.is_nan() == sees), "{isa}: row {row}");
            }
        }
    }
}

#[test]
fn shapes_are_named() {
    let kernels = Kernels::new(Isa::best());
    let length = |name, has, expected| Err(Error::Length { name, has, expected });
    let data = [1.0f32; 3 * 20];
    let rows = Rows::contiguous(&data, 3, 20).unwrap();
    let (mut bytes, mut scales) = ([0; 2 * 20 * PANEL], [0.0; 2 * PANEL]);
    let mut keys = |at, bytes_from: usize, scales: usize| {
        let scales = &mut [0.0; 2 * PANEL][..scales];
        kernels.pack_keys_int8(rows, at, &mut bytes[bytes_from..], scales)
    };
    assert_eq!(keys(62, 0, 65), Ok(()));
    assert_eq!(keys(62, 1, 65), length("key panels", 2559, 2560));
    assert_eq!(keys(62, 0, 64), length("key scales", 64, 65));
    assert!(matches!(keys(usize::MAX, 0, 64), Err(Error::Length { .. })));
    let mut values = |at, len, width, count: usize| {
        kernels.pack_values_int8(rows, at, &mut [0; 200][..len], width, &mut scales[..count])
    };
    assert_eq!(values(2, 160, 32, 5), Ok(()));
    assert_eq!(values(2, 159, 32, 5), length("values", 159, 160));
    assert_eq!(values(2, 160, 32, 4), length("value scales", 4, 5));
    assert!(matches!(values(0, 200, 16, 5), Err(Error::Size { name: "value width", has: 16, .. })));
    assert!(matches!(values(0, 200, 33, 5), Err(Error::Size { name: "value width", has: 33, .. })));

    let mut buffer = vec![0.0; ScoreTile::words(PANEL)];
    let mut tile = ScoreTile::new(&mut buffer, PANEL).unwrap();
    let stretch = Stretch::<Int8>::whole(&bytes[..20 * PANEL], 1);
    kernels.score::<Int8>(2, 20, &[1.0; ROWS * 20], &[stretch], &mut tile).unwrap();
    let scales = [1.0; PANEL];
    for of_weights in [false, true] {
        let mut scale = |rows, scales: &[f32], live: Option<&[u64]>, columns| match of_weights {
            false => kernels.scale_scores(rows, scales, live, columns, &mut tile),
            true => kernels.scale_weights::<Int8>(rows, scales, live, columns, &mut tile),
        };
        assert_eq!(scale(2, &scales[..32], Some(&[1, 1]), (16, 31)), Ok(()));
        assert_eq!(scale(2, &scales[..31], Some(&[1, 1]), (16, 31)), length("scales", 31, 32));
        assert_eq!(scale(2, &scales, Some(&[1]), (16, 31)), length("live bits", 1, 2));
        assert_eq!(scale(2, &scales, None, (16, 49)), length("tile columns", 64, 65));
        assert!(matches!(scale(2, &scales, None, (8, 8)), Err(Error::Size { name: "first column", has: 8, .. })));
        assert!(matches!(scale(7, &scales, None, (0, 8)), Err(Error::Size { name: "rows", has: 7, .. })));
    }
}
