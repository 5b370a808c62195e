//! What each memory technique buys on this machine: the same work with it and without.

mod checks;
mod fold;
mod nodes;
mod pages;
mod place;
mod prefetch;
mod report;
mod scratch;
mod trial;

use regard_kernels::Kernels;
use regard_threads::Pool;

use self::trial::Finding;
use crate::error::Error;

pub(crate) use self::report::{json, markdown, table};

/// What everything is measured with.
#[derive(Clone, Copy)]
pub(crate) struct Bench<'a> {
    pub(crate) kernels: Kernels,
    pub(crate) pool: &'a Pool,
    /// How large the work is: 1, or less where only the way through is of interest.
    pub(crate) share: f64,
}

impl Bench<'_> {
    /// So many, or a share of them.
    fn sized(&self, count: usize) -> usize {
        ((count as f64 * self.share) as usize).max(1)
    }
}

/// A technique, and how it is measured.
pub(crate) struct Technique {
    pub(crate) id: &'static str,
    pub(crate) measure: fn(Bench<'_>) -> Result<Vec<Finding>, Error>,
}

/// All of them, and before them the same work in the same way twice, which shows what the clock cannot tell apart.
pub(crate) const TECHNIQUES: [Technique; 8] = [
    Technique { id: "nothing", measure: place::nothing },
    Technique { id: "arena", measure: scratch::arena },
    Technique { id: "reuse", measure: scratch::reuse },
    Technique { id: "alignment", measure: place::alignment },
    Technique { id: "pages", measure: pages::measure },
    Technique { id: "prefetch", measure: prefetch::measure },
    Technique { id: "unchecked", measure: checks::measure },
    Technique { id: "nodes", measure: nodes::measure },
];

#[cfg(test)]
mod tests {
    use regard_simd::Isa;

    use super::*;

    /// Small, and without a look at times.
    #[test]
    fn every_technique_is_measured_or_skipped_with_a_reason() {
        let bench = Bench { kernels: Kernels::new(Isa::best()), pool: Pool::global(), share: 0.002 };
        for Technique { id, measure } in TECHNIQUES {
            let findings = measure(bench).unwrap();
            assert!(!findings.is_empty(), "{id}");
            for finding in findings {
                match finding {
                    Finding::Skipped { why, .. } => assert!(["pages", "nodes"].contains(&id), "{id}: {why}"),
                    Finding::Measured { ways, .. } => {
                        assert!(ways.len() >= 2 && ways.iter().all(|way| way.seconds > 0.0), "{id}: {ways:?}");
                    }
                }
            }
        }
    }
}
