//! How fast linear layers are, as a share of what this machine can do at the same time.
//!
//! `cargo run --release -p regard-kernels --example linear [-- THREADS [FORMAT...]]`; `REGARD_ISA` forces an instruction
//! set.
//!
//! A prompt of 512 rows is measured in operations per second, for each kind of activations; a single token in bytes of
//! weights per second, over so many copies of the weight that they come from memory. The peak beside it is that of the
//! instructions that the kind uses. The error is the root mean square over that of the result, against f64 on the weights
//! as the file defines them and the activations before any rounding.

use std::sync::Barrier;
use std::time::Instant;

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use regard_kernels::peak::{Machine, Unit};
use regard_kernels::{
    ActivationBlock, ActivationKind, Activations, Epilogue, Kernels, PANEL, QuantizedRows, Weight, WeightFormat,
};
use regard_memory::{Rows, RowsMut};
use regard_simd::Isa;

const PROMPT: usize = 512;
const SHAPES: [(usize, usize); 3] = [(576, 576), (576, 1536), (1536, 576)];
/// Copies of a weight take at least this much in all: more than caches hold.
const STREAM_BYTES: usize = 192 << 20;
const ROUNDS: usize = 7;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let threads = arguments.next().map_or(Ok(1), |threads| threads.parse())?;
    let wanted: Vec<String> = arguments.collect();
    let bench = Bench { kernels: Kernels::new(Isa::from_environment()?), machine: Machine::new(threads)? };
    println!("{}, {threads} thread(s): {PROMPT} rows, and one row with weights from memory\n", bench.kernels.isa());
    println!("| weight | inputs × outputs | activations | GOP/s | of peak | GB/s | of memory | error |");
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    for format in WeightFormat::ALL {
        if !wanted.is_empty() && !wanted.iter().any(|name| name == format.name()) {
            continue;
        }
        for (inputs, outputs) in SHAPES {
            if !inputs.is_multiple_of(format.block_inputs()) {
                continue;
            }
            let case = Case::new(bench.kernels, format, inputs, outputs)?;
            for kind in [ActivationKind::F32, ActivationKind::Bf16, ActivationKind::Quantized, ActivationKind::Bytes] {
                if matches!(kind, ActivationKind::Quantized | ActivationKind::Bytes) && !format.is_quantized() {
                    continue;
                }
                let (rate, peak) = bench.prompt(&case, kind)?;
                let (stream, read) = bench.token(&case, kind)?;
                let (of_peak, of_memory) = (100.0 * rate / peak, 100.0 * stream / read);
                let error = case.error(bench.kernels, kind)?;
                println!(
                    "| {format} | {inputs} × {outputs} | {kind:?} | {rate:.0} | {of_peak:.0}% \
                     | {stream:.1} | {of_memory:.0}% | {error:.1e} |"
                );
            }
        }
    }
    Ok(())
}

/// A weight, and activations in all their forms.
struct Case {
    weight: Weight,
    /// The weight as a file holds it.
    bytes: Vec<u8>,
    x: Vec<f32>,
    pairs: Vec<u32>,
    blocks: Vec<ActivationBlock>,
    bytes_of_x: Vec<ActivationBlock<1>>,
}

impl Case {
    fn new(kernels: Kernels, format: WeightFormat, inputs: usize, outputs: usize) -> Outcome<Case> {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let blocks = outputs * inputs / format.block_inputs();
        let bytes: Vec<u8> = (0..blocks).flat_map(|_| random_block(format, &mut random)).collect();
        let mut weight = Weight::zeroed(format, outputs, inputs)?;
        weight.part().pack(0, &bytes)?;
        // A sum of four uniform numbers is near enough to a normal one.
        let normal = |random: &mut ChaCha8Rng| (0..4).map(|_| random.random_range(-1.0_f32..1.0)).sum();
        let x: Vec<f32> = (0..PROMPT * inputs).map(|_| normal(&mut random)).collect();
        let rows = Rows::contiguous(&x, PROMPT, inputs)?;
        let mut pairs = vec![0; PROMPT * inputs / 2];
        kernels.round_to_bf16(rows, RowsMut::contiguous(&mut pairs, PROMPT, inputs / 2)?)?;
        let mut blocks = vec![ActivationBlock::default(); PROMPT * ActivationBlock::<2>::per_row(inputs)];
        kernels.quantize(rows, &mut blocks)?;
        let mut bytes_of_x = vec![ActivationBlock::default(); PROMPT * ActivationBlock::<1>::per_row(inputs)];
        kernels.quantize(rows, &mut bytes_of_x)?;
        Ok(Case { weight, bytes, x, pairs, blocks, bytes_of_x })
    }

    /// The first rows of the activations.
    fn activations(&self, kind: ActivationKind, rows: usize) -> Outcome<Activations<'_>> {
        let inputs = self.weight.inputs();
        Ok(match kind {
            ActivationKind::F32 => Activations::F32(Rows::new(&self.x, rows, inputs, inputs)?),
            ActivationKind::Bf16 => Activations::Bf16(Rows::new(&self.pairs, rows, inputs / 2, inputs / 2)?),
            ActivationKind::Quantized => {
                let blocks = &self.blocks[..rows * ActivationBlock::<2>::per_row(inputs)];
                Activations::Quantized(QuantizedRows::new(blocks, rows, inputs)?)
            }
            ActivationKind::Bytes => {
                let blocks = &self.bytes_of_x[..rows * ActivationBlock::<1>::per_row(inputs)];
                Activations::Bytes(QuantizedRows::new(blocks, rows, inputs)?)
            }
        })
    }

    /// The root mean square error over that of the result.
    fn error(&self, kernels: Kernels, kind: ActivationKind) -> Outcome<f64> {
        let rows = 8;
        let (inputs, outputs) = (self.weight.inputs(), self.weight.outputs());
        let mut y = vec![0.0; rows * outputs];
        let out = RowsMut::contiguous(&mut y, rows, outputs)?;
        kernels.linear(&self.weight, 0..self.weight.panels(), self.activations(kind, rows)?, out, Epilogue::STORE)?;
        let (mut error, mut power) = (0.0, 0.0);
        let mut row = vec![0.0; inputs];
        for output in 0..outputs {
            kernels.embed(&self.weight, output, &mut row)?;
            for (x, y) in self.x.chunks_exact(inputs).zip(y.chunks_exact(outputs)) {
                let exact: f64 = x.iter().zip(&row).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                error += (f64::from(y[output]) - exact).powi(2);
                power += exact * exact;
            }
        }
        Ok((error / power).sqrt())
    }
}

