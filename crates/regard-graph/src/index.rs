//! The index: a graph over keys, with the levels and neighbours of its nodes.

use std::fmt;

use ndarray::ArrayView2;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use regard_threads::interrupted;

use crate::graph::{Graph, Linked};
use crate::lift::{Lift, norm};
use crate::search::{Keys, Nearest, Wanted, nearest};
use crate::{Error, Parameters, check};

/// A Hierarchical Navigable Small World graph over the keys of one head, searched by inner product.
///
/// Every key is a node. Level 0 has all nodes, each higher one about a `links`-th of those below; on each of its levels a node
/// is linked to some that are near it. The graph is the `hnsw_rs` crate's. The same keys and parameters give the same graph.
///
/// ```
/// use ndarray::Array2;
/// use regard_graph::{Index, Parameters};
///
/// let keys = Array2::from_shape_fn((500, 16), |(i, c)| ((i * 7 + c * i % 13) as f32).sin());
/// let index = Index::new(keys.view(), &Parameters::default())?;
/// assert_eq!((index.nodes(), index.dim()), (500, 16));
/// // On level 0 a node has at most twice as many links as on others.
/// assert!(index.neighbours(0, 17)?.len() <= 32);
///
/// // The ten keys with the largest products, out of forty that the search keeps in view.
/// let found = index.nearest(keys.row(3).as_slice().unwrap(), 10, 40)?;
/// assert_eq!(found.keys.len(), 10);
/// # Ok::<(), regard_graph::Error>(())
/// ```
pub struct Index {
    keys: Keys,
    graph: Graph,
    /// `[nodes]`.
    levels: Vec<u8>,
    /// By level, then by node.
    neighbours: Vec<Lists>,
}

/// Lists of one level, in compressed rows.
#[derive(Debug, Default)]
struct Lists {
    /// `[nodes + 1]`.
    offsets: Vec<usize>,
    targets: Vec<usize>,
}

impl Index {
    /// An index of `keys [nodes, dim]`.
    ///
    /// # Errors
    /// [`Error::Axis`] where there are no nodes or no elements, or 2³¹ nodes or more, [`Error::NotFinite`] where a key holds
    /// NaN or an infinity, [`Error::Parameter`] where a parameter is out of its range.
    pub fn new(keys: ArrayView2<'_, f32>, parameters: &Parameters) -> Result<Self, Error> {
        Self::with_progress(keys, parameters, |_| ())
    }

