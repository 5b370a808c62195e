//! Local-global attention: windows, lists of keys that all see, and how both parts meet.

use proptest::prelude::*;
use regard_layers::{
    HeadSizes, LocalGlobalAttention, LocalGlobalConfig, LocalGlobalForm, Mode, Scope, Sight, Workspace, run,
};
use regard_oracle::layers::{LocalGlobal, Tensor, Tensors, differences};

use crate::flash::{projections, sizes};
use crate::support::{Draw, Made, array, hold_results, made, tensor, tries, with_weights};
use crate::weights;

#[derive(Clone, Debug)]
struct Problem {
    sizes: HeadSizes,
    layer: LocalGlobal,
    batch: usize,
    tokens: usize,
    seed: u64,
}

fn problems(tokens: usize, dim: usize) -> impl Strategy<Value = Problem> {
    let counts = (1usize..=3, 1..=tokens, any::<u64>());
    let lists = prop::collection::vec(any::<prop::sample::Index>(), 0..5);
    (sizes(dim), counts, 0usize..5, lists, any::<[bool; 2]>()).prop_map(
        |(sizes, (batch, tokens, seed), window, list, [causal, joint])| {
            // In any order, some of them twice.
            let globals: Vec<usize> = list.iter().map(|index| index.index(tokens)).collect();
            Problem { sizes, layer: LocalGlobal { window, globals, causal, joint }, batch, tokens, seed }
        },
    )
}

impl Problem {
    fn given(&self) -> Tensors {
        let (HeadSizes { width, heads, dim_v, .. }, mut draw) = (self.sizes, Draw(self.seed));
        let all = projections(self.sizes, [false; 2], &mut draw);
        let all = all.and("x", draw.normal(&[self.batch, self.tokens, width], 1.0));
        if self.layer.joint { all } else { all.and("gate", draw.normal(&[heads, dim_v], 1.5)) }
    }

    fn dout(&self) -> Tensor {
        Draw(!self.seed).normal(&[self.batch, self.tokens, self.sizes.width], 1.0)
    }

    fn config(&self) -> LocalGlobalConfig {
        let LocalGlobal { window, causal, joint, .. } = self.layer;
        LocalGlobalConfig {
            sizes: self.sizes,
            window,
            sight: if causal { Sight::Causal } else { Sight::Both },
            form: if joint { LocalGlobalForm::Joint } else { LocalGlobalForm::TwoSoftmaxes },
        }
    }

    fn made(&self, given: &Tensors) -> Made {
        let new = |scope: &mut Scope<'_>| {
            let mut layer = LocalGlobalAttention::new(scope, self.config())?;
            layer.set_indices(&self.layer.globals);
            Ok(layer)
        };
        made(new, &weights::projections(given), &self.dout(), Mode::Evaluation, &mut Workspace::new().unwrap())
    }

    fn exact(&self, given: &Tensors) -> Tensor {
        self.layer.forward(&given["x"], given)
    }
}

proptest! {
    #![proptest_config(tries(60))]

    #[test]
    fn small_ones_are_the_references(problem in problems(9, 5)) {
        let (given, dout) = (problem.given(), problem.dout());
        let slopes = differences(&given, |given| problem.exact(given).dot(&dout));
        problem.made(&given).hold(&format!("{problem:?}"), &problem.exact(&given),
            &weights::projections(&slopes),
        );
    }

    /// Other indices in the same layer and workspace are as if they had been there from the beginning.
    #[test]
    fn indices_can_be_replaced(problem in problems(9, 5), others in prop::collection::vec(any::<prop::sample::Index>(), 0..5)) {
        let others: Vec<usize> = others.iter().map(|index| index.index(problem.tokens)).collect();
        let (given, mut workspace) = (problem.given(), Workspace::new().unwrap());
        let new = |scope: &mut Scope<'_>| LocalGlobalAttention::new(scope, problem.config());
        let (mut layer, parameters) = with_weights(new, &weights::projections(&given));
        let mut outs = Vec::new();
        for globals in [&problem.layer.globals, &others, &problem.layer.globals] {
            layer.set_indices(globals);
            let mut unique = globals.clone();
            unique.sort_unstable();
            unique.dedup();
            prop_assert_eq!(layer.indices(), &unique[..]);
            let x = array(&given["x"]);
            let out = run(&layer, &parameters, &mut workspace, Mode::Evaluation, x.view()).unwrap();
            let reference = LocalGlobal { globals: globals.clone(), ..problem.layer.clone() };
            hold_results(&format!("{reference:?}"), &tensor(&out), &reference.forward(&given["x"], &given));
            outs.push(out);
        }
        prop_assert_eq!(&outs[0], &outs[2]);
    }
}

proptest! {
    #![proptest_config(tries(12))]

    #[test]
    fn large_ones_are_the_references(problem in problems(200, 18)) {
        let (given, dout, name) = (problem.given(), problem.dout(), format!("{problem:?}"));
        let made = problem.made(&given);
        made.hold_results(&name, &problem.exact(&given));
        made.hold_along(&name, &given, &dout, weights::projections, |given| problem.exact(given));
    }
}

/// A causal row before the first index sees no global key: it is its local part, whatever the gate.
#[test]
fn rows_without_a_global_key_are_local() {
    let layer = LocalGlobal { window: 1, globals: vec![5], causal: true, joint: false };
    let problem = Problem { sizes: HeadSizes::new(6, 2), layer, batch: 2, tokens: 9, seed: 7 };
    let given = problem.given();
    let layer = LocalGlobal { globals: vec![], ..problem.layer.clone() };
    let local = Problem { layer, ..problem.clone() }.made(&given).out;
    let mixed = problem.made(&given).out;
    for (row, (mixed, local)) in mixed.rows().zip(local.rows()).enumerate() {
        assert_eq!(mixed == local, row % 9 < 5, "row {row}");
    }
}
