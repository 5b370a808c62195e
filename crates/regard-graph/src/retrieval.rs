//! Attention over a window, the first keys, and those that an index finds for each query.

use std::borrow::Borrow;

use ndarray::ArrayView4;
use regard_attention::{Crossovers, Offset, Options, Shape, attention_with, merge};
use regard_masks::{Edges, Mask};
use regard_memory::{Tensor, chunks_of};
use regard_threads::{Pool, interrupted};

use crate::retrieved::{Lists, Retrieved};
use crate::rows::{head, place, row};
use crate::search::{Nearest, Wanted};
use crate::{Error, GrowingIndex, Index, Parameters, check};

/// Which keys a query may retrieve, and what they are found with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sight {
    /// Any key.
    #[default]
    All,
    /// Keys up to its own position, `j ≤ p`, out of an index over all keys: the search fetches more, drops what lies beyond,
    /// and looks at every key up to `p` where too few are left. No later key is attended to; but which earlier ones are found
    /// depends on the graph, and so on later keys. A prompt that is read at once may be searched so; what is trained to
    /// predict, or must not depend on what follows, should not be.
    Filtered,
    /// Keys up to its own position, out of an index that holds these and no others: it grows as the queries go on. In a
    /// call of the same length, results of a query are the same to the bit whatever follows; in a longer one, within rounding. Heads grow their indexes side by side, but each is searched by one
    /// thread.
    Grown,
}

/// Attention over a window and the first keys, exactly, and over the keys with the largest inner products, as an index finds
/// them.
///
/// For each query the `count` keys with the largest products are searched for; those that the window and the first keys hold
/// already are left out, the others are attended to one by one, and both parts are merged by their states. With `count` of all
/// keys or more nothing is searched, and the result is that of exact attention.
///
/// ```
/// use ndarray::Array4;
/// use regard_graph::{Retrieval, Sight};
///
/// // [batch, heads, seq, dim]; two query heads share each key/value head, and its index.
/// let element = |(b, h, i, c)| ((b * 7 + h * 5 + i * 3 + c * i) as f32).sin();
/// let q = Array4::from_shape_fn((1, 4, 100, 16), element);
/// let k = Array4::from_shape_fn((1, 2, 100, 16), element);
/// let v = Array4::from_shape_fn((1, 2, 100, 16), element);
/// let retrieval = Retrieval::new(8).window(Some(15), Some(0)).first(4).sight(Sight::Grown);
/// let retrieved = retrieval.run(q.view(), k.view(), v.view())?;
/// assert_eq!(retrieved.out.dim(), (1, 4, 100, 16));
/// // The last query has found keys before its window.
/// assert!(retrieved.keys(0, 3, 99).iter().all(|&j| (4..84).contains(&j)));
/// # Ok::<(), regard_graph::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Retrieval {
    count: usize,
    width: usize,
    sight: Sight,
    window: Option<[Option<usize>; 2]>,
    first: usize,
    scale: Option<f64>,
    parameters: Parameters,
}

/// Queries that one task searches for: enough that handing it out costs nothing beside, and few enough to share evenly.
const BLOCK: usize = 32;

impl Retrieval {
    /// Retrieval of `count` keys for each query, of all keys, without a window or first keys.
    pub fn new(count: usize) -> Self {
        Retrieval {
            count,
            width: 2 * count.min(1 << 30),
            sight: Sight::All,
            window: None,
            first: 0,
            scale: None,
            parameters: Parameters::default(),
        }
    }

    /// Nodes that a search keeps in view (`ef`), at least `count`; twice the count unless given. The more, the less is missed.
    #[must_use]
    pub fn width(mut self, width: usize) -> Self {
        self.width = width;
        self
    }

    /// Which keys a query may see at all, those of the window and the first ones included.
    #[must_use]
    pub fn sight(mut self, sight: Sight) -> Self {
        self.sight = sight;
        self
    }

    /// The keys `p − left ≤ j ≤ p + right` are attended to exactly; `None` is unbounded.
    #[must_use]
    pub fn window(mut self, left: Option<usize>, right: Option<usize>) -> Self {
        self.window = Some([left, right]);
        self
    }

    /// So are the first `n` keys. (They are often called sinks; in Regard a sink is a logit without a value.)
    #[must_use]
    pub fn first(mut self, n: usize) -> Self {
        self.first = n;
        self
    }

    /// Scores are multiplied by this, which is positive; by `1/√dim_k` unless given.
    #[must_use]
    pub fn scale(mut self, scale: f64) -> Self {
        self.scale = Some(scale);
        self
    }

    /// How indexes are built.
    #[must_use]
    pub fn parameters(mut self, parameters: Parameters) -> Self {
        self.parameters = parameters;
        self
    }

