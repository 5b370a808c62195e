//! Masks, pair by pair, against what is read off the index.

use proptest::prelude::*;
use regard_graph::{Index, Parameters};
use regard_masks::{Edges, Mask};

use crate::common::clustered;

/// All pairs of positions and keys, some of them beyond the nodes, for which a mask and its definition differ.
fn differs(mask: &Mask, nodes: usize, definition: impl Fn(usize, usize) -> bool) -> Option<(i64, usize)> {
    let keys = nodes + 3;
    let pairs = (-2..keys as i64).flat_map(|p| (0..keys).map(move |j| (p, j)));
    let holds = |p: i64, j: usize| usize::try_from(p).is_ok_and(|i| definition(i, j));
    pairs.into_iter().find(|&(p, j)| mask.allows(p, j, keys) != holds(p, j))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    #[test]
    fn masks_are_as_defined(
        rows in 1usize..160, dim in 1usize..10, links in 2usize..8, window in proptest::option::of(0usize..40),
    ) {
        let parameters = Parameters { links, ef_construction: 20, seed: None };
        let index = Index::new(clustered(rows as u64, rows, dim, 5).view(), &parameters).unwrap();
        let (n, level) = (rows, |node: usize| usize::from(index.levels()[node]));
        let on_any = |i: usize, j: usize| {
            (0..=index.highest_level()).any(|level| index.neighbours(level, i).unwrap().contains(&j))
        };

        for least in 0..=index.highest_level() {
            // Positions before the first token and beyond the nodes see the layer too: it is of keys alone.
            let layers = index.layers(least).unwrap();
            for (p, j) in (-2..n as i64 + 2).flat_map(|p| (0..n + 2).map(move |j| (p, j))) {
                prop_assert_eq!(layers.allows(p, j, n + 2), j < n && level(j) >= least, "level {} at {:?}", least, (p, j));
            }
        }
        let hierarchy = |i: usize, j: usize| i < n && j < n && level(j) >= level(i);
        prop_assert_eq!(differs(&index.hierarchy(), n, hierarchy), None);
        let edges = |i: usize, j: usize| i < n && j < n && (i == j || on_any(i, j));
        prop_assert_eq!(differs(&index.edges(Edges::Directed).unwrap(), n, edges), None);
        let both = |i: usize, j: usize| edges(i, j) || edges(j, i);
        prop_assert_eq!(differs(&index.edges(Edges::Symmetric).unwrap(), n, both), None);

        let degrees: usize = (0..n).map(|i| (0..n).filter(|&j| on_any(i, j)).count()).sum();
        prop_assert!((index.mean_degree() - degrees as f64 / n as f64).abs() < 1e-12);
        let reach = window.unwrap_or((2.0 * degrees as f64 / n as f64).round() as usize) / 2;
        let adaptive = index.adaptive(window).unwrap();
        // The window goes on beyond the nodes, as windows do.
        let in_window = |p: i64, j: usize| p.abs_diff(j as i64) <= reach as u64;
        for (p, j) in (-2..n as i64 + 2).flat_map(|p| (0..n + 2).map(move |j| (p, j))) {
            let linked = usize::try_from(p).is_ok_and(|i| edges(i, j));
            prop_assert_eq!(adaptive.allows(p, j, n + 2), linked || in_window(p, j));
        }
        let causal = Mask::causal() & index.edges(Edges::Directed).unwrap();
        prop_assert_eq!(differs(&causal, n, |i, j| j <= i && edges(i, j)), None);
    }
}

#[test]
fn the_lowest_layer_is_dense() {
    let index = Index::new(clustered(1, 300, 8, 9).view(), &Parameters::default()).unwrap();
    assert_eq!(index.layers(0).unwrap(), Mask::global_keys(0..300));
    assert!(index.highest_level() > 0);
}
