//! On which CPUs threads may run.

#[cfg(all(target_os = "linux", not(miri)))]
pub(crate) use linux::{Cpus, Thread};
#[cfg(not(all(target_os = "linux", not(miri))))]
pub(crate) use nowhere::{Cpus, Thread};

#[cfg(all(target_os = "linux", not(miri)))]
mod linux {
    use std::io;

    /// A thread, as the system numbers it.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Thread(libc::pid_t);

    impl Thread {
        /// The one that asks.
        pub(crate) fn current() -> Self {
            // SAFETY: it cannot fail.
            Self(unsafe { libc::gettid() })
        }
    }

    /// A set of CPUs.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Cpus(libc::cpu_set_t);

    impl Cpus {
        /// None.
        fn none() -> Self {
            // SAFETY: a set of CPUs is plain bits, and none of them set is the empty set.
            Self(unsafe { std::mem::zeroed() })
        }

        /// These; `None` if one has too high a number.
        pub(crate) fn these(cpus: &[usize]) -> Option<Self> {
            let mut set = Self::none();
            for &cpu in cpus {
                if cpu >= 8 * size_of_val(&set.0) {
                    return None;
                }
                // SAFETY: the set has a bit for it.
                unsafe { libc::CPU_SET(cpu, &mut set.0) };
            }
            Some(set)
        }

        /// Those that a thread may run on, if the system tells.
        pub(crate) fn of(thread: Thread) -> Option<Self> {
            let mut set = Self::none();
            // SAFETY: the set is as large as is said.
            let refused = unsafe { libc::sched_getaffinity(thread.0, size_of_val(&set.0), &raw mut set.0) };
            (refused == 0).then_some(set)
        }

        /// All but the one on which the calling thread is at the moment; `None` if it is no other, or nothing would be left.
        pub(crate) fn but_this(mut self) -> Option<Self> {
            // SAFETY: it only asks.
            let here = usize::try_from(unsafe { libc::sched_getcpu() }).ok()?;
            // SAFETY: the set has a bit for what is below its length.
            if here >= 8 * size_of_val(&self.0) || !unsafe { libc::CPU_ISSET(here, &self.0) } {
                return None;
            }
            // SAFETY: as above.
            unsafe { libc::CPU_CLR(here, &mut self.0) };
            // SAFETY: it only counts.
            (unsafe { libc::CPU_COUNT(&self.0) } > 0).then_some(self)
        }

        /// Lets a thread run on these alone.
        ///
        /// # Errors
        /// The system refuses, as it does where none of these CPUs may be used.
        pub(crate) fn hold(&self, thread: Thread) -> io::Result<()> {
            // SAFETY: the set is as large as is said.
            match unsafe { libc::sched_setaffinity(thread.0, size_of_val(&self.0), &raw const self.0) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        }
    }
}

/// Where the system knows no way, nothing is known and nothing changes.
#[cfg(not(all(target_os = "linux", not(miri))))]
mod nowhere {
    use std::io;

    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Thread;

    impl Thread {
        pub(crate) fn current() -> Self {
            Self
        }
    }

    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Cpus;

    impl Cpus {
        pub(crate) fn these(_cpus: &[usize]) -> Option<Self> {
            Some(Self)
        }

        pub(crate) fn of(_thread: Thread) -> Option<Self> {
            None
        }

        pub(crate) fn but_this(self) -> Option<Self> {
            None
        }

        pub(crate) fn hold(&self, _thread: Thread) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }
}
