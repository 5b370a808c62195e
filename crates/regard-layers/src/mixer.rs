//! What lets tokens of a block see each other.

use regard_memory::{Frame, Need};

use crate::flash::FlashKept;
use crate::linear_attention::LinearAttentionKept;
use crate::local_global::LocalGlobalKept;
use crate::state_space::StateSpaceKept;
use crate::{Error, FlashAttention, Gradients, Layer, LinearAttention, LocalGlobalAttention, Pass, Size, StateSpace};

/// What lets tokens see each other.
#[derive(Clone, Debug)]
pub enum Mixer {
    /// Softmax attention.
    Softmax(FlashAttention),
    /// A recurrence: plain, gated, delta.
    Linear(LinearAttention),
    /// Mamba-2.
    StateSpace(StateSpace),
    /// What is near, and a few tokens that all see.
    LocalGlobal(LocalGlobalAttention),
}

/// What a mixer keeps for its backward pass.
#[derive(Debug)]
pub enum MixerKept<'a> {
    /// Of softmax attention.
    Softmax(FlashKept<'a>),
    /// Of a recurrence.
    Linear(LinearAttentionKept<'a>),
    /// Of Mamba-2.
    StateSpace(StateSpaceKept<'a>),
    /// Of local-global attention.
    LocalGlobal(LocalGlobalKept<'a>),
}

/// Calls a method of whichever mixer it is.
macro_rules! for_mixer {
    ($mixer:expr, $layer:ident => $call:expr) => {
        match $mixer {
            Mixer::Softmax($layer) => $call,
            Mixer::Linear($layer) => $call,
            Mixer::StateSpace($layer) => $call,
            Mixer::LocalGlobal($layer) => $call,
        }
    };
}

impl Layer for Mixer {
    type Kept<'a> = MixerKept<'a>;

    fn inputs(&self) -> usize {
        for_mixer!(self, layer => layer.inputs())
    }

    fn outputs(&self) -> usize {
        for_mixer!(self, layer => layer.outputs())
    }

    fn forward_need(&self, size: Size) -> Need {
        for_mixer!(self, layer => layer.forward_need(size))
    }

    fn backward_need(&self, size: Size) -> Need {
        for_mixer!(self, layer => layer.backward_need(size))
    }

    fn forward<'a>(
        &self,
        pass: &mut Pass<'_>,
        size: Size,
        x: &'a [f32],
        tape: &mut Frame<'a>,
    ) -> Result<(&'a mut [f32], MixerKept<'a>), Error> {
        Ok(match self {
            Mixer::Softmax(layer) => {
                let (out, kept) = layer.forward(pass, size, x, tape)?;
                (out, MixerKept::Softmax(kept))
            }
            Mixer::Linear(layer) => {
                let (out, kept) = layer.forward(pass, size, x, tape)?;
                (out, MixerKept::Linear(kept))
            }
            Mixer::StateSpace(layer) => {
                let (out, kept) = layer.forward(pass, size, x, tape)?;
                (out, MixerKept::StateSpace(kept))
            }
            Mixer::LocalGlobal(layer) => {
                let (out, kept) = layer.forward(pass, size, x, tape)?;
                (out, MixerKept::LocalGlobal(kept))
            }
        })
    }

    fn backward(
        &self,
        pass: &mut Pass<'_>,
        size: Size,
        kept: MixerKept<'_>,
        dout: &[f32],
        gradients: &mut Gradients,
        dx: &mut [f32],
        frame: &mut Frame<'_>,
    ) -> Result<(), Error> {
        match (self, kept) {
            (Mixer::Softmax(layer), MixerKept::Softmax(kept)) => {
                layer.backward(pass, size, kept, dout, gradients, dx, frame)
            }
            (Mixer::Linear(layer), MixerKept::Linear(kept)) => {
                layer.backward(pass, size, kept, dout, gradients, dx, frame)
            }
            (Mixer::StateSpace(layer), MixerKept::StateSpace(kept)) => {
                layer.backward(pass, size, kept, dout, gradients, dx, frame)
            }
            (Mixer::LocalGlobal(layer), MixerKept::LocalGlobal(kept)) => {
                layer.backward(pass, size, kept, dout, gradients, dx, frame)
            }
            _ => Err(Error::setting("what was kept", "another mixer's", "this one's")),
        }
    }
}
