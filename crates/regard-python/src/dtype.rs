//! The number types of arrays.

use half::{bf16, f16};
use numpy::npyffi::NPY_TYPES;
use numpy::{PyArrayDescr, PyArrayDescrMethods};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTypeMethods;
use regard_attention::{
    CacheDtype, Error, Favor, FavorInputs, FavorOutputs, Gradients, Inputs, Plan, Real, Recurrence, RecurrentInputs,
    RecurrentOutputs, Upstream,
};
use regard_memory::Arena;
use regard_threads::Pool;

/// The numbers of an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Dtype {
    F32,
    F64,
    Bf16,
    F16,
}

impl Dtype {
    /// Of NumPy's, to which `ml_dtypes` adds bfloat16.
    pub(crate) fn of_numpy(descr: &Bound<'_, PyArrayDescr>) -> Option<Dtype> {
        let number = descr.num();
        [(NPY_TYPES::NPY_FLOAT, Dtype::F32), (NPY_TYPES::NPY_DOUBLE, Dtype::F64), (NPY_TYPES::NPY_HALF, Dtype::F16)]
            .into_iter()
            .find_map(|(is, dtype)| (is as i32 == number).then_some(dtype))
            .or_else(|| {
                let name = descr.typeobj().name().ok()?;
                (number >= NPY_TYPES::NPY_USERDEF as i32 && descr.itemsize() == 2 && name == "bfloat16")
                    .then_some(Dtype::Bf16)
            })
    }

    /// Of DLPack's codes.
    pub(crate) fn of_dlpack(code: u8, bits: u8, lanes: u16) -> Option<Dtype> {
        match (code, bits, lanes) {
            (2, 16, 1) => Some(Dtype::F16),
            (2, 32, 1) => Some(Dtype::F32),
            (2, 64, 1) => Some(Dtype::F64),
            (4, 16, 1) => Some(Dtype::Bf16),
            _ => None,
        }
    }

    pub(crate) fn bytes(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::F64 => 8,
            Dtype::Bf16 | Dtype::F16 => 2,
        }
    }

    /// What scores, log-sum-exps and biases are in.
    pub(crate) fn wide(self) -> Dtype {
        if self == Dtype::F64 { Dtype::F64 } else { Dtype::F32 }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "float32",
            Dtype::F64 => "float64",
            Dtype::Bf16 => "bfloat16",
            Dtype::F16 => "float16",
        }
    }
}

/// How caches store keys and values.
pub(crate) fn cache_dtype(name: &str, dtype: &str) -> PyResult<CacheDtype> {
    let all = [CacheDtype::F32, CacheDtype::Bf16, CacheDtype::F16, CacheDtype::Int8];
    all.into_iter().find(|&known| cache_dtype_name(known) == dtype).ok_or_else(|| {
        let expected = "expected 'float32', 'bfloat16', 'float16' or 'int8'";
        PyValueError::new_err(format!("`{name}` is '{dtype}'; {expected}"))
    })
}

pub(crate) fn cache_dtype_name(dtype: CacheDtype) -> &'static str {
    match dtype {
        CacheDtype::F32 => "float32",
        CacheDtype::F16 => "float16",
        CacheDtype::Bf16 => "bfloat16",
        CacheDtype::Int8 => "int8",
    }
}

/// A number type, by its place in [`Dtype`], and what is computed apart in f64.
pub(crate) trait Scalar: Real {
    const DTYPE: Dtype;

    /// The gradients of a call whose result is in these numbers.
    fn backward(
        plan: &Plan,
        inputs: &Inputs<'_, Self, Self::Wide>,
        upstream: &Upstream<'_, Self, Self::Wide>,
        gradients: Gradients<'_, Self, Self::Wide>,
        scratch: &mut Arena,
    ) -> Result<(), Error>;

    /// The same of one whose result is ready to be merged.
    fn backward_wide(
        plan: &Plan,
        inputs: &Inputs<'_, Self, Self::Wide>,
        upstream: &Upstream<'_, Self::Wide, Self::Wide>,
        gradients: Gradients<'_, Self, Self::Wide>,
        scratch: &mut Arena,
    ) -> Result<(), Error>;

    /// Linear attention of these numbers.
    fn recur(
        recurrence: &Recurrence,
        inputs: &RecurrentInputs<'_, Self, Self::Wide>,
        outputs: RecurrentOutputs<'_, Self, Self::Wide>,
        scratch: &mut Arena,
    ) -> Result<(), Error>;

