//! Layers as functions of named tensors, by their formulas.
//!
//! A layer is a function from [`Tensor`]s to a [`Tensor`], or a struct of settings that has one; sizes are the tensors' own.
//! Weights come by name, in [`Tensors`], and so do gradients: [`differences`] takes them of whatever is computed from named
//! tensors, so a layer here has no backward pass that could be wrong. The feature `golden` reads cases that others have
//! computed.
//!
//! ```
//! use regard_oracle::layers::{Tensor, Tensors, differences, linear};
//!
//! let at = Tensors::from_iter([
//!     ("x", Tensor::new(&[1, 2], vec![1.0, 2.0])),
//!     ("w", Tensor::new(&[1, 2], vec![3.0, 4.0])),
//!     ("b", Tensor::new(&[1], vec![5.0])),
//! ]);
//! let value = |t: &Tensors| linear(&t["x"], &t["w"], t.get("b")).values[0];
//! assert_eq!(value(&at), 16.0);
//! let gradients = differences(&at, value);
//! assert!((gradients["w"].values[1] - 2.0).abs() < 1e-9);
//! ```

mod activation;
mod block;
mod differences;
mod feed_forward;
#[cfg(feature = "golden")]
mod golden;
mod linear;
mod local_global;
mod multi_head;
mod norm;
mod rotary;
mod shared_context;
mod state_space;
mod tensor;

pub use activation::{Activation, erf};
pub use block::Block;
pub use differences::differences;
pub use feed_forward::feed_forward;
#[cfg(feature = "golden")]
pub use golden::{Case, cases};
pub use linear::{cross_entropy, embedding, linear};
pub use local_global::LocalGlobal;
pub use multi_head::{MultiHead, heads_of, merge_heads};
pub use norm::{Norm, layer_norm, rms_norm};
pub use rotary::Rotary;
pub use shared_context::{SharedContext, sampled_rows};
pub use state_space::StateSpace;
pub use tensor::{Tensor, Tensors};
