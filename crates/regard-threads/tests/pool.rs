//! Loops do what their sequential twin does, whoever calls them and whatever happens in them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Barrier;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::thread;
use std::time::Duration;

use proptest::prelude::*;
use regard_memory::{Indices, chunks_of, each_of};
use regard_threads::{Error, Pool};

/// Something to compute that is not the same for any two inputs.
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    value ^ (value >> 27)
}

const ROUNDS: usize = if cfg!(miri) { 20 } else { 2000 };

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(if cfg!(miri) { 3 } else { 64 }) })]

    #[test]
    fn results_are_those_of_a_plain_loop_for_any_number_of_threads(
        data in prop::collection::vec(any::<u64>(), 0..500), each in 1usize..40,
    ) {
        let oracle: Vec<u64> = data.iter().map(|&value| mix(value)).collect();
        for threads in [1, 2, 5] {
            let pool = Pool::new(threads).unwrap();
            prop_assert_eq!(pool.threads(), threads);
            let mut ours = data.clone();
            pool.run(chunks_of(&mut ours, each), |index, chunk| {
                for (value, original) in chunk.iter_mut().zip(&data[index * each..]) {
                    assert_eq!(value, original);
                    *value = mix(*value);
                }
            });
            prop_assert_eq!(&ours, &oracle);
        }
    }

    #[test]
    fn every_index_comes_once(count in 0usize..300, threads in 1usize..6) {
        let pool = Pool::new(threads).unwrap();
        let seen: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
        let mut sums = vec![0; threads + 2];
        for round in 1..4 {
            pool.run_with(&mut sums, Indices(count), |sum, index, ()| {
                seen[index].fetch_add(1, Relaxed);
                *sum += index;
            });
            prop_assert!(seen.iter().all(|seen| seen.load(Relaxed) == round));
        }
        prop_assert_eq!(sums.iter().sum::<usize>(), 3 * count * count.saturating_sub(1) / 2);
    }

    /// Tasks that are handed out together go to one thread, one after the other.
    #[test]
    fn neighbours_stay_together(count in 0usize..300, threads in 1usize..6, together in 1usize..40) {
        let pool = Pool::new(threads).unwrap();
        let mut seen: Vec<Vec<usize>> = vec![Vec::new(); threads];
        pool.run_together(each_of(&mut seen), Indices(count), together, |seen, index, ()| seen.push(index));
        for seen in &seen {
            for (before, after) in seen.iter().zip(&seen[1.min(seen.len())..]) {
                prop_assert!(*after == before + 1 || after % together == 0 && after > before, "{before}, then {after}");
            }
        }
        let mut all = seen.concat();
        all.sort_unstable();
        prop_assert_eq!(all, (0..count).collect::<Vec<_>>());
    }
}

/// Runs tasks that each wait for all the others, so that they end only if so many threads come.
fn meet(pool: &Pool) {
    let barrier = Barrier::new(pool.threads());
    pool.run(Indices(pool.threads()), |_, ()| {
        barrier.wait();
    });
}

#[test]
fn all_threads_come_to_one_loop() {
    for threads in [1, 2, 3, 7] {
        let pool = Pool::new(threads).unwrap();
        for round in 0..20 {
            meet(&pool);
            // Also those that have gone to sleep meanwhile.
            thread::sleep(Duration::from_micros(20 * round));
        }
    }
}

#[test]
fn tasks_begin_in_the_order_of_their_index() {
    let pool = Pool::new(2).unwrap();
    let begun = AtomicUsize::new(0);
    pool.run(Indices(ROUNDS), |index, ()| {
        // All earlier ones have begun; but of two threads, one may have taken its index and not have come here yet.
        assert!(begun.fetch_add(1, SeqCst) + 1 >= index);
    });
}

