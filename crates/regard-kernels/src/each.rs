//! The two loops of kernels over slices: each number computed by itself, and all of them folded into one.
//!
//! The last numbers, which fill no vector, go through a whole one too. So a kernel says once what it computes, and a
//! number's bits depend neither on where it stands nor on where a slice was cut.

use regard_simd::Simd;

/// The most lanes of any instruction set.
const MOST: usize = 16;

/// `write = f(read, write)`, number by number. All slices are as long as the first that is written; `f` is
/// `#[inline(always)]`.
#[inline(always)]
pub(crate) fn each<S: Simd, const R: usize, const W: usize>(
    s: S,
    read: [&[f32]; R],
    mut write: [&mut [f32]; W],
    f: impl Fn([S::F32; R], [S::F32; W]) -> [S::F32; W],
) {
    let len = write[0].len();
    assert!(read.iter().all(|x| x.len() == len) && write.iter().all(|x| x.len() == len), "slices of one length");
    let whole = len / S::LANES * S::LANES;
    for at in (0..whole).step_by(S::LANES) {
        let (mut from, mut to) = ([s.splat(0.0); R], [s.splat(0.0); W]);
        // SAFETY: all slices hold `at + LANES` numbers, for `at + LANES ≤ whole`.
        unsafe {
            for (from, read) in from.iter_mut().zip(&read) {
                *from = s.load(read.as_ptr().add(at));
            }
            for (to, write) in to.iter_mut().zip(&write) {
                *to = s.load(write.as_ptr().add(at));
            }
            let to = f(from, to);
            for (to, write) in to.iter().zip(&mut write) {
                s.store(write.as_mut_ptr().add(at), *to);
            }
        }
    }
    if whole < len {
        let (mut from, mut to) = ([s.splat(0.0); R], [s.splat(0.0); W]);
        for (from, read) in from.iter_mut().zip(&read) {
            *from = filled(s, &read[whole..], 0.0);
        }
        for (to, write) in to.iter_mut().zip(&write) {
            *to = filled(s, &write[whole..], 0.0);
        }
        let to = f(from, to);
        for (to, write) in to.iter().zip(write) {
            let mut last = [0.0; MOST];
            // SAFETY: an array of MOST ≥ LANES numbers.
            unsafe { s.store(last.as_mut_ptr(), *to) };
            write[whole..].copy_from_slice(&last[..len - whole]);
        }
    }
}

/// `state = f(state, read)` for one vector after another, of slices of one length; what the last one lacks is `fill`. `f`
/// is `#[inline(always)]`.
#[inline(always)]
pub(crate) fn fold<S: Simd, const R: usize, const N: usize>(
    s: S,
    read: [&[f32]; R],
    fill: f32,
    mut state: [S::F32; N],
    f: impl Fn([S::F32; N], [S::F32; R]) -> [S::F32; N],
) -> [S::F32; N] {
    let len = read[0].len();
    assert!(read.iter().all(|x| x.len() == len), "slices of one length");
    let whole = len / S::LANES * S::LANES;
    for at in (0..whole).step_by(S::LANES) {
        let mut from = [s.splat(0.0); R];
        for (from, read) in from.iter_mut().zip(&read) {
            // SAFETY: all slices hold `at + LANES` numbers, for `at + LANES ≤ whole`.
            *from = unsafe { s.load(read.as_ptr().add(at)) };
        }
        state = f(state, from);
    }
    if whole < len {
        let mut from = [s.splat(0.0); R];
        for (from, read) in from.iter_mut().zip(&read) {
            *from = filled(s, &read[whole..], fill);
        }
        state = f(state, from);
    }
    state
}

/// Less numbers than lanes, and `fill` behind them.
#[inline(always)]
fn filled<S: Simd>(s: S, x: &[f32], fill: f32) -> S::F32 {
    let mut whole = [fill; MOST];
    whole[..x.len()].copy_from_slice(x);
    // SAFETY: an array of MOST ≥ LANES numbers.
    unsafe { s.load(whole.as_ptr()) }
}
