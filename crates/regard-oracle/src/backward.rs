//! The gradients of attention as textbooks have them.

use crate::real::{Real, add, dot};
use crate::{Attended, Attention, Precision};

/// The gradients of `Σ dout·out + Σ dlse·lse`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gradients {
    /// `[batch, heads, queries, dim_k]`.
    pub dq: Vec<f64>,
    /// `[batch, kv_heads, keys, dim_k]`.
    pub dk: Vec<f64>,
    /// `[batch, kv_heads, keys, dim_v]`.
    pub dv: Vec<f64>,
    /// In the bias's own shape; empty without one.
    pub dbias: Vec<f64>,
    /// `[heads]`; empty without sinks.
    pub dsinks: Vec<f64>,
}

impl Attention<'_> {
    /// In f64. `dout` is `[batch, heads, queries, dim_v]` and `dlse` `[batch, heads, queries]`; what they hold for queries
    /// that see nothing does not count.
    pub fn gradients(&self, dout: &[f64], dlse: &[f64]) -> Gradients {
        let attended = self.exact();
        self.differentiate::<f64>(dout, dlse, &attended, |weight| weight, |result| result)
    }

    /// In f32, accumulated pair by pair: what a careful program does that keeps of the forward pass what every such program
    /// keeps, the output in some precision and the log-sum-exp in f32, and computes the weights anew from the latter. What the
    /// standard method multiplies with tensors of a precision, the weights and the gradients of the scores, is rounded to it;
    /// the gradients of queries, keys and values are to another.
    ///
    /// The log-sum-exp is that of [`plain`](Self::plain) and a unit in the last place further from the exact one. A program
    /// whose passes multiply in different orders has two roundings of a score, of which one is in the log-sum-exp; here both
    /// are the same, and a weight of 1 would come back as 1 however far off its score is.
    pub fn plain_gradients(
        &self,
        (dout, dlse): (&[f64], &[f64]),
        out: Precision,
        weights: Precision,
        result: Precision,
    ) -> Gradients {
        let mut attended = self.plain(weights, out);
        for (lse, exact) in attended.lse.iter_mut().zip(self.exact().lse) {
            *lse += Precision::F32.ulp(*lse).copysign(*lse - exact);
        }
        let (weights, result) = (|x| weights.round(x), |x| result.round(x));
        self.differentiate::<f32>(dout, dlse, &attended, weights, result)
    }

    fn differentiate<F: Real>(
        &self,
        dout: &[f64],
        dlse: &[f64],
        attended: &Attended,
        weights: impl Fn(F) -> F,
        result: impl Fn(F) -> F,
    ) -> Gradients {
        let (dim_k, dim_v) = (self.sizes.dim_k, self.sizes.dim_v);
        assert_eq!((dout.len(), dlse.len()), (attended.out.len(), attended.lse.len()), "numbers of dout and dlse");
        let zeros = |len| vec![F::zero(); len];
        let (mut dq, mut dk, mut dv) = (zeros(self.q.len()), zeros(self.k.len()), zeros(self.v.len()));
        let mut dbias = zeros(self.bias.map_or(0, |bias| bias.values.len()));
        let mut dsinks = zeros(self.sinks.map_or(0, |sinks| sinks.len()));
        for row in self.rows() {
            let at = row.index(self.sizes);
            let (lse, dlse) = (F::of(attended.lse[at]), F::of(dlse[at]));
            if lse == F::neg_infinity() {
                continue;
            }
            let seen = self.seen(&row);
            let dout = &dout[at * dim_v..][..dim_v];
            // Δ = dO·O, from the last column to the first: added up as dO·Vᵀ is, the difference of both would owe its exactness
            // to luck where a query sees one key. Without keys the output is 0, whatever its gradient is.
            let columns = if seen.is_empty() { 0 } else { dim_v };
            let delta = (0..columns)
                .rev()
                .fold(F::zero(), |sum, column| sum + F::of(dout[column]) * F::of(attended.out[at * dim_v + column]));
            if !dsinks.is_empty() {
                dsinks[row.head] += (self.sink::<F>(row.head) - lse).exp() * (dlse - delta);
            }
            for pair in &seen {
                let (q, k) = (self.query_row(pair) * dim_k, self.key_row(pair) * dim_k);
                let weight = (self.score::<F>(pair) - lse).exp();
                // What falls is 0, whatever it was.
                let falls = self.kept::<F>(pair) == F::zero();
                let kept = |x: F| if falls { F::zero() } else { x * self.made_up() };
                // dV = Pᵀ·dO, and dP = dO·Vᵀ, both as far as dropout keeps them.
                add(&mut dv[self.key_row(pair) * dim_v..][..dim_v], weights(kept(weight)), dout);
                let dweight = kept(dot(dout, self.value(pair)));
                // Of the score that the softmax takes, which is also that of the bias: P∘(dP − Δ + dLSE).
                let dscore = weight * (dweight - delta + dlse);
                if let Some(bias) = self.bias {
                    dbias[pair.within(bias.shape)] += dscore;
                }
                // Of the score before the cap, where tanh' = 1 − tanh².
                let slope = self.softcap.map_or(F::one(), |cap| {
                    let tanh = self.capped::<F>(pair) / F::of(cap);
                    F::one() - tanh * tanh
                });
                let draw = weights(dscore * slope);
                // dQ = scale·dS·K and dK = scale·dSᵀ·Q.
                add(&mut dq[q..][..dim_k], self.scale::<F>() * draw, self.key(pair));
                add(&mut dk[k..][..dim_k], self.scale::<F>() * draw, self.query(pair));
            }
        }
        let round = |gradient: Vec<F>| gradient.into_iter().map(|x| result(x).widen()).collect();
        let widen = |gradient: Vec<F>| gradient.into_iter().map(F::widen).collect();
        Gradients { dq: round(dq), dk: round(dk), dv: round(dv), dbias: widen(dbias), dsinks: widen(dsinks) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Bias, Sizes};

    /// One query that weighs two keys one to three.
    #[test]
    fn a_case_by_hand() {
        let (k, sinks, values) = ([0.0, 3f64.ln()], [4f64.ln()], [0.0]);
        let call = Attention {
            sizes: Sizes { batch: 1, heads: 1, kv_heads: 1, queries: 1, keys: 2, dim_k: 1, dim_v: 1 },
            q: &[1.0],
            k: &k,
            v: &[4.0, 8.0],
            bias: Some(Bias { shape: [1, 1, 1, 1], values: &values }),
            ..Attention::default()
        };
        let close = |a: &[f64], b: &[f64]| {
            assert!(a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12), "{a:?}, expected {b:?}");
        };
        // out = 7, so the scores get P∘(v − 7) = (−3/4, 3/4), and twice P from the log-sum-exp: (−1/4, 9/4).
        let gradients = call.gradients(&[1.0], &[2.0]);
        close(&gradients.dv, &[0.25, 0.75]);
        close(&gradients.dk, &[-0.25, 2.25]);
        close(&gradients.dq, &[2.25 * 3f64.ln()]);
        close(&gradients.dbias, &[2.0]);
        close(&gradients.dsinks, &[]);
        // With a sink of weight 4, out = 3.5 and P = (1/8, 3/8, 1/2): (1/8)(4 − 3.5 + 2) and (3/8)(8 − 3.5 + 2).
        let gradients = Attention { sinks: Some(&sinks), ..call }.gradients(&[1.0], &[2.0]);
        close(&gradients.dk, &[2.5 / 8.0, 19.5 / 8.0]);
        close(&gradients.dbias, &[22.0 / 8.0]);
        close(&gradients.dsinks, &[-0.75]);
        // A query that sees nothing gives its sink the gradient of the log-sum-exp, whatever that of its output is.
        let gradients = Attention { sinks: Some(&sinks), allows: &|_| false, ..call }.gradients(&[f64::NAN], &[2.0]);
        close(&gradients.dsinks, &[2.0]);
        for zeros in [gradients.dq, gradients.dk, gradients.dv, gradients.dbias] {
            assert!(zeros.iter().all(|&x| x == 0.0));
        }
    }
}
