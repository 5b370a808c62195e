//! The backward pass over a block of pairs, against the gradients of softmax attention in f64.

mod blocks;
mod definition;
mod errors;

use proptest::prelude::*;
use regard_kernels::{Bf16, F32};
use regard_oracle::{Precision, within_twice_plain};
use regard_simd::Isa;

use crate::problem::Problem;
use crate::support::tries;
use definition::Backward;

impl Backward {
    /// Whether the kernels are as good as they must be, on every instruction set.
    fn judge(&self) -> Result<(), TestCaseError> {
        let (exact, plain) = (self.definition(|x| x, |x| x), self.plain_error());
        // A gradient of a score is made of products of numbers up to 2, and then multiplied by one.
        let score = Precision::F32.ulp(8.0 * self.forward.d_v as f64);
        let floors = [score, score, Precision::F32.ulp(2.0), score];
        let judged = if self.adjusted.is_some() { 4 } else { 3 };
        for isa in Isa::available() {
            let ours = match self.precision {
                Precision::Bf16 => self.gradients::<Bf16>(isa),
                _ => self.gradients::<F32>(isa),
            };
            for (i, name) in ["dq", "dk", "dv", "d_scores"].iter().enumerate().take(judged) {
                let judged = within_twice_plain(&ours[i], &exact[i], plain[i], floors[i]);
                prop_assert!(judged.is_ok(), "{isa} {name}: {}", judged.unwrap_err());
            }
        }
        Ok(())
    }
}

fn problems(adjusted: impl Strategy<Value = bool>) -> impl Strategy<Value = Backward> {
    let precision = prop::sample::select(vec![Precision::F32, Precision::Bf16]);
    let shape = (1..30_usize, (1..140_usize, 1..140_usize), 1..300_usize);
    (precision, shape, adjusted, any::<u64>()).prop_map(|(precision, (rows, dims, keys), adjusted, seed)| {
        Backward::random(rows, dims, keys, precision, adjusted, seed)
    })
}

proptest! {
    #![proptest_config(tries(32))]

    #[test]
    fn are_the_gradients_of_attention(problem in problems(Just(false))) {
        problem.judge()?;
    }

    /// With softcap, bias, distances and dropout.
    #[test]
    fn are_the_gradients_of_adjusted_attention(problem in problems(Just(true))) {
        problem.judge()?;
    }

    /// What the mask removes may be anything: keys and values, and rows that see nothing.
    #[test]
    fn removed_pairs_do_not_shine_through(mut problem in problems(any::<bool>()), nan in any::<bool>()) {
        let garbage = if nan { f32::NAN } else { f32::INFINITY };
        let Problem { rows, d_k, d_v, keys, .. } = problem.forward;
        for key in 0..keys {
            if (0..rows).all(|row| !problem.keeps(row, key)) {
                problem.forward.k[key * d_k..][..d_k].fill(garbage);
                problem.forward.v[key * d_v..][..d_v].fill(garbage);
            }
        }
        for row in 0..rows {
            if (0..keys).all(|key| !problem.keeps(row, key)) {
                problem.forward.q[row * d_k..][..d_k].fill(garbage);
                problem.d_out[row * d_v..][..d_v].fill(garbage);
            }
        }
        problem.judge()?;
    }

    /// NaN in a key that is kept is NaN in the rows that see it and in what these see, and nowhere else.
    #[test]
    fn kept_nan_is_seen(mut problem in problems(any::<bool>()), at in any::<prop::sample::Index>()) {
        let at = at.index(problem.forward.k.len());
        problem.forward.k[at] = f32::NAN;
        problem.judge()?;
    }
}
