//! How fast the matrix product under linear layers is, as a share of what this machine can do at the same time.
//!
//! `cargo run --release -p regard-layers --example product [-- THREADS]`; `REGARD_ISA` forces an instruction set.
//!
//! For tokens × inputs → outputs of a layer: its result `Y = X·Wᵀ + b`, and both gradients, `dX = dY·W` and `dW += dYᵀ·X`.
//! In f32, and with both sides rounded to bf16 beside the peak of its dot products.
//! Calls and looks at the peak take turns, as the machine may have other work: the best call counts, and the best peak seen
//! so far. The error is the root mean square over that of the result, against f64 of the sides in f32.

use std::time::{Duration, Instant};

use regard_kernels::Kernels;
use regard_kernels::peak::{Machine, Unit};
use regard_layers::{Before, Multiplier, Precision, Side};
use regard_memory::{Arena, Rows, RowsMut};
use regard_oracle::numbers;
use regard_simd::Isa;
use regard_threads::Pool;

/// Tokens, inputs and outputs.
const SHAPES: [(usize, usize, usize); 16] = [
    (2048, 384, 1536),
    (2048, 1536, 384),
    (2048, 384, 1152),
    (4096, 384, 384),
    (4096, 384, 1024),
    (4096, 1024, 384),
    (4096, 384, 256),
    (2048, 384, 65),
    (8, 256, 768),
    (16, 256, 768),
    (32, 256, 768),
    (64, 256, 768),
    (128, 256, 768),
    (8, 256, 256),
    (32, 256, 256),
    (128, 256, 256),
];
const PRECISIONS: [(Precision, Unit, &str); 2] =
    [(Precision::F32, Unit::F32, "f32"), (Precision::Bf16, Unit::Bf16, "bf16")];
const FORMS: [&str; 3] = ["X·Wᵀ + b", "dY·W", "dW + dYᵀ·X"];
const ROUNDS: usize = 30;
/// What a round takes at least, so that the clock's own steps do not count.
const ROUND: Duration = Duration::from_millis(2);

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let threads = std::env::args().nth(1).map_or(Ok(2), |threads| threads.parse())?;
    let kernels = Kernels::new(Isa::from_environment()?);
    let (pool, machine) = (Pool::new(threads)?, Machine::new(threads)?);
    println!("{}, {threads} thread(s)\n", kernels.isa());
    println!("| tokens, inputs → outputs | form | in | ms | GFLOP/s | of peak | error |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    let mut peaks = PRECISIONS.map(|(_, unit, _)| machine.best(kernels.isa(), unit, ROUNDS));
    for (tokens, inputs, outputs) in SHAPES {
        let layer = Layer::new(tokens, inputs, outputs);
        for (form, name) in FORMS.into_iter().enumerate() {
            for ((precision, unit, named), peak) in PRECISIONS.into_iter().zip(&mut peaks) {
                let multiplier = Multiplier::new(kernels, &pool).with_precision(precision);
                let (seconds, seen) = layer.measure(form, multiplier, || machine.rate(kernels.isa(), unit))?;
                *peak = peak.max(seen);
                let rate = 2.0 * (tokens * inputs * outputs) as f64 / seconds;
                println!(
                    "| {tokens}, {inputs} → {outputs} | {name} | {named} | {:.4} | {:.0} | {:.0}% | {:.1e} |",
                    1e3 * seconds,
                    rate / 1e9,
                    100.0 * rate / *peak,
                    layer.error(form, multiplier)?
                );
            }
        }
    }
    Ok(())
}

/// A linear layer, what goes in, and the gradient of what comes out.
struct Layer {
    tokens: usize,
    inputs: usize,
    outputs: usize,
    /// `[tokens, inputs]`
    x: Vec<f32>,
    /// `[outputs, inputs]`
    weight: Vec<f32>,
    /// `[outputs]`
    bias: Vec<f32>,
    /// `[tokens, outputs]`
    dy: Vec<f32>,
}

