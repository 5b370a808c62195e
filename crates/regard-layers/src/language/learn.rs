//! One step of learning: the loss of a batch, and all gradients.

use regard_memory::{Frame, Need, Rows, RowsMut};

use super::LanguageModel;
use crate::{
    Before, Error, Gradients, Layer, Mode, Parameters, Pass, SharedAttentionContext, Side, Size, Workspace,
    cross_entropy,
};

/// Whether a block's intermediate results are kept for the backward pass, or computed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Recomputation {
    /// They are kept.
    None,
    /// Of each block only the input is kept (Chen et al., 2016).
    Blocks,
}

/// What a model learns from: rows `[batch, tokens]`.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Sequences and tokens.
    pub size: Size,
    /// What it is shown.
    pub tokens: &'a [u32],
    /// What it shall say at each place.
    pub targets: &'a [u32],
    /// What each place counts; they add up to 1 where the loss is a mean.
    pub weights: &'a [f32],
}

/// What a step goes by beside the batch.
struct Step<'s, 'b> {
    batch: Batch<'b>,
    recomputation: Recomputation,
    gradients: &'s mut Gradients,
    context: Option<&'s mut SharedAttentionContext>,
}

impl LanguageModel {
    /// What [`LanguageModel::learn`] takes: the activations.
    pub fn learn_need(
        &self,
        size: Size,
        recomputation: Recomputation,
        context: Option<&SharedAttentionContext>,
    ) -> Need {
        let rows = self.rows_need(size);
        let observed = context.map_or(Need::NONE, SharedAttentionContext::observe_need);
        let inlet = context.map_or(Need::NONE, |context| context.need(size.rows()));
        let (mut kept, mut passing) = (rows, self.norm.need(size.rows()).or(self.logits_need(size)));
        for block in &self.blocks {
            let (forward, backward) = (block.forward_need(size), block.backward_need(size));
            match recomputation {
                Recomputation::None => {
                    kept = kept.and(forward).and(inlet);
                    passing = passing.or(backward).or(observed).or(inlet);
                }
                Recomputation::Blocks => {
                    kept = kept.and(rows).and(inlet);
                    passing = passing.or(forward.and(backward.or(observed))).or(inlet);
                }
            }
        }
        // The last norm's results, and the gradient that goes back.
        kept.and(rows.times(2)).and(passing)
    }

    /// The loss of a batch, and the gradients of all parameters, added to `gradients`. What blocks see of each other goes into
    /// `context`, where they share one; it is moved by [`SharedAttentionContext::update`].
    ///
    /// # Errors
    /// A token is beyond the vocabulary, or the batch's parts are of different sizes.
    #[allow(clippy::too_many_arguments, reason = "a step reads and writes everything that a run consists of")]
    pub fn learn(
        &self,
        parameters: &Parameters,
        workspace: &mut Workspace,
        mode: Mode,
        batch: Batch<'_>,
        recomputation: Recomputation,
        gradients: &mut Gradients,
        context: Option<&mut SharedAttentionContext>,
    ) -> Result<f64, Error> {
        self.check(batch.size, batch.tokens)?;
        self.check_context(context.as_deref())?;
        let need = self.learn_need(batch.size, recomputation, context.as_deref());
        let (mut tape, mut pass) = workspace.pass(parameters, mode, need)?;
        let x = tape.take(batch.tokens.len() * self.config.width);
        self.embedding.forward(&pass, batch.tokens, x)?;
        let mut step = Step { batch, recomputation, gradients, context };
        let (loss, d) = self.descend(0, &mut pass, &mut step, x, &mut tape)?;
        self.embedding.backward(&pass, batch.tokens, d, step.gradients)?;
        Ok(loss)
    }

