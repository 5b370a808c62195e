//! Attention by positive random features, as a softmax over pairs of a key and a feature.

use crate::real::{Real, dot};

/// A call of attention by the features of FAVOR+ (Choromanski et al., 2021, lemma 1). Arrays are `[batch, heads, tokens, …]`,
/// without gaps; query head `h` reads key/value head `h / (heads / kv_heads)`.
///
/// Query `i` gives key `j` and feature `m` the weight `e^(aᵢₘ + bⱼₘ)/√features` with `aᵢₘ = √scale·ωₘ·qᵢ` and
/// `bⱼₘ = √scale·ωₘ·kⱼ − scale·‖kⱼ‖²/2`; results are means by these weights. A state stands for earlier keys.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Favor {
    /// Sequences.
    pub batch: usize,
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Tokens of each sequence.
    pub tokens: usize,
    /// Numbers of a query and of a key.
    pub dim_k: usize,
    /// Numbers of a value.
    pub dim_v: usize,
    /// The directions `ω`, `[features][dim_k]`.
    pub directions: Vec<f64>,
    /// Queries.
    pub q: Vec<f64>,
    /// Keys.
    pub k: Vec<f64>,
    /// Values.
    pub v: Vec<f64>,
    /// The states before the first token, `[batch, kv_heads, features, dim_v + 1]`; none where no key came before.
    pub state: Vec<f64>,
    /// The exponents that these are relative to, `[batch, kv_heads]`.
    pub before: Vec<f64>,
    /// The exponents that the states after the last token shall be relative to, `[batch, kv_heads]`.
    pub after: Vec<f64>,
    /// What scores are multiplied by.
    pub scale: f64,
    /// Whether tokens see later ones too.
    pub both: bool,
}

/// The gradients of a call's inputs, each in its input's order.
#[derive(Clone, Debug, PartialEq)]
pub struct FavorGradients {
    /// Of queries, keys, values and states before, all exponents held constant.
    pub of: [Vec<f64>; 4],
}

/// What can be seen: a key, or the state before.
struct Source<F> {
    /// `b`, `[features]`.
    exponents: Vec<F>,
    /// What each feature weighs: the value and a one times `1/√features`, or sums. `[features][dim_v + 1]`.
    rows: Vec<Vec<F>>,
}

impl<F: Real> Source<F> {
    /// Adds `e^(query + b − from)·rows` over the features.
    fn add_to(&self, sums: &mut [F], query: &[F], from: F) {
        for ((row, &b), &a) in self.rows.iter().zip(&self.exponents).zip(query) {
            let weight = (a + b - from).exp();
            sums.iter_mut().zip(row).for_each(|(sum, &x)| *sum += weight * x);
        }
    }

    /// The gradient of a feature's exponents, from that of the sums, which is added to the row's.
    fn back(&self, m: usize, exponent: F, of_sums: &[F], of_row: &mut [F]) -> F {
        let weight = exponent.exp();
        of_row.iter_mut().zip(of_sums).for_each(|(of, &x)| *of += weight * x);
        weight * self.rows[m].iter().zip(of_sums).fold(F::zero(), |sum, (&row, &x)| sum + row * x)
    }
}

impl Favor {
    fn features(&self) -> usize {
        self.directions.len() / self.dim_k
    }

    /// `√scale·ω·x`, `[features]`.
    fn projected<F: Real>(&self, x: &[f64]) -> Vec<F> {
        self.directions.chunks(self.dim_k).map(|row| F::of(self.scale.sqrt()) * dot::<F>(row, x)).collect()
    }

    /// The numbers of a query of a head.
    fn query(&self, head: usize, token: usize) -> std::ops::Range<usize> {
        let at = (head * self.tokens + token) * self.dim_k;
        at..at + self.dim_k
    }

    /// What the queries of a key/value head can see: the state before where there is one, and then the keys.
    fn sources<F: Real>(&self, head: usize) -> Vec<Source<F>> {
        let (count, width) = (self.features(), self.dim_v + 1);
        let factor = F::one() / F::of(count as f64).sqrt();
        let mut sources = Vec::new();
        if !self.state.is_empty() {
            let sums = &self.state[head * count * width..][..count * width];
            let rows = sums.chunks(width).map(|row| row.iter().map(|&x| F::of(x)).collect()).collect();
            sources.push(Source { exponents: vec![F::of(self.before[head]); count], rows });
        }
        for token in 0..self.tokens {
            let key = &self.k[(head * self.tokens + token) * self.dim_k..][..self.dim_k];
            let half = F::of(self.scale / 2.0) * dot::<F>(key, key);
            let value = &self.v[(head * self.tokens + token) * self.dim_v..][..self.dim_v];
            let row: Vec<F> = value.iter().map(|&x| factor * F::of(x)).chain([factor]).collect();
            let exponents = self.projected::<F>(key).into_iter().map(|a| a - half).collect();
            sources.push(Source { exponents, rows: vec![row; count] });
        }
        sources
    }

