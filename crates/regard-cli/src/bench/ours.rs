//! Our side of a case: everything prepared, and one call of it.

mod place;

use regard_attention::{
    Cache, Cached, Error, Gradients, Inputs as Tensors, Options, Outputs, PAGE, PagePool, PagedCache, Plan, Segment,
    Sequences, Shape, SharedPrefix, Terms, Upstream,
};
use regard_memory::{Arena, Tensor};
use regard_simd::Isa;
use regard_threads::Pool;

use self::place::Place;
use crate::bench::answer::Answer;
use crate::bench::case::{Case, Kept};
use crate::bench::inputs::{Inputs, Stored};
use crate::bench::memory::{Memory, Meter};

/// Bytes of keys and values that decoding rotates over: more than caches hold.
pub(crate) const FROM_MEMORY: usize = 128 << 20;

/// A case, ready to be called.
pub(crate) struct Ours<'a, T: Stored> {
    inputs: Inputs<T>,
    shape: Shape,
    way: Way,
    /// Calls so far.
    calls: usize,
    pub(crate) answer: Answer<T>,
    /// `[batch, heads, queries, 1]`: the log-sum-exp, where gradients are asked for.
    lse: Vec<f32>,
    scratch: Arena,
    meter: Meter,
    pool: &'a Pool,
}

/// What the engine is asked to do.
enum Way {
    /// Calls one after the other: one for everything, or one for each sequence.
    Parts(Vec<Part>),
    /// Decoding, in turn over copies of the keys and values, in each a cache for every batch entry.
    Cached { plan: Box<Plan>, copies: Vec<Vec<Box<dyn Cached>>> },
    /// Sequences that begin alike, in turn over the copies of their beginning that the batch entries hold.
    Prefix { attention: Box<SharedPrefix>, keys: usize },
}

/// A plan, and the first batch entry, query and key that it sees.
struct Part {
    plan: Plan,
    batch: usize,
    query: usize,
    key: usize,
}

impl<'a, T: Stored> Ours<'a, T> {
    /// A case, computed with these options (the sequences are the case's own).
    pub(crate) fn new(case: &Case, inputs: Inputs<T>, options: &Options, pool: &'a Pool) -> Result<Self, Error> {
        let Shape { batch, heads, queries, .. } = case.shape;
        let mut meter = Meter::default();
        let mut way = meter.count(|| Way::new(case, options))?;
        if let Way::Cached { copies, .. } = &mut way {
            *copies = caches(case, &inputs, options.isa.unwrap_or_else(Isa::best), pool)?;
        }
        let lse = vec![0.0; if case.backward { batch * heads * queries } else { 0 }];
        let (answer, scratch) = (Answer::to(case), Arena::new());
        Ok(Ours { inputs, shape: case.shape, way, calls: 0, answer, lse, scratch, meter, pool })
    }

    /// The same, planned with other options.
    pub(crate) fn plan_again(&mut self, case: &Case, options: &Options) -> Result<(), Error> {
        match (&mut self.way, Way::new(case, options)?) {
            (Way::Cached { plan, .. }, Way::Cached { plan: other, .. }) => *plan = other,
            (way, other) => *way = other,
        }
        Ok(())
    }

    pub(crate) fn inputs(&self) -> &Inputs<T> {
        &self.inputs
    }

    /// (query, key) pairs that live, over all batch entries and query heads.
    pub(crate) fn live_pairs(&self) -> u64 {
        match &self.way {
            Way::Parts(parts) => parts.iter().map(|part| part.plan.live_pairs()).sum(),
            Way::Cached { plan, .. } => plan.live_pairs(),
            Way::Prefix { attention, .. } => attention.prefix().live_pairs() + attention.own().live_pairs(),
        }
    }

    pub(crate) fn memory(&self) -> Memory {
        self.meter.memory()
    }

