//! The number types that tensors are stored in.

use half::{bf16, f16};
use regard_simd::Simd;

/// A stored number: f32, bf16 or f16. Arithmetic on it is done in f32.
pub trait Number: Copy + Default + Send + Sync + std::fmt::Debug + 'static + sealed::Sealed {
    /// Its name, as messages and tables show it.
    const NAME: &'static str;

    /// The same number in f32.
    fn to_f32(self) -> f32;
    /// The nearest number of this type.
    fn from_f32(x: f32) -> Self;
    /// Loads and widens `LANES` numbers.
    ///
    /// # Safety
    /// `p` must be readable for `LANES` numbers.
    unsafe fn load<S: Simd>(s: S, p: *const Self) -> S::F32;
    /// Rounds and stores `LANES` numbers.
    ///
    /// # Safety
    /// `p` must be writable for `LANES` numbers.
    unsafe fn store<S: Simd>(s: S, p: *mut Self, x: S::F32);
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::bf16 {}
    impl Sealed for half::f16 {}
}

impl Number for f32 {
    const NAME: &'static str = "f32";

    fn to_f32(self) -> f32 {
        self
    }
    fn from_f32(x: f32) -> Self {
        x
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const Self) -> S::F32 {
        // SAFETY: the caller's.
        unsafe { s.load(p) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, p: *mut Self, x: S::F32) {
        // SAFETY: the caller's.
        unsafe { s.store(p, x) }
    }
}

impl Number for bf16 {
    const NAME: &'static str = "bf16";

    fn to_f32(self) -> f32 {
        bf16::to_f32(self)
    }
    fn from_f32(x: f32) -> Self {
        bf16::from_f32(x)
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const Self) -> S::F32 {
        // SAFETY: the caller's; a bf16 is its 16 bits.
        unsafe { s.load_bf16(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, p: *mut Self, x: S::F32) {
        // SAFETY: the caller's; a bf16 is its 16 bits.
        unsafe { s.store_bf16(p.cast(), x) }
    }
}

impl Number for f16 {
    const NAME: &'static str = "f16";

    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }
    fn from_f32(x: f32) -> Self {
        f16::from_f32(x)
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const Self) -> S::F32 {
        // SAFETY: the caller's; an f16 is its 16 bits.
        unsafe { s.load_f16(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, p: *mut Self, x: S::F32) {
        // SAFETY: the caller's; an f16 is its 16 bits.
        unsafe { s.store_f16(p.cast(), x) }
    }
}
