//! Regard from Python: the compiled half of the package `regard`.
//!
//! `foreign` is the one file with unsafe code: it looks at memory that other libraries own. All else calls the engine as any
//! Rust program does.
#![deny(unsafe_code)]

mod arrays;
mod attention;
mod backward;
mod cache;
mod dtype;
mod error;
mod favor;
#[allow(unsafe_code, reason = "it looks at memory that other libraries own")]
mod foreign;
mod index;
mod layers;
mod linear;
mod machine;
mod mask;
mod merge;
mod models;
mod numbers;
mod options;
mod plan;
mod prefix;
mod results;
mod retrieval;
mod scores;
mod select;
mod terms;
mod work;

use pyo3::prelude::*;

/// Exact attention for CPUs.
#[pymodule]
mod _regard {
    #[pymodule_export]
    #[allow(non_upper_case_globals, reason = "Python's name")]
    const __version__: &str = env!("CARGO_PKG_VERSION");
    #[pymodule_export]
    use crate::attention::attention;
    #[pymodule_export]
    use crate::backward::{Gradients, attention_backward};
    #[pymodule_export]
    use crate::cache::{PyCache, PyPagePool, PyPagedCache, decode};
    #[pymodule_export]
    use crate::favor::{PyFavorFeatures, favor_attention, favor_attention_backward};
    #[pymodule_export]
    use crate::index::PyIndex;
    #[pymodule_export]
    use crate::layers::_layers;
    #[pymodule_export]
    use crate::linear::{LinearGradients, linear_attention, linear_attention_backward};
    #[pymodule_export]
    use crate::machine::{machine, num_threads, set_num_threads};
    #[pymodule_export]
    use crate::mask::{Layout, PyMask};
    #[pymodule_export]
    use crate::merge::merge;
    #[pymodule_export]
    use crate::models::{PyDecoder, PyEncoder, PyStream};
    #[pymodule_export]
    use crate::plan::{PyPlan, plan};
    #[pymodule_export]
    use crate::prefix::prefix_attention;
    #[pymodule_export]
    use crate::retrieval::{PyRetrieved, retrieve};
    #[pymodule_export]
    use crate::scores::scores;
    #[pymodule_export]
    use crate::select::select;
}
