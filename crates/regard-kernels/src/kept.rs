//! Products over the pairs that are kept: where the right side holds numbers that are not finite, 0·∞ would be NaN.

use regard_simd::{Kernel, Simd};

use crate::{COLUMNS, Operand};

/// `C += A·B` for one row of `A`, in which the elements of `B` that are not kept count as 0, whatever they are. With `A` 0
/// there, these are the bits of the product over all pairs. Slow, and rare.
pub(crate) struct AddKept<'t, E: Operand, Row, Kept> {
    /// Steps of the product.
    pub steps: usize,
    /// The word of step `k` is number `k·a_step`.
    pub a: &'t [E::A],
    pub a_step: usize,
    /// The row of `B` of a step.
    pub row: Row,
    /// Whether an element of the summed axis is kept.
    pub kept: Kept,
    /// A whole number of times 16.
    pub sums: &'t mut [f32],
}

impl<'b, E, Row, Kept> AddKept<'_, E, Row, Kept>
where
    E: Operand,
    Row: Fn(usize) -> &'b [E::B],
    Kept: Fn(usize) -> bool,
{
    #[inline(always)]
    pub(crate) fn add<S: Simd>(self, s: S) {
        let AddKept { steps, a, a_step, row, kept, sums } = self;
        for step in 0..steps {
            let word = &a[step * a_step];
            for (sums, b) in sums.chunks_exact_mut(S::LANES).zip(row(step).chunks(S::LANES)) {
                let mut some = [E::B::default(); COLUMNS];
                for within in (0..E::DEPTH).filter(|within| kept(step * E::DEPTH + within)) {
                    b.iter().zip(&mut some).for_each(|(&b, some)| E::move_value(b, within, within, some));
                }
                // SAFETY: a vector is of 16 words at most, and `sums` is one.
                unsafe {
                    let (a, b) = (E::spread(s, word), E::load(s, some.as_ptr()));
                    s.store(sums.as_mut_ptr(), E::multiply_add(s, s.load(sums.as_ptr()), a, b));
                }
            }
        }
    }
}

impl<'b, E, Row, Kept> Kernel for AddKept<'_, E, Row, Kept>
where
    E: Operand,
    Row: Fn(usize) -> &'b [E::B],
    Kept: Fn(usize) -> bool,
{
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        self.add(s);
    }
}
