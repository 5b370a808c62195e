//! What a run found, as lines of JSON, a table, or Markdown.

use comfy_table::presets::{ASCII_MARKDOWN, NOTHING};
use comfy_table::{CellAlignment, Table, TableStyle};
use regard_kernels::peak::Unit;
use serde_json::{Value, json};

use crate::bench::setting::Setting;

/// One case, and what came of it.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) id: String,
    pub(crate) outcome: Outcome,
}

#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Measured(Box<Figures>),
    /// It cannot be run yet, and why.
    NotYet(&'static str),
}

/// The figures of a case. Times are seconds, medians over all calls.
#[derive(Clone, Debug)]
pub(crate) struct Figures {
    pub(crate) seconds: f64,
    /// Timed calls of our side.
    pub(crate) calls: usize,
    /// Floating-point operations, and bytes from memory (0 where caches hold all).
    pub(crate) flops: f64,
    pub(crate) bytes: f64,
    /// Tokens of a call of a whole model.
    pub(crate) tokens: Option<usize>,
    /// The least that the machine needs, and what of it is short.
    pub(crate) limit: f64,
    pub(crate) limited_by: Unit,
    /// The share of the f32 peak of better instructions than those that were asked for.
    pub(crate) share_of_best: Option<f64>,
    pub(crate) accuracy: Option<Accuracy>,
    pub(crate) peer: Option<PeerFigures>,
}

/// The largest error against f64, and the largest that is right.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Accuracy {
    pub(crate) error: f64,
    pub(crate) bound: f64,
}

impl Accuracy {
    pub(crate) fn is_right(self) -> bool {
        // A NaN is not.
        self.error <= self.bound
    }
}

/// The other side.
#[derive(Clone, Debug)]
pub(crate) struct PeerFigures {
    pub(crate) name: String,
    /// Its timed calls.
    pub(crate) calls: usize,
    pub(crate) seconds: f64,
    pub(crate) accuracy: Option<Accuracy>,
}

impl Figures {
    /// Our share of the limit.
    pub(crate) fn share(&self) -> f64 {
        self.limit / self.seconds
    }

    /// How many times as long the peer takes.
    pub(crate) fn ratio(&self) -> Option<f64> {
        self.peer.as_ref().map(|peer| peer.seconds / self.seconds)
    }

    /// The rate that counts, with its unit.
    fn rate(&self) -> String {
        if let Some(tokens) = self.tokens {
            format!("{} tokens/s", significant(tokens as f64 / self.seconds))
        } else if self.limited_by == Unit::Read {
            format!("{} GB/s", significant(self.bytes / self.seconds / 1e9))
        } else {
            format!("{} GFLOP/s", significant(self.flops / self.seconds / 1e9))
        }
    }
}

impl Row {
    /// One object; what is not known is null.
    pub(crate) fn json(&self, setting: &Setting) -> Value {
        let figures = match &self.outcome {
            Outcome::NotYet(reason) => return json!({"id": self.id, "not_yet": reason}),
            Outcome::Measured(figures) => figures,
        };
        let peer = figures.peer.as_ref();
        let peer_accuracy = peer.and_then(|peer| peer.accuracy);
        let per_second = |amount: f64| (amount > 0.0).then(|| amount / figures.seconds / 1e9);
        json!({
            "id": self.id,
            "ms": figures.seconds * 1e3,
            "gflops": per_second(figures.flops),
            "share": figures.share(),
            "error": figures.accuracy.map(|accuracy| accuracy.error),
            "peer": peer.map(|peer| &peer.name),
            "peer_ms": peer.map(|peer| peer.seconds * 1e3),
            "ratio": figures.ratio(),
            "peer_error": peer_accuracy.map(|accuracy| accuracy.error),
            "bound": figures.accuracy.map(|accuracy| accuracy.bound),
            "right": figures.accuracy.map(Accuracy::is_right),
            "peer_right": peer_accuracy.map(Accuracy::is_right),
            "gbytes_per_second": per_second(figures.bytes),
            "tokens_per_second": figures.tokens.map(|tokens| tokens as f64 / figures.seconds),
            "limit_ms": figures.limit * 1e3,
            "limit": unit(figures.limited_by),
            "share_of_best_f32": figures.share_of_best,
            "calls": figures.calls,
            "peer_calls": peer.map(|peer| peer.calls),
            "model": setting.model,
            "isa": setting.isa.name(),
            "threads": setting.threads,
        })
    }
}

/// The table for a terminal; what there is to say of its rows stands below it.
pub(crate) fn table(rows: &[Row]) -> String {
    let (table, notes) = (tabulate(rows, NOTHING), notes(rows));
    if notes.is_empty() { table } else { format!("{table}\n\n{notes}") }
}

/// The same as Markdown, with what one has to know of the run.
pub(crate) fn markdown(rows: &[Row], setting: &Setting) -> String {
    let notes = notes(rows);
    let notes = if notes.is_empty() { notes } else { format!("\n{notes}\n") };
    format!(
        "{}\n{notes}\n{setting}. {}.\n\n```sh\n{}\n```",
        tabulate(rows, ASCII_MARKDOWN),
        setting.version,
        setting.command
    )
}

