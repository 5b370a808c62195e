//! What is forgotten from token to token of a chunk, and how pairs of its tokens weigh for it.

use std::ops::Range;

use regard_kernels::{Band, Before, COLUMNS, F32, Kernels, Left, PANEL, Scaling};
use regard_memory::{Frame, Need, Rows};

use super::sheet::Sheet;
use super::{CHUNK, Sizes};
use crate::Error;

/// Exponents are counted from a token as long as they are no further from its own: beside numbers of up to 2⁴⁰ that is far from
/// what single precision can hold.
const REACH: f64 = 60.0;

/// Less than any log decay that leaves something, and not −∞, of which no difference could be taken.
const NOTHING: f64 = -1e4;

/// What decays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decays {
    /// Nothing.
    Never,
    /// The whole state.
    Head,
    /// Each row of the state by itself.
    Channel,
}

/// The decays of a chunk: running sums `b` of log decays, from before its first token on, and what follows from them.
///
/// What is forgotten between two tokens, `e^(bᵢ − bⱼ)`, is the product of what is forgotten between each and a third: so pairs
/// are weighed by a product of two scaled matrices, as without decays. The third is the chunk's beginning as long as the
/// exponents are small enough for single precision, and then a token from which on they are so again.
pub(super) struct Gate<'a> {
    kernels: Kernels,
    decays: Decays,
    sizes: Sizes,
    tokens: usize,
    /// `[tokens][1 or width_k]`.
    sums: &'a mut [f64],
    /// `e^b`, from before the chunk to each token; `e^(b_last − b)`, from each token to the chunk's end.
    since_start: Sheet<'a>,
    until_end: Sheet<'a>,
    /// `e^b_last` for each row of the state.
    whole: &'a mut [f32],
    /// What both sides of a product are multiplied by, each side so multiplied, and the second one as a panel.
    factors: [Sheet<'a>; 2],
    sides: [Sheet<'a>; 2],
    panel: &'a mut [f32],
}

/// Tokens whose exponents are counted from one place: before the chunk, or their first one.
#[derive(Clone, Debug)]
struct Stretch {
    tokens: Range<usize>,
    since_start: bool,
}

/// One side of a product that pairs are weighed by: rows `[tokens, width_k]` as they are, and as the chunk's beginning sees
/// them ([`Gate::since_start`]).
#[derive(Clone, Copy)]
pub(super) struct Seen<'a> {
    pub(super) own: Rows<'a, f32>,
    pub(super) since_start: Rows<'a, f32>,
}

impl<'a> Gate<'a> {
    pub(super) fn need(sizes: Sizes, decays: Decays) -> Need {
        let width = Self::width(sizes, decays);
        let side = if decays == Decays::Never { 0 } else { sizes.width_k };
        Need::of::<f64>(CHUNK * width)
            .and(Sheet::need(CHUNK, width).times(4))
            .and(Sheet::need(CHUNK, side).times(2))
            .and(Need::of::<f32>(sizes.dim_k))
            .and(Need::of::<f32>(sizes.dim_k.saturating_mul(PANEL)))
    }

    /// Factors that each token has.
    fn width(sizes: Sizes, decays: Decays) -> usize {
        match decays {
            Decays::Never => 0,
            Decays::Head => 1,
            Decays::Channel => sizes.width_k,
        }
    }

    pub(super) fn take(frame: &mut Frame<'a>, kernels: Kernels, sizes: Sizes, decays: Decays) -> Self {
        let width = Self::width(sizes, decays);
        let side = if decays == Decays::Never { 0 } else { sizes.width_k };
        let whole = frame.take(sizes.dim_k);
        whole.fill(1.0);
        Gate {
            kernels,
            decays,
            sizes,
            tokens: 0,
            sums: frame.take(CHUNK * width),
            since_start: Sheet::take(frame, CHUNK, width),
            until_end: Sheet::take(frame, CHUNK, width),
            whole,
            panel: frame.take(sizes.dim_k * PANEL),
            factors: [(); 2].map(|()| Sheet::take(frame, CHUNK, width)),
            sides: [(); 2].map(|()| Sheet::take(frame, CHUNK, side)),
        }
    }

    /// Numbers of a token that have factors of their own.
    fn columns(&self) -> usize {
        if self.decays == Decays::Head { 1 } else { self.sizes.dim_k }
    }

