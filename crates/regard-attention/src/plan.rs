//! What is decided before any number is touched: sequences, layouts, tasks.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::f64::consts::LOG2_E;
use std::ops::Range;
use std::sync::OnceLock;

use regard_kernels::{Adjustment, COLUMNS, Kernels, PANEL, ROWS};
use regard_masks::{BlockLayout, Cost, Gather, Mask, TileShape};
use regard_memory::Cuts;
use regard_simd::Isa;
use regard_threads::interrupted;

use crate::backward::BackwardPlan;
use crate::edges::Lists;
use crate::sequence::{find_dead, lay_out, reserve};
use crate::strip::{panels_of_a_block, tiles_of};
use crate::{Crossovers, Dropout, Error, Options, Regime, Sequence, Sequences, Shape};

/// Pairs of a tile that one pair costs by itself in the forward pass: so many, and so many over the mean of both dimensions.
/// Measured with scattered keys: 7.5 for heads of 64 and 5.4 for heads of 128 (`regard bench --crossovers --only scattered`).
const EDGE: f64 = 4.0;
const EDGE_OF_DIM: f64 = 220.0;

/// How many times as much it costs in the backward pass: 13 for heads of 64, 10 for heads of 128, 32 for heads of 16.
const BACKWARD: f64 = 1.8;

/// Pairs of a row in the backward pass by edges, at most, for each element of a key and of a value: its scratch is then that
/// of some rows.
const KEPT: f64 = 4.0;

/// What a layout costs, in pairs of a tile: by its tiles, and by its edges.
#[derive(Clone, Copy, Debug)]
struct Price {
    forward: [f64; 2],
    backward: [f64; 2],
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
/// assert_eq!(plan.live_pairs(), 8 * 1024 * 1025 / 2);
/// # Ok::<(), regard_attention::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Plan {
    pub(crate) shape: Shape,
    pub(crate) kernels: Kernels,
    pub(crate) scale: f64,
    pub(crate) mask: Mask,
    pub(crate) options: Options,
    pub(crate) sequences: Vec<Sequence>,
    /// Rows of queries that are in no sequence.
    pub(crate) dead: Vec<(usize, Range<usize>)>,
    /// Whether the mask tells batch entries or heads apart.
    mask_varies: bool,
    /// Whether it tells heads apart.
    mask_by_head: bool,
    /// Whether a row of it may have more than a few runs: keys that are scattered.
    mask_scatters: bool,
    pub(crate) layouts: Layouts,
    /// All sequences, as they are folded in tiles.
    pub(crate) phases: [Phase; 3],
    /// Whether some go by their edges; then those that do not, and those that do.
    goes_apart: bool,
    apart: Vec<Phase>,
    /// A list of lengths that is not needed.
    spare: Vec<usize>,
    backward: OnceLock<BackwardPlan>,
}

/// The layouts of a plan.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layouts {
    /// Those that differ.
    pub all: Vec<BlockLayout>,
    /// Which one each (sequence, key/value head) has; the first where nothing is said.
    of: Vec<u32>,
    /// The pairs of each one by one, made when they are first needed.
    lists: Vec<OnceLock<Lists>>,
    /// What computing with each costs, in pairs of a tile.
    prices: Vec<Price>,
}

impl Layouts {
    /// The number of the layout of a sequence and head.
    pub(crate) fn number(&self, sequence: usize, head: usize, kv_heads: usize) -> usize {
        self.of.get(sequence.saturating_mul(kv_heads).saturating_add(head)).map_or(0, |&number| number as usize)
    }

