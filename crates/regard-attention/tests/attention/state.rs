//! Partial results over disjoint keys, and what they merge to.

use half::bf16;
use ndarray::Array4;
use proptest::prelude::*;
use regard_attention::{Attention, Error, State, merge};
use regard_masks::Mask;
use regard_oracle::{Problem, Set, problems};
use regard_simd::Isa;

use crate::support::{Asked, Forward, Outcome, Stored, calls, tries};

fn state<T: Stored>(problem: &Problem) -> State {
    let Outcome { out, lse } = Asked::new(problem, Isa::best()).run::<T, f32>();
    State { out, lse }
}

/// The state over those of a call's keys whose part of it this is.
fn part<T: Stored>(problem: &Problem, part_of: &[usize], part: usize) -> State {
    let mine = Set::KeySet(part_of.iter().map(|&of| of == part).collect());
    state::<T>(&Problem { set: problem.set.clone() & mine, ..problem.clone() })
}

fn merged(states: &[&State]) -> State {
    let (first, others) = states.split_first().expect("a state");
    others.iter().fold((*first).clone(), |mut all, state| {
        all.merge(state).expect("states of one shape");
        all
    })
}

fn bits(state: &State) -> (Vec<u32>, Vec<u32>) {
    let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect();
    (bits(&state.out), bits(&state.lse))
}

/// A call without dropout, and to which of three parts each key belongs: at random, so that some parts may be empty. Sinks
/// are no part of any state.
fn divided() -> impl Strategy<Value = (Problem, Vec<usize>)> {
    (prop_oneof![2 => problems(), 1 => calls()], 1..=3_usize).prop_flat_map(|(problem, parts)| {
        let keys = problem.sizes.keys;
        (Just(Problem { dropout: None, ..problem }), prop::collection::vec(0..parts, keys))
    })
}

fn make_the_whole<T: Stored>(problem: &Problem, part_of: &[usize]) -> Result<(), TestCaseError> {
    let whole = &problem.rounded(T::PRECISIONS.stored);
    let keys = Problem { sinks: None, ..whole.clone() };
    let [a, b, c] = &[0, 1, 2].map(|number| part::<T>(&keys, part_of, number));
    // A state of no value, at the end: rows of no sequence have no sink either.
    let sizes = problem.sizes;
    let mut end = State::empty(a.lse.len(), sizes.dim_v);
    for pair in problem.sequences.iter().flat_map(|of| of.queries.clone().map(|query| (of.batch, query))) {
        for (head, sink) in problem.sinks.iter().flatten().enumerate() {
            end.lse[(pair.0 * sizes.heads + head) * sizes.queries + pair.1] = *sink;
        }
    }
    let reference = Forward::new(whole, T::PRECISIONS);
    // Whichever come first, and whichever side they are on.
    for order in [merged(&[a, b, c]), merged(&[c, b, a]), merged(&[a, &merged(&[b, c])])] {
        let State { out, lse } = merged(&[&order, &end]);
        reference.judge_wide(&Outcome { out, lse }).map_err(TestCaseError::fail)?;
    }
    prop_assert_eq!(bits(&merged(&[a, b])), bits(&merged(&[b, a])), "either way round");
    Ok(())
}

proptest! {
    #![proptest_config(tries(40))]

    #[test]
    fn parts_make_the_whole((problem, part_of) in divided()) {
        make_the_whole::<f32>(&problem, &part_of)?;
        make_the_whole::<bf16>(&problem, &part_of)?;
    }

    #[test]
    fn the_empty_state_is_neutral((problem, _) in divided()) {
        let state = state::<f32>(&problem);
        let empty = State::empty(state.lse.len(), problem.sizes.dim_v);
        prop_assert_eq!(bits(&merged(&[&state, &empty])), bits(&state));
        prop_assert_eq!(bits(&merged(&[&empty, &state])), bits(&state));
        prop_assert_eq!(bits(&merged(&[&empty, &empty])), bits(&empty));
        let nothing = Problem { set: !Set::Full, sinks: None, ..problem };
        prop_assert_eq!(bits(&self::state::<f32>(&nothing)), bits(&empty));
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
fn states_of_different_shapes_are_not_merged() {
    let mut state = State { out: vec![1.0; 6], lse: vec![2.0; 3] };
    let axis = |axis, has, expected: usize| {
        Err(Error::Axis { tensor: "state to be merged", axis, has, expected: expected.to_string() })
    };
    for (other, error) in [
        (State::empty(2, 3), axis("rows", 2, 3)),
        (State::empty(3, 1), axis("numbers", 3, 6)),
        (State { out: vec![0.0; 7], lse: vec![0.0; 3] }, axis("numbers", 7, 6)),
    ] {
        assert_eq!(state.merge(&other), error);
    }
    assert_eq!(state, State { out: vec![1.0; 6], lse: vec![2.0; 3] });
    let mut row = [1.0; 2];
    assert_eq!(merge(&mut row, 0.0, &[5.0; 3], 1.0), axis("dim", 3, 2).map(|()| 0.0));
    assert_eq!(row, [1.0; 2]);
}

/// States of f64 arrays are merged in f64.
#[test]
fn in_double_precision() {
    let wave =
        |seed: f64| Array4::from_shape_fn((1, 2, 9, 4), |(_, h, i, c)| ((h * 36 + i * 4 + c) as f64 * seed).sin());
    let (q, k, v) = (wave(0.7), wave(1.3), wave(2.1));
    let of = |mask: &Mask| {
        let (out, lse) = Attention::new(q.view(), k.view(), v.view()).mask(mask.clone()).state().expect("a state");
        State { out: out.into_raw_vec_and_offset().0, lse: lse.into_raw_vec_and_offset().0 }
    };
    let window = Mask::window(Some(1), Some(2));
    let mut merged = State::<f64>::empty(18, 4);
    for mask in [&window, &!window.clone()] {
        merged.merge(&of(mask)).expect("states of one shape");
    }
    let whole = of(&Mask::full());
    for (ours, exact) in [(&merged.out, &whole.out), (&merged.lse, &whole.lse)] {
        assert!(ours.iter().zip(exact).all(|(a, b)| (a - b).abs() < 1e-14), "{ours:?} and {exact:?}");
    }
}
