//! A text that comes in pieces, written by a thread of its own while the caller does what it does with them.

use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use regard_models::Model;
use regard_threads::interruptible;

use super::text::Writing;

/// How often somebody who waits for a piece looks for signals.
const LOOK: Duration = Duration::from_millis(20);

/// The pieces of a text as they come, what :meth:`Decoder.stream` returns. A piece is one or more whole characters. Whoever has
/// enough leaves it: what writes the text then ends.
#[pyclass(module = "regard", name = "Stream")]
pub(crate) struct PyStream(Mutex<Option<Worker>>);

/// The thread that writes: it has the model and the session that borrows it, and is never more than a piece ahead.
struct Worker {
    pieces: Receiver<PyResult<String>>,
    /// The thread ends when this is gone.
    _wanted: Arc<()>,
    thread: JoinHandle<()>,
    /// The process that the thread is in.
    process: u32,
}

impl PyStream {
    /// Begins to write.
    pub(super) fn new(model: Arc<Model>, writing: Writing) -> PyResult<Self> {
        let (sender, pieces) = sync_channel(0);
        let wanted = Arc::new(());
        let listener = Arc::downgrade(&wanted);
        let work = move || {
            let write = || writing.write(&model, &mut |piece| sender.send(Ok(piece)).is_ok());
            if let Ok(Err(error)) = interruptible(move || listener.strong_count() == 0, write) {
                // Where nobody is left to be told, it does not matter.
                let _ = sender.send(Err(error));
            }
        };
        let thread = Builder::new().name("regard-stream".to_owned()).spawn(work)?;
        Ok(PyStream(Mutex::new(Some(Worker { pieces, _wanted: wanted, thread, process: std::process::id() }))))
    }

    fn worker(&mut self) -> &mut Option<Worker> {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl PyStream {
    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__(&mut self, py: Python<'_>) -> PyResult<Option<String>> {
        let Some(mut worker) = self.worker().take() else { return Ok(None) };
        let piece = worker.next(py)?;
        if piece.is_some() {
            *self.worker() = Some(worker);
        } else if let Err(panic) = py.detach(|| worker.thread.join()) {
            resume_unwind(panic);
        }
        Ok(piece)
    }

    /// Ends the text here.
    fn close(&mut self) {
        *self.worker() = None;
    }
}

impl Worker {
    /// The next piece; none where the text has ended.
    fn next(&mut self, py: Python<'_>) -> PyResult<Option<String>> {
        if self.process != std::process::id() {
            let problem = "this text is written in the process that was forked: begin another one here";
            return Err(PyRuntimeError::new_err(problem));
        }
        loop {
            // Not all callers look themselves: `"".join(stream)` does not, and pieces may come faster than anyone waits.
            py.check_signals()?;
            let pieces = &mut self.pieces;
            match py.detach(move || pieces.recv_timeout(LOOK)) {
                Ok(piece) => return piece.map(Some),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
            }
        }
    }
}
