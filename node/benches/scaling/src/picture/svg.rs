//! The little of SVG that the pictures need.

use std::fmt::Write as _;

#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    Circle,
    Square,
    Triangle,
    Diamond,
}

#[derive(Debug)]
pub(super) struct Svg(String);

#[derive(Clone, Copy, Debug)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

impl Svg {
    pub(super) fn new(width: u32, height: u32, title: &str) -> Self {
        let mut svg = Svg(String::new());
        svg.add(format_args!(
            r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" font-family="DejaVu Sans, Helvetica, Arial, sans-serif" font-size="12" fill="#222">"##
        ));
        svg.add(format_args!("<title>{title}</title>"));
        svg.add(format_args!(r##"<rect width="{width}" height="{height}" fill="#fff"/>"##));
        svg.text(16.0, 26.0, 16, Anchor::Start, title);
        svg
    }

    fn add(&mut self, element: std::fmt::Arguments<'_>) {
        writeln!(self.0, "{element}").expect("a string takes it");
    }

    pub(super) fn rect(&mut self, x: f64, y: f64, width: f64, height: f64, fill: &str) {
        self.add(format_args!(
            r##"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" fill="{fill}"/>"##
        ));
    }

    pub(super) fn line(&mut self, from: (f64, f64), to: (f64, f64), stroke: &str, width: f64) {
        self.add(format_args!(
            r##"<line x1="{:.1}" y1="{:.1}" x2="{:.1}" y2="{:.1}" stroke="{stroke}" stroke-width="{width}"/>"##,
            from.0, from.1, to.0, to.1
        ));
    }

    pub(super) fn path(&mut self, points: &[(f64, f64)], stroke: &str, width: f64) {
        let mut d = String::new();
        for (place, (x, y)) in points.iter().enumerate() {
            write!(d, "{}{x:.1} {y:.1}", if place == 0 { 'M' } else { 'L' }).expect("a string takes it");
        }
        self.add(format_args!(
            r##"<path d="{d}" fill="none" stroke="{stroke}" stroke-width="{width}" stroke-linejoin="round"/>"##
        ));
    }

    pub(super) fn text(&mut self, x: f64, y: f64, size: u32, anchor: Anchor, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        self.add(format_args!(
            r##"<text x="{x:.1}" y="{y:.1}" font-size="{size}" text-anchor="{anchor}">{text}</text>"##
        ));
    }

    pub(super) fn text_upwards(&mut self, x: f64, y: f64, text: &str) {
        self.add(format_args!(
            r##"<text transform="translate({x:.1} {y:.1}) rotate(-90)" text-anchor="middle">{text}</text>"##
        ));
    }

    pub(super) fn mark(&mut self, x: f64, y: f64, (fill, shape): (&str, Shape)) {
        let style = format!(r##"fill="{fill}" stroke="#fff" stroke-width="1""##);
        match shape {
            Shape::Circle => self.add(format_args!(r##"<circle cx="{x:.1}" cy="{y:.1}" r="6.5" {style}/>"##)),
            Shape::Square => {
                self.polygon(x, y, &[(-6.0, -6.0), (6.0, -6.0), (6.0, 6.0), (-6.0, 6.0)], &style)
            }
            Shape::Triangle => self.polygon(x, y, &[(0.0, -7.5), (7.0, 5.5), (-7.0, 5.5)], &style),
            Shape::Diamond => self.polygon(x, y, &[(0.0, -8.0), (8.0, 0.0), (0.0, 8.0), (-8.0, 0.0)], &style),
        }
    }

    fn polygon(&mut self, x: f64, y: f64, corners: &[(f64, f64)], style: &str) {
        let points: Vec<String> =
            corners.iter().map(|(dx, dy)| format!("{:.1},{:.1}", x + dx, y + dy)).collect();
        self.add(format_args!(r##"<polygon points="{}" {style}/>"##, points.join(" ")));
    }

    pub(super) fn end(mut self) -> String {
        self.0.push_str("</svg>\n");
        self.0
    }
}
