//! The oracle's problems as calls of the engine.

use std::fmt;

use regard_attention::{
    Crossovers, Dropout, Gradients, Inputs, Offset, Options, Outputs, Plan, Segment, Sequences, Shape, Terms, Upstream,
};
use regard_kernels::DropoutRow;
use regard_oracle::{Pair, Problem, Sequence, Sizes};
use regard_simd::Isa;
use regard_threads::Pool;

use super::{Order, Outcome, Results, Slopes, Stored, Strided, mask, pool, soiled};

/// The seed of every problem's dropout.
pub(crate) const SEED: u64 = 0x5EED;

/// An instruction set, and whether sequences go by their edges whatever their masks keep.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    pub(crate) isa: Isa,
    pub(crate) edges: bool,
}

impl Way {
    /// Both on every instruction set.
    pub(crate) fn all() -> impl Iterator<Item = Way> {
        Isa::available().flat_map(|isa| [false, true].map(|edges| Way { isa, edges }))
    }
}

impl From<Isa> for Way {
    fn from(isa: Isa) -> Way {
        Way { isa, edges: false }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.isa, if self.edges { ", by edges" } else { "" })
    }
}

/// A problem that the engine is asked, and how.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) problem: &'a Problem,
    pub(crate) isa: Isa,
    pub(crate) pool: &'a Pool,
    /// How queries, keys, values, out and lse lie in memory; so do the gradients of each, and the bias as the queries do.
    pub(crate) orders: [Order; 5],
    /// The numbers that dropout knows the sequences by.
    pub(crate) ids: Option<&'a [u64]>,
    pub(crate) crossovers: Crossovers,
}