fn tabulate(rows: &[Row], style: TableStyle) -> String {
    let measured: Vec<(&str, &Figures)> = rows
        .iter()
        .filter_map(|row| match &row.outcome {
            Outcome::Measured(figures) => Some((row.id.as_str(), &**figures)),
            Outcome::NotYet(_) => None,
        })
        .collect();
    let peers = measured.iter().any(|(_, figures)| figures.peer.is_some());
    let forced = measured.iter().any(|(_, figures)| figures.share_of_best.is_some());
    let mut header = vec!["case", "ms", "rate", "share of limit"];
    header.extend(forced.then_some("of best f32"));
    header.push("error");
    header.extend(peers.then_some(["peer", "peer ms", "ratio", "peer error"]).into_iter().flatten());
    let mut table = Table::new();
    table.load_style(style).set_header(header);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for (id, figures) in measured {
        let share = format!("{} {}", percent(figures.share()), unit(figures.limited_by));
        let mut cells = vec![id.to_owned(), significant(figures.seconds * 1e3), figures.rate(), share];
        cells.extend(forced.then(|| figures.share_of_best.map_or_else(String::new, percent)));
        cells.push(accuracy(figures.accuracy));
        if let Some(peer) = &figures.peer {
            let ratio = format!("{:.2}×", peer.seconds / figures.seconds);
            cells.extend([peer.name.clone(), significant(peer.seconds * 1e3), ratio, accuracy(peer.accuracy)]);
        }
        table.add_row(cells);
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// What cannot be run yet, and where a peer had few turns.
fn notes(rows: &[Row]) -> String {
    let mut notes = Vec::<(String, Vec<&str>)>::new();
    for row in rows {
        let note = match &row.outcome {
            Outcome::NotYet(reason) => format!("Not yet ({reason})"),
            Outcome::Measured(figures) => match &figures.peer {
                Some(peer) if peer.calls < figures.calls => format!("Only {} calls of {}", peer.calls, peer.name),
                _ => continue,
            },
        };
        match notes.iter_mut().find(|(known, _)| *known == note) {
            Some((_, ids)) => ids.push(&row.id),
            None => notes.push((note, vec![&row.id])),
        }
    }
    let lines: Vec<_> = notes.iter().map(|(note, ids)| format!("{note}: {}.", ids.join(", "))).collect();
    lines.join("\n")
}

fn accuracy(accuracy: Option<Accuracy>) -> String {
    match accuracy {
        None => "–".into(),
        Some(accuracy) if accuracy.is_right() => format!("{:.1e}", accuracy.error),
        Some(accuracy) => format!("WRONG: {:.1e} > {:.1e}", accuracy.error, accuracy.bound),
    }
}

/// What a limit is of.
pub(crate) fn unit(unit: Unit) -> &'static str {
    match unit {
        Unit::F32 => "f32",
        Unit::Bf16 => "bf16",
        Unit::Int8 => "int8",
        Unit::Read => "read",
    }
}

pub(crate) fn percent(share: f64) -> String {
    format!("{:.0}%", share * 100.0)
}

/// Three digits that say something, or the whole part.
pub(crate) fn significant(x: f64) -> String {
    // Rounded first: 9.996 is 10.0.
    let digits = |x: f64| (2 - x.abs().log10().floor() as i32).clamp(0, 6);
    if x == 0.0 || !x.is_finite() {
        return x.to_string();
    }
    let rounded = format!("{x:.*}", digits(x) as usize).parse().unwrap_or(x);
    format!("{x:.*}", digits(if rounded == 0.0 { x } else { rounded }) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str, peer: Option<f64>) -> Row {
        let accuracy = Some(Accuracy { error: 2e-7, bound: 5e-7 });
        let figures = Figures {
            seconds: 2e-3,
            calls: 7,
            flops: 8e8,
            bytes: 0.0,
            tokens: None,
            limit: 1.5e-3,
            limited_by: Unit::F32,
            share_of_best: None,
            accuracy,
            peer: peer.map(|seconds| PeerFigures {
                name: "other 1.0".into(),
                calls: 7,
                seconds,
                accuracy: Some(Accuracy { error: f64::NAN, bound: 5e-7 }),
            }),
        };
        Row { id: id.into(), outcome: Outcome::Measured(Box::new(figures)) }
    }

    #[test]
    fn a_table_has_the_columns_that_are_needed() {
        let alone = table(&[row("one", None)]);
        let line = alone.lines().nth(1).unwrap();
        assert_eq!(
            line.split_whitespace().collect::<Vec<_>>(),
            ["one", "2.00", "400", "GFLOP/s", "75%", "f32", "2.0e-7"]
        );
        assert!(!alone.contains("peer"));
        let later = Row { id: "two".into(), outcome: Outcome::NotYet("no legs") };
        let both = table(&[row("one", Some(3e-3)), later]);
        assert!(both.contains("other 1.0") && both.contains("1.50×") && both.contains("WRONG"), "{both}");
        assert!(both.ends_with("Not yet (no legs): two."), "{both}");
    }

    #[test]
    fn wrong_is_what_is_not_within_its_bound() {
        let right = |error| Accuracy { error, bound: 1.0 }.is_right();
        assert!(right(1.0) && !right(1.1) && !right(f64::NAN));
    }

    #[test]
    fn numbers_have_three_digits() {
        for (x, text) in
            [(0.08123, "0.0812"), (3.905, "3.90"), (9.996, "10.0"), (53.04, "53.0"), (4222.4, "4222"), (999.7, "1000")]
        {
            assert_eq!(text, significant(x));
        }
        assert_eq!(("0", "inf"), (&*significant(0.0), &*significant(f64::INFINITY)));
    }
}