    /// Finds what computing with each layout costs.
    pub(crate) fn set_prices(&mut self, Crossovers { edge, gather, .. }: Crossovers, shape: Shape) {
        let dims = (shape.dim_k as f64 + shape.dim_v as f64) / 2.0;
        self.prices.clear();
        self.prices.extend(self.all.iter().map(|layout| {
            let Cost { live, full, rim, rims, gathered } = layout.cost();
            // Keys are copied once a list, and each of its panels is computed a little dearer than a rim.
            let as_rims = |cost: f32| f64::from(cost / gather.rim);
            let copied = layout.size().keys as f64 * (ROWS * PANEL) as f64 * as_rims(gather.key);
            let tiles = full as f64 + rim as f64 + gathered as f64 * as_rims(gather.panel) + copied;
            let rows = layout.n_q() as f64 * layout.tile_shape().group as f64;
            let each = f64::from(edge) * (EDGE + EDGE_OF_DIM / dims);
            // To begin a row costs about what one stretch of a rim does.
            let begun = rows * COLUMNS as f64 * f64::from(edge.min(1.0));
            // Lists number pairs, queries and keys in 32 bits.
            let counts = [live, layout.n_q() as u64, layout.n_k() as u64];
            let listed = edge.is_finite() && counts.iter().all(|&count| u32::try_from(count).is_ok());
            let edges = |pair: f64| if listed { live as f64 * pair + begun } else { f64::INFINITY };
            // The pairs' numbers are kept from one step of the backward pass to the next: as many as a row has elements.
            let kept = edge == 0.0 || live as f64 <= rows * KEPT * (shape.dim_k as f64 + shape.dim_v as f64);
            Price {
                forward: [tiles, edges(each)],
                // A rim costs the backward pass a panel, however little of it is kept.
                backward: [full as f64 + rims as f64, if kept { edges(each * BACKWARD) } else { f64::INFINITY }],
            }
        }));
    }

    /// What a sequence costs: in tiles, and pair by pair.
    fn price(&self, sequence: usize, kv_heads: usize, of: impl Fn(&Price) -> [f64; 2]) -> [f64; 2] {
        // Where all heads are alike one stands for all.
        let (heads, times) = if self.of.is_empty() { (kv_heads.min(1), kv_heads as f64) } else { (kv_heads, 1.0) };
        let prices = (0..heads).filter_map(|head| self.prices.get(self.number(sequence, head, kv_heads)));
        prices.map(of).fold([0.0; 2], |sum, price| [sum[0] + times * price[0], sum[1] + times * price[1]])
    }

    /// Whether the pairs of a sequence cost less one by one in the forward pass.
    fn forward_by_edges(&self, sequence: usize, kv_heads: usize) -> bool {
        let [tiles, edges] = self.price(sequence, kv_heads, |price| price.forward);
        edges < tiles
    }

    /// The same in the backward pass.
    pub(crate) fn backward_by_edges(&self, sequence: usize, kv_heads: usize) -> bool {
        let [tiles, edges] = self.price(sequence, kv_heads, |price| price.backward);
        edges < tiles
    }

    /// The layout of a sequence and head.
    pub(crate) fn of(&self, sequence: usize, head: usize, kv_heads: usize) -> &BlockLayout {
        &self.all[self.number(sequence, head, kv_heads)]
    }
}

/// The sequences of one regime: one phase of a call.
#[derive(Clone, Debug)]
pub(crate) struct Phase {
    pub regime: Regime,
    /// Numbers of sequences.
    pub sequences: Vec<usize>,
    /// Their rows of queries, by block.
    pub cuts: Cuts,
    /// Where a task is a strip: their rows of queries, by strip.
    pub strips: Cuts,
}

impl Phase {
    fn new(regime: Regime) -> Phase {
        Phase { regime, sequences: Vec::new(), cuts: Cuts::default(), strips: Cuts::default() }
    }

    /// Takes in those sequences that it is said to.
    fn set(&mut self, all: &[Sequence], kv_heads: usize, has: impl Fn(&Sequence) -> bool) -> Result<(), Error> {
        self.sequences.clear();
        // Room for all in every phase: a sequence that grows goes from one to another.
        self.sequences.reserve(all.len());
        self.cuts.reserve(all.len());
        self.strips.reserve(all.len());
        let has = |sequence: &&Sequence| !sequence.queries.is_empty() && has(sequence);
        let numbers = all.iter().enumerate().filter(|(_, sequence)| has(sequence));
        self.sequences.extend(numbers.map(|(number, _)| number));
        let chosen = || all.iter().filter(has);
        let blocks = chosen().map(|sequence| (sequence.batch, sequence.queries.clone(), sequence.block));
        self.cuts.set(kv_heads, blocks)?;
        if self.regime == Regime::Strips {
            let strips = chosen().map(|sequence| (sequence.batch, sequence.queries.clone(), sequence.strip));
            self.strips.set(kv_heads, strips)?;
        }
        Ok(())
    }

