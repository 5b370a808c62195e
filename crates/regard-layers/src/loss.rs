//! How far a prediction is from what came.

use regard_memory::{Frame, Need, chunks_of};

use crate::{Error, Pass};

/// Rows of a task.
const BLOCK: usize = 4;

/// What [`cross_entropy`] takes from its frame.
pub fn cross_entropy_need(rows: usize) -> Need {
    Need::of::<f64>(rows)
}

/// `Σ weightᵢ · −ln softmax(logitsᵢ)[targetᵢ]` over rows `logits [rows, vocabulary]`, which become its gradient. A row of the weight 0
/// counts for nothing, whatever its target.
///
/// # Errors
/// A target is beyond the vocabulary, or there are more or fewer targets or weights than rows.
pub fn cross_entropy(
    pass: &Pass<'_>,
    logits: &mut [f32],
    vocabulary: usize,
    targets: &[u32],
    weights: &[f32],
    frame: &mut Frame<'_>,
) -> Result<f64, Error> {
    if logits.len() != targets.len().saturating_mul(vocabulary) || vocabulary == 0 {
        return Err(Error::shape("logits", &[logits.len()], format!("[{}, {vocabulary}]", targets.len())));
    }
    if weights.len() != targets.len() {
        return Err(Error::shape("weights", &[weights.len()], format!("[{}], as the targets", targets.len())));
    }
    let counts = |(target, weight): (&u32, &f32)| *weight != 0.0 && *target as usize >= vocabulary;
    if let Some((target, _)) = targets.iter().zip(weights).find(|&pair| counts(pair)) {
        return Err(Error::setting("target", target, format!("below {vocabulary}, the vocabulary")));
    }
    let mut frame = frame.scope();
    let losses = frame.take::<f64>(targets.len());
    let kernels = pass.kernels;
    pass.pool.run(
        (chunks_of(logits, BLOCK * vocabulary), chunks_of(&mut *losses, BLOCK)),
        |index, (logits, losses)| {
            let rows = targets[index * BLOCK..].iter().zip(&weights[index * BLOCK..]);
            for ((logits, loss), (&target, &weight)) in logits.chunks_exact_mut(vocabulary).zip(losses).zip(rows) {
                *loss = match weight {
                    0.0 => {
                        logits.fill(0.0);
                        0.0
                    }
                    _ => kernels
                        .cross_entropy(logits, target as usize, weight)
                        .expect("a target of the vocabulary")
                        .into(),
                };
            }
        },
    );
    Ok(losses.iter().sum())
}
