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

const OPEN: u64 = 1 << 31;
const INSIDE: u64 = OPEN - 1;
const JOB: u64 = 1 << 32;

impl Gate {
    /// Opens the gate for a new job. The gate is closed and nobody is inside.
    pub(crate) fn open(&self) {
        let job = self.0.load(Relaxed) & !(JOB - 1);
        self.0.store(job.wrapping_add(JOB) | OPEN, SeqCst);
    }

    /// Lets nobody in any more.
    pub(crate) fn close(&self) {
        self.0.fetch_and(!OPEN, SeqCst);
    }

    /// Whether nobody is inside.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.load(SeqCst) & INSIDE == 0
    }

    /// Goes inside, if the gate is open for another job than `last`, which is then that job.
    pub(crate) fn enter(&self, last: &mut u64) -> bool {
        let entered = self
            .0
            .fetch_update(SeqCst, SeqCst, |word| (word & OPEN != 0 && word & !(JOB - 1) != *last).then_some(word + 1));
        if let Ok(word) = entered {
            *last = word & !(JOB - 1);
        }
        entered.is_ok()
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
        assert!(!gate.enter(&mut first));
        for _ in 0..3 {
            gate.open();
            assert!(gate.enter(&mut first));
            assert!(!gate.enter(&mut first));
            assert!(gate.enter(&mut second));
            assert!(!gate.leave());
            assert!(!gate.is_empty());
            gate.close();
            assert!(!gate.enter(&mut 0));
            assert!(gate.leave());
            assert!(gate.is_empty());
        }
    }
}
