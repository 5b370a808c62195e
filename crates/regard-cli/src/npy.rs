//! Arrays as NumPy's files.

use std::io::{self, Write};

/// What an array may hold.
pub(crate) trait Item: Copy {
    /// What NumPy calls it.
    const DESCR: &'static str;

    /// Appends its bytes.
    fn put(self, bytes: &mut Vec<u8>);
}

impl Item for bool {
    const DESCR: &'static str = "|b1";

    fn put(self, bytes: &mut Vec<u8>) {
        bytes.push(self.into());
    }
}

impl Item for f32 {
    const DESCR: &'static str = "<f4";

    fn put(self, bytes: &mut Vec<u8>) {
        bytes.extend(self.to_le_bytes());
    }
}

/// Writes an array `[rows, columns]`, row-major, in version 1.0 of the format
/// (<https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>).
pub(crate) fn write<T: Item>(file: &mut dyn Write, rows: usize, columns: usize, array: &[T]) -> io::Result<()> {
    const MAGIC: &[u8] = b"\x93NUMPY\x01\x00";
    let header = format!("{{'descr': '{}', 'fortran_order': False, 'shape': ({rows}, {columns}), }}", T::DESCR);
    // Blanks and a line end fill the header up, so that the array begins at a multiple of 64.
    let before = MAGIC.len() + size_of::<u16>();
    let length = (before + header.len() + 1).next_multiple_of(64) - before;
    file.write_all(MAGIC)?;
    file.write_all(&(length as u16).to_le_bytes())?;
    writeln!(file, "{header:<width$}", width = length - 1)?;
    let mut bytes = Vec::new();
    array.chunks(1 << 12).try_for_each(|chunk| {
        bytes.clear();
        chunk.iter().for_each(|item| item.put(&mut bytes));
        file.write_all(&bytes)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_says_where_the_array_begins() {
        for (rows, columns) in [(1, 1), (3, 5), (12345, 1), (1, 98_765)] {
            let array: Vec<bool> = (0..rows * columns).map(|at| at % 3 == 1).collect();
            let mut bytes = Vec::new();
            write(&mut bytes, rows, columns, &array).unwrap();
            let start = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
            assert_eq!((0, rows * columns), (start % 64, bytes.len() - start));
            let header = str::from_utf8(&bytes[10..start]).unwrap();
            assert!(header.ends_with('\n') && header.contains(&format!("'shape': ({rows}, {columns})")), "{header}");
            assert!(bytes[start..].iter().zip(&array).all(|(&byte, &kept)| byte == u8::from(kept)));
        }
    }
}
