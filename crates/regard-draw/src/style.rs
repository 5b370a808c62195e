//! How a picture looks.

use crate::Error;

/// How a picture looks.
///
/// ```
/// use regard_draw::{Style, Theme};
///
/// let style = Style { cells: 64, theme: Theme::Dark, ..Style::default() };
/// assert_eq!(style.size, 512);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Style {
    /// The most cells down and across, 1 to 1024. What is larger is shaded.
    pub cells: usize,
    /// The most pixels that the longer side of the drawn pairs takes, from `cells` to 8192. Words stand around it.
    pub size: usize,
    /// Light or dark.
    pub theme: Theme,
    /// The picture's title; unless given, the mask's expression.
    pub title: Option<String>,
}

/// The background that a picture is made for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Theme {
    /// An SVG follows the reader's choice. A PNG cannot, and is light.
    #[default]
    Reader,
    /// Dark words on white.
    Light,
    /// Light words on near black.
    Dark,
}

impl Default for Style {
    /// At most 128 × 128 cells and 512 × 512 pixels, light or dark as the reader has chosen.
    fn default() -> Self {
        Self { cells: 128, size: 512, theme: Theme::Reader, title: None }
    }
}

impl Style {
    const MAX_CELLS: usize = 1024;
    const MAX_SIZE: usize = 8192;

    pub(crate) fn check(&self) -> Result<(), Error> {
        let within = |what, has, least, most| {
            let expected = || format!("{least} to {most}");
            if (least..=most).contains(&has) { Ok(()) } else { Err(Error::Style { what, has, expected: expected() }) }
        };
        within("cells", self.cells, 1, Self::MAX_CELLS)?;
        within("size", self.size, self.cells, Self::MAX_SIZE)
    }
}
