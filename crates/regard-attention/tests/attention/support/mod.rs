//! Random calls, and how they are run and judged.

mod case;
mod decode;
mod doubled;
mod problem;
mod reference;
mod set;
mod strided;

use std::sync::OnceLock;

use half::{bf16, f16};
use proptest::prelude::*;
use regard_attention::{Element, Outputs, Plan, Shape};
use regard_memory::Arena;
use regard_oracle::Precision;
pub(crate) use regard_oracle::{Set, numbers};
use regard_simd::Isa;
use regard_threads::Pool;

pub(crate) use case::{Case, Inputs, cases};
pub(crate) use decode::{
    AnyCache, DTYPES, decode, exact_in_bytes, precisions_of, run_cached, run_cached_on, seen_through, tokens,
};
pub(crate) use doubled::{Doubled, close};
pub(crate) use problem::Asked;
pub(crate) use reference::Reference;
pub(crate) use set::{mask, sets};
pub(crate) use strided::{Order, Strided, orders};

/// What the plain method works in: the precision of its inputs, of its weights, and of its result.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Precisions {
    pub(crate) stored: Precision,
    pub(crate) weights: Precision,
    pub(crate) result: Precision,
}

/// A number type, and the plain method that it is measured against.
pub(crate) trait Stored: Element {
    const PRECISIONS: Precisions;
}

impl Stored for f32 {
    const PRECISIONS: Precisions =
        Precisions { stored: Precision::F32, weights: Precision::F32, result: Precision::F32 };
}

impl Stored for bf16 {
    const PRECISIONS: Precisions =
        Precisions { stored: Precision::Bf16, weights: Precision::Bf16, result: Precision::Bf16 };
}

/// The engine multiplies half precision in single, and is measured against that.
impl Stored for f16 {
    const PRECISIONS: Precisions =
        Precisions { stored: Precision::F16, weights: Precision::F32, result: Precision::F16 };
}

/// Results in f32, without gaps.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// `[batch, heads, queries, dim_v]`.
    pub(crate) out: Vec<f32>,
    /// `[batch, heads, queries]`.
    pub(crate) lse: Vec<f32>,
}

impl Outcome {
    /// Bits tell what equality does not: NaN from NaN, and 0 from −0.
    pub(crate) fn bits(&self) -> (Vec<u32>, Vec<u32>) {
        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect();
        (bits(&self.out), bits(&self.lse))
    }

    /// The bits of one query: its row of `out`, and its `lse`.
    pub(crate) fn row(&self, shape: Shape, b: usize, h: usize, i: usize) -> (Vec<u32>, u32) {
        let row = (b * shape.heads + h) * shape.queries + i;
        let out = &self.out[row * shape.dim_v..][..shape.dim_v];
        (out.iter().map(|x| x.to_bits()).collect(), self.lse[row].to_bits())
    }
}

/// Two threads for all tests.
pub(crate) fn pool() -> &'static Pool {
    static POOL: OnceLock<Pool> = OnceLock::new();
    POOL.get_or_init(|| Pool::new(2).expect("two threads"))
}

/// Numbers as they are stored.
pub(crate) fn store<T: Element>(numbers: &[f32]) -> Vec<T> {
    numbers.iter().map(|&x| T::from_f32(x)).collect()
}

/// Runs a case through its strides, on two threads.
pub(crate) fn run<T: Element>(case: &Case, inputs: &Inputs, isa: Isa) -> Outcome {
    run_on::<T>(case, inputs, isa, pool())
}

/// Runs a case through its strides.
pub(crate) fn run_on<T: Element>(case: &Case, inputs: &Inputs, isa: Isa, pool: &Pool) -> Outcome {
    let plan = Plan::new(case.shape, &case.mask(), &case.options(isa)).expect("a plan");
    let [q, k, v, out, lse] = case.shapes();
    let q = Strided::<T>::new(&inputs.q, q, case.orders[0]);
    let k = Strided::<T>::new(&inputs.k, k, case.orders[1]);
    let v = Strided::<T>::new(&inputs.v, v, case.orders[2]);
    let mut out = Strided::<T>::blank(out, case.orders[3]);
    let mut lse = Strided::<f32>::blank(lse, case.orders[4]);
    let mut scratch = soiled();
    let inputs = regard_attention::Inputs::new(q.view(), k.view(), v.view());
    plan.run(&inputs, Outputs::state(out.view_mut(), lse.view_mut()), &mut scratch, pool).expect("a run");
    Outcome { out: out.gather(), lse: lse.gather() }
}

/// Scratch full of NaN, to betray whoever reads what was not written.
pub(crate) fn soiled() -> Arena {
    let mut arena = Arena::new();
    let mut frame = arena.frame(regard_memory::Need::of::<f32>(1 << 18)).expect("a megabyte");
    frame.take::<f32>(1 << 18).fill(f32::NAN);
    arena
}

/// A failure that names the instruction set.
pub(crate) fn on(isa: Isa, result: Result<(), String>) -> Result<(), TestCaseError> {
    result.map_err(|what| TestCaseError::fail(format!("{isa}: {what}")))
}

/// As many cases of a property as its cost allows, new ones every time.
pub(crate) fn tries(cases: u32) -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(cases);
    ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 500, ..ProptestConfig::default() }
}
