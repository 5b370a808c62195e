//! Decoding over keys and values that come from memory: in bytes, in bf16, in f32.
//!
//! `cargo run --release -p regard-kernels --example int8`; `REGARD_ISA` forces an instruction set.
//!
//! Four query heads share each of eight key/value heads of 32,768 keys, with 128 dimensions. For every head, blocks of 1024
//! keys are scored, weighed and accumulated; threads take heads in turn. The limit is that all bytes are read once.

use std::time::Instant;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use regard_kernels::peak::{Machine, Unit};
use regard_kernels::{Bf16, F32, Int8, Kernels, Operand, PANEL, ROWS, RowState, ScoreTile, Stretch};
use regard_memory::{AlignedBuffer, Indices, Rows, each_of};
use regard_simd::Isa;
use regard_threads::Pool;

const GROUP: usize = 4;
const HEADS: usize = 8;
const KEYS: usize = 32 << 10;
const DIM: usize = 128;
const BLOCK: usize = 1024;
const ROUNDS: usize = 21;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// A head as it is stored.
struct Head<E: Operand> {
    keys: AlignedBuffer<E::B>,
    values: AlignedBuffer<E::B>,
    /// A scale for each key and value, of a head in bytes.
    scales: Option<[Vec<f32>; 2]>,
}

/// What a thread works on.
struct Worker<E: Operand> {
    queries: Vec<E::A>,
    tile: Vec<f32>,
    sums: Vec<f32>,
}

fn main() -> Outcome<()> {
    let isa = Isa::from_environment()?;
    println!("{isa}\n");
    println!("| stored as | threads | ms | share of the limit | best ms | share |");
    println!("| --- | --- | --- | --- | --- | --- |");
    let mut random = ChaCha8Rng::seed_from_u64(0);
    let numbers: Vec<f32> = (0..KEYS * DIM).map(|_| random.random_range(-1.7..1.7)).collect();
    let kernels = Kernels::new(isa);
    run::<F32>("f32", kernels, heads(|| pack::<F32>(kernels, &numbers))?)?;
    run::<Bf16>("bf16", kernels, heads(|| pack::<Bf16>(kernels, &numbers))?)?;
    run::<Int8>("int8", kernels, heads(|| pack_int8(kernels, &numbers))?)
}

fn heads<E: Operand>(head: impl Fn() -> Outcome<Head<E>>) -> Outcome<Vec<Head<E>>> {
    (0..HEADS).map(|_| head()).collect()
}

fn pack<E: Operand>(kernels: Kernels, numbers: &[f32]) -> Outcome<Head<E>> {
    let rows = Rows::contiguous(numbers, KEYS, DIM)?;
    let words = KEYS * DIM / E::DEPTH;
    let (mut keys, mut values) = (AlignedBuffer::zeroed(words)?, AlignedBuffer::zeroed(words)?);
    kernels.pack_keys::<E, f32>(rows, 0, &mut keys)?;
    kernels.pack_values::<E, f32>(rows, 0, &mut values, DIM)?;
    Ok(Head { keys, values, scales: None })
}

fn pack_int8(kernels: Kernels, numbers: &[f32]) -> Outcome<Head<Int8>> {
    let rows = Rows::contiguous(numbers, KEYS, DIM)?;
    let (mut keys, mut values) = (AlignedBuffer::zeroed(KEYS * DIM)?, AlignedBuffer::zeroed(KEYS * DIM)?);
    let mut scales = [vec![0.0; KEYS], vec![0.0; KEYS]];
    kernels.pack_keys_int8(rows, 0, &mut keys, &mut scales[0])?;
    kernels.pack_values_int8(rows, 0, &mut values, DIM, &mut scales[1])?;
    Ok(Head { keys, values, scales: Some(scales) })
}

/// The rows of a group against one head.
fn fold<E: Operand>(kernels: Kernels, head: &Head<E>, worker: &mut Worker<E>) -> Outcome<RowState> {
    let steps = DIM / E::DEPTH;
    let mut tile = ScoreTile::new(&mut worker.tile, BLOCK)?;
    let mut state = RowState::default();
    for block in 0..KEYS / BLOCK {
        let words = block * BLOCK * steps..(block + 1) * BLOCK * steps;
        let scales = head.scales.as_ref().map(|scales| scales.each_ref().map(|all| &all[block * BLOCK..][..BLOCK]));
        let (rows, columns) = (GROUP, (0, BLOCK));
        tile.clear();
        let stretch = Stretch::<E>::whole(&head.keys[words.clone()], words.len() / steps / PANEL);
        kernels.score::<E>(rows, steps, &worker.queries, &[stretch], &mut tile)?;
        if let Some([keys, _]) = scales {
            tile.forget_maxima();
            kernels.scale_scores(rows, keys, None, columns, &mut tile)?;
        }
        kernels.softmax::<E>(rows, 0.1, &mut tile, &mut state)?;
        if let Some([_, values]) = scales {
            kernels.scale_weights::<Int8>(rows, values, None, columns, &mut tile)?;
        }
        let values = &head.values[words];
        kernels.accumulate::<E>(rows, &tile, columns, values, DIM, &mut state, &mut worker.sums)?;
    }
    Ok(state)
}

fn run<E: Operand>(name: &str, kernels: Kernels, heads: Vec<Head<E>>) -> Outcome<()> {
    let bytes = heads.iter().map(|head| size_of_val(&*head.keys) + size_of_val(&*head.values)).sum::<usize>() as f64;
    for threads in [1, 2] {
        let (pool, machine) = (Pool::new(threads)?, Machine::new(threads)?);
        let worker = || Worker {
            queries: vec![E::A::default(); ROWS * DIM / E::DEPTH],
            tile: vec![0.0; ScoreTile::words(BLOCK)],
            sums: vec![0.0; ROWS * DIM],
        };
        let mut workers: Vec<Worker<E>> = (0..threads).map(|_| worker()).collect();
        let (mut times, mut least) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let start = Instant::now();
            pool.run_in(each_of(&mut workers), Indices(HEADS), |worker, head, ()| {
                let state = fold(kernels, &heads[head], worker).expect("shapes that fit");
                std::hint::black_box(state);
            });
            times.push(start.elapsed().as_secs_f64());
            least.push(bytes / machine.rate(kernels.isa(), Unit::Read));
        }
        times.sort_by(f64::total_cmp);
        least.sort_by(f64::total_cmp);
        let middle = ROUNDS / 2;
        println!(
            "| {name} | {threads} | {:.2} | {:.0}% | {:.2} | {:.0}% |",
            1e3 * times[middle],
            100.0 * least[middle] / times[middle],
            1e3 * times[0],
            100.0 * least[0] / times[0],
        );
    }
    Ok(())
}
