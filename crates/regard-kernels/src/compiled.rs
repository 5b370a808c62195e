//! The largest kernels, compiled here, once for each operand. What is generic is compiled anew in every crate that calls it, in
//! each program and each test; these take minutes.

use regard_simd::Isa;

use crate::backward::{OverKeys, OverRows, Recompute};
use crate::small::Attend;
use crate::tile::{Accumulate, Score, Softmax};
use crate::{Bf16, F16, F32, Int8, Operand, Transposable};

/// What every operand has. Outside this crate nothing can: [`Operand`] is sealed by it.
pub trait Compiled: Sized {
    fn score(isa: Isa, kernel: Score<'_, '_, Self>)
    where
        Self: Operand;
    fn softmax(isa: Isa, kernel: Softmax<'_, '_, Self>)
    where
        Self: Operand;
    fn accumulate(isa: Isa, kernel: Accumulate<'_, '_, Self>)
    where
        Self: Operand;
}

/// What an operand has whose two sides are stored alike.
pub trait CompiledAlike: Operand {
    fn attend(isa: Isa, kernel: Attend<'_, '_, '_, Self>)
    where
        Self: Transposable;
    fn recompute(isa: Isa, kernel: Recompute<'_, '_, Self>)
    where
        Self: Transposable;
    fn over_rows(isa: Isa, kernel: OverRows<'_, '_, Self>)
    where
        Self: Transposable;
    fn over_keys(isa: Isa, kernel: OverKeys<'_, '_, Self>)
    where
        Self: Transposable;
}

/// Implements a trait by [`Operand::run`]. Inlined, the kernels would be compiled elsewhere after all.
macro_rules! compile {
    ($trait:ident for $operand:ty: $($name:ident $kernel:ident<$($lifetime:lifetime),*>),*) => {
        impl $trait for $operand {
            $(
                #[inline(never)]
                fn $name(isa: Isa, kernel: $kernel<$($lifetime,)* Self>) {
                    Self::run(isa, kernel);
                }
            )*
        }
    };
    (all $operand:ty) => {
        compile!(Compiled for $operand: score Score<'_, '_>, softmax Softmax<'_, '_>, accumulate Accumulate<'_, '_>);
    };
    (alike $operand:ty) => {
        compile!(all $operand);
        compile!(CompiledAlike for $operand: attend Attend<'_, '_, '_>, recompute Recompute<'_, '_>,
            over_rows OverRows<'_, '_>, over_keys OverKeys<'_, '_>);
    };
}

compile!(alike F32);
compile!(alike Bf16);
compile!(all F16);
compile!(all Int8);
