//! What the scores of a list of keys go through, in scratch of one worker.

use regard_kernels::{COLUMNS, RowAdjustment, ScoreTile};
use regard_memory::{Frame, Need};

use super::MOST;
use crate::scoring::Scoring;

/// Scratch for one list of up to [`MOST`] keys.
pub(super) struct Listed<'a> {
    /// Keys that no bias masks, and the place of each in the list.
    keys: &'a mut [u32],
    kept: &'a mut [u32],
    places: &'a mut [f32],
    bias: &'a mut [f32],
}

impl<'a> Listed<'a> {
    pub(super) fn need() -> Need {
        Need::of::<u32>(MOST).times(2).and(Need::of::<f32>(MOST).times(2))
    }

    pub(super) fn take(frame: &mut Frame<'a>) -> Listed<'a> {
        Listed { keys: frame.take(MOST), kept: frame.take(MOST), places: frame.take(MOST), bias: frame.take(MOST) }
    }

    /// The keys of a list that row `r` sees: those that no bias of −∞ masks. Of these `kept` then has the places.
    pub(super) fn seen<'t>(&'t mut self, scoring: &Scoring<'_>, r: usize, list: &'t [u32]) -> Seen<'t> {
        let Listed { keys, kept, places, bias } = self;
        if !scoring.may_mask() {
            return Seen { keys: list, kept: None, places, bias };
        }
        let (masks, mut count) = (scoring.masks(r), 0);
        for (place, &key) in list.iter().enumerate() {
            if !masks(key as usize) {
                (keys[count], kept[count]) = (key, place as u32);
                count += 1;
            }
        }
        Seen { keys: &keys[..count], kept: Some(&kept[..count]), places, bias }
    }
}

/// The keys of a list that a row sees.
pub(super) struct Seen<'t> {
    pub keys: &'t [u32],
    /// Their places in the list, unless they are all of it.
    pub kept: Option<&'t [u32]>,
    places: &'t mut [f32],
    bias: &'t mut [f32],
}

impl<'t> Seen<'t> {
    /// What is added to the scores of row `r`, and where the keys stand.
    pub(super) fn adjustment(&mut self, scoring: &Scoring<'t>, r: usize) -> (RowAdjustment<'_>, &[f32]) {
        scoring.listed(r, self.keys, self.places, self.bias)
    }
}

/// Words of a tile that holds a list.
pub(super) const TILE: usize = ScoreTile::words(MOST);

/// A row's length in whole vectors.
pub(super) fn width(dim: usize) -> usize {
    dim.checked_next_multiple_of(COLUMNS).unwrap_or(usize::MAX)
}
