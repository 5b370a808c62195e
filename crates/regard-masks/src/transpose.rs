//! A layout by blocks of keys.

use std::collections::TryReserveError;
use std::ops::Range;

use crate::{BlockLayout, Error, Gathered, LayoutSize, Spans};

/// For each block of key panels the tiles that keep some of it, and for each list of gathered keys those that gather it:
/// a layout as the backward pass goes over it. It belongs to the layout from which [`BlockLayout::transpose`] made it,
/// and takes memory in proportion to the blocks of the tiles that live.
///
/// ```
/// use regard_masks::{BlockLayout, Mask, TileShape};
///
/// let mut layout = BlockLayout::new();
/// layout.compile(&Mask::causal(), 320, 320, 0, TileShape { rows: 64, group: 1 })?;
/// let transpose = layout.transpose(2)?;
/// // The keys 128..256: a part of the panels that the last tiles keep.
/// let block: Vec<_> = transpose.block(&layout, 1).collect();
/// let tiles: Vec<_> = block.iter().map(|(tile, _)| *tile).collect();
/// assert_eq!(tiles, [2, 3, 4]);
/// let panels: Vec<_> = block[1].1.clone().map(|span| span.panels()).collect();
/// assert_eq!(panels, [2..3, 3..4]);
/// # Ok::<(), regard_masks::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Transpose {
    panels_per_block: usize,
    blocks: Buckets<Block>,
    lists: Buckets<Place>,
    /// That of the layout that was transposed.
    size: LayoutSize,
}

/// The spans of a tile that reach into a block.
#[derive(Clone, Copy, Debug, Default)]
struct Block {
    tile: usize,
    /// Where they stand among all spans.
    spans: [u32; 2],
}

/// A gathered panel of a tile.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    tile: usize,
    /// Its number among those of the tile.
    at: usize,
}

impl BlockLayout {
    /// The layout by blocks of `panels_per_block` key panels, which is at least 1.
    ///
    /// # Errors
    ///
    /// [`Error::PanelsPerBlock`] for no panels, [`Error::LayoutTooLarge`] where memory cannot hold the transpose.
    pub fn transpose(&self, panels_per_block: usize) -> Result<Transpose, Error> {
        if panels_per_block == 0 {
            return Err(Error::PanelsPerBlock);
        }
        let too_large = |_| Error::LayoutTooLarge { n_q: self.n_q, n_k: self.n_k };
        let last = self.tiles().filter_map(|t| self.tile(t).next_back()).map(|span| span.panels().end).max();
        let blocks = last.unwrap_or(0).div_ceil(panels_per_block);
        Ok(Transpose {
            panels_per_block,
            blocks: Buckets::new(blocks, |put| self.each_block(panels_per_block, put)).map_err(too_large)?,
            lists: Buckets::new(self.lists(), |put| {
                for tile in self.tiles() {
                    let places = self.gathered(tile).enumerate();
                    places.for_each(|(at, gathered)| put(gathered.list as usize, Place { tile, at }));
                }
            })
            .map_err(too_large)?,
            size: self.size(),
        })
    }

    /// Hands out what each tile keeps of each block.
    fn each_block(&self, panels_per_block: usize, put: &mut dyn FnMut(usize, Block)) {
        let mut next = 0;
        for tile in self.tiles() {
            // The block at hand, which may have more spans.
            let mut current: Option<(usize, Block)> = None;
            for span in self.tile(tile) {
                let panels = span.panels();
                for block in panels.start / panels_per_block..panels.end.div_ceil(panels_per_block) {
                    match &mut current {
                        Some((same, entry)) if *same == block => entry.spans[1] = next + 1,
                        _ => {
                            let entry = Block { tile, spans: [next, next + 1] };
                            current.replace((block, entry)).into_iter().for_each(|(block, entry)| put(block, entry));
                        }
                    }
                }
                next += 1;
            }
            current.into_iter().for_each(|(block, entry)| put(block, entry));
        }
    }
}

impl Transpose {
    /// How many panels make a block.
    pub fn panels_per_block(&self) -> usize {
        self.panels_per_block
    }

    /// The numbers of the blocks up to the last of which a tile keeps something.
    pub fn blocks(&self) -> Range<usize> {
        0..self.blocks.ends.len()
    }

    /// The tiles that keep something of block `b`, ascending, each with its spans cut to the block's panels.
    ///
    /// # Panics
    ///
    /// When there is no block `b`, or `layout` is not the one that was transposed.
    pub fn block<'a>(
        &'a self,
        layout: &'a BlockLayout,
        b: usize,
    ) -> impl ExactSizeIterator<Item = (usize, Spans<'a>)> + Clone {
        self.check(layout);
        let panels = b * self.panels_per_block..(b + 1).saturating_mul(self.panels_per_block);
        self.blocks.get(b).iter().map(move |block| (block.tile, layout.spans_within(block.spans, panels.clone())))
    }

    /// The tiles that gather the keys of `list`, ascending.
    ///
    /// # Panics
    ///
    /// When there is no such list, or `layout` is not the one that was transposed.
    pub fn list<'a>(
        &'a self,
        layout: &'a BlockLayout,
        list: u32,
    ) -> impl ExactSizeIterator<Item = (usize, Gathered<'a>)> + Clone {
        self.check(layout);
        self.lists.get(list as usize).iter().map(|place| {
            let gathered = layout.gathered(place.tile).nth(place.at);
            (place.tile, gathered.expect("a place is in the layout that was transposed"))
        })
    }

    /// A layout of another size has other spans.
    fn check(&self, layout: &BlockLayout) {
        assert_eq!(self.size, layout.size(), "a transpose belongs to the layout that was transposed");
    }
}

/// Items in the order of their bucket; within a bucket in the order in which they came.
#[derive(Clone, Debug)]
struct Buckets<T> {
    /// Where each bucket ends; it begins where the one before ends.
    ends: Vec<usize>,
    items: Vec<T>,
}

impl<T: Clone + Default> Buckets<T> {
    /// Sorts what `each` hands out, twice the same, into `count` buckets.
    fn new(count: usize, each: impl Fn(&mut dyn FnMut(usize, T))) -> Result<Self, TryReserveError> {
        let mut ends = Vec::new();
        ends.try_reserve_exact(count)?;
        ends.resize(count, 0);
        each(&mut |bucket, _| ends[bucket] += 1);
        // The number of items becomes where the bucket starts, and as it is filled where it ends.
        let mut total = 0;
        for end in &mut ends {
            total += std::mem::replace(end, total);
        }
        let mut items = Vec::new();
        items.try_reserve_exact(total)?;
        items.resize(total, T::default());
        each(&mut |bucket, item| {
            items[ends[bucket]] = item;
            ends[bucket] += 1;
        });
        Ok(Self { ends, items })
    }

    fn get(&self, bucket: usize) -> &[T] {
        let start = bucket.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.items[start..self.ends[bucket]]
    }
}