    /// Attention of `q [batch, heads, queries, dim_k]` over `k [batch, kv_heads, keys, dim_k]` and `v [batch, kv_heads, keys,
    /// dim_v]`, with an index for each key/value head, built in the call. The last query stands at the last key.
    ///
    /// # Errors
    /// [`Error::Attention`] where the shapes do not fit, a view runs backwards or is not contiguous in `dim`,
    /// [`Error::NotFinite`] where queries or keys hold NaN or an infinity, [`Error::Parameter`] for a count or a width of 0, a
    /// scale that is not positive, or what no index is built with.
    pub fn run(
        &self,
        q: ArrayView4<'_, f32>,
        k: ArrayView4<'_, f32>,
        v: ArrayView4<'_, f32>,
    ) -> Result<Retrieved, Error> {
        let shape = self.check(q, k, v)?;
        let lists = match self.sight {
            _ if self.count >= shape.keys => None,
            Sight::Grown => Some(self.grow(shape, q, k)?),
            Sight::All | Sight::Filtered => {
                let heads: Vec<(usize, usize)> =
                    (0..shape.batch).flat_map(|b| (0..shape.kv_heads).map(move |h| (b, h))).collect();
                let mut built: Vec<Option<Result<Index, Error>>> = Vec::new();
                built.resize_with(heads.len(), || None);
                Pool::global().run(chunks_of(&mut built, 1), |at, built| {
                    let (b, h) = heads[at];
                    built[0] = Some(Index::new(head(k, b, h), &self.parameters));
                });
                let indexes: Vec<Index> = built.into_iter().flatten().collect::<Result<_, _>>()?;
                Some(self.search(shape, q, &indexes.iter().collect::<Vec<_>>()))
            }
        };
        self.attend(shape, q, k, v, lists)
    }

    /// The same over indexes that exist, one for each key/value head of each batch entry in turn: `[batch · kv_heads]`.
    ///
    /// # Errors
    /// As [`run`](Self::run), [`Error::Axis`] where there are not as many indexes or one has not as many nodes or elements as
    /// there are keys, and [`Error::Parameter`] for [`Sight::Grown`], whose indexes grow in the call. That the indexes are of
    /// these keys is the caller's to know: retrieval from others finds other keys.
    pub fn run_with<I: Borrow<Index>>(
        &self,
        q: ArrayView4<'_, f32>,
        k: ArrayView4<'_, f32>,
        v: ArrayView4<'_, f32>,
        indexes: &[I],
    ) -> Result<Retrieved, Error> {
        let shape = self.check(q, k, v)?;
        if self.sight == Sight::Grown {
            let (has, expected) = ("Grown".into(), "All or Filtered with indexes over all keys".into());
            return Err(Error::Parameter { parameter: "sight", has, expected });
        }
        check::extent("indexes", "heads", indexes.len(), shape.batch * shape.kv_heads)?;
        let indexes: Vec<&Index> = indexes.iter().map(Borrow::borrow).collect();
        for index in &indexes {
            check::extent("indexes", "nodes", index.nodes(), shape.keys)?;
            check::extent("indexes", "dim", index.dim(), shape.dim_k)?;
        }
        let lists = (self.count < shape.keys).then(|| self.search(shape, q, &indexes));
        self.attend(shape, q, k, v, lists)
    }

    fn check(&self, q: ArrayView4<'_, f32>, k: ArrayView4<'_, f32>, v: ArrayView4<'_, f32>) -> Result<Shape, Error> {
        check::at_least_one("count", self.count)?;
        check::at_least_one("width", self.width)?;
        self.parameters.check()?;
        if self.sight == Sight::Grown {
            self.parameters.check_without_seed()?;
        }
        check::scale(self.scale)?;
        let shape = shape_of(q, k, v)?;
        check::finite("queries", q)?;
        check::finite("keys", k)?;
        Ok(shape)
    }

    /// The pairs that a query may see.
    fn seen(&self) -> Mask {
        match self.sight {
            Sight::All => Mask::full(),
            Sight::Filtered | Sight::Grown => Mask::causal(),
        }
    }

    /// The pairs that are attended to exactly.
    fn exact(&self) -> Mask {
        let near = match self.window {
            Some([left, right]) => Mask::window(left, right) | Mask::prefix(self.first),
            None => Mask::prefix(self.first),
        };
        near & self.seen()
    }

    fn wanted(&self, shape: Shape, i: usize) -> Wanted {
        let among = match self.sight {
            Sight::All => shape.keys,
            // `p + 1`, where `p = i + keys − queries`.
            Sight::Filtered | Sight::Grown => (i + 1 + shape.keys).saturating_sub(shape.queries),
        };
        Wanted { count: self.count, width: self.width, among }
    }

    /// What is found for every query, with indexes over all keys.
    fn search(&self, shape: Shape, q: ArrayView4<'_, f32>, indexes: &[&Index]) -> Lists {
        let Shape { batch, heads, kv_heads, queries, .. } = shape;
        let mut found = vec![Nearest::default(); batch * heads * queries];
        if !found.is_empty() {
            Pool::global().run(chunks_of(&mut found, BLOCK), |block, found| {
                for (at, found) in found.iter_mut().enumerate() {
                    let at = block * BLOCK + at;
                    let (b, h, i) = place(shape, at);
                    let index = indexes[b * kv_heads + h / (heads / kv_heads)];
                    *found = index.find(&row(head(q, b, h), i), self.wanted(shape, i));
                }
            });
        }
        self.lists(shape, found)
    }

