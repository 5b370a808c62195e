//! Caches, tokens and calls over caches that do not fit: each is refused by name, and nothing is written.

use regard_attention::{
    Cache, CacheDtype, Cached, Error, Offset, Options, Outputs, PAGE, PagePool, PagedCache, Plan, Segment, Sequences,
    Shape, Terms,
};
use regard_masks::Mask;
use regard_memory::{Arena, Tensor, TensorMut};
use regard_oracle::numbers;
use regard_simd::Isa;

use crate::support::{AnyCache, DTYPES, pool};

/// Two batch entries of three new tokens each.
const SHAPE: Shape = Shape { batch: 2, heads: 4, kv_heads: 2, queries: 3, keys: 7, dim_k: 8, dim_v: 3 };
const AXES: [&str; 4] = ["batch", "heads", "seq", "dim"];

/// What stands where something is to be written.
const BEFORE: f32 = -7.25;

fn axis(tensor: &'static str, axis: &'static str, has: usize, expected: impl ToString) -> Result<(), Error> {
    Err(Error::Axis { tensor, axis, has, expected: expected.to_string() })
}

/// A cache of either kind that holds some tokens.
fn filled<C: AnyCache>(dtype: CacheDtype, kv_heads: usize, dims: (usize, usize), tokens: usize) -> C {
    let (dim_k, dim_v) = dims;
    let sizes = regard_oracle::Sizes { batch: 1, heads: kv_heads, kv_heads, queries: 0, keys: tokens, dim_k, dim_v };
    let mut cache = C::with_room(dtype, sizes, tokens);
    let [keys, values] = [sizes.k(), sizes.v()].map(|shape| numbers(1, shape.iter().product()));
    cache.append(
        Tensor::contiguous(&keys, sizes.k()).expect("a tensor"),
        Tensor::contiguous(&values, sizes.v()).expect("a tensor"),
        Isa::best(),
    );
    cache
}

/// The shapes of a call's tensors, and the lengths of its lists.
#[derive(Clone, Copy)]
struct Given {
    q: [usize; 4],
    bias: [usize; 4],
    slopes: usize,
    sinks: usize,
    out: [usize; 4],
    lse: [usize; 4],
}

const FITTING: Given =
    Given { q: [2, 4, 3, 8], bias: [2, 4, 3, 7], slopes: 4, sinks: 4, out: [2, 4, 3, 3], lse: [2, 4, 3, 1] };

/// Runs a call over caches, and sees that nothing is written where it is refused.
fn run(plan: &Plan, given: Given, caches: &[&dyn Cached]) -> Result<(), Error> {
    let [q, bias] = [given.q, given.bias].map(|shape| numbers(1, shape.iter().product()));
    let (slopes, sinks) = (numbers(2, given.slopes), numbers(3, given.sinks));
    let bias = Some(Tensor::contiguous(&bias, given.bias)?);
    let terms = Terms { bias, slopes: Some(&slopes), sinks: Some(&sinks), sequence_ids: None };
    let [mut out, mut lse] = [given.out, given.lse].map(|shape| vec![BEFORE; shape.iter().product()]);
    let outputs =
        Outputs::state(TensorMut::contiguous(&mut out, given.out)?, TensorMut::contiguous(&mut lse, given.lse)?);
    let q = Tensor::contiguous(&q, given.q)?;
    let result = plan.run_cached(q, caches, terms, outputs, &mut Arena::new(), pool());
    assert!(result.is_ok() || out.iter().chain(&lse).all(|&x| x == BEFORE), "something was written");
    result
}

fn plan(sequences: Sequences) -> Plan {
    Plan::new(SHAPE, &Mask::causal(), &Options { sequences, ..Options::default() }).expect("a plan")
}

