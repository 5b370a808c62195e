//! Rotary positions (RoPE; Su et al., 2021): dimensions of a head, two by two, turn with the position.

use std::f64::consts::TAU;

use regard_simd::{Kernel, Simd};

use crate::{Error, Kernels};

/// Which two dimensions of a head make a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RotaryOrder {
    /// `2i` and `2i + 1`, as in the paper and in GGUF files of the Llama family.
    Interleaved,
    /// `i` and `i + dims / 2`, as in Hugging Face's models.
    HalfSplit,
}

/// What is done to the frequencies so that a model sees further than it was trained to. What a rule depends on is the
/// `context`, the tokens that a sequence may have, and the `original` one, those that the model was trained on.
#[derive(Clone, Debug, PartialEq)]
pub enum RotaryScaling {
    /// Nothing.
    None,
    /// All are divided by this (Chen et al., 2023).
    Linear(f32),
    /// Each is divided by its own factor, `[dims / 2]`: how GGUF files state the rule of Llama 3.
    Factors(Vec<f32>),
    /// The base grows with a context beyond the original one ("dynamic NTK"; Peng et al., 2023, appendix B.2):
    /// `θ·(factor·context/original − (factor − 1))^(dims/(dims − 2))`.
    Dynamic {
        /// How strongly.
        factor: f32,
        /// Tokens that the model was trained on.
        original: usize,
    },
    /// The rule of Llama 3.1: a pair that turns less than `low` times within the original context is slowed down by `factor`,
    /// one that turns more than `high` times is left alone, and between the two it goes over linearly in the turns.
    Llama3 {
        /// What slow pairs are divided by.
        factor: f32,
        /// Turns up to which a pair is slow.
        low: f32,
        /// Turns from which a pair is fast.
        high: f32,
        /// Tokens that the model was trained on.
        original: usize,
    },
    /// YaRN (Peng et al., 2023, section 3.2): a pair of fast turns is left alone, one of slow turns divided by `factor`, and
    /// between the two it goes over linearly in the number of the pair.
    Yarn {
        /// What slow pairs are divided by.
        factor: f32,
        /// Turns within the original context of a fast and of a slow pair: 32 and 1 in the paper.
        turns: [f32; 2],
        /// Whether the numbers of the pairs with so many turns are rounded outwards.
        whole: bool,
        /// What queries and keys are multiplied by: `0.1·ln(factor) + 1` in the paper.
        amplitude: f32,
        /// Tokens that the model was trained on.
        original: usize,
    },
    /// LongRoPE (Ding et al., 2024): each is divided by its own factor, of one list within the original context and of another
    /// for a longer one.
    LongRope {
        /// `[dims / 2]`, within the original context.
        short: Vec<f32>,
        /// `[dims / 2]`, beyond it.
        long: Vec<f32>,
        /// What queries and keys are multiplied by.
        amplitude: f32,
        /// Tokens that the model was trained on.
        original: usize,
    },
}

/// The frequencies of a rotation: pair `i` turns by `θ^(−2i/dims)` from position to position.
///
/// ```
/// use regard_kernels::{Kernels, Rotary, RotaryOrder, RotaryScaling};
/// use regard_simd::Isa;
///
/// let rotary = Rotary::new(2, 10_000.0, &RotaryScaling::None, 2048);
/// let mut turn = [0.0; 2];
/// rotary.turn(3, &mut turn);
/// assert_eq!(turn, [3f64.cos() as f32, 3f64.sin() as f32]);
///
/// // One head of 4 numbers, of which the first two turn.
/// let mut head = [1.0, 0.0, 7.0, 8.0];
/// Kernels::new(Isa::best()).rotate(RotaryOrder::HalfSplit, &turn, 4, &mut head)?;
/// assert_eq!(head, [turn[0], turn[1], 7.0, 8.0]);
/// # Ok::<(), regard_kernels::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Rotary {
    /// Radians from position to position, `[dims / 2]`.
    frequencies: Vec<f64>,
    /// What cosines and sines are multiplied by.
    amplitude: f64,
}

