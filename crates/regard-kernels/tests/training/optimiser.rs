//! Steps of AdamW against PyTorch's order of them in f64.

use proptest::prelude::*;
use regard_kernels::{AdamW, Error, Kernels};
use regard_simd::Isa;

use crate::{ROUNDING, bits, doubles, numbers};

/// One parameter's step in f64, as `torch.optim.AdamW` does it: `[value, first, second]`.
fn definition(step: &AdamW, [value, gradient, first, second]: [f64; 4]) -> [f64; 3] {
    let double = |x: f32| f64::from(x);
    let [beta1, beta2] = step.betas.map(f64::from);
    let [lack1, lack2] = step.correction.map(f64::from);
    let gradient = gradient * double(step.scale);
    let value = value * (1.0 - double(step.rate) * double(step.decay));
    let first = beta1 * first + (1.0 - beta1) * gradient;
    let second = beta2 * second + (1.0 - beta2) * gradient * gradient;
    let move_by = double(step.rate) / lack1 * first / (second.sqrt() / lack2.sqrt() + double(step.eps));
    [value - move_by, first, second]
}

fn steps() -> impl Strategy<Value = AdamW> {
    (1e-5..0.1_f32, [0.0..0.99_f32, 0.5..0.9999_f32], 1e-10..1e-3_f32, 0.0..0.3_f32, 1..1000_i32, 0.1..1.0_f32)
        .prop_map(|(rate, betas, eps, decay, t, scale)| {
            let correction = betas.map(|beta| 1.0 - beta.powi(t));
            AdamW { rate, betas, eps, decay, correction, scale }
        })
}

proptest! {
    #[test]
    fn is_the_definition(step in steps(), len in 0..70_usize, size in -12..6_i32, seed: u64) {
        let [values, gradients, first, second] = [1, 2, 3, 4].map(|i| numbers(seed ^ i, len, 1.0));
        let size = 2f32.powi(size);
        let [gradients, first] = [gradients, first].map(|x| x.iter().map(|x| x * size).collect::<Vec<_>>());
        let second: Vec<f32> = second.iter().map(|x| x.abs() * size * size).collect();
        for isa in Isa::available() {
            let (mut v, mut a, mut b) = (values.clone(), first.clone(), second.clone());
            Kernels::new(isa).adamw(&mut v, &gradients, &mut a, &mut b, &step).unwrap();
            for i in 0..len {
                let given = [values[i], gradients[i], first[i], second[i]].map(f64::from);
                let [value, one, two] = definition(&step, given);
                let moment = 4.0 * ROUNDING * (given[1].abs() + given[2].abs());
                prop_assert!((f64::from(a[i]) - one).abs() <= moment, "{isa}: {} {one}", a[i]);
                prop_assert!((f64::from(b[i]) - two).abs() <= 5.0 * ROUNDING * two, "{isa}: {} {two}", b[i]);
                // One rounding of the value; those of what it moves by, of which the first moment's may be of larger terms.
                let [pace, root] = [f64::from(step.rate) / f64::from(step.correction[0]), f64::from(step.correction[1])];
                let below = (two / root).sqrt() + f64::from(step.eps);
                let moved = pace * (moment + 12.0 * ROUNDING * one.abs()) / below;
                let decayed = 4.0 * ROUNDING * f64::from(step.rate * step.decay) * given[0].abs();
                let bound = ROUNDING * value.abs() + moved + decayed;
                prop_assert!((f64::from(v[i]) - value).abs() <= bound, "{isa}: {} {value}, {bound}", v[i]);
            }
        }
    }

    #[test]
    fn may_be_cut_anywhere(step in steps(), len in 1..100_usize, cut in 0..100_usize, seed: u64) {
        let [values, gradients, first, second] = [1, 2, 3, 4].map(|i| numbers(seed ^ i, len, 1.0));
        let second: Vec<f32> = second.iter().map(|x| x.abs()).collect();
        let cut = cut.min(len);
        for isa in Isa::available() {
            let run = |part: std::ops::Range<usize>| {
                let [mut v, mut a, mut b] = [&values, &first, &second].map(|x| x[part.clone()].to_vec());
                Kernels::new(isa).adamw(&mut v, &gradients[part], &mut a, &mut b, &step).unwrap();
                [v, a, b].map(|x| bits(&x))
            };
            let [left, right] = [run(0..cut), run(cut..len)];
            for (i, all) in run(0..len).into_iter().enumerate() {
                prop_assert_eq!(all, [&left[i][..], &right[i]].concat(), "{}", isa);
            }
        }
    }
}

/// A decay that is hardly more than a rounding of the value is right on average: over many steps values shrink as in f64.
#[test]
fn small_decay_is_not_lost() {
    let step = AdamW { rate: 1e-4, betas: [0.9, 0.999], eps: 1e-8, decay: 0.01, correction: [1.0; 2], scale: 1.0 };
    for isa in Isa::available() {
        let values = numbers(1, 1000, 1.0);
        let (mut v, mut a, mut b) = (values.clone(), vec![0.0; 1000], vec![0.0; 1000]);
        for _ in 0..1000 {
            Kernels::new(isa).adamw(&mut v, &[0.0; 1000], &mut a, &mut b, &step).unwrap();
        }
        let sizes = [&v, &values].map(|x| doubles(x).iter().map(|x| x.abs()).sum::<f64>());
        let (kept, expected) = (sizes[0] / sizes[1], (1.0 - f64::from(step.rate) * f64::from(step.decay)).powi(1000));
        // A factor `1 − rate·decay`, rounded first, would be off by 1.3·10⁻⁵.
        assert!((kept - expected).abs() < 1e-6, "{isa}: {kept}, {expected}");
    }
}

#[test]
fn nan_stays_in_its_parameter() {
    let step = AdamW { rate: 0.1, betas: [0.9, 0.999], eps: 1e-8, decay: 0.1, correction: [0.1, 0.001], scale: 1.0 };
    for isa in Isa::available() {
        let (mut v, mut g, mut a, mut b) = ([1.0; 37], [1.0; 37], [0.0; 37], [0.0; 37]);
        (g[3], g[35]) = (f32::NAN, f32::NAN);
        Kernels::new(isa).adamw(&mut v, &g, &mut a, &mut b, &step).unwrap();
        assert!((0..37).all(|i| v[i].is_nan() == (i == 3 || i == 35)), "{isa}: {v:?}");
        let error = Kernels::new(isa).adamw(&mut v, &g, &mut a[..36], &mut b, &step).unwrap_err();
        assert_eq!(error, Error::Length { name: "first moments", has: 36, expected: 37 });
    }
}
