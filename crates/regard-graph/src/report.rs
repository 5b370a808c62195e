//! What a mask or a retrieval keeps of exact attention.

use std::fmt;

use ndarray::{Array3, Array4, ArrayView3, ArrayView4};
use regard_attention::{Attention, Shape};
use regard_masks::{Mask, Runs};
use regard_memory::chunks_of;
use regard_threads::Pool;

use crate::lift::product;
use crate::retrieval::shape_of;
use crate::rows::{head, place, row};
use crate::{Error, Retrieved, check};

/// A share over queries, 0 to 1. NaN where there is no query to count.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share {
    /// The mean over queries.
    pub mean: f64,
    /// The lowest of any query.
    pub lowest: f64,
}

/// What is kept of exact attention. Queries that see no key exactly do not count.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report {
    /// Queries that count, over all heads and batch entries.
    pub queries: usize,
    /// The share of the pairs of exact attention that is kept.
    pub density: f64,
    /// The share of a query's softmax weight that lies on keys that are kept: `e^(lse − lse_exact)`.
    pub mass: Share,
    /// Of how many keys with the largest products recall is told.
    pub top: usize,
    /// The share of these keys that is kept. Of keys with equal products any will do.
    pub recall: Share,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { density, mass, top, recall, .. } = self;
        let percent = |share: f64| 100.0 * share;
        write!(
            f,
            "density {:.2}%, mass {:.2}% (lowest {:.2}%)",
            percent(*density),
            percent(mass.mean),
            percent(mass.lowest)
        )?;
        write!(f, ", recall of {top} {:.2}% (lowest {:.2}%)", percent(recall.mean), percent(recall.lowest))
    }
}

/// Measures what is kept of exact attention of queries over keys.
///
/// It computes the exact log-sum-exp of every query, and every product: that costs what exact attention does, and more.
///
/// ```
/// use ndarray::Array4;
/// use regard_graph::{Measure, Retrieval, Sight};
/// use regard_masks::Mask;
///
/// let element = |(b, h, i, c)| ((b * 7 + h * 5 + i * 3 + c * i) as f32).sin();
/// let x = Array4::from_shape_fn((1, 2, 200, 16), element);
/// let measure = Measure::new(x.view(), x.view()).of(Mask::causal()).top(8);
/// let window = measure.mask(&(Mask::causal() & Mask::window(Some(31), None)))?;
/// let retrieval = Retrieval::new(8).window(Some(31), Some(0)).sight(Sight::Filtered);
/// let retrieved = measure.retrieved(&retrieval.run(x.view(), x.view(), x.view())?)?;
/// assert!(retrieved.mass.mean > window.mass.mean && retrieved.recall.mean > 0.9);
/// # Ok::<(), regard_graph::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Measure<'a> {
    q: ArrayView4<'a, f32>,
    k: ArrayView4<'a, f32>,
    of: Mask,
    top: usize,
    scale: Option<f64>,
}

/// Queries of a head whose products one task makes.
const BLOCK: usize = 16;

impl<'a> Measure<'a> {
    /// Against exact attention of `q [batch, heads, queries, dim_k]` over all of `k [batch, kv_heads, keys, dim_k]`; recall of
    /// 32 keys.
    pub fn new(q: ArrayView4<'a, f32>, k: ArrayView4<'a, f32>) -> Self {
        Measure { q, k, of: Mask::full(), top: 32, scale: None }
    }

    /// Exact attention is that of this mask, most often a causal one.
    #[must_use]
    pub fn of(mut self, mask: Mask) -> Self {
        self.of = mask;
        self
    }

    /// Recall is told of so many keys with the largest products, of those that exact attention sees.
    #[must_use]
    pub fn top(mut self, top: usize) -> Self {
        self.top = top;
        self
    }

    /// Scores are multiplied by this, which is positive; by `1/√dim_k` unless given.
    #[must_use]
    pub fn scale(mut self, scale: f64) -> Self {
        self.scale = Some(scale);
        self
    }

