//! Where the time of the backward pass goes, beside what its five products alone would take at this machine's peak.
//!
//! `cargo run --release -p regard-kernels --example backward [TILES PANELS]`; `REGARD_ISA` forces an instruction set.
//!
//! One core goes over 2016 query rows and a split of 512 keys as attention does for a prompt: some panels of keys stay in
//! the second-level cache while blocks of query tiles pass by.

use std::ops::Range;
use std::time::Instant;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use regard_kernels::peak::{Machine, Unit};
use regard_kernels::{
    Bf16, F32, GradientRows, Kernels, KeyPanels, Number, PANEL, Pairs, ROWS, Region, Transposable, Weighing,
};
use regard_memory::{AlignedBuffer, Pod, Rows};
use regard_simd::Isa;

const QUERIES: usize = 2016;
const KEYS: usize = 512;
const ROUNDS: usize = 31;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Parts of the pass that are run: the others are left out.
#[derive(Clone, Copy, Default)]
struct Parts {
    pairs: bool,
    values: bool,
    keys: bool,
    queries: bool,
}

fn main() -> Outcome<()> {
    let isa = Isa::from_environment()?;
    let sizes: Vec<usize> = std::env::args().skip(1).map(|size| size.parse()).collect::<Result<_, _>>()?;
    println!("{isa}, 1 thread; 100% is the time of all five products at the peak\n");
    println!("| operand | head | tiles × panels | pairs (40%) | dV (20%) | dK (20%) | dQ (20%) | together |");
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    for dim in [64, 128] {
        let sizes = match sizes[..] {
            [tiles, panels] if tiles > 0 && panels > 0 => (tiles, panels),
            _ => (16, 256 / dim),
        };
        row::<F32, f32>("f32", dim, sizes, isa, Unit::F32)?;
        if isa.has_bf16_dots() {
            row::<Bf16, half::bf16>("bf16", dim, sizes, isa, Unit::Bf16)?;
        }
    }
    Ok(())
}

fn row<E: Transposable, T: Number>(
    name: &str,
    dim: usize,
    (tiles, panels): (usize, usize),
    isa: Isa,
    unit: Unit,
) -> Outcome<()> {
    let machine = Machine::new(1)?;
    let mut pass = Pass::<E>::new::<T>(Kernels::new(isa), dim)?;
    let mut buffer = zeroed(Pairs::<E>::words(tiles * ROWS, panels))?;
    let mut pairs = Pairs::new(&mut buffer, tiles * ROWS, panels)?;
    let mut seconds = |parts| median(|| pass.run(parts, &mut pairs));
    let none = Parts::default();
    // What a part left out would have written.
    seconds(Parts { pairs: true, ..none })?;
    let ideal = (10 * QUERIES * KEYS * dim) as f64 / machine.best(isa, unit, 10);
    print!("| {name} | {dim} | {tiles} × {panels} |");
    for parts in [
        Parts { pairs: true, ..none },
        Parts { values: true, ..none },
        Parts { keys: true, ..none },
        Parts { queries: true, ..none },
        Parts { pairs: true, values: true, keys: true, queries: true },
    ] {
        print!(" {:.1}% |", 100.0 * seconds(parts)? / ideal);
    }
    println!();
    Ok(())
}

/// The inputs of one head, in every layout that is read, and the gradients.
struct Pass<E: Transposable> {
    kernels: Kernels,
    dim: usize,
    /// Words of a row.
    steps: usize,
    queries: Sides<E>,
    d_out: Sides<E>,
    keys: Sides<E>,
    values: Sides<E>,
    dq: AlignedBuffer<f32>,
    dk: AlignedBuffer<f32>,
    dv: AlignedBuffer<f32>,
}

/// A matrix as rows (`A` of a product, and `B` over the rows), and as panels.
struct Sides<E: Transposable> {
    rows: AlignedBuffer<E::A>,
    values: AlignedBuffer<E::B>,
    panels: AlignedBuffer<E::B>,
}

