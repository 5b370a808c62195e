//! How the engine is called: without the interpreter's lock, until it is done or Ctrl-C is pressed.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::time::Duration;

use pyo3::exceptions::{PyKeyboardInterrupt, PyRuntimeError};
use pyo3::prelude::*;
use regard_memory::Arena;
use regard_threads::interruptible;

/// Scratch that a thread keeps between calls, at most: what small calls need, so that they need not ask for memory.
const KEPT_BYTES: usize = 64 << 20;

thread_local! {
    /// Whether a signal's handler runs in the midst of a call on this thread.
    static HANDLING: Cell<bool> = const { Cell::new(false) };
}

/// Does something without the interpreter's lock.
///
/// # Errors
/// What a signal's handler raises, `KeyboardInterrupt` by Ctrl-C; then what would have been written is anything.
pub(crate) fn detached<R: Send>(py: Python<'_>, work: impl FnOnce() -> R + Send) -> PyResult<R> {
    py.detach(|| {
        let raised = Rc::new(RefCell::new(None));
        let seen = raised.clone();
        let ends = move || {
            let outer = HANDLING.replace(true);
            let signal = Python::attach(|py| py.check_signals()).err();
            HANDLING.set(outer);
            let ended = signal.is_some();
            *seen.borrow_mut() = signal;
            ended
        };
        let result = interruptible(ends, work);
        result.map_err(|_| raised.take().unwrap_or_else(|| PyKeyboardInterrupt::new_err(())))
    })
}

/// Locks what another Python thread may be using, without the interpreter's lock, which that one may need.
///
/// # Errors
/// What a signal's handler raises meanwhile; `RuntimeError` where it is a handler itself that asks, in the midst of a call on
/// this thread that may have what it asks for.
pub(crate) fn locked<'a, T: Send>(py: Python<'_>, mutex: &'a Mutex<T>) -> PyResult<MutexGuard<'a, T>> {
    /// How long is waited before it is tried again, at first and at most.
    const WAITS: [Duration; 2] = [Duration::from_micros(20), Duration::from_millis(2)];

    let mut wait = WAITS[0];
    loop {
        match mutex.try_lock() {
            Ok(guard) => return Ok(guard),
            Err(TryLockError::Poisoned(poisoned)) => return Ok(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) if HANDLING.get() => {
                return Err(PyRuntimeError::new_err(
                    "a signal's handler asks for what the call that it interrupts is using",
                ));
            }
            Err(TryLockError::WouldBlock) => {
                py.detach(|| std::thread::sleep(wait));
                py.check_signals()?;
                wait = (2 * wait).min(WAITS[1]);
            }
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
