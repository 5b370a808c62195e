//! Linear attention, token by token.

use crate::real::Real;

/// A call of linear attention. Arrays are `[batch, heads, tokens, …]`, without gaps; result `h` of `results` reads head
/// `h / (results / heads)` of each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recurrence {
    /// Sequences.
    pub batch: usize,
    /// Tokens of each.
    pub tokens: usize,
    /// Numbers of a query and of a key.
    pub dim_k: usize,
    /// Numbers of a value.
    pub dim_v: usize,
    /// Heads of queries, keys, values, log decays and betas.
    pub heads: [usize; 5],
    /// Queries.
    pub q: Vec<f64>,
    /// Keys.
    pub k: Vec<f64>,
    /// Values.
    pub v: Vec<f64>,
    /// Log decays, one for the state or one for each of its rows; none where nothing is forgotten.
    pub log_decay: Vec<f64>,
    /// β of the delta rule; none by the other rules.
    pub beta: Vec<f64>,
    /// The states before the first token, `[batch, states, dim_k, dim_v]`; none where they are 0.
    pub state: Vec<f64>,
    /// What results are multiplied by.
    pub scale: f64,
    /// Whether tokens see later ones too.
    pub both: bool,
}

/// The gradients of a recurrence's inputs, each in its input's order.
#[derive(Clone, Debug, PartialEq)]
pub struct RecurrenceGradients {
    /// Of queries, keys, values, log decays, betas and states before.
    pub of: [Vec<f64>; 6],
}

impl Recurrence {
    /// Units in the last place of the largest number that a result is made of, by which it may be off where the plain method
    /// happens to be nearly exact: twice what that is off by at the most over calls of all rules, which is 13.6.
    pub const FLOOR: f64 = 27.0;

    /// Heads that have a state.
    pub fn states(&self) -> usize {
        let there = [true, true, !self.log_decay.is_empty(), !self.beta.is_empty()];
        self.heads[1..].iter().zip(there).filter(|(_, there)| *there).map(|(heads, _)| *heads).max().unwrap_or(1)
    }

    /// Heads that have results.
    pub fn results(&self) -> usize {
        self.states().max(self.heads[0])
    }

    /// Log decays of a token and head.
    pub fn decays(&self) -> usize {
        self.log_decay.len() / (self.batch * self.heads[3] * self.tokens).max(1)
    }

    /// Where the numbers of a token begin in input `of` of `heads`, for a state.
    fn at(&self, of: usize, batch: usize, state: usize, token: usize, width: usize) -> usize {
        let head = state / (self.states() / self.heads[of]);
        ((batch * self.heads[of] + head) * self.tokens + token) * width
    }

    fn query_at(&self, batch: usize, result: usize, token: usize) -> usize {
        let head = result / (self.results() / self.heads[0]);
        ((batch * self.heads[0] + head) * self.tokens + token) * self.dim_k
    }

    /// What is left of each row of a state at a token.
    fn left<F: Real>(&self, batch: usize, state: usize, token: usize) -> Vec<F> {
        match self.decays() {
            0 => vec![F::one(); self.dim_k],
            width => {
                let at = self.at(3, batch, state, token, width);
                (0..self.dim_k).map(|c| F::of(self.log_decay[at + c.min(width - 1)]).exp()).collect()
            }
        }
    }

