//! One query under one head: the keys that it sees, and how they score.

use std::ops::Range;

use regard_kernels::{DropoutRow, PANEL, ROWS};
use regard_masks::{BlockLayout, Span};
use regard_memory::Rows;

use super::dot;
use crate::scoring::Keys;
use crate::{Inputs, Plan, Real};

/// A query of a sequence under a query head. Keys are those of the sequence, counted from its first.
pub(crate) struct Row<'a, T: Real> {
    pub query: &'a [T],
    pub keys: Rows<'a, T>,
    pub values: Rows<'a, T>,
    /// The logit that joins the denominator; −∞ for none.
    pub sink: f64,
    plan: &'a Plan,
    layout: &'a BlockLayout,
    /// The row of the layout.
    place: usize,
    position: i64,
    /// A number for each key, or one for all.
    bias: Option<&'a [T::Wide]>,
    slope: f64,
    /// Which weights fall, and what the others are multiplied by.
    dropout: Option<(DropoutRow, f64)>,
}

impl<'a, T: Real> Row<'a, T> {
    /// Query `i` of a sequence.
    pub(crate) fn new(
        plan: &'a Plan,
        inputs: &Inputs<'a, T, T::Wide>,
        (number, head, i): (usize, usize, usize),
    ) -> Row<'a, T> {
        let (sequence, group, terms) = (&plan.sequences[number], plan.shape.group(), &inputs.terms);
        let (batch, query, kv_head) = (sequence.batch, sequence.queries.start + i, head / group);
        let of_sequence = |rows: Rows<'a, T>| rows.block(sequence.keys.clone(), 0..rows.cols());
        let bias = terms.bias.map(|bias| {
            let [batches, heads, queries, keys] = bias.shape();
            let along = |extent: usize, at: usize| if extent == 1 { 0 } else { at };
            let row = bias.rows(along(batches, batch), along(heads, head)).row(along(queries, query));
            if keys == 1 { row } else { &row[sequence.keys.clone()] }
        });
        let dropout = plan.options.dropout.map(|dropout| {
            let id = terms.sequence_ids.map_or(number as u64, |ids| ids[number]);
            let row = DropoutRow::new(dropout.seed, id, head as u64, i as u64, dropout.probability);
            (row, 1.0 / (1.0 - f64::from(dropout.probability)))
        });
        Row {
            query: inputs.q.rows(batch, head).row(query),
            keys: of_sequence(inputs.k.rows(batch, kv_head)),
            values: of_sequence(inputs.v.rows(batch, kv_head)),
            sink: terms.sinks.map_or(f64::NEG_INFINITY, |sinks| sinks[head].into()),
            plan,
            layout: plan.layout(number, kv_head),
            place: i * group + head % group,
            position: sequence.offset.saturating_add_unsigned(i as u64),
            bias,
            slope: terms.slopes.map_or(0.0, |slopes| slopes[head].into()),
            dropout,
        }
    }

    /// What the mask keeps, up to 64 keys at a time: at least of these keys.
    pub(crate) fn chunks(&self, keys: Range<usize>) -> impl Iterator<Item = Chunk<'a>> {
        let (tile, r) = (self.place / ROWS, self.place % ROWS);
        let panels = keys.start / PANEL..keys.end.div_ceil(PANEL);
        let spans = self.layout.tile(tile).flat_map(move |span| {
            let some = span.panels();
            let bits = match span {
                Span::Full(_) => u64::MAX,
                Span::Rim { bits, .. } => bits[r],
            };
            let some = some.start.max(panels.start)..some.end.min(panels.end);
            some.map(move |panel| Chunk { keys: Keys::From(panel * PANEL), bits })
        });
        let gathered = self.layout.gathered(tile);
        let gathered =
            gathered.map(move |gathered| Chunk { keys: Keys::Gathered(gathered.keys), bits: gathered.bits[r] });
        spans.chain(gathered).filter(|chunk| chunk.bits != 0)
    }

    /// The keys of a chunk that the row sees: those that the bias does not remove.
    pub(crate) fn seen_of(&self, chunk: Chunk<'a>) -> impl Iterator<Item = usize> {
        chunk.filter(move |&j| self.bias(j) != f64::NEG_INFINITY)
    }

    /// The keys of a range that the row sees.
    pub(crate) fn seen(&self, keys: Range<usize>) -> impl Iterator<Item = usize> {
        self.chunks(keys.clone()).flat_map(|chunk| self.seen_of(chunk)).filter(move |j| keys.contains(j))
    }

    pub(crate) fn scale(&self) -> f64 {
        self.plan.scale
    }

    /// `scale·q·k`.
    pub(crate) fn raw(&self, j: usize) -> f64 {
        self.plan.scale * dot(self.query, self.keys.row(j))
    }

    /// `cap·tanh(raw / cap)`, or the raw score where there is no cap.
    pub(crate) fn capped(&self, j: usize) -> f64 {
        let raw = self.raw(j);
        self.plan.options.softcap.map_or(raw, |cap| cap * (raw / cap).tanh())
    }

    /// How fast a capped score grows with the raw one: `1 − (c / cap)²`.
    pub(crate) fn bend(&self, capped: f64) -> f64 {
        self.plan.options.softcap.map_or(1.0, |cap| 1.0 - (capped / cap) * (capped / cap))
    }

    /// `capped + bias − slope·|p − j|`.
    pub(crate) fn adjusted(&self, j: usize, capped: f64) -> f64 {
        let distance = self.position.abs_diff(j as i64) as f64;
        capped + self.bias(j) - self.slope * distance
    }

    /// What the softmax takes.
    pub(crate) fn score(&self, j: usize) -> f64 {
        self.adjusted(j, self.capped(j))
    }

    /// What dropout multiplies a weight by.
    pub(crate) fn kept(&self, j: usize) -> f64 {
        self.dropout.map_or(1.0, |(row, gain)| if row.keeps(j as u32) { gain } else { 0.0 })
    }

    fn bias(&self, j: usize) -> f64 {
        match self.bias {
            None => 0.0,
            Some(&[one]) => one.into(),
            Some(each) => each[j].into(),
        }
    }
}

/// Some keys, a bit each.
#[derive(Clone, Copy)]
pub(crate) struct Chunk<'a> {
    keys: Keys<'a>,
    bits: u64,
}

impl Chunk<'_> {
    fn key(&self, bit: usize) -> usize {
        match self.keys {
            Keys::From(first) => first + bit,
            Keys::Gathered(keys) => keys[bit] as usize,
        }
    }
}

/// The keys whose bits are set.
impl Iterator for Chunk<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let bit = (self.bits != 0).then(|| self.bits.trailing_zeros() as usize)?;
        self.bits &= self.bits - 1;
        Some(self.key(bit))
    }
}
