//! Broken and hostile files: an error that names the file and the field, and never more memory than the file has.

mod support;

use proptest::prelude::*;
use regard_models::gguf::Gguf;
use regard_models::tokenizer::Tokenizer;
use regard_models::{CacheDtype, LoadOptions, Model};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use support::fixture;

/// The system's allocator, counting this thread's bytes.
struct Counting;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator unchanged; counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.set(LIVE.get() + layout.size() as isize);
        PEAK.set(PEAK.get().max(LIVE.get()));
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.set(LIVE.get() - layout.size() as isize);
        // SAFETY: the caller's promise about `pointer` and `layout` is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Parses and uses everything in a file, and holds the memory that it took against the file's size. The error, if
/// there is one, names the file.
fn try_all(bytes: Vec<u8>) -> Result<(), String> {
    let size = bytes.len();
    let before = LIVE.get();
    PEAK.set(before);
    let result = Gguf::parse(bytes, "bad.gguf").and_then(|file| {
        let keys: Vec<String> = file.metadata().map(|(key, _)| key.to_owned()).collect();
        for key in keys {
            let _ = (file.strings(&key).is_ok(), file.i32s(&key).is_ok(), file.f32s(&key).is_ok());
        }
        let mut bytes = Vec::new();
        for tensor in file.tensors() {
            file.read_tensor(tensor, &mut bytes)?;
        }
        if file.string("tokenizer.ggml.model").is_ok() {
            let _ = Tokenizer::from_gguf(&file).is_ok();
        }
        Ok(())
    });
    // Entries and messages take more than their bytes in a file, but there are few of them in these files.
    let taken = usize::try_from(PEAK.get() - before).unwrap();
    assert!(taken <= size + (64 << 10), "{taken} bytes for a file of {size}");
    result.map_err(|error| error.to_string()).inspect_err(|message| {
        assert!(message.starts_with("bad.gguf: "), "{message}");
    })
}

/// A file to be written wrongly.
#[derive(Default)]
struct Builder {
    metadata: Vec<(Vec<u8>, u32, Vec<u8>)>,
    tensors: Vec<(Vec<u8>, Vec<u64>, u32, u64)>,
    data: usize,
}

fn string(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text].concat()
}

const U32: u32 = 4;
const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;
const F32: u32 = 0;
const Q4_0: u32 = 2;

impl Builder {
    fn value(mut self, key: &str, kind: u32, value: impl Into<Vec<u8>>) -> Self {
        self.metadata.push((string(key.as_bytes()), kind, value.into()));
        self
    }

    fn tensor(mut self, name: &str, dims: &[u64], kind: u32, offset: u64) -> Self {
        self.tensors.push((string(name.as_bytes()), dims.to_vec(), kind, offset));
        self
    }

    fn data(mut self, bytes: usize) -> Self {
        self.data = bytes;
        self
    }

    fn bytes(self) -> Vec<u8> {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, kind, value) in self.metadata {
            bytes.extend([key, kind.to_le_bytes().to_vec(), value].concat());
        }
        for (name, dims, kind, offset) in self.tensors {
            bytes.extend(name);
            bytes.extend((dims.len() as u32).to_le_bytes());
            bytes.extend(dims.iter().flat_map(|dim| dim.to_le_bytes()));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(offset.to_le_bytes());
        }
        bytes.resize(bytes.len().next_multiple_of(32) + self.data, 0);
        bytes
    }
}

/// Loads whatever a file says, and takes in tokens. A sound file is a model; of any other the error names the file.
fn try_model(bytes: Vec<u8>) -> regard_models::Result<()> {
    Gguf::parse(bytes, "bad.gguf").and_then(|file| {
        let model = Model::from_gguf(&file, &LoadOptions { threads: Some(1), isa: None })?;
        let mut session = model.session(16, CacheDtype::F16)?;
        session.feed(&[0, 1, 2]).map(drop)
    })
}

fn refused(builder: Builder, message: &str) {
    assert_eq!(try_all(builder.bytes()), Err(format!("bad.gguf: {message}")));
}

fn file() -> Builder {
    Builder::default()
}

#[test]
fn the_builder_can_write_a_sound_file() {
    let file = file()
        .value("a", BOOL, [1])
        .value("b", STRING, string(b"text"))
        .tensor("x", &[4, 2], F32, 0)
        .tensor("y", &[32], Q4_0, 32)
        .data(64);
    assert_eq!(try_all(file.bytes()), Ok(()));
}

