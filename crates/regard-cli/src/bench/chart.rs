//! A picture of a run: for each case the share of the machine's limit that we reach, and a peer's.

use regard_kernels::peak::Unit;
use svg::Document;
use svg::node::element::{Line, Rectangle, Style, Title};

use crate::bench::report::{Figures, Row, percent, significant, unit};
use crate::bench::setting::Setting;
use crate::plot::{STYLE, text, wrapped};

/// The picture's width and the places in it, in pixels.
const WIDTH: f64 = 880.0;
const MARGIN: f64 = 24.0;
/// Where the bars begin and where the limit is.
const START: f64 = 178.0;
const LIMIT: f64 = 664.0;
/// Where it is said what the limit is of.
const OF: f64 = 748.0;
const HEAD: f64 = 112.0;
const LINE: f64 = 19.0;
const BAR: f64 = 12.0;
const GAP: f64 = 14.0;

/// Draws what was measured, as SVG.
pub(crate) fn draw(rows: &[Row], setting: &Setting) -> String {
    let peers = rows.iter().any(|row| row.figures.peer.is_some());
    let step = if peers { 2.0 * BAR + 1.0 + GAP } else { BAR + GAP };
    let end = HEAD + step * rows.len() as f64;
    let foot = [wrapped(&setting.to_string()), wrapped(&format!("{} · {}", setting.version, setting.command))].concat();
    let height = end + 28.0 + LINE * foot.len() as f64;
    let mut picture = Document::new()
        .set("viewBox", (0, 0, WIDTH, height))
        .set("width", WIDTH)
        .set("height", height)
        .set("role", "img")
        .add(Title::new("Share of the machine's limit by case"))
        .add(Style::new(STYLE))
        .add(Rectangle::new().set("class", "paper").set("width", WIDTH).set("height", height).set("rx", 8));
    let what = if setting.model.is_some() { "a model" } else { "attention" };
    picture = legend(picture, what, rows);
    for quarter in 0..=4 {
        let x = at(f64::from(quarter) / 4.0);
        let class = if quarter == 4 { "limit" } else { "grid" };
        let line = Line::new().set("class", class).set("x1", x).set("x2", x).set("y1", HEAD - 8.0).set("y2", end);
        let share = percent(f64::from(quarter) / 4.0);
        picture = picture.add(line).add(text("small soft", x, HEAD - 14.0, &share).set("text-anchor", "middle"));
    }
    picture = picture.add(text("small soft", OF, HEAD - 14.0, "limit"));
    for (index, Row { id, figures }) in rows.iter().enumerate() {
        let top = HEAD + step * index as f64 + GAP / 2.0;
        picture = case(picture, top, id, figures);
    }
    for (line, said) in foot.iter().enumerate() {
        picture = picture.add(text("small soft", MARGIN, end + 30.0 + LINE * line as f64, said));
    }
    format!("{picture}\n")
}

fn legend(picture: Document, what: &str, rows: &[Row]) -> Document {
    let square = |class: &str, x: f64| {
        Rectangle::new().set("class", class).set("x", x).set("y", 55).set("width", BAR).set("height", BAR).set("rx", 2)
    };
    let picture = picture
        .add(text("title", MARGIN, 36.0, &format!("How close {what} comes to what the machine can do")))
        .add(square("ours", MARGIN))
        .add(text("", MARGIN + 18.0, 65.5, "Regard"));
    let picture = match rows.iter().find_map(|row| row.figures.peer.as_ref()) {
        Some(peer) => picture
            .add(square("peer", MARGIN + 84.0))
            .add(text("", MARGIN + 102.0, 65.5, &peer.name))
            .add(text("small soft", WIDTH - MARGIN, HEAD - 14.0, "times as fast").set("text-anchor", "end")),
        None => picture,
    };
    let note = "share of the least time by peak arithmetic or memory bandwidth, both measured in the same run";
    picture.add(text("small soft", WIDTH - MARGIN, 65.5, note).set("text-anchor", "end"))
}

fn case(picture: Document, top: f64, id: &str, figures: &Figures) -> Document {
    let bar = |class: &str, y: f64, share: f64| {
        let width = (at(share) - START).max(1.0);
        Rectangle::new()
            .set("class", class)
            .set("x", START)
            .set("y", y)
            .set("width", width)
            .set("height", BAR)
            .set("rx", 2)
    };
    let time = |y: f64, share: f64, seconds: f64| {
        let label = format!("{} ms", significant(seconds * 1e3));
        text("small soft", at(share) + 6.0, y + BAR - 2.0, &label)
    };
    let of = if figures.limited_by == Unit::Read { "memory" } else { unit(figures.limited_by) };
    let share = figures.share();
    let middle = if figures.peer.is_some() { top + BAR + 5.0 } else { top + BAR - 2.0 };
    let label = text("", START - 10.0, middle, id).set("text-anchor", "end");
    let mut picture = picture
        .add(label)
        .add(text("small soft", OF, middle, of))
        .add(bar("ours", top, share))
        .add(time(top, share, figures.seconds));
    if let Some(peer) = &figures.peer {
        let (y, share) = (top + BAR + 1.0, figures.limit / peer.seconds);
        let factor = format!("{:.2}×", peer.seconds / figures.seconds);
        picture = picture
            .add(bar("peer", y, share))
            .add(time(y, share, peer.seconds))
            .add(text("factor", WIDTH - MARGIN, middle, &factor).set("text-anchor", "end"));
    }
    picture
}

/// The place of a share. What is beyond the limit (the caches helped) ends a little after it.
fn at(share: f64) -> f64 {
    START + (LIMIT - START) * if share.is_finite() { share.clamp(0.0, 1.04) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_the_share() {
        assert_eq!((START, LIMIT), (at(0.0), at(1.0)));
        assert!((at(0.5) - (START + LIMIT) / 2.0).abs() < 1e-9);
        assert_eq!(at(1.04), at(7.0));
        assert_eq!(START, at(f64::NAN));
    }
}
