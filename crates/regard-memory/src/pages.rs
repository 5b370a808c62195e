//! The size of the pages that a buffer lies on.

use std::mem::MaybeUninit;
#[cfg(all(target_os = "linux", not(miri)))]
use std::sync::OnceLock;

/// Bytes in a huge page of x86-64, and of aarch64 with 4 KiB base pages.
pub(crate) const HUGE: usize = 2 << 20;

/// The pages that a buffer lies on.
///
/// Huge pages spare the address translation of long streams (packed weights, key/value caches): one entry of the TLB
/// covers 2 MiB instead of 4 KiB. They cost up to 2 MiB of rounding and alignment per buffer, and touching one byte makes
/// 2 MiB resident.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Pages {
    /// The system's usual pages.
    #[default]
    Normal,
    /// Pages of 2 MiB. A wish: see [`AlignedBuffer::pages`](crate::AlignedBuffer::pages) for what was granted.
    Huge,
}

/// Asks for huge pages under memory that another library has taken and nobody has written yet, as far as it covers whole
/// ones. Where that is nowhere, or the system takes no such advice, nothing happens.
///
/// ```
/// let mut numbers: Vec<u8> = Vec::with_capacity(8 << 20);
/// regard_memory::advise_huge(numbers.spare_capacity_mut());
/// ```
pub fn advise_huge(memory: &mut [MaybeUninit<u8>]) {
    let start: *mut u8 = memory.as_mut_ptr().cast();
    let before = start.addr().next_multiple_of(HUGE) - start.addr();
    let bytes = memory.len().saturating_sub(before) / HUGE * HUGE;
    if bytes > 0 {
        advise(start.wrapping_add(before), bytes);
    }
}

/// Asks for huge pages under `bytes` bytes from `start`, and says what was granted. Nothing is read or written.
#[cfg(all(target_os = "linux", not(miri)))]
pub(crate) fn advise(start: *mut u8, bytes: usize) -> Pages {
    // SAFETY: this advice changes no contents and leaves pages that are not the caller's as valid as they were; the
    // kernel refuses a range that is not mapped.
    let granted = available() && unsafe { libc::madvise(start.cast(), bytes, libc::MADV_HUGEPAGE) } == 0;
    if granted { Pages::Huge } else { Pages::Normal }
}

/// Only Linux takes advice on pages.
#[cfg(any(not(target_os = "linux"), miri))]
pub(crate) fn advise(_start: *mut u8, _bytes: usize) -> Pages {
    Pages::Normal
}

/// Whether the kernel heeds the advice. `madvise` itself succeeds even where the administrator has said `never`.
#[cfg(all(target_os = "linux", not(miri)))]
fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled")
            .is_ok_and(|modes| modes.contains("[madvise]") || modes.contains("[always]"))
    })
}
