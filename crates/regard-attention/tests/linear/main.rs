//! Linear attention against its definition, token by token in f64, on every instruction set of this CPU.
#![forbid(unsafe_code)]

mod calls;
mod double;
mod exact;
mod favor;
mod support;
