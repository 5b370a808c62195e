//! The whole of attention over `ndarray` views: a call, told of step by step.

use ndarray::{Array1, Array3, Array4, ArrayView3, ArrayView4, Axis};
use regard_masks::Mask;
use regard_memory::{Arena, Tensor, TensorMut};
use regard_threads::Pool;

use crate::array::vec_of;
use crate::{
    Differentiable, Error, Gradients, Inputs, Offset, Options, Outputs, Plan, Real, Sequences, Shape, Terms, Upstream,
};

/// A call of attention over arrays `[batch, heads, seq, dim]`, forward and backward.
///
/// For one call with a mask there is [`attention`](crate::attention); for many calls of one shape make a [`Plan`].
///
/// ```
/// use ndarray::Array4;
/// use regard_attention::Attention;
/// use regard_masks::Mask;
///
/// let element = |(b, h, i, c)| ((b * 7 + h * 5 + i * 3 + c) as f32).sin();
/// let q = Array4::from_shape_fn((2, 4, 10, 16), element);
/// let k = Array4::from_shape_fn((2, 2, 10, 16), element);
/// let v = Array4::from_shape_fn((2, 2, 10, 16), element);
///
/// // Causal, over a batch whose second entry has 7 keys; scores bent into (−30, 30); a sink for each head.
/// let lengths = [10, 7];
/// let call = Attention::new(q.view(), k.view(), v.view())
///     .mask(Mask::causal())
///     .lengths(&lengths, &lengths)
///     .softcap(30.0)
///     .sinks(&[0.1, 0.2, 0.3, 0.4]);
/// let (out, lse) = call.state()?;
///
/// // The gradients of `sum(out)`.
/// let ones = Array4::ones(out.dim());
/// let gradients = call.backward(out.view(), lse.view(), ones.view(), None)?;
/// assert_eq!(gradients.k.dim(), k.dim());
/// assert!(gradients.sinks.is_some_and(|sinks| sinks.len() == 4));
/// # Ok::<(), regard_attention::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Attention<'a, T: Real> {
    q: ArrayView4<'a, T>,
    k: ArrayView4<'a, T>,
    v: ArrayView4<'a, T>,
    mask: Mask,
    options: Options,
    bias: Option<ArrayView4<'a, T::Wide>>,
    slopes: Option<&'a [T::Wide]>,
    sinks: Option<&'a [T::Wide]>,
    sequence_ids: Option<&'a [u64]>,
}

/// A result `[batch, heads, queries, dim_v]` and its log-sum-exp `[batch, heads, queries]`.
pub type StateArrays<W> = (Array4<W>, Array3<W>);

/// The gradients of a call, in the shapes of what they are of; in f64 those of a call in f64, else in f32.
#[derive(Clone, Debug, PartialEq)]
pub struct GradientArrays<W = f32> {
    /// `[batch, heads, queries, dim_k]`.
    pub q: Array4<W>,
    /// `[batch, kv_heads, keys, dim_k]`.
    pub k: Array4<W>,
    /// `[batch, kv_heads, keys, dim_v]`.
    pub v: Array4<W>,
    /// In the shape of the bias, where there is one.
    pub bias: Option<Array4<W>>,
    /// `[heads]`, where there are sinks.
    pub sinks: Option<Array1<W>>,
}

impl<'a, T: Real> Attention<'a, T> {
    /// Attention of `q [batch, heads, queries, dim_k]` over `k [batch, kv_heads, keys, dim_k]` and
    /// `v [batch, kv_heads, keys, dim_v]`, of every pair.
    pub fn new(q: ArrayView4<'a, T>, k: ArrayView4<'a, T>, v: ArrayView4<'a, T>) -> Self {
        Attention {
            q,
            k,
            v,
            mask: Mask::full(),
            options: Options::default(),
            bias: None,
            slopes: None,
            sinks: None,
            sequence_ids: None,
        }
    }

    /// Only the pairs of this mask.
    #[must_use]
    pub fn mask(mut self, mask: Mask) -> Self {
        self.mask = mask;
        self
    }

    /// Scores are multiplied by this; by `1/√dim_k` unless given.
    #[must_use]
    pub fn scale(mut self, scale: f64) -> Self {
        self.options.scale = Some(scale);
        self
    }

    /// Scores are bent into `(−cap, cap)`.
    #[must_use]
    pub fn softcap(mut self, cap: f64) -> Self {
        self.options.softcap = Some(cap);
        self
    }

