//! The operations that Regard's algorithms need of a vector, and no others.

/// A token of an instruction set: who holds one may run its instructions.
///
/// Operations on `f32` lanes follow IEEE 754 unless they say otherwise. `load`s and `store`s need no alignment.
/// Implementations are always inlined; to be compiled with the right instructions they must be reached through
/// [`Simd::vectorize`] (which [`Isa::run`](crate::Isa::run) does).
pub trait Simd: Copy + Send + Sync + 'static {
    /// Floats in a vector.
    const LANES: usize;
    /// Vectors side by side in a register tile of six rows: as many as the register file carries.
    const STRIPS: usize;
    /// Below this, [`math::exp2`](crate::math::exp2) gives exactly 0.
    const EXP2_MIN: f32;

    /// `LANES` floats.
    type F32: Copy;
    /// `LANES` 32-bit integers, also seen as pairs of bf16 and as quadruples of bytes.
    type I32: Copy;
    /// One bit a lane.
    type Mask: Copy;

    /// The token, out of thin air.
    ///
    /// # Safety
    /// This CPU must have the instructions: the caller holds an [`Isa`](crate::Isa) that says so.
    unsafe fn assume() -> Self;

    /// Runs `f` compiled for this instruction set. `f` and what it calls must be `#[inline(always)]`.
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R;

    /// `x` in every lane.
    fn splat(self, x: f32) -> Self::F32;
    /// `x` in every lane.
    fn splat_i32(self, x: i32) -> Self::I32;
    /// Reads `LANES` floats.
    ///
    /// # Safety
    /// `p` must be readable for `LANES` floats.
    unsafe fn load(self, p: *const f32) -> Self::F32;
    /// Writes `LANES` floats.
    ///
    /// # Safety
    /// `p` must be writable for `LANES` floats.
    unsafe fn store(self, p: *mut f32, x: Self::F32);
    /// Reads `LANES` integers.
    ///
    /// # Safety
    /// `p` must be readable for `LANES` integers.
    unsafe fn load_i32(self, p: *const i32) -> Self::I32;
    /// Writes `LANES` integers.
    ///
    /// # Safety
    /// `p` must be writable for `LANES` integers.
    unsafe fn store_i32(self, p: *mut i32, x: Self::I32);
    /// Reads `LANES` f16 numbers and widens them.
    ///
    /// # Safety
    /// `p` must be readable for `LANES` half-words.
    unsafe fn load_f16(self, p: *const u16) -> Self::F32;
    /// Rounds to f16 (to nearest, ties to even) and writes.
    ///
    /// # Safety
    /// `p` must be writable for `LANES` half-words.
    unsafe fn store_f16(self, p: *mut u16, x: Self::F32);
    /// Reads `LANES` bf16 numbers and widens them.
    ///
    /// # Safety
    /// `p` must be readable for `LANES` half-words.
    unsafe fn load_bf16(self, p: *const u16) -> Self::F32;
    /// Rounds to bf16 (to nearest, ties to even; a NaN stays one) and writes. A number below 2⁻¹²⁶ may become a zero of
    /// its sign.
    ///
    /// # Safety
    /// `p` must be writable for `LANES` half-words.
    unsafe fn store_bf16(self, p: *mut u16, x: Self::F32);
    /// Reads `LANES` signed bytes and widens them.
    ///
    /// # Safety
    /// `p` must be readable for `LANES` bytes.
    unsafe fn load_i8(self, p: *const i8) -> Self::F32;
    /// Writes the low byte of every lane.
    ///
    /// # Safety
    /// `p` must be writable for `LANES` bytes.
    unsafe fn store_low_bytes(self, p: *mut i8, x: Self::I32);

    /// Transposes a square of `LANES` rows of `LANES` 32-bit words: word `i` of row `j` goes to row `i`, word `j`.
    ///
    /// # Safety
    /// `LANES` words must be readable at `from + j·from_stride` and writable at `to + j·to_stride`, for `j < LANES`.
    unsafe fn transpose(self, from: *const i32, from_stride: usize, to: *mut i32, to_stride: usize);

    /// `a + b`.
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a − b`.
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a · b`.
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a / b`.
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `√x`.
    fn sqrt(self, x: Self::F32) -> Self::F32;
    /// `a · b + c`, rounded once where the CPU can (the portable token rounds twice).
    fn fma(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// `a` where `a > b`, else `b`: a NaN in `b` stays, a NaN in `a` is lost.
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a` where `a < b`, else `b`: a NaN in `b` stays, a NaN in `a` is lost.
    fn min(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// The nearest integer, ties to even, for |x| < 2²².
    fn round(self, x: Self::F32) -> Self::F32;
    /// `p · 2ⁿ` for integral `n` in `EXP2_MIN..=128` and `p` in `[0.7, 1.42]`, `p ≤ 1` at the upper end and `p = 1` at the
    /// lower, which gives 0. Another result below 2⁻¹²⁶ may be any number of `[0, 2⁻¹²⁶]`. A NaN in both stays. Elsewhere
    /// the result is any float.
    fn scale_by_power(self, p: Self::F32, n: Self::F32) -> Self::F32;
    /// Clears the sign.
    fn abs(self, x: Self::F32) -> Self::F32;
    /// The magnitude of `x` with the sign of `sign`.
    fn copy_sign(self, x: Self::F32, sign: Self::F32) -> Self::F32;
    /// The sum of all lanes, by halves: lane `i` and lane `i + LANES / 2`, and so on with the sums.
    fn reduce_add(self, x: Self::F32) -> f32;
    /// The maximum over lanes; NaN lanes may be ignored.
    fn reduce_max(self, x: Self::F32) -> f32;

    /// Where `a < b`.
    fn lt(self, a: Self::F32, b: Self::F32) -> Self::Mask;
    /// Lane `i` of the mask is bit `i`.
    fn mask_from_bits(self, bits: u32) -> Self::Mask;
    /// `a` where the mask is set, else `b`.
    fn select(self, mask: Self::Mask, a: Self::F32, b: Self::F32) -> Self::F32;

    /// The nearest integer, ties to even, for |x| < 2³¹.
    fn to_i32(self, x: Self::F32) -> Self::I32;
    /// Exact for |x| < 2²⁴.
    fn to_f32(self, x: Self::I32) -> Self::F32;
    /// `a + b`, wrapping.
    fn add_i32(self, a: Self::I32, b: Self::I32) -> Self::I32;
    /// `a & b`.
    fn and(self, a: Self::I32, b: Self::I32) -> Self::I32;
    /// Logical shift left by `N` in `1..32`.
    fn shl<const N: i32>(self, a: Self::I32) -> Self::I32;
    /// Logical shift right by `N` in `1..32`.
    fn shr<const N: i32>(self, a: Self::I32) -> Self::I32;
    /// Logical shift right of all lanes by `n` in `0..32`, which need not be a constant.
    fn shr_by(self, a: Self::I32, n: u32) -> Self::I32;
    /// The bits of a float vector.
    fn to_bits(self, x: Self::F32) -> Self::I32;
    /// The float vector with these bits.
    #[allow(clippy::wrong_self_convention, reason = "the name that floats have for it; `self` is the token")]
    fn from_bits(self, x: Self::I32) -> Self::F32;

    /// `acc + a₀·b₀ + a₁·b₁` over the pairs of bf16 in each lane (index 0 is the low half), accumulated in f32. How
    /// often the sum is rounded is the instruction set's choice, and so is whether numbers below 2⁻¹²⁶ count as 0.
    #[inline(always)]
    fn dot_bf16(self, acc: Self::F32, a: Self::I32, b: Self::I32) -> Self::F32 {
        let high = self.splat_i32(0xFFFF_0000_u32 as i32);
        let (a0, b0) = (self.from_bits(self.shl::<16>(a)), self.from_bits(self.shl::<16>(b)));
        let (a1, b1) = (self.from_bits(self.and(a, high)), self.from_bits(self.and(b, high)));
        self.fma(a1, b1, self.fma(a0, b0, acc))
    }

    /// Rounds both to bf16 as [`Simd::store_bf16`] does, and makes a pair of them in each lane.
    #[inline(always)]
    fn pair_bf16(self, low: Self::F32, high: Self::F32) -> Self::I32 {
        let upper = self.and(rounded_to_bf16(self, high), self.splat_i32(0xFFFF_0000_u32 as i32));
        self.add_i32(self.shr::<16>(rounded_to_bf16(self, low)), upper)
    }

    /// `acc + Σ uᵢ·xᵢ` over the four unsigned bytes `u` and signed bytes `x` in each lane, exactly.
    fn dot_u8_i8(self, acc: Self::I32, u: Self::I32, x: Self::I32) -> Self::I32;

    /// [`Simd::dot_u8_i8`] for `u` below 128, which some CPUs multiply faster.
    #[inline(always)]
    fn dot_u7_i8(self, acc: Self::I32, u: Self::I32, x: Self::I32) -> Self::I32 {
        self.dot_u8_i8(acc, u, x)
    }
}

/// The bits of floats whose upper halves are bf16, rounded; a NaN keeps its upper half, and is made quiet so that this is
/// one.
#[inline(always)]
fn rounded_to_bf16<S: Simd>(s: S, x: S::F32) -> S::I32 {
    let bits = s.to_bits(x);
    let odd = s.and(s.shr::<16>(bits), s.splat_i32(1));
    let rounded = s.add_i32(s.add_i32(bits, s.splat_i32(0x7FFF)), odd);
    let finite = s.lt(s.abs(x), s.splat(f32::INFINITY));
    s.to_bits(s.select(finite, s.from_bits(rounded), s.add(x, x)))
}
