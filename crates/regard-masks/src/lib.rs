//! Sets of (query, key) pairs: masks, their runs of keys, and block layouts.
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
