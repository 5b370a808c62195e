//! How the engine is called: without the interpreter's lock, until it is done or Ctrl-C is pressed.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::prelude::*;
use regard_memory::Arena;
use regard_threads::interruptible;

/// Scratch that a thread keeps between calls, at most: what small calls need, so that they need not ask for memory.
const KEPT_BYTES: usize = 64 << 20;

/// Does something without the interpreter's lock.
///
/// # Errors
/// What a signal's handler raises, `KeyboardInterrupt` by Ctrl-C; then what would have been written is anything.
pub(crate) fn detached<R: Send>(py: Python<'_>, work: impl FnOnce() -> R + Send) -> PyResult<R> {
    py.detach(|| {
        let raised = Rc::new(RefCell::new(None));
        let seen = raised.clone();
        let ends = move || {
            let signal = Python::attach(|py| py.check_signals()).err();
            let ended = signal.is_some();
            *seen.borrow_mut() = signal;
            ended
        };
        let result = interruptible(ends, work);
        result.map_err(|_| raised.take().unwrap_or_else(|| PyKeyboardInterrupt::new_err(())))
    })
}

/// Locks what another Python thread may be using, without the interpreter's lock, which that one may need.
pub(crate) fn locked<'a, T: Send>(py: Python<'_>, mutex: &'a Mutex<T>) -> MutexGuard<'a, T> {
    loop {
        match mutex.try_lock() {
            Ok(guard) => return guard,
            Err(TryLockError::Poisoned(poisoned)) => return poisoned.into_inner(),
            // A guard must not leave the closure: wait there, and lock again here.
            Err(TryLockError::WouldBlock) => py.detach(|| drop(mutex.lock().unwrap_or_else(PoisonError::into_inner))),
        }
    }
}

/// Calls with this thread's scratch.
pub(crate) fn with_scratch<R>(work: impl FnOnce(&mut Arena) -> R) -> R {
    thread_local! {
        static SCRATCH: RefCell<Arena> = const { RefCell::new(Arena::new()) };
    }
    SCRATCH.with(|scratch| match scratch.try_borrow_mut() {
        Ok(mut arena) => {
            let result = work(&mut arena);
            if arena.capacity() > KEPT_BYTES {
                *arena = Arena::new();
            }
            result
        }
        // A signal's handler calls in the midst of a call.
        Err(_) => work(&mut Arena::new()),
    })
}
