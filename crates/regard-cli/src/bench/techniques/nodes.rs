//! Memory and cores of several NUMA nodes: a page lies where it was touched first.

use regard_attention::Error as Refusal;
use regard_threads::{nodes, pin};

use super::Bench;
use super::fold::{Heads, SCORES};
use super::trial::{Finding, Trial, Way};
use crate::error::Error;

pub(crate) fn measure(bench: Bench<'_>) -> Result<Vec<Finding>, Error> {
    Ok(vec![between(bench, &nodes())?])
}

/// A thread of the first node over what it has touched itself, and over what one of the last node has.
fn between(bench: Bench<'_>, nodes: &[Vec<usize>]) -> Result<Finding, Error> {
    let (keys, dim) = (bench.sized(1024) * 64, 128);
    let work = format!("6 rows over {keys} keys from memory, a head of {dim}, one thread");
    let [near, .., far] = nodes else {
        return Ok(Finding::Skipped { work, why: "there is one NUMA node".into() });
    };
    let heads = |cpus: &[usize]| on(cpus, || Heads::random(1, keys, dim));
    let (own, others) = match (heads(near), heads(far)) {
        (Some(own), Some(others)) => (own?, others?),
        _ => return Ok(Finding::Skipped { work, why: "threads cannot be kept on the CPUs of a node".into() }),
    };
    let ways = [
        ("wherever the system puts it", &own, None),
        ("pinned to the node that touched it first", &own, Some(near)),
        ("pinned to another node", &others, Some(near)),
    ];
    let ways = ways.map(|(name, heads, cpus): (_, &Heads, Option<&Vec<usize>>)| {
        let (mut scores, mut sums) = (vec![0.0; SCORES], vec![0.0; heads.results()]);
        Way::new(name, move |out: &mut [f32]| -> Result<(), Refusal> {
            let fold = || heads.task(bench.kernels, 0, (&mut scores, &mut sums), out);
            match cpus {
                Some(cpus) => on(cpus, fold).expect("this was possible before"),
                None => std::thread::scope(|scope| scope.spawn(fold).join().expect("it does not panic")),
            }
        })
    });
    Trial { work, numbers: own.results(), ways: ways.into() }.measure()
}

/// What work gives on a thread that is kept on some CPUs; none where it cannot be.
fn on<R: Send>(cpus: &[usize], work: impl FnOnce() -> R + Send) -> Option<R> {
    std::thread::scope(|scope| {
        let pinned = scope.spawn(|| pin(cpus).ok().map(|()| work()));
        pinned.join().expect("it does not panic")
    })
}

#[cfg(test)]
mod tests {
    use regard_kernels::Kernels;
    use regard_simd::Isa;
    use regard_threads::Pool;

    use super::*;

    #[test]
    fn two_nodes_are_compared_and_one_is_not() {
        let bench = Bench { kernels: Kernels::new(Isa::best()), pool: Pool::global(), share: 0.002 };
        let Some(cpus) = nodes().into_iter().next() else { return };
        // As if its CPUs were two nodes.
        let Finding::Measured { ways, .. } = between(bench, &[cpus.clone(), cpus.clone()]).unwrap() else {
            panic!("there are two nodes")
        };
        assert_eq!(ways.len(), 3);
        for few in [&[cpus][..], &[]] {
            let Finding::Skipped { why, .. } = between(bench, few).unwrap() else { panic!("there is none to compare") };
            assert!(why.contains("one NUMA node"));
        }
    }
}
