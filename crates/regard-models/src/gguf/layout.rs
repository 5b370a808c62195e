//! How the numbers of a tensor are stored.

use std::fmt;

/// A storage type that this crate reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GgmlType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of a single.
    BF16,
    /// Blocks of 32: a half-precision scale `d` and 32 signed bytes `q`; `x = d·q`.
    Q8_0,
    /// Blocks of 32: a half-precision scale `d` and 32 nibbles `q`; `x = d·(q − 8)`.
    Q4_0,
    /// Blocks of 32: a half-precision scale `d` and minimum `m`, and 32 nibbles `q`; `x = d·q + m`.
    Q4_1,
    /// Blocks of 32: a half-precision scale `d` and 32 numbers of 5 bits `q`; `x = d·(q − 16)`.
    Q5_0,
    /// Blocks of 32: a half-precision scale `d` and minimum `m`, and 32 numbers of 5 bits `q`; `x = d·q + m`.
    Q5_1,
    /// Blocks of 256: half-precision units `d` and `m`, for each 32 numbers a scale `s` and a minimum `t` of 6 bits, and
    /// nibbles `q`; `x = d·s·q − m·t`.
    Q4K,
    /// As `Q4K`, with `q` of 5 bits.
    Q5K,
    /// Blocks of 256: a half-precision unit `d`, for each 16 numbers a signed byte `s`, and numbers of 6 bits `q`;
    /// `x = d·s·(q − 32)`.
    Q6K,
}

impl GgmlType {
    /// Every storage type that this crate reads.
    pub const ALL: [GgmlType; 11] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// Its name in the format.
    ///
    /// ```
    /// assert_eq!(regard_models::gguf::GgmlType::Q4_1.name(), "Q4_1");
    /// ```
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Q8_0 => "Q8_0",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
        }
    }

    /// How many numbers a block holds.
    pub fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q8_0 | Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 => 32,
            Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// How many bytes a block takes.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q8_0 => 34,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One row of the format's table of storage types, those that this crate cannot read included: every tensor's size
/// can be checked, and an error can name the type.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) name: &'static str,
    /// Numbers in a block.
    pub(super) len: u64,
    /// Bytes of a block.
    pub(super) bytes: u64,
}

/// The row of the type that the file writes as `id`.
pub(super) fn layout(id: u32) -> Option<&'static Layout> {
    LAYOUTS.get(id as usize).filter(|layout| layout.len > 0)
}

const fn row(name: &'static str, len: u64, bytes: u64) -> Layout {
    Layout { name, len, bytes }
}

/// A number that no file uses any more, or not yet.
const GAP: Layout = row("", 0, 0);

static LAYOUTS: [Layout; 42] = [
    row("F32", 1, 4),
    row("F16", 1, 2),
    row("Q4_0", 32, 18),
    row("Q4_1", 32, 20),
    GAP,
    GAP,
    row("Q5_0", 32, 22),
    row("Q5_1", 32, 24),
    row("Q8_0", 32, 34),
    row("Q8_1", 32, 40),
    row("Q2_K", 256, 84),
    row("Q3_K", 256, 110),
    row("Q4_K", 256, 144),
    row("Q5_K", 256, 176),
    row("Q6_K", 256, 210),
    row("Q8_K", 256, 292),
    row("IQ2_XXS", 256, 66),
    row("IQ2_XS", 256, 74),
    row("IQ3_XXS", 256, 98),
    row("IQ1_S", 256, 50),
    row("IQ4_NL", 32, 18),
    row("IQ3_S", 256, 110),
    row("IQ2_S", 256, 82),
    row("IQ4_XS", 256, 136),
    row("I8", 1, 1),
    row("I16", 1, 2),
    row("I32", 1, 4),
    row("I64", 1, 8),
    row("F64", 1, 8),
    row("IQ1_M", 256, 56),
    row("BF16", 1, 2),
    GAP,
    GAP,
    GAP,
    row("TQ1_0", 256, 54),
    row("TQ2_0", 256, 66),
    GAP,
    GAP,
    GAP,
    row("MXFP4", 32, 17),
    row("NVFP4", 64, 36),
    row("Q1_0", 128, 18),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_types_that_are_read_agree_with_the_table() {
        for kind in GgmlType::ALL {
            let row = LAYOUTS.iter().find(|row| row.name == kind.name()).unwrap();
            assert_eq!((row.len, row.bytes), (kind.block_len() as u64, kind.block_bytes() as u64), "{kind}");
        }
    }
}
