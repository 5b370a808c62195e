//! Findings as a table, Markdown, or lines of JSON.

use comfy_table::presets::{ASCII_MARKDOWN, NOTHING};
use comfy_table::{CellAlignment, Table, TableStyle};
use serde_json::{Value, json};

use super::trial::{Finding, ROUNDS, Timed};
use crate::bench::report::significant;
use crate::bench::setting::Setting;

/// Findings of a technique.
pub(crate) type Section = (&'static str, Vec<Finding>);

/// The table for a terminal.
pub(crate) fn table(sections: &[Section]) -> String {
    tabulate(sections, NOTHING)
}

/// The same as Markdown, with what one has to know of the run.
pub(crate) fn markdown(sections: &[Section], setting: &Setting) -> String {
    let Setting { version, command, .. } = setting;
    format!("{}\n\n{setting}. {version}.\n\n```sh\n{command}\n```", tabulate(sections, ASCII_MARKDOWN))
}

fn tabulate(sections: &[Section], style: TableStyle) -> String {
    let mut table = Table::new();
    table.load_style(style).set_header([
        "technique",
        "work",
        "way",
        "ms",
        "times the first",
        "of 15 rounds",
        "so it is",
    ]);
    for column in [3, 4, 5] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for (technique, findings) in sections {
        let mut technique = *technique;
        for finding in findings {
            match finding {
                Finding::Skipped { work, why } => {
                    let [none, why] = [String::new(), format!("skipped: {why}")];
                    table.add_row([
                        technique.into(),
                        work.clone(),
                        why,
                        none.clone(),
                        none.clone(),
                        none.clone(),
                        none,
                    ]);
                    technique = "";
                }
                Finding::Measured { work, ways } => {
                    for (nth, way) in ways.iter().enumerate() {
                        let first = |text: &str| if nth == 0 { text.to_owned() } else { String::new() };
                        let ms = significant(way.seconds * 1e3);
                        let [ratio, rounds, verdict] = match nth {
                            0 => Default::default(),
                            _ => [
                                format!("{:.2}", way.ratio),
                                format!("{:.2}–{:.2}", way.low, way.high),
                                verdict(way).into(),
                            ],
                        };
                        let name = way.name.clone();
                        table.add_row([first(technique), first(work), name, ms, ratio, rounds, verdict]);
                    }
                    technique = "";
                }
            }
        }
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// In words.
fn verdict(way: &Timed) -> &'static str {
    match (way.differs(), way.ratio > 1.0) {
        (false, _) => "as fast",
        (true, true) => "slower",
        (true, false) => "faster",
    }
}

/// An object for each way, or for what is skipped.
pub(crate) fn json((technique, findings): &Section, setting: &Setting) -> Vec<Value> {
    let mut lines = Vec::new();
    for finding in findings {
        match finding {
            Finding::Skipped { work, why } => {
                lines.push(json!({"technique": technique, "work": work, "skipped": why}));
            }
            Finding::Measured { work, ways } => lines.extend(ways.iter().map(|way| {
                json!({
                    "technique": technique,
                    "work": work,
                    "way": way.name,
                    "ms": way.seconds * 1e3,
                    "ratio": way.ratio,
                    "low": way.low,
                    "high": way.high,
                    "differs": way.differs(),
                    "rounds": ROUNDS,
                    "isa": setting.isa.name(),
                    "threads": setting.threads,
                })
            })),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_for_each_way_and_for_what_is_skipped() {
        let way = |name: &str, ratio: f64| Timed {
            name: name.into(),
            seconds: 0.002 * ratio,
            ratio,
            low: ratio - 0.1,
            high: ratio + 0.1,
        };
        let ways = vec![way("kept", 1.0), way("anew", 1.5), way("other", 1.05), way("third", 0.8)];
        let sections = [
            ("reuse", vec![Finding::Measured { work: "a prompt".into(), ways }]),
            ("nodes", vec![Finding::Skipped { work: "a thread".into(), why: "one node".into() }]),
        ];
        let text = tabulate(&sections, ASCII_MARKDOWN);
        let rows: Vec<Vec<&str>> =
            text.lines().map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect();
        assert_eq!(rows[2], ["reuse", "a prompt", "kept", "2.00", "", "", ""]);
        assert_eq!(rows[3], ["", "", "anew", "3.00", "1.50", "1.40–1.60", "slower"]);
        assert_eq!((rows[4][6], rows[5][6]), ("as fast", "faster"));
        assert_eq!(rows[6], ["nodes", "a thread", "skipped: one node", "", "", "", ""]);
    }
}
