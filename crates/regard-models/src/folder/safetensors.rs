//! The weights of a folder: one file, or several with an index.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Component, Path};

use regard_kernels::WeightFormat;
use safetensors::Dtype;
use safetensors::tensor::Metadata;
use serde_json::Value;

use super::{Tensor, json};
use crate::gguf::ReadAt;
use crate::{Error, Result};

/// The weights of folders that were saved before there were safetensors.
const PICKLE: &str = "pytorch_model.bin";

const ONE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The most bytes of a header: far above any model's.
const MAX_HEADER: u64 = 32 << 20;

/// One file of weights.
pub(super) struct Shard {
    pub(super) name: String,
    pub(super) source: Box<dyn ReadAt>,
}

/// Opens all shards and reads their headers.
pub(super) fn open(folder: &Path) -> Result<(Vec<Shard>, Vec<Tensor>)> {
    let (mut shards, mut tensors) = (Vec::new(), Vec::new());
    let index = json(&folder.join(INDEX))?.map(|index| Index::read(folder, &index)).transpose()?;
    let names = match &index {
        Some(index) => index.files.iter().map(String::as_str).collect(),
        None => vec![ONE],
    };
    for name in names {
        let path = folder.join(name);
        let file = path.display().to_string();
        let failed = |source| Error::Io { file: file.clone(), field: "opening the file".to_owned(), source };
        let found = fs::metadata(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound if folder.join(PICKLE).exists() => Error::Unsupported {
                file: folder.display().to_string(),
                field: PICKLE.to_owned(),
                found: "a file that runs code when it is read".to_owned(),
                supported: "model.safetensors: transformers' save_pretrained writes it".to_owned(),
            },
            io::ErrorKind::NotFound => Error::Missing { file: folder.display().to_string(), field: name.to_owned() },
            _ => failed(error),
        })?;
        if !found.is_file() {
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file")));
        }
        let source = File::open(&path).map_err(failed)?;
        tensors.extend(read_header(&source, &file, shards.len())?);
        shards.push(Shard { name: file, source: Box::new(source) });
    }
    let mut seen = BTreeMap::new();
    for tensor in &tensors {
        if let Some(before) = seen.insert(&*tensor.name, tensor.shard) {
            let problem = format!("it stands in {} too", shards[before].name);
            return Err(Error::Malformed {
                file: shards[tensor.shard].name.clone(),
                field: tensor.name.clone(),
                problem,
            });
        }
    }
    if let Some(missing) = index.iter().flat_map(|index| &index.tensors).find(|name| !seen.contains_key(name.as_str()))
    {
        return Err(Error::Missing { file: folder.display().to_string(), field: missing.clone() });
    }
    Ok((shards, tensors))
}

/// Which files hold the weights, and what they hold.
struct Index {
    files: BTreeSet<String>,
    tensors: Vec<String>,
}

impl Index {
    fn read(folder: &Path, index: &Value) -> Result<Index> {
        let malformed = |problem: String| {
            let file = folder.join(INDEX).display().to_string();
            Error::Malformed { file, field: "weight_map".to_owned(), problem }
        };
        let map = index.get("weight_map").and_then(Value::as_object);
        let map = map.ok_or_else(|| malformed("expected an object of tensors and their files".to_owned()))?;
        let mut files = BTreeSet::new();
        for (tensor, file) in map {
            let name = file.as_str().unwrap_or_default();
            // A name and nothing else: no file outside the folder is opened.
            let mut parts = Path::new(name).components();
            if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
                return Err(malformed(format!("{tensor} is in {file}, expected the name of a file in the folder")));
            }
            files.insert(name.to_owned());
        }
        Ok(Index { files, tensors: map.keys().cloned().collect() })
    }
}

/// The tensors that the header of a file lists: their places are within the file, and do not overlap.
fn read_header(source: &dyn ReadAt, file: &str, shard: usize) -> Result<Vec<Tensor>> {
    let io = |source| Error::Io { file: file.to_owned(), field: "header".to_owned(), source };
    let malformed = |problem| Error::Malformed { file: file.to_owned(), field: "header".to_owned(), problem };
    let size = source.size().map_err(io)?;
    let mut length = [0; 8];
    if size < length.len() as u64 {
        return Err(malformed(format!("the file has {size} bytes, no safetensors file is so short")));
    }
    source.read_exact_at(&mut length, 0).map_err(io)?;
    let header = u64::from_le_bytes(length);
    let data = 8 + header.min(MAX_HEADER);
    if header > MAX_HEADER || data > size {
        return Err(malformed(format!("a header of {header} bytes does not fit a file of {size}")));
    }
    let mut text = vec![0; header as usize];
    source.read_exact_at(&mut text, 8).map_err(io)?;
    let metadata: Metadata = serde_json::from_slice(&text).map_err(|error| malformed(error.to_string()))?;
    if metadata.data_len() as u64 != size - data {
        return Err(malformed(format!(
            "its tensors take {} bytes, and the file has {} behind the header",
            metadata.data_len(),
            size - data
        )));
    }
    let tensor = |name: &String| {
        let info = metadata.info(name)?;
        let (start, end) = info.data_offsets;
        Some(Tensor {
            name: name.clone(),
            shape: info.shape.iter().map(|&size| size as u64).collect(),
            dtype: format!("{:?}", info.dtype),
            kind: kind(info.dtype),
            offset: data + start as u64,
            bytes: (end - start) as u64,
            shard,
        })
    };
    Ok(metadata.offset_keys().iter().filter_map(tensor).collect())
}

fn kind(dtype: Dtype) -> Option<WeightFormat> {
    match dtype {
        Dtype::F32 => Some(WeightFormat::F32),
        Dtype::F16 => Some(WeightFormat::F16),
        Dtype::BF16 => Some(WeightFormat::Bf16),
        _ => None,
    }
}

/// What can be read.
pub(super) fn supported() -> String {
    [WeightFormat::F32, WeightFormat::F16, WeightFormat::Bf16].map(WeightFormat::name).join(", ")
}
