//! What computing with a layout costs, in pairs.

use crate::tile::COLUMNS;
use crate::{BlockLayout, PANEL, Span};

/// Pairs of an engine row and a key: how many a mask keeps, and how many kernels compute for them. All heads of a group
/// count.
///
/// ```
/// use regard_masks::{BlockLayout, Mask, TileShape};
///
/// let mut layout = BlockLayout::new();
/// layout.compile(&Mask::window(Some(511), Some(0)), 8192, 8192, 0, TileShape { rows: 6, group: 1 })?;
/// let cost = layout.cost();
/// assert_eq!(cost.live, 512 * 8192 - 511 * 512 / 2);
/// // Beside the 512 keys of a row some 20 more are computed, at both ends.
/// assert!((0.95..0.98).contains(&cost.live_share()));
/// # Ok::<(), regard_masks::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Pairs that the mask keeps.
    pub live: u64,
    /// Pairs of full panels, all of which are live.
    pub full: u64,
    /// Pairs that are computed of rim panels, live or not: those of whole stretches of 16 keys.
    pub rim: u64,
    /// Pairs of all rim panels, live or not, each as a panel of 64 keys.
    pub rims: u64,
    /// Pairs of gathered panels, live or not, each as a panel of 64 keys.
    pub gathered: u64,
}

impl Cost {
    /// Pairs that are computed.
    pub fn computed(&self) -> u64 {
        self.full.saturating_add(self.rim).saturating_add(self.gathered)
    }

    /// The share of what is computed that is live, 0 to 1; 1 where nothing is computed.
    pub fn live_share(&self) -> f64 {
        if self.computed() == 0 { 1.0 } else { self.live as f64 / self.computed() as f64 }
    }
}

impl Cost {
    /// The cost of both.
    pub fn and(self, other: Cost) -> Cost {
        Cost {
            live: self.live.saturating_add(other.live),
            full: self.full.saturating_add(other.full),
            rim: self.rim.saturating_add(other.rim),
            rims: self.rims.saturating_add(other.rims),
            gathered: self.gathered.saturating_add(other.gathered),
        }
    }

    /// The cost of so many alike.
    pub fn times(self, count: u64) -> Cost {
        let Cost { live, full, rim, rims, gathered } = self;
        let [live, full, rim, rims, gathered] =
            [live, full, rim, rims, gathered].map(|pairs| pairs.saturating_mul(count));
        Cost { live, full, rim, rims, gathered }
    }
}

impl BlockLayout {
    /// Which pairs are live, and which are computed.
    pub fn cost(&self) -> Cost {
        // A mask of all heads is counted once.
        let heads = (self.tile.group / self.masks) as u128;
        let live = u64::try_from(self.pairs.saturating_mul(heads)).unwrap_or(u64::MAX);
        let mut cost = Cost { live, ..Cost::default() };
        for t in self.tiles() {
            let rows = self.tile.rows_of(t, self.n_q).len();
            let pairs = |keys: usize| (keys as u64).saturating_mul(rows as u64);
            for span in self.tile(t) {
                let (kind, keys) = match span {
                    Span::Full(panels) => (&mut cost.full, panels.len() * PANEL),
                    Span::Rim { bits, .. } => {
                        cost.rims = cost.rims.saturating_add(pairs(PANEL));
                        (&mut cost.rim, computed_of(bits))
                    }
                };
                *kind = kind.saturating_add(pairs(keys));
            }
            cost.gathered = cost.gathered.saturating_add(pairs(self.gathered(t).len() * PANEL));
        }
        cost
    }
}

/// Keys of a rim panel that are computed for the rows with these bits.
fn computed_of(bits: &[u64]) -> usize {
    let any = bits.iter().fold(0, |any, row| any | row);
    let first = any.trailing_zeros() as usize / COLUMNS;
    let end = (PANEL - any.leading_zeros() as usize).div_ceil(COLUMNS);
    end.saturating_sub(first) * COLUMNS
}
