//! One test body on every token: each operation on lanes against the same operation of scalar Rust.

use proptest::array::uniform16;
use proptest::prelude::*;
use regard_simd::{Isa, Kernel, Simd};

/// A whole number of vectors on every token.
type Lanes = [f32; 16];

/// Defines a test per operation: what a token does to vectors of `a`, `b` and `c`, drawn from a strategy, is what scalar
/// Rust does to each lane, in the sense of a comparison.
macro_rules! operations {
    ($inputs:expr, $equal:ident, $isa:ident, $s:ident, $a:ident, $b:ident, $c:ident;
     $($name:ident: $vector:expr => $scalar:expr;)*) => {$(
        #[test]
        #[allow(unused_variables, reason = "few operations take all three")]
        fn $name() {
            struct Operation([Lanes; 3]);
            impl Kernel for Operation {
                type Output = Lanes;
                #[inline(always)]
                fn run<S: Simd>(self, $s: S) -> Lanes {
                    let mut y = [0.0; 16];
                    for i in (0..16).step_by(S::LANES) {
                        // SAFETY: LANES divides 16.
                        unsafe {
                            let [$a, $b, $c] = self.0.each_ref().map(|x| $s.load(x[i..].as_ptr()));
                            $s.store(y[i..].as_mut_ptr(), $vector);
                        }
                    }
                    y
                }
            }
            proptest!(|(inputs in [uniform16($inputs), uniform16($inputs), uniform16($inputs)])| {
                for $isa in Isa::available() {
                    let y = $isa.run_bf16(Operation(inputs));
                    for i in 0..16 {
                        let [$a, $b, $c] = inputs.map(|x| x[i]);
                        let scalar: f32 = $scalar;
                        prop_assert!($equal(y[i], scalar), "{} on {}: {:?} and not {scalar:?}", stringify!($name), $isa, y[i]);
                    }
                }
            });
        }
    )*};
}

/// Equal as numbers are; any NaN is as good as another.
fn numbers(x: f32, y: f32) -> bool {
    x == y || x.is_nan() && y.is_nan()
}

/// Equal to the bit.
fn bits(x: f32, y: f32) -> bool {
    x.to_bits() == y.to_bits()
}

/// All floats: of usual size, of any size, and the odd ones.
fn floats() -> impl Strategy<Value = f32> {
    const ODD: [f32; 9] =
        [0.0, -0.0, 1.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -f32::NAN, f32::MAX, f32::MIN_POSITIVE];
    prop_oneof![-10.0..10.0_f32, any::<u32>().prop_map(f32::from_bits), prop::sample::select(&ODD[..])]
}

/// Magnitudes below a power of two, many of them halfway between whole numbers.
fn below(power: i32) -> impl Strategy<Value = f32> {
    let limit = 2.0_f32.powi(power);
    prop_oneof![-limit..limit, (-2001..2001).prop_map(|x| x as f32 / 2.0)]
}

/// What a scaling takes: a number of `[0.7, 1.42]` as `a`, and `b` for the power.
fn scaled() -> impl Strategy<Value = f32> {
    0.71..1.42_f32
}

/// `2^n` to the bit; `powi` promises none.
fn power_of_two(n: i32) -> f32 {
    float((n + 127) << 23)
}

/// The bits as an integer.
fn int(x: f32) -> i32 {
    x.to_bits() as i32
}

/// The float of these bits.
fn float(x: i32) -> f32 {
    f32::from_bits(x as u32)
}

operations! { floats(), numbers, isa, s, a, b, c;
    add: s.add(a, b) => a + b;
    sub: s.sub(a, b) => a - b;
    mul: s.mul(a, b) => a * b;
    div: s.div(a, b) => a / b;
    sqrt: s.sqrt(a) => a.sqrt();
    fma: s.fma(a, b, c) => if isa.name() == "portable" { a * b + c } else { a.mul_add(b, c) };
    exp2_min: s.scale_by_power(s.splat(1.0), s.splat(S::EXP2_MIN)) => 0.0;
    scaled_nan: s.scale_by_power(s.splat(f32::NAN), s.splat(f32::NAN)) => f32::NAN;
}

operations! { floats(), bits, isa, s, a, b, c;
    splat: s.splat(-0.0) => -0.0;
    splat_i32: s.from_bits(s.splat_i32(i32::MIN + 7)) => float(i32::MIN + 7);
    max: s.max(a, b) => if a > b { a } else { b };
    min: s.min(a, b) => if a < b { a } else { b };
    abs: s.abs(a) => float(int(a) & i32::MAX);
    copy_sign: s.copy_sign(a, b) => float(int(a) & i32::MAX | int(b) & i32::MIN);
    lt_select: s.select(s.lt(a, b), b, c) => if a < b { b } else { c };
    add_i32: s.from_bits(s.add_i32(s.to_bits(a), s.to_bits(b))) => float(int(a).wrapping_add(int(b)));
    and: s.from_bits(s.and(s.to_bits(a), s.to_bits(b))) => float(int(a) & int(b));
    shl_1: s.from_bits(s.shl::<1>(s.to_bits(a))) => float(int(a) << 1);
    shl_31: s.from_bits(s.shl::<31>(s.to_bits(a))) => float(int(a) << 31);
    shr_1: s.from_bits(s.shr::<1>(s.to_bits(a))) => float((a.to_bits() >> 1) as i32);
    shr_31: s.from_bits(s.shr::<31>(s.to_bits(a))) => float((a.to_bits() >> 31) as i32);
    shr_by_0: s.from_bits(s.shr_by(s.to_bits(a), 0)) => a;
    shr_by_13: s.from_bits(s.shr_by(s.to_bits(a), 13)) => float((a.to_bits() >> 13) as i32);
    shr_by_31: s.from_bits(s.shr_by(s.to_bits(a), 31)) => float((a.to_bits() >> 31) as i32);
}

