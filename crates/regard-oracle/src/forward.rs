//! Softmax attention as its definition reads.

use crate::real::{Real, add};
use crate::{Attention, Precision};

/// What attention gives.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attended {
    /// `[batch, heads, queries, dim_v]`.
    pub out: Vec<f64>,
    /// `[batch, heads, queries]`: the natural logarithm of the sum of exponentials of the scores, and of the sink.
    pub lse: Vec<f64>,
}

impl Attention<'_> {
    /// In f64.
    pub fn exact(&self) -> Attended {
        self.attend::<f64>(|weight| weight, |out| out)
    }

    /// Row at a time in f32, with the weights rounded to one precision, as the standard method does before it multiplies
    /// them with values of that precision, and the result to another: what a careful program does that has no tiles, no
    /// vectors and no tricks.
    pub fn plain(&self, weights: Precision, result: Precision) -> Attended {
        self.attend::<f32>(|weight| weights.round(weight), |out| result.round(out))
    }

    pub(crate) fn attend<F: Real>(&self, weights: impl Fn(F) -> F, result: impl Fn(F) -> F) -> Attended {
        let dim = self.sizes.dim_v;
        let lse = vec![f64::NEG_INFINITY; self.sizes.lse().iter().product()];
        let mut attended = Attended { out: vec![0.0; lse.len() * dim], lse };
        for row in self.rows() {
            let seen = self.seen(&row);
            let scores: Vec<F> = seen.iter().map(|pair| self.score(pair)).collect();
            let sink = self.sink(row.head);
            let max = scores.iter().copied().fold(sink, F::max);
            // Scores of −∞ alone are as good as none.
            let shift = if max == F::neg_infinity() { F::zero() } else { max };
            let mut sum = F::zero();
            let mut out = vec![F::zero(); dim];
            for (pair, &score) in seen.iter().zip(&scores) {
                let weight = weights((score - shift).exp());
                sum += weight;
                add(&mut out, self.kept::<F>(pair) * weight, self.value(pair));
            }
            sum += (sink - shift).exp();
            if sum != F::zero() {
                out.iter_mut().for_each(|out| *out = *out / sum * self.made_up());
            }
            let at = row.index(self.sizes);
            let out = out.into_iter().map(|out| result(out).widen());
            attended.out[at * dim..][..dim].iter_mut().zip(out).for_each(|(to, out)| *to = out);
            attended.lse[at] = (shift + sum.ln()).widen();
        }
        attended
    }

    /// The largest magnitude of any score that counts, bias, slopes and sinks included; 0 where there is none that is
    /// finite.
    pub fn largest_score(&self) -> f64 {
        let rows = self.rows();
        let scores = rows.iter().flat_map(|row| self.seen(row)).map(|pair| self.score::<f64>(&pair));
        let sinks = self.sinks.unwrap_or_default().iter().copied();
        scores.chain(sinks).filter(|score| score.is_finite()).fold(0.0, |largest, score| score.abs().max(largest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Bias, Dropout, Sizes};

    const SIZES: Sizes = Sizes { batch: 1, heads: 1, kv_heads: 1, queries: 2, keys: 3, dim_k: 1, dim_v: 1 };

    fn close(attended: &Attended, out: [f64; 2], lse: [f64; 2]) {
        let near = |a: &[f64], b: [f64; 2]| a.iter().zip(b).all(|(a, b)| *a == b || (a - b).abs() < 1e-12);
        assert!(near(&attended.out, out) && near(&attended.lse, lse), "{attended:?}, expected {out:?} and {lse:?}");
    }

    /// Two queries, three keys, worked out by hand: weights as 1 to 2 to 5.
    #[test]
    fn cases_by_hand() {
        let k = [1f64.ln(), 2f64.ln(), 5f64.ln()];
        let call = Attention {
            sizes: SIZES,
            q: &[1.0, 1.0],
            k: &k,
            v: &[8.0, 16.0, -24.0],
            allows: &|pair| pair.j as i64 <= pair.p,
            ..Attention::default()
        };
        // (8 + 2·16) / 3, and (8 + 2·16 − 5·24) / 8.
        close(&call.exact(), [40.0 / 3.0, -10.0], [3f64.ln(), 8f64.ln()]);
        assert!((call.largest_score() - 5f64.ln()).abs() < 1e-12);

        // A sink of weight 5 makes 3 into 8 and 8 into 13.
        let sinks = [5f64.ln()];
        let with_sink = Attention { sinks: Some(&sinks), ..call };
        close(&with_sink.exact(), [5.0, -80.0 / 13.0], [8f64.ln(), 13f64.ln()]);

        // The second query stands at 2: its weights 1, 2 and 5 are halved for each step.
        let slopes = [2f64.ln()];
        let alibi = Attention { slopes: Some(&slopes), ..call };
        close(&alibi.exact(), [(4.0 + 32.0) / 2.5, (2.0 + 16.0 - 120.0) / 6.25], [2.5f64.ln(), 6.25f64.ln()]);

        // One row of bias for all queries: the first key is removed, the second counts five times.
        let values = [f64::NEG_INFINITY, 5f64.ln(), 0.0];
        let biased = Attention { bias: Some(Bias { shape: [1, 1, 1, 3], values: &values }), ..call };
        close(&biased.exact(), [16.0, (160.0 - 120.0) / 15.0], [10f64.ln(), 15f64.ln()]);

        // The second key is dropped, and the rest is doubled.
        let dropout = Some(Dropout { probability: 0.5, keeps: &|pair| pair.j != 1 });
        let dropped = Attention { dropout, ..call };
        close(&dropped.exact(), [16.0 / 3.0, 2.0 * (8.0 - 120.0) / 8.0], [3f64.ln(), 8f64.ln()]);

        // Scores of −∞ to ∞ become −2 to 2.
        let scores = [f64::NEG_INFINITY, 0.0, f64::INFINITY];
        let capped = Attention { k: &scores, softcap: Some(2.0), ..call }.exact();
        let [low, high] = [(-2f64).exp(), 2f64.exp()];
        let out = [(8.0 * low + 16.0) / (low + 1.0), (8.0 * low + 16.0 - 24.0 * high) / (low + 1.0 + high)];
        close(&capped, out, [(low + 1.0).ln(), (low + 1.0 + high).ln()]);
    }

    #[test]
    fn the_plain_method_is_less_exact_and_rounds() {
        let k = [1f64.ln(), 2f64.ln(), 5f64.ln()];
        let call = Attention { sizes: SIZES, q: &[1.0, 1.0], k: &k, v: &[8.0, 16.0, -24.0], ..Attention::default() };
        let causal = Attention { allows: &|pair| pair.j as i64 <= pair.p, ..call };
        let plain = causal.plain(Precision::F32, Precision::F32);
        assert!((plain.out[1] + 10.0).abs() < 1e-5 && (plain.out[0] - 40.0 / 3.0).abs() < 1e-5);
        assert_eq!(f64::from(plain.out[0] as f32), plain.out[0]);
        // bf16 does not know 40/3.
        assert_eq!(causal.plain(Precision::F32, Precision::Bf16).out[0], 13.3125);
    }

    #[test]
    fn queries_without_keys() {
        let call = Attention { sizes: SIZES, q: &[1.0; 2], k: &[2.0; 3], v: &[3.0; 3], ..Attention::default() };
        let blind = Attention { allows: &|pair| pair.p > 1, ..call };
        close(&blind.exact(), [0.0, 3.0], [f64::NEG_INFINITY, 2.0 + 3f64.ln()]);
        let sinks = [-7.0];
        let with_sink = Attention { sinks: Some(&sinks), ..blind }.exact();
        assert_eq!((with_sink.out[0], with_sink.lse[0]), (0.0, -7.0));
        // A dead query has no sink either.
        let mut second = SIZES.whole(None);
        second[0].queries = 1..2;
        let dead = Attention { sequences: Some(&second), ..Attention { sinks: Some(&sinks), ..call } }.exact();
        assert_eq!((dead.out[0], dead.lse[0]), (0.0, f64::NEG_INFINITY));
    }

    #[test]
    fn odd_numbers() {
        let call = Attention { sizes: SIZES, q: &[1.0; 2], v: &[1.0, 2.0, 3.0], ..Attention::default() };
        let causal = Attention { allows: &|pair| pair.j as i64 <= pair.p, ..call };
        for odd in [f64::NAN, f64::INFINITY] {
            // Only the second query sees the third key.
            let attended = Attention { k: &[0.0, 0.0, odd], ..causal }.exact();
            assert_eq!((attended.out[0], attended.lse[0]), (1.5, 2f64.ln()));
            assert!(attended.out[1].is_nan() && attended.lse[1].is_nan(), "{attended:?}");
            let values = [odd];
            let bias = Some(Bias { shape: [1; 4], values: &values });
            assert!(Attention { k: &[0.0; 3], bias, ..causal }.exact().lse.iter().all(|lse| lse.is_nan()));
        }
        // What a bias of −∞ removes is not looked at.
        let values = [0.0, 0.0, f64::NEG_INFINITY];
        let bias = Some(Bias { shape: [1, 1, 1, 3], values: &values });
        let removed = Attention { k: &[0.0, 0.0, f64::NAN], bias, ..causal };
        close(&removed.exact(), [1.5; 2], [2f64.ln(); 2]);
        // A score of −∞ weighs nothing, and alone it is as good as none.
        let nothing = Attention { k: &[f64::NEG_INFINITY; 3], ..causal };
        close(&nothing.exact(), [0.0; 2], [f64::NEG_INFINITY; 2]);
    }

    #[test]
    #[should_panic(expected = "numbers of k")]
    fn numbers_that_do_not_fit_the_sizes() {
        Attention { sizes: SIZES, q: &[1.0; 2], k: &[1.0; 2], v: &[1.0; 3], ..Attention::default() }.exact();
    }
}
