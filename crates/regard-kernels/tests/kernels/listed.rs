//! Products with listed rows.

use half::{bf16, f16};
use proptest::prelude::*;
use rand::RngExt;
use regard_kernels::{Error, Kernels, Number, RowState, ScoreTile};
use regard_memory::Rows;
use regard_simd::Isa;

use crate::support::{ROUNDING, numbers, seeded};

/// Rows with gaps between them that hold NaN, and some of their numbers.
struct Case<T> {
    cols: usize,
    rows: Vec<T>,
    list: Vec<u32>,
    row: Vec<f32>,
    weights: Vec<f32>,
}

impl<T: Number> Case<T> {
    const GAP: usize = 3;

    fn random(seed: u64, count: usize, cols: usize, listed: usize) -> Case<T> {
        let random = &mut seeded(seed);
        let stride = cols + Case::<T>::GAP;
        let mut rows: Vec<T> = numbers(random, count * stride).into_iter().map(T::from_f32).collect();
        for row in rows.chunks_exact_mut(stride) {
            row[cols..].fill(T::from_f32(f32::NAN));
        }
        let list = (0..listed).map(|_| random.random_range(0..count as u32)).collect();
        Case { cols, rows, list, row: numbers(random, cols), weights: numbers(random, listed) }
    }

    fn rows(&self) -> Rows<'_, T> {
        let stride = self.cols + Case::<T>::GAP;
        Rows::new(&self.rows, self.rows.len() / stride, self.cols, stride).expect("rows")
    }

    fn listed(&self, n: usize) -> Vec<f64> {
        self.rows().row(self.list[n] as usize).iter().map(|x| f64::from(x.to_f32())).collect()
    }

    fn are_right(&self) -> Result<(), TestCaseError> {
        for isa in Isa::available() {
            let kernels = Kernels::new(isa);
            let mut products = vec![f32::NAN; self.list.len()];
            kernels.dot_listed(&self.row, self.rows(), &self.list, &mut products).expect("products");
            for (n, &product) in products.iter().enumerate() {
                let terms: Vec<f64> = self.listed(n).iter().zip(&self.row).map(|(a, &b)| a * f64::from(b)).collect();
                let most = ROUNDING * (self.cols + 1) as f64 * terms.iter().map(|x| x.abs()).sum::<f64>();
                let exact = terms.iter().sum::<f64>();
                prop_assert!((f64::from(product) - exact).abs() <= most, "{isa}: {product} and {exact}");
                // A product does not depend on what stands beside it.
                let mut alone = [0.0];
                kernels.dot_listed(&self.row, self.rows(), &self.list[n..=n], &mut alone).expect("a product");
                prop_assert_eq!(alone[0].to_bits(), product.to_bits(), "{}", isa);
            }
            let mut sums = self.row.clone();
            kernels.add_listed(&self.weights, self.rows(), &self.list, &mut sums).expect("sums");
            for (c, &sum) in sums.iter().enumerate() {
                let term = |n: usize| f64::from(self.weights[n]) * self.listed(n)[c];
                let terms = || (0..self.list.len()).map(term).chain([f64::from(self.row[c])]);
                let most = ROUNDING * (self.list.len() + 1) as f64 * terms().map(f64::abs).sum::<f64>();
                prop_assert!((f64::from(sum) - terms().sum::<f64>()).abs() <= most, "{isa}: {sum}");
            }
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn are_those_of_the_definition(seed: u64, count in 1..40_usize, cols in 0..150_usize, listed in 0..30_usize) {
        Case::<f32>::random(seed, count, cols, listed).are_right()?;
        Case::<bf16>::random(seed, count, cols, listed).are_right()?;
        Case::<f16>::random(seed, count, cols, listed).are_right()?;
    }

    /// A softmax over listed keys is that over all of them in which no others are.
    #[test]
    fn fold_into_a_state(seed: u64, cols in 1..80_usize, listed in 1..200_usize) {
        let case = Case::<f32>::random(seed, 50, cols, listed);
        for isa in Isa::available() {
            let kernels = Kernels::new(isa);
            let mut words = vec![f32::NAN; ScoreTile::words(listed)];
            let mut tile = ScoreTile::new(&mut words, listed).expect("a tile");
            let (mut state, mut sums) = (RowState::default(), vec![0.0; cols]);
            let half = listed / 2;
            for list in [&case.list[..half], &case.list[half..]] {
                kernels.score_listed(&case.row, case.rows(), list, &mut tile).expect("scores");
                kernels.softmax::<regard_kernels::F32>(1, 1.0, &mut tile, &mut state).expect("weights");
                kernels.accumulate_listed(&mut tile, case.rows(), list, &mut state, &mut sums).expect("sums");
            }
            let score = |n: usize| case.listed(n).iter().zip(&case.row).map(|(a, &b)| a * f64::from(b)).sum::<f64>();
            let largest = (0..listed).map(score).fold(f64::NEG_INFINITY, f64::max);
            let weight = |n: usize| (score(n) - largest).exp2();
            let sum: f64 = (0..listed).map(weight).sum();
            let scale: f64 = case.row.iter().map(|x| f64::from(x.abs())).sum::<f64>() * 256.0;
            let most = 64.0 * ROUNDING * (1.0 + scale) * (cols + listed) as f64;
            prop_assert!((f64::from(state.sum[0]) / sum - 1.0).abs() <= most, "{}", isa);
            for (c, &out) in sums.iter().enumerate() {
                let exact = (0..listed).map(|n| weight(n) * case.listed(n)[c]).sum::<f64>() / sum;
                prop_assert!((f64::from(out / state.sum[0]) - exact).abs() <= most * 256.0, "{}: {} and {}", isa, out, exact);
            }
        }
    }
}

#[test]
fn what_is_not_there_is_refused() {
    let kernels = Kernels::new(Isa::best());
    let numbers = [1.0_f32; 12];
    let rows = Rows::contiguous(&numbers, 3, 4).expect("rows");
    let (mut two, mut four) = ([0.0; 2], [0.0; 4]);
    let missing = Error::Length { name: "listed rows", has: 3, expected: 4 };
    assert_eq!(kernels.dot_listed(&numbers, rows, &[0, 3], &mut two), Err(missing.clone()));
    assert_eq!(kernels.add_listed(&numbers, rows, &[3], &mut four), Err(missing));
    assert!(kernels.dot_listed(&numbers, rows, &[u32::MAX], &mut two).is_err());
    assert!(kernels.dot_listed(&numbers[..3], rows, &[0], &mut two).is_err());
    assert!(kernels.dot_listed(&numbers, rows, &[0, 1, 2], &mut two).is_err());
    assert!(kernels.add_listed(&numbers[..1], rows, &[0, 1], &mut four).is_err());
    assert!(kernels.add_listed(&numbers, rows, &[0, 1], &mut two).is_err());
    let mut words = vec![0.0; ScoreTile::words(64)];
    let mut tile = ScoreTile::new(&mut words, 64).expect("a tile");
    assert!(kernels.score_listed(&numbers, rows, &[0; 65], &mut tile).is_err());
    assert!(kernels.score_listed(&numbers, rows, &[0; 64], &mut tile).is_ok());
    let mut state = RowState::default();
    assert!(kernels.accumulate_listed(&mut tile, rows, &[0; 65], &mut state, &mut four).is_err());
    assert!(kernels.accumulate_listed(&mut tile, rows, &[0; 64], &mut state, &mut four[..3]).is_err());
}
