//! How a graph is built.

use crate::Error;

/// How an index is built, in the words of Malkov and Yashunin, 2016 ("Efficient and robust approximate nearest neighbor search
/// using Hierarchical Navigable Small World graphs"). The defaults are those that the field starts from.
///
/// ```
/// use regard_graph::Parameters;
///
/// let denser = Parameters { links: 32, ef_construction: 200, ..Parameters::default() };
/// # let _ = denser;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// `M`: links of a node on each level, at most; twice as many on level 0. 2 to 255.
    pub links: usize,
    /// Nodes that are looked at for the links of a new one: the more, the better they are and the longer it takes. 1 to 65536.
    pub ef_construction: usize,
    /// Nodes are inserted in an order that is drawn from this, each in its own place unless given. Another order is another
    /// graph, and other nodes get the upper levels.
    pub seed: Option<u64>,
}

impl Default for Parameters {
    fn default() -> Self {
        Parameters { links: 16, ef_construction: 100, seed: None }
    }
}

impl Parameters {
    pub(crate) fn check(&self) -> Result<(), Error> {
        within("links", self.links, 2, 255)?;
        within("ef_construction", self.ef_construction, 1, 1 << 16)
    }

    /// Of an index that grows.
    pub(crate) fn check_without_seed(&self) -> Result<(), Error> {
        let Some(seed) = self.seed else { return Ok(()) };
        let expected = "none where keys are inserted in their own order".into();
        Err(Error::Parameter { parameter: "seed", has: seed.to_string(), expected })
    }
}

fn within(parameter: &'static str, has: usize, least: usize, most: usize) -> Result<(), Error> {
    if (least..=most).contains(&has) {
        return Ok(());
    }
    Err(Error::Parameter { parameter, has: has.to_string(), expected: format!("{least} to {most}") })
}
