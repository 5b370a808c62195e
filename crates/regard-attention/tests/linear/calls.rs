//! What must hold between calls: parts of a text, later tokens, threads, number types, and calls that cannot be.

use half::{bf16, f16};
use proptest::prelude::*;
use regard_attention::{Direction, Element, LinearAttention};
use regard_oracle::{Precision, Recurrence, numbers};
use regard_simd::Isa;
use regard_threads::Pool;

use crate::support::{Asked, array, bits, calls, part, pool, some, tries};

fn near(a: f32, b: f32, largest: f64) -> bool {
    f64::from((a - b).abs()) <= 32.0 * Precision::F32.ulp(largest)
}

proptest! {
    #![proptest_config(tries(60))]

    /// A text in two parts, and token by token, with the state handed on.
    #[test]
    fn parts_are_the_whole((call, seed) in calls(150), at in any::<proptest::sample::Index>()) {
        prop_assume!(call.tokens > 1 && !call.both);
        let cut = 1 + at.index(call.tokens - 1);
        let steps = if seed.is_multiple_of(2) && call.tokens < 40 { 1 } else { cut };
        for isa in Isa::available() {
            let run = |call: &Recurrence| Asked { call, isa, pool: pool() }.run::<f32>();
            let (whole, end) = run(&call);
            let (mut state, mut first) = (call.state.clone(), 0);
            while first < call.tokens {
                let range = first..call.tokens.min(first + steps);
                let (out, after) = run(&part(&call, range.clone(), state));
                let wide: Vec<f64> = whole.iter().map(|&x| f64::from(x)).collect();
                let same = some(&wide, call.tokens, call.dim_v, range.clone());
                let largest = wide.iter().chain(&call.v).fold(1.0_f64, |most, x| most.max(x.abs()));
                for (a, b) in out.iter().zip(&same) {
                    prop_assert!(near(*a, *b as f32, largest), "{isa}: {a} {b} of {range:?}");
                }
                state = after.iter().map(|&x| f64::from(x)).collect();
                first = range.end;
            }
            let largest = end.iter().fold(1.0_f64, |most, x| most.max(f64::from(x.abs())));
            for (a, b) in state.iter().zip(&end) {
                prop_assert!(near(*a as f32, *b, largest), "{isa}: state {a} {b}");
            }
        }
    }

    /// Whatever later tokens are, and be they no numbers, earlier results keep their bits.
    #[test]
    fn no_later_token_reaches_an_earlier_one((call, seed) in calls(150), at in any::<proptest::sample::Index>()) {
        prop_assume!(call.tokens > 1 && !call.both);
        let token = 1 + at.index(call.tokens - 1);
        let mut other = call.clone();
        let decays = call.decays();
        let spoilt = [f64::from(numbers(seed ^ 9, 1)[0]), f64::NAN, -0.25, 7.5][(seed % 4) as usize];
        let widths = [call.dim_k, call.dim_k, call.dim_v, decays, 1];
        let Recurrence { q, k, v, log_decay, beta, .. } = &mut other;
        for (numbers, width) in [q, k, v, log_decay, beta].into_iter().zip(widths) {
            for head in numbers.chunks_mut((call.tokens * width).max(1)) {
                head[token * width..].iter_mut().for_each(|x| *x = spoilt);
            }
        }
        for isa in Isa::available() {
            let earlier = |call: &Recurrence| {
                let (out, _) = Asked { call, isa, pool: pool() }.run::<f32>();
                let heads = out.chunks(call.tokens * call.dim_v);
                heads.flat_map(|head| bits(&head[..token * call.dim_v])).collect::<Vec<_>>()
            };
            prop_assert_eq!(earlier(&call), earlier(&other), "{}", isa);
        }
    }

    /// Gradients of tokens do not depend on gradients that flow back into earlier results, be they no numbers.
    #[test]
    fn no_earlier_gradient_reaches_a_later_one((call, seed) in calls(150), at in any::<proptest::sample::Index>()) {
        prop_assume!(call.tokens > 1 && !call.both);
        let token = 1 + at.index(call.tokens - 1);
        let dout: Vec<f64> = numbers(seed ^ 7, call.batch * call.results() * call.tokens * call.dim_v)
            .into_iter().map(f64::from).collect();
        let mut other = dout.clone();
        for head in other.chunks_mut(call.tokens * call.dim_v) {
            head[..token * call.dim_v].fill(if seed.is_multiple_of(2) { f64::NAN } else { 3.0 });
        }
        for isa in Isa::available() {
            let later = |dout: &[f64]| {
                let [q, k, v, ..] = Asked { call: &call, isa, pool: pool() }.gradients::<f32>(dout, &[]);
                let of = |numbers: &[f32], width: usize| -> Vec<u32> {
                    numbers.chunks(call.tokens * width).flat_map(|head| bits(&head[token * width..])).collect()
                };
                [of(&q, call.dim_k), of(&k, call.dim_k), of(&v, call.dim_v)]
            };
            prop_assert_eq!(later(&dout), later(&other), "{}", isa);
        }
    }

    #[test]
    fn threads_change_no_bits((call, seed) in calls(150)) {
        let dout: Vec<f64> = numbers(seed ^ 7, call.batch * call.results() * call.tokens * call.dim_v)
            .into_iter().map(f64::from).collect();
        let one = Pool::new(1).unwrap();
        for isa in Isa::available() {
            let with = |pool| {
                let asked = Asked { call: &call, isa, pool };
                let (out, state) = asked.run::<f32>();
                let gradients = asked.gradients::<f32>(&dout, &[]);
                ([bits(&out), bits(&state)], gradients.map(|gradient| bits(&gradient)))
            };
            prop_assert_eq!(with(&one), with(pool()));
        }
    }

    /// Halves are widened, and results rounded once.
    #[test]
    fn halves_are_rounded((call, _) in calls(100)) {
        are_rounded::<bf16>(&call, Precision::Bf16)?;
        are_rounded::<f16>(&call, Precision::F16)?;
    }
}

