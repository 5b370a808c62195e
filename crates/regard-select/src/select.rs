//! Queries and keys whose blocks are to be chosen from.

use ndarray::{Array2, ArrayView4};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use regard_attention::Direction;
use regard_memory::each_of;
use regard_threads::Pool;

use crate::summary::{HeadSummary, Summary};
use crate::{Blocks, Error, Lesson, Scores, Selector, check, exact};

/// Scores of the blocks of keys for each block of queries, by one method or another.
///
/// Unless told otherwise blocks are of 64 positions and attention is causal, scaled by `1/√dim`, its last query at the last key.
///
/// ```
/// use ndarray::Array4;
/// use regard_attention::attention;
/// use regard_select::{Budget, Select};
///
/// // [batch, heads, seq, dim]; two query heads share each key/value head.
/// let q = Array4::from_shape_fn((1, 4, 300, 16), |(_, h, i, c)| ((h + i * 3 + c) as f32).sin());
/// let k = Array4::from_shape_fn((1, 2, 300, 16), |(_, h, i, c)| ((h * 2 + i + c) as f32).cos());
/// let select = Select::new(q.view(), k.view()).block(32);
///
/// // Block routing: for each 32 queries a quarter of the blocks before them, by pooled queries and keys.
/// let routed = select.pooled()?.top(Budget::Share(0.25))?;
/// // An adaptive window: for each 32 queries as many blocks before them as seem to hold 90% of the softmax mass.
/// let window = select.estimated()?.window(0.9)?;
///
/// let out = attention(q.view(), k.view(), k.view(), &routed.mask()?)?;
/// assert_eq!(out.dim(), q.dim());
///
/// // What they keep of it.
/// let exact = select.exact()?;
/// println!("{routed}, {:.3} of the mass; {window}, {:.3}", exact.kept(&routed)?, exact.kept(&window)?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Select<'a> {
    q: ArrayView4<'a, f32>,
    k: ArrayView4<'a, f32>,
    size: usize,
    direction: Direction,
    offset: Option<usize>,
    scale: Option<f64>,
}

/// How many heads there are of what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heads {
    pub(crate) batch: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) dim: usize,
}

impl Heads {
    pub(crate) fn of(q: ArrayView4<'_, f32>, k: ArrayView4<'_, f32>) -> Heads {
        let (batch, heads, _, dim) = q.dim();
        Heads { batch, heads, kv_heads: k.dim().1, dim }
    }

    /// The key/value head of a query head, both counted over batch entries.
    pub(crate) fn keys_of(&self, at: usize) -> usize {
        at / (self.heads / self.kv_heads)
    }
}

impl<'a> Select<'a> {
    /// Of `q [batch, heads, queries, dim]` over `k [batch, kv_heads, keys, dim]`, as attention takes them: after rotation.
    pub fn new(q: ArrayView4<'a, f32>, k: ArrayView4<'a, f32>) -> Self {
        Select { q, k, size: 64, direction: Direction::Causal, offset: None, scale: None }
    }

    /// Positions of a block. The engine's panels are of 64 keys: other sizes cost more than what they keep.
    #[must_use]
    pub fn block(mut self, size: usize) -> Self {
        self.size = size;
        self
    }

    /// Which keys a query sees.
    #[must_use]
    pub fn direction(mut self, direction: Direction) -> Self {
        self.direction = direction;
        self
    }

    /// The position of the first query; a call of attention has to be told the same. The last query stands at the last key
    /// unless given.
    #[must_use]
    pub fn offset(mut self, offset: usize) -> Self {
        self.offset = Some(offset);
        self
    }

    /// Scores are multiplied by this, which is positive; by `1/√dim` unless given.
    #[must_use]
    pub fn scale(mut self, scale: f64) -> Self {
        self.scale = Some(scale);
        self
    }

    /// The blocks of these queries and keys.
    ///
    /// # Errors
    /// As [`Blocks::new`].
    pub fn blocks(&self) -> Result<Blocks, Error> {
        Blocks::new(self.q.dim().2, self.k.dim().2, self.size, self.direction, self.offset)
    }

    /// Block routing: `scale · q̄·k̄`, of the mean query of a row and the mean key of a column.
    ///
    /// This is the parameter-free gate of MoBA (Lu et al., 2025, "MoBA: Mixture of Block Attention for Long-Context LLMs"), which
    /// pools keys by their mean and always takes a query's own block; a row's queries are pooled too and choose together, so that
    /// a choice is blocks of queries by blocks of keys.
    ///
    /// # Errors
    /// Those of [`blocks`](Self::blocks); [`Error::Axis`] where the shapes do not fit, [`Error::NotFinite`] where queries or keys
    /// hold NaN or an infinity, [`Error::Parameter`] for a scale that is not positive.
    pub fn pooled(&self) -> Result<Scores, Error> {
        self.of_summary(|head, _, _| head.products())
    }

