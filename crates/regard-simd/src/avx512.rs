//! AVX-512 (F, BW, DQ, VL), and the same with its integer and bf16 dot products.

use std::arch::x86_64::*;

use crate::Simd;

/// One token of the AVX-512 family: they differ in the features they are compiled with and in their dot products.
macro_rules! avx512 {
    ($(#[$doc:meta])* $token:ident, $features:literal, { $($dots:tt)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $token(());

        // SAFETY, for every unsafe block in here: the token proves the instructions; `p` is the caller's.
        #[allow(clippy::undocumented_unsafe_blocks, reason = "one reason above for all intrinsics of the token")]
        impl Simd for $token {
            const LANES: usize = 16;
            const STRIPS: usize = 4;
            const EXP2_MIN: f32 = -160.0;
            type F32 = __m512;
            type I32 = __m512i;
            type Mask = __mmask16;

            #[inline(always)]
            unsafe fn assume() -> Self {
                $token(())
            }
            #[inline(always)]
            fn vectorize<R>(self, f: impl FnOnce() -> R) -> R {
                #[target_feature(enable = $features)]
                unsafe fn compiled<R>(f: impl FnOnce() -> R) -> R {
                    f()
                }
                unsafe { compiled(f) }
            }
            #[inline(always)]
            fn splat(self, x: f32) -> __m512 {
                unsafe { _mm512_set1_ps(x) }
            }
            #[inline(always)]
            fn splat_i32(self, x: i32) -> __m512i {
                unsafe { _mm512_set1_epi32(x) }
            }
            #[inline(always)]
            unsafe fn load(self, p: *const f32) -> __m512 {
                unsafe { _mm512_loadu_ps(p) }
            }
            #[inline(always)]
            unsafe fn store(self, p: *mut f32, x: __m512) {
                unsafe { _mm512_storeu_ps(p, x) }
            }
            #[inline(always)]
            unsafe fn load_i32(self, p: *const i32) -> __m512i {
                unsafe { _mm512_loadu_epi32(p) }
            }
            #[inline(always)]
            unsafe fn store_i32(self, p: *mut i32, x: __m512i) {
                unsafe { _mm512_storeu_epi32(p, x) }
            }
            #[inline(always)]
            unsafe fn load_f16(self, p: *const u16) -> __m512 {
                unsafe { _mm512_cvtph_ps(_mm256_loadu_epi16(p.cast())) }
            }
            #[inline(always)]
            unsafe fn store_f16(self, p: *mut u16, x: __m512) {
                unsafe { _mm256_storeu_epi16(p.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x)) }
            }
            #[inline(always)]
            unsafe fn load_bf16(self, p: *const u16) -> __m512 {
                unsafe {
                    let wide = _mm512_cvtepu16_epi32(_mm256_loadu_epi16(p.cast()));
                    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
                }
            }
            #[inline(always)]
            unsafe fn load_i8(self, p: *const i8) -> __m512 {
                unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_epi8(p))) }
            }
            #[inline(always)]
            unsafe fn store_low_bytes(self, p: *mut i8, x: __m512i) {
                unsafe { _mm_storeu_epi8(p, _mm512_cvtepi32_epi8(x)) }
            }
            #[inline(always)]
            unsafe fn transpose(self, from: *const i32, from_stride: usize, to: *mut i32, to_stride: usize) {
                unsafe {
                    // Pairs of rows, then pairs of pairs, within 128-bit lanes; then the lanes, as a square of four.
                    let mut rows = [_mm512_setzero_ps(); 16];
                    for (j, row) in rows.iter_mut().enumerate() {
                        *row = _mm512_loadu_ps(from.add(j * from_stride).cast());
                    }
                    let mut fours = [_mm512_setzero_ps(); 16];
                    for j in (0..16).step_by(4) {
                        let (r0, r1, r2, r3) = (rows[j], rows[j + 1], rows[j + 2], rows[j + 3]);
                        let (a, b) = (_mm512_unpacklo_ps(r0, r1), _mm512_unpackhi_ps(r0, r1));
                        let (c, d) = (_mm512_unpacklo_ps(r2, r3), _mm512_unpackhi_ps(r2, r3));
                        fours[j] = _mm512_shuffle_ps::<0x44>(a, c);
                        fours[j + 1] = _mm512_shuffle_ps::<0xEE>(a, c);
                        fours[j + 2] = _mm512_shuffle_ps::<0x44>(b, d);
                        fours[j + 3] = _mm512_shuffle_ps::<0xEE>(b, d);
                    }
                    for i in 0..4 {
                        let (a, b, c, d) = (fours[i], fours[i + 4], fours[i + 8], fours[i + 12]);
                        let (ab_even, ab_odd) =
                            (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xDD>(a, b));
                        let (cd_even, cd_odd) =
                            (_mm512_shuffle_f32x4::<0x88>(c, d), _mm512_shuffle_f32x4::<0xDD>(c, d));
                        let columns = [
                            _mm512_shuffle_f32x4::<0x88>(ab_even, cd_even),
                            _mm512_shuffle_f32x4::<0x88>(ab_odd, cd_odd),
                            _mm512_shuffle_f32x4::<0xDD>(ab_even, cd_even),
                            _mm512_shuffle_f32x4::<0xDD>(ab_odd, cd_odd),
                        ];
                        for (lane, column) in columns.into_iter().enumerate() {
                            _mm512_storeu_ps(to.add((i + 4 * lane) * to_stride).cast(), column);
                        }
                    }
                }
            }
            #[inline(always)]
            fn add(self, a: __m512, b: __m512) -> __m512 {
                unsafe { _mm512_add_ps(a, b) }
            }
            #[inline(always)]
            fn sub(self, a: __m512, b: __m512) -> __m512 {
                unsafe { _mm512_sub_ps(a, b) }
            }
            #[inline(always)]
            fn mul(self, a: __m512, b: __m512) -> __m512 {
                unsafe { _mm512_mul_ps(a, b) }
            }
            #[inline(always)]
            fn div(self, a: __m512, b: __m512) -> __m512 {
                unsafe { _mm512_div_ps(a, b) }
            }
            #[inline(always)]
            fn sqrt(self, x: __m512) -> __m512 {
                unsafe { _mm512_sqrt_ps(x) }
            }
            #[inline(always)]
            fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
                unsafe { _mm512_fmadd_ps(a, b, c) }
            }
            #[inline(always)]
            fn max(self, a: __m512, b: __m512) -> __m512 {
                unsafe { _mm512_max_ps(a, b) }
            }
            #[inline(always)]
            fn min(self, a: __m512, b: __m512) -> __m512 {
                unsafe { _mm512_min_ps(a, b) }
            }
            #[inline(always)]
            fn round(self, x: __m512) -> __m512 {
                unsafe { _mm512_roundscale_ps::<0>(x) }
            }
            #[inline(always)]
            fn scale_by_power(self, p: __m512, n: __m512) -> __m512 {
                unsafe { _mm512_scalef_ps(p, n) }
            }
            #[inline(always)]
            fn abs(self, x: __m512) -> __m512 {
                unsafe { _mm512_abs_ps(x) }
            }
            #[inline(always)]
            fn copy_sign(self, x: __m512, sign: __m512) -> __m512 {
                unsafe {
                    let magnitude = _mm512_castps_si512(_mm512_set1_ps(f32::from_bits(0x7FFF_FFFF)));
                    // 0xCA: bit by bit, the second where the first is set, else the third.
                    _mm512_castsi512_ps(_mm512_ternarylogic_epi32::<0xCA>(
                        magnitude,
                        _mm512_castps_si512(x),
                        _mm512_castps_si512(sign),
                    ))
                }
            }
            #[inline(always)]
            fn reduce_add(self, x: __m512) -> f32 {
                unsafe { _mm512_reduce_add_ps(x) }
            }
            #[inline(always)]
            fn reduce_max(self, x: __m512) -> f32 {
                unsafe { _mm512_reduce_max_ps(x) }
            }
            #[inline(always)]
            fn lt(self, a: __m512, b: __m512) -> __mmask16 {
                unsafe { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b) }
            }
            #[inline(always)]
            fn mask_from_bits(self, bits: u32) -> __mmask16 {
                bits as __mmask16
            }
            #[inline(always)]
            fn select(self, mask: __mmask16, a: __m512, b: __m512) -> __m512 {
                unsafe { _mm512_mask_blend_ps(mask, b, a) }
            }
            #[inline(always)]
            fn to_i32(self, x: __m512) -> __m512i {
                unsafe { _mm512_cvtps_epi32(x) }
            }
            #[inline(always)]
            fn to_f32(self, x: __m512i) -> __m512 {
                unsafe { _mm512_cvtepi32_ps(x) }
            }
            #[inline(always)]
            fn add_i32(self, a: __m512i, b: __m512i) -> __m512i {
                unsafe { _mm512_add_epi32(a, b) }
            }
            #[inline(always)]
            fn and(self, a: __m512i, b: __m512i) -> __m512i {
                unsafe { _mm512_and_si512(a, b) }
            }
            #[inline(always)]
            fn shl<const N: i32>(self, a: __m512i) -> __m512i {
                // The immediate form takes a `u32`, which an `i32` parameter cannot become; the compiler does it.
                unsafe { _mm512_sll_epi32(a, _mm_cvtsi32_si128(N)) }
            }
            #[inline(always)]
            fn shr<const N: i32>(self, a: __m512i) -> __m512i {
                unsafe { _mm512_srl_epi32(a, _mm_cvtsi32_si128(N)) }
            }
            #[inline(always)]
            fn shr_by(self, a: __m512i, n: u32) -> __m512i {
                unsafe { _mm512_srl_epi32(a, _mm_cvtsi32_si128(n as i32)) }
            }
            #[inline(always)]
            fn to_bits(self, x: __m512) -> __m512i {
                unsafe { _mm512_castps_si512(x) }
            }
            #[inline(always)]
            fn from_bits(self, x: __m512i) -> __m512 {
                unsafe { _mm512_castsi512_ps(x) }
            }
            $($dots)*
        }
    };
}

