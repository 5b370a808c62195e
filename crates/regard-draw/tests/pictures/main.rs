//! Pictures, read back from their files, against the masks and layouts that they are of.

mod grid;
mod layout;
mod mask;
mod refuse;
mod support;
