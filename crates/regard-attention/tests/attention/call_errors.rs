//! Tensors and lists that do not fit the plan: each is refused by name, in both passes, before anything is written.

use regard_attention::{
    Dropout, Error, Gradients, Inputs, Options, Outputs, Plan, Segment, Sequences, Shape, Terms, Upstream,
};
use regard_masks::Mask;
use regard_memory::{Arena, Tensor, TensorMut};
use regard_oracle::numbers;

use crate::support::pool;

const SHAPE: Shape = Shape { batch: 2, heads: 4, kv_heads: 2, queries: 5, keys: 7, dim_k: 8, dim_v: 3 };
const AXES: [&str; 4] = ["batch", "heads", "seq", "dim"];

/// What stands where something is to be written.
const BEFORE: f32 = -7.25;

/// The shapes of a call's tensors, and the lengths of its lists.
#[derive(Clone)]
struct Given {
    q: [usize; 4],
    k: [usize; 4],
    v: [usize; 4],
    bias: [usize; 4],
    slopes: usize,
    sinks: usize,
    ids: usize,
    out: [usize; 4],
    lse: [usize; 4],
    dout: [usize; 4],
    dlse: [usize; 4],
    dq: [usize; 4],
    dk: [usize; 4],
    dv: [usize; 4],
    dbias: [usize; 4],
    dsinks: usize,
}

/// All that fits.
fn fitting() -> Given {
    let (q, k, v, out, lse) = ([2, 4, 5, 8], [2, 2, 7, 8], [2, 2, 7, 3], [2, 4, 5, 3], [2, 4, 5, 1]);
    let bias = [2, 4, 5, 7];
    let (slopes, sinks, ids, dsinks) = (4, 4, 2, 4);
    Given {
        q,
        k,
        v,
        bias,
        slopes,
        sinks,
        ids,
        out,
        lse,
        dout: out,
        dlse: lse,
        dq: q,
        dk: k,
        dv: v,
        dbias: bias,
        dsinks,
    }
}

impl Given {
    /// Runs a pass, and sees that nothing is written where it is refused.
    fn pass(&self, backward: bool) -> Result<(), Error> {
        let options = Options { dropout: Some(Dropout { probability: 0.5, seed: 1 }), ..Options::default() };
        let plan = Plan::new(SHAPE, &Mask::causal(), &options)?;
        let given = |shape: [usize; 4]| numbers(1, shape.iter().product());
        let blank = |shape: [usize; 4]| vec![BEFORE; shape.iter().product()];
        let [q, k, v, bias, out, lse, dout, dlse] =
            [self.q, self.k, self.v, self.bias, self.out, self.lse, self.dout, self.dlse].map(given);
        let (slopes, sinks) = (numbers(2, self.slopes), numbers(3, self.sinks));
        let ids = vec![5; self.ids];
        let terms = Terms {
            bias: Some(Tensor::contiguous(&bias, self.bias)?),
            slopes: Some(&slopes),
            sinks: Some(&sinks),
            sequence_ids: Some(&ids),
        };
        let [q, k] = [(&q, self.q), (&k, self.k)].map(|(x, shape)| Tensor::contiguous(x, shape).expect("a tensor"));
        let inputs = Inputs { terms, ..Inputs::new(q, k, Tensor::contiguous(&v, self.v)?) };
        let mut written: Vec<Vec<f32>> = [self.out, self.lse, self.dq, self.dk, self.dv, self.dbias].map(blank).into();
        let mut dsinks = vec![BEFORE; self.dsinks];
        let [to_out, to_lse, dq, dk, dv, dbias] = &mut written[..] else { unreachable!("six were made") };
        let result = if backward {
            let upstream = Upstream {
                out: Tensor::contiguous(&out, self.out)?,
                lse: Tensor::contiguous(&lse, self.lse)?,
                out_gradient: Tensor::contiguous(&dout, self.dout)?,
                lse_gradient: Some(Tensor::contiguous(&dlse, self.dlse)?),
            };
            let gradients = Gradients {
                q: TensorMut::contiguous(dq, self.dq)?,
                k: TensorMut::contiguous(dk, self.dk)?,
                v: TensorMut::contiguous(dv, self.dv)?,
                bias: Some(TensorMut::contiguous(dbias, self.dbias)?),
                sinks: Some(&mut dsinks),
            };
            plan.backward(&inputs, &upstream, gradients, &mut Arena::new(), pool())
        } else {
            let out = TensorMut::contiguous(to_out, self.out)?;
            let outputs = Outputs::state(out, TensorMut::contiguous(to_lse, self.lse)?);
            plan.run(&inputs, outputs, &mut Arena::new(), pool())
        };
        if result.is_err() {
            assert!(written.iter().flatten().chain(&dsinks).all(|&x| x == BEFORE), "something was written");
        }
        result
    }
}

fn axis(tensor: &'static str, axis: &'static str, has: usize, expected: usize) -> Result<(), Error> {
    Err(Error::Axis { tensor, axis, has, expected: expected.to_string() })
}

