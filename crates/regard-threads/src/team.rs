//! The threads of a pool, and how they come to one job and leave it.

use std::any::Any;
use std::cell::Cell;
use std::hint;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Release, SeqCst};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::affinity::{Cpus, Thread};
use crate::fork;
use crate::gate::{Gate, Look};
use crate::interrupt::{EVERY, interrupted};

/// What every member of a team does for a job: it is called once by each that comes, with that member's number.
type Body<'a> = dyn Fn(usize) + Sync + 'a;

/// Helpers that wait for a caller's jobs. One caller at a time has the team.
#[derive(Debug)]
pub(crate) struct Team {
    shared: Arc<Shared>,
    /// Helper `i` is member `i + 1` of the team; the caller is member 0.
    helpers: Vec<JoinHandle<()>>,
    /// The generation of processes in which the helpers exist.
    generation: u64,
}

/// What a helper without work looks at is on lines of its own: the gate and its seat. Its looking would slow the caller
/// down otherwise, who writes to the rest.
#[derive(Debug)]
struct Shared {
    gate: Gate,
    seats: Box<[Seat]>,
    spin: Duration,
    call: Call,
}

/// What a caller that has the team writes.
#[derive(Debug)]
#[repr(align(128))]
struct Call {
    /// Whether a caller has the team.
    taken: AtomicBool,
    /// What is to be done; written while the gate is closed and nobody inside, read inside.
    body: Job,
    /// The first panic of a helper in this job.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// Whether the caller sleeps until the last helper has left.
    sleeps: AtomicBool,
    sleep: Mutex<()>,
    wake_up: Condvar,
}

/// What a helper says of itself.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Seat {
    asleep: AtomicBool,
    /// Whose seat it is, once it is taken.
    thread: OnceLock<Thread>,
    rest: Mutex<Rest>,
}

/// A helper's sleep.
#[derive(Debug, Default)]
struct Rest {
    since: Option<Instant>,
    /// Where the helper may run, while it is held away from its caller.
    may_run: Option<Cpus>,
}

struct Job(Cell<Option<*const Body<'static>>>);

// SAFETY: the cell is written by the caller that has the team while nobody is inside the gate, and read by helpers inside;
// the gate orders these. The body itself is `Sync`.
unsafe impl Sync for Job {}
// SAFETY: as above.
unsafe impl Send for Job {}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Job")
    }
}

impl Team {
    /// Starts up to `helpers` threads, and says why if it could not start them all.
    ///
    /// A member without work looks for it for `spin`, then sleeps.
    pub(crate) fn start(helpers: usize, spin: Duration) -> (Self, Option<io::Error>) {
        let shared = Arc::new(Shared {
            gate: Gate::default(),
            seats: (0..helpers).map(|_| Seat::default()).collect(),
            spin,
            call: Call {
                taken: AtomicBool::new(false),
                body: Job(Cell::new(None)),
                panic: Mutex::new(None),
                sleeps: AtomicBool::new(false),
                sleep: Mutex::new(()),
                wake_up: Condvar::new(),
            },
        });
        let mut team = Self { shared, helpers: Vec::with_capacity(helpers), generation: fork::generation() };
        for seat in 0..helpers {
            let shared = Arc::clone(&team.shared);
            match thread::Builder::new().name(format!("regard-{}", seat + 1)).spawn(move || shared.help(seat)) {
                Ok(helper) => team.helpers.push(helper),
                Err(refused) => return (team, Some(refused)),
            }
        }
        (team, None)
    }

    /// How many helpers there are.
    pub(crate) const fn helpers(&self) -> usize {
        self.helpers.len()
    }

    /// Whether the helpers exist in this process.
    pub(crate) fn exists(&self) -> bool {
        self.generation == fork::generation()
    }

