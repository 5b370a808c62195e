//! How a file stores a weight.

use std::fmt;

/// The storage of a weight matrix in a file, row-major: `[outputs][inputs]`.
///
/// The block formats are those of GGML (`ggml-common.h` and `ggml-quants.c` of ggml-org/ggml): 32 consecutive inputs of a row
/// share an f16 scale `d`, and in `Q4_1` an f16 minimum `m`. Numbers are little-endian.
///
/// ```
/// use regard_kernels::WeightFormat;
///
/// assert_eq!(WeightFormat::Q4_1.row_bytes(64), Some(40)); // 5 bits a weight
/// assert_eq!(WeightFormat::Q4_1.row_bytes(65), None); // not a whole number of blocks
/// assert_eq!(WeightFormat::Q8_0.to_string(), "Q8_0");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightFormat {
    /// Single precision.
    F32,
    /// Half precision.
    F16,
    /// The upper half of a single precision number.
    Bf16,
    /// `w = d·q`: `d`, then 32 signed bytes `q`.
    Q8_0,
    /// `w = d·(q − 8)`: `d`, then 16 bytes with inputs 0 to 15 in the low and 16 to 31 in the high nibbles.
    Q4_0,
    /// `w = d·q + m`: `d`, `m`, then nibbles as in `Q4_0`.
    Q4_1,
}

impl WeightFormat {
    /// Every format.
    pub const ALL: [WeightFormat; 6] = [Self::F32, Self::F16, Self::Bf16, Self::Q8_0, Self::Q4_0, Self::Q4_1];

    /// Its name, as GGUF writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::Q8_0 => "Q8_0",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
        }
    }

    /// Inputs that one block of a row holds: 1 for plain numbers.
    pub fn block_inputs(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 1,
            Self::Q8_0 | Self::Q4_0 | Self::Q4_1 => 32,
        }
    }

    /// Bytes of one block of a row.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Q8_0 => 34,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
        }
    }

    /// Whether it stores codes in blocks of 32, so that a product can run on bytes.
    pub fn is_quantized(self) -> bool {
        self.block_inputs() > 1
    }

    /// Bytes of a row of `inputs` weights; none if that is no whole number of blocks, or beyond the address space.
    pub fn row_bytes(self, inputs: usize) -> Option<usize> {
        let whole = inputs.is_multiple_of(self.block_inputs());
        whole.then(|| (inputs / self.block_inputs()).checked_mul(self.block_bytes())).flatten()
    }
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
