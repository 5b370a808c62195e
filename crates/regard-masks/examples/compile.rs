//! How long masks take to compile: `cargo run --release -p regard-masks --example compile`.

use std::hint::black_box;
use std::time::Instant;

use regard_masks::{BlockLayout, Error, Mask, TileShape};

/// Queries and keys of a long sequence.
const LONG: usize = 1_000_000;

/// The median of seven runs of `work`, in nanoseconds for each of `times` in a run.
fn nanoseconds(times: usize, mut work: impl FnMut() -> Result<(), Error>) -> Result<f64, Error> {
    let mut runs = [0.0; 7];
    for run in &mut runs {
        let start = Instant::now();
        for _ in 0..times {
            work()?;
        }
        *run = start.elapsed().as_nanos() as f64 / times as f64;
    }
    runs.sort_by(f64::total_cmp);
    Ok(runs[3])
}

fn main() -> Result<(), Error> {
    let tile = TileShape { rows: 6, group: 1 };
    let causal_window = Mask::causal() & Mask::window(Some(511), None);
    println!("{LONG} queries and keys, tiles of {} rows, from nothing", tile.rows);
    for mask in [
        Mask::window(Some(511), Some(0)),
        causal_window.clone(),
        &causal_window | Mask::prefix(4),
        &causal_window & Mask::strided(8)?,
        &causal_window | Mask::global_keys([0, 1000, 500_000]),
        Mask::block_diagonal(512)?,
    ] {
        let mut bytes = 0;
        let time = nanoseconds(1, || {
            let mut layout = BlockLayout::new();
            layout.compile(&mask, LONG, LONG, 0, tile)?;
            bytes = layout.size().bytes();
            black_box(layout);
            Ok(())
        })?;
        println!("{:8.2} ms {:8.2} MB  {mask}", time / 1e6, bytes as f64 / 1e6);
    }

    let keys = 8192;
    println!("one query and {keys} keys, again and again");
    for mask in [
        Mask::causal(),
        causal_window.clone(),
        &causal_window | Mask::prefix(4),
        causal_window | Mask::global_keys((0..keys).step_by(512)),
    ] {
        let mut layout = BlockLayout::new();
        let time = nanoseconds(10_000, || layout.compile(&mask, 1, keys, keys as i64 - 1, tile))?;
        println!("{time:8.0} ns  {mask}");
    }
    Ok(())
}