#[test]
fn the_start_of_a_file() {
    assert_eq!(try_all(Vec::new()), Err("bad.gguf: magic: the file ends: 4 bytes are needed and 0 are left".into()));
    let mut bytes = file().bytes();
    bytes[0] = b'g';
    assert_eq!(try_all(bytes), Err("bad.gguf: magic: a GGUF file starts with \"GGUF\", not \"gGUF\"".into()));
    for version in [0_u32, 1, 2, 4, u32::MAX] {
        let mut bytes = file().bytes();
        bytes[4..8].copy_from_slice(&version.to_le_bytes());
        let message = format!("bad.gguf: version: GGUF version {version} is not supported (supported: 3)");
        assert_eq!(try_all(bytes), Err(message));
    }
    let mut bytes = file().bytes();
    bytes[4..8].copy_from_slice(&3_u32.to_be_bytes());
    assert_eq!(
        try_all(bytes),
        Err("bad.gguf: version: a big-endian GGUF file is not supported (supported: little-endian)".into())
    );
}

#[test]
fn metadata_that_breaks_the_rules() {
    let text = || string(b"text");
    refused(file().value("a", BOOL, [2]), "a: a bool is 0 or 1, not 2");
    refused(file().value("a", 13, [0]), "a: value type 13 is unknown");
    refused(file().value("a", STRING, text()).value("a", STRING, text()), "a: the key stands twice");
    refused(file().value("a", STRING, string(b"t\xe9xt")), "a: its text is not UTF-8 at byte 1");
    let nested = [ARRAY.to_le_bytes().to_vec(), 1_u64.to_le_bytes().to_vec(), vec![0; 64]].concat();
    refused(
        file().value("a", ARRAY, nested),
        "a: an array of arrays is not supported (supported: arrays of numbers, bools and strings)",
    );
    let mut bad_key = file().value("a", BOOL, [1]);
    bad_key.metadata[0].0 = string(b"\xff");
    refused(bad_key, "key of metadata entry 0: its text is not UTF-8 at byte 0");

    // Sound by its lengths, the array is only found out when it is asked for.
    let strings = [STRING.to_le_bytes().to_vec(), 2_u64.to_le_bytes().to_vec(), text(), string(b"\xc3")].concat();
    let sound = Gguf::parse(file().value("a", ARRAY, strings).bytes(), "bad.gguf").unwrap();
    assert_eq!(sound.strings("a").unwrap_err().to_string(), "bad.gguf: a: item 1 is text that is not UTF-8");

    for alignment in [0_u32, 3, 48, 1 << 30] {
        refused(
            file().value("general.alignment", U32, alignment.to_le_bytes()),
            &format!("general.alignment: it must be a power of two within the file, not the integer {alignment}"),
        );
    }
}

#[test]
fn tensors_that_break_the_rules() {
    let one = |dims: &[u64], kind, offset| file().tensor("x", dims, kind, offset).data(1024);
    refused(one(&[], F32, 0), "x: it has 0 dimensions, expected 1 to 4");
    refused(one(&[1; 5], F32, 0), "x: it has 5 dimensions, expected 1 to 4");
    refused(one(&[4, 0], F32, 0), "x: its shape [4, 0] holds nothing");
    refused(one(&[48, 2], Q4_0, 0), "x: its row length 48 is not a multiple of Q4_0's 32");
    refused(one(&[4], 4, 0), "x: tensor type 4 is unknown");
    refused(one(&[4], 1000, 0), "x: tensor type 1000 is unknown");
    refused(one(&[1 << 40, 1 << 40], F32, 0), &format!("x: its shape {:?} overflows", [1_u64 << 40; 2]));
    refused(one(&[1 << 62], F32, 0), &format!("x: its shape {:?} overflows", [1_u64 << 62]));
    refused(one(&[4], F32, 16), "x: its offset 16 is not a multiple of 32");
    refused(one(&[257], F32, 0), "x: its 1028 bytes at 64 + 0 do not fit in the file's 1088");
    refused(one(&[4], F32, 1024), "x: its 16 bytes at 64 + 1024 do not fit in the file's 1088");
    let far = u64::MAX - 31;
    refused(one(&[4], F32, far), &format!("x: its 16 bytes at 64 + {far} do not fit in the file's 1088"));

    let two = |name, offset| file().tensor("x", &[16], F32, 0).tensor(name, &[4], F32, offset).data(1024);
    refused(two("x", 64), "x: the tensor stands twice");
    refused(two("y", 32), "y: it overlaps x");
    refused(two("y", 0), "y: it overlaps x");
}

/// Counts and lengths that overflow when they are added to or multiplied, and some that do not.
const HUGE: [u64; 8] =
    [u64::MAX, u64::MAX - 7, 1 << 63, (1 << 63) - 1, 1 << 61, u32::MAX as u64, 1 << 31, (1 << 16) + 1];

