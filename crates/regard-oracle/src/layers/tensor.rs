//! Numbers with a shape, and tensors with names.

use std::collections::BTreeMap;
use std::ops::{Index, IndexMut};

/// Numbers with a shape, without gaps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tensor {
    /// Lengths of the axes, the last of which is the fastest.
    pub shape: Vec<usize>,
    /// The numbers.
    pub values: Vec<f64>,
}

impl Tensor {
    /// These numbers in this shape.
    ///
    /// # Panics
    /// Panics where there are more or fewer of them than the shape holds.
    pub fn new(shape: &[usize], values: Vec<f64>) -> Tensor {
        assert_eq!(shape.iter().product::<usize>(), values.len(), "numbers of {shape:?}");
        Tensor { shape: shape.to_vec(), values }
    }

    /// The length of the last axis.
    pub fn width(&self) -> usize {
        *self.shape.last().expect("an axis")
    }

    /// What lies along the last axis, piece by piece.
    pub fn rows(&self) -> impl Iterator<Item = &[f64]> {
        self.values.chunks(self.width())
    }

    /// Of every row another one, all of one length.
    pub fn by_row(&self, width: usize, row: impl FnMut(&[f64]) -> Vec<f64>) -> Tensor {
        let mut shape = self.shape.clone();
        *shape.last_mut().expect("an axis") = width;
        Tensor::new(&shape, self.rows().flat_map(row).collect())
    }

    /// The same numbers in another shape.
    pub fn reshaped(&self, shape: &[usize]) -> Tensor {
        Tensor::new(shape, self.values.clone())
    }

    /// What index `at` of the first axis holds.
    pub fn part(&self, at: usize) -> Tensor {
        let (count, shape) = (self.shape[0], &self.shape[1..]);
        assert!(at < count, "part {at} of {:?}", self.shape);
        let len = shape.iter().product();
        Tensor::new(shape, self.values[at * len..][..len].to_vec())
    }

    /// Of two tensors of one shape a third, number by number.
    pub fn with(&self, other: &Tensor, number: impl Fn(f64, f64) -> f64) -> Tensor {
        assert_eq!(self.shape, other.shape);
        Tensor::new(&self.shape, self.values.iter().zip(&other.values).map(|(&a, &b)| number(a, b)).collect())
    }

    /// `self + other`.
    pub fn plus(&self, other: &Tensor) -> Tensor {
        self.with(other, |a, b| a + b)
    }

    /// `Σ self·other`: of an output and its gradient, what gradients are taken of.
    pub fn dot(&self, other: &Tensor) -> f64 {
        self.with(other, |a, b| a * b).values.iter().sum()
    }
}

/// Tensors with names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tensors(BTreeMap<String, Tensor>);

impl Tensors {
    /// The one with this name, if there is any.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.0.get(name)
    }

    /// These and one more.
    pub fn and(mut self, name: &str, tensor: Tensor) -> Tensors {
        self.0.insert(name.to_owned(), tensor);
        self
    }

    /// Those whose names begin so, without this beginning.
    pub fn under(&self, prefix: &str) -> Tensors {
        self.iter().filter_map(|(name, tensor)| Some((name.strip_prefix(prefix)?, tensor.clone()))).collect()
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.0.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }
}

/// # Panics
/// Panics where there is none.
impl Index<&str> for Tensors {
    type Output = Tensor;

    fn index(&self, name: &str) -> &Tensor {
        self.get(name).unwrap_or_else(|| panic!("no tensor `{name}`"))
    }
}

impl IndexMut<&str> for Tensors {
    fn index_mut(&mut self, name: &str) -> &mut Tensor {
        self.0.get_mut(name).unwrap_or_else(|| panic!("no tensor `{name}`"))
    }
}

impl<N: Into<String>> FromIterator<(N, Tensor)> for Tensors {
    fn from_iter<I: IntoIterator<Item = (N, Tensor)>>(named: I) -> Tensors {
        Tensors(named.into_iter().map(|(name, tensor)| (name.into(), tensor)).collect())
    }
}
