//! Calls over arrays, and those that cannot be.

use ndarray::{Array4, ArrayView4};
use regard_attention::{Direction, FavorAttention, FavorFeatures};
use regard_oracle::{Favor, widen};
use regard_simd::Isa;

use super::Asked;
use crate::support::{array, pool};

/// Arrays are only another way in.
#[test]
fn arrays_are_the_same_call() {
    let (q, k, v) = (array(1, (2, 4, 90, 8)), array(2, (2, 2, 90, 8)), array(3, (2, 2, 90, 5)));
    let (sums, exponents) = (array(4, (2, 2, 24, 6)).mapv(f32::abs), array(5, (2, 2, 1, 1)));
    let (dout, dstate) = (array(6, (2, 4, 90, 5)), array(7, (2, 2, 24, 6)));
    let features = FavorFeatures::new(8, 24, 9).unwrap();
    let wide = |array: &Array4<f32>| widen(array.as_slice().unwrap());
    for (both, direction) in [(false, Direction::Causal), (true, Direction::Both)] {
        let call = Favor {
            batch: 2,
            heads: 4,
            kv_heads: 2,
            tokens: 90,
            dim_k: 8,
            dim_v: 5,
            directions: widen(features.rows()),
            q: wide(&q),
            k: wide(&k),
            v: wide(&v),
            state: wide(&sums),
            before: wide(&exponents),
            scale: 0.3,
            both,
            ..Favor::default()
        };
        let asked = Asked::new(&call, 9, Isa::from_environment().unwrap(), pool());
        let arrays = FavorAttention::new(q.view(), k.view(), v.view(), &features);
        let arrays = arrays.state(sums.view(), exponents.view()).scale(0.3).direction(direction);
        let (out, state) = asked.run::<f32>();
        let (same_out, (same_sums, same_exponents)) = arrays.run().unwrap();
        assert_eq!((out, state), (same_out.into_raw_vec_and_offset().0, (flat(same_sums), flat(same_exponents))));
        let of = asked.gradients::<f32>(&wide(&dout), &wide(&dstate));
        let same = arrays.backward(dout.view(), Some(dstate.view())).unwrap();
        assert_eq!(of, [same.q, same.k, same.v, same.state].map(flat));
    }
}

fn flat(array: Array4<f32>) -> Vec<f32> {
    array.into_raw_vec_and_offset().0
}

#[test]
fn calls_that_cannot_be() {
    let (q, k, v) = (array(1, (1, 4, 9, 8)), array(2, (1, 2, 9, 8)), array(3, (1, 2, 9, 5)));
    let features = FavorFeatures::new(8, 24, 9).unwrap();
    let call = || FavorAttention::new(q.view(), k.view(), v.view(), &features);
    let refused = |call: FavorAttention<'_, f32>| call.run().unwrap_err().to_string();
    assert!(call().run().is_ok());
    let other = array(2, (1, 3, 9, 8));
    let three = array(3, (1, 3, 9, 5));
    let heads = refused(FavorAttention::new(q.view(), other.view(), three.view(), &features));
    assert_eq!(heads, "`queries` has heads 4, expected a multiple of the 3 key/value heads");
    let few = FavorFeatures::new(7, 24, 9).unwrap();
    let dims = refused(FavorAttention::new(q.view(), k.view(), v.view(), &few));
    assert_eq!(dims, "`keys` has dim 8, expected 7");
    let (sums, exponents) = (array(4, (1, 2, 24, 6)), array(5, (1, 2, 1, 1)));
    assert!(call().state(sums.view(), exponents.view()).run().is_ok());
    let short = array(4, (1, 2, 23, 6));
    assert_eq!(refused(call().state(short.view(), exponents.view())), "`state` has seq 23, expected 24");
    assert_eq!(refused(call().state(sums.view(), sums.view())), "`state's exponents` has seq 24, expected 1");
    assert!(refused(call().scale(-1.0)).starts_with("scale is -1"));
    let back = |dout: ArrayView4<'_, f32>, dstate| call().backward(dout, dstate).unwrap_err().to_string();
    assert_eq!(back(k.view(), None), "`gradient of results` has heads 2, expected 4");
    let dout = array(6, (1, 4, 9, 5));
    assert_eq!(back(dout.view(), Some(short.view())), "`gradient of the state after` has seq 23, expected 24");
}
