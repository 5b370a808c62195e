//! What the charts of this command share: their look, and words on them.

use svg::node::element::Text;

/// Follows the reader's choice of light or dark.
pub(crate) const STYLE: &str = "
text { font: 13px system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif; fill: #1f2328 }
.title { font-size: 19px; font-weight: 600 }
.small { font-size: 12px }
.soft { fill: #59636e }
.factor { font-weight: 600 }
.paper { fill: #ffffff }
.ours { fill: #0a7f6f }
.peer { fill: #b6bfc9 }
.grid { stroke: #e4e8ec }
.limit { stroke: #59636e; stroke-dasharray: 4 3 }
.line { fill: none; stroke: #0a7f6f; stroke-width: 2 }
.cloud { fill: none; stroke: #b6bfc9; stroke-width: 1 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .soft { fill: #9198a1 }
  .paper { fill: #0d1117 }
  .ours { fill: #2fbfa7 }
  .peer { fill: #57606a }
  .grid { stroke: #22282f }
  .limit { stroke: #9198a1 }
  .line { stroke: #2fbfa7 }
  .cloud { stroke: #57606a }
}";

/// Words at a place.
pub(crate) fn text(class: &str, x: f64, y: f64, said: &str) -> Text {
    Text::new(said).set("class", class).set("x", x).set("y", y)
}

/// Lines that fit a picture of 880 pixels.
pub(crate) fn wrapped(said: &str) -> Vec<String> {
    const LETTERS: usize = 108;
    let mut lines = vec![String::new()];
    // What is longer than a line is cut.
    let cut = |word: &str| -> Vec<String> {
        let letters: Vec<char> = word.chars().collect();
        let parts = letters.chunks(LETTERS - 1).map(|part| part.iter().collect());
        if letters.is_empty() { vec![String::new()] } else { parts.collect() }
    };
    for word in said.split(' ').flat_map(cut) {
        let line = lines.last_mut().filter(|line| line.is_empty() || line.len() + word.len() < LETTERS);
        match line {
            Some(line) if line.is_empty() => line.push_str(&word),
            Some(line) => *line += &format!(" {word}"),
            None => lines.push(word),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_wrapped_and_lose_nothing() {
        let said = "word ".repeat(70) + &"x".repeat(300) + " end";
        let lines = wrapped(&said);
        let letters = |text: &str| text.replace(' ', "");
        assert_eq!(letters(&said), letters(&lines.concat()));
        assert!(lines.len() > 5 && lines.iter().all(|line| line.len() <= 108), "{lines:?}");
    }
}
