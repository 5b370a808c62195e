//! Attention against its definition, on every instruction set of this CPU.
#![forbid(unsafe_code)]

mod backward;
mod cache;
mod determinism;
mod double;
mod errors;
mod forward;
mod memory;
mod odd_numbers;
mod paged;
mod pool;
mod scores;
mod state;
mod support;
