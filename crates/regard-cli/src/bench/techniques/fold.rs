//! Attention of one head as the engine computes it, from numbers that may lie anywhere.

use std::ops::Deref;

use regard_attention::Error;
use regard_kernels::{Ending, F32, Kernels, PANEL, ROWS, RowState, ScoreTile, Stretch};
use regard_memory::{AlignedBuffer, Arena, Need, Pages, chunks_of};

use super::Bench;

/// Panels that one softmax goes over, as in the engine.
const BLOCK: usize = 16;

/// Numbers of f32 that begin so many of them behind the start of a line.
pub(crate) struct Numbers {
    buffer: AlignedBuffer<f32>,
    shift: usize,
}

impl Numbers {
    /// Pseudo-random ones, the same for the same seed.
    pub(crate) fn random(seed: u32, len: usize) -> Result<Numbers, Error> {
        let mut numbers = Numbers::zeroed(Pages::Normal, 0, len)?;
        let mut state = seed.wrapping_mul(0x9E37_79B9) | 1;
        for x in &mut numbers.buffer[..] {
            // Xorshift (Marsaglia, 2003); its high bits, as a number between −1 and 1.
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            *x = (state >> 8) as f32 / 8_388_608.0 - 1.0;
        }
        Ok(numbers)
    }

    pub(crate) fn zeroed(pages: Pages, shift: usize, len: usize) -> Result<Numbers, Error> {
        Ok(Numbers { buffer: AlignedBuffer::zeroed_on(pages, shift + len)?, shift })
    }

    /// The same numbers elsewhere.
    pub(crate) fn copied(&self, pages: Pages, shift: usize) -> Result<Numbers, Error> {
        let mut copy = Numbers::zeroed(pages, shift, self.len())?;
        copy.buffer[shift..].copy_from_slice(self);
        Ok(copy)
    }

    /// The pages that they lie on.
    pub(crate) fn pages(&self) -> Pages {
        self.buffer.pages()
    }
}

impl Deref for Numbers {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.buffer[self.shift..]
    }
}

/// Words of scratch for the scores of a tile.
pub(crate) const SCORES: usize = ScoreTile::words(BLOCK * PANEL);

/// Softmax attention of six rows, block by block: `queries [ROWS][dim]` over packed keys `[panels][dim][PANEL]` and values
/// `[panels][PANEL][dim]`, into `out [ROWS][dim]`; `dim` is a multiple of 16. Scratch: [`SCORES`] words, and `[ROWS][dim]`.
///
/// # Errors
/// The shapes do not fit.
pub(crate) fn fold(
    kernels: Kernels,
    dim: usize,
    queries: &[f32],
    (keys, values): (&[f32], &[f32]),
    (scores, sums): (&mut [f32], &mut [f32]),
    out: &mut [f32],
) -> Result<(), Error> {
    let (mut tile, mut state) = (ScoreTile::new(scores, BLOCK * PANEL)?, RowState::default());
    sums.fill(0.0);
    let block = BLOCK * PANEL * dim;
    for (keys, values) in keys.chunks(block).zip(values.chunks(block)) {
        let columns = values.len() / dim;
        tile.clear();
        kernels.score::<F32>(ROWS, dim, queries, &[Stretch::whole(keys, columns / PANEL)], &mut tile)?;
        kernels.softmax::<F32>(ROWS, 1.0, &mut tile, &mut state)?;
        kernels.accumulate::<F32>(ROWS, &tile, (0, columns), values, dim, &mut state, sums)?;
    }
    for (row, out) in out.chunks_exact_mut(dim).enumerate() {
        kernels.finish(&state, row, sums, dim, Ending::default(), out)?;
    }
    Ok(())
}

/// Packed heads of six query rows each. Tasks go over them in turn.
pub(crate) struct Heads {
    pub(crate) tasks: usize,
    /// Keys of a head, whole panels.
    pub(crate) keys_of_a_head: usize,
    pub(crate) dim: usize,
    /// `[ROWS][dim]`, the same for all.
    queries: Vec<f32>,
    /// `[heads][panels][dim][PANEL]` and `[heads][panels][PANEL][dim]`.
    keys: Numbers,
    values: Numbers,
}

impl Heads {
    /// So many heads of random numbers, and a task for each.
    pub(crate) fn random(heads: usize, keys_of_a_head: usize, dim: usize) -> Result<Heads, Error> {
        let len = heads * keys_of_a_head * dim;
        let queries = Numbers::random(1, ROWS * dim)?.to_vec();
        let (keys, values) = (Numbers::random(2, len)?, Numbers::random(3, len)?);
        Ok(Heads { tasks: heads, keys_of_a_head, dim, queries, keys, values })
    }

