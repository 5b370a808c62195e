//! After the first call at a shape, calls allocate nothing.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

use regard_attention::{
    Cache, CacheDtype, Favor, FavorFeatures, FavorGradients, FavorInputs, FavorOutputs, Gradients, Inputs, Options,
    Outputs, Plan, Recurrence, RecurrentGradients, RecurrentInputs, RecurrentOutputs, Shape, Terms, Upstream,
};
use regard_masks::Mask;
use regard_memory::{Arena, Tensor, TensorMut, each_of};
use regard_simd::Isa;
use regard_threads::Pool;

/// The system's allocator, counting what the threads of the calls take from it, and not those of the test's own runner.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static COUNTED: Cell<bool> = const { Cell::new(false) };
}

fn count() {
    ALLOCATIONS.fetch_add(usize::from(COUNTED.get()), Ordering::Relaxed);
}

// SAFETY: every call goes to the system's allocator as it came; the flag has no destructor and allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
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

/// How many allocations the counted threads make during `work`.
fn allocations(work: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    work();
    ALLOCATIONS.load(Ordering::Relaxed) - before
}

fn waves(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i as f32 * 0.37).sin()).collect()
}

/// Calls of every regime.
fn runs(pool: &Pool) {
    let scattered = || Mask::random(0.02, 1).expect("a mask");
    for (queries, keys, mask) in [
        (40, 300, Mask::causal()),
        (300, 700, Mask::causal()),
        (3, 2500, Mask::causal()),
        // By edges.
        (300, 700, scattered()),
    ] {
        let shape = Shape { batch: 2, heads: 4, kv_heads: 2, queries, keys, dim_k: 16, dim_v: 16 };
        let plan = Plan::new(shape, &mask, &Options::default()).expect("a plan");
        let (q, k) = (waves(2 * 4 * queries * 16), waves(2 * 2 * keys * 16));
        let (mut out, mut lse) = (vec![0.0f32; q.len()], vec![0.0f32; q.len() / 16]);
        let mut scratch = Arena::new();
        let mut run = || {
            let k = Tensor::contiguous(&k, [2, 2, keys, 16]).expect("a tensor");
            let q = Tensor::contiguous(&q, [2, 4, queries, 16]).expect("a tensor");
            let outputs = Outputs::state(
                TensorMut::contiguous(&mut out, [2, 4, queries, 16]).expect("a tensor"),
                TensorMut::contiguous(&mut lse, [2, 4, queries, 1]).expect("a tensor"),
            );
            plan.run(&Inputs::new(q, k, k), outputs, &mut scratch, pool).expect("a run");
        };
        assert!(allocations(&mut run) > 0, "allocations are counted");
        assert_eq!(allocations(|| (0..3).for_each(|_| run())), 0, "{plan}");
    }
}

/// Both passes in f64, which take no scratch: only the plan grows, when it is first asked for gradients.
fn runs_in_f64(pool: &Pool) {
    let shape = Shape { batch: 2, heads: 4, kv_heads: 2, queries: 40, keys: 600, dim_k: 16, dim_v: 16 };
    let plan = Plan::new(shape, &Mask::causal(), &Options::default()).expect("a plan");
    let [of_q, of_k, of_lse] = [[2, 4, 40, 16], [2, 2, 600, 16], [2, 4, 40, 1]];
    let numbers = |shape: [usize; 4]| waves(shape.iter().product()).into_iter().map(f64::from).collect::<Vec<f64>>();
    let (q, k, mut out, mut lse) = (numbers(of_q), numbers(of_k), numbers(of_q), numbers(of_lse));
    let (mut dq, mut dk, mut dv) = (numbers(of_q), numbers(of_k), numbers(of_k));
    let mut run = || {
        let read = |x, shape| Tensor::contiguous(x, shape).expect("a tensor");
        let inputs = Inputs::new(read(&q, of_q), read(&k, of_k), read(&k, of_k));
        let outputs = Outputs::state(write(&mut out, of_q), write(&mut lse, of_lse));
        plan.run_f64(&inputs, outputs, pool).expect("a run");
        let (out, lse) = (read(&out, of_q), read(&lse, of_lse));
        let upstream = Upstream { out, lse, out_gradient: read(&q, of_q), lse_gradient: None };
        let gradients = Gradients::new(write(&mut dq, of_q), write(&mut dk, of_k), write(&mut dv, of_k));
        plan.backward_f64(&inputs, &upstream, gradients, pool).expect("a run");
    };
    assert!(allocations(&mut run) > 0, "allocations are counted");
    assert_eq!(allocations(|| (0..3).for_each(|_| run())), 0, "in f64");
}

fn write(x: &mut [f64], shape: [usize; 4]) -> TensorMut<'_, f64> {
    TensorMut::contiguous(x, shape).expect("a tensor")
}

/// A session from its first token past the length from which keys are split.
fn session(dtype: CacheDtype, pool: &Pool) {
    let (tokens, shape) = (1500, Shape { batch: 1, heads: 4, kv_heads: 2, queries: 1, keys: 1, dim_k: 16, dim_v: 16 });
    let mask = Mask::causal() & Mask::window(Some(1200), None);
    let mut plan = Plan::new(shape, &mask, &Options::default()).expect("a plan");
    let mut cache = Cache::new(dtype, 2, 16, 16, tokens).expect("a cache");
    let (q, k) = (waves(4 * 16), waves(2 * 16));
    let mut out = vec![0.0f32; q.len()];
    let mut scratch = Arena::new();

    plan.reserve(1, tokens).expect("room");
    plan.resize(1, tokens).expect("a layout");
    scratch.frame(plan.need_cached(dtype, pool.threads())).expect("memory");
    let made = allocations(|| {
        for _ in 0..tokens {
            let k = Tensor::contiguous(&k, [1, 2, 1, 16]).expect("a tensor");
            cache.append(k, k, Isa::best(), pool).expect("room");
            plan.resize(1, cache.len()).expect("a layout");
            let q = Tensor::contiguous(&q, [1, 4, 1, 16]).expect("a tensor");
            let out = TensorMut::contiguous(&mut out, [1, 4, 1, 16]).expect("a tensor");
            plan.run_cached(q, &[&cache], Terms::default(), Outputs::new(out), &mut scratch, pool).expect("a run");
        }
    });
    assert_eq!(made, 0, "{dtype:?}");
}