impl<E: Transposable> Pass<E> {
    fn new<T: Number>(kernels: Kernels, dim: usize) -> Outcome<Self> {
        let steps = dim / E::DEPTH;
        let mut random = ChaCha8Rng::seed_from_u64(0);
        let mut sides = |count: usize| -> Outcome<Sides<E>> {
            let x: Vec<T> = (0..count * dim).map(|_| T::from_f32(random.random_range(-1.7..1.7))).collect();
            let words = count.next_multiple_of(PANEL) * steps;
            let mut sides = Sides { rows: zeroed(words)?, values: zeroed(words)?, panels: zeroed(words)? };
            for (row, packed) in x.chunks(dim).zip(sides.rows.chunks_mut(steps)) {
                kernels.pack_query::<E, T>(row, 1.0, packed)?;
            }
            let x = Rows::contiguous(&x, count, dim)?;
            kernels.pack_values::<E, T>(x, 0, &mut sides.values, dim)?;
            kernels.pack_keys::<E, T>(x, 0, &mut sides.panels)?;
            Ok(sides)
        };
        Ok(Pass {
            kernels,
            dim,
            steps,
            queries: sides(QUERIES)?,
            d_out: sides(QUERIES)?,
            keys: sides(KEYS)?,
            values: sides(KEYS)?,
            dq: zeroed(QUERIES * dim)?,
            dk: zeroed(KEYS * dim)?,
            dv: zeroed(KEYS * dim)?,
        })
    }

    /// Some panels at a time, with all queries, some tiles at a time.
    fn run(&mut self, parts: Parts, pairs: &mut Pairs<'_, E>) -> Outcome<()> {
        for first_key in (0..KEYS).step_by(pairs.panels() * PANEL) {
            let keys = first_key..KEYS.min(first_key + pairs.panels() * PANEL);
            for first_row in (0..QUERIES).step_by(pairs.rows()) {
                self.block(parts, first_row..QUERIES.min(first_row + pairs.rows()), keys.clone(), pairs)?;
            }
        }
        Ok(())
    }

    fn block(&mut self, parts: Parts, rows: Range<usize>, keys: Range<usize>, pairs: &mut Pairs<'_, E>) -> Outcome<()> {
        let Pass { kernels, dim, steps, .. } = *self;
        let panels = keys.len() / PANEL;
        let key_words = keys.start * steps..keys.end * steps;
        if parts.pairs {
            let (k, v) = (&self.keys.panels[key_words.clone()], &self.values.panels[key_words.clone()]);
            for tile in 0..rows.len() / ROWS {
                let at = (rows.start + tile * ROWS) * steps;
                let of_tile = GradientRows::<E> {
                    rows: ROWS,
                    steps: (steps, steps),
                    queries: &self.queries.rows[at..],
                    output_gradients: &self.d_out.rows[at..],
                    lse: &[8.0; ROWS],
                    delta: &[0.5; ROWS],
                };
                let of_keys = KeyPanels { keys: k, values: v, live: None };
                kernels.recompute(&of_tile, &of_keys, &mut Weighing::plain(0.125), pairs, tile, 0..panels)?;
            }
        }
        let row_words = rows.start * steps..rows.end * steps;
        let (dk, dv) = (&mut self.dk[keys.start * dim..keys.end * dim], &mut self.dv[keys.start * dim..keys.end * dim]);
        for panel in 0..panels {
            let region = || Region::Whole { rows: 0..rows.len(), keys: panel * PANEL..(panel + 1) * PANEL };
            if parts.values {
                kernels.add_value_gradients(pairs, region(), &self.d_out.values[row_words.clone()], dim, dv)?;
            }
            if parts.keys {
                kernels.add_key_gradients(pairs, region(), &self.queries.values[row_words.clone()], dim, dk)?;
            }
        }
        if parts.queries {
            let region = Region::Whole { rows: 0..rows.len(), keys: 0..keys.len() };
            let dq = &mut self.dq[rows.start * dim..rows.end * dim];
            kernels.add_query_gradients(pairs, region, &self.keys.values[key_words], dim, dq)?;
        }
        Ok(())
    }
}

fn zeroed<T: Pod>(count: usize) -> Outcome<AlignedBuffer<T>> {
    Ok(AlignedBuffer::zeroed(count)?)
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
