//! FAVOR+: softmax attention by positive orthogonal random features (Choromanski et al., 2021, "Rethinking Attention with
//! Performers", lemma 1 and section 3.2).
//!
//! `e^(scale·q·k)` is the mean of `φ(q)·φ(k)` over random `ω`, so attention is linear attention of features, over the same of
//! ones: a column of ones beside the values. The features of keys are taken relative to the largest exponent of any key so
//! far; where a new one is larger, what stands in the state is made smaller, which is a gate. So nothing overflows, and no
//! later key reaches an earlier result.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use regard_kernels::{Band, Before, COLUMNS, Kernels, Left, Scaling};
use regard_memory::{Arena, Frame, Need, Rows, RowsMut, Tensor, TensorMut, chunks_of};
use regard_simd::Isa;
use regard_threads::Pool;

use super::forward::Scratch;
use super::gate::Decays;
use super::{Direction, Recurrence, RecurrentInputs, RecurrentOutputs};
use crate::task::Failure;
use crate::{Element, Error};

/// The random directions of FAVOR+: rows that are orthogonal within blocks of `dim`, each as long as a normal vector is.
///
/// ```
/// use regard_attention::FavorFeatures;
///
/// let features = FavorFeatures::new(64, 128, 7)?;
/// let rows = features.rows();
/// let dot = |a: usize, b: usize| rows[a * 64..][..64].iter().zip(&rows[b * 64..]).map(|(x, y)| x * y).sum::<f32>();
/// assert!(dot(0, 1).abs() < 1e-3 && dot(0, 0) > 20.0);
/// # Ok::<(), regard_attention::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct FavorFeatures {
    dim: usize,
    count: usize,
    /// `[count][dim]`.
    rows: Vec<f32>,
}

impl FavorFeatures {
    /// `count` features of queries and keys of `dim` numbers; another seed draws others.
    ///
    /// # Errors
    /// One of both is 0.
    pub fn new(dim: usize, count: usize, seed: u64) -> Result<FavorFeatures, Error> {
        for (option, has) in [("features", count), ("dim", dim)] {
            if has == 0 {
                return Err(Error::Option { option, has: 0.0, expected: "at least 1" });
            }
        }
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        // Box and Muller's transformation.
        let mut normal = || {
            let (u, v): (f64, f64) = (random.random(), random.random());
            (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()
        };
        let mut rows = Vec::with_capacity(count * dim);
        let mut block: Vec<Vec<f64>> = Vec::new();
        while rows.len() < count * dim {
            if block.len() == dim {
                block.clear();
            }
            // Gram and Schmidt, twice: what rounding left of the others goes too.
            let mut row: Vec<f64> = (0..dim).map(|_| normal()).collect();
            for _ in 0..2 {
                for other in &block {
                    let share: f64 = row.iter().zip(other).map(|(x, y)| x * y).sum();
                    row.iter_mut().zip(other).for_each(|(x, y)| *x -= share * y);
                }
            }
            let length = row.iter().map(|x| x * x).sum::<f64>().sqrt();
            if length < 1e-9 {
                continue;
            }
            row.iter_mut().for_each(|x| *x /= length);
            let norm = (0..dim).map(|_| normal().powi(2)).sum::<f64>().sqrt();
            rows.extend(row.iter().map(|x| (x * norm) as f32));
            block.push(row);
        }
        Ok(FavorFeatures { dim, count, rows })
    }

    /// Numbers of a query and of a key.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// How many features there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The directions, `[count][dim]`.
    pub fn rows(&self) -> &[f32] {
        &self.rows
    }
}

/// What goes into attention by FAVOR+. Query head `h` reads key/value head `h / (heads / kv_heads)`.
#[derive(Clone, Copy, Debug)]
pub struct FavorInputs<'a, T> {
    /// `[batch, heads, tokens, dim_k]`.
    pub q: Tensor<'a, T>,
    /// `[batch, kv_heads, tokens, dim_k]`.
    pub k: Tensor<'a, T>,
    /// `[batch, kv_heads, tokens, dim_v]`.
    pub v: Tensor<'a, T>,
    /// The state before the first token: what an earlier call left.
    pub state: Option<(Tensor<'a, f32>, Tensor<'a, f32>)>,
}

