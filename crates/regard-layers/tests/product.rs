//! The matrix product under linear layers, against sums in f64 and against itself.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ops::Range;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

use half::bf16;
use proptest::prelude::*;
use regard_kernels::Kernels;
use regard_layers::{Before, Error, Multiplier, Precision, Side};
use regard_memory::{Arena, Rows, RowsMut, each_of};
use regard_oracle::numbers;
use regard_simd::Isa;
use regard_threads::Pool;

/// What no product may write over.
const UNTOUCHED: f32 = 12345.0;

/// A matrix as it lies in memory.
#[derive(Clone, Debug)]
struct Matrix {
    data: Vec<f32>,
    rows: usize,
    cols: usize,
    stride: usize,
    transposed: bool,
}

impl Matrix {
    /// One that means `[rows, cols]`.
    fn new(seed: u64, (rows, cols): (usize, usize), gap: usize, transposed: bool) -> Matrix {
        let (rows, cols) = if transposed { (cols, rows) } else { (rows, cols) };
        Matrix { data: numbers(seed, rows * (cols + gap)), rows, cols, stride: cols + gap, transposed }
    }

    fn place(&self, i: usize, j: usize) -> usize {
        if self.transposed { j * self.stride + i } else { i * self.stride + j }
    }

    fn at(&self, i: usize, j: usize) -> f32 {
        self.data[self.place(i, j)]
    }

    fn side(&self) -> Side<'_> {
        let rows = Rows::new(&self.data, self.rows, self.cols, self.stride).expect("a view");
        if self.transposed { Side::Transposed(rows) } else { Side::AsIs(rows) }
    }
}

/// A product, and what its result holds before.
#[derive(Clone, Debug)]
struct Problem {
    m: usize,
    n: usize,
    k: usize,
    a: Matrix,
    b: Matrix,
    c: Matrix,
    bias: Vec<f32>,
    before: usize,
    precision: Precision,
}

const PRECISIONS: [Precision; 2] = [Precision::F32, Precision::Bf16];

impl Problem {
    fn new([m, n, k]: [usize; 3], [a, b]: [bool; 2], gap: usize, before: usize, seed: u64) -> Problem {
        let mut c = Matrix::new(seed ^ 3, (m, n), gap, false);
        for row in c.data.chunks_mut(c.stride.max(1)) {
            row[n..].fill(UNTOUCHED);
        }
        let (a, b) = (Matrix::new(seed ^ 1, (m, k), gap, a), Matrix::new(seed ^ 2, (k, n), gap / 2, b));
        let precision = Precision::F32;
        Problem { m, n, k, a, b, c, bias: numbers(seed ^ 4, n), before, precision }
    }

