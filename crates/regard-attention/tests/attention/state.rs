//! Partial results over disjoint keys, and what they merge to.

use proptest::prelude::*;
use regard_attention::{Shape, State};
use regard_simd::Isa;

use crate::support::{Case, Inputs, Reference, Set, Stored, run, tries};

/// The state over some of a call's keys.
fn over(case: &Case, inputs: &Inputs, keys: &[usize]) -> State {
    let Shape { batch, kv_heads, keys: all, dim_k, dim_v, .. } = case.shape;
    let choose = |x: &[f32], dim: usize| -> Vec<f32> {
        let heads = (0..batch * kv_heads).flat_map(|head| keys.iter().map(move |key| head * all + key));
        heads.flat_map(|row| x[row * dim..][..dim].iter().copied()).collect()
    };
    let part = Inputs { q: inputs.q.clone(), k: choose(&inputs.k, dim_k), v: choose(&inputs.v, dim_v) };
    let mut case = case.clone();
    case.shape.keys = keys.len();
    let outcome = run::<f32>(&case, &part, Isa::best());
    State { out: outcome.out, lse: outcome.lse }
}

fn merged(states: &[&State]) -> State {
    let (first, others) = states.split_first().expect("a state");
    others.iter().fold((*first).clone(), |mut all, state| {
        all.merge(state);
        all
    })
}

fn bits(state: &State) -> (Vec<u32>, Vec<u32>) {
    let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect();
    (bits(&state.out), bits(&state.lse))
}

/// A call, and to which of three parts each key belongs: at random, so that some parts may be empty.
fn divided() -> impl Strategy<Value = (Case, Vec<usize>)> {
    let dim = || prop::sample::select(vec![1, 16, 33]);
    (1..=2_usize, 1..=3_usize, 1..=50_usize, 1..400_usize, dim(), dim(), any::<u64>(), 1..=3_usize).prop_flat_map(
        |(kv_heads, group, queries, keys, dim_k, dim_v, seed, parts)| {
            let shape = Shape { batch: 2, heads: kv_heads * group, kv_heads, queries, keys, dim_k, dim_v };
            (Just(Case::of(shape, Set::Full, seed)), prop::collection::vec(0..parts, keys))
        },
    )
}

proptest! {
    #![proptest_config(tries(40))]

    #[test]
    fn parts_make_the_whole((case, part_of) in divided()) {
        let inputs = case.inputs();
        let parts: [State; 3] = std::array::from_fn(|part| {
            let keys: Vec<usize> = (0..part_of.len()).filter(|&key| part_of[key] == part).collect();
            over(&case, &inputs, &keys)
        });
        let [a, b, c] = &parts;
        let reference = Reference::new(&case, &inputs, f32::PRECISIONS);
        // Whichever come first, and whichever side they are on.
        for whole in [merged(&[a, b, c]), merged(&[c, b, a]), merged(&[a, &merged(&[b, c])])] {
            let outcome = crate::support::Outcome { out: whole.out, lse: whole.lse };
            reference.judge(&outcome).map_err(TestCaseError::fail)?;
        }
    }

    #[test]
    fn the_empty_state_is_neutral((case, _) in divided()) {
        let keys: Vec<usize> = (0..case.shape.keys).collect();
        let state = over(&case, &case.inputs(), &keys);
        let empty = State::empty(state.lse.len(), case.shape.dim_v);
        prop_assert_eq!(bits(&merged(&[&state, &empty])), bits(&state));
        prop_assert_eq!(bits(&merged(&[&empty, &state])), bits(&state));
        prop_assert_eq!(bits(&merged(&[&empty, &empty])), bits(&empty));
        prop_assert_eq!(bits(&over(&case, &case.inputs(), &[])), bits(&empty));
    }
}

#[test]
fn far_scores_neither_overflow_nor_vanish() {
    let state = |out, lse| State { out: vec![out], lse: vec![lse] };
    // e^1000 is no number of f32, and neither is e^−1000.
    assert_eq!(merged(&[&state(3.0, 1000.0), &state(5.0, -1000.0)]), state(3.0, 1000.0));
    assert_eq!(merged(&[&state(3.0, -1000.0), &state(5.0, 1000.0)]), state(5.0, 1000.0));
    let even = merged(&[&state(3.0, -1000.0), &state(5.0, -1000.0)]);
    assert!((even.out[0] - 4.0).abs() < 1e-6 && (even.lse[0] + 1000.0 - 2f32.ln()).abs() < 1e-4, "{even:?}");
}

#[test]
fn nan_stays_in_its_row() {
    let rows = |lse: [f32; 3]| State { out: vec![1.0, 2.0, 3.0], lse: lse.to_vec() };
    for odd in [f32::NAN, f32::INFINITY] {
        for (a, b) in [(rows([0.0, odd, 0.0]), rows([1.0; 3])), (rows([1.0; 3]), rows([0.0, odd, 0.0]))] {
            let state = merged(&[&a, &b]);
            assert_eq!(state.lse.iter().map(|x| x.is_nan()).collect::<Vec<_>>(), [false, true, false], "{odd}");
            assert_eq!(state.out.iter().map(|x| x.is_nan()).collect::<Vec<_>>(), [false, true, false], "{odd}");
        }
    }
    // What a row has seen stays, whatever it is, where nothing is added.
    let nan = rows([0.0, f32::NAN, f32::INFINITY]);
    assert_eq!(bits(&merged(&[&nan, &State::empty(3, 1)])), bits(&nan));
    assert_eq!(bits(&merged(&[&State::empty(3, 1), &nan])), bits(&nan));
}

#[test]
#[should_panic(expected = "states of different shapes")]
fn states_of_different_shapes() {
    State::empty(3, 2).merge(&State::empty(2, 3));
}
