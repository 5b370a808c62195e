//! Words of a picture: titles that fit, and numbers that read well.

/// The lines of `said` in at most `letters` letters each, broken at spaces where there are any. What `most` lines do not
/// hold is cut, and three points say so.
pub(crate) fn wrapped(said: &str, letters: usize, most: usize) -> Vec<String> {
    let mut lines: Vec<Vec<char>> = vec![Vec::new()];
    for word in said.split(' ').map(|word| word.chars().collect::<Vec<char>>()) {
        let mut pieces = word.chunks(letters);
        let Some(first) = pieces.next() else { continue };
        let line = lines.last_mut().expect("there is a line");
        if line.is_empty() {
            line.extend(first);
        } else if line.len() + 1 + word.len() <= letters {
            line.push(' ');
            line.extend(first);
        } else {
            lines.push(first.to_vec());
        }
        lines.extend(pieces.map(<[char]>::to_vec));
    }
    if lines.len() > most {
        lines.truncate(most);
        if let Some(last) = lines.last_mut() {
            last.truncate(letters - 1);
            last.push('…');
        }
    }
    lines.into_iter().map(String::from_iter).collect()
}

/// The words without what no document may hold.
pub(crate) fn printable(said: &str) -> String {
    said.replace(|letter: char| letter.is_control() || matches!(letter, '\u{fffe}' | '\u{ffff}'), "\u{fffd}")
}

/// A share as a percentage of three digits, without saying 0 or 100 of what is not.
pub(crate) fn percent(live: u64, all: f64) -> String {
    let share = live as f64 / all * 100.0;
    match share {
        0.0 => "0%".into(),
        100.0.. => "100%".into(),
        share if share < 0.001 => "below 0.001%".into(),
        share if share < 0.1 => format!("{share:.3}%"),
        share if share < 10.0 => format!("{share:.2}%"),
        share => format!("{:.1}%", share.min(99.9)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_fit_and_lose_nothing_unless_they_are_cut() {
        assert_eq!(wrapped("causal & prefix(3)", 40, 3), ["causal & prefix(3)"]);
        assert_eq!(wrapped("causal & prefix(3)", 10, 3), ["causal &", "prefix(3)"]);
        assert_eq!(wrapped("by abcdefghij k", 4, 9), ["by", "abcd", "efgh", "ij k"]);
        assert_eq!(wrapped("one two three four", 5, 2), ["one", "two…"]);
        assert_eq!(wrapped("seven letters", 7, 1), ["seven…"]);
        assert_eq!(wrapped("", 7, 1), [""]);
    }

    #[test]
    fn percentages_do_not_round_to_nothing_or_all() {
        let said = [0, 1, 52, 1234, 50_000, 99_999, 100_000].map(|live| percent(live, 100_000.0));
        assert_eq!(said, ["0%", "0.001%", "0.052%", "1.23%", "50.0%", "99.9%", "100%"]);
        assert_eq!(percent(1, 1e12), "below 0.001%");
    }
}
