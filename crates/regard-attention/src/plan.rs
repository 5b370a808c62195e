//! What is decided before any number is touched: regime, tiles, splits, scratch.

use std::f64::consts::LOG2_E;
use std::fmt;

use regard_kernels::{Kernels, PANEL, ROWS};
use regard_masks::{BlockLayout, Mask, TileShape};
use regard_simd::Isa;

use crate::fold::{BLOCK, TILES};
use crate::{Error, Shape};

/// Panels of a split: 1024 keys. A split is long enough that merging it (a row of `dim_v`) costs under a percent, and
/// short enough that a single head of 4096 keys keeps four cores busy.
const SPLIT: usize = BLOCK;

/// Keys up to which a task packs a head for itself: its panels then stay in that core's second-level cache (512 keys of
/// 64 dimensions are 256 KiB of keys and values), and no core waits for another's packing.
const KEYS_OF_A_HEAD: usize = 512;

/// How the work is cut into tasks. Chosen from one sequence's own sizes, never from the batch or the threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Regime {
    /// A task is a key/value head: it packs the head's keys and folds all its queries.
    Heads,
    /// All cores pack the heads in flight, then a task is a block of queries.
    Blocks,
    /// Few queries: a task is a split of the keys, and the splits' states are merged.
    Splits,
}

/// What a caller may say beside the tensors and the mask.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Options {
    /// What scores are multiplied by; `1/√dim_k` unless given.
    pub scale: Option<f32>,
    /// Query `i` stands at key position `i + offset`; `keys − queries` unless given, so that the last query stands at the
    /// last key. 0 is the top-left rule of some libraries.
    pub offset: Option<i64>,
    /// The instruction set; the best of this CPU unless given.
    pub isa: Option<Isa>,
}

/// Attention of one shape and mask, decided once and run many times.
///
/// ```
/// use regard_attention::{Options, Plan, Shape};
/// use regard_masks::Mask;
///
/// let shape = Shape { batch: 1, heads: 8, kv_heads: 2, queries: 1024, keys: 1024, dim_k: 64, dim_v: 64 };
/// let plan = Plan::new(shape, &Mask::causal(), &Options::default())?;
/// println!("{plan}");
/// assert_eq!(plan.live_pairs(), 1024 * 1025 / 2);
/// # Ok::<(), regard_attention::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Plan {
    pub(crate) shape: Shape,
    pub(crate) kernels: Kernels,
    pub(crate) scale: f32,
    pub(crate) layout: BlockLayout,
    mask: Mask,
    offset: Option<i64>,
}

impl Plan {
    /// Decides how attention of this shape and mask is computed.
    ///
    /// # Errors
    /// The heads do not form groups, the scale is not finite, or `REGARD_ISA` names what this CPU does not have.
    pub fn new(shape: Shape, mask: &Mask, options: &Options) -> Result<Plan, Error> {
        shape.check()?;
        let isa = match options.isa {
            Some(isa) => isa,
            None => Isa::from_environment()?,
        };
        let scale = options.scale.unwrap_or(1.0 / (shape.dim_k.max(1) as f32).sqrt());
        if !((f64::from(scale) * LOG2_E) as f32).is_finite() {
            let expected = "a number that is finite, times log2(e) too";
            return Err(Error::Option { option: "scale", has: f64::from(scale), expected });
        }
        let layout = BlockLayout::new();
        let kernels = Kernels::new(isa);
        let mut plan = Plan { shape, kernels, scale, layout, mask: mask.clone(), offset: options.offset };
        plan.compile()?;
        Ok(plan)
    }

    /// The same for other numbers of queries and keys: what a generation loop does at every token. Allocates nothing once
    /// the layout's capacity suffices.
    ///
    /// # Errors
    /// The layout cannot be compiled; the plan stays as it was.
    pub fn resize(&mut self, queries: usize, keys: usize) -> Result<(), Error> {
        let before = self.shape;
        (self.shape.queries, self.shape.keys) = (queries, keys);
        let compiled = self.compile();
        if compiled.is_err() {
            self.shape = before;
            self.compile()?;
        }
        compiled
    }

    /// Makes room for layouts of up to this many queries and keys: [`Plan::resize`] within them allocates nothing.
    ///
    /// # Errors
    /// The layout would be too large.
    pub fn reserve(&mut self, queries: usize, keys: usize) -> Result<(), Error> {
        Ok(self.layout.reserve(&self.mask, queries, keys, self.tile_shape())?)
    }

