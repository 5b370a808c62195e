//! What becomes of a score between the product and the softmax: scale, softcap, bias, distance, mask.

use regard_simd::{Kernel, Simd, math};

use crate::{COLUMNS, Error, Kernels, PANEL, ROWS, ScoreTile};

/// What all scores of a call go through: `x = scale·s`, then `cap·tanh(x / cap)` where there is a cap.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adjustment {
    /// What the product of a query and a key is multiplied by.
    pub scale: f32,
    /// Scores are bent into `(−cap, cap)`; positive and finite.
    pub softcap: Option<f32>,
}

/// What the scores of one query row get added: `+ bias − slope·|distance|`.
#[derive(Clone, Copy, Debug, Default)]
pub struct RowAdjustment<'a> {
    /// The additive bias; −∞ is the same as masked.
    pub bias: Bias<'a>,
    /// How much a score falls with each position between query and key (ALiBi).
    pub slope: f32,
    /// How many positions the query stands behind the first key of the panels; negative where it stands before it.
    pub distance: f32,
}

/// The bias of one query row.
#[derive(Clone, Copy, Debug, Default)]
pub enum Bias<'a> {
    /// None.
    #[default]
    None,
    /// One number for all keys.
    Same(f32),
    /// A number for each key; keys behind the last one are masked.
    Each(&'a [f32]),
}

/// Where the keys of some columns stand.
#[derive(Clone, Copy, Debug)]
pub enum KeyPlaces<'a> {
    /// One after the other.
    Consecutive,
    /// So many positions behind the first one, for each key.
    Gathered(&'a [f32]),
}

impl Kernels {
    /// Adjusts the tile's scores in the columns `at..at + keys`, one row for each of `rows`, and takes their maxima. The
    /// tile's maxima were forgotten before ([`ScoreTile::forget_maxima`]).
    ///
    /// - `live`: with one panel only, the bits of the keys that each row keeps; the others stay −∞.
    ///
    /// # Errors
    /// The tile has no such columns, `at` is no multiple of 16, a slice is too short, or there are too many rows.
    #[allow(clippy::too_many_arguments, reason = "what is adjusted, and each step of how")]
    pub fn adjust(
        self,
        adjustment: Adjustment,
        rows: &[RowAdjustment<'_>],
        places: KeyPlaces<'_>,
        live: Option<&[u64]>,
        (at, keys): (usize, usize),
        tile: &mut ScoreTile<'_>,
    ) -> Result<(), Error> {
        if !(1..=ROWS).contains(&rows.len()) {
            return Err(Error::Size { name: "rows", has: rows.len(), expected: "between 1 and 6" });
        }
        Error::check_length("tile columns", tile.columns(), at.saturating_add(keys))?;
        if !at.is_multiple_of(COLUMNS) {
            return Err(Error::Size { name: "first column", has: at, expected: "a multiple of 16" });
        }
        if let KeyPlaces::Gathered(places) = places {
            Error::check_length("key places", places.len(), keys)?;
        }
        let mut bits = [u64::MAX; ROWS];
        if let Some(live) = live {
            Error::check_length("live bits", live.len(), rows.len())?;
            if keys > PANEL {
                return Err(Error::Size { name: "keys with live bits", has: keys, expected: "at most 64" });
            }
            bits[..rows.len()].copy_from_slice(&live[..rows.len()]);
        }
        self.isa().run(Adjust { adjustment, rows, places, bits, masked: live.is_some(), at, keys, tile });
        Ok(())
    }
}

struct Adjust<'t, 'a> {
    adjustment: Adjustment,
    rows: &'t [RowAdjustment<'t>],
    places: KeyPlaces<'t>,
    bits: [u64; ROWS],
    masked: bool,
    at: usize,
    keys: usize,
    tile: &'t mut ScoreTile<'a>,
}

impl Kernel for Adjust<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Adjust { adjustment, rows, places, bits, masked, at, keys, tile } = self;
        let adjuster = Adjuster::new(s, adjustment);
        for (r, row) in rows.iter().enumerate() {
            let adder = Adder::new(s, row, places);
            let (scores, maxima) = tile.row_mut(r);
            let scores = &mut scores[at..];
            let running = maxima.as_mut_ptr();
            // SAFETY: a row of COLUMNS maxima, a multiple of LANES.
            let mut max = unsafe { s.load(running) };
            for column in (0..keys).step_by(S::LANES) {
                let bits = if masked { bits[r] >> (column % PANEL) } else { u64::MAX };
                let bits = bits & live_of_tail(keys - column);
                let scores = scores[column..][..S::LANES].as_mut_ptr();
                // SAFETY: columns are allotted in multiples of 16, and `at` is one.
                unsafe {
                    let (x, _) = adjuster.bend(s, s.load(scores));
                    let x = adder.add(s, x, column, bits as u32);
                    // The running maximum stands second: it survives a NaN, which the weights will show.
                    max = s.max(x, max);
                    s.store(scores, x);
                }
            }
            // SAFETY: as above.
            unsafe { s.store(running, max) };
        }
    }
}

