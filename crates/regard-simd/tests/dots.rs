//! Dot products of bytes, exactly, and of bf16, within what their roundings allow, on every token.

use half::bf16;
use proptest::array::{uniform4, uniform16};
use proptest::prelude::*;
use regard_simd::{Isa, Kernel, Simd};

struct Bytes {
    acc: [i32; 16],
    u: [i32; 16],
    x: [i32; 16],
}

impl Kernel for Bytes {
    type Output = [i32; 16];
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> [i32; 16] {
        let mut y = self.acc;
        for i in (0..16).step_by(S::LANES) {
            // SAFETY: LANES divides 16.
            unsafe {
                let [acc, u, x] = [&y, &self.u, &self.x].map(|x| s.load_i32(x[i..].as_ptr()));
                s.store_i32(y[i..].as_mut_ptr(), s.dot_u8_i8(acc, u, x));
            }
        }
        y
    }
}

/// Bytes, a good part of them the largest and the smallest of their kind.
fn bytes() -> impl Strategy<Value = [u8; 4]> {
    uniform4(prop_oneof![any::<u8>(), prop::sample::select(&[0, 127, 128, 255][..])])
}

proptest! {
    #[test]
    fn bytes_are_exact(acc: [i32; 16], u in uniform16(bytes()), x in uniform16(bytes())) {
        let want: [i32; 16] = std::array::from_fn(|i| {
            let products = u[i].into_iter().zip(x[i]).map(|(u, x)| i32::from(u) * i32::from(x as i8));
            acc[i].wrapping_add(products.sum())
        });
        for isa in Isa::available() {
            let bytes = Bytes { acc, u: u.map(i32::from_le_bytes), x: x.map(i32::from_le_bytes) };
            prop_assert_eq!(isa.run_bytes(bytes), want, "{}", isa);
        }
    }
}

struct Halves {
    acc: [f32; 16],
    a: [i32; 16],
    b: [i32; 16],
}

impl Kernel for Halves {
    type Output = [f32; 16];
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> [f32; 16] {
        let mut y = self.acc;
        for i in (0..16).step_by(S::LANES) {
            // SAFETY: LANES divides 16.
            unsafe {
                let acc = s.load(y[i..].as_ptr());
                let [a, b] = [&self.a, &self.b].map(|x| s.load_i32(x[i..].as_ptr()));
                s.store(y[i..].as_mut_ptr(), s.dot_bf16(acc, a, b));
            }
        }
        y
    }
}

/// A number of a size between 2⁻²⁰ and 2²⁰.
fn number() -> impl Strategy<Value = f32> {
    (-1.0..1.0_f32, -20..20).prop_map(|(x, power)| x * 2.0_f32.powi(power))
}

/// Two numbers as bf16.
fn pair() -> impl Strategy<Value = [bf16; 2]> {
    [number(), number()].prop_map(|pair| pair.map(bf16::from_f32))
}

proptest! {
    /// A product of two bf16 is exact in f32; at most two sums are rounded, each by half a unit of at most Σ|terms|.
    #[test]
    fn halves_are_rounded_twice(acc in uniform16(number()), a in uniform16(pair()), b in uniform16(pair())) {
        let words = |x: [[bf16; 2]; 16]| x.map(|[low, high]| (u32::from(high.to_bits()) << 16 | u32::from(low.to_bits())) as i32);
        for isa in Isa::available() {
            let y = isa.run_bf16(Halves { acc, a: words(a), b: words(b) });
            for i in 0..16 {
                let terms = [f64::from(acc[i]), a[i][0].to_f64() * b[i][0].to_f64(), a[i][1].to_f64() * b[i][1].to_f64()];
                let (sum, size): (f64, f64) = (terms.iter().sum(), terms.iter().map(|x| x.abs()).sum());
                let error = (f64::from(y[i]) - sum).abs();
                prop_assert!(error <= 2.0 * 2.0_f64.powi(-24) * size, "{error:e} of {size:e} on {isa}");
            }
        }
    }
}
