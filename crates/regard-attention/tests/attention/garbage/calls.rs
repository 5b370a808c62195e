//! Plans, both passes and scores.

use proptest::prelude::*;
use regard_attention::{Chosen, Gradients, Inputs, Outputs, Plan, Shape, Stage, Terms, Upstream};
use regard_memory::Arena;

use super::{NUMBERS, Target, masks, nothing_of_what_is_refused, options, others, picks, shape, size, tensor};
use crate::support::{DTYPES, pool, tries};

/// Both passes and the scores through tensors of which any may be of another shape.
fn call(plan: &Plan, others: &[[usize; 4]], picks: &[usize], lists: [usize; 4]) -> Option<()> {
    let Shape { batch, heads, kv_heads, queries, keys, dim_k, dim_v } = plan.shape();
    let q = tensor([batch, heads, queries, dim_k], others, picks[0])?;
    let k = tensor([batch, kv_heads, keys, dim_k], others, picks[1])?;
    let v = tensor([batch, kv_heads, keys, dim_v], others, picks[2])?;
    let out = tensor([batch, heads, queries, dim_v], others, picks[3])?;
    let lse = tensor([batch, heads, queries, 1], others, picks[4])?;
    let bias = lists[3].is_multiple_of(2).then(|| tensor([batch, heads, queries, keys], others, picks[5])).flatten();
    let list = |len: usize| (len > 0).then(|| NUMBERS.get(..len)).flatten();
    let ids = [7; 6];
    let ids = (lists[2] > 0).then(|| &ids[..lists[2]]);
    let terms = Terms { bias, slopes: list(lists[0]), sinks: list(lists[1]), sequence_ids: ids };
    let inputs = Inputs { terms, ..Inputs::new(q, k, v) };

    let (mut to, mut to_lse) = (Target::like(&out), Target::like(&lse));
    let result = plan.run(&inputs, Outputs::state(to.view(), to_lse.view()), &mut Arena::new(), pool());
    nothing_of_what_is_refused(result, &[&to, &to_lse]);

    let (batch, heads, rows) = (&picks[..1], &picks[1..2], &picks[2..4]);
    let _ = plan.scores(&inputs, Stage::Weights, Chosen { batch, heads, rows });

    let upstream = Upstream { out, lse, out_gradient: out, lse_gradient: bias.is_none().then_some(lse) };
    let [mut dq, mut dk, mut dv] = [q, k, v].map(|x| Target::like(&x));
    let mut dbias = bias.as_ref().map(Target::like);
    let mut dsinks = vec![0.0; lists[1]];
    let gradients = Gradients {
        q: dq.view(),
        k: dk.view(),
        v: dv.view(),
        bias: dbias.as_mut().map(Target::view),
        sinks: (lists[1] > 0).then_some(&mut dsinks),
    };
    let result = plan.backward(&inputs, &upstream, gradients, &mut Arena::new(), pool());
    nothing_of_what_is_refused(result, &[&dq, &dk, &dv]);
    Some(())
}

proptest! {
    #![proptest_config(tries(3000))]

    #[test]
    fn of_any_shape(
        shape in shape(),
        mask in masks(),
        options in options(),
        others in others(),
        (picks, lists) in (picks(), any::<[u8; 4]>()),
        (queries, keys, lengths) in (size(), size(), prop::collection::vec(size(), 0..4)),
    ) {
        if let Ok(mut plan) = Plan::new(shape, &mask, &options) {
            let lists = lists.map(|len| usize::from(len % 6));
            for _ in 0..3 {
                prop_assert!(!plan.to_string().is_empty());
                let _ = (plan.live_pairs(), plan.pairs(), plan.flops());
                let _ = DTYPES.map(|dtype| plan.need_cached(dtype, 2));
                call(&plan, &others, &picks, lists);
                let _ = plan.resize(queries, keys);
                let _ = plan.resize_keys(queries, &lengths);
                let _ = plan.reserve(keys, queries);
            }
        }
    }
}
