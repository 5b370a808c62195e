//! Ctrl-C: ends the command, or first the answer that is being written.

use std::io::{self, IsTerminal};
use std::process;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::output::say;

/// Nobody listens: Ctrl-C ends the process.
const IDLE: usize = 0;
/// Somebody listens, and has heard nothing.
const LISTENING: usize = 1;
/// Ctrl-C came while somebody listened. Another one ends the process.
const PRESSED: usize = 2;

static STATE: AtomicUsize = AtomicUsize::new(IDLE);

/// From now on Ctrl-C is said before it ends the process, and can be listened to.
pub(crate) fn install() {
    // Where no handler can be installed Ctrl-C keeps its usual meaning, which is good enough.
    let _ = ctrlc::set_handler(|| {
        if STATE.compare_exchange(LISTENING, PRESSED, Ordering::SeqCst, Ordering::SeqCst).is_err() {
            // The message is not to stand behind the `^C` of a terminal.
            let start = if io::stderr().is_terminal() { "\n" } else { "" };
            say!("{start}stopped by Ctrl-C");
            process::exit(130);
        }
    });
}

/// While this lives, the first Ctrl-C is only noted, and its owner ends what it does.
pub(crate) struct Listener(());

impl Listener {
    /// Starts to listen. There is one listener at a time.
    pub(crate) fn new() -> Self {
        STATE.store(LISTENING, Ordering::SeqCst);
        Self(())
    }

    /// Whether Ctrl-C was pressed since this listener began.
    pub(crate) fn pressed(&self) -> bool {
        pressed()
    }
}

/// Whether Ctrl-C was pressed while somebody listened who still does.
pub(crate) fn pressed() -> bool {
    STATE.load(Ordering::SeqCst) == PRESSED
}

impl Drop for Listener {
    fn drop(&mut self) {
        STATE.store(IDLE, Ordering::SeqCst);
    }
}
