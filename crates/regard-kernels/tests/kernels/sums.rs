//! Sums of parts, as partial gradients are added up.

use half::bf16;
use proptest::prelude::*;
use regard_kernels::{Error, Kernels, Number};
use regard_memory::RowsMut;
use regard_simd::Isa;

use crate::support::{ROUNDING, numbers, seeded};

const GAP: f32 = -77.0;

fn store<T: Number>(
    isa: Isa,
    parts: &[&[f32]],
    stride: usize,
    factor: f32,
    (rows, cols): (usize, usize),
) -> Result<(Vec<f32>, bool), Error> {
    let mut out = vec![T::from_f32(GAP); rows * (cols + 3)];
    let to = RowsMut::new(&mut out, rows, cols, cols + 3).expect("rows");
    Kernels::new(isa).store_sum(parts, stride, factor, to)?;
    let row = |r: usize| out[r * (cols + 3)..][..cols + 3].iter().map(|x| x.to_f32());
    let written = (0..rows).flat_map(|r| row(r).take(cols)).collect();
    let rest = (0..rows).all(|r| row(r).skip(cols).all(|x| x == GAP));
    Ok((written, rest))
}

proptest! {
    #[test]
    fn are_those_of_the_definition(
        seed: u64,
        count in 0..9_usize,
        (rows, cols, more) in (0..7_usize, 0..70_usize, 0..20_usize),
        factor in -2.0..2.0_f32,
    ) {
        let (random, stride) = (&mut seeded(seed), cols + more);
        let parts: Vec<Vec<f32>> = (0..count).map(|_| numbers(random, rows * stride)).collect();
        let parts: Vec<&[f32]> = parts.iter().map(Vec::as_slice).collect();
        for isa in Isa::available() {
            let (sums, rest) = store::<f32>(isa, &parts, stride, factor, (rows, cols)).expect("sums");
            let (short, rest_of_short) = store::<bf16>(isa, &parts, stride, factor, (rows, cols)).expect("sums");
            prop_assert!(rest && rest_of_short, "{}: what stands between rows stays", isa);
            for (at, (&sum, &short)) in sums.iter().zip(&short).enumerate() {
                let place = at / cols * stride + at % cols;
                let terms = parts.iter().map(|part| f64::from(part[place]));
                let exact = f64::from(factor) * terms.clone().sum::<f64>();
                // A rounding for each sum, and one for the factor.
                let most = ROUNDING * (count + 1) as f64 * f64::from(factor.abs()) * terms.map(f64::abs).sum::<f64>();
                prop_assert!((f64::from(sum) - exact).abs() <= most, "{}: {} and {}", isa, sum, exact);
                prop_assert_eq!(short, bf16::from_f32(sum).to_f32(), "{}", isa);
            }
        }
    }
}

#[test]
fn short_parts_are_refused() {
    let part = [1.0; 20];
    assert!(store::<f32>(Isa::best(), &[&part, &part[..13]], 7, 1.0, (2, 6)).is_ok());
    let error = store::<f32>(Isa::best(), &[&part, &part[..12]], 7, 1.0, (2, 6)).expect_err("too short");
    assert_eq!(error, Error::Length { name: "part of a sum", has: 12, expected: 13 });
    assert!(store::<f32>(Isa::best(), &[&part], usize::MAX, 1.0, (3, 6)).is_err());
    assert!(store::<f32>(Isa::best(), &[&[]], 7, 1.0, (0, 6)).is_ok());
}
