//! A sequence of a call as a call of its own.

use std::ops::Range;

use regard_oracle::{Problem, Sequence, Set, Sizes};

/// One sequence of a problem, taken out of its batch.
pub(crate) fn alone(problem: &Problem, sequence: &Sequence) -> Problem {
    let Sequence { batch, queries, keys, offset } = sequence.clone();
    let sizes = Sizes { batch: 1, queries: queries.len(), keys: keys.len(), ..problem.sizes };
    let of_queries = |x: &[f32], shape| cut(x, shape, batch, &queries);
    let of_keys = |x: &[f32], shape| cut(x, shape, batch, &keys);
    let all = problem.sizes;
    Problem {
        sizes,
        sequences: sizes.whole(Some(offset)),
        set: of_entry(&problem.set, batch),
        bias: problem.bias.as_ref().map(|(shape, values)| cut_bias(*shape, values, sequence)),
        q: of_queries(&problem.q, all.q()),
        k: of_keys(&problem.k, all.k()),
        v: of_keys(&problem.v, all.v()),
        dout: of_queries(&problem.dout, all.out()),
        dlse: of_queries(&problem.dlse, all.lse()),
        ..problem.clone()
    }
}

/// Some rows of each head of a batch entry.
fn cut(x: &[f32], [_, heads, seq, dim]: [usize; 4], batch: usize, rows: &Range<usize>) -> Vec<f32> {
    let first = (0..heads).map(|head| (batch * heads + head) * seq);
    first.flat_map(|first| &x[(first + rows.start) * dim..(first + rows.end) * dim]).copied().collect()
}

fn cut_bias(shape: [usize; 4], values: &[f32], sequence: &Sequence) -> ([usize; 4], Vec<f32>) {
    let [batch, heads, queries, keys] = shape;
    let of_queries = if queries == 1 { 0..1 } else { sequence.queries.clone() };
    let of_keys = if keys == 1 { 0..1 } else { sequence.keys.clone() };
    let rows = cut(values, shape, if batch == 1 { 0 } else { sequence.batch }, &of_queries);
    let values =
        if keys == 0 { vec![] } else { rows.chunks(keys).flat_map(|row| &row[of_keys.clone()]).copied().collect() };
    ([1, heads, of_queries.len(), of_keys.len()], values)
}

/// What a mask keeps of one batch entry.
fn of_entry(set: &Set, batch: usize) -> Set {
    let each = |sets: &[Set]| sets.iter().map(|set| of_entry(set, batch)).collect();
    let boxed = |set: &Set| Box::new(of_entry(set, batch));
    match set {
        Set::ByBatch(sets) => of_entry(&sets[batch], batch),
        Set::ByHead(sets) => Set::ByHead(each(sets)),
        Set::Not(a) => Set::Not(boxed(a)),
        Set::And(a, b) => Set::And(boxed(a), boxed(b)),
        Set::Or(a, b) => Set::Or(boxed(a), boxed(b)),
        primitive => primitive.clone(),
    }
}
