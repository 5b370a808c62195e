//! What all comparisons share: numbers that are drawn, layers that are given them by name, and how far results may be off.

use ndarray::{Array3, Array4};
use proptest::prelude::*;
use regard_layers::{Error, Gradients, Layer, Mode, Parameters, Scope, Size, Workspace, gradients, run};
use regard_oracle::layers::{Tensor, Tensors};
use regard_oracle::{numbers, widen};

/// How far results of order one may be off, and larger ones in proportion. They are sums of some tens of products of numbers of
/// order one, each of which is rounded by up to 6e−8.
pub(crate) const RESULT: f64 = 1e-6;

/// How far gradients may be off, relative to the largest of a tensor: their sums go over the tokens of a batch, too, and what
/// they are sums of is made of results.
pub(crate) const GRADIENT: f64 = 4e-6;

/// What the layers under test are made by.
pub(crate) const SEED: u64 = 1;

/// As many cases of a property as its cost allows.
pub(crate) fn tries(cases: u32) -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(cases);
    ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 50, ..ProptestConfig::default() }
}

/// Draws tensors, one after the other, of numbers that f32 holds.
pub(crate) struct Draw(pub(crate) u64);

impl Draw {
    /// Normal numbers.
    pub(crate) fn normal(&mut self, shape: &[usize], deviation: f64) -> Tensor {
        self.0 = self.0.wrapping_add(1);
        let values = numbers(self.0, shape.iter().product());
        let scaled: Vec<f32> = values.iter().map(|x| x * deviation as f32).collect();
        Tensor::new(shape, widen(&scaled))
    }

    /// Weights under which results are as large as what goes in.
    pub(crate) fn weight(&mut self, outputs: usize, inputs: usize) -> Tensor {
        self.normal(&[outputs, inputs], (inputs as f64).powf(-0.5))
    }

    /// Numbers around one.
    pub(crate) fn around_one(&mut self, len: usize) -> Tensor {
        let drawn = self.normal(&[len], 0.25);
        drawn.by_row(len, |row| row.iter().map(|x| f64::from((1.0 + x) as f32)).collect())
    }
}

pub(crate) fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&x| x as f32).collect()
}

/// A tensor `[batch, tokens, width]` as an array.
pub(crate) fn array(tensor: &Tensor) -> Array3<f32> {
    let &[batch, tokens, width] = &tensor.shape[..] else { panic!("{:?} has not three axes", tensor.shape) };
    Array3::from_shape_vec((batch, tokens, width), narrow(&tensor.values)).unwrap()
}

/// A tensor of four axes, or of three and then one number of each, as an array.
pub(crate) fn array4(tensor: &Tensor) -> Array4<f32> {
    let &[a, b, c] = &tensor.shape[..3] else { panic!("{:?} has not three axes", tensor.shape) };
    Array4::from_shape_vec((a, b, c, *tensor.shape.get(3).unwrap_or(&1)), narrow(&tensor.values)).unwrap()
}

/// The size of rows `[batch, tokens, width]`.
pub(crate) fn size(x: &Tensor) -> Size {
    Size { batch: x.shape[0], tokens: x.shape[1] }
}

pub(crate) fn tensor(array: &Array3<f32>) -> Tensor {
    Tensor::new(array.shape(), array.iter().copied().map(f64::from).collect())
}

