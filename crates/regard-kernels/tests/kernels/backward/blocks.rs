//! Gradients by the kernels: pairs tile by tile, then the three products over all of them.

use rand::RngExt;
use regard_kernels::{
    Adjustment, Bias, COLUMNS, Dropout, GradientRows, Kernels, KeyNumbers, KeyPanels, KeyPlaces, PANEL, Pairs, ROWS,
    Region, RowAdjustment, Transposable, Weighing,
};
use regard_memory::Rows;
use regard_simd::Isa;

use super::definition::{Backward, FIRST_KEY, Gradients, single};
use crate::problem::Problem;
use crate::support::seeded;

/// A product over a region of pairs: what stands on the other side, its width, and the sums.
type Add<'a, B> = dyn Fn(Region<'_>, &[B], usize, &mut [f32]) + 'a;

impl Backward {
    /// The pairs of all rows and keys: runs of full panels together, each other panel by its bits. Gives the gradients of
    /// the adjusted scores, where there are adjustments.
    fn pairs<E: Transposable>(&self, kernels: Kernels, pairs: &mut Pairs<'_, E>) -> Vec<f32> {
        let Problem { rows, d_k, d_v, keys, ref q, ref k, ref v, ref live, .. } = self.forward;
        let steps = (d_k.div_ceil(E::DEPTH), d_v.div_ceil(E::DEPTH));
        let rows_of = |x: &[f32], dim: usize, steps: usize| {
            let mut packed = vec![E::A::default(); rows.next_multiple_of(ROWS) * steps];
            for row in 0..rows {
                kernels.pack_query::<E, f32>(&x[row * dim..][..dim], 1.0, &mut packed[row * steps..][..steps]).unwrap();
            }
            packed
        };
        let panels_of = |x: &[f32], dim: usize, steps: usize| {
            let mut packed = vec![E::B::default(); keys.next_multiple_of(PANEL) * steps];
            kernels.pack_keys::<E, f32>(Rows::contiguous(x, keys, dim).unwrap(), 0, &mut packed).unwrap();
            packed
        };
        let (q, d_out) = (rows_of(q, d_k, steps.0), rows_of(&self.d_out, d_v, steps.1));
        let (k, v) = (panels_of(k, d_k, steps.0), panels_of(v, d_v, steps.1));
        let (lse, delta): (Vec<f32>, Vec<f32>) =
            (0..rows).map(|row| self.forward_of(row, single)).map(|(lse, delta)| (lse as f32, delta as f32)).unzip();

        let mut d_scores = vec![0.0; rows * keys];
        let panels = keys.div_ceil(PANEL);
        for (tile, at) in (0..rows).step_by(ROWS).enumerate() {
            let count = ROWS.min(rows - at);
            let bits: Vec<Vec<u64>> =
                (0..panels).map(|panel| live[at..at + count].iter().map(|live| live[panel]).collect()).collect();
            let all = |panel: usize, word: u64| panel < panels && bits[panel].iter().all(|&bits| bits == word);
            let mut panel = 0;
            while panel < panels {
                let full = (panel..).take_while(|&panel| all(panel, u64::MAX)).count();
                let here = panel..panel + full.max(1);
                panel = here.end;
                if all(here.start, 0) {
                    pairs.clear(tile, here).unwrap();
                    continue;
                }
                let rows = GradientRows::<E> {
                    rows: count,
                    steps,
                    queries: &q[at * steps.0..],
                    output_gradients: &d_out[at * steps.1..],
                    lse: &lse[at..],
                    delta: &delta[at..],
                };
                let panels = KeyPanels::<E> {
                    keys: &k[here.start * steps.0 * PANEL..],
                    values: &v[here.start * steps.1 * PANEL..],
                    live: (full == 0).then_some(&bits[here.start][..]),
                };
                let of_rows = self.recompute(kernels, at, &rows, &panels, pairs, here.clone());
                let first = here.start * PANEL;
                let columns = keys.min(here.end * PANEL) - first;
                for (r, row) in of_rows.chunks(here.len() * PANEL).enumerate() {
                    d_scores[(at + r) * keys + first..][..columns].copy_from_slice(&row[..columns]);
                }
            }
        }
        d_scores
    }

