//! What a product multiplies: how one step of it is stored, loaded and added up.

use half::{bf16, f16};
use regard_memory::Pod;
use regard_simd::math::exp2_of_each;
use regard_simd::{Isa, Kernel, Simd};

use crate::Number;
use crate::compiled::Compiled;

/// The storage of the two sides of a product `C = A·B` along the axis that is summed over.
///
/// `A` is read one word at a time and spread over a vector; `B` is read a vector at a time. One *step* sums over
/// `DEPTH` elements. The trait is sealed: [`F32`], [`F16`], [`Bf16`] and [`Int8`] implement
/// it.
pub trait Operand: Copy + Send + Sync + 'static + Compiled {
    /// Elements that one step sums over.
    const DEPTH: usize;
    /// Whether numbers of `B` stand for multiples of themselves: each row has a scale.
    const SCALED: bool = false;
    /// The least number that is stored as ∞ in `B`.
    const OVERFLOW: f32;
    /// A step of one row of `A`.
    type A: Pod + Default + Send + Sync;
    /// A step of one column of `B`.
    type B: Pod + Default + Send + Sync;
    /// A vector of either.
    type Vector<S: Simd>: Copy;

    /// Spreads the step at `p` over a vector.
    ///
    /// # Safety
    /// `p` must be readable.
    unsafe fn spread<S: Simd>(s: S, p: *const Self::A) -> Self::Vector<S>;
    /// Loads a step of `LANES` columns.
    ///
    /// # Safety
    /// `p` must be readable for `LANES` columns.
    unsafe fn load<S: Simd>(s: S, p: *const Self::B) -> Self::Vector<S>;
    /// `c + a·b`.
    fn multiply_add<S: Simd>(s: S, c: S::F32, a: Self::Vector<S>, b: Self::Vector<S>) -> S::F32;
    /// `2ˣ` of several vectors for `x ≤ 0`, as exactly as this operand's weights can hold it.
    fn exp2<S: Simd, const N: usize>(s: S, x: [S::F32; N]) -> [S::F32; N];
    /// Writes `LANES` elements of a row of `A`, from element `at` on.
    ///
    /// # Safety
    /// The row must be writable there.
    unsafe fn store<S: Simd>(s: S, row: *mut Self::A, at: usize, x: S::F32);
    /// Element `k` of a row of `A`.
    fn weight(row: &[Self::A], k: usize) -> f32;
    /// The element of `B` at row `k` and column `column`, rows `width` words apart.
    fn value(rows: &[Self::B], width: usize, k: usize, column: usize) -> f32;
    /// Writes element `k` of a row of `A`.
    fn put(row: &mut [Self::A], k: usize, x: f32);
    /// Writes numbers as steps of one column of `B`, a word a step.
    fn stage<S: Simd, T: Number>(s: S, from: &[T], to: &mut [Self::B]);
    /// Transposes a stage of 16 rows of `B` words, `from_stride` apart, into `steps` rows of 16 words, `to_stride` apart.
    fn transpose<S: Simd>(
        s: S,
        from: &[Self::B],
        from_stride: usize,
        steps: usize,
        to: &mut [Self::B],
        to_stride: usize,
    );
    /// Writes numbers as element `within` of a row of steps of `B`, a word a column. The elements behind it become 0.
    fn put_value<S: Simd, T: Number>(s: S, from: &[T], within: usize, to: &mut [Self::B]);
    /// Writes 0 as element `within` of each of these words, and behind it.
    fn clear_value(within: usize, to: &mut [Self::B]);
    /// Writes the element `from_within` of a step of `B` as element `within` of another, the elements behind it as 0.
    fn move_value(from: Self::B, from_within: usize, within: usize, to: &mut Self::B);
    /// Runs a kernel with the instructions that this operand gains from.
    fn run<K: Kernel>(isa: Isa, kernel: K) -> K::Output;
}

/// Single precision on both sides.
#[derive(Clone, Copy, Debug)]
pub struct F32;

/// `A` in single precision, `B` in half precision, widened as it is loaded.
#[derive(Clone, Copy, Debug)]
pub struct F16;

/// Pairs of bf16 on both sides, accumulated in single precision. A word holds elements `2k` (low half) and `2k + 1`.
#[derive(Clone, Copy, Debug)]
pub struct Bf16;

/// `A` in single precision, `B` in signed bytes, widened as they are loaded: whole numbers of −127 to 127, each row of
/// which stands for itself times a scale ([`Kernels::pack_keys_int8`](crate::Kernels::pack_keys_int8)).
#[derive(Clone, Copy, Debug)]
pub struct Int8;

