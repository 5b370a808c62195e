//! Frames give disjoint, aligned pieces of what was stated, and cost nothing the second time.

use proptest::prelude::*;
use regard_memory::{Arena, Error, LINE, Need, Parts};

/// Fills each piece with its own number and then looks whether another one's writing shows.
fn are_disjoint(pieces: &mut [&mut [u32]]) -> bool {
    for (i, piece) in pieces.iter_mut().enumerate() {
        piece.fill(i as u32);
    }
    pieces.iter().enumerate().all(|(i, piece)| piece.iter().all(|&value| value == i as u32))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(if cfg!(miri) { 8 } else { 256 }) })]

    #[test]
    fn pieces_are_disjoint_and_aligned(lens in prop::collection::vec(0usize..200, 0..12)) {
        let mut arena = Arena::new();
        let need = lens.iter().fold(Need::NONE, |need, &len| need.and(Need::of::<u32>(len)));
        prop_assert_eq!(need.bytes(), lens.iter().map(|len| (len * 4).div_ceil(64) * 64).sum::<usize>());
        for _ in 0..2 {
            let mut frame = arena.frame(need).unwrap();
            let mut pieces: Vec<_> = lens.iter().map(|&len| frame.take::<u32>(len)).collect();
            prop_assert_eq!(frame.left(), 0);
            prop_assert!(pieces.iter().zip(&lens).all(|(piece, &len)| piece.len() == len));
            prop_assert!(pieces.iter().all(|piece| piece.as_ptr().addr().is_multiple_of(LINE)));
            prop_assert!(are_disjoint(&mut pieces));
        }
    }

    #[test]
    fn workers_frames_are_disjoint(count in 0usize..9, len in 0usize..100) {
        let each = Need::of::<u32>(len).and(Need::of::<u32>(1));
        let mut arena = Arena::new();
        let mut frame = arena.frame(each.times(count).and(Need::of::<u32>(3))).unwrap();
        let frames = frame.split(count, each);
        prop_assert_eq!(Parts::count(&frames), count);
        prop_assert_eq!(frames.len(), count);
        let mut pieces: Vec<_> = frames.flat_map(|mut frame| [frame.take::<u32>(len), frame.take::<u32>(1)]).collect();
        pieces.push(frame.take::<u32>(3));
        prop_assert_eq!(pieces.len(), 2 * count + 1);
        prop_assert!(are_disjoint(&mut pieces));
    }

    #[test]
    fn capacity_is_kept_and_doubles(lens in prop::collection::vec(1usize..5000, 1..20)) {
        let mut arena = Arena::new();
        let mut growths = 0;
        for &len in &lens {
            let before = arena.capacity();
            let at = arena.frame(Need::of::<f32>(len)).unwrap().take::<f32>(len).as_ptr();
            prop_assert!(arena.capacity() >= 4 * len);
            if arena.capacity() != before {
                prop_assert!(arena.capacity() >= 2 * before);
                growths += 1;
            }
            prop_assert_eq!(arena.frame(Need::of::<u8>(1)).unwrap().take::<u8>(1).as_ptr(), at.cast());
        }
        // From one line at least to four times the largest at most.
        prop_assert!(growths <= 10);
    }
}

#[test]
fn a_scope_gives_back_what_was_taken_in_it() {
    let mut arena = Arena::new();
    let need = Need::of::<u64>(8).or(Need::of::<u8>(100)).and(Need::of::<u8>(1));
    assert_eq!(need.bytes(), 3 * 64);
    let mut frame = arena.frame(need).unwrap();
    let kept = frame.take_zeroed::<u8>(1);
    for round in 1..4 {
        let mut scope = frame.scope();
        scope.take::<u8>(100).fill(round);
        assert_eq!(scope.left(), 0);
    }
    assert_eq!(kept, [0]);
    assert_eq!(frame.left(), 2 * 64);
    assert_eq!(frame.take::<u8>(100), [3; 100]);
}

#[test]
fn zeroed_pieces_are_zero_whatever_was_there() {
    let mut arena = Arena::new();
    arena.frame(Need::of::<u8>(77)).unwrap().take::<u8>(77).fill(9);
    assert_eq!(arena.frame(Need::of::<u8>(77)).unwrap().take_zeroed::<u8>(77), [0; 77]);
}

#[test]
#[should_panic(expected = "192 bytes are taken from an arena's frame that has 128 left")]
fn taking_more_than_was_stated_is_an_error_of_the_program() {
    let mut arena = Arena::new();
    let _ = arena.frame(Need::of::<f32>(20)).unwrap().take::<f32>(40);
}

#[test]
fn a_need_beyond_the_address_space_is_an_error() {
    let mut arena = Arena::new();
    for need in [
        Need::of::<f32>(usize::MAX),
        Need::of::<u8>(usize::MAX),
        Need::of::<u8>(usize::MAX / 2).times(3),
        Need::of::<u8>(usize::MAX / 2).and(Need::of::<u8>(usize::MAX / 2)).and(Need::of::<u8>(usize::MAX / 2)),
    ] {
        assert!(matches!(arena.frame(need), Err(Error::Overflow { .. })), "{need:?}");
    }
    assert_eq!(arena.capacity(), 0);
}
