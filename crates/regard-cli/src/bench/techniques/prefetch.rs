//! What will be read, asked for before.

use regard_attention::Error as Refusal;
use regard_kernels::trial::{Access, score};
use regard_kernels::{F32, PANEL, ROWS};
use regard_memory::{AlignedBuffer, LINE, Need, Rows, chunks_of, prefetch_read};

use super::Bench;
use super::fold::{Numbers, SCORES, fold};
use super::trial::{Finding, Trial, Way};
use crate::error::Error;

pub(crate) fn measure(bench: Bench<'_>) -> Result<Vec<Finding>, Error> {
    Ok(vec![short_heads(bench)?, stream(bench)?])
}

/// Heads one after the other, each small enough that no stream begins before it ends.
fn short_heads(bench: Bench<'_>) -> Result<Finding, Error> {
    const DIM: usize = 64;
    const EACH: usize = PANEL * DIM;
    let heads = bench.sized(4096);
    let queries = Numbers::random(1, ROWS * DIM)?;
    let (keys, values) = (Numbers::random(2, heads * EACH)?, Numbers::random(3, heads * EACH)?);
    let need = Need::of::<f32>(EACH).times(2).and(Need::of::<f32>(SCORES)).and(Need::of::<f32>(ROWS * DIM));
    let ways =
        [("the next head asked for", 1), ("nothing asked for", 0), ("the second next", 2), ("the fourth next", 4)];
    let ways = ways.map(|(name, ahead)| {
        let (keys, values, queries) = (&keys, &values, &queries);
        let mut scratch = regard_memory::Arena::new();
        Way::new(name, move |out: &mut [f32]| -> Result<(), Refusal> {
            let threads = bench.pool.threads();
            let workers = scratch.frame(need.times(threads))?.split(threads, need);
            bench.pool.run_in(workers, chunks_of(out, ROWS * DIM), |frame, head, out| {
                if ahead > 0 {
                    ask(keys, (head + ahead) * EACH..(head + ahead + 1) * EACH);
                    ask(values, (head + ahead) * EACH..(head + ahead + 1) * EACH);
                }
                let mut frame = frame.scope();
                let (packed, of_values) = (frame.take(EACH), frame.take(EACH));
                let scratch = (frame.take(SCORES), frame.take(ROWS * DIM));
                let (keys, values) = (&keys[head * EACH..][..EACH], &values[head * EACH..][..EACH]);
                let attend = || -> Result<(), Refusal> {
                    bench.kernels.pack_keys::<F32, f32>(Rows::contiguous(keys, PANEL, DIM)?, 0, packed)?;
                    bench.kernels.pack_values::<F32, f32>(Rows::contiguous(values, PANEL, DIM)?, 0, of_values, DIM)?;
                    fold(bench.kernels, DIM, queries, (packed, of_values), scratch, out)
                };
                attend().expect("the shapes fit");
            });
            Ok(())
        })
    });
    let work = format!("6 rows over 64 keys from memory, packed first, {heads} heads of {DIM}");
    Trial { work, numbers: heads * ROWS * DIM, ways: ways.into() }.measure()
}

/// Asks for all lines of some numbers, if they are there.
fn ask(numbers: &[f32], range: std::ops::Range<usize>) {
    for line in numbers.get(range).unwrap_or_default().chunks(LINE / size_of::<f32>()) {
        prefetch_read(line.as_ptr());
    }
}

/// One long stream, which the CPU sees coming.
fn stream(bench: Bench<'_>) -> Result<Finding, Error> {
    const DIM: usize = 128;
    /// Panels of a task.
    const SOME: usize = 8;
    let panels = bench.sized(256) * SOME;
    let queries = Numbers::random(1, ROWS * DIM)?;
    let mut keys = AlignedBuffer::zeroed(panels * PANEL * DIM).map_err(Refusal::from)?;
    keys.copy_from_slice(&Numbers::random(2, panels * PANEL * DIM)?);
    let asked = [4, 16, 64, 256].map(|lines| (format!("{lines} lines ahead"), Access::Ahead(lines)));
    let ways = [("nothing asked for".to_owned(), Access::Unchecked)].into_iter().chain(asked).map(|(name, access)| {
        let (keys, queries) = (&keys, &queries);
        Way::new(name, move |out: &mut [f32]| -> Result<(), Refusal> {
            bench.pool.run(chunks_of(out, SOME * ROWS * PANEL), |task, out| {
                let each = SOME * PANEL * DIM;
                score(bench.kernels, access, DIM, queries, &keys[task * each..][..each], out).expect("the shapes fit");
            });
            Ok(())
        })
    });
    let work = format!("scores of 6 rows and {} keys of {DIM} from memory", panels * PANEL);
    Trial { work, numbers: panels * ROWS * PANEL, ways: ways.collect() }.measure()
}