    /// So many tasks, which go over the heads again and again.
    pub(crate) fn with_tasks(self, tasks: usize) -> Heads {
        Heads { tasks, ..self }
    }

    /// The same numbers elsewhere.
    pub(crate) fn copied(&self, pages: Pages, shift: usize) -> Result<Heads, Error> {
        let (keys, values) = (self.keys.copied(pages, shift)?, self.values.copied(pages, shift)?);
        Ok(Heads { queries: self.queries.clone(), keys, values, ..*self })
    }

    /// Numbers of the result, `[tasks][ROWS][dim]`.
    pub(crate) fn results(&self) -> usize {
        self.tasks * ROWS * self.dim
    }

    /// The pages that keys and values lie on.
    pub(crate) fn pages(&self) -> Pages {
        if self.values.pages() == Pages::Huge { self.keys.pages() } else { Pages::Normal }
    }

    /// What a task reads and does, into `out [ROWS][dim]`.
    pub(crate) fn task(
        &self,
        kernels: Kernels,
        task: usize,
        scratch: (&mut [f32], &mut [f32]),
        out: &mut [f32],
    ) -> Result<(), Error> {
        let each = self.keys_of_a_head * self.dim;
        let at = task % (self.keys.len() / each) * each;
        let head = (&self.keys[at..at + each], &self.values[at..at + each]);
        fold(kernels, self.dim, &self.queries, head, scratch, out)
    }

    /// All tasks, with scratch from an arena.
    pub(crate) fn attend(&self, bench: Bench<'_>, scratch: &mut Arena, out: &mut [f32]) -> Result<(), Error> {
        let need = Need::of::<f32>(SCORES).and(Need::of::<f32>(ROWS * self.dim));
        let threads = bench.pool.threads();
        let workers = scratch.frame(need.times(threads))?.split(threads, need);
        bench.pool.run_in(workers, chunks_of(out, ROWS * self.dim), |frame, task, out| {
            let mut frame = frame.scope();
            let scratch = (frame.take(SCORES), frame.take(ROWS * self.dim));
            self.task(bench.kernels, task, scratch, out).expect("the shapes fit");
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use regard_memory::Rows;
    use regard_simd::Isa;

    use super::*;

    #[test]
    fn numbers_begin_where_they_are_told_to() {
        let numbers = Numbers::random(3, 1000).unwrap();
        assert!(numbers.iter().all(|x| (-1.0..1.0).contains(x)));
        assert!((numbers.iter().sum::<f32>() / 1000.0).abs() < 0.1);
        for shift in [0, 1, 8] {
            let copy = numbers.copied(Pages::Normal, shift).unwrap();
            assert_eq!((&copy[..], copy.as_ptr().addr() % 64), (&numbers[..], 4 * shift));
        }
    }

    #[test]
    fn it_is_softmax_attention() {
        let (kernels, dim, keys) = (Kernels::new(Isa::best()), 16, 20 * PANEL);
        let [q, k, v] =
            [(1, ROWS * dim), (2, keys * dim), (3, keys * dim)].map(|(seed, len)| Numbers::random(seed, len).unwrap());
        let mut packed = vec![0.0; keys * dim];
        kernels.pack_keys::<F32, f32>(Rows::contiguous(&k, keys, dim).unwrap(), 0, &mut packed).unwrap();
        let mut out = vec![0.0; ROWS * dim];
        fold(kernels, dim, &q, (&packed, &v), (&mut vec![0.0; SCORES], &mut vec![0.0; ROWS * dim]), &mut out).unwrap();
        for (q, out) in q.chunks_exact(dim).zip(out.chunks_exact(dim)) {
            let dot = |k: &[f32]| q.iter().zip(k).map(|(q, k)| f64::from(q * k)).sum::<f64>();
            // The scores are to base 2.
            let weights: Vec<f64> = k.chunks_exact(dim).map(|k| dot(k).exp2()).collect();
            let sum: f64 = weights.iter().sum();
            for (c, &y) in out.iter().enumerate() {
                let exact =
                    weights.iter().zip(v.chunks_exact(dim)).map(|(w, v)| w * f64::from(v[c])).sum::<f64>() / sum;
                assert!((f64::from(y) - exact).abs() < 1e-5, "{y}, exactly {exact}");
            }
        }
    }
}
