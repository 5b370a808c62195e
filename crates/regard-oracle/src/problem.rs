//! A call that owns its numbers.

use std::fmt;

use crate::pair::rows;
use crate::{Attention, Bias, Dropout, Pair, Precision, Sequence, Set, Sizes, numbers, widen};

/// A call with its numbers, and the gradients that reach its results: what a test turns into a call of an engine, and into
/// one of the reference by [`define`](Self::define).
///
/// Numbers are in f32, so that every storage format's are exactly given by [`rounded`](Self::rounded). Tensors have no gaps.
#[derive(Clone, Default)]
pub struct Problem {
    /// The sizes of the tensors.
    pub sizes: Sizes,
    /// Which queries and keys belong together.
    pub sequences: Vec<Sequence>,
    /// The mask.
    pub set: Set,
    /// `1/√dim_k` unless given.
    pub scale: Option<f32>,
    /// The magnitude that scores stay below.
    pub softcap: Option<f32>,
    /// `[batch, heads, queries, keys]`, any of which may be 1, and the numbers.
    pub bias: Option<([usize; 4], Vec<f32>)>,
    /// `[heads]`.
    pub slopes: Option<Vec<f32>>,
    /// `[heads]`.
    pub sinks: Option<Vec<f32>>,
    /// How likely a weight is dropped.
    pub dropout: Option<f32>,
    /// `[batch, heads, queries, dim_k]`.
    pub q: Vec<f32>,
    /// `[batch, kv_heads, keys, dim_k]`.
    pub k: Vec<f32>,
    /// `[batch, kv_heads, keys, dim_v]`.
    pub v: Vec<f32>,
    /// `[batch, heads, queries, dim_v]`.
    pub dout: Vec<f32>,
    /// `[batch, heads, queries]`.
    pub dlse: Vec<f32>,
}

/// On one line and without the tensors: failures are read by people.
impl fmt::Debug for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Problem { sizes, sequences, set, scale, softcap, bias, slopes, sinks, dropout, .. } = self;
        let bias = bias.as_ref().map(|(shape, _)| shape);
        write!(f, "{sizes:?}, {sequences:?}, {set:?}, scale {scale:?}, softcap {softcap:?}, bias {bias:?}, ")?;
        write!(f, "slopes {slopes:?}, sinks {sinks:?}, dropout {dropout:?}")
    }
}

impl Problem {
    /// A call of these sizes without options, of whole batch entries, with numbers that follow from a seed.
    pub fn of(sizes: Sizes, set: Set, seed: u64) -> Problem {
        Problem { sizes, sequences: sizes.whole(None), set, ..Problem::default() }.redrawn(seed)
    }

    /// The same call with other numbers: normal ones that follow from a seed. Scale, cap, slopes and the pairs that the
    /// bias removes stay.
    pub fn redrawn(&self, seed: u64) -> Problem {
        let draw = |tensor: u64, len| numbers(seed.wrapping_mul(7).wrapping_add(tensor), len);
        let normal = |tensor, shape: [usize; 4]| draw(tensor, shape.iter().product());
        let bias = self.bias.as_ref().map(|(shape, before)| {
            let keep = |(new, old)| if old == f32::NEG_INFINITY { old } else { new };
            (*shape, normal(3, *shape).into_iter().zip(before.iter().copied()).map(keep).collect())
        });
        Problem {
            q: normal(0, self.sizes.q()),
            k: normal(1, self.sizes.k()),
            v: normal(2, self.sizes.v()),
            bias,
            sinks: self.sinks.as_ref().map(|sinks| draw(4, sinks.len())),
            dout: normal(5, self.sizes.out()),
            dlse: normal(6, self.sizes.lse()),
            ..self.clone()
        }
    }

    /// The same with the tensors that an engine stores in some precision, queries, keys, values and the gradient of the
    /// output, rounded to it.
    pub fn rounded(&self, precision: Precision) -> Problem {
        let round = |x: &[f32]| x.iter().map(|&x| precision.round(x)).collect();
        Problem { q: round(&self.q), k: round(&self.k), v: round(&self.v), dout: round(&self.dout), ..self.clone() }
    }

    /// Whether a pair is one that the mask keeps.
    pub fn allows(&self, pair: &Pair) -> bool {
        self.set.holds(pair.batch, pair.head, pair.p, pair.j)
    }

    /// Whether the mask keeps a pair and no bias of −∞ removes it.
    pub fn sees(&self, pair: &Pair) -> bool {
        self.allows(pair) && self.biased(pair).is_none_or(|bias| bias != f32::NEG_INFINITY)
    }

    /// What is added to the score of a pair.
    pub fn biased(&self, pair: &Pair) -> Option<f32> {
        self.bias.as_ref().map(|(shape, values)| values[pair.within(*shape)])
    }

    /// All pairs of a query and a key of one sequence, seen or not.
    ///
    /// ```
    /// use regard_oracle::{Problem, Set, Sizes};
    ///
    /// let sizes = Sizes { batch: 1, heads: 2, kv_heads: 1, queries: 3, keys: 3, dim_k: 4, dim_v: 2 };
    /// let problem = Problem::of(sizes, Set::Causal, 1);
    /// assert_eq!(problem.pairs().count(), 2 * 9);
    /// assert_eq!(problem.pairs().filter(|pair| problem.sees(pair)).count(), 2 * 6);
    /// ```
    pub fn pairs(&self) -> impl Iterator<Item = Pair> {
        rows(self.sizes, &self.sequences).flat_map(|row| row.into_pairs())
    }

    /// Answers about the call from its definition. `keeps` says which weights dropout keeps; it is not asked where there is
    /// no dropout.
    ///
    /// ```
    /// use regard_oracle::{Problem, Set, Sizes, widen};
    ///
    /// let sizes = Sizes { batch: 1, heads: 2, kv_heads: 1, queries: 3, keys: 5, dim_k: 4, dim_v: 2 };
    /// let problem = Problem::of(sizes, Set::Causal, 1);
    /// let (attended, gradients) = problem.define(|_| true, |call| {
    ///     (call.exact(), call.gradients(&widen(&problem.dout), &widen(&problem.dlse)))
    /// });
    /// assert_eq!((attended.out.len(), gradients.dk.len()), (2 * 3 * 2, 5 * 4));
    /// ```
    pub fn define<R>(&self, keeps: impl Fn(&Pair) -> bool, answer: impl FnOnce(Attention<'_>) -> R) -> R {
        let (q, k, v) = (widen(&self.q), widen(&self.k), widen(&self.v));
        let bias = self.bias.as_ref().map(|(shape, values)| (*shape, widen(values)));
        let [slopes, sinks] = [&self.slopes, &self.sinks].map(|x| x.as_deref().map(widen));
        // The mask is asked once: answers go over the pairs again and again.
        let Sizes { batch, heads, queries, keys, .. } = self.sizes;
        let shape = [batch, heads, queries, keys];
        let mut allowed = vec![false; shape.iter().product()];
        self.pairs().for_each(|pair| allowed[pair.within(shape)] = self.allows(&pair));
        answer(Attention {
            sizes: self.sizes,
            q: &q,
            k: &k,
            v: &v,
            sequences: Some(&self.sequences),
            allows: &|pair| allowed[pair.within(shape)],
            scale: self.scale.map(f64::from),
            softcap: self.softcap.map(f64::from),
            bias: bias.as_ref().map(|(shape, values)| Bias { shape: *shape, values }),
            slopes: slopes.as_deref(),
            sinks: sinks.as_deref(),
            dropout: self.dropout.map(|probability| Dropout { probability: probability.into(), keeps: &keeps }),
        })
    }
}
