//! What retrieval gives: a state, and which keys it is over.

use ndarray::{Array3, Array4};
use regard_attention::Shape;
use regard_masks::Mask;

/// The keys that were found for each query beside the exact part.
#[derive(Clone, Debug)]
pub(crate) struct Lists {
    /// `[rows + 1]`.
    offsets: Vec<usize>,
    keys: Vec<usize>,
    /// Queries all of whose keys were looked at.
    scans: usize,
}

impl Default for Lists {
    fn default() -> Self {
        Lists { offsets: vec![0], keys: Vec::new(), scans: 0 }
    }
}

impl Lists {
    /// Adds the next row's.
    pub(crate) fn push(&mut self, keys: impl Iterator<Item = usize>, scanned: bool) {
        let first = self.keys.len();
        self.keys.extend(keys);
        self.keys[first..].sort_unstable();
        self.offsets.push(self.keys.len());
        self.scans += usize::from(scanned);
    }

    /// Those of row `(batch · heads + head) · queries + query`, ascending.
    pub(crate) fn of(&self, row: usize) -> &[usize] {
        &self.keys[self.offsets[row]..self.offsets[row + 1]]
    }
}

/// The result of [`Retrieval`](crate::Retrieval): a state over the keys that it saw, ready to be merged with that over others.
#[derive(Clone, Debug)]
pub struct Retrieved {
    /// `[batch, heads, queries, dim_v]`.
    pub out: Array4<f32>,
    /// `[batch, heads, queries]`.
    pub lse: Array3<f32>,
    pub(crate) shape: Shape,
    pub(crate) scale: Option<f64>,
    pub(crate) seen: Mask,
    pub(crate) exact: Mask,
    pub(crate) lists: Option<Lists>,
}

impl Retrieved {
    /// The keys that were found for a query and are not among those of its window and the first ones, ascending. None where
    /// nothing was searched, because as many were asked for as there are.
    ///
    /// # Panics
    /// There is no such batch entry, head or query.
    pub fn keys(&self, batch: usize, head: usize, query: usize) -> &[usize] {
        let Shape { heads, queries, .. } = self.shape;
        assert!(batch < self.shape.batch && head < heads && query < queries, "a query of the call");
        self.lists.as_ref().map_or(&[], |lists| lists.of((batch * heads + head) * queries + query))
    }

    /// Whether a query was computed with a key: of the window, of the first ones, or found.
    ///
    /// # Panics
    /// As [`keys`](Self::keys).
    pub fn sees(&self, batch: usize, head: usize, query: usize, key: usize) -> bool {
        let found = self.keys(batch, head, query);
        let p = query as i64 + self.shape.keys as i64 - self.shape.queries as i64;
        self.part().allows(p, key, self.shape.keys) || found.binary_search(&key).is_ok()
    }

    /// For how many of the searches, one for each query of each head, all keys were looked at instead of the graph: because
    /// they were few, or because too few of what the graph led to were of use.
    pub fn scans(&self) -> usize {
        self.lists.as_ref().map_or(0, |lists| lists.scans)
    }

    /// Pairs that were found beside the exact part, over all heads and batch entries.
    pub(crate) fn found(&self) -> u64 {
        self.lists.as_ref().map_or(0, |lists| lists.keys.len() as u64)
    }

    /// The pairs of the exact part; where nothing was searched, all that may be seen.
    pub(crate) fn part(&self) -> &Mask {
        if self.lists.is_some() { &self.exact } else { &self.seen }
    }
}