impl Operand for F32 {
    const DEPTH: usize = 1;
    const OVERFLOW: f32 = f32::INFINITY;
    type A = f32;
    type B = f32;
    type Vector<S: Simd> = S::F32;

    #[inline(always)]
    unsafe fn spread<S: Simd>(s: S, p: *const f32) -> S::F32 {
        // SAFETY: the caller's.
        s.splat(unsafe { *p })
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const f32) -> S::F32 {
        // SAFETY: the caller's.
        unsafe { s.load(p) }
    }
    #[inline(always)]
    fn multiply_add<S: Simd>(s: S, c: S::F32, a: S::F32, b: S::F32) -> S::F32 {
        s.fma(a, b, c)
    }
    #[inline(always)]
    fn exp2<S: Simd, const N: usize>(s: S, x: [S::F32; N]) -> [S::F32; N] {
        exp2_of_each::<S, 5, N>(s, x)
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, row: *mut f32, at: usize, x: S::F32) {
        // SAFETY: the caller's.
        unsafe { s.store(row.add(at), x) }
    }
    fn weight(row: &[f32], k: usize) -> f32 {
        row[k]
    }
    fn value(rows: &[f32], width: usize, k: usize, column: usize) -> f32 {
        rows[k * width + column]
    }
    fn put(row: &mut [f32], k: usize, x: f32) {
        row[k] = x;
    }
    #[inline(always)]
    fn stage<S: Simd, T: Number>(s: S, from: &[T], to: &mut [f32]) {
        widen(s, from, to);
    }
    #[inline(always)]
    fn transpose<S: Simd>(s: S, from: &[f32], from_stride: usize, steps: usize, to: &mut [f32], to_stride: usize) {
        transpose_words(s, from, from_stride, steps, to, to_stride);
    }
    #[inline(always)]
    fn put_value<S: Simd, T: Number>(s: S, from: &[T], _within: usize, to: &mut [f32]) {
        widen(s, from, to);
    }
    fn clear_value(_within: usize, to: &mut [f32]) {
        to.fill(0.0);
    }
    fn move_value(from: Self::B, _from_within: usize, _within: usize, to: &mut Self::B) {
        *to = from;
    }
    fn run<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
        isa.run(kernel)
    }
}

impl Operand for F16 {
    const DEPTH: usize = 1;
    const OVERFLOW: f32 = 65520.0;
    type A = f32;
    type B = u16;
    type Vector<S: Simd> = S::F32;

    #[inline(always)]
    unsafe fn spread<S: Simd>(s: S, p: *const f32) -> S::F32 {
        // SAFETY: the caller's.
        s.splat(unsafe { *p })
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u16) -> S::F32 {
        // SAFETY: the caller's.
        unsafe { s.load_f16(p) }
    }
    #[inline(always)]
    fn multiply_add<S: Simd>(s: S, c: S::F32, a: S::F32, b: S::F32) -> S::F32 {
        s.fma(a, b, c)
    }
    #[inline(always)]
    fn exp2<S: Simd, const N: usize>(s: S, x: [S::F32; N]) -> [S::F32; N] {
        exp2_of_each::<S, 5, N>(s, x)
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, row: *mut f32, at: usize, x: S::F32) {
        // SAFETY: the caller's.
        unsafe { s.store(row.add(at), x) }
    }
    fn weight(row: &[f32], k: usize) -> f32 {
        row[k]
    }
    fn value(rows: &[u16], width: usize, k: usize, column: usize) -> f32 {
        f16::from_bits(rows[k * width + column]).to_f32()
    }
    fn put(row: &mut [f32], k: usize, x: f32) {
        row[k] = x;
    }
    #[inline(always)]
    fn stage<S: Simd, T: Number>(s: S, from: &[T], to: &mut [u16]) {
        let whole = from.len() / S::LANES * S::LANES;
        for at in (0..whole).step_by(S::LANES) {
            // SAFETY: both slices hold `at + LANES` elements.
            unsafe { s.store_f16(to[at..][..S::LANES].as_mut_ptr(), T::load(s, from[at..][..S::LANES].as_ptr())) };
        }
        for (to, from) in to[whole..].iter_mut().zip(&from[whole..]) {
            *to = f16::from_f32(from.to_f32()).to_bits();
        }
    }
    #[inline(always)]
    fn transpose<S: Simd>(_s: S, from: &[u16], from_stride: usize, steps: usize, to: &mut [u16], to_stride: usize) {
        for step in 0..steps {
            for (r, to) in to[step * to_stride..][..16].iter_mut().enumerate() {
                *to = from[r * from_stride + step];
            }
        }
    }
    #[inline(always)]
    fn put_value<S: Simd, T: Number>(s: S, from: &[T], _within: usize, to: &mut [u16]) {
        Self::stage(s, from, to);
    }
    fn clear_value(_within: usize, to: &mut [u16]) {
        to.fill(0);
    }
    fn move_value(from: Self::B, _from_within: usize, _within: usize, to: &mut Self::B) {
        *to = from;
    }
    fn run<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
        isa.run(kernel)
    }
}

