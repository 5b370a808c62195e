//! The machine's vectors: which instructions this CPU has, vectors over them, and mathematics on vectors.
//!
//! An [`Isa`] is found once at run time and is the proof that its instructions exist. From it come *tokens*
//! ([`Portable`], `Avx2`, `Avx512`, …), and every token is a [`Simd`]: two dozen operations on vectors, always inlined.
//! An algorithm is written once, generic over `S: Simd`, as a [`Kernel`]; [`Isa::run`] picks the instance.
//!
//! ```
//! use regard_simd::{Isa, Kernel, Simd};
//!
//! /// The sum of a slice.
//! struct Sum<'a>(&'a [f32]);
//!
//! impl Kernel for Sum<'_> {
//!     type Output = f32;
//!     #[inline(always)]
//!     fn run<S: Simd>(self, s: S) -> f32 {
//!         let chunks = self.0.chunks_exact(S::LANES);
//!         let rest: f32 = chunks.remainder().iter().sum();
//!         // SAFETY: every chunk holds LANES floats.
//!         let sum = chunks.fold(s.splat(0.0), |sum, chunk| s.add(sum, unsafe { s.load(chunk.as_ptr()) }));
//!         s.reduce_add(sum) + rest
//!     }
//! }
//!
//! let numbers: Vec<f32> = (0..100).map(|i| i as f32).collect();
//! for isa in Isa::available() {
//!     assert_eq!(isa.run(Sum(&numbers)), 4950.0);
//! }
//! ```

mod isa;
pub mod math;
mod portable;
mod simd;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;

pub use isa::{Isa, IsaError, Kernel};
pub use portable::Portable;
pub use simd::Simd;

#[cfg(target_arch = "x86_64")]
pub use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub use avx512::{Avx512, Avx512Bf16, Avx512Vnni};
#[cfg(target_arch = "aarch64")]
pub use neon::Neon;
