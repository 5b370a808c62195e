//! The bits of rims, equal ones held once.

use std::collections::TryReserveError;

/// Slots that remember where the words of a rim stand. The rims of a window repeat within 64 tiles, and a slot takes 4
/// bytes: 16 KiB leave little to chance and fit a first-level cache.
const SLOTS: usize = 1 << SLOT_BITS;
const SLOT_BITS: u32 = 12;

/// Records of the same number of words. A record that was added lately is found again and not added twice.
#[derive(Clone, Debug, Default)]
pub(crate) struct Words {
    words: Vec<u64>,
    /// For some hashes the last record that had it. A slot may be older than all records, as nothing is taken from it
    /// without a look at the words: it need not be cleared.
    slots: Vec<u32>,
}

impl Words {
    pub(crate) const fn new() -> Self {
        Self { words: Vec::new(), slots: Vec::new() }
    }

    /// Removes all records; keeps the capacity.
    pub(crate) fn clear(&mut self) {
        self.words.clear();
        if self.slots.is_empty() {
            self.slots = vec![0; SLOTS];
        }
    }

    /// Makes room for `words` words in all.
    pub(crate) fn try_reserve(&mut self, words: usize) -> Result<(), TryReserveError> {
        self.words.try_reserve(words.saturating_sub(self.words.len()))?;
        self.slots.try_reserve(SLOTS.saturating_sub(self.slots.len()))?;
        self.slots.resize(SLOTS, 0);
        Ok(())
    }

    pub(crate) fn shrink_to_fit(&mut self) {
        self.words.shrink_to_fit();
        self.slots = Vec::new();
    }

    /// How many words all records have.
    pub(crate) fn len(&self) -> usize {
        self.words.len()
    }

    /// Where `record` stands, counted in records of its length; none where there are too many.
    pub(crate) fn add(&mut self, record: &[u64]) -> Option<u32> {
        let slot = &mut self.slots[(hash(record) >> (u64::BITS - SLOT_BITS)) as usize];
        let start = *slot as usize * record.len();
        let same = |held: &[u64]| held.iter().zip(record).all(|(a, b)| a == b);
        if !self.words.get(start..start + record.len()).is_some_and(same) {
            *slot = u32::try_from(self.words.len() / record.len()).ok()?;
            self.words.extend_from_slice(record);
        }
        Some(*slot)
    }

    /// The record at `index`, of `len` words.
    #[inline]
    pub(crate) fn record(&self, index: u32, len: usize) -> &[u64] {
        &self.words[index as usize * len..][..len]
    }
}

/// A sum of products with keys that differ, mixed so that the upper bits depend on every bit of the words.
fn hash(words: &[u64]) -> u64 {
    const FACTOR: u64 = 0xd134_2543_de82_ef95;
    let keys = std::iter::successors(Some(FACTOR), |key| Some(key.wrapping_mul(FACTOR)));
    let sum = words.iter().zip(keys).fold(0_u64, |sum, (word, key)| sum.wrapping_add(word.wrapping_mul(key)));
    (sum ^ sum >> 29).wrapping_mul(FACTOR)
}
