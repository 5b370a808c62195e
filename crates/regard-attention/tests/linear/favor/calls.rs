//! What must hold between calls: parts of a text, later tokens, threads, number types, states, and weights that are too small.

use half::{bf16, f16};
use proptest::prelude::*;
use regard_attention::{Element, FavorFeatures};
use regard_oracle::{Favor, Precision, numbers, widen};
use regard_simd::Isa;
use regard_threads::Pool;

use super::exact::are_near;
use super::{Asked, calls, flowing};
use crate::support::{bits, pool, some, tries};

fn causal(most: usize) -> impl Strategy<Value = (Favor, u64)> {
    calls(most).prop_map(|(call, seed)| (Favor { both: false, ..call }, seed))
}

/// The call of some tokens, after this state.
fn part(call: &Favor, range: std::ops::Range<usize>, (state, before): (Vec<f64>, Vec<f64>)) -> Favor {
    let of = |numbers: &[f64], width| some(numbers, call.tokens, width, range.clone());
    let (q, k, v) = (of(&call.q, call.dim_k), of(&call.k, call.dim_k), of(&call.v, call.dim_v));
    Favor { tokens: range.len(), q, k, v, state, before, ..call.clone() }
}

/// What two parts made, head after head.
fn joined(first: &[f32], second: &[f32], width: usize, (cut, tokens): (usize, usize)) -> Vec<f32> {
    let heads = first.chunks(cut * width).zip(second.chunks((tokens - cut) * width));
    heads.flat_map(|(first, second)| [first, second].concat()).collect()
}

/// A factor that makes exponents far larger than all others.
const LOUD: f64 = 40.0;

/// Writes over the numbers of the tokens of a range, or makes them loud.
fn spoil(numbers: &mut [f64], tokens: usize, width: usize, range: std::ops::Range<usize>, with: f64) {
    for head in numbers.chunks_mut(tokens * width) {
        head[range.start * width..range.end * width]
            .iter_mut()
            .for_each(|x| *x = if with == LOUD { LOUD * *x } else { with });
    }
}

/// The bits of the tokens of a range.
fn bits_of(numbers: &[f32], tokens: usize, width: usize, range: std::ops::Range<usize>) -> Vec<u32> {
    numbers.chunks(tokens * width).flat_map(|head| bits(&head[range.start * width..range.end * width])).collect()
}

