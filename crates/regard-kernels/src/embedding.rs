//! Embedding lookup: one row of a packed weight.

use crate::linear::{Slab, with_slab};
use crate::{Error, Kernels, PANEL, Weight};

impl Kernels {
    /// Writes row `row` of a weight to `out`: `[inputs]`, exactly as the file's format defines it.
    ///
    /// ```
    /// use regard_kernels::{Kernels, Weight, WeightFormat};
    /// use regard_simd::Isa;
    ///
    /// // One row of one block: the scale 0.5, then the codes 0 to 31.
    /// let mut bytes = half::f16::from_f32(0.5).to_le_bytes().to_vec();
    /// bytes.extend(0..32);
    /// let mut weight = Weight::zeroed(WeightFormat::Q8_0, 1, 32)?;
    /// weight.part().pack(0, &bytes)?;
    ///
    /// let mut row = [0.0; 32];
    /// Kernels::new(Isa::best()).embed(&weight, 0, &mut row)?;
    /// assert_eq!(row[3], 1.5);
    /// # Ok::<(), regard_kernels::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Size`] if there is no such row; [`Error::Length`] if `out` is too short or too long.
    pub fn embed(self, weight: &Weight, row: usize, out: &mut [f32]) -> Result<(), Error> {
        if row >= weight.outputs() {
            return Err(Error::Size { name: "embedding row", has: row, expected: "a row of the weight" });
        }
        if out.len() != weight.inputs() {
            return Err(Error::Length { name: "embedding", has: out.len(), expected: weight.inputs() });
        }
        with_slab!(weight.format(), T => {
            let depth = <T as Slab>::DEPTH;
            let panel = weight.inputs() / depth;
            let slabs = &weight.slabs::<T>()[row / PANEL * panel..][..panel];
            for (slab, out) in slabs.iter().zip(out.chunks_exact_mut(depth)) {
                Slab::get(slab, row % PANEL, out);
            }
        });
        Ok(())
    }
}
