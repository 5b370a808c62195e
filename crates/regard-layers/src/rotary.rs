//! Rotary positions of rows of heads.

use regard_kernels::{Rotary, RotaryOrder};
use regard_memory::chunks_of;

use crate::{Error, Pass, Size};

/// Numbers of a task.
const BLOCK: usize = 1 << 13;

/// Tables that are kept.
const TABLES: usize = 16;

/// Which way heads turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// As queries and keys do.
    Forth,
    /// As their gradients do: the transpose.
    Back,
}

/// Tables of turns: sines and cosines cost more than what they are multiplied with.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    tables: Vec<(Rotary, Vec<f32>)>,
}

impl Turns {
    /// The turns of the first positions, `[tokens, dims]`.
    fn get(&mut self, rotary: &Rotary, tokens: usize) -> &[f32] {
        let at = match self.tables.iter().position(|(other, _)| other == rotary) {
            Some(at) => at,
            None => {
                if self.tables.len() == TABLES {
                    self.tables.remove(0);
                }
                self.tables.push((rotary.clone(), Vec::new()));
                self.tables.len() - 1
            }
        };
        let (table, dims) = (&mut self.tables[at].1, rotary.dims());
        for position in table.len().checked_div(dims).unwrap_or(tokens)..tokens {
            let start = table.len();
            table.resize(start + dims, 0.0);
            rotary.turn(position, &mut table[start..]);
        }
        table
    }
}

impl Pass<'_> {
    /// Turns heads of `dim` numbers, `[batch, tokens, heads, dim]`, in place, by the positions of their tokens from `first` on.
    pub(crate) fn rotate(
        &mut self,
        rotary: &Rotary,
        turn: Turn,
        size: Size,
        first: usize,
        dim: usize,
        heads: &mut [f32],
    ) -> Result<(), Error> {
        let dims = rotary.dims();
        if dims == 0 || heads.is_empty() {
            return Ok(());
        }
        let (kernels, turns) = (self.kernels, self.turns.get(rotary, first + size.tokens));
        let row = heads.len() / size.rows();
        let rows = (BLOCK / row).max(1);
        self.pool.run(chunks_of(heads, rows * row), |index, heads| {
            for (i, heads) in heads.chunks_exact_mut(row).enumerate() {
                let at = &turns[(first + (index * rows + i) % size.tokens) * dims..][..dims];
                match turn {
                    Turn::Forth => kernels.rotate(RotaryOrder::HalfSplit, at, dim, heads),
                    Turn::Back => kernels.rotate_back(RotaryOrder::HalfSplit, at, dim, heads),
                }
                .expect("whole heads");
            }
        });
        Ok(())
    }
}
