//! Loops that are ended before they are done, and the pool that everybody shares.

use std::cell::Cell;
use std::panic::catch_unwind;
use std::rc::Rc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use regard_memory::Indices;
use regard_threads::{Interrupted, Pool, interrupted, interruptible};

/// Tasks that a loop of many short ones has begun when it is ended at the third question.
fn tasks_begun(threads: usize) -> usize {
    let pool = Pool::new(threads).unwrap();
    let (questions, begun) = (Rc::new(Cell::new(0)), AtomicUsize::new(0));
    let asked = questions.clone();
    let ends = move || {
        asked.set(asked.get() + 1);
        asked.get() >= 3
    };
    let work = || {
        pool.run(Indices(10_000), |_, _| {
            begun.fetch_add(1, Relaxed);
            std::thread::sleep(Duration::from_millis(1));
        });
        // Those that follow do nothing.
        let so_far = begun.load(Relaxed);
        pool.run(Indices(100), |_, _| _ = begun.fetch_add(1, Relaxed));
        assert_eq!(begun.load(Relaxed), so_far);
    };
    assert_eq!(interruptible(ends, work), Err(Interrupted));
    assert_eq!(questions.get(), 3, "once it ends nobody asks any more");
    begun.into_inner()
}

#[test]
#[cfg_attr(miri, ignore = "it waits")]
fn a_loop_ends_between_tasks() {
    for threads in [1, 2, 4] {
        let begun = tasks_begun(threads);
        assert!((1..5_000).contains(&begun), "{begun} tasks on {threads} threads");
    }
}

/// Tasks that take long ask by themselves, on helpers too, also while the caller has nothing left to do but wait for them.
#[test]
#[cfg_attr(miri, ignore = "it waits")]
fn long_tasks_of_helpers_hear_of_the_end() {
    let pool = Pool::new(2).unwrap();
    let (begun, heard) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let ends = {
        let asked = Cell::new(0);
        move || asked.replace(asked.get() + 1) >= 3
    };
    let work = || {
        let caller = std::thread::current().id();
        pool.run(Indices(2), |_, _| {
            begun.fetch_add(1, Relaxed);
            // Each takes one.
            while begun.load(Relaxed) < 2 {
                std::thread::yield_now();
            }
            while std::thread::current().id() != caller {
                if interrupted() {
                    heard.fetch_add(1, Relaxed);
                    return;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        });
    };
    assert_eq!(interruptible(ends, work), Err(Interrupted));
    assert_eq!(heard.into_inner(), 1);
    assert!(!interrupted());
    // The helper hears no more of it.
    pool.run(Indices(100), |_, _| assert!(!interrupted()));
}

/// A question that panics while helpers are at work is heard of when they are done.
#[test]
#[cfg_attr(miri, ignore = "it waits")]
fn a_question_that_panics_waits_for_helpers() {
    let pool = Pool::new(2).unwrap();
    let (begun, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || {
        let caller = std::thread::current().id();
        pool.run(Indices(2), |_, _| {
            begun.fetch_add(1, Relaxed);
            while begun.load(Relaxed) < 2 {
                std::thread::yield_now();
            }
            if std::thread::current().id() != caller {
                std::thread::sleep(Duration::from_millis(200));
                done.fetch_add(1, Relaxed);
            }
        });
    };
    let panicked = catch_unwind(std::panic::AssertUnwindSafe(|| interruptible(|| panic!("asked"), work)));
    assert!(panicked.is_err());
    assert_eq!(done.into_inner(), 1);
}

#[test]
fn work_that_nobody_ends_is_done() {
    let pool = Pool::new(2).unwrap();
    let done = AtomicUsize::new(0);
    let work = || {
        pool.run(Indices(100), |_, _| _ = done.fetch_add(1, Relaxed));
        7
    };
    assert_eq!(interruptible(|| false, work), Ok(7));
    assert_eq!(done.into_inner(), 100);
    assert!(!interrupted());
}

/// What stumbles over half of a result was interrupted; what stumbles otherwise panics, and leaves no watch behind.
#[test]
#[cfg_attr(miri, ignore = "it waits")]
fn panics() {
    let half = || {
        while !interrupted() {
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("half a result");
    };
    assert_eq!(interruptible::<()>(|| true, half), Err(Interrupted));
    let panic = catch_unwind(|| interruptible::<()>(|| false, || panic!("a mistake"))).unwrap_err();
    assert_eq!(panic.downcast_ref(), Some(&"a mistake"));
    std::thread::sleep(Duration::from_millis(25));
    assert!(!interrupted());
}

#[test]
#[cfg_attr(miri, ignore = "its pools end with the process, which Miri would call a leak")]
fn the_shared_pool_is_exchanged() {
    let first = Pool::global();
    Pool::set_global(3).unwrap();
    let three = Pool::global();
    assert_eq!(three.threads(), 3);
    Pool::set_global(1).unwrap();
    assert_eq!(Pool::global().threads(), 1);
    Pool::set_global(3).unwrap();
    assert!(std::ptr::eq(Pool::global(), three), "it starts no threads twice");
    assert!(Pool::set_global(0).unwrap_err().to_string().contains("0 threads"));
    assert_eq!(Pool::global().threads(), 3);
    // The old one still works.
    let done = AtomicUsize::new(0);
    first.run(Indices(10), |_, _| _ = done.fetch_add(1, Relaxed));
    assert_eq!(done.into_inner(), 10);
}
