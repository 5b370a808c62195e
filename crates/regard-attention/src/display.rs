//! A plan in words.

use std::fmt;

use regard_kernels::peak::f32_rate;
use regard_kernels::{PANEL, ROWS};
use regard_threads::Pool;

use crate::fold::BLOCK;
use crate::{Plan, Regime, Shape};

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
        for phase in self.phases.iter().filter(|phase| !phase.sequences.is_empty()) {
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
        let rate = f32_rate(self.kernels.isa(), Pool::global().threads());
        write!(
            f,
            "work      {:.3} GFLOP, in f32 at least {} of this machine's {:.0} GFLOP/s",
            self.flops() / 1e9,
            Span(self.flops() / rate),
            rate / 1e9
        )
    }
}
