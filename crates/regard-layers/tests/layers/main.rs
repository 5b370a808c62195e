//! Layers held against what is not theirs: PyTorch, references in f64, and central differences of these.
#![forbid(unsafe_code)]

mod golden;
mod multi_head;
mod support;
mod training;
mod weights;