impl Operand for Bf16 {
    const DEPTH: usize = 2;
    const OVERFLOW: f32 = f32::from_bits(0x7F7F_8000);
    type A = u32;
    type B = u32;
    type Vector<S: Simd> = S::I32;

    #[inline(always)]
    unsafe fn spread<S: Simd>(s: S, p: *const u32) -> S::I32 {
        // SAFETY: the caller's.
        s.splat_i32(unsafe { *p } as i32)
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const u32) -> S::I32 {
        // SAFETY: the caller's.
        unsafe { s.load_i32(p.cast()) }
    }
    #[inline(always)]
    fn multiply_add<S: Simd>(s: S, c: S::F32, a: S::I32, b: S::I32) -> S::F32 {
        s.dot_bf16(c, a, b)
    }
    #[inline(always)]
    fn exp2<S: Simd, const N: usize>(s: S, x: [S::F32; N]) -> [S::F32; N] {
        // 1e-4 off, where rounding to bf16 is 2e-3 off.
        exp2_of_each::<S, 3, N>(s, x)
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, row: *mut u32, at: usize, x: S::F32) {
        // SAFETY: the caller's; a word holds two elements.
        unsafe { s.store_bf16(row.cast::<u16>().add(at), x) }
    }
    fn weight(row: &[u32], k: usize) -> f32 {
        half_of(row[k / 2], k)
    }
    fn value(rows: &[u32], width: usize, k: usize, column: usize) -> f32 {
        half_of(rows[k / 2 * width + column], k)
    }
    fn put(row: &mut [u32], k: usize, x: f32) {
        put_half(&mut row[k / 2], k, x);
    }
    #[inline(always)]
    fn stage<S: Simd, T: Number>(s: S, from: &[T], to: &mut [u32]) {
        let whole = from.len() / S::LANES * S::LANES;
        for at in (0..whole).step_by(S::LANES) {
            // SAFETY: both slices hold `at + LANES` elements, two to a word of `to`.
            unsafe {
                let to = to[at / 2..][..S::LANES / 2].as_mut_ptr();
                s.store_bf16(to.cast(), T::load(s, from[at..][..S::LANES].as_ptr()));
            }
        }
        for k in whole..from.len().next_multiple_of(2) {
            put_half(&mut to[k / 2], k, from.get(k).map_or(0.0, |x| x.to_f32()));
        }
    }
    #[inline(always)]
    fn transpose<S: Simd>(s: S, from: &[u32], from_stride: usize, steps: usize, to: &mut [u32], to_stride: usize) {
        transpose_words(s, from, from_stride, steps, to, to_stride);
    }
    #[inline(always)]
    fn put_value<S: Simd, T: Number>(_s: S, from: &[T], within: usize, to: &mut [u32]) {
        for (to, from) in to.iter_mut().zip(from) {
            put_value(to, within, from.to_f32());
        }
    }
    fn clear_value(within: usize, to: &mut [u32]) {
        to.iter_mut().for_each(|word| put_value(word, within, 0.0));
    }
    fn move_value(from: u32, from_within: usize, within: usize, to: &mut u32) {
        put_value_bits(to, within, (from >> (16 * from_within)) as u16);
    }
    fn run<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
        isa.run_bf16(kernel)
    }
}

impl Operand for Int8 {
    const DEPTH: usize = 1;
    const SCALED: bool = true;
    const OVERFLOW: f32 = f32::INFINITY;
    type A = f32;
    type B = i8;
    type Vector<S: Simd> = S::F32;

