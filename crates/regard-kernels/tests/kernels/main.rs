//! The kernels, on every instruction set that this CPU has, against their definitions in f64.

mod activation;
mod backward;
mod dense;
mod determinism;
mod errors;
mod exact;
mod int8;
mod layouts;
mod listed;
mod norm;
mod odd_numbers;
mod packing;
mod problem;
mod products;
mod quantized;
mod rotary;
mod small;
mod sums;
mod support;
mod tiles;
mod trial;
