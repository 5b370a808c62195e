//! Random calls, how they are run, and how they are judged.

mod alone;
mod asked;
mod cached;
mod calls;
mod doubled;
mod reference;
mod results;
mod set;
mod spoilt;
mod strided;

use std::fmt::Display;
use std::sync::OnceLock;

use half::{bf16, f16};
use proptest::prelude::*;
use regard_attention::{Differentiable, Element, Real};
use regard_memory::Arena;
use regard_oracle::Precision;
use regard_threads::Pool;

pub(crate) use alone::alone;
pub(crate) use asked::{Asked, SEED, Way, keeps, shape_of};
pub(crate) use cached::{
    AnyCache, DTYPES, decode, exact_in_bytes, precisions_of, run_cached, run_cached_on, seen_through, terms, tokens,
};
pub(crate) use calls::calls;
pub(crate) use doubled::{Doubled, close};
pub(crate) use reference::{Backward, Forward};
pub(crate) use results::{Outcome, Results, Slopes, bits};
pub(crate) use set::mask;
pub(crate) use spoilt::{places, spoil, spoilt};
pub(crate) use strided::{Order, Strided, orders};

/// What the plain method works in: the precision of its inputs, of its weights, and of its result.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Precisions {
    pub(crate) stored: Precision,
    pub(crate) weights: Precision,
    pub(crate) result: Precision,
}

/// A number type, and the plain method that it is measured against.
pub(crate) trait Stored: Differentiable + Real<Wide = f32> {
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

/// Two threads for all tests.
pub(crate) fn pool() -> &'static Pool {
    static POOL: OnceLock<Pool> = OnceLock::new();
    POOL.get_or_init(|| Pool::new(2).expect("two threads"))
}

/// Numbers as they are stored.
pub(crate) fn store<T: Element>(numbers: &[f32]) -> Vec<T> {
    numbers.iter().map(|&x| T::from_f32(x)).collect()
}

/// Scratch full of NaN, to betray whoever reads what was not written.
pub(crate) fn soiled() -> Arena {
    // A megabyte; an interpreter is given what it can write in a moment.
    let words = if cfg!(miri) { 1 << 12 } else { 1 << 18 };
    let mut arena = Arena::new();
    let mut frame = arena.frame(regard_memory::Need::of::<f32>(words)).expect("a megabyte");
    frame.take::<f32>(words).fill(f32::NAN);
    arena
}

/// A failure that names the instruction set.
pub(crate) fn on(isa: impl Display, result: Result<(), String>) -> Result<(), TestCaseError> {
    result.map_err(|what| TestCaseError::fail(format!("{isa}: {what}")))
}

/// As many cases of a property as its cost allows, new ones every time.
pub(crate) fn tries(cases: u32) -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(cases);
    ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 60, ..ProptestConfig::default() }
}