/// What comes out of attention by FAVOR+.
#[derive(Debug)]
pub struct FavorOutputs<'a, T> {
    /// `[batch, heads, tokens, dim_v]`.
    pub out: TensorMut<'a, T>,
    /// The state after the last token: sums of features times values and ones, `[batch, kv_heads, features, dim_v + 1]`, and the
    /// exponent that the features are relative to, `[batch, kv_heads, 1, 1]`.
    pub state: (TensorMut<'a, f32>, TensorMut<'a, f32>),
}

/// Attention by FAVOR+: an estimate of `softmax(scale·Q·Kᵀ)·V` in time that grows with the tokens.
#[derive(Clone, Debug)]
pub struct Favor<'f> {
    features: &'f FavorFeatures,
    kernels: Kernels,
    recurrence: Recurrence,
    scale: Option<f64>,
    direction: Direction,
}

/// The sizes of a call.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    batch: usize,
    heads: usize,
    kv_heads: usize,
    tokens: usize,
    dim_k: usize,
    dim_v: usize,
    /// Features, and in whole vectors.
    count: usize,
    width: usize,
}

impl Sizes {
    /// Those of the recurrence, whose keys are features.
    fn recurrent(&self) -> super::Sizes {
        super::Sizes::new(self.width, self.dim_v.saturating_add(1))
    }
}

/// Features and values of a call as the recurrence takes them.
struct Lifted<'a> {
    /// `[batch, heads, tokens, width]`.
    q: &'a mut [f32],
    /// `[batch, kv_heads, tokens, width]`.
    k: &'a mut [f32],
    /// `[batch, kv_heads, tokens, dim_v + 1]`, with ones behind the values.
    v: &'a mut [f32],
    /// `[batch, kv_heads, tokens, 1]`.
    log_decay: &'a mut [f32],
    /// `[batch, kv_heads]`: the largest exponent of all keys.
    largest: &'a mut [f32],
    /// `[batch, heads, tokens, dim_v + 1]`.
    out: &'a mut [f32],
    /// `[batch, kv_heads, width, dim_v + 1]`: states before and after.
    before: &'a mut [f32],
    after: &'a mut [f32],
}

impl<'a> Lifted<'a> {
    fn lens(sizes: &Sizes) -> [usize; 8] {
        let Sizes { batch, heads, kv_heads, tokens, dim_v, width, .. } = *sizes;
        let times = |numbers: &[usize]| numbers.iter().fold(1usize, |product, &n| product.saturating_mul(n));
        let states = times(&[batch, kv_heads, width, dim_v + 1]);
        [
            times(&[batch, heads, tokens, width]),
            times(&[batch, kv_heads, tokens, width]),
            times(&[batch, kv_heads, tokens, dim_v + 1]),
            times(&[batch, kv_heads, tokens]),
            times(&[batch, kv_heads]),
            times(&[batch, heads, tokens, dim_v + 1]),
            states,
            states,
        ]
    }

    fn need(sizes: &Sizes) -> Need {
        Lifted::lens(sizes).into_iter().fold(Need::NONE, |need, len| need.and(Need::of::<f32>(len)))
    }

    fn take(frame: &mut Frame<'a>, sizes: &Sizes) -> Self {
        let [q, k, v, log_decay, largest, out, before, after] = Lifted::lens(sizes).map(|len| frame.take(len));
        Lifted { q, k, v, log_decay, largest, out, before, after }
    }
}

