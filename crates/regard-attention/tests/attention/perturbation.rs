//! What is removed changes no bit.

use std::collections::HashSet;

use half::bf16;
use proptest::prelude::*;
use proptest::sample::Index;
use regard_oracle::{Pair, Problem, Set, Sizes, numbers, problems};

use crate::support::{Asked, Results, Stored, Way, calls, tries};

/// What takes the place of what is removed.
#[derive(Clone, Copy, Debug)]
enum Junk {
    Numbers,
    Same(f32),
}

fn junk() -> impl Strategy<Value = Junk> {
    prop_oneof![
        2 => Just(Junk::Numbers),
        1 => prop::sample::select(vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY]).prop_map(Junk::Same),
    ]
}

impl Junk {
    /// Into the rows that are chosen of a tensor with rows of `dim` numbers.
    fn into_rows(self, x: &mut [f32], dim: usize, chosen: impl Fn(usize) -> bool) {
        let other = numbers(99, x.len());
        for (row, other) in (0..x.len().checked_div(dim).unwrap_or(0)).zip(other.chunks(dim.max(1))) {
            if chosen(row) {
                for (x, other) in x[row * dim..][..dim].iter_mut().zip(other) {
                    *x = match self {
                        Junk::Numbers => 100.0 * other,
                        Junk::Same(odd) => odd,
                    };
                }
            }
        }
    }
}

/// The rows of query and key of a pair, in `[batch, heads, queries]` and `[batch, kv_heads, keys]`.
fn rows_of(problem: &Problem, pair: &Pair) -> (usize, usize) {
    let sizes = problem.sizes;
    let group = sizes.heads / sizes.kv_heads;
    (
        (pair.batch * sizes.heads + pair.head) * sizes.queries + pair.query,
        (pair.batch * sizes.kv_heads + pair.head / group) * sizes.keys + pair.key,
    )
}

/// Which rows of queries and of keys see each other, and which see anything.
struct Seen {
    pairs: HashSet<(usize, usize)>,
    queries: HashSet<usize>,
    keys: HashSet<usize>,
}

impl Seen {
    fn new(problem: &Problem) -> Seen {
        let seen = problem.pairs().filter(|pair| problem.sees(pair));
        let pairs: HashSet<_> = seen.map(|pair| rows_of(problem, &pair)).collect();
        let (queries, keys) = pairs.iter().copied().unzip();
        Seen { pairs, queries, keys }
    }
}

fn row(x: &[f32], row: usize, dim: usize) -> Vec<u32> {
    x[row * dim..][..dim].iter().map(|x| x.to_bits()).collect()
}

/// A query's row of the output, its log-sum-exp, and its gradient.
fn of_query(results: &Results, sizes: Sizes, query: usize) -> [Vec<u32>; 3] {
    let Results { outcome, slopes } = results;
    [row(&outcome.out, query, sizes.dim_v), row(&outcome.lse, query, 1), row(&slopes.dq, query, sizes.dim_k)]
}

/// A query's results and gradient, whatever the keys hold that it does not see.
fn of_a_query<T: Stored>(problem: &Problem, chosen: Index, junk: Junk) -> Result<(), TestCaseError> {
    let sizes = problem.sizes;
    if sizes.batch * sizes.queries == 0 {
        return Ok(());
    }
    let query = chosen.index(sizes.batch * sizes.heads * sizes.queries);
    let seen = Seen::new(problem);
    let mut changed = problem.clone();
    junk.into_rows(&mut changed.k, sizes.dim_k, |key| !seen.pairs.contains(&(query, key)));
    junk.into_rows(&mut changed.v, sizes.dim_v, |key| !seen.pairs.contains(&(query, key)));
    for isa in Way::all() {
        let [before, after] = [problem, &changed].map(|problem| Asked::new(problem, isa).results::<T>());
        prop_assert_eq!(of_query(&before, sizes, query), of_query(&after, sizes, query), "{}: query {}", isa, query);
    }
    Ok(())
}

/// A key's gradients, whatever the queries hold that do not see it.
fn of_a_key<T: Stored>(problem: &Problem, chosen: Index, junk: Junk) -> Result<(), TestCaseError> {
    let sizes = problem.sizes;
    if sizes.batch * sizes.keys == 0 {
        return Ok(());
    }
    let key = chosen.index(sizes.batch * sizes.kv_heads * sizes.keys);
    let seen = Seen::new(problem);
    let mut changed = problem.clone();
    let blind = |query| !seen.pairs.contains(&(query, key));
    junk.into_rows(&mut changed.q, sizes.dim_k, blind);
    junk.into_rows(&mut changed.dout, sizes.dim_v, blind);
    junk.into_rows(&mut changed.dlse, 1, blind);
    for isa in Way::all() {
        let [before, after] = [problem, &changed].map(|problem| Asked::new(problem, isa).results::<T>().slopes);
        prop_assert_eq!(row(&before.dk, key, sizes.dim_k), row(&after.dk, key, sizes.dim_k), "{}: dk of {}", isa, key);
        prop_assert_eq!(row(&before.dv, key, sizes.dim_v), row(&after.dv, key, sizes.dim_v), "{}: dv of {}", isa, key);
    }
    Ok(())
}

