//! Random numbers, and weights as the formats of files define them.

use half::f16;
use proptest::prelude::*;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use regard_kernels::{
    ActivationBlock, ActivationKind, Activations, Epilogue, Kernels, QuantizedRows, Weight, WeightFormat,
};
use regard_memory::{Rows, RowsMut};

/// What a result in f32 is off by at most, relatively.
pub(crate) const ROUNDING: f64 = 1.0 / 16_777_216.0;

/// So many cases of a property, or as many as `PROPTEST_CASES` says: fewer where instructions are slow.
pub(crate) fn tries(cases: u32) -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(cases);
    ProptestConfig::with_cases(cases)
}

pub(crate) fn seeded(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

/// Runs of 32 numbers of one magnitude, which differs from run to run; some runs are 0.
pub(crate) fn numbers(random: &mut ChaCha8Rng, count: usize) -> Vec<f32> {
    let mut magnitude = 1.0;
    let number = |i: usize| {
        if i.is_multiple_of(32) {
            magnitude = if random.random_range(0..16) == 0 { 0.0 } else { 2f32.powi(random.random_range(-8..8)) };
        }
        magnitude * random.random_range(-1.0_f32..1.0)
    };
    (0..count).map(number).collect()
}

/// A weight as a file holds it, and the numbers that it stands for.
pub(crate) struct Stored {
    pub(crate) format: WeightFormat,
    pub(crate) outputs: usize,
    pub(crate) inputs: usize,
    pub(crate) bytes: Vec<u8>,
    /// `[outputs, inputs]`: a code times its scale, and the minimum, whose sum is the weight.
    pub(crate) terms: Vec<[f64; 2]>,
}

impl Stored {
    pub(crate) fn random(random: &mut ChaCha8Rng, format: WeightFormat, outputs: usize, inputs: usize) -> Stored {
        let blocks = outputs * inputs / format.block_inputs();
        let bytes: Vec<u8> = (0..blocks).flat_map(|_| random_block(random, format)).collect();
        let terms = bytes.chunks_exact(format.block_bytes()).flat_map(|block| definition(format, block)).collect();
        Stored { format, outputs, inputs, bytes, terms }
    }

    pub(crate) fn packed(&self) -> Weight {
        let mut weight = Weight::zeroed(self.format, self.outputs, self.inputs).expect("a small weight");
        weight.part().pack(0, &self.bytes).expect("whole rows");
        weight
    }

    /// The weights of one output, as their terms: `[inputs]`.
    pub(crate) fn output(&self, output: usize) -> &[[f64; 2]] {
        &self.terms[output * self.inputs..][..self.inputs]
    }
}

/// What a block of a file stands for, term by term.
fn definition(format: WeightFormat, block: &[u8]) -> Vec<[f64; 2]> {
    let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f64();
    // Low nibbles are the first half of the inputs, high nibbles the second.
    let nibbles = |codes: &[u8]| -> Vec<f64> {
        codes.iter().map(|byte| byte & 15).chain(codes.iter().map(|byte| byte >> 4)).map(f64::from).collect()
    };
    match format {
        WeightFormat::F32 => vec![[f64::from(f32::from_le_bytes(block.try_into().expect("4 bytes"))), 0.0]],
        WeightFormat::F16 => vec![[half(0), 0.0]],
        WeightFormat::Bf16 => vec![[f64::from(f32::from_le_bytes([0, 0, block[0], block[1]])), 0.0]],
        WeightFormat::Q8_0 => block[2..].iter().map(|&q| [half(0) * f64::from(q as i8), 0.0]).collect(),
        WeightFormat::Q4_0 => nibbles(&block[2..]).iter().map(|q| [half(0) * (q - 8.0), 0.0]).collect(),
        WeightFormat::Q4_1 => nibbles(&block[4..]).iter().map(|q| [half(0) * q, half(2)]).collect(),
        WeightFormat::Q5_0 => five_bits(&block[2..]).map(|q| [half(0) * (q - 16.0), 0.0]).collect(),
        WeightFormat::Q5_1 => five_bits(&block[4..]).map(|q| [half(0) * q, half(2)]).collect(),
        WeightFormat::Q4K | WeightFormat::Q5K => {
            let (scales, fifth) = (&block[4..16], &block[16..48]);
            let low = if format == WeightFormat::Q4K { &block[16..] } else { &block[48..] };
            let weight = |i: usize| {
                let (run, byte) = (i / 32, i % 32);
                let nibble = low[run / 2 * 32 + byte] >> (run % 2 * 4) & 15;
                let upper = if format == WeightFormat::Q4K { 0 } else { (fifth[byte] >> run & 1) * 16 };
                let (scale, minimum) = six_bits(scales, run);
                [half(0) * scale * f64::from(nibble + upper), -half(2) * minimum]
            };
            (0..256).map(weight).collect()
        }
        WeightFormat::Q6K => {
            let (low, upper, scales) = (&block[..128], &block[128..192], &block[192..208]);
            let weight = |i: usize| {
                let (part, of_part) = (i / 128, i % 128);
                let nibble = low[part * 64 + of_part % 64] >> (of_part / 64 * 4) & 15;
                let two = upper[part * 32 + of_part % 32] >> (of_part / 32 * 2) & 3;
                let scale = f64::from(scales[i / 16] as i8);
                [half(208) * scale * (f64::from(nibble + two * 16) - 32.0), 0.0]
            };
            (0..256).map(weight).collect()
        }
    }
}

/// Codes of 5 bits: all fifth bits as one number, then nibbles.
fn five_bits(bytes: &[u8]) -> impl Iterator<Item = f64> + '_ {
    let fifth = u32::from_le_bytes(bytes[..4].try_into().expect("4 bytes"));
    (0..32).map(move |i| f64::from(bytes[4 + i % 16] >> (i / 16 * 4) & 15) + f64::from(fifth >> i & 1) * 16.0)
}

