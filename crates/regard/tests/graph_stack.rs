//! A stack in which each layer takes its global keys from its own level of an index.
#![cfg(feature = "graph")]

use ndarray::{Array2, Array3, Axis};
use regard::graph::Index;
use regard::kernels::Activation;
use regard::layers::{
    Bias, FeedForward, FeedForwardKind, HeadSizes, LocalGlobalAttention, LocalGlobalConfig, Mixer, Mode, Norm,
    NormKind, Parameters, TransformerBlock, Workspace, run,
};

const NODES: usize = 256;
const WIDTH: usize = 16;
const CLUSTERS: usize = 8;
const LAYERS: usize = 2;

/// Numbers that look random, around 0, of deviation about 0.6.
fn noise(seed: u32, at: usize) -> f32 {
    let mut x = (at as u32).wrapping_mul(0x9E37_79B9) ^ seed.wrapping_mul(0x85EB_CA6B);
    x = (x ^ x >> 16).wrapping_mul(0x21F0_AAAD);
    x = (x ^ x >> 15).wrapping_mul(0x735A_2D97);
    (x >> 8) as f32 / (1 << 23) as f32 - 1.0
}

/// Nodes in no order: members of clusters, and what tells them apart.
fn nodes(number: u32) -> Array2<f32> {
    let cluster = |i: usize| (noise(3 * number, i) * 1e4).abs() as usize % CLUSTERS;
    let middle = |(i, c): (usize, usize)| 1.5 * noise(3 * number + 1, cluster(i) * WIDTH + c);
    Array2::from_shape_fn((NODES, WIDTH), |(i, c)| middle((i, c)) + noise(3 * number + 2, i * WIDTH + c))
}

/// The nodes of the levels of an index over what is seen: the lower level for the first layer, the one above for the second.
fn levels(seen: &Array2<f32>) -> [Vec<usize>; LAYERS] {
    let parameters = regard::graph::Parameters { links: 3, ..Default::default() };
    let index = Index::new(seen.view(), &parameters).unwrap();
    [0, 1].map(|level| (0..NODES).filter(|&node| index.levels()[node] >= level).collect())
}

/// Blocks whose mixers see two neighbours in the list to each side, and the nodes of a level.
fn stack(parameters: &mut Parameters, levels: &[Vec<usize>]) -> Vec<TransformerBlock> {
    let mut root = parameters.root();
    let mut block = |layer: usize| {
        let mut scope = root.scope(&layer.to_string());
        let config = LocalGlobalConfig { window: 2, ..LocalGlobalConfig::new(HeadSizes::new(WIDTH, 2)) };
        let mut mixer = LocalGlobalAttention::new(&mut scope.scope("mixer"), config)?;
        mixer.set_indices(&levels[layer]);
        let norm = |scope: &mut regard::layers::Scope<'_>, name: &str| {
            Norm::new(&mut scope.scope(name), NormKind::Rms, WIDTH, 1e-5)
        };
        let norms = [norm(&mut scope, "norm1")?, norm(&mut scope, "norm2")?];
        let kind = FeedForwardKind::Gated(Activation::Silu);
        let feed_forward = FeedForward::new(&mut scope.scope("feed_forward"), kind, WIDTH, 32, Bias::None)?;
        TransformerBlock::new(norms, Mixer::LocalGlobal(mixer), feed_forward)
    };
    (0..LAYERS).map(|layer| block(layer).unwrap()).collect()
}

/// The results of a stack.
fn results(blocks: &[TransformerBlock], parameters: &Parameters, seen: &Array2<f32>) -> Array2<f32> {
    let mut workspace = Workspace::new().unwrap();
    let mut x = seen.clone().insert_axis(Axis(0));
    for block in blocks {
        x = run(block, parameters, &mut workspace, Mode::Evaluation, x.view()).unwrap();
    }
    x.remove_axis(Axis(0))
}

/// A node of a level reaches all others through the layers that have the level; one of no level reaches those near it alone.
#[test]
fn a_level_reaches_all() {
    let seen = nodes(0);
    let [lower, upper] = levels(&seen);
    assert!(lower.len() > upper.len() && upper.len() > 1, "{} and {} nodes", lower.len(), upper.len());
    let moved = |node: usize| {
        let mut seen = seen.clone();
        seen.row_mut(node)[0] += 1.0;
        seen
    };
    let change = |levels: &[Vec<usize>; LAYERS], node: usize| -> Vec<bool> {
        let mut parameters = Parameters::new(5);
        let blocks = stack(&mut parameters, levels);
        let (before, after) = (results(&blocks, &parameters, &seen), results(&blocks, &parameters, &moved(node)));
        before.rows().into_iter().zip(after.rows()).map(|(before, after)| before != after).collect()
    };
    // Two layers, each of which sees two to each side.
    let near = |node: usize| -> Vec<bool> { (0..NODES).map(|other| other.abs_diff(node) <= 2 * LAYERS).collect() };
    let level_node = upper[upper.len() / 2];
    assert_eq!(change(&[vec![], vec![]], level_node), near(level_node));
    assert_eq!(change(&[vec![], upper.clone()], level_node), vec![true; NODES]);
    let other = (0..NODES).find(|node| !upper.contains(node) && upper.iter().all(|u| u.abs_diff(*node) > 2)).unwrap();
    assert_eq!(change(&[vec![], upper], other), near(other));
}

/// Global keys are those of the level, whatever the order they are given in.
#[test]
fn a_level_can_be_replaced() {
    let mut parameters = Parameters::new(5);
    let mut blocks = stack(&mut parameters, &[vec![3, 1, 3], vec![]]);
    let Mixer::LocalGlobal(mixer) = blocks[0].mixer_mut() else { panic!("a local-global mixer") };
    assert_eq!(mixer.indices(), [1, 3]);
    mixer.set_indices(&[7]);
    let x = Array3::from_shape_fn((1, 6, WIDTH), |(_, t, c)| noise(9, t * WIDTH + c));
    let mut workspace = Workspace::new().unwrap();
    let error = regard::layers::run(&blocks[0], &parameters, &mut workspace, Mode::Evaluation, x.view()).unwrap_err();
    assert_eq!(error.to_string(), "global index is 7, it must be below 6, the tokens");
}
