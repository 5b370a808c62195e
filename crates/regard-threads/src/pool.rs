//! Parallel loops.

use std::ptr::{self, null_mut};
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicPtr, AtomicUsize};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use regard_memory::{Indices, Parts, each_of};

use crate::interrupt::{helping, to_be_heard};
use crate::team::Team;
use crate::{Error, Result, cores, interrupted};

/// How long a member without work looks for it before it sleeps.
///
/// It takes 25 µs to have a thread that sleeps, 50 at the 95th percentile: whoever looks for work for that long wastes at
/// most about what it could have saved. `docs/threads.md` has the measurement.
const SPIN: Duration = Duration::from_micros(50);

/// The most threads that a pool may have.
const MOST: usize = 4096;

/// The one of them that is used, or none yet. It is only read where it was leaked from a box.
static GLOBAL: AtomicPtr<Pool> = AtomicPtr::new(null_mut());

/// Pools that were asked for by [`Pool::set_global`].
static SHARED: Mutex<Shared> = Mutex::new(Shared(Vec::new()));

struct Shared(Vec<&'static Pool>);

impl Shared {
    fn get(&mut self, threads: usize) -> Result<&'static Pool> {
        if let Some(pool) = self.0.iter().find(|pool| pool.threads == threads) {
            return Ok(pool);
        }
        let pool = Box::leak(Box::new(Pool::new(threads)?));
        self.0.push(pool);
        Ok(pool)
    }
}

/// Threads that run a caller's loops in parallel: the caller's own, and helpers.
///
/// A loop's tasks are handed out one by one in the order of their index, so that equal cost is not needed, and results
/// depend on the number of threads only if a task makes them so. It allocates nothing.
///
/// - **Several callers at once** are fine. One has the helpers; each other runs its loop on its own thread, and so does a
///   loop within a task.
/// - **A task must not wait for another one**: they may be run one after the other by one thread.
/// - **A panic** of a task is resumed in the caller when all members have left the loop; tasks not begun are dropped.
/// - **After a fork** the child's first loop starts helpers of its own. A task must not fork and then return.
/// - **Without work** a member looks for it for 50 µs and then sleeps; at once if there are more threads than [`cores`].
#[derive(Debug)]
pub struct Pool {
    /// From a box; it is replaced, and then leaked, only in a forked child.
    team: AtomicPtr<Team>,
    threads: usize,
    spin: Duration,
}

impl Pool {
    /// A pool of this many threads, the caller's included; a pool of one runs everything where it is called.
    ///
    /// # Errors
    ///
    /// [`Error::Threads`] for none or an absurd number, [`Error::Spawn`] if the system refuses to start them.
    pub fn new(threads: usize) -> Result<Self> {
        Self::with_spin(threads, default_spin(threads))
    }

