//! PyTorch as a second opinion.

use regard_oracle::{golden, widen};

use crate::close;

#[test]
fn pytorch_says_the_same() {
    let cases = golden();
    assert!(cases.len() > 30);
    for case in &cases {
        let problem = &case.problem;
        let (dout, dlse) = (widen(&problem.dout), widen(&problem.dlse));
        let (attended, gradients) =
            problem.define(|pair| case.keeps(pair), |call| (call.exact(), call.gradients(&dout, &dlse)));
        for (part, ours, theirs) in [
            ("out", &attended.out, &case.attended.out),
            ("lse", &attended.lse, &case.attended.lse),
            ("dq", &gradients.dq, &case.gradients.dq),
            ("dk", &gradients.dk, &case.gradients.dk),
            ("dv", &gradients.dv, &case.gradients.dv),
            ("dbias", &gradients.dbias, &case.gradients.dbias),
            ("dsinks", &gradients.dsinks, &case.gradients.dsinks),
        ] {
            close(ours, theirs, 1e-12).unwrap_or_else(|what| panic!("{}: {part}: {what}", case.name));
        }
    }
    // Nothing that a call may hold is missing among them.
    let some = |holds: fn(&regard_oracle::Problem) -> bool| cases.iter().any(|case| holds(&case.problem));
    assert!(
        some(|call| call.bias.is_some()) && some(|call| call.slopes.is_some()) && some(|call| call.sinks.is_some())
    );
    assert!(some(|call| call.softcap.is_some()) && some(|call| call.dropout.is_some()));
    assert!(some(|call| call.set.differs_by_batch()) && some(|call| call.set.differs_by_head()));
    assert!(some(|call| call.sequences.len() > call.sizes.batch));
}