    /// One call; what it gives then stands in `answer`.
    pub(crate) fn call(&mut self) -> Result<(), Error> {
        let Ours { inputs, way, answer, lse, scratch, meter, pool, .. } = self;
        let (all, pool) = (self.shape, *pool);
        match way {
            Way::Parts(parts) => {
                for Part { plan, batch, query, key } in parts {
                    let shape = plan.shape();
                    let queries = queries(all, (*batch, shape.batch), (*query, shape.queries));
                    let keys = keys(all, (*batch, shape.batch), (*key, shape.keys));
                    let tensors = Tensors::new(queries.of(&inputs.q)?, keys.of(&inputs.k)?, keys.of(&inputs.v)?);
                    let Answer { out, dq, dk, dv } = &mut *answer;
                    if lse.is_empty() {
                        let outputs = Outputs::new(queries.of_mut(out)?);
                        meter.count(|| plan.run(&tensors, outputs, scratch, pool))?;
                        continue;
                    }
                    let outputs = Outputs::state(queries.of_mut(out)?, queries.of_mut(lse)?);
                    meter.count(|| plan.run(&tensors, outputs, scratch, pool))?;
                    let upstream = Upstream {
                        out: queries.of(out)?,
                        lse: queries.of(lse)?,
                        out_gradient: queries.of(&inputs.grad)?,
                        lse_gradient: None,
                    };
                    let gradients = Gradients::new(queries.of_mut(dq)?, keys.of_mut(dk)?, keys.of_mut(dv)?);
                    meter.count(|| plan.backward(&tensors, &upstream, gradients, scratch, pool))?;
                }
            }
            Way::Cached { plan, copies } => {
                let copy: Vec<&dyn Cached> = copies[self.calls % copies.len()].iter().map(|cache| &**cache).collect();
                let queries = queries(all, (0, all.batch), (0, all.queries));
                let (q, outputs) = (queries.of(&inputs.q)?, Outputs::new(queries.of_mut(&mut answer.out)?));
                meter.count(|| plan.run_cached(q, &copy, Terms::default(), outputs, scratch, pool))?;
            }
            Way::Prefix { attention, keys: prefix } => {
                let queries = queries(all, (0, all.batch), (0, all.queries));
                let shared = keys(all, (self.calls % all.batch, 1), (0, *prefix));
                let own = keys(all, (0, all.batch), (*prefix, all.keys - *prefix));
                let tensors = Tensors::new(queries.of(&inputs.q)?, own.of(&inputs.k)?, own.of(&inputs.v)?);
                let (k, v) = (shared.of(&inputs.k)?, shared.of(&inputs.v)?);
                let outputs = Outputs::new(queries.of_mut(&mut answer.out)?);
                meter.count(|| attention.run(&tensors, k, v, outputs, scratch, pool))?;
            }
        }
        self.calls += 1;
        self.meter.end_call();
        Ok(())
    }
}

/// Batch entries and rows, each the first and how many, of `[batch, heads, queries, _]`.
fn queries(all: Shape, batch: (usize, usize), rows: (usize, usize)) -> Place {
    Place { all: [all.batch, all.heads, all.queries], batch, rows }
}

/// The same of `[batch, kv_heads, keys, _]`.
fn keys(all: Shape, batch: (usize, usize), rows: (usize, usize)) -> Place {
    Place { all: [all.batch, all.kv_heads, all.keys], batch, rows }
}

impl Way {
    fn new(case: &Case, options: &Options) -> Result<Way, Error> {
        let (shape, mask) = (case.shape, case.keep.mask());
        let plan = |shape: Shape, sequences| Plan::new(shape, &mask, &Options { sequences, ..options.clone() });
        if case.prefix > 0 {
            let own = Shape { keys: shape.keys - case.prefix, ..shape };
            let attention = Box::new(SharedPrefix::new(own, case.prefix, &mask, options)?);
            return Ok(Way::Prefix { attention, keys: case.prefix });
        }
        if case.cache.is_some() {
            return Ok(Way::Cached { plan: Box::new(plan(shape, Sequences::Whole)?), copies: Vec::new() });
        }
        let at_once = |sequences| Ok(vec![Part { plan: plan(shape, sequences)?, batch: 0, query: 0, key: 0 }]);
        let alone = |Segment { batch, queries, keys }: Segment| {
            let shape = Shape { batch: 1, queries: queries.len(), keys: keys.len(), ..shape };
            Ok(Part { plan: plan(shape, Sequences::Whole)?, batch, query: queries.start, key: keys.start })
        };
        let parts: Result<Vec<Part>, Error> = match (case.packed.is_empty(), case.apart) {
            (true, _) => at_once(Sequences::Whole),
            (false, false) => at_once(Sequences::Packed(case.segments())),
            (false, true) => case.segments().into_iter().map(alone).collect(),
        };
        Ok(Way::Parts(parts?))
    }
}

/// Copies of the keys and values, in each a full cache for every batch entry.
fn caches<T: Stored>(
    case: &Case,
    inputs: &Inputs<T>,
    isa: Isa,
    pool: &Pool,
) -> Result<Vec<Vec<Box<dyn Cached>>>, Error> {
    let Shape { batch, kv_heads, keys, dim_k, dim_v, .. } = case.shape;
    let dtype = case.cache_dtype;
    let copies = FROM_MEMORY.div_ceil(batch * kv_heads * keys * case.key_bytes());
    let pages = PagePool::new(dtype, kv_heads, dim_k, dim_v, copies * batch * keys.div_ceil(PAGE))?;
    let cache = |entry: usize| -> Result<Box<dyn Cached>, Error> {
        let (len_k, len_v) = (kv_heads * keys * dim_k, kv_heads * keys * dim_v);
        let k = Tensor::contiguous(&inputs.k[entry * len_k..][..len_k], [1, kv_heads, keys, dim_k])?;
        let v = Tensor::contiguous(&inputs.v[entry * len_v..][..len_v], [1, kv_heads, keys, dim_v])?;
        if case.cache == Some(Kept::Paged) {
            let mut cache = PagedCache::new(&pages);
            cache.append(k, v, isa, pool)?;
            return Ok(Box::new(cache));
        }
        let mut cache = Cache::new(dtype, kv_heads, dim_k, dim_v, keys)?;
        cache.append(k, v, isa, pool)?;
        Ok(Box::new(cache))
    };
    (0..copies).map(|_| (0..batch).map(cache).collect()).collect()
}