    /// Goes through the tokens of a head: hands on each one's number, the state after it, `[dim_k][dim_v]`, and what was
    /// written at it. Gives the state after the last.
    fn walk<F: Real>(&self, batch: usize, state: usize, mut seen: impl FnMut(usize, &[F], Vec<F>)) -> Vec<F> {
        let mut s = self.before::<F>(batch, state);
        for t in 0..self.tokens {
            for (row, left) in s.chunks_mut(self.dim_v).zip(self.left::<F>(batch, state, t)) {
                row.iter_mut().for_each(|x| *x = *x * left);
            }
            let k = &self.k[self.at(1, batch, state, t, self.dim_k)..][..self.dim_k];
            let v = &self.v[self.at(2, batch, state, t, self.dim_v)..][..self.dim_v];
            let mut u: Vec<F> = v.iter().map(|&v| F::of(v)).collect();
            if !self.beta.is_empty() {
                let beta = F::of(self.beta[self.at(4, batch, state, t, 1)]);
                let mut has = vec![F::zero(); self.dim_v];
                for (row, &k) in s.chunks(self.dim_v).zip(k) {
                    has.iter_mut().zip(row).for_each(|(has, &x)| *has += F::of(k) * x);
                }
                u.iter_mut().zip(has).for_each(|(u, has)| *u = beta * (*u - has));
            }
            for (row, &k) in s.chunks_mut(self.dim_v).zip(k) {
                row.iter_mut().zip(&u).for_each(|(x, &u)| *x += F::of(k) * u);
            }
            seen(t, &s, u);
        }
        s
    }

    /// The state before the first token of a head.
    fn before<F: Real>(&self, batch: usize, state: usize) -> Vec<F> {
        let size = self.dim_k * self.dim_v;
        if self.state.is_empty() {
            return vec![F::zero(); size];
        }
        self.state[(batch * self.states() + state) * size..][..size].iter().map(|&x| F::of(x)).collect()
    }

    /// The states before and after each token of a head, `[tokens + 1][dim_k·dim_v]`, and what was written at it.
    fn states_of<F: Real>(&self, batch: usize, state: usize) -> (Vec<Vec<F>>, Vec<Vec<F>>) {
        let (mut all, mut written) = (vec![self.before::<F>(batch, state)], Vec::new());
        self.walk(batch, state, |_, s, u| {
            all.push(s.to_vec());
            written.push(u);
        });
        (all, written)
    }

    /// The results `[batch, results, tokens, dim_v]` and the states after the last token, worked out in `F`.
    fn run<F: Real>(&self) -> (Vec<f64>, Vec<f64>) {
        let (states, group, dim_v) = (self.states(), self.results() / self.states(), self.dim_v);
        let mut out = vec![0.0; self.batch * self.results() * self.tokens * dim_v];
        let mut after = Vec::new();
        for (batch, state) in (0..self.batch).flat_map(|batch| (0..states).map(move |state| (batch, state))) {
            let mut read = |t: usize, seen: &[F]| {
                for result in state * group..(state + 1) * group {
                    let q = &self.q[self.query_at(batch, result, t)..][..self.dim_k];
                    let mut sums = vec![F::zero(); dim_v];
                    for (row, &q) in seen.chunks(dim_v).zip(q) {
                        sums.iter_mut().zip(row).for_each(|(sum, &x)| *sum += F::of(q) * x);
                    }
                    let to = &mut out[((batch * self.results() + result) * self.tokens + t) * dim_v..][..dim_v];
                    to.iter_mut().zip(sums).for_each(|(to, sum)| *to = (F::of(self.scale) * sum).widen());
                }
            };
            let last = self.walk::<F>(batch, state, |t, s, _| {
                if !self.both {
                    read(t, s);
                }
            });
            if self.both {
                (0..self.tokens).for_each(|t| read(t, &last));
            }
            after.extend(last.iter().map(|x| x.widen()));
        }
        (out, after)
    }

    /// The results `[batch, results, tokens, dim_v]` and the states after the last token.
    pub fn exact(&self) -> (Vec<f64>, Vec<f64>) {
        self.run::<f64>()
    }

    /// The same token by token in f32.
    pub fn plain(&self) -> (Vec<f64>, Vec<f64>) {
        self.run::<f32>()
    }

    /// The gradients of all inputs, from those of the results and of the states after.
    pub fn gradients(&self, dout: &[f64], dafter: &[f64]) -> RecurrenceGradients {
        self.back::<f64>(dout, dafter)
    }

