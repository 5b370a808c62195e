//! Work that can be ended before it is done.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How often it is asked whether to go on: a person does not notice, and a question may cost something.
const EVERY: Duration = Duration::from_millis(20);

/// Work was ended before it was done; what it would have written is anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupted;

struct Watch {
    ends: Box<dyn Fn() -> bool>,
    asked: Cell<Instant>,
    ended: Cell<bool>,
}

thread_local! {
    static WATCH: RefCell<Option<Rc<Watch>>> = const { RefCell::new(None) };
}

/// Runs `work`, whose parallel loops ask `ends` now and then whether they are to end. Where it says so, no task is begun any
/// more, neither in the loop that asked nor in those that follow, so that `work` soon returns. Loops ask between tasks, on the
/// thread that called this, at most every 20 ms.
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

    let watch = Rc::new(Watch { ends: Box::new(ends), asked: Cell::new(Instant::now()), ended: Cell::new(false) });
    let restore = Restore(WATCH.replace(Some(watch.clone())));
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    drop(restore);
    match result {
        _ if watch.ended.get() => Err(Interrupted),
        Ok(result) => Ok(result),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Whether the [`interruptible`] work of this thread is to end: for loops that are not those of a pool.
#[must_use]
pub fn interrupted() -> bool {
    let watch = WATCH.with_borrow(Clone::clone);
    watch.is_some_and(|watch| {
        if !watch.ended.get() && watch.asked.get().elapsed() >= EVERY {
            watch.ended.set((watch.ends)());
            watch.asked.set(Instant::now());
        }
        watch.ended.get()
    })
}