    /// Goes through the blocks from `layer` on to the loss, and back again: gives the loss, and its gradient by `x`. What a block
    /// keeps stays on the stack meanwhile.
    fn descend<'a>(
        &self,
        layer: usize,
        pass: &mut Pass<'_>,
        step: &mut Step<'_, '_>,
        x: &'a [f32],
        tape: &mut Frame<'a>,
    ) -> Result<(f64, &'a mut [f32]), Error> {
        let Some(block) = self.blocks.get(layer) else { return self.finish(pass, step, x, tape) };
        let size = step.batch.size;
        let inlet = layer.checked_sub(1).and_then(|inlet| self.inlets.get(inlet));
        let with_context: &'a [f32] = match (inlet, &step.context) {
            (Some(&inlet), Some(context)) => context.apply(pass, inlet, x, tape)?,
            _ => x,
        };
        let (loss, d) = match step.recomputation {
            Recomputation::None => {
                let (y, kept) = block.observed(pass, size, with_context, step.context.as_deref_mut(), tape)?;
                let (loss, d) = self.descend(layer + 1, pass, step, y, tape)?;
                block.backward_in(pass, size, kept, d, step.gradients, tape)?;
                (loss, d)
            }
            Recomputation::Blocks => {
                let y = tape.take(x.len());
                {
                    let mut scope = tape.scope();
                    let context = step.context.as_deref_mut();
                    y.copy_from_slice(block.observed(pass, size, with_context, context, &mut scope)?.0);
                }
                let (loss, d) = self.descend(layer + 1, pass, step, y, tape)?;
                let mut scope = tape.scope();
                let (_, kept) = block.forward(pass, size, with_context, &mut scope)?;
                block.backward_in(pass, size, kept, d, step.gradients, &mut scope)?;
                (loss, d)
            }
        };
        if let (Some(&inlet), Some(context)) = (inlet, &step.context) {
            context.apply_backward(pass, inlet, x, d, step.gradients, tape)?;
        }
        Ok((loss, d))
    }

    /// The last norm, the logits and the loss, and back.
    fn finish<'a>(
        &self,
        pass: &mut Pass<'_>,
        step: &mut Step<'_, '_>,
        x: &'a [f32],
        tape: &mut Frame<'a>,
    ) -> Result<(f64, &'a mut [f32]), Error> {
        let Step { batch: Batch { size, targets, weights, .. }, gradients, .. } = step;
        let (rows, width, vocabulary) = (size.rows(), self.config.width, self.config.vocabulary);
        let (normed, d) = (tape.take(x.len()), tape.take_zeroed(x.len()));
        self.norm.apply(pass, x, normed);
        let normed_rows = Rows::contiguous(&*normed, rows, width)?;
        let loss = {
            let mut scope = tape.scope();
            let logits = scope.take(rows * vocabulary);
            self.logits(pass, normed_rows, logits)?;
            let loss = cross_entropy(pass, logits, vocabulary, targets, weights, &mut scope)?;
            let dlogits = Rows::contiguous(&*logits, rows, vocabulary)?;
            let dnormed = RowsMut::contiguous(d, rows, width)?;
            match &self.head {
                Some(head) => {
                    head.differentiate(pass, normed_rows, dlogits, gradients, Some((Before::Replaced, dnormed)))?;
                }
                None => {
                    let place = self.embedding.weight();
                    let table = Rows::contiguous(pass.parameters.of(place), vocabulary, width)?;
                    let to = RowsMut::contiguous(gradients.of_mut(place), vocabulary, width)?;
                    pass.multiply(Side::Transposed(dlogits), Side::AsIs(normed_rows), Before::Kept, to)?;
                    pass.multiply(Side::AsIs(dlogits), Side::AsIs(table), Before::Replaced, dnormed)?;
                }
            }
            loss
        };
        // The gradient of the norm's results gives way to that of its input.
        normed.copy_from_slice(d);
        d.fill(0.0);
        self.norm.differentiate(pass, x, normed, gradients, d, tape)?;
        Ok((loss, d))
    }
}
