//! Score, softmax and accumulate, tile by tile, against softmax attention in f64.

use proptest::prelude::*;
use regard_kernels::{Bf16, Error, F16, F32, Kernels, PANEL, ROWS, RowState, ScoreTile, Stretch};
use regard_oracle::Precision;
use regard_simd::Isa;

use crate::problem::Problem;
use crate::support::tries;

/// Softmax weights of degree 5 are within 2.3 ULP.
const WEIGHT: f64 = 2.3 / 8_388_608.0;
/// Those of degree 3 are off by 1e-4 and rounding, then they are rounded to 8 bits.
const BF16_WEIGHT: f64 = 1.1e-4 + 1.0 / 256.0;

/// What a test does with a problem of an operand that holds numbers of a precision.
fn judge(problem: &Problem, precision: Precision) -> Result<(), TestCaseError> {
    for isa in Isa::available() {
        match precision {
            Precision::F32 => problem.judge::<F32>(isa, WEIGHT)?,
            Precision::F16 => problem.judge::<F16>(isa, WEIGHT)?,
            Precision::Bf16 => problem.judge::<Bf16>(isa, BF16_WEIGHT)?,
        }
    }
    Ok(())
}

fn problems() -> impl Strategy<Value = (Problem, Precision)> {
    let precision = prop::sample::select(vec![Precision::F32, Precision::F16, Precision::Bf16]);
    let shape = (1..=ROWS, (1..140_usize, 1..140_usize), 0..400_usize);
    (precision, shape, any::<u64>()).prop_map(|(precision, (rows, dims, keys), seed)| {
        (Problem::random(rows, dims, keys, precision, seed), precision)
    })
}

proptest! {
    #![proptest_config(tries(128))]

    #[test]
    fn are_softmax_attention((problem, precision) in problems()) {
        judge(&problem, precision)?;
    }

    /// What the mask removes may be anything.
    #[test]
    fn removed_keys_do_not_shine_through((mut problem, precision) in problems(), nan in any::<bool>()) {
        let garbage = if nan { f32::NAN } else { f32::INFINITY };
        for key in 0..problem.keys {
            if (0..problem.rows).all(|row| !problem.keeps(row, key)) {
                problem.k[key * problem.d_k..][..problem.d_k].fill(garbage);
                problem.v[key * problem.d_v..][..problem.d_v].fill(garbage);
            }
        }
        judge(&problem, precision)?;
    }

    /// NaN in a key that is kept is NaN in the rows that keep it, and nowhere else.
    #[test]
    fn kept_nan_is_seen((mut problem, precision) in problems(), at in any::<prop::sample::Index>()) {
        prop_assume!(problem.keys > 0);
        let at = at.index(problem.k.len());
        problem.k[at] = f32::NAN;
        let spoiled = at / problem.d_k;
        for isa in Isa::available() {
            let (out, lse) = match precision {
                Precision::F32 => problem.fold::<F32>(isa),
                Precision::F16 => problem.fold::<F16>(isa),
                Precision::Bf16 => problem.fold::<Bf16>(isa),
            };
            for (row, (out, lse)) in out.chunks(problem.d_v).zip(lse).enumerate() {
                let sees = problem.keeps(row, spoiled);
                prop_assert!(out.iter().all(|y| y.is_nan() == sees), "{isa}: row {row}");
                prop_assert_eq!(lse.is_nan(), sees, "{}: row {}", isa, row);
            }
        }
    }
}

#[test]
fn shapes_are_named() {
    let kernels = Kernels::new(Isa::best());
    let length = |name, has, expected| Err(Error::Length { name, has, expected });
    let mut buffer = vec![0.0; ScoreTile::words(PANEL)];
    let words = buffer.len();
    assert_eq!(ScoreTile::new(&mut buffer[1..], PANEL).map(|_| ()), length("score tile", words - 1, words));
    let mut tile = ScoreTile::new(&mut buffer, PANEL).unwrap();
    let (q, k) = ([1.0; ROWS * 2], [1.0; 2 * 2 * PANEL]);
    let mut score = |rows, q: &[f32], stretches: &[Stretch<'_, F32>]| {
        tile.clear();
        kernels.score::<F32>(rows, 2, q, stretches, &mut tile)
    };
    let (one, two) = (|| Stretch::whole(&k[..128], 1), || Stretch::whole(&k, 2));
    assert_eq!(score(6, &q, &[one()]), Ok(()));
    assert_eq!(score(6, &q[1..], &[one()]), length("queries", 11, 12));
    assert_eq!(score(2, &q, &[Stretch::rim(&k[..128], &[1])]), length("live bits", 1, 2));
    assert_eq!(score(2, &q, &[Stretch::whole(&k[..128], 2)]), length("key panels", 64, 128));
    assert!(matches!(score(0, &q, &[one()]), Err(Error::Size { name: "rows", has: 0, .. })));
    assert!(matches!(score(7, &q, &[one()]), Err(Error::Size { name: "rows", has: 7, .. })));
    assert_eq!(score(2, &q, &[two()]), length("score tile", 80, 128));
    assert_eq!(score(2, &q, &[one(), one()]), length("score tile", 80, 128));

    assert_eq!(kernels.score::<F32>(6, 2, &q, &[one()], &mut tile), Ok(()));
    assert_eq!(tile.columns(), PANEL);
    let (values, mut out) = ([1.0; PANEL * 16], [0.0; ROWS * 16]);
    let accumulate = |at, values: &[f32], width, out: &mut [f32]| {
        kernels.accumulate::<F32>(6, &tile, at, values, width, &mut RowState::default(), out)
    };
    assert_eq!(accumulate((0, 64), &values, 16, &mut out), Ok(()));
    assert_eq!(accumulate((1, 64), &values, 16, &mut out), length("tile columns", 64, 65));
    assert_eq!(accumulate((0, 64), &values[1..], 16, &mut out), length("values", 1023, 1024));
    assert_eq!(accumulate((0, 64), &values, 16, &mut out[1..]), length("out", 95, 96));
    assert!(matches!(accumulate((0, 64), &values, 8, &mut out), Err(Error::Size { name: "value width", has: 8, .. })));
}
