//! What one core can do to one tile: the arithmetic of attention and of transformer layers.
//!
//! [`Kernels`] stands for one instruction set; its methods are the kernels. Each body is written once, generic over
//! [`regard_simd::Simd`], and is reached through a method that checks its slices: nothing above this crate is unsafe
//! or generic over the instruction set.

mod activation;
mod activation_backward;
mod adjust;
mod backward;
mod compiled;
mod dense;
mod dropout;
mod each;
mod embedding;
mod error;
mod features;
mod int8;
mod kept;
mod linear;
mod listed;
mod logistic;
mod loss;
mod norm;
mod norm_backward;
mod number;
mod operand;
mod optimiser;
mod pack;
pub mod peak;
mod product;
mod rotary;
mod rows;
mod scale;
mod small;
mod sums;
mod tile;
mod transpose;
pub mod trial;

use regard_simd::Isa;

pub use activation::Activation;
pub use adjust::{Adjustment, Bias, KeyPlaces, RowAdjustment};
pub use backward::{Dropout, GradientRows, KeyPanels, Pairs, Region, Transposable, Weighing};
pub use dense::{Band, Before, Left};
pub use dropout::{DropoutRow, KeyNumbers};
pub use error::Error;
pub use linear::{
    ActivationBlock, ActivationKind, Activations, Epilogue, QuantizedRows, Weight, WeightFormat, WeightPart,
    WeightParts,
};
pub use number::Number;
pub use operand::{Bf16, F16, F32, Int8, Operand};
pub use optimiser::AdamW;
pub use pack::Ending;
pub use rotary::{Rotary, RotaryOrder, RotaryScaling};
pub use rows::Scaling;
pub use small::SmallHead;
pub use tile::{COLUMNS, RowState, ScoreTile, Stretch};

/// Keys, or output features, side by side in a packed panel, on every instruction set.
pub const PANEL: usize = 64;

/// Rows of a register tile, on every instruction set.
pub const ROWS: usize = 6;

/// The kernels of one instruction set.
///
/// ```
/// use regard_kernels::Kernels;
/// use regard_simd::Isa;
///
/// let kernels = Kernels::new(Isa::best());
/// println!("{}", kernels.isa());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernels {
    isa: Isa,
}

impl Kernels {
    /// The kernels that run on `isa`.
    pub fn new(isa: Isa) -> Kernels {
        Kernels { isa }
    }

    /// The instruction set.
    pub fn isa(self) -> Isa {
        self.isa
    }
}