/// The scale and the minimum of a run of 32, which twelve bytes hold: the low six bits of bytes 0 to 3 and 4 to 7 for the first
/// four runs; for the others the nibbles of bytes 8 to 11, and above them the rest of bytes 0 to 3 and 4 to 7.
fn six_bits(bytes: &[u8], run: usize) -> (f64, f64) {
    let (scale, minimum) = match run {
        0..4 => (bytes[run] % 64, bytes[run + 4] % 64),
        _ => (bytes[run + 4] % 16 + bytes[run - 4] / 64 * 16, bytes[run + 4] / 16 + bytes[run] / 64 * 16),
    };
    (f64::from(scale), f64::from(minimum))
}

/// A block of a file: any codes, now and then all of them at an end of their range.
fn random_block(random: &mut ChaCha8Rng, format: WeightFormat) -> Vec<u8> {
    let number: f32 = random.random_range(-2.0..2.0);
    let minimum = f16::from_f32(random.random_range(-1.0..1.0)).to_le_bytes();
    let mut codes = [0; 208];
    random.fill_bytes(&mut codes);
    if random.random_range(0..8) == 0 {
        codes.fill([0x00, 0xFF, 0x80, 0x7F][random.random_range(0..4)]);
    }
    let half = f16::from_f32(number).to_le_bytes();
    match format {
        WeightFormat::F32 => number.to_le_bytes().to_vec(),
        WeightFormat::F16 => half.to_vec(),
        WeightFormat::Bf16 => half::bf16::from_f32(number).to_le_bytes().to_vec(),
        WeightFormat::Q8_0 => [&half, &codes[..32]].concat(),
        WeightFormat::Q4_0 => [&half, &codes[..16]].concat(),
        WeightFormat::Q4_1 => [&half, &minimum, &codes[..16]].concat(),
        WeightFormat::Q5_0 => [&half, &codes[..20]].concat(),
        WeightFormat::Q5_1 => [&half, &minimum, &codes[..20]].concat(),
        WeightFormat::Q4K => [&half, &minimum, &codes[..140]].concat(),
        WeightFormat::Q5K => [&half, &minimum, &codes[..172]].concat(),
        WeightFormat::Q6K => [&codes[..], &half].concat(),
    }
}

/// The activations that a weight of this format takes.
pub(crate) fn kinds(format: WeightFormat) -> &'static [ActivationKind] {
    let all = &[ActivationKind::F32, ActivationKind::Bf16, ActivationKind::Quantized, ActivationKind::Bytes];
    if format.is_quantized() { all } else { &all[..2] }
}

