//! Masks that are chosen by content: which blocks of keys a block of queries had better see.
//!
//! A [`Select`] looks at queries and keys in blocks and gives [`Scores`], a number for each block of keys and block of queries; a
//! rule makes a [`Choice`] of them, and that a [`Mask`](regard_masks::Mask), which the engine computes at the cost of what it
//! keeps. What is kept of exact attention can be told, and should be: [`Scores::kept`].
//!
//! | scores | by |
//! | --- | --- |
//! | [`Select::pooled`] | the product of mean query and mean key: block routing |
//! | [`Select::estimated`] | the softmax mass, estimated from means and variances |
//! | [`Select::learned`] | a [`Selector`] that was trained on the masses of other text |
//! | [`Select::random`], [`Select::nearest`] | nothing, and the distance: what the others have to beat |
//! | [`Select::exact`] | the softmax mass itself, at more than the cost of attention: the best possible |
//!
//! | rule | keeps, beside a row's own block and the first |
//! | --- | --- |
//! | [`Scores::top`] | the blocks with the highest scores, as many as a [`Budget`] says |
//! | [`Scores::window`] | the nearest blocks, as few as hold a share of the mass |
//! | [`Scores::above`] | the blocks of which each holds a share of the mass |
//!
//! ```
//! use ndarray::Array4;
//! use regard_select::{Budget, Select};
//!
//! // [batch, heads, seq, dim]: keys of four kinds, a kind for each 8 of them, and queries that look for one kind each.
//! let kind = |i: usize| [0, 1, 2, 3, 1, 3, 0, 1][i / 8 % 8];
//! let k = Array4::from_shape_fn((1, 1, 64, 4), |(_, _, i, c)| if c == kind(i) { 6.0 } else { 0.0 });
//! let select = Select::new(k.view(), k.view()).block(8);
//! let choice = select.pooled()?.top(Budget::Blocks(3))?;
//!
//! // The last 8 queries see the first block, the nearest other one of their kind, and their own.
//! assert_eq!(choice.of(0, 0).row(7).to_vec(), [true, false, false, false, true, false, false, true]);
//! assert!(select.exact()?.kept(&choice)? > 0.7);
//! # Ok::<(), regard_select::Error>(())
//! ```
//!
//! # In time
//!
//! Under [`Direction::Causal`](regard_attention::Direction::Causal) no query attends to a later key, and no row's choice depends on
//! what follows its block. Within its own block it does: the queries of a row choose together.
#![forbid(unsafe_code)]

mod blocks;
mod budget;
mod check;
mod choice;
mod error;
mod exact;
mod scores;
mod select;
mod selector;
mod summary;

pub use blocks::Blocks;
pub use budget::Budget;
pub use choice::Choice;
pub use error::Error;
pub use scores::Scores;
pub use select::Select;
pub use selector::{Lesson, Selector, Trained, Training};