/// The low bits of as many keys as are left.
#[inline(always)]
fn live_of_tail(left: usize) -> u64 {
    if left < PANEL { (1 << left) - 1 } else { u64::MAX }
}

/// [`Adjustment`] in vectors.
#[derive(Clone, Copy)]
pub(crate) struct Adjuster<S: Simd> {
    scale: S::F32,
    /// The cap and its reciprocal.
    cap: Option<(S::F32, S::F32)>,
}

impl<S: Simd> Adjuster<S> {
    #[inline(always)]
    pub(crate) fn new(s: S, adjustment: Adjustment) -> Self {
        let cap = adjustment.softcap.map(|cap| (s.splat(cap), s.splat(1.0 / cap)));
        Adjuster { scale: s.splat(adjustment.scale), cap }
    }

    /// The capped score, and its derivative by the score before the cap, `1 − tanh²`.
    #[inline(always)]
    pub(crate) fn bend(&self, s: S, score: S::F32) -> (S::F32, S::F32) {
        let x = s.mul(score, self.scale);
        let Some((cap, reciprocal)) = self.cap else { return (x, s.splat(1.0)) };
        let bent = math::tanh(s, s.mul(x, reciprocal));
        (s.mul(cap, bent), s.sub(s.splat(1.0), s.mul(bent, bent)))
    }
}

/// [`RowAdjustment`] in vectors.
#[derive(Clone, Copy)]
pub(crate) struct Adder<'a, S: Simd> {
    bias: Bias<'a>,
    places: KeyPlaces<'a>,
    slope: f32,
    slopes: S::F32,
    distance: f32,
    /// 0, 1, 2 …
    ramp: S::F32,
}

impl<'a, S: Simd> Adder<'a, S> {
    #[inline(always)]
    pub(crate) fn new(s: S, row: &RowAdjustment<'a>, places: KeyPlaces<'a>) -> Self {
        let ramp: [f32; COLUMNS] = std::array::from_fn(|lane| lane as f32);
        // SAFETY: LANES is at most COLUMNS.
        let ramp = unsafe { s.load(ramp.as_ptr()) };
        let RowAdjustment { bias, slope, distance } = *row;
        Adder { bias, places, slope, slopes: s.splat(-slope), distance, ramp }
    }

    /// `x + bias − slope·|distance|` for the columns from `column` on; −∞ where the bits, or a bias of −∞, say so.
    #[inline(always)]
    pub(crate) fn add(&self, s: S, x: S::F32, column: usize, bits: u32) -> S::F32 {
        let nothing = s.splat(f32::NEG_INFINITY);
        let mut x = x;
        match self.bias {
            Bias::None => {}
            Bias::Same(bias) => {
                x = s.add(x, s.splat(bias));
                if bias == f32::NEG_INFINITY {
                    return nothing;
                }
            }
            Bias::Each(each) => {
                let bias = load_tail(s, each, column, f32::NEG_INFINITY);
                x = s.add(x, bias);
                // Whatever the score was, NaN too: it is masked. A bias of NaN is not, and stays.
                let masked = s.lt(bias, s.splat(-f32::MAX));
                x = s.select(masked, nothing, x);
            }
        }
        if self.slope != 0.0 {
            let behind = match self.places {
                KeyPlaces::Consecutive => s.add(s.splat(column as f32), self.ramp),
                KeyPlaces::Gathered(places) => load_tail(s, places, column, 0.0),
            };
            let distance = s.abs(s.sub(s.splat(self.distance), behind));
            x = s.fma(self.slopes, distance, x);
        }
        s.select(s.mask_from_bits(bits), x, nothing)
    }
}

/// `LANES` numbers from `at` on, of which some may be behind the end.
#[inline(always)]
fn load_tail<S: Simd>(s: S, from: &[f32], at: usize, behind: f32) -> S::F32 {
    if from.len() >= at + S::LANES {
        // SAFETY: so many are there.
        return unsafe { s.load(from[at..].as_ptr()) };
    }
    let mut some = [behind; COLUMNS];
    let left = &from[at.min(from.len())..];
    some[..left.len()].copy_from_slice(left);
    // SAFETY: LANES is at most COLUMNS.
    unsafe { s.load(some.as_ptr()) }
}