fn are_rounded<T: Element>(call: &Recurrence, precision: Precision) -> Result<(), TestCaseError> {
    let round = |numbers: &[f64]| numbers.iter().map(|&x| f64::from(precision.round(x as f32))).collect();
    let call = Recurrence { q: round(&call.q), k: round(&call.k), v: round(&call.v), ..call.clone() };
    for isa in Isa::available() {
        let asked = Asked { call: &call, isa, pool: pool() };
        let ((narrow, state), (wide, same)) = (asked.run::<T>(), asked.run::<f32>());
        prop_assert_eq!(bits(&state), bits(&same));
        for (narrow, wide) in narrow.iter().zip(wide) {
            prop_assert!(narrow.to_f32() == precision.round(wide), "{}: {} {}", isa, narrow.to_f32(), wide);
        }
    }
    Ok(())
}

#[test]
fn calls_that_cannot_be() {
    let (q, k, v) = (array(1, (1, 4, 9, 8)), array(2, (1, 2, 9, 8)), array(3, (1, 2, 9, 5)));
    let refused = |call: LinearAttention<'_, f32>| call.run().unwrap_err().to_string();
    let call = || LinearAttention::new(q.view(), k.view(), v.view());
    assert!(call().run().is_ok());
    let other = array(2, (1, 3, 9, 8));
    assert_eq!(
        refused(LinearAttention::new(q.view(), other.view(), v.view())),
        "`queries` has heads 4, expected a number that divides the results' heads, which the 3 states divide"
    );
    let short = array(2, (1, 2, 8, 8));
    assert_eq!(refused(LinearAttention::new(q.view(), short.view(), v.view())), "`keys` has seq 8, expected 9");
    let (decay, beta) = (array(4, (1, 2, 9, 3)), array(5, (1, 2, 9, 1)));
    assert_eq!(refused(call().log_decay(decay.view())), "`log decays` has dim 3, expected 8");
    assert_eq!(refused(call().beta(decay.view())), "`betas` has dim 3, expected 1");
    assert_eq!(
        refused(call().beta(beta.view()).direction(Direction::Both)),
        "linear attention in both directions takes no log decays and no betas: only the plain rule has such a form"
    );
    let state = array(6, (1, 2, 8, 4));
    assert_eq!(refused(call().state(state.view())), "`state` has dim 4, expected 5");
    assert!(refused(call().scale(f64::INFINITY)).starts_with("scale is inf"));
    let flowing = call().backward(k.view(), None).unwrap_err().to_string();
    assert_eq!(flowing, "`gradient of results` has heads 2, expected 4");
}
