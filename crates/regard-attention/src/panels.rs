//! Keys and values of one key/value head in the layout that the kernels read.

use std::ops::Range;

use regard_kernels::{COLUMNS, Error, Int8, Kernels, Number, Operand, PANEL};
use regard_memory::Rows;

use crate::cache::{HeadPages, PAGE_PANELS};

/// How many words a panel of a head takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PanelSize {
    /// Steps of a product over a key.
    pub steps: usize,
    /// Columns of a value, a whole number of vectors.
    pub width: usize,
    /// Words of a panel of keys.
    pub keys: usize,
    /// Words of a panel of values.
    pub values: usize,
    /// Scales of a panel's keys, and as many of its values.
    pub scales: usize,
}

impl PanelSize {
    pub(crate) fn of<E: Operand>(dim_k: usize, dim_v: usize) -> PanelSize {
        // What no memory holds saturates, and is refused where memory is asked for.
        let (steps, width) = (dim_k.div_ceil(E::DEPTH), dim_v.checked_next_multiple_of(COLUMNS).unwrap_or(usize::MAX));
        let (keys, values) = (steps.saturating_mul(PANEL), width.saturating_mul(PANEL / E::DEPTH));
        PanelSize { steps, width, keys, values, scales: if E::SCALED { PANEL } else { 0 } }
    }
}

/// All panels of one head, wherever they lie: runs of consecutive ones. Keys past the last one are dead: a layout never
/// keeps them.
#[derive(Clone, Copy)]
pub(crate) enum Panels<'a, E: Operand> {
    /// One run.
    Whole(Run<'a, E>),
    /// Those of a split, a run whose first panel is this one.
    Split(Run<'a, E>, usize),
    /// A run a page.
    Paged(HeadPages<'a>),
    /// Those that a strip holds, and the place of each panel among them.
    Strip(Run<'a, E>, &'a [u32]),
}

impl<'a, E: Operand> Panels<'a, E> {
    /// How many words a panel takes.
    pub(crate) fn size(&self) -> PanelSize {
        match self {
            Panels::Whole(run) | Panels::Split(run, _) | Panels::Strip(run, _) => run.size,
            Panels::Paged(pages) => pages.format.size,
        }
    }

    /// Where the run ends that panel `panel` lies in.
    pub(crate) fn run_end(&self, panel: usize) -> usize {
        match self {
            Panels::Whole(_) | Panels::Split(..) => usize::MAX,
            Panels::Paged(_) => (panel / PAGE_PANELS + 1) * PAGE_PANELS,
            Panels::Strip(_, places) => {
                let next_to = |pair: &&[u32]| pair[1] == pair[0].wrapping_add(1);
                panel + 1 + places[panel..].windows(2).take_while(next_to).count()
            }
        }
    }

    /// Some panels, which lie in one run.
    pub(crate) fn run(&self, panels: Range<usize>) -> Run<'a, E> {
        match self {
            Panels::Whole(run) => run.part(panels),
            Panels::Split(run, first) => run.part(panels.start - first..panels.end - first),
            Panels::Paged(pages) => {
                let page = panels.start / PAGE_PANELS;
                let first = page * PAGE_PANELS;
                pages.page(page).part(panels.start - first..panels.end - first)
            }
            Panels::Strip(run, places) => {
                let first = places[panels.start] as usize;
                run.part(first..first + panels.len())
            }
        }
    }

    /// The values of some keys, which lie in one run; of steps of several keys those that the first and last are in.
    pub(crate) fn values(&self, keys: Range<usize>) -> &'a [E::B] {
        let first = keys.start / PANEL;
        let run = self.run(first..keys.end.div_ceil(PANEL));
        let (width, before) = (run.size.width, first * PANEL);
        &run.values[(keys.start - before) / E::DEPTH * width..(keys.end - before).div_ceil(E::DEPTH) * width]
    }

    /// The scales of some keys, which lie in one run, and of their values.
    pub(crate) fn scales(&self, keys: Range<usize>) -> (&'a [f32], &'a [f32]) {
        let first = keys.start / PANEL;
        let (of_keys, of_values) = self.run(first..keys.end.div_ceil(PANEL)).scales;
        let places = keys.start - first * PANEL..keys.end - first * PANEL;
        (&of_keys[places.clone()], &of_values[places])
    }

    /// Whether a value of a panel is not finite.
    pub(crate) fn is_wild(&self, panel: usize) -> bool {
        self.run(panel..panel + 1).wild[0] != 0
    }
}