    /// The same, and `progress` hears after every key how many are inserted.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_progress(
        keys: ArrayView2<'_, f32>,
        parameters: &Parameters,
        mut progress: impl FnMut(usize),
    ) -> Result<Self, Error> {
        parameters.check()?;
        let (nodes, dim) = keys.dim();
        check::some("keys", "nodes", nodes)?;
        check::some("keys", "dim", dim)?;
        if i32::try_from(nodes).is_err() {
            return Err(Error::Axis { tensor: "keys", axis: "nodes", has: nodes, expected: "less than 2^31".into() });
        }
        check::finite("keys", keys)?;
        let keys = Keys::new(dim, keys.iter().copied().collect());
        let radius = (0..nodes).map(|node| norm(keys.row(node))).fold(0.0, f64::max);
        let mut order: Vec<usize> = (0..nodes).collect();
        if let Some(seed) = parameters.seed {
            order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        }
        let mut graph = Graph::new(parameters, Lift::new(radius), nodes);
        for (done, &node) in order.iter().enumerate() {
            graph.insert(node, keys.row(node));
            progress(done + 1);
            if interrupted() {
                // Nobody sees what was not done.
                return Ok(Index { keys, graph, levels: Vec::new(), neighbours: vec![Lists::default()] });
            }
        }
        let (levels, neighbours) = tables(graph.links());
        Ok(Index { keys, graph, levels, neighbours })
    }

    /// How many keys there are.
    pub fn nodes(&self) -> usize {
        self.levels.len()
    }

    /// Elements of a key.
    pub fn dim(&self) -> usize {
        self.keys.dim()
    }

    /// `[nodes]`: the highest level that each node is on.
    pub fn levels(&self) -> &[u8] {
        &self.levels
    }

    /// The highest level that any node is on.
    pub fn highest_level(&self) -> usize {
        self.neighbours.len() - 1
    }

    /// What a node is linked to on a level, the nearest first; nothing where the node is not on it. A link need not lead back.
    ///
    /// # Errors
    /// [`Error::Level`] or [`Error::Node`] where there is no such level or node.
    pub fn neighbours(&self, level: usize, node: usize) -> Result<&[usize], Error> {
        let lists = self.neighbours.get(level);
        let lists = lists.ok_or(Error::Level { has: level, highest: self.highest_level() })?;
        if node >= self.nodes() {
            return Err(Error::Node { has: node, nodes: self.nodes() });
        }
        Ok(&lists.targets[lists.offsets[node]..lists.offsets[node + 1]])
    }

    /// The neighbours of a node on all of its levels, ascending.
    pub(crate) fn neighbours_of(&self, node: usize) -> Vec<usize> {
        let on = |lists: &Lists| lists.targets[lists.offsets[node]..lists.offsets[node + 1]].to_vec();
        let mut all: Vec<usize> = self.neighbours.iter().flat_map(on).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// How many others a node is linked to, on any level, on average.
    pub fn mean_degree(&self) -> f64 {
        let degrees: usize = (0..self.nodes()).map(|node| self.neighbours_of(node).len()).sum();
        degrees as f64 / self.nodes() as f64
    }

    /// The `count` keys with the largest inner products with a query, or all of them if there are fewer. `width` is how many
    /// nodes the search keeps in view (`ef`; at least `count`): the more, the less it misses.
    ///
    /// Candidates are ordered by products of the keys as they were given, in f64. With `count` or `width` of all keys they are
    /// looked at one by one, and so where the graph leads to too few; [`Nearest::exact`] tells.
    ///
    /// # Errors
    /// [`Error::Axis`] where the query has not `dim` elements, [`Error::NotFinite`] where it holds NaN or an infinity,
    /// [`Error::Parameter`] for a count or a width of 0.
    pub fn nearest(&self, query: &[f32], count: usize, width: usize) -> Result<Nearest, Error> {
        self.nearest_of_first(query, count, width, self.nodes())
    }

    /// The same among the first `among` keys. The graph knows no order: it is asked for more, those beyond are dropped, and
    /// where too few are left all of the first are looked at.
    ///
    /// Which of them are found depends on the graph, and that on keys beyond. Where no later key may matter, grow the index as
    /// the keys come: [`GrowingIndex`](crate::GrowingIndex).
    ///
    /// # Errors
    /// As [`nearest`](Self::nearest), and [`Error::Node`] where there are not so many keys.
    pub fn nearest_of_first(&self, query: &[f32], count: usize, width: usize, among: usize) -> Result<Nearest, Error> {
        check_query(query, self.dim(), count, width)?;
        if among > self.nodes() {
            return Err(Error::Node { has: among - 1, nodes: self.nodes() });
        }
        Ok(self.find(query, Wanted { count, width, among }))
    }

    /// [`nearest_of_first`](Self::nearest_of_first) of a query that fits.
    pub(crate) fn find(&self, query: &[f32], wanted: Wanted) -> Nearest {
        nearest(&self.graph, &self.keys, query, wanted)
    }
}

pub(crate) fn check_query(query: &[f32], dim: usize, count: usize, width: usize) -> Result<(), Error> {
    check::extent("query", "dim", query.len(), dim)?;
    check::finite("query", ndarray::aview1(query))?;
    check::at_least_one("count", count)?;
    check::at_least_one("width", width)
}

/// Levels by node, and lists by level and node.
fn tables(linked: Vec<Linked>) -> (Vec<u8>, Vec<Lists>) {
    let mut by_node: Vec<Option<Linked>> = Vec::new();
    by_node.resize_with(linked.len(), || None);
    for node in linked {
        let place = node.node;
        by_node[place] = Some(node);
    }
    let by_node: Vec<Linked> = by_node.into_iter().flatten().collect();
    let levels: Vec<u8> = by_node.iter().map(|node| node.level).collect();
    let highest = levels.iter().copied().max().unwrap_or(0);
    let of_level = |level: u8| {
        let mut lists = Lists { offsets: vec![0], targets: Vec::new() };
        for node in &by_node {
            lists.targets.extend(node.neighbours.get(usize::from(level)).into_iter().flatten());
            lists.offsets.push(lists.targets.len());
        }
        lists
    };
    (levels, (0..=highest).map(of_level).collect())
}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (nodes, dim, highest) = (self.nodes(), self.dim(), self.highest_level());
        f.debug_struct("Index").field("nodes", &nodes).field("dim", &dim).field("highest_level", &highest).finish()
    }
}
