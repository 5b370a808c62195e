//! What blocks tell each other beside their results: which channels of a mixer go with which.

use regard_memory::{AlignedBuffer, Frame, Need, Rows, RowsMut, chunks_of};

use crate::{Before, Error, Gradients, Initial, Parameter, Pass, Scope, Side, Size};

/// Rows of a sequence that a correlation is made of, at most.
const SAMPLES: usize = 32;

/// How much of the running correlation a step replaces.
const RATE: f32 = 0.01;

/// Where the product of two channels' lengths is no more than this, one does not vary, and goes with none.
const FLAT: f32 = 1e-12;

/// The shared attention context: `S [D, D]`, the running correlation between the input channels of blocks and the output channels of
/// their mixers. A block adds to its input `X` what it makes of it: `X' = X + (s/D)·X·S`, with a learned scalar `s` of its own that
/// begins at 0 (parameter `scale [1]`).
///
/// `S` is no parameter: it is a constant to gradients, and [`SharedAttentionContext::update`] moves it after a step of training by
/// what [`SharedAttentionContext::observe`] saw in it. So no token of a sequence reaches an earlier one through it.
#[derive(Debug)]
pub struct SharedAttentionContext {
    width: usize,
    /// `S`, and what the observed correlations will add to it.
    running: AlignedBuffer<f32>,
    pending: AlignedBuffer<f32>,
    /// What is left of `S` when they do.
    left: f32,
}

/// Where a block takes the shared context in: its scalar.
#[derive(Clone, Copy, Debug)]
pub struct ContextInlet {
    scale: Parameter,
}

impl ContextInlet {
    /// A scalar that begins at 0.
    ///
    /// # Errors
    /// The scope has such a parameter, or there is no memory for it.
    pub fn new(scope: &mut Scope<'_>) -> Result<ContextInlet, Error> {
        Ok(ContextInlet { scale: scope.add_vector("scale", &[1], Initial::Constant(0.0))? })
    }
}

