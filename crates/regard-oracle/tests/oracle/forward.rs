//! What a call says in other words is the same call.

use proptest::prelude::*;
use regard_oracle::{Attended, Bias, Dropout, Gradients, Pair, Precision, Problem, Sequence, Sizes, largest_error};
use regard_oracle::{problems, widen};

use crate::{close, keeps, tries};

/// Both passes in f64.
fn answers(problem: &Problem, keeps: impl Fn(&Pair) -> bool) -> (Attended, Gradients) {
    let (dout, dlse) = (widen(&problem.dout), widen(&problem.dlse));
    problem.define(keeps, |call| (call.exact(), call.gradients(&dout, &dlse)))
}

/// All numbers of both passes.
fn all((attended, gradients): (Attended, Gradients)) -> [(&'static str, Vec<f64>); 7] {
    let Gradients { dq, dk, dv, dbias, dsinks } = gradients;
    let [out, lse] = [attended.out, attended.lse];
    [("out", out), ("lse", lse), ("dq", dq), ("dk", dk), ("dv", dv), ("dbias", dbias), ("dsinks", dsinks)]
}

/// Rows of `[batch, heads, seq, dim]`.
fn rows<T: Copy>(x: &[T], [_, heads, seq, dim]: [usize; 4], batch: usize, range: std::ops::Range<usize>) -> Vec<T> {
    let row = |head| (batch * heads + head) * seq;
    (0..heads).flat_map(|h| x[(row(h) + range.start) * dim..][..range.len() * dim].iter().copied()).collect()
}

proptest! {
    #![proptest_config(tries(100))]

    /// A sequence of a call is the call of its own numbers.
    #[test]
    fn sequences_are_calls(problem in problems()) {
        let whole = problem.define(keeps, |call| call.exact());
        let sizes = problem.sizes;
        let mut live = vec![false; whole.lse.len()];
        for (s, sequence) in problem.sequences.iter().enumerate() {
            let Sequence { batch, queries, keys, offset } = sequence.clone();
            let own = Sizes { batch: 1, queries: queries.len(), keys: keys.len(), ..sizes };
            let part = problem.define(keeps, |call| {
                let of_whole = |pair: &Pair| Pair {
                    sequence: s,
                    batch,
                    query: pair.i + queries.start,
                    key: pair.j + keys.start,
                    ..*pair
                };
                // The bias, written out, of the sequence alone.
                let bias = call.bias.map(|Bias { shape, values }| {
                    let along = |axis: usize, at| if shape[axis] == 1 { 0 } else { at };
                    let index = |h, i, j| {
                        let b = along(0, batch) * shape[1] + along(1, h);
                        (b * shape[2] + along(2, i)) * shape[3] + along(3, j)
                    };
                    let pairs = queries.clone().flat_map(|i| keys.clone().map(move |j| (i, j)));
                    let of_head = |h| pairs.clone().map(move |(i, j)| (h, i, j));
                    let all = (0..sizes.heads).flat_map(of_head);
                    all.map(|(h, i, j)| values[index(h, i, j)]).collect::<Vec<f64>>()
                });
                let shape = [1, own.heads, own.queries, own.keys];
                let keeps = |pair: &Pair| keeps(&of_whole(pair));
                regard_oracle::Attention {
                    sizes: own,
                    q: &rows(call.q, sizes.q(), batch, queries.clone()),
                    k: &rows(call.k, sizes.k(), batch, keys.clone()),
                    v: &rows(call.v, sizes.v(), batch, keys.clone()),
                    sequences: Some(&own.whole(Some(offset))),
                    allows: &|pair| (call.allows)(&of_whole(pair)),
                    bias: bias.as_deref().map(|values| Bias { shape, values }),
                    dropout: call.dropout.map(|dropout| Dropout { keeps: &keeps, ..dropout }),
                    ..call
                }
                .exact()
            });
            prop_assert_eq!(part.out, rows(&whole.out, sizes.out(), batch, queries.clone()));
            prop_assert_eq!(part.lse, rows(&whole.lse, sizes.lse(), batch, queries.clone()));
            for h in 0..sizes.heads {
                live[(batch * sizes.heads + h) * sizes.queries..][queries.clone()].fill(true);
            }
        }
        for row in (0..live.len()).filter(|&row| !live[row]) {
            prop_assert_eq!(whole.lse[row], f64::NEG_INFINITY);
            prop_assert!(whole.out[row * sizes.dim_v..][..sizes.dim_v].iter().all(|&x| x == 0.0));
        }
    }

    /// Heads that share a key/value head are heads with copies of it, and its gradient is the sum of theirs.
    #[test]
    fn groups_are_copies(problem in problems()) {
        let Sizes { batch, heads, kv_heads, keys, dim_k, dim_v, .. } = problem.sizes;
        let group = heads / kv_heads;
        let copies = |x: &[f32], dim: usize| -> Vec<f32> {
            let head = |h: usize| &x[h * keys * dim..][..keys * dim];
            (0..batch * heads).flat_map(|h| head(h / group).iter().copied()).collect()
        };
        let alone = Problem {
            sizes: Sizes { kv_heads: heads, ..problem.sizes },
            k: copies(&problem.k, dim_k),
            v: copies(&problem.v, dim_v),
            ..problem.clone()
        };
        let (attended, mut gradients) = answers(&alone, keeps);
        let summed = |x: &[f64], dim: usize| -> Vec<f64> {
            let head = keys * dim;
            let of = |kv: usize, at: usize| (0..group).map(|h| x[(kv * group + h) * head + at]).sum();
            (0..batch * kv_heads).flat_map(|kv| (0..head).map(move |at| of(kv, at))).collect()
        };
        gradients.dk = summed(&gradients.dk, dim_k);
        gradients.dv = summed(&gradients.dv, dim_v);
        for ((name, ours), (_, theirs)) in all(answers(&problem, keeps)).iter().zip(all((attended, gradients))) {
            close(ours, &theirs, 1e-10).map_err(|what| TestCaseError::fail(format!("{name}: {what}")))?;
        }
    }

    /// What no query sees may hold anything.
    #[test]
    fn what_is_removed_is_never_looked_at(problem in problems()) {
        let sizes = problem.sizes;
        let mut seen = vec![false; sizes.batch * sizes.kv_heads * sizes.keys];
        let bias = problem.bias.clone();
        for (s, sequence) in problem.sequences.iter().enumerate() {
            for (i, query) in sequence.queries.clone().enumerate() {
                for (j, key) in sequence.keys.clone().enumerate() {
                    for head in 0..sizes.heads {
                        let (batch, p) = (sequence.batch, sequence.offset + i as i64);
                        let pair = Pair { sequence: s, batch, head, i, p, j, query, key };
                        let removed = bias.as_ref().is_some_and(|([b, h, q, k], values)| {
                            let at = [(*b, batch), (*h, head), (*q, query), (*k, key)];
                            let index = at.iter().fold(0, |index, &(size, at)| index * size + at.min(size - 1));
                            values[index] == f32::NEG_INFINITY
                        });
                        if problem.allows(&pair) && !removed {
                            let kv = batch * sizes.kv_heads + head / (sizes.heads / sizes.kv_heads);
                            seen[kv * sizes.keys + key] = true;
                        }
                    }
                }
            }
        }
        let mut spoiled = problem.clone();
        for row in (0..seen.len()).filter(|&row| !seen[row]) {
            spoiled.k[row * sizes.dim_k..][..sizes.dim_k].fill(f32::NAN);
            spoiled.v[row * sizes.dim_v..][..sizes.dim_v].fill(f32::INFINITY);
        }
        let ours = answers(&spoiled, keeps);
        prop_assert!(ours.1.dk.iter().chain(&ours.1.dv).all(|x| x.is_finite()));
        for ((name, ours), (_, theirs)) in all(ours).iter().zip(all(answers(&problem, keeps))) {
            prop_assert_eq!(ours, &theirs, "{}", name);
        }
    }

    /// The yardstick is the same formula, and no better and no worse than its precision.
    #[test]
    fn the_plain_method_is_off_by_its_rounding(problem in problems()) {
        let (dout, dlse) = (widen(&problem.dout), widen(&problem.dlse));
        let exact = all(answers(&problem, keeps));
        for (precision, most) in [(Precision::F32, 1e-3), (Precision::Bf16, 0.5)] {
            let plain = problem.define(keeps, |call| {
                let gradients = call.plain_gradients((&dout, &dlse), precision, precision, precision);
                (call.plain(precision, precision), gradients)
            });
            for ((name, plain), (_, exact)) in all(plain).iter().zip(&exact) {
                let largest = exact.iter().filter(|x| x.is_finite()).fold(1f64, |largest, x| largest.max(x.abs()));
                let error = largest_error(plain, exact);
                prop_assert!(error <= most * largest, "{:?} {}: {} of {}", precision, name, error, largest);
                prop_assert!(plain.iter().zip(exact).all(|(a, b)| a.is_finite() == b.is_finite()), "{}", name);
            }
        }
    }
}
