//! Reading the header forward, with every length held against the bytes that are left.

use super::source::ReadAt;
use crate::error::{Error, Result};

/// Large enough that the header of a real model is read in a few hundred calls.
const WINDOW: usize = 64 << 10;

/// A position in a file, and the name of the field that is being read there.
///
/// No method allocates more than the file has bytes left. (What is kept of an entry, some hundred bytes, may be more than
/// its own: entries are limited in number.)
pub(super) struct Cursor<'a> {
    source: &'a dyn ReadAt,
    file: &'a str,
    /// Named by every error.
    pub(super) field: String,
    size: u64,
    position: u64,
    /// The bytes of the file from `window_start` on.
    window: Vec<u8>,
    window_start: u64,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(source: &'a dyn ReadAt, file: &'a str, size: u64, position: u64) -> Self {
        Self { source, file, field: String::new(), size, position, window: Vec::new(), window_start: 0 }
    }

    pub(super) fn position(&self) -> u64 {
        self.position
    }

    pub(super) fn malformed(&self, problem: impl Into<String>) -> Error {
        Error::Malformed { file: self.file.to_owned(), field: self.field.clone(), problem: problem.into() }
    }

    pub(super) fn unsupported(&self, found: impl Into<String>, supported: impl Into<String>) -> Error {
        Error::Unsupported {
            file: self.file.to_owned(),
            field: self.field.clone(),
            found: found.into(),
            supported: supported.into(),
        }
    }

    pub(super) fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// A count of things that take at least `least` bytes each, so that it cannot promise more than the file holds.
    pub(super) fn count(&mut self, least: u64, things: &str) -> Result<u64> {
        let count = self.u64()?;
        let left = self.size - self.position;
        if count > left / least {
            return Err(self.malformed(format!("{count} {things} do not fit in the {left} bytes that are left")));
        }
        Ok(count)
    }

    /// A string: its length in bytes, then its bytes.
    pub(super) fn string(&mut self) -> Result<String> {
        let length = self.count(1, "bytes of text")?;
        let mut bytes = vec![0; length as usize];
        self.fill(&mut bytes)?;
        String::from_utf8(bytes).map_err(|error| {
            let valid = error.utf8_error().valid_up_to();
            self.malformed(format!("its text is not UTF-8 at byte {valid}"))
        })
    }

    /// A string that names something.
    pub(super) fn name(&mut self) -> Result<String> {
        match self.string()? {
            name if name.is_empty() => Err(self.malformed("it is empty")),
            name => Ok(name),
        }
    }

    /// Appends the bytes of a string to `text`, which must not grow past its capacity.
    pub(super) fn string_into(&mut self, text: &mut Vec<u8>) -> Result<()> {
        let length = self.count(1, "bytes of text")? as usize;
        let start = text.len();
        if length > text.capacity() - start {
            return Err(self.malformed("the file changed while it was read"));
        }
        text.resize(start + length, 0);
        self.fill(&mut text[start..])
    }

    pub(super) fn skip(&mut self, bytes: u64) -> Result<()> {
        self.need(bytes)?;
        self.position += bytes;
        Ok(())
    }

    fn need(&self, bytes: u64) -> Result<()> {
        let left = self.size - self.position;
        if bytes > left {
            return Err(self.malformed(format!("the file ends: {bytes} bytes are needed and {left} are left")));
        }
        Ok(())
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.need(bytes.len() as u64)?;
        if bytes.len() > WINDOW {
            self.read(bytes)?;
        } else {
            let start = self.window_for(bytes.len())?;
            bytes.copy_from_slice(&self.window[start..start + bytes.len()]);
        }
        self.position += bytes.len() as u64;
        Ok(())
    }

    /// Where the next `bytes` bytes start in the window, which is moved if they are not in it.
    fn window_for(&mut self, bytes: usize) -> Result<usize> {
        let start = self.position.checked_sub(self.window_start).map_or(usize::MAX, |start| start as usize);
        if start.saturating_add(bytes) <= self.window.len() {
            return Ok(start);
        }
        let mut window = std::mem::take(&mut self.window);
        window.resize((self.size - self.position).min(WINDOW as u64) as usize, 0);
        self.read(&mut window)?;
        self.window = window;
        self.window_start = self.position;
        Ok(0)
    }

    fn read(&self, bytes: &mut [u8]) -> Result<()> {
        self.source.read_exact_at(bytes, self.position).map_err(|source| Error::Io {
            file: self.file.to_owned(),
            field: self.field.clone(),
            source,
        })
    }
}
