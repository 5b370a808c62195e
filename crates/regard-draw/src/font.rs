//! Letters of a PNG.

use noto_sans_mono_bitmap::{FontWeight, RasterHeight, RasterizedChar, get_raster, get_raster_width};

const HEIGHT: RasterHeight = RasterHeight::Size16;
/// From the top of a letter's bitmap to the line on which it stands.
pub(crate) const ASCENT: usize = 13;

/// The width of every letter.
pub(crate) fn width() -> usize {
    get_raster_width(FontWeight::Regular, HEIGHT)
}

/// The letters as bitmaps, of which those of Latin-1 exist. Others are spelled with these, or are a question mark.
pub(crate) fn letters(text: &str, bold: bool) -> Vec<RasterizedChar> {
    let weight = if bold { FontWeight::Bold } else { FontWeight::Regular };
    let glyph = |letter| get_raster(letter, weight, HEIGHT);
    let mut letters = Vec::new();
    for letter in text.chars() {
        match letter {
            '∞' => letters.extend(['o', 'o'].map(glyph)),
            '…' => letters.extend(['.', '.', '.'].map(glyph)),
            '−' => letters.push(glyph('-')),
            _ => letters.push(glyph(letter).or_else(|| glyph('?'))),
        }
    }
    letters.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_letter_of_an_expression_is_written() {
        let bitmaps = |text| letters(text, false).iter().map(RasterizedChar::pixels).collect::<Vec<_>>();
        assert_eq!(bitmaps("window(2, ∞)…−"), bitmaps("window(2, oo)...-"));
        assert_eq!(bitmaps("語"), bitmaps("?"));
        assert_ne!(bitmaps("×·²"), bitmaps("???"));
        assert_ne!(letters("a", true)[0].pixels(), letters("a", false)[0].pixels());
        assert!(letters("aW", true).iter().all(|letter| letter.width() == width()));
    }
}
