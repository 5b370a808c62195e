//! Scores, choices and their masks, row by row.

use ndarray::{Array4, ArrayView2};
use proptest::prelude::*;
use regard_attention::{Attention, Direction, Offset};
use regard_select::{Budget, Choice, Scores};

use crate::naive::{Call, Place, calls};

/// What stands in a table for each row and column that is seen, beside what it should be.
fn agree(call: &Call, scores: &Scores, naive: impl Fn(Place, &[usize], &[usize]) -> f64) -> Result<(), TestCaseError> {
    let columns = call.columns();
    for place in call.places() {
        let table: ArrayView2<'_, f64> = scores.of(place.0, place.1);
        prop_assert_eq!(table.dim(), (call.rows().len(), columns.len()));
        for (row, (_, queries)) in call.rows().iter().enumerate() {
            let seen = call.seen(queries);
            for (column, keys) in columns.iter().enumerate() {
                let has = table[[row, column]];
                if !seen.contains(&column) {
                    prop_assert_eq!(has, f64::NEG_INFINITY);
                    continue;
                }
                let expected = naive(place, queries, keys);
                prop_assert!((has - expected).abs() <= 1e-9 * (1.0 + expected.abs()), "{has} and {expected}");
            }
        }
    }
    Ok(())
}

/// The columns that a row keeps.
fn kept(choice: &Choice, (b, h): Place, row: usize) -> Vec<usize> {
    choice.of(b, h).row(row).iter().enumerate().filter(|(_, kept)| **kept).map(|(column, _)| column).collect()
}

/// A mask's pairs are those of the blocks that are kept which live, at the call's own positions.
fn mask_is_of(call: &Call, choice: &Choice) -> Result<(), TestCaseError> {
    let mask = choice.mask().unwrap();
    for (b, h) in call.places() {
        let mask = mask.select(b, h);
        for (row, (_, queries)) in call.rows().iter().enumerate() {
            let of_row = kept(choice, (b, h), row);
            for &i in queries {
                for j in 0..call.keys() {
                    let expected = call.sees(i, j) && of_row.contains(&(j / call.size));
                    prop_assert_eq!(mask.allows(call.position(i) as i64, j, call.keys()), expected);
                }
            }
        }
    }
    Ok(())
}

