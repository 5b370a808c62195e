//! FAVOR+ against its formula in f64, and against the attention that it estimates.

mod arrays;
mod calls;
mod double;
mod exact;
mod features;

use proptest::prelude::*;
use proptest::sample::select;
use regard_attention::{Direction, Element, Favor as Engine, FavorFeatures, FavorGradients, FavorInputs, FavorOutputs};
use regard_memory::{Tensor, TensorMut};
use regard_oracle::{Favor, numbers, widen};
use regard_simd::Isa;
use regard_threads::Pool;

use crate::support::{narrow, round, soiled};

/// Calls of either direction: no token, one, and some chunks; heads in groups; one feature and several vectors of them; states
/// given or not.
fn calls(most: usize) -> impl Strategy<Value = (Favor, u64)> {
    let tokens = prop_oneof![1 => Just(0), 1 => Just(1), 8 => 1..=most];
    let dim = || prop_oneof![1 => Just(1), 4 => 1..=24_usize, 1 => 60..=70_usize];
    let count = prop_oneof![1 => Just(1), 6 => 1..=40_usize];
    let heads = select(vec![(1, 1), (2, 2), (4, 2), (3, 1), (6, 2)]);
    (1..=2_usize, tokens, (dim(), dim(), count), heads, any::<(bool, bool, u64)>()).prop_map(
        |(batch, tokens, (dim_k, dim_v, count), (heads, kv_heads), (both, given, seed))| {
            let draw = |number: u64, len: usize| widen(&numbers(seed.wrapping_add(number), len));
            let states = if given { batch * kv_heads } else { 0 };
            let sums = draw(4, states * count * (dim_v + 1));
            let sums = sums.chunks(dim_v + 1).flat_map(|row| {
                // Denominators are positive, and values as large as those of keys.
                let (values, one) = (&row[..dim_v], 0.2 + row[dim_v].abs());
                values.iter().map(move |x| x * one).chain([one])
            });
            // Some keys are far out.
            let far = |(at, x): (usize, f64)| if at / dim_k % 11 == 5 { 3.0 * x } else { x };
            let call = Favor {
                batch,
                heads,
                kv_heads,
                tokens,
                dim_k,
                dim_v,
                directions: widen(FavorFeatures::new(dim_k, count, seed).unwrap().rows()),
                q: draw(1, batch * heads * tokens * dim_k),
                k: draw(2, batch * kv_heads * tokens * dim_k).into_iter().enumerate().map(far).collect(),
                v: draw(3, batch * kv_heads * tokens * dim_v),
                state: sums.map(round).collect(),
                before: draw(5, states),
                after: Vec::new(),
                scale: round(0.5 / (dim_k as f64).sqrt()),
                both,
            };
            (call, seed)
        },
    )
}

/// Sums and exponents.
type State = (Vec<f32>, Vec<f32>);

/// The engine's results, states after, and gradients in the oracle's order.
struct Asked<'a> {
    call: &'a Favor,
    features: FavorFeatures,
    isa: Isa,
    pool: &'a Pool,
}

impl<'a> Asked<'a> {
    /// `seed` is that of the features; of the call's directions only their number counts.
    fn new(call: &'a Favor, seed: u64, isa: Isa, pool: &'a Pool) -> Self {
        let features = FavorFeatures::new(call.dim_k, call.directions.len() / call.dim_k, seed).unwrap();
        Asked { call, features, isa, pool }
    }

