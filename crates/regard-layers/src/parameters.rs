//! What layers learn: named tensors that lie in one buffer.

use std::collections::BTreeMap;
use std::ops::Range;

use ndarray::{ArrayViewD, ArrayViewMutD, IxDyn};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardNormal, Uniform};
use regard_memory::{AlignedBuffer, LINE};

use crate::Error;

/// Numbers of a line: each tensor begins on one of its own.
const STEP: usize = LINE / size_of::<f32>();

/// The parameters of a model: tensors known by names, all in one buffer, so that what is done to all of them (a step of an
/// optimiser, a norm, a copy) is one loop.
///
/// Layers are made in a [`Scope`] of them, and keep [`Parameter`]s: where theirs lie. Initial numbers depend on the seed and
/// on a tensor's name alone, not on what was made before it.
///
/// ```
/// use regard_layers::{Bias, Linear, Parameters};
///
/// let mut parameters = Parameters::new(7);
/// let layer = Linear::new(&mut parameters.scope("head"), 8, 3, Bias::Learned)?;
/// assert_eq!(parameters.names().collect::<Vec<_>>(), ["head.weight", "head.bias"]);
/// assert_eq!(parameters.get("head.weight").unwrap().shape(), [3, 8]);
/// # let _ = layer;
/// # Ok::<(), regard_layers::Error>(())
/// ```
#[derive(Debug)]
pub struct Parameters {
    seed: u64,
    entries: Vec<Entry>,
    by_name: BTreeMap<String, usize>,
    values: AlignedBuffer<f32>,
}

/// One tensor.
#[derive(Clone, Debug)]
struct Entry {
    name: String,
    shape: Vec<usize>,
    place: Parameter,
    initial: Initial,
    kind: Kind,
}

/// What a tensor is, be its shape what it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Decays.
    Matrix,
    /// Does not: a norm, a bias, a gate.
    Vector,
}

/// Where a tensor lies among [`Parameters`], and among [`Gradients`] of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameter {
    start: usize,
    len: usize,
}

impl Parameter {
    /// A part of it.
    pub(crate) fn part(self, range: Range<usize>) -> Parameter {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {} numbers", self.len);
        Parameter { start: self.start + range.start, len: range.len() }
    }

    /// Its numbers.
    pub(crate) fn range(self) -> Range<usize> {
        self.start..self.start + self.len
    }
}

/// What a tensor's numbers are before anything is learned.
#[derive(Clone, Copy, Debug)]
pub enum Initial {
    /// All the same.
    Constant(f32),
    /// Normal, with this standard deviation.
    Normal(f32),
    /// Uniform between the negative of this and this.
    Uniform(f32),
    /// A function of a number's place, and of how many there are.
    Function(fn(usize, usize) -> f32),
}

impl Initial {
    /// Glorot and Bengio, 2010, equation 16: uniform within `√(6 / (inputs + outputs))`.
    pub fn xavier(inputs: usize, outputs: usize) -> Initial {
        Initial::Uniform((6.0 / (inputs + outputs).max(1) as f32).sqrt())
    }

    /// Uniform within `1/√inputs`, as PyTorch begins linear layers.
    pub fn of_inputs(inputs: usize) -> Initial {
        Initial::Uniform(1.0 / (inputs.max(1) as f32).sqrt())
    }

    fn fill(self, values: &mut [f32], random: &mut ChaCha8Rng) {
        match self {
            Initial::Constant(value) => values.fill(value),
            Initial::Function(of) => {
                let count = values.len();
                values.iter_mut().enumerate().for_each(|(i, value)| *value = of(i, count));
            }
            Initial::Normal(deviation) => {
                let normal = |random: &mut ChaCha8Rng| -> f32 { StandardNormal.sample(random) };
                values.iter_mut().for_each(|value| *value = deviation * normal(random));
            }
            Initial::Uniform(bound) => {
                let unit = Uniform::new_inclusive(-1.0f32, 1.0).expect("an interval that is not empty");
                values.iter_mut().for_each(|value| *value = bound * unit.sample(random));
            }
        }
    }
}

impl Parameters {
    /// No parameters yet; those that will be are drawn by this seed.
    pub fn new(seed: u64) -> Parameters {
        Parameters { seed, entries: Vec::new(), by_name: BTreeMap::new(), values: AlignedBuffer::new() }
    }

