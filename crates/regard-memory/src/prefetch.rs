//! Hints that memory will soon be used.

use crate::LINE;

/// Starts to bring the 64-byte line at this address into the cache, to be read. A hint: it has no other effect, never
/// faults, and may be given any address, also one past the end of what is there.
///
/// ```
/// let values = [1.0f32; 64];
/// regard_memory::prefetch_read(values.as_ptr().wrapping_add(1000));
/// ```
#[inline(always)]
pub fn prefetch_read<T>(address: *const T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch neither reads nor writes as far as the program can tell, and ignores bad addresses.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
    }
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    // SAFETY: as above; PRFM is a hint that does not fault.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{0}]", in(reg) address, options(nostack, readonly, preserves_flags));
    }
    let _ = address;
}

/// As [`prefetch_read`], into the second cache only. The first has room for few lines that are on their way (24 on Zen 4,
/// which is 16 GB/s at 100 ns), and hints for it keep the CPU's own prefetcher from running ahead: streams of memory that are
/// read once want this one.
#[inline(always)]
pub fn prefetch_stream<T>(address: *const T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: as in `prefetch_read`.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) };
    }
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    // SAFETY: as in `prefetch_read`.
    unsafe {
        std::arch::asm!("prfm pldl2keep, [{0}]", in(reg) address, options(nostack, readonly, preserves_flags));
    }
    let _ = address;
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
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
        // SAFETY: as in `prefetch_read`; a CPU without PREFETCHW does nothing.
        unsafe { _mm_prefetch::<_MM_HINT_ET0>(address.cast_const().cast()) };
    }
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    // SAFETY: as in `prefetch_read`.
    unsafe {
        std::arch::asm!("prfm pstl1keep, [{0}]", in(reg) address, options(nostack, readonly, preserves_flags));
    }
    let _ = address;
}