/// Both passes of a recurrence.
fn recurrence(pool: &Pool) {
    let (heads, tokens, dim) = (3, 150, 20);
    let (x, decays, betas) = (waves(heads * tokens * dim), vec![-0.3; heads * tokens * dim], vec![0.5; heads * tokens]);
    let each = [1, heads, tokens, dim];
    let view = |numbers| Tensor::contiguous(numbers, each).unwrap();
    let inputs = RecurrentInputs {
        log_decay: Some(view(&decays)),
        beta: Some(Tensor::contiguous(&betas, [1, heads, tokens, 1]).unwrap()),
        ..RecurrentInputs::new(view(&x), view(&x), view(&x))
    };
    let recurrence = Recurrence::new(None).unwrap();
    let mut scratch = Arena::new();
    let mut gradients = [(); 5].map(|()| vec![0.0; heads * tokens * dim]);
    let (mut of_beta, mut state) = (vec![0.0; heads * tokens], vec![0.0; heads * dim * dim]);
    let mut call = || {
        let [out, q, k, v, log_decay] = &mut gradients;
        let into = |numbers| TensorMut::contiguous(numbers, each).unwrap();
        let states = [1, heads, dim, dim];
        let after = TensorMut::contiguous(&mut state, states).unwrap();
        recurrence.run(&inputs, RecurrentOutputs { out: into(out), state: after }, &mut scratch, pool).unwrap();
        let state = TensorMut::contiguous(&mut state, states).unwrap();
        let beta = TensorMut::contiguous(&mut of_beta, [1, heads, tokens, 1]).unwrap();
        let gradients =
            RecurrentGradients { q: into(q), k: into(k), v: into(v), log_decay: into(log_decay), beta, state };
        recurrence.backward(&inputs, view(&x), None, gradients, &mut scratch, pool).unwrap();
    };
    assert!(allocations(&mut call) > 0, "allocations are counted");
    assert_eq!(allocations(|| (0..3).for_each(|_| call())), 0, "a recurrence");
}

/// Both passes of attention by FAVOR+, with a state.
fn favor(pool: &Pool) {
    let (tokens, dim, count) = (150, 20, 40);
    let [of_q, of_k, of_state, of_exponents] =
        [[1, 4, tokens, dim], [1, 2, tokens, dim], [1, 2, count, dim + 1], [1, 2, 1, 1]];
    let numbers = |shape: [usize; 4]| waves(shape.iter().product());
    let features = FavorFeatures::new(dim, count, 1).expect("features");
    let favor = Favor::new(&features, None).expect("an instruction set");
    let (q, k, sums, exponents) = (numbers(of_q), numbers(of_k), numbers(of_state), numbers(of_exponents));
    let (mut out, mut dq, mut dk, mut dv) = (numbers(of_q), numbers(of_q), numbers(of_k), numbers(of_k));
    let (mut after, mut largest) = (numbers(of_state), numbers(of_exponents));
    let mut scratch = Arena::new();
    let mut call = || {
        let read = |x, shape| Tensor::contiguous(x, shape).expect("a tensor");
        fn into(x: &mut [f32], shape: [usize; 4]) -> TensorMut<'_, f32> {
            TensorMut::contiguous(x, shape).expect("a tensor")
        }
        let state = Some((read(&sums, of_state), read(&exponents, of_exponents)));
        let inputs = FavorInputs { q: read(&q, of_q), k: read(&k, of_k), v: read(&k, of_k), state };
        let state = (into(&mut after, of_state), into(&mut largest, of_exponents));
        favor.run(&inputs, FavorOutputs { out: into(&mut out, of_q), state }, &mut scratch, pool).expect("a run");
        let (q, k, v) = (into(&mut dq, of_q), into(&mut dk, of_k), into(&mut dv, of_k));
        let gradients = FavorGradients { q, k, v, state: into(&mut after, of_state) };
        let (dout, dstate) = (read(&out, of_q), Some(read(&sums, of_state)));
        favor.backward(&inputs, dout, dstate, gradients, &mut scratch, pool).expect("a run");
    };
    assert!(allocations(&mut call) > 0, "allocations are counted");
    assert_eq!(allocations(|| (0..3).for_each(|_| call())), 0, "FAVOR+");
}

/// One test, as the counter is every thread's.
#[test]
fn calls_allocate_nothing() {
    let pool = Pool::new(2).expect("threads");
    Isa::best();
    // Both take part, so that both are counted.
    let begun = Barrier::new(2);
    pool.run(each_of(&mut [(); 2]), |_, _| {
        COUNTED.set(true);
        begun.wait();
    });
    runs(&pool);
    runs_in_f64(&pool);
    recurrence(&pool);
    favor(&pool);
    for dtype in [CacheDtype::F32, CacheDtype::F16, CacheDtype::Bf16, CacheDtype::Int8] {
        session(dtype, &pool);
    }
}
