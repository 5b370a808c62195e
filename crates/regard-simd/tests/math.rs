//! The functions of `regard_simd::math` on every instruction set, against the same function in f64, at every float
//! where the function is not constant to the last bit, and at a sample of the others.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};

use regard_simd::{Isa, Kernel, Simd, math};

mod common;
use common::{BLOCK, POSITIVE, for_floats};

/// A function on vectors.
trait Function {
    fn of<S: Simd>(s: S, x: S::F32) -> S::F32;
}

/// `2ˣ` by a polynomial of this degree, which wants x ≤ 128.
struct Exp2OfDegree<const DEGREE: usize>;
struct Exp2;
struct Exp;
struct Ln;
struct Tanh;

impl<const DEGREE: usize> Function for Exp2OfDegree<DEGREE> {
    #[inline(always)]
    fn of<S: Simd>(s: S, x: S::F32) -> S::F32 {
        math::exp2_of_degree::<S, DEGREE>(s, s.min(s.splat(128.0), x))
    }
}

impl Function for Exp2 {
    #[inline(always)]
    fn of<S: Simd>(s: S, x: S::F32) -> S::F32 {
        math::exp2(s, x)
    }
}

impl Function for Exp {
    #[inline(always)]
    fn of<S: Simd>(s: S, x: S::F32) -> S::F32 {
        math::exp(s, x)
    }
}

impl Function for Ln {
    #[inline(always)]
    fn of<S: Simd>(s: S, x: S::F32) -> S::F32 {
        math::ln(s, x)
    }
}

impl Function for Tanh {
    #[inline(always)]
    fn of<S: Simd>(s: S, x: S::F32) -> S::F32 {
        math::tanh(s, x)
    }
}

/// A function with what its documentation promises.
struct Promise {
    name: &'static str,
    apply: fn(Isa, &Block, &mut [f32; BLOCK]) -> f64,
    /// The largest error in ULP where `fma` rounds once, and on the portable token.
    ulp: [f64; 2],
    /// Whether `y` is right for an `x` where the exact value lies under 2⁻¹²⁶.
    tiny: fn(x: f32, y: f32) -> bool,
}

/// Arguments and the exact values there.
struct Block<'a> {
    x: &'a [f32; BLOCK],
    exact: [f64; BLOCK],
    /// One over the unit in the last place of a float of the exact value's size.
    per_ulp: [f64; BLOCK],
}

impl<'a> Block<'a> {
    fn new(x: &'a [f32; BLOCK], function: fn(f64) -> f64) -> Self {
        let exact = x.map(|x| function(f64::from(x)));
        let power = |x: f64| f64::from_bits(x.to_bits() & f64::INFINITY.to_bits());
        Block { x, exact, per_ulp: exact.map(|x| (1_u64 << 23) as f64 / power(x)) }
    }

    /// Whether all exact values are normal floats.
    fn is_normal(&self) -> bool {
        self.exact.iter().all(|x| (f64::from(f32::MIN_POSITIVE)..f64::from(f32::MAX)).contains(&x.abs()))
    }

    /// The error of value `i` in ULP where the exact one is a normal float; elsewhere 0, or infinite where it is not as
    /// promised.
    fn error(&self, promise: &Promise, i: usize, y: f32) -> f64 {
        let (x, exact) = (self.x[i], self.exact[i]);
        let right = match exact {
            _ if exact.is_nan() => y.is_nan(),
            _ if exact.abs() < f64::from(f32::MIN_POSITIVE) => (promise.tiny)(x, y),
            _ if exact.abs() > f64::from(f32::MAX) => f64::from(y) == exact.signum() * f64::INFINITY,
            _ if y.is_nan() => false,
            _ => return (f64::from(y) - exact).abs() * self.per_ulp[i],
        };
        if right { 0.0 } else { f64::INFINITY }
    }
}

