//! Attention over few keys, beside what this machine can do at most.
//!
//! `cargo run --release -p regard-kernels --example small`; `REGARD_ISA` forces an instruction set.
//!
//! Two threads compute all heads of a case. The limit of the smallest one is that its inputs are read and its results
//! written once, at the rate at which memory is read; that of the others is their arithmetic at the peak in f32. The rates
//! are measured between the calls; shown are the median and, for a machine that others use too, the best of each.

use std::time::Instant;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use regard_kernels::peak::{Machine, Unit};
use regard_kernels::{F32, Kernels, SmallHead};
use regard_memory::{Ahead, Arena, Need, Rows, RowsMut, chunks_of};
use regard_simd::Isa;
use regard_threads::Pool;

const THREADS: usize = 2;
const ROUNDS: usize = 41;

/// Heads whose queries, keys and values are `[length, dim]`.
struct Case {
    name: &'static str,
    heads: usize,
    length: usize,
    dim: usize,
    /// Heads of a task: those behind the first are brought near in time.
    together: usize,
    limit: Unit,
}

impl Case {
    /// What head `i` has of a tensor.
    fn rows<'a>(&self, tensor: &'a [f32], i: usize) -> Rows<'a, f32> {
        let head = self.length * self.dim;
        Rows::contiguous(&tensor[i * head..][..head], self.length, self.dim).expect("a head's numbers")
    }
}

const CASES: [Case; 3] = [
    Case { name: "tiny-16", heads: 4096 * 6, length: 16, dim: 32, together: 64, limit: Unit::Read },
    Case { name: "short-77", heads: 12, length: 77, dim: 64, together: 1, limit: Unit::F32 },
    Case { name: "encoder-128", heads: 32 * 12, length: 128, dim: 32, together: 6, limit: Unit::F32 },
];

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let isa = Isa::from_environment()?;
    let (pool, machine) = (Pool::new(THREADS)?, Machine::new(THREADS)?);
    println!("{isa}, {THREADS} threads\n");
    println!("| case | ms | share of the limit | best ms | share |");
    println!("| --- | --- | --- | --- | --- |");
    CASES.iter().try_for_each(|case| run(case, isa, &pool, &machine))
}

fn run(case: &Case, isa: Isa, pool: &Pool, machine: &Machine) -> Outcome<()> {
    let Case { heads, length, dim, together, limit, .. } = *case;
    let head = length * dim;
    let mut random = ChaCha8Rng::seed_from_u64(0);
    let mut numbers = || -> Vec<f32> { (0..heads * head).map(|_| random.random_range(-1.7..1.7)).collect() };
    let (q, k, v) = (numbers(), numbers(), numbers());
    let (mut out, mut arena) = (vec![0.0; heads * head], Arena::new());
    let words = SmallHead::<F32>::words(length, dim, dim);
    let need = Need::of::<f32>(words);
    let factor = std::f32::consts::LOG2_E / (dim as f32).sqrt();
    let call = |out: &mut [f32], arena: &mut Arena| -> Outcome<()> {
        let mut frame = arena.frame(need.times(THREADS))?;
        pool.run_in(frame.split(THREADS, need), chunks_of(out, together * head), |frame, task, out| {
            let mut frame = frame.scope();
            let scratch = frame.take::<f32>(words);
            for (i, out) in out.chunks_mut(head).enumerate() {
                let (i, next) = (task * together + i, (task * together + i + 1).min(heads - 1));
                let out = RowsMut::contiguous(out, length, dim).expect("a head's numbers");
                let mut ahead = Ahead::default();
                [&k, &v, &q].into_iter().for_each(|matrix| ahead.read(case.rows(matrix, next)));
                SmallHead::<F32>::new(Kernels::new(isa), case.rows(&k, i), case.rows(&v, i), scratch)
                    .and_then(|mut small| small.attend(case.rows(&q, i), factor, None, out, None, &mut ahead))
                    .expect("shapes that fit");
            }
        });
        Ok(())
    };
    let amount = match limit {
        Unit::Read => 4 * heads * head * size_of::<f32>(),
        _ => 4 * heads * length * length * dim,
    } as f64;

    let (mut times, mut least) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        // The first call after another program's turn wakes the cores.
        call(&mut out, &mut arena)?;
        let start = Instant::now();
        call(&mut out, &mut arena)?;
        times.push(start.elapsed().as_secs_f64());
        least.push(amount / machine.rate(isa, limit));
    }
    times.sort_by(f64::total_cmp);
    least.sort_by(f64::total_cmp);
    let (middle, best) = (ROUNDS / 2, times[0]);
    println!(
        "| {} | {:.4} | {:.0}% | {:.4} | {:.0}% |",
        case.name,
        1e3 * times[middle],
        100.0 * least[middle] / times[middle],
        1e3 * best,
        100.0 * least[0] / best,
    );
    Ok(())
}