impl Rotary {
    /// The frequencies of `dims` dimensions at base `theta`, for sequences of up to `context` tokens. Missing factors count as
    /// 1.
    pub fn new(dims: usize, theta: f32, scaling: &RotaryScaling, context: usize) -> Rotary {
        let theta = f64::from(theta);
        let plain = |theta: f64| move |i: usize| theta.powf(-2.0 * i as f64 / dims as f64);
        let divided = |factors: &[f32]| -> Vec<f64> {
            (0..dims / 2).map(|i| plain(theta)(i) / f64::from(factors.get(i).copied().unwrap_or(1.0))).collect()
        };
        let all = |frequency: &dyn Fn(usize) -> f64| (0..dims / 2).map(frequency).collect();
        let (frequencies, amplitude) = match *scaling {
            RotaryScaling::None => (all(&plain(theta)), 1.0),
            RotaryScaling::Linear(factor) => (all(&|i| plain(theta)(i) / f64::from(factor)), 1.0),
            RotaryScaling::Factors(ref factors) => (divided(factors), 1.0),
            RotaryScaling::Dynamic { factor, original } => {
                let (factor, dims) = (f64::from(factor), dims as f64);
                let longer = context.max(original) as f64 / original as f64;
                let growth = (factor * longer - (factor - 1.0)).powf(dims / (dims - 2.0));
                (all(&plain(if longer > 1.0 { theta * growth } else { theta })), 1.0)
            }
            RotaryScaling::Llama3 { factor, low, high, original } => {
                let [factor, low, high] = [factor, low, high].map(f64::from);
                let frequency = |i: usize| {
                    let frequency = plain(theta)(i);
                    let turns = original as f64 * frequency / TAU;
                    let fast = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    fast * frequency + (1.0 - fast) * frequency / factor
                };
                (all(&frequency), 1.0)
            }
            RotaryScaling::Yarn { factor, turns: [fast, slow], whole, amplitude, original } => {
                // The pair that turns so often within the original context.
                let pair =
                    |turns: f32| dims as f64 * (original as f64 / (f64::from(turns) * TAU)).ln() / (2.0 * theta.ln());
                let (first, last) = (pair(fast), pair(slow));
                let (first, last) = if whole { (first.floor(), last.ceil()) } else { (first, last) };
                let (first, last) = (first.max(0.0), last.min(dims as f64 - 1.0));
                // What parts them may not be nothing.
                let span = if first == last { 0.001 } else { last - first };
                let frequency = |i: usize| {
                    let slow = ((i as f64 - first) / span).clamp(0.0, 1.0);
                    let frequency = plain(theta)(i);
                    (1.0 - slow) * frequency + slow * frequency / f64::from(factor)
                };
                (all(&frequency), f64::from(amplitude))
            }
            RotaryScaling::LongRope { ref short, ref long, amplitude, original } => {
                (divided(if context > original { long } else { short }), f64::from(amplitude))
            }
        };
        Rotary { frequencies, amplitude }
    }

    /// Dimensions that turn.
    pub fn dims(&self) -> usize {
        2 * self.frequencies.len()
    }

    /// Radians from position to position, `[dims / 2]`.
    pub fn frequencies(&self) -> &[f64] {
        &self.frequencies
    }

    /// The turn at a position, which all heads share: the cosines of the pairs, then their sines, `[dims]`, both times what the
    /// scaling multiplies queries and keys by.
    ///
    /// # Panics
    /// `turn` is shorter.
    pub fn turn(&self, position: usize, turn: &mut [f32]) {
        let (cos, sin) = turn[..self.dims()].split_at_mut(self.frequencies.len());
        for ((cos, sin), frequency) in cos.iter_mut().zip(sin).zip(&self.frequencies) {
            let (s, c) = (position as f64 * frequency).sin_cos();
            (*cos, *sin) = ((self.amplitude * c) as f32, (self.amplitude * s) as f32);
        }
    }
}

impl Kernels {
    /// Turns heads of `dim` numbers each, in place: a pair `(a, b)` becomes `(a·cos − b·sin, a·sin + b·cos)`. Dimensions
    /// behind those of the turn stay.
    ///
    /// # Errors
    /// [`Error::Size`] if the turn is of odd length or longer than a head; [`Error::Length`] if `heads` is no whole number
    /// of heads.
    pub fn rotate(self, order: RotaryOrder, turn: &[f32], dim: usize, heads: &mut [f32]) -> Result<(), Error> {
        check(turn, dim, heads)?;
        self.isa().run(Rotate::<false> { order, turn, dim, heads });
        Ok(())
    }

    /// The gradient of [`rotate`](Self::rotate), in place: the transpose of a rotation turns back, and keeps what the turn
    /// multiplies by. A pair `(a, b)` becomes `(a·cos + b·sin, b·cos − a·sin)`.
    ///
    /// # Errors
    /// As [`rotate`](Self::rotate).
    pub fn rotate_back(self, order: RotaryOrder, turn: &[f32], dim: usize, heads: &mut [f32]) -> Result<(), Error> {
        check(turn, dim, heads)?;
        self.isa().run(Rotate::<true> { order, turn, dim, heads });
        Ok(())
    }
}

