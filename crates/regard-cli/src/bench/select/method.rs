//! The ways to choose blocks, and what they have to go by.

use regard_select::{Budget, Choice, Error, Lesson, Scores, Select, Selector};

/// A way to choose blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// What every way keeps.
    Least,
    Random,
    Nearest,
    AdaptiveWindow,
    ExactWindow,
    Pooled,
    Estimated,
    Learned,
    LearnedTogether,
    Best,
    BestTogether,
    BestAnywhere,
}

/// All, in the order that they are printed in.
pub(crate) const METHODS: [Method; 12] = [
    Method::Least,
    Method::Random,
    Method::Nearest,
    Method::AdaptiveWindow,
    Method::ExactWindow,
    Method::Pooled,
    Method::Estimated,
    Method::Learned,
    Method::LearnedTogether,
    Method::Best,
    Method::BestTogether,
    Method::BestAnywhere,
];

/// What a layer's blocks of a window are chosen by.
pub(crate) struct Known {
    /// Which of the layers.
    pub(crate) layer: usize,
    pub(crate) exact: Scores,
    estimated: Scores,
    pooled: Scores,
    learned: Scores,
    random: Scores,
    nearest: Scores,
}

impl Known {
    pub(crate) fn new(layer: usize, select: &Select<'_>, lesson: &Lesson, selector: &Selector) -> Result<Known, Error> {
        Ok(Known {
            layer,
            exact: lesson.masses().clone(),
            estimated: select.estimated()?,
            pooled: select.pooled()?,
            learned: select.learned(selector)?,
            random: select.random(layer as u64)?,
            nearest: select.nearest()?,
        })
    }
}

impl Method {
    /// For `--only`.
    pub(crate) fn id(self) -> &'static str {
        match self {
            Method::Least => "least",
            Method::Random => "random",
            Method::Nearest => "nearest",
            Method::AdaptiveWindow => "adaptive-window",
            Method::ExactWindow => "exact-window",
            Method::Pooled => "pooled",
            Method::Estimated => "estimated",
            Method::Learned => "learned",
            Method::LearnedTogether => "learned-together",
            Method::Best => "best",
            Method::BestTogether => "best-together",
            Method::BestAnywhere => "best-anywhere",
        }
    }

    pub(crate) fn words(self) -> &'static str {
        match self {
            Method::Least => "the first and its own block",
            Method::Random => "random",
            Method::Nearest => "nearest",
            Method::AdaptiveWindow => "adaptive window *",
            Method::ExactWindow => "… by exact mass *",
            Method::Pooled => "routed by pooled product",
            Method::Estimated => "routed by estimated mass",
            Method::Learned => "learned",
            Method::LearnedTogether => "… one choice a group",
            Method::Best => "best possible",
            Method::BestTogether => "… one choice a group",
            Method::BestAnywhere => "… anywhere *",
        }
    }

    /// Whether it goes by exact masses, which nobody has who would save attention.
    pub(crate) fn knows_all(self) -> bool {
        matches!(self, Method::ExactWindow | Method::Best | Method::BestTogether | Method::BestAnywhere)
    }

    /// What it chooses of what is known. `goal` is the share of the mass that a window is to hold, or each block.
    pub(crate) fn choose(self, known: &Known, budget: Budget, goal: f64) -> Result<Choice, Error> {
        match self {
            Method::Least => known.nearest.top(Budget::Blocks(2)),
            Method::Random => known.random.top(budget),
            Method::Nearest => known.nearest.top(budget),
            Method::AdaptiveWindow => known.estimated.window(goal),
            Method::ExactWindow => known.exact.window(goal),
            Method::Pooled => known.pooled.top(budget),
            Method::Estimated => known.estimated.top(budget),
            Method::Learned => known.learned.top(budget),
            Method::LearnedTogether => known.learned.of_groups().top(budget),
            Method::Best => known.exact.top(budget),
            Method::BestTogether => known.exact.of_groups().top(budget),
            Method::BestAnywhere => known.exact.above(goal),
        }
    }

    /// The same from queries and keys alone; nothing where that needs exact masses.
    pub(crate) fn choose_anew(
        self,
        select: &Select<'_>,
        selector: &Selector,
        budget: Budget,
        goal: f64,
    ) -> Result<Option<Choice>, Error> {
        let choice = match self {
            Method::Least => select.nearest()?.top(Budget::Blocks(2)),
            Method::Random => select.random(0)?.top(budget),
            Method::Nearest => select.nearest()?.top(budget),
            Method::AdaptiveWindow => select.estimated()?.window(goal),
            Method::Pooled => select.pooled()?.top(budget),
            Method::Estimated => select.estimated()?.top(budget),
            Method::Learned => select.learned(selector)?.top(budget),
            Method::LearnedTogether => select.learned(selector)?.of_groups().top(budget),
            Method::ExactWindow | Method::Best | Method::BestTogether | Method::BestAnywhere => return Ok(None),
        };
        choice.map(Some)
    }

    /// The share of the mass at which a method that goes by one takes as many blocks as a budget allows, over all that is known,
    /// and no more; of another method nothing.
    pub(crate) fn goal(self, known: &[Known], budget: Budget) -> Result<f64, Error> {
        let grows = match self {
            Method::AdaptiveWindow | Method::ExactWindow => true,
            // The more each block has to hold, the fewer they are.
            Method::BestAnywhere => false,
            _ => return Ok(f64::NAN),
        };
        let count = |choices: &mut dyn Iterator<Item = Result<Choice, Error>>| -> Result<usize, Error> {
            choices.map(|choice| Ok(choice?.count())).sum()
        };
        let allowed = count(&mut known.iter().map(|known| known.nearest.top(budget)))?;
        let (mut low, mut high) = (0.0, 1.0);
        // A share is told to a millionth.
        for _ in 0..20 {
            let goal = 0.5 * (low + high);
            let has = count(&mut known.iter().map(|known| self.choose(known, budget, goal)))?;
            *(if (has <= allowed) == grows { &mut low } else { &mut high }) = goal;
        }
        // A window has to hold something.
        Ok(if grows { low.max(f64::MIN_POSITIVE) } else { high })
    }
}
