//! Plain Rust on four lanes: complete, right on every CPU, and what the others are tested against.

use half::{bf16, f16};

use crate::Simd;

/// The token that every CPU has.
#[derive(Clone, Copy, Debug)]
pub struct Portable;

const LANES: usize = 4;
type F = [f32; LANES];
type I = [i32; LANES];

#[inline(always)]
fn zip<A: Copy, B: Copy, R>(a: [A; LANES], b: [B; LANES], f: impl Fn(A, B) -> R) -> [R; LANES] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Simd for Portable {
    const LANES: usize = LANES;
    const STRIPS: usize = 2;
    const EXP2_MIN: f32 = -127.0;
    type F32 = F;
    type I32 = I;
    type Mask = [bool; LANES];

    unsafe fn assume() -> Self {
        Portable
    }
    #[inline(always)]
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R {
        f()
    }
    #[inline(always)]
    fn splat(self, x: f32) -> F {
        [x; LANES]
    }
    #[inline(always)]
    fn splat_i32(self, x: i32) -> I {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> F {
        // SAFETY: the caller's.
        unsafe { p.cast::<F>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, x: F) {
        // SAFETY: the caller's.
        unsafe { p.cast::<F>().write_unaligned(x) }
    }
    #[inline(always)]
    unsafe fn load_i32(self, p: *const i32) -> I {
        // SAFETY: the caller's.
        unsafe { p.cast::<I>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_i32(self, p: *mut i32, x: I) {
        // SAFETY: the caller's.
        unsafe { p.cast::<I>().write_unaligned(x) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u16) -> F {
        // SAFETY: the caller's.
        unsafe { p.cast::<[u16; LANES]>().read_unaligned() }.map(|x| f16::from_bits(x).to_f32())
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u16, x: F) {
        // SAFETY: the caller's.
        unsafe { p.cast::<[u16; LANES]>().write_unaligned(x.map(|x| f16::from_f32(x).to_bits())) }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u16) -> F {
        // SAFETY: the caller's.
        unsafe { p.cast::<[u16; LANES]>().read_unaligned() }.map(|x| bf16::from_bits(x).to_f32())
    }
    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut u16, x: F) {
        // SAFETY: the caller's.
        unsafe { p.cast::<[u16; LANES]>().write_unaligned(x.map(|x| bf16::from_f32(x).to_bits())) }
    }
    #[inline(always)]
    unsafe fn load_i8(self, p: *const i8) -> F {
        // SAFETY: the caller's.
        unsafe { p.cast::<[i8; LANES]>().read_unaligned() }.map(f32::from)
    }
    #[inline(always)]
    unsafe fn store_low_bytes(self, p: *mut i8, x: I) {
        // SAFETY: the caller's.
        unsafe { p.cast::<[i8; LANES]>().write_unaligned(x.map(|x| x as i8)) }
    }
    #[inline(always)]
    unsafe fn transpose(self, from: *const i32, from_stride: usize, to: *mut i32, to_stride: usize) {
        for j in 0..LANES {
            for i in 0..LANES {
                // SAFETY: the caller's.
                unsafe { to.add(i * to_stride + j).write(from.add(j * from_stride + i).read()) };
            }
        }
    }
    #[inline(always)]
    fn add(self, a: F, b: F) -> F {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: F, b: F) -> F {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: F, b: F) -> F {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: F, b: F) -> F {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn sqrt(self, x: F) -> F {
        x.map(f32::sqrt)
    }
    #[inline(always)]
    fn fma(self, a: F, b: F, c: F) -> F {
        // Without the instruction, `mul_add` is a call of a hundred times the price.
        zip(zip(a, b, |a, b| a * b), c, |ab, c| ab + c)
    }
    #[inline(always)]
    fn max(self, a: F, b: F) -> F {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, a: F, b: F) -> F {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn round(self, x: F) -> F {
        // Adding 1.5·2²³ leaves no bits for a fraction. `round_ties_even` is a call without SSE 4.1.
        const MAGIC: f32 = 12_582_912.0;
        x.map(|x| (x + MAGIC) - MAGIC)
    }
    #[inline(always)]
    fn scale_by_power(self, p: F, n: F) -> F {
        zip(p, n, |p, n| f32::from_bits(p.to_bits().wrapping_add(((n as i32) << 23) as u32)))
    }
    #[inline(always)]
    fn abs(self, x: F) -> F {
        x.map(f32::abs)
    }
    #[inline(always)]
    fn copy_sign(self, x: F, sign: F) -> F {
        zip(x, sign, f32::copysign)
    }
    #[inline(always)]
    fn reduce_add(self, x: F) -> f32 {
        (x[0] + x[2]) + (x[1] + x[3])
    }
    #[inline(always)]
    fn reduce_max(self, x: F) -> f32 {
        x.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
    #[inline(always)]
    fn lt(self, a: F, b: F) -> [bool; LANES] {
        zip(a, b, |a, b| a < b)
    }
    #[inline(always)]
    fn mask_from_bits(self, bits: u32) -> [bool; LANES] {
        std::array::from_fn(|i| bits >> i & 1 == 1)
    }
    #[inline(always)]
    fn select(self, mask: [bool; LANES], a: F, b: F) -> F {
        std::array::from_fn(|i| if mask[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn to_i32(self, x: F) -> I {
        x.map(|x| x.round_ties_even() as i32)
    }
    #[inline(always)]
    fn to_f32(self, x: I) -> F {
        x.map(|x| x as f32)
    }
    #[inline(always)]
    fn add_i32(self, a: I, b: I) -> I {
        zip(a, b, i32::wrapping_add)
    }
    #[inline(always)]
    fn and(self, a: I, b: I) -> I {
        zip(a, b, |a, b| a & b)
    }
    #[inline(always)]
    fn shl<const N: i32>(self, a: I) -> I {
        a.map(|a| a << N)
    }
    #[inline(always)]
    fn shr<const N: i32>(self, a: I) -> I {
        a.map(|a| (a as u32 >> N) as i32)
    }
    #[inline(always)]
    fn shr_by(self, a: I, n: u32) -> I {
        a.map(|a| (a as u32 >> n) as i32)
    }
    #[inline(always)]
    fn to_bits(self, x: F) -> I {
        x.map(|x| x.to_bits() as i32)
    }
    #[inline(always)]
    fn from_bits(self, x: I) -> F {
        x.map(|x| f32::from_bits(x as u32))
    }
    #[inline(always)]
    fn dot_u8_i8(self, acc: I, u: I, x: I) -> I {
        let dot = zip(u, x, |u, x| {
            zip(u.to_le_bytes(), x.to_le_bytes(), |u, x| i32::from(u) * i32::from(x as i8)).iter().sum::<i32>()
        });
        zip(acc, dot, i32::wrapping_add)
    }
}
