//! A picture of a run: the loss of each step, and of what is held out.

use std::fmt::Write;

use svg::Document;
use svg::node::element::{Circle, Line, Path, Rectangle, Style, Title};

use super::log::Event;
use crate::plot::{STYLE, text, wrapped};

/// The picture's width and the places in it, in pixels.
const WIDTH: f64 = 880.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 856.0;
const TOP: f64 = 84.0;
const BOTTOM: f64 = 360.0;
const LINE: f64 = 19.0;
/// Marks of an axis, about.
const MARKS: f64 = 6.0;
/// Steps that are drawn: of more, each point is the mean of several.
const POINTS: usize = 800;

/// Draws a run, as SVG.
pub(super) fn draw(events: &[Event], about: &str) -> String {
    let (mut steps, mut evaluations) = (Vec::new(), Vec::new());
    for event in events {
        match event {
            Event::Step { step, loss: Some(loss), .. } => steps.push((*step as f64, *loss)),
            Event::Evaluation { step, loss: Some(loss), .. } => evaluations.push((*step as f64, *loss)),
            _ => {}
        }
    }
    let steps = thinned(&steps);
    let all = || steps.iter().chain(&evaluations);
    let (low, high) = all().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), (_, y)| (low.min(*y), high.max(*y)));
    let last = all().map(|(x, _)| *x).fold(1.0, f64::max);
    let (low, high) = if low.is_finite() { (low, high) } else { (0.0, 1.0) };
    let step = mark_distance((high - low).max(0.1));
    let (low, high) = ((low / step).floor() * step, (high / step).ceil().max((low / step).floor() + 1.0) * step);
    let place =
        |&(x, y): &(f64, f64)| [LEFT + (RIGHT - LEFT) * x / last, BOTTOM - (BOTTOM - TOP) * (y - low) / (high - low)];
    let foot = wrapped(about);
    let height = HEIGHT + LINE * (foot.len() - 1) as f64;
    let mut picture = Document::new()
        .set("viewBox", (0, 0, WIDTH, height))
        .set("width", WIDTH)
        .set("height", height)
        .set("role", "img")
        .add(Title::new("Loss over the steps of a run"))
        .add(Style::new(STYLE))
        .add(Rectangle::new().set("class", "paper").set("width", WIDTH).set("height", height).set("rx", 8))
        .add(text("title", LEFT, 36.0, "Loss, in nats a token"));
    let swatch = |class: &str, x: f64| {
        Line::new().set("class", class).set("x1", x).set("x2", x + 24.0).set("y1", 57).set("y2", 57)
    };
    picture = picture.add(swatch("cloud", LEFT)).add(text("", LEFT + 32.0, 61.0, "each step's batch"));
    if let Some((_, loss)) = evaluations.last() {
        let label = format!("held out: {loss:.3} at last");
        picture = picture.add(swatch("line", LEFT + 180.0)).add(text("", LEFT + 212.0, 61.0, &label));
    }
    for mark in 0..=((high - low) / step).round() as usize {
        let value = low + mark as f64 * step;
        let [_, y] = place(&(0.0, value));
        let label = text("small soft", LEFT - 8.0, y + 4.0, &plain(value)).set("text-anchor", "end");
        let line = Line::new().set("class", "grid").set("x1", LEFT).set("x2", RIGHT).set("y1", y).set("y2", y);
        picture = picture.add(line).add(label);
    }
    let step = mark_distance(last).max(1.0);
    for mark in 0..=(last / step) as usize {
        let value = mark as f64 * step;
        let [x, _] = place(&(value, low));
        picture = picture.add(text("small soft", x, BOTTOM + 18.0, &plain(value)).set("text-anchor", "middle"));
    }
    let path = |class: &str, points: &[(f64, f64)]| {
        let mut data = String::new();
        for (at, point) in points.iter().enumerate() {
            let [x, y] = place(point);
            let _ = write!(data, "{}{x:.1} {y:.1}", if at == 0 { 'M' } else { 'L' });
        }
        Path::new().set("class", class).set("d", data)
    };
    picture = picture.add(path("cloud", &steps)).add(path("line", &evaluations));
    for point in &evaluations {
        let [x, y] = place(point);
        picture = picture.add(Circle::new().set("class", "ours").set("cx", x).set("cy", y).set("r", 3));
    }
    for (line, said) in foot.iter().enumerate() {
        picture = picture.add(text("small soft", LEFT, BOTTOM + 44.0 + LINE * line as f64, said));
    }
    format!("{picture}\n")
}

/// Points of which there are few enough to be drawn: of more, means.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mean = |points: &[(f64, f64)]| {
        let sum = points.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
        (sum.0 / points.len() as f64, sum.1 / points.len() as f64)
    };
    points.chunks(points.len().div_ceil(POINTS).max(1)).map(mean).collect()
}

/// A distance of marks that reads well: 1, 2 or 5 times a power of 10.
fn mark_distance(range: f64) -> f64 {
    let wanted = range / MARKS;
    let power = 10f64.powf(wanted.log10().floor());
    [1.0, 2.0, 5.0].map(|times| times * power).into_iter().find(|&step| step >= wanted).unwrap_or(10.0 * power)
}

/// A mark without digits that say nothing.
fn plain(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_read_well() {
        assert_eq!([6.0, 7.0, 1000.0, 0.5].map(mark_distance), [1.0, 2.0, 200.0, 0.1]);
        assert_eq!([0.0, 2.5, 1000.0].map(plain), ["0", "2.5", "1000"]);
    }

    #[test]
    fn any_run_can_be_drawn() {
        let step = |step, loss| Event::Step {
            step,
            loss,
            gradient_norm: None,
            rate: 0.1,
            tokens: 1,
            seconds: 0.1,
            skipped: None,
        };
        let evaluation = |step, loss| Event::Evaluation { step, loss, perplexity: None, bits_per_byte: None };
        for events in [
            vec![],
            vec![evaluation(0, Some(5.5))],
            vec![step(1, None), evaluation(1, None)],
            (1..3000).map(|at| step(at, Some(5.0 / at as f64))).chain([evaluation(3000, Some(0.2))]).collect(),
        ] {
            let svg = draw(&events, "a model");
            assert!(svg.contains("</svg>") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            assert!(svg.len() < 40_000);
        }
    }
}