    /// Begins a chunk of so many tokens, whose log decays are `[tokens, 1 or dim_k]` where there are some.
    pub(super) fn begin(&mut self, tokens: usize, log_decays: Option<Rows<'_, f32>>) {
        self.tokens = tokens;
        let Some(log_decays) = log_decays else { return };
        let (columns, stride) = (self.columns(), Self::width(self.sizes, self.decays));
        for c in 0..columns {
            let mut sum = 0.0;
            for t in 0..tokens {
                let log_decay = f64::from(log_decays.row(t)[c]);
                // A NaN stays one.
                sum += if log_decay < NOTHING { NOTHING } else { log_decay };
                self.sums[t * stride + c] = sum;
            }
        }
        // What fills up the vectors keeps what is 0.
        for sums in self.sums[..tokens * stride].chunks_mut(stride) {
            sums[columns..].fill(0.0);
        }
        let last = tokens.saturating_sub(1) * stride;
        let (since_start, until_end) = (self.since_start.all_mut(), self.until_end.all_mut());
        for t in 0..tokens {
            for c in 0..stride {
                let sum = self.sums[t * stride + c];
                since_start[t * stride + c] = sum as f32;
                until_end[t * stride + c] = (self.sums[last + c] - sum) as f32;
            }
        }
        self.kernels.exp(&mut since_start[..tokens * stride]);
        self.kernels.exp(&mut until_end[..tokens * stride]);
        // Exponents of some size lose what e^rest puts back.
        for (factor, &sum) in since_start[..tokens * stride].iter_mut().zip(&*self.sums) {
            *factor += *factor * (sum - f64::from(sum as f32)) as f32;
        }
        for (c, whole) in self.whole.iter_mut().enumerate() {
            *whole = since_start[last + c.min(stride - 1)];
        }
    }