    fn before(&self) -> Before<'_> {
        [Before::Replaced, Before::Kept, Before::Bias(&self.bias)][self.before]
    }

    /// What the result's memory holds afterwards.
    fn run(&self, isa: Isa, threads: usize) -> Vec<f32> {
        let (pool, mut arena, mut c) = (Pool::new(threads).expect("threads"), Arena::new(), self.c.data.clone());
        let multiplier = Multiplier::new(Kernels::new(isa), &pool).with_precision(self.precision);
        let mut frame = arena.frame(multiplier.need(self.m, self.n, self.k)).expect("memory");
        let out = RowsMut::new(&mut c, self.m, self.n, self.c.stride).expect("a view");
        multiplier.multiply(self.a.side(), self.b.side(), self.before(), out, &mut frame).expect("fits");
        c
    }

    /// An element of a side as it is multiplied.
    fn rounded(&self, x: f32) -> f64 {
        match self.precision {
            Precision::F32 => x.into(),
            Precision::Bf16 => bf16::from_f32(x).to_f64(),
        }
    }

    /// An element, and the sum of the magnitudes that it is made of.
    fn exact(&self, i: usize, j: usize) -> (f64, f64) {
        let begun = match self.before() {
            Before::Replaced => 0.0,
            Before::Kept => self.c.at(i, j).into(),
            Before::Bias(bias) => f64::from(bias[j]),
        };
        (0..self.k).fold((begun, begun.abs()), |(sum, size), step| {
            let product = self.rounded(self.a.at(i, step)) * self.rounded(self.b.at(step, j));
            (sum + product, size + product.abs())
        })
    }

    fn check(&self, isa: Isa) -> Result<(), TestCaseError> {
        let c = self.run(isa, 2);
        // A product and a sum are rounded, at most, for each step.
        let rounding = 2.0 * (self.k + 1) as f64 * f64::from(f32::EPSILON) / 2.0;
        for (at, &x) in c.iter().enumerate() {
            let (i, j) = (at / self.c.stride, at % self.c.stride);
            if j >= self.n {
                prop_assert_eq!(x, UNTOUCHED, "{} wrote behind row {}", isa, i);
                continue;
            }
            let (exact, size) = self.exact(i, j);
            let off = (f64::from(x) - exact).abs();
            prop_assert!(off <= rounding * size, "{} at [{}, {}]: {} for {}", isa, i, j, x, exact);
        }
        Ok(())
    }

    /// The same for some of the rows.
    fn some(&self, rows: Range<usize>) -> Problem {
        let (m, n, k) = (rows.len(), self.n, self.k);
        let (mut a, mut c) = (Matrix::new(0, (m, k), 0, !self.a.transposed), Matrix::new(0, (m, n), 1, false));
        for (i, row) in rows.enumerate() {
            for step in 0..k {
                let place = a.place(i, step);
                a.data[place] = self.a.data[self.a.place(row, step)];
            }
            for j in 0..n {
                let place = c.place(i, j);
                c.data[place] = self.c.data[self.c.place(row, j)];
            }
        }
        Problem { m, a, c, ..self.clone() }
    }

    fn check_bits(&self, isa: Isa, rows: Range<usize>) -> Result<(), TestCaseError> {
        let together = self.run(isa, 1);
        for threads in 2..4 {
            prop_assert_eq!(bits(&together), bits(&self.run(isa, threads)), "{} with {} threads", isa, threads);
        }
        let some = self.some(rows.clone());
        let alone = some.run(isa, 2);
        for (i, row) in rows.enumerate() {
            let (ours, theirs) = (&together[self.c.place(row, 0)..], &alone[some.c.place(i, 0)..]);
            prop_assert_eq!(bits(&ours[..self.n]), bits(&theirs[..self.n]), "{} row {}", isa, row);
        }
        Ok(())
    }
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// Small sizes, and now and then those around which tiles, panels and chunks end.
fn size() -> impl Strategy<Value = usize> {
    prop_oneof![1 => Just(0), 2 => Just(1), 8 => 2..=40_usize, 3 => 60..=70_usize, 2 => 90..=130_usize]
}