    /// FAVOR+ of these numbers.
    fn favor(
        favor: &Favor<'_>,
        inputs: &FavorInputs<'_, Self, Self::Wide>,
        outputs: FavorOutputs<'_, Self, Self::Wide>,
        scratch: &mut Arena,
    ) -> Result<(), Error>;
}

macro_rules! scalar {
    ($T:ty, $dtype:expr) => {
        impl Scalar for $T {
            const DTYPE: Dtype = $dtype;

            fn backward(
                plan: &Plan,
                inputs: &Inputs<'_, Self>,
                upstream: &Upstream<'_, Self>,
                gradients: Gradients<'_, Self>,
                scratch: &mut Arena,
            ) -> Result<(), Error> {
                plan.backward(inputs, upstream, gradients, scratch, Pool::global())
            }

            fn backward_wide(
                plan: &Plan,
                inputs: &Inputs<'_, Self>,
                upstream: &Upstream<'_, f32>,
                gradients: Gradients<'_, Self>,
                scratch: &mut Arena,
            ) -> Result<(), Error> {
                plan.backward(inputs, upstream, gradients, scratch, Pool::global())
            }

            fn recur(
                recurrence: &Recurrence,
                inputs: &RecurrentInputs<'_, Self>,
                outputs: RecurrentOutputs<'_, Self>,
                scratch: &mut Arena,
            ) -> Result<(), Error> {
                recurrence.run(inputs, outputs, scratch, Pool::global())
            }

            fn favor(
                favor: &Favor<'_>,
                inputs: &FavorInputs<'_, Self>,
                outputs: FavorOutputs<'_, Self>,
                scratch: &mut Arena,
            ) -> Result<(), Error> {
                favor.run(inputs, outputs, scratch, Pool::global())
            }
        }
    };
}
scalar!(f32, Dtype::F32);
scalar!(bf16, Dtype::Bf16);
scalar!(f16, Dtype::F16);

impl Scalar for f64 {
    const DTYPE: Dtype = Dtype::F64;

    fn backward(
        plan: &Plan,
        inputs: &Inputs<'_, f64, f64>,
        upstream: &Upstream<'_, f64, f64>,
        gradients: Gradients<'_, f64, f64>,
        _: &mut Arena,
    ) -> Result<(), Error> {
        plan.backward_f64(inputs, upstream, gradients, Pool::global())
    }

    fn backward_wide(
        plan: &Plan,
        inputs: &Inputs<'_, f64, f64>,
        upstream: &Upstream<'_, f64, f64>,
        gradients: Gradients<'_, f64, f64>,
        scratch: &mut Arena,
    ) -> Result<(), Error> {
        Self::backward(plan, inputs, upstream, gradients, scratch)
    }

    fn recur(
        recurrence: &Recurrence,
        inputs: &RecurrentInputs<'_, f64, f64>,
        outputs: RecurrentOutputs<'_, f64, f64>,
        _: &mut Arena,
    ) -> Result<(), Error> {
        recurrence.run_f64(inputs, outputs, Pool::global())
    }

    fn favor(
        favor: &Favor<'_>,
        inputs: &FavorInputs<'_, f64, f64>,
        outputs: FavorOutputs<'_, f64, f64>,
        _: &mut Arena,
    ) -> Result<(), Error> {
        favor.run_f64(inputs, outputs, Pool::global())
    }
}

/// Runs a body with the type that a [`Dtype`] stands for.
macro_rules! with_type {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            $crate::dtype::Dtype::F32 => {
                type $T = f32;
                $body
            }
            $crate::dtype::Dtype::F64 => {
                type $T = f64;
                $body
            }
            $crate::dtype::Dtype::Bf16 => {
                type $T = half::bf16;
                $body
            }
            $crate::dtype::Dtype::F16 => {
                type $T = half::f16;
                $body
            }
        }
    };
}

/// The same of what is not computed in f64: `TypeError` says so.
macro_rules! with_narrow_type {
    ($view:expr, $T:ident => $body:expr) => {
        match $view.dtype {
            $crate::dtype::Dtype::F32 => {
                type $T = f32;
                $body
            }
            $crate::dtype::Dtype::Bf16 => {
                type $T = half::bf16;
                $body
            }
            $crate::dtype::Dtype::F16 => {
                type $T = half::f16;
                $body
            }
            $crate::dtype::Dtype::F64 => Err($crate::dtype::too_wide($view.name)),
        }
    };
}
pub(crate) use {with_narrow_type, with_type};

/// What is not computed in f64 says so.
pub(crate) fn too_wide(name: &str) -> PyErr {
    let expected = "expected float32, bfloat16 or float16, which this is computed of: .astype or .to converts it";
    PyTypeError::new_err(format!("`{name}` has dtype float64; {expected}"))
}
