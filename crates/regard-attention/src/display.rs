//! A plan in words.

use std::fmt;

use regard_kernels::peak::{self, Unit};
use regard_kernels::{PANEL, ROWS};
use regard_threads::Pool;

use crate::fold::BLOCK;
use crate::{CacheDtype, Plan, Regime, Sequence, Shape};

/// Seconds, in the unit that suits them.
struct Span(f64);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Span(seconds) = *self;
        match seconds {
            1.0.. => write!(f, "{seconds:.2} s"),
            1e-3.. => write!(f, "{:.2} ms", seconds * 1e3),
            _ => write!(f, "{:.2} µs", seconds * 1e6),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shape { batch, heads, kv_heads, queries, keys, dim_k, dim_v } = self.shape;
        writeln!(
            f,
            "attention {batch} × {heads} heads ({kv_heads} of keys), {queries} × {keys}, dim {dim_k} → {dim_v}"
        )?;
        let live = if self.live_pairs() == 0 { 0.0 } else { self.live_pairs() as f64 / self.pairs() };
        writeln!(f, "mask      {} ({:.1}% of all pairs live)", self.mask, 100.0 * live)?;
        writeln!(f, "kernels   {}, tiles of {ROWS} rows × {PANEL} keys", self.kernels.isa())?;
        for phase in self.phases_of_tensors().iter().filter(|phase| !phase.sequences.is_empty()) {
            let sequences = phase.sequences.len();
            let tasks = if phase.regime == Regime::Strips { phase.strips.count() } else { phase.cuts.count() };
            match phase.regime {
                Regime::Strips => {
                    let strip = phase.sequences.iter().map(|&number| self.sequences[number].strip).max().unwrap_or(0);
                    writeln!(
                        f,
                        "regime    strips: {tasks} tasks over {sequences} sequences, of {strip} queries; each packs the keys that it keeps"
                    )?;
                }
                Regime::Blocks => {
                    let block = phase.sequences.iter().map(|&number| self.sequences[number].block).max().unwrap_or(0);
                    writeln!(
                        f,
                        "regime    blocks: {tasks} tasks over {sequences} sequences, of {block} queries × {} keys",
                        BLOCK * PANEL
                    )?;
                }
                Regime::Edges => writeln!(
                    f,
                    "regime    edges: {tasks} tasks over {sequences} sequences; each query goes over the keys that it sees"
                )?,
                Regime::Splits => {
                    let keys = phase.sequences.first().map_or(0, |&number| self.sequences[number].split_panels);
                    let splits: usize = phase.sequences.iter().map(|&number| self.sequences[number].splits).sum();
                    writeln!(
                        f,
                        "regime    splits: {} tasks over {sequences} sequences, of {} keys, merged by state",
                        splits.saturating_mul(kv_heads),
                        keys * PANEL
                    )?;
                }
            }
        }
        let (tiles, edges, price) = self.cost();
        write!(f, "work      {:.3} GFLOP", self.flops() / 1e9)?;
        if tiles.computed() > 0 {
            let share = |pairs: u64| 100.0 * pairs as f64 / tiles.computed() as f64;
            let [live, full, rim, gathered] = [tiles.live, tiles.full, tiles.rim, tiles.gathered].map(share);
            write!(
                f,
                "; of the pairs that tiles compute {live:.1}% are live ({full:.1}% in full panels, {rim:.1}% in rims, {gathered:.1}% gathered)"
            )?;
        }
        if edges > 0 {
            write!(f, "; {:.1}% of the live pairs one by one", 100.0 * edges as f64 / self.live_pairs() as f64)?;
        }
        for (name, stored) in [("f32", CacheDtype::F32), ("bf16", CacheDtype::Bf16)] {
            let Prediction { seconds, limit, unit, rate } = self.predict(price, stored);
            let bound = match unit {
                Unit::Read => format!("memory at {:.0} GB/s", rate / 1e9),
                _ => format!("arithmetic at {:.0} GFLOP/s", rate / 1e9),
            };
            write!(f, "\n{name:<10}{} predicted; this machine's limit is {}, by {bound}", Span(seconds), Span(limit))?;
        }
        Ok(())
    }
}

/// What a call is expected to take.
struct Prediction {
    seconds: f64,
    /// The least that this machine can do it in.
    limit: f64,
    /// What sets that, and at how many a second.
    unit: Unit,
    rate: f64,
}

impl Plan {
    /// What a call of all threads takes over numbers that are stored so, and come from memory once.
    fn predict(&self, price: f64, stored: CacheDtype) -> Prediction {
        let isa = self.kernels.isa();
        // The softmax comes on top of the products: measured by the example `tile` of regard-kernels.
        let (unit, softmax) =
            if stored == CacheDtype::Bf16 && isa.has_bf16_dots() { (Unit::Bf16, 1.3) } else { (Unit::F32, 1.11) };
        // Without memory to measure it, reading is taken to cost nothing.
        let rate = |unit| peak::rate(isa, unit, Pool::global().threads()).unwrap_or(f64::INFINITY);
        let (of_unit, read) = (rate(unit), rate(Unit::Read));
        let Shape { heads, kv_heads, dim_k, dim_v, .. } = self.shape;
        let rows = |s: &Sequence| heads as f64 * s.queries.len() as f64 + kv_heads as f64 * s.keys.len() as f64;
        let numbers = self.sequences.iter().map(rows).sum::<f64>() * (dim_k as f64 + dim_v as f64);
        let (arithmetic, memory) = (self.flops() / of_unit, numbers * stored.bytes() as f64 / read);
        let products = softmax * arithmetic * (price / self.live_pairs().max(1) as f64);
        // Splits fold keys as they stream in; elsewhere they are packed first.
        let streams =
            self.phases_of_tensors().iter().all(|phase| phase.regime == Regime::Splits || phase.sequences.is_empty());
        let seconds = if streams { products.max(memory) } else { products + memory };
        let (limit, unit, rate) =
            if memory > arithmetic { (memory, Unit::Read, read) } else { (arithmetic, unit, of_unit) };
        Prediction { seconds, limit, unit, rate }
    }
}
