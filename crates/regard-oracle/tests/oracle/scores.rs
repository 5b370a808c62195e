//! Scores at their four stages.

use proptest::prelude::*;
use regard_oracle::{Attention, Bias, Problem, Sizes, Stage, problems};

use crate::{close, keeps, tries};

#[test]
fn stages_by_hand() {
    let values = [0.5, 0.5, 0.5, f64::NEG_INFINITY];
    let slopes = [0.25];
    let call = Attention {
        sizes: Sizes { batch: 1, heads: 1, kv_heads: 1, queries: 2, keys: 4, dim_k: 1, dim_v: 0 },
        q: &[1.0, 2.0],
        k: &[1.0, -3.0, f64::INFINITY, 4.0],
        allows: &|pair| pair.j as i64 <= pair.p,
        scale: Some(0.5),
        softcap: Some(2.0),
        bias: Some(Bias { shape: [1, 1, 1, 4], values: &values }),
        slopes: Some(&slopes),
        ..Attention::default()
    };
    let [low, high] = [2.0 * (-1.5f64).tanh(), 2.0 * 0.5f64.tanh()];
    let none = f64::NEG_INFINITY;
    // The second query, at position 3, twice, and then the first, at 2.
    let rows = |stage| call.scores(stage, 0, 0, &[1, 1, 0]);
    let expect = |stage, second: [f64; 4], first: [f64; 4]| {
        close(&rows(stage), &[second, second, first].concat(), 1e-12).expect("the stage");
    };
    expect(Stage::Raw, [1.0, -3.0, f64::INFINITY, 4.0], [0.5, -1.5, f64::INFINITY, 2.0]);
    let capped = [high, low, 2.0, 2.0 * 2f64.tanh()];
    let first = [2.0 * 0.25f64.tanh(), 2.0 * (-0.75f64).tanh(), 2.0, 2.0 * 1f64.tanh()];
    expect(Stage::Capped, capped, first);
    let masked = [capped[0] + 0.5 - 0.75, capped[1] + 0.5 - 0.5, 2.5 - 0.25, none];
    let first = [first[0] + 0.5 - 0.5, first[1] + 0.5 - 0.25, 2.5, none];
    expect(Stage::Masked, masked, first);
    let softmax = |x: [f64; 4]| x.map(|s| s.exp() / x.iter().map(|s| s.exp()).sum::<f64>());
    expect(Stage::Weights, softmax(masked), softmax(first));
}

proptest! {
    #![proptest_config(tries(60))]

    /// Weights times values are the output, and with the sink's share they sum to one.
    #[test]
    fn weights_make_the_output(problem in problems()) {
        let problem = Problem { dropout: None, ..problem };
        let Sizes { batch, heads, queries, keys, dim_v, .. } = problem.sizes;
        problem.define(keeps, |call| -> Result<(), String> {
            let exact = call.exact();
            let all: Vec<usize> = (0..queries).collect();
            for (b, h) in (0..batch).flat_map(|b| (0..heads).map(move |h| (b, h))) {
                let weights = call.scores(Stage::Weights, b, h, &all);
                let first = (b * problem.sizes.kv_heads + h / (heads / problem.sizes.kv_heads)) * keys;
                for i in 0..queries {
                    let (row, weights) = ((b * heads + h) * queries + i, &weights[i * keys..][..keys]);
                    let out = |c| weights.iter().enumerate().map(|(j, w)| w * call.v[(first + j) * dim_v + c]).sum();
                    close(&exact.out[row * dim_v..][..dim_v], &(0..dim_v).map(out).collect::<Vec<f64>>(), 1e-12)?;
                    let lse = exact.lse[row];
                    let sink = call.sinks.map_or(0.0, |sinks| (sinks[h] - lse).exp());
                    let sum = if lse == f64::NEG_INFINITY { 0.0 } else { 1.0 - sink };
                    close(&[weights.iter().sum()], &[sum], 1e-12)?;
                }
            }
            Ok(())
        })
        .map_err(TestCaseError::fail)?;
    }
}
