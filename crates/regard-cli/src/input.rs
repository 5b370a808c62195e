//! Texts that come from files or from standard input.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use crate::error::Error;
use crate::output::say;

/// The text of a file, or of standard input where the path is `-`. What is not UTF-8 comes out as U+FFFD, which is said.
///
/// # Errors
/// It cannot be read.
pub(crate) fn text(path: &Path) -> Result<String, Error> {
    let mut bytes = Vec::new();
    if path.as_os_str() == "-" {
        io::stdin().read_to_end(&mut bytes).map_err(Error::Input)?;
    } else {
        bytes = fs::read(path).map_err(|source| Error::Read { path: path.to_path_buf(), source })?;
    }
    String::from_utf8(bytes).or_else(|error| {
        let bytes = error.as_bytes();
        let line = 1 + bytes[..error.utf8_error().valid_up_to()].iter().filter(|&&byte| byte == b'\n').count();
        let name = if path.as_os_str() == "-" { "standard input".to_owned() } else { path.display().to_string() };
        say!("{name}: line {line} is not UTF-8; such bytes are read as U+FFFD");
        Ok(String::from_utf8_lossy(bytes).into_owned())
    })
}
