//! The two streams: results go to standard output, everything else to standard error.
//!
//! Neither may panic when its reader has gone, which the standard macros do.

use std::fmt;
use std::io::{self, Write};

use crate::error::Error;

/// Says a line on standard error. A closed standard error is no reason to stop.
macro_rules! say {
    ($($argument:tt)*) => {
        $crate::output::say_line(format_args!($($argument)*))
    };
}
pub(crate) use say;

pub(crate) fn say_line(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Prints `text` on standard output, at once.
///
/// # Errors
/// [`Error::BrokenPipe`] when the reader has gone, [`Error::Output`] when writing fails otherwise.
pub(crate) fn print(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Error::BrokenPipe,
        _ => Error::Output(error),
    })
}

/// Prints `text` and a line end on standard output.
///
/// # Errors
/// As [`print()`].
pub(crate) fn print_line(text: &str) -> Result<(), Error> {
    print(&format!("{text}\n"))
}