fn budgets() -> impl Strategy<Value = Budget> {
    prop_oneof![(1..9_usize).prop_map(Budget::Blocks), (0.0..=1.0).prop_map(Budget::Share)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn scores_are_what_they_say(call in calls()) {
        let select = call.select();
        agree(&call, &select.pooled().unwrap(), |place, queries, keys| call.pooled(place, queries, keys))?;
        agree(&call, &select.estimated().unwrap(), |place, queries, keys| call.estimated(place, queries, keys))?;
        agree(&call, &select.exact().unwrap(), |place, queries, keys| call.mass(place, queries, keys).ln())?;
        let row_of = |i: usize| call.position(i) / call.size;
        let last = call.columns().len() - 1;
        agree(&call, &select.nearest().unwrap(), |_, queries, keys| {
            -(row_of(queries[0]).min(last).abs_diff(keys[0] / call.size) as f64)
        })?;
    }

    /// The row's own block, the first, and of the others those that no other one beats.
    #[test]
    fn the_best_are_kept(call in calls(), budget in budgets()) {
        let select = call.select();
        for scores in [select.pooled(), select.estimated(), select.exact(), select.random(3)] {
            let scores = scores.unwrap();
            let choice = scores.top(budget).unwrap();
            mask_is_of(&call, &choice)?;
            let (mut count, mut all) = (0, 0);
            for place in call.places() {
                for (row, (block, queries)) in call.rows().into_iter().enumerate() {
                    let (seen, has) = (call.seen(&queries), kept(&choice, place, row));
                    let own = block.min(call.columns().len() - 1);
                    let wanted = match budget {
                        Budget::Blocks(count) => count,
                        Budget::Share(share) => (share * seen.len() as f64).floor() as usize,
                    };
                    prop_assert_eq!(has.len(), wanted.max(2).min(seen.len()), "row {} of {:?}", row, &call);
                    prop_assert!(has.contains(&0) && has.contains(&own) && has.iter().all(|column| seen.contains(column)));
                    let score = |column: &usize| scores.of(place.0, place.1)[[row, *column]];
                    let chosen = has.iter().filter(|&&column| column != 0 && column != own);
                    let least = chosen.map(score).fold(f64::INFINITY, f64::min);
                    let left = seen.iter().filter(|column| !has.contains(column));
                    prop_assert!(left.map(score).all(|other| other <= least));
                    (count, all) = (count + has.len(), all + seen.len());
                }
            }
            prop_assert_eq!(choice.count(), count);
            prop_assert!((choice.share() - count as f64 / all as f64).abs() < 1e-12);
        }
    }

    /// Of all windows the narrowest that holds its share.
    #[test]
    fn windows_are_the_narrowest(call in calls(), share in 0.01..=1.0_f64) {
        let choice = call.select().estimated().unwrap().window(share).unwrap();
        mask_is_of(&call, &choice)?;
        let columns = call.columns();
        for place in call.places() {
            for (row, (block, queries)) in call.rows().into_iter().enumerate() {
                let seen = call.seen(&queries);
                let masses: Vec<f64> =
                    seen.iter().map(|&column| call.estimated(place, &queries, &columns[column]).exp()).collect();
                let own = block.min(columns.len() - 1);
                let of_width = |reach: usize| -> Vec<usize> {
                    seen.iter().copied().filter(|&column| column == 0 || column.abs_diff(own) <= reach).collect()
                };
                let held = |reach| of_width(reach).iter().map(|&column| masses[column]).sum::<f64>();
                let all: f64 = masses.iter().sum();
                let narrowest = (0..columns.len()).find(|&reach| held(reach) >= share * all * (1.0 - 1e-9));
                prop_assert_eq!(kept(&choice, place, row), of_width(narrowest.unwrap_or(columns.len())));
            }
        }
    }

    /// Blocks that hold enough each.
    #[test]
    fn what_holds_enough_is_kept(call in calls(), share in 0.0..0.4_f64) {
        let choice = call.select().exact().unwrap().above(share).unwrap();
        mask_is_of(&call, &choice)?;
        let columns = call.columns();
        for place in call.places() {
            for (row, (block, queries)) in call.rows().into_iter().enumerate() {
                let own = block.min(columns.len() - 1);
                let holds = |column: &usize| call.mass(place, &queries, &columns[*column]) >= share;
                let expected: Vec<usize> =
                    call.seen(&queries).into_iter().filter(|column| [0, own].contains(column) || holds(column)).collect();
                prop_assert_eq!(kept(&choice, place, row), expected);
            }
        }
    }

    /// The mass that is kept is that of the engine's own log-sum-exps.
    #[test]
    fn the_mass_that_is_kept_is_the_engine_s(call in calls(), budget in budgets()) {
        let select = call.select();
        let exact = select.exact().unwrap();
        let choice = select.pooled().unwrap().top(budget).unwrap();
        let (batch, kv_heads, keys, _) = call.k.dim();
        let values = Array4::<f32>::zeros((batch, kv_heads, keys, 1));
        let run = |mask| {
            let attention = Attention::new(call.q.view(), call.k.view(), values.view()).mask(mask).scale(call.scale());
            attention.offset(Offset::Same(call.position(0) as i64)).state().unwrap().1
        };
        let all = match call.direction {
            Direction::Causal => regard_masks::Mask::causal(),
            Direction::Both => regard_masks::Mask::full(),
        };
        let (part, whole) = (run(choice.mask().unwrap()), run(all));
        let shares: Vec<f64> = part.iter().zip(&whole).map(|(part, whole)| f64::from(part - whole).exp()).collect();
        let expected = shares.iter().sum::<f64>() / shares.len() as f64;
        let has = exact.kept(&choice).unwrap();
        prop_assert!((has - expected).abs() < 1e-4, "{has} and {expected}");
        let best = exact.kept(&exact.top(budget).unwrap()).unwrap();
        prop_assert!(best >= has - 1e-12 && best <= 1.0 + 1e-12);
    }

    /// What follows a row's block changes nothing of it.
    #[test]
    fn later_blocks_change_no_choice(call in calls(), share in 0.1..1.0_f64) {
        let call = Call { direction: Direction::Causal, offset: None, ..call };
        prop_assume!(call.queries() <= call.keys() && call.rows().len() > 1);
        let choices = |call: &Call| {
            let scores = [call.select().pooled().unwrap(), call.select().estimated().unwrap()];
            [scores[0].top(Budget::Share(share)).unwrap(), scores[1].window(share).unwrap()]
        };
        let (row, (block, _)) = call.rows().into_iter().enumerate().next_back().unwrap();
        let mut other = call.clone();
        let from = block * call.size;
        other.k.indexed_iter_mut().filter(|((_, _, j, _), _)| *j >= from).for_each(|(_, x)| *x = 3.0 - *x);
        other.q.indexed_iter_mut().filter(|((_, _, i, _), _)| call.position(*i) >= from).for_each(|(_, x)| *x *= -2.0);
        for (one, other) in choices(&call).iter().zip(&choices(&other)) {
            for place in call.places() {
                prop_assert!((0..row).all(|row| kept(one, place, row) == kept(other, place, row)));
            }
        }
    }

    /// Heads of a group choose as one: by the mean of what each would.
    #[test]
    fn groups_choose_together(call in calls()) {
        let scores = call.select().estimated().unwrap();
        let group = call.q.dim().1 / call.k.dim().1;
        let of_groups = scores.of_groups();
        for (b, h) in call.places() {
            for (row, (_, queries)) in call.rows().iter().enumerate() {
                let seen = call.seen(queries);
                let softmax = |h: usize| -> Vec<f64> {
                    let weights: Vec<f64> = seen.iter().map(|&column| scores.of(b, h)[[row, column]].exp()).collect();
                    weights.iter().map(|weight| weight / weights.iter().sum::<f64>()).collect()
                };
                let members: Vec<_> = (h / group * group..h / group * group + group).map(softmax).collect();
                for (at, &column) in seen.iter().enumerate() {
                    let mean = members.iter().map(|member| member[at]).sum::<f64>() / group as f64;
                    let has = of_groups.of(b, h)[[row, column]].exp();
                    prop_assert!((has - mean).abs() <= 1e-9, "{has} and {mean}");
                }
            }
        }
    }
}

#[test]
fn one_token_sees_itself() {
    let x = Array4::<f32>::ones((1, 1, 1, 3));
    let select = regard_select::Select::new(x.view(), x.view());
    let choice = select.estimated().unwrap().window(0.5).unwrap();
    assert_eq!((choice.count(), choice.share()), (1, 1.0));
    assert_eq!(select.pooled().unwrap().top(Budget::Share(0.0)).unwrap(), choice);
    assert_eq!(choice.to_string(), "1 of 1 blocks (100.0%)");
}

#[test]
fn random_choices_follow_from_their_seed() {
    let x = crate::naive::draw(5, (2, 2, 200, 3), 1.0);
    let select = regard_select::Select::new(x.view(), x.view()).block(8);
    let choice = |seed| select.random(seed).unwrap().top(Budget::Share(0.3)).unwrap();
    assert_eq!(choice(1), choice(1));
    assert_ne!(choice(1), choice(2));
    assert_ne!(choice(1).of(0, 0), choice(1).of(1, 1));
}
