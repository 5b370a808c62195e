//! Where the time of a tile of attention goes, beside what the products alone would take at this machine's peak.
//!
//! `cargo run --release -p regard-kernels --example tile`; `REGARD_ISA` forces an instruction set.
//!
//! One core folds tiles of 6 query rows over blocks of 1024 keys with heads of 64, as attention does for a prompt: packed
//! keys and values of 2048 keys, of which a block stays in the second-level cache for 16 tiles.

use std::time::Instant;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use regard_kernels::peak::{Machine, Unit};
use regard_kernels::{Bf16, F32, Kernels, Number, Operand, PANEL, ROWS, RowState, ScoreTile, Stretch};
use regard_memory::Rows;
use regard_simd::Isa;

const DIM: usize = 64;
const KEYS: usize = 2048;
const BLOCK: usize = 1024;
const TILES: usize = 16;
const ROUNDS: usize = 51;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Parts of a tile that are run: the others are left out.
#[derive(Clone, Copy)]
struct Parts {
    score: bool,
    softmax: bool,
    accumulate: bool,
}

fn main() -> Outcome<()> {
    let isa = Isa::from_environment()?;
    println!("{isa}, 1 thread; 100% is the time of both products at the peak\n");
    println!("| operand | scores | softmax | weighted values | together | packing, for 2048 queries |");
    println!("| --- | --- | --- | --- | --- | --- |");
    row::<F32, f32>("f32", isa, Unit::F32)?;
    if isa.has_bf16_dots() {
        row::<Bf16, half::bf16>("bf16", isa, Unit::Bf16)?;
    }
    Ok(())
}

fn row<E: Operand, T: Number>(name: &str, isa: Isa, unit: Unit) -> Outcome<()> {
    let (kernels, machine) = (Kernels::new(isa), Machine::new(1)?);
    let mut random = ChaCha8Rng::seed_from_u64(0);
    let mut numbers =
        |count: usize| -> Vec<T> { (0..count).map(|_| T::from_f32(random.random_range(-1.7..1.7))).collect() };
    let (q, k, v) = (numbers(TILES * ROWS * DIM), numbers(KEYS * DIM), numbers(KEYS * DIM));
    let steps = DIM / E::DEPTH;
    let mut queries = vec![E::A::default(); TILES * ROWS * steps];
    for (row, packed) in q.chunks(DIM).zip(queries.chunks_mut(steps)) {
        kernels.pack_query::<E, T>(row, 0.18, packed)?;
    }
    let (mut keys, mut values) = (vec![E::B::default(); KEYS * steps], vec![E::B::default(); KEYS * steps]);
    let packing = median(|| {
        kernels.pack_keys::<E, T>(Rows::contiguous(&k, KEYS, DIM)?, 0, &mut keys)?;
        kernels.pack_values::<E, T>(Rows::contiguous(&v, KEYS, DIM)?, 0, &mut values, DIM)?;
        Ok(())
    })?;

    let mut buffer = vec![0.0; ScoreTile::words(BLOCK)];
    let mut scores = ScoreTile::new(&mut buffer, BLOCK)?;
    let mut states = [RowState::default(); TILES];
    let mut sums = vec![0.0; TILES * ROWS * DIM];
    // What a part left out would have written.
    let all = [Stretch::whole(&keys, BLOCK / PANEL)];
    kernels.score::<E>(ROWS, steps, &queries, &all, &mut scores)?;
    let mut seconds = |parts: Parts| {
        median(|| {
            for (keys, values) in keys.chunks(BLOCK * steps).zip(values.chunks(BLOCK * steps)) {
                for (tile, state) in states.iter_mut().enumerate() {
                    if parts.score {
                        scores.clear();
                        let all = [Stretch::whole(keys, BLOCK / PANEL)];
                        kernels.score::<E>(ROWS, steps, &queries[tile * ROWS * steps..], &all, &mut scores)?;
                    }
                    if parts.softmax {
                        kernels.softmax::<E>(ROWS, 1.0, &mut scores, state)?;
                    }
                    if parts.accumulate {
                        let out = &mut sums[tile * ROWS * DIM..][..ROWS * DIM];
                        kernels.accumulate::<E>(ROWS, &scores, (0, BLOCK), values, DIM, state, out)?;
                    }
                }
            }
            Ok(())
        })
    };
    let ideal = (4 * TILES * ROWS * KEYS * DIM) as f64 / machine.best(isa, unit, 10);
    let mut share = |score, softmax, accumulate| {
        Ok::<_, Box<dyn std::error::Error>>(100.0 * seconds(Parts { score, softmax, accumulate })? / ideal)
    };
    let [scores, softmax, weighted, together] =
        [share(true, false, false)?, share(false, true, false)?, share(false, false, true)?, share(true, true, true)?];
    let packing = 100.0 * packing / (ideal * (2048.0 / (TILES * ROWS) as f64));
    println!("| {name} | {scores:.1}% | {softmax:.1}% | {weighted:.1}% | {together:.1}% | {packing:.1}% |");
    Ok(())
}

/// Seconds of a call, the middle of [`ROUNDS`].
fn median(mut call: impl FnMut() -> Outcome<()>) -> Outcome<f64> {
    let mut times = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let start = Instant::now();
        call()?;
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    Ok(times[ROUNDS / 2])
}
