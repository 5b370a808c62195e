//! The keys with the largest products: out of a graph, or by looking at all.

use std::cmp::Ordering;

use crate::graph::Graph;
use crate::lift::product;

/// Keys as they were given, `[nodes][dim]`: what is found is judged by these.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keys {
    dim: usize,
    numbers: Vec<f32>,
}

impl Keys {
    pub(crate) fn new(dim: usize, numbers: Vec<f32>) -> Self {
        Keys { dim, numbers }
    }

    pub(crate) fn dim(&self) -> usize {
        self.dim
    }

    pub(crate) fn len(&self) -> usize {
        self.numbers.len() / self.dim
    }

    pub(crate) fn row(&self, node: usize) -> &[f32] {
        &self.numbers[node * self.dim..][..self.dim]
    }

    pub(crate) fn push(&mut self, key: &[f32]) {
        self.numbers.extend_from_slice(key);
    }
}

/// What a search has found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Nearest {
    /// The keys, those with the largest products first.
    pub keys: Vec<usize>,
    /// Whether all keys were looked at, and these are the true ones. Else the graph led to them, and some may be missing.
    pub exact: bool,
}

/// What is searched for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// Keys, at most.
    pub(crate) count: usize,
    /// Nodes that a search of the graph keeps in view (`ef`).
    pub(crate) width: usize,
    /// Only the first so many keys.
    pub(crate) among: usize,
}

/// The keys with the largest products among the first few.
///
/// The graph knows no order of the keys. Where only the first of them count, so many more are fetched as they are fewer, and
/// the others dropped. All of them are looked at instead where the graph would have to fetch every node, and where what is
/// left is fewer than there must be.
pub(crate) fn nearest(graph: &Graph, keys: &Keys, query: &[f32], wanted: Wanted) -> Nearest {
    let Wanted { count, width, among } = wanted;
    let (count, width) = (count.min(among), width.max(count));
    // Of `width·nodes/among` nodes about `width` are among those that count.
    let fetched = (width as u128 * keys.len() as u128).checked_div(among as u128);
    let fetched = fetched.and_then(|nodes| usize::try_from(nodes).ok());
    let Some(fetched) = fetched.filter(|&nodes| nodes < keys.len() && count < among) else {
        return Nearest { keys: scan(keys, query, count, among), exact: true };
    };
    let mut found = graph.search(query, fetched);
    found.retain(|&node| node < among);
    // Those that are there twice, and those that are not there, are the crate's to avoid; this does not rely on it.
    found.sort_unstable();
    found.dedup();
    if found.len() < count {
        return Nearest { keys: scan(keys, query, count, among), exact: true };
    }
    Nearest { keys: largest(keys, query, found.into_iter(), count), exact: false }
}

/// The keys with the largest products, by looking at all of the first `among`.
pub(crate) fn scan(keys: &Keys, query: &[f32], count: usize, among: usize) -> Vec<usize> {
    largest(keys, query, 0..among, count)
}

/// The `count` of these nodes with the largest products, the largest first; of equal ones the first.
fn largest(keys: &Keys, query: &[f32], nodes: impl Iterator<Item = usize>, count: usize) -> Vec<usize> {
    let mut products: Vec<(f64, usize)> = nodes.map(|node| (product(query, keys.row(node)), node)).collect();
    let order = |a: &(f64, usize), b: &(f64, usize)| -> Ordering { b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)) };
    if count < products.len() {
        products.select_nth_unstable_by(count, order);
        products.truncate(count);
    }
    products.sort_unstable_by(order);
    products.into_iter().map(|(_, node)| node).collect()
}