impl SharedAttentionContext {
    /// A context of `width` channels, 0.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn new(width: usize) -> Result<SharedAttentionContext, Error> {
        let len = width.checked_mul(width).ok_or(regard_memory::Error::Overflow { what: "shared context" })?;
        let (running, pending) = (AlignedBuffer::zeroed(len)?, AlignedBuffer::zeroed(len)?);
        Ok(SharedAttentionContext { width, running, pending, left: 1.0 })
    }

    /// Channels.
    pub fn width(&self) -> usize {
        self.width
    }

    /// `S [D, D]`.
    pub fn matrix(&self) -> &[f32] {
        &self.running
    }

    /// Replaces `S`, as it was saved with a model, say; what was observed is forgotten.
    ///
    /// # Errors
    /// It is of another width.
    pub fn set_matrix(&mut self, matrix: &[f32]) -> Result<(), Error> {
        if matrix.len() != self.running.len() {
            return Err(Error::shape("shared context", &[matrix.len()], format!("[{0}, {0}]", self.width)));
        }
        self.running.copy_from_slice(matrix);
        self.forget();
        Ok(())
    }

    /// Forgets what was observed since the last update.
    pub fn forget(&mut self) {
        self.pending.fill(0.0);
        self.left = 1.0;
    }

    /// What [`SharedAttentionContext::apply`] takes from the tape, and its backward pass from its frame.
    pub fn need(&self, rows: usize) -> Need {
        Need::of::<f32>(rows.saturating_mul(self.width))
    }

    /// `X' = X + (s/D)·X·S` of rows `[rows, D]`.
    ///
    /// # Errors
    /// The rows are of another width.
    pub fn apply<'a>(
        &self,
        pass: &mut Pass<'_>,
        inlet: ContextInlet,
        x: &[f32],
        tape: &mut Frame<'a>,
    ) -> Result<&'a mut [f32], Error> {
        let out = tape.take(x.len());
        self.times_context(pass, x, Turned::No, out)?;
        let factor = pass.parameters.of(inlet.scale)[0] / self.width as f32;
        let each = BLOCK * self.width.max(1);
        pass.pool.run(chunks_of(&mut *out, each), |index, out| {
            let x = &x[index * each..][..out.len()];
            out.iter_mut().zip(x).for_each(|(out, x)| *out = x + factor * *out);
        });
        Ok(out)
    }

    /// Adds the gradient of the scalar, in place makes `d`, that of `X'`, that of `X`: `ds = (1/D)·Σ G∘(XS)`, summed in f64, and
    /// `dX = G + (s/D)·G·Sᵀ`.
    ///
    /// # Errors
    /// As [`SharedAttentionContext::apply`].
    pub fn apply_backward(
        &self,
        pass: &mut Pass<'_>,
        inlet: ContextInlet,
        x: &[f32],
        d: &mut [f32],
        gradients: &mut Gradients,
        frame: &mut Frame<'_>,
    ) -> Result<(), Error> {
        let mut frame = frame.scope();
        let product = frame.take(x.len());
        self.times_context(pass, x, Turned::No, product)?;
        let sum: f64 = product.iter().zip(&*d).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
        gradients.of_mut(inlet.scale)[0] += (sum / self.width as f64) as f32;
        self.times_context(pass, d, Turned::Yes, product)?;
        let factor = pass.parameters.of(inlet.scale)[0] / self.width as f32;
        pass.kernels.add_scaled(factor, product, d)?;
        Ok(())
    }

    fn times_context(&self, pass: &mut Pass<'_>, x: &[f32], turned: Turned, out: &mut [f32]) -> Result<(), Error> {
        let width = self.width;
        let rows = x.len().checked_div(width).unwrap_or(0);
        if rows * width != x.len() {
            return Err(Error::shape("rows of the shared context", &[x.len()], format!("[rows, {width}]")));
        }
        let matrix = Rows::contiguous(&self.running, width, width)?;
        let matrix = match turned {
            Turned::No => Side::AsIs(matrix),
            Turned::Yes => Side::Transposed(matrix),
        };
        let (x, out) = (Rows::contiguous(x, rows, width)?, RowsMut::contiguous(out, rows, width)?);
        pass.multiply(Side::AsIs(x), matrix, Before::Replaced, out)
    }

    /// What [`SharedAttentionContext::observe`] takes from its frame.
    pub fn observe_need(&self) -> Need {
        let samples = Need::of::<f32>(SAMPLES * self.width).and(Need::of::<f32>(self.width));
        samples.times(2).and(Need::of::<f32>(self.width * self.width))
    }

    /// Takes in how the channels of a block's input `x` go with those of its mixer's results `y`, both `[batch, tokens, D]`: the mean
    /// over the sequences of `tanh(x̂ᵢ·ŷⱼ / (‖x̂ᵢ‖·‖ŷⱼ‖))`, centred, at rows evenly over all of a sequence. Sequences of one row
    /// say nothing.
    ///
    /// # Errors
    /// The rows are of another width.
    pub fn observe(
        &mut self,
        pass: &mut Pass<'_>,
        size: Size,
        x: &[f32],
        y: &[f32],
        frame: &mut Frame<'_>,
    ) -> Result<(), Error> {
        let width = self.width;
        crate::layer::check_rows("input of the block", x, size, width)?;
        crate::layer::check_rows("results of the mixer", y, size, width)?;
        if size.tokens < 2 || size.batch == 0 || width == 0 {
            return Ok(());
        }
        let samples = size.tokens.min(SAMPLES);
        let mut frame = frame.scope();
        let (xs, ys) = (frame.take(samples * width), frame.take(samples * width));
        let (x_lengths, y_lengths) = (frame.take(width), frame.take(width));
        let products = frame.take(width * width);
        let weight = RATE / size.batch as f32;
        self.pending.iter_mut().for_each(|p| *p *= 1.0 - RATE);
        self.left *= 1.0 - RATE;
        for entry in 0..size.batch {
            let rows = entry * size.tokens * width..(entry + 1) * size.tokens * width;
            sample(&x[rows.clone()], size.tokens, xs, x_lengths);
            sample(&y[rows], size.tokens, ys, y_lengths);
            let (xs, ys) = (Rows::contiguous(xs, samples, width)?, Rows::contiguous(ys, samples, width)?);
            let to = RowsMut::contiguous(products, width, width)?;
            pass.multiply(Side::Transposed(xs), Side::AsIs(ys), Before::Replaced, to)?;
            let (products, x_lengths, y_lengths) = (&*products, &*x_lengths, &*y_lengths);
            pass.pool.run(chunks_of(&mut self.pending, width), |i, pending| {
                let products = &products[i * width..][..width];
                for ((pending, product), length) in pending.iter_mut().zip(products).zip(y_lengths) {
                    let lengths = x_lengths[i] * length;
                    *pending += if lengths <= FLAT { 0.0 } else { weight * (product / lengths).tanh() };
                }
            });
        }
        Ok(())
    }

    /// Moves `S` by what was observed since the last time: `S ← (1 − r)·S + r·sim` for each observation, in their order.
    pub fn update(&mut self) {
        let left = std::mem::replace(&mut self.left, 1.0);
        for (running, pending) in self.running.iter_mut().zip(self.pending.iter_mut()) {
            *running = left * *running + std::mem::take(pending);
        }
    }
}

/// Rows of a task.
const BLOCK: usize = 16;

/// Whether a matrix is to be turned over.
#[derive(Clone, Copy)]
enum Turned {
    No,
    Yes,
}

/// The rows `⌊(2r + 1)·tokens/(2n)⌋`, centred by column, and the length of each column.
fn sample(rows: &[f32], tokens: usize, out: &mut [f32], lengths: &mut [f32]) {
    let width = lengths.len();
    let samples = out.len() / width;
    // Sums first.
    lengths.fill(0.0);
    for (r, out) in out.chunks_exact_mut(width).enumerate() {
        out.copy_from_slice(&rows[(2 * r + 1) * tokens / (2 * samples) * width..][..width]);
        lengths.iter_mut().zip(out).for_each(|(sum, x)| *sum += *x);
    }
    for out in out.chunks_exact_mut(width) {
        out.iter_mut().zip(&*lengths).for_each(|(x, sum)| *x -= sum / samples as f32);
    }
    lengths.fill(0.0);
    for out in out.chunks_exact(width) {
        lengths.iter_mut().zip(out).for_each(|(sum, x)| *sum += x * x);
    }
    lengths.iter_mut().for_each(|sum| *sum = sum.sqrt());
}
