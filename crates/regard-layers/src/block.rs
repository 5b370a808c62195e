//! A block of a transformer.

use regard_memory::{Frame, Need, chunks_of};

use crate::layer::check_rows;
use crate::mixer::{MixerKept, MixerState};
use crate::{Error, FeedForward, FeedForwardKept, Gradients, Layer, Mixer, Norm, Pass, SharedAttentionContext, Size};

/// Numbers of a task.
const BLOCK: usize = 1 << 13;

/// One block of a transformer, norms first (Xiong et al., 2020): `h = x + mixer(norm(x))`, `y = h + feed_forward(norm(h))`.
///
/// ```
/// use ndarray::Array3;
/// use regard_kernels::Activation;
/// use regard_layers::{
///     Bias, FeedForward, FeedForwardKind, FlashAttention, FlashConfig, HeadSizes, Mixer, Mode, Norm, NormKind, Parameters,
///     TransformerBlock, Workspace, run,
/// };
/// use regard_masks::Mask;
///
/// let mut parameters = Parameters::new(7);
/// let mut scope = parameters.scope("block");
/// let config = FlashConfig::new(HeadSizes::new(32, 4), Mask::causal()).with_rotary(10_000.0);
/// let swiglu = FeedForwardKind::Gated(Activation::Silu);
/// let block = TransformerBlock::new(
///     [Norm::new(&mut scope.scope("norm1"), NormKind::Rms, 32, 1e-5)?, Norm::new(&mut scope.scope("norm2"), NormKind::Rms, 32, 1e-5)?],
///     Mixer::Softmax(FlashAttention::new(&mut scope.scope("mixer"), config)?),
///     FeedForward::new(&mut scope.scope("feed_forward"), swiglu, 32, 80, Bias::None)?,
/// )?;
/// let x = Array3::from_shape_fn((2, 9, 32), |(b, t, c)| ((b * 31 + t * 7 + c) as f32).sin());
/// let y = run(&block, &parameters, &mut Workspace::new()?, Mode::Evaluation, x.view())?;
/// assert_eq!(y.dim(), (2, 9, 32));
/// # Ok::<(), regard_layers::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct TransformerBlock {
    norms: [Norm; 2],
    mixer: Mixer,
    feed_forward: FeedForward,
}

/// What a block keeps for its backward pass.
#[derive(Debug)]
pub struct BlockKept<'a> {
    x: &'a [f32],
    mixer: MixerKept<'a>,
    /// What the mixer left, and what it gave.
    middle: &'a [f32],
    feed_forward: FeedForwardKept<'a>,
}

impl TransformerBlock {
    /// A block of these parts: the norms before the mixer and before the feed-forward layer.
    ///
    /// # Errors
    /// The parts are of different widths.
    pub fn new(norms: [Norm; 2], mixer: Mixer, feed_forward: FeedForward) -> Result<TransformerBlock, Error> {
        let width = mixer.inputs();
        for (part, has) in [
            ("width of the first norm", norms[0].inputs()),
            ("width of the second norm", norms[1].inputs()),
            ("outputs of the mixer", mixer.outputs()),
            ("inputs of the feed-forward layer", feed_forward.inputs()),
            ("outputs of the feed-forward layer", feed_forward.outputs()),
        ] {
            if has != width {
                return Err(Error::setting(part, has, format!("{width}, the inputs of the mixer")));
            }
        }
        Ok(TransformerBlock { norms, mixer, feed_forward })
    }

    /// What lets tokens see each other.
    pub fn mixer(&self) -> &Mixer {
        &self.mixer
    }

    /// The same, to be changed: to replace the tokens that all see, say.
    pub fn mixer_mut(&mut self) -> &mut Mixer {
        &mut self.mixer
    }

    fn width(&self) -> usize {
        self.mixer.inputs()
    }

