//! The report as a picture: bars of both sides, scenario by scenario.

use std::fmt::Write as _;

use crate::report::{Report, Row, figure};

const WIDTH: f64 = 860.0;
const BARS_FROM: f64 = 330.0;
const BARS_TO: f64 = 740.0;
const BAR: f64 = 14.0;
const GAP: f64 = 16.0;
const TOP: f64 = 44.0;

/// An SVG of every row that has another side. Each row has a scale of its own; units differ.
pub(crate) fn svg(report: &Report) -> String {
    let rows: Vec<&Row> = report.rows.iter().filter(|row| !row.other.0.is_empty()).collect();
    let height = TOP + rows.len() as f64 * (2.0 * BAR + GAP) + GAP;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"8\" y=\"18\" font-size=\"13\" font-weight=\"bold\">Postbound (dark) and what it is compared with \
         (light): medians, and the range of the samples</text>\n\
         <text x=\"8\" y=\"34\" fill=\"#666\">{}</text>\n",
        escaped(&format!("{}, commit {}", report.machine.date, report.machine.commit))
    );
    for (place, row) in rows.iter().enumerate() {
        draw(&mut svg, row, TOP + GAP / 2.0 + place as f64 * (2.0 * BAR + GAP));
    }
    svg.push_str("</svg>\n");
    svg
}

fn draw(svg: &mut String, row: &Row, top: f64) {
    let largest = row.postbound.0.iter().chain(&row.other.0).copied().fold(f64::MIN_POSITIVE, f64::max);
    let scale = (BARS_TO - BARS_FROM) / largest;
    let label = format!("{}: {}", row.scenario, row.case);
    let _ = writeln!(svg, "<text x=\"8\" y=\"{}\">{}</text>", top + BAR - 3.0, escaped(&shortened(&label)));
    let _ = writeln!(
        svg,
        "<text x=\"8\" y=\"{}\" fill=\"#666\">{}</text>",
        top + 2.0 * BAR - 3.0,
        escaped(&format!("{}{}; {}", row.unit, less_is_better(row), row.other_name))
    );
    for (samples, colour, y) in [(&row.postbound, "#1f4e79", top), (&row.other, "#9dc3e6", top + BAR)] {
        let (Some(median), Some((low, high))) = (samples.median(), samples.spread()) else { continue };
        let _ = writeln!(
            svg,
            "<rect x=\"{BARS_FROM}\" y=\"{y}\" width=\"{:.1}\" height=\"{}\" fill=\"{colour}\"/>\n\
             <line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle}\" y2=\"{middle}\" stroke=\"#c00\" stroke-width=\"1.5\"/>\n\
             <text x=\"{:.1}\" y=\"{}\">{}</text>",
            median * scale,
            BAR - 2.0,
            BARS_FROM + low * scale,
            BARS_FROM + high * scale,
            BARS_FROM + high.max(median) * scale + 6.0,
            y + BAR - 4.0,
            figure(median),
            middle = y + BAR / 2.0 - 1.0,
        );
    }
    if let Some(ratio) = row.ratio.median() {
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" font-size=\"13\" text-anchor=\"end\">{} ×</text>",
            WIDTH - 8.0,
            top + BAR + 4.0,
            figure(ratio)
        );
    }
}

fn less_is_better(row: &Row) -> &'static str {
    if row.unit == "ms" { " (less is better)" } else { "" }
}

fn shortened(text: &str) -> String {
    const CHARACTERS: usize = 50;
    match text.char_indices().nth(CHARACTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_break_the_picture() {
        assert_eq!(escaped("a < b & c"), "a &lt; b &amp; c");
        assert_eq!(shortened(&"é".repeat(60)).chars().count(), 51);
    }
}
