//! Any call against its definition.

use half::{bf16, f16};
use ndarray::{Array4, ArrayView4};
use proptest::prelude::*;
use regard_attention::{Options, Plan, Regime, Shape, attention, attention_with};
use regard_masks::Mask;
use regard_simd::Isa;

use crate::support::{Case, Inputs, Outcome, Reference, Set, Stored, cases, on, run, tries};

/// A case is as its definition says, on every instruction set.
fn is_right<T: Stored>(case: &Case) -> Result<(), TestCaseError> {
    let inputs = case.inputs().rounded(T::PRECISIONS.stored);
    let reference = Reference::new(case, &inputs, T::PRECISIONS);
    for isa in Isa::available() {
        on(isa, reference.judge(&run::<T>(case, &inputs, isa)))?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(tries(40))]

    #[test]
    fn in_f32(case in cases()) {
        is_right::<f32>(&case)?;
    }

    #[test]
    fn in_bf16(case in cases()) {
        is_right::<bf16>(&case)?;
    }

    #[test]
    fn in_f16(case in cases()) {
        is_right::<f16>(&case)?;
    }
}

/// A call through the door for `ndarray`: no pool, no scratch, no strides but the array's own.
fn through_arrays(case: &Case, inputs: &Inputs, isa: Isa) -> Outcome {
    let [q, k, v, ..] = case.shapes();
    let view = |x, shape: [usize; 4]| ArrayView4::from_shape(shape, x).expect("numbers for the shape");
    let (q, k, v) = (view(&inputs.q, q), view(&inputs.k, k), view(&inputs.v, v));
    let (out, lse) = attention_with(q, k, v, &case.mask(), &case.options(isa)).expect("a result");
    Outcome { out: out.into_raw_vec_and_offset().0, lse: lse.into_raw_vec_and_offset().0 }
}

proptest! {
    #![proptest_config(tries(20))]

    #[test]
    fn through_ndarray(case in cases()) {
        let inputs = case.inputs();
        let reference = Reference::new(&case, &inputs, f32::PRECISIONS);
        for isa in Isa::available() {
            on(isa, reference.judge(&through_arrays(&case, &inputs, isa)))?;
        }
    }
}

#[test]
fn ndarray_needs_no_order() {
    let shape = Shape { batch: 2, heads: 4, kv_heads: 2, queries: 70, keys: 90, dim_k: 20, dim_v: 24 };
    let case = Case::of(shape, Set::Causal, 1);
    let inputs = case.inputs();
    let [q, k, v, ..] = case.shapes();
    // In memory `[batch, seq, heads, dim]`, as projections leave them.
    let array = |x: &[f32], shape: [usize; 4]| {
        let array = Array4::from_shape_vec(shape, x.to_vec()).expect("numbers for the shape");
        array.permuted_axes([0, 2, 1, 3]).as_standard_layout().into_owned()
    };
    let (q, k, v) = (array(&inputs.q, q), array(&inputs.k, k), array(&inputs.v, v));
    let swap = |x| ArrayView4::permuted_axes(x, [0, 2, 1, 3]);
    let out = attention(swap(q.view()), swap(k.view()), swap(v.view()), &Mask::causal()).expect("a result");
    let whole = through_arrays(&case, &inputs, Isa::best());
    assert_eq!(out.into_raw_vec_and_offset().0, whole.out);
}

#[test]
fn regimes() {
    let few = Shape { batch: 1, heads: 6, kv_heads: 2, queries: 100, keys: 512, dim_k: 16, dim_v: 16 };
    let one = Shape { queries: 1, ..few };
    for (shape, regime) in [
        (few, Regime::Heads),
        (one, Regime::Heads),
        (Shape { keys: 513, ..few }, Regime::Blocks),
        (Shape { keys: 1024, ..one }, Regime::Blocks),
        (Shape { keys: 1025, ..one }, Regime::Splits),
        // Neither the batch nor its heads decide.
        (Shape { batch: 50, keys: 1025, ..one }, Regime::Splits),
        (Shape { heads: 300, kv_heads: 100, ..few }, Regime::Heads),
    ] {
        let plan = Plan::new(shape, &Mask::causal(), &Options::default()).expect("a plan");
        assert!(plan.sequences().iter().all(|sequence| sequence.regime() == regime), "{plan}");
        let text = plan.to_string();
        let said = format!("regime    {}", format!("{regime:?}").to_lowercase());
        assert!(text.contains(&said) && text.contains(&format!("{} × {}", shape.queries, shape.keys)), "{text}");
    }
}

proptest! {
    #![proptest_config(tries(200))]

    #[test]
    fn live_pairs_are_those_of_the_definition(case in cases()) {
        let plan = Plan::new(case.shape, &case.mask(), &case.options(Isa::best())).expect("a plan");
        prop_assert_eq!(plan.live_pairs() as usize, case.pairs());
    }
}