    /// A key/value head of a sequence, counted over the phase.
    pub(crate) fn unit(&self, index: usize, kv_heads: usize) -> Unit {
        Unit { sequence: self.sequences[index / kv_heads], head: index % kv_heads }
    }
}

/// A key/value head of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unit {
    pub sequence: usize,
    pub head: usize,
}

impl Plan {
    /// Decides how attention of this shape and mask is computed.
    ///
    /// # Errors
    /// The heads do not form groups, lengths or segments do not fit the shape, the mask tells other batch entries or heads
    /// apart than there are, an option is out of its range, or `REGARD_ISA` names what this CPU does not have.
    pub fn new(shape: Shape, mask: &Mask, options: &Options) -> Result<Plan, Error> {
        shape.check()?;
        let isa = match options.isa {
            Some(isa) => isa,
            None => Isa::from_environment()?,
        };
        let scale = options.scale.unwrap_or(1.0 / (shape.dim_k.max(1) as f64).sqrt());
        if !((scale * LOG2_E) as f32).is_finite() {
            return Err(Error::Option {
                option: "scale",
                has: scale,
                expected: "a number that is finite in f32, times log2(e) too",
            });
        }
        if let Some(cap) = options.softcap
            && !(cap > 0.0 && (cap as f32).is_finite() && cap as f32 > 0.0 && (1.0 / cap as f32).is_finite())
        {
            return Err(Error::Option {
                option: "softcap",
                has: cap,
                expected: "positive, and it and 1 over it finite in f32",
            });
        }
        if let Some(Dropout { probability, .. }) = options.dropout
            && !(0.0..1.0).contains(&probability)
        {
            let has = f64::from(probability);
            return Err(Error::Option { option: "dropout", has, expected: "at least 0 and below 1" });
        }
        mask_fits(mask, shape)?;
        let mut plan = Plan {
            shape,
            kernels: Kernels::new(isa),
            scale,
            mask: mask.clone(),
            options: options.clone(),
            sequences: Vec::new(),
            dead: Vec::new(),
            mask_varies: mask.batch()? > 1 || mask.heads()? > 1,
            mask_by_head: mask.heads()? > 1,
            mask_scatters: crate::sequence::scatters(mask),
            layouts: Layouts::default(),
            backward: OnceLock::new(),
            phases: Regime::TILES.map(Phase::new),
            goes_apart: false,
            apart: Vec::new(),
            spare: Vec::new(),
        };
        plan.decide()?;
        Ok(plan)
    }

    /// The same for other numbers of queries and keys: what a generation loop does at every token. Allocates nothing once
    /// the layout's capacity suffices.
    ///
    /// # Errors
    /// The plan has lengths or segments of its own that do not fit these numbers, or the layout cannot be compiled; the plan
    /// stays as it was.
    pub fn resize(&mut self, queries: usize, keys: usize) -> Result<(), Error> {
        let before = self.shape;
        (self.shape.queries, self.shape.keys) = (queries, keys);
        let decided = self.decide();
        if decided.is_err() {
            self.shape = before;
            self.decide()?;
        }
        decided
    }

    /// The same for other lengths of the sequences' keys, a batch entry each: what a loop does that generates several
    /// texts at once. Every batch entry then has all the queries.
    ///
    /// # Errors
    /// There is not a length for each batch entry, the sequences are packed, or a layout cannot be compiled; the plan
    /// stays as it was.
    pub fn resize_keys(&mut self, queries: usize, lengths: &[usize]) -> Result<(), Error> {
        if matches!(self.options.sequences, Sequences::Packed(_)) {
            return Err(Error::Packed);
        }
        // Two lists take turns, so that none is allocated.
        let mut keys = std::mem::take(&mut self.spare);
        keys.clear();
        keys.extend_from_slice(lengths);
        let (before, most) = (self.shape, lengths.iter().copied().max().unwrap_or(0));
        (self.shape.queries, self.shape.keys) = (queries, most);
        let other = Sequences::Lengths { queries: None, keys: Some(keys) };
        let mut left = std::mem::replace(&mut self.options.sequences, other);
        let decided = self.decide();
        if decided.is_err() {
            self.shape = before;
            std::mem::swap(&mut self.options.sequences, &mut left);
            self.decide()?;
        }
        if let Sequences::Lengths { keys: Some(list), .. } = left {
            self.spare = list;
        }
        decided
    }

