//! Where the bytes of a checkpoint come from.

use std::fs::File;
use std::io;

/// Bytes that can be read at any position, by several threads at once.
///
/// A [`File`] is read, never mapped: a file that shrinks while it is read gives an error instead of a fault, and no
/// page of it stays in the process. Bytes in memory serve tests.
pub trait ReadAt: Send + Sync {
    /// The number of bytes.
    ///
    /// # Errors
    ///
    /// The operating system's, where it cannot tell.
    fn size(&self) -> io::Result<u64>;

    /// Fills `buffer` with the bytes that start at `position`.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::UnexpectedEof`] where fewer bytes are left than `buffer` holds; otherwise the operating
    /// system's.
    fn read_exact_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    #[cfg(unix)]
    fn read_exact_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self, buffer, position)
    }

    #[cfg(windows)]
    fn read_exact_at(&self, mut buffer: &mut [u8], mut position: u64) -> io::Result<()> {
        use std::os::windows::fs::FileExt;
        while !buffer.is_empty() {
            match self.seek_read(buffer, position) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    buffer = &mut buffer[read..];
                    position += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl ReadAt for Vec<u8> {
    fn size(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_exact_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        let bytes = usize::try_from(position)
            .ok()
            .and_then(|start| self.get(start..)?.get(..buffer.len()))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }
}
