//! Softmax attention as its definition reads, and the plain method whose error is the yardstick.

use crate::Precision;

/// One call. Tensors are `[batch, heads, seq, dim]` without gaps; query head `h` reads key/value head
/// `h / (heads / kv_heads)`, and query `i` stands at position `i + offset`.
#[derive(Clone, Copy)]
pub struct Attention<'a> {
    /// Sequences.
    pub batch: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Queries of a sequence.
    pub queries: usize,
    /// Keys of a sequence.
    pub keys: usize,
    /// Elements of a query and of a key.
    pub dim_k: usize,
    /// Elements of a value.
    pub dim_v: usize,
    /// What scores are multiplied by.
    pub scale: f32,
    /// Where the first query stands.
    pub offset: i64,
    /// Whether the query at position `p` sees key `j`.
    pub allows: &'a (dyn Fn(i64, usize) -> bool + 'a),
    /// `[batch, heads, queries, dim_k]`.
    pub q: &'a [f32],
    /// `[batch, kv_heads, keys, dim_k]`.
    pub k: &'a [f32],
    /// `[batch, kv_heads, keys, dim_v]`.
    pub v: &'a [f32],
}

/// What attention gives.
#[derive(Clone, Debug, Default)]
pub struct Attended {
    /// `[batch, heads, queries, dim_v]`.
    pub out: Vec<f64>,
    /// `[batch, heads, queries]`: the natural logarithm of the sum of exponentials of the scores.
    pub lse: Vec<f64>,
}

/// One query with the keys and values that it sees.
struct Row<'a> {
    q: &'a [f32],
    keys: Vec<&'a [f32]>,
    values: Vec<&'a [f32]>,
}

impl<'a> Attention<'a> {
    /// In f64.
    pub fn exact(&self) -> Attended {
        self.each_row(|row| {
            let dot = |k: &[f32]| row.q.iter().zip(k).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum::<f64>();
            let scores: Vec<f64> = row.keys.iter().map(|k| f64::from(self.scale) * dot(k)).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            // Scores of −∞ alone are as good as none.
            let shift = if max == f64::NEG_INFINITY { 0.0 } else { max };
            let mut sum = 0.0;
            let mut out = vec![0.0; self.dim_v];
            for (score, v) in scores.iter().zip(&row.values) {
                let weight = (score - shift).exp();
                sum += weight;
                out.iter_mut().zip(*v).for_each(|(o, &v)| *o += weight * f64::from(v));
            }
            if sum != 0.0 {
                out.iter_mut().for_each(|o| *o /= sum);
            }
            (out, shift + sum.ln())
        })
    }

    /// Row at a time in f32, with the weights rounded to one precision, as the standard method does before it multiplies
    /// them with values of that precision, and the result to another: what a careful program does that has no tiles, no
    /// vectors and no tricks.
    pub fn plain(&self, weights: Precision, result: Precision) -> Attended {
        self.each_row(|row| {
            let dot = |k: &[f32]| row.q.iter().zip(k).fold(0f32, |sum, (q, k)| sum + q * k);
            let scores: Vec<f32> = row.keys.iter().map(|k| self.scale * dot(k)).collect();
            let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let shift = if max == f32::NEG_INFINITY { 0.0 } else { max };
            let mut sum = 0f32;
            let mut out = vec![0f32; self.dim_v];
            for (score, v) in scores.iter().zip(&row.values) {
                let weight = weights.round((score - shift).exp());
                sum += weight;
                out.iter_mut().zip(*v).for_each(|(o, v)| *o += weight * v);
            }
            if sum != 0.0 {
                out.iter_mut().for_each(|o| *o /= sum);
            }
            let out = out.into_iter().map(|o| f64::from(result.round(o))).collect();
            (out, f64::from(shift + sum.ln()))
        })
    }

    /// The largest magnitude of any score that counts; 0 where there is none that is finite.
    pub fn largest_score(&self) -> f64 {
        let mut largest = 0f64;
        self.each_row(|row| {
            for k in &row.keys {
                let dot: f64 = row.q.iter().zip(*k).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum();
                let score = (f64::from(self.scale) * dot).abs();
                largest = largest.max(if score.is_finite() { score } else { 0.0 });
            }
            (vec![], 0.0)
        });
        largest
    }

    fn each_row(&self, mut row: impl FnMut(Row<'a>) -> (Vec<f64>, f64)) -> Attended {
        let Attention { batch, heads, kv_heads, queries, keys, dim_k, dim_v, q, k, v, .. } = *self;
        let mut attended = Attended::default();
        for b in 0..batch {
            for h in 0..heads {
                let kv = b * kv_heads + h / (heads / kv_heads);
                for i in 0..queries {
                    let p = i as i64 + self.offset;
                    let seen: Vec<usize> = (0..keys).filter(|&j| (self.allows)(p, j)).collect();
                    let (out, lse) = row(Row {
                        q: &q[((b * heads + h) * queries + i) * dim_k..][..dim_k],
                        keys: seen.iter().map(|j| &k[(kv * keys + j) * dim_k..][..dim_k]).collect(),
                        values: seen.iter().map(|j| &v[(kv * keys + j) * dim_v..][..dim_v]).collect(),
                    });
                    attended.out.extend(out);
                    attended.lse.push(lse);
                }
            }
        }
        attended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two queries, three keys, worked out by hand: scores ln 1, ln 2, ln 5.
    #[test]
    fn a_case_by_hand() {
        let (q, v) = ([1.0, 1.0], [8.0, 16.0, -24.0]);
        let k = [1f32.ln(), 2f32.ln(), 5f32.ln()];
        let causal = |p: i64, j: usize| j as i64 <= p;
        let call = Attention {
            batch: 1,
            heads: 1,
            kv_heads: 1,
            queries: 2,
            keys: 3,
            dim_k: 1,
            dim_v: 1,
            scale: 1.0,
            offset: 1,
            allows: &causal,
            q: &q,
            k: &k,
            v: &v,
        };
        let exact = call.exact();
        // (8 + 2·16) / 3, and (8 + 2·16 − 5·24) / 8.
        let (out, lse) = ([40.0 / 3.0, -10.0], [3f64.ln(), 8f64.ln()]);
        for i in 0..2 {
            assert!((exact.out[i] - out[i]).abs() < 1e-6 && (exact.lse[i] - lse[i]).abs() < 1e-7, "{exact:?}");
        }
        let plain = call.plain(Precision::F32, Precision::F32);
        assert!((plain.out[1] + 10.0).abs() < 1e-5 && (plain.out[0] - 40.0 / 3.0).abs() < 1e-5);
        // bf16 knows neither 40/3 nor a third.
        assert_eq!(call.plain(Precision::F32, Precision::Bf16).out[0], 13.3125);
        assert!((call.largest_score() - 5f64.ln()).abs() < 1e-6);
        let before = Attention { offset: -1, ..call }.exact();
        assert_eq!((before.out[0], before.lse[0]), (0.0, f64::NEG_INFINITY));
    }
}