impl Layer {
    fn new(tokens: usize, inputs: usize, outputs: usize) -> Layer {
        Layer {
            tokens,
            inputs,
            outputs,
            x: numbers(1, tokens * inputs),
            weight: numbers(2, outputs * inputs),
            bias: numbers(3, outputs),
            dy: numbers(4, tokens * outputs),
        }
    }

    /// Rows and columns of the result, and the steps to it.
    fn shape(&self, form: usize) -> [usize; 3] {
        let Layer { tokens, inputs, outputs, .. } = *self;
        [[tokens, outputs, inputs], [tokens, inputs, outputs], [outputs, inputs, tokens]][form]
    }

    /// Left and right side, and what the product is added to.
    fn sides(&self, form: usize) -> Outcome<(Side<'_>, Side<'_>, Before<'_>)> {
        let x = Rows::contiguous(&self.x, self.tokens, self.inputs)?;
        let weight = Rows::contiguous(&self.weight, self.outputs, self.inputs)?;
        let dy = Rows::contiguous(&self.dy, self.tokens, self.outputs)?;
        Ok(match form {
            0 => (Side::AsIs(x), Side::Transposed(weight), Before::Bias(&self.bias)),
            1 => (Side::AsIs(dy), Side::AsIs(weight), Before::Replaced),
            _ => (Side::Transposed(dy), Side::AsIs(x), Before::Kept),
        })
    }

    /// Seconds of a call, and operations per second that the machine can do.
    fn measure(&self, form: usize, multiplier: Multiplier<'_>, rate: impl Fn() -> f64) -> Outcome<(f64, f64)> {
        let [m, n, k] = self.shape(form);
        let (a, b, before) = self.sides(form)?;
        let (mut arena, mut out) = (Arena::new(), vec![0.0; m * n]);
        let mut call = || -> Outcome<Duration> {
            let start = Instant::now();
            let mut frame = arena.frame(multiplier.need(m, n, k))?;
            multiplier.multiply(a, b, before, RowsMut::contiguous(&mut out, m, n)?, &mut frame)?;
            Ok(start.elapsed())
        };
        call()?;
        let (mut seconds, mut peak) = (f64::INFINITY, 0.0_f64);
        for _ in 0..ROUNDS {
            let start = Instant::now();
            while start.elapsed() < ROUND {
                seconds = seconds.min(call()?.as_secs_f64());
            }
            peak = peak.max(rate());
        }
        Ok((seconds, peak))
    }

    /// The root mean square error over that of the result, in some rows spread over it.
    fn error(&self, form: usize, multiplier: Multiplier<'_>) -> Outcome<f64> {
        let [m, n, k] = self.shape(form);
        let (a, b, before) = self.sides(form)?;
        let mut out = vec![1.0; m * n];
        let mut arena = Arena::new();
        let mut frame = arena.frame(multiplier.need(m, n, k))?;
        multiplier.multiply(a, b, before, RowsMut::contiguous(&mut out, m, n)?, &mut frame)?;
        let of = |side: Side<'_>, i: usize, j: usize| match side {
            Side::AsIs(x) => f64::from(x.row(i)[j]),
            Side::Transposed(x) => f64::from(x.row(j)[i]),
        };
        let (mut error, mut power) = (0.0, 0.0);
        for i in (0..m).step_by(m.div_ceil(8)) {
            for j in 0..n {
                let begun = match before {
                    Before::Replaced => 0.0,
                    Before::Kept => 1.0,
                    Before::Bias(bias) => f64::from(bias[j]),
                };
                let exact = (0..k).fold(begun, |sum, step| sum + of(a, i, step) * of(b, step, j));
                error += (f64::from(out[i * n + j]) - exact).powi(2);
                power += exact * exact;
            }
        }
        Ok((error / power).sqrt())
    }
}