    #[inline(always)]
    unsafe fn spread<S: Simd>(s: S, p: *const f32) -> S::F32 {
        // SAFETY: the caller's.
        s.splat(unsafe { *p })
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const i8) -> S::F32 {
        // SAFETY: the caller's.
        unsafe { s.load_i8(p) }
    }
    #[inline(always)]
    fn multiply_add<S: Simd>(s: S, c: S::F32, a: S::F32, b: S::F32) -> S::F32 {
        s.fma(a, b, c)
    }
    #[inline(always)]
    fn exp2<S: Simd, const N: usize>(s: S, x: [S::F32; N]) -> [S::F32; N] {
        exp2_of_each::<S, 5, N>(s, x)
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, row: *mut f32, at: usize, x: S::F32) {
        // SAFETY: the caller's.
        unsafe { s.store(row.add(at), x) }
    }
    fn weight(row: &[f32], k: usize) -> f32 {
        row[k]
    }
    fn value(rows: &[i8], width: usize, k: usize, column: usize) -> f32 {
        f32::from(rows[k * width + column])
    }
    fn put(row: &mut [f32], k: usize, x: f32) {
        row[k] = x;
    }
    #[inline(always)]
    fn stage<S: Simd, T: Number>(s: S, from: &[T], to: &mut [i8]) {
        let (least, most) = (s.splat(-127.0), s.splat(127.0));
        let whole = from.len() / S::LANES * S::LANES;
        for at in (0..whole).step_by(S::LANES) {
            // SAFETY: both slices hold `at + LANES` elements.
            unsafe {
                let x = T::load(s, from[at..][..S::LANES].as_ptr());
                s.store_low_bytes(to[at..][..S::LANES].as_mut_ptr(), s.to_i32(s.max(least, s.min(most, x))));
            }
        }
        for (to, from) in to[whole..].iter_mut().zip(&from[whole..]) {
            *to = from.to_f32().clamp(-127.0, 127.0).round_ties_even() as i8;
        }
    }
    #[inline(always)]
    fn transpose<S: Simd>(_s: S, from: &[i8], from_stride: usize, steps: usize, to: &mut [i8], to_stride: usize) {
        for step in 0..steps {
            for (r, to) in to[step * to_stride..][..16].iter_mut().enumerate() {
                *to = from[r * from_stride + step];
            }
        }
    }
    #[inline(always)]
    fn put_value<S: Simd, T: Number>(s: S, from: &[T], _within: usize, to: &mut [i8]) {
        Self::stage(s, from, to);
    }
    fn clear_value(_within: usize, to: &mut [i8]) {
        to.fill(0);
    }
    fn move_value(from: i8, _from_within: usize, _within: usize, to: &mut i8) {
        *to = from;
    }
    fn run<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
        isa.run(kernel)
    }
}

/// The low half of a pair for an even element, the high half for an odd one.
fn half_of(pair: u32, k: usize) -> f32 {
    bf16::from_bits((pair >> (16 * (k % 2))) as u16).to_f32()
}

/// Sets the low half of a pair and clears the high one for an even element, sets the high half for an odd one.
#[inline(always)]
fn put_value(pair: &mut u32, k: usize, x: f32) {
    put_value_bits(pair, k, bf16::from_f32(x).to_bits());
}

#[inline(always)]
fn put_value_bits(pair: &mut u32, k: usize, bits: u16) {
    let bits = u32::from(bits);
    *pair = if k == 0 { bits } else { *pair & 0xFFFF | bits << 16 };
}

/// Sets the low half of a pair for an even element, the high half for an odd one.
#[inline(always)]
fn put_half(pair: &mut u32, k: usize, x: f32) {
    let shift = 16 * (k % 2);
    *pair = *pair & !(0xFFFF << shift) | u32::from(bf16::from_f32(x).to_bits()) << shift;
}

/// Writes numbers as f32.
#[inline(always)]
fn widen<S: Simd, T: Number>(s: S, from: &[T], to: &mut [f32]) {
    let whole = from.len() / S::LANES * S::LANES;
    for at in (0..whole).step_by(S::LANES) {
        // SAFETY: both slices hold `at + LANES` elements.
        unsafe { s.store(to[at..][..S::LANES].as_mut_ptr(), T::load(s, from[at..][..S::LANES].as_ptr())) };
    }
    for (to, from) in to[whole..].iter_mut().zip(&from[whole..]) {
        *to = from.to_f32();
    }
}

/// Transposes 16 rows of 32-bit words: squares of vectors while whole ones fit, then word by word.
#[inline(always)]
fn transpose_words<S: Simd, W: Copy>(
    s: S,
    from: &[W],
    from_stride: usize,
    steps: usize,
    to: &mut [W],
    to_stride: usize,
) {
    const { assert!(size_of::<W>() == 4) };
    assert!(steps == 0 || (from.len() >= 15 * from_stride + steps && to.len() >= (steps - 1) * to_stride + 16));
    let whole = steps / S::LANES * S::LANES;
    for r in (0..16).step_by(S::LANES) {
        for step in (0..whole).step_by(S::LANES) {
            let (from, to) = (&from[r * from_stride + step..], &mut to[step * to_stride + r..]);
            // SAFETY: words of 32 bits; rows `r..r + LANES` and steps `step..step + LANES` are within, asserted above.
            unsafe { s.transpose(from.as_ptr().cast(), from_stride, to.as_mut_ptr().cast(), to_stride) };
        }
    }
    for step in whole..steps {
        for r in 0..16 {
            to[step * to_stride + r] = from[r * from_stride + step];
        }
    }
}
