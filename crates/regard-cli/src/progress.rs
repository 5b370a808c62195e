//! Progress on standard error, only where that is a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// A bar of bytes with rate and remaining time.
pub(crate) fn bytes(total: u64, message: impl Into<String>) -> ProgressBar {
    bar(total, message, "{msg} [{bar:30}] {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}")
}

/// A bar of `total` steps with remaining time.
pub(crate) fn steps(total: u64, message: impl Into<String>) -> ProgressBar {
    bar(total, message, "{msg} [{bar:30}] {pos}/{len} {eta}")
}

/// A bar of `total` steps, of which so many are done already, with what its message says and the remaining time.
pub(crate) fn training(total: u64, done: u64) -> ProgressBar {
    let bar = bar(total, "training", "[{bar:30}] {pos}/{len}  {msg}  {eta} left").with_position(done);
    bar.reset_eta();
    bar
}

/// A sign of life for work of unknown length.
pub(crate) fn spinner(message: impl Into<String>) -> ProgressBar {
    let spinner = ProgressBar::new_spinner().with_message(message.into());
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}

fn bar(total: u64, message: impl Into<String>, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total).with_style(style.progress_chars("=> ")).with_message(message.into())
}
