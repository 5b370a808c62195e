//! Random calls of linear attention, how they are run, and how they are judged.

use std::sync::OnceLock;

use ndarray::Array4;
use proptest::prelude::*;
use proptest::sample::select;
use regard_attention::{
    Direction, Element, Recurrence as Engine, RecurrentGradients, RecurrentInputs, RecurrentOutputs,
};
use regard_memory::{Arena, Tensor, TensorMut};
use regard_oracle::{Recurrence, largest_error, numbers, widen, within_twice_plain};
use regard_simd::Isa;
use regard_threads::Pool;

/// Two threads for all tests.
pub(crate) fn pool() -> &'static Pool {
    static POOL: OnceLock<Pool> = OnceLock::new();
    POOL.get_or_init(|| Pool::new(2).expect("two threads"))
}

/// So many cases of a property, or as many as `PROPTEST_CASES` says: fewer where instructions are slow.
pub(crate) fn tries(cases: u32) -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(cases);
    ProptestConfig::with_cases(cases)
}

/// What tells rules apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    /// Log decays: none, one a state, or one for each of its rows.
    pub(crate) decays: Option<bool>,
    pub(crate) delta: bool,
    pub(crate) both: bool,
}

pub(crate) fn rules() -> impl Strategy<Value = Rule> {
    let causal = (select(vec![None, Some(false), Some(true)]), any::<bool>()).prop_map(|(decays, delta)| Rule {
        decays,
        delta,
        both: false,
    });
    prop_oneof![6 => causal, 1 => Just(Rule { decays: None, delta: false, both: true })]
}

/// Calls of any rule: no token, one, and some chunks; heads in groups either way; states given or not; decays from none to
/// all, mild and steep ones in one call.
pub(crate) fn calls(most: usize) -> impl Strategy<Value = (Recurrence, u64)> {
    let tokens = prop_oneof![1 => Just(0), 1 => Just(1), 8 => 1..=most];
    let dim = || prop_oneof![1 => Just(1), 4 => 1..=24_usize, 1 => 60..=80_usize];
    // Queries share a state, or states queries, keys, decays and betas.
    let heads = select(vec![
        [1, 1, 1, 1, 1],
        [2, 2, 2, 2, 2],
        [4, 2, 2, 2, 2],
        [6, 1, 3, 3, 1],
        [1, 1, 4, 4, 2],
        [2, 1, 4, 2, 4],
        [3, 3, 3, 1, 3],
    ]);
    (1..=2_usize, tokens, dim(), dim(), heads, rules(), (0.0..3.0_f64, any::<bool>(), any::<u64>())).prop_map(
        |(batch, tokens, dim_k, dim_v, mut heads, rule, (steepness, given, seed))| {
            if rule.both {
                heads = [heads[0], heads[1], heads[2], 1, 1];
            }
            let draw = |number: u64, heads: usize, width: usize| {
                widen(&numbers(seed.wrapping_add(number), batch * heads * tokens * width))
            };
            let width = match rule.decays {
                None => 0,
                Some(false) => 1,
                Some(true) => dim_k,
            };
            // Keys of length 1 at most: by the delta rule longer ones make states grow without end.
            let k = draw(2, heads[1], dim_k).iter().map(|x| round(x / (dim_k as f64).sqrt() / 2.0)).collect();
            let steep = |(at, x): (usize, f64)| match at % 37 {
                7 => f64::NEG_INFINITY,
                11 => 0.0,
                13 => round(-40.0 * x.abs()),
                _ => round(-x.abs() * steepness.powi(3) / 10.0),
            };
            let mut call = Recurrence {
                batch,
                tokens,
                dim_k,
                dim_v,
                heads,
                q: draw(1, heads[0], dim_k),
                k,
                v: draw(3, heads[2], dim_v),
                log_decay: draw(4, heads[3], width).into_iter().enumerate().map(steep).collect(),
                beta: draw(5, if rule.delta { heads[4] } else { 0 }, 1)
                    .iter()
                    .map(|x| round(1.0 / (1.0 + x.exp())))
                    .collect(),
                state: Vec::new(),
                scale: round(1.0 / (dim_k as f64).sqrt()),
                both: rule.both,
            };
            // Without tokens nothing tells that there are decays, and how many states they have.
            if given && tokens > 0 {
                call.state = widen(&numbers(seed ^ 6, batch * call.states() * dim_k * dim_v));
            }
            (call, seed)
        },
    )
}