    /// What a mask keeps. Pairs that exact attention does not see do not count.
    ///
    /// # Errors
    /// [`Error::Attention`] where the shapes or the mask do not fit, [`Error::NotFinite`] where queries or keys hold NaN or an
    /// infinity, [`Error::Parameter`] for recall of no keys or a scale that is not positive.
    pub fn mask(&self, mask: &Mask) -> Result<Report, Error> {
        let shape = self.check()?;
        let kept = mask & &self.of;
        let (lse, pairs) = self.sums(&kept)?;
        let of_head = masks(shape, &kept);
        let sees = |b: usize, h: usize, p: i64, _, j| of_head[b * shape.heads + h].allows(p, j, shape.keys);
        self.report(shape, lse.view(), pairs, sees)
    }

    /// What a retrieval of the same queries over the same keys has kept.
    ///
    /// # Errors
    /// As [`mask`](Self::mask), [`Error::Axis`] where the retrieval is of another shape, and [`Error::Parameter`] where it is of
    /// another scale, or saw pairs that exact attention does not see.
    pub fn retrieved(&self, retrieved: &Retrieved) -> Result<Report, Error> {
        let shape = self.check()?;
        let Shape { batch, heads, queries, keys, dim_k, .. } = shape;
        let (other, lse) = (retrieved.shape, retrieved.lse.dim());
        for (tensor, axis, has, expected) in [
            ("retrieved", "batch", other.batch, batch),
            ("retrieved", "heads", other.heads, heads),
            ("retrieved", "queries", other.queries, queries),
            ("retrieved", "keys", other.keys, keys),
            ("retrieved", "dim_k", other.dim_k, dim_k),
            // They are open to be merged with others.
            ("retrieved lse", "batch", lse.0, batch),
            ("retrieved lse", "heads", lse.1, heads),
            ("retrieved lse", "queries", lse.2, queries),
        ] {
            check::extent(tensor, axis, has, expected)?;
        }
        let scale = |given: Option<f64>| given.unwrap_or(1.0 / (dim_k as f64).sqrt());
        let (has, expected) = (scale(self.scale), scale(retrieved.scale));
        if has != expected {
            let expected = format!("that of the retrieval, {expected}");
            return Err(Error::Parameter { parameter: "scale", has: has.to_string(), expected });
        }
        self.sees_all_of(shape, retrieved)?;
        let pairs = self.pairs(retrieved.part())? + retrieved.found();
        let sees = |b, h, _, i, j| retrieved.sees(b, h, i, j);
        self.report(shape, retrieved.lse.view(), pairs, sees)
    }

    /// # Errors
    /// Exact attention does not see all pairs that a retrieval saw.
    fn sees_all_of(&self, shape: Shape, retrieved: &Retrieved) -> Result<(), Error> {
        let of_head = masks(shape, &self.of);
        let is_seen = |row: usize| {
            let (b, h, i) = place(shape, row);
            let p = i as i64 + shape.keys as i64 - shape.queries as i64;
            let mask = &of_head[b * shape.heads + h];
            retrieved.keys(b, h, i).iter().all(|&j| mask.allows(p, j, shape.keys))
        };
        let rows = shape.batch * shape.heads * shape.queries;
        if self.pairs(&(retrieved.part() & &!&self.of))? == 0 && (0..rows).all(is_seen) {
            return Ok(());
        }
        let (has, expected) = ("one that lacks pairs which the retrieval saw".into(), "one that has them all".into());
        Err(Error::Parameter { parameter: "the mask of exact attention", has, expected })
    }

    fn check(&self) -> Result<Shape, Error> {
        check::at_least_one("top", self.top)?;
        check::scale(self.scale)?;
        let v = self.values();
        let shape = shape_of(self.q, self.k, v.view())?;
        check::finite("queries", self.q)?;
        check::finite("keys", self.k)?;
        Ok(shape)
    }

    /// Values of one element: they do not matter.
    fn values(&self) -> Array4<f32> {
        let (batch, kv_heads, keys, _) = self.k.dim();
        Array4::zeros((batch, kv_heads, keys, 1))
    }

