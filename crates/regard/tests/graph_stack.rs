//! A stack in which each layer takes its global keys from its own level of an index.
#![cfg(feature = "graph")]

use ndarray::{Array2, Array3};
use regard::graph::Index;
use regard::kernels::Activation;
use regard::layers::{
    Bias, FeedForward, FeedForwardKind, Gradients, HeadSizes, Layer, LocalGlobalAttention, LocalGlobalConfig, Mixer,
    Mode, Norm, NormKind, Optimiser, OptimiserConfig, Parameters, Size, TransformerBlock, Workspace,
};
use regard::memory::Need;

const NODES: usize = 256;
const WIDTH: usize = 16;
const CLUSTERS: usize = 8;
const LAYERS: usize = 2;
const STEPS: u32 = 200;

/// Numbers that look random, around 0, of deviation about 0.6.
fn noise(seed: u32, at: usize) -> f32 {
    let mut x = (at as u32).wrapping_mul(0x9E37_79B9) ^ seed.wrapping_mul(0x85EB_CA6B);
    x = (x ^ x >> 16).wrapping_mul(0x21F0_AAAD);
    x = (x ^ x >> 15).wrapping_mul(0x735A_2D97);
    (x >> 8) as f32 / (1 << 23) as f32 - 1.0
}

/// Nodes in no order, other ones for each number: what is seen of each, and the middle of its cluster.
fn nodes(number: u32) -> (Array2<f32>, Array2<f32>) {
    let cluster = |i: usize| (noise(3 * number, i) * 1e4).abs() as usize % CLUSTERS;
    let middle = |(i, c): (usize, usize)| 1.5 * noise(3 * number + 1, cluster(i) * WIDTH + c);
    let seen = |(i, c)| middle((i, c)) + noise(3 * number + 2, i * WIDTH + c);
    (Array2::from_shape_fn((NODES, WIDTH), seen), Array2::from_shape_fn((NODES, WIDTH), middle))
}

/// The nodes of the levels of an index over what is seen: the lower level for the first layer, the one above for the second.
fn levels(seen: &Array2<f32>) -> [Vec<usize>; LAYERS] {
    let parameters = regard::graph::Parameters { links: 4, ..Default::default() };
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

/// The mean square that a stack comes to be off by, with and without global keys. No nodes are seen twice, so what is found of the
/// last ones was not learned by heart.
fn learned(with_levels: bool) -> f64 {
    let mut parameters = Parameters::new(5);
    let mut blocks = stack(&mut parameters, &[vec![], vec![]]);
    let mut workspace = Workspace::new().unwrap();
    let mut optimiser = Optimiser::new(&parameters, OptimiserConfig::default()).unwrap();
    let size = Size { batch: 1, tokens: NODES };
    let mut losses = Vec::new();
    for step in 0..STEPS {
        let (seen, middles) = nodes(step);
        if with_levels {
            for (block, level) in blocks.iter_mut().zip(levels(&seen)) {
                let Mixer::LocalGlobal(mixer) = block.mixer_mut() else { panic!("a local-global mixer") };
                mixer.set_indices(&level);
            }
        }
        let (x, targets) = (seen.as_slice().unwrap(), middles.as_slice().unwrap());
        let mut gradients = Gradients::new(&parameters).unwrap();
        {
            let each = |block: &TransformerBlock| block.forward_need(size).and(block.backward_need(size));
            let need = blocks.iter().map(each).fold(Need::of::<f32>(2 * x.len()), Need::and);
            let (mut tape, mut pass) = workspace.pass(&parameters, Mode::Training { first_sequence: 0 }, need).unwrap();
            let (first, kept_first) = blocks[0].forward(&mut pass, size, x, &mut tape).unwrap();
            let (out, kept) = blocks[1].forward(&mut pass, size, first, &mut tape).unwrap();
            let off = |(y, t): (&f32, &f32)| f64::from(y - t).powi(2);
            losses.push(out.iter().zip(targets).map(off).sum::<f64>() / x.len() as f64);
            let d: Vec<f32> = out.iter().zip(targets).map(|(y, t)| 2.0 * (y - t) / x.len() as f32).collect();
            let (middle, dx) = (tape.take_zeroed(x.len()), tape.take_zeroed(x.len()));
            blocks[1].backward(&mut pass, size, kept, &d, &mut gradients, middle, &mut tape).unwrap();
            blocks[0].backward(&mut pass, size, kept_first, middle, &mut gradients, dx, &mut tape).unwrap();
        }
        optimiser.step(&workspace, &mut parameters, &gradients, 1e-2).unwrap();
    }
    losses[losses.len() - 20..].iter().sum::<f64>() / 20.0
}

/// Of noisy members of clusters, in no order, the middles are found better by those that see a level of the index.
#[test]
fn levels_of_an_index_help() {
    let [lower, upper] = levels(&nodes(0).0);
    assert!(lower.len() > upper.len() && upper.len() > CLUSTERS, "{} and {} nodes", lower.len(), upper.len());
    let (with, without) = (learned(true), learned(false));
    println!("off by {with:.4} with levels of {} and {} nodes, {without:.4} without", lower.len(), upper.len());
    assert!(with < 0.8 * without, "{with} and {without}");
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
