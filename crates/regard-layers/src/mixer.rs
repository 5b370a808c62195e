//! What lets tokens of a block see each other.

use regard_memory::{Frame, Need};

use crate::flash::{FlashKept, FlashState};
use crate::linear_attention::{LinearAttentionKept, LinearAttentionState};
use crate::local_global::LocalGlobalKept;
use crate::state_space::{StateSpaceKept, StateSpaceState};
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

/// What a mixer remembers of a batch of sequences, so that their next tokens can be read.
#[derive(Debug)]
pub enum MixerState {
    /// Keys and values, up to a number of tokens.
    Softmax(FlashState),
    /// Sums, however many tokens there were.
    Linear(LinearAttentionState),
    /// Sums, and the last few rows.
    StateSpace(StateSpaceState),
}

impl MixerState {
    /// Forgets all tokens.
    pub fn clear(&mut self) {
        match self {
            MixerState::Softmax(state) => state.clear(),
            MixerState::Linear(state) => state.clear(),
            MixerState::StateSpace(state) => state.clear(),
        }
    }

    /// Refuses more tokens than there is room for.
    pub(crate) fn check_room(&self, more: usize) -> Result<(), Error> {
        match self {
            MixerState::Softmax(state) => state.check_room(more),
            MixerState::Linear(_) | MixerState::StateSpace(_) => Ok(()),
        }
    }
}

impl Mixer {
    /// What it remembers of `batch` sequences before their first token; softmax attention has room for `capacity` of each.
    ///
    /// # Errors
    /// It is local-global attention, which reads whole sequences, or a recurrence in both directions; or there is no memory.
    pub fn state(&self, batch: usize, capacity: usize) -> Result<MixerState, Error> {
        Ok(match self {
            Mixer::Softmax(layer) => MixerState::Softmax(layer.state(batch, capacity)?),
            Mixer::Linear(layer) => MixerState::Linear(layer.state(batch)?),
            Mixer::StateSpace(layer) => MixerState::StateSpace(layer.state(batch)?),
            Mixer::LocalGlobal(_) => {
                return Err(Error::setting("mixer", "local-global", "one that reads tokens one after the other"));
            }
        })
    }

    /// The results of the next tokens of sequences, `x [batch, tokens, width]`. Takes [`Layer::forward_need`] from the tape.
    ///
    /// # Errors
    /// `x` has another size, or the state is another mixer's or has no room for them.
    pub fn stream<'a>(
        &self,
        pass: &mut Pass<'_>,
        size: Size,
        x: &'a [f32],
        state: &mut MixerState,
        tape: &mut Frame<'a>,
    ) -> Result<&'a mut [f32], Error> {
        match (self, state) {
            (Mixer::Softmax(layer), MixerState::Softmax(state)) => layer.stream(pass, size, x, state, tape),
            (Mixer::Linear(layer), MixerState::Linear(state)) => layer.stream(pass, size, x, state, tape),
            (Mixer::StateSpace(layer), MixerState::StateSpace(state)) => layer.stream(pass, size, x, state, tape),
            _ => Err(Error::setting("state", "another mixer's", "this one's")),
        }
    }
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