    /// Added to the scores: `[batch or 1, heads or 1, queries or 1, keys or 1]`; −∞ masks.
    #[must_use]
    pub fn bias(mut self, bias: ArrayView4<'a, T::Wide>) -> Self {
        self.bias = Some(bias);
        self
    }

    /// ALiBi: a slope for each head, by which scores fall with each position between query and key.
    #[must_use]
    pub fn alibi(mut self, slopes: &'a [T::Wide]) -> Self {
        self.slopes = Some(slopes);
        self
    }

    /// A logit for each head that joins its rows' denominators and has no value.
    #[must_use]
    pub fn sinks(mut self, sinks: &'a [T::Wide]) -> Self {
        self.sinks = Some(sinks);
        self
    }

    /// The real queries and keys of each batch entry, from its first on.
    #[must_use]
    pub fn lengths(mut self, queries: &[usize], keys: &[usize]) -> Self {
        self.options.sequences = Sequences::Lengths { queries: Some(queries.to_vec()), keys: Some(keys.to_vec()) };
        self
    }

    /// Which queries and keys are real, and belong together.
    #[must_use]
    pub fn sequences(mut self, sequences: Sequences) -> Self {
        self.options.sequences = sequences;
        self
    }

    /// Where queries stand among the keys; the last query at the last key unless given.
    #[must_use]
    pub fn offset(mut self, offset: Offset) -> Self {
        self.options.offset = offset;
        self
    }

    /// Weights fall with a probability, in training; `sequence_ids` are the numbers that the sequences are known by, 0, 1,
    /// 2 … unless given.
    #[must_use]
    pub fn dropout(mut self, probability: f32, seed: u64, sequence_ids: Option<&'a [u64]>) -> Self {
        self.options.dropout = Some(crate::Dropout { probability, seed });
        self.sequence_ids = sequence_ids;
        self
    }

    /// The result, `[batch, heads, queries, dim_v]`.
    ///
    /// # Errors
    /// The shapes do not fit, a view runs backwards or is not contiguous in `dim`, or an option is out of its range.
    pub fn run(&self) -> Result<Array4<T>, Error> {
        let (plan, inputs) = self.prepare()?;
        let Shape { batch, heads, queries, dim_v, .. } = plan.shape();
        let mut out = vec_of("out", [batch, heads, queries, dim_v], T::default())?;
        let outputs = Outputs::new(TensorMut::contiguous(&mut out, [batch, heads, queries, dim_v])?);
        T::run(&plan, &inputs, outputs, &mut Arena::new(), Pool::global())?;
        Ok(array4(out, [batch, heads, queries, dim_v]))
    }

    /// The result in f32, or of a call in f64 in that, and its log-sum-exp `[batch, heads, queries]`: a state, ready to be
    /// merged with that over other keys.
    ///
    /// # Errors
    /// As [`Attention::run`].
    pub fn state(&self) -> Result<StateArrays<T::Wide>, Error> {
        let (plan, inputs) = self.prepare()?;
        let Shape { batch, heads, queries, dim_v, .. } = plan.shape();
        let mut out = vec_of("out", [batch, heads, queries, dim_v], T::Wide::default())?;
        let mut lse = vec_of("lse", [batch, heads, queries, 1], T::Wide::default())?;
        let outputs = Outputs::state(
            TensorMut::contiguous(&mut out, [batch, heads, queries, dim_v])?,
            TensorMut::contiguous(&mut lse, [batch, heads, queries, 1])?,
        );
        T::run_wide(&plan, &inputs, outputs, &mut Arena::new(), Pool::global())?;
        let lse = Array3::from_shape_vec((batch, heads, queries), lse).expect("the vector was made for the shape");
        Ok((array4(out, [batch, heads, queries, dim_v]), lse))
    }

    /// The plan of the call.
    ///
    /// # Errors
    /// As [`Attention::run`].
    pub fn plan(&self) -> Result<Plan, Error> {
        Ok(self.prepare()?.0)
    }

    fn prepare(&self) -> Result<(Plan, Inputs<'_, T, T::Wide>), Error> {
        let (q, k, v) =
            (tensor("queries", self.q.view())?, tensor("keys", self.k.view())?, tensor("values", self.v.view())?);
        let bias = match &self.bias {
            Some(bias) => Some(tensor("bias", bias.view())?),
            None => None,
        };
        let plan = Plan::new(Shape::of(&q, &k, &v)?, &self.mask, &self.options)?;
        let terms = Terms { bias, slopes: self.slopes, sinks: self.sinks, sequence_ids: self.sequence_ids };
        Ok((plan, Inputs { q, k, v, terms }))
    }
}

