//! The number types of queries, keys and values.

use std::fmt::Debug;

use regard_memory::Arena;
use regard_threads::Pool;

use crate::{Element, Error, Inputs, Outputs, Plan};

/// A number type that attention is computed of: f32, bf16 and f16, with all sums in f32; or f64, with all in f64.
pub trait Real: Copy + Default + Debug + Send + Sync + 'static + sealed::Sealed {
    /// What scores, log-sum-exps and the [`Terms`](crate::Terms) are in: f64 of f64, else f32.
    type Wide: Copy + Default + Debug + Into<f64> + Send + Sync + 'static;

    /// The same number.
    fn to_f64(self) -> f64;

    /// The nearest number in which scores are.
    fn wide(x: f64) -> Self::Wide;

    /// [`Plan::run`] or [`Plan::run_f64`] (which takes nothing from the scratch), with results of the type of the inputs.
    ///
    /// # Errors
    /// As these.
    fn run(
        plan: &Plan,
        inputs: &Inputs<'_, Self, Self::Wide>,
        outputs: Outputs<'_, Self, Self::Wide>,
        scratch: &mut Arena,
        pool: &Pool,
    ) -> Result<(), Error>;

    /// The same with results that are ready to be merged.
    ///
    /// # Errors
    /// As [`Real::run`].
    fn run_wide(
        plan: &Plan,
        inputs: &Inputs<'_, Self, Self::Wide>,
        outputs: Outputs<'_, Self::Wide, Self::Wide>,
        scratch: &mut Arena,
        pool: &Pool,
    ) -> Result<(), Error>;
}

mod sealed {
    pub trait Sealed {}
    impl<T: crate::Element> Sealed for T {}
    impl Sealed for f64 {}
}

impl<T: Element> Real for T {
    type Wide = f32;

    fn to_f64(self) -> f64 {
        f64::from(self.to_f32())
    }

    fn wide(x: f64) -> f32 {
        x as f32
    }

    fn run(
        plan: &Plan,
        inputs: &Inputs<'_, T>,
        outputs: Outputs<'_, T>,
        scratch: &mut Arena,
        pool: &Pool,
    ) -> Result<(), Error> {
        plan.run(inputs, outputs, scratch, pool)
    }

    fn run_wide(
        plan: &Plan,
        inputs: &Inputs<'_, T>,
        outputs: Outputs<'_, f32>,
        scratch: &mut Arena,
        pool: &Pool,
    ) -> Result<(), Error> {
        plan.run(inputs, outputs, scratch, pool)
    }
}

impl Real for f64 {
    type Wide = f64;

    fn to_f64(self) -> f64 {
        self
    }

    fn wide(x: f64) -> f64 {
        x
    }

    fn run(
        plan: &Plan,
        inputs: &Inputs<'_, f64, f64>,
        outputs: Outputs<'_, f64, f64>,
        _: &mut Arena,
        pool: &Pool,
    ) -> Result<(), Error> {
        plan.run_f64(inputs, outputs, pool)
    }

    fn run_wide(
        plan: &Plan,
        inputs: &Inputs<'_, f64, f64>,
        outputs: Outputs<'_, f64, f64>,
        _: &mut Arena,
        pool: &Pool,
    ) -> Result<(), Error> {
        plan.run_f64(inputs, outputs, pool)
    }
}