    /// What a row is multiplied by from before the chunk to its token.
    pub(super) fn since_start(&self) -> Scaling<'_> {
        self.scaling(&self.since_start, self.tokens)
    }

    /// What a row is multiplied by from its token to the chunk's end.
    pub(super) fn until_end(&self) -> Scaling<'_> {
        self.scaling(&self.until_end, self.tokens)
    }

    fn scaling<'s>(&self, sheet: &'s Sheet<'_>, rows: usize) -> Scaling<'s> {
        match self.decays {
            Decays::Never => Scaling::All(1.0),
            Decays::Head => Scaling::Rows(sheet.column(rows)),
            Decays::Channel => Scaling::Each(sheet.rows(rows, self.sizes.width_k)),
        }
    }

    /// What the rows of the state are multiplied by over the chunk.
    pub(super) fn whole(&self) -> &[f32] {
        self.whole
    }

    /// `pᵢⱼ = Σ_c x_ic·y_jc·e^(b_ic − b_jc)` for `j ≤ i`: `y` is `[tokens, ≥ dim_k]`, `p` is `[tokens, PANEL]`. What stands
    /// elsewhere in `p` is nobody's.
    pub(super) fn weigh(&mut self, x: Seen<'_>, y: Rows<'_, f32>, p: &mut Sheet<'_>) -> Result<(), Error> {
        let (n, dim) = (self.tokens, self.sizes.dim_k);
        let mut first = 0;
        while first < n {
            let stretch = self.stretch(first);
            let Range { start, end } = stretch.tokens;
            self.prepare(x.own, y, &stretch)?;
            let left = match stretch.since_start {
                true => x.since_start.block(start..end, 0..dim),
                false => self.sides[0].rows(end - start, dim),
            };
            let panel = Rows::contiguous(self.panel, dim, PANEL)?;
            let out = p.rows_mut(n, PANEL).block(start..end, 0..end.next_multiple_of(COLUMNS));
            let band = if start == 0 { Band::ColumnsTo } else { Band::Whole };
            self.kernels.multiply(Left::Rows(left), panel, band, Before::Replaced, out)?;
            first = end;
        }
        Ok(())
    }

    /// The gradients of what was weighed, from that of the weights: `dx_ic += Σ_j dp_ij·y_jc·e^(b_ic − b_jc)` and
    /// `dy_jc += Σ_i dp_ij·x_ic·e^(b_ic − b_jc)` over `j ≤ i`.
    pub(super) fn weigh_back(
        &mut self,
        (x, y): (Seen<'_>, Rows<'_, f32>),
        dp: &Sheet<'_>,
        (dx, dy): (&mut Sheet<'_>, &mut Sheet<'_>),
        spare: &mut Sheet<'_>,
    ) -> Result<(), Error> {
        let (n, width, kernels) = (self.tokens, self.sizes.width_k, self.kernels);
        if self.decays == Decays::Never {
            let of = dp.rows(n, n);
            let (x, y) = (x.own.block(0..n, 0..width), y.block(0..n, 0..width));
            kernels.multiply(Left::Rows(of), y, Band::StepsTo, Before::Kept, dx.rows_mut(n, width))?;
            kernels.multiply(Left::Columns(of), x, Band::StepsFrom, Before::Kept, dy.rows_mut(n, width))?;
            return Ok(());
        }
        let mut first = 0;
        while first < n {
            let stretch = self.stretch(first);
            let Range { start, end } = stretch.tokens;
            let rows = end - start;
            self.prepare(x.own, y, &stretch)?;
            // Tokens see all before the first of these, and each other up to themselves.
            let (far, near) = dp.rows(n, PANEL).block(start..end, 0..end).split_columns_at(start);
            let (earlier, own) = self.sides[1].rows(end, width).split_rows_at(start);
            kernels.multiply(Left::Rows(far), earlier, Band::Whole, Before::Replaced, spare.rows_mut(rows, width))?;
            kernels.multiply(Left::Rows(near), own, Band::StepsTo, Before::Kept, spare.rows_mut(rows, width))?;
            let to = dx.rows_mut(n, width).block(start..end, 0..width);
            let factors = if stretch.since_start { &self.since_start } else { &self.factors[0] };
            kernels.add_scaled_rows(spare.rows(rows, width), self.scaling(factors, rows), to)?;

            let x = match stretch.since_start {
                true => x.since_start.block(start..end, 0..width),
                false => self.sides[0].rows(rows, width),
            };
            let (before, within) = spare.rows_mut(end, width).split_rows_at(start);
            kernels.multiply(Left::Columns(far), x, Band::Whole, Before::Replaced, before)?;
            kernels.multiply(Left::Columns(near), x, Band::StepsFrom, Before::Replaced, within)?;
            let to = dy.rows_mut(n, width).block(0..end, 0..width);
            kernels.add_scaled_rows(spare.rows(end, width), self.scaling(&self.factors[1], end), to)?;
            first = end;
        }
        Ok(())
    }

    /// The tokens from this one on whose exponents can be counted from one place. They follow from the tokens before them and
    /// from themselves, so that no token's bits depend on later ones.
    fn stretch(&self, first: usize) -> Stretch {
        let (columns, stride) = (self.columns(), Self::width(self.sizes, self.decays));
        if self.decays == Decays::Never {
            return Stretch { tokens: 0..self.tokens, since_start: true };
        }
        let near = |token: usize, from: Option<usize>| {
            let from = |c: usize| from.map_or(0.0, |from| self.sums[from * stride + c]);
            (0..columns).all(|c| (self.sums[token * stride + c] - from(c)).abs() <= REACH)
        };
        let since_start = first == 0 && near(0, None);
        let from = if since_start { None } else { Some(first) };
        let end = first + 1 + (first + 1..self.tokens).take_while(|&token| near(token, from)).count();
        Stretch { tokens: first..end, since_start }
    }

    /// Both sides of the pairs of a stretch with all tokens up to it: each multiplied by what is forgotten from or to where
    /// exponents are counted from, the first one only where that is not the chunk's beginning, and the second one as a panel too.
    fn prepare(&mut self, x: Rows<'_, f32>, y: Rows<'_, f32>, stretch: &Stretch) -> Result<(), Error> {
        let Stretch { tokens, since_start } = stretch;
        let (dim, width, stride) = (self.sizes.dim_k, self.sizes.width_k, Self::width(self.sizes, self.decays));
        if self.decays == Decays::Never {
            let keys = y.block(0..tokens.end, 0..dim);
            return Ok(self.kernels.pack_keys::<F32, f32>(keys, 0, self.panel)?);
        }
        for (side, of, some, sign) in [(0, x, tokens.clone(), 1.0), (1, y, 0..tokens.end, -1.0)] {
            if side == 0 && *since_start {
                continue;
            }
            let (factors, rests) = (self.factors[side].all_mut(), self.sides[side].all_mut());
            for (row, token) in some.clone().enumerate() {
                for c in 0..stride {
                    let from = if *since_start { 0.0 } else { self.sums[tokens.start * stride + c] };
                    let exponent = sign * (self.sums[token * stride + c] - from);
                    factors[row * stride + c] = exponent as f32;
                    rests[row * stride + c] = (exponent - f64::from(exponent as f32)) as f32;
                }
            }
            let len = some.len() * stride;
            self.kernels.exp(&mut factors[..len]);
            // Exponents of some size lose what e^rest puts back.
            factors[..len].iter_mut().zip(rests).for_each(|(factor, rest)| *factor += *factor * *rest);
            let of = of.block(some.clone(), 0..dim);
            let scaling = match self.decays {
                Decays::Head => Scaling::Rows(self.factors[side].column(some.len())),
                _ => Scaling::Each(self.factors[side].rows(some.len(), width)),
            };
            self.kernels.scale_rows(of, scaling, self.sides[side].rows_mut(some.len(), width))?;
        }
        let side = self.sides[1].rows(tokens.end, dim);
        Ok(self.kernels.pack_keys::<F32, f32>(side, 0, self.panel)?)
    }
}