impl<T: Differentiable> Attention<'_, T> {
    /// The gradients of everything that went in, from a result of this call with its log-sum-exp, and the gradients that
    /// flow back into both.
    ///
    /// # Errors
    /// As [`Attention::run`].
    pub fn backward<O: Differentiable>(
        &self,
        out: ArrayView4<'_, O>,
        lse: ArrayView3<'_, f32>,
        out_gradient: ArrayView4<'_, O>,
        lse_gradient: Option<ArrayView3<'_, f32>>,
    ) -> Result<GradientArrays, Error> {
        let (plan, inputs) = self.prepare()?;
        let upstream = upstream(out, lse, out_gradient, lse_gradient)?;
        upstream.check(plan.shape())?;
        let mut gradients = GradientArrays::zeros(&inputs)?;
        plan.backward(&inputs, &upstream, gradients.as_views()?, &mut Arena::new(), Pool::global())?;
        Ok(gradients)
    }
}

impl Attention<'_, f64> {
    /// The gradients of everything that went in, from the result of this call with its log-sum-exp, and the gradients that
    /// flow back into both.
    ///
    /// # Errors
    /// As [`Attention::run`].
    pub fn backward(
        &self,
        out: ArrayView4<'_, f64>,
        lse: ArrayView3<'_, f64>,
        out_gradient: ArrayView4<'_, f64>,
        lse_gradient: Option<ArrayView3<'_, f64>>,
    ) -> Result<GradientArrays<f64>, Error> {
        let (plan, inputs) = self.prepare()?;
        let upstream = upstream(out, lse, out_gradient, lse_gradient)?;
        upstream.check(plan.shape())?;
        let mut gradients = GradientArrays::zeros(&inputs)?;
        plan.backward_f64(&inputs, &upstream, gradients.as_views()?, Pool::global())?;
        Ok(gradients)
    }
}

impl<W: Copy + Default> GradientArrays<W> {
    fn zeros<T>(inputs: &Inputs<'_, T, W>) -> Result<Self, Error> {
        let zeros = |what, shape| Ok::<_, Error>(array4(vec_of(what, shape, W::default())?, shape));
        Ok(GradientArrays {
            q: zeros("gradient of queries", inputs.q.shape())?,
            k: zeros("gradient of keys", inputs.k.shape())?,
            v: zeros("gradient of values", inputs.v.shape())?,
            bias: inputs.terms.bias.map(|bias| zeros("gradient of the bias", bias.shape())).transpose()?,
            sinks: inputs.terms.sinks.map(|sinks| Array1::from_elem(sinks.len(), W::default())),
        })
    }

    fn as_views(&mut self) -> Result<Gradients<'_, W, W>, Error> {
        let bias = self.bias.as_mut().map(|bias| TensorMut::try_from(bias.view_mut())).transpose()?;
        let sinks = self.sinks.as_mut().and_then(|sinks| sinks.as_slice_mut());
        let [q, k, v] = [&mut self.q, &mut self.k, &mut self.v].map(|array| TensorMut::try_from(array.view_mut()));
        Ok(Gradients { bias, sinks, ..Gradients::new(q?, k?, v?) })
    }
}

fn upstream<'a, O, W>(
    out: ArrayView4<'a, O>,
    lse: ArrayView3<'a, W>,
    out_gradient: ArrayView4<'a, O>,
    lse_gradient: Option<ArrayView3<'a, W>>,
) -> Result<Upstream<'a, O, W>, Error> {
    let column = |name, array: ArrayView3<'a, W>| tensor(name, array.insert_axis(Axis(3)));
    Ok(Upstream {
        out: tensor("out", out)?,
        lse: column("lse", lse)?,
        out_gradient: tensor("out gradient", out_gradient)?,
        lse_gradient: lse_gradient.map(|gradient| column("lse gradient", gradient)).transpose()?,
    })
}

fn tensor<'a, T>(name: &'static str, array: ArrayView4<'a, T>) -> Result<Tensor<'a, T>, Error> {
    Ok(Tensor::try_from(array).map_err(|error: regard_memory::Error| error.named(name))?)
}

fn array4<T>(numbers: Vec<T>, [a, b, c, d]: [usize; 4]) -> Array4<T> {
    Array4::from_shape_vec((a, b, c, d), numbers).expect("the vector was made for the shape")
}