/// Makes a layer, whose parameters become those of the same names; all of them must be there, in the same shapes.
pub(crate) fn with_weights<L>(
    new: impl FnOnce(&mut Scope<'_>) -> Result<L, Error>,
    given: &Tensors,
) -> (L, Parameters) {
    let mut parameters = Parameters::new(SEED);
    let layer = new(&mut parameters.root()).unwrap();
    set(&mut parameters, given);
    (layer, parameters)
}

/// Replaces all parameters.
pub(crate) fn set(parameters: &mut Parameters, given: &Tensors) {
    for name in parameters.names().map(str::to_owned).collect::<Vec<_>>() {
        let (mut to, from) = (parameters.get_mut(&name).unwrap(), &given[&name]);
        assert_eq!(to.shape(), from.shape, "{name}");
        to.iter_mut().zip(&from.values).for_each(|(to, &from)| *to = from as f32);
    }
}

/// The gradients of all parameters by name, half of what is there.
fn halves(parameters: &Parameters, gradients: &Gradients) -> Tensors {
    let half = |name: &str| {
        let gradient = gradients.get(parameters, name).unwrap();
        Tensor::new(gradient.shape(), gradient.iter().map(|&x| f64::from(x) / 2.0).collect())
    };
    parameters.names().map(|name| (name, half(name))).collect()
}

/// What a layer makes of what it is given.
#[derive(Debug)]
pub(crate) struct Made {
    /// Results `[batch, tokens, outputs]`.
    pub(crate) out: Tensor,
    /// The gradients of everything that was given.
    pub(crate) gradient: Tensors,
    /// What errors are multiplied by on their way out: where a norm divides by a small number, say.
    pub(crate) amplified: f64,
}

/// Both passes of a layer twice: results are the same bits, and gradients of parameters add up.
pub(crate) fn twice(
    parameters: &Parameters,
    mut passes: impl FnMut(&mut Gradients) -> (Tensor, Vec<(&'static str, Tensor)>),
) -> Made {
    let mut gradients = Gradients::new(parameters).unwrap();
    let (out, inputs) = passes(&mut gradients);
    let (again, _) = passes(&mut gradients);
    assert_eq!(out, again, "the same bits");
    let named = halves(parameters, &gradients);
    let gradient = inputs.into_iter().fold(named, |all, (name, tensor)| all.and(name, tensor));
    Made { out, gradient, amplified: 1.0 }
}

/// What a layer makes of `x` and of weights by their names, where `dout` is the gradient of its results.
pub(crate) fn made<L: Layer>(
    new: impl FnOnce(&mut Scope<'_>) -> Result<L, Error>,
    given: &Tensors,
    dout: &Tensor,
    mode: Mode,
    workspace: &mut Workspace,
) -> Made {
    let (layer, parameters) = with_weights(new, given);
    let (x, dout) = (array(&given["x"]), array(dout));
    let alone = run(&layer, &parameters, workspace, mode, x.view()).unwrap();
    twice(&parameters, |sums| {
        let (out, dx) = gradients(&layer, &parameters, workspace, mode, x.view(), dout.view(), sums).unwrap();
        assert_eq!(out, alone, "results with gradients and without");
        (tensor(&out), vec![("x", tensor(&dx))])
    })
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |most, x| x.abs().max(most))
}

/// How far numbers are off at the most; NaN where one is no number.
fn error(ours: &[f64], theirs: &[f64]) -> f64 {
    let off = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs());
    off.fold(0.0, |most, off| if off <= most { most } else { off })
}

/// How much larger errors of rows become where each is divided by its root mean square: as a row is smaller than one or than the
/// largest, it is
/// what is left of sums of terms of that size.
pub(crate) fn amplified_by_norm(rows: &Tensor, epsilon: f64) -> f64 {
    let root = |row: &[f64]| (row.iter().map(|x| x * x).sum::<f64>() / row.len() as f64 + epsilon).sqrt();
    let (least, most) =
        rows.rows().map(root).fold((f64::INFINITY, 0.0f64), |(least, most), root| (root.min(least), root.max(most)));
    most.max(1.0) / least
}

/// Numbers that are the same but for rounding: within a share of the largest of them, or of `least`.
pub(crate) fn near(what: &str, ours: &Tensor, theirs: &Tensor, share: f64, least: f64) {
    assert_eq!(ours.shape, theirs.shape, "{what}");
    let (off, size) = (error(&ours.values, &theirs.values), largest(&theirs.values).max(least));
    println!("{:9.1e} of {size:9.1e}, {:8.1e}: {what}", off, off / size.max(f64::MIN_POSITIVE));
    assert!(off <= share * size, "{what}: off by {off:.2e}, the largest is {size:.2e}");
}

/// Holds results against what others make of the same.
pub(crate) fn hold_results(name: &str, ours: &Tensor, theirs: &Tensor) {
    near(&format!("{name}: results"), ours, theirs, RESULT, 1.0);
}

impl Made {
    /// Holds all of it against what others make of the same. A gradient that is small beside the others is a difference of numbers
    /// as large as those, and is off accordingly.
    pub(crate) fn hold(&self, name: &str, out: &Tensor, gradient: &Tensors) {
        self.hold_results(name, out);
        let least = gradient.iter().fold(0.0, |most, (_, tensor)| largest(&tensor.values).max(most)) / 8.0;
        for (key, theirs) in gradient.iter() {
            let what = format!("{name}: gradient of {key}");
            near(&what, &self.gradient[key], theirs, GRADIENT * self.amplified, least);
        }
    }

    /// Holds the results.
    pub(crate) fn hold_results(&self, name: &str, out: &Tensor) {
        near(&format!("{name}: results"), &self.out, out, RESULT * self.amplified, 1.0);
    }

    /// Holds gradients against differences of `Σ dout·out` along a direction in each tensor of `at`, where it would take long to
    /// move each number by itself. The layer has them as `ours` makes them.
    pub(crate) fn hold_along(
        &self,
        name: &str,
        at: &Tensors,
        dout: &Tensor,
        ours: impl Fn(&Tensors) -> Tensors,
        out: impl Fn(&Tensors) -> Tensor,
    ) {
        const STEP: f64 = 1e-5;
        let mut draw = Draw(dout.values[0].to_bits());
        // Those of weights are sums over all rows, which may cancel.
        let sums = dout.dot(dout).sqrt();
        let least = self.gradient.iter().fold(0.0, |most, (_, tensor)| largest(&tensor.values).max(most)) / 8.0;
        let least = least.max(sums);
        for (key, tensor) in at.iter() {
            let direction = draw.normal(&tensor.shape, 1.0);
            let moved = |step: f64| out(&at.clone().and(key, tensor.with(&direction, |x, d| x + step * d))).dot(dout);
            let slope = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
            let (mut sum, mut size) = (0.0, least);
            for (key, direction) in ours(&Tensors::default().and(key, direction)).iter() {
                let gradient = &self.gradient[key];
                sum += gradient.dot(direction);
                size = largest(&gradient.values).max(size);
            }
            // Errors of its numbers add up as their roots do.
            let size = size * (tensor.values.len() as f64).sqrt();
            let off = (sum - slope).abs();
            println!("{off:9.1e} of {size:9.1e}, {:8.1e}: {name}: gradient along {key}", off / size);
            let bound = GRADIENT * self.amplified * size;
            assert!(off <= bound, "{name}: gradient of {key} along a direction: {sum}, the difference is {slope}");
        }
    }
}