fn problems(sizes: impl Strategy<Value = [usize; 3]>) -> impl Strategy<Value = Problem> {
    (sizes, any::<[bool; 2]>(), 0..=5_usize, 0..3_usize, any::<u64>(), prop::sample::select(&PRECISIONS)).prop_map(
        |(sizes, transposed, gap, before, seed, precision)| Problem {
            precision,
            ..Problem::new(sizes, transposed, gap, before, seed)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn products_are_sums(problem in problems([size(), size(), size()])) {
        for isa in Isa::available() {
            problem.check(isa)?;
        }
    }

    /// A row's bits are its own: not those of how many threads there are, nor of the rows beside it.
    #[test]
    fn bits_do_not_depend_on_threads_or_other_rows(
        problem in problems([1..=150_usize, 1..=450_usize, 1..=450_usize]), row: prop::sample::Index, count in 1..=40_usize,
    ) {
        let first = row.index(problem.m);
        let count = count.min(problem.m - first);
        for isa in Isa::available() {
            problem.check_bits(isa, first..first + count)?;
        }
    }

    /// What is no number stays in its row, and in its column.
    #[test]
    fn nan_stays_in_its_row(problem in problems([1..=40_usize, 1..=90_usize, 1..=40_usize]), place: [prop::sample::Index; 3]) {
        let [i, step, j] = [place[0].index(problem.m), place[1].index(problem.k), place[2].index(problem.n)];
        let (mut left, mut right) = (problem.clone(), problem.clone());
        let (at, at_right) = (left.a.place(i, step), right.b.place(step, j));
        left.a.data[at] = f32::NAN;
        right.b.data[at_right] = f32::NAN;
        for isa in Isa::available() {
            let (clean, left, right) = (problem.run(isa, 2), left.run(isa, 2), right.run(isa, 2));
            for (at, x) in clean.iter().enumerate() {
                let (row, column) = (at / problem.c.stride, at % problem.c.stride);
                let inside = column < problem.n;
                prop_assert_eq!(left[at].is_nan(), inside && row == i);
                prop_assert_eq!(right[at].is_nan(), inside && column == j);
                prop_assert!(left[at].is_nan() || left[at].to_bits() == x.to_bits());
                prop_assert!(right[at].is_nan() || right[at].to_bits() == x.to_bits());
            }
        }
    }
}

/// Sizes over all blocks: several tasks both ways, blocks of steps, a vocabulary of characters, and enough rows for a right
/// side to be packed that lies as it is read.
#[test]
fn large_products_are_sums() {
    for (seed, sizes) in [[900, 65, 130], [65, 500, 900], [300, 449, 401]].into_iter().enumerate() {
        for transposed in [[false, false], [false, true], [true, false], [true, true]] {
            for precision in PRECISIONS {
                let problem = Problem { precision, ..Problem::new(sizes, transposed, 3, seed, seed as u64) };
                problem.check(Isa::best()).expect("sums");
                problem.check_bits(Isa::best(), 29..42).expect("bits");
            }
        }
    }
}

#[test]
fn shapes_that_do_not_fit_are_named() {
    let data = vec![0.0; 100];
    let view = |rows, cols| Rows::new(&data, rows, cols, cols).expect("a view");
    let try_it = |a: Side<'_>, b: Side<'_>, (rows, cols), before: Before<'_>| {
        let (pool, mut arena, mut c) = (Pool::new(1).expect("a pool"), Arena::new(), vec![0.0; 100]);
        let multiplier = Multiplier::new(Kernels::new(Isa::best()), &pool);
        let mut frame = arena.frame(multiplier.need(9, 9, 9)).expect("memory");
        let c = RowsMut::new(&mut c, rows, cols, cols).expect("a view");
        match multiplier.multiply(a, b, before, c, &mut frame) {
            Err(Error::Shape { tensor, has, expected }) => format!("{tensor} {has:?}, {expected}"),
            other => panic!("{other:?}"),
        }
    };
    let (left, right) = (Side::AsIs(view(2, 3)), Side::Transposed(view(5, 4)));
    assert_eq!(
        try_it(left, right, (2, 5), Before::Kept),
        "right side of a product [4, 5], [3, 5], as the left side has shape [2, 3]"
    );
    let (left, right) = (Side::Transposed(view(3, 2)), Side::AsIs(view(3, 5)));
    assert_eq!(
        try_it(left, right, (5, 2), Before::Kept),
        "result of a product [5, 2], [2, 5], as the sides have shapes [2, 3] and [3, 5]"
    );
    assert_eq!(try_it(left, right, (2, 5), Before::Bias(&[0.0; 4])), "bias [4], [5], as the result has shape [2, 5]");
}

/// The system's allocator, counting what the threads of the calls take from it, and not those of the test's own runner.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static COUNTED: Cell<bool> = const { Cell::new(false) };
}

// SAFETY: every call goes to the system's allocator as it came; the flag has no destructor and allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(usize::from(COUNTED.get()), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn calls_allocate_nothing() {
    let pool = Pool::new(2).expect("threads");
    let kernels = Kernels::new(Isa::best());
    // Both threads take part, so that both are counted.
    let begun = Barrier::new(2);
    pool.run(each_of(&mut [(); 2]), |_, _| {
        COUNTED.set(true);
        begun.wait();
    });
    let mut arena = Arena::new();
    for transposed in [[false, false], [false, true], [true, false]] {
        let problem = Problem::new([300, 65, 400], transposed, 1, 2, 1);
        let mut c = problem.c.data.clone();
        for precision in PRECISIONS {
            let multiplier = Multiplier::new(kernels, &pool).with_precision(precision);
            let mut call = || {
                let mut frame = arena.frame(multiplier.need(300, 65, 400)).expect("memory");
                let c = RowsMut::new(&mut c, 300, 65, 66).expect("a view");
                multiplier.multiply(problem.a.side(), problem.b.side(), problem.before(), c, &mut frame).expect("fits");
                ALLOCATIONS.load(Ordering::Relaxed)
            };
            let first = call();
            assert!(first > 0, "allocations are counted");
            for _ in 0..3 {
                assert_eq!(call(), first);
            }
        }
    }
}
