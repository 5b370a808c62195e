//! Attention against its definition, on every instruction set of this CPU.
#![forbid(unsafe_code)]

mod arrays;
mod backward;
mod batched;
mod cache;
mod cache_errors;
mod call_errors;
mod determinism;
mod double;
mod forward;
mod garbage;
mod golden;
mod memory;
mod odd_gradients;
mod odd_numbers;
mod paged;
mod paths;
mod perturbation;
mod plan_errors;
mod pool;
mod prefix;
mod regimes;
mod scores;
mod state;
mod strips;
mod support;
