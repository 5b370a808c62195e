//! Layouts that are made once, up to a limit in bytes.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{BlockLayout, Error, Gather, Mask, TileShape};

/// Layouts by what they were compiled from. Those that together would take more bytes than the limit are dropped, least
/// recently used first; who still holds one keeps it.
///
/// Plans hold layouts of their own, which they compile as lengths change; a cache is for who compiles layouts by hand.
///
/// A cache may be used by several threads at once. None waits while another compiles.
///
/// ```
/// use std::sync::Arc;
///
/// use regard_masks::{LayoutCache, Mask, TileShape};
///
/// let cache = LayoutCache::new(1 << 20);
/// let tile = TileShape { rows: 6, group: 4 };
/// let layout = cache.get(&[Mask::causal()], 512, 512, 0, tile, None)?;
/// let again = cache.get(&[Mask::causal()], 512, 512, 0, tile, None)?;
/// assert!(Arc::ptr_eq(&layout, &again));
/// assert!((1..=cache.limit()).contains(&cache.bytes()));
/// # Ok::<(), regard_masks::Error>(())
/// ```
pub struct LayoutCache {
    limit: usize,
    hasher: RandomState,
    state: Mutex<State>,
}

/// The layouts, by the hash of their key. Of two keys with one hash the later takes the place of the earlier.
#[derive(Default)]
struct State {
    entries: HashMap<u64, Entry>,
    /// The hashes by when the layout was used last.
    used: BTreeMap<u64, u64>,
    /// How often a layout was used.
    clock: u64,
    bytes: usize,
}

struct Entry {
    masks: Vec<Mask>,
    numbers: Numbers,
    layout: Arc<BlockLayout>,
    bytes: usize,
    used: u64,
}

/// What a layout depends on beside the masks.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Numbers {
    n_q: usize,
    n_k: usize,
    offset: i64,
    tile: TileShape,
    /// The bits of the costs.
    gather: Option<[u32; 3]>,
}

impl LayoutCache {
    /// An empty cache that holds up to `limit` bytes: of layouts, of the masks that they were made from, and of its own.
    pub fn new(limit: usize) -> Self {
        Self { limit, hasher: RandomState::new(), state: Mutex::default() }
    }

    /// The layout that [`BlockLayout::compile_with`] makes of these arguments: the one that was made before, or a new one,
    /// which is kept unless it is larger than the limit.
    ///
    /// # Errors
    ///
    /// Those of [`BlockLayout::compile_with`].
    pub fn get(
        &self,
        masks: &[Mask],
        n_q: usize,
        n_k: usize,
        offset: i64,
        tile: TileShape,
        gather: Option<Gather>,
    ) -> Result<Arc<BlockLayout>, Error> {
        let costs = gather.map(|gather| [gather.rim, gather.panel, gather.key].map(f32::to_bits));
        let numbers = Numbers { n_q, n_k, offset, tile, gather: costs };
        let hash = self.hasher.hash_one((masks, numbers));
        if let Some(layout) = self.state().find(hash, masks, numbers) {
            return Ok(layout);
        }
        let mut layout = BlockLayout::new();
        layout.compile_with(masks, n_q, n_k, offset, tile, gather)?;
        layout.shrink_to_fit();
        let bytes = masks.iter().map(Mask::bytes).fold(layout.size().bytes(), usize::saturating_add);
        let bytes = bytes.saturating_add(ENTRY + size_of_val(masks));
        let layout = Arc::new(layout);
        if bytes > self.limit {
            return Ok(layout);
        }
        let mut state = self.state();
        // Another thread may have made the same meanwhile.
        if let Some(layout) = state.find(hash, masks, numbers) {
            return Ok(layout);
        }
        state.remove(hash);
        while state.bytes > self.limit - bytes
            && let Some((_, &oldest)) = state.used.first_key_value()
        {
            state.remove(oldest);
        }
        state.insert(hash, Entry { masks: masks.to_vec(), numbers, layout: Arc::clone(&layout), bytes, used: 0 });
        Ok(layout)
    }

    /// How many bytes the cache holds, [`limit`](Self::limit) at most.
    pub fn bytes(&self) -> usize {
        self.state().bytes
    }

    /// How many bytes the cache may hold.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// How many layouts the cache holds.
    pub fn len(&self) -> usize {
        self.state().entries.len()
    }

    /// Whether the cache holds no layout.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Drops all layouts.
    pub fn clear(&self) {
        *self.state() = State::default();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No step between two that belong together can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes of an entry beside the masks and what the layout holds: itself, the layout's own fields, and a place in each map,
/// of which a third may be empty.
const ENTRY: usize = size_of::<Entry>() * 3 / 2 + size_of::<BlockLayout>() + size_of::<[u64; 8]>();

impl State {
    /// The layout of a key, which is now the last that was used.
    fn find(&mut self, hash: u64, masks: &[Mask], numbers: Numbers) -> Option<Arc<BlockLayout>> {
        let entry = self.entries.get_mut(&hash).filter(|entry| entry.numbers == numbers && entry.masks == masks)?;
        self.used.remove(&entry.used);
        self.clock += 1;
        entry.used = self.clock;
        self.used.insert(entry.used, hash);
        Some(Arc::clone(&entry.layout))
    }

    fn insert(&mut self, hash: u64, mut entry: Entry) {
        self.clock += 1;
        entry.used = self.clock;
        self.used.insert(entry.used, hash);
        self.bytes += entry.bytes;
        self.entries.insert(hash, entry);
    }

    fn remove(&mut self, hash: u64) {
        if let Some(entry) = self.entries.remove(&hash) {
            self.used.remove(&entry.used);
            self.bytes -= entry.bytes;
        }
    }
}

impl fmt::Debug for LayoutCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (layouts, bytes) = (self.len(), self.bytes());
        write!(f, "LayoutCache({layouts} layouts, {bytes} of {} bytes)", self.limit)
    }
}
