//! A loop allocates nothing.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::Duration;

use regard_memory::{Arena, Indices, Need, chunks_of};
use regard_threads::Pool;

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator does it all.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, SeqCst);
        // SAFETY: the caller's promise is the one that is needed.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is the one that is needed.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn a_loop_allocates_nothing() {
    let pool = Pool::new(2).unwrap();
    let mut arena = Arena::new();
    let (rounds, count) = if cfg!(miri) { (30, 40) } else { (200, 1000) };
    let mut values: Vec<u64> = (0..count).collect();
    let each = Need::of::<u64>(10);
    let all = each.times(pool.threads());

    // What threads allocate once, when they first meet and sleep.
    let mut before = 0;
    for round in 0..rounds {
        if round == 20 {
            before = ALLOCATIONS.load(SeqCst);
        }
        pool.run_in(arena.frame(all).unwrap().split(2, each), chunks_of(&mut values, 10), |frame, index, chunk| {
            let copy = frame.scope().take::<u64>(10);
            copy.copy_from_slice(chunk);
            for (value, copy) in chunk.iter_mut().zip(&*copy) {
                *value = copy ^ (index as u64 + 1);
            }
        });
        // The caller sleeps until the helper has left, and the helper until the next loop.
        pool.run(Indices(2), |index, ()| thread::sleep(Duration::from_micros(100 * index as u64)));
        thread::sleep(Duration::from_micros(10 * (round % 10)));
    }
    assert_eq!(ALLOCATIONS.load(SeqCst) - before, 0);
    // An even number of times the same is nothing.
    assert_eq!(values, (0..count).collect::<Vec<u64>>());
}
