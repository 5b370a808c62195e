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