impl<'f> Favor<'f> {
    /// Causal attention by these features, with the scale `1/√dim_k`, on an instruction set, or the best one.
    ///
    /// # Errors
    /// `REGARD_ISA` names what this CPU does not have.
    pub fn new(features: &'f FavorFeatures, isa: Option<Isa>) -> Result<Favor<'f>, Error> {
        let recurrence = Recurrence::new(isa)?.with_scale(1.0)?;
        let kernels = recurrence.kernels;
        Ok(Favor { features, kernels, recurrence, scale: None, direction: Direction::Causal })
    }

    /// What scores are multiplied by.
    ///
    /// # Errors
    /// It is negative, or not finite in f32: features are of its root.
    pub fn with_scale(self, scale: f64) -> Result<Self, Error> {
        if !(scale >= 0.0 && (scale as f32).is_finite()) {
            return Err(Error::Option { option: "scale", has: scale, expected: "at least 0, and finite in f32" });
        }
        Ok(Favor { scale: Some(scale), ..self })
    }

    /// Which tokens a token sees.
    #[must_use]
    pub fn with_direction(self, direction: Direction) -> Self {
        Favor { direction, ..self }
    }

    fn sizes<T>(&self, inputs: &FavorInputs<'_, T>) -> Result<Sizes, Error> {
        let shape = crate::Shape::of(&inputs.q, &inputs.k, &inputs.v)?;
        let crate::Shape { batch, heads, kv_heads, queries, keys, dim_k, dim_v } = shape;
        let count = self.features.count;
        crate::shape::expect("keys", inputs.k.shape(), [batch, kv_heads, queries, self.features.dim])?;
        if let Some((sums, largest)) = &inputs.state {
            crate::shape::expect("state", sums.shape(), [batch, kv_heads, count, dim_v + 1])?;
            crate::shape::expect("state's exponents", largest.shape(), [batch, kv_heads, 1, 1])?;
        }
        let width = count.checked_next_multiple_of(COLUMNS).unwrap_or(usize::MAX);
        Ok(Sizes { batch, heads, kv_heads, tokens: keys, dim_k, dim_v, count, width })
    }

    /// What the recurrence forgets: of causal attention what a larger exponent asks for.
    fn decays(&self) -> Decays {
        if self.direction == Direction::Causal { Decays::Head } else { Decays::Never }
    }

    /// The square root of the scale, by which queries and keys are multiplied.
    fn root(&self, dim_k: usize) -> f32 {
        self.scale.unwrap_or(1.0 / (dim_k.max(1) as f64).sqrt()).sqrt() as f32
    }

    /// `√scale·ω` down its columns, `[dim][width]`.
    fn directions(&self, sizes: &Sizes, down: &mut [f32]) {
        let Sizes { dim_k, width, .. } = *sizes;
        let root = self.root(dim_k);
        down.fill(0.0);
        for (feature, row) in self.features.rows.chunks_exact(dim_k).enumerate() {
            row.iter().enumerate().for_each(|(c, &x)| down[c * width + feature] = root * x);
        }
    }

    /// The features of all queries, keys, and the values with ones: what the recurrence takes.
    fn lift<T: Element>(
        &self,
        inputs: &FavorInputs<'_, T>,
        sizes: &Sizes,
        down: &[f32],
        lifted: &mut Lifted<'_>,
        rows: &mut Frame<'_>,
        pool: &Pool,
    ) -> Result<(), Error> {
        let Sizes { heads, kv_heads, tokens, dim_k, dim_v, count, width, .. } = *sizes;
        if tokens == 0 {
            return Ok(());
        }
        let kernels = self.kernels;
        let down = Rows::contiguous(down, dim_k, width)?;
        let factor = 1.0 / (count as f32).sqrt();
        let scale = self.root(dim_k).powi(2);
        let failure = Failure::default();
        let need = Favor::rows_need(sizes);
        // Exponents of a head's rows, and what scratch they take: the rows in single precision, and a number for each.
        let exponents = |frame: &mut Frame<'_>, x: Rows<'_, T>, to: &mut [f32]| -> Result<(), Error> {
            let mut frame = frame.scope();
            let wide = frame.take::<f32>(tokens * dim_k);
            kernels.scale_rows(x, Scaling::All(1.0), RowsMut::contiguous(wide, tokens, dim_k)?)?;
            let left = Left::Rows(Rows::contiguous(wide, tokens, dim_k)?);
            let to = RowsMut::contiguous(to, tokens, width)?;
            Ok(kernels.multiply(left, down, Band::Whole, Before::Replaced, to)?)
        };
        let queries = chunks_of(lifted.q, tokens * width);
        pool.run_in(rows.scope().split(pool.threads(), need), queries, |frame, index, to| {
            failure.catch(|| {
                // What a query's exponents have in common is above and below its results' line.
                exponents(frame, inputs.q.rows(index / heads, index % heads), to)?;
                let mut frame = frame.scope();
                let shifts = frame.take::<f32>(tokens);
                kernels.row_maxima(Rows::new(to, tokens, count, width)?, shifts)?;
                Ok(kernels.exp_rows(RowsMut::contiguous(to, tokens, width)?, count, shifts, factor)?)
            });
        });
        let keys = (
            chunks_of(lifted.k, tokens * width),
            (chunks_of(lifted.log_decay, tokens), chunks_of(lifted.largest, 1)),
            chunks_of(lifted.v, tokens * (dim_v + 1)),
        );
        pool.run_in(rows.scope().split(pool.threads(), need), keys, |frame, index, (to, (decays, largest), v)| {
            failure.catch(|| {
                let (batch, head) = (index / kv_heads, index % kv_heads);
                exponents(frame, inputs.k.rows(batch, head), to)?;
                let mut frame = frame.scope();
                let (shifts, halves) = (frame.take::<f32>(tokens), frame.take::<f32>(tokens));
                kernels.row_maxima(Rows::new(to, tokens, count, width)?, shifts)?;
                for (half, key) in halves.iter_mut().zip(inputs.k.rows(batch, head).iter()) {
                    *half = scale / 2.0 * key.iter().map(|x| x.to_f32() * x.to_f32()).sum::<f32>();
                }
                let before = inputs.state.map(|(_, largest)| largest.rows(batch, head).row(0)[0]);
                let mut most = before.unwrap_or(f32::NEG_INFINITY);
                for ((shift, half), decay) in shifts.iter_mut().zip(&*halves).zip(decays.iter_mut()) {
                    let new = *shift - half;
                    // A NaN is no largest exponent, and shows in the features.
                    let next = if new > most { new } else { most };
                    // Before the first key nothing is in the state.
                    *decay = if most == f32::NEG_INFINITY { 0.0 } else { most - next };
                    (*shift, most) = (next, next);
                }
                largest[0] = most;
                for (shift, half) in shifts.iter_mut().zip(&*halves) {
                    // Of both directions all keys are relative to one exponent.
                    *shift = half + if self.direction == Direction::Both { most } else { *shift };
                }
                kernels.exp_rows(RowsMut::contiguous(to, tokens, width)?, count, shifts, factor)?;
                for (to, value) in v.chunks_exact_mut(dim_v + 1).zip(inputs.v.rows(batch, head).iter()) {
                    to.iter_mut().zip(value).for_each(|(to, x)| *to = x.to_f32());
                    to[dim_v] = 1.0;
                }
                Ok(())
            });
        });
        failure.into_result()
    }

    /// Scratch of a head's rows.
    fn rows_need(sizes: &Sizes) -> Need {
        let Sizes { tokens, dim_k, .. } = *sizes;
        Need::of::<f32>(tokens.saturating_mul(dim_k)).and(Need::of::<f32>(tokens).times(2))
    }

    /// The state before the first token as the recurrence takes it, and what the exponents of Both directions make of it.
    fn begin<T>(&self, inputs: &FavorInputs<'_, T>, sizes: &Sizes, lifted: &mut Lifted<'_>) {
        let Sizes { kv_heads, tokens, dim_v, count, width, .. } = *sizes;
        let Some((sums, largest)) = inputs.state else { return };
        for (index, before) in lifted.before.chunks_exact_mut(width * (dim_v + 1)).enumerate() {
            let (batch, head) = (index / kv_heads, index % kv_heads);
            let fall = match self.direction {
                Direction::Both if tokens > 0 => (largest.rows(batch, head).row(0)[0] - lifted.largest[index]).exp(),
                _ => 1.0,
            };
            before.fill(0.0);
            for (to, from) in before.chunks_exact_mut(dim_v + 1).zip(sums.rows(batch, head).iter()).take(count) {
                // Where no key was seen, 0 is what stands there, whatever it is relative to.
                to.iter_mut().zip(from).for_each(|(to, &x)| *to = if x == 0.0 { 0.0 } else { fall * x });
            }
        }
    }

    /// Computes the results of all tokens and the state that they leave.
    ///
    /// A result whose weights are all too small for single precision is 0.
    ///
    /// # Errors
    /// The shapes do not fit, or there is no memory for the scratch: the features of all tokens are in it.
    pub fn run<T: Element>(
        &self,
        inputs: &FavorInputs<'_, T>,
        outputs: FavorOutputs<'_, T>,
        scratch: &mut Arena,
        pool: &Pool,
    ) -> Result<(), Error> {
        let sizes = self.sizes(inputs)?;
        let Sizes { batch, heads, kv_heads, tokens, dim_v, count, width, .. } = sizes;
        let FavorOutputs { mut out, state: (mut sums, mut largest) } = outputs;
        crate::shape::expect("results", out.shape(), [batch, heads, tokens, dim_v])?;
        crate::shape::expect("state after", sums.shape(), [batch, kv_heads, count, dim_v + 1])?;
        crate::shape::expect("state's exponents after", largest.shape(), [batch, kv_heads, 1, 1])?;
        let directions = Need::of::<f32>(sizes.dim_k.saturating_mul(width));
        // Features are made before the recurrence begins.
        let work = Favor::rows_need(&sizes).or(Scratch::need(sizes.recurrent(), self.decays())).times(pool.threads());
        let mut frame = scratch.frame(directions.and(Lifted::need(&sizes)).and(work))?;
        let lifted = self.forward(inputs, &sizes, &mut frame, pool)?;
        for (index, after) in lifted.after.chunks_exact(width * (dim_v + 1)).enumerate() {
            let (batch, head) = (index / kv_heads, index % kv_heads);
            let mut to = sums.rows_mut(batch, head);
            for (feature, row) in after.chunks_exact(dim_v + 1).take(count).enumerate() {
                to.row_mut(feature).copy_from_slice(row);
            }
            let none = inputs.state.map_or(f32::NEG_INFINITY, |(_, largest)| largest.rows(batch, head).row(0)[0]);
            largest.rows_mut(batch, head).row_mut(0)[0] = if tokens == 0 { none } else { lifted.largest[index] };
        }
        for (index, of_head) in lifted.out.chunks_exact_mut((tokens * (dim_v + 1)).max(1)).enumerate() {
            let mut to = out.rows_mut(index / heads, index % heads);
            for (token, row) in of_head.chunks_exact(dim_v + 1).enumerate() {
                let to = RowsMut::contiguous(to.row_mut(token), 1, dim_v)?;
                self.kernels.store_sum(&[&row[..dim_v]], dim_v, over(row[dim_v]), to)?;
            }
        }
        Ok(())
    }

    /// The results before they are divided, the features and the states.
    fn forward<'a, T: Element>(
        &self,
        inputs: &FavorInputs<'_, T>,
        sizes: &Sizes,
        frame: &mut Frame<'a>,
        pool: &Pool,
    ) -> Result<Lifted<'a>, Error> {
        let Sizes { batch, heads, kv_heads, tokens, dim_k, dim_v, width, .. } = *sizes;
        let down = frame.take::<f32>(dim_k * width);
        self.directions(sizes, down);
        let mut lifted = Lifted::take(frame, sizes);
        self.lift(inputs, sizes, down, &mut lifted, &mut frame.scope(), pool)?;
        self.begin(inputs, sizes, &mut lifted);
        let Lifted { q, k, v, log_decay, out, before, after, .. } = &mut lifted;
        let states = [batch, kv_heads, width, dim_v + 1];
        let of = RecurrentInputs {
            q: Tensor::contiguous(q, [batch, heads, tokens, width])?,
            k: Tensor::contiguous(k, [batch, kv_heads, tokens, width])?,
            v: Tensor::contiguous(v, [batch, kv_heads, tokens, dim_v + 1])?,
            log_decay: match self.decays() {
                Decays::Never => None,
                _ => Some(Tensor::contiguous(log_decay, [batch, kv_heads, tokens, 1])?),
            },
            beta: None,
            state: inputs.state.map(|_| Tensor::contiguous(before, states)).transpose()?,
        };
        let outputs = RecurrentOutputs {
            out: TensorMut::contiguous(out, [batch, heads, tokens, dim_v + 1])?,
            state: TensorMut::contiguous(after, states)?,
        };
        self.recurrence.with_direction(self.direction).run_within(&of, outputs, &mut frame.scope(), pool)?;
        Ok(lifted)
    }
}

/// What a result is divided by, as a factor; 0 where nothing was seen.
fn over(sum: f32) -> f32 {
    if sum == 0.0 { 0.0 } else { 1.0 / sum }
}
