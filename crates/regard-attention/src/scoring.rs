//! What the scores of a sequence and key/value head go through between the product and the softmax.

use std::ops::Range;

use regard_kernels::{
    Adjustment, Bias, DropoutRow, Ending, Error, Kernels, KeyNumbers, KeyPlaces, Operand, PANEL, ROWS, RowAdjustment,
    ScoreTile,
};

use crate::plan::Unit;
use crate::{Dropout, Plan, Terms};

/// The scoring of one unit. Rows are those of the unit: (query, head of the group), the head running fastest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scoring<'a> {
    pub adjustment: Option<Adjustment>,
    /// What a score is multiplied by to become an exponent of 2.
    pub factor: f32,
    dropout: Option<Dropout>,
    terms: Terms<'a>,
    batch: usize,
    first_head: usize,
    group: usize,
    /// Where the unit's queries begin in the bias, and its keys begin and end.
    first_query: usize,
    keys: (usize, usize),
    offset: i64,
    sequence_id: u64,
}

/// The keys of some columns.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Keys<'a> {
    /// One after the other, from this one on.
    From(usize),
    /// These, at most a panel.
    Gathered(&'a [u32]),
}

impl<'a> Scoring<'a> {
    pub(crate) fn new(plan: &Plan, terms: Terms<'a>, unit: Unit, factor: f32) -> Scoring<'a> {
        let sequence = &plan.sequences[unit.sequence];
        let group = plan.shape.group();
        Scoring {
            adjustment: plan.adjustment(terms.bias.is_some() || terms.slopes.is_some()),
            factor,
            dropout: plan.options.dropout.filter(|dropout| dropout.probability > 0.0),
            terms,
            batch: sequence.batch,
            first_head: unit.head * group,
            group,
            first_query: sequence.queries.start,
            keys: (sequence.keys.start, sequence.keys.end),
            offset: sequence.offset,
            sequence_id: terms.sequence_ids.map_or(unit.sequence as u64, |ids| ids[unit.sequence]),
        }
    }

    /// The row of the bias that row `r` reads: a number for each key of the tensor, or one for all.
    fn bias_row(&self, r: usize) -> Option<&'a [f32]> {
        let bias = self.terms.bias?;
        let [batch, heads, queries, _] = bias.shape();
        let of = |extent: usize, index: usize| if extent == 1 { 0 } else { index };
        let (i, head) = (self.first_query + r / self.group, self.first_head + r % self.group);
        Some(bias.rows(of(batch, self.batch), of(heads, head)).row(of(queries, i)))
    }

