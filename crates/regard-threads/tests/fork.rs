//! A child process has a working pool, although its threads stayed behind.
#![cfg(all(unix, not(miri)))]

use std::sync::Barrier;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;

use regard_memory::{Indices, each_of};
use regard_threads::Pool;

/// Runs `work` in a forked child, which is killed if it hangs, and says whether it answered yes.
fn in_a_child(work: impl FnOnce() -> bool) -> bool {
    // SAFETY: the child runs `work` and leaves without returning. The C library makes its allocator usable in the child,
    // which is all that `work` needs beyond its own memory.
    match unsafe { libc::fork() } {
        -1 => panic!("the process cannot be forked"),
        0 => {
            // SAFETY: neither has a requirement; the alarm kills a child that waits for threads that do not exist.
            unsafe {
                libc::alarm(20);
                libc::_exit(if work() { 0 } else { 1 });
            }
        }
        child => {
            let mut status = 0;
            // SAFETY: the status is ours to write.
            assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
            libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
        }
    }
}

/// A loop that ends only if all threads come to it.
fn meet(pool: &Pool) -> bool {
    let barrier = Barrier::new(pool.threads());
    let mut seen = vec![0; pool.threads()];
    pool.run(each_of(&mut seen), |index, seen| {
        barrier.wait();
        *seen = index + 1;
    });
    seen.into_iter().eq(1..=pool.threads())
}

#[test]
fn a_child_has_helpers_of_its_own() {
    let pool = Pool::new(3).unwrap();
    assert!(meet(&pool));
    assert!(in_a_child(|| meet(&pool) && meet(&pool)));
    assert!(meet(&pool));
}

#[test]
fn so_has_its_child() {
    let pool = Pool::new(2).unwrap();
    assert!(in_a_child(|| meet(&pool) && in_a_child(|| meet(&pool)) && meet(&pool)));
}

#[test]
fn a_pool_that_the_child_never_used_can_be_dropped_there() {
    let pool = Pool::new(2).unwrap();
    assert!(meet(&pool));
    let pool = std::cell::Cell::new(Some(pool));
    assert!(in_a_child(|| {
        drop(pool.take());
        true
    }));
    assert!(meet(&pool.take().unwrap()));
}

#[test]
fn a_fork_while_another_thread_has_the_pool() {
    let pool = Pool::new(2).unwrap();
    let (begun, end) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            pool.run(Indices(2), |_, ()| {
                begun.store(true, SeqCst);
                while !end.load(SeqCst) {
                    thread::yield_now();
                }
            });
        });
        while !begun.load(SeqCst) {
            thread::yield_now();
        }
        assert!(in_a_child(|| meet(&pool)));
        end.store(true, SeqCst);
    });
    assert!(meet(&pool));
}

#[test]
fn a_task_that_forks_and_returns_is_told_so() {
    let pool = Pool::new(2).unwrap();
    let barrier = Barrier::new(2);
    let (caller, parent) = (thread::current().id(), std::process::id());
    let forked = AtomicBool::new(false);
    let lost = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        pool.run(Indices(2), |_, ()| {
            barrier.wait();
            if thread::current().id() == caller {
                // SAFETY: the child comes back from this loop by a panic, and then leaves.
                let child = unsafe { libc::fork() };
                assert_ne!(child, -1);
                if child == 0 {
                    // SAFETY: no requirement.
                    unsafe { libc::alarm(20) };
                    return;
                }
                let mut status = 0;
                // SAFETY: the status is ours to write.
                assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
                assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 7);
                forked.store(true, SeqCst);
            } else {
                while !forked.load(SeqCst) {
                    thread::yield_now();
                }
            }
        });
    }));
    if std::process::id() != parent {
        // SAFETY: no requirement.
        unsafe { libc::_exit(if lost.is_err() { 7 } else { 1 }) };
    }
    lost.unwrap();
    assert!(meet(&pool));
}
