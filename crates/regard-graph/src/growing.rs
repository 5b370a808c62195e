//! An index that keys are added to, one after the other.

use std::fmt;

use crate::graph::Graph;
use crate::index::check_query;
use crate::lift::{Lift, norm};
use crate::search::{Keys, Nearest, Wanted, nearest};
use crate::{Error, Parameters, check};

/// By how much the radius exceeds the key that was beyond it. Each such key rebuilds the graph; with a quarter of room, keys
/// whose norms span a factor of ten do so at most eleven times.
const ROOM: f64 = 1.25;

/// An index that holds the keys that were inserted so far, and no others: what it finds depends on nothing that comes later.
///
/// It is what causal retrieval is exact with in its order: insert the key of a position, then search with its query. Where a
/// key is longer than all before and their room, the graph is built anew, which also depends on keys so far alone.
///
/// ```
/// use regard_graph::{GrowingIndex, Parameters};
///
/// let mut index = GrowingIndex::new(2, &Parameters::default())?;
/// index.insert(&[1.0, 0.0])?;
/// index.insert(&[0.0, 2.0])?;
/// assert_eq!(index.nearest(&[1.0, 1.0], 1, 8)?.keys, [1]);
/// index.insert(&[3.0, 3.0])?;
/// assert_eq!(index.nearest(&[1.0, 1.0], 2, 8)?.keys, [2, 1]);
/// # Ok::<(), regard_graph::Error>(())
/// ```
pub struct GrowingIndex {
    parameters: Parameters,
    keys: Keys,
    graph: Graph,
}

impl GrowingIndex {
    /// An index without keys, of keys `[dim]`.
    ///
    /// # Errors
    /// [`Error::Axis`] for keys without elements, [`Error::Parameter`] where a parameter is out of its range, or where there is
    /// a seed: keys come in their own order.
    pub fn new(dim: usize, parameters: &Parameters) -> Result<Self, Error> {
        parameters.check()?;
        check::some("keys", "dim", dim)?;
        parameters.check_without_seed()?;
        Ok(Self { parameters: *parameters, keys: Keys::new(dim, Vec::new()), graph: empty(parameters, 0.0) })
    }

    /// How many keys there are.
    pub fn nodes(&self) -> usize {
        self.keys.len()
    }

    /// Elements of a key.
    pub fn dim(&self) -> usize {
        self.keys.dim()
    }

    /// Adds a key, whose number is that of keys before it.
    ///
    /// # Errors
    /// [`Error::Axis`] where it has not `dim` elements or there are 2³¹ − 1 keys already, [`Error::NotFinite`] where it holds
    /// NaN or an infinity; then nothing is added.
    pub fn insert(&mut self, key: &[f32]) -> Result<(), Error> {
        check::extent("key", "dim", key.len(), self.dim())?;
        check::finite("key", ndarray::aview1(key))?;
        let node = self.nodes();
        if node >= i32::MAX as usize {
            return Err(Error::Axis {
                tensor: "keys",
                axis: "nodes",
                has: node,
                expected: "less than 2^31 - 1".into(),
            });
        }
        self.keys.push(key);
        let norm = norm(key);
        if self.graph.lift().holds(norm) {
            self.graph.insert(node, key);
        } else {
            self.graph = empty(&self.parameters, ROOM * norm);
            (0..=node).for_each(|node| self.graph.insert(node, self.keys.row(node)));
        }
        Ok(())
    }

    /// The `count` keys with the largest inner products with a query; as [`Index::nearest`](crate::Index::nearest).
    ///
    /// # Errors
    /// As there.
    pub fn nearest(&self, query: &[f32], count: usize, width: usize) -> Result<Nearest, Error> {
        check_query(query, self.dim(), count, width)?;
        Ok(self.find(query, Wanted { count, width, among: self.nodes() }))
    }

    /// [`nearest`](Self::nearest) of a query that fits, among the first keys.
    pub(crate) fn find(&self, query: &[f32], wanted: Wanted) -> Nearest {
        nearest(&self.graph, &self.keys, query, wanted)
    }
}

fn empty(parameters: &Parameters, radius: f64) -> Graph {
    Graph::new(parameters, Lift::new(radius), 0)
}

impl fmt::Debug for GrowingIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrowingIndex").field("nodes", &self.nodes()).field("dim", &self.dim()).finish()
    }
}