    /// The bias of row `r` for the keys of the sequence.
    fn bias(&self, r: usize) -> Bias<'a> {
        match self.bias_row(r) {
            None => Bias::None,
            Some(&[one]) if self.terms.bias.is_some_and(|bias| bias.shape()[3] == 1) => Bias::Same(one),
            Some(row) => Bias::Each(&row[self.keys.0..self.keys.1]),
        }
    }

    /// What is added to the scores of the rows `rows`, from a key on; None where nothing is.
    pub(crate) fn rows(&self, rows: Range<usize>, first_key: usize) -> Option<[RowAdjustment<'a>; ROWS]> {
        (self.terms.bias.is_some() || self.terms.slopes.is_some()).then(|| {
            let mut each = [RowAdjustment::default(); ROWS];
            each.iter_mut().zip(rows).for_each(|(each, r)| *each = self.row(r, first_key));
            each
        })
    }

    fn row(&self, r: usize, first_key: usize) -> RowAdjustment<'a> {
        let bias = match self.bias(r) {
            Bias::Each(row) => Bias::Each(&row[first_key.min(row.len())..]),
            other => other,
        };
        let slope = self.terms.slopes.map_or(0.0, |slopes| slopes[self.first_head + r % self.group]);
        // In integers first: the difference is small where the positions are not.
        let distance = ((r / self.group) as i64).saturating_add(self.offset).saturating_sub(first_key as i64);
        RowAdjustment { bias, slope, distance: distance as f32 }
    }

    /// Adjusts the scores of some columns of the rows `rows`, if there is anything to adjust.
    pub(crate) fn adjust(
        &self,
        kernels: Kernels,
        rows: Range<usize>,
        keys: Keys<'_>,
        live: Option<&[u64]>,
        columns: (usize, usize),
        tile: &mut ScoreTile<'_>,
    ) -> Result<(), Error> {
        let Some(adjustment) = self.adjustment else { return Ok(()) };
        let count = rows.len();
        let mut each = [RowAdjustment::default(); ROWS];
        match keys {
            Keys::From(first) => {
                each.iter_mut().zip(rows).for_each(|(each, r)| *each = self.row(r, first));
                kernels.adjust(adjustment, &each[..count], KeyPlaces::Consecutive, live, columns, tile)
            }
            Keys::Gathered(list) => {
                let (mut places, mut bias) = ([0.0; PANEL], [[0.0; PANEL]; ROWS]);
                for ((each, r), bias) in each.iter_mut().zip(rows).zip(&mut bias) {
                    (*each, _) = self.listed(r, list, &mut places, bias);
                }
                kernels.adjust(adjustment, &each[..count], KeyPlaces::Gathered(&places), live, columns, tile)
            }
        }
    }

    /// What is added to the scores of row `r` with some listed keys, and where these stand, in buffers that hold as many.
    pub(crate) fn listed<'p, 't>(
        &self,
        r: usize,
        list: &[u32],
        places: &'p mut [f32],
        bias: &'t mut [f32],
    ) -> (RowAdjustment<'t>, &'p [f32])
    where
        'a: 't,
    {
        let first = list.first().map_or(0, |&key| key as usize);
        let (places, bias) = (&mut places[..list.len()], &mut bias[..list.len()]);
        places.iter_mut().zip(list).for_each(|(place, &key)| *place = (key as usize - first) as f32);
        let row = self.row(r, first);
        let of_keys = match self.bias(r) {
            Bias::Each(row) => {
                bias.iter_mut().zip(list).for_each(|(bias, &key)| *bias = row[key as usize]);
                Bias::Each(bias)
            }
            other => other,
        };
        (RowAdjustment { bias: of_keys, slope: row.slope, distance: row.distance }, places)
    }

    /// Whether a bias of −∞ masks a key from row `r`.
    pub(crate) fn masks(&self, r: usize) -> impl Fn(usize) -> bool + use<'a> {
        let bias = self.bias(r);
        move |key| match bias {
            Bias::None => false,
            Bias::Same(bias) => bias == f32::NEG_INFINITY,
            Bias::Each(row) => row[key] == f32::NEG_INFINITY,
        }
    }

    /// Whether anything is added to scores.
    pub(crate) fn adds(&self) -> bool {
        self.terms.bias.is_some() || self.terms.slopes.is_some()
    }

    /// Whether a bias may mask what the layout keeps.
    pub(crate) fn may_mask(&self) -> bool {
        self.terms.bias.is_some()
    }

    /// The bits of a panel's keys that row `r` keeps and no bias of −∞ masks.
    pub(crate) fn kept(&self, r: usize, keys: Keys<'_>, bits: u64) -> u64 {
        let masks = self.masks(r);
        let masked = |at: usize| match keys {
            Keys::From(first) => masks(first + at),
            Keys::Gathered(list) => masks(list[at] as usize),
        };
        (0..PANEL).filter(|&at| bits >> at & 1 == 1 && !masked(at)).fold(0, |kept, at| kept | 1 << at)
    }

    /// Which weights of row `r` fall.
    pub(crate) fn dropout(&self, r: usize) -> Option<DropoutRow> {
        let Dropout { probability, seed } = self.dropout?;
        let (query, head) = (r / self.group, self.first_head + r % self.group);
        Some(DropoutRow::new(seed, self.sequence_id, head as u64, query as u64, probability))
    }

    /// [`Scoring::dropout`] of the rows of a tile.
    pub(crate) fn dropout_rows(&self, rows: Range<usize>) -> Option<[DropoutRow; ROWS]> {
        self.dropout?;
        let mut each = [DropoutRow::new(0, 0, 0, 0, 0.0); ROWS];
        for (each, r) in each.iter_mut().zip(rows) {
            *each = self.dropout(r)?;
        }
        Some(each)
    }

    /// Lets weights of the rows `rows` fall in some columns, if there is dropout.
    pub(crate) fn drop_weights<E: Operand>(
        &self,
        kernels: Kernels,
        rows: Range<usize>,
        keys: Keys<'_>,
        columns: (usize, usize),
        tile: &mut ScoreTile<'_>,
    ) -> Result<(), Error> {
        let count = rows.len();
        let Some(each) = self.dropout_rows(rows) else { return Ok(()) };
        let numbers = match keys {
            Keys::From(first) => KeyNumbers::From(first as u32),
            Keys::Gathered(list) => KeyNumbers::Gathered(list),
        };
        kernels.drop_weights::<E>(&each[..count], numbers, columns, tile)
    }

    /// How row `r` ends; of a split, which is no whole row, without its sink.
    pub(crate) fn ending(&self, r: usize, whole: bool) -> Ending {
        let sink = if whole { self.sink(r) } else { f32::NEG_INFINITY };
        Ending { sink, gain: self.gain() }
    }

    /// What makes up for the weights that fall.
    pub(crate) fn gain(&self) -> f32 {
        self.dropout.map_or(1.0, |dropout| 1.0 / (1.0 - dropout.probability))
    }

    /// The sink of row `r`, −∞ for none.
    pub(crate) fn sink(&self, r: usize) -> f32 {
        self.terms.sinks.map_or(f32::NEG_INFINITY, |sinks| sinks[self.first_head + r % self.group])
    }
}
