//! Tables against lists of tokens. No numbers are computed, so that Miri can follow.

use proptest::prelude::*;

use super::PageTable;
use crate::{CacheDtype, Error, PAGE, PagePool};

/// A step of a session with several sequences.
#[derive(Clone, Debug)]
enum Step {
    /// A new sequence.
    Begin,
    /// Sequence (of those that there are) and tokens.
    Append(usize, usize),
    /// Sequence, and the share of its tokens that is left.
    Truncate(usize, f64),
    Fork(usize),
    Drop(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let which = || 0..1000_usize;
    let tokens = prop_oneof![3 => 0..5_usize, 2 => 0..2 * PAGE, 1 => (0..4_usize).prop_map(|pages| pages * PAGE)];
    let step = prop_oneof![
        1 => Just(Step::Begin),
        5 => (which(), tokens).prop_map(|(which, n)| Step::Append(which, n)),
        2 => (which(), 0.0..1.0).prop_map(|(which, share)| Step::Truncate(which, share)),
        3 => which().prop_map(Step::Fork),
        1 => which().prop_map(Step::Drop),
    ];
    prop::collection::vec(step, 1..40)
}

/// What a table should be: tokens, and the names of the pages that hold them.
#[derive(Clone, Default)]
struct Model {
    tokens: Vec<u8>,
    pages: Vec<usize>,
}

/// How many pages the sequences hold together.
fn distinct(models: &[Model]) -> usize {
    let mut names: Vec<usize> = models.iter().flat_map(|model| model.pages.iter().copied()).collect();
    names.sort_unstable();
    names.dedup();
    names.len()
}

fn pool(limit: usize) -> PagePool {
    PagePool::new(CacheDtype::F32, 1, 1, 1, limit).expect("a pool")
}

/// Writes a token as attention would write its numbers: in its place, and nowhere else.
fn put(table: &mut PageTable, at: usize, token: u8) {
    table.page_mut(at / PAGE)[at % PAGE] = token;
}

fn tokens(table: &PageTable) -> Vec<u8> {
    (0..table.len()).map(|at| table.pages()[at / PAGE].bytes[at % PAGE]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn tables_hold_their_own_tokens_in_as_few_pages_as_they_can(steps in steps(), limit in 1..20_usize) {
        let pool = pool(limit);
        let (mut tables, mut models) = (vec![PageTable::new(pool.clone())], vec![Model::default()]);
        let (mut names, mut token) = (0.., 0_u8);
        for step in steps {
            match step {
                Step::Append(which, n) if !tables.is_empty() => {
                    let which = which % tables.len();
                    let before = models[which].tokens.len();
                    let more = (before + n).div_ceil(PAGE) - models[which].pages.len();
                    let last = models[which].pages.last().copied();
                    let mut others = models.iter().enumerate().filter(|(other, _)| *other != which);
                    let shared = last.is_some_and(|last| others.any(|(_, model)| model.pages.contains(&last)));
                    let copied = n > 0 && before % PAGE > 0 && shared;
                    let used = distinct(&models);
                    let needed = more + usize::from(copied);
                    let grown = tables[which].grow(n);
                    if needed > limit - used {
                        prop_assert_eq!(grown, Err(Error::PoolFull { used, limit, more: needed }));
                    } else {
                        prop_assert_eq!(grown, Ok(()));
                        if copied {
                            models[which].pages.pop();
                        }
                        models[which].pages.extend(names.by_ref().take(needed));
                        for at in before..before + n {
                            token = token.wrapping_add(1);
                            put(&mut tables[which], at, token);
                            models[which].tokens.push(token);
                        }
                    }
                }
                Step::Truncate(which, share) if !tables.is_empty() => {
                    let which = which % tables.len();
                    let len = (share * models[which].tokens.len() as f64) as usize;
                    tables[which].truncate(len);
                    models[which].tokens.truncate(len);
                    models[which].pages.truncate(len.div_ceil(PAGE));
                }
                Step::Fork(which) if !tables.is_empty() => {
                    let which = which % tables.len();
                    tables.push(tables[which].clone());
                    models.push(models[which].clone());
                }
                Step::Drop(which) if !tables.is_empty() => {
                    let which = which % tables.len();
                    tables.swap_remove(which);
                    models.swap_remove(which);
                }
                _ => {
                    tables.push(PageTable::new(pool.clone()));
                    models.push(Model::default());
                }
            }
            for (table, model) in tables.iter().zip(&models) {
                prop_assert_eq!(&tokens(table), &model.tokens);
            }
            prop_assert_eq!(pool.used(), distinct(&models));
        }
        drop(tables);
        prop_assert_eq!(pool.used(), 0);
    }
}

#[test]
fn a_length_beyond_all_numbers_is_refused() {
    let mut table = PageTable::new(pool(2));
    table.grow(1).expect("room");
    assert!(matches!(table.grow(usize::MAX), Err(Error::Memory(_))));
    assert!(matches!(table.grow(usize::MAX - 1), Err(Error::PoolFull { .. } | Error::Memory(_))));
    assert_eq!((table.len(), table.pool.used()), (1, 1));
}

#[test]
fn threads_share_a_pool() {
    let pool = pool(64);
    let mut common = PageTable::new(pool.clone());
    common.grow(PAGE + 7).expect("room");
    (0..PAGE + 7).for_each(|at| put(&mut common, at, at as u8));
    let begin = tokens(&common);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (common, begin) = (&common, &begin);
            scope.spawn(move || {
                for round in 0..20 {
                    let mut fork = common.clone();
                    fork.grow(PAGE).expect("room");
                    (begin.len()..fork.len()).for_each(|at| put(&mut fork, at, thread));
                    let all = tokens(&fork);
                    assert_eq!(&all[..begin.len()], begin);
                    assert!(all[begin.len()..].iter().all(|&token| token == thread), "round {round}");
                }
            });
        }
    });
    assert_eq!((tokens(&common), pool.used()), (begin, 2));
}
