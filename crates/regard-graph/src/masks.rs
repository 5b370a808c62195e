//! Masks that follow from the graph.

use regard_masks::{Edges, Mask};

use crate::{Error, Index};

/// Masks over the nodes of the index: query `p` is node `p`, and sees no keys beyond the nodes. With `Mask::causal()` they
/// combine by `&`, as all masks do.
///
/// ```
/// use ndarray::Array2;
/// use regard_graph::{Index, Parameters};
/// use regard_masks::{Edges, Mask};
///
/// let keys = Array2::from_shape_fn((64, 8), |(i, c)| ((i * 5 + c * c * i) as f32).sin());
/// let index = Index::new(keys.view(), &Parameters { links: 4, ..Parameters::default() })?;
/// let mask = Mask::causal() & index.edges(Edges::Directed)?;
/// assert!(mask.allows(9, 9, 64) && !mask.allows(9, 10, 64));
/// # Ok::<(), regard_graph::Error>(())
/// ```
impl Index {
    /// Every query sees the nodes whose level is at least `level`. With level 0 these are all nodes: the mask is dense.
    ///
    /// # Errors
    /// [`Error::Level`] where no node is as high.
    pub fn layers(&self, level: usize) -> Result<Mask, Error> {
        if level > self.highest_level() {
            return Err(Error::Level { has: level, highest: self.highest_level() });
        }
        Ok(Mask::global_keys(self.at_least(level)))
    }

    /// Node `i` sees the nodes whose level is at least its own. Most nodes are on level 0 alone and see all, so the mask is
    /// nearly dense: of its rows about one in `links` leaves out anything.
    pub fn hierarchy(&self) -> Mask {
        let of_level = |level: usize| {
            let nodes = self.levels().iter().enumerate();
            let own = nodes.filter(move |(_, has)| usize::from(**has) == level).map(|(node, _)| node);
            Mask::global_queries(own) & Mask::global_keys(self.at_least(level))
        };
        (1..=self.highest_level()).fold(of_level(0), |mask, level| mask | of_level(level))
    }

    /// Node `i` sees its neighbours on all of its levels, and itself; where edges are symmetric also the nodes whose neighbour
    /// it is.
    ///
    /// # Errors
    /// [`Error::Mask`] where there are more edges than a mask can number.
    pub fn edges(&self, edges: Edges) -> Result<Mask, Error> {
        let (mut offsets, mut targets) = (vec![0], Vec::new());
        for node in 0..self.nodes() {
            targets.extend(self.neighbours_of(node));
            targets.push(node);
            offsets.push(targets.len());
        }
        Ok(Mask::edges(&offsets, &targets, edges)?)
    }

    /// The edges together with a window of `window` keys, half of them to each side: `⌊window/2⌋` before a query's own key and
    /// as many after. Unless given it is twice the graph's mean degree, rounded, so that near keys and linked ones are about as
    /// many.
    ///
    /// # Errors
    /// As [`edges`](Self::edges).
    pub fn adaptive(&self, window: Option<usize>) -> Result<Mask, Error> {
        let reach = window.unwrap_or_else(|| (2.0 * self.mean_degree()).round() as usize) / 2;
        Ok(self.edges(Edges::Directed)? | Mask::window(Some(reach), Some(reach)))
    }

    /// The nodes whose level is at least `level`.
    fn at_least(&self, level: usize) -> impl Iterator<Item = usize> {
        let nodes = self.levels().iter().enumerate();
        nodes.filter(move |(_, has)| usize::from(**has) >= level).map(|(node, _)| node)
    }
}
