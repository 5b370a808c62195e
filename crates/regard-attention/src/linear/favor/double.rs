//! FAVOR+ in f64, token by token: for numbers that come in f64, written for clarity.

use regard_memory::TensorMut;
use regard_threads::Pool;

use super::{Direction, Favor, FavorInputs, FavorOutputs, Sizes};
use crate::Error;
use crate::double::{add, dot};

/// The least sum of weights that a result is divided by: 2⁻¹⁰⁰⁰, just above what double precision holds in full.
const LEAST: f64 = f64::from_bits((1023 - 1000) << 52);

/// The state of one key/value head.
struct State {
    /// `[features][dim_v + 1]`: of values and, behind them, of ones.
    sums: Vec<f64>,
    /// What the features in the sums are relative to; −∞ where no key was seen.
    largest: f64,
}

impl Favor<'_> {
    /// [`Favor::run`] in f64, for numbers that come in f64: slower by an order of magnitude, and without scratch. A result whose
    /// weights add up to less than 2⁻¹⁰⁰⁰, relative to the largest exponents, is 0.
    ///
    /// ```
    /// use regard_attention::{Favor, FavorFeatures, FavorInputs, FavorOutputs};
    /// use regard_memory::{Tensor, TensorMut};
    /// use regard_threads::Pool;
    ///
    /// // One token sees itself alone.
    /// let (q, k, v) = ([0.3, -0.1], [0.2, 0.5], [7.0]);
    /// let features = FavorFeatures::new(2, 16, 0)?;
    /// let inputs = FavorInputs {
    ///     q: Tensor::contiguous(&q, [1, 1, 1, 2])?,
    ///     k: Tensor::contiguous(&k, [1, 1, 1, 2])?,
    ///     v: Tensor::contiguous(&v, [1, 1, 1, 1])?,
    ///     state: None,
    /// };
    /// let (mut out, mut sums, mut exponents) = ([0.0], [0.0; 32], [0.0]);
    /// let outputs = FavorOutputs {
    ///     out: TensorMut::contiguous(&mut out, [1, 1, 1, 1])?,
    ///     state: (TensorMut::contiguous(&mut sums, [1, 1, 16, 2])?, TensorMut::contiguous(&mut exponents, [1; 4])?),
    /// };
    /// Favor::new(&features, None)?.run_f64(&inputs, outputs, Pool::global())?;
    /// assert!((out[0] - 7.0).abs() < 1e-14);
    /// # Ok::<(), regard_attention::Error>(())
    /// ```
    ///
    /// # Errors
    /// The shapes do not fit; then nothing is written.
    pub fn run_f64(
        &self,
        inputs: &FavorInputs<'_, f64, f64>,
        outputs: FavorOutputs<'_, f64, f64>,
        pool: &Pool,
    ) -> Result<(), Error> {
        let sizes = self.sizes(inputs)?;
        sizes.check_outputs(&outputs)?;
        if sizes.batch == 0 {
            return Ok(());
        }
        let FavorOutputs { out, state: (sums, largest) } = outputs;
        let work = |index: usize,
                    out: Option<TensorMut<'_, f64>>,
                    (sums, largest): (TensorMut<'_, f64>, TensorMut<'_, f64>)| {
            let state = self.of_head(inputs, &sizes, index, out);
            store(&state, sums, largest);
        };
        let states = (sums.block_parts(1, sizes.count), largest.block_parts(1, 1));
        match sizes.tokens {
            0 => pool.run(states, |index, state| work(index, None, state)),
            tokens => {
                let outs = out.block_parts(sizes.heads / sizes.kv_heads, tokens);
                pool.run((outs, states), |index, (out, state)| work(index, Some(out), state));
            }
        }
        Ok(())
    }

    /// The results under the query heads of a key/value head, and the state that its keys leave.
    fn of_head(
        &self,
        inputs: &FavorInputs<'_, f64, f64>,
        sizes: &Sizes,
        index: usize,
        mut out: Option<TensorMut<'_, f64>>,
    ) -> State {
        let (batch, head) = (index / sizes.kv_heads, index % sizes.kv_heads);
        let (k, v) = (inputs.k.rows(batch, head), inputs.v.rows(batch, head));
        let (root, columns) = (self.root_f64(sizes.dim_k), sizes.dim_v + 1);
        let mut state = State { sums: vec![0.0; sizes.count * columns], largest: f64::NEG_INFINITY };
        if let Some((sums, largest)) = inputs.state {
            state.largest = largest.rows(batch, head).row(0)[0];
            for (to, from) in state.sums.chunks_exact_mut(columns).zip(sums.rows(batch, head).iter()) {
                to.copy_from_slice(from);
            }
        }
        let both = self.direction == Direction::Both;
        if both {
            (0..sizes.tokens).for_each(|token| self.add_key(root, k.row(token), v.row(token), &mut state));
        }
        let group = sizes.heads / sizes.kv_heads;
        for token in 0..sizes.tokens {
            if !both {
                self.add_key(root, k.row(token), v.row(token), &mut state);
            }
            let Some(out) = &mut out else { continue };
            for member in 0..group {
                let q = inputs.q.rows(batch, head * group + member);
                self.read_f64(root, q.row(token), &state, out.rows_mut(0, member).row_mut(token));
            }
        }
        state
    }

    /// `√scale·ω·x` for each feature.
    fn exponents(&self, root: f64, x: &[f64]) -> Vec<f64> {
        let of_feature = |omega: &[f32]| {
            let omega: Vec<f64> = omega.iter().map(|&x| f64::from(x)).collect();
            root * dot(&omega, x)
        };
        self.features.rows.chunks_exact(self.features.dim).map(of_feature).collect()
    }

    /// Adds a key's features `e^(√scale·ω·k − scale·‖k‖²/2)/√features` times its value and one.
    fn add_key(&self, root: f64, k: &[f64], v: &[f64], state: &mut State) {
        let half = root * root * dot(k, k) / 2.0;
        let exponents: Vec<f64> = self.exponents(root, k).into_iter().map(|x| x - half).collect();
        let largest = exponents.iter().copied().fold(state.largest, f64::max);
        if largest > state.largest {
            let less = (state.largest - largest).exp();
            state.sums.iter_mut().for_each(|sum| *sum *= less);
            state.largest = largest;
        }
        let columns = v.len() + 1;
        let each = 1.0 / (exponents.len() as f64).sqrt();
        for (exponent, sums) in exponents.iter().zip(state.sums.chunks_exact_mut(columns)) {
            let feature = each * (exponent - largest).exp();
            add(&mut sums[..v.len()], feature, v);
            sums[v.len()] += feature;
        }
    }

    /// What a query sees of a state.
    fn read_f64(&self, root: f64, q: &[f64], state: &State, out: &mut [f64]) {
        let exponents = self.exponents(root, q);
        let largest = exponents.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        out.fill(0.0);
        let mut over = 0.0;
        for (exponent, sums) in exponents.iter().zip(state.sums.chunks_exact(out.len() + 1)) {
            let feature = (exponent - largest).exp();
            add(out, feature, &sums[..out.len()]);
            over += feature * sums[out.len()];
        }
        let factor = if over.abs() < LEAST { 0.0 } else { 1.0 / over };
        out.iter_mut().for_each(|out| *out *= factor);
    }
}

fn store(state: &State, mut sums: TensorMut<'_, f64>, mut largest: TensorMut<'_, f64>) {
    let mut rows = sums.rows_mut(0, 0);
    let columns = rows.cols();
    for (feature, of_feature) in state.sums.chunks_exact(columns).enumerate() {
        rows.row_mut(feature).copy_from_slice(of_feature);
    }
    largest.rows_mut(0, 0).row_mut(0)[0] = state.largest;
}
