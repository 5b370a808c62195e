//! The sequences of a call: which rows of the tensors belong together, and how each is cut into tasks.

use std::ops::Range;

use regard_kernels::{PANEL, ROWS};
use regard_masks::{Gather, Mask};

use crate::fold::{BLOCK, TILES};
use crate::strip;
use crate::{Error, Offset, Options, Segment, Sequences, Shape};

/// Where the regimes of a plan cross. The default stands for what `regard bench --crossovers` measures; another one is
/// for measuring it, or for a machine with other caches. Splitting elsewhere rounds elsewhere: results are the same to the
/// bit only between plans with the same crossovers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Crossovers {
    /// Keys up to which a head is one strip ([`Regime::Strips`]): its panels then stay in that core's second-level cache
    /// (512 keys of 64 dimensions are 256 KiB of keys and values), and no core waits for another's packing.
    pub keys_of_a_head: usize,
    /// Keys up to which longer sequences are cut into strips, if no block of their queries keeps more of them.
    pub keys_of_a_strip: usize,
    /// Keys that few queries fold at once, in whole panels of 64 and one at least: more are split ([`Regime::Splits`]).
    /// 1024 are enough that merging a split (a row of `dim_v`) costs under a percent, and few enough that a single head of
    /// 4096 keys keeps four cores busy.
    pub keys_of_a_split: usize,
    /// What a pair costs by itself, as a multiple of what was measured: where a mask keeps so little of its tiles that these
    /// come out dearer, a sequence goes by its edges ([`Regime::Edges`]); at 0 all do that can, at infinity none.
    pub edge: f32,
    /// What scattered keys cost as rims of a tile, and gathered into panels of their own. The default counts in rims: one of
    /// 64 keys takes a tile half a microsecond, and a key is copied in a tenth.
    pub gather: Gather,
}

/// Runs of a row up to which keys are not scattered: windows, prefixes, and what is between them.
const FEW_RUNS: usize = 3;

/// Whether a row of a mask may have more.
pub(crate) fn scatters(mask: &Mask) -> bool {
    mask.max_runs(usize::MAX) > FEW_RUNS
}

impl Crossovers {
    /// What a plan compiles the layout of these masks with, one or one for each head of a group: nothing where they scatter
    /// no keys.
    pub fn gather_of(&self, masks: &[Mask]) -> Option<Gather> {
        masks.iter().any(scatters).then_some(self.gather)
    }
}

impl Default for Crossovers {
    fn default() -> Self {
        Crossovers {
            keys_of_a_head: 512,
            keys_of_a_strip: 18 * PANEL,
            keys_of_a_split: BLOCK * PANEL,
            edge: 1.0,
            gather: Gather { rim: 1.0, panel: 1.2, key: 0.25 },
        }
    }
}

/// How the work on a sequence is cut into tasks. Chosen from its own sizes and the mask, never from the batch or the
/// threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Regime {
    /// A task is a strip of the queries of a key/value head, all of them where there are few keys: it packs the keys that
    /// they keep for itself.
    Strips,
    /// All cores pack the heads in flight, then a task is a block of queries.
    Blocks,
    /// Few queries: a task is a split of the keys, and the splits' states are merged.
    Splits,
    /// Few pairs: each query goes over the keys that it sees, one by one, and a task is a block of queries. Over a cache
    /// such a sequence is folded in tiles.
    Edges,
}

impl Regime {
    /// Those that fold tiles.
    pub(crate) const TILES: [Regime; 3] = [Regime::Strips, Regime::Blocks, Regime::Splits];
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
    /// Queries of a strip.
    pub(crate) strip: usize,
    /// Panels that a strip holds at once.
    pub(crate) held: usize,
    /// How it is cut where it is folded in tiles.
    tiles: Regime,
    /// Whether it goes by its edges where keys and values are tensors.
    pub(crate) by_edges: bool,
}

impl Sequence {
    fn new(segment: Segment, offset: Option<i64>, group: usize, crossovers: Crossovers) -> Sequence {
        let Segment { batch, queries, keys } = segment;
        let offset = offset.unwrap_or_else(|| at_end(queries.len(), keys.len()));
        let block = block_queries(group).min(queries.len().max(1));
        let few = queries.len() <= block;
        let split_panels = crossovers.keys_of_a_split.div_ceil(PANEL).max(1);
        let splits = if few { keys.len().div_ceil(PANEL).div_ceil(split_panels).max(1) } else { 1 };
        let tiles = if splits > 1 {
            Regime::Splits
        } else if keys.len() <= crossovers.keys_of_a_head {
            Regime::Strips
        } else {
            Regime::Blocks
        };
        let (strip, held) = (queries.len().max(1), keys.len().div_ceil(PANEL));
        Sequence { batch, queries, keys, offset, block, splits, split_panels, strip, held, tiles, by_edges: false }
    }

    /// Cuts a sequence whose blocks of queries keep at most `held` panels each into strips, if it has room for several.
    pub(crate) fn cut_into_strips(&mut self, held: usize) {
        let strip = held.saturating_mul(PANEL * strip::LENGTH).max(1).checked_next_multiple_of(self.block);
        let Some(strip) = strip else { return };
        if self.queries.len() / 2 >= strip {
            (self.tiles, self.strip, self.held) = (Regime::Strips, strip, held);
        }
    }

    /// How the work is cut.
    pub fn regime(&self) -> Regime {
        if self.by_edges { Regime::Edges } else { self.tiles }
    }

    /// How it is cut where it is folded in tiles.
    pub(crate) fn tiles(&self) -> Regime {
        self.tiles
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

/// The offset that puts the last query at the last key.
fn at_end(queries: usize, keys: usize) -> i64 {
    let offset = keys as i128 - queries as i128;
    offset.clamp(i64::MIN.into(), i64::MAX.into()) as i64
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
    reserve(sequences, count)?;
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

/// Makes room for so many elements in all.
pub(crate) fn reserve<T>(list: &mut Vec<T>, count: usize) -> Result<(), Error> {
    let out_of_memory = |_| regard_memory::Error::OutOfMemory { bytes: count.saturating_mul(size_of::<T>()) };
    Ok(list.try_reserve(count.saturating_sub(list.len())).map_err(out_of_memory)?)
}

fn wrong(tensor: &'static str, axis: &'static str, has: usize, expected: String) -> Error {
    Error::Axis { tensor, axis, has, expected }
}

/// Fills `dead` with the rows of each batch entry that are in none of the stretches (batch entry, rows).
pub(crate) fn find_dead(
    (batch, rows): (usize, usize),
    stretches: impl Iterator<Item = (usize, Range<usize>)> + Clone,
    dead: &mut Vec<(usize, Range<usize>)>,
) -> Result<(), Error> {
    dead.clear();
    // The common case allocates nothing: each batch entry is one stretch.
    if rows == 0 || stretches.clone().eq((0..batch).map(|entry| (entry, 0..rows))) {
        return Ok(());
    }
    let mut order: Vec<_> = stretches.filter(|(_, rows)| !rows.is_empty()).collect();
    order.sort_by_key(|(batch, rows)| (*batch, rows.start));
    reserve(dead, batch.saturating_add(order.len()))?;
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
    Ok(())
}
