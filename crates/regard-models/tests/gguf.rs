//! The reader against what the `gguf` Python package reads in the same file (`tests/peers/tiny_gguf.py`).

mod support;

use regard_kernels::{Activations, Epilogue, Kernels, Weight, WeightFormat};
use regard_memory::{Rows, RowsMut};
use regard_models::gguf::{Gguf, Value, dequantize};
use regard_models::{Error, Optional};
use regard_simd::Isa;
use support::{fixture, json};

fn tiny() -> Gguf {
    let bytes = std::fs::read(fixture("tiny.gguf")).unwrap();
    Gguf::parse(bytes, "tiny.gguf").unwrap()
}

#[test]
fn every_type_of_value() {
    let (file, reference) = (tiny(), json("tiny.json"));
    let values = reference["values"].as_object().unwrap();
    assert_eq!(file.metadata().filter(|(key, _)| key.starts_with("tiny.")).count(), values.len());
    for (key, value) in file.metadata() {
        let Some(expected) = values.get(key) else { continue };
        match value {
            Value::Unsigned(value) => assert_eq!(Some(*value), expected.as_u64(), "{key}"),
            Value::Signed(value) => assert_eq!(Some(*value), expected.as_i64(), "{key}"),
            Value::Float(value) if key == "tiny.f32" => assert_eq!(*value, f64::from(0.1_f32)),
            Value::Float(value) => assert_eq!(Some(*value), expected.as_f64(), "{key}"),
            Value::Bool(value) => assert_eq!(Some(*value), expected.as_bool(), "{key}"),
            Value::String(value) => assert_eq!(Some(value.as_str()), expected.as_str(), "{key}"),
            Value::Array(array) => assert_eq!(array.len(), expected.as_array().unwrap().len() as u64, "{key}"),
        }
    }
    let expected = |key: &str| values[key].as_array().unwrap().clone();
    let strings = file.strings("tiny.strings").unwrap();
    assert!(strings.iter().eq(expected("tiny.strings").iter().map(|string| string.as_str().unwrap())));
    assert_eq!(file.i32s("tiny.i32s").unwrap(), [-3, 0, 1 << 30]);
    assert_eq!(file.f32s("tiny.f32s").unwrap(), [0.5, -1.25, 3.0]);
}

#[test]
fn a_value_is_asked_for_by_its_type() {
    let file = tiny();
    assert_eq!(file.string("general.architecture").unwrap(), "tiny");
    assert_eq!(file.u32("tiny.u32").unwrap(), 4_000_000_000);
    assert_eq!(file.u32("tiny.u8").unwrap(), 200);
    assert_eq!(file.f32("tiny.f32").unwrap(), 0.1);
    assert!(file.bool("tiny.yes").unwrap() && !file.bool("tiny.no").unwrap());

    let message = |error: Error| error.to_string();
    assert_eq!(message(file.u32("tiny.none").unwrap_err()), "tiny.gguf: tiny.none: missing");
    assert_eq!(
        message(file.u32("tiny.i8").unwrap_err()),
        "tiny.gguf: tiny.i8: expected an unsigned integer of 32 bits, found the integer -100"
    );
    assert_eq!(
        message(file.u32("tiny.u64").unwrap_err()),
        "tiny.gguf: tiny.u64: expected an unsigned integer of 32 bits, found the integer 9223372036854775808"
    );
    assert_eq!(
        message(file.string("tiny.i32s").unwrap_err()),
        "tiny.gguf: tiny.i32s: expected a string, found i32 array of 3"
    );
    assert_eq!(
        message(file.strings("tiny.u8s").unwrap_err()),
        "tiny.gguf: tiny.u8s: expected an array of strings, found u8 array of 2"
    );
    assert_eq!(file.bool("tiny.none").optional().unwrap(), None);
    assert!(file.bool("tiny.string").optional().is_err());
}

#[test]
fn every_type_of_tensor_to_the_bit() {
    let (file, reference) = (tiny(), json("tiny.json"));
    let tensors = reference["tensors"].as_object().unwrap();
    assert_eq!(file.tensors().len(), tensors.len());
    let mut kinds = Vec::new();
    let mut bytes = Vec::new();
    for (name, expected) in tensors {
        let tensor = file.tensor(name).unwrap();
        let dims: Vec<_> = expected["dims"].as_array().unwrap().iter().map(|dim| dim.as_u64().unwrap()).collect();
        assert_eq!(tensor.dims, dims, "{name}");
        assert_eq!(tensor.type_name(), expected["type"].as_str().unwrap(), "{name}");
        assert_eq!(Some(tensor.offset), expected["offset"].as_u64(), "{name}");
        assert_eq!(Some(tensor.bytes), expected["bytes"].as_u64(), "{name}");
        let Some(bits) = expected["bits"].as_array() else { continue };
        let kind = file.kind(tensor).unwrap();
        file.read_tensor(tensor, &mut bytes).unwrap();
        let mut numbers = vec![0.0; bits.len()];
        dequantize(kind, &bytes, &mut numbers);
        assert!(numbers.iter().map(|number| u64::from(number.to_bits())).eq(bits.iter().map(|b| b.as_u64().unwrap())));
        kinds.push(kind);
    }
    assert!(WeightFormat::ALL.iter().all(|kind| kinds.contains(kind)), "{kinds:?}");
}

