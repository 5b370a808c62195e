//! The cases of attention, beside PyTorch.

use half::{bf16, f16};
use regard_kernels::peak::Machine;
use regard_simd::Isa;
use regard_threads::Pool;

use crate::bench::case::{Case, Dtype};
use crate::bench::check::Reference;
use crate::bench::inputs::{Inputs, Stored};
use crate::bench::limit::{self, Probe, Work};
use crate::bench::measure::{alternate, median};
use crate::bench::ours::Ours;
use crate::bench::report::{Accuracy, Figures, Outcome, PeerFigures};
use crate::bench::torch::Torch;
use crate::error::Error;

/// What all cases are measured with.
pub(crate) struct Attention<'a> {
    pub(crate) isa: Isa,
    pub(crate) pool: &'a Pool,
    pub(crate) machine: &'a Machine,
    pub(crate) torch: Option<Torch>,
}

impl Attention<'_> {
    /// # Errors
    /// A side refuses the case.
    pub(crate) fn measure(&mut self, case: &Case) -> Result<Outcome, Error> {
        if let Some(reason) = case.not_yet() {
            return Ok(Outcome::NotYet(reason));
        }
        let figures = match case.dtype {
            Dtype::F32 => self.measure_in::<f32>(case),
            Dtype::Bf16 => self.measure_in::<bf16>(case),
            Dtype::F16 => self.measure_in::<f16>(case),
        };
        Ok(Outcome::Measured(Box::new(figures?)))
    }

    /// Checks both sides, then times them in turn.
    fn measure_in<T: Stored>(&mut self, case: &Case) -> Result<Figures, Error> {
        let inputs = Inputs::<T>::random(case);
        let reference = Reference::new(case, &inputs, self.pool);
        let mut ours = Ours::new(case, &inputs, self.isa, self.pool)?;
        ours.call()?;
        let accuracy = Accuracy { error: reference.error(|at| ours.out[at].to_f32()), bound: reference.bound };
        let peer_accuracy = match &mut self.torch {
            None => None,
            Some(torch) => {
                let out = torch.prepare(case, &inputs)?;
                Some(Accuracy { error: reference.error(|at| out[at]), ..accuracy })
            }
        };
        drop(reference);

        let work = Work::of(case, ours.plan().live_pairs(), self.isa);
        let mut probe = Probe::new(self.machine, self.isa, work);
        let torch = &mut self.torch;
        let step = |calls| torch.as_mut().map_or(Ok(Vec::new()), |torch| torch.step(calls));
        let times = alternate(|| Ok(ours.call()?), step, || probe.sample())?;
        let (limit, limited_by) = probe.limit();
        let (calls, seconds) = (times.ours.len(), median(times.ours));
        let peer = self.torch.as_ref().map(|torch| PeerFigures {
            name: torch.name.clone(),
            calls: times.peer.len(),
            seconds: median(times.peer),
            accuracy: peer_accuracy,
        });
        let share_of_best = limit::forced(self.isa).map(|_| work.flops / probe.rates().best_f32 / seconds);
        Ok(Figures {
            seconds,
            calls,
            flops: work.flops,
            bytes: work.bytes,
            tokens: None,
            limit,
            limited_by,
            share_of_best,
            accuracy: Some(accuracy),
            peer,
        })
    }
}
