//! What this machine can do at most: the limits that kernels are measured against.
//!
//! A rate is that of threads that work at once, and of one moment: clocks and neighbours change it, so whoever compares
//! measures it again beside what is compared.
//!
//! ```
//! use regard_kernels::peak::{Machine, Unit};
//! use regard_simd::Isa;
//!
//! let machine = Machine::new(2)?;
//! println!("{:.0} GFLOP/s in f32", machine.rate(Isa::best(), Unit::F32) / 1e9);
//! # Ok::<(), regard_memory::Error>(())
//! ```

use std::array::from_fn;
use std::hint::black_box;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use regard_memory::{AlignedBuffer, Result};
use regard_simd::{Isa, Kernel, Simd};

use crate::ROWS;

/// Long enough that starting threads does not count, short enough to be repeated beside every measurement.
const SPAN: Duration = Duration::from_millis(5);

/// Steps of a tile between two looks at the clock: some 10 µs.
const STEPS: usize = 4096;

/// Floats of memory that are read from, in all and for each thread at least: more than caches hold.
const FLOATS: usize = 128 << 20;
const FLOATS_OF_A_THREAD: usize = 16 << 20;

/// Floats that are read between two looks at the clock: 512 KiB.
const BLOCK: usize = 128 << 10;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unit {
    /// Floating-point operations in f32: two for each fused multiply-add.
    F32,
    /// Floating-point operations of bf16 dot products: two for each product.
    Bf16,
    /// Integer operations of dot products of bytes: two for each product.
    Int8,
    /// Bytes read from memory.
    Read,
}

/// Some cores, and memory to read from.
#[derive(Debug)]
pub struct Machine {
    threads: usize,
    /// A region for each thread, one after the other.
    memory: AlignedBuffer<f32>,
    /// Where each thread has come to in its region, in blocks.
    cursors: Vec<AtomicUsize>,
}

impl Machine {
    /// As many cores, at least one. Takes 512 MiB, or 64 MiB a core if that is more.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn new(threads: usize) -> Result<Machine> {
        Machine::reading(threads.max(1), FLOATS.max(threads.saturating_mul(FLOATS_OF_A_THREAD)))
    }

    /// One that reads from so many floats.
    fn reading(threads: usize, floats: usize) -> Result<Machine> {
        let mut memory = AlignedBuffer::zeroed(floats)?;
        // Untouched pages are all one page of zeros, which would come from the cache.
        memory.fill(1.0);
        let cursors = (0..threads).map(|_| AtomicUsize::new(0)).collect();
        Ok(Machine { threads, memory, cursors })
    }

    /// How many threads work at once.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Operations or bytes a second of all threads together with these instructions, measured now, within some 5 ms.
    pub fn rate(&self, isa: Isa, unit: Unit) -> f64 {
        let together = AtomicBool::new(false);
        let work = |thread: usize| {
            while !together.load(Ordering::Acquire) {
                std::hint::spin_loop();
            }
            let start = Instant::now();
            let mut amount = 0.0;
            loop {
                amount += self.work(thread, isa, unit);
                let elapsed = start.elapsed();
                if elapsed >= SPAN {
                    return amount / elapsed.as_secs_f64();
                }
            }
        };
        std::thread::scope(|scope| {
            let start = |thread| std::thread::Builder::new().spawn_scoped(scope, move || work(thread));
            // A thread that cannot be had is none that counts.
            let threads: Vec<_> = (1..self.threads).filter_map(|thread| start(thread).ok()).collect();
            together.store(true, Ordering::Release);
            let own = work(0);
            threads.into_iter().fold(own, |sum, thread| sum + thread.join().unwrap_or(0.0))
        })
    }

    /// The highest of some rates.
    pub fn best(&self, isa: Isa, unit: Unit, times: usize) -> f64 {
        (0..times).map(|_| self.rate(isa, unit)).fold(0.0, f64::max)
    }

    /// A little work; gives how much it was.
    fn work(&self, thread: usize, isa: Isa, unit: Unit) -> f64 {
        match unit {
            Unit::F32 => isa.run(Tile::<Fma>::new()),
            Unit::Bf16 => isa.run_bf16(Tile::<DotBf16>::new()),
            Unit::Int8 => isa.run_bytes(Tile::<DotInt8>::new()),
            Unit::Read => {
                let region = self.memory.len() / self.threads;
                let block = self.cursors[thread].fetch_add(1, Ordering::Relaxed) % (region / BLOCK);
                isa.run(Sum(&self.memory[thread * region + block * BLOCK..][..BLOCK]));
                (BLOCK * size_of::<f32>()) as f64
            }
        }
    }
}

/// Operations or bytes a second of so many cores together with these instructions: measured when it is first asked for, and
/// remembered. That takes some 15 ms, for reading ten times as long and, meanwhile, 64 MiB a core.
///
/// # Errors
/// There is no memory to read from.
pub fn rate(isa: Isa, unit: Unit, threads: usize) -> Result<f64> {
    type Asked = (Isa, Unit, usize);
    static KNOWN: Mutex<Vec<(Asked, f64)>> = Mutex::new(Vec::new());
    let mut known = KNOWN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let asked: Asked = (isa, unit, threads.max(1));
    if let Some(&(_, rate)) = known.iter().find(|(of, _)| *of == asked) {
        return Ok(rate);
    }
    let floats = if unit == Unit::Read { asked.2.saturating_mul(FLOATS_OF_A_THREAD) } else { 0 };
    let rate = Machine::reading(asked.2, floats)?.best(isa, unit, 3);
    known.push((asked, rate));
    Ok(rate)
}

