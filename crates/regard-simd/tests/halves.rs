//! Conversions between f32 and the two kinds of half-words, and from bytes, at every number where they can differ, on every
//! token.

use half::{bf16, f16};
use regard_simd::{Isa, Kernel, Simd};

mod common;
use common::{BLOCK, POSITIVE, for_floats};

/// Defines a function that takes a slice through a load or a store of every token's.
macro_rules! conversion {
    ($name:ident: $from:ty => $to:ty, $s:ident, |$x:ident, $y:ident| $body:expr) => {
        fn $name(isa: Isa, x: &[$from]) -> Vec<$to> {
            struct Conversion<'a>(&'a [$from], &'a mut [$to]);
            impl Kernel for Conversion<'_> {
                type Output = ();
                #[inline(always)]
                fn run<S: Simd>(self, $s: S) {
                    for (x, y) in self.0.chunks_exact(S::LANES).zip(self.1.chunks_exact_mut(S::LANES)) {
                        let ($x, $y) = (x.as_ptr(), y.as_mut_ptr());
                        // SAFETY: both chunks hold LANES numbers.
                        unsafe { $body };
                    }
                }
            }
            let mut y = vec![<$to>::default(); x.len()];
            isa.run_bf16(Conversion(x, &mut y));
            y
        }
    };
}

conversion!(load_f16: u16 => f32, s, |x, y| s.store(y, s.load_f16(x)));
conversion!(load_bf16: u16 => f32, s, |x, y| s.store(y, s.load_bf16(x)));
conversion!(load_i8: i8 => f32, s, |x, y| s.store(y, s.load_i8(x)));
conversion!(store_f16: f32 => u16, s, |x, y| s.store_f16(y, s.load(x)));
conversion!(store_bf16: f32 => u16, s, |x, y| s.store_bf16(y, s.load(x)));
conversion!(pair_bf16: f32 => u32, s, |x, y| {
    let x = s.load(x);
    s.store_i32(y.cast(), s.pair_bf16(x, s.mul(x, s.splat(-1.0))))
});

/// Of how many half-words one is tested: each, but for an interpreter.
const STEP: usize = if cfg!(miri) { 499 } else { 1 };

#[test]
fn every_half_word_is_widened() {
    let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
    let words: Vec<u16> = (0..=u16::MAX).step_by(STEP).chain(0xFFF0..=u16::MAX).collect();
    for isa in Isa::available() {
        for ((word, a), b) in words.iter().zip(load_f16(isa, &words)).zip(load_bf16(isa, &words)) {
            assert!(same(a, f16::from_bits(*word).to_f32()), "f16 {word:#x} is {a} on {isa}");
            assert!(same(b, bf16::from_bits(*word).to_f32()), "bf16 {word:#x} is {b} on {isa}");
        }
    }
}

#[test]
fn every_byte_is_widened() {
    let bytes: Vec<i8> = (i8::MIN..=i8::MAX).collect();
    for isa in Isa::available() {
        // Every byte in another lane, too.
        for at in 0..16 {
            for (byte, x) in bytes[at..].iter().zip(load_i8(isa, &bytes[at..240 + at])) {
                assert_eq!(x, f32::from(*byte), "{isa}");
            }
        }
    }
}

/// The decisions of rounding to f16: at each number, halfway to the next, and at the floats beside these.
#[test]
fn f16_rounds_to_nearest_even() {
    let infinity = f16::INFINITY.to_bits();
    for sign in [0, 1 << 15] {
        for low in (0..infinity).step_by(STEP) {
            // Past the largest number the next would be 2¹⁶, and stands for infinity.
            let [a, b] = [low, low + 1].map(|x| if x == infinity { 65536.0 } else { f16::from_bits(x).to_f32() });
            let middle = (a + b) / 2.0;
            let even = if low % 2 == 0 { low } else { low + 1 };
            let cases = [(a, low), (middle.next_down(), low), (middle, even), (middle.next_up(), low + 1)];
            let x: [f32; 16] = std::array::from_fn(|i| if sign == 0 { cases[i % 4].0 } else { -cases[i % 4].0 });
            for isa in Isa::available() {
                for ((x, y), (_, want)) in x.iter().zip(store_f16(isa, &x)).zip(cases.iter().cycle()) {
                    assert_eq!(y, want | sign, "{x} on {isa}");
                }
            }
        }
    }
}

#[test]
fn f16_keeps_infinities_and_nans() {
    let x: Vec<f32> = [f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::NAN, f32::from_bits(0xFF80_0001)].repeat(16);
    for isa in Isa::available() {
        for (x, y) in x.iter().zip(store_f16(isa, &x)) {
            let y = f16::from_bits(y);
            assert!(y.is_nan() == x.is_nan(), "{x} is {y} on {isa}");
            assert!(x.is_nan() || y.to_f32() == x.signum() * f32::INFINITY, "{x} is {y} on {isa}");
        }
    }
}

/// Whether `y` is `x` rounded to bf16.
fn is_rounded(x: f32, y: u16) -> bool {
    let zero = u16::from(x.is_sign_negative()) << 15;
    let flushed = x.abs() < f32::MIN_POSITIVE && y == zero;
    let both_nan = x.is_nan() && bf16::from_bits(y).is_nan();
    y == bf16::from_f32(x).to_bits() || flushed || both_nan
}

/// Every float there is.
#[test]
fn bf16_rounds_to_nearest_even() {
    for_floats(POSITIVE, 1, |x: &[f32; BLOCK]| {
        let want = x.map(|x| bf16::from_f32(x).to_bits());
        for isa in Isa::available() {
            let y = store_bf16(isa, x);
            if y == want {
                continue;
            }
            for (x, y) in x.iter().zip(y) {
                assert!(is_rounded(*x, y), "{x} ({:#x}) is {y:#x} on {isa}", x.to_bits());
            }
        }
    });
}

#[test]
fn pairs_of_bf16_are_rounded_alike() {
    for_floats(POSITIVE, 17, |x: &[f32; BLOCK]| {
        for isa in Isa::available() {
            for (x, y) in x.iter().zip(pair_bf16(isa, x)) {
                let rounded = is_rounded(*x, y as u16) && is_rounded(-x, (y >> 16) as u16);
                assert!(rounded, "{x} ({:#x}) and its opposite are {y:#x} on {isa}", x.to_bits());
            }
        }
    });
}
