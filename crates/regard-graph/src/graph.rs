//! The crate that builds and searches the graph, behind the few things that are asked of it.

use hnsw_rs::anndists::dist::distances::Distance;
use hnsw_rs::hnsw::Hnsw;

use crate::Parameters;
use crate::lift::{Lift, squared_distance};

/// Levels that a graph can have: the crate's own limit.
const LEVELS: usize = 16;

struct Euclidean;

impl Distance<f32> for Euclidean {
    fn eval(&self, a: &[f32], b: &[f32]) -> f32 {
        squared_distance(a, b)
    }
}

/// A graph of lifted keys. The same insertions in the same order make the same graph: the levels come from a generator that
/// always starts alike, and insertions are done one after the other.
pub(crate) struct Graph {
    hnsw: Hnsw<'static, f32, Euclidean>,
    lift: Lift,
    nodes: usize,
}

/// A node as the crate has it.
pub(crate) struct Linked {
    pub(crate) node: usize,
    pub(crate) level: u8,
    /// Its neighbours on the levels 0 to its own.
    pub(crate) neighbours: Vec<Vec<usize>>,
}

impl Graph {
    /// A graph without nodes, of keys within the lift's radius. `room` is how many nodes to expect.
    pub(crate) fn new(parameters: &Parameters, lift: Lift, room: usize) -> Self {
        let hnsw = Hnsw::new(parameters.links, room, LEVELS, parameters.ef_construction, Euclidean);
        Graph { hnsw, lift, nodes: 0 }
    }

    pub(crate) fn lift(&self) -> Lift {
        self.lift
    }

    pub(crate) fn insert(&mut self, node: usize, key: &[f32]) {
        self.hnsw.insert_slice((&self.lift.key(key), node));
        self.nodes += 1;
    }

    /// Up to `width` nodes that a search of that width finds near the query.
    pub(crate) fn search(&self, query: &[f32], width: usize) -> Vec<usize> {
        // Heaps are made for as many as are asked for, and a search for one node is not what the crate is made for.
        let width = width.min(self.nodes).max(2);
        self.hnsw.search(&self.lift.query(query), width, width).iter().map(|found| found.d_id).collect()
    }

    /// All nodes, in the order of their levels. The crate notes a few links on levels that one of the two nodes is not on, from
    /// when there was nobody else up there; these are left out.
    pub(crate) fn links(&self) -> Vec<Linked> {
        let points = self.hnsw.get_point_indexation();
        let of_level = |level| points.get_layer_iterator(level);
        let on_both = |level: usize, neighbours: Vec<hnsw_rs::hnsw::Neighbour>| {
            let there = neighbours.iter().filter(|neighbour| usize::from(neighbour.p_id.0) >= level);
            there.map(|neighbour| neighbour.d_id).collect()
        };
        (0..LEVELS)
            .flat_map(of_level)
            .map(|point| {
                let level = point.get_point_id().0;
                let lists = point.get_neighborhood_id().into_iter().take(usize::from(level) + 1).enumerate();
                let neighbours = lists.map(|(level, neighbours)| on_both(level, neighbours)).collect();
                Linked { node: point.get_origin_id(), level, neighbours }
            })
            .collect()
    }
}
