//! The fork-join pool of the engine.
//!
//! One token of a small model is some hundred parallel loops of a few microseconds each, so what counts is the time from
//! asking for help to having it. A [`Pool`] keeps its threads awake for a moment after each loop, hands out tasks by one
//! counter, allocates nothing, and needs no `unsafe` from its callers: what tasks write to is given as
//! [`Parts`](regard_memory::Parts).
//!
//! ```
//! use regard_memory::chunks_of;
//! use regard_threads::Pool;
//!
//! let pool = Pool::new(2)?;
//! let mut squares = [0; 10];
//! pool.run(chunks_of(&mut squares, 3), |chunk, values| {
//!     for (i, value) in values.iter_mut().enumerate() {
//!         *value = (chunk * 3 + i).pow(2);
//!     }
//! });
//! assert_eq!(squares, [0, 1, 4, 9, 16, 25, 36, 49, 64, 81]);
//! # Ok::<(), regard_threads::Error>(())
//! ```

mod affinity;
mod cores;
mod error;
mod fork;
mod gate;
mod interrupt;
mod nodes;
mod pool;
mod team;

pub use cores::cores;
pub use error::{Error, Result};
pub use interrupt::{Interrupted, interrupted, interruptible};
pub use nodes::{nodes, pin};
pub use pool::Pool;
