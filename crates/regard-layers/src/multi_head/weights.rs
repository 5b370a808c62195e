//! The weights of queries, keys and values: their forms, and what they make of rows.

use regard_memory::{Rows, RowsMut};

use super::{KeyHeads, MultiHeadAttention, MultiHeadConfig};
use crate::linear::{Matrix, Order};
use crate::{Before, Error, Gradients, Parameter, Pass};

/// The forms of the weights of queries, keys and values.
#[derive(Clone, Copy, Debug)]
pub(super) enum Weights {
    /// `[3, H, d, E]`.
    Together(Parameter),
    /// `[1, H, d_k, E]`, and `[2, H_kv, d_k, E]`.
    Shared { q: Parameter, kv: Parameter },
    /// `[1, H, d_k, E]`, `[H_kv, d_k, E]`, `[H_kv, d_v, E]`.
    Apart { q: Parameter, k: Parameter, v: Parameter },
}

/// Which rows join what is projected: queries, or keys and values, or all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Queries,
    Keys,
    All,
}

impl MultiHeadAttention {
    /// Key/value heads.
    pub(super) fn kv_heads(&self, heads: KeyHeads) -> usize {
        match heads {
            KeyHeads::All => self.config.heads / self.config.share_kv_across_n_heads,
            KeyHeads::First => 1,
        }
    }

    /// Columns of queries, keys and values of a row.
    pub(super) fn widths(&self, heads: KeyHeads) -> [usize; 3] {
        let MultiHeadConfig { heads: queries, dim_k, dim_v, .. } = self.config;
        let kv_heads = self.kv_heads(heads);
        [queries * dim_k, kv_heads * dim_k, kv_heads * dim_v]
    }

    /// Columns of what is projected from one row.
    pub(super) fn columns(&self, part: Part, heads: KeyHeads) -> usize {
        let [q, k, v] = self.widths(heads);
        match part {
            Part::Queries => q,
            Part::Keys => k + v,
            Part::All => q + k + v,
        }
    }

    /// The products that project a part of a row, each with the first column of its results and its bias.
    fn products(
        &self,
        part: Part,
        heads: KeyHeads,
    ) -> impl Iterator<Item = (Matrix, usize, Option<Parameter>)> + use<> {
        let MultiHeadConfig { inputs, .. } = self.config;
        let ([q, k, v], [_, all_k, _]) = (self.widths(heads), self.widths(KeyHeads::All));
        // Where each of the three begins: in which tensor, and at which of its rows.
        let places = match self.weights {
            Weights::Together(all) => [(all, 0), (all, q), (all, q + all_k)],
            Weights::Shared { q, kv } => [(q, 0), (kv, 0), (kv, all_k)],
            Weights::Apart { q, k, v } => [(q, 0), (k, 0), (v, 0)],
        };
        let wanted = match part {
            Part::Queries => 0..1,
            Part::Keys => 1..3,
            Part::All => 0..3,
        };
        let biases = self.biases;
        let mut products: [Option<(Matrix, usize, Option<Parameter>)>; 3] = [None; 3];
        let (mut column, mut count) = (0, 0);
        let mut last: Option<(Parameter, usize)> = None;
        for i in wanted {
            let (outputs, (tensor, row)) = ([q, k, v][i], places[i]);
            // Neighbours in one tensor are one product; biases lie apart.
            if let (Some((neighbour, end)), None, true) = (last, biases, count > 0)
                && neighbour == tensor
                && end == row
                && let Some((matrix, ..)) = &mut products[count - 1]
            {
                matrix.outputs += outputs;
                let first = row + outputs - matrix.outputs;
                matrix.weight = tensor.part(first * inputs..(row + outputs) * inputs);
            } else {
                let weight = tensor.part(row * inputs..(row + outputs) * inputs);
                let bias = biases.map(|biases| biases[i].part(0..outputs));
                products[count] = Some((Matrix { weight, inputs, outputs, order: Order::OutputsFirst }, column, bias));
                count += 1;
            }
            last = Some((tensor, row + outputs));
            column += outputs;
        }
        products.into_iter().flatten()
    }

    /// Projects a part of rows to `out [rows, columns]`.
    pub(super) fn project(
        &self,
        pass: &mut Pass<'_>,
        x: Rows<'_, f32>,
        part: Part,
        heads: KeyHeads,
        out: &mut [f32],
    ) -> Result<(), Error> {
        let columns = self.columns(part, heads);
        for (matrix, column, bias) in self.products(part, heads) {
            let out = RowsMut::contiguous(out, x.rows(), columns)?;
            let (rows, columns) = (0..x.rows(), column..column + matrix.outputs);
            matrix.apply(pass, x, bias, out.block(rows, columns))?;
        }
        Ok(())
    }

    /// The gradients of what [`MultiHeadAttention::project`] does.
    #[allow(clippy::too_many_arguments, reason = "a projection's inputs and both places that gradients go to")]
    pub(super) fn differentiate(
        &self,
        pass: &mut Pass<'_>,
        x: Rows<'_, f32>,
        part: Part,
        heads: KeyHeads,
        dout: &[f32],
        gradients: &mut Gradients,
        dx: &mut [f32],
    ) -> Result<(), Error> {
        let dout = Rows::contiguous(dout, x.rows(), self.columns(part, heads))?;
        for (matrix, column, bias) in self.products(part, heads) {
            let dout = dout.block(0..x.rows(), column..column + matrix.outputs);
            let dx = RowsMut::contiguous(dx, x.rows(), x.cols())?;
            matrix.differentiate(pass, x, dout, gradients, Some((Before::Kept, dx)))?;
            if let Some(bias) = bias {
                pass.add_rows(dout, gradients.of_mut(bias))?;
            }
        }
        Ok(())
    }
}
