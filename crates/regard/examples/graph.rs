//! Attention guided by an HNSW index of the keys: what each mask and retrieval keeps of exact attention, and what it costs
//! beside it.
//!
//!     cargo run --release -p regard --example graph

use std::time::Instant;

use ndarray::{Array4, ArrayView2, ArrayView4, Axis};
use regard::graph::{Index, Measure, Parameters, Report, Retrieval, Sight};
use regard::masks::Edges;
use regard::{Attention, Mask};

const TOKENS: usize = 8192;
const DIM: usize = 64;
/// Keys that are retrieved for each query, and of which recall is told.
const COUNT: usize = 32;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Tokens that lie in clusters, as those of real text do: numbers that follow from a counter.
fn tokens(stream: usize) -> Array4<f32> {
    let noise = |seed: usize| {
        let x = (seed as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let x = (x ^ x >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        ((x ^ x >> 27) >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    Array4::from_shape_fn((1, 1, TOKENS, DIM), |(_, _, i, c)| {
        let cluster = i * 7919 % 97;
        1.5 * noise(cluster * DIM + c) + 0.75 * noise(1 << 30 | stream << 24 | (i * DIM + c))
    })
}

/// What a call gives, and how many milliseconds it takes.
fn timed<R>(run: impl FnOnce() -> Result<R>) -> Result<(R, f64)> {
    let start = Instant::now();
    let result = run()?;
    Ok((result, start.elapsed().as_secs_f64() * 1e3))
}

fn line(what: &str, report: &Report, milliseconds: f64) {
    let [density, recall, mass, lowest] =
        [report.density, report.recall.mean, report.mass.mean, report.mass.lowest].map(|share| 100.0 * share);
    println!("| {what:<34} | {density:6.2} | {recall:6.2} | {mass:6.2} | {lowest:6.2} | {milliseconds:7.1} |");
}

/// The graph's masks, and others of about their size; all under `of`.
fn masks(of: &Mask, index: &Index, q: ArrayView4<f32>, k: ArrayView4<f32>, v: ArrayView4<f32>) -> Result<()> {
    let reach = index.mean_degree().round() as usize;
    let density = 2.0 * index.mean_degree() / TOKENS as f64;
    let masks = [
        ("dense", Mask::full()),
        ("layers(1)", index.layers(1)?),
        ("hierarchy", index.hierarchy()),
        ("edges", index.edges(Edges::Directed)?),
        ("edges, both ways", index.edges(Edges::Symmetric)?),
        ("adaptive", index.adaptive(None)?),
        ("no graph: a window as wide", Mask::window(Some(reach), Some(reach))),
        ("no graph: as many random keys", Mask::random(density, 1)?),
    ];
    let measure = Measure::new(q, k).of(of.clone()).top(COUNT);
    for (what, mask) in masks {
        let mask = of & mask;
        let run = || Ok(Attention::new(q, k, v).mask(mask.clone()).state()?);
        run()?;
        let (_, milliseconds) = timed(run)?;
        line(what, &measure.mask(&mask)?, milliseconds);
    }
    Ok(())
}

fn main() -> Result<()> {
    let (q, k, v) = (tokens(1), tokens(2), tokens(3));
    let (q, k, v) = (q.view(), k.view(), v.view());
    let keys: ArrayView2<f32> = k.index_axis_move(Axis(0), 0).index_axis_move(Axis(0), 0);
    let (index, milliseconds) = timed(|| Ok(Index::new(keys, &Parameters::default())?))?;
    let on = |level: usize| index.levels().iter().filter(|&&has| usize::from(has) >= level).count();
    let levels: Vec<usize> = (0..=index.highest_level()).map(on).collect();
    println!("{TOKENS} keys of {DIM}; nodes by level {levels:?}, {:.1} links a node", index.mean_degree());
    println!("the index is built in {milliseconds:.0} ms\n");

    let header = "| keeps, of exact attention          | pairs% | top 32 |  mass% | lowest |      ms |";
    let rule = "| ---------------------------------- | -----: | -----: | -----: | -----: | ------: |";
    println!("{header}\n{rule}");
    masks(&Mask::full(), &index, q, k, v)?;
    let retrieval = Retrieval::new(COUNT).width(2 * COUNT).window(Some(31), Some(32)).first(4);
    let measure = Measure::new(q, k).top(COUNT);
    let indexes = [index];
    let (retrieved, milliseconds) = timed(|| Ok(retrieval.run_with(q, k, v, &indexes)?))?;
    line("retrieval, window, first keys", &measure.retrieved(&retrieved)?, milliseconds);

    println!("\n{}\n{rule}", header.replace("of exact attention ", "of causal attention"));
    masks(&Mask::causal(), &indexes[0], q, k, v)?;
    let retrieval = retrieval.window(Some(63), Some(0));
    let measure = measure.of(Mask::causal());
    let filtered = retrieval.clone().sight(Sight::Filtered);
    let (retrieved, milliseconds) = timed(|| Ok(filtered.run_with(q, k, v, &indexes)?))?;
    line("retrieval, filtered", &measure.retrieved(&retrieved)?, milliseconds);
    let scans = retrieved.scans();
    let (retrieved, milliseconds) = timed(|| Ok(retrieval.sight(Sight::Grown).run(q, k, v)?))?;
    line("retrieval, grown (index included)", &measure.retrieved(&retrieved)?, milliseconds);
    println!("\nall keys looked at for {scans} queries (filtered), {} (grown)", retrieved.scans());
    Ok(())
}
