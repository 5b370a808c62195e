//! The pairs of a layout one by one: the keys of each query, and the queries of each key.

use std::ops::Range;

use regard_kernels::{PANEL, ROWS};
use regard_masks::{BlockLayout, Span};

use crate::Error;
use crate::sequence::reserve;

/// The keys that each row of a layout keeps.
#[derive(Clone, Debug)]
pub(crate) struct Lists {
    /// How many lists a query has: one for all heads of the group, or one for each.
    heads: usize,
    /// Heads that share a list.
    sharing: usize,
    /// Where the list of each row ends.
    ends: Vec<u32>,
    keys: Vec<u32>,
}

impl Lists {
    /// The lists of a layout whose `group` heads have so many masks: one or one each.
    pub(crate) fn new(layout: &BlockLayout, group: usize, masks: usize) -> Result<Lists, Error> {
        let mut lists = Lists { heads: masks, sharing: group / masks, ends: Vec::new(), keys: Vec::new() };
        let pairs = usize::try_from(layout.cost().live).unwrap_or(usize::MAX) / lists.sharing;
        reserve(&mut lists.ends, layout.n_q().saturating_mul(masks))?;
        reserve(&mut lists.keys, pairs)?;
        let rows = layout.n_q() * group;
        for tile in layout.tiles() {
            for row in (tile * ROWS..rows.min((tile + 1) * ROWS)).filter(|row| row % group < masks) {
                let (first, r) = (lists.keys.len(), row - tile * ROWS);
                for span in layout.tile(tile) {
                    match span {
                        Span::Full(panels) => {
                            lists.keys.extend((panels.start * PANEL..panels.end * PANEL).map(|key| key as u32));
                        }
                        Span::Rim { panel, bits } => {
                            lists.keys.extend(ones(bits[r]).map(|b| (panel * PANEL + b) as u32))
                        }
                    }
                }
                for gathered in layout.gathered(tile) {
                    lists.keys.extend(ones(gathered.bits[r]).map(|b| gathered.keys[b]));
                }
                lists.keys[first..].sort_unstable();
                lists.ends.push(lists.keys.len() as u32);
            }
        }
        Ok(lists)
    }

    /// The list of query `i` under head `g` of the group, as places among all.
    fn places(&self, i: usize, g: usize) -> Range<usize> {
        let row = i * self.heads + g.min(self.heads - 1);
        let start = row.checked_sub(1).map_or(0, |before| self.ends[before]);
        start as usize..self.ends[row] as usize
    }

    /// The keys that query `i` sees under head `g` of the group, ascending.
    pub(crate) fn of(&self, i: usize, g: usize) -> &[u32] {
        &self.keys[self.places(i, g)]
    }

    /// Pairs of all heads of the group.
    pub(crate) fn pairs(&self) -> usize {
        self.keys.len() * self.sharing
    }

    /// Where the pairs of a query's first head begin, if those of all queries and heads lie one after the other.
    pub(crate) fn before(&self, i: usize) -> usize {
        let row = i * self.heads;
        self.sharing * row.checked_sub(1).map_or(0, |before| self.ends[before] as usize)
    }

    /// Where those of query `i` and head `g` begin.
    pub(crate) fn first(&self, i: usize, g: usize) -> usize {
        self.pair(i, g, self.places(i, g).start)
    }

    /// Where pair `place` of query `i` stands in that order, for head `g`.
    pub(crate) fn pair(&self, i: usize, g: usize, place: usize) -> usize {
        if self.sharing == 1 {
            return place;
        }
        let list = self.places(i, g);
        self.before(i) + g * list.len() + (place - list.start)
    }
}

/// The queries that keep each key.
#[derive(Clone, Debug, Default)]
pub(crate) struct Readers {
    /// `[heads][keys]`: where each ends.
    ends: Vec<u32>,
    /// A query, and the place of the pair in the lists.
    pairs: Vec<(u32, u32)>,
    keys: usize,
    heads: usize,
}

impl Readers {
    pub(crate) fn new(lists: &Lists, layout: &BlockLayout) -> Result<Readers, Error> {
        let (keys, heads) = (layout.n_k(), lists.heads.max(1));
        let mut readers = Readers { ends: Vec::new(), pairs: Vec::new(), keys, heads };
        let columns = keys.saturating_mul(heads);
        reserve(&mut readers.ends, columns)?;
        reserve(&mut readers.pairs, lists.keys.len())?;
        readers.ends.resize(columns, 0);
        readers.pairs.resize(lists.keys.len(), (0, 0));
        // Counted, then set where each begins, then filled: by the end each begins where it ends.
        let each = || (0..layout.n_q()).flat_map(|i| (0..heads).map(move |head| (i, head)));
        for (i, head) in each() {
            lists.of(i, head).iter().for_each(|&key| readers.ends[head * keys + key as usize] += 1);
        }
        let mut before = 0;
        for end in &mut readers.ends {
            before += std::mem::replace(end, before);
        }
        for (i, head) in each() {
            for place in lists.places(i, head) {
                let next = &mut readers.ends[head * keys + lists.keys[place] as usize];
                readers.pairs[*next as usize] = (i as u32, place as u32);
                *next += 1;
            }
        }
        Ok(readers)
    }

    /// The queries that keep a key under head `g` of the group, ascending, and the place of each pair in the lists.
    pub(crate) fn of(&self, key: usize, g: usize) -> &[(u32, u32)] {
        let column = g.min(self.heads - 1) * self.keys + key;
        let start = column.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.pairs[start as usize..self.ends[column] as usize]
    }
}

/// The places of the bits that are set.
fn ones(mut bits: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = (bits != 0).then(|| bits.trailing_zeros() as usize)?;
        bits &= bits - 1;
        Some(bit)
    })
}
