//! From a folder to one GGUF file.

mod settings;
mod tokens;

use std::io::{self, Write};
use std::ops::Range;

use regard_kernels::{RotaryOrder, WeightFormat};

use self::settings::Settings;
use crate::checkpoint::{Checkpoint, Stored};
use crate::description::{Description, Mixer};
use crate::family::ENCODERS;
use crate::folder::Folder;
use crate::gguf::{Entry, WRITTEN, dequantize, header, padding, quantize};
use crate::load::{finite, unplaced};
use crate::{Error, Optional, Result};

/// About so many numbers are read at a time.
const NUMBERS_AT_ONCE: u64 = 1 << 20;

/// A folder's model as a GGUF file, ready to be written: settings, tokens and template as llama.cpp's own converter writes
/// them, so that llama.cpp reads it too.
///
/// ```no_run
/// use std::fs::File;
///
/// use regard_models::{Conversion, Folder};
/// use regard_models::gguf::WeightFormat;
///
/// let folder = Folder::open("Qwen3-0.6B".as_ref())?;
/// let conversion = Conversion::new(&folder, WeightFormat::Q8_0)?;
/// conversion.write(&mut File::create("Qwen3-0.6B-Q8_0.gguf").unwrap(), &mut |_| ())?;
/// # Ok::<(), regard_models::Error>(())
/// ```
pub struct Conversion<'f> {
    folder: &'f Folder,
    header: Vec<u8>,
    tensors: Vec<Tensor>,
}

/// A tensor on its way.
struct Tensor {
    entry: Entry,
    from: Source,
}

enum Source {
    /// It stands in the folder.
    Stored {
        stored: Stored,
        /// Rows whose order changes together, and how many of them turn; none where they stay.
        heads: Option<Heads>,
        /// What is added to each number.
        offset: f32,
    },
    /// It is made from the settings.
    Numbers(Vec<f32>),
}

/// The rows of a head: in folders those turn together that are half the turning ones apart, in the file neighbours do.
#[derive(Clone, Copy)]
struct Heads {
    rows: usize,
    turning: usize,
}

impl Heads {
    /// The row of a folder's head that is row `row` of the file's.
    fn source(self, row: usize) -> usize {
        if row < self.turning { row % 2 * (self.turning / 2) + row / 2 } else { row }
    }
}

