//! What is drawn with, and its colours.
//!
//! Blue, orange and reddish purple are those of Okabe and Ito, <https://jfly.uni-koeln.de/color/>: readers without red,
//! green or blue cones tell them apart, and they differ in lightness too.

/// What is drawn with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ink {
    Paper,
    /// Words, and words of less weight.
    Text,
    Soft,
    /// Nothing lives here.
    Empty,
    /// Pairs live, so many of a cell's: 1 to [`Ink::ALL_LIVE`].
    Live(u8),
    /// Blocks of a layout.
    Full,
    Rim,
    Gathered,
}

/// A colour of the standard RGB space.
pub(crate) type Rgb = [u8; 3];

impl Ink {
    /// The level of a cell all of whose pairs live.
    pub(crate) const ALL_LIVE: u8 = 16;

    /// The ink of a cell `live` of whose `all` pairs live. Only an empty cell is drawn as empty, only a full one as full.
    pub(crate) fn of_share(live: u64, all: u64) -> Self {
        let level = live as f64 / all as f64 * f64::from(Self::ALL_LIVE);
        match live {
            0 => Self::Empty,
            live if live == all => Self::Live(Self::ALL_LIVE),
            _ => Self::Live((level.round() as u8).clamp(1, Self::ALL_LIVE - 1)),
        }
    }

    /// The name under which an SVG knows the ink.
    pub(crate) fn class(self) -> &'static str {
        match self {
            Self::Paper => "paper",
            Self::Text => "text",
            Self::Soft => "soft",
            Self::Empty => "empty",
            Self::Live(_) => "live",
            Self::Full => "full",
            Self::Rim => "rim",
            Self::Gathered => "gathered",
        }
    }

    /// How much it covers what is below, in thousandths. What hardly lives still shows.
    pub(crate) fn opacity(self) -> u32 {
        const FAINTEST: u32 = 150;
        match self {
            Self::Live(level) => FAINTEST + (1000 - FAINTEST) * u32::from(level) / u32::from(Self::ALL_LIVE),
            _ => 1000,
        }
    }

    /// The colour at full opacity.
    pub(crate) fn colour(self, dark: bool) -> Rgb {
        let [light, dark_one] = match self {
            Self::Paper => [[0xff, 0xff, 0xff], [0x0d, 0x11, 0x17]],
            Self::Text => [[0x1f, 0x23, 0x28], [0xe6, 0xed, 0xf3]],
            Self::Soft => [[0x59, 0x63, 0x6e], [0x91, 0x98, 0xa1]],
            Self::Empty => [[0xe8, 0xec, 0xf0], [0x24, 0x2a, 0x32]],
            // Blue, and the sky blue of the same set where it is dark.
            Self::Live(_) | Self::Full => [[0x00, 0x72, 0xb2], [0x56, 0xb4, 0xe9]],
            Self::Rim => [[0xe6, 0x9f, 0x00], [0xe6, 0x9f, 0x00]],
            Self::Gathered => [[0xcc, 0x79, 0xa7], [0xcc, 0x79, 0xa7]],
        };
        if dark { dark_one } else { light }
    }

    /// The colour as it shows: what is translucent lies on [`Ink::Empty`].
    pub(crate) fn shown(self, dark: bool) -> Rgb {
        mix(Self::Empty.colour(dark), self.colour(dark), self.opacity(), 1000)
    }
}

/// The colour between two: `part` of `whole` of the way from `below` to `above`.
pub(crate) fn mix(below: Rgb, above: Rgb, part: u32, whole: u32) -> Rgb {
    let mut mixed = below;
    for (mixed, above) in mixed.iter_mut().zip(above) {
        let sum = u32::from(*mixed) * (whole - part) + u32::from(above) * part;
        *mixed = ((sum + whole / 2) / whole) as u8;
    }
    mixed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_nothing_is_empty_and_only_all_is_full() {
        let large = 1 << 50;
        assert_eq!(Ink::of_share(0, large), Ink::Empty);
        assert_eq!(Ink::of_share(1, large), Ink::Live(1));
        assert_eq!(Ink::of_share(large / 2, large), Ink::Live(8));
        assert_eq!(Ink::of_share(large - 1, large), Ink::Live(15));
        assert_eq!(Ink::of_share(large, large), Ink::Live(16));
        assert_eq!(Ink::of_share(1, 1), Ink::Live(16));
    }

    #[test]
    fn every_level_looks_different() {
        for dark in [false, true] {
            let mut seen: Vec<Rgb> = (1..=Ink::ALL_LIVE).map(|level| Ink::Live(level).shown(dark)).collect();
            seen.push(Ink::Empty.shown(dark));
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen.len(), 17);
            assert_eq!(Ink::Live(Ink::ALL_LIVE).shown(dark), Ink::Full.colour(dark));
        }
    }

    #[test]
    fn mixed_colours_lie_between() {
        assert_eq!(mix([0, 10, 200], [100, 20, 100], 0, 4), [0, 10, 200]);
        assert_eq!(mix([0, 10, 200], [100, 20, 100], 1, 4), [25, 13, 175]);
        assert_eq!(mix([0, 10, 200], [100, 20, 100], 4, 4), [100, 20, 100]);
    }
}
