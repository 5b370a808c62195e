//! Where scratch comes from, and whether it is kept.

use regard_attention::{Error as Refusal, Inputs, Options, Outputs, Plan, Shape};
use regard_kernels::{F32, PANEL, ROWS};
use regard_masks::Mask;
use regard_memory::{Arena, Need, Pages, Rows, Tensor, TensorMut, chunks_of};

use super::Bench;
use super::fold::{Heads, Numbers, SCORES, fold};
use super::trial::{Finding, Trial, Way};
use crate::error::Error;

const DIM: usize = 64;

/// Scratch of a task, from an arena or from the allocator.
pub(crate) fn arena(bench: Bench<'_>) -> Result<Vec<Finding>, Error> {
    Ok(vec![small_tasks(bench)?, tasks_that_pack(bench)?])
}

const ARENA: &str = "from an arena";
const ALLOCATOR: &str = "from the allocator, by each task";

/// Pieces of 27 KB.
fn small_tasks(bench: Bench<'_>) -> Result<Finding, Error> {
    let heads = Heads::random(8, 2 * PANEL, DIM)?.with_tasks(bench.sized(2048));
    let mut scratch = Arena::new();
    let allocate = |out: &mut [f32]| -> Result<(), Refusal> {
        bench.pool.run(chunks_of(out, ROWS * DIM), |task, out| {
            let (mut scores, mut sums) = (vec![0.0; SCORES], vec![0.0; ROWS * DIM]);
            heads.task(bench.kernels, task, (&mut scores, &mut sums), out).expect("the shapes fit");
        });
        Ok(())
    };
    Trial {
        work: format!("{} tasks of 6 rows over {} keys of {DIM}", heads.tasks, heads.keys_of_a_head),
        numbers: heads.results(),
        ways: vec![Way::new(ARENA, |out| heads.attend(bench, &mut scratch, out)), Way::new(ALLOCATOR, allocate)],
    }
    .measure()
}

/// Keys and values packed by the task that reads them: pieces of 256 KiB.
fn tasks_that_pack(bench: Bench<'_>) -> Result<Finding, Error> {
    const KEYS: usize = 1024;
    const EACH: usize = KEYS * DIM;
    let tasks = bench.sized(64);
    let queries = Numbers::random(1, ROWS * DIM)?;
    let (keys, values) = (Numbers::random(2, EACH)?, Numbers::random(3, EACH)?);
    let attend = |[packed, of_values, scores, sums]: [&mut [f32]; 4], out: &mut [f32]| {
        let mut attend = || -> Result<(), Refusal> {
            bench.kernels.pack_keys::<F32, f32>(Rows::contiguous(&keys, KEYS, DIM)?, 0, packed)?;
            bench.kernels.pack_values::<F32, f32>(Rows::contiguous(&values, KEYS, DIM)?, 0, of_values, DIM)?;
            fold(bench.kernels, DIM, &queries, (packed, of_values), (scores, sums), out)
        };
        attend().expect("the shapes fit");
    };
    let sizes = [EACH, EACH, SCORES, ROWS * DIM];
    let need = sizes.iter().fold(Need::NONE, |need, &size| need.and(Need::of::<f32>(size)));
    let mut scratch = Arena::new();
    let from_arena = |out: &mut [f32]| -> Result<(), Refusal> {
        let threads = bench.pool.threads();
        let workers = scratch.frame(need.times(threads))?.split(threads, need);
        bench.pool.run_in(workers, chunks_of(out, ROWS * DIM), |frame, _, out| {
            let mut frame = frame.scope();
            attend(sizes.map(|size| frame.take(size)), out);
        });
        Ok(())
    };
    let from_allocator = |out: &mut [f32]| -> Result<(), Refusal> {
        bench.pool.run(chunks_of(out, ROWS * DIM), |_, out| {
            let mut pieces = sizes.map(|size| vec![0.0; size]);
            attend(pieces.each_mut().map(|piece| &mut piece[..]), out);
        });
        Ok(())
    };
    Trial {
        work: format!("{tasks} tasks that pack {KEYS} keys of {DIM} and fold 6 rows over them"),
        numbers: tasks * ROWS * DIM,
        ways: vec![Way::new(ARENA, from_arena), Way::new(ALLOCATOR, from_allocator)],
    }
    .measure()
}

/// A whole call with what the last one has left, and with nothing.
pub(crate) fn reuse(bench: Bench<'_>) -> Result<Vec<Finding>, Error> {
    [64, 512, 2048].into_iter().map(|n| prompt(bench, bench.sized(n))).collect()
}

fn prompt(bench: Bench<'_>, n: usize) -> Result<Finding, Error> {
    let shape = Shape { batch: 1, heads: 8, kv_heads: 8, queries: n, keys: n, dim_k: DIM, dim_v: DIM };
    let all = [1, 8, n, DIM];
    let len = all.iter().product();
    let [q, k, v] = [Numbers::random(1, len)?, Numbers::random(2, len)?, Numbers::random(3, len)?];
    let plan = || Plan::new(shape, &Mask::causal(), &Options { isa: Some(bench.kernels.isa()), ..Options::default() });
    let run = |plan: &Plan, scratch: &mut Arena, out: &mut [f32]| -> Result<(), Refusal> {
        let of = |x| Tensor::contiguous(x, all);
        let inputs = Inputs::new(of(&q)?, of(&k)?, of(&v)?);
        plan.run(&inputs, Outputs::new(TensorMut::contiguous(out, all)?), scratch, bench.pool)
    };
    let (kept, mut scratch) = (plan()?, Arena::new());
    let ways = vec![
        Way::new("plan and scratch kept", |out| run(&kept, &mut scratch, out)),
        Way::new("scratch anew in each call", |out| run(&kept, &mut Arena::new(), out)),
        Way::new("scratch anew, on pages of 2 MiB", |out| run(&kept, &mut Arena::on(Pages::Huge), out)),
        Way::new("plan and scratch anew", |out| run(&plan()?, &mut Arena::new(), out)),
    ];
    Trial { work: format!("a causal prompt of {n}, 8 heads of {DIM}"), numbers: len, ways }.measure()
}
