//! `AlignedBuffer` against a `Vec` that does the same, and what it costs.

use half::{bf16, f16};
use proptest::prelude::*;
use regard_memory::{AlignedBuffer, Error, LINE, Pages, cast_slice};

#[derive(Clone, Debug)]
enum Step {
    Resize(usize),
    Grow(usize),
    Reserve(usize),
    Write(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0usize..300).prop_map(Step::Resize),
        (0usize..300).prop_map(Step::Grow),
        (0usize..300).prop_map(Step::Reserve),
        any::<u64>().prop_map(Step::Write),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(if cfg!(miri) { 8 } else { 256 }) })]

    #[test]
    fn a_buffer_is_a_vec_that_grows_by_zeros(steps in prop::collection::vec(step(), 1..20)) {
        let mut buffer = AlignedBuffer::<u64>::new();
        let mut oracle = Vec::<u64>::new();
        for step in steps {
            match step {
                Step::Resize(len) => {
                    let (at, capacity) = (buffer.as_ptr(), buffer.capacity());
                    buffer.resize(len).unwrap();
                    oracle.resize(len, 0);
                    prop_assert!(len > capacity || (buffer.as_ptr() == at && buffer.capacity() == capacity));
                    prop_assert!(len <= capacity || buffer.capacity() >= 2 * capacity);
                }
                Step::Grow(len) => {
                    buffer.grow(len).unwrap();
                    oracle.resize(len.max(oracle.len()), 0);
                }
                Step::Reserve(capacity) => {
                    buffer.reserve(capacity).unwrap();
                    prop_assert!(buffer.capacity() >= capacity);
                }
                Step::Write(seed) => {
                    for (i, (a, b)) in buffer.iter_mut().zip(&mut oracle).enumerate() {
                        *a = seed.wrapping_mul(i as u64 + 1);
                        *b = *a;
                    }
                }
            }
            prop_assert_eq!(&buffer[..], &oracle[..]);
            prop_assert!(buffer.as_ptr().addr().is_multiple_of(LINE));
        }
    }

    #[test]
    fn numbers_are_seen_as_bytes(values in prop::collection::vec(any::<f32>(), 0..50)) {
        let buffer = AlignedBuffer::from_slice(&values).unwrap();
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_ne_bytes()).collect();
        prop_assert_eq!(cast_slice::<f32, u8>(&buffer), &bytes[..]);
    }
}

#[test]
fn a_size_beyond_the_address_space_is_an_error() {
    assert_eq!(AlignedBuffer::<f64>::zeroed(usize::MAX / 4).unwrap_err(), Error::Overflow { what: "buffer" });
    assert_eq!(AlignedBuffer::<u8>::zeroed(usize::MAX).unwrap_err(), Error::Overflow { what: "buffer" });
    let mut buffer = AlignedBuffer::from_slice(&[1u16, 2, 3]).unwrap();
    assert!(buffer.resize(usize::MAX / 2).is_err());
    assert_eq!(&buffer[..], [1, 2, 3]);
}

#[test]
#[cfg_attr(miri, ignore = "Miri has no limit of memory to hit")]
fn a_size_that_the_system_refuses_is_an_error() {
    // More than the 47 or 48 bits of address that a process has.
    assert!(matches!(AlignedBuffer::<u8>::zeroed(1 << 60), Err(Error::OutOfMemory { bytes }) if bytes >= 1 << 60));
}

#[test]
fn half_precision_numbers_are_plain() {
    let mut halves = AlignedBuffer::<f16>::zeroed(3).unwrap();
    halves[1] = f16::from_f32(1.5);
    assert_eq!(cast_slice::<f16, u16>(&halves), [0, 0x3e00, 0]);
    let brains = AlignedBuffer::from_slice(&[bf16::from_f32(1.5)]).unwrap();
    assert_eq!(cast_slice::<bf16, u16>(&brains), [0x3fc0]);
}

#[test]
fn huge_pages_are_aligned_when_they_are_granted_and_used_only_for_what_fills_one() {
    let small = AlignedBuffer::<u8>::zeroed_on(Pages::Huge, 1000).unwrap();
    assert_eq!(small.pages(), Pages::Normal);
    let mut large = AlignedBuffer::<u32>::zeroed_on(Pages::Huge, 1 << 20).unwrap();
    if large.pages() == Pages::Huge {
        assert!(large.as_ptr().addr().is_multiple_of(2 << 20));
    }
    large[(1 << 20) - 1] = 7;
    large.resize((1 << 20) + 1).unwrap();
    assert_eq!(large[(1 << 20) - 1..], [7, 0]);
    let normal = AlignedBuffer::<u32>::zeroed(1 << 20).unwrap();
    assert_eq!(normal.pages(), Pages::Normal);
}

/// Bytes of this process that are in memory.
#[cfg(all(target_os = "linux", not(miri)))]
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

#[test]
#[cfg(all(target_os = "linux", not(miri)))]
fn what_is_not_touched_is_not_resident() {
    let before = resident();
    let mut buffer = AlignedBuffer::<f32>::zeroed(1 << 26).unwrap(); // 256 MiB
    buffer[1 << 25] = 1.0;
    assert!(resident() - before < 64 << 20, "{} bytes became resident", resident() - before);
    // The measure sees it when it happens.
    buffer[..1 << 25].fill(1.0);
    assert!(resident() - before >= 120 << 20);
}
