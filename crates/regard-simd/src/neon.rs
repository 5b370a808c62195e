//! NEON, which every 64-bit Arm has.

use std::arch::aarch64::*;

use crate::Simd;

/// The token of NEON.
#[derive(Clone, Copy, Debug)]
pub struct Neon(());

// SAFETY, for every unsafe block in here: the token proves the instructions; `p` is the caller's.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason above for all intrinsics of the token")]
impl Simd for Neon {
    const LANES: usize = 4;
    const STRIPS: usize = 4;
    const EXP2_MIN: f32 = -127.0;
    type F32 = float32x4_t;
    type I32 = int32x4_t;
    type Mask = uint32x4_t;

    #[inline(always)]
    unsafe fn assume() -> Self {
        Neon(())
    }
    #[inline(always)]
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R {
        #[target_feature(enable = "neon")]
        unsafe fn compiled<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        unsafe { compiled(f) }
    }
    #[inline(always)]
    fn splat(self, x: f32) -> float32x4_t {
        unsafe { vdupq_n_f32(x) }
    }
    #[inline(always)]
    fn splat_i32(self, x: i32) -> int32x4_t {
        unsafe { vdupq_n_s32(x) }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> float32x4_t {
        unsafe { vld1q_f32(p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, x: float32x4_t) {
        unsafe { vst1q_f32(p, x) }
    }
    #[inline(always)]
    unsafe fn load_i32(self, p: *const i32) -> int32x4_t {
        unsafe { vld1q_s32(p) }
    }
    #[inline(always)]
    unsafe fn store_i32(self, p: *mut i32, x: int32x4_t) {
        unsafe { vst1q_s32(p, x) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u16) -> float32x4_t {
        unsafe { vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))) }
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u16, x: float32x4_t) {
        unsafe { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(x))) }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u16) -> float32x4_t {
        unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(p))) }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut u16, x: float32x4_t) {
        unsafe {
            let bits = vreinterpretq_u32_f32(x);
            let odd = vandq_u32(vshrq_n_u32::<16>(bits), vdupq_n_u32(1));
            let rounded = vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7FFF)), odd);
            // A NaN must not be rounded up to an infinity or over it: it is made quiet and cut.
            let quiet = vorrq_u32(bits, vdupq_n_u32(0x0040_0000));
            let number = vceqq_f32(x, x);
            vst1_u16(p, vshrn_n_u32::<16>(vbslq_u32(number, rounded, quiet)))
        }
    }
    #[inline(always)]
    unsafe fn load_i8(self, p: *const i8) -> float32x4_t {
        unsafe {
            let bytes = vreinterpret_s8_s32(vdup_n_s32(p.cast::<i32>().read_unaligned()));
            vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(bytes))))
        }
    }
    #[inline(always)]
    unsafe fn store_low_bytes(self, p: *mut i8, x: int32x4_t) {
        unsafe {
            let low = vmovn_s32(x);
            let bytes = vreinterpret_s32_s8(vmovn_s16(vcombine_s16(low, low)));
            p.cast::<i32>().write_unaligned(vget_lane_s32::<0>(bytes))
        }
    }
    #[inline(always)]
    unsafe fn transpose(self, from: *const i32, from_stride: usize, to: *mut i32, to_stride: usize) {
        unsafe {
            let [a, b, c, d] = [0, 1, 2, 3].map(|j| vld1q_s32(from.add(j * from_stride)));
            // Pairs of rows, then pairs of pairs.
            let wide = |x| vreinterpretq_s64_s32(x);
            let (ab_even, ab_odd) = (wide(vtrn1q_s32(a, b)), wide(vtrn2q_s32(a, b)));
            let (cd_even, cd_odd) = (wide(vtrn1q_s32(c, d)), wide(vtrn2q_s32(c, d)));
            let columns = [
                vtrn1q_s64(ab_even, cd_even),
                vtrn1q_s64(ab_odd, cd_odd),
                vtrn2q_s64(ab_even, cd_even),
                vtrn2q_s64(ab_odd, cd_odd),
            ];
            for (i, column) in columns.into_iter().enumerate() {
                vst1q_s32(to.add(i * to_stride), vreinterpretq_s32_s64(column));
            }
        }
    }
    #[inline(always)]
    fn add(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vaddq_f32(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vsubq_f32(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vmulq_f32(a, b) }
    }
    #[inline(always)]
    fn div(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vdivq_f32(a, b) }
    }
    #[inline(always)]
    fn sqrt(self, x: float32x4_t) -> float32x4_t {
        unsafe { vsqrtq_f32(x) }
    }
    #[inline(always)]
    fn fma(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        unsafe { vfmaq_f32(c, a, b) }
    }
    #[inline(always)]
    fn max(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe {
            // `fmax` gives NaN for a NaN in `a` too, `fmaxnm` for none.
            vbslq_f32(vcgtq_f32(a, b), a, b)
        }
    }
    #[inline(always)]
    fn min(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vbslq_f32(vcltq_f32(a, b), a, b) }
    }
    #[inline(always)]
    fn round(self, x: float32x4_t) -> float32x4_t {
        unsafe { vrndnq_f32(x) }
    }
    #[inline(always)]
    fn scale_by_power(self, p: float32x4_t, n: float32x4_t) -> float32x4_t {
        unsafe {
            // The conversion gives 0 for a NaN in `n`, so that a NaN in `p` stays as it is.
            let exponent = vshlq_n_s32::<23>(vcvtnq_s32_f32(n));
            vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(p), exponent))
        }
    }
    #[inline(always)]
    fn abs(self, x: float32x4_t) -> float32x4_t {
        unsafe { vabsq_f32(x) }
    }
    #[inline(always)]
    fn copy_sign(self, x: float32x4_t, sign: float32x4_t) -> float32x4_t {
        unsafe { vbslq_f32(vdupq_n_u32(0x8000_0000), sign, x) }
    }
    #[inline(always)]
    fn reduce_add(self, x: float32x4_t) -> f32 {
        unsafe {
            let two = vadd_f32(vget_low_f32(x), vget_high_f32(x));
            vget_lane_f32::<0>(vpadd_f32(two, two))
        }
    }
    #[inline(always)]
    fn reduce_max(self, x: float32x4_t) -> f32 {
        unsafe { vmaxnmvq_f32(x) }
    }
    #[inline(always)]
    fn lt(self, a: float32x4_t, b: float32x4_t) -> uint32x4_t {
        unsafe { vcltq_f32(a, b) }
    }
    #[inline(always)]
    fn mask_from_bits(self, bits: u32) -> uint32x4_t {
        unsafe {
            const LANE: [u32; 4] = [1, 2, 4, 8];
            vtstq_u32(vdupq_n_u32(bits), vld1q_u32(LANE.as_ptr()))
        }
    }
    #[inline(always)]
    fn select(self, mask: uint32x4_t, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vbslq_f32(mask, a, b) }
    }
    #[inline(always)]
    fn to_i32(self, x: float32x4_t) -> int32x4_t {
        unsafe { vcvtnq_s32_f32(x) }
    }
    #[inline(always)]
    fn to_f32(self, x: int32x4_t) -> float32x4_t {
        unsafe { vcvtq_f32_s32(x) }
    }
    #[inline(always)]
    fn add_i32(self, a: int32x4_t, b: int32x4_t) -> int32x4_t {
        unsafe { vaddq_s32(a, b) }
    }
    #[inline(always)]
    fn and(self, a: int32x4_t, b: int32x4_t) -> int32x4_t {
        unsafe { vandq_s32(a, b) }
    }
    #[inline(always)]
    fn shl<const N: i32>(self, a: int32x4_t) -> int32x4_t {
        unsafe { vshlq_n_s32::<N>(a) }
    }
    #[inline(always)]
    fn shr<const N: i32>(self, a: int32x4_t) -> int32x4_t {
        unsafe { vreinterpretq_s32_u32(vshrq_n_u32::<N>(vreinterpretq_u32_s32(a))) }
    }
    #[inline(always)]
    fn shr_by(self, a: int32x4_t, n: u32) -> int32x4_t {
        // A shift left by a negative number goes right.
        unsafe { vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(a), vdupq_n_s32(-(n as i32)))) }
    }
    #[inline(always)]
    fn to_bits(self, x: float32x4_t) -> int32x4_t {
        unsafe { vreinterpretq_s32_f32(x) }
    }
    #[inline(always)]
    fn from_bits(self, x: int32x4_t) -> float32x4_t {
        unsafe { vreinterpretq_f32_s32(x) }
    }
    #[inline(always)]
    fn dot_u8_i8(self, acc: int32x4_t, u: int32x4_t, x: int32x4_t) -> int32x4_t {
        unsafe {
            // Sixteen products in 32 bits, then sums of neighbours, twice. 255 · −128 · 2 would not fit 16 bits.
            let (u, x) = (vreinterpretq_u8_s32(u), vreinterpretq_s8_s32(x));
            let (u_low, u_high) =
                (vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(u))), vreinterpretq_s16_u16(vmovl_high_u8(u)));
            let (x_low, x_high) = (vmovl_s8(vget_low_s8(x)), vmovl_high_s8(x));
            let pairs = |u, x| vpaddq_s32(vmull_s16(vget_low_s16(u), vget_low_s16(x)), vmull_high_s16(u, x));
            vaddq_s32(acc, vpaddq_s32(pairs(u_low, x_low), pairs(u_high, x_high)))
        }
    }
}