#[test]
fn counts_that_no_file_can_hold() {
    for huge in HUGE {
        for (at, field, things) in [(8, "tensor count", "tensors"), (16, "metadata count", "metadata entries")] {
            let mut bytes = file().data(64).bytes();
            bytes[at..at + 8].copy_from_slice(&huge.to_le_bytes());
            let left = bytes.len() - at - 8;
            let message = format!("bad.gguf: {field}: {huge} {things} do not fit in the {left} bytes that are left");
            assert_eq!(try_all(bytes), Err(message));
        }
        let length = huge.to_le_bytes();
        let message = try_all(file().value("a", STRING, length).data(64).bytes()).unwrap_err();
        assert!(message.starts_with(&format!("bad.gguf: a: {huge} bytes of text do not fit")), "{message}");
        for kind in [0, U32, STRING, 12] {
            let array = [&u32::to_le_bytes(kind)[..], &length].concat();
            let message = try_all(file().value("a", ARRAY, array).data(64).bytes()).unwrap_err();
            assert!(message.starts_with(&format!("bad.gguf: a: {huge} items do not fit")), "{message}");
        }
    }
}

#[test]
fn a_large_header_costs_no_more_than_its_bytes() {
    // Half a million empty strings.
    let count = 1_u64 << 19;
    let strings = [&STRING.to_le_bytes()[..], &count.to_le_bytes(), &vec![0; 8 << 19]].concat();
    assert_eq!(try_all(file().value("a", ARRAY, strings).bytes()), Ok(()));
    // More entries than a header may have.
    let mut bytes = file().data(4 << 20).bytes();
    bytes[16..24].copy_from_slice(&100_000_u64.to_le_bytes());
    let message = "bad.gguf: metadata count: 100000 metadata entries are more than 8192";
    assert_eq!(try_all(bytes), Err(message.into()));
}

fn tiny() -> Vec<u8> {
    std::fs::read(fixture("tiny.gguf")).unwrap()
}

#[test]
fn a_file_cut_anywhere() {
    let whole = tiny();
    let file = Gguf::parse(whole.clone(), "tiny.gguf").unwrap();
    let end = file.tensors().iter().map(|tensor| tensor.offset + tensor.bytes).max().unwrap() as usize;
    for length in 0..whole.len() {
        let result = try_all(whole[..length].to_vec());
        assert_eq!(result.is_err(), length < end, "cut to {length}: {result:?}");
    }
}

#[test]
fn a_file_with_any_bit_flipped() {
    let whole = tiny();
    let mut refused = 0;
    for bit in 0..8 * whole.len() {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        refused += usize::from(try_all(bytes).is_err());
    }
    // Bits of text and of data are as good flipped; those of counts, types and lengths are not.
    assert!(refused > 1000, "{refused}");
}

#[test]
fn a_file_with_any_eight_bytes_huge() {
    let whole = tiny();
    for huge in HUGE {
        for at in 0..whole.len() - 8 {
            let mut bytes = whole.clone();
            bytes[at..at + 8].copy_from_slice(&huge.to_le_bytes());
            let _ = try_all(bytes);
        }
    }
}

#[test]
fn a_vocabulary_with_any_byte_changed() {
    let whole = std::fs::read(fixture("tokens-small.gguf")).unwrap();
    // A stride that is prime to the lengths of entries, so that all their bytes are met.
    for at in (0..whole.len()).step_by(37) {
        for value in [0x00, 0x20, 0xff, whole[at] ^ 1, whole[at] ^ 0x80] {
            let mut bytes = whole.clone();
            bytes[at] = value;
            if let Ok(file) = Gguf::parse(bytes, "bad.gguf")
                && let Err(error) = Tokenizer::from_gguf(&file)
            {
                assert!(error.to_string().starts_with("bad.gguf: "), "{error}");
            }
        }
    }
}

#[test]
fn many_entries_are_refused_before_they_take_memory() {
    let tensors = (0..8193).fold(file(), |file, n| file.tensor(&format!("{n}"), &[1], F32, 32 * n)).data(8193 * 32);
    refused(tensors, "tensor count: 8193 tensors are more than 8192");
}

#[test]
fn what_names_nothing_is_named_by_its_place() {
    let tensor = file().tensor("a", &[1], F32, 0).tensor("", &[], 99, 32).data(64);
    refused(tensor, "name of tensor 1: it is empty");
    refused(file().value("", 99, []), "key of metadata entry 0: it is empty");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Bytes of a real model's header changed: it is refused by name, or runs.
    #[test]
    fn a_changed_model_is_refused_or_runs(
        name in prop::sample::select(vec!["f32", "q4_0", "rope3"]),
        changes in prop::collection::vec((0usize..6000, any::<u8>()), 1..4),
        cut in prop::option::weighted(0.1, 0usize..60_000),
    ) {
        let mut bytes = std::fs::read(fixture(&format!("llama-random-{name}.gguf"))).unwrap();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        bytes.truncate(cut.unwrap_or(usize::MAX));
        if let Err(error) = try_model(bytes) {
            let message = error.to_string();
            prop_assert!(message.starts_with("bad.gguf: ") || message.contains("token"), "{}", message);
        }
    }
}

#[test]
fn an_unchanged_model_runs() {
    for name in ["f32", "q4_0", "rope3"] {
        try_model(std::fs::read(fixture(&format!("llama-random-{name}.gguf"))).unwrap()).unwrap();
    }
}
