//! The doors for arrays, shared prefixes, and states that are merged.

use ndarray::{Array3, Array4};
use proptest::prelude::*;
use regard_attention::{Attention, Error, Inputs, Options, Outputs, SharedPrefix, State, attention_with, merge};
use regard_masks::Mask;
use regard_memory::Arena;

use super::{NUMBERS, Target, masks, nothing_of_what_is_refused, options, others, picks, shape, size, tensor};
use crate::support::{pool, tries};

/// An array whose every axis is of 0 to 3.
fn array(shape: [u8; 4]) -> Array4<f32> {
    Array4::from_elem(shape.map(|size| usize::from(size % 4)), 0.5)
}

/// A call step by step, in both passes.
fn step_by_step(
    [q, k, v, bias, dout]: [&Array4<f32>; 5],
    mask: &Mask,
    options: &Options,
    lists: [usize; 2],
) -> Result<(), Error> {
    let mut call = Attention::new(q.view(), k.view(), v.view())
        .mask(mask.clone())
        .bias(bias.view())
        .alibi(&NUMBERS[..lists[0]])
        .sinks(&NUMBERS[..lists[1]])
        .sequences(options.sequences.clone())
        .offset(options.offset.clone());
    if let Some(scale) = options.scale {
        call = call.scale(scale);
    }
    if let Some(cap) = options.softcap {
        call = call.softcap(cap);
    }
    if let Some(dropout) = options.dropout {
        call = call.dropout(dropout.probability, dropout.seed, Some(&[1, 2]));
    }
    let (b, h, n, d) = q.dim();
    let of_no_call = call.backward(dout.view(), Array3::zeros((b, h, d)).view(), dout.view(), None);
    assert!(of_no_call.is_err() || n == d, "{of_no_call:?}");
    let (out, lse) = call.state()?;
    assert_eq!((out.dim(), lse.dim()), ((b, h, n, v.dim().3), (b, h, n)));
    assert_eq!(call.run()?.dim(), out.dim());
    let gradients = call.backward(out.view(), lse.view(), dout.view(), Some(lse.view()))?;
    assert_eq!((gradients.q.dim(), gradients.k.dim(), gradients.v.dim()), (q.dim(), k.dim(), v.dim()));
    Ok(())
}

/// Attention over a shared prefix, of whose tensors any may be of another shape.
fn over_a_prefix(attention: &mut SharedPrefix, others: &[[usize; 4]], picks: &[usize]) -> Option<()> {
    let (own, keys) = (attention.own().shape(), attention.prefix().shape().keys);
    let q = tensor([own.batch, own.heads, own.queries, own.dim_k], others, picks[0])?;
    let k = tensor([own.batch, own.kv_heads, own.keys, own.dim_k], others, picks[1])?;
    let v = tensor([own.batch, own.kv_heads, own.keys, own.dim_v], others, picks[2])?;
    let prefix_k = tensor([1, own.kv_heads, keys, own.dim_k], others, picks[3])?;
    let prefix_v = tensor([1, own.kv_heads, keys, own.dim_v], others, picks[4])?;
    let out = tensor([own.batch, own.heads, own.queries, own.dim_v], others, picks[5])?;
    let lse = tensor([own.batch, own.heads, own.queries, 1], others, picks[6])?;
    let (mut to, mut to_lse) = (Target::like(&out), Target::like(&lse));
    let outputs = Outputs::state(to.view(), to_lse.view());
    let inputs = Inputs::new(q, k, v);
    let result = attention.run(&inputs, prefix_k, prefix_v, outputs, &mut Arena::new(), pool());
    nothing_of_what_is_refused(result, &[&to, &to_lse]);
    Some(())
}

proptest! {
    #![proptest_config(tries(2000))]

    #[test]
    fn arrays(
        (shapes, alike) in (any::<[[u8; 4]; 5]>(), any::<[bool; 3]>()),
        (mask, options, lists) in (masks(), options(), [0..5_usize, 0..5_usize]),
    ) {
        let [q, mut k, mut v, mut bias, mut dout] = shapes;
        if alike[0] {
            (k[0], k[3]) = (q[0], q[3]);
        }
        if alike[1] {
            v = [k[0], k[1], k[2], v[3]];
        }
        if alike[2] {
            (bias, dout) = ([1, 1, q[2], k[2]], [q[0], q[1], q[2], v[3]]);
        }
        let [q, k, v, bias, dout] = [q, k, v, bias, dout].map(array);
        if let Ok((out, lse)) = attention_with(q.view(), k.view(), v.view(), &mask, &options) {
            let (batch, heads, queries, _) = q.dim();
            prop_assert_eq!((out.dim(), lse.dim()), ((batch, heads, queries, v.dim().3), (batch, heads, queries)));
        }
        let _ = step_by_step([&q, &k, &v, &bias, &dout], &mask, &options, lists);
    }

    #[test]
    fn prefixes(shape in shape(), prefix in size(), (mask, options) in (masks(), options()), others in others(), picks in picks()) {
        if let Ok(mut attention) = SharedPrefix::new(shape, prefix, &mask, &options) {
            over_a_prefix(&mut attention, &others, &picks);
        }
    }

    #[test]
    fn states(lens in [0..9_usize, 0..9_usize, 0..9_usize, 0..9_usize]) {
        let state = |out, lse| State { out: vec![0.5; out], lse: vec![0.25; lse] };
        let (mut a, b) = (state(lens[0], lens[1]), state(lens[2], lens[3]));
        let before = a.clone();
        let whole_rows = if lens[1] == 0 { lens[0] == 0 } else { lens[0].is_multiple_of(lens[1]) };
        let alike = lens[..2] == lens[2..] && whole_rows;
        prop_assert_eq!(a.merge(&b).is_ok(), alike);
        prop_assert!(alike || a == before);
        let mut row = vec![0.5; lens[0]];
        prop_assert_eq!(merge(&mut row, 0.0, &b.out, 0.0).is_ok(), lens[0] == lens[2]);
    }
}
