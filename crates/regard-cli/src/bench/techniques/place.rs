//! Where numbers begin.

use regard_memory::{Arena, Pages};

use super::Bench;
use super::fold::Heads;
use super::trial::{Finding, Trial, Way};
use crate::error::Error;

/// Keys and values that come from memory: 8 heads of 128, 64 MiB in all.
pub(crate) fn from_memory(bench: Bench<'_>) -> Result<Heads, Error> {
    Ok(Heads::random(8, bench.sized(128) * 64, 128)?)
}

/// In words.
pub(crate) fn decoding(heads: &Heads) -> String {
    let Heads { tasks, keys_of_a_head, dim, .. } = heads;
    format!("6 rows over {keys_of_a_head} keys from memory, {tasks} heads of {dim}")
}

/// The same work in the same way twice.
pub(crate) fn nothing(bench: Bench<'_>) -> Result<Vec<Finding>, Error> {
    let heads = from_memory(bench)?;
    let (mut once, mut again) = (Arena::new(), Arena::new());
    let trial = Trial {
        work: decoding(&heads),
        numbers: heads.results(),
        ways: vec![
            Way::new("once", |out| heads.attend(bench, &mut once, out)),
            Way::new("again", |out| heads.attend(bench, &mut again, out)),
        ],
    };
    Ok(vec![trial.measure()?])
}

/// Lines of 64 bytes, which a vector of AVX-512 fills: what begins within one makes every vector a piece of two.
pub(crate) fn alignment(bench: Bench<'_>) -> Result<Vec<Finding>, Error> {
    let far = from_memory(bench)?;
    // A panel of keys and one of values, which the first-level cache holds.
    let near = Heads::random(1, 64, 64)?.with_tasks(bench.sized(2048));
    let of_near = format!("{} tasks of 6 rows over the same 64 keys of 64, from the first-level cache", near.tasks);
    let works = [(of_near, near), (decoding(&far), far)];
    works.into_iter().map(|(work, heads)| shifted(bench, work, &heads)).collect()
}

fn shifted(bench: Bench<'_>, work: String, heads: &Heads) -> Result<Finding, Error> {
    let shifts = [(0, "on a line of 64 bytes"), (8, "32 bytes behind"), (1, "4 bytes behind")];
    let copies = shifts.map(|(shift, name)| Ok((heads.copied(Pages::Normal, shift)?, name)));
    let copies = copies.into_iter().collect::<Result<Vec<_>, Error>>()?;
    let ways = copies.iter().map(|(heads, name)| {
        let mut scratch = Arena::new();
        Way::new(*name, move |out| heads.attend(bench, &mut scratch, out))
    });
    Trial { work, numbers: heads.results(), ways: ways.collect() }.measure()
}
