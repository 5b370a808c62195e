//! `Region`: buffers side by side that never see each other.

use proptest::prelude::*;
use regard_memory::{AlignedBuffer, Error, LINE, Pages, Region};

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 64 }) })]

    #[test]
    fn buffers_of_a_region_are_zero_apart_and_outlive_it(
        lens in prop::collection::vec(0usize..300, 1..20),
        dropped in prop::collection::vec(any::<bool>(), 20),
        longer in 0usize..2000,
    ) {
        let mut region = Region::on(Pages::Huge);
        let mut kept = Vec::new();
        for (number, (&len, &dropped)) in lens.iter().zip(&dropped).enumerate() {
            let mut buffer: AlignedBuffer<u64> = region.zeroed(len).unwrap();
            prop_assert_eq!(&buffer[..], &vec![0; len][..]);
            prop_assert!(buffer.as_ptr().addr().is_multiple_of(LINE));
            buffer.fill(number as u64 + 1);
            if !dropped {
                kept.push((number, len, buffer));
            }
        }
        drop(region);
        for (number, len, buffer) in &kept {
            prop_assert_eq!(&buffer[..], &vec![*number as u64 + 1; *len][..]);
        }
        // One that grows moves out and leaves its neighbours alone.
        if let Some((number, len, buffer)) = kept.first_mut() {
            buffer.resize(*len + longer).unwrap();
            prop_assert!(buffer[..*len].iter().all(|&word| word == *number as u64 + 1));
            prop_assert!(buffer[*len..].iter().all(|&word| word == 0));
            buffer.fill(u64::MAX);
        }
        for (number, len, buffer) in kept.iter().skip(1) {
            prop_assert_eq!(&buffer[..], &vec![*number as u64 + 1; *len][..]);
        }
    }
}

#[test]
fn short_buffers_lie_on_huge_pages_together() {
    let alone = AlignedBuffer::<u8>::zeroed_on(Pages::Huge, 4 << 20).unwrap().pages();
    let mut region = Region::on(Pages::Huge);
    let [first, second] = [250, 500].map(|len| region.zeroed::<f32>(len).unwrap());
    assert_eq!([first.pages(), second.pages()], [alone; 2]);
    assert_eq!(second.as_ptr().addr() - first.as_ptr().addr(), 1024, "on the next line");
}

#[test]
#[cfg_attr(miri, ignore = "Miri would write 100 MiB byte by byte")]
fn what_does_not_fit_has_a_block_of_its_own() {
    let mut region = Region::on(Pages::Normal);
    let long = region.zeroed::<u8>(100 << 20).unwrap();
    assert!(long.len() == 100 << 20 && long.iter().step_by(4096).all(|&byte| byte == 0));
    let blocks: Vec<_> = (0..3).map(|_| region.zeroed::<u8>(20 << 20).unwrap()).collect();
    let mut places: Vec<_> = blocks.iter().chain([&long]).map(|block| (block.as_ptr().addr(), block.len())).collect();
    places.sort_unstable();
    assert!(places.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0));
}

#[test]
#[cfg_attr(miri, ignore = "Miri has no limit of memory to hit")]
fn a_size_that_is_refused_leaves_the_region_as_it_was() {
    let mut region = Region::default();
    let first = region.zeroed::<u8>(1).unwrap();
    assert_eq!(region.zeroed::<u64>(usize::MAX / 4).unwrap_err(), Error::Overflow { what: "buffer" });
    assert!(matches!(region.zeroed::<u8>(1 << 60), Err(Error::OutOfMemory { .. })));
    let second = region.zeroed::<u8>(1).unwrap();
    assert_eq!(second.as_ptr().addr() - first.as_ptr().addr(), LINE);
    assert!(region.zeroed::<u8>(0).unwrap().is_empty());
}
