//! Masks, as the oracle reads them.

use proptest::prelude::*;
use regard_masks::Mask;

/// An expression of sets of pairs.
#[derive(Clone, Debug)]
pub(crate) enum Set {
    Full,
    Causal,
    Window(Option<usize>, Option<usize>),
    Prefix(usize),
    Not(Box<Set>),
    And(Box<Set>, Box<Set>),
    Or(Box<Set>, Box<Set>),
}

impl Set {
    /// The definitions, word for word.
    pub(crate) fn holds(&self, p: i64, j: usize) -> bool {
        let key = j as i64;
        match self {
            Set::Full => true,
            Set::Causal => key <= p,
            Set::Window(left, right) => {
                left.is_none_or(|left| p - left as i64 <= key) && right.is_none_or(|right| key <= p + right as i64)
            }
            Set::Prefix(n) => j < *n,
            Set::Not(a) => !a.holds(p, j),
            Set::And(a, b) => a.holds(p, j) && b.holds(p, j),
            Set::Or(a, b) => a.holds(p, j) || b.holds(p, j),
        }
    }

    pub(crate) fn mask(&self) -> Mask {
        match self {
            Set::Full => Mask::full(),
            Set::Causal => Mask::causal(),
            Set::Window(left, right) => Mask::window(*left, *right),
            Set::Prefix(n) => Mask::prefix(*n),
            Set::Not(a) => !a.mask(),
            Set::And(a, b) => a.mask() & b.mask(),
            Set::Or(a, b) => a.mask() | b.mask(),
        }
    }

    /// The keys up to the query's own, and of these the last `window`.
    pub(crate) fn causal_window(window: usize) -> Set {
        Set::And(Box::new(Set::Causal), Box::new(Set::Window(Some(window), None)))
    }
}

/// The masks of models, and expressions that no model has.
pub(crate) fn sets() -> impl Strategy<Value = Set> {
    let distance = || prop_oneof![3 => 0..90_usize, 1 => 0..1500_usize];
    let bound = move || prop_oneof![1 => Just(None), 4 => distance().prop_map(Some)];
    let primitive = prop_oneof![
        2 => Just(Set::Full),
        4 => Just(Set::Causal),
        2 => (bound(), bound()).prop_map(|(left, right)| Set::Window(left, right)),
        2 => distance().prop_map(Set::causal_window),
        1 => distance().prop_map(Set::Prefix),
    ];
    primitive.prop_recursive(3, 8, 2, |set| {
        prop_oneof![
            set.clone().prop_map(|a| Set::Not(Box::new(a))),
            (set.clone(), set.clone()).prop_map(|(a, b)| Set::And(Box::new(a), Box::new(b))),
            (set.clone(), set).prop_map(|(a, b)| Set::Or(Box::new(a), Box::new(b))),
        ]
    })
}