    /// The logarithm of a column's softmax mass, estimated: `ln n + scale · q̄·k̄ + ½ scale² · Σ_c q̄_c²·σ²_c`.
    ///
    /// `n` is the mean number of keys of the column that a query of the row sees, `σ²` are the variances of its keys. If keys are
    /// normal and their dimensions independent, this is `ln Σ_j e^(scale·q̄·k_j)` but for the deviation of a sample: the mean of
    /// `e^x` is `e^(µ + σ²/2)`. No score of a query with a key is computed.
    ///
    /// # Errors
    /// As [`pooled`](Self::pooled).
    pub fn estimated(&self) -> Result<Scores, Error> {
        self.of_summary(|head, blocks, _| {
            let mut scores = head.products() + head.halves_of_variance();
            for ((row, column), score) in scores.indexed_iter_mut() {
                *score += (blocks.pairs(row, column) as f64 / blocks.queries_of(row).len() as f64).ln();
            }
            scores
        })
    }

    /// What a selector has learned of such queries and keys.
    ///
    /// # Errors
    /// As [`pooled`](Self::pooled), and [`Error::Axis`] where the selector is of other heads.
    pub fn learned(&self, selector: &Selector) -> Result<Scores, Error> {
        let summary = self.summary()?;
        selector.check(&summary)?;
        Ok(scores_of(&summary, |head, _, at| selector.scores(at % summary.heads.heads, head, &summary.blocks)))
    }

    /// The logarithm of a column's softmax mass: of the mean over the row's queries of what their weights on its keys add up
    /// to, computed in f64 from every pair. It costs more than attention does. It is what other scores are measured by, and what a
    /// selector learns.
    ///
    /// # Errors
    /// As [`pooled`](Self::pooled).
    pub fn exact(&self) -> Result<Scores, Error> {
        let (blocks, scale) = self.check()?;
        exact::finite("queries", self.q)?;
        exact::finite("keys", self.k)?;
        let heads = Heads::of(self.q, self.k);
        Ok(Scores { heads, blocks, tables: exact::masses(self.q, self.k, blocks, scale) })
    }

    /// Random numbers that follow from a seed: what a choice without any knowledge is made by.
    ///
    /// # Errors
    /// As [`pooled`](Self::pooled).
    pub fn random(&self, seed: u64) -> Result<Scores, Error> {
        self.of_summary(|_, blocks, at| {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            random.set_stream(at as u64);
            Array2::from_shape_simple_fn((blocks.rows(), blocks.columns()), || random.random::<f64>())
        })
    }

    /// The nearer a column is to the row's own, the higher: by these the best blocks are a window.
    ///
    /// # Errors
    /// As [`pooled`](Self::pooled).
    pub fn nearest(&self) -> Result<Scores, Error> {
        self.of_summary(|_, blocks, _| {
            let near = |(row, column)| -(blocks.own(row).abs_diff(column) as f64);
            Array2::from_shape_fn((blocks.rows(), blocks.columns()), near)
        })
    }

    /// What a selector learns from: the blocks' summaries and their exact masses.
    ///
    /// # Errors
    /// As [`pooled`](Self::pooled).
    pub fn lesson(&self) -> Result<Lesson, Error> {
        let summary = self.summary()?;
        let masses = self.exact()?;
        Ok(Lesson { summary, masses })
    }

    fn of_summary(
        &self,
        score: impl Fn(HeadSummary<'_>, &Blocks, usize) -> Array2<f64> + Sync,
    ) -> Result<Scores, Error> {
        Ok(scores_of(&self.summary()?, score))
    }

    fn summary(&self) -> Result<Summary, Error> {
        let (blocks, scale) = self.check()?;
        Summary::new(self.q, self.k, blocks, scale)
    }

    /// The blocks and the scale, once shapes fit.
    fn check(&self) -> Result<(Blocks, f64), Error> {
        let (batch, heads, _, dim) = self.q.dim();
        let (kv_batch, kv_heads, _, kv_dim) = self.k.dim();
        check::some("queries", "batch", batch)?;
        check::some("queries", "heads", heads)?;
        check::some("queries", "dim", dim)?;
        check::extent("keys", "batch", kv_batch, batch)?;
        check::extent("keys", "dim", kv_dim, dim)?;
        if kv_heads == 0 || heads % kv_heads != 0 {
            let expected = format!("a divisor of the {heads} heads of `queries`");
            return Err(Error::Axis { tensor: "keys", axis: "heads", has: kv_heads, expected });
        }
        let scale = self.scale.unwrap_or(1.0 / (dim as f64).sqrt());
        let fits = scale > 0.0 && (scale as f32).is_finite();
        check::within("scale", scale, fits, "positive and finite in f32")?;
        Ok((self.blocks()?, scale))
    }
}

/// Scores of every head, −∞ where nothing is seen.
fn scores_of(summary: &Summary, score: impl Fn(HeadSummary<'_>, &Blocks, usize) -> Array2<f64> + Sync) -> Scores {
    let mut tables = vec![Array2::zeros((0, 0)); summary.len()];
    let blocks = summary.blocks;
    Pool::global().run(each_of(&mut tables), |at, table| {
        *table = score(summary.head(at), &blocks, at);
        for row in 0..blocks.rows() {
            table.row_mut(row).iter_mut().skip(blocks.seen(row)).for_each(|score| *score = f64::NEG_INFINITY);
        }
    });
    Scores { heads: summary.heads, blocks, tables }
}