/// `y = F(x)`; returns the largest error in ULP, NaN if there is one, good where the block is normal.
fn apply<F: Function>(isa: Isa, block: &Block, y: &mut [f32; BLOCK]) -> f64 {
    struct Apply<'a, F>(PhantomData<F>, &'a Block<'a>, &'a mut [f32; BLOCK]);
    impl<F: Function> Kernel for Apply<'_, F> {
        type Output = f64;
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> f64 {
            let Self(_, Block { x, exact, per_ulp }, y) = self;
            for (x, y) in x.chunks_exact(S::LANES).zip(y.chunks_exact_mut(S::LANES)) {
                // SAFETY: both chunks hold LANES floats.
                unsafe { s.store(y.as_mut_ptr(), F::of(s, s.load(x.as_ptr()))) };
            }
            // In eight lanes, for the compiler to see.
            let (mut largest, mut sum) = ([0.0_f64; 8], [0.0; 8]);
            for i in (0..BLOCK).step_by(8) {
                for lane in 0..8 {
                    let error = (f64::from(y[i + lane]) - exact[i + lane]).abs() * per_ulp[i + lane];
                    largest[lane] = if error > largest[lane] { error } else { largest[lane] };
                    sum[lane] += error;
                }
            }
            if sum.iter().any(|sum| sum.is_nan()) { f64::NAN } else { largest.into_iter().fold(0.0, f64::max) }
        }
    }
    isa.run(Apply(PhantomData::<F>, block, y))
}

/// Where functions begin and end: zeros, infinities, NaNs of every kind, subnormal numbers, and the limits of the
/// exponent.
const EDGES: [f32; 24] = {
    const fn bits(x: u32) -> f32 {
        f32::from_bits(x)
    }
    const NAN: [f32; 6] = [
        bits(0x7F80_0001),
        bits(0x7FBF_FFFF),
        bits(0x7FC0_0000),
        bits(0x7FFF_FFFF),
        bits(0xFF80_0001),
        bits(0xFFFF_FFFF),
    ];
    [
        0.0,
        -0.0,
        f32::INFINITY,
        f32::NEG_INFINITY,
        NAN[0],
        NAN[1],
        NAN[2],
        NAN[3],
        NAN[4],
        NAN[5],
        f32::MAX,
        f32::MIN,
        f32::MIN_POSITIVE,
        -f32::MIN_POSITIVE,
        bits(1),
        bits(0x8000_0001),
        bits(0x007F_FFFF),
        bits(0x807F_FFFF),
        128.0,
        -126.0,
        -127.0,
        -149.0,
        -150.0,
        -160.0,
    ]
};

/// Holds every promise. What counts as exact has to be so to 2⁻⁴⁰ or thereabouts. Magnitudes outside `interesting` are
/// only sampled.
fn check(exact: fn(f64) -> f64, interesting: [f32; 2], promises: &[Promise]) {
    // `Isa::run` has one instance for the whole AVX-512 family.
    let isas: Vec<Isa> = Isa::available().filter(|isa| !isa.name().starts_with("avx512-")).collect();
    let cases: Vec<(&Promise, Isa)> = promises.iter().flat_map(|p| isas.iter().map(move |isa| (p, *isa))).collect();
    // The bits of positive numbers are in the order of the numbers.
    let largest: Vec<AtomicU64> = cases.iter().map(|_| AtomicU64::new(0)).collect();

    let check = |x: &[f32; BLOCK]| {
        let block = Block::new(x, exact);
        let normal = block.is_normal();
        let mut y = [0.0; BLOCK];
        for ((promise, isa), largest) in cases.iter().zip(&largest) {
            let mut worst = (promise.apply)(*isa, &block, &mut y);
            if !normal || worst.is_nan() {
                worst = (0..BLOCK).map(|i| block.error(promise, i, y[i])).fold(0.0, f64::max);
            }
            largest.fetch_max(worst.to_bits(), Ordering::Relaxed);
            let ulp = promise.ulp[usize::from(isa.name() == "portable")];
            if worst > ulp {
                let i = (0..BLOCK).find(|i| block.error(promise, *i, y[*i]) == worst).expect("just found");
                let (name, x, y, exact) = (promise.name, x[i], y[i], block.exact[i]);
                panic!("{name} on {isa}: {y} for x = {x} ({:#x}), exactly {exact}: {worst} ULP of {ulp}", x.to_bits());
            }
        }
    };
    check(&std::array::from_fn(|i| EDGES[i % EDGES.len()]));
    let [from, to] = interesting.map(|x| u64::from(x.to_bits()));
    for_floats(POSITIVE.start..from, 997, check);
    for_floats(from..to, 1, check);
    for_floats(to..POSITIVE.end, 997, check);
    for ((promise, isa), largest) in cases.iter().zip(&largest) {
        println!("{} on {isa}: {:.3} ULP", promise.name, f64::from_bits(largest.load(Ordering::Relaxed)));
    }
}

