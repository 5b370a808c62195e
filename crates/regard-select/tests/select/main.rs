//! Scores, choices and masks against their definitions; what is learned, and what is refused.

mod errors;
mod known;
mod learned;
mod naive;
mod rows;
