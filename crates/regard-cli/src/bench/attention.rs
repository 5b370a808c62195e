//! The cases of attention, beside PyTorch or another of our own ways.

use half::{bf16, f16};
use regard_attention::Options;
use regard_kernels::peak::Machine;
use regard_simd::Isa;
use regard_threads::Pool;

use crate::bench::case::{Case, Dtype};
use crate::bench::check::Reference;
use crate::bench::inputs::{Inputs, Stored};
use crate::bench::limit::{self, Probe, Work};
use crate::bench::measure::{alternate, median, turn};
use crate::bench::memory::Memory;
use crate::bench::ours::Ours;
use crate::bench::report::{Accuracy, Figures, PeerFigures};
use crate::bench::torch::Torch;
use crate::error::Error;

/// What all cases are measured with.
pub(crate) struct Attention<'a> {
    pub(crate) isa: Isa,
    pub(crate) pool: &'a Pool,
    pub(crate) machine: &'a Machine,
    pub(crate) torch: Option<Torch>,
}

/// One of our ways to do a case, checked and ready to be called again.
struct Side<'a> {
    ours: Box<dyn Callable + 'a>,
    work: Work,
    accuracy: Vec<Accuracy>,
    /// PyTorch's, where it was asked for the same.
    of_torch: Vec<Accuracy>,
}

/// [`Ours`], in any type of numbers.
trait Callable {
    fn call(&mut self) -> Result<(), Error>;
    fn memory(&self) -> Memory;
}

impl<T: Stored> Callable for Ours<'_, T> {
    fn call(&mut self) -> Result<(), Error> {
        Ok(Ours::call(self)?)
    }

    fn memory(&self) -> Memory {
        Ours::memory(self)
    }
}

impl Attention<'_> {
    /// Checks both sides, then times them in turn.
    ///
    /// # Errors
    /// A side refuses the case.
    pub(crate) fn measure(&mut self, case: &Case) -> Result<Figures, Error> {
        let Attention { isa, pool, machine, torch } = self;
        let side = |case: &Case, torch: Option<&mut Torch>| match case.dtype {
            Dtype::F32 => side::<f32>(case, *isa, pool, torch),
            Dtype::Bf16 => side::<bf16>(case, *isa, pool, torch),
            Dtype::F16 => side::<f16>(case, *isa, pool, torch),
        };
        // Another of our own ways takes PyTorch's place.
        let mut torch = torch.as_mut().filter(|_| case.versus.is_none());
        let mut ours = side(case, torch.as_deref_mut())?;
        let mut versus = case.versus.as_deref().map(|other| side(other, None)).transpose()?;

        let work = ours.work;
        let mut probe = Probe::new(machine, *isa, work);
        let peer = |calls| match (&mut versus, &mut torch) {
            (Some(other), _) => turn(calls, || other.ours.call()),
            (None, Some(torch)) => torch.step(calls),
            (None, None) => Ok(Vec::new()),
        };
        let times = alternate(|| ours.ours.call(), peer, || probe.sample())?;
        let (limit, limited_by) = probe.limit();
        let (calls, seconds) = (times.ours.len(), median(times.ours));
        let (peer_calls, peer_seconds) = (times.peer.len(), median(times.peer));
        let peer = match (versus, torch) {
            (Some(other), _) => Some(PeerFigures {
                name: case.versus.as_ref().map(|other| other.id.clone()).unwrap_or_default(),
                calls: peer_calls,
                // For as much work as ours.
                seconds: peer_seconds * work.flops / other.work.flops,
                accuracy: other.accuracy,
            }),
            (None, Some(torch)) => Some(PeerFigures {
                name: torch.name.clone(),
                calls: peer_calls,
                seconds: peer_seconds,
                accuracy: ours.of_torch,
            }),
            (None, None) => None,
        };
        Ok(Figures {
            seconds,
            calls,
            flops: work.flops,
            bytes: work.bytes,
            amount: None,
            limit,
            limited_by,
            share_of_best: limit::forced(*isa).map(|_| work.flops / probe.rates().best_f32 / seconds),
            accuracy: ours.accuracy,
            memory: Some(ours.ours.memory()),
            peer,
            target: case.target,
        })
    }
}

/// Prepares a way, and calls it once to check what it gives; and PyTorch on the same numbers.
fn side<'a, T: Stored>(case: &Case, isa: Isa, pool: &'a Pool, torch: Option<&mut Torch>) -> Result<Side<'a>, Error> {
    let options = Options { isa: Some(isa), ..Options::default() };
    let mut ours = Ours::<T>::new(case, Inputs::random(case), &options, pool)?;
    ours.call()?;
    let reference = Reference::new(case, ours.inputs(), pool);
    let of_torch = match torch {
        None => Vec::new(),
        Some(torch) => reference.judge(&torch.prepare(case, ours.inputs())?),
    };
    let (accuracy, work) = (reference.judge(&ours.answer), Work::of(case, ours.live_pairs(), isa));
    Ok(Side { ours: Box::new(ours), work, accuracy, of_torch })
}
