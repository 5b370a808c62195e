//! What is in a picture, before it is SVG or PNG.

use crate::ink::Ink;

/// Areas and words on paper, in pixels from the upper left corner.
#[derive(Clone, Debug)]
pub(crate) struct Scene {
    pub(crate) width: usize,
    pub(crate) height: usize,
    /// For readers who do not see the picture.
    pub(crate) title: String,
    pub(crate) description: String,
    /// Areas of one ink each; later ones lie on earlier ones.
    pub(crate) layers: Vec<(Ink, Vec<Area>)>,
    pub(crate) labels: Vec<Label>,
}

/// A filled rectangle.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Area {
    pub(crate) x: usize,
    pub(crate) y: usize,
    pub(crate) width: usize,
    pub(crate) height: usize,
}

/// Words on one line.
#[derive(Clone, Debug)]
pub(crate) struct Label {
    pub(crate) x: usize,
    /// Where the letters stand.
    pub(crate) baseline: usize,
    pub(crate) anchor: Anchor,
    pub(crate) ink: Ink,
    pub(crate) bold: bool,
    pub(crate) text: String,
}

/// Which part of the words is at `x`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Anchor {
    Start,
    Middle,
    End,
}