    /// The log-sum-exps under a mask, and how many pairs it keeps.
    fn sums(&self, mask: &Mask) -> Result<(Array3<f32>, u64), Error> {
        let v = self.values();
        let mut call = Attention::new(self.q, self.k, v.view()).mask(mask.clone());
        if let Some(scale) = self.scale {
            call = call.scale(scale);
        }
        Ok((call.state()?.1, self.pairs(mask)?))
    }

    /// How many pairs a mask keeps, over all heads and batch entries.
    fn pairs(&self, mask: &Mask) -> Result<u64, Error> {
        let v = self.values();
        Ok(Attention::new(self.q, self.k, v.view()).mask(mask.clone()).plan()?.live_pairs())
    }

    fn report(
        &self,
        shape: Shape,
        lse: ArrayView3<'_, f32>,
        pairs: u64,
        sees: impl Fn(usize, usize, i64, usize, usize) -> bool + Sync,
    ) -> Result<Report, Error> {
        let Shape { heads, kv_heads, queries, keys, .. } = shape;
        let group = heads / kv_heads;
        let (exact, all_pairs) = self.sums(&self.of)?;
        // Finite numbers may make scores that are not; −∞ is of a query that sees nothing.
        check::finite(
            "log-sum-exps of exact attention",
            exact.mapv(|x| if x == f32::NEG_INFINITY { 0.0 } else { x }).view(),
        )?;
        let of_head = masks(shape, &self.of);
        let rows = shape.batch * heads * queries;
        // Mass and recall of a query; nothing where it sees no key.
        let mut shares: Vec<Option<[f64; 2]>> = vec![None; rows];
        if rows > 0 {
            Pool::global().run(chunks_of(&mut shares, BLOCK), |block, shares| {
                let (mut products, mut runs) = (Vec::with_capacity(keys), Runs::new());
                for (at, share) in shares.iter_mut().enumerate() {
                    let at = block * BLOCK + at;
                    let (b, h, i) = place(shape, at);
                    let p = i as i64 + keys as i64 - queries as i64;
                    let query = row(head(self.q, b, h), i);
                    let keys_of = head(self.k, b, h / group);
                    products.clear();
                    of_head[b * heads + h].runs(p, keys, &mut runs);
                    for run in runs.as_slice() {
                        products.extend(run.clone().map(|j| (product(&query, &row(keys_of, j)), j)));
                    }
                    let top = self.top.min(products.len());
                    if top == 0 {
                        continue;
                    }
                    products.select_nth_unstable_by(top - 1, |a, b| b.0.total_cmp(&a.0));
                    let least = products[top - 1].0;
                    // Those above the least of the best, and of those that are its equals as many as there is room for.
                    let (mut above, mut above_seen, mut equal_seen) = (0, 0, 0);
                    for &(product, j) in products.iter().filter(|(product, _)| *product >= least) {
                        let seen = usize::from(sees(b, h, p, i, j));
                        if product > least {
                            (above, above_seen) = (above + 1, above_seen + seen);
                        } else {
                            equal_seen += seen;
                        }
                    }
                    let hits = above_seen + equal_seen.min(top - above);
                    let mass = f64::from(lse[[b, h, i]] - exact[[b, h, i]]).exp();
                    // Rounding may make a part of a sum larger than the sum. A NaN stays one.
                    *share = Some([if mass > 1.0 { 1.0 } else { mass }, hits as f64 / top as f64]);
                }
            });
        }
        let counted: Vec<[f64; 2]> = shares.into_iter().flatten().collect();
        let share = |which: usize| {
            let shares = || counted.iter().map(|shares| shares[which]);
            Share { mean: shares().sum::<f64>() / counted.len() as f64, lowest: shares().fold(f64::NAN, f64::min) }
        };
        let density = pairs as f64 / all_pairs as f64;
        Ok(Report { queries: counted.len(), density, mass: share(0), top: self.top, recall: share(1) })
    }
}

/// The mask of each head of each batch entry.
fn masks(shape: Shape, mask: &Mask) -> Vec<Mask> {
    let heads = (0..shape.batch).flat_map(|b| (0..shape.heads).map(move |h| (b, h)));
    heads.map(|(b, h)| mask.select(b, h)).collect()
}
