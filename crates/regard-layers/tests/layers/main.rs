//! Layers held against what is not theirs: PyTorch, references in f64, and central differences of these.
#![forbid(unsafe_code)]

mod decay;
mod errors;
mod every;
mod flash;
mod golden;
mod language;
mod linear_attention;
mod local_global;
mod multi_head;
mod precision;
mod properties;
mod shared_context;
mod state_space;
mod store;
mod support;
mod tabpfn;
mod tokens;
mod training;
mod weights;
