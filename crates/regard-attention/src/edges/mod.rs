//! Edges: sequences whose mask keeps so few pairs that most of a tile would be computed for nothing. Each query goes over
//! the keys of its own list, which are read where they lie: a call costs what the mask keeps.

mod backward;
mod forward;
mod lists;
mod row;

pub(crate) use backward::{EdgePass, EdgePlan};
pub(crate) use forward::ByEdges;
pub(crate) use lists::Lists;

/// Keys of a list that one softmax goes over.
const MOST: usize = 1024;
