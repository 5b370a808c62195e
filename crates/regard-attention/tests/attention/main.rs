//! Attention against its definition, on every instruction set of this CPU.
#![forbid(unsafe_code)]

mod cache;
mod determinism;
mod errors;
mod forward;
mod memory;
mod odd_numbers;
mod state;
mod support;
