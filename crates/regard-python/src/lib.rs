//! Regard from Python: the compiled half of the package `regard`.
//!
//! `foreign` is the one file with unsafe code: it looks at memory that other libraries own. All else calls the engine as any
//! Rust program does.
#![deny(unsafe_code)]

mod arrays;
mod attention;
mod cache;
mod dtype;
mod error;
#[allow(unsafe_code, reason = "it looks at memory that other libraries own")]
mod foreign;
mod index;
mod layers;
mod linear;
mod machine;
mod mask;
mod models;
mod options;
mod work;

use pyo3::prelude::*;

/// Exact attention for CPUs.
#[pymodule]
mod _regard {
    #[pymodule_export]
    #[allow(non_upper_case_globals, reason = "Python's name")]
    const __version__: &str = env!("CARGO_PKG_VERSION");
    #[pymodule_export]
    use crate::attention::{Gradients, PyPlan, attention, attention_backward, merge, plan, scores};
    #[pymodule_export]
    use crate::cache::{PyCache, PyPagePool, PyPagedCache, decode};
    #[pymodule_export]
    use crate::index::PyIndex;
    #[pymodule_export]
    use crate::layers::_layers;
    #[pymodule_export]
    use crate::linear::{PyFavorFeatures, favor_attention, linear_attention};
    #[pymodule_export]
    use crate::machine::{machine, num_threads, set_num_threads};
    #[pymodule_export]
    use crate::mask::{Layout, PyMask};
    #[pymodule_export]
    use crate::models::{PyDecoder, PyEncoder, PyStream};
}
