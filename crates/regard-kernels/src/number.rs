//! The number types that tensors are stored in.

use half::{bf16, f16};
use regard_memory::{Rows, RowsMut};
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

/// Rows of any number type: a kernel that tells the types apart row by row is compiled once for all of them.
#[derive(Clone, Copy)]
pub enum NumberRows<'a> {
    F32(Rows<'a, f32>),
    Bf16(Rows<'a, bf16>),
    F16(Rows<'a, f16>),
}

/// [`NumberRows`] that are written.
pub enum NumberRowsMut<'a> {
    F32(RowsMut<'a, f32>),
    Bf16(RowsMut<'a, bf16>),
    F16(RowsMut<'a, f16>),
}

impl<'a> NumberRows<'a> {
    pub(crate) fn rows(&self) -> usize {
        match self {
            NumberRows::F32(rows) => rows.rows(),
            NumberRows::Bf16(rows) => rows.rows(),
            NumberRows::F16(rows) => rows.rows(),
        }
    }

    pub(crate) fn as_f32(&self) -> Option<Rows<'a, f32>> {
        if let NumberRows::F32(rows) = self { Some(*rows) } else { None }
    }
}

impl<'a> NumberRowsMut<'a> {
    pub(crate) fn as_f32_mut(&mut self) -> Option<&mut RowsMut<'a, f32>> {
        if let NumberRowsMut::F32(rows) = self { Some(rows) } else { None }
    }
}

mod sealed {
    use super::*;

    pub trait Sealed: Sized {
        fn rows(rows: Rows<'_, Self>) -> NumberRows<'_>;
        fn rows_mut(rows: RowsMut<'_, Self>) -> NumberRowsMut<'_>;
    }

    macro_rules! sealed {
        ($($number:ty: $name:ident),*) => {$(
            impl Sealed for $number {
                fn rows(rows: Rows<'_, Self>) -> NumberRows<'_> {
                    NumberRows::$name(rows)
                }
                fn rows_mut(rows: RowsMut<'_, Self>) -> NumberRowsMut<'_> {
                    NumberRowsMut::$name(rows)
                }
            }
        )*};
    }

    sealed!(f32: F32, bf16: Bf16, f16: F16);
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
