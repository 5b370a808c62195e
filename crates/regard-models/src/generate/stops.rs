//! Stop strings in a text that comes in pieces: nothing of one is ever shown, however the pieces fall.

/// Watches a text for stop strings, and holds back what may be the start of one.
///
/// The text ends where the first stop string is complete. Of two that end at the same place the longer counts.
///
/// ```
/// use regard_models::generate::Stops;
///
/// let (mut stops, mut shown) = (Stops::new(vec!["<end>".into()]), String::new());
/// stops.push("a < b <e", &mut shown);
/// assert_eq!(shown, "a < b ");
/// stops.push("nd> and more", &mut shown);
/// assert_eq!((shown.as_str(), stops.hit()), ("a < b ", Some("<end>")));
/// ```
#[derive(Debug)]
pub struct Stops {
    strings: Vec<String>,
    /// The longest end of the text so far that begins a stop string.
    held: String,
    hit: Option<usize>,
}

impl Stops {
    /// A watch for `strings`. An empty one ends no text.
    pub fn new(mut strings: Vec<String>) -> Self {
        strings.retain(|string| !string.is_empty());
        // Longest first, so that the first match is the one that counts.
        strings.sort_by_key(|string| std::cmp::Reverse(string.len()));
        Self { strings, held: String::new(), hit: None }
    }

    /// Takes the next piece and appends to `shown` what is certain to be no part of a stop string.
    pub fn push(&mut self, piece: &str, shown: &mut String) {
        if self.hit.is_some() {
            return;
        }
        for character in piece.chars() {
            self.held.push(character);
            self.hit = self.strings.iter().position(|string| self.held.ends_with(string));
            if let Some(hit) = self.hit {
                let end = self.held.len() - self.strings[hit].len();
                shown.push_str(&self.held[..end]);
                self.held.clear();
                return;
            }
        }
        let starts = self.held.char_indices().map(|(start, _)| start);
        let begun = |start: &usize| self.strings.iter().any(|string| string.starts_with(&self.held[*start..]));
        let certain = starts.into_iter().find(begun).unwrap_or(self.held.len());
        shown.extend(self.held.drain(..certain));
    }

    /// The text has ended: appends what was held back.
    pub fn finish(&mut self, shown: &mut String) {
        shown.push_str(&self.held);
        self.held.clear();
    }

    /// The stop string that ended the text, if one did.
    pub fn hit(&self) -> Option<&str> {
        self.hit.map(|index| self.strings[index].as_str())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition: the shortest beginning of the text that ends in a stop string, without the longest such.
    fn naive<'a>(text: &'a str, strings: &'a [String]) -> (&'a str, Option<&'a str>) {
        let ends = text.char_indices().map(|(at, character)| at + character.len_utf8());
        for head in ends.map(|end| &text[..end]) {
            let longest = strings.iter().filter(|string| head.ends_with(*string)).max_by_key(|string| string.len());
            if let Some(string) = longest {
                return (&head[..head.len() - string.len()], Some(string));
            }
        }
        (text, None)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        // Few letters, of different widths, so that stop strings begin, overlap and break off all the time.
        #[test]
        fn the_pieces_do_not_matter(
            pieces in prop::collection::vec("[abä€😀]{0,5}", 0..12),
            strings in prop::collection::vec("[abä€😀]{1,4}", 0..4),
        ) {
            let text = pieces.concat();
            let (expected, hit) = naive(&text, &strings);
            let mut stops = Stops::new(strings.clone());
            let mut shown = String::new();
            for piece in &pieces {
                stops.push(piece, &mut shown);
                // Never a letter that must be taken back.
                prop_assert!(expected.starts_with(&shown));
            }
            stops.finish(&mut shown);
            prop_assert_eq!(&shown, expected);
            prop_assert_eq!(stops.hit(), hit);
        }

        #[test]
        fn what_begins_no_stop_string_is_shown_at_once(text in "[a-z ]{1,30}") {
            let mut stops = Stops::new(vec!["\nUser:".into(), "<end>".into()]);
            let mut shown = String::new();
            stops.push(&text, &mut shown);
            prop_assert_eq!(shown, text);
        }
    }
}
