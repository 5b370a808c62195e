//! Masks and block layouts as pictures: SVG for pages, PNG for everything else.
//!
//! ```
//! use regard_draw::{Style, draw_mask};
//! use regard_masks::Mask;
//!
//! let mask = Mask::causal() & (Mask::window(Some(15), None) | Mask::prefix(4));
//! let picture = draw_mask(&mask, 64, 64, 0, &Style::default())?;
//! let svg: String = picture.svg();
//! let png: Vec<u8> = picture.png();
//! assert!(svg.starts_with("<svg") && png.starts_with(b"\x89PNG"));
//! # Ok::<(), regard_draw::Error>(())
//! ```
//!
//! Queries go down and keys go across. [`draw_mask`] draws a mask pair by pair; where there are more pairs than a picture
//! has cells, each cell is shaded by the share of its pairs that live, which a [`Grid`] counts from the mask's runs.
//! [`draw_layout`] draws what the engine makes of it: the blocks that are full, those on the rim, those whose keys are
//! gathered, and those that are left out.
//!
//! A mask that differs by batch entry or head is drawn for the first; [`Mask::select`](regard_masks::Mask::select) gives
//! the others. Pictures follow the reader's choice of light or dark unless a [`Style`] says otherwise, their colours are
//! those of Okabe and Ito, which colour-blind readers tell apart, and the same call gives the same bytes. Text pictures
//! are [`Mask::draw`](regard_masks::Mask::draw) and `Display` of a layout or a [`Grid`].
#![forbid(unsafe_code)]

mod axis;
mod blocks;
mod chart;
mod draw;
mod error;
mod font;
mod grid;
mod ink;
mod picture;
mod png;
mod scene;
mod style;
mod svg;
mod words;

pub use draw::{draw_layout, draw_mask};
pub use error::Error;
pub use grid::Grid;
pub use picture::Picture;
pub use style::{Style, Theme};
