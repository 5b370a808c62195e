//! The same bits, whatever else is computed beside them.

use half::bf16;
use proptest::prelude::*;
use regard_simd::Isa;
use regard_threads::Pool;

use crate::support::{Case, Inputs, Set, Stored, cases, numbers, run, run_on, tries};

/// One batch entry of a call.
fn entry(case: &Case, inputs: &Inputs, b: usize) -> (Case, Inputs) {
    let part = |x: &[f32]| {
        let len = x.len() / case.shape.batch;
        x[b * len..][..len].to_vec()
    };
    let mut alone = case.clone();
    alone.shape.batch = 1;
    (alone, Inputs { q: part(&inputs.q), k: part(&inputs.k), v: part(&inputs.v) })
}

fn any_threads<T: Stored>(case: &Case, pools: &[Pool]) -> Result<(), TestCaseError> {
    let inputs = case.inputs();
    for isa in Isa::available() {
        let first = run::<T>(case, &inputs, isa).bits();
        for pool in pools {
            let again = run_on::<T>(case, &inputs, isa, pool).bits();
            prop_assert!(again == first, "{} on {} threads", isa, pool.threads());
        }
    }
    Ok(())
}

fn any_batch<T: Stored>(case: &Case) -> Result<(), TestCaseError> {
    let inputs = case.inputs();
    for isa in Isa::available() {
        let together = run::<T>(case, &inputs, isa);
        for b in 0..case.shape.batch {
            let (alone, numbers) = entry(case, &inputs, b);
            let single = run::<T>(&alone, &numbers, isa);
            for (h, i) in (0..case.shape.heads).flat_map(|h| (0..case.shape.queries).map(move |i| (h, i))) {
                let same = together.row(case.shape, b, h, i) == single.row(alone.shape, 0, h, i);
                prop_assert!(same, "{}: batch entry {}, head {}, query {}", isa, b, h, i);
            }
        }
    }
    Ok(())
}

/// Puts other numbers into all tokens from position `first` on.
fn change_from(case: &Case, inputs: &Inputs, first: i64) -> Inputs {
    let [q, k, v, ..] = case.shapes();
    let change = |x: &[f32], [batch, heads, seq, dim]: [usize; 4], offset: i64, seed| {
        let (mut changed, other) = (x.to_vec(), numbers(seed, x.len()));
        for row in 0..batch * heads * seq {
            if (row % seq) as i64 + offset >= first {
                let row = row * dim..(row + 1) * dim;
                changed[row.clone()].iter_mut().zip(&other[row]).for_each(|(x, other)| *x = 100.0 * other);
            }
        }
        changed
    };
    Inputs { q: change(&inputs.q, q, case.offset(), 1), k: change(&inputs.k, k, 0, 2), v: change(&inputs.v, v, 0, 3) }
}

fn no_later_token<T: Stored>(case: &Case, first: i64) -> Result<(), TestCaseError> {
    let inputs = case.inputs();
    let changed = change_from(case, &inputs, first);
    let shape = case.shape;
    for isa in Isa::available() {
        let (before, after) = (run::<T>(case, &inputs, isa), run::<T>(case, &changed, isa));
        for i in (0..shape.queries).filter(|&i| i as i64 + case.offset() < first) {
            for (b, h) in (0..shape.batch).flat_map(|b| (0..shape.heads).map(move |h| (b, h))) {
                let same = before.row(shape, b, h, i) == after.row(shape, b, h, i);
                prop_assert!(same, "{}: query {} of {} {} sees a token from {} on", isa, i, b, h, first);
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(tries(24))]

    #[test]
    fn on_any_number_of_threads(case in cases()) {
        let pools = [1, 1, 3].map(|threads| Pool::new(threads).expect("threads"));
        any_threads::<f32>(&case, &pools)?;
        any_threads::<bf16>(&case, &pools)?;
    }

    #[test]
    fn alone_or_in_any_batch(mut case in cases(), batch in 2..=4_usize) {
        case.shape.batch = batch;
        any_batch::<f32>(&case)?;
        any_batch::<bf16>(&case)?;
    }

    #[test]
    fn causally(mut case in cases(), place in 0.0..1.0) {
        case.set = Set::Causal & case.set;
        let first = case.offset() + (place * case.shape.queries as f64) as i64;
        no_later_token::<f32>(&case, first)?;
        no_later_token::<bf16>(&case, first)?;
    }
}