/// In the layout of the kernels too: a row looked up, and all rows widened to f32, which a product with 1 in one place shows.
#[test]
fn packed_weights_are_the_same_to_the_bit() {
    let file = tiny();
    let mut bytes = Vec::new();
    let mut seen = 0;
    for tensor in file.tensors() {
        let Some(kind) = tensor.kind() else { continue };
        let format = WeightFormat::ALL.into_iter().find(|format| format.name() == kind.name()).unwrap();
        let (outputs, inputs) = (tensor.rows() as usize, tensor.row_len() as usize);
        file.read_tensor(tensor, &mut bytes).unwrap();
        let mut expected = vec![0.0; outputs * inputs];
        dequantize(kind, &bytes, &mut expected);
        let bits = |numbers: &[f32]| numbers.iter().map(|number| number.to_bits()).collect::<Vec<_>>();
        let mut weight = Weight::zeroed(format, outputs, inputs).unwrap();
        weight.part().pack(0, &bytes).unwrap();
        let mut row = vec![0.0; inputs];
        for (output, expected) in expected.chunks_exact(inputs).enumerate() {
            Kernels::new(Isa::best()).embed(&weight, output, &mut row).unwrap();
            assert_eq!(bits(&row), bits(expected), "{format}");
        }
        let mut ones = vec![0.0; inputs * inputs];
        (0..inputs).for_each(|i| ones[i * inputs + i] = 1.0);
        for isa in Isa::available() {
            let mut columns = vec![f32::NAN; inputs * outputs];
            let x = Activations::F32(Rows::contiguous(&ones, inputs, inputs).unwrap());
            let out = RowsMut::contiguous(&mut columns, inputs, outputs).unwrap();
            Kernels::new(isa).linear(&weight, 0..weight.panels(), x, out, Epilogue::STORE).unwrap();
            let rows: Vec<f32> = (0..outputs * inputs).map(|at| columns[at % inputs * outputs + at / inputs]).collect();
            // Sums that begin with 0 have no negative zeros.
            let plus: Vec<f32> = expected.iter().map(|number| number + 0.0).collect();
            assert_eq!(bits(&rows), bits(&plus), "{format} on {isa}");
        }
        seen += 1;
    }
    assert_eq!(seen, WeightFormat::ALL.len());
}

#[test]
fn rows_are_parts_of_their_tensor() {
    let file = tiny();
    let (mut whole, mut rows) = (Vec::new(), Vec::new());
    for tensor in file.tensors() {
        file.read_tensor(tensor, &mut whole).unwrap();
        let mut joined = Vec::new();
        for row in 0..tensor.rows() {
            file.read_rows(tensor, row..row + 1, &mut rows).unwrap();
            assert_eq!(rows.len() as u64, tensor.row_bytes());
            joined.extend_from_slice(&rows);
        }
        assert_eq!(joined, whole, "{}", tensor.name);
        assert!(file.read_rows(tensor, 0..tensor.rows() + 1, &mut rows).is_err());
    }
}

#[test]
fn an_unreadable_type_is_refused_by_name_when_it_is_loaded() {
    let file = tiny();
    let error = file.kind(file.tensor("unreadable").unwrap()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "tiny.gguf: unreadable: tensor type Q2_K is not supported \
         (supported: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K)"
    );
    assert_eq!(file.tensor("absent").unwrap_err().to_string(), "tiny.gguf: absent: missing");
}

#[test]
fn a_file_on_disk_reads_as_its_bytes_do() {
    let path = fixture("tiny.gguf");
    let (disk, memory) = (Gguf::open(&path).unwrap(), tiny());
    assert_eq!(disk.size(), memory.size());
    assert!(disk.metadata().eq(memory.metadata()));
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for (left, right) in disk.tensors().iter().zip(memory.tensors()) {
        disk.read_tensor(left, &mut a).unwrap();
        memory.read_tensor(right, &mut b).unwrap();
        assert_eq!(a, b);
    }
    let absent = Gguf::open("/no/such/file.gguf".as_ref()).err().unwrap().to_string();
    assert!(absent.starts_with("/no/such/file.gguf: opening the file: "), "{absent}");
    assert!(Gguf::open("/".as_ref()).is_err());
}