    /// The same token by token in f32.
    pub fn plain_gradients(&self, dout: &[f64], dafter: &[f64]) -> RecurrenceGradients {
        self.back::<f32>(dout, dafter)
    }

    /// What queries of a token, and the state that they see, have of the results' gradients.
    fn results_back<F: Real>(
        &self,
        dout: &[f64],
        (batch, state, t): (usize, usize, usize),
        seen: &[F],
        dq: &mut [F],
        g: &mut [F],
    ) {
        let group = self.results() / self.states();
        for result in state * group..(state + 1) * group {
            let gradient = &dout[((batch * self.results() + result) * self.tokens + t) * self.dim_v..][..self.dim_v];
            let at = self.query_at(batch, result, t);
            for row in 0..self.dim_k {
                for c in 0..self.dim_v {
                    let gradient = F::of(self.scale) * F::of(gradient[c]);
                    dq[at + row] += gradient * seen[row * self.dim_v + c];
                    g[row * self.dim_v + c] += gradient * F::of(self.q[at + row]);
                }
            }
        }
    }

    fn back<F: Real>(&self, dout: &[f64], dafter: &[f64]) -> RecurrenceGradients {
        let (dim_k, dim_v, tokens) = (self.dim_k, self.dim_v, self.tokens);
        let (states, size) = (self.states(), dim_k * dim_v);
        let zeros = |like: usize| vec![F::zero(); like];
        let mut of = [&self.q, &self.k, &self.v, &self.log_decay, &self.beta].map(|input| zeros(input.len()));
        let mut before = Vec::new();
        for batch in 0..self.batch {
            for state in 0..states {
                let (all, written) = self.states_of::<F>(batch, state);
                let at = (batch * states + state) * size;
                let mut g: Vec<F> = match dafter.is_empty() {
                    true => zeros(size),
                    false => dafter[at..][..size].iter().map(|&x| F::of(x)).collect(),
                };
                if self.both {
                    (0..tokens)
                        .for_each(|t| self.results_back(dout, (batch, state, t), &all[tokens], &mut of[0], &mut g));
                }
                for t in (0..tokens).rev() {
                    if !self.both {
                        self.results_back(dout, (batch, state, t), &all[t + 1], &mut of[0], &mut g);
                    }
                    let left = self.left::<F>(batch, state, t);
                    let kept: Vec<F> = all[t]
                        .chunks(dim_v)
                        .zip(&left)
                        .flat_map(|(row, &left)| row.iter().map(move |&x| x * left))
                        .collect();
                    let (in_k, in_v) = (self.at(1, batch, state, t, dim_k), self.at(2, batch, state, t, dim_v));
                    let k: Vec<F> = self.k[in_k..][..dim_k].iter().map(|&x| F::of(x)).collect();
                    let mut du = zeros(dim_v);
                    for row in 0..dim_k {
                        for c in 0..dim_v {
                            of[1][in_k + row] += g[row * dim_v + c] * written[t][c];
                            du[c] += g[row * dim_v + c] * k[row];
                        }
                    }
                    if self.beta.is_empty() {
                        du.iter().enumerate().for_each(|(c, &du)| of[2][in_v + c] += du);
                    } else {
                        let at = self.at(4, batch, state, t, 1);
                        let beta = F::of(self.beta[at]);
                        for c in 0..dim_v {
                            let has = (0..dim_k).fold(F::zero(), |sum, row| sum + k[row] * kept[row * dim_v + c]);
                            of[4][at] += du[c] * (F::of(self.v[in_v + c]) - has);
                            of[2][in_v + c] += beta * du[c];
                            for row in 0..dim_k {
                                of[1][in_k + row] += -beta * du[c] * kept[row * dim_v + c];
                                g[row * dim_v + c] += -beta * du[c] * k[row];
                            }
                        }
                    }
                    if self.decays() > 0 {
                        let width = self.decays();
                        let at = self.at(3, batch, state, t, width);
                        for row in 0..dim_k {
                            for c in 0..dim_v {
                                of[3][at + row.min(width - 1)] += g[row * dim_v + c] * kept[row * dim_v + c];
                            }
                        }
                    }
                    for (row, &left) in g.chunks_mut(dim_v).zip(&left) {
                        row.iter_mut().for_each(|x| *x = *x * left);
                    }
                }
                before.extend(g);
            }
        }
        let widen = |numbers: Vec<F>| numbers.into_iter().map(Real::widen).collect();
        let [q, k, v, log_decay, beta] = of.map(widen);
        RecurrenceGradients { of: [q, k, v, log_decay, beta, widen(before)] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{numbers, widen};

    fn problem(rule: (usize, bool), both: bool) -> Recurrence {
        let (batch, tokens, dim_k, dim_v) = (2, 4, 3, 2);
        let heads = if both { [4, 2, 2, 1, 1] } else { [2, 1, 4, 2, 4] };
        let draw = |seed, heads: usize, width: usize| widen(&numbers(seed, batch * heads * tokens * width));
        let mut problem = Recurrence {
            batch,
            tokens,
            dim_k,
            dim_v,
            heads,
            q: draw(1, heads[0], dim_k),
            k: draw(2, heads[1], dim_k),
            v: draw(3, heads[2], dim_v),
            log_decay: draw(4, heads[3], rule.0).iter().map(|x| -x.abs()).collect(),
            beta: if rule.1 { draw(5, heads[4], 1).iter().map(|x| 1.0 / (1.0 + x.exp())).collect() } else { vec![] },
            scale: 0.7,
            both,
            ..Recurrence::default()
        };
        problem.state = widen(&numbers(6, batch * problem.states() * dim_k * dim_v));
        problem
    }

    /// Of every input, by central differences.
    #[test]
    fn gradients_are_differences() {
        for (rule, both) in
            [((0, false), false), ((0, false), true), ((1, false), false), ((3, true), false), ((1, true), false)]
        {
            let problem = problem(rule, both);
            let (out, after) = problem.exact();
            let (dout, dafter) = (widen(&numbers(7, out.len())), widen(&numbers(8, after.len())));
            let loss = |problem: &Recurrence| {
                let (out, after) = problem.exact();
                let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
                dot(&out, &dout) + dot(&after, &dafter)
            };
            let gradients = problem.gradients(&dout, &dafter);
            for (input, gradient) in gradients.of.iter().enumerate() {
                for (i, &gradient) in gradient.iter().enumerate() {
                    let moved = |by: f64| {
                        let mut problem = problem.clone();
                        let Recurrence { q, k, v, log_decay, beta, state, .. } = &mut problem;
                        [q, k, v, log_decay, beta, state][input][i] += by;
                        loss(&problem)
                    };
                    let difference = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                    assert!(
                        (difference - gradient).abs() < 1e-7 * (1.0 + gradient.abs()),
                        "{rule:?} {both} input {input}, {i}: {difference} {gradient}"
                    );
                }
            }
        }
    }

    /// One token of one head by hand: half of the state is left, and half of what it lacks is written.
    #[test]
    fn a_token_by_hand() {
        let problem = Recurrence {
            batch: 1,
            tokens: 1,
            dim_k: 1,
            dim_v: 1,
            heads: [1; 5],
            q: vec![3.0],
            k: vec![2.0],
            v: vec![7.0],
            log_decay: vec![0.5_f64.ln()],
            beta: vec![0.5],
            state: vec![2.0],
            scale: 0.1,
            both: false,
        };
        // S̃ = 1, u = ½·(7 − 2·1), S = 1 + 2·2.5.
        let (out, after) = problem.exact();
        assert!((after[0] - 6.0).abs() < 1e-12 && (out[0] - 1.8).abs() < 1e-12, "{out:?} {after:?}");
    }
}
