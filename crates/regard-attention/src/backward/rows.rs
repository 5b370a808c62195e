//! The rows of a unit as the backward pass reads them: queries and gradients of results, packed once for all splits.

use std::ops::Range;

use regard_kernels::{COLUMNS, Error as KernelError, Kernels, Number, ROWS, Transposable};
use regard_memory::{Frame, Need, Parts, Tensor, chunks_of};

use crate::Error;
use crate::backward::{Differentiable, Pass};
use crate::fold::TILES;
use crate::plan::Unit;

/// The room that the rows of a unit take, in chunks of up to [`TILES`] tiles.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// Rows of a chunk, in whole tiles.
    pub chunk: usize,
    chunks: usize,
    /// Steps of a product over a query, and over a value.
    pub steps_k: usize,
    pub steps_v: usize,
    /// Columns of a key and of a value, in whole vectors.
    pub width_k: usize,
    pub width_v: usize,
    /// Whether rows for the one kind of product are those for the other too.
    one_k: bool,
    one_v: bool,
    depth: usize,
}

impl Room {
    pub(crate) fn of<E: Transposable>(rows: usize, dim_k: usize, dim_v: usize) -> Room {
        let chunk = rows.clamp(1, TILES * ROWS).next_multiple_of(ROWS);
        // What no memory holds saturates, and is refused where memory is asked for.
        let width = |dim: usize| dim.checked_next_multiple_of(COLUMNS).unwrap_or(usize::MAX);
        let (width_k, width_v) = (width(dim_k), width(dim_v));
        let (steps_k, steps_v) = (dim_k.div_ceil(E::DEPTH), dim_v.div_ceil(E::DEPTH));
        let (one_k, one_v) = (steps_k == width_k, steps_v == width_v);
        let chunks = rows.div_ceil(chunk).max(1);
        Room { chunk, chunks, steps_k, steps_v, width_k, width_v, one_k, one_v, depth: E::DEPTH }
    }

    pub(crate) fn chunks(&self) -> usize {
        self.chunks
    }

    /// Words of a partial gradient of all rows.
    pub(crate) fn partial(&self) -> usize {
        self.chunks * self.chunk * self.width_k
    }

    /// Words of a chunk of each array: queries and gradients along their rows, and down their columns. Where both are the
    /// same the first has a word that is not used, so that there are as many chunks of each.
    fn words(&self) -> [usize; 4] {
        let along = |steps: usize, one: bool| if one { 1 } else { (self.chunk * steps).max(1) };
        let down = |width: usize| (self.chunk / self.depth * width).max(1);
        [along(self.steps_k, self.one_k), along(self.steps_v, self.one_v), down(self.width_k), down(self.width_v)]
    }

    pub(crate) fn need<E: Transposable>(&self) -> Need {
        let arrays = self.words().into_iter().map(|words| Need::of::<E::A>(self.chunks * words));
        let rows = Need::of::<f32>(self.chunks * self.chunk).times(2);
        arrays.fold(Need::of::<u8>(self.chunks).and(rows), Need::and)
    }
}

/// The rows of some units.
pub(crate) struct PackedRows<'a, E: Transposable> {
    queries: &'a mut [E::A],
    gradients: &'a mut [E::A],
    queries_down: &'a mut [E::A],
    gradients_down: &'a mut [E::A],
    /// Log-sum-exps, and `Δ − dLSE`.
    lse: &'a mut [f32],
    delta: &'a mut [f32],
    /// For each chunk, whether a number in it is not finite.
    wild: &'a mut [u8],
}

/// A chunk of them, to be written.
type ChunkMut<'a, A> =
    (((&'a mut [A], &'a mut [A]), (&'a mut [A], &'a mut [A])), (&'a mut [f32], &'a mut [f32], &'a mut [u8]));

/// The rows of one unit.
#[derive(Clone, Copy)]
pub(crate) struct RowsOf<'a, E: Transposable> {
    room: Room,
    queries: &'a [E::A],
    gradients: &'a [E::A],
    queries_down: &'a [E::A],
    gradients_down: &'a [E::A],
    pub lse: &'a [f32],
    pub delta: &'a [f32],
    pub wild: &'a [u8],
}

impl<'a, E: Transposable> PackedRows<'a, E> {
    pub(crate) fn take(frame: &mut Frame<'a>, units: usize, room: Room) -> Self {
        let chunks = units * room.chunks;
        let [a, b, c, d] = room.words();
        PackedRows {
            queries: frame.take(chunks * a),
            gradients: frame.take(chunks * b),
            queries_down: frame.take(chunks * c),
            gradients_down: frame.take(chunks * d),
            lse: frame.take(chunks * room.chunk),
            delta: frame.take(chunks * room.chunk),
            wild: frame.take(chunks),
        }
    }

    /// By chunk.
    pub(crate) fn parts(&mut self, room: Room) -> impl Parts<Part = ChunkMut<'_, E::A>> {
        let [a, b, c, d] = room.words();
        let along = (chunks_of(self.queries, a), chunks_of(self.gradients, b));
        let down = (chunks_of(self.queries_down, c), chunks_of(self.gradients_down, d));
        let rows = (chunks_of(self.lse, room.chunk), chunks_of(self.delta, room.chunk), chunks_of(self.wild, 1));
        ((along, down), rows)
    }

    pub(crate) fn unit(&self, unit: usize, room: Room) -> RowsOf<'_, E> {
        let [a, b, c, d] = room.words().map(|words| words * room.chunks);
        let rows = room.chunk * room.chunks;
        RowsOf {
            room,
            queries: &self.queries[unit * a..][..a],
            gradients: &self.gradients[unit * b..][..b],
            queries_down: &self.queries_down[unit * c..][..c],
            gradients_down: &self.gradients_down[unit * d..][..d],
            lse: &self.lse[unit * rows..][..rows],
            delta: &self.delta[unit * rows..][..rows],
            wild: &self.wild[unit * room.chunks..][..room.chunks],
        }
    }
}