    /// Makes room for layouts of up to this many queries and keys: [`Plan::resize`] within them allocates nothing, where the
    /// mask scatters no keys.
    ///
    /// # Errors
    /// The layout would be too large.
    pub fn reserve(&mut self, queries: usize, keys: usize) -> Result<(), Error> {
        let tile = self.tile_shape();
        for layout in &mut self.layouts.all {
            layout.reserve(&self.mask, queries, keys, tile)?;
        }
        Ok(())
    }

    pub(crate) fn tile_shape(&self) -> TileShape {
        TileShape { rows: ROWS, group: self.shape.group() }
    }

    /// Everything that follows from shape, mask and options.
    fn decide(&mut self) -> Result<(), Error> {
        let mut sequences = std::mem::take(&mut self.sequences);
        let laid_out = lay_out(self.shape, &self.options, &mut sequences);
        self.sequences = sequences;
        laid_out?;
        self.backward = OnceLock::new();
        let queries = self.sequences.iter().map(|sequence| (sequence.batch, sequence.queries.clone()));
        find_dead((self.shape.batch, self.shape.queries), queries, &mut self.dead)?;
        self.compile()?;
        self.find_strips();
        self.find_edges();
        let kv_heads = self.shape.kv_heads;
        for phase in &mut self.phases {
            let regime = phase.regime;
            phase.set(&self.sequences, kv_heads, |sequence| sequence.tiles() == regime)?;
        }
        self.goes_apart = self.sequences.iter().any(|sequence| sequence.by_edges);
        if self.goes_apart {
            if self.apart.is_empty() {
                self.apart.extend(Regime::TILES.into_iter().chain([Regime::Edges]).map(Phase::new));
            }
            for phase in &mut self.apart {
                let regime = phase.regime;
                phase.set(&self.sequences, kv_heads, |sequence| sequence.regime() == regime)?;
            }
        }
        // Sequences of different regimes must not share queries either; each phase has checked its own.
        if self.phases.iter().filter(|phase| !phase.sequences.is_empty()).count() > 1 {
            let all = self.sequences.iter().map(|sequence| (sequence.batch, sequence.queries.clone(), 1));
            Cuts::new(1, all)?;
        }
        Ok(())
    }

    /// Compiles the layouts: one where all sequences are alike, else one for each that differs.
    fn compile(&mut self) -> Result<(), Error> {
        let mut layouts = std::mem::take(&mut self.layouts);
        let compiled = self.lay_out_keys(Some(self.options.crossovers.gather), &mut layouts);
        self.layouts = layouts;
        compiled
    }

    /// Cuts into strips what the mask lets: sequences whose blocks of queries keep few keys each.
    fn find_strips(&mut self) {
        let (kv_heads, group) = (self.shape.kv_heads, self.shape.group());
        let most = self.options.crossovers.keys_of_a_strip / PANEL;
        // Neighbours mostly have the same layout.
        let mut last = None;
        for (number, sequence) in self.sequences.iter_mut().enumerate() {
            if sequence.tiles() != Regime::Blocks {
                continue;
            }
            let tiles = tiles_of(sequence.block, group);
            let mut of_head = |head| {
                let layout = self.layouts.number(number, head, kv_heads);
                match last {
                    Some((of, held)) if of == (layout, tiles) => held,
                    _ => {
                        let held = panels_of_a_block(&self.layouts.all[layout], tiles, most);
                        last = Some(((layout, tiles), held));
                        held
                    }
                }
            };
            let layouts = if self.layouts.of.is_empty() { self.layouts.all.len().min(1) } else { kv_heads };
            let held = (0..layouts).try_fold(0, |held, head| Some(held.max(of_head(head)?)));
            if let Some(held) = held {
                sequence.cut_into_strips(held);
            }
        }
    }