/// The dot product of bytes in plain AVX-512: even and odd bytes apart, widened to 16 bits, so that nothing saturates.
macro_rules! widening_bytes {
    () => {
        #[inline(always)]
        fn dot_u8_i8(self, acc: __m512i, u: __m512i, x: __m512i) -> __m512i {
            unsafe {
                let u_even = _mm512_and_si512(u, _mm512_set1_epi16(0x00FF));
                let x_even = _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(x));
                let (u_odd, x_odd) = (_mm512_srli_epi16::<8>(u), _mm512_srai_epi16::<8>(x));
                let dot = _mm512_add_epi32(_mm512_madd_epi16(u_even, x_even), _mm512_madd_epi16(u_odd, x_odd));
                _mm512_add_epi32(acc, dot)
            }
        }
        #[inline(always)]
        fn dot_u7_i8(self, acc: __m512i, u: __m512i, x: __m512i) -> __m512i {
            // Two products of at most 127·128 fit 16 bits.
            unsafe {
                let pairs = _mm512_maddubs_epi16(u, x);
                _mm512_add_epi32(acc, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))
            }
        }
    };
}

/// The dot product of bytes that VNNI has an instruction for.
macro_rules! vnni_bytes {
    () => {
        #[inline(always)]
        fn dot_u8_i8(self, acc: __m512i, u: __m512i, x: __m512i) -> __m512i {
            unsafe { _mm512_dpbusd_epi32(acc, u, x) }
        }
    };
}

