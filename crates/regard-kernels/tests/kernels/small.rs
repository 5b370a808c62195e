//! Whole heads of few keys against softmax attention in f64.

use half::{bf16, f16};
use proptest::prelude::*;
use rand::RngExt;
use regard_kernels::{Bf16, Error, F32, Kernels, Number, SmallHead, Transposable};
use regard_memory::{Ahead, Rows, RowsMut};
use regard_oracle::{Attention, Precision, Sizes, largest, largest_error, widen, within_twice_plain};
use regard_simd::Isa;

use crate::problem::Problem;
use crate::support::{seeded, tries};

/// Softmax weights of degree 5 are within 2.3 ULP.
const WEIGHT: f64 = 2.3 / 8_388_608.0;
/// Those of degree 3 are off by 1e-4 and rounding, then they are rounded to 8 bits.
const BF16_WEIGHT: f64 = 1.1e-4 + 1.0 / 256.0;

/// What stands between rows, and must stay.
const GAP: f32 = -77.0;

/// A matrix whose rows lie apart.
fn spaced<T: Number>(numbers: &[f32], cols: usize, gap: usize) -> Vec<T> {
    let mut data = Vec::new();
    for row in numbers.chunks(cols.max(1)) {
        data.extend(row.iter().map(|&x| T::from_f32(x)));
        data.resize(data.len() + gap, T::from_f32(GAP));
    }
    data
}

/// How a problem is laid before the kernel.
#[derive(Clone, Copy, Debug)]
struct Manner {
    /// Whether rows that keep all keys are said to.
    masked: bool,
    /// Elements between rows.
    gap: usize,
    /// The rows that are asked for.
    rows: (usize, usize),
}

/// Results `[rows][d_v]` and log-sum-exps of some rows of a problem.
fn attend<E: Transposable, T: Number>(problem: &Problem, isa: Isa, manner: Manner) -> (Vec<f32>, Vec<f32>) {
    let Problem { d_k, d_v, keys, scale, .. } = *problem;
    let Manner { masked, gap, rows: (from, until) } = manner;
    let rows = until - from;
    let q = spaced::<T>(&problem.q[from * d_k..until * d_k], d_k, gap);
    let (k, v) = (spaced::<T>(&problem.k, d_k, gap), spaced::<T>(&problem.v, d_v, gap));
    let live: Vec<u64> = problem.live[from..until].concat();
    let mut scratch = vec![f32::NAN; SmallHead::<E>::words(keys, d_k, d_v)];
    let mut out = spaced::<T>(&vec![GAP; rows * d_v], d_v, gap);
    let mut lse = vec![GAP; rows * (1 + gap)];
    let (q, k) = (Rows::new(&q, rows, d_k, d_k + gap).unwrap(), Rows::new(&k, keys, d_k, d_k + gap).unwrap());
    let v = Rows::new(&v, keys, d_v, d_v + gap).unwrap();
    let mut ahead = Ahead::default();
    [q, k, v].into_iter().for_each(|rows| ahead.read(rows));
    SmallHead::<E>::new(Kernels::new(isa), k, v, &mut scratch)
        .unwrap()
        .attend(
            q,
            (f64::from(scale) * std::f64::consts::LOG2_E) as f32,
            masked.then_some(&live[..]),
            RowsMut::new(&mut out, rows, d_v, d_v + gap).unwrap(),
            Some(RowsMut::new(&mut lse, rows, 1, 1 + gap).unwrap()),
            &mut ahead,
        )
        .unwrap();
    let (mut results, mut gaps) = (Vec::new(), Vec::new());
    if d_v > 0 {
        for row in out.chunks(d_v + gap) {
            results.extend(row[..d_v].iter().map(|x| x.to_f32()));
            gaps.extend(row[d_v..].iter().map(|x| x.to_f32()));
        }
    }
    let lses = lse.chunks(1 + gap).map(|row| row[0]).collect();
    gaps.extend(lse.chunks(1 + gap).flat_map(|row| &row[1..]));
    assert!(gaps.iter().all(|&x| x == GAP), "{isa}: between the rows stands somebody else's");
    (results, lses)
}

type Run = fn(&Problem, Isa, Manner) -> (Vec<f32>, Vec<f32>);