/// A tensor's name, its place, and what an axis of 1 may stand for there.
type Place = (&'static str, fn(&mut Given) -> &mut [usize; 4], bool);

#[test]
fn every_axis_of_every_tensor_is_looked_at() {
    let in_both: [Place; 6] = [
        ("queries", |given| &mut given.q, false),
        ("keys", |given| &mut given.k, false),
        ("values", |given| &mut given.v, false),
        ("bias", |given| &mut given.bias, true),
        ("out", |given| &mut given.out, false),
        ("lse", |given| &mut given.lse, false),
    ];
    let in_backward: [Place; 6] = [
        ("out gradient", |given| &mut given.dout, false),
        ("lse gradient", |given| &mut given.dlse, false),
        ("gradient of queries", |given| &mut given.dq, false),
        ("gradient of keys", |given| &mut given.dk, false),
        ("gradient of values", |given| &mut given.dv, false),
        ("gradient of the bias", |given| &mut given.dbias, false),
    ];
    for backward in [false, true] {
        assert_eq!(fitting().pass(backward), Ok(()));
        for (name, place, broadcasts) in in_both.iter().chain(if backward { &in_backward[..] } else { &[] }) {
            for (along, axis_name) in AXES.into_iter().enumerate() {
                let right = place(&mut fitting())[along];
                for wrong in [0, 1, right + 1].into_iter().filter(|&wrong| wrong != right) {
                    let mut given = fitting();
                    place(&mut given)[along] = wrong;
                    if *broadcasts && wrong == 1 {
                        // The gradient then is of the same shape.
                        given.dbias[along] = 1;
                        assert_eq!(given.pass(backward), Ok(()), "{name}");
                    } else {
                        assert_eq!(given.pass(backward), axis(name, axis_name, wrong, right));
                    }
                }
            }
        }
    }
}

#[test]
fn every_list_is_looked_at() {
    for backward in [false, true] {
        for wrong in [0, 1, 3, 5] {
            let pass = |given: Given| given.pass(backward);
            assert_eq!(pass(Given { slopes: wrong, ..fitting() }), axis("slopes", "heads", wrong, 4));
            assert_eq!(pass(Given { sinks: wrong, ..fitting() }), axis("sinks", "heads", wrong, 4));
            assert_eq!(pass(Given { ids: wrong, ..fitting() }), axis("sequence_ids", "sequences", wrong, 2));
        }
    }
    let pass = Given { dsinks: 3, ..fitting() }.pass(true);
    assert_eq!(pass, axis("gradient of sinks", "heads", 3, 4));
}

#[test]
fn gradients_are_of_what_is_there() {
    let plan = Plan::new(SHAPE, &Mask::causal(), &Options::default()).expect("a plan");
    let given = fitting();
    let x = numbers(1, 1000);
    let of = |shape: [usize; 4]| Tensor::contiguous(&x[..shape.iter().product()], shape).expect("a tensor");
    let inputs = Inputs::new(of(given.q), of(given.k), of(given.v));
    let upstream =
        Upstream { out: of(given.out), lse: of(given.lse), out_gradient: of(given.dout), lse_gradient: None };
    let ask = |of_bias: bool| {
        let [mut dq, mut dk, mut dv, mut dbias] = [given.q, given.k, given.v, given.bias].map(|_| vec![BEFORE; 1000]);
        let mut dsinks = [BEFORE; 4];
        let mut gradients = Gradients::new(
            TensorMut::contiguous(&mut dq[..320], given.dq).expect("a tensor"),
            TensorMut::contiguous(&mut dk[..224], given.dk).expect("a tensor"),
            TensorMut::contiguous(&mut dv[..84], given.dv).expect("a tensor"),
        );
        if of_bias {
            gradients.bias = Some(TensorMut::contiguous(&mut dbias[..280], given.dbias).expect("a tensor"));
        } else {
            gradients.sinks = Some(&mut dsinks);
        }
        let result = plan.backward(&inputs, &upstream, gradients, &mut Arena::new(), pool());
        assert!(dq.iter().chain(&dk).chain(&dv).chain(&dbias).chain(&dsinks).all(|&x| x == BEFORE));
        result
    };
    assert_eq!(ask(true), Err(Error::NoTerm { tensor: "bias" }));
    assert_eq!(ask(false), Err(Error::NoTerm { tensor: "sinks" }));
}

#[test]
fn packed_sequences_that_share_keys_have_no_gradients() {
    let segment = |queries, keys| Segment { batch: 0, queries, keys };
    let sequences = Sequences::Packed(vec![segment(0..2, 0..4), segment(2..5, 3..7)]);
    let plan = Plan::new(SHAPE, &Mask::causal(), &Options { sequences, ..Options::default() }).expect("a plan");
    let given = fitting();
    let x = numbers(1, 1000);
    let of = |shape: [usize; 4]| Tensor::contiguous(&x[..shape.iter().product()], shape).expect("a tensor");
    let inputs = Inputs::new(of(given.q), of(given.k), of(given.v));
    let upstream =
        Upstream { out: of(given.out), lse: of(given.lse), out_gradient: of(given.dout), lse_gradient: None };
    let (mut dq, mut dk, mut dv) = (vec![BEFORE; 320], vec![BEFORE; 224], vec![BEFORE; 84]);
    let gradients = Gradients::new(
        TensorMut::contiguous(&mut dq, given.dq).expect("a tensor"),
        TensorMut::contiguous(&mut dk, given.dk).expect("a tensor"),
        TensorMut::contiguous(&mut dv, given.dv).expect("a tensor"),
    );
    let error = plan.backward(&inputs, &upstream, gradients, &mut Arena::new(), pool());
    assert_eq!(error, Err(Error::SharedKeys));
    assert!(dq.iter().chain(&dk).chain(&dv).all(|&x| x == BEFORE));
}
