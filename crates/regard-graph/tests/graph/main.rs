//! Graphs, masks, retrieval and reports against their definitions.

mod common;
mod errors;
mod index;
mod masks;
mod report;
mod retrieval;
