//! The machine: threads, and what it can do at most.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use regard_kernels::peak::{Machine, Unit};
use regard_simd::Isa;
use regard_threads::{Pool, cores};

use crate::error::of_memory;
use crate::numbers::count;
use crate::work::detached;

/// Rates are measured so often, and the best is taken.
const TIMES: usize = 5;

/// Sets how many threads a call uses, the caller's own included; at first one a physical core, or what ``REGARD_THREADS``
/// says. Calls of several Python threads share them.
///
/// >>> import regard
/// >>> before = regard.num_threads()
/// >>> regard.set_num_threads(1)
/// >>> regard.num_threads()
/// 1
/// >>> regard.set_num_threads(before)
#[pyfunction]
pub(crate) fn set_num_threads(n: &Bound<'_, PyAny>) -> PyResult<()> {
    Pool::set_global(count("n", n)?).map_err(|error| PyValueError::new_err(error.to_string()))
}

/// How many threads a call uses.
#[pyfunction]
pub(crate) fn num_threads() -> usize {
    Pool::global().threads()
}

/// This machine: the instruction set in use, and what it does at most, measured now with the threads in use.
///
/// Returns:
///     A dict with ``isa``, ``cores``, ``threads``, ``f32_gflops``, ``bf16_gflops`` (None where the CPU has no products of
///     bf16) and ``read_gbs``, bytes read from memory in GB/s. It takes about a second and half a gigabyte.
#[pyfunction]
pub(crate) fn machine(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let isa = Isa::from_environment().map_err(|error| PyValueError::new_err(error.to_string()))?;
    let threads = Pool::global().threads();
    let rates = detached(py, || {
        let machine = Machine::new(threads)?;
        let rate = |unit| machine.best(isa, unit, TIMES) / 1e9;
        let bf16 = isa.has_bf16_dots().then(|| rate(Unit::Bf16));
        Ok((rate(Unit::F32), bf16, rate(Unit::Read)))
    })?;
    let (f32_gflops, bf16_gflops, read) = rates.map_err(of_memory)?;
    let machine = PyDict::new(py);
    machine.set_item("isa", isa.name())?;
    machine.set_item("cores", cores())?;
    machine.set_item("threads", threads)?;
    machine.set_item("f32_gflops", f32_gflops)?;
    machine.set_item("bf16_gflops", bf16_gflops)?;
    machine.set_item("read_gbs", read)?;
    Ok(machine)
}
