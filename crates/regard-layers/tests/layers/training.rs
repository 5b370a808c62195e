//! The first steps of a run, beside those that PyTorch takes from the same weights on the same text (`scripts/golden-training`).

use regard_layers::{
    Batch, ContextUse, Gradients, Head, LanguageConfig, LanguageModel, MixerKind, Mode, Objective, Optimiser,
    OptimiserConfig, Parameters, Precision, Recomputation, Schedule, Size, Workspace,
};
use regard_oracle::layers::Tensor;
use safetensors::{Dtype, SafeTensors};

use crate::support::{GRADIENT, near};

static TORCH: &[u8] = include_bytes!("../golden/training.safetensors");

/// What the script sets.
const CONFIG: LanguageConfig = LanguageConfig {
    vocabulary: 31,
    width: 20,
    layers: 2,
    heads: 4,
    kv_heads: 2,
    head_dim: 6,
    hidden: 37,
    mixer: MixerKind::Softmax,
    objective: Objective::Causal,
    eps: 1e-5,
    rope_theta: 500.0,
    head: Head::Tied,
    context: ContextUse::None,
    dropout: 0.0,
};
const OPTIMISER: OptimiserConfig = OptimiserConfig { betas: [0.9, 0.95], eps: 1e-8, decay: 0.1, clip: Some(1.0) };
const SCHEDULE: Schedule = Schedule { rate: 0.02, warmup: 3, steps: 12, last: 0.1 };

/// A tensor of the file, whatever its numbers are.
fn golden(name: &str) -> Tensor {
    let file = SafeTensors::deserialize(TORCH).expect("a file of safetensors");
    let tensor = file.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"));
    let values = match tensor.dtype() {
        Dtype::F64 => tensor.data().as_chunks().0.iter().map(|&x| f64::from_le_bytes(x)).collect(),
        Dtype::F32 => tensor.data().as_chunks().0.iter().map(|&x| f32::from_le_bytes(x).into()).collect(),
        Dtype::I64 => tensor.data().as_chunks().0.iter().map(|&x| i64::from_le_bytes(x) as f64).collect(),
        other => panic!("{name} of {other:?}"),
    };
    Tensor::new(tensor.shape(), values)
}

/// The names under a group.
fn names(group: &str) -> Vec<String> {
    let file = SafeTensors::deserialize(TORCH).expect("a file of safetensors");
    let mut names: Vec<String> =
        file.names().iter().filter_map(|name| name.strip_prefix(group)).map(str::to_owned).collect();
    names.sort_unstable();
    names
}

fn tensor(values: ndarray::ArrayViewD<'_, f32>) -> Tensor {
    Tensor::new(values.shape(), values.iter().map(|&x| x.into()).collect())
}

/// The steps of the file from its weights: each one's loss and length of gradients, and what was learned. Of the first step all
/// gradients are shown to `first`.
fn train(precision: Precision, first: impl Fn(&Parameters, &Gradients)) -> (Vec<[f64; 2]>, Parameters) {
    let mut parameters = Parameters::new(1);
    let model = LanguageModel::new(&mut parameters, CONFIG).unwrap();
    let mut ours: Vec<String> = parameters.names().map(str::to_owned).collect();
    ours.sort_unstable();
    assert_eq!(ours, names("before/"), "transformers' names");
    for name in &ours {
        let (mut to, from) = (parameters.get_mut(name).unwrap(), golden(&format!("before/{name}")));
        assert_eq!(to.shape(), from.shape, "{name}");
        to.iter_mut().zip(&from.values).for_each(|(to, &from)| *to = from as f32);
    }
    let mut workspace = Workspace::new().unwrap().with_precision(precision);
    let mut gradients = Gradients::new(&parameters).unwrap();
    let mut optimiser = Optimiser::new(&parameters, OPTIMISER).unwrap();

    let (text, rates) = (golden("tokens"), golden("rates"));
    let &[steps, batch, window] = &text.shape[..] else { panic!("{:?}", text.shape) };
    let size = Size { batch, tokens: window - 1 };
    let weights = vec![1.0 / size.rows() as f32; size.rows()];
    assert_eq!(steps, 10);
    let mut taken = Vec::new();
    for step in 0..steps {
        let rows = text.part(step);
        let of = |range: std::ops::Range<usize>| -> Vec<u32> {
            rows.rows().flat_map(|row| row[range.clone()].iter().map(|&token| token as u32)).collect()
        };
        let (tokens, targets) = (of(0..window - 1), of(1..window));
        let rate = SCHEDULE.at(step as u64);
        assert!((f64::from(rate) / rates.values[step] - 1.0).abs() < 1e-6, "the rate of step {step}");
        gradients.clear();
        let loss = model
            .learn(
                &parameters,
                &mut workspace,
                Mode::Training { first_sequence: (step * batch) as u64 },
                Batch { size, tokens: &tokens, targets: &targets, weights: &weights },
                Recomputation::None,
                &mut gradients,
                None,
            )
            .unwrap();
        if step == 0 {
            first(&parameters, &gradients);
        }
        taken.push([loss, optimiser.step(&workspace, &mut parameters, &gradients, rate).unwrap()]);
    }
    (taken, parameters)
}

#[test]
fn ten_steps_are_pytorchs() {
    let (taken, parameters) = train(Precision::F32, |parameters, gradients| {
        for name in parameters.names() {
            let (ours, theirs) = (gradients.get(parameters, name).unwrap(), golden(&format!("gradient/{name}")));
            near(&format!("gradient of {name}"), &tensor(ours), &theirs, GRADIENT, 0.0);
        }
    });
    let theirs = [golden("losses"), golden("lengths")];
    for (step, ours) in taken.iter().enumerate() {
        for ((what, ours), theirs) in ["loss", "length"].into_iter().zip(ours).zip(&theirs) {
            let theirs = theirs.values[step];
            let off = (ours / theirs - 1.0).abs();
            println!("step {step}: {what} {ours:.7}, off by {off:.1e}");
            // A step of Adam goes as far along what is all but 0 as along all else, so that roundings grow from step to step.
            assert!(off < if step == 0 { 1e-6 } else { 1e-5 }, "step {step}: {what} {ours}, PyTorch's {theirs}");
        }
    }
    for name in parameters.names() {
        near(name, &tensor(parameters.get(name).unwrap()), &golden(&format!("after/{name}")), 1e-4, 0.0);
    }
}

/// With products in bf16 the losses are as near to those in f64 as PyTorch's are under autocast to bf16: at most twice as far off.
#[test]
fn ten_steps_in_bf16_are_as_near_as_autocast() {
    let (taken, _) = train(Precision::Bf16, |_, _| ());
    let (exact, autocast) = (golden("losses"), golden("autocast"));
    let off = |losses: &[f64]| -> f64 {
        let square = |(loss, exact): (&f64, &f64)| (loss - exact).powi(2);
        (losses.iter().zip(&exact.values).map(square).sum::<f64>() / losses.len() as f64).sqrt()
    };
    let ours: Vec<f64> = taken.iter().map(|&[loss, _]| loss).collect();
    let (ours, theirs) = (off(&ours), off(&autocast.values));
    println!("losses are off by {ours:.1e}, under autocast by {theirs:.1e}");
    assert!(0.0 < ours && ours <= 2.0 * theirs, "{ours}, under autocast {theirs}");
}