proptest! {
    #![proptest_config(tries(30))]

    /// A text in two parts: the state is handed on, and its gradient back.
    #[test]
    fn parts_are_the_whole((call, seed) in causal(150), at in any::<proptest::sample::Index>()) {
        prop_assume!(call.tokens > 1);
        let &Favor { tokens, dim_k, dim_v, .. } = &call;
        let cut = 1 + at.index(tokens - 1);
        let (dout, dafter) = flowing(&call, seed);
        let of_part = |range| some(&dout, tokens, dim_v, range);
        for isa in Isa::available() {
            let first = part(&call, 0..cut, (call.state.clone(), call.before.clone()));
            let first = Asked::new(&first, seed, isa, pool());
            let (first_out, (sums, exponents)) = first.run::<f32>();
            let second = part(&call, cut..tokens, (widen(&sums), widen(&exponents)));
            let second = Asked::new(&second, seed, isa, pool());
            let (second_out, after) = second.run::<f32>();
            let [q, k, v, between] = second.gradients::<f32>(&of_part(cut..tokens), &dafter);
            let [first_q, first_k, first_v, before] = first.gradients::<f32>(&of_part(0..cut), &widen(&between));
            let join = |first: &[f32], second: &[f32], width| joined(first, second, width, (cut, tokens));
            let of = [join(&first_q, &q, dim_k), join(&first_k, &k, dim_k), join(&first_v, &v, dim_v), before];
            are_near(isa, &call, (&dout, &dafter), &(join(&first_out, &second_out, dim_v), after, of))?;
        }
    }

    /// Whatever later tokens are, and be they no numbers or of far larger exponents, earlier results and the gradients of their
    /// queries keep their bits.
    #[test]
    fn no_later_token_reaches_an_earlier_one((call, seed) in causal(150), at in any::<proptest::sample::Index>()) {
        prop_assume!(call.tokens > 1);
        let &Favor { tokens, dim_k, dim_v, .. } = &call;
        let token = 1 + at.index(tokens - 1);
        let (dout, dafter) = flowing(&call, seed);
        let (mut other, mut other_dout) = (call.clone(), dout.clone());
        let with = [f64::NAN, LOUD, f64::INFINITY, -0.25][(seed % 4) as usize];
        let Favor { q, k, v, .. } = &mut other;
        for (numbers, width) in [(q, dim_k), (k, dim_k), (v, dim_v), (&mut other_dout, dim_v)] {
            spoil(numbers, tokens, width, token..tokens, with);
        }
        for isa in Isa::available() {
            let earlier = |call: &Favor, dout: &[f64]| {
                let asked = Asked::new(call, seed, isa, pool());
                let ((out, _), [q, ..]) = (asked.run::<f32>(), asked.gradients::<f32>(dout, &dafter));
                [bits_of(&out, tokens, dim_v, 0..token), bits_of(&q, tokens, dim_k, 0..token)]
            };
            prop_assert_eq!(earlier(&call, &dout), earlier(&other, &other_dout), "{}", isa);
        }
    }

    /// Nor do earlier queries, and what flows back into their results, reach the gradients of later tokens.
    #[test]
    fn no_earlier_query_reaches_a_later_gradient((call, seed) in causal(150), at in any::<proptest::sample::Index>()) {
        prop_assume!(call.tokens > 1);
        let &Favor { tokens, dim_k, dim_v, .. } = &call;
        let token = 1 + at.index(tokens - 1);
        let (dout, dafter) = flowing(&call, seed);
        let (mut other, mut other_dout) = (call.clone(), dout.clone());
        let with = [f64::NAN, LOUD, f64::NEG_INFINITY, 0.75][(seed % 4) as usize];
        spoil(&mut other.q, tokens, dim_k, 0..token, with);
        spoil(&mut other_dout, tokens, dim_v, 0..token, with);
        for isa in Isa::available() {
            let later = |call: &Favor, dout: &[f64]| {
                let [q, k, v, _] = Asked::new(call, seed, isa, pool()).gradients::<f32>(dout, &dafter);
                [(q, dim_k), (k, dim_k), (v, dim_v)].map(|(of, width)| bits_of(&of, tokens, width, token..tokens))
            };
            prop_assert_eq!(later(&call, &dout), later(&other, &other_dout), "{}", isa);
        }
    }

    #[test]
    fn threads_change_no_bits((call, seed) in calls(150)) {
        let (dout, dafter) = flowing(&call, seed);
        let one = Pool::new(1).unwrap();
        for isa in Isa::available() {
            let with = |pool| {
                let asked = Asked::new(&call, seed, isa, pool);
                let (out, (sums, exponents)) = asked.run::<f32>();
                let gradients = asked.gradients::<f32>(&dout, &dafter);
                ([out, sums, exponents].map(|x| bits(&x)), gradients.map(|x| bits(&x)))
            };
            prop_assert_eq!(with(&one), with(pool()), "{}", isa);
        }
    }

    /// Halves are widened, results rounded once, and gradients not at all.
    #[test]
    fn halves_are_widened((call, seed) in calls(100)) {
        are_widened::<bf16>(&call, seed, Precision::Bf16)?;
        are_widened::<f16>(&call, seed, Precision::F16)?;
    }

    /// A state that has seen no key is none, and has no gradient.
    #[test]
    fn an_empty_state_is_none((call, seed) in calls(100)) {
        prop_assume!(call.tokens > 0);
        let states = call.batch * call.kv_heads;
        let sums = states * call.directions.len() / call.dim_k * (call.dim_v + 1);
        let none = Favor { state: vec![], before: vec![], ..call.clone() };
        let empty = Favor { state: vec![0.0; sums], before: vec![f64::NEG_INFINITY; states], ..call.clone() };
        let (dout, dafter) = flowing(&call, seed);
        for isa in Isa::available() {
            let made = |call: &Favor| {
                let asked = Asked::new(call, seed, isa, pool());
                let (out, (sums, exponents)) = asked.run::<f32>();
                ([out, sums, exponents], asked.gradients::<f32>(&dout, &dafter))
            };
            prop_assert_eq!(made(&none), made(&empty), "{}", isa);
            prop_assert!(made(&empty).1[3].iter().all(|&x| x == 0.0), "{}", isa);
        }
    }
}