/// Consecutive panels of one head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run<'a, E: Operand> {
    pub size: PanelSize,
    /// `[panels][steps][PANEL]`.
    pub keys: &'a [E::B],
    /// `[panels][PANEL / DEPTH][width]`.
    pub values: &'a [E::B],
    /// `[panels][PANEL]` of keys and of values, where [`Operand::SCALED`].
    pub scales: (&'a [f32], &'a [f32]),
    /// Per panel, whether a value in it is not finite.
    pub wild: &'a [u8],
}

impl<'a, E: Operand> Run<'a, E> {
    /// Some of the panels.
    pub(crate) fn part(&self, panels: Range<usize>) -> Run<'a, E> {
        let (size, scales) = (self.size, panels.start * self.size.scales..panels.end * self.size.scales);
        Run {
            size,
            scales: (&self.scales.0[scales.clone()], &self.scales.1[scales]),
            keys: &self.keys[panels.start * size.keys..panels.end * size.keys],
            values: &self.values[panels.start * size.values..panels.end * size.values],
            wild: &self.wild[panels],
        }
    }
}

/// The same to be written.
#[derive(Debug)]
pub(crate) struct RunMut<'a, E: Operand> {
    pub size: PanelSize,
    pub keys: &'a mut [E::B],
    pub values: &'a mut [E::B],
    pub scales: (&'a mut [f32], &'a mut [f32]),
    pub wild: &'a mut [u8],
}

impl<'a, E: Operand> RunMut<'a, E> {
    /// Writes keys and values from position `at` on.
    pub(crate) fn write<T: Number>(
        &mut self,
        kernels: Kernels,
        at: usize,
        keys: Rows<'_, T>,
        values: Rows<'_, T>,
    ) -> Result<(), Error> {
        kernels.pack_keys::<E, T>(keys, at, self.keys)?;
        let mut done = 0;
        while done < values.rows() {
            let (panel, within) = ((at + done) / PANEL, (at + done) % PANEL);
            let count = (PANEL - within).min(values.rows() - done);
            let rows = values.block(done..done + count, 0..values.cols());
            let packed = &mut self.values[panel * self.size.values..][..self.size.values];
            let finite = kernels.pack_values::<E, T>(rows, within, packed, self.size.width)?;
            if within == 0 {
                // The panel is begun: whatever stood in it goes, for weights of 0 will meet the values of dead keys.
                packed[count.div_ceil(E::DEPTH) * self.size.width..].fill(E::B::default());
                self.wild[panel] = 0;
            }
            self.wild[panel] |= u8::from(!finite);
            done += count;
        }
        Ok(())
    }

    /// One of the panels.
    pub(crate) fn part_mut(&mut self, panel: usize) -> RunMut<'_, E> {
        let (size, scales) = (self.size, panel * self.size.scales..(panel + 1) * self.size.scales);
        RunMut {
            size,
            keys: &mut self.keys[panel * size.keys..][..size.keys],
            values: &mut self.values[panel * size.values..][..size.values],
            scales: (&mut self.scales.0[scales.clone()], &mut self.scales.1[scales]),
            wild: &mut self.wild[panel..panel + 1],
        }
    }

    /// The same to be read for a while.
    pub(crate) fn as_run(&self) -> Run<'_, E> {
        let scales = (&*self.scales.0, &*self.scales.1);
        Run { size: self.size, keys: self.keys, values: self.values, scales, wild: self.wild }
    }

    /// The same to be read.
    pub(crate) fn into_run(self) -> Run<'a, E> {
        let scales = (&*self.scales.0, &*self.scales.1);
        Run { size: self.size, keys: self.keys, values: self.values, scales, wild: self.wild }
    }
}

impl RunMut<'_, Int8> {
    /// [`RunMut::write`] for numbers with a scale for each row.
    pub(crate) fn write_scaled<T: Number>(
        &mut self,
        kernels: Kernels,
        at: usize,
        keys: Rows<'_, T>,
        values: Rows<'_, T>,
    ) -> Result<(), Error> {
        let end = at + values.rows();
        kernels.pack_keys_int8(keys, at, self.keys, self.scales.0)?;
        kernels.pack_values_int8(values, at, self.values, self.size.width, self.scales.1)?;
        for panel in at / PANEL..end.div_ceil(PANEL) {
            let new = at.max(panel * PANEL)..end.min((panel + 1) * PANEL);
            if new.start.is_multiple_of(PANEL) {
                self.wild[panel] = 0;
            }
            self.wild[panel] |= u8::from(self.scales.1[new].iter().any(|scale| scale.is_nan()));
        }
        Ok(())
    }
}