/// The nearest number in f32.
pub(crate) fn round(x: f64) -> f64 {
    f64::from(x as f32)
}

pub(crate) fn narrow<T: Element>(numbers: &[f64]) -> Vec<T> {
    numbers.iter().map(|&x| T::from_f32(x as f32)).collect()
}

/// The engine's results, states after, and on request gradients, in the oracle's order.
pub(crate) struct Asked<'a> {
    pub(crate) call: &'a Recurrence,
    pub(crate) isa: Isa,
    pub(crate) pool: &'a Pool,
}

impl Asked<'_> {
    fn engine(&self) -> Engine {
        let direction = if self.call.both { Direction::Both } else { Direction::Causal };
        Engine::new(Some(self.isa)).unwrap().with_scale(self.call.scale).unwrap().with_direction(direction)
    }

    fn with_inputs<T: Element, R>(&self, work: impl FnOnce(&RecurrentInputs<'_, T>) -> R) -> R {
        let call = self.call;
        let [q, k, v] = [&call.q, &call.k, &call.v].map(|numbers| narrow::<T>(numbers));
        let [log_decay, beta, state] = [&call.log_decay, &call.beta, &call.state].map(|numbers| narrow::<f32>(numbers));
        work(&inputs(call, [&q, &k, &v], [&log_decay, &beta, &state]))
    }

    /// The engine's results and states after in f64.
    pub(crate) fn run_f64(&self) -> (Vec<f64>, Vec<f64>) {
        let call = self.call;
        let &Recurrence { batch, tokens, dim_k, dim_v, .. } = call;
        let (results, states) = (call.results(), call.states());
        let mut out = vec![f64::NAN; batch * results * tokens * dim_v];
        let mut state = vec![f64::NAN; batch * states * dim_k * dim_v];
        let outputs = RecurrentOutputs {
            out: TensorMut::contiguous(&mut out, [batch, results, tokens, dim_v]).unwrap(),
            state: TensorMut::contiguous(&mut state, [batch, states, dim_k, dim_v]).unwrap(),
        };
        let inputs = inputs(call, [&call.q, &call.k, &call.v], [&call.log_decay, &call.beta, &call.state]);
        self.engine().run_f64(&inputs, outputs, self.pool).unwrap();
        (out, state)
    }

    pub(crate) fn run<T: Element>(&self) -> (Vec<T>, Vec<f32>) {
        let &Recurrence { batch, tokens, dim_k, dim_v, .. } = self.call;
        let (results, states) = (self.call.results(), self.call.states());
        let mut out = vec![T::from_f32(f32::NAN); batch * results * tokens * dim_v];
        let mut state = vec![f32::NAN; batch * states * dim_k * dim_v];
        let outputs = RecurrentOutputs {
            out: TensorMut::contiguous(&mut out, [batch, results, tokens, dim_v]).unwrap(),
            state: TensorMut::contiguous(&mut state, [batch, states, dim_k, dim_v]).unwrap(),
        };
        self.with_inputs::<T, _>(|inputs| self.engine().run(inputs, outputs, &mut soiled(), self.pool)).unwrap();
        (out, state)
    }

    pub(crate) fn gradients<T: Element>(&self, dout: &[f64], dafter: &[f64]) -> [Vec<f32>; 6] {
        let call = self.call;
        let &Recurrence { batch, tokens, dim_k, dim_v, heads, .. } = call;
        let (dout, dafter) = (narrow::<T>(dout), narrow::<f32>(dafter));
        let shape_of_states = [batch, call.states(), dim_k, dim_v];
        let there = |numbers: &[f64], shape: [usize; 4]| if numbers.is_empty() { [0; 4] } else { shape };
        let shapes = [
            [batch, heads[0], tokens, dim_k],
            [batch, heads[1], tokens, dim_k],
            [batch, heads[2], tokens, dim_v],
            there(&call.log_decay, [batch, heads[3], tokens, call.decays()]),
            there(&call.beta, [batch, heads[4], tokens, 1]),
            shape_of_states,
        ];
        let mut numbers = shapes.map(|shape| vec![f32::NAN; shape.iter().product()]);
        {
            let [q, k, v, log_decay, beta, state] = &mut numbers;
            let view = |numbers, shape| TensorMut::contiguous(numbers, shape).unwrap();
            let gradients = RecurrentGradients {
                q: view(q, shapes[0]),
                k: view(k, shapes[1]),
                v: view(v, shapes[2]),
                log_decay: view(log_decay, shapes[3]),
                beta: view(beta, shapes[4]),
                state: view(state, shapes[5]),
            };
            let dout = Tensor::contiguous(&dout, [batch, call.results(), tokens, dim_v]).unwrap();
            let dafter = (!dafter.is_empty()).then(|| Tensor::contiguous(&dafter, shape_of_states).unwrap());
            self.with_inputs::<T, _>(|inputs| {
                self.engine().backward(inputs, dout, dafter, gradients, &mut soiled(), self.pool)
            })
            .unwrap();
        }
        numbers
    }
}