    fn tile_shape(&self) -> TileShape {
        TileShape { rows: ROWS, group: self.shape.group() }
    }

    fn compile(&mut self) -> Result<(), Error> {
        let Shape { queries, keys, .. } = self.shape;
        let offset = self.offset.unwrap_or(keys as i64 - queries as i64);
        Ok(self.layout.compile(&self.mask, queries, keys, offset, self.tile_shape())?)
    }

    /// The sizes of a call.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Which panels of keys each query tile keeps.
    pub fn layout(&self) -> &BlockLayout {
        &self.layout
    }

    /// (query, key) pairs that the mask keeps, of one batch entry and head.
    pub fn live_pairs(&self) -> u64 {
        self.layout.live_pairs()
    }

    /// Floating-point operations of a call: for each live pair and head two for each dimension of a key, and of a value.
    pub fn flops(&self) -> f64 {
        let Shape { batch, heads, dim_k, dim_v, .. } = self.shape;
        2.0 * self.live_pairs() as f64 * (batch * heads * (dim_k + dim_v)) as f64
    }

    /// How the work is cut.
    pub fn regime(&self) -> Regime {
        if self.splits() > 1 {
            Regime::Splits
        } else if self.shape.keys <= KEYS_OF_A_HEAD {
            Regime::Heads
        } else {
            Regime::Blocks
        }
    }

    /// Queries of a block: as many as fill [`TILES`] tiles, ending where a tile does.
    pub(crate) fn block_queries(&self) -> usize {
        let group = self.shape.group();
        let whole = ROWS / gcd(ROWS, group);
        (TILES * ROWS / group / whole * whole).max(whole).min(self.shape.queries.max(1))
    }

    /// Parts of the keys that are folded apart: 1 unless all queries fit one block.
    pub(crate) fn splits(&self) -> usize {
        let panels = self.shape.keys.div_ceil(PANEL);
        if self.shape.queries <= self.block_queries() { panels.div_ceil(SPLIT).max(1) } else { 1 }
    }

    /// The panels of split `split`.
    pub(crate) fn split(&self, split: usize) -> std::ops::Range<usize> {
        let panels = self.shape.keys.div_ceil(PANEL);
        if self.splits() == 1 { 0..panels } else { split * SPLIT..((split + 1) * SPLIT).min(panels) }
    }

    /// The factor that goes into queries, and the one that goes into the softmax. A product with the second keeps the
    /// order of scores: it is positive.
    ///
    /// Queries of 16 bits take the sign alone, as their products are exact in f32 (scaled in f32 they put the log-sum-exp
    /// off by up to 3 times what the plain method does, else by 1.6). Those of f32 take all of it: they are rounded once
    /// where every score would be (2.5 times without).
    pub(crate) fn factors(&self, narrow: bool) -> (f32, f32) {
        let factor = (f64::from(self.scale) * LOG2_E) as f32;
        if narrow && factor != 0.0 { (factor.signum(), factor.abs()) } else { (factor, 1.0) }
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shape { batch, heads, kv_heads, queries, keys, dim_k, dim_v } = self.shape;
        writeln!(
            f,
            "attention {batch} × {heads} heads ({kv_heads} of keys), {queries} × {keys}, dim {dim_k} → {dim_v}"
        )?;
        writeln!(f, "mask      {} ({:.1}% of all pairs live)", self.mask, 100.0 * self.layout.density())?;
        writeln!(f, "kernels   {}, tiles of {ROWS} rows × {PANEL} keys", self.kernels.isa())?;
        match self.regime() {
            Regime::Heads => writeln!(f, "regime    heads: a task packs one head and folds all its queries")?,
            Regime::Blocks => writeln!(
                f,
                "regime    blocks of {} queries × {} keys, {} tasks",
                self.block_queries(),
                BLOCK * PANEL,
                batch * kv_heads * queries.div_ceil(self.block_queries())
            )?,
            Regime::Splits => {
                writeln!(f, "regime    splits: {} parts of {} keys, merged by state", self.splits(), SPLIT * PANEL)?
            }
        }
        write!(f, "work      {:.3} GFLOP", self.flops() / 1e9)
    }
}