impl<'a, E: Transposable> RowsOf<'a, E> {
    /// The queries of a tile, and the gradients of its results, in steps along the rows.
    pub(crate) fn tile(&self, tile: usize) -> (&'a [E::A], &'a [E::A]) {
        let along = |one: bool, along: &'a [E::A], down: &'a [E::A], steps: usize| {
            &(if one { down } else { along })[tile * ROWS * steps..][..ROWS * steps]
        };
        (
            along(self.room.one_k, self.queries, self.queries_down, self.room.steps_k),
            along(self.room.one_v, self.gradients, self.gradients_down, self.room.steps_v),
        )
    }

    /// The queries of a chunk, and the gradients of its results, in steps down the columns.
    pub(crate) fn chunk_down(&self, chunk: usize) -> (&'a [E::A], &'a [E::A]) {
        let [_, _, c, d] = self.room.words();
        (&self.queries_down[chunk * c..][..c], &self.gradients_down[chunk * d..][..d])
    }
}

impl<T: Differentiable, O: Differentiable, E: Transposable> Pass<'_, '_, T, O, E> {
    /// Packs a chunk of the rows of a unit.
    pub(crate) fn pack_rows(&self, unit: Unit, chunk: usize, to: &mut ChunkMut<'_, E::A>) -> Result<(), Error> {
        let (((queries, gradients), (queries_down, gradients_down)), (lse, delta, wild)) = to;
        let (room, group, kernels) = (self.room, self.group, self.plan.kernels);
        let sequence = &self.plan.sequences[unit.sequence];
        let first = chunk * room.chunk;
        // Nobody reads those of a sequence that goes by its edges.
        let all = if self.backward.goes_by_edges(unit.sequence) { 0 } else { sequence.queries.len() * group };
        let rows = all.saturating_sub(first).min(room.chunk);
        let (from, of_rows) = (
            Source { batch: sequence.batch, head: unit.head * group, row: sequence.queries.start, group },
            first..first + rows,
        );
        let size = (room.steps_k, room.width_k, room.one_k);
        let queries_finite =
            from.pack::<T, E>(kernels, &self.inputs.q, of_rows.clone(), queries, queries_down, size)?;
        let size = (room.steps_v, room.width_v, room.one_v);
        let of = &self.upstream.out_gradient;
        let gradients_finite = from.pack::<O, E>(kernels, of, of_rows, gradients, gradients_down, size)?;
        let finite = queries_finite && gradients_finite;
        wild[0] = u8::from(!finite);
        for r in 0..rows {
            let (i, g) = ((first + r) / group, (first + r) % group);
            (lse[r], delta[r]) = self.row_statistics(unit.sequence, unit.head * group + g, i);
        }
        Ok(())
    }
}

/// Where the rows of a unit stand in a tensor.
struct Source {
    batch: usize,
    /// The first head of the group.
    head: usize,
    /// The row of the first query.
    row: usize,
    group: usize,
}

impl Source {
    /// Packs rows of the unit for both kinds of product; tells whether all numbers are finite.
    fn pack<N: Number, E: Transposable>(
        &self,
        kernels: Kernels,
        tensor: &Tensor<'_, N>,
        of_rows: Range<usize>,
        along: &mut [E::A],
        down: &mut [E::A],
        (steps, width, one): (usize, usize, bool),
    ) -> Result<bool, KernelError> {
        let count = of_rows.len();
        // What is behind the rows multiplies weights of 0.
        down[count / E::DEPTH * width..].fill(E::A::default());
        let mut finite = true;
        if self.group == 1 && count > 0 {
            let all = tensor.rows(self.batch, self.head);
            let some = all.block(self.row + of_rows.start..self.row + of_rows.end, 0..all.cols());
            finite &= kernels.pack_values::<E, N>(some, 0, down, width)?;
        }
        for (at, r) in of_rows.enumerate() {
            let all = tensor.rows(self.batch, self.head + r % self.group);
            let row = self.row + r / self.group;
            if self.group > 1 {
                finite &= kernels.pack_values::<E, N>(all.block(row..row + 1, 0..all.cols()), at, down, width)?;
            }
            if !one {
                kernels.pack_query::<E, N>(all.row(row), 1.0, &mut along[at * steps..][..steps])?;
            }
        }
        Ok(finite)
    }
}
