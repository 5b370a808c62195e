//! What a template may cost.
//!
//! A template is a program from an untrusted file. The engine counts its steps and its depth, but a step can be dear:
//! a value nested a hundred thousand deep takes that many stack frames to print, and some lazy sequences take
//! exponential time. So it runs on a thread of its own, with a stack for the deepest value that its steps can build,
//! with a deadline, and with an eye on what the process takes meanwhile (on Linux; elsewhere memory is bounded by the
//! other limits alone). A namespace could hold itself, and no stack is deep enough to print that: so namespaces are used
//! by their attributes, as real templates do, and never as values.

use minijinja::value::Value;
use minijinja::{Environment, Error, ErrorKind};
use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// The longest published templates have some twenty thousand bytes.
const MAX_SOURCE: usize = 64 << 10;
/// A message takes a template some 20 to 200 steps; this many take it a tenth of a second.
const MAX_STEPS: u64 = 1 << 20;
/// A template says each message a few times at the most, and some text of its own.
const MAX_REPEATS: usize = 8;
const MAX_OWN_TEXT: usize = 16 << 20;
/// Three steps nest a value once more, and printing it takes 640 bytes a level. Untouched, a stack costs no memory.
const STACK: usize = 256 << 20;
/// Hundreds of times what a long conversation takes.
const DEADLINE: Duration = Duration::from_millis(500);
/// How often the process is looked at: a real template has ended before the first time, so that what other threads take is
/// not held against it.
const LOOK: Duration = Duration::from_millis(10);
/// What the process may grow by: far more than a long conversation's text.
const MAX_GROWTH: usize = 64 << 20;
/// No template pads to more columns; digits of a larger number.
const MAX_WIDTH_DIGITS: usize = 4;

/// Refuses a template that is too long to be one.
pub(super) fn source(source: &str) -> Result<(), String> {
    match source.len() {
        0..=MAX_SOURCE => namespaces(source),
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
    let (start, before) = (Instant::now(), resident());
    let result = loop {
        match receiver.recv_timeout(LOOK) {
            Err(mpsc::RecvTimeoutError::Timeout) if start.elapsed() >= DEADLINE => {
                return Err(format!("it does not end within {DEADLINE:?}"));
            }
            Err(mpsc::RecvTimeoutError::Timeout) if resident().saturating_sub(before) > MAX_GROWTH => {
                return Err(format!("it takes more than {} MiB of memory", MAX_GROWTH >> 20));
            }
            Err(mpsc::RecvTimeoutError::Timeout) => continue,
            result => break result,
        }
    };
    // The thread has nothing left to do; that it panicked shows in the missing result.
    let _ = thread.join();
    result.map_err(|_| "the template engine failed".to_owned())
}

/// Bytes of the process that are in memory; 0 where the system does not tell.
fn resident() -> usize {
    /// Of every Linux on x86-64, and the least elsewhere.
    const PAGE: usize = 4096;
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    pages.and_then(|text| text.split(' ').nth(1)?.parse::<usize>().ok()).map_or(0, |pages| pages * PAGE)
}

/// Refuses what is formatted where a number in it, which may be a width, would fill memory with padding.
pub(super) fn widths(arguments: &[Value]) -> Result<(), Error> {
    // Text that is put in is not taken for a format.
    let formats = arguments.iter().enumerate().filter(|(at, value)| *at == 0 || value.as_str().is_none());
    let digits = |run: &str| run.trim_start_matches('0').len();
    for (_, format) in formats {
        let text = format.as_str().map_or_else(|| format.to_string(), str::to_owned);
        if text.split(|c: char| !c.is_ascii_digit()).any(|run| digits(run) > MAX_WIDTH_DIGITS) {
            let problem = format!("a number of more than {MAX_WIDTH_DIGITS} digits where a width may stand");
            return Err(Error::new(ErrorKind::InvalidOperation, problem));
        }
    }
    Ok(())
}

/// Refuses a namespace that is anything but `{% set name = namespace(…) %}` and `name.attribute`.
fn namespaces(source: &str) -> Result<(), String> {
    let words = words(source);
    let at = |i: Option<usize>| i.and_then(|i| words.get(i)).copied().unwrap_or_default();
    let mut names = Vec::new();
    for i in (0..words.len()).filter(|&i| words[i] == "namespace" && at(i.checked_sub(1)) != ".") {
        let before = [4, 3, 1].map(|back| at(i.checked_sub(back)));
        if before != ["{%", "set", "="] || at(Some(i + 1)) != "(" {
            return Err("a namespace is made elsewhere than in {% set name = namespace(…) %}".to_owned());
        }
        names.push(words[i - 2]);
    }
    for i in (0..words.len()).filter(|&i| names.contains(&words[i])) {
        let (before, after) = (at(i.checked_sub(1)), at(Some(i + 1)));
        // An attribute of something else, an attribute of it, its beginning, or an argument of the same name.
        let fits = before == "."
            || [".", "["].contains(&after)
            || (before == "set" || ["(", ","].contains(&before)) && after == "=";
        if !fits {
            return Err(format!("the namespace {} is used as a value, not by its attributes", words[i]));
        }
    }
    Ok(())
}

/// Names and signs inside of a template's delimiters, and `{%` where a block begins; texts in quotes are one sign.
fn words(source: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = source;
    while let Some(open) = rest.find("{%").into_iter().chain(rest.find("{{")).min() {
        let end = if rest[open..].starts_with("{%") { "%}" } else { "}}" };
        words.push(&rest[open..open + 2]);
        rest = rest[open + 2..].trim_start_matches(['-', '+']);
        while !rest.is_empty() && !rest.starts_with(end) {
            let first = rest.chars().next().unwrap_or_default();
            let len = match first {
                '"' | '\'' => quoted(rest, first),
                _ if first.is_alphanumeric() || first == '_' => {
                    rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
                }
                _ => first.len_utf8(),
            };
            if !first.is_whitespace() {
                words.push(&rest[..len]);
            }
            rest = &rest[len..];
        }
    }
    words
}

/// The length of the text in quotes that begins here.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
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
