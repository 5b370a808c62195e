//! What a template may cost.
//!
//! A template is a program from an untrusted file. The engine counts its steps and its depth, but a step can be dear:
//! a value nested a hundred thousand deep takes that many stack frames to print, and some lazy sequences take
//! exponential time. So it runs on a thread of its own, with a stack for the deepest value that its steps can build,
//! and with a deadline. Memory is bounded only by these: what a program builds in its variables, it can build until
//! then.

use minijinja::Environment;
use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// The longest published templates have some twenty thousand bytes.
const MAX_SOURCE: usize = 64 << 10;
/// A message takes a template some 20 to 200 steps; this many take it a tenth of a second.
const MAX_STEPS: u64 = 1 << 20;
/// A template says each message a few times at the most, and some text of its own.
const MAX_REPEATS: usize = 8;
const MAX_OWN_TEXT: usize = 16 << 20;
/// Three steps nest a value once more, and printing it takes 640 bytes a level. Untouched, a stack costs no memory.
const STACK: usize = 256 << 20;
/// A thousand times what a long conversation takes.
const DEADLINE: Duration = Duration::from_secs(1);

/// Refuses a template that is too long to be one.
pub(super) fn source(source: &str) -> Result<(), String> {
    match source.len() {
        0..=MAX_SOURCE => Ok(()),
        length => Err(format!("{length} bytes are more than the {MAX_SOURCE} that a template may have")),
    }
}

/// Bounds the steps of a rendering.
pub(super) fn steps(environment: &mut Environment<'_>) {
    environment.set_fuel(Some(MAX_STEPS));
}

/// Does the work on a large stack and within the deadline. A thread that misses it is left behind, since nothing can
/// stop it, and ends with the process at the latest.
pub(super) fn bounded<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let thread = thread::Builder::new()
        .name("chat template".to_owned())
        .stack_size(STACK)
        .spawn(move || sender.send(work()))
        .map_err(|error| format!("no thread to run it on: {error}"))?;
    let result = receiver.recv_timeout(DEADLINE);
    if let Err(mpsc::RecvTimeoutError::Timeout) = result {
        return Err(format!("it does not end within {DEADLINE:?}"));
    }
    // The thread has nothing left to do; that it panicked shows in the missing result.
    let _ = thread.join();
    result.map_err(|_| "the template engine failed".to_owned())
}

/// A text that refuses to grow past a limit.
pub(super) struct Text {
    bytes: Vec<u8>,
    limit: usize,
}

impl Text {
    /// For messages of `said` bytes together.
    pub(super) fn for_content(said: usize) -> Self {
        Self { bytes: Vec::new(), limit: said.saturating_mul(MAX_REPEATS).saturating_add(MAX_OWN_TEXT) }
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

impl io::Write for Text {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.limit - self.bytes.len() {
            return Err(io::Error::other(format!("the text grows past {} bytes", self.limit)));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