    /// Where names begin with `name.`.
    pub fn scope(&mut self, name: &str) -> Scope<'_> {
        Scope { parameters: self, prefix: format!("{name}.") }
    }

    /// Where names begin with nothing.
    pub fn root(&mut self) -> Scope<'_> {
        Scope { parameters: self, prefix: String::new() }
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The names, in the order of their making.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| entry.name.as_str())
    }

    /// How many numbers are learned.
    pub fn count(&self) -> usize {
        self.entries.iter().map(|entry| entry.place.len).sum()
    }

    /// A tensor by name.
    pub fn get(&self, name: &str) -> Option<ArrayViewD<'_, f32>> {
        let entry = &self.entries[*self.by_name.get(name)?];
        Some(view(&entry.shape, &self.values[entry.place.range()]))
    }

    /// A tensor by name, to be written.
    pub fn get_mut(&mut self, name: &str) -> Option<ArrayViewMutD<'_, f32>> {
        let entry = &self.entries[*self.by_name.get(name)?];
        let values = &mut self.values[entry.place.range()];
        Some(ArrayViewMutD::from_shape(IxDyn(&entry.shape), values).expect("a tensor has as many numbers as its shape"))
    }

    /// The numbers of a tensor.
    ///
    /// # Panics
    /// The place is one of other parameters, and beyond these.
    pub fn of(&self, parameter: Parameter) -> &[f32] {
        &self.values[parameter.range()]
    }

    /// All numbers; between tensors stand zeros up to the next line.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// All numbers, to be written.
    pub fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }

    /// Draws all numbers again, as they were at first.
    pub fn reset(&mut self) {
        for entry in &self.entries {
            entry.initial.fill(&mut self.values[entry.place.range()], &mut random(self.seed, &entry.name));
        }
    }

    /// Names with their shapes and places, in the order of their making.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&str, &[usize], Parameter)> {
        self.entries.iter().map(|entry| (entry.name.as_str(), &entry.shape[..], entry.place))
    }

    /// The places of all tensors, and what each is.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = (Range<usize>, Kind)> {
        self.entries.iter().map(|entry| (entry.place.range(), entry.kind))
    }

    fn add(&mut self, name: String, shape: &[usize], initial: Initial, kind: Kind) -> Result<Parameter, Error> {
        if self.by_name.contains_key(&name) {
            return Err(Error::Name { name, problem: "is taken: every tensor has a name of its own" });
        }
        let len = shape.iter().try_fold(1usize, |len, &size| len.checked_mul(size));
        let end = len.and_then(|len| self.values.len().checked_add(len)?.checked_next_multiple_of(STEP));
        let (Some(len), Some(end)) = (len, end) else {
            return Err(Error::Memory(regard_memory::Error::Overflow { what: "parameters" }));
        };
        let place = Parameter { start: self.values.len(), len };
        self.values.resize(end)?;
        initial.fill(&mut self.values[place.range()], &mut random(self.seed, &name));
        self.by_name.insert(name.clone(), self.entries.len());
        self.entries.push(Entry { name, shape: shape.to_vec(), place, initial, kind });
        Ok(place)
    }
}

fn view<'a>(shape: &[usize], values: &'a [f32]) -> ArrayViewD<'a, f32> {
    ArrayViewD::from_shape(IxDyn(shape), values).expect("a tensor has as many numbers as its shape")
}

/// The generator of a tensor's first numbers: a stream of the seed's, numbered by the name (FNV-1a).
fn random(seed: u64, name: &str) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(name_number(name));
    random
}

/// A number for a name (FNV-1a, 64 bits).
pub(crate) fn name_number(name: &str) -> u64 {
    name.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}

/// Where a layer makes its parameters: [`Parameters`], and what the names begin with.
#[derive(Debug)]
pub struct Scope<'p> {
    parameters: &'p mut Parameters,
    prefix: String,
}

impl Scope<'_> {
    /// The scope of a part: names begin with `name.` behind what they begin with here.
    pub fn scope(&mut self, name: &str) -> Scope<'_> {
        Scope { prefix: format!("{}{name}.", self.prefix), parameters: self.parameters }
    }

    /// A new matrix, or several: an optimiser lets its numbers decay.
    ///
    /// # Errors
    /// [`Error::Name`] if there is one of this name; [`Error::Memory`] if there is no memory for it.
    pub fn add(&mut self, name: &str, shape: &[usize], initial: Initial) -> Result<Parameter, Error> {
        self.parameters.add(format!("{}{name}", self.prefix), shape, initial, Kind::Matrix)
    }

    /// A new vector, or several: what is added to rows or scales them (biases, norms, gates), in whatever shape. Its numbers do not
    /// decay.
    ///
    /// # Errors
    /// As [`Scope::add`].
    pub fn add_vector(&mut self, name: &str, shape: &[usize], initial: Initial) -> Result<Parameter, Error> {
        self.parameters.add(format!("{}{name}", self.prefix), shape, initial, Kind::Vector)
    }

    /// A seed that depends on that of the parameters and on where this is: for what a layer draws beside them.
    pub fn seed(&self) -> u64 {
        self.parameters.seed ^ name_number(&self.prefix)
    }
}

/// The gradients of [`Parameters`], in the same places.
#[derive(Debug)]
pub struct Gradients {
    values: AlignedBuffer<f32>,
}

impl Gradients {
    /// Zeros for these parameters.
    ///
    /// # Errors
    /// There is no memory for them.
    pub fn new(parameters: &Parameters) -> Result<Gradients, Error> {
        Ok(Gradients { values: AlignedBuffer::zeroed(parameters.values.len())? })
    }

    /// Makes all of them 0.
    pub fn clear(&mut self) {
        self.values.fill(0.0);
    }

    /// Those of a tensor.
    ///
    /// # Panics
    /// The place is one of other parameters, and beyond these.
    pub fn of(&self, parameter: Parameter) -> &[f32] {
        &self.values[parameter.range()]
    }

    /// Those of a tensor, to be added to.
    ///
    /// # Panics
    /// As [`Gradients::of`].
    pub fn of_mut(&mut self, parameter: Parameter) -> &mut [f32] {
        &mut self.values[parameter.range()]
    }

    /// Those of a tensor by its name among `parameters`.
    pub fn get<'a>(&'a self, parameters: &Parameters, name: &str) -> Option<ArrayViewD<'a, f32>> {
        let entry = &parameters.entries[*parameters.by_name.get(name)?];
        Some(view(&entry.shape, self.values.get(entry.place.range())?))
    }

    /// All of them; those between tensors are 0.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// All of them, to be written.
    pub fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }
}
