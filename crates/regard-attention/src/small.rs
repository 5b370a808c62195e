//! Heads of few keys: whole ones in one call of a kernel.

use regard_kernels::{Number, PANEL, ROWS, SmallHead, Transposable};
use regard_masks::Span;
use regard_memory::{Ahead, Frame, Need, Tensor, TensorMut};

use crate::forward::Packed;
use crate::plan::Unit;
use crate::{Element, Error, Regime};

/// Keys up to which a head is small: its keys, values and a block of scores then stay in the first-level cache.
pub(crate) const KEYS: usize = 128;

impl<T: Element, E: Transposable> Packed<'_, '_, T, E> {
    /// Whether a unit goes through the kernel of small heads: few keys, and nothing between a score and its weight.
    pub(crate) fn is_small(&self, unit: Unit) -> bool {
        let plan = self.fold.plan;
        let layout = plan.layout(unit.sequence, unit.head);
        let sequence = &plan.sequences[unit.sequence];
        let whole = sequence.strip >= sequence.queries.len();
        whole && sequence.keys.len() <= KEYS && layout.lists() == 0 && self.fold.is_plain()
    }

    /// The most scratch that a small unit takes.
    pub(crate) fn small_need(&self) -> Need {
        let (plan, phase) = (self.fold.plan, self.fold.phase);
        if phase.regime != Regime::Strips {
            return Need::NONE;
        }
        let sequences = phase.sequences.iter().map(|&number| &plan.sequences[number]);
        let small = sequences.filter(|sequence| sequence.keys.len() <= KEYS);
        let need = |(queries, keys): (usize, usize)| {
            Need::of::<f32>(SmallHead::<E>::words(keys, plan.shape.dim_k, plan.shape.dim_v))
                .and(Need::of::<u64>(queries * keys.div_ceil(PANEL)))
        };
        small.map(|sequence| need((sequence.queries.len(), sequence.keys.len()))).fold(Need::NONE, Need::or)
    }

    /// Attention of one small unit, into its part of the result.
    pub(crate) fn small<O: Number>(
        &self,
        unit: Unit,
        index: usize,
        queries: Tensor<'_, T>,
        frame: &mut Frame<'_>,
        out: &mut TensorMut<'_, O>,
        lse: &mut TensorMut<'_, f32>,
    ) -> Result<(), Error> {
        let (plan, group) = (self.fold.plan, self.fold.group);
        let sequence = &plan.sequences[unit.sequence];
        let layout = plan.layout(unit.sequence, unit.head);
        let (keys, values) = self.source(unit);
        let words = frame.take::<f32>(SmallHead::<E>::words(keys.rows(), plan.shape.dim_k, plan.shape.dim_v));
        let panels = keys.rows().div_ceil(PANEL);
        let bits = frame.take::<u64>(sequence.queries.len() * panels);
        let mut head = SmallHead::<E>::new(plan.kernels, keys, values, words)?;
        let rows_of = |unit: Unit, g: usize| {
            let sequence = &plan.sequences[unit.sequence];
            let rows = queries.rows(sequence.batch, unit.head * group + g);
            rows.block(sequence.queries.clone(), 0..rows.cols())
        };
        let all = layout.density() == 1.0;
        for g in 0..group {
            let live = if all { None } else { Some(self.bits_of_head(unit, g, panels, bits)) };
            // The next head's numbers come near while this one is computed.
            let next = (g + 1 == group && index + 1 < self.fold.units()).then(|| self.fold.unit(index + 1));
            let mut ahead = Ahead::default();
            if let Some(next) = next {
                let (keys, values) = self.source(next);
                [rows_of(next, 0), keys, values].into_iter().for_each(|rows| ahead.read(rows));
            }
            let factor = (plan.scale * std::f64::consts::LOG2_E) as f32;
            head.attend(rows_of(unit, g), factor, live, out.rows_mut(0, g), Some(lse.rows_mut(0, g)), &mut ahead)?;
        }
        Ok(())
    }

    /// The bits of the keys that each query of head `g` of a unit keeps, `[queries][panels]`.
    fn bits_of_head<'b>(&self, unit: Unit, g: usize, panels: usize, bits: &'b mut [u64]) -> &'b [u64] {
        let (layout, group) = (self.fold.plan.layout(unit.sequence, unit.head), self.fold.group);
        bits.fill(0);
        for tile in layout.tiles() {
            for r in (tile * ROWS..(layout.n_q() * group).min(tile * ROWS + ROWS)).filter(|r| r % group == g) {
                let row = &mut bits[r / group * panels..][..panels];
                for span in layout.tile(tile) {
                    match span {
                        Span::Full(full) => row[full].fill(u64::MAX),
                        Span::Rim { panel, bits } => row[panel] = bits[r - tile * ROWS],
                    }
                }
            }
        }
        bits
    }
}
