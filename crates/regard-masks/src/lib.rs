//! Sets of (query, key) pairs: masks, their runs of keys, and block layouts.
//!
//! Attention is computed for some pairs of queries and keys and not for others. This crate says which. It is set theory
//! on integers: it knows no floats, no tensors and no instruction sets, and depends on nothing.
//!
//! # Masks
//!
//! A [`Mask`] is a set of pairs `(p, j)`, true where the query at position `p` sees key `j`. Query `i` stands at
//! position `p = i + offset`, which may be negative (and is held at the ends of `i64`). Masks are built from primitives,
//!
//! ```text
//! full            causal          window(2, 1)    prefix(3)
//! ████████        █·······        ██······        ███·····
//! ████████        ██······        ███·····        ███·····
//! ████████        ███·····        ████····        ███·····
//! ████████        ████····        ·████···        ███·····
//! ████████        █████···        ··████··        ███·····
//! ████████        ██████··        ···████·        ███·····
//! ████████        ███████·        ····████        ███·····
//! ████████        ████████        ·····███        ███·····
//! ```
//!
//! and combined with `|`, `&` and `!`:
//!
//! ```
//! use regard_masks::Mask;
//!
//! let mask = Mask::causal() & (Mask::window(Some(2), None) | Mask::prefix(2));
//! assert_eq!(mask.draw(8, 8, 0).to_string(), "\
//! █·······
//! ██······
//! ███·····
//! ████····
//! █████···
//! ██·███··
//! ██··███·
//! ██···███
//! ");
//! ```
//!
//! # Runs
//!
//! [`Mask::allows`] _defines_ a mask, one pair at a time. [`Mask::runs`] _answers_ for a whole row at once: the sorted,
//! disjoint and maximal intervals of keys that one position sees. Set operations on masks are merges of intervals, so
//! the cost of an answer is the number of its runs and not the number of keys.
//!
//! # Layouts
//!
//! Kernels work on tiles: a few rows of queries against panels of [`PANEL`] keys. A [`BlockLayout`] is a mask compiled
//! against them. For each tile of queries it lists the panels that are full and need no mask, and those on the rim of
//! the set with one bit a pair; empty panels are left out. Here are 640 queries in tiles of 64 rows, under the last 192
//! keys and the first 64, causal:
//!
//! ```
//! use regard_masks::{BlockLayout, Mask, TileShape};
//!
//! let mask = Mask::causal() & (Mask::window(Some(191), None) | Mask::prefix(64));
//! let mut layout = BlockLayout::new();
//! layout.compile(&mask, 640, 640, 0, TileShape { rows: 64, group: 1 })?;
//! assert_eq!(layout.to_string(), "\
//! ▒·········
//! █▒········
//! ██▒·······
//! ███▒······
//! █▒██▒·····
//! █·▒██▒····
//! █··▒██▒···
//! █···▒██▒··
//! █····▒██▒·
//! █·····▒██▒
//! ");
//! # Ok::<(), regard_masks::Error>(())
//! ```
//!
//! The engine's rows are (query, head of its group): the heads that share a key/value head lie next to each other, so
//! that one tile serves a whole group. [`TileShape`] says how many they are.
//!
//! A layout depends on the mask, the shape and the tile alone: it is made once and used for all heads, layers and calls
//! that agree in these. A layout of one query is made in a fraction of a microsecond, and without allocating when room
//! for it was [reserved](BlockLayout::reserve): a loop that generates tokens makes one a token.
#![forbid(unsafe_code)]

mod compile;
mod draw;
mod error;
mod export;
mod layout;
mod mask;
mod primitive;
mod runs;
mod size;
mod tile;

pub use draw::Drawing;
pub use error::Error;
pub use layout::{BlockLayout, Spans};
pub use mask::Mask;
pub use runs::Runs;
pub use size::LayoutSize;
pub use tile::{MAX_TILE_ROWS, PANEL, Span, TileShape};

/// Where query `i` stands: `i + offset`, held at the ends of `i64`.
fn position(i: usize, offset: i64) -> i64 {
    offset.saturating_add_unsigned(i as u64)
}
