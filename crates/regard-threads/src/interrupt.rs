//! Work that can be ended before it is done.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// How often it is asked whether to go on: a person does not notice, and a question may cost something.
pub(crate) const EVERY: Duration = Duration::from_millis(20);

/// Work was ended before it was done; what it would have written is anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupted;

struct Watch {
    ends: Box<dyn Fn() -> bool>,
    asked: Cell<Instant>,
    ended: Ended,
}

/// Whether work is to end, as all hear who do it.
pub(crate) type Ended = Arc<AtomicBool>;

thread_local! {
    static WATCH: RefCell<Option<Rc<Watch>>> = const { RefCell::new(None) };
    /// What a helper hears of the work that it helps with.
    static HEARD: RefCell<Option<Ended>> = const { RefCell::new(None) };
}

/// Runs `work`, whose parallel loops ask `ends` now and then whether they are to end. Where it says so, no task is begun any
/// more, neither in the loop that asked nor in those that follow, so that `work` soon returns. Loops ask between tasks, and
/// while they wait for helpers, on the thread that called this, at most every 20 ms.
///
/// ```
/// use regard_memory::Indices;
/// use regard_threads::{Interrupted, Pool, interruptible};
///
/// let pool = Pool::new(2)?;
/// assert_eq!(interruptible(|| false, || 7), Ok(7));
/// let forever = || loop {
///     pool.run(Indices(1000), |_, _| std::thread::sleep(std::time::Duration::from_micros(50)));
///     if regard_threads::interrupted() {
///         break;
///     }
/// };
/// assert_eq!(interruptible(|| true, forever), Err(Interrupted));
/// # Ok::<(), regard_threads::Error>(())
/// ```
///
/// # Errors
///
/// [`Interrupted`] if it was ended: then what `work` returns, and what it has written, means nothing.
///
/// # Panics
///
/// If `work` does, and was not ended: what is half done may be what it stumbles over.
pub fn interruptible<R>(ends: impl Fn() -> bool + 'static, work: impl FnOnce() -> R) -> Result<R, Interrupted> {
    /// Puts back what was there, also when `work` panics.
    struct Restore(Option<Rc<Watch>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            WATCH.set(self.0.take());
        }
    }

    let watch = Rc::new(Watch { ends: Box::new(ends), asked: Cell::new(Instant::now()), ended: Ended::default() });
    let restore = Restore(WATCH.replace(Some(watch.clone())));
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    drop(restore);
    match result {
        _ if watch.ended.load(Relaxed) => Err(Interrupted),
        Ok(result) => Ok(result),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Whether the [`interruptible`] work of this thread, or of the thread that it helps, is to end: for loops that are not those of
/// a pool, and for tasks that take long.
#[must_use]
pub fn interrupted() -> bool {
    let Some(watch) = WATCH.with_borrow(Clone::clone) else {
        return HEARD.with_borrow(|heard| heard.as_ref().is_some_and(|ended| ended.load(Relaxed)));
    };
    if !watch.ended.load(Relaxed) && watch.asked.get().elapsed() >= EVERY {
        let ended = (watch.ends)();
        watch.ended.store(ended, Relaxed);
        watch.asked.set(Instant::now());
    }
    watch.ended.load(Relaxed)
}

/// By what this thread's helpers hear that its work is to end.
pub(crate) fn to_be_heard() -> Option<Ended> {
    WATCH.with_borrow(|watch| watch.as_ref().map(|watch| watch.ended.clone()))
}

/// Helps with work of another thread's, which may be to end.
pub(crate) fn helping<R>(with: &Option<Ended>, work: impl FnOnce() -> R) -> R {
    /// Hears no more, also when `work` panics.
    struct Deafen;
    impl Drop for Deafen {
        fn drop(&mut self) {
            HEARD.set(None);
        }
    }

    if with.is_none() {
        return work();
    }
    HEARD.set(with.clone());
    let _deafen = Deafen;
    work()
}
