//! Random masks, and readers of both formats that know nothing of how they were written.

use proptest::prelude::*;
use regard_masks::{Edges, Mask};

/// Masks of every kind that matters for drawing: few runs, many, none, and ones that differ from row to row.
pub(crate) fn masks() -> impl Strategy<Value = Mask> {
    let some = || prop::option::of(0..40_usize);
    let primitives = prop_oneof![
        Just(Mask::full()),
        Just(Mask::causal()),
        (some(), some()).prop_map(|(left, right)| Mask::window(left, right)),
        (0..60_usize).prop_map(Mask::prefix),
        prop::collection::vec(0..200_usize, 0..9).prop_map(Mask::global_keys),
        prop::collection::vec(0..200_usize, 0..9).prop_map(Mask::global_queries),
        prop::collection::vec(any::<bool>(), 0..150).prop_map(|kept| Mask::keys(&kept)),
        (1..70_usize).prop_map(|size| Mask::block_diagonal(size).unwrap()),
        (1..9_usize).prop_map(|step| Mask::strided(step).unwrap()),
        (0.0..=1.0, any::<u64>()).prop_map(|(density, seed)| Mask::random(density, seed).unwrap()),
        prop::collection::vec((0..150_usize, 0..150_usize), 0..90).prop_map(|pairs| Mask::edge_pairs(
            pairs,
            Edges::Symmetric
        )
        .unwrap()),
    ];
    primitives.prop_recursive(3, 8, 2, |mask| {
        prop_oneof![
            mask.clone().prop_map(|a| !a),
            (mask.clone(), mask.clone()).prop_map(|(a, b)| a & b),
            (mask.clone(), mask).prop_map(|(a, b)| a | b),
        ]
    })
}

/// Whether the query with number `i` sees key `j`, by the mask's definition.
pub(crate) fn allows(mask: &Mask, i: usize, j: usize, n_k: usize, offset: i64) -> bool {
    mask.allows(i as i64 + offset, j, n_k)
}

/// The pixels of a PNG.
pub(crate) struct Pixels {
    pub(crate) width: usize,
    pub(crate) height: usize,
    rgb: Vec<u8>,
}

impl Pixels {
    pub(crate) fn decode(bytes: &[u8]) -> Self {
        let mut decoder = png::Decoder::new(std::io::Cursor::new(bytes));
        decoder.set_transformations(png::Transformations::EXPAND);
        let mut reader = decoder.read_info().unwrap();
        let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut rgb).unwrap();
        assert_eq!(info.color_type, png::ColorType::Rgb);
        reader.finish().unwrap();
        Self { width: info.width as usize, height: info.height as usize, rgb }
    }

    pub(crate) fn at(&self, [x, y]: [usize; 2]) -> [u8; 3] {
        assert!(x < self.width && y < self.height);
        self.rgb[3 * (y * self.width + x)..][..3].try_into().unwrap()
    }
}

/// The filled rectangles of an SVG: class, thousandths of opacity, and `[x, y, width, height]`; later ones cover earlier.
pub(crate) struct Areas(pub(crate) Vec<(String, u32, [usize; 4])>);

impl Areas {
    pub(crate) fn parse(svg: &str) -> Self {
        let document = roxmltree::Document::parse(svg).unwrap();
        let mut areas = Vec::new();
        for path in document.descendants().filter(|node| node.has_tag_name("path")) {
            let class = path.attribute("class").unwrap();
            let opacity =
                path.attribute("opacity").map_or(1000, |text| text.strip_prefix("0.").unwrap().parse().unwrap());
            for piece in path.attribute("d").unwrap().split('M').skip(1) {
                let numbers = piece.split(|c: char| !c.is_ascii_digit()).filter(|number| !number.is_empty());
                let [x, y, width, height, back] = numbers.map(|number| number.parse().unwrap()).collect::<Vec<_>>()[..]
                else {
                    panic!("no rectangle: {piece}")
                };
                assert_eq!(back, width, "{piece}");
                areas.push((class.to_owned(), opacity, [x, y, width, height]));
            }
        }
        Self(areas)
    }

    /// What lies on top at a pixel.
    pub(crate) fn at(&self, [x, y]: [usize; 2]) -> (&str, u32) {
        let covers = |area: &[usize; 4]| {
            let [left, top, width, height] = *area;
            (left..left + width).contains(&x) && (top..top + height).contains(&y)
        };
        let on_top = self.0.iter().rev().find(|(_, _, area)| covers(area));
        on_top.map_or(("", 0), |(class, opacity, _)| (class, *opacity))
    }
}