fn check(turn: &[f32], dim: usize, heads: &[f32]) -> Result<(), Error> {
    if turn.len() > dim || !turn.len().is_multiple_of(2) {
        return Err(Error::Size { name: "turn", has: turn.len(), expected: "even, and no longer than a head" });
    }
    if dim == 0 || !heads.len().is_multiple_of(dim) {
        let expected = heads.len().checked_div(dim).unwrap_or(0) * dim;
        return Err(Error::Length { name: "heads", has: heads.len(), expected });
    }
    Ok(())
}

/// A turn, or with `BACK` its transpose.
struct Rotate<'a, const BACK: bool> {
    order: RotaryOrder,
    turn: &'a [f32],
    dim: usize,
    heads: &'a mut [f32],
}

impl<const BACK: bool> Kernel for Rotate<'_, BACK> {
    type Output = ();
    /// Plain loops: they are compiled for each instruction set, and vectorise.
    #[inline(always)]
    fn run<S: Simd>(self, _s: S) {
        let Rotate { order, turn, dim, heads } = self;
        let (cos, sin) = turn.split_at(turn.len() / 2);
        let side = |sin: &f32| if BACK { -sin } else { *sin };
        for head in heads.chunks_exact_mut(dim) {
            match order {
                RotaryOrder::Interleaved => {
                    let pairs = head[..turn.len()].as_chunks_mut::<2>().0;
                    for ((pair, cos), sin) in pairs.iter_mut().zip(cos).zip(sin) {
                        let ([a, b], sin) = (*pair, side(sin));
                        *pair = [a * cos - b * sin, a * sin + b * cos];
                    }
                }
                RotaryOrder::HalfSplit => {
                    let (first, second) = head[..turn.len()].split_at_mut(turn.len() / 2);
                    for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                        let sin = side(sin);
                        (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regard_simd::Isa;

    use super::*;

    proptest! {
        #[test]
        fn is_a_rotation(
            pairs in 0usize..40,
            behind in 0usize..5,
            heads in 1usize..4,
            position in 0usize..100_000,
            seed in any::<u32>(),
        ) {
            let dim = 2 * pairs + behind;
            prop_assume!(dim > 0);
            let factors: Vec<f32> = (0..pairs).map(|i| 1.0 + i as f32).collect();
            let x: Vec<f32> = (0..heads * dim).map(|i| (f64::from(seed) + i as f64 * 1.7).sin() as f32).collect();
            let rotary = Rotary::new(2 * pairs, 1e4, &RotaryScaling::Factors(factors), 1);
            let mut turn = vec![0.0; 2 * pairs];
            rotary.turn(position, &mut turn);
            for isa in Isa::available() {
                for order in [RotaryOrder::Interleaved, RotaryOrder::HalfSplit] {
                    let mut turned = x.clone();
                    Kernels::new(isa).rotate(order, &turn, dim, &mut turned).unwrap();
                    for (before, after) in x.chunks(dim).zip(turned.chunks(dim)) {
                        for i in 0..pairs {
                            let (a, b) = match order {
                                RotaryOrder::Interleaved => (2 * i, 2 * i + 1),
                                RotaryOrder::HalfSplit => (i, i + pairs),
                            };
                            let frequency = 1e4f64.powf(-(i as f64) / pairs as f64) / (1.0 + i as f64);
                            let (sin, cos) = (position as f64 * frequency).sin_cos();
                            let (p, q) = (f64::from(before[a]), f64::from(before[b]));
                            prop_assert!((f64::from(after[a]) - (p * cos - q * sin)).abs() < 3e-7);
                            prop_assert!((f64::from(after[b]) - (p * sin + q * cos)).abs() < 3e-7);
                        }
                        prop_assert_eq!(&before[2 * pairs..], &after[2 * pairs..]);
                    }
                }
            }
        }
    }

    #[test]
    fn shapes_are_checked() {
        let kernels = Kernels::new(Isa::best());
        assert!(kernels.rotate(RotaryOrder::Interleaved, &[1.0; 3], 4, &mut [0.0; 4]).is_err());
        assert!(kernels.rotate(RotaryOrder::Interleaved, &[1.0; 6], 4, &mut [0.0; 4]).is_err());
        assert!(kernels.rotate(RotaryOrder::Interleaved, &[1.0; 2], 4, &mut [0.0; 6]).is_err());
    }
}
