//! Parameters in files of safetensors.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use regard_memory::{AlignedBuffer, cast_slice, cast_slice_mut};
use safetensors::tensor::{Dtype, SafeTensors, TensorInfo, TensorView};
use serde_json::json;

use crate::{Error, Parameters};

/// The largest file that is read.
const MOST: u64 = 1 << 38;

/// What a header has under this name is of the whole file.
const METADATA: &str = "__metadata__";

/// Writes tensors (name, shape, numbers) to a file, all of it or nothing: to a file beside it, which is synced and then takes its
/// name. Its bytes depend on what is in it alone: tensors and metadata stand in the order of their names.
///
/// # Errors
/// The file cannot be written, or two tensors have one name.
pub fn write_tensors<'a>(
    path: &Path,
    tensors: impl IntoIterator<Item = (&'a str, &'a [usize], &'a [f32])>,
    metadata: &[(&str, &str)],
) -> Result<(), Error> {
    let failed = |doing: &str, source: &dyn std::fmt::Display| Error::file(path, format!("{doing}: {source}"));
    let mut by_name = BTreeMap::new();
    for (name, shape, values) in tensors {
        let view = TensorView::new(Dtype::F32, shape.to_vec(), cast_slice(values));
        let view = view.map_err(|error| failed("describing a tensor", &error))?;
        if name == METADATA || by_name.insert(name, view).is_some() {
            return Err(failed("describing a tensor", &format!("the name `{name}` is taken")));
        }
    }
    let header = header(&by_name, metadata).map_err(|error| failed("describing its tensors", &error))?;
    let beside = path.with_extension("tmp");
    let write = || {
        let mut file = BufWriter::new(File::create(&beside)?);
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(header.as_bytes())?;
        for view in by_name.values() {
            file.write_all(view.data())?;
        }
        file.into_inner()?.sync_all()?;
        fs::rename(&beside, path)
    };
    write().map_err(|error| failed("writing it", &error))
}

/// What stands before the tensors, up to a whole number of words. (The crate's own writer keeps metadata in a hash map, whose order
/// is another one in every run.)
fn header(tensors: &BTreeMap<&str, TensorView<'_>>, metadata: &[(&str, &str)]) -> Result<String, serde_json::Error> {
    let mut all = BTreeMap::new();
    if !metadata.is_empty() {
        all.insert(METADATA, json!(metadata.iter().copied().collect::<BTreeMap<_, _>>()));
    }
    let mut end = 0;
    for (&name, view) in tensors {
        let start = end;
        end += view.data().len();
        let info = TensorInfo { dtype: view.dtype(), shape: view.shape().to_vec(), data_offsets: (start, end) };
        all.insert(name, serde_json::to_value(info)?);
    }
    let mut header = serde_json::to_string(&all)?;
    let whole = header.len().next_multiple_of(size_of::<u64>());
    header.extend(std::iter::repeat_n(' ', whole - header.len()));
    Ok(header)
}

/// The tensors of a file, by name.
#[derive(Debug)]
pub struct StoredTensors {
    file: String,
    tensors: HashMap<String, (Vec<usize>, AlignedBuffer<f32>)>,
    metadata: HashMap<String, String>,
}

impl StoredTensors {
    /// Reads a file of f32 tensors.
    ///
    /// # Errors
    /// It cannot be read, is no such file, or holds other numbers.
    pub fn read(path: &Path) -> Result<StoredTensors, Error> {
        let failed = |source: &dyn std::fmt::Display| Error::file(path, format!("reading it: {source}"));
        let len = fs::metadata(path).map_err(|error| failed(&error))?.len();
        if len > MOST {
            return Err(failed(&format!("{len} bytes are more than any model's")));
        }
        let bytes = fs::read(path).map_err(|error| failed(&error))?;
        let file = SafeTensors::deserialize(&bytes).map_err(|error| failed(&error))?;
        let mut tensors = HashMap::new();
        for (name, view) in file.iter() {
            if view.dtype() != Dtype::F32 {
                return Err(failed(&format!("`{name}` holds {:?}, expected F32", view.dtype())));
            }
            let mut values = AlignedBuffer::zeroed(view.data().len() / size_of::<f32>())?;
            cast_slice_mut::<f32, u8>(&mut values).copy_from_slice(view.data());
            tensors.insert(name.to_owned(), (view.shape().to_vec(), values));
        }
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|error| failed(&error))?;
        let metadata = header.metadata().clone().unwrap_or_default();
        Ok(StoredTensors { file: path.display().to_string(), tensors, metadata })
    }

    /// A tensor of this shape.
    ///
    /// # Errors
    /// There is none of this name, or it has another shape.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<&[f32], Error> {
        let Some((has, values)) = self.tensors.get(name) else {
            return Err(self.refused(format!("lacks `{name}`")));
        };
        if has != shape {
            let tensor = format!("{name} of {}", self.file);
            return Err(Error::shape(&tensor, has, format!("{shape:?}, as the model has it")));
        }
        Ok(values)
    }

    /// A number that the file says beside its tensors.
    ///
    /// # Errors
    /// It does not, or says something else.
    pub fn number(&self, name: &str) -> Result<u64, Error> {
        let number = self.metadata.get(name).and_then(|value| value.parse().ok());
        number.ok_or_else(|| self.refused(format!("has no number `{name}`")))
    }

    /// An error about this file.
    pub(crate) fn refused(&self, problem: String) -> Error {
        Error::File { file: self.file.clone(), problem }
    }

    /// The names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }
}

impl Parameters {
    /// Writes all tensors to a file of safetensors, all of it or nothing.
    ///
    /// ```
    /// use regard_layers::{Bias, Linear, Parameters};
    ///
    /// let mut parameters = Parameters::new(7);
    /// Linear::new(&mut parameters.scope("head"), 8, 3, Bias::Learned)?;
    /// let folder = tempfile::tempdir().unwrap();
    /// let path = folder.path().join("model.safetensors");
    /// parameters.save(&path)?;
    ///
    /// let mut others = Parameters::new(8);
    /// Linear::new(&mut others.scope("head"), 8, 3, Bias::Learned)?;
    /// assert_ne!(parameters.values(), others.values());
    /// others.load(&path)?;
    /// assert_eq!(parameters.values(), others.values());
    /// # Ok::<(), regard_layers::Error>(())
    /// ```
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        let tensors = self.entries().map(|(name, shape, place)| (name, shape, self.of(place)));
        write_tensors(path, tensors, &[("format", "pt")])
    }

    /// Reads all tensors from a file of safetensors. Others that it may hold are left alone.
    ///
    /// # Errors
    /// The file cannot be read, or lacks a tensor, or has it in another shape; then nothing has changed.
    pub fn load(&mut self, path: &Path) -> Result<(), Error> {
        self.take(&StoredTensors::read(path)?)
    }

    /// The same, of a file that was read.
    ///
    /// # Errors
    /// It lacks a tensor, or has it in another shape; then nothing has changed.
    pub fn take(&mut self, stored: &StoredTensors) -> Result<(), Error> {
        let mut places = Vec::new();
        for (name, shape, place) in self.entries() {
            places.push((place, stored.get(name, shape)?));
        }
        for (place, values) in places {
            self.values_mut()[place.range()].copy_from_slice(values);
        }
        Ok(())
    }
}
