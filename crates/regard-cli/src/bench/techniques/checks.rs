//! Inner loops that trust what was checked before them.

use regard_attention::Error as Refusal;
use regard_kernels::trial::{Access, score};
use regard_kernels::{PANEL, ROWS};

use super::Bench;
use super::fold::Numbers;
use super::trial::{Finding, Trial, Way};
use crate::error::Error;

const DIM: usize = 64;

pub(crate) fn measure(bench: Bench<'_>) -> Result<Vec<Finding>, Error> {
    let of = |panels: usize, cache: &str| {
        let times = bench.sized(1024).div_ceil(panels);
        let work =
            format!("{times} times the scores of 6 rows and {} keys of {DIM}, from the {cache} cache", panels * PANEL);
        products(bench, work, panels, times)
    };
    Ok(vec![of(1, "first-level")?, of(16, "second-level")?])
}

/// The same product over and over, on one thread.
fn products(bench: Bench<'_>, work: String, panels: usize, times: usize) -> Result<Finding, Error> {
    let queries = Numbers::random(1, ROWS * DIM)?;
    let keys = Numbers::random(2, panels * PANEL * DIM)?;
    let ways = [("lengths checked before the loop", Access::Unchecked), ("every access checked", Access::Checked)];
    let ways = ways.map(|(name, access)| {
        let (queries, keys) = (&queries, &keys);
        Way::new(name, move |out: &mut [f32]| -> Result<(), Refusal> {
            (0..times).try_for_each(|_| Ok(score(bench.kernels, access, DIM, queries, keys, out)?))
        })
    });
    Trial { work, numbers: panels * ROWS * PANEL, ways: ways.into() }.measure()
}