    /// Finds the sequences whose pairs cost less one by one.
    fn find_edges(&mut self) {
        let kv_heads = self.shape.kv_heads;
        self.layouts.set_prices(self.options.crossovers, self.shape);
        for (number, sequence) in self.sequences.iter_mut().enumerate() {
            sequence.by_edges = self.layouts.forward_by_edges(number, kv_heads);
        }
        self.layouts.lists.clear();
        self.layouts.lists.resize_with(self.layouts.all.len(), OnceLock::new);
    }

    /// The pairs of a unit one by one, listed when they are first asked for.
    pub(crate) fn lists(&self, unit: Unit) -> Result<&Lists, Error> {
        let number = self.layouts.number(unit.sequence, unit.head, self.shape.kv_heads);
        let lists = &self.layouts.lists[number];
        if let Some(lists) = lists.get() {
            return Ok(lists);
        }
        let made = Lists::new(&self.layouts.all[number], self.shape.group(), self.masks())?;
        Ok(lists.get_or_init(|| made))
    }

    /// How many masks the heads of a group have: one, or one each.
    fn masks(&self) -> usize {
        if self.mask_by_head { self.shape.group() } else { 1 }
    }

    /// The phases of a call over tensors.
    pub(crate) fn phases_of_tensors(&self) -> &[Phase] {
        if self.goes_apart { &self.apart } else { &self.phases }
    }

    pub(crate) fn lay_out_keys(&self, gather: Option<Gather>, layouts: &mut Layouts) -> Result<(), Error> {
        let (tile, group) = (self.tile_shape(), self.shape.group());
        let size = |sequence: &Sequence| (sequence.queries.len(), sequence.keys.len(), sequence.offset);
        // Of each layout by itself: what others in the batch keep must change nothing.
        let scatters = |masks: &[Mask]| match self.mask_varies {
            true => masks.iter().any(crate::sequence::scatters),
            false => self.mask_scatters,
        };
        let alike = self.sequences.windows(2).all(|pair| size(&pair[0]) == size(&pair[1]));
        layouts.of.clear();
        if alike && !self.mask_varies {
            let (queries, keys, offset) = self.sequences.first().map_or((0, 0, 0), size);
            layouts.all.truncate(1);
            if layouts.all.is_empty() {
                layouts.all.push(BlockLayout::new().that_ends(interrupted));
            }
            let masks = std::slice::from_ref(&self.mask);
            let gather = gather.filter(|_| scatters(masks));
            return Ok(layouts.all[0].compile_with(masks, queries, keys, offset, tile, gather)?);
        }
        layouts.all.clear();
        reserve(&mut layouts.of, self.sequences.len().saturating_mul(self.shape.kv_heads))?;
        let mut known = HashMap::new();
        for sequence in &self.sequences {
            for head in 0..self.shape.kv_heads {
                let masks: Vec<Mask> = match self.mask_varies {
                    true => (0..self.masks()).map(|g| self.mask.select(sequence.batch, head * group + g)).collect(),
                    false => vec![self.mask.clone()],
                };
                let (queries, keys, offset) = size(sequence);
                let number = match known.entry((queries, keys, offset, masks)) {
                    Entry::Occupied(entry) => *entry.get(),
                    Entry::Vacant(entry) => {
                        let mut layout = BlockLayout::new().that_ends(interrupted);
                        let gather = gather.filter(|_| scatters(&entry.key().3));
                        layout.compile_with(&entry.key().3, queries, keys, offset, tile, gather)?;
                        layouts.all.push(layout);
                        *entry.insert(layouts.all.len() as u32 - 1)
                    }
                };
                layouts.of.push(number);
            }
        }
        Ok(())
    }

    /// What the backward pass needs besides, made when it is first asked for.
    pub(crate) fn backward_plan(&self) -> Result<&BackwardPlan, Error> {
        if let Some(backward) = self.backward.get() {
            return Ok(backward);
        }
        let made = BackwardPlan::new(self)?;
        Ok(self.backward.get_or_init(|| made))
    }

    /// The sizes of a call.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The sequences of a call.
    pub fn sequences(&self) -> &[Sequence] {
        &self.sequences
    }