/// A block as a file holds it, weights between −1 and 1.
fn random_block(format: WeightFormat, random: &mut ChaCha8Rng) -> Vec<u8> {
    let number: f32 = random.random_range(-1.0..1.0);
    let half = |x: f32| half::f16::from_f32(x).to_le_bytes();
    let mut codes = [0; 208];
    random.fill_bytes(&mut codes);
    match format {
        WeightFormat::F32 => number.to_le_bytes().to_vec(),
        WeightFormat::F16 => half(number).to_vec(),
        WeightFormat::Bf16 => half::bf16::from_f32(number).to_le_bytes().to_vec(),
        WeightFormat::Q8_0 => [&half(number / 128.0)[..], &codes[..32]].concat(),
        WeightFormat::Q4_0 => [&half(number / 8.0)[..], &codes[..16]].concat(),
        WeightFormat::Q4_1 => [&half(number / 8.0)[..], &half(-number), &codes[..16]].concat(),
        WeightFormat::Q5_0 => [&half(number / 16.0)[..], &codes[..20]].concat(),
        WeightFormat::Q5_1 => [&half(number / 16.0)[..], &half(-number), &codes[..20]].concat(),
        WeightFormat::Q4K => [&half(number / 256.0)[..], &half(number / 32.0), &codes[..140]].concat(),
        WeightFormat::Q5K => [&half(number / 512.0)[..], &half(number / 32.0), &codes[..172]].concat(),
        WeightFormat::Q6K => [&codes[..], &half(number / 4096.0)].concat(),
    }
}

struct Bench {
    kernels: Kernels,
    machine: Machine,
}

impl Bench {
    /// Operations per nanosecond, and what the machine can do with the same instructions.
    fn prompt(&self, case: &Case, kind: ActivationKind) -> Outcome<(f64, f64)> {
        let x = case.activations(kind, PROMPT)?;
        let unit = match kind {
            ActivationKind::F32 => Unit::F32,
            ActivationKind::Bf16 => Unit::Bf16,
            ActivationKind::Quantized | ActivationKind::Bytes => Unit::Int8,
        };
        let operations = 2.0 * (PROMPT * case.weight.inputs() * case.weight.outputs()) as f64;
        Ok(self.measure(operations, unit, &[&case.weight], x, PROMPT))
    }

    /// Bytes of weights per nanosecond, and what the machine reads.
    fn token(&self, case: &Case, kind: ActivationKind) -> Outcome<(f64, f64)> {
        let (format, inputs, outputs) = (case.weight.format(), case.weight.inputs(), case.weight.outputs());
        let mut copies = Vec::new();
        for _ in 0..STREAM_BYTES.div_ceil(case.weight.bytes()) {
            let mut copy = Weight::zeroed(format, outputs, inputs)?;
            copy.part().pack(0, &case.bytes)?;
            copies.push(copy);
        }
        let bytes = (copies.len() * case.weight.bytes()) as f64;
        let copies: Vec<&Weight> = copies.iter().collect();
        Ok(self.measure(bytes, Unit::Read, &copies, case.activations(kind, 1)?, 1))
    }

    /// What is done in a nanosecond, if all weights are `amount`, and what the machine can do at most: the best of some
    /// rounds, which take turns.
    fn measure(&self, amount: f64, unit: Unit, weights: &[&Weight], x: Activations<'_>, rows: usize) -> (f64, f64) {
        (0..ROUNDS).fold((0.0, 0.0), |(rate, peak): (f64, f64), _| {
            let now =
                (amount / self.seconds(weights, x, rows) / 1e9, self.machine.rate(self.kernels.isa(), unit) / 1e9);
            (rate.max(now.0), peak.max(now.1))
        })
    }

    /// Seconds that all weights take once, shared out over the threads by panels.
    fn seconds(&self, weights: &[&Weight], x: Activations<'_>, rows: usize) -> f64 {
        let threads = self.machine.threads();
        let barrier = Barrier::new(threads);
        let work = &|thread: usize| {
            let mut y = vec![0.0; rows * weights[0].panels() * PANEL];
            let mut pass = |weights: &[&Weight]| {
                for weight in weights {
                    let panels = weight.panels() * thread / threads..weight.panels() * (thread + 1) / threads;
                    let columns = weight.columns(panels.clone()).len();
                    let out = RowsMut::new(&mut y, rows, columns, columns).expect("y has room for all columns");
                    self.kernels.linear(weight, panels, x, out, Epilogue::STORE).expect("shapes that fit");
                }
            };
            pass(&weights[..1]);
            barrier.wait();
            let start = Instant::now();
            pass(weights);
            start.elapsed().as_secs_f64()
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..threads).map(|thread| scope.spawn(move || work(thread))).collect();
            threads.into_iter().map(|thread| thread.join().expect("no thread panics")).fold(0.0, f64::max)
        })
    }
}