fn are_widened<T: Element>(call: &Favor, seed: u64, precision: Precision) -> Result<(), TestCaseError> {
    let round =
        |numbers: &[f64]| -> Vec<f64> { numbers.iter().map(|&x| f64::from(precision.round(x as f32))).collect() };
    let call = Favor { q: round(&call.q), k: round(&call.k), v: round(&call.v), ..call.clone() };
    let (dout, dafter) = flowing(&call, seed);
    let dout = round(&dout);
    for isa in Isa::available() {
        let asked = Asked::new(&call, seed, isa, pool());
        let ((narrow, state), (wide, same)) = (asked.run::<T>(), asked.run::<f32>());
        prop_assert_eq!(state, same);
        for (narrow, wide) in narrow.iter().zip(wide) {
            prop_assert!(narrow.to_f32() == precision.round(wide), "{}: {} {}", isa, narrow.to_f32(), wide);
        }
        let (narrow, wide) = (asked.gradients::<T>(&dout, &dafter), asked.gradients::<f32>(&dout, &dafter));
        prop_assert_eq!(narrow.map(|x| bits(&x)), wide.map(|x| bits(&x)), "{}", isa);
    }
    Ok(())
}

/// Queries that look where no key is: their results are 0, and nothing flows through them, be it no number.
#[test]
fn no_weight_has_no_gradient() {
    let tokens = 150;
    // Directions of both signs: far out, queries have the one feature and keys the other.
    let seed =
        (0..).find(|&seed| FavorFeatures::new(1, 2, seed).unwrap().rows().iter().product::<f32>() < -0.2).unwrap();
    let directions = widen(FavorFeatures::new(1, 2, seed).unwrap().rows());
    let lost = |token: usize| token % 3 == 1;
    let mut call =
        Favor { batch: 1, heads: 1, kv_heads: 1, tokens, dim_k: 1, dim_v: 3, directions, ..Favor::default() };
    call.scale = 1.0;
    call.k = numbers(1, tokens).iter().map(|x| -300.0 + f64::from(x.abs())).collect();
    call.q = numbers(2, tokens).iter().map(|x| f64::from(x.abs())).collect();
    call.q.iter_mut().enumerate().for_each(|(token, x)| *x = if lost(token) { 300.0 + *x } else { -*x });
    call.v = widen(&numbers(3, tokens * 3));
    let dout = widen(&numbers(4, tokens * 3));
    let mut other = dout.clone();
    other.chunks_mut(3).enumerate().filter(|(token, _)| lost(*token)).for_each(|(_, row)| row.fill(f64::NAN));
    for both in [false, true] {
        let call = Favor { both, ..call.clone() };
        for isa in Isa::available() {
            let asked = Asked::new(&call, seed, isa, pool());
            let (out, _) = asked.run::<f32>();
            let (ours, same) = (asked.gradients::<f32>(&dout, &[]), asked.gradients::<f32>(&other, &[]));
            for token in 0..tokens {
                let result = &out[token * 3..][..3];
                assert_eq!(lost(token), result.iter().all(|&x| x == 0.0), "{isa}: {result:?} of {token}");
                assert!(!lost(token) || ours[0][token] == 0.0, "{isa}: {} of {token}", ours[0][token]);
            }
            assert!(ours.iter().flatten().all(|x| x.is_finite()), "{isa}");
            assert_eq!(ours.map(|x| bits(&x)), same.map(|x| bits(&x)), "{isa}");
        }
    }
}

