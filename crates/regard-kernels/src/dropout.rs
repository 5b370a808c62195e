//! Dropout of softmax weights and of activations, keyed by a counter: the same number falls in the forward and in the
//! backward pass.

use regard_simd::{Kernel, Simd};

use crate::{Error, Kernels, Operand, PANEL, ROWS, ScoreTile};

/// Which weights of one query row fall. A weight is known by (seed, sequence, head, query) and its key.
///
/// ```
/// use regard_kernels::DropoutRow;
///
/// let row = DropoutRow::new(42, 7, 0, 3, 0.25);
/// assert_eq!(row.keeps(1000), DropoutRow::new(42, 7, 0, 3, 0.25).keeps(1000));
/// let kept = (0..10_000).filter(|&key| row.keeps(key)).count();
/// assert!((7_300..7_700).contains(&kept));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropoutRow {
    key: [u32; 2],
    /// Numbers below this fall.
    threshold: u32,
}

impl DropoutRow {
    /// The row of a query, of which each weight falls with this probability (0 to 1, in steps of 2⁻³²).
    pub fn new(seed: u64, sequence: u64, head: u64, query: u64, probability: f32) -> DropoutRow {
        let key = [sequence, head, query].into_iter().fold(mix_64(seed), |key, word| mix_64(key ^ mix_64(word)));
        // Saturates at 1.
        let threshold = (f64::from(probability) * 4_294_967_296.0) as u32;
        DropoutRow { key: [key as u32, (key >> 32) as u32], threshold }
    }

    /// Whether the weight of a key stays.
    #[inline(always)]
    pub fn keeps(self, key: u32) -> bool {
        let [a, b] = self.key;
        mix_32(mix_32(key ^ a).wrapping_add(b)) >= self.threshold
    }

    /// What makes up for those that fall: 1 / (1 − probability).
    fn gain(self) -> f32 {
        const ALL: f64 = 4_294_967_296.0;
        (ALL / (ALL - f64::from(self.threshold))) as f32
    }
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood: _Fast Splittable Pseudorandom Number Generators_, 2014), from a step on.
fn mix_64(x: u64) -> u64 {
    let x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ x >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ x >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ x >> 31
}

/// A hash of 32 bits, each of which depends on each with little bias (`lowbias32` of Wellons, 2018).
#[inline(always)]
fn mix_32(x: u32) -> u32 {
    let x = (x ^ x >> 16).wrapping_mul(0x21F0_AAAD);
    let x = (x ^ x >> 15).wrapping_mul(0x735A_2D97);
    x ^ x >> 15
}

/// The keys of some columns of a tile.
#[derive(Clone, Copy, Debug)]
pub enum KeyNumbers<'a> {
    /// One after the other, from this one on.
    From(u32),
    /// These.
    Gathered(&'a [u32]),
}

impl KeyNumbers<'_> {
    /// How many keys are numbered.
    pub(crate) fn len(&self) -> usize {
        match self {
            KeyNumbers::From(_) => usize::MAX,
            KeyNumbers::Gathered(keys) => keys.len(),
        }
    }

    #[inline(always)]
    fn at(&self, column: usize) -> u32 {
        match self {
            KeyNumbers::From(first) => first.wrapping_add(column as u32),
            KeyNumbers::Gathered(keys) => keys[column],
        }
    }
}

impl Kernels {
    /// Lets softmax weights fall to 0 in the tile's columns `at..at + keys`. The sum that they are divided by is not
    /// touched; what is left is to be divided by 1 − probability ([`Ending::gain`](crate::Ending)).
    ///
    /// # Errors
    /// The tile has no such columns, too few keys are named, or there are too many rows.
    pub fn drop_weights<E: Operand>(
        self,
        rows: &[DropoutRow],
        numbers: KeyNumbers<'_>,
        (at, keys): (usize, usize),
        tile: &mut ScoreTile<'_>,
    ) -> Result<(), Error> {
        if !(1..=ROWS).contains(&rows.len()) {
            return Err(Error::Size { name: "rows", has: rows.len(), expected: "between 1 and 6" });
        }
        Error::check_length("tile columns", tile.columns(), at.saturating_add(keys))?;
        if let KeyNumbers::Gathered(list) = numbers {
            Error::check_length("key numbers", list.len(), keys)?;
        }
        for (r, row) in rows.iter().enumerate() {
            let weights = tile.weights_mut::<E>(r);
            for first in (0..keys).step_by(PANEL) {
                let count = PANEL.min(keys - first);
                let kept = self.isa().run(Keeps { row: *row, numbers, first, count });
                let mut fallen = !kept & (u64::MAX >> (PANEL - count));
                while fallen != 0 {
                    E::put(weights, at + first + fallen.trailing_zeros() as usize, 0.0);
                    fallen &= fallen - 1;
                }
            }
        }
        Ok(())
    }
}

impl Kernels {
    /// Lets numbers of a row of activations fall to 0, and divides the others by 1 − probability; number `i` of the row is
    /// the key `i`. Its gradient is the same call on the row's gradient.
    ///
    /// ```
    /// use regard_kernels::{DropoutRow, Kernels};
    /// use regard_simd::Isa;
    ///
    /// let (row, mut x) = (DropoutRow::new(42, 0, 0, 0, 0.5), [3.0; 100]);
    /// Kernels::new(Isa::best()).drop_row(row, &mut x);
    /// assert!(x.iter().enumerate().all(|(i, &x)| x == if row.keeps(i as u32) { 6.0 } else { 0.0 }));
    /// ```
    pub fn drop_row(self, row: DropoutRow, x: &mut [f32]) {
        self.isa().run(DropRow { row, x });
    }
}

struct DropRow<'a> {
    row: DropoutRow,
    x: &'a mut [f32],
}

impl Kernel for DropRow<'_> {
    type Output = ();
    /// A plain loop: it is compiled for each instruction set, and vectorises.
    #[inline(always)]
    fn run<S: Simd>(self, _s: S) {
        let gain = self.row.gain();
        for (i, x) in self.x.iter_mut().enumerate() {
            *x = if self.row.keeps(i as u32) { *x * gain } else { 0.0 };
        }
    }
}

/// The bits of up to 64 keys.
pub(crate) struct Keeps<'a> {
    pub(crate) row: DropoutRow,
    pub(crate) numbers: KeyNumbers<'a>,
    pub(crate) first: usize,
    pub(crate) count: usize,
}

impl Kernel for Keeps<'_> {
    type Output = u64;
    #[inline(always)]
    fn run<S: Simd>(self, _s: S) -> u64 {
        let mut kept = [0u8; PANEL];
        // Whole panels, so that the compiler makes vectors of it.
        if self.count == PANEL {
            for (column, kept) in kept.iter_mut().enumerate() {
                *kept = u8::from(self.row.keeps(self.numbers.at(self.first + column)));
            }
        } else {
            for (column, kept) in kept.iter_mut().enumerate().take(self.count) {
                *kept = u8::from(self.row.keeps(self.numbers.at(self.first + column)));
            }
        }
        kept.iter().enumerate().fold(0, |bits, (at, &kept)| bits | u64::from(kept) << at)
    }
}
