//! A layout that is compiled again allocates nothing.
// Allocations are the same under Miri, only slower to count.
#![cfg(not(miri))]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use regard_masks::{BlockLayout, Mask, Runs, TileShape};

/// The system's allocator, counting what each thread takes from it.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator as it came; the counter has no destructor and allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// How many allocations this thread makes in `work`.
fn allocations(work: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

fn masks() -> Vec<Mask> {
    let window = Mask::causal() & Mask::window(Some(99), None);
    vec![
        Mask::causal(),
        Mask::window(Some(149), Some(0)),
        window.clone(),
        &window | Mask::prefix(4),
        Mask::causal() & !(Mask::window(Some(200), Some(0)) & !Mask::window(Some(50), Some(0))),
        Mask::causal() & Mask::global_keys((0..1000).step_by(70)) | window & !Mask::strided(7).unwrap(),
        Mask::causal() & (Mask::random(0.2, 5).unwrap() | Mask::window(Some(0), None)),
        Mask::block_diagonal(100).unwrap() | Mask::prefix(1),
    ]
}

#[test]
fn counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(3)))), 1);
}

/// One query after the other at the end of a growing sequence, as in generation.
#[test]
fn steps_allocate_nothing_once_room_is_reserved() {
    let tile = TileShape { rows: 6, group: 3 };
    for mask in masks() {
        let mut layout = BlockLayout::new();
        layout.reserve(&mask, 1, 1000, tile).unwrap();
        for n_k in 1..=1000 {
            let count = allocations(|| layout.compile(&mask, 1, n_k, n_k as i64 - 1, tile).unwrap());
            assert_eq!(count, 0, "{mask} at {n_k} keys");
            assert!(layout.live_pairs() > 0);
        }
    }
}

/// The heads of a group with masks of their own.
#[test]
fn groups_allocate_nothing_once_room_is_reserved() {
    let tile = TileShape { rows: 6, group: 8 };
    let mask = Mask::causal() & Mask::by_head(masks()).unwrap();
    let heads: Vec<Mask> = (0..8).map(|head| mask.select(0, head)).collect();
    let mut layout = BlockLayout::new();
    layout.reserve(&mask, 3, 700, tile).unwrap();
    for n_k in 600..=700 {
        let count = allocations(|| layout.compile_group(&heads, 3, n_k, n_k as i64 - 3, tile).unwrap());
        assert_eq!(count, 0, "{n_k} keys");
    }
}

#[test]
fn several_queries_at_once_allocate_nothing_once_room_is_reserved() {
    for (rows, group) in [(6, 1), (4, 5), (1, 3), (8, 8)] {
        let tile = TileShape { rows, group };
        for mask in masks() {
            let mut layout = BlockLayout::new();
            layout.reserve(&mask, 7, 700, tile).unwrap();
            for n_k in 600..=700 {
                let count = allocations(|| layout.compile(&mask, 7, n_k, n_k as i64 - 7, tile).unwrap());
                assert_eq!(count, 0, "{mask} at {n_k} keys in {tile:?}");
            }
        }
    }
}

/// Without a reservation one compilation that has rims warms the layout for the sequences that are a little longer.
#[test]
fn a_warm_layout_is_compiled_at_more_keys_without_allocating() {
    let tile = TileShape { rows: 6, group: 3 };
    for mask in masks() {
        let mut layout = BlockLayout::new();
        layout.compile(&mask, 1, 515, 514, tile).unwrap();
        let count = allocations(|| (516..576).for_each(|n_k| layout.compile(&mask, 1, n_k, 514, tile).unwrap()));
        assert_eq!(count, 0, "{mask}");
    }
}

#[test]
fn warm_runs_allocate_nothing() {
    for mask in masks() {
        let mut runs = Runs::new();
        let mut all = || (600..1000).for_each(|p| mask.runs(p, 1000, &mut runs));
        all();
        assert_eq!(allocations(all), 0, "{mask}");
        assert!(runs.keys() > 0);
    }
}
