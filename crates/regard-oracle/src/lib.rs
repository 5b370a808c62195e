//! References in f64, written for clarity, that Regard's tests compare against.
//!
//! An [`Attention`] is one call in full: tensors, sequences, mask and options. It answers straight from the definitions,
//! query by query, in f64: [`exact`](Attention::exact), [`gradients`](Attention::gradients) and
//! [`scores`](Attention::scores). The same formulas in f32, [`plain`](Attention::plain) and
//! [`plain_gradients`](Attention::plain_gradients), are the yardstick of how far off a result may be.
//!
//! A layer is a function of named tensors, in [`layers`].
//!
//! [`Set`] is the set theory of masks. A [`Problem`] owns its numbers; the feature `random` draws problems, and the
//! feature `golden` brings some that PyTorch has solved.
//!
//! ```
//! use regard_oracle::{Attention, Sizes};
//!
//! // Two causal queries over two keys.
//! let causal = Attention {
//!     sizes: Sizes { batch: 1, heads: 1, kv_heads: 1, queries: 2, keys: 2, dim_k: 1, dim_v: 1 },
//!     q: &[1.0, 1.0],
//!     k: &[0.0, 3f64.ln()],
//!     v: &[4.0, 8.0],
//!     allows: &|pair| pair.j as i64 <= pair.p,
//!     ..Attention::default()
//! };
//! // The second query weighs its keys one to three.
//! let attended = causal.exact();
//! assert!((attended.out[0] - 4.0).abs() < 1e-12 && (attended.out[1] - 7.0).abs() < 1e-12);
//! assert!((attended.lse[0] - 0.0).abs() < 1e-12 && (attended.lse[1] - 4f64.ln()).abs() < 1e-12);
//! ```
#![forbid(unsafe_code)]

mod attention;
mod backward;
mod favor;
mod forward;
#[cfg(feature = "golden")]
mod golden;
pub mod layers;
mod numbers;
mod pair;
mod problem;
#[cfg(feature = "random")]
mod random;
mod real;
mod recurrence;
mod scores;
mod set;
mod yardstick;

pub use attention::{Attention, Bias, Dropout, Sequence, Sizes};
pub use backward::Gradients;
pub use favor::{Favor, FavorGradients};
pub use forward::Attended;
#[cfg(feature = "golden")]
pub use golden::{Golden, golden};
pub use numbers::{numbers, widen};
pub use pair::Pair;
pub use problem::Problem;
#[cfg(feature = "random")]
pub use random::{problems, problems_of, sequences, sets};
pub use recurrence::{Recurrence, RecurrenceGradients};
pub use scores::Stage;
pub use set::Set;
pub use yardstick::{DOUBLE, Precision, largest, largest_error, within_twice_plain};