impl<'f> Conversion<'f> {
    /// A file whose matrices are stored in `format`, one of F32, F16, BF16 and Q8_0. Vectors are F32, and rows that Q8_0
    /// cannot be cut into are F16.
    ///
    /// # Errors
    /// The folder is no sound decoder of a family that runs here, or a GGUF file has no words for what it holds; the message
    /// names it. The tensors' numbers are only looked at when they are written.
    pub fn new(folder: &'f Folder, format: WeightFormat) -> Result<Conversion<'f>> {
        if !WRITTEN.contains(&format) {
            return Err(Error::Unsupported {
                file: folder.file().to_owned(),
                field: "conversion".to_owned(),
                found: format!("storage type {format}"),
                supported: WRITTEN.map(WeightFormat::name).join(", "),
            });
        }
        folder.config().refuse_encoders(&ENCODERS)?;
        let family = folder.family()?;
        let description = Description::from_folder(folder)?;
        let Settings { settings, factors } = settings::of(folder, family, &description, format)?;
        let mut tensors: Vec<Tensor> = factors
            .into_iter()
            .map(|(name, numbers)| {
                let entry = Entry { name, shape: vec![numbers.len() as u64], kind: WeightFormat::F32 };
                Tensor { entry, from: Source::Numbers(numbers) }
            })
            .collect();
        let mut left: Vec<&str> = folder.all();
        for stem in family.stems(description.blocks.len()) {
            let heads = heads(&description, &stem).filter(|_| family.rotary == RotaryOrder::Interleaved);
            for part in ["weight", "bias"] {
                let name = format!("{stem}.{part}");
                let Some(stored) = Checkpoint::tensor(folder, &name).optional()? else { continue };
                // A tied output matrix is saved beside the embedding now and then.
                if !left.contains(&&*stored.name) {
                    continue;
                }
                left.retain(|left| *left != stored.name);
                let kind = match stored.shape[..] {
                    [_, inputs] if inputs.is_multiple_of(format.block_inputs() as u64) => format,
                    [_, _] => WeightFormat::F16,
                    _ => WeightFormat::F32,
                };
                let offset = if stem.ends_with("norm") { folder.norm_offset(family) } else { 0.0 };
                let entry = Entry { name, shape: stored.shape.clone(), kind };
                tensors.push(Tensor { entry, from: Source::Stored { stored, heads, offset } });
            }
        }
        if let Some(name) = left.first() {
            return Err(unplaced(folder.file(), name, &description.architecture));
        }
        let entries: Vec<Entry> = tensors.iter().map(|tensor| tensor.entry.clone()).collect();
        Ok(Conversion { folder, header: header(&settings, &entries), tensors })
    }

    /// Bytes of the file.
    pub fn bytes(&self) -> u64 {
        let padded = |tensor: &Tensor| tensor.entry.bytes() + padding(tensor.entry.bytes()) as u64;
        self.header.len() as u64 + self.tensors.iter().map(padded).sum::<u64>()
    }

    /// Writes the file, telling now and then how many bytes are written.
    ///
    /// # Errors
    /// A tensor cannot be read, holds numbers that are not finite or that the type cannot hold, or the file cannot be written.
    pub fn write(&self, file: &mut dyn Write, done: &mut dyn FnMut(u64)) -> Result<()> {
        let refused = |source: io::Error| Error::Io {
            file: self.folder.file().to_owned(),
            field: "writing its conversion".to_owned(),
            source,
        };
        let mut written = self.header.len() as u64;
        file.write_all(&self.header).map_err(refused)?;
        for Tensor { entry, from } in &self.tensors {
            let mut put = |bytes: &[u8]| {
                file.write_all(bytes).map_err(refused)?;
                written += bytes.len() as u64;
                done(written);
                Ok(())
            };
            match from {
                Source::Numbers(numbers) => {
                    let mut bytes = Vec::new();
                    quantize(entry.kind, numbers, &mut bytes);
                    put(&bytes)?;
                }
                Source::Stored { stored, heads, offset } => self.read(stored, *heads, *offset, entry.kind, &mut put)?,
            }
            let gap = padding(entry.bytes());
            file.write_all(&vec![0; gap]).map_err(refused)?;
            written += gap as u64;
        }
        Ok(())
    }

    /// Hands out the bytes of a tensor in its new type and the file's order, a piece at a time.
    fn read(
        &self,
        stored: &Stored,
        heads: Option<Heads>,
        offset: f32,
        kind: WeightFormat,
        put: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        // The numbers of a vector are one row to read, and as many rows to order.
        let (rows, columns) = match stored.shape[..] {
            [rows, columns] => (rows, columns),
            _ => (1, stored.shape.iter().product()),
        };
        let at_once = match heads {
            Some(heads) => heads.rows as u64,
            None => (NUMBERS_AT_ONCE / columns.max(1)).max(1),
        };
        let mut bytes = Vec::new();
        for first in (0..rows).step_by(at_once as usize) {
            let piece: Range<u64> = first..rows.min(first + at_once);
            Checkpoint::read(self.folder, stored, piece.clone(), &mut bytes)?;
            finite(self.folder.file(), stored, stored.kind, &bytes)?;
            let mut numbers = vec![0.0; ((piece.end - piece.start) * columns) as usize];
            dequantize(stored.kind, &bytes, &mut numbers);
            numbers.iter_mut().for_each(|number| *number += offset);
            if let Some(heads) = heads {
                let row = if stored.shape.len() > 1 { columns as usize } else { 1 };
                let ordered = |head: &[f32]| -> Vec<f32> {
                    (0..heads.rows).flat_map(|to| head[heads.source(to) * row..][..row].to_vec()).collect()
                };
                numbers = numbers.chunks_exact(heads.rows * row).flat_map(ordered).collect();
            }
            bytes.clear();
            quantize(kind, &numbers, &mut bytes);
            finite(self.folder.file(), stored, kind, &bytes)?;
            put(&bytes)?;
        }
        Ok(())
    }
}

/// The heads of a tensor of queries or keys.
fn heads(description: &Description, stem: &str) -> Option<Heads> {
    let (block, tensor) = stem.strip_prefix("blk.")?.split_once('.')?;
    let Mixer::Attention(attention) = &description.blocks.get(block.parse::<usize>().ok()?)?.mixer;
    ["attn_q", "attn_k"].contains(&tensor).then_some(Heads { rows: attention.dim_k, turning: attention.rotary.dims })
}
