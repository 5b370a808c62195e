//! What a call of a case gives.

use crate::bench::case::Case;

/// The result, and the gradients of a case that asks for them; each contiguous, in the shape of what it belongs to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer<T> {
    /// `[batch, heads, queries, dim]`.
    pub(crate) out: Vec<T>,
    /// Of the queries.
    pub(crate) dq: Vec<T>,
    /// Of the keys.
    pub(crate) dk: Vec<T>,
    /// Of the values.
    pub(crate) dv: Vec<T>,
}

impl<T: Clone + Default> Answer<T> {
    /// Room for that of a case.
    pub(crate) fn to(case: &Case) -> Self {
        let (queries, keys) = case.lengths();
        let of = |len: usize| vec![T::default(); len];
        let gradient = |len: usize| of(if case.backward { len } else { 0 });
        Answer { out: of(queries), dq: gradient(queries), dk: gradient(keys), dv: gradient(keys) }
    }
}

impl<T> Answer<T> {
    /// All of it, in the order that peers write it in.
    pub(crate) fn tensors_mut(&mut self) -> [&mut Vec<T>; 4] {
        [&mut self.out, &mut self.dq, &mut self.dk, &mut self.dv]
    }
}