/// An operand with a type of numbers, what these hold, what results are off by in storage, and weights relatively.
fn kinds() -> [(Run, Precision, f64, f64); 4] {
    let half = |bits: i32| 2f64.powi(-bits - 1);
    [
        (attend::<F32, f32>, Precision::F32, 0.0, WEIGHT),
        (attend::<F32, f16>, Precision::F16, half(10), WEIGHT),
        (attend::<F32, bf16>, Precision::Bf16, half(7), WEIGHT),
        (attend::<Bf16, bf16>, Precision::Bf16, half(7), BF16_WEIGHT),
    ]
}

#[derive(Clone, Debug)]
struct Case {
    problem: Problem,
    kind: usize,
    masked: bool,
    gap: usize,
}

impl Case {
    fn everything(&self) -> Manner {
        Manner { masked: self.masked, gap: self.gap, rows: (0, self.problem.rows) }
    }

    fn judge(&self) -> Result<(), TestCaseError> {
        let (run, _, storage, weight) = kinds()[self.kind];
        for isa in Isa::available() {
            let (out, lse) = run(&self.problem, isa, self.everything());
            self.problem.check(isa, &out, &lse, weight, storage)?;
        }
        Ok(())
    }
}

fn cases() -> impl Strategy<Value = Case> {
    // Whole vectors of values are read where they stand.
    let dim = || prop_oneof![3 => 0..70_usize, 2 => (0..5_usize).prop_map(|vectors| 16 * vectors), 1 => 100..140_usize];
    let shape = (0..90_usize, (dim(), dim()), prop_oneof![4 => 0..140_usize, 1 => 200..300_usize]);
    (shape, 0..kinds().len(), any::<bool>(), 0..3_usize, -1..=1, any::<u64>()).prop_map(
        |((rows, dims, keys), kind, masked, gap, sign, seed)| {
            let mut problem = Problem::random(rows, dims, keys, kinds()[kind].1, seed);
            // Mostly positive; a negative one turns the order of scores around, and 0 makes them equal.
            let turned = seeded(seed).random_range(0..4) == 0;
            problem.scale *= if turned { sign as f32 } else { 1.0 };
            if !masked {
                problem.keep_all();
            }
            Case { problem, kind, masked, gap }
        },
    )
}

proptest! {
    #![proptest_config(tries(192))]

    #[test]
    fn are_softmax_attention(case in cases()) {
        case.judge()?;
    }

    /// NaN in a key or value is seen by the rows that keep it, and by no other.
    #[test]
    fn nan_is_seen_where_it_is_kept(mut case in cases(), at in any::<prop::sample::Index>(), in_key in any::<bool>()) {
        let problem = &mut case.problem;
        let numbers = if in_key { &mut problem.k } else { &mut problem.v };
        prop_assume!(!numbers.is_empty());
        let at = at.index(numbers.len());
        numbers[at] = f32::NAN;
        case.judge()?;
    }

    /// An infinity in a key is a score of −∞, which is as good as none, or of +∞, which is NaN.
    #[test]
    fn infinite_keys_are_scores_like_others(mut case in cases(), at in any::<prop::sample::Index>(), sign in any::<bool>()) {
        let problem = &mut case.problem;
        prop_assume!(!problem.k.is_empty() && problem.scale != 0.0);
        let at = at.index(problem.k.len());
        problem.k[at] = if sign { f32::INFINITY } else { f32::NEG_INFINITY };
        case.judge()?;
    }

    /// A row's bits depend neither on the rows beside it, nor on where rows lie.
    #[test]
    fn rows_are_alone(case in cases(), a in any::<prop::sample::Index>(), b in any::<prop::sample::Index>(), gap in 0..20_usize) {
        let Case { problem, kind, masked, .. } = &case;
        let (a, b) = (a.index(problem.rows + 1), b.index(problem.rows + 1));
        let (from, until) = (a.min(b), a.max(b));
        let bits = |x: &[f32]| -> Vec<u32> { x.iter().map(|x| x.to_bits()).collect() };
        for isa in Isa::available() {
            let run = kinds()[*kind].0;
            let (out, lse) = run(problem, isa, case.everything());
            let (some, some_lse) = run(problem, isa, Manner { masked: *masked, gap, rows: (from, until) });
            prop_assert_eq!(bits(&some), bits(&out[from * problem.d_v..until * problem.d_v]), "{}", isa);
            prop_assert_eq!(bits(&some_lse), bits(&lse[from..until]), "{}", isa);
        }
    }
}

