//! Masks, their runs and their layouts against a set theory of a few plain lines.

mod cache;
mod edges;
mod expand;
mod gather;
mod group;
mod parse;
mod primitives;
mod properties;
mod repeat;
mod set;
mod transpose;
mod vary;
