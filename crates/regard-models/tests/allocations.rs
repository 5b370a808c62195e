//! After the first token, neither the forward pass nor sampling allocates.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use regard_models::sampling::{Sampler, SamplingOptions};
use regard_models::{CacheDtype, LoadOptions, Model};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is the system allocator's; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn tokens_allocate_nothing() {
    for name in ["f32", "q4_1"] {
        let path: PathBuf =
            [env!("CARGO_MANIFEST_DIR"), "tests", "data", &format!("llama-random-{name}.gguf")].iter().collect();
        let model = Model::load(&path, &LoadOptions { threads: Some(2), isa: None }).expect("the model is sound");
        let default = SamplingOptions::default;
        let usual = SamplingOptions { temperature: 0.8, top_k: 40, repeat_penalty: 1.1, ..default() };
        let greedy = SamplingOptions { temperature: 0.0, ..default() };
        let all = SamplingOptions { temperature: 1.5, top_k: 0, top_p: 1.0, min_p: 0.0, ..default() };
        for (cache, options) in [(CacheDtype::F32, usual), (CacheDtype::F16, greedy), (CacheDtype::Bf16, all)] {
            let mut session = model.session(2000, cache).expect("there is memory");
            let mut sampler =
                Sampler::new(options.clone(), model.description().vocabulary).expect("the options are sound");
            let mut step = |token: u32| {
                let token =
                    sampler.sample(session.feed(&[token]).expect("there is room")).expect("the logits are sound");
                sampler.accept(token);
                token
            };
            let mut token = step(1);
            // A thread that starts allocates for itself, and on a busy machine that may be after the first token.
            std::thread::sleep(std::time::Duration::from_millis(200));
            let before = ALLOCATIONS.load(Ordering::Relaxed);
            assert!(before > 0, "allocations are counted");
            // Past whole panels, and past the length from which keys are split.
            for _ in 0..1500 {
                token = step(token);
            }
            assert_eq!(ALLOCATIONS.load(Ordering::Relaxed), before, "{name}, {cache:?}, {options:?}");
        }
    }
}
