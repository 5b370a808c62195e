//! Products in bf16: what they are off by beside those in f32.

use ndarray::{Array2, Array3, ArrayView2};
use regard_layers::{Bias, Gradients, Linear, Mode, Parameters, Precision, Workspace, gradients, run};
use regard_oracle::numbers;

/// What a product of two numbers is off by at most, beside itself, where both are rounded to the 8 bits of bf16.
const ROUNDED: f32 = 2.0 / 256.0 + 1.0 / 65536.0;
/// What sums of a few dozen numbers in f32 add to that.
const SUMMED: f32 = 1e-5;

const TRAINING: Mode = Mode::Training { first_sequence: 0 };

fn magnitudes(x: ArrayView2<'_, f32>) -> Array2<f32> {
    x.mapv(f32::abs)
}

/// Each number is off by no more than the roundings of what it is the sum of, and not all of them are the same.
fn near(what: &str, bf16: ArrayView2<'_, f32>, f32: ArrayView2<'_, f32>, sizes: &Array2<f32>) {
    let (mut most, mut differ) = (0.0_f32, false);
    for ((&bf16, &f32), &size) in bf16.iter().zip(f32).zip(sizes) {
        most = most.max((bf16 - f32).abs() / size);
        differ |= bf16 != f32;
    }
    println!("{what}: off by {most:.1e} of the sum of magnitudes");
    assert!(differ && most <= ROUNDED + SUMMED, "{what}: {most}");
}

#[test]
fn a_linear_layer_is_off_by_its_roundings() {
    let (batch, tokens, inputs, outputs) = (3, 7, 37, 29);
    let mut parameters = Parameters::new(7);
    let layer = Linear::new(&mut parameters.root(), inputs, outputs, Bias::Learned).unwrap();
    let rows = batch * tokens;
    let x = Array2::from_shape_vec((rows, inputs), numbers(1, rows * inputs)).unwrap();
    let dout = Array2::from_shape_vec((rows, outputs), numbers(2, rows * outputs)).unwrap();
    let cube = |x: &Array2<f32>| -> Array3<f32> { x.to_shape((batch, tokens, x.ncols())).unwrap().to_owned() };
    let flat = |x: Array3<f32>| -> Array2<f32> { x.to_shape((rows, x.dim().2)).unwrap().to_owned() };
    let of = |precision| {
        let mut workspace = Workspace::new().unwrap().with_precision(precision);
        let mut found = Gradients::new(&parameters).unwrap();
        let (y, dx) =
            gradients(&layer, &parameters, &mut workspace, TRAINING, cube(&x).view(), cube(&dout).view(), &mut found)
                .unwrap();
        let again = run(&layer, &parameters, &mut workspace, Mode::Evaluation, cube(&x).view()).unwrap();
        assert_eq!(y, again, "{precision:?}");
        let of = |name: &str| found.get(&parameters, name).unwrap().to_owned();
        let dweight = of("weight").into_dimensionality::<ndarray::Ix2>().unwrap();
        (flat(y), flat(dx), dweight, of("bias"))
    };
    let (f32, bf16) = (of(Precision::F32), of(Precision::Bf16));
    let weight = parameters.get("weight").unwrap().into_dimensionality::<ndarray::Ix2>().unwrap();
    let bias = parameters.get("bias").unwrap().into_dimensionality::<ndarray::Ix1>().unwrap();
    let [x, dout, weight] = [x.view(), dout.view(), weight].map(magnitudes);
    near("results", bf16.0.view(), f32.0.view(), &(x.dot(&weight.t()) + bias.mapv(f32::abs)));
    near("gradient of the input", bf16.1.view(), f32.1.view(), &dout.dot(&weight));
    near("gradient of the weight", bf16.2.view(), f32.2.view(), &dout.t().dot(&x));
    assert_eq!(bf16.3, f32.3, "a bias is no product");
}
