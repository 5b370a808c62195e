//! A long sequence: 65,536 tokens, causal, first with a window and then whole, and what memory that takes.
//!
//!     cargo run --release -p regard --example long

use std::time::Instant;

use regard::memory::{Arena, Tensor, TensorMut};
use regard::threads::Pool;
use regard::{Inputs, Mask, Options, Outputs, Plan, Shape};

const TOKENS: usize = 65_536;
const DIM: usize = 64;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let shape = Shape { batch: 1, heads: 1, kv_heads: 1, queries: TOKENS, keys: TOKENS, dim_k: DIM, dim_v: DIM };
    let numbers = |stream: usize| -> Vec<f32> {
        (0..TOKENS * DIM)
            .map(|i| ((i * 2654435761 + stream * 40503) as u32 >> 8) as f32 / (1 << 23) as f32 - 1.0)
            .collect()
    };
    let (q, k, v) = (numbers(1), numbers(2), numbers(3));
    let all = [1, 1, TOKENS, DIM];
    let mut out = vec![0f32; TOKENS * DIM];

    for mask in [Mask::causal() & (Mask::window(Some(1023), None) | Mask::prefix(4)), Mask::causal()] {
        let start = Instant::now();
        let plan = Plan::new(shape, &mask, &Options::default())?;
        let planned = start.elapsed().as_secs_f64() * 1e3;
        println!("{plan}");
        println!("planned   in {planned:.1} ms; the layout takes {} KiB", { plan.layout(0, 0).size().bytes() >> 10 });
        let mut scratch = Arena::new();
        let inputs =
            Inputs::new(Tensor::contiguous(&q, all)?, Tensor::contiguous(&k, all)?, Tensor::contiguous(&v, all)?);
        let start = Instant::now();
        plan.run(&inputs, Outputs::new(TensorMut::contiguous(&mut out, all)?), &mut scratch, Pool::global())?;
        let seconds = start.elapsed().as_secs_f64();
        println!("took      {:.2} s, {:.0} GFLOP/s", seconds, plan.flops() / seconds / 1e9);
        println!("scratch   {} MiB; a matrix of scores would be {} GiB\n", scratch.capacity() >> 20, {
            (TOKENS * TOKENS * 4) >> 30
        });
    }
    Ok(())
}