/// One operation of a tile.
trait Step {
    /// Operations of a lane.
    const OPERATIONS: usize;
    type Sum<S: Simd>: Copy;
    fn zero<S: Simd>(s: S) -> Self::Sum<S>;
    fn step<S: Simd>(s: S, a: S::I32, b: S::I32, sum: Self::Sum<S>) -> Self::Sum<S>;
}

struct Fma;
struct DotBf16;
struct DotInt8;

impl Step for Fma {
    const OPERATIONS: usize = 2;
    type Sum<S: Simd> = S::F32;
    #[inline(always)]
    fn zero<S: Simd>(s: S) -> S::F32 {
        s.splat(0.0)
    }
    #[inline(always)]
    fn step<S: Simd>(s: S, a: S::I32, b: S::I32, sum: S::F32) -> S::F32 {
        s.fma(s.from_bits(a), s.from_bits(b), sum)
    }
}

impl Step for DotBf16 {
    const OPERATIONS: usize = 4;
    type Sum<S: Simd> = S::F32;
    #[inline(always)]
    fn zero<S: Simd>(s: S) -> S::F32 {
        s.splat(0.0)
    }
    #[inline(always)]
    fn step<S: Simd>(s: S, a: S::I32, b: S::I32, sum: S::F32) -> S::F32 {
        s.dot_bf16(sum, a, b)
    }
}

impl Step for DotInt8 {
    const OPERATIONS: usize = 8;
    type Sum<S: Simd> = S::I32;
    #[inline(always)]
    fn zero<S: Simd>(s: S) -> S::I32 {
        s.splat_i32(0)
    }
    #[inline(always)]
    fn step<S: Simd>(s: S, a: S::I32, b: S::I32, sum: S::I32) -> S::I32 {
        s.dot_u8_i8(sum, a, b)
    }
}

/// [`STEPS`] steps of a register tile of six rows, whose operands never leave the first-level cache.
struct Tile<O>(std::marker::PhantomData<O>);

impl<O> Tile<O> {
    fn new() -> Self {
        Tile(std::marker::PhantomData)
    }
}

impl<O: Step> Kernel for Tile<O> {
    type Output = f64;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        if S::STRIPS >= 4 { tile::<S, O, 4>(s) } else { tile::<S, O, 2>(s) }
    }
}

#[inline(always)]
fn tile<S: Simd, O: Step, const W: usize>(s: S) -> f64 {
    const WORDS: usize = 1024;
    let words = [1.0f32.to_bits() as i32; WORDS];
    const { assert!((ROWS + W) * S::LANES <= WORDS) };
    let mut sums: [[O::Sum<S>; W]; ROWS] = [[O::zero(s); W]; ROWS];
    for _ in 0..STEPS {
        // Seen afresh in every step, so that no part of a product is carried over from the one before.
        let words = black_box(&words).as_ptr();
        // SAFETY: there are words for ROWS + W vectors.
        let b: [S::I32; W] = from_fn(|w| unsafe { s.load_i32(words.add((ROWS + w) * S::LANES)) });
        for (r, row) in sums.iter_mut().enumerate() {
            // SAFETY: as above.
            let a = unsafe { s.load_i32(words.add(r * S::LANES)) };
            for (sum, &b) in row.iter_mut().zip(&b) {
                *sum = O::step(s, a, b, *sum);
            }
        }
    }
    black_box(sums);
    (STEPS * ROWS * W * S::LANES * O::OPERATIONS) as f64
}

/// Adds up floats, so that every line of them is read.
struct Sum<'a>(&'a [f32]);

impl Kernel for Sum<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        const SUMS: usize = 8;
        let mut sums = [s.splat(0.0); SUMS];
        for vectors in self.0.chunks_exact(SUMS * S::LANES) {
            for (w, sum) in sums.iter_mut().enumerate() {
                // SAFETY: a chunk holds SUMS vectors.
                *sum = s.add(*sum, unsafe { s.load(vectors.as_ptr().add(w * S::LANES)) });
            }
        }
        black_box(sums);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sums of a tile after one step are the operation on the operands: what is counted is what is done.
    #[test]
    fn a_step_is_the_operation_that_is_counted() {
        struct Once<O>(std::marker::PhantomData<O>);
        impl<O: Step<Sum<regard_simd::Portable> = [f32; 4]>> Once<O> {
            fn of(a: i32, b: i32) -> f32 {
                // SAFETY: every CPU is portable.
                let s = unsafe { regard_simd::Portable::assume() };
                O::step(s, s.splat_i32(a), s.splat_i32(b), O::zero(s))[0]
            }
        }
        let pair = |low: f32, high: f32| (low.to_bits() >> 16 | high.to_bits() & 0xFFFF_0000) as i32;
        assert_eq!(6.0, Once::<Fma>::of(2f32.to_bits() as i32, 3f32.to_bits() as i32));
        assert_eq!(2.0 * 3.0 + 5.0 * 7.0, Once::<DotBf16>::of(pair(2.0, 5.0), pair(3.0, 7.0)));
    }

    #[test]
    #[cfg_attr(miri, ignore = "half a gigabyte, and a clock")]
    fn every_instruction_set_and_unit_has_a_rate_and_reading_goes_on_where_it_ended() {
        let machine = Machine::new(2).unwrap();
        for isa in Isa::available() {
            for unit in [Unit::F32, Unit::Bf16, Unit::Int8, Unit::Read] {
                let rate = machine.rate(isa, unit);
                assert!(rate.is_finite() && rate > 1e6, "{isa} {unit:?} {rate}");
            }
            assert!(machine.cursors.iter().all(|cursor| cursor.load(Ordering::Relaxed) > 0));
        }
    }
}