    /// Calls `body(0)` here and `body(member)` on each helper that comes before that is over, and returns when all of them
    /// have returned. About `wanted` helpers are woken.
    ///
    /// Answers `false`, and calls nothing, if another caller has the team, as is so inside of a job.
    ///
    /// A panic of `body` is resumed here after all have returned, the caller's before a helper's.
    pub(crate) fn run(&self, wanted: usize, body: &Body<'_>) -> bool {
        let Shared { gate, call, .. } = &*self.shared;
        // First without writing: members of a team that is taken ask all the time.
        if call.taken.load(Acquire) || call.taken.swap(true, Acquire) {
            return false;
        }
        // SAFETY: only the lifetime changes. Helpers call the body inside the gate only, and this function does not return
        // before the gate is closed and empty.
        let forever = unsafe { std::mem::transmute::<*const Body<'_>, *const Body<'static>>(body) };
        call.body.0.set(Some(forever));
        gate.open();
        self.wake(wanted);
        let own = catch_unwind(AssertUnwindSafe(|| body(0)));
        gate.close();
        self.wait_for_helpers();
        let theirs = lock(&call.panic).take();
        call.taken.store(false, Release);
        if let Some(panic) = own.err().or(theirs) {
            resume_unwind(panic);
        }
        true
    }

    /// Wakes those that sleep among the first `wanted` helpers. The others look for work by themselves.
    fn wake(&self, wanted: usize) {
        for (seat, helper) in self.shared.seats.iter().zip(&self.helpers).take(wanted) {
            if seat.asleep.load(SeqCst) && seat.asleep.swap(false, SeqCst) {
                seat.hold_away();
                helper.thread().unpark();
            }
        }
    }

    /// Returns when nobody is inside the closed gate.
    fn wait_for_helpers(&self) {
        let Shared { gate, call, .. } = &*self.shared;
        if self.shared.look_for(|| gate.is_empty().then_some(())).is_some() {
            return;
        }
        let stayed = || {
            assert!(self.exists(), "the process was forked by a task of a parallel loop, whose other tasks are lost")
        };
        stayed();
        let mut asks = true;
        // Not `park`: the caller is not ours, and might lose a wake-up that is meant for its own affairs.
        let mut guard = lock(&call.sleep);
        call.sleeps.store(true, SeqCst);
        while !gate.is_empty() {
            let (woken, late) = call.wake_up.wait_timeout(guard, EVERY).unwrap_or_else(PoisonError::into_inner);
            guard = woken;
            if late.timed_out() && asks {
                drop(guard);
                // Asked for the helpers, who hear the answer. Nothing may unwind from here while they are inside.
                if let Err(panic) = catch_unwind(interrupted) {
                    asks = false;
                    lock(&call.panic).get_or_insert(panic);
                }
                stayed();
                guard = lock(&call.sleep);
            }
        }
        call.sleeps.store(false, SeqCst);
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        if !self.exists() {
            // Neither can threads of another process be joined, nor is there anything to detach.
            std::mem::forget(std::mem::take(&mut self.helpers));
            return;
        }
        self.shared.gate.end();
        for helper in self.helpers.drain(..) {
            helper.thread().unpark();
            // A helper catches every panic of a task, so there is none to pass on.
            let _ = helper.join();
        }
    }
}

/// After a rest as long as this a helper is told where to wake up, which costs some 20 µs.
const LONG: Duration = Duration::from_millis(5);

impl Seat {
    /// Says that the thread who sits here goes to sleep.
    fn lie_down(&self) {
        lock(&self.rest).since = Some(Instant::now());
        self.asleep.store(true, SeqCst);
    }

    /// Lets the sleeping thread wake up anywhere but here, where the caller is about to work, if it has slept for long.
    ///
    /// Systems may wake a thread where its waker runs although other CPUs are idle: guests do where the host has put those to
    /// rest. Both threads then share a CPU until the system next balances its load, milliseconds later.
    fn hold_away(&self) {
        let mut rest = lock(&self.rest);
        let (Some(&thread), Some(since)) = (self.thread.get(), rest.since) else { return };
        if since.elapsed() >= LONG
            && let Some(cpus) = Cpus::of(thread)
            && cpus.but_this().is_some_and(|others| others.hold(thread).is_ok())
        {
            rest.may_run = Some(cpus);
        }
    }

    /// Says that the thread who sits here is awake, and lets it run again where it might.
    fn stand_up(&self) {
        self.asleep.store(false, SeqCst);
        let mut rest = lock(&self.rest);
        if let (Some(cpus), Some(&thread)) = (rest.may_run.take(), self.thread.get()) {
            // What is refused now was allowed a moment ago: somebody else has changed it, and that stands.
            let _ = cpus.hold(thread);
        }
    }
}

