//! Pictures as SVG.

use std::fmt::Write;

use svg::Document;
use svg::node::element::{Description, Path, Rectangle, Style, Text, Title};

use crate::Theme;
use crate::ink::Ink;
use crate::scene::{Anchor, Area, Label, Scene};

/// All letters have one width, as they have in a PNG, and as expressions are mostly written.
const FONT: &str = "13px ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace";

const INKS: [Ink; 8] =
    [Ink::Paper, Ink::Text, Ink::Soft, Ink::Empty, Ink::Live(Ink::ALL_LIVE), Ink::Full, Ink::Rim, Ink::Gathered];

pub(crate) fn write(scene: &Scene, theme: Theme) -> String {
    let paper = Rectangle::new().set("class", "paper").set("width", scene.width).set("height", scene.height);
    let mut document = Document::new()
        .set("viewBox", (0, 0, scene.width, scene.height))
        .set("width", scene.width)
        .set("height", scene.height)
        .set("class", "regard")
        .set("role", "img")
        .add(Title::new(&*scene.title))
        .add(Description::new().add(svg::node::Text::new(&*scene.description)))
        .add(Style::new(style(theme)))
        .add(paper.set("rx", 8));
    for (ink, areas) in &scene.layers {
        document = document.add(path(*ink, areas));
    }
    for label in &scene.labels {
        document = document.add(text(label));
    }
    format!("{document}\n")
}

/// The colours. They hold within the picture, should it stand in a page as it is.
fn style(theme: Theme) -> String {
    // Without crisp edges, cells that touch would show a seam where the picture is scaled.
    let mut style = format!(
        ".regard text {{ font: {FONT} }}\n.regard .bold {{ font-weight: bold }}\n.regard path {{ shape-rendering: crispEdges }}\n"
    );
    style += &colours(theme == Theme::Dark);
    if theme == Theme::Reader {
        let _ = write!(style, "@media (prefers-color-scheme: dark) {{\n{}}}", colours(true));
    }
    style
}

fn colours(dark: bool) -> String {
    INKS.iter().fold(String::new(), |mut style, ink| {
        let [red, green, blue] = ink.colour(dark);
        let _ = writeln!(style, ".regard .{} {{ fill: #{red:02x}{green:02x}{blue:02x} }}", ink.class());
        style
    })
}

fn path(ink: Ink, areas: &[Area]) -> Path {
    let mut data = String::new();
    for Area { x, y, width, height } in areas {
        let _ = write!(data, "M{x} {y}h{width}v{height}h-{width}z");
    }
    let path = Path::new().set("class", ink.class()).set("d", data);
    match ink.opacity() {
        1000 => path,
        thousandths => path.set("opacity", format!("0.{thousandths:03}")),
    }
}

fn text(label: &Label) -> Text {
    let class = if label.bold { format!("{} bold", label.ink.class()) } else { label.ink.class().to_owned() };
    let text = Text::new(&*label.text).set("class", class).set("x", label.x).set("y", label.baseline);
    match label.anchor {
        Anchor::Start => text,
        Anchor::Middle => text.set("text-anchor", "middle"),
        Anchor::End => text.set("text-anchor", "end"),
    }
}
