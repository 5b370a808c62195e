//! Pages of 2 MiB, of which one entry of the TLB covers what takes 512 of the usual ones.

use regard_attention::Error as Refusal;
use regard_kernels::{F32, PANEL, ROWS};
use regard_memory::{AlignedBuffer, Arena, Pages, Rows};

use super::Bench;
use super::fold::{Heads, Numbers, SCORES, fold};
use super::place::{decoding, from_memory};
use super::trial::{Finding, Trial, Way};
use crate::error::Error;

const DIM: usize = 128;

pub(crate) fn measure(bench: Bench<'_>) -> Result<Vec<Finding>, Error> {
    Ok(vec![stream(bench)?, gather(bench)?, fresh(bench)?])
}

fn skipped(work: String) -> Finding {
    Finding::Skipped { work, why: "the system grants no pages of 2 MiB for so much memory".into() }
}

/// Keys and values read one after the other.
fn stream(bench: Bench<'_>) -> Result<Finding, Error> {
    let normal = from_memory(bench)?;
    let huge = normal.copied(Pages::Huge, 0)?;
    let work = decoding(&normal);
    if huge.pages() != Pages::Huge {
        return Ok(skipped(work));
    }
    let ways = [("pages of 4 KiB", &normal), ("pages of 2 MiB", &huge)];
    let ways = ways.map(|(name, heads): (_, &Heads)| {
        let mut scratch = Arena::new();
        Way::new(name, move |out| heads.attend(bench, &mut scratch, out))
    });
    Trial { work, numbers: normal.results(), ways: ways.into() }.measure()
}

/// Scattered keys, each copied from the lines that its panel holds it in, and then attended to.
fn gather(bench: Bench<'_>) -> Result<Finding, Error> {
    let panels = bench.sized(1024);
    let len = panels * PANEL * DIM;
    let normal = (Numbers::random(2, len)?, Numbers::random(3, len)?);
    let huge = (normal.0.copied(Pages::Huge, 0)?, normal.1.copied(Pages::Huge, 0)?);
    let work = format!("every 37th of {} keys gathered, a head of {DIM}, one thread", panels * PANEL);
    if [&huge.0, &huge.1].iter().any(|numbers| numbers.pages() != Pages::Huge) {
        return Ok(skipped(work));
    }
    let list: Vec<u32> = (0..(panels * PANEL) as u32).step_by(37).collect();
    let queries = Numbers::random(1, ROWS * DIM)?;
    let ways = [("pages of 4 KiB", &normal), ("pages of 2 MiB", &huge)].map(|(name, (keys, values))| {
        let (list, queries) = (&list, &queries);
        let each = PANEL * DIM;
        let (mut some_keys, mut some_values) = (vec![0.0; each], vec![0.0; each]);
        let (mut scores, mut sums) = (vec![0.0; SCORES], vec![0.0; ROWS * DIM]);
        Way::new(name, move |out: &mut [f32]| -> Result<(), Refusal> {
            for (list, out) in list.chunks_exact(PANEL).zip(out.chunks_exact_mut(ROWS * DIM)) {
                let panel = |panel: usize| (&keys[panel * each..][..each], &values[panel * each..][..each]);
                bench.kernels.gather::<F32>((DIM, DIM), panel, list, &mut some_keys, &mut some_values)?;
                fold(bench.kernels, DIM, queries, (&some_keys, &some_values), (&mut scores, &mut sums), out)?;
            }
            Ok(())
        })
    });
    Trial { work, numbers: list.len() / PANEL * ROWS * DIM, ways: ways.into() }.measure()
}

/// Memory that nobody has written to: the system gives each page when it is touched first.
fn fresh(bench: Bench<'_>) -> Result<Finding, Error> {
    let keys = bench.sized(1024) * PANEL;
    let rows = Numbers::random(2, keys * DIM)?;
    let work = format!("{keys} keys of {DIM} packed into fresh memory, one thread");
    if AlignedBuffer::<f32>::zeroed_on(Pages::Huge, rows.len()).map_err(Refusal::from)?.pages() != Pages::Huge {
        return Ok(skipped(work));
    }
    let ways = [("pages of 4 KiB", Pages::Normal), ("pages of 2 MiB", Pages::Huge)].map(|(name, pages)| {
        let rows = &rows;
        Way::new(name, move |out: &mut [f32]| -> Result<(), Refusal> {
            let mut packed = AlignedBuffer::zeroed_on(pages, rows.len())?;
            bench.kernels.pack_keys::<F32, f32>(Rows::contiguous(rows, keys, DIM)?, 0, &mut packed)?;
            out.copy_from_slice(&packed[packed.len() - out.len()..]);
            Ok(())
        })
    });
    Trial { work, numbers: PANEL, ways: ways.into() }.measure()
}
