//! The product of two rows: `Δ` is that of a result and its gradient.

use regard_simd::{Kernel, Simd};

use crate::{Error, Kernels, Number};

impl Kernels {
    /// `Σ aᵢ·bᵢ`, in f32: as many partial sums as a vector has lanes, added up by halves.
    ///
    /// ```
    /// use regard_kernels::Kernels;
    /// use regard_simd::Isa;
    ///
    /// let (out, gradient) = ([1.0f32, 2.0, 3.0], [0.5f32, 0.0, -1.0]);
    /// assert_eq!(Kernels::new(Isa::best()).dot(&out, &gradient)?, -2.5);
    /// # Ok::<(), regard_kernels::Error>(())
    /// ```
    ///
    /// # Errors
    /// The rows are not equally long.
    pub fn dot<T: Number, U: Number>(self, a: &[T], b: &[U]) -> Result<f32, Error> {
        if a.len() != b.len() {
            return Err(Error::Length { name: "second row of a dot product", has: b.len(), expected: a.len() });
        }
        Ok(self.isa().run(Dot { a, b }))
    }
}

struct Dot<'a, T, U> {
    a: &'a [T],
    b: &'a [U],
}

impl<T: Number, U: Number> Kernel for Dot<'_, T, U> {
    type Output = f32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let (a, b) = (self.a.chunks_exact(S::LANES), self.b.chunks_exact(S::LANES));
        let rest = a.remainder().iter().zip(b.remainder());
        let rest = rest.fold(0.0, |sum, (a, b)| sum + a.to_f32() * b.to_f32());
        let mut sums = s.splat(0.0);
        for (a, b) in a.zip(b) {
            // SAFETY: both chunks hold LANES numbers.
            sums = unsafe { s.fma(T::load(s, a.as_ptr()), U::load(s, b.as_ptr()), sums) };
        }
        s.reduce_add(sums) + rest
    }
}
