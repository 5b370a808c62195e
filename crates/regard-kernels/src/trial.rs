//! A product of scores whose inner loop reaches memory in several ways: what each of them costs is measured on it.
//!
//! The kernels of this crate read what their methods have checked, one look for a whole panel, and leave a stream of panels
//! to the CPU's own prefetcher. Here that loop stands beside the same one with a look at every access, and with lines asked
//! for ahead.

use regard_memory::{LINE, prefetch_read};
use regard_simd::{Kernel, Simd};

use crate::{Error, Kernels, PANEL, ROWS};

/// How the inner loop reaches memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// As the kernels do: lengths are checked before the loop.
    Unchecked,
    /// Every access is checked.
    Checked,
    /// Unchecked; with each line of keys the one that comes so many lines later is asked for.
    Ahead(usize),
}

/// The scores of [`ROWS`] queries against packed keys in f32, which they are the same bits of for every way of access.
///
/// - `queries`: `[ROWS][steps]`; `panels`: `[panels][steps][PANEL]`; `scores`: `[panels][ROWS][PANEL]`.
///
/// ```
/// use regard_kernels::trial::{Access, score};
/// use regard_kernels::{Kernels, PANEL, ROWS};
/// use regard_simd::Isa;
///
/// let (queries, keys) = ([2.0; ROWS], [3.0; PANEL]);
/// let mut scores = [0.0; ROWS * PANEL];
/// score(Kernels::new(Isa::best()), Access::Checked, 1, &queries, &keys, &mut scores)?;
/// assert_eq!(scores, [6.0; ROWS * PANEL]);
/// # Ok::<(), regard_kernels::Error>(())
/// ```
///
/// # Errors
/// A slice is not as long as the others say.
pub fn score(
    kernels: Kernels,
    access: Access,
    steps: usize,
    queries: &[f32],
    panels: &[f32],
    scores: &mut [f32],
) -> Result<(), Error> {
    let count = scores.len() / (ROWS * PANEL);
    for (name, has, expected) in [
        ("scores", scores.len(), count * ROWS * PANEL),
        ("queries", queries.len(), ROWS.saturating_mul(steps)),
        ("key panels", panels.len(), count.saturating_mul(steps).saturating_mul(PANEL)),
    ] {
        if has != expected {
            return Err(Error::Length { name, has, expected });
        }
    }
    match access {
        Access::Unchecked => kernels.isa().run(Score { reach: Unchecked, steps, queries, panels, scores }),
        Access::Checked => kernels.isa().run(Score { reach: Checked, steps, queries, panels, scores }),
        Access::Ahead(lines) => kernels.isa().run(Score { reach: Ahead(lines), steps, queries, panels, scores }),
    }
    Ok(())
}

struct Score<'t, R> {
    reach: R,
    steps: usize,
    queries: &'t [f32],
    panels: &'t [f32],
    scores: &'t mut [f32],
}

impl<R: Reach> Kernel for Score<'_, R> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: `score` has compared the lengths.
        unsafe {
            match S::STRIPS {
                4 => score_panels::<S, R, 4>(s, self),
                _ => score_panels::<S, R, 2>(s, self),
            }
        }
    }
}

/// # Safety
/// The slices are as long as [`score`] says, and `W` vectors divide a panel.
#[inline(always)]
unsafe fn score_panels<S: Simd, R: Reach, const W: usize>(s: S, task: Score<'_, R>) {
    let Score { reach, steps, queries, panels, scores } = task;
    for panel in 0..scores.len() / (ROWS * PANEL) {
        for column in (0..PANEL).step_by(W * S::LANES) {
            // SAFETY: step `k` of the panel, and row `r` of its scores, have PANEL columns; row `r` of the queries has `k`.
            unsafe {
                let mut sums = [[s.splat(0.0); W]; ROWS];
                for k in 0..steps {
                    let at = (panel * steps + k) * PANEL + column;
                    for line in (0..W * S::LANES).step_by(LINE / size_of::<f32>()) {
                        reach.ask(panels, at + line);
                    }
                    let mut columns = [s.splat(0.0); W];
                    for (w, column) in columns.iter_mut().enumerate() {
                        *column = reach.load(s, panels, at + w * S::LANES);
                    }
                    for (r, row) in sums.iter_mut().enumerate() {
                        let query = s.splat(reach.read(queries, r * steps + k));
                        for (sum, &column) in row.iter_mut().zip(&columns) {
                            *sum = s.fma(query, column, *sum);
                        }
                    }
                }
                for (r, row) in sums.iter().enumerate() {
                    for (w, &sum) in row.iter().enumerate() {
                        reach.store(s, scores, (panel * ROWS + r) * PANEL + column + w * S::LANES, sum);
                    }
                }
            }
        }
    }
}

/// The accesses of the loop; these are the unchecked ones.
trait Reach: Copy {
    /// Asks for a line that comes later.
    #[inline(always)]
    fn ask(self, _from: &[f32], _at: usize) {}

    /// # Safety
    /// There is a number at `at`.
    #[inline(always)]
    unsafe fn read(self, from: &[f32], at: usize) -> f32 {
        // SAFETY: the caller's.
        unsafe { *from.get_unchecked(at) }
    }

    /// # Safety
    /// There is a vector from `at` on.
    #[inline(always)]
    unsafe fn load<S: Simd>(self, s: S, from: &[f32], at: usize) -> S::F32 {
        // SAFETY: the caller's.
        unsafe { s.load(from.as_ptr().add(at)) }
    }

    /// # Safety
    /// There is room for a vector from `at` on.
    #[inline(always)]
    unsafe fn store<S: Simd>(self, s: S, to: &mut [f32], at: usize, x: S::F32) {
        // SAFETY: the caller's.
        unsafe { s.store(to.as_mut_ptr().add(at), x) }
    }
}

#[derive(Clone, Copy)]
struct Unchecked;

impl Reach for Unchecked {}

#[derive(Clone, Copy)]
struct Ahead(usize);

impl Reach for Ahead {
    #[inline(always)]
    fn ask(self, from: &[f32], at: usize) {
        let numbers = self.0.wrapping_mul(LINE / size_of::<f32>());
        prefetch_read(from.as_ptr().wrapping_add(at.wrapping_add(numbers)));
    }
}

#[derive(Clone, Copy)]
struct Checked;

impl Reach for Checked {
    #[inline(always)]
    unsafe fn read(self, from: &[f32], at: usize) -> f32 {
        from[at]
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(self, s: S, from: &[f32], at: usize) -> S::F32 {
        let vector = &from[at..at + S::LANES];
        // SAFETY: so many numbers.
        unsafe { s.load(vector.as_ptr()) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(self, s: S, to: &mut [f32], at: usize, x: S::F32) {
        let vector = &mut to[at..at + S::LANES];
        // SAFETY: room for so many numbers.
        unsafe { s.store(vector.as_mut_ptr(), x) }
    }
}
