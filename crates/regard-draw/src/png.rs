//! Pictures as PNG, with a palette.

use png::{BitDepth, ColorType, Encoder};

use crate::font;
use crate::ink::{Ink, Rgb, mix};
use crate::scene::{Anchor, Area, Label, Scene};

/// Shades of a letter's edge. With them all inks and edges fit into a palette of 256.
const SHADES: u32 = 16;

pub(crate) fn write(scene: &Scene, dark: bool) -> Vec<u8> {
    let mut canvas =
        Canvas { width: scene.width, pixels: vec![0; scene.width * scene.height], palette: Vec::new(), dark };
    canvas.fill(Ink::Paper, &[Area { x: 0, y: 0, width: scene.width, height: scene.height }]);
    scene.layers.iter().for_each(|(ink, areas)| canvas.fill(*ink, areas));
    scene.labels.iter().for_each(|label| canvas.write(label));
    canvas.encode(scene.height)
}

/// Pixels that are being painted.
struct Canvas {
    width: usize,
    /// Numbers of colours in the palette, row by row.
    pixels: Vec<u8>,
    palette: Vec<Rgb>,
    dark: bool,
}

impl Canvas {
    fn number(&mut self, colour: Rgb) -> u8 {
        let at = self.palette.iter().position(|&known| known == colour).unwrap_or_else(|| {
            self.palette.push(colour);
            self.palette.len() - 1
        });
        u8::try_from(at).expect("inks and the edges of letters have fewer than 256 colours")
    }

    fn fill(&mut self, ink: Ink, areas: &[Area]) {
        let number = self.number(ink.shown(self.dark));
        for &Area { x, y, width, height } in areas {
            for row in self.pixels.chunks_exact_mut(self.width).skip(y).take(height) {
                row[x..x + width].fill(number);
            }
        }
    }

    /// Writes on paper. What does not fit is cut.
    fn write(&mut self, label: &Label) {
        let letters = font::letters(&label.text, label.bold);
        let width = letters.len() * font::width();
        let start = match label.anchor {
            Anchor::Start => label.x,
            Anchor::Middle => label.x.saturating_sub(width / 2),
            Anchor::End => label.x.saturating_sub(width),
        };
        let [paper, ink] = [Ink::Paper, label.ink].map(|ink| ink.colour(self.dark));
        for (at, letter) in letters.iter().enumerate() {
            for (y, row) in (label.baseline.saturating_sub(font::ASCENT)..).zip(letter.rows()) {
                for (x, &cover) in (start + at * font::width()..self.width).zip(row) {
                    let shade = (u32::from(cover) * SHADES + 127) / 255;
                    if shade > 0
                        && let Some(at) = (y * self.width).checked_add(x).filter(|&at| at < self.pixels.len())
                    {
                        self.pixels[at] = self.number(mix(paper, ink, shade, SHADES));
                    }
                }
            }
        }
    }

    fn encode(self, height: usize) -> Vec<u8> {
        const SMALL: &str = "a picture's sides fit into 32 bits";
        const TAKEN: &str = "a vector takes every byte, and the header and the pixels agree";
        let mut bytes = Vec::new();
        let size = [self.width, height].map(|side| u32::try_from(side).expect(SMALL));
        let mut encoder = Encoder::new(&mut bytes, size[0], size[1]);
        encoder.set_color(ColorType::Indexed);
        encoder.set_depth(BitDepth::Eight);
        encoder.set_palette(self.palette.concat());
        let mut writer = encoder.write_header().expect(TAKEN);
        writer.write_image_data(&self.pixels).expect(TAKEN);
        writer.finish().expect(TAKEN);
        bytes
    }
}
