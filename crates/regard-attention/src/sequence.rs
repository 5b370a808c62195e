//! The sequences of a call: which rows of the tensors belong together, and how each is cut into tasks.

use std::ops::Range;

use regard_kernels::{PANEL, ROWS};

use crate::fold::{BLOCK, TILES};
use crate::{Error, Offset, Options, Segment, Sequences, Shape};

/// Where the regimes of a plan cross. The default stands for what `regard bench --crossovers` measures; another one is
/// for measuring it, or for a machine with other caches. Splitting elsewhere rounds elsewhere: results are the same to the
/// bit only between plans with the same crossovers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crossovers {
    /// Keys up to which a task packs a head for itself ([`Regime::Heads`]): its panels then stay in that core's
    /// second-level cache (512 keys of 64 dimensions are 256 KiB of keys and values), and no core waits for another's
    /// packing.
    pub keys_of_a_head: usize,
    /// Keys that few queries fold at once, in whole panels of 64 and one at least: more are split ([`Regime::Splits`]).
    /// 1024 are enough that merging a split (a row of `dim_v`) costs under a percent, and few enough that a single head of
    /// 4096 keys keeps four cores busy.
    pub keys_of_a_split: usize,
}

impl Default for Crossovers {
    fn default() -> Self {
        Crossovers { keys_of_a_head: 512, keys_of_a_split: BLOCK * PANEL }
    }
}

/// How the work on a sequence is cut into tasks. Chosen from its own sizes, never from the batch or the threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Regime {
    /// A task is a key/value head: it packs the head's keys and folds all its queries.
    Heads,
    /// All cores pack the heads in flight, then a task is a block of queries.
    Blocks,
    /// Few queries: a task is a split of the keys, and the splits' states are merged.
    Splits,
}

impl Regime {
    pub(crate) const ALL: [Regime; 3] = [Regime::Heads, Regime::Blocks, Regime::Splits];
}

/// One sequence of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// The batch entry.
    pub batch: usize,
    /// Its rows of queries.
    pub queries: Range<usize>,
    /// Its rows of keys.
    pub keys: Range<usize>,
    /// Query `i` stands at key position `i + offset`.
    pub offset: i64,
    /// Queries of a block.
    pub(crate) block: usize,
    /// Parts of the keys that are folded apart: 1 unless all queries fit one block.
    pub(crate) splits: usize,
    /// Panels of such a part.
    pub(crate) split_panels: usize,
    regime: Regime,
}

impl Sequence {
    fn new(segment: Segment, offset: Option<i64>, group: usize, crossovers: Crossovers) -> Sequence {
        let Segment { batch, queries, keys } = segment;
        let offset = offset.unwrap_or(keys.len() as i64 - queries.len() as i64);
        let block = block_queries(group).min(queries.len().max(1));
        let few = queries.len() <= block;
        let split_panels = crossovers.keys_of_a_split.div_ceil(PANEL).max(1);
        let splits = if few { keys.len().div_ceil(PANEL).div_ceil(split_panels).max(1) } else { 1 };
        let regime = if splits > 1 {
            Regime::Splits
        } else if keys.len() <= crossovers.keys_of_a_head {
            Regime::Heads
        } else {
            Regime::Blocks
        };
        Sequence { batch, queries, keys, offset, block, splits, split_panels, regime }
    }

    /// How the work is cut.
    pub fn regime(&self) -> Regime {
        self.regime
    }

    /// Panels that the keys fill.
    pub(crate) fn panels(&self) -> usize {
        self.keys.len().div_ceil(PANEL)
    }

    /// The panels of split `number`.
    pub(crate) fn split(&self, number: usize) -> Range<usize> {
        let (panels, split) = (self.panels(), self.split_panels);
        if self.splits == 1 { 0..panels } else { number * split..((number + 1) * split).min(panels) }
    }
}

/// Queries of a block: as many as fill [`TILES`] tiles, ending where a tile does.
fn block_queries(group: usize) -> usize {
    let whole = ROWS / gcd(ROWS, group);
    (TILES * ROWS / group / whole * whole).max(whole)
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Fills `sequences` with those of a call.
pub(crate) fn lay_out(shape: Shape, options: &Options, sequences: &mut Vec<Sequence>) -> Result<(), Error> {
    let Shape { batch, queries, keys, .. } = shape;
    let count = match &options.sequences {
        Sequences::Packed(segments) => segments.len(),
        _ => batch,
    };
    if let Offset::Each(each) = &options.offset
        && each.len() != count
    {
        return Err(wrong("offsets", "sequences", each.len(), count.to_string()));
    }
    let offset = |index: usize| match &options.offset {
        Offset::AtEnd => None,
        Offset::Same(offset) => Some(*offset),
        Offset::Each(each) => Some(each[index]),
    };
    if let Sequences::Lengths { queries: q, keys: k } = &options.sequences {
        for (tensor, lengths, most) in [("query_lengths", q, queries), ("key_lengths", k, keys)] {
            let Some(lengths) = lengths else { continue };
            if lengths.len() != batch {
                return Err(wrong(tensor, "batch", lengths.len(), batch.to_string()));
            }
            if let Some(&length) = lengths.iter().find(|&&length| length > most) {
                return Err(wrong(tensor, "seq", length, format!("at most {most}")));
            }
        }
    }
    sequences.clear();
    for index in 0..count {
        let segment = match &options.sequences {
            Sequences::Whole => Segment { batch: index, queries: 0..queries, keys: 0..keys },
            Sequences::Lengths { queries: q, keys: k } => Segment {
                batch: index,
                queries: 0..q.as_ref().map_or(queries, |q| q[index]),
                keys: 0..k.as_ref().map_or(keys, |k| k[index]),
            },
            Sequences::Packed(segments) => segments[index].clone(),
        };
        let ranges = [("segment of queries", &segment.queries, queries), ("segment of keys", &segment.keys, keys)];
        for (tensor, range, most) in ranges {
            if range.start > range.end {
                return Err(wrong(tensor, "seq", range.end, format!("its start, {}, or more", range.start)));
            }
            if range.end > most {
                return Err(wrong(tensor, "seq", range.end, format!("at most {most}")));
            }
        }
        if segment.batch >= batch {
            return Err(wrong("segment", "batch", segment.batch, format!("less than {batch}")));
        }
        sequences.push(Sequence::new(segment, offset(index), shape.group(), options.crossovers));
    }
    Ok(())
}

fn wrong(tensor: &'static str, axis: &'static str, has: usize, expected: String) -> Error {
    Error::Axis { tensor, axis, has, expected }
}

/// Fills `dead` with the rows of each batch entry that are in none of the stretches (batch entry, rows).
pub(crate) fn find_dead(
    (batch, rows): (usize, usize),
    stretches: impl Iterator<Item = (usize, Range<usize>)> + Clone,
    dead: &mut Vec<(usize, Range<usize>)>,
) {
    dead.clear();
    // The common case allocates nothing: each batch entry is one stretch.
    if stretches.clone().eq((0..batch).map(|entry| (entry, 0..rows))) {
        return;
    }
    let mut order: Vec<_> = stretches.filter(|(_, rows)| !rows.is_empty()).collect();
    order.sort_by_key(|(batch, rows)| (*batch, rows.start));
    let mut order = order.into_iter().peekable();
    for batch in 0..batch {
        let mut from = 0;
        while let Some((_, stretch)) = order.next_if(|(of, _)| *of == batch) {
            dead.push((batch, from..stretch.start.max(from)));
            from = from.max(stretch.end);
        }
        dead.push((batch, from..rows));
    }
    dead.retain(|(_, rows)| !rows.is_empty());
}