/// However little a query's weights are, its gradients and those of the keys that it sees are numbers; and where they are too little,
/// there is none.
#[test]
fn little_weight_has_gradients_that_are_numbers() {
    let tokens = 40;
    let seed =
        (0..).find(|&seed| FavorFeatures::new(1, 2, seed).unwrap().rows().iter().product::<f32>() < -0.2).unwrap();
    let directions = widen(FavorFeatures::new(1, 2, seed).unwrap().rows());
    let mut call =
        Favor { batch: 1, heads: 1, kv_heads: 1, tokens, dim_k: 1, dim_v: 3, directions, ..Favor::default() };
    call.scale = 1.0;
    call.v = widen(&numbers(3, tokens * 3));
    let dout: Vec<f64> = numbers(4, tokens * 3).iter().map(|&x| 1e6 * f64::from(x)).collect();
    let mut seen = [0, 0];
    // Further and further apart: the weights become nothing, one after the other.
    for away in (0..240).map(|step| 1.0 + 0.5 * f64::from(step)) {
        call.k = numbers(1, tokens).iter().map(|x| -away - f64::from(x.abs())).collect();
        call.q = numbers(2, tokens).iter().map(|x| away + f64::from(x.abs())).collect();
        for isa in Isa::available() {
            let asked = Asked::new(&call, seed, isa, pool());
            let (out, _) = asked.run::<f32>();
            let gradients = asked.gradients::<f32>(&dout, &[]);
            assert!(out.iter().chain(gradients.iter().flatten()).all(|x| x.is_finite()), "{isa}: {away}");
            for (row, dq) in out.chunks(3).zip(&gradients[0]) {
                let lost = row.iter().all(|&x| x == 0.0);
                assert!(!lost || *dq == 0.0, "{isa}: {dq} at {away}");
                seen[usize::from(lost)] += 1;
            }
        }
    }
    assert!(seen.iter().all(|&count| count > 100), "{seen:?} of both kinds");
}

/// The longest keys are no NaN, wherever they stand.
#[test]
fn keys_of_any_length() {
    let (tokens, dim) = (5, 4);
    let directions = widen(FavorFeatures::new(dim, 8, 5).unwrap().rows());
    let mut call =
        Favor { batch: 1, heads: 1, kv_heads: 1, tokens, dim_k: dim, dim_v: 2, directions, ..Favor::default() };
    (call.q, call.v, call.scale) = (widen(&numbers(1, tokens * dim)), widen(&numbers(3, tokens * 2)), 0.5);
    for (at, both) in [(0, false), (3, false), (0, true)] {
        call.k = widen(&numbers(2, tokens * dim));
        call.k[at * dim..][..dim].fill(1e30);
        let call = Favor { both, ..call.clone() };
        for isa in Isa::available() {
            let (out, (sums, exponents)) = Asked::new(&call, 5, isa, pool()).run::<f32>();
            assert!([out, sums, exponents].iter().flatten().all(|x| x.is_finite()), "{isa}");
        }
    }
}

/// No token leaves the state as it was, and its gradient too; in both directions a state is seen by all.
#[test]
fn a_state_outlasts_a_call_without_tokens() {
    let (batch, heads, count, dim_v) = (1, 2, 24, 5);
    let sums = widen(&numbers(1, batch * heads * count * (dim_v + 1)));
    for both in [false, true] {
        let call = Favor {
            batch,
            heads,
            kv_heads: heads,
            dim_k: 8,
            dim_v,
            directions: vec![0.0; count * 8],
            state: sums.clone(),
            before: widen(&numbers(2, heads)),
            scale: 0.4,
            both,
            ..Favor::default()
        };
        let dafter = widen(&numbers(3, sums.len()));
        for isa in Isa::available() {
            let asked = Asked::new(&call, 3, isa, pool());
            let (out, (after, exponents)) = asked.run::<f32>();
            assert!(out.is_empty() && widen(&after) == call.state && widen(&exponents) == call.before, "{isa}");
            let [.., state] = asked.gradients::<f32>(&[], &dafter);
            assert_eq!(widen(&state), dafter, "{isa}");
        }
    }
}