/// Inputs of a call: queries, keys and values, and where there are some log decays, betas and states before.
fn inputs<'a, T, W>(
    call: &Recurrence,
    [q, k, v]: [&'a [T]; 3],
    [log_decay, beta, state]: [&'a [W]; 3],
) -> RecurrentInputs<'a, T, W> {
    let &Recurrence { batch, tokens, dim_k, dim_v, heads, .. } = call;
    let optional = |numbers: &'a [W], shape: [usize; 4]| {
        (!numbers.is_empty()).then(|| Tensor::contiguous(numbers, shape).unwrap())
    };
    RecurrentInputs {
        q: Tensor::contiguous(q, [batch, heads[0], tokens, dim_k]).unwrap(),
        k: Tensor::contiguous(k, [batch, heads[1], tokens, dim_k]).unwrap(),
        v: Tensor::contiguous(v, [batch, heads[2], tokens, dim_v]).unwrap(),
        log_decay: optional(log_decay, [batch, heads[3], tokens, call.decays()]),
        beta: optional(beta, [batch, heads[4], tokens, 1]),
        state: optional(state, [batch, call.states(), dim_k, dim_v]),
    }
}

/// Scratch full of NaN, to betray whoever reads what was not written.
pub(crate) fn soiled() -> Arena {
    let words = 1 << 18;
    let mut arena = Arena::new();
    arena.frame(regard_memory::Need::of::<f32>(words)).unwrap().take::<f32>(words).fill(f32::NAN);
    arena
}

/// Whether results are at most twice as far off as the plain method's, or as the floor.
pub(crate) fn judge(
    what: &str,
    isa: Isa,
    ours: &[f32],
    exact: &[f64],
    plain: &[f64],
    floor: f64,
) -> Result<(), TestCaseError> {
    within_twice_plain(ours, exact, largest_error(plain, exact), floor)
        .map_err(|problem| TestCaseError::fail(format!("{isa}, {what}: {problem}")))
}

pub(crate) fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|x| x.to_bits()).collect()
}

/// Some tokens of an array `[batch, heads, tokens, width]`.
pub(crate) fn some(numbers: &[f64], tokens: usize, width: usize, range: std::ops::Range<usize>) -> Vec<f64> {
    let heads = numbers.chunks((tokens * width).max(1));
    heads.flat_map(|head| head[range.start * width..range.end * width].to_vec()).collect()
}

/// The call of some tokens.
pub(crate) fn part(call: &Recurrence, range: std::ops::Range<usize>, state: Vec<f64>) -> Recurrence {
    let of = |numbers: &[f64], width| some(numbers, call.tokens, width, range.clone());
    Recurrence {
        tokens: range.len(),
        q: of(&call.q, call.dim_k),
        k: of(&call.k, call.dim_k),
        v: of(&call.v, call.dim_v),
        log_decay: of(&call.log_decay, call.decays()),
        beta: of(&call.beta, 1),
        state,
        ..call.clone()
    }
}

/// An array of normal numbers.
pub(crate) fn array(seed: u64, shape: (usize, usize, usize, usize)) -> Array4<f32> {
    let numbers = numbers(seed, shape.0 * shape.1 * shape.2 * shape.3);
    Array4::from_shape_vec(shape, numbers).unwrap()
}
