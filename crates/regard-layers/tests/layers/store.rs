//! Files of tensors.

use std::collections::HashMap;

use regard_layers::{StoredTensors, write_tensors};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

const METADATA: [(&str, &str); 4] =
    [("steps", "12"), ("optimiser_steps", "11"), ("format", "pt"), ("a \"word\"", "\\")];

/// The bytes of a file depend on what is in it alone, and safetensors reads them.
#[test]
fn the_same_tensors_are_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    let numbers = [1.0, -2.5, f32::MIN_POSITIVE, 4.0, 5.0, 6.0f32];
    let tensors = [("b", &[2, 3][..], &numbers[..]), ("a", &[][..], &numbers[1..2]), ("none", &[0][..], &[][..])];
    let mut written = Vec::new();
    for turn in 0..8 {
        let (mut tensors, mut metadata) = (tensors, METADATA);
        tensors.rotate_left(turn % 3);
        metadata.rotate_left(turn % 4);
        write_tensors(&path, tensors, &metadata).unwrap();
        written.push(std::fs::read(&path).unwrap());
    }
    assert!(written.iter().all(|bytes| *bytes == written[0]));

    let file = SafeTensors::deserialize(&written[0]).unwrap();
    let stored = StoredTensors::read(&path).unwrap();
    for (name, shape, values) in tensors {
        let tensor = file.tensor(name).unwrap();
        assert_eq!((tensor.shape(), tensor.dtype()), (shape, Dtype::F32));
        assert_eq!(stored.get(name, shape).unwrap(), values);
    }
    let (header_len, header) = SafeTensors::read_metadata(&written[0]).unwrap();
    assert_eq!(header_len % 8, 0, "tensors begin at a whole word");
    let metadata = METADATA.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(header.metadata().clone().unwrap(), HashMap::from(metadata));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
}

/// Files that the crate's own writer made are read.
#[test]
fn files_of_other_writers_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    let bytes = [2.0f32, 3.0].map(f32::to_le_bytes).concat();
    let tensor = TensorView::new(Dtype::F32, vec![2], &bytes).unwrap();
    let metadata = METADATA.map(|(name, value)| (name.to_owned(), value.to_owned()));
    safetensors::serialize_to_file([("x", tensor)], Some(metadata.into()), &path).unwrap();
    let stored = StoredTensors::read(&path).unwrap();
    assert_eq!(stored.get("x", &[2]).unwrap(), [2.0, 3.0]);
    assert_eq!([stored.number("steps").unwrap(), stored.number("optimiser_steps").unwrap()], [12, 11]);
}

#[test]
fn tensors_that_cannot_be_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    for names in [["x", "x"], ["x", "__metadata__"]] {
        let error = write_tensors(&path, names.map(|name| (name, &[1][..], &[1.0][..])), &[]).unwrap_err().to_string();
        assert!(error.contains(&format!("the name `{}` is taken", names[1])), "{error}");
    }
    assert!(!path.exists());
}
