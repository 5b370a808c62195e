//! PyTorch as a second opinion.

use regard_oracle::golden;

use crate::support::{Asked, Backward, Forward, Stored, Way, keeps};

#[test]
fn pytorch_says_the_same() {
    for case in golden() {
        let (name, problem) = (&case.name, &case.problem);
        // The same weights fall.
        if problem.dropout.is_some() {
            assert!(problem.pairs().all(|pair| case.keeps(&pair) == keeps(problem, &pair)), "{name}");
        }
        let mut forward = Forward::new(problem, f32::PRECISIONS);
        let mut backward = Backward::new(problem, f32::PRECISIONS);
        (forward.exact, backward.exact) = (case.attended, case.gradients);
        for isa in Way::all() {
            let results = Asked::new(problem, isa).results::<f32>();
            forward.judge(&results.outcome).unwrap_or_else(|what| panic!("{name} on {isa}: {what}"));
            backward.judge(&results.slopes).unwrap_or_else(|what| panic!("{name} on {isa}: {what}"));
        }
    }
}