    fn engine(&self) -> Engine<'_> {
        let direction = if self.call.both { Direction::Both } else { Direction::Causal };
        let engine = Engine::new(&self.features, Some(self.isa)).unwrap();
        engine.with_scale(self.call.scale).unwrap().with_direction(direction)
    }

    fn of_states(&self) -> [usize; 4] {
        [self.call.batch, self.call.kv_heads, self.features.count(), self.call.dim_v + 1]
    }

    fn inputs<'n, T, W>(&self, [q, k, v]: [&'n [T]; 3], (sums, before): (&'n [W], &'n [W])) -> FavorInputs<'n, T, W> {
        let &Favor { batch, heads, kv_heads, tokens, dim_k, dim_v, .. } = self.call;
        FavorInputs {
            q: Tensor::contiguous(q, [batch, heads, tokens, dim_k]).unwrap(),
            k: Tensor::contiguous(k, [batch, kv_heads, tokens, dim_k]).unwrap(),
            v: Tensor::contiguous(v, [batch, kv_heads, tokens, dim_v]).unwrap(),
            state: (!sums.is_empty()).then(|| {
                let before = Tensor::contiguous(before, [batch, kv_heads, 1, 1]).unwrap();
                (Tensor::contiguous(sums, self.of_states()).unwrap(), before)
            }),
        }
    }

    fn with_inputs<T: Element, R>(&self, work: impl FnOnce(&FavorInputs<'_, T>) -> R) -> R {
        let call = self.call;
        let [q, k, v] = [&call.q, &call.k, &call.v].map(|numbers| narrow::<T>(numbers));
        let (sums, before) = (narrow::<f32>(&call.state), narrow::<f32>(&call.before));
        work(&self.inputs([&q, &k, &v], (&sums, &before)))
    }

    /// Results and states after in f64.
    fn run_f64(&self) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
        let call = self.call;
        let &Favor { batch, heads, kv_heads, tokens, dim_v, .. } = call;
        let mut out = vec![f64::NAN; batch * heads * tokens * dim_v];
        let mut sums = vec![f64::NAN; self.of_states().iter().product()];
        let mut exponents = vec![f64::NAN; batch * kv_heads];
        let outputs = FavorOutputs {
            out: TensorMut::contiguous(&mut out, [batch, heads, tokens, dim_v]).unwrap(),
            state: (
                TensorMut::contiguous(&mut sums, self.of_states()).unwrap(),
                TensorMut::contiguous(&mut exponents, [batch, kv_heads, 1, 1]).unwrap(),
            ),
        };
        let inputs = self.inputs([&call.q, &call.k, &call.v], (&call.state, &call.before));
        self.engine().run_f64(&inputs, outputs, self.pool).unwrap();
        (out, sums, exponents)
    }

    fn run<T: Element>(&self) -> (Vec<T>, State) {
        let &Favor { batch, heads, kv_heads, tokens, dim_v, .. } = self.call;
        let mut out = vec![T::from_f32(f32::NAN); batch * heads * tokens * dim_v];
        let mut sums = vec![f32::NAN; self.of_states().iter().product()];
        let mut exponents = vec![f32::NAN; batch * kv_heads];
        let outputs = FavorOutputs {
            out: TensorMut::contiguous(&mut out, [batch, heads, tokens, dim_v]).unwrap(),
            state: (
                TensorMut::contiguous(&mut sums, self.of_states()).unwrap(),
                TensorMut::contiguous(&mut exponents, [batch, kv_heads, 1, 1]).unwrap(),
            ),
        };
        self.with_inputs::<T, _>(|inputs| self.engine().run(inputs, outputs, &mut soiled(), self.pool)).unwrap();
        (out, (sums, exponents))
    }

    fn gradients<T: Element>(&self, dout: &[f64], dafter: &[f64]) -> [Vec<f32>; 4] {
        let &Favor { batch, heads, kv_heads, tokens, dim_k, dim_v, .. } = self.call;
        let (dout, dafter) = (narrow::<T>(dout), narrow::<f32>(dafter));
        let [q, k, v] = [[heads, dim_k], [kv_heads, dim_k], [kv_heads, dim_v]].map(|[h, d]| [batch, h, tokens, d]);
        let shapes = [q, k, v, self.of_states()];
        let mut numbers = shapes.map(|shape| vec![f32::NAN; shape.iter().product()]);
        {
            let [q, k, v, state] = &mut numbers;
            let view = |numbers, shape| TensorMut::contiguous(numbers, shape).unwrap();
            let gradients = FavorGradients {
                q: view(q, shapes[0]),
                k: view(k, shapes[1]),
                v: view(v, shapes[2]),
                state: view(state, shapes[3]),
            };
            let dout = Tensor::contiguous(&dout, [batch, heads, tokens, dim_v]).unwrap();
            let dafter = (!dafter.is_empty()).then(|| Tensor::contiguous(&dafter, shapes[3]).unwrap());
            self.with_inputs::<T, _>(|inputs| {
                self.engine().backward(inputs, dout, dafter, gradients, &mut soiled(), self.pool)
            })
            .unwrap();
        }
        numbers
    }
}

/// Gradients that flow into results and, on two of three, into states after.
fn flowing(call: &Favor, seed: u64) -> (Vec<f64>, Vec<f64>) {
    let states = call.batch * call.kv_heads * call.directions.len() / call.dim_k * (call.dim_v + 1);
    let dout = widen(&numbers(seed ^ 7, call.batch * call.heads * call.tokens * call.dim_v));
    (dout, if seed.is_multiple_of(3) { vec![] } else { widen(&numbers(seed ^ 8, states)) })
}