/// Rounding to bf16 in integers.
macro_rules! rounding_bf16 {
    () => {
        #[inline(always)]
        unsafe fn store_bf16(self, p: *mut u16, x: __m512) {
            unsafe {
                let bits = _mm512_castps_si512(x);
                let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
                let rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7FFF)), odd);
                // A NaN must not be rounded up to an infinity or over it: it is made quiet and cut.
                let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
                let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x0040_0000));
                let half = _mm512_srli_epi32::<16>(_mm512_mask_blend_epi32(nan, rounded, quiet));
                _mm256_storeu_epi16(p.cast(), _mm512_cvtepi32_epi16(half));
            }
        }
    };
}

avx512! {
    /// AVX-512 F, BW, DQ and VL.
    Avx512, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c", {
        widening_bytes!();
        rounding_bf16!();
    }
}

avx512! {
    /// AVX-512 with VNNI: dot products of bytes.
    Avx512Vnni, "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c", {
        vnni_bytes!();
        rounding_bf16!();
    }
}

avx512! {
    /// AVX-512 with VNNI and BF16: dot products of bytes and of bf16.
    Avx512Bf16, "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c", {
        vnni_bytes!();
        #[inline(always)]
        unsafe fn store_bf16(self, p: *mut u16, x: __m512) {
            unsafe { _mm256_storeu_epi16(p.cast(), std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(x))) }
        }
        #[inline(always)]
        fn pair_bf16(self, low: __m512, high: __m512) -> __m512i {
            unsafe {
                // All low ones and then all high ones, which become pairs: 0, 16, 1, 17, …
                let halves = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
                let lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
                let pairs = _mm512_add_epi32(_mm512_mullo_epi32(lane, _mm512_set1_epi32(0x0001_0001)), _mm512_set1_epi32(16 << 16));
                _mm512_permutexvar_epi16(pairs, halves)
            }
        }
        #[inline(always)]
        fn dot_bf16(self, acc: __m512, a: __m512i, b: __m512i) -> __m512 {
            unsafe {
_mm512_dpbf16_ps(acc, std::mem::transmute::<__m512i, __m512bh>(a), std::mem::transmute::<__m512i, __m512bh>(b))
            }
        }
    }
}