    /// What is found for every query, with indexes that grow.
    fn grow(&self, shape: Shape, q: ArrayView4<'_, f32>, k: ArrayView4<'_, f32>) -> Result<Lists, Error> {
        let Shape { heads, kv_heads, queries, .. } = shape;
        let group = heads / kv_heads;
        let index = || GrowingIndex::new(shape.dim_k, &self.parameters);
        // `[batch · kv_heads][group][queries]`, which is `[batch][heads][queries]`.
        let mut found = vec![Nearest::default(); shape.batch * heads * queries];
        let mut failed: Vec<Option<Error>> = vec![None; shape.batch * kv_heads];
        if !found.is_empty() {
            let mut tasks: Vec<_> = found.chunks_mut(group * queries).zip(&mut failed).collect();
            Pool::global().run(chunks_of(&mut tasks, 1), |at, task| {
                let (found, failed) = &mut task[0];
                let (b, kv) = (at / kv_heads, at % kv_heads);
                let mut growth = || -> Result<(), Error> {
                    let mut index = index()?;
                    for i in 0..queries {
                        if interrupted() {
                            break;
                        }
                        let wanted = self.wanted(shape, i);
                        for j in index.nodes()..wanted.among {
                            index.insert(&row(head(k, b, kv), j))?;
                        }
                        for g in 0..group {
                            found[g * queries + i] = index.find(&row(head(q, b, kv * group + g), i), wanted);
                        }
                    }
                    Ok(())
                };
                **failed = growth().err();
            });
        }
        match failed.into_iter().flatten().next() {
            Some(error) => Err(error),
            None => Ok(self.lists(shape, found)),
        }
    }

    /// What was found, without what is attended to anyway.
    fn lists(&self, shape: Shape, found: Vec<Nearest>) -> Lists {
        let exact = self.exact();
        let mut lists = Lists::default();
        for (row, nearest) in found.into_iter().enumerate() {
            let p = (row % shape.queries) as i64 + shape.keys as i64 - shape.queries as i64;
            lists.push(nearest.keys.into_iter().filter(|&j| !exact.allows(p, j, shape.keys)), nearest.exact);
        }
        lists
    }

    /// Attends to both parts, and merges them. Without lists the second part is all that the first leaves out.
    fn attend(
        &self,
        shape: Shape,
        q: ArrayView4<'_, f32>,
        k: ArrayView4<'_, f32>,
        v: ArrayView4<'_, f32>,
        lists: Option<Lists>,
    ) -> Result<Retrieved, Error> {
        let exact = self.exact();
        let options = Options { scale: self.scale, ..Options::default() };
        let (mut out, mut lse) = attention_with(q, k, v, &exact, &options)?;
        let (other, other_lse) = match &lists {
            None => attention_with(q, k, v, &(self.seen() & !&exact), &options)?,
            Some(lists) => {
                let mask = by_head(shape, lists)?;
                // Lists are by query, not by position. Each query goes over its own list by itself: in a tile, and where a plan
                // chooses, its last bits could depend on what others have found.
                let crossovers = Crossovers { edge: 0.0, ..Crossovers::default() };
                attention_with(q, k, v, &mask, &Options { offset: Offset::Same(0), crossovers, ..options })?
            }
        };
        let rows = out.rows_mut().into_iter().zip(lse.iter_mut()).zip(other.rows().into_iter().zip(&other_lse));
        for ((mut out, lse), (other, &other_lse)) in rows {
            let (out, other) = (out.as_slice_mut(), other.as_slice());
            let (out, other) = out.zip(other).expect("the engine makes arrays without gaps");
            *lse = merge(out, *lse, other, other_lse)?;
        }
        Ok(Retrieved { out, lse, shape, scale: self.scale, seen: self.seen(), exact, lists })
    }
}

/// The lists as a mask of query numbers.
fn by_head(shape: Shape, lists: &Lists) -> Result<Mask, Error> {
    let Shape { batch, heads, queries, .. } = shape;
    let of_head = |b: usize, h: usize| {
        let rows = (b * heads + h) * queries..(b * heads + h + 1) * queries;
        let (mut offsets, mut targets) = (vec![0], Vec::new());
        for row in rows {
            targets.extend_from_slice(lists.of(row));
            offsets.push(targets.len());
        }
        Mask::edges(&offsets, &targets, Edges::Directed)
    };
    let of_entry = |b| Mask::by_head((0..heads).map(|h| of_head(b, h)).collect::<Result<Vec<_>, _>>()?);
    Ok(Mask::by_batch((0..batch).map(of_entry).collect::<Result<Vec<_>, _>>()?)?)
}

/// The shape of a call, if there is one.
pub(crate) fn shape_of(q: ArrayView4<'_, f32>, k: ArrayView4<'_, f32>, v: ArrayView4<'_, f32>) -> Result<Shape, Error> {
    let view = |name, array| {
        let view = Tensor::try_from(array).map_err(|error: regard_memory::Error| error.named(name));
        view.map_err(regard_attention::Error::from)
    };
    Ok(Shape::of(&view("queries", q)?, &view("keys", k)?, &view("values", v)?)?)
}
