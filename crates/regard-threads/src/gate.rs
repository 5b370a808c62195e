//! Who is working on the current job.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

/// One word that says which job is on (the upper half), whether it still lets helpers in, and how many are inside.
///
/// Because these change together, the caller need not wait for helpers that have not come: once all tasks are handed out
/// it closes the gate, and then waits for those inside only. A job so short that the caller does it alone costs no more
/// than opening and closing.
///
/// All orderings are `SeqCst`, because the gate is the one half of two handshakes: with a helper that goes to sleep (it
/// says so, then looks at the gate; the caller opens the gate, then looks who sleeps), and with a caller that does.
#[derive(Debug, Default)]
#[repr(align(128))] // Alone on its line, and on the neighbour that the prefetcher takes along.
pub(crate) struct Gate(AtomicU64);

/// The number of the job, which wraps: a helper only has to tell a new one from its last.
const JOB: u64 = !(NEXT_JOB - 1);
const NEXT_JOB: u64 = 1 << 32;
/// Helpers may come in.
const OPEN: u64 = 1 << 31;
/// There will be no more jobs.
const OVER: u64 = 1 << 30;
/// How many are inside.
const INSIDE: u64 = OVER - 1;

/// What a helper finds when it looks at the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// It is in.
    Entered,
    /// There is no job that it has not been at.
    Nothing,
    /// There will be no more jobs.
    Over,
}

impl Gate {
    /// Opens the gate for a new job. The gate is closed and nobody is inside.
    pub(crate) fn open(&self) {
        let job = self.0.load(Relaxed) & JOB;
        self.0.store(job.wrapping_add(NEXT_JOB) | OPEN, SeqCst);
    }

    /// Lets nobody in any more.
    pub(crate) fn close(&self) {
        self.0.fetch_and(!OPEN, SeqCst);
    }

    /// Says that there will be no more jobs. The gate is closed.
    pub(crate) fn end(&self) {
        self.0.fetch_or(OVER, SeqCst);
    }

    /// Whether nobody is inside.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.load(SeqCst) & INSIDE == 0
    }

    /// Goes inside, if the gate is open for another job than `last`, which is then that job.
    pub(crate) fn enter(&self, last: &mut u64) -> Look {
        let entered =
            self.0.fetch_update(SeqCst, SeqCst, |word| (word & OPEN != 0 && word & JOB != *last).then_some(word + 1));
        match entered {
            Ok(word) => {
                *last = word & JOB;
                Look::Entered
            }
            Err(word) if word & OVER != 0 => Look::Over,
            Err(_) => Look::Nothing,
        }
    }

    /// Leaves, and says whether this was the last one out of a closed gate.
    pub(crate) fn leave(&self) -> bool {
        self.0.fetch_sub(1, SeqCst) & (OPEN | INSIDE) == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_entered_once_by_each_and_while_it_is_open() {
        let gate = Gate::default();
        let (mut first, mut second) = (0, 0);
        assert_eq!(gate.enter(&mut first), Look::Nothing);
        for _ in 0..3 {
            gate.open();
            assert_eq!(gate.enter(&mut first), Look::Entered);
            assert_eq!(gate.enter(&mut first), Look::Nothing);
            assert_eq!(gate.enter(&mut second), Look::Entered);
            assert!(!gate.leave());
            assert!(!gate.is_empty());
            gate.close();
            assert_eq!(gate.enter(&mut 0), Look::Nothing);
            assert!(gate.leave());
            assert!(gate.is_empty());
        }
        gate.end();
        assert_eq!(gate.enter(&mut first), Look::Over);
    }

    #[test]
    fn the_last_one_out_of_an_open_gate_is_not_the_last() {
        let gate = Gate::default();
        gate.open();
        assert_eq!(gate.enter(&mut 0), Look::Entered);
        assert!(!gate.leave());
        assert_eq!(gate.enter(&mut 0), Look::Entered);
        gate.close();
        assert!(gate.leave());
    }
}
