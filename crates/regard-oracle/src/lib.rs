//! References in f64, written for clarity, that Regard's tests compare against.
#![forbid(unsafe_code)]

mod attention;
mod yardstick;

pub use attention::{Attended, Attention};
pub use yardstick::{Precision, largest, largest_error, within_twice_plain};
