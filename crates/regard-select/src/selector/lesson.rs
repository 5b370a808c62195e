//! What a selector learns from.

use ndarray::Array2;

use crate::select::Heads;
use crate::selector::head::{Features, Units, unit};
use crate::summary::Summary;
use crate::{Blocks, Scores};

/// Queries and keys of a text as a selector sees them, and the exact masses of their blocks. Made by
/// [`Select::lesson`](crate::Select::lesson); it holds no token, and of a head some hundred numbers a block.
#[derive(Clone, Debug)]
pub struct Lesson {
    pub(crate) summary: Summary,
    pub(crate) masses: Scores,
}

impl Lesson {
    /// The blocks that it is of.
    pub fn blocks(&self) -> &Blocks {
        &self.summary.blocks
    }

    /// What [`Select::exact`](crate::Select::exact) gives of the same queries and keys.
    pub fn masses(&self) -> &Scores {
        &self.masses
    }

    pub(crate) fn heads(&self) -> Heads {
        self.summary.heads
    }
}

/// A head of one sequence of a lesson.
#[derive(Clone, Debug)]
pub(crate) struct Example {
    pub(crate) features: Features,
    /// `[rows, columns]`: the mass of the columns that are left to choose from, 0 for others.
    pub(crate) targets: Array2<f64>,
    /// All of them together.
    pub(crate) mass: f64,
    blocks: Blocks,
}

impl Example {
    fn new(lesson: &Lesson, head: usize, units: Units) -> Example {
        let blocks = lesson.summary.blocks;
        let mut targets = lesson.masses.tables[head].mapv(f64::exp);
        for row in 0..blocks.rows() {
            targets[[row, 0]] = 0.0;
            targets[[row, blocks.own(row)]] = 0.0;
            targets.row_mut(row).iter_mut().skip(blocks.seen(row)).for_each(|target| *target = 0.0);
        }
        let mass = targets.sum();
        Example { features: Features::new(lesson.summary.head(head), &blocks, units), targets, mass, blocks }
    }

    /// The columns that a row has left to choose from: all but the first and its own.
    pub(crate) fn columns(&self, row: usize) -> impl Iterator<Item = usize> + Clone {
        let own = self.blocks.own(row);
        (1..self.blocks.seen(row)).filter(move |&column| column != own)
    }
}

/// A head of all sequences of all lessons.
pub(crate) fn examples(lessons: &[Lesson], head: usize, units: Units) -> Vec<Example> {
    let of_lesson = |lesson| heads_of(lesson, head).map(move |at| Example::new(lesson, at, units));
    lessons.iter().flat_map(of_lesson).collect()
}

/// How large pooled queries and keys of a head are.
pub(crate) fn units(lessons: &[Lesson], head: usize) -> Units {
    let summaries = || lessons.iter().flat_map(|lesson| heads_of(lesson, head).map(|at| lesson.summary.head(at)));
    let queries: Vec<_> = summaries().map(|summary| summary.queries).collect();
    let keys: Vec<_> = summaries().map(|summary| summary.keys).collect();
    Units { query: unit(queries.iter().flatten()), key: unit(keys.iter().flatten()) }
}

/// A head of each batch entry.
fn heads_of(lesson: &Lesson, head: usize) -> impl Iterator<Item = usize> + use<> {
    let Heads { batch, heads, .. } = lesson.heads();
    (0..batch).map(move |entry| entry * heads + head)
}
