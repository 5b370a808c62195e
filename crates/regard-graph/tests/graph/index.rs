//! The index: its tables, what it finds, and that the same call gives the same graph.

use proptest::prelude::*;
use regard_graph::{GrowingIndex, Index, Parameters};

use crate::common::{clustered, product, top};

const PARAMETERS: Parameters = Parameters { links: 8, ef_construction: 60, seed: None };

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn tables_are_of_a_graph(
        rows in 1usize..300, dim in 1usize..20, links in 2usize..20, seed in proptest::option::of(any::<u64>()),
    ) {
        let keys = clustered(rows as u64, rows, dim, 5);
        let index = Index::new(keys.view(), &Parameters { links, ef_construction: 30, seed }).unwrap();
        prop_assert_eq!((index.nodes(), index.dim(), index.levels().len()), (rows, dim, rows));
        let highest = index.levels().iter().copied().max().unwrap();
        prop_assert_eq!(index.highest_level(), usize::from(highest));
        for level in 0..=index.highest_level() {
            let most = if level == 0 { 2 * links } else { links };
            for node in 0..rows {
                let neighbours = index.neighbours(level, node).unwrap();
                prop_assert!(neighbours.len() <= most, "{} links on level {level}", neighbours.len());
                for &other in neighbours {
                    // Both ends of a link are on its level, and no node is linked to itself.
                    prop_assert!(other != node && other < rows);
                    prop_assert!(usize::from(index.levels()[node].min(index.levels()[other])) >= level);
                }
                let mut once = neighbours.to_vec();
                once.sort_unstable();
                once.dedup();
                prop_assert_eq!(once.len(), neighbours.len());
            }
        }
    }

    #[test]
    fn what_looks_at_all_keys_is_exact(
        rows in 1usize..200, dim in 1usize..20, count in 1usize..220, among in 0usize..200,
    ) {
        let (keys, among) = (clustered(2, rows, dim, 3), among.min(rows));
        let index = Index::new(keys.view(), &PARAMETERS).unwrap();
        let all: Vec<&[f32]> = keys.rows().into_iter().map(|row| row.to_slice().unwrap()).collect();
        for query in clustered(3, 5, dim, 5).rows() {
            let query = query.to_slice().unwrap();
            let mut found = index.nearest_of_first(query, count, rows, among).unwrap();
            prop_assert!(found.exact);
            prop_assert!(found.keys.is_sorted_by(|&a, &b| product(query, all[a]) >= product(query, all[b]) - 1e-9));
            found.keys.sort_unstable();
            prop_assert_eq!(found.keys, top(query, &all[..among], count));
        }
    }

    #[test]
    fn some_keys_are_found_as_many_as_asked_for(
        rows in 1usize..400, dim in 1usize..12, count in 1usize..40, width in 1usize..80, among in 0usize..400,
    ) {
        let among = among.min(rows);
        // Clusters of one point each: many keys are the same.
        let keys = clustered(4, 7, dim, 7).select(ndarray::Axis(0), &(0..rows).map(|i| i % 7).collect::<Vec<_>>());
        let index = Index::new(keys.view(), &PARAMETERS).unwrap();
        let query = clustered(5, 1, dim, 1);
        let mut found = index.nearest_of_first(query.as_slice().unwrap(), count, width, among).unwrap().keys;
        found.sort_unstable();
        found.dedup();
        prop_assert_eq!(found.len(), count.min(among));
        prop_assert!(found.iter().all(|&j| j < among));
    }
}

/// The share of the true keys that are found, over queries.
fn recall(count: usize, width: usize, find: impl Fn(&[f32]) -> Vec<usize>, keys: &ndarray::Array2<f32>) -> f64 {
    let all: Vec<&[f32]> = keys.rows().into_iter().map(|row| row.to_slice().unwrap()).collect();
    let queries = clustered(9, 100, keys.ncols(), 50);
    let hits = queries.rows().into_iter().map(|query| {
        let query = query.to_slice().unwrap();
        let (truth, found) = (top(query, &all, count), find(query));
        assert_eq!(found.len(), count, "width {width}");
        found.iter().filter(|j| truth.contains(j)).count()
    });
    hits.sum::<usize>() as f64 / (count * queries.nrows()) as f64
}

#[test]
fn clustered_keys_are_found() {
    let keys = clustered(8, 4000, 32, 50);
    let index = Index::new(keys.view(), &Parameters::default()).unwrap();
    let of_width = |width| {
        let find = |query: &[f32]| {
            let found = index.nearest(query, 20, width).unwrap();
            assert!(!found.exact);
            found.keys
        };
        recall(20, width, find, &keys)
    };
    let (narrow, wide) = (of_width(20), of_width(200));
    println!("recall {narrow} and {wide}");
    assert!(wide >= 0.95 && wide >= narrow && narrow >= 0.5, "{narrow} and {wide}");
}

#[test]
fn a_growing_index_finds_them_too() {
    let mut keys = clustered(8, 1500, 32, 50);
    // The norms span a factor of ten, the largest last: the graph is built anew several times.
    keys.rows_mut().into_iter().enumerate().for_each(|(i, mut row)| row *= 0.2 + 1.8 * i as f32 / 1500.0);
    let mut index = GrowingIndex::new(32, &Parameters::default()).unwrap();
    keys.rows().into_iter().for_each(|row| index.insert(row.to_slice().unwrap()).unwrap());
    assert_eq!((index.nodes(), index.dim()), (1500, 32));
    let found = recall(20, 200, |query| index.nearest(query, 20, 200).unwrap().keys, &keys);
    println!("recall {found}");
    assert!(found >= 0.95, "{found}");
}

#[test]
fn a_growing_index_has_what_it_was_given() {
    let mut index = GrowingIndex::new(3, &PARAMETERS).unwrap();
    assert!(index.nearest(&[1.0, 0.0, 0.0], 4, 4).unwrap().keys.is_empty());
    // Keys of 0, then ever smaller and ever larger ones.
    for (node, key) in [[0.0; 3], [0.0; 3], [1e-30, 0.0, 0.0], [1e30, 0.0, 0.0], [-1e30, 1e20, 0.0]].iter().enumerate()
    {
        index.insert(key).unwrap();
        assert_eq!(index.nearest(&[1.0, 0.0, 0.0], 9, 1).unwrap().keys.len(), node + 1);
    }
    assert_eq!(index.nearest(&[1.0, 0.0, 0.0], 5, 9).unwrap().keys, [3, 2, 0, 1, 4]);
}

#[test]
fn the_same_call_gives_the_same_graph() {
    let keys = clustered(6, 700, 16, 20);
    let tables = |seed| {
        let index = Index::new(keys.view(), &Parameters { seed, ..PARAMETERS }).unwrap();
        let lists = |level| (0..700).map(move |node| (level, node));
        let all = (0..=index.highest_level()).flat_map(lists);
        let lists: Vec<Vec<usize>> = all.map(|(l, node)| index.neighbours(l, node).unwrap().to_vec()).collect();
        (index.levels().to_vec(), lists)
    };
    assert_eq!(tables(None), tables(None));
    assert_eq!(tables(Some(1)), tables(Some(1)));
    assert_ne!(tables(Some(1)).0, tables(Some(2)).0);
}

#[test]
fn progress_is_heard() {
    let mut heard = Vec::new();
    Index::with_progress(clustered(6, 9, 4, 3).view(), &PARAMETERS, |done| heard.push(done)).unwrap();
    assert_eq!(heard, (1..=9).collect::<Vec<_>>());
}