impl<'a> Asked<'a> {
    /// On two threads, through tensors without gaps.
    pub(crate) fn new(problem: &'a Problem, way: impl Into<Way>) -> Asked<'a> {
        let (Way { isa, edges }, chosen) = (way.into(), Crossovers::default());
        Asked {
            problem,
            isa,
            pool: pool(),
            orders: [Order::CONTIGUOUS; 5],
            ids: None,
            crossovers: Crossovers { edge: if edges { 0.0 } else { chosen.edge }, ..chosen },
        }
    }

    pub(crate) fn shape(&self) -> Shape {
        shape_of(self.problem.sizes)
    }

    /// In the fewest words that say the same.
    pub(crate) fn options(&self) -> Options {
        let Problem { sequences, scale, softcap, dropout, .. } = self.problem;
        Options {
            scale: scale.map(f64::from),
            softcap: softcap.map(f64::from),
            dropout: dropout.map(|probability| Dropout { probability, seed: SEED }),
            sequences: in_words(self.problem.sizes, sequences),
            offset: offset_in_words(sequences),
            isa: Some(self.isa),
            crossovers: self.crossovers,
        }
    }

    pub(crate) fn plan(&self) -> Plan {
        Plan::new(self.shape(), &mask(&self.problem.set), &self.options()).expect("a plan")
    }

    /// The forward pass, with results of another type than the inputs or of the same.
    pub(crate) fn run<T: Stored, O: Stored>(&self) -> Outcome {
        let (sizes, [.., of_out, of_lse]) = (self.problem.sizes, self.orders);
        let (mut out, mut lse) = (Strided::<O>::blank(sizes.out(), of_out), Strided::<f32>::blank(sizes.lse(), of_lse));
        let outputs = Outputs::state(out.view_mut(), lse.view_mut());
        self.with_inputs::<T, _>(|inputs| self.plan().run(inputs, outputs, &mut soiled(), self.pool)).expect("a run");
        Outcome { out: out.gather(), lse: lse.gather() }
    }

    /// The gradients, from the results of a forward pass, in another type than the inputs or in the same. Nothing flows into
    /// the log-sum-exp of a problem without such numbers.
    pub(crate) fn backward<T: Stored, G: Stored>(&self, outcome: &Outcome) -> Slopes {
        let (problem, sizes, [of_q, of_k, of_v, of_out, of_lse]) = (self.problem, self.problem.sizes, self.orders);
        let [out, dout] = [&outcome.out, &problem.dout].map(|x| Strided::<T>::new(x, sizes.out(), of_out));
        let lse = Strided::<f32>::new(&outcome.lse, sizes.lse(), of_lse);
        let dlse = (!problem.dlse.is_empty()).then(|| Strided::<f32>::new(&problem.dlse, sizes.lse(), of_lse));
        let mut dq = Strided::<G>::blank(sizes.q(), of_q);
        let mut dk = Strided::<G>::blank(sizes.k(), of_k);
        let mut dv = Strided::<G>::blank(sizes.v(), of_v);
        let mut dbias = problem.bias.as_ref().map(|(shape, _)| Strided::<f32>::blank(*shape, of_q));
        let mut dsinks = problem.sinks.as_ref().map(|sinks| vec![f32::NAN; sinks.len()]);
        let upstream = Upstream {
            out: out.view(),
            lse: lse.view(),
            out_gradient: dout.view(),
            lse_gradient: dlse.as_ref().map(Strided::view),
        };
        let gradients = Gradients {
            q: dq.view_mut(),
            k: dk.view_mut(),
            v: dv.view_mut(),
            bias: dbias.as_mut().map(Strided::view_mut),
            sinks: dsinks.as_deref_mut(),
        };
        self.with_inputs::<T, _>(|inputs| {
            self.plan().backward(inputs, &upstream, gradients, &mut soiled(), self.pool).expect("a run");
        });
        let dbias = dbias.map_or(vec![], Strided::gather);
        Slopes { dq: dq.gather(), dk: dk.gather(), dv: dv.gather(), dbias, dsinks: dsinks.unwrap_or_default() }
    }

    /// Both passes in one type.
    pub(crate) fn results<T: Stored>(&self) -> Results {
        let outcome = self.run::<T, T>();
        let slopes = self.backward::<T, T>(&outcome);
        Results { outcome, slopes }
    }

    fn with_inputs<T: Stored, R>(&self, ask: impl FnOnce(&Inputs<'_, T>) -> R) -> R {
        let (Problem { sizes, q, k, v, bias, slopes, sinks, .. }, [of_q, of_k, of_v, ..]) = (self.problem, self.orders);
        let q = Strided::<T>::new(q, sizes.q(), of_q);
        let k = Strided::<T>::new(k, sizes.k(), of_k);
        let v = Strided::<T>::new(v, sizes.v(), of_v);
        let bias = bias.as_ref().map(|(shape, x)| Strided::<f32>::new(x, *shape, of_q));
        let bias = bias.as_ref().map(Strided::view);
        let terms = Terms { bias, slopes: slopes.as_deref(), sinks: sinks.as_deref(), sequence_ids: self.ids };
        ask(&Inputs { terms, ..Inputs::new(q.view(), k.view(), v.view()) })
    }
}

/// The oracle's sizes as the engine's.
pub(crate) fn shape_of(sizes: Sizes) -> Shape {
    let Sizes { batch, heads, kv_heads, queries, keys, dim_k, dim_v } = sizes;
    Shape { batch, heads, kv_heads, queries, keys, dim_k, dim_v }
}

/// Whether dropout keeps a weight of a problem whose sequences have no numbers of their own.
pub(crate) fn keeps(problem: &Problem, pair: &Pair) -> bool {
    let probability = problem.dropout.unwrap_or(0.0);
    DropoutRow::new(SEED, pair.sequence as u64, pair.head as u64, pair.i as u64, probability).keeps(pair.j as u32)
}

/// Whole batch entries, or the beginnings of all, or whatever it is.
fn in_words(sizes: Sizes, sequences: &[Sequence]) -> Sequences {
    let begins = |(entry, of): (usize, &Sequence)| (of.batch, of.queries.start, of.keys.start) == (entry, 0, 0);
    if sequences.len() != sizes.batch || !sequences.iter().enumerate().all(begins) {
        let segment = |of: &Sequence| Segment { batch: of.batch, queries: of.queries.clone(), keys: of.keys.clone() };
        return Sequences::Packed(sequences.iter().map(segment).collect());
    }
    let lengths = |whole: usize, length: fn(&Sequence) -> usize| {
        let lengths: Vec<usize> = sequences.iter().map(length).collect();
        lengths.iter().any(|&length| length != whole).then_some(lengths)
    };
    match (lengths(sizes.queries, |of| of.queries.len()), lengths(sizes.keys, |of| of.keys.len())) {
        (None, None) => Sequences::Whole,
        (queries, keys) => Sequences::Lengths { queries, keys },
    }
}

/// The last query at the last key, or all at one offset, or each at its own.
fn offset_in_words(sequences: &[Sequence]) -> Offset {
    let at_end = |of: &Sequence| of.offset == of.keys.len() as i64 - of.queries.len() as i64;
    if sequences.iter().all(at_end) {
        return Offset::AtEnd;
    }
    let offsets: Vec<i64> = sequences.iter().map(|of| of.offset).collect();
    match offsets.iter().all(|&offset| offset == offsets[0]) {
        true => Offset::Same(offsets[0]),
        false => Offset::Each(offsets),
    }
}