    /// One tile, whose first row is `at`, with some panels.
    fn recompute<E: Transposable>(
        &self,
        kernels: Kernels,
        at: usize,
        rows: &GradientRows<'_, E>,
        panels: &KeyPanels<'_, E>,
        pairs: &mut Pairs<'_, E>,
        here: std::ops::Range<usize>,
    ) -> Vec<f32> {
        let (first, tile) = (here.start * PANEL, at / ROWS);
        let Some(adjusted) = &self.adjusted else {
            let mut weighing = Weighing::plain(self.forward.scale);
            kernels.recompute(rows, panels, &mut weighing, pairs, tile, here).unwrap();
            return vec![];
        };
        let adjustments: Vec<RowAdjustment<'_>> = adjusted.rows[at..at + rows.rows]
            .iter()
            .map(|row| {
                let same = row.same.map_or(Bias::None, Bias::Same);
                let bias = row.each.as_ref().map_or(same, |each| Bias::Each(&each[first..]));
                let before = if adjusted.places.is_some() { 0 } else { first };
                RowAdjustment { bias, slope: row.slope, distance: row.distance - before as f32 }
            })
            .collect();
        let probability = adjusted.dropout.unwrap_or(0.0);
        let dropped: Vec<_> = (at..at + rows.rows).map(|row| self.dropout_row(row, probability)).collect();
        let dropout = adjusted.dropout.map(|probability| Dropout {
            rows: &dropped,
            numbers: KeyNumbers::From(FIRST_KEY + first as u32),
            gain: 1.0 / (1.0 - probability),
        });
        let mut d_scores = vec![f32::NAN; rows.rows * here.len() * PANEL];
        let mut weighing = Weighing {
            adjustment: Adjustment { scale: self.forward.scale, softcap: adjusted.softcap },
            rows: &adjustments,
            places: adjusted.places.as_ref().map_or(KeyPlaces::Consecutive, |all| KeyPlaces::Gathered(&all[first..])),
            dropout,
            d_scores: Some(&mut d_scores),
        };
        kernels.recompute(rows, panels, &mut weighing, pairs, tile, here).unwrap();
        d_scores
    }

    pub(crate) fn gradients<E: Transposable>(&self, isa: Isa) -> Gradients<f32> {
        let Problem { rows, d_k, d_v, keys, scale, ref q, ref k, .. } = self.forward;
        let (kernels, panels) = (Kernels::new(isa), keys.div_ceil(PANEL));
        let mut buffer = vec![E::A::default(); Pairs::<E>::words(rows, panels)];
        let mut pairs = Pairs::<E>::new(&mut buffer, rows, panels).unwrap();
        let d_scores = self.pairs(kernels, &mut pairs);

        // Somewhere the rows, or the keys, are cut: three regions are as good as one.
        let mut random = seeded(self.seed ^ 2);
        let [row, key] = [rows, keys].map(|count| random.random_range(0..=count) / E::DEPTH * E::DEPTH);
        let whole = [(0..row, 0..key), (row..rows, 0..key), (0..rows, key..keys)];
        let whole = whole.map(|(rows, keys)| Region::Whole { rows, keys });
        // The bits of a panel, less what blind rows and a bias of −∞ remove beside.
        let bits = |row: usize, panel: usize| {
            let here = panel * PANEL..keys.min((panel + 1) * PANEL);
            here.filter(|&key| self.keeps(row, key)).fold(0, |bits, key| bits | 1 << (key % PANEL))
        };
        let kept: Vec<Vec<u64>> = (0..panels).map(|panel| (0..rows).map(|row| bits(row, panel)).collect()).collect();
        let kept: Vec<_> = (0..panels).map(|panel| Region::Kept { row: 0, panel, live: &kept[panel] }).collect();

        // What one side of a product is, what the other, and how many sums there are.
        let product = |b: &[f32], count: usize, dim: usize, sums: usize, add: &Add<'_, E::B>| {
            let width = dim.next_multiple_of(COLUMNS);
            let mut packed = vec![E::B::default(); count.div_ceil(E::DEPTH) * width];
            kernels.pack_values::<E, f32>(Rows::contiguous(b, count, dim).unwrap(), 0, &mut packed, width).unwrap();
            let mut out = vec![0.0; sums * width];
            let finite = b.iter().all(|x| x.is_finite());
            for region in if finite { &whole[..] } else { &kept } {
                add(region.clone(), &packed, width, &mut out);
            }
            out.chunks(width).flat_map(|row| row[..dim].to_vec()).collect::<Vec<f32>>()
        };
        let dv = product(&self.d_out, rows, d_v, keys, &|region, b, width, sums| {
            kernels.add_value_gradients(&pairs, region, b, width, sums).unwrap();
        });
        let mut dk = product(q, rows, d_k, keys, &|region, b, width, sums| {
            kernels.add_key_gradients(&pairs, region, b, width, sums).unwrap();
        });
        let mut dq = product(k, keys, d_k, rows, &|region, b, width, sums| {
            kernels.add_query_gradients(&pairs, region, b, width, sums).unwrap();
        });
        dq.iter_mut().chain(&mut dk).for_each(|x| *x *= scale);
        [dq, dk, dv, d_scores]
    }
}
