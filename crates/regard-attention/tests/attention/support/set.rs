//! The oracle's masks as the engine's.

use regard_masks::{Edges, Mask};
use regard_oracle::Set;

/// The engine's mask for a set.
pub(crate) fn mask(set: &Set) -> Mask {
    match set {
        Set::Full => Mask::full(),
        Set::Causal => Mask::causal(),
        Set::Window(left, right) => Mask::window(*left, *right),
        Set::Prefix(n) => Mask::prefix(*n),
        Set::Not(a) => !mask(a),
        Set::And(a, b) => mask(a) & mask(b),
        Set::Or(a, b) => mask(a) | mask(b),
        Set::GlobalKeys(keys) => Mask::global_keys(keys.iter().copied()),
        Set::GlobalQueries(queries) => Mask::global_queries(queries.iter().copied()),
        Set::KeySet(marked) => Mask::keys(marked),
        Set::BlockDiagonal(size) => Mask::block_diagonal(*size).expect("a size"),
        Set::Strided(step) => Mask::strided(*step).expect("a step"),
        Set::Edges { edges, symmetric } => {
            let edges = edges.iter().copied();
            let kind = if *symmetric { Edges::Symmetric } else { Edges::Directed };
            Mask::edge_pairs(edges, kind).expect("edges")
        }
        Set::Blocks { rows, columns, blocks } => {
            // The engine's blocks are square: as an array of pairs.
            let extent = |size: usize, of: fn(&(usize, usize)) -> usize| {
                size * blocks.iter().map(|block| of(block) + 1).max().unwrap_or(0)
            };
            let (n_q, n_k) = (extent(*rows, |block| block.0), extent(*columns, |block| block.1));
            let kept: Vec<bool> =
                (0..n_q * n_k).map(|at| blocks.contains(&(at / n_k / rows, at % n_k / columns))).collect();
            Mask::dense_at(0, n_q, n_k, &kept).expect("an array")
        }
        Set::Dense { columns, cells } => {
            let n_q = cells.len().checked_div(*columns).unwrap_or(0);
            Mask::dense_at(0, n_q, *columns, &cells[..n_q * columns]).expect("an array")
        }
        // Of no batch entries and of no heads: nobody is there to be told apart.
        Set::ByBatch(sets) | Set::ByHead(sets) if sets.is_empty() => Mask::full(),
        Set::ByBatch(sets) => Mask::by_batch(sets.iter().map(mask)).expect("masks"),
        Set::ByHead(sets) => Mask::by_head(sets.iter().map(mask)).expect("masks"),
    }
}