impl Shared {
    /// A helper's life.
    fn help(&self, seat: usize) {
        let _ = self.seats[seat].thread.set(Thread::current());
        let mut last = 0;
        while self.enter(seat, &mut last) {
            let body = self.call.body.0.get().expect("the gate opens after the job is set");
            // SAFETY: the caller does not return, so the body lives, until this helper has left.
            let result = catch_unwind(AssertUnwindSafe(|| unsafe { (*body)(seat + 1) }));
            if let Err(panic) = result {
                let mut first = lock(&self.call.panic);
                if first.is_none() {
                    *first = Some(panic);
                } else {
                    // Dropping it runs code of the task's, which might panic again, here, where nobody catches it.
                    std::mem::forget(catch_unwind(AssertUnwindSafe(|| drop(panic))));
                }
            }
            self.leave();
        }
    }

    /// Waits for a job and enters it; `false` when there will be no more.
    fn enter(&self, seat: usize, last: &mut u64) -> bool {
        let seat = &self.seats[seat];
        let mut look = || match self.gate.enter(last) {
            Look::Entered => Some(true),
            Look::Over => Some(false),
            Look::Nothing => None,
        };
        loop {
            if let Some(entered) = self.look_for(&mut look) {
                return entered;
            }
            // First say so, then look once more, so that a caller either is seen here or sees this.
            seat.lie_down();
            let late = look();
            if late.is_none() {
                thread::park();
            }
            seat.stand_up();
            if let Some(entered) = late {
                return entered;
            }
        }
    }

    fn leave(&self) {
        if self.gate.leave() && self.call.sleeps.load(SeqCst) {
            // With the lock, so that the caller is not between its last look and its sleep.
            let _guard = lock(&self.call.sleep);
            self.call.wake_up.notify_one();
        }
    }

    /// Looks for something again and again for the time that this team spins.
    fn look_for<T>(&self, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        /// Looks between two looks at the clock, which costs as much as one or two of them.
        const LOOKS: u32 = 32;

        let found = look();
        if found.is_some() || self.spin.is_zero() {
            return found;
        }
        let start = Instant::now();
        while start.elapsed() < self.spin {
            for _ in 0..LOOKS {
                hint::spin_loop();
                let found = look();
                if found.is_some() {
                    return found;
                }
            }
        }
        None
    }
}

/// Locks. No code that can panic runs under these locks.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(all(test, target_os = "linux", not(miri)))]
mod tests {
    use std::fs;

    use super::*;
    use crate::cores::cpus;
    use crate::pin;

    /// The CPUs that the calling thread may run on.
    fn allowed() -> Vec<usize> {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim();
        cpus(list).unwrap().into_iter().map(usize::from).collect()
    }

    /// Where the owner of a seat that has slept since then may run once it is woken by a thread that stays on one CPU, and once
    /// it has stood up.
    fn woken(since: Option<Instant>, caller: usize) -> [Vec<usize>; 2] {
        let seat = Seat::default();
        thread::scope(|scope| {
            let helper = scope.spawn(|| {
                seat.thread.set(Thread::current()).unwrap();
                seat.lie_down();
                while seat.asleep.load(SeqCst) {
                    thread::park();
                }
                let woken = allowed();
                seat.stand_up();
                [woken, allowed()]
            });
            let (seat, thread) = (&seat, helper.thread().clone());
            let wake = move || {
                pin(&[caller]).unwrap();
                while !seat.asleep.load(SeqCst) {
                    thread::yield_now();
                }
                lock(&seat.rest).since = since;
                seat.hold_away();
                seat.asleep.store(false, SeqCst);
                thread.unpark();
            };
            scope.spawn(wake).join().unwrap();
            helper.join().unwrap()
        })
    }

    #[test]
    fn after_a_long_rest_a_helper_wakes_up_away_from_its_caller() {
        let (all, now) = (allowed(), Instant::now());
        // However long this test takes.
        let just_now = now.checked_add(Duration::from_hours(1));
        for &caller in &all {
            let others: Vec<_> = all.iter().copied().filter(|&cpu| cpu != caller).collect();
            let away = if others.is_empty() { &all } else { &others };
            assert_eq!(woken(now.checked_sub(LONG), caller), [away.clone(), all.clone()]);
            assert_eq!(woken(just_now, caller), [all.clone(), all.clone()]);
        }
    }
}
