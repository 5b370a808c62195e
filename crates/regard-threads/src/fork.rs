//! Noticing that the process is a forked copy.

/// How many forks lie between this process and the one that first asked. Threads started at another generation do not
/// exist here: `fork` copies the calling thread alone.
///
/// It costs one load; asking for the process's id would be a system call for every parallel loop.
#[cfg(all(unix, not(miri)))]
pub(crate) fn generation() -> u64 {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    static FORKS: AtomicU64 = AtomicU64::new(0);
    static WATCH: OnceLock<()> = OnceLock::new();

    extern "C" fn count() {
        FORKS.fetch_add(1, Relaxed);
    }

    WATCH.get_or_init(|| {
        // SAFETY: the handler only adds to an atomic, which is allowed in a forked child.
        let refused = unsafe { libc::pthread_atfork(None, None, Some(count)) };
        assert_eq!(refused, 0, "no memory to watch for forks");
    });
    FORKS.load(Relaxed)
}

/// Without `fork` there is one generation.
#[cfg(any(not(unix), miri))]
pub(crate) fn generation() -> u64 {
    0
}
