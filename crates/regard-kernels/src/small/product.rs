//! A whole small product, cut into register tiles.

use regard_simd::Simd;

use crate::Operand;
use crate::product::multiply_add;

/// `C = diag(factors)·A·B`, with `A [rows][steps]`, `B [steps][vectors · LANES]` and `C [rows][vectors · LANES]` in words.
pub(super) struct Product<E: Operand> {
    pub(super) rows: usize,
    pub(super) vectors: usize,
    pub(super) steps: usize,
    pub(super) a: *const E::A,
    pub(super) a_row: usize,
    pub(super) b: *const E::B,
    pub(super) b_step: usize,
    pub(super) c: *mut f32,
    pub(super) c_row: usize,
    /// Where they are, and the distance from a row's factor to the next one's: 0 where all rows share one.
    pub(super) factors: (*const f32, usize),
}

impl<E: Operand> Clone for Product<E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E: Operand> Copy for Product<E> {}

impl<E: Operand> Product<E> {
    /// Computes the product. A tile is as high as its accumulators fill the registers: two multiply-adds a cycle that take
    /// four cycles each want at least eight of them.
    ///
    /// # Safety
    /// `A`, `B` and the factors must be readable, and `C` writable.
    #[inline(always)]
    pub(super) unsafe fn compute<S: Simd>(self, s: S) {
        let mut vector = 0;
        while vector < self.vectors {
            let left = self.vectors - vector;
            // Five vectors are better three and two than four and one.
            let strips = left.div_ceil(left.div_ceil(S::STRIPS));
            let at = vector * S::LANES;
            let here = Product { b: self.b.wrapping_add(at), c: self.c.wrapping_add(at), ..self };
            // SAFETY: the strips end within the vectors.
            unsafe {
                match strips {
                    4 if S::STRIPS >= 4 => here.strips::<S, 4, 6>(s),
                    3 if S::STRIPS >= 4 => here.strips::<S, 3, 8>(s),
                    2 if S::STRIPS >= 4 => here.strips::<S, 2, 8>(s),
                    2 => here.strips::<S, 2, 6>(s),
                    _ => here.strips::<S, 1, 8>(s),
                }
            }
            vector += strips;
        }
    }

    /// The first `W` vectors, in tiles of `H` rows or, where there are not as many, of 4, 2 or 1.
    ///
    /// # Safety
    /// As [`Product::compute`].
    #[inline(always)]
    unsafe fn strips<S: Simd, const W: usize, const H: usize>(self, s: S) {
        // SAFETY: no tile is higher than the rows.
        unsafe {
            match self.rows {
                0 => {}
                1 => self.tiles::<S, W, 1>(s),
                2 | 3 => self.tiles::<S, W, 2>(s),
                rows if rows < H => self.tiles::<S, W, 4>(s),
                _ => self.tiles::<S, W, H>(s),
            }
        }
    }

    /// # Safety
    /// As [`Product::compute`], with `R` rows at least.
    #[inline(always)]
    unsafe fn tiles<S: Simd, const W: usize, const R: usize>(self, s: S) {
        let Product { rows, steps, a, a_row, b, b_step, c, c_row, factors, .. } = self;
        for row in (0..rows).step_by(R) {
            // The last tile goes over some rows of the one before again: the same numbers come out.
            let row = row.min(rows - R);
            // SAFETY: the caller's.
            unsafe {
                let (a, zero) = (a.add(row * a_row), [[s.splat(0.0); W]; R]);
                let sums = multiply_add::<S, E, R, W>(s, steps, a, (a_row, 1), b, b_step, zero);
                for (r, sums) in sums.iter().enumerate() {
                    let factor = s.splat(*factors.0.add((row + r) * factors.1));
                    for (w, &sum) in sums.iter().enumerate() {
                        // Not −0, whose sign would be that of what was multiplied by 0.
                        let product = s.add(s.mul(sum, factor), s.splat(0.0));
                        s.store(c.add((row + r) * c_row + w * S::LANES), product);
                    }
                }
            }
        }
    }
}
