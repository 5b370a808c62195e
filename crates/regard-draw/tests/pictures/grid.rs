//! Grids against the mask's definition.

use proptest::prelude::*;
use regard_draw::{Error, Grid};
use regard_masks::Mask;

use crate::support::{allows, masks};

proptest! {
    #[test]
    fn a_cell_counts_the_pairs_that_the_mask_allows(
        mask in masks(),
        n_q in 1..90_usize,
        n_k in 1..150_usize,
        offset in -60..90_i64,
        most in [1..100_usize, 1..160_usize],
    ) {
        let grid = Grid::new(&mask, n_q, n_k, offset, most).unwrap();
        let [queries, keys] = grid.cell();
        prop_assert!(grid.rows() <= most[0] && grid.columns() <= most[1]);
        // Cells are as small as they can be.
        prop_assert!(queries == 1 || n_q.div_ceil(queries - 1) > most[0]);
        prop_assert!(keys == 1 || n_k.div_ceil(keys - 1) > most[1]);
        let (mut live, mut pairs) = (vec![0; grid.rows() * grid.columns()], vec![0; grid.rows() * grid.columns()]);
        let mut runs = 0;
        for i in 0..n_q {
            for j in 0..n_k {
                let cell = i / queries * grid.columns() + j / keys;
                let lives = allows(&mask, i, j, n_k, offset);
                live[cell] += u64::from(lives);
                pairs[cell] += 1;
                runs += u64::from(lives && (j == 0 || !allows(&mask, i, j - 1, n_k, offset)));
            }
        }
        for row in 0..grid.rows() {
            for column in 0..grid.columns() {
                prop_assert_eq!(grid.live(row, column), live[row * grid.columns() + column]);
                prop_assert_eq!(grid.pairs(row, column), pairs[row * grid.columns() + column]);
            }
        }
        let total: u64 = live.iter().sum();
        prop_assert_eq!(grid.live_pairs(), total);
        prop_assert_eq!(grid.runs(), runs);
        prop_assert!((grid.density() - total as f64 / (n_q * n_k) as f64).abs() < 1e-12);
    }

    #[test]
    fn pair_by_pair_the_text_is_that_of_the_mask(mask in masks(), n_q in 1..40_usize, n_k in 1..80_usize, offset in -9..60_i64) {
        let grid = Grid::new(&mask, n_q, n_k, offset, [40, 80]).unwrap();
        prop_assert_eq!(grid.to_string(), mask.draw(n_q, n_k, offset).to_string());
    }
}

#[test]
fn text_tells_thirds() {
    // One query whose cells of 9 keys have 0, 1, 3, 5, 6, 8 and 9 live ones.
    let kept: Vec<bool> = [0, 1, 3, 5, 6, 8, 9].iter().flat_map(|&live| (0..9).map(move |key| key < live)).collect();
    let grid = Grid::new(&Mask::keys(&kept), 1, 63, 0, [1, 7]).unwrap();
    assert_eq!(grid.to_string(), "·░▒▒▓▓█\n");
}

#[test]
fn a_grid_costs_its_runs_and_not_its_pairs() {
    // 2⁵² pairs.
    let grid = Grid::new(&Mask::window(Some(10), Some(10)), 1 << 20, 1 << 32, 0, [16, 16]).unwrap();
    assert_eq!(grid.live_pairs(), 21 * (1 << 20) - 55);
    assert_eq!(grid.runs(), 1 << 20);
    assert_eq!([grid.live(0, 0), grid.live(1, 0), grid.live(0, 1)], [21 * (1 << 16) - 55, 21 * (1 << 16), 0]);
}

#[test]
fn positions_at_the_ends_of_their_type_are_drawn() {
    for (offset, live) in [(i64::MAX, 15), (i64::MAX - 1, 15), (i64::MIN, 0)] {
        let grid = Grid::new(&Mask::causal(), 3, 5, offset, [9, 9]).unwrap();
        assert_eq!(grid.live_pairs(), live);
    }
}

#[test]
fn what_is_out_of_proportion_is_refused() {
    let grid = |mask: &Mask, n_q, n_k| Grid::new(mask, n_q, n_k, 0, [8, 8]).map(|grid| grid.live_pairs());
    let full = Mask::full();
    assert_eq!(grid(&full, 0, 5), Err(Error::Empty { n_q: 0, n_k: 5 }));
    assert_eq!(grid(&full, 5, 0), Err(Error::Empty { n_q: 5, n_k: 0 }));
    assert_eq!(Grid::new(&full, 5, 5, 0, [0, 8]), Err(Error::Empty { n_q: 5, n_k: 5 }));
    assert_eq!(grid(&full, 1, (1 << 32) + 1), Err(Error::TooManyKeys { n_k: (1 << 32) + 1 }));
    assert_eq!(grid(&full, usize::MAX, 1), Err(Error::TooManyRuns { n_q: usize::MAX, n_k: 1 }));
    // A row of half a billion runs is not listed; a million rows of thousands are given up.
    let strided = Mask::strided(2).unwrap();
    assert_eq!(grid(&strided, 1, 1 << 30), Err(Error::TooManyRuns { n_q: 1, n_k: 1 << 30 }));
    assert_eq!(grid(&strided, 1 << 20, 1 << 15), Err(Error::TooManyRuns { n_q: 1 << 20, n_k: 1 << 15 }));
    assert_eq!(grid(&full, 1 << 10, 1 << 32), Ok(1 << 42));
}