/// The largest error is at most twice the plain method's.
#[test]
fn rounding_is_that_of_the_plain_method() {
    for (keys, dim) in [(16, 32), (77, 64), (128, 32), (30, 5), (1, 64)] {
        for scale in [1.0 / (dim as f32).sqrt(), 0.77] {
            let rows = 48;
            let mut random = seeded(keys as u64);
            let mut numbers = |n: usize| -> Vec<f32> { (0..n).map(|_| random.random_range(-2.0..2.0)).collect() };
            let (q, k, v) = (numbers(rows * dim), numbers(keys * dim), numbers(keys * dim));
            let live = vec![vec![u64::MAX; keys.div_ceil(64)]; rows];
            let problem = Problem { rows, d_k: dim, d_v: dim, keys, scale, q, k, v, live };
            let sizes = Sizes { batch: 1, heads: 1, kv_heads: 1, queries: rows, keys, dim_k: dim, dim_v: dim };
            let (q, k, v) = (widen(&problem.q), widen(&problem.k), widen(&problem.v));
            let scale = Some(f64::from(scale));
            let call = Attention { sizes, q: &q, k: &k, v: &v, scale, ..Attention::default() };
            let (exact, plain) = (call.exact(), call.plain(Precision::F32, Precision::F32));
            for isa in Isa::available() {
                let (out, lse) = attend::<F32, f32>(&problem, isa, Manner { masked: false, gap: 0, rows: (0, rows) });
                let judge = |name, ours: &[f32], exact: &[f64], plain: &[f64], most| {
                    let (error, floor) = (largest_error(plain, exact), Precision::F32.ulp(most));
                    let verdict = within_twice_plain(ours, exact, error, floor);
                    assert!(verdict.is_ok(), "{isa}, {keys} keys of {dim}, {name}: {}", verdict.unwrap_err());
                };
                judge("out", &out, &exact.out, &plain.out, largest(&problem.v));
                judge("lse", &lse, &exact.lse, &plain.lse, call.largest_score());
            }
        }
    }
}

#[test]
fn shapes_are_named() {
    let kernels = Kernels::new(Isa::best());
    let length = |name, has, expected| Err(Error::Length { name, has, expected });
    let data = vec![1.0f32; 65 * 4];
    let rows = |n, d| Rows::new(&data, n, d, d).unwrap();
    let words = SmallHead::<F32>::words(65, 4, 3);
    let mut scratch = vec![0.0; words];
    let mut new = |values, from| {
        SmallHead::<F32>::new::<f32>(kernels, rows(65, 4), rows(values, 3), &mut scratch[from..]).map(|_| ())
    };
    assert_eq!(new(64, 0), length("values", 64, 65));
    assert_eq!(new(65, 1), length("scratch", words - 1, words));
    assert_eq!(usize::MAX, SmallHead::<F32>::words(usize::MAX / 2, 64, 64));

    let mut head = SmallHead::<F32>::new(kernels, rows(65, 4), rows(65, 3), &mut scratch).unwrap();
    let (mut out, mut lse) = ([0.0f32; 12], [0.0; 6]);
    let mut attend = |q, live: usize, (out_rows, out_cols), (lse_rows, lse_cols)| {
        let bits = [u64::MAX; 8];
        let out = RowsMut::new(&mut out, out_rows, out_cols, out_cols).unwrap();
        let lse = RowsMut::new(&mut lse, lse_rows, lse_cols, lse_cols).unwrap();
        head.attend(q, 1.0, Some(&bits[..live]), out, Some(lse), &mut Ahead::default())
    };
    assert_eq!(attend(rows(3, 4), 6, (3, 3), (3, 1)), Ok(()));
    assert_eq!(attend(rows(3, 5), 6, (3, 3), (3, 1)), length("query", 5, 4));
    assert_eq!(attend(rows(3, 4), 5, (3, 3), (3, 1)), length("live bits", 5, 6));
    assert_eq!(attend(rows(3, 4), 6, (2, 3), (3, 1)), length("rows of out", 2, 3));
    assert_eq!(attend(rows(3, 4), 6, (3, 4), (3, 1)), length("row of out", 4, 3));
    assert_eq!(attend(rows(3, 4), 6, (3, 3), (2, 1)), length("rows of lse", 2, 3));
    assert_eq!(attend(rows(3, 4), 6, (3, 3), (3, 2)), length("row of lse", 2, 1));
}