#[test]
fn many_short_loops_one_after_the_other() {
    let pool = Pool::new(2).unwrap();
    let mut values = [0u64; 7];
    for round in 0..ROUNDS as u64 {
        pool.run(each_of(&mut values[..1 + round as usize % 7]), |_, value| *value = mix(*value + round));
    }
    let mut oracle = [0u64; 7];
    for round in 0..ROUNDS as u64 {
        oracle[..1 + round as usize % 7].iter_mut().for_each(|value| *value = mix(*value + round));
    }
    assert_eq!(values, oracle);
}

#[test]
fn several_callers_at_once_each_get_their_own_results() {
    let pool = Pool::new(3).unwrap();
    thread::scope(|scope| {
        for caller in 0..4u64 {
            let pool = &pool;
            scope.spawn(move || {
                for round in 0..ROUNDS as u64 / 10 {
                    let mut values = [0u64; 13];
                    pool.run(each_of(&mut values), |index, value| {
                        *value = mix(caller * 1000 + round * 13 + index as u64)
                    });
                    for (index, value) in values.into_iter().enumerate() {
                        assert_eq!(value, mix(caller * 1000 + round * 13 + index as u64));
                    }
                }
            });
        }
    });
}

#[test]
fn a_loop_within_a_task_runs() {
    let pool = Pool::new(2).unwrap();
    let mut table = [[0usize; 5]; 6];
    pool.run(each_of(&mut table), |row, values| {
        pool.run(each_of(values), |col, value| *value = 10 * row + col);
    });
    assert_eq!(table, std::array::from_fn(|row| std::array::from_fn(|col| 10 * row + col)));
}

#[test]
fn a_panic_reaches_the_caller_after_all_have_left_and_the_pool_lives_on() {
    for threads in [1, 2, 5] {
        let pool = Pool::new(threads).unwrap();
        for bad in [0, 3, 19] {
            let (inside, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let panic = catch_unwind(AssertUnwindSafe(|| {
                pool.run(Indices(20), |index, ()| {
                    inside.fetch_add(1, SeqCst);
                    if index == bad {
                        inside.fetch_sub(1, SeqCst);
                        panic!("task {index}");
                    }
                    thread::sleep(Duration::from_micros(50));
                    done.fetch_add(1, SeqCst);
                    inside.fetch_sub(1, SeqCst);
                });
            }))
            .unwrap_err();
            assert_eq!(panic.downcast_ref::<String>().unwrap(), &format!("task {bad}"));
            assert_eq!(inside.load(SeqCst), 0);
            // One thread does exactly those before the bad one.
            assert!(threads > 1 || done.load(SeqCst) == bad);
            meet(&pool);
        }
    }
}

#[test]
fn panics_of_all_tasks_at_once_are_one_panic() {
    let pool = Pool::new(3).unwrap();
    let barrier = Barrier::new(3);
    let panic = catch_unwind(AssertUnwindSafe(|| {
        pool.run(Indices(3), |_, ()| {
            barrier.wait();
            panic!("all of us");
        });
    }));
    assert_eq!(*panic.unwrap_err().downcast_ref::<&str>().unwrap(), "all of us");
    meet(&pool);
}

#[test]
fn no_tasks_are_no_work() {
    let pool = Pool::new(2).unwrap();
    pool.run(Indices(0), |_, ()| unreachable!());
    pool.run(each_of(&mut [0u8; 0]), |_, _| unreachable!());
}

#[test]
#[should_panic(expected = "1 workers for 2 threads")]
fn too_few_workers_are_refused() {
    Pool::new(2).unwrap().run_with(&mut [0], Indices(3), |_, _, ()| ());
}

#[test]
fn absurd_numbers_of_threads_are_errors() {
    assert!(matches!(Pool::new(0), Err(Error::Threads { asked: 0, .. })));
    assert!(matches!(Pool::new(usize::MAX), Err(Error::Threads { asked: usize::MAX, .. })));
}

#[test]
fn everybody_shares_one_pool() {
    assert!(std::ptr::eq(Pool::global(), Pool::global()));
    meet(Pool::global());
}