    /// A pool whose members without work look for it for `spin` before they sleep: longer where loops follow each other at
    /// longer distances and the cores have nothing else to do, zero where the cores belong to somebody else.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn with_spin(threads: usize, spin: Duration) -> Result<Self> {
        if !(1..=MOST).contains(&threads) {
            return Err(Error::Threads { asked: threads, most: MOST });
        }
        match Self::start(threads, spin) {
            (pool, None) => Ok(pool),
            (_, Some(refused)) => Err(Error::Spawn(refused)),
        }
    }

    /// The pool that everybody shares, started when it is first asked for: of as many threads as the setting
    /// `REGARD_THREADS` says, else as there are [`cores`].
    ///
    /// A setting that is not a number of threads counts as none; [`Pool::setting`] lets a program complain. Should the system
    /// refuse to start so many, the pool has fewer; [`Pool::threads`] tells.
    pub fn global() -> &'static Self {
        let current = GLOBAL.load(Acquire);
        // SAFETY: what was put there is never freed.
        if let Some(pool) = unsafe { current.as_ref() } {
            return pool;
        }
        let wanted = Self::setting().ok().flatten().unwrap_or_else(|| cores().min(MOST));
        let mut pools = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        let pool = pools.get(wanted).unwrap_or_else(|_| {
            let (mut pool, _) = Self::start(wanted, default_spin(wanted));
            pool.threads = 1 + pool.team().helpers();
            Box::leak(Box::new(pool))
        });
        // Another thread may have been quicker, with `set_global` too: what it chose stands.
        match GLOBAL.compare_exchange(null_mut(), ptr::from_ref(pool).cast_mut(), AcqRel, Acquire) {
            Ok(_) => pool,
            // SAFETY: as above, and it is not null.
            Err(chosen) => unsafe { &*chosen },
        }
    }

    /// From now on the pool that everybody shares has this many threads. Loops that run go on with those they have.
    ///
    /// The pools of all numbers that were ever asked for are kept, so that going to and fro starts no threads; those of a pool
    /// that is not used sleep.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new); then it stays as it was.
    pub fn set_global(threads: usize) -> Result<()> {
        let pool = SHARED.lock().unwrap_or_else(PoisonError::into_inner).get(threads)?;
        GLOBAL.store(ptr::from_ref(pool).cast_mut(), Release);
        Ok(())
    }

    /// The setting `REGARD_THREADS`, if there is one.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] if it is not a whole number from one to the most threads that a pool may have.
    pub fn setting() -> Result<Option<usize>> {
        let Some(value) = std::env::var_os("REGARD_THREADS") else { return Ok(None) };
        match value.to_str().and_then(|value| value.parse().ok()) {
            Some(threads) if (1..=MOST).contains(&threads) => Ok(Some(threads)),
            _ => Err(Error::Setting { value: value.to_string_lossy().into_owned(), most: MOST }),
        }
    }

    fn start(threads: usize, spin: Duration) -> (Self, Option<std::io::Error>) {
        let (team, refused) = Team::start(threads - 1, spin);
        (Self { team: AtomicPtr::new(Box::into_raw(Box::new(team))), threads, spin }, refused)
    }

    /// How many threads run a loop at most, the caller's included.
    #[must_use]
    pub const fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `work(i, part)` for every index and its part.
    ///
    /// # Panics
    ///
    /// If a task does.
    pub fn run<P: Parts>(&self, parts: P, work: impl Fn(usize, P::Part) + Sync) {
        self.run_in(Indices(self.threads), parts, |(), index, part| work(index, part));
    }

    /// Runs `work(worker, i, part)` for every index and its part; each worker is used by one thread at a time, so it can
    /// hold what a task needs and the next one needs not keep: scratch, a running sum.
    ///
    /// # Panics
    ///
    /// If a task does, or there are fewer workers than [`threads`](Self::threads).
    pub fn run_with<W: Send, P: Parts>(
        &self,
        workers: &mut [W],
        parts: P,
        work: impl Fn(&mut W, usize, P::Part) + Sync,
    ) {
        self.run_in(each_of(workers), parts, |worker, index, part| work(worker, index, part));
    }

    /// As [`run_with`](Self::run_with), with workers from parts of their own, such as an arena's frames.
    ///
    /// ```
    /// use regard_memory::{Arena, Need, chunks_of};
    /// use regard_threads::Pool;
    ///
    /// let pool = Pool::global();
    /// let mut arena = Arena::new();
    /// let tile = Need::of::<f32>(64);
    /// let mut sums = [0.0; 8];
    ///
    /// let mut frame = arena.frame(tile.times(pool.threads())).unwrap();
    /// pool.run_in(frame.split(pool.threads(), tile), chunks_of(&mut sums, 1), |frame, i, sum| {
    ///     let mut frame = frame.scope();
    ///     let tile = frame.take::<f32>(64);
    ///     tile.fill(i as f32);
    ///     sum[0] = tile.iter().sum::<f32>();
    /// });
    /// assert_eq!(sums, [0.0, 64.0, 128.0, 192.0, 256.0, 320.0, 384.0, 448.0]);
    /// ```
    ///
    /// # Panics
    ///
    /// As [`run_with`](Self::run_with).
    pub fn run_in<W: Parts, P: Parts>(&self, workers: W, parts: P, work: impl Fn(&mut W::Part, usize, P::Part) + Sync) {
        self.run_together(workers, parts, 1, work);
    }

    /// As [`run_in`](Self::run_in), with `together` tasks handed out at a time: for tasks that are too short to be fetched
    /// one by one, or whose neighbours share something.
    ///
    /// # Panics
    ///
    /// As [`run_with`](Self::run_with), or if `together` is zero.
    pub fn run_together<W: Parts, P: Parts>(
        &self,
        workers: W,
        parts: P,
        together: usize,
        work: impl Fn(&mut W::Part, usize, P::Part) + Sync,
    ) {
        assert!(together > 0, "at least one task at a time");
        let (seats, count) = (workers.count(), parts.count());
        assert!(seats >= self.threads, "{seats} workers for {} threads", self.threads);
        // The counter runs past the count by as many for each thread.
        let past = self.threads.checked_mul(together).and_then(|past| past.checked_add(count));
        assert!(past.is_some(), "more tasks than can be counted");
        if count == 0 {
            return;
        }
        let next = Next::default();
        let tasks = |member: usize| {
            // SAFETY: each member of the team does this once, with its own number, which is below the number of threads.
            let mut worker = unsafe { workers.part(member) };
            let stop = StopAll { next: &next, count };
            loop {
                // The caller's own thread alone is asked: its stop is everybody's.
                if member == 0 && interrupted() {
                    return;
                }
                let first = next.0.fetch_add(together, Relaxed);
                if first >= count {
                    break;
                }
                for index in first..count.min(first + together) {
                    // SAFETY: the counter gives each index once, and it is below the count.
                    work(&mut worker, index, unsafe { parts.part(index) });
                }
            }
            std::mem::forget(stop);
        };
        let ended = to_be_heard();
        let body = |member: usize| if member == 0 { tasks(0) } else { helping(&ended, || tasks(member)) };
        let turns = count.div_ceil(together);
        let shared = turns > 1 && self.threads > 1 && self.team().run(turns - 1, &body);
        if !shared {
            body(0);
        }
    }

    /// The team whose helpers exist in this process.
    fn team(&self) -> &Team {
        let current = self.team.load(Acquire);
        // SAFETY: it is from a box that is not freed before the pool is dropped.
        let team = unsafe { &*current };
        if team.exists() { team } else { self.start_again(current) }
    }

    /// In a forked child: replaces the team `lost`, whose helpers stayed behind.
    ///
    /// If not all helpers can be started the team does with fewer. The lost team is leaked: a loop that forked may be
    /// using it still.
    #[cold]
    fn start_again(&self, lost: *mut Team) -> &Team {
        let (team, _) = Team::start(self.threads - 1, self.spin);
        let team = Box::into_raw(Box::new(team));
        match self.team.compare_exchange(lost, team, AcqRel, Acquire) {
            // SAFETY: the pool has it now, as in `team`.
            Ok(_) => unsafe { &*team },
            Err(current) => {
                // SAFETY: it is the box from above, which nobody else has seen.
                drop(unsafe { Box::from_raw(team) });
                // SAFETY: another thread of this process put it there, as in `team`.
                unsafe { &*current }
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: it is from a box, and nobody can use the pool any more.
        drop(unsafe { Box::from_raw(*self.team.get_mut()) });
    }
}

/// Members that outnumber the cores sleep at once: spinning would keep a core from those with work.
fn default_spin(threads: usize) -> Duration {
    if threads > cores() { Duration::ZERO } else { SPIN }
}

/// The next index to be handed out, alone on its cache line and on its neighbour.
#[derive(Default)]
#[repr(align(128))]
struct Next(AtomicUsize);

/// Hands out no more tasks when it is dropped, as it is when one panics.
struct StopAll<'a> {
    next: &'a Next,
    count: usize,
}

impl Drop for StopAll<'_> {
    fn drop(&mut self) {
        self.next.0.store(self.count, Relaxed);
    }
}
