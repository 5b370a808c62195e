//! Scattered keys, gathered into panels.

use crate::gather::Candidate;
use crate::layout::{PackedSpan, Scratch};
use crate::{BlockLayout, Gather, PANEL};

/// Keys of a tile that are copied side by side into a panel. None of them is in a [`Span`](crate::Span) of the tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gathered<'a> {
    /// The number of the list of keys. Tiles with the same number can use the same panel.
    pub list: u32,
    /// The keys, ascending; 1 to 64.
    pub keys: &'a [u32],
    /// One word per row of the tile; bit `b` is set when the row keeps `keys[b]`. The words of rows beyond the last query
    /// are zero.
    pub bits: &'a [u64],
}

/// What of a tile is gathered: the number of a list, and where its words stand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PackedGathered {
    list: u32,
    words: u32,
}

/// Lists of keys; one that was added lately is found again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lists {
    /// Where each list ends; it begins where the one before ends.
    ends: Vec<u32>,
    keys: Vec<u32>,
    /// For some hashes the last list that had it, as that of a record of words.
    slots: Vec<u32>,
}

const SLOTS: usize = 256;

impl Lists {
    pub(crate) const fn new() -> Self {
        Self { ends: Vec::new(), keys: Vec::new(), slots: Vec::new() }
    }

    pub(crate) fn clear(&mut self) {
        self.ends.clear();
        self.keys.clear();
    }

    pub(crate) fn shrink_to_fit(&mut self) {
        self.ends.shrink_to_fit();
        self.keys.shrink_to_fit();
        self.slots = Vec::new();
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// How many keys all lists have.
    pub(crate) fn keys(&self) -> usize {
        self.keys.len()
    }

    fn get(&self, list: u32) -> Option<&[u32]> {
        let end = *self.ends.get(list as usize)?;
        let start = list.checked_sub(1).map_or(0, |before| self.ends[before as usize]);
        Some(&self.keys[start as usize..end as usize])
    }

    /// The number of the list with these keys, which may be `guess`; none where there are too many.
    fn add(&mut self, keys: &[u32], guess: Option<u32>) -> Option<u32> {
        if let Some(list) = guess.filter(|&list| self.get(list) == Some(keys)) {
            return Some(list);
        }
        self.slots.resize(SLOTS, 0);
        let hash = keys.iter().fold(0, |hash: u32, key| (hash.rotate_left(5) ^ key).wrapping_mul(0x9e37_79b9));
        let slot = hash as usize / (u32::MAX as usize / SLOTS + 1);
        if self.get(self.slots[slot]) != Some(keys) {
            self.slots[slot] = u32::try_from(self.ends.len()).ok()?;
            self.keys.extend_from_slice(keys);
            self.ends.push(u32::try_from(self.keys.len()).ok()?);
        }
        Some(self.slots[slot])
    }
}

/// The rims of one tile before it is decided what becomes of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Draft {
    /// The keys that any row keeps, one bit each, with their panel.
    rims: Vec<(u32, u64)>,
    /// The words of the rims, one record after the other.
    words: Vec<u64>,
    /// What the tile before has gathered, as `rims`.
    before: Vec<(u32, u64)>,
    candidates: Vec<Candidate>,
    order: Vec<u32>,
    /// For each rim whether it is gathered.
    gathered: Vec<bool>,
    keys: Vec<u32>,
    bits: Vec<u64>,
}

impl Draft {
    pub(crate) const fn new() -> Self {
        Self {
            rims: Vec::new(),
            words: Vec::new(),
            before: Vec::new(),
            candidates: Vec::new(),
            order: Vec::new(),
            gathered: Vec::new(),
            keys: Vec::new(),
            bits: Vec::new(),
        }
    }

    /// Before the first tile.
    pub(crate) fn start(&mut self) {
        self.before.clear();
        self.rims.clear();
        self.words.clear();
    }

    /// Takes a rim down, and gives its number in the tile.
    pub(crate) fn push(&mut self, panel: usize, words: &[u64]) -> u32 {
        self.words.extend_from_slice(words);
        self.rims.push((panel as u32, words.iter().fold(0, |any, word| any | word)));
        self.rims.len() as u32 - 1
    }

    /// Decides which rims are gathered.
    fn choose(&mut self, gather: Gather) {
        // Keys of gathered lists are numbers of 32 bits. Panels ascend.
        let numbered = self.rims.partition_point(|&(panel, _)| panel <= u32::MAX / PANEL as u32);
        let mut before = self.before.iter().copied().peekable();
        self.candidates.clear();
        self.candidates.extend(self.rims[..numbered].iter().map(|&(panel, columns)| {
            while before.next_if(|&(held, _)| held < panel).is_some() {}
            let held = before.peek().filter(|&&(held, _)| held == panel).map_or(0, |&(_, columns)| columns);
            Candidate { keys: columns.count_ones(), new: (columns & !held).count_ones() }
        }));
        let count = gather.choose(&self.candidates, &mut self.order);
        self.gathered.clear();
        self.gathered.resize(self.rims.len(), false);
        self.order[..count].iter().for_each(|&rim| self.gathered[rim as usize] = true);
    }
}

