//! Hints that memory will soon be used.

use crate::LINE;

/// Gives a hint about a line, by its names on x86-64 and on aarch64; elsewhere nothing.
macro_rules! hint {
    ($address:expr, $x86:ident, $arm:literal) => {{
        let address = $address;
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        // SAFETY: a prefetch neither reads nor writes as far as the program can tell, and ignores bad addresses; a CPU that lacks
        // this one does nothing.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::$x86 }>(address.cast());
        }
        #[cfg(all(target_arch = "aarch64", not(miri)))]
        // SAFETY: as above; PRFM is a hint that does not fault.
        unsafe {
            std::arch::asm!(concat!("prfm ", $arm, ", [{0}]"), in(reg) address, options(nostack, readonly, preserves_flags));
        }
        let _ = address;
    }};
}

/// Starts to bring the 64-byte line at this address into the cache, to be read. A hint: it has no other effect, never
/// faults, and may be given any address, also one past the end of what is there.
///
/// ```
/// let values = [1.0f32; 64];
/// regard_memory::prefetch_read(values.as_ptr().wrapping_add(1000));
/// ```
#[inline(always)]
pub fn prefetch_read<T>(address: *const T) {
    hint!(address, _MM_HINT_T0, "pldl1keep");
}

/// As [`prefetch_read`], into the second cache only: for long streams that are read once. With hints for the first one, two
/// cores of a Zen 4 read a stream at half to three quarters of what they reach with these; the few lines that it lets be on their
/// way at once are the likely reason.
///
/// ```
/// let values = [1.0f32; 64];
/// regard_memory::prefetch_stream(values.as_ptr().wrapping_add(4096));
/// ```
#[inline(always)]
pub fn prefetch_stream<T>(address: *const T) {
    hint!(address, _MM_HINT_T1, "pldl2keep");
}

/// [`prefetch_read`] of every line of some numbers.
///
/// ```
/// regard_memory::prefetch_row(&[1.0f32; 64]);
/// ```
#[inline(always)]
pub fn prefetch_row<T>(row: &[T]) {
    let first = row.as_ptr().cast::<u8>();
    (0..size_of_val(row)).step_by(LINE).for_each(|at| prefetch_read(first.wrapping_add(at)));
}

/// As [`prefetch_read`], for a line that will be written to: other cores give up their copies ahead of the write.
#[inline(always)]
pub fn prefetch_write<T>(address: *mut T) {
    hint!(address.cast_const(), _MM_HINT_ET0, "pstl1keep");
}