/// All results, whatever dead queries and keys hold, and those that see nothing and that nobody sees. Such a query's sink
/// has the gradient of its log-sum-exp; the bias has none where it is of no pair that is seen.
fn of_all<T: Stored>(problem: &Problem, junk: Junk) -> Result<(), TestCaseError> {
    let sizes = problem.sizes;
    let seen = Seen::new(problem);
    let mut changed = problem.clone();
    let (blind, unseen) = (|query| !seen.queries.contains(&query), |key| !seen.keys.contains(&key));
    junk.into_rows(&mut changed.q, sizes.dim_k, blind);
    junk.into_rows(&mut changed.dout, sizes.dim_v, blind);
    if problem.sinks.is_none() {
        junk.into_rows(&mut changed.dlse, 1, blind);
    }
    junk.into_rows(&mut changed.k, sizes.dim_k, unseen);
    junk.into_rows(&mut changed.v, sizes.dim_v, unseen);
    for isa in Way::all() {
        let [before, after] = [problem, &changed].map(|problem| Asked::new(problem, isa).results::<T>().bits());
        for ((name, before), (_, after)) in before.into_iter().zip(after) {
            let changed = before.iter().zip(&after).position(|(before, after)| before != after);
            prop_assert!(changed.is_none(), "{isa}: {name}, number {changed:?}");
        }
    }
    Ok(())
}

/// The results of all queries before a position, whatever the tokens from there on hold: the queries, keys and values.
fn of_the_past<T: Stored>(problem: &Problem, first: usize, junk: Junk) -> Result<(), TestCaseError> {
    let sizes = problem.sizes;
    let mut changed = problem.clone();
    junk.into_rows(&mut changed.q, sizes.dim_k, |query| query % sizes.queries >= first);
    junk.into_rows(&mut changed.dout, sizes.dim_v, |query| query % sizes.queries >= first);
    junk.into_rows(&mut changed.k, sizes.dim_k, |key| key % sizes.keys >= first);
    junk.into_rows(&mut changed.v, sizes.dim_v, |key| key % sizes.keys >= first);
    for isa in Way::all() {
        let [before, after] = [problem, &changed].map(|problem| Asked::new(problem, isa).results::<T>());
        for query in (0..sizes.batch * sizes.heads * sizes.queries).filter(|query| query % sizes.queries < first) {
            prop_assert_eq!(
                of_query(&before, sizes, query),
                of_query(&after, sizes, query),
                "{}: query {}",
                isa,
                query
            );
        }
    }
    Ok(())
}

fn all() -> impl Strategy<Value = Problem> {
    prop_oneof![3 => problems(), 1 => calls()]
}

proptest! {
    #![proptest_config(tries(40))]

    #[test]
    fn of_a_query_by_keys(problem in all(), chosen: Index, junk in junk()) {
        of_a_query::<f32>(&problem, chosen, junk)?;
        of_a_query::<bf16>(&problem, chosen, junk)?;
    }

    #[test]
    fn of_a_key_by_queries(problem in all(), chosen: Index, junk in junk()) {
        of_a_key::<f32>(&problem, chosen, junk)?;
        of_a_key::<bf16>(&problem, chosen, junk)?;
    }

    #[test]
    fn of_the_past_by_the_future(problem in all(), first: Index, junk in junk()) {
        // Query i is token i of each batch entry, and so is key i.
        let Sizes { queries, keys, .. } = problem.sizes;
        let set = Set::Causal & problem.set;
        let problem = Problem { sequences: problem.sizes.whole(Some(0)), set, ..problem };
        if queries > 0 && keys > 0 {
            let first = first.index(queries.max(keys));
            of_the_past::<f32>(&problem, first, junk)?;
            of_the_past::<bf16>(&problem, first, junk)?;
        }
    }

    #[test]
    fn of_anyone_by_the_dead(problem in all(), junk in junk()) {
        of_all::<f32>(&problem, junk)?;
        of_all::<bf16>(&problem, junk)?;
    }
}
