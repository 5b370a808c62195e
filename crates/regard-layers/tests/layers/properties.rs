//! What holds of every layer, whatever it computes.

use ndarray::{Array3, Axis, Slice};
use regard_layers::{Gradients, Layer, Mode, Sight, Workspace, gradients, run};
use regard_oracle::numbers;
use regard_simd::Isa;
use regard_threads::Pool;

use crate::every::{Visit, Visited, WIDTH, every_layer};

const TRAINING: Mode = Mode::Training { first_sequence: 5 };

fn rows(seed: u64, batch: usize, tokens: usize) -> Array3<f32> {
    Array3::from_shape_vec((batch, tokens, WIDTH), numbers(seed, batch * tokens * WIDTH)).unwrap()
}

/// Bits, by which NaN is itself.
fn bits<'a>(numbers: impl IntoIterator<Item = &'a f32>) -> Vec<u32> {
    numbers.into_iter().map(|x| x.to_bits()).collect()
}

/// Later tokens that are others, or no numbers, leave the bits of earlier results as they were.
struct Causality;

impl Visit for Causality {
    fn layer<L: Layer>(&mut self, layer: &L, of: &Visited<'_>) {
        if of.sight == Sight::Both {
            return;
        }
        let mut workspace = Workspace::new().unwrap();
        for tokens in [9, 70, 200] {
            let x = rows(1, 2, tokens);
            let mut out = |x: &Array3<f32>| run(layer, of.parameters, &mut workspace, TRAINING, x.view()).unwrap();
            let before = out(&x);
            assert!(before.iter().all(|x| x.is_finite()), "{}", of.name);
            for cut in [1, tokens / 2 + 1, tokens - 1] {
                let changed = |values: Array3<f32>| {
                    let mut x = x.clone();
                    let later = Slice::from(cut..);
                    x.slice_axis_mut(Axis(1), later).assign(&values.slice_axis(Axis(1), later));
                    x
                };
                let earlier = |out: &Array3<f32>| bits(out.slice_axis(Axis(1), Slice::from(..cut)).iter());
                for (what, values) in [
                    ("others", rows(2, 2, tokens)),
                    ("no numbers", Array3::from_elem((2, tokens, WIDTH), f32::NAN)),
                    ("infinite", Array3::from_elem((2, tokens, WIDTH), f32::INFINITY)),
                ] {
                    let after = out(&changed(values));
                    assert_ne!(bits(&after), bits(&before), "{}: tokens from {cut} of {tokens} matter", of.name);
                    assert_eq!(earlier(&after), earlier(&before), "{}: {cut} of {tokens}: {what}", of.name);
                }
            }
        }
    }
}

#[test]
fn no_later_token_reaches_an_earlier_one() {
    every_layer(&mut Causality);
}

/// On one thread and on two.
struct Threads([Workspace; 2]);

impl Visit for Threads {
    fn layer<L: Layer>(&mut self, layer: &L, of: &Visited<'_>) {
        for (batch, tokens) in [(1, 1), (3, 70), (2, 150)] {
            let (x, dout) = (rows(1, batch, tokens), rows(2, batch, tokens));
            let [one, two] = &mut self.0;
            let passes = |workspace: &mut Workspace| {
                let mut sums = Gradients::new(of.parameters).unwrap();
                let (out, dx) =
                    gradients(layer, of.parameters, workspace, TRAINING, x.view(), dout.view(), &mut sums).unwrap();
                (bits(&out), bits(&dx), bits(sums.values()))
            };
            assert!(passes(one) == passes(two), "{}: {batch} of {tokens}", of.name);
        }
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let workspace = |threads| Workspace::on(Isa::best(), Box::leak(Box::new(Pool::new(threads).unwrap())));
    every_layer(&mut Threads([workspace(1), workspace(2)]));
}

/// Of no tokens at all there is an answer, or it is said that there is none.
struct Nothing;

impl Visit for Nothing {
    fn layer<L: Layer>(&mut self, layer: &L, of: &Visited<'_>) {
        let mut workspace = Workspace::new().unwrap();
        for (batch, tokens) in [(0, 0), (0, 5), (2, 0), (1, 1)] {
            let x = rows(1, batch, tokens);
            let mut sums = Gradients::new(of.parameters).unwrap();
            let alone = run(layer, of.parameters, &mut workspace, TRAINING, x.view());
            let made = gradients(layer, of.parameters, &mut workspace, TRAINING, x.view(), x.view(), &mut sums);
            println!("{batch} of {tokens}: {:?}: {}", made.as_ref().map(|_| ()), of.name);
            if let (Ok(alone), Ok((out, dx))) = (&alone, &made) {
                assert_eq!((alone.dim(), out.dim(), dx.dim()), (x.dim(), x.dim(), x.dim()), "{}", of.name);
            }
            assert_eq!(alone.is_ok(), made.is_ok(), "{}: {batch} of {tokens}", of.name);
            if x.is_empty() {
                assert!(sums.values().iter().all(|&sum| sum == 0.0), "{}: {batch} of {tokens}", of.name);
            }
        }
    }
}

#[test]
fn no_tokens_are_no_panic() {
    every_layer(&mut Nothing);
}
