//! Texts of which the answer is known.

use ndarray::Array4;
use regard_select::{Budget, Select};

/// Eight tokens a block, each block of one kind of a few; a query looks for keys of its own kind.
fn kinds(blocks: usize, kinds: usize) -> (Array4<f32>, Vec<usize>) {
    let kind = |block: usize| block * block * 7 % kinds;
    let x = Array4::from_shape_fn((1, 2, blocks * 8, kinds), |(_, h, i, c)| {
        let noise = ((h + i * 31 + c * 17) as f32).sin() * 0.2;
        if c == kind(i / 8) { 8.0 + noise } else { noise }
    });
    (x, (0..blocks).map(kind).collect())
}

#[test]
fn routing_finds_the_blocks_of_its_kind() {
    let (x, kind) = kinds(40, 10);
    let select = Select::new(x.view(), x.view()).block(8);
    let choice = select.pooled().unwrap().top(Budget::Blocks(6)).unwrap();
    let mut found = 0;
    for h in 0..2 {
        for row in 0..40 {
            let same: Vec<_> = (1..row).rev().filter(|&column| kind[column] == kind[row]).collect();
            // As many as there is room for.
            let has = choice.of(0, h).row(row).to_vec();
            let hits = same.iter().filter(|&&column| has[column]).count();
            assert_eq!(hits, same.len().min(4), "row {row}");
            found += hits;
        }
    }
    assert!(found > 100, "there is something to find: {found}");
    let (exact, near) = (select.exact().unwrap(), select.nearest().unwrap().top(Budget::Blocks(6)).unwrap());
    let [routed, near] = [&choice, &near].map(|choice| exact.kept(choice).unwrap());
    assert!(routed > 0.9 && near < 0.7, "{routed} and {near}");
}

/// Where only the nearest keys are alike a narrow window does; where all are, none does.
#[test]
fn windows_are_as_wide_as_what_they_have_to_hold() {
    let turn = |frequency: f32| {
        Array4::from_shape_fn((1, 1, 512, 2), |(_, _, i, c)| {
            let angle = i as f32 * frequency;
            6.0 * if c == 0 { angle.cos() } else { angle.sin() }
        })
    };
    // A quarter turn over the whole text, and none.
    let (slow, still) = (turn(std::f32::consts::PI / 512.0), turn(0.0));
    let widths = [&slow, &still].map(|x| {
        let select = Select::new(x.view(), x.view()).block(16);
        let choice = select.estimated().unwrap().window(0.9).unwrap();
        // The estimate holds what it says, nearly.
        let kept = select.exact().unwrap().kept(&choice).unwrap();
        assert!((0.85..=1.0).contains(&kept), "{kept}");
        choice.of(0, 0).row(31).iter().filter(|kept| **kept).count()
    });
    assert!(widths[0] <= 12 && widths[1] >= 28, "{widths:?}");
}

/// Normal keys are what the estimate is made for.
#[test]
fn the_estimate_is_near_the_mass_of_normal_keys() {
    let k = crate::naive::draw(9, (1, 1, 4096, 8), 1.0);
    let means = crate::naive::draw(10, (1, 1, 16, 8), 1.0);
    let deviations = crate::naive::draw(11, (1, 1, 16, 8), 0.5).mapv(f32::abs);
    let k = Array4::from_shape_fn(k.dim(), |(b, h, j, c)| {
        means[[0, 0, j / 256, c]] + deviations[[0, 0, j / 256, c]] * k[[b, h, j, c]]
    });
    let q = Array4::from_elem((1, 1, 1, 8), 1.0);
    let select = Select::new(q.view(), k.view()).block(256);
    let exact = select.exact().unwrap();
    let (estimated, pooled) = (select.estimated().unwrap(), select.pooled().unwrap());
    let off = |scores: &regard_select::Scores| {
        let sum: f64 = scores.of(0, 0).iter().map(|score| score.exp()).sum();
        let (has, exact) = (scores.of(0, 0), exact.of(0, 0));
        let shares = has.iter().zip(exact).map(|(score, exact)| (score.exp() / sum / exact.exp()).ln().abs());
        shares.fold(0.0, f64::max)
    };
    assert!(off(&estimated) < 0.1 && off(&pooled) > 0.15, "{} and {}", off(&estimated), off(&pooled));
}