    /// How many sources a token sees.
    fn seen(&self, token: usize) -> usize {
        usize::from(!self.state.is_empty()) + if self.both { self.tokens } else { token + 1 }
    }

    /// A query's exponents, the largest one of its weights, and the sums of values and ones by these.
    fn sums<F: Real>(&self, query: &[f64], seen: &[Source<F>]) -> (Vec<F>, F, Vec<F>) {
        let query = self.projected::<F>(query);
        let exponents = seen.iter().flat_map(|source| source.exponents.iter().zip(&query).map(|(&b, &a)| a + b));
        let most = exponents.fold(F::neg_infinity(), F::max);
        let mut sums = vec![F::zero(); self.dim_v + 1];
        seen.iter().for_each(|source| source.add_to(&mut sums, &query, most));
        (query, most, sums)
    }

    fn run<F: Real>(&self) -> (Vec<f64>, Vec<f64>) {
        let (mut out, mut after) = (Vec::new(), Vec::new());
        let group = self.heads / self.kv_heads;
        for kv in 0..self.batch * self.kv_heads {
            let sources = self.sources::<F>(kv);
            for head in kv * group..(kv + 1) * group {
                for token in 0..self.tokens {
                    let seen = &sources[..self.seen(token)];
                    let (_, _, sums) = self.sums(&self.q[self.query(head, token)], seen);
                    out.extend(sums[..self.dim_v].iter().map(|&x| (x / sums[self.dim_v]).widen()));
                }
            }
            for m in 0..self.features() {
                let mut sums = vec![F::zero(); self.dim_v + 1];
                for source in &sources {
                    let weight = (source.exponents[m] - F::of(self.after[kv])).exp();
                    sums.iter_mut().zip(&source.rows[m]).for_each(|(sum, &x)| *sum += weight * x);
                }
                after.extend(sums.into_iter().map(Real::widen));
            }
        }
        (out, after)
    }

    /// The results `[batch, heads, tokens, dim_v]` and the states after the last token.
    pub fn exact(&self) -> (Vec<f64>, Vec<f64>) {
        self.run::<f64>()
    }

    /// The same in f32.
    pub fn plain(&self) -> (Vec<f64>, Vec<f64>) {
        self.run::<f32>()
    }

    /// The gradients of all inputs, from those of the results and of the states after, if there are any.
    pub fn gradients(&self, dout: &[f64], dafter: &[f64]) -> FavorGradients {
        self.back::<f64>(dout, dafter)
    }

    /// The same in f32.
    pub fn plain_gradients(&self, dout: &[f64], dafter: &[f64]) -> FavorGradients {
        self.back::<f32>(dout, dafter)
    }

    fn back<F: Real>(&self, dout: &[f64], dafter: &[f64]) -> FavorGradients {
        let (count, width, dim_v) = (self.features(), self.dim_v + 1, self.dim_v);
        let (group, factor) = (self.heads / self.kv_heads, F::one() / F::of(count as f64).sqrt());
        let mut of: [Vec<F>; 4] = Default::default();
        for kv in 0..self.batch * self.kv_heads {
            let sources = self.sources::<F>(kv);
            // Of each source's exponents and rows.
            let mut of_sources = vec![(vec![F::zero(); count], vec![vec![F::zero(); width]; count]); sources.len()];
            for head in kv * group..(kv + 1) * group {
                for token in 0..self.tokens {
                    let seen = &sources[..self.seen(token)];
                    let (query, most, sums) = self.sums(&self.q[self.query(head, token)], seen);
                    let dout = &dout[(head * self.tokens + token) * dim_v..][..dim_v];
                    let mut of_sums: Vec<F> = dout.iter().map(|&x| F::of(x) / sums[dim_v]).collect();
                    let share = of_sums.iter().zip(&sums).fold(F::zero(), |sum, (&x, &y)| sum + x * y);
                    of_sums.push(-share / sums[dim_v]);
                    let mut of_query = vec![F::zero(); count];
                    for (source, (of_exponents, of_rows)) in seen.iter().zip(&mut of_sources) {
                        for m in 0..count {
                            let exponent = query[m] + source.exponents[m] - most;
                            let of_exponent = source.back(m, exponent, &of_sums, &mut of_rows[m]);
                            of_exponents[m] += of_exponent;
                            of_query[m] += of_exponent;
                        }
                    }
                    of[0].extend(self.lowered(&of_query, None));
                }
            }
            if !dafter.is_empty() {
                for (source, (of_exponents, of_rows)) in sources.iter().zip(&mut of_sources) {
                    for m in 0..count {
                        let dafter = &dafter[(kv * count + m) * width..][..width];
                        let dafter: Vec<F> = dafter.iter().map(|&x| F::of(x)).collect();
                        let exponent = source.exponents[m] - F::of(self.after[kv]);
                        of_exponents[m] += source.back(m, exponent, &dafter, &mut of_rows[m]);
                    }
                }
            }
            let mut of_sources = of_sources.into_iter();
            if !self.state.is_empty() {
                of[3].extend(of_sources.next().into_iter().flat_map(|(_, rows)| rows.concat()));
            }
            for (token, (of_exponents, of_rows)) in of_sources.enumerate() {
                let key = &self.k[(kv * self.tokens + token) * self.dim_k..][..self.dim_k];
                of[1].extend(self.lowered(&of_exponents, Some(key)));
                let of_value = |c: usize| of_rows.iter().fold(F::zero(), |sum, row| sum + row[c]);
                of[2].extend((0..dim_v).map(|c| factor * of_value(c)));
            }
        }
        FavorGradients { of: of.map(|numbers| numbers.into_iter().map(Real::widen).collect()) }
    }