/// Activations `[rows, inputs]`, rounded as their kind says.
pub(crate) enum Rounded {
    F32(Vec<f32>),
    Bf16(Vec<u32>),
    Quantized(Vec<ActivationBlock>),
    Bytes(Vec<ActivationBlock<1>>),
}

fn quantized<const BYTES: usize>(kernels: Kernels, x: Rows<'_, f32>) -> Vec<ActivationBlock<BYTES>> {
    let mut blocks = vec![ActivationBlock::default(); x.rows() * ActivationBlock::<BYTES>::per_row(x.cols())];
    kernels.quantize(x, &mut blocks).expect("as many blocks");
    blocks
}

impl Rounded {
    pub(crate) fn new(kernels: Kernels, kind: ActivationKind, x: &[f32], rows: usize, inputs: usize) -> Rounded {
        let x = Rows::contiguous(x, rows, inputs).expect("rows · inputs numbers");
        match kind {
            ActivationKind::F32 => Rounded::F32(x.iter().flatten().copied().collect()),
            ActivationKind::Bf16 => {
                let mut pairs = vec![u32::MAX; rows * inputs.div_ceil(2)];
                let out = RowsMut::contiguous(&mut pairs, rows, inputs.div_ceil(2)).expect("as many pairs");
                kernels.round_to_bf16(x, out).expect("as many pairs");
                Rounded::Bf16(pairs)
            }
            ActivationKind::Quantized => Rounded::Quantized(quantized(kernels, x)),
            ActivationKind::Bytes => Rounded::Bytes(quantized(kernels, x)),
        }
    }

    /// Some of the rows.
    pub(crate) fn rows(&self, rows: std::ops::Range<usize>, inputs: usize) -> Activations<'_> {
        fn view<T>(all: &[T], rows: std::ops::Range<usize>, cols: usize) -> Rows<'_, T> {
            Rows::contiguous(&all[rows.start * cols..rows.end * cols], rows.len(), cols).expect("rows that exist")
        }
        fn quantized<const BYTES: usize>(
            blocks: &[ActivationBlock<BYTES>],
            rows: std::ops::Range<usize>,
            inputs: usize,
        ) -> QuantizedRows<'_, BYTES> {
            let row = ActivationBlock::<BYTES>::per_row(inputs);
            let blocks = &blocks[rows.start * row..rows.end * row];
            QuantizedRows::new(blocks, rows.len(), inputs).expect("blocks that exist")
        }
        match self {
            Rounded::F32(x) => Activations::F32(view(x, rows, inputs)),
            Rounded::Bf16(x) => Activations::Bf16(view(x, rows, inputs.div_ceil(2))),
            Rounded::Quantized(x) => Activations::Quantized(quantized(x, rows, inputs)),
            Rounded::Bytes(x) => Activations::Bytes(quantized(x, rows, inputs)),
        }
    }
}

/// The whole product: `[rows, outputs]`.
pub(crate) fn product(kernels: Kernels, weight: &Weight, x: Activations<'_>, rows: usize) -> Vec<f32> {
    let mut y = vec![f32::NAN; rows * weight.outputs()];
    let out = RowsMut::contiguous(&mut y, rows, weight.outputs()).expect("rows · outputs numbers");
    kernels.linear(weight, 0..weight.panels(), x, out, Epilogue::STORE).expect("shapes that fit");
    y
}

/// A linear layer to be tried.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layer {
    pub(crate) format: WeightFormat,
    pub(crate) rows: usize,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) seed: u64,
}

/// Layers of any format, at times without rows, inputs or outputs, at times with more rows than are widened for at once.
pub(crate) fn layers() -> impl Strategy<Value = Layer> {
    let format = prop::sample::select(&WeightFormat::ALL[..]);
    let rows = prop_oneof![8 => 0..16_usize, 1 => 90..110_usize];
    (format, rows, 0..200_usize, 0..150_usize, any::<u64>()).prop_map(|(format, rows, inputs, outputs, seed)| {
        let inputs = match format.block_inputs() {
            1 => inputs,
            32 => inputs / 32 * 32,
            block => inputs / 70 * block,
        };
        Layer { format, rows, inputs, outputs, seed }
    })
}