    /// Which panels of keys each query tile of a sequence and key/value head keeps.
    ///
    /// # Panics
    /// There is no such sequence or head.
    pub fn layout(&self, sequence: usize, kv_head: usize) -> &BlockLayout {
        assert!(
            sequence < self.sequences.len() && kv_head < self.shape.kv_heads,
            "sequence {sequence}, head {kv_head}"
        );
        self.layouts.of(sequence, kv_head, self.shape.kv_heads)
    }

    /// (query, key) pairs that the mask keeps, over all sequences and query heads.
    pub fn live_pairs(&self) -> u64 {
        let live: Vec<u64> = self.layouts.all.iter().map(|layout| layout.cost().live).collect();
        if self.layouts.of.is_empty() {
            let units = self.sequences.len().saturating_mul(self.shape.kv_heads) as u64;
            return live.first().map_or(0, |live| live.saturating_mul(units));
        }
        self.layouts.of.iter().map(|&number| live[number as usize]).fold(0, u64::saturating_add)
    }

    /// What tiles compute, over all sequences and query heads; the live pairs of those that go by their edges; and what both
    /// cost, in pairs of a tile.
    pub(crate) fn cost(&self) -> (Cost, u64, f64) {
        let costs: Vec<Cost> = self.layouts.all.iter().map(BlockLayout::cost).collect();
        let (kv_heads, alike) = (self.shape.kv_heads, self.layouts.of.is_empty());
        let (mut tiles, mut edges, mut price) = (Cost::default(), 0_u64, 0.0);
        for (number, sequence) in self.sequences.iter().enumerate() {
            price += self.layouts.price(number, kv_heads, |price| price.forward)[usize::from(sequence.by_edges)];
            // Where all heads are alike one counts for all.
            for head in 0..if alike { kv_heads.min(1) } else { kv_heads } {
                let cost = costs.get(self.layouts.number(number, head, kv_heads)).copied().unwrap_or_default();
                let cost = cost.times(if alike { kv_heads as u64 } else { 1 });
                match sequence.by_edges {
                    true => edges = edges.saturating_add(cost.live),
                    false => tiles = tiles.and(cost),
                }
            }
        }
        (tiles, edges, price)
    }

    /// (query, key) pairs of all sequences and query heads, live or not.
    pub fn pairs(&self) -> f64 {
        let pairs = self.sequences.iter().map(|s| s.queries.len() as f64 * s.keys.len() as f64);
        self.shape.heads as f64 * pairs.sum::<f64>()
    }

    /// Floating-point operations of a call: for each live pair two for each dimension of a key, and of a value.
    pub fn flops(&self) -> f64 {
        2.0 * self.live_pairs() as f64 * (self.shape.dim_k as f64 + self.shape.dim_v as f64)
    }

    /// The scores' way from the product to the softmax, where there is more to it than a factor.
    pub(crate) fn adjustment(&self, more: bool) -> Option<Adjustment> {
        let softcap = self.options.softcap.map(|cap| cap as f32);
        (more || softcap.is_some()).then_some(Adjustment { scale: self.scale as f32, softcap })
    }

    /// The factor that goes into queries, and the one that goes into the softmax. A product with the second keeps the
    /// order of scores: it is positive.
    ///
    /// Queries of 16 bits take the sign alone, as their products are exact in f32 (scaled in f32 they put the log-sum-exp
    /// off by up to 3 times what the plain method does, else by 1.6). Those of f32 take all of it: they are rounded once
    /// where every score would be (2.5 times without). Scores that are adjusted are scaled there.
    pub(crate) fn factors(&self, narrow: bool, adjusted: bool) -> (f32, f32) {
        let factor = (self.scale * LOG2_E) as f32;
        if adjusted {
            (1.0, LOG2_E as f32)
        } else if narrow && factor != 0.0 {
            (factor.signum(), factor.abs())
        } else {
            (factor, 1.0)
        }
    }
}

/// Refuses a mask that tells other batch entries or heads apart than there are.
fn mask_fits(mask: &Mask, shape: Shape) -> Result<(), Error> {
    for (axis, told, expected) in [("batch", mask.batch()?, shape.batch), ("heads", mask.heads()?, shape.heads)] {
        if told > 1 && told != expected {
            return Err(Error::Axis { tensor: "mask", axis, has: told, expected: format!("{expected} or 1") });
        }
    }
    Ok(())
}