impl BlockLayout {
    /// Keys of tile `t` that are gathered into panels, lists of ascending keys in ascending order; nothing where the layout
    /// was compiled without a [`Gather`].
    ///
    /// # Panics
    ///
    /// When there is no tile `t`.
    pub fn gathered(&self, t: usize) -> impl ExactSizeIterator<Item = Gathered<'_>> + Clone {
        assert!(t < self.tiles.len(), "tile {t} of {}", self.tiles.len());
        self.packed_gathered(t).iter().map(|gathered| Gathered {
            list: gathered.list,
            keys: self.list(gathered.list),
            bits: self.words.record(gathered.words, self.tile.rows),
        })
    }

    fn packed_gathered(&self, t: usize) -> &[PackedGathered] {
        let Some(&end) = self.gathered_ends.get(t) else { return &[] };
        let start = t.checked_sub(1).map_or(0, |before| self.gathered_ends[before]);
        &self.gathered[start as usize..end as usize]
    }

    /// How many lists of gathered keys there are.
    pub fn lists(&self) -> usize {
        self.lists.len()
    }

    /// The keys of a list, ascending; 1 to 64.
    ///
    /// # Panics
    ///
    /// When there is no such list.
    pub fn list(&self, list: u32) -> &[u32] {
        self.lists.get(list).unwrap_or_else(|| panic!("list {list} of {}", self.lists.len()))
    }

    /// Finishes a tile whose spans start at `first` and whose rims stand in the draft: gathers what is worth it, and
    /// keeps the others. None where there is more than can be numbered.
    pub(crate) fn settle_tile(&mut self, first: usize, scratch: &mut Scratch, gather: Gather) -> Option<()> {
        let rows = self.tile.rows;
        let draft = &mut scratch.draft;
        draft.choose(gather);
        let mut kept = first;
        for at in first..self.spans.len() {
            let mut span = self.spans[at];
            if let Some((panel, rim)) = span.as_rim() {
                if draft.gathered[rim as usize] {
                    continue;
                }
                span = PackedSpan::rim(panel, self.words.add(&draft.words[rim as usize * rows..][..rows])?);
            }
            self.spans[kept] = span;
            kept += 1;
        }
        self.spans.truncate(kept);
        self.push_gathered(draft)?;
        // What was gathered is now what the tile before has.
        let mut gathered = draft.gathered.iter();
        draft.rims.retain(|_| gathered.next() == Some(&true));
        std::mem::swap(&mut draft.before, &mut draft.rims);
        draft.rims.clear();
        draft.words.clear();
        Some(())
    }

    /// Adds the lists of the rims that are gathered.
    fn push_gathered(&mut self, draft: &mut Draft) -> Option<()> {
        let rows = self.tile.rows;
        let start = self.gathered.len();
        let before = match self.gathered_ends.len() {
            0 | 1 => 0,
            tiles => self.gathered_ends[tiles - 2] as usize,
        };
        let Draft { rims, words, gathered, keys, bits, .. } = draft;
        keys.clear();
        bits.clear();
        bits.resize(rows, 0);
        let mut flush = |keys: &mut Vec<u32>, bits: &mut Vec<u64>| -> Option<()> {
            // Tiles that follow one another often differ in the last list alone.
            let same = before + self.gathered.len() - start;
            let guess = self.gathered[..start].get(same).map(|gathered| gathered.list);
            let list = self.lists.add(keys, guess)?;
            self.gathered.push(PackedGathered { list, words: self.words.add(bits)? });
            keys.clear();
            bits.fill(0);
            Some(())
        };
        for (rim, &(panel, columns)) in rims.iter().enumerate().filter(|(rim, _)| gathered[*rim]) {
            let words = &words[rim * rows..][..rows];
            let mut left = columns;
            while left != 0 {
                let column = left.trailing_zeros();
                left &= left - 1;
                for (bits, word) in bits.iter_mut().zip(words) {
                    *bits |= (word >> column & 1) << keys.len();
                }
                keys.push(panel * PANEL as u32 + column);
                if keys.len() == PANEL {
                    flush(keys, bits)?;
                }
            }
        }
        if !keys.is_empty() {
            flush(keys, bits)?;
        }
        self.gathered_ends.push(u32::try_from(self.gathered.len()).ok()?);
        Some(())
    }
}
