//! AVX2 with FMA and F16C.

use std::arch::x86_64::*;

use crate::Simd;

/// The token of AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug)]
pub struct Avx2(());

// SAFETY, for every unsafe block in here: the token proves the instructions; `p` is the caller's.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason above for all intrinsics of the token")]
impl Simd for Avx2 {
    const LANES: usize = 8;
    const STRIPS: usize = 2;
    const EXP2_MIN: f32 = -127.0;
    type F32 = __m256;
    type I32 = __m256i;
    type Mask = __m256;

    #[inline(always)]
    unsafe fn assume() -> Self {
        Avx2(())
    }
    #[inline(always)]
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R {
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn compiled<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        unsafe { compiled(f) }
    }
    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    fn splat_i32(self, x: i32) -> __m256i {
        unsafe { _mm256_set1_epi32(x) }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, x: __m256) {
        unsafe { _mm256_storeu_ps(p, x) }
    }
    #[inline(always)]
    unsafe fn load_i32(self, p: *const i32) -> __m256i {
        unsafe { _mm256_loadu_si256(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store_i32(self, p: *mut i32, x: __m256i) {
        unsafe { _mm256_storeu_si256(p.cast(), x) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u16) -> __m256 {
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u16, x: __m256) {
        unsafe { _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x)) }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u16) -> __m256 {
        unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut u16, x: __m256) {
        unsafe {
            let bits = _mm256_castps_si256(x);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), odd);
            // A NaN must not be rounded up to an infinity or over it: it is made quiet and cut.
            let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(x, x));
            let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
            let half = _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, nan));
            let (low, high) = (_mm256_castsi256_si128(half), _mm256_extracti128_si256::<1>(half));
            _mm_storeu_si128(p.cast(), _mm_packus_epi32(low, high));
        }
    }
    #[inline(always)]
    unsafe fn load_i8(self, p: *const i8) -> __m256 {
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn store_low_bytes(self, p: *mut i8, x: __m256i) {
        unsafe {
            let first = _mm256_set1_epi32(0x0C08_0400);
            let picked = _mm256_shuffle_epi8(x, first);
            let low = _mm_cvtsi128_si32(_mm256_castsi256_si128(picked));
            let high = _mm_cvtsi128_si32(_mm256_extracti128_si256::<1>(picked));
            p.cast::<[i32; 2]>().write_unaligned([low, high]);
        }
    }
    #[inline(always)]
    unsafe fn transpose(self, from: *const i32, from_stride: usize, to: *mut i32, to_stride: usize) {
        unsafe {
            // Pairs of rows, then pairs of pairs, within 128-bit lanes; at last the lanes change places.
            let mut rows = [_mm256_setzero_ps(); 8];
            for (j, row) in rows.iter_mut().enumerate() {
                *row = _mm256_loadu_ps(from.add(j * from_stride).cast());
            }
            let mut fours = [_mm256_setzero_ps(); 8];
            for j in (0..8).step_by(4) {
                let (a, b) = (_mm256_unpacklo_ps(rows[j], rows[j + 1]), _mm256_unpackhi_ps(rows[j], rows[j + 1]));
                let (c, d) =
                    (_mm256_unpacklo_ps(rows[j + 2], rows[j + 3]), _mm256_unpackhi_ps(rows[j + 2], rows[j + 3]));
                fours[j] = _mm256_shuffle_ps::<0x44>(a, c);
                fours[j + 1] = _mm256_shuffle_ps::<0xEE>(a, c);
                fours[j + 2] = _mm256_shuffle_ps::<0x44>(b, d);
                fours[j + 3] = _mm256_shuffle_ps::<0xEE>(b, d);
            }
            for i in 0..4 {
                let (low, high) = (fours[i], fours[i + 4]);
                _mm256_storeu_ps(to.add(i * to_stride).cast(), _mm256_permute2f128_ps::<0x20>(low, high));
                _mm256_storeu_ps(to.add((i + 4) * to_stride).cast(), _mm256_permute2f128_ps::<0x31>(low, high));
            }
        }
    }
    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_div_ps(a, b) }
    }
    #[inline(always)]
    fn sqrt(self, x: __m256) -> __m256 {
        unsafe { _mm256_sqrt_ps(x) }
    }
    #[inline(always)]
    fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_min_ps(a, b) }
    }
    #[inline(always)]
    fn round(self, x: __m256) -> __m256 {
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x) }
    }
    #[inline(always)]
    fn scale_by_power(self, p: __m256, n: __m256) -> __m256 {
        // The conversion gives 0 shifted out for a NaN in `n`, so that a NaN in `p` stays as it is.
        unsafe {
            let exponent = _mm256_slli_epi32::<23>(_mm256_cvtps_epi32(n));
            _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), exponent))
        }
    }
    #[inline(always)]
    fn abs(self, x: __m256) -> __m256 {
        unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), x) }
    }
    #[inline(always)]
    fn copy_sign(self, x: __m256, sign: __m256) -> __m256 {
        unsafe { _mm256_or_ps(self.abs(x), _mm256_and_ps(_mm256_set1_ps(-0.0), sign)) }
    }
    #[inline(always)]
    fn reduce_add(self, x: __m256) -> f32 {
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }
    #[inline(always)]
    fn reduce_max(self, x: __m256) -> f32 {
        unsafe {
            let four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        }
    }
    #[inline(always)]
    fn lt(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_cmp_ps::<_CMP_LT_OQ>(a, b) }
    }
    #[inline(always)]
    fn mask_from_bits(self, bits: u32) -> __m256 {
        unsafe {
            let lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
            let set = _mm256_and_si256(_mm256_set1_epi32(bits as i32), lane);
            _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, lane))
        }
    }
    #[inline(always)]
    fn select(self, mask: __m256, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_blendv_ps(b, a, mask) }
    }
    #[inline(always)]
    fn to_i32(self, x: __m256) -> __m256i {
        unsafe { _mm256_cvtps_epi32(x) }
    }
    #[inline(always)]
    fn to_f32(self, x: __m256i) -> __m256 {
        unsafe { _mm256_cvtepi32_ps(x) }
    }
    #[inline(always)]
    fn add_i32(self, a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_add_epi32(a, b) }
    }
    #[inline(always)]
    fn and(self, a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_and_si256(a, b) }
    }
    #[inline(always)]
    fn shl<const N: i32>(self, a: __m256i) -> __m256i {
        unsafe { _mm256_slli_epi32::<N>(a) }
    }
    #[inline(always)]
    fn shr<const N: i32>(self, a: __m256i) -> __m256i {
        unsafe { _mm256_srli_epi32::<N>(a) }
    }
    #[inline(always)]
    fn shr_by(self, a: __m256i, n: u32) -> __m256i {
        unsafe { _mm256_srl_epi32(a, _mm_cvtsi32_si128(n as i32)) }
    }
    #[inline(always)]
    fn to_bits(self, x: __m256) -> __m256i {
        unsafe { _mm256_castps_si256(x) }
    }
    #[inline(always)]
    fn from_bits(self, x: __m256i) -> __m256 {
        unsafe { _mm256_castsi256_ps(x) }
    }
    #[inline(always)]
    fn dot_u8_i8(self, acc: __m256i, u: __m256i, x: __m256i) -> __m256i {
        // `maddubs` saturates at 16 bits where both bytes of a pair are large; even and odd bytes apart do not.
        unsafe {
            let u_even = _mm256_and_si256(u, _mm256_set1_epi16(0x00FF));
            let x_even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(x));
            let (u_odd, x_odd) = (_mm256_srli_epi16::<8>(u), _mm256_srai_epi16::<8>(x));
            let dot = _mm256_add_epi32(_mm256_madd_epi16(u_even, x_even), _mm256_madd_epi16(u_odd, x_odd));
            _mm256_add_epi32(acc, dot)
        }
    }
    #[inline(always)]
    fn dot_u7_i8(self, acc: __m256i, u: __m256i, x: __m256i) -> __m256i {
        // Two products of at most 127·128 fit 16 bits.
        unsafe {
            let pairs = _mm256_maddubs_epi16(u, x);
            _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
    }
}