/// From −150 on 0, above anything up to 2⁻¹²⁶.
fn vanishing(x: f32, y: f32) -> bool {
    if x <= -150.0 { y == 0.0 } else { (0.0..=f32::MIN_POSITIVE).contains(&y) }
}

#[test]
fn exp2() {
    let exact = |x: f64| match x {
        _ if x.abs() < 1e-8 => 1.0 + x * std::f64::consts::LN_2,
        _ if x > 130.0 => f64::INFINITY,
        _ if x < -160.0 => 0.0,
        _ => x.exp2(),
    };
    let tiny = vanishing;
    check(
        exact,
        [1e-8, 200.0],
        &[
            Promise { name: "2ˣ, degree 3", apply: apply::<Exp2OfDegree<3>>, ulp: [1346.0, 1346.0], tiny },
            Promise { name: "2ˣ, degree 4", apply: apply::<Exp2OfDegree<4>>, ulp: [43.0, 43.0], tiny },
            Promise { name: "2ˣ, degree 5", apply: apply::<Exp2OfDegree<5>>, ulp: [2.04, 2.3], tiny },
            Promise { name: "2ˣ", apply: apply::<Exp2>, ulp: [0.96, 1.23], tiny },
        ],
    );
}

#[test]
fn whole_powers_of_two_are_exact() {
    // `f64::exp2` need not be exact.
    let power = |x: f64| f64::from_bits(((x as i64 + 1023) as u64) << 52);
    fn exact<F: Function>(power: fn(f64) -> f64) {
        let x = std::array::from_fn(|i| (i % 254) as f32 - 126.0);
        let (block, mut y) = (Block::new(&x, power), [0.0; BLOCK]);
        for isa in Isa::available() {
            assert_eq!(apply::<F>(isa, &block, &mut y), 0.0, "{isa}");
        }
    }
    exact::<Exp2OfDegree<3>>(power);
    exact::<Exp2OfDegree<4>>(power);
    exact::<Exp2OfDegree<5>>(power);
    exact::<Exp2>(power);
}

#[test]
fn exp() {
    let exact = |x: f64| match x {
        _ if x.abs() < 1e-8 => 1.0 + x,
        _ if x > 90.0 => f64::INFINITY,
        _ if x < -110.0 => 0.0,
        _ => x.exp(),
    };
    check(
        exact,
        [1e-8, 200.0],
        &[Promise { name: "eˣ", apply: apply::<Exp>, ulp: [1.02, 1.02], tiny: |_, y| y == 0.0 }],
    );
}

#[test]
fn ln() {
    let tiny = |x: f32, y: f32| x == 1.0 && y == 0.0;
    check(f64::ln, [0.01, 300.0], &[Promise { name: "ln x", apply: apply::<Ln>, ulp: [0.85, 0.85], tiny }]);
}

#[test]
fn tanh() {
    let exact = |x: f64| match x.abs() {
        a if a < 1e-4 => x - x * x * x / 3.0,
        a if a > 20.0 => x.signum(),
        _ => x.tanh(),
    };
    let tiny = |x: f32, y: f32| x.to_bits() == y.to_bits();
    check(exact, [1e-5, 20.0], &[Promise { name: "tanh x", apply: apply::<Tanh>, ulp: [2.61, 2.67], tiny }]);
}
