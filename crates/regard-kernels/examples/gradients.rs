//! The kernels of training, beside the rate at which one core reads memory.
//!
//! `cargo run --release -p regard-kernels --example gradients`; `REGARD_ISA` forces an instruction set.
//!
//! One thread goes over `ROWS` rows, whose numbers fit in no cache. Bytes are those of the slices: each read once, and once
//! more where it is written. Shown is the best round.

use std::time::Instant;

use regard_kernels::peak::{Machine, Unit};
use regard_kernels::{Activation, AdamW, DropoutRow, Kernels};
use regard_memory::Rows;
use regard_simd::Isa;

const ROWS: usize = 4096;
const COLUMNS: usize = 4096;
const ROUNDS: usize = 7;

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// What a round does, and the bytes of each of its numbers.
fn time(name: &str, bytes: usize, mut round: impl FnMut() -> Outcome) -> Outcome {
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        round()?;
        times.push(start.elapsed().as_secs_f64());
    }
    let (seconds, count) = (times.into_iter().fold(f64::INFINITY, f64::min), (ROWS * COLUMNS) as f64);
    println!("| {name} | {:.2} | {:.1} |", 1e9 * seconds / count, 1e-9 * bytes as f64 * count / seconds);
    Ok(())
}

fn main() -> Outcome {
    let isa = Isa::from_environment()?;
    let kernels = Kernels::new(isa);
    println!("{isa}: one core reads {:.1} GB/s\n", Machine::new(1)?.best(isa, Unit::Read, 5) / 1e9);
    println!("| kernel | ns a number | GB/s |");
    println!("| --- | --- | --- |");
    let mut all: Vec<Vec<f32>> =
        (1..5).map(|k| (0..ROWS * COLUMNS).map(|i| ((i * k) as f32).sin()).collect()).collect();
    let [a, b, c, d] = all.as_mut_slice() else { unreachable!("four of them") };
    let (weight, mut dweight, mut dbias) = (vec![1.0; COLUMNS], vec![0.0; COLUMNS], vec![0.0; COLUMNS]);

    time("rms_norm_backward", 16, || {
        for ((x, dout), dx) in a.chunks(COLUMNS).zip(b.chunks(COLUMNS)).zip(c.chunks_mut(COLUMNS)) {
            kernels.rms_norm_backward(x, &weight, 1e-5, dout, dx, &mut dweight)?;
        }
        Ok(())
    })?;
    time("layer_norm_backward", 16, || {
        for ((x, dout), dx) in a.chunks(COLUMNS).zip(b.chunks(COLUMNS)).zip(c.chunks_mut(COLUMNS)) {
            kernels.layer_norm_backward(x, &weight, 1e-5, dout, dx, [&mut dweight, &mut dbias])?;
        }
        Ok(())
    })?;
    for activation in [Activation::Silu, Activation::Gelu, Activation::GeluTanh] {
        time(&format!("activate_backward {activation:?}"), 12, || Ok(kernels.activate_backward(activation, a, c)?))?;
        time(&format!("gate_backward {activation:?}"), 20, || Ok(kernels.gate_backward(activation, b, c, a)?))?;
    }
    time("sigmoid", 8, || {
        kernels.sigmoid(d);
        Ok(())
    })?;
    time("softplus", 8, || {
        kernels.softplus(d);
        Ok(())
    })?;
    time("cross_entropy", 8, || {
        d.chunks_mut(COLUMNS).try_for_each(|row| kernels.cross_entropy(row, 7, 1.0).map(drop))?;
        Ok(())
    })?;
    time("cross_entropy_loss", 4, || {
        a.chunks(COLUMNS).try_for_each(|row| kernels.cross_entropy_loss(row, 7, 1.0).map(drop))?;
        Ok(())
    })?;
    d.fill(0.5);
    let step = AdamW { rate: 1e-3, betas: [0.9, 0.99], eps: 1e-8, decay: 0.1, correction: [0.1, 0.01], scale: 1.0 };
    time("adamw", 28, || Ok(kernels.adamw(b, a, c, d, &step)?))?;
    time("sum_of_squares", 4, || {
        std::hint::black_box(kernels.sum_of_squares(a));
        Ok(())
    })?;
    time("add", 12, || Ok(kernels.add(a, b)?))?;
    time("add_scaled", 12, || Ok(kernels.add_scaled(0.5, a, b)?))?;
    time("add_rows", 4, || Ok(kernels.add_rows(Rows::contiguous(a, ROWS, COLUMNS)?, &mut dbias)?))?;
    time("drop_row", 8, || {
        for (r, x) in c.chunks_mut(COLUMNS).enumerate() {
            kernels.drop_row(DropoutRow::new(1, 0, 0, r as u64, 0.1), x);
        }
        Ok(())
    })
}
