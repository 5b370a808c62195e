//! After the first step at a shape, steps of training allocate nothing.

use std::time::Duration;

use regard_layers::{
    ContextUse, Head, LanguageConfig, LinearRule, MixerKind, NotFinite, Objective, OptimiserConfig, Precision,
    Recomputation, Schedule, Trainer, TrainingConfig, Workspace,
};
use regard_memory::CountingAllocator;
use regard_simd::Isa;
use regard_threads::Pool;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator::new();

const MIXERS: [MixerKind; 7] = [
    MixerKind::Softmax,
    MixerKind::Linear(LinearRule::Plain),
    MixerKind::Linear(LinearRule::Gated),
    MixerKind::Linear(LinearRule::GatedByChannel),
    MixerKind::Linear(LinearRule::Delta),
    MixerKind::Linear(LinearRule::GatedDelta),
    MixerKind::StateSpace,
];

fn config(mixer: MixerKind, objective: Objective) -> LanguageConfig {
    LanguageConfig {
        vocabulary: 61,
        width: 24,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 6,
        hidden: 40,
        mixer,
        objective,
        eps: 1e-5,
        rope_theta: 100.0,
        head: Head::Own,
        context: ContextUse::Shared,
        dropout: 0.1,
    }
}

/// How many blocks of memory the steps after the first take. Nothing else runs meanwhile: this is the only test of its program.
fn taken(config: LanguageConfig, recomputation: Recomputation, precision: Precision, pool: &'static Pool) -> u64 {
    let training = TrainingConfig {
        batch: 2,
        tokens: 80,
        accumulation: 2,
        schedule: Schedule { rate: 0.01, warmup: 2, steps: 9, last: 0.1 },
        optimiser: OptimiserConfig::default(),
        recomputation,
        seed: 3,
        not_finite: NotFinite::Stop,
    };
    let mut trainer =
        Trainer::new(config, training, Workspace::on(Isa::best(), pool).with_precision(precision)).unwrap();
    let text: Vec<u32> = (0..500u32).map(|i| i * i % 59).collect();
    let before = ALLOCATOR.taken();
    let first = trainer.step(&text).unwrap();
    assert!(ALLOCATOR.taken().since(before).allocations > 0, "allocations are counted");
    let before = ALLOCATOR.taken();
    let last = (0..3).fold(first, |_, _| trainer.step(&text).unwrap());
    let taken = ALLOCATOR.taken().since(before).allocations;
    assert!(last.step == 4 && last.loss.is_finite());
    taken
}

/// Waits until threads that begin, the pool's and the test harness's, have allocated what they do at first.
fn settle() {
    let mut before = ALLOCATOR.taken();
    loop {
        std::thread::sleep(Duration::from_millis(100));
        let after = ALLOCATOR.taken();
        if after.since(before).allocations == 0 {
            return;
        }
        before = after;
    }
}

#[test]
fn steps_after_the_first_allocate_nothing() {
    for threads in [1, 2] {
        let pool: &'static Pool = Box::leak(Box::new(Pool::new(threads).unwrap()));
        settle();
        for mixer in MIXERS {
            for recomputation in [Recomputation::None, Recomputation::Blocks] {
                for precision in [Precision::F32, Precision::Bf16] {
                    let taken = taken(config(mixer, Objective::Causal), recomputation, precision, pool);
                    assert_eq!(taken, 0, "{mixer:?}, {recomputation:?}, {precision:?}, {threads} threads");
                }
            }
        }
        for mixer in [MixerKind::Softmax, MixerKind::Linear(LinearRule::Plain)] {
            for recomputation in [Recomputation::None, Recomputation::Blocks] {
                let taken = taken(config(mixer, Objective::Denoising), recomputation, Precision::F32, pool);
                assert_eq!(taken, 0, "denoising with {mixer:?}, {recomputation:?}, {threads} threads");
            }
        }
    }
}