fn every_axis<C: AnyCache>() {
    let plan = plan(Sequences::Whole);
    let cache = filled::<C>(CacheDtype::F32, 2, (8, 3), 7);
    let run = |given: Given| run(&plan, given, &[&cache, &cache]);
    assert_eq!(run(FITTING), Ok(()));
    type Place = (&'static str, fn(&mut Given) -> &mut [usize; 4], bool);
    let places: [Place; 4] = [
        ("queries", |given| &mut given.q, false),
        ("bias", |given| &mut given.bias, true),
        ("out", |given| &mut given.out, false),
        ("lse", |given| &mut given.lse, false),
    ];
    for (name, place, broadcasts) in places {
        for (along, axis_name) in AXES.into_iter().enumerate() {
            let right = place(&mut FITTING.clone())[along];
            for wrong in [0, 1, right + 1].into_iter().filter(|&wrong| wrong != right) {
                let mut given = FITTING;
                place(&mut given)[along] = wrong;
                let expected = if broadcasts && wrong == 1 { Ok(()) } else { axis(name, axis_name, wrong, right) };
                assert_eq!(run(given), expected);
            }
        }
    }
    assert_eq!(run(Given { slopes: 3, ..FITTING }), axis("slopes", "heads", 3, 4));
    assert_eq!(run(Given { sinks: 5, ..FITTING }), axis("sinks", "heads", 5, 4));
}

#[test]
fn every_axis_of_every_tensor_is_looked_at() {
    every_axis::<Cache>();
    every_axis::<PagedCache>();
}

fn other_caches<C: AnyCache>() {
    let plan = plan(Sequences::Whole);
    let right = filled::<C>(CacheDtype::F32, 2, (8, 3), 7);
    let run = |caches: &[&dyn Cached]| run(&plan, FITTING, caches);
    for count in [0, 1, 3] {
        let caches = vec![&right as &dyn Cached; count];
        assert_eq!(run(&caches), axis("caches", "batch", count, "2, one for each batch entry"));
    }
    for (kv_heads, dims, tokens, expected) in [
        (2, (8, 3), 6, axis("cache", "seq", 6, 7)),
        (2, (8, 3), 8, axis("cache", "seq", 8, 7)),
        (1, (8, 3), 7, axis("cache", "heads", 1, 2)),
        (2, (9, 3), 7, axis("cache", "dim", 9, 8)),
        (2, (8, 4), 7, axis("cached values", "dim", 4, 3)),
    ] {
        let other = filled::<C>(CacheDtype::F32, kv_heads, dims, tokens);
        assert_eq!(run(&[&other, &right]), expected);
        assert_eq!(run(&[&right, &other]), expected);
    }
    for dtype in [CacheDtype::F16, CacheDtype::Bf16, CacheDtype::Int8] {
        let other = filled::<C>(dtype, 2, (8, 3), 7);
        assert_eq!(run(&[&right, &other]), Err(Error::CacheDtypes { first: CacheDtype::F32, other: dtype }));
    }
}

#[test]
fn a_cache_of_other_sizes_is_named() {
    other_caches::<Cache>();
    other_caches::<PagedCache>();
}

#[test]
fn a_sequence_over_a_cache_is_all_of_it() {
    let cache = filled::<Cache>(CacheDtype::F32, 2, (8, 3), 7);
    let segment = |batch, keys| Segment { batch, queries: 0..3, keys };
    let late = plan(Sequences::Packed(vec![segment(0, 0..7), segment(1, 2..7)]));
    let expected = axis("segment of keys", "seq", 2, "all keys of its cache, from 0 on");
    assert_eq!(run(&late, FITTING, &[&cache, &cache]), expected);
    let one = plan(Sequences::Packed(vec![segment(0, 0..7)]));
    assert!(run(&one, FITTING, &[&cache, &cache]).is_err(), "a batch entry has no sequence");
    // Shorter sequences than the caches hold are other calls.
    let lengths = plan(Sequences::Lengths { queries: None, keys: Some(vec![7, 4]) });
    assert_eq!(run(&lengths, FITTING, &[&cache, &cache]), axis("cache", "seq", 7, 4));
}

#[test]
fn a_plan_of_other_shapes_is_refused() {
    let mut plan = plan(Sequences::Whole);
    let cache = filled::<PagedCache>(CacheDtype::F16, 2, (8, 3), 7);
    plan.resize(3, 8).expect("a layout");
    assert_eq!(run(&plan, Given { bias: [1; 4], ..FITTING }, &[&cache, &cache]), axis("cache", "seq", 7, 8));
    plan.resize(2, 7).expect("a layout");
    assert_eq!(run(&plan, Given { bias: [1; 4], ..FITTING }, &[&cache, &cache]), axis("queries", "seq", 3, 2));
    plan.resize(3, 7).expect("a layout");
    assert_eq!(run(&plan, FITTING, &[&cache, &cache]), Ok(()));
    let options = Options { offset: Offset::Same(0), ..Options::default() };
    let packed = Plan::new(Shape { batch: 1, ..SHAPE }, &Mask::causal(), &options).expect("a plan");
    assert_eq!(run(&packed, FITTING, &[&cache]), axis("queries", "batch", 2, 1));
}

#[test]
fn a_cache_holds_something() {
    for (sizes, option) in
        [([0, 8, 3, 9], "kv_heads"), ([2, 0, 3, 9], "dim_k"), ([2, 8, 0, 9], "dim_v"), ([2, 8, 3, 0], "capacity")]
    {
        let [kv_heads, dim_k, dim_v, capacity] = sizes;
        for dtype in DTYPES {
            let error = Cache::new(dtype, kv_heads, dim_k, dim_v, capacity).map(|_| ());
            assert_eq!(error, Err(Error::Option { option, has: 0.0, expected: "at least 1" }));
        }
    }
}

/// Appends tokens of some shapes to a cache of two heads, keys of 8 and values of 3.
fn append(cache: &mut Cache, k: [usize; 4], v: [usize; 4]) -> Result<(), Error> {
    let [keys, values] = [k, v].map(|shape| numbers(1, shape.iter().product()));
    cache.append(Tensor::contiguous(&keys, k)?, Tensor::contiguous(&values, v)?, Isa::best(), pool())
}

#[test]
fn tokens_of_other_sizes_are_refused() {
    for dtype in DTYPES {
        let mut cache = Cache::new(dtype, 2, 8, 3, 9).expect("a cache");
        assert_eq!(append(&mut cache, [2, 2, 4, 8], [1, 2, 4, 3]), axis("keys", "batch", 2, 1));
        assert_eq!(append(&mut cache, [1, 1, 4, 8], [1, 2, 4, 3]), axis("keys", "heads", 1, 2));
        assert_eq!(append(&mut cache, [1, 2, 4, 7], [1, 2, 4, 3]), axis("keys", "dim", 7, 8));
        assert_eq!(append(&mut cache, [1, 2, 4, 8], [1, 2, 3, 3]), axis("values", "seq", 3, 4));
        assert_eq!(append(&mut cache, [1, 2, 4, 8], [1, 1, 4, 3]), axis("values", "heads", 1, 2));
        assert_eq!(append(&mut cache, [1, 2, 4, 8], [1, 2, 4, 4]), axis("values", "dim", 4, 3));
        assert_eq!(cache.len(), 0);
        assert_eq!(append(&mut cache, [1, 2, 4, 8], [1, 2, 4, 3]), Ok(()));
    }
}

#[test]
fn a_page_is_freed_once() {
    let pool = PagePool::new(CacheDtype::F32, 2, 8, 3, 3).expect("a pool");
    let mut cache = PagedCache::new(&pool);
    let [k, v] = [[1, 2, PAGE + 1, 8], [1, 2, PAGE + 1, 3]];
    let [keys, values] = [k, v].map(|shape| numbers(1, shape.iter().product()));
    let append = |cache: &mut PagedCache| {
        let (k, v) =
            (Tensor::contiguous(&keys, k).expect("a tensor"), Tensor::contiguous(&values, v).expect("a tensor"));
        cache.append(k, v, Isa::best(), crate::support::pool())
    };
    append(&mut cache).expect("two pages");
    let fork = cache.fork();
    assert_eq!(pool.used(), 2);
    // Whoever forgets its pages first, and however often: they are the other's.
    for len in [PAGE, 0, 0] {
        cache.truncate(len);
        assert_eq!(pool.used(), 2);
    }
    drop(cache);
    assert_eq!((pool.used(), fork.len()), (2, PAGE + 1));
    drop(fork);
    assert_eq!(pool.used(), 0);
}