    /// [`Layer::forward`], in which a shared context observes what the mixer makes of the input.
    pub(crate) fn observed<'a>(
        &self,
        pass: &mut Pass<'_>,
        size: Size,
        x: &'a [f32],
        context: Option<&mut SharedAttentionContext>,
        tape: &mut Frame<'a>,
    ) -> Result<(&'a mut [f32], BlockKept<'a>), Error> {
        check_rows("input", x, size, self.width())?;
        let (normed, _) = self.norms[0].forward(pass, size, x, tape)?;
        let (middle, mixer) = self.mixer.forward(pass, size, normed, tape)?;
        if let Some(context) = context {
            context.observe(pass, size, x, middle, &mut tape.scope())?;
        }
        let (out, middle, feed_forward) = self.second_half(pass, size, x, middle, tape)?;
        Ok((out, BlockKept { x, mixer, middle, feed_forward }))
    }

    /// What follows the mixer: the results, what went into it, and what it keeps.
    #[allow(clippy::type_complexity, reason = "three parts of one lifetime, taken apart at once")]
    fn second_half<'a>(
        &self,
        pass: &mut Pass<'_>,
        size: Size,
        x: &[f32],
        middle: &'a mut [f32],
        tape: &mut Frame<'a>,
    ) -> Result<(&'a mut [f32], &'a [f32], FeedForwardKept<'a>), Error> {
        pass.add(x, middle);
        let middle = &*middle;
        let (normed, _) = self.norms[1].forward(pass, size, middle, tape)?;
        let (out, feed_forward) = self.feed_forward.forward(pass, size, normed, tape)?;
        pass.add(middle, out);
        Ok((out, middle, feed_forward))
    }

    /// The results of the next tokens of sequences, `x [batch, tokens, width]`, behind what its mixer remembers
    /// ([`Mixer::state`]). Takes [`Layer::forward_need`] from the tape.
    ///
    /// # Errors
    /// As [`Mixer::stream`].
    pub fn stream<'a>(
        &self,
        pass: &mut Pass<'_>,
        size: Size,
        x: &'a [f32],
        state: &mut MixerState,
        tape: &mut Frame<'a>,
    ) -> Result<&'a mut [f32], Error> {
        check_rows("input", x, size, self.width())?;
        let (normed, _) = self.norms[0].forward(pass, size, x, tape)?;
        let middle = self.mixer.stream(pass, size, normed, state, tape)?;
        Ok(self.second_half(pass, size, x, middle, tape)?.0)
    }

    /// [`Layer::backward`] in place: `d` is the gradient of the results, and becomes that of the input.
    ///
    /// # Errors
    /// As that.
    pub(crate) fn backward_in(
        &self,
        pass: &mut Pass<'_>,
        size: Size,
        kept: BlockKept<'_>,
        d: &mut [f32],
        gradients: &mut Gradients,
        frame: &mut Frame<'_>,
    ) -> Result<(), Error> {
        let BlockKept { x, mixer, middle, feed_forward } = kept;
        let mut frame = frame.scope();
        // What goes into the two halves.
        let between = frame.take_zeroed(d.len());
        self.feed_forward.backward(pass, size, feed_forward, d, gradients, between, &mut frame)?;
        self.norms[1].differentiate(pass, middle, between, gradients, d, &mut frame)?;
        between.fill(0.0);
        self.mixer.backward(pass, size, mixer, d, gradients, between, &mut frame)?;
        self.norms[0].differentiate(pass, x, between, gradients, d, &mut frame)
    }
}

impl Layer for TransformerBlock {
    type Kept<'a> = BlockKept<'a>;

    fn inputs(&self) -> usize {
        self.width()
    }

    fn outputs(&self) -> usize {
        self.width()
    }

    fn forward_need(&self, size: Size) -> Need {
        let [first, second] = &self.norms;
        first
            .forward_need(size)
            .and(self.mixer.forward_need(size))
            .and(second.forward_need(size))
            .and(self.feed_forward.forward_need(size))
    }

    fn backward_need(&self, size: Size) -> Need {
        // The gradient in place, and what goes into the halves.
        let rows = Need::of::<f32>(size.rows().saturating_mul(self.width())).times(2);
        let [first, second] = &self.norms;
        let halves = [
            self.feed_forward.backward_need(size),
            second.backward_need(size),
            self.mixer.backward_need(size),
            first.backward_need(size),
        ];
        rows.and(halves.into_iter().fold(Need::NONE, Need::or))
    }

    fn forward<'a>(
        &self,
        pass: &mut Pass<'_>,
        size: Size,
        x: &'a [f32],
        tape: &mut Frame<'a>,
    ) -> Result<(&'a mut [f32], BlockKept<'a>), Error> {
        self.observed(pass, size, x, None, tape)
    }

    fn backward(
        &self,
        pass: &mut Pass<'_>,
        size: Size,
        kept: BlockKept<'_>,
        dout: &[f32],
        gradients: &mut Gradients,
        dx: &mut [f32],
        frame: &mut Frame<'_>,
    ) -> Result<(), Error> {
        check_rows("gradient of results", dout, size, self.width())?;
        let mut frame = frame.scope();
        let d = frame.take(dout.len());
        d.copy_from_slice(dout);
        self.backward_in(pass, size, kept, d, gradients, &mut frame)?;
        pass.add(d, dx);
        Ok(())
    }
}

impl Pass<'_> {
    /// `y ← y + x`, of one length.
    pub(crate) fn add(&self, x: &[f32], y: &mut [f32]) {
        let kernels = self.kernels;
        self.pool.run(chunks_of(y, BLOCK), |index, y| {
            kernels.add(&x[index * BLOCK..][..y.len()], y).expect("blocks of one length");
        });
    }
}
