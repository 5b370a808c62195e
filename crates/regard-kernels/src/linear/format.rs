//! How a file stores a weight.

use std::fmt;

/// The storage of a weight matrix in a file, row-major: `[outputs][inputs]`.
///
/// The block formats are those of GGML (`ggml-common.h` and `ggml-quants.c` of ggml-org/ggml): 32 consecutive inputs of a row
/// share an f16 scale `d`, and in `Q4_1` and `Q5_1` an f16 minimum `m`. In those named K, 256 inputs share f16 units, of which
/// the scale and the minimum of every 32 or 16 inputs are small multiples. Numbers are little-endian.
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
    /// `w = d·(q − 16)`: `d`, the fifth bits of all 32 inputs, then nibbles as in `Q4_0`.
    Q5_0,
    /// `w = d·q + m`: `d`, `m`, then fifth bits and nibbles as in `Q5_0`.
    Q5_1,
    /// `w = d·s·q − m·t`, with a scale `s` and a minimum `t` of 6 bits for each 32 inputs: `d`, `m`, 12 bytes with all `s`
    /// and `t`, then four times 32 bytes with 32 inputs in the low and the next 32 in the high nibbles.
    Q4K,
    /// As `Q4K`, with 32 bytes between scales and nibbles: bit `i` of each is the fifth bit of an input of the `i`-th 32.
    Q5K,
    /// `w = d·s·(q − 32)`, with a signed byte `s` for each 16 inputs: 128 bytes of nibbles, 64 with the two bits above them,
    /// 16 scales, `d`. Of the nibbles, 64 inputs are the low and the next 64 the high ones of 64 bytes.
    Q6K,
}

impl WeightFormat {
    /// Every format.
    pub const ALL: [WeightFormat; 11] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// Its name, as GGUF writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
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

    /// Inputs that one block of a row holds: 1 for plain numbers.
    pub fn block_inputs(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 1,
            Self::Q8_0 | Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 => 32,
            Self::Q4K | Self::Q5K | Self::Q6K => 256,
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
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }

    /// Whether it stores codes in blocks, so that a product can run on bytes.
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