    /// The gradient of a query or a key, from that of its exponents.
    fn lowered<F: Real>(&self, of_exponents: &[F], key: Option<&[f64]>) -> Vec<F> {
        let mut of = vec![F::zero(); self.dim_k];
        for (row, &share) in self.directions.chunks(self.dim_k).zip(of_exponents) {
            crate::real::add(&mut of, F::of(self.scale.sqrt()) * share, row);
        }
        if let Some(key) = key {
            let share = of_exponents.iter().fold(F::zero(), |sum, &x| sum + x);
            crate::real::add(&mut of, -F::of(self.scale) * share, key);
        }
        of
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{numbers, widen};

    fn problem(both: bool, given: bool) -> Favor {
        let (batch, heads, kv_heads, tokens, dim_k, dim_v, count) = (2, 4, 2, 4, 3, 2, 5);
        let draw = |seed, len| widen(&numbers(seed, len));
        let states = if given { batch * kv_heads } else { 0 };
        Favor {
            batch,
            heads,
            kv_heads,
            tokens,
            dim_k,
            dim_v,
            directions: draw(1, count * dim_k),
            q: draw(2, batch * heads * tokens * dim_k),
            k: draw(3, batch * kv_heads * tokens * dim_k),
            v: draw(4, batch * kv_heads * tokens * dim_v),
            // Denominators are positive.
            state: draw(5, states * count * (dim_v + 1)).iter().map(|x| x.abs()).collect(),
            before: draw(6, states),
            after: draw(7, batch * kv_heads),
            scale: 0.6,
            both,
        }
    }

    /// Of every input, by central differences.
    #[test]
    fn gradients_are_differences() {
        for (both, given) in [(false, false), (false, true), (true, false), (true, true)] {
            let problem = problem(both, given);
            let (out, after) = problem.exact();
            let (dout, dafter) = (widen(&numbers(8, out.len())), widen(&numbers(9, after.len())));
            let loss = |problem: &Favor| {
                let (out, after) = problem.exact();
                dot::<f64>(&out, &dout) + dot::<f64>(&after, &dafter)
            };
            let gradients = problem.gradients(&dout, &dafter);
            for (input, gradient) in gradients.of.iter().enumerate() {
                for (i, &gradient) in gradient.iter().enumerate() {
                    let moved = |by: f64| {
                        let mut problem = problem.clone();
                        let Favor { q, k, v, state, .. } = &mut problem;
                        [q, k, v, state][input][i] += by;
                        loss(&problem)
                    };
                    let difference = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                    assert!(
                        (difference - gradient).abs() < 1e-7 * (1.0 + gradient.abs()),
                        "both {both}, state {given}, input {input}, {i}: {difference} {gradient}"
                    );
                }
            }
        }
    }

    /// One feature and two tokens by hand: the second query weighs its keys one to three.
    #[test]
    fn two_tokens_by_hand() {
        let problem = Favor {
            batch: 1,
            heads: 1,
            kv_heads: 1,
            tokens: 2,
            dim_k: 1,
            dim_v: 1,
            directions: vec![1.0],
            q: vec![5.0, -7.0],
            // 2 − 2²/2 = 0, and x − x²/2 = −ln 3.
            k: vec![2.0, 1.0 - (1.0 + 2.0 * 3f64.ln()).sqrt()],
            v: vec![8.0, 4.0],
            after: vec![0.0],
            scale: 1.0,
            ..Favor::default()
        };
        let (out, after) = problem.exact();
        assert!((out[0] - 8.0).abs() < 1e-12 && (out[1] - 7.0).abs() < 1e-12, "{out:?}");
        assert!((after[0] - 28.0 / 3.0).abs() < 1e-12 && (after[1] - 4.0 / 3.0).abs() < 1e-12, "{after:?}");
    }
}