operations! { below(22), numbers, isa, s, a, b, c;
    round: s.round(a) => a.round_ties_even();
    to_f32: s.to_f32(s.to_i32(a)) => a.round_ties_even();
}

operations! { below(31), bits, isa, s, a, b, c;
    to_i32: s.from_bits(s.to_i32(a)) => float(a.round_ties_even() as i32);
}

operations! { scaled(), bits, isa, s, a, b, c;
    scale_up: s.scale_by_power(a, s.splat(127.0)) => a * power_of_two(127);
    scale_down: s.scale_by_power(a, s.splat(-125.0)) => a * power_of_two(-125);
    scale_to_infinity: s.scale_by_power(s.splat(1.0), s.splat(128.0)) => f32::INFINITY;
}

/// `f` of each vector's lanes, on every token.
macro_rules! reductions {
    ($($name:ident: $vector:ident => $scalar:expr;)*) => {$(
        #[test]
        fn $name() {
            struct Reduction(Lanes);
            impl Kernel for Reduction {
                type Output = (usize, Vec<f32>);
                #[inline(always)]
                fn run<S: Simd>(self, s: S) -> (usize, Vec<f32>) {
                    // SAFETY: every chunk holds LANES floats.
                    let reduced = self.0.chunks(S::LANES).map(|x| s.$vector(unsafe { s.load(x.as_ptr()) }));
                    (S::LANES, reduced.collect())
                }
            }
            let scalar: fn(Vec<f32>) -> f32 = $scalar;
            proptest!(|(x in uniform16(-1e3..1e3_f32))| {
                for isa in Isa::available() {
                    let (lanes, reduced) = isa.run_bf16(Reduction(x));
                    let scalar: Vec<f32> = x.chunks(lanes).map(|x| scalar(x.to_vec())).collect();
                    prop_assert_eq!(reduced, scalar, "{}", isa);
                }
            });
        }
    )*};
}

reductions! {
    reduce_add: reduce_add => |mut x| {
        while x.len() > 1 {
            let high = x.split_off(x.len() / 2);
            x.iter_mut().zip(high).for_each(|(low, high)| *low += high);
        }
        x[0]
    };
    reduce_max: reduce_max => |x| x.into_iter().fold(f32::NEG_INFINITY, f32::max);
}

#[test]
fn masks_are_bits_of_lanes() {
    struct Bits(u32);
    impl Kernel for Bits {
        type Output = Vec<f32>;
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Vec<f32> {
            let mut y = vec![0.0; S::LANES];
            let selected = s.select(s.mask_from_bits(self.0), s.splat(1.0), s.splat(-1.0));
            // SAFETY: LANES floats.
            unsafe { s.store(y.as_mut_ptr(), selected) };
            y
        }
    }
    proptest!(|(bits: u32)| {
        for isa in Isa::available() {
            for (i, y) in isa.run_bytes(Bits(bits)).into_iter().enumerate() {
                prop_assert_eq!(y, if bits >> i & 1 == 1 { 1.0 } else { -1.0 }, "lane {} on {}", i, isa);
            }
        }
    });
}

#[test]
fn low_bytes_of_lanes() {
    struct LowBytes([i32; 16]);
    impl Kernel for LowBytes {
        type Output = [i8; 16];
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> [i8; 16] {
            let mut y = [0; 16];
            for i in (0..16).step_by(S::LANES) {
                // SAFETY: LANES divides 16.
                unsafe { s.store_low_bytes(y[i..].as_mut_ptr(), s.load_i32(self.0[i..].as_ptr())) };
            }
            y
        }
    }
    proptest!(|(x: [i32; 16])| {
        for isa in Isa::available() {
            prop_assert_eq!(isa.run_bytes(LowBytes(x)), x.map(|x| x as i8), "{}", isa);
        }
    });
}

#[test]
fn transposes() {
    /// `from` is a matrix of rows of this many words; the transposed square and the words beside it come back.
    struct Transpose<'a>(&'a [i32], usize, usize);
    impl Kernel for Transpose<'_> {
        type Output = (usize, Vec<i32>);
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> (usize, Vec<i32>) {
            let Self(from, from_stride, to_stride) = self;
            assert!(from.len() >= S::LANES * from_stride && from_stride.min(to_stride) >= S::LANES);
            let mut to = vec![-1; S::LANES * to_stride];
            // SAFETY: just checked.
            unsafe { s.transpose(from.as_ptr(), from_stride, to.as_mut_ptr(), to_stride) };
            (S::LANES, to)
        }
    }
    proptest!(|(from_stride in 16..20_usize, to_stride in 16..20_usize, seed: [i32; 16])| {
        let from: Vec<i32> = (0..16 * from_stride).map(|i| seed[i % 16].wrapping_add(i as i32) & i32::MAX).collect();
        for isa in Isa::available() {
            let (lanes, to) = isa.run_bf16(Transpose(&from, from_stride, to_stride));
            for (at, word) in to.into_iter().enumerate() {
                let (row, column) = (at / to_stride, at % to_stride);
                let want = if column < lanes { from[column * from_stride + row] } else { -1 };
                prop_assert_eq!(word, want, "row {} column {} on {}", row, column, isa);
            }
        }
    });
}
