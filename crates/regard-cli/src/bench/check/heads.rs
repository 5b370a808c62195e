//! Gradients of whole key/value heads in f64: a key's gradient is a sum over all queries, so that no part of a head is
//! enough.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use regard_attention::Shape;
use regard_memory::each_of;
use regard_oracle::{Attention, Gradients, Sequence, Sizes, widen};
use regard_threads::Pool;

use super::{MOST_PRODUCTS, bound, largest_error, magnitude, precision, worse};
use crate::bench::answer::Answer;
use crate::bench::case::Case;
use crate::bench::inputs::{Inputs, Stored};
use crate::bench::report::Accuracy;

/// Some heads, and how far off each gradient may be.
pub(super) struct Heads {
    heads: Vec<Head>,
    bounds: [f64; 3],
}

/// A key/value head, one of `[batch · kv_heads]`, with the queries of its group.
#[derive(Default)]
struct Head {
    index: usize,
    exact: Gradients,
    plain: Gradients,
}

/// The gradients, in one order everywhere.
const NAMES: [&str; 3] = ["dq", "dk", "dv"];

fn each(gradients: &Gradients) -> [&[f64]; 3] {
    [&gradients.dq, &gradients.dk, &gradients.dv]
}

impl Heads {
    pub(super) fn new<T: Stored>(case: &Case, inputs: &Inputs<T>, pool: &Pool) -> Self {
        let Shape { queries, keys, dim_k, dim_v, .. } = case.shape;
        let group = case.shape.group();
        let sequences: Vec<_> = case
            .stretches()
            .into_iter()
            .map(|(queries, keys)| {
                let offset = keys.len() as i64 - queries.len() as i64;
                Sequence { batch: 0, queries, keys, offset }
            })
            .collect();
        let mut heads: Vec<Head> = sample(case).into_iter().map(|index| Head { index, ..Head::default() }).collect();
        let solve = |index: usize, exactly: bool| {
            let queries_of = |numbers: &[T], dim: usize| {
                let len = group * queries * dim;
                widen(&numbers[index * len..][..len])
            };
            let keys_of = |numbers: &[T], dim: usize| widen(&numbers[index * keys * dim..][..keys * dim]);
            let head = Attention {
                sizes: Sizes { batch: 1, heads: group, kv_heads: 1, queries, keys, dim_k, dim_v },
                q: &queries_of(&inputs.q, dim_k),
                k: &keys_of(&inputs.k, dim_k),
                v: &keys_of(&inputs.v, dim_v),
                sequences: Some(&sequences),
                allows: &|pair| case.keep.keeps(pair.p, pair.j as i64),
                ..Attention::default()
            };
            let (dout, dlse) = (queries_of(&inputs.grad, dim_v), vec![0.0; group * queries]);
            let precision = precision(case);
            if exactly {
                head.gradients(&dout, &dlse)
            } else {
                head.plain_gradients((&dout, &dlse), precision, precision, precision)
            }
        };
        let mut both: Vec<(usize, bool, &mut Gradients)> = heads
            .iter_mut()
            .flat_map(|Head { index, exact, plain }| [(*index, true, exact), (*index, false, plain)])
            .collect();
        pool.run(each_of(&mut both), |_, (index, exactly, gradients)| **gradients = solve(*index, *exactly));
        let of = |at: usize| {
            let head = |head: &Head| {
                let (exact, plain) = (each(&head.exact)[at], each(&head.plain)[at]);
                (largest_error(plain, exact), magnitude(exact))
            };
            let most = |a: (f64, f64), b: (f64, f64)| (a.0.max(b.0), a.1.max(b.1));
            let (plain_error, largest) = heads.iter().map(head).fold((0.0, 0.0), most);
            bound(case, plain_error, largest)
        };
        Heads { bounds: std::array::from_fn(of), heads }
    }

    /// The largest error of each gradient; NaN if there is one.
    pub(super) fn judge<T: Copy + Into<f64>>(&self, answer: &Answer<T>) -> [Accuracy; 3] {
        let all = [&answer.dq, &answer.dk, &answer.dv];
        std::array::from_fn(|at| {
            let error = |head: &Head| {
                let exact = each(&head.exact)[at];
                largest_error(&all[at][head.index * exact.len()..], exact)
            };
            Accuracy { of: NAMES[at], error: self.heads.iter().map(error).fold(0.0, worse), bound: self.bounds[at] }
        })
    }
}

/// All heads, or as many as are not too much, the same in every run.
fn sample(case: &Case) -> Vec<usize> {
    let Shape { batch, kv_heads, dim_k, dim_v, .. } = case.shape;
    let pairs: usize = case.stretches().iter().map(|(queries, keys)| queries.len() * keys.len()).sum();
    let all = batch * kv_heads;
    let most = (MOST_PRODUCTS / (pairs * case.shape.group() * (4 * dim_k + 3 * dim_v))).clamp(1, all);
    let mut generator = ChaCha8Rng::seed_from_u64(all as u64);
    let mut heads: Vec<usize> = (0..all).collect();
    (0..most).for_each(|at| heads.swap(at, generator.random_range(at as u64..all as u64) as usize));
    heads.truncate(most);
    heads.sort_unstable();
    heads
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::case::parse;

    fn case(changes: &str) -> Case {
        let text = format!(
            r#"[{{"id": "a", "batch": 2, "heads": 4, "kv_heads": 2, "dim": 8, "mask": "causal", "dtype": "f32",
                "backward": true, {changes}}}]"#
        );
        parse(&text).unwrap().remove(0)
    }

    /// The same by the oracle in one piece, which has its own way through heads.
    #[test]
    fn heads_are_those_of_the_whole_and_an_error_in_one_is_found() {
        let case = case(r#""queries": 5, "keys": 9"#);
        let inputs = Inputs::<f32>::random(&case);
        let reference = Heads::new(&case, &inputs, Pool::global());
        let call = Attention {
            sizes: Sizes { batch: 2, heads: 4, kv_heads: 2, queries: 5, keys: 9, dim_k: 8, dim_v: 8 },
            q: &widen(&inputs.q),
            k: &widen(&inputs.k),
            v: &widen(&inputs.v),
            allows: &|pair| pair.j as i64 <= pair.p,
            ..Attention::default()
        };
        let Gradients { dq, dk, dv, .. } = call.gradients(&widen(&inputs.grad), &[0.0; 2 * 4 * 5]);
        let exact = Answer { out: Vec::new(), dq, dk, dv };
        assert!(reference.judge(&exact).iter().all(|accuracy| accuracy.error < 1e-12));
        for at in 0..3 {
            let mut off = exact.clone();
            let tensor = &mut off.tensors_mut()[at + 1][..];
            let last = tensor.len() - 1;
            tensor[last] += 1e-3;
            let judged = reference.judge(&off);
            for (other, accuracy) in judged.iter().enumerate() {
                assert_eq!((accuracy.of, accuracy.is_right()), (NAMES[other], other != at), "{accuracy:?}");
            }
        }
    }

    #[test]
    fn a_sample_has_a_head_at_least_and_all_where_these_are_cheap() {
        assert_eq!(sample(&case(r#""queries": 5, "keys": 9"#)), [0, 1, 2, 3]);
        let dear = case(r#""queries": 50000, "keys": 50000"#);
        assert_eq!((sample(&dear).len(), sample(&dear)), (1, sample(&dear)));
    }
}
