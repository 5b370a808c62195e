//! Sets of (query, key) pairs: masks, their runs of keys, and block layouts.
//!
//! Attention is computed for some pairs of queries and keys and not for others. This crate says which. It is set theory
//! on integers: it knows no floats, no tensors and no instruction sets, and depends on nothing.
//!
//! # Masks
//!
//! A [`Mask`] is a set of pairs `(p, j)`, true where the query at position `p` sees key `j`. Query `i` stands at
//! position `p = i + offset`, which may be negative (and is held at the ends of `i64`). Masks are built from primitives;
//! here are all of them, for eight queries and keys:
//!
//! ```
//! use regard_masks::{Edges, Mask};
//!
//! let kept = [false, false, true, true, true, true, true, false];
//! let ring = (0..8).map(|p| (p, (p + 2) % 8));
//! let blocks = [true, false, false, false, true, true, true, false, true];
//! let dense: Vec<bool> = (0..64).map(|at| at % 5 == 0 || at % 7 == 0).collect();
//! # let beside = |masks: &[Mask]| {
//! #     let drawings: Vec<String> = masks.iter().map(|mask| mask.draw(8, 8, 0).to_string()).collect();
//! #     let line = |at: usize| drawings.iter().map(move |text| text.lines().nth(at).unwrap()).collect::<Vec<_>>();
//! #     (0..8).map(|at| line(at).join("     ") + "\n").collect::<String>()
//! # };
//!
//! let first = [Mask::full(), Mask::causal(), Mask::window(Some(2), Some(1)), Mask::prefix(3)];
//! assert_eq!(beside(&first), "\
//! ████████     █·······     ██······     ███·····
//! ████████     ██······     ███·····     ███·····
//! ████████     ███·····     ████····     ███·····
//! ████████     ████····     ·████···     ███·····
//! ████████     █████···     ··████··     ███·····
//! ████████     ██████··     ···████·     ███·····
//! ████████     ███████·     ····████     ███·····
//! ████████     ████████     ·····███     ███·····
//! ");
//!
//! let second =
//!     [Mask::global_keys([0, 5]), Mask::global_queries([0, 5]), Mask::keys(&kept), Mask::block_diagonal(3)?];
//! assert_eq!(beside(&second), "\
//! █····█··     ████████     ··█████·     ███·····
//! █····█··     ········     ··█████·     ███·····
//! █····█··     ········     ··█████·     ███·····
//! █····█··     ········     ··█████·     ···███··
//! █····█··     ········     ··█████·     ···███··
//! █····█··     ████████     ··█████·     ···███··
//! █····█··     ········     ··█████·     ······██
//! █····█··     ········     ··█████·     ······██
//! ");
//!
//! let third = [
//!     Mask::strided(3)?,
//!     Mask::random(0.3, 7)?,
//!     Mask::edge_pairs(ring, Edges::Symmetric)?,
//!     Mask::blocks(3, 3, 3, &blocks)?,
//!     Mask::dense(8, 8, &dense)?,
//! ];
//! assert_eq!(beside(&third), "\
//! █··█··█·     ·█·····█     ··█···█·     ███·····     █····█·█
//! █··█··█·     ······██     ···█···█     ███·····     ··█···██
//! █··█··█·     █·····█·     █···█···     ███·····     ····██··
//! █··█··█·     ····██··     ·█···█··     ···█████     ·█··█·█·
//! █··█··█·     ··█··█··     ··█···█·     ···█████     ···█····
//! █··█··█·     ··█··█··     ···█···█     ···█████     █·█··█··
//! █··█··█·     ··█····█     █···█···     ███···██     ·██····█
//! █··█··█·     █···█···     ·█···█··     ███···██     █···█··█
//! ");
//! # Ok::<(), regard_masks::Error>(())
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
//! assert_eq!(mask.to_string(), "causal & (window(2, ∞) | prefix(2))");
//! assert_eq!(mask, "causal & (window(2, ∞) | prefix(2))".parse()?);
//! # Ok::<(), regard_masks::Error>(())
//! ```
//!
//! A mask may differ by batch entry ([`Mask::by_batch`]) and by query head ([`Mask::by_head`]), anywhere in an expression;
//! [`Mask::select`] gives that of one of them.
//!
//! # Runs
//!
//! [`Mask::allows`] _defines_ a mask, one pair at a time. [`Mask::runs`] _answers_ for a whole row at once: the sorted,
//! disjoint and maximal intervals of keys that one position sees. Set operations on masks are merges of intervals, so
//! the cost of an answer is the number of its runs and not the number of keys. Where a window meets scattered keys, only
//! those within the window are looked at.
//!
//! Most rows follow from the one before: their runs have the same ends, or ends that have moved on by one key. So runs are
//! computed together with the number of rows for which they keep their shape.
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
//! that one tile serves a whole group, whether its heads share a mask or each has [its own](BlockLayout::compile_group).
//! [`TileShape`] says how many they are.
//!
//! Scattered keys make a rim panel each. Where a model of costs, [`Gather`], says that it is cheaper, they are
//! [gathered](BlockLayout::gathered) into panels of their own instead, which tiles share. A [`Transpose`] lists a layout by
//! blocks of keys, as a backward pass goes over it, and a [`Cost`] says how many pairs are computed for those that live.
//!
//! A layout depends on the masks, the shape and the tile alone: it is made once and used for all heads, layers and calls
//! that agree in these. A [`LayoutCache`] keeps those that were made, up to a limit in bytes. A window over a million
//! queries is compiled in about a millisecond. A layout of one query is made in a fraction of a microsecond, and without
//! allocating when room for it was [reserved](BlockLayout::reserve): a loop that generates tokens makes one a token.
#![forbid(unsafe_code)]

mod cache;
mod compile;
mod cost;
mod draw;
mod edge;
mod error;
mod evaluate;
mod export;
mod expression;
mod gather;
mod gathered;
mod indices;
mod layout;
mod mask;
mod parse;
mod primitive;
mod random;
mod repeat;
mod runs;
mod shared;
mod size;
mod stack;
mod sweep;
mod table;
mod tile;
mod transpose;
mod vary;
mod words;

pub use cache::LayoutCache;
pub use cost::Cost;
pub use draw::Drawing;
pub use error::Error;
pub use gather::Gather;
pub use gathered::Gathered;
pub use layout::{BlockLayout, Spans};
pub use mask::Mask;
pub use runs::Runs;
pub use size::LayoutSize;
pub use table::Edges;
pub use tile::{MAX_TILE_ROWS, PANEL, Span, TileShape};
pub use transpose::Transpose;

/// Where query `i` stands: `i + offset`, held at the ends of `i64`.
fn position(i: usize, offset: i64) -> i64 {
    offset.saturating_add_unsigned(i as u64)
}
