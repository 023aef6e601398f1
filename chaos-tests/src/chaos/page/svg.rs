//! Charts over the time of a run, as SVG that stands in the page itself. All share one width and one time
//! axis, so that what stands above each other happened together.

use std::fmt::{Display, Write};

use super::super::evidence::Window;
use super::super::faults;
use super::Escaped;

const WIDTH: f64 = 1_080.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 8.0;
const BOTTOM: f64 = 20.0;
/// Time labels on one axis.
const TIMES_MAX: u64 = 12;
/// Values labelled on one axis.
const VALUES_MAX: f64 = 4.0;
/// Faults shaded in one chart: more of them could not be told apart.
const SHADES_MAX: usize = 2_000;

/// How values become heights.
#[derive(Clone, Copy)]
pub(super) enum Scale {
    /// From 0 to this.
    Linear(f64),
    /// By orders of magnitude, between two values above 0.
    Log(f64, f64),
    /// Rows of this height, counted from the top.
    Rows(f64),
}

pub(super) struct Plot {
    body: String,
    height: f64,
    span_us: u64,
    scale: Scale,
}

impl Plot {
    /// A chart of `height` points for a run of `span_us`.
    pub(super) fn new(span_us: u64, height: f64, scale: Scale) -> Self {
        Plot { body: String::new(), height, span_us: span_us.max(1), scale }
    }

    pub(super) fn x(&self, at_us: u64) -> f64 {
        let share = at_us.min(self.span_us) as f64 / self.span_us as f64;
        LEFT + share * (WIDTH - LEFT - RIGHT)
    }

    pub(super) fn y(&self, value: f64) -> f64 {
        let share = match self.scale {
            Scale::Linear(most) => value / most,
            Scale::Log(least, most) => (value.max(least) / least).ln() / (most / least).ln(),
            Scale::Rows(row) => return TOP + value * row,
        };
        TOP + (1.0 - share.clamp(0.0, 1.0)) * self.height
    }

    /// Each fault behind what is drawn later, from its begin to the time its nodes were ready again.
    pub(super) fn shades(&mut self, windows: &[Window]) {
        for window in windows.iter().take(SHADES_MAX) {
            let (from, to) = (self.x(window.begin_us), self.x(window.end_us));
            let (class, width, height) = (layer_class(&window.fault), (to - from).max(1.0), self.height);
            self.put(format_args!(
                "<rect class='shade {class}' x='{from:.1}' y='{TOP}' width='{width:.1}' height='{height}'/>"
            ));
        }
    }

    /// Lines and labels for values and for time.
    pub(super) fn grid(&mut self, unit: &str) {
        let marks: Vec<f64> = match self.scale {
            Scale::Linear(most) => {
                let step = nice(most / VALUES_MAX);
                (0_u8..).map(|i| f64::from(i) * step).take_while(|mark| *mark <= most * 1.001).collect()
            }
            Scale::Log(least, most) => {
                let ten = |i: i32| 10_f64.powi(i);
                (-3..9).map(ten).filter(|mark| (least..=most * 1.001).contains(mark)).collect()
            }
            Scale::Rows(_) => Vec::new(),
        };
        let right = WIDTH - RIGHT;
        for mark in marks {
            let y = self.y(mark);
            self.put(format_args!("<line class='grid' x1='{LEFT}' x2='{right}' y1='{y:.1}' y2='{y:.1}'/>"));
            self.text("tick end", LEFT - 8.0, y + 4.0, &format_args!("{} {unit}", short(mark)));
        }
        let seconds = self.span_us / 1_000_000;
        let step = nice_seconds(seconds.div_ceil(TIMES_MAX).max(1));
        let under = TOP + self.height;
        for at in (0..=seconds).step_by(usize::try_from(step).unwrap_or(usize::MAX)) {
            let x = self.x(at * 1_000_000);
            self.put(format_args!("<line class='grid' x1='{x:.1}' x2='{x:.1}' y1='{TOP}' y2='{under}'/>"));
            self.text("tick middle", x, under + 15.0, &clock(at, step));
        }
    }

    /// A line through points, broken where one is absent.
    pub(super) fn line(&mut self, class: &str, points: &[(u64, Option<f64>)]) {
        for part in points.split(|(_, value)| value.is_none()) {
            let mut places = String::new();
            for (at_us, value) in part {
                let (x, y) = (self.x(*at_us), self.y(value.unwrap_or_default()));
                write!(places, "{x:.1},{y:.1} ").expect("writing to a String cannot fail");
            }
            if part.len() == 1 {
                // One point makes no line.
                let (x, y) = (self.x(part[0].0), self.y(part[0].1.unwrap_or_default()));
                self.put(format_args!("<circle class='{class} dot' cx='{x:.1}' cy='{y:.1}' r='1.5'/>"));
            } else if !part.is_empty() {
                self.put(format_args!("<polyline class='{class}' points='{}'/>", places.trim_end()));
            }
        }
    }

    /// What lies between a lower and an upper value at each time.
    pub(super) fn band(&mut self, class: &str, title: &str, points: &[(u64, f64, f64)]) {
        let mut places = String::new();
        let upper = points.iter().map(|(at, _, high)| (*at, *high));
        let lower = points.iter().rev().map(|(at, low, _)| (*at, *low));
        for (at_us, value) in upper.chain(lower) {
            let (x, y) = (self.x(at_us), self.y(value));
            write!(places, "{x:.1},{y:.1} ").expect("writing to a String cannot fail");
        }
        let title = Escaped(title);
        let places = places.trim_end();
        self.put(format_args!("<polygon class='{class}' points='{places}'><title>{title}</title></polygon>"));
    }

    /// A bar in a row, with what a pointer that rests on it shows.
    pub(super) fn bar(
        &mut self,
        class: &str,
        (from_us, to_us): (u64, u64),
        (y, height): (f64, f64),
        title: &str,
    ) {
        let (from, to, title) = (self.x(from_us), self.x(to_us), Escaped(title));
        let width = (to - from).max(1.5);
        self.put(format_args!(
            "<rect class='{class}' x='{from:.1}' y='{y:.1}' width='{width:.1}' height='{height:.1}' rx='1.5'>\
             <title>{title}</title></rect>"
        ));
    }

    pub(super) fn text(&mut self, class: &str, x: f64, y: f64, text: &dyn Display) {
        let text = text.to_string();
        self.put(format_args!("<text class='{class}' x='{x:.1}' y='{y:.1}'>{}</text>", Escaped(&text)));
    }

    /// Names a row in the margin.
    pub(super) fn row_name(&mut self, y: f64, text: &str) {
        self.text("tick end", LEFT - 8.0, y, &text);
    }

    pub(super) fn finish(self, label: &str) -> String {
        let height = TOP + self.height + BOTTOM;
        format!(
            "<svg viewBox='0 0 {WIDTH} {height}' role='img' aria-label='{}'>{}</svg>",
            Escaped(label),
            self.body
        )
    }

    fn put(&mut self, markup: std::fmt::Arguments<'_>) {
        self.body.write_fmt(markup).expect("writing to a String cannot fail");
    }
}

/// The style of a fault's layer.
pub(super) fn layer_class(fault: &str) -> String {
    faults::by_name(fault)
        .map_or_else(|| "unknown".to_owned(), |fault| format!("{:?}", fault.frame().layer).to_lowercase())
}

/// What a time axis of whole `step`s shows at a second.
fn clock(second: u64, step: u64) -> String {
    match (second, step) {
        (_, 3_600..) => format!("{} h", second / 3_600),
        (3_600.., _) => format!("{}:{:02} h", second / 3_600, second / 60 % 60),
        (_, 60..) => format!("{} min", second / 60),
        (60.., _) => format!("{}:{:02}", second / 60, second % 60),
        _ => format!("{second} s"),
    }
}

fn nice_seconds(least: u64) -> u64 {
    let steps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 14_400];
    steps.into_iter().find(|step| *step >= least).unwrap_or(28_800)
}

/// The next of 1, 2 and 5 in some power of ten.
pub(super) fn nice(least: f64) -> f64 {
    let power = 10_f64.powf(least.max(1e-9).log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|one| one * power)
        .find(|step| *step >= least * 0.999)
        .unwrap_or(power)
}

/// A value with as few characters as tell it.
pub(super) fn short(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{} M", round(v / 1e6)),
        v if v >= 1e4 => format!("{} k", round(v / 1e3)),
        v => round(v),
    }
}

fn round(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_round_numbers() {
        for (least, want) in [(0.3, 0.5), (1.0, 1.0), (1.1, 2.0), (26.0, 50.0), (900.0, 1_000.0)] {
            assert!((nice(least) - want).abs() < 1e-6, "{least}: {}", nice(least));
        }
        for (value, want) in [(0.5, "0.5"), (200.0, "200"), (12_500.0, "12.5 k"), (3e6, "3 M")] {
            assert_eq!(short(value), want);
        }
        for (second, step, want) in [
            (20, 5, "20 s"),
            (80, 10, "1:20"),
            (120, 60, "2 min"),
            (5_400, 1_800, "1:30 h"),
            (7_200, 3_600, "2 h"),
        ] {
            assert_eq!(clock(second, step), want);
        }
    }

    #[test]
    fn values_outside_the_scale_stay_inside_the_chart() {
        let plot = Plot::new(10, 100.0, Scale::Log(1.0, 1_000.0));
        assert!((plot.y(1e9) - TOP).abs() < 1e-6 && (plot.y(0.0) - TOP - 100.0).abs() < 1e-6);
        assert!((plot.y(1_000_f64.sqrt()) - TOP - 50.0).abs() < 1e-6);
        assert!((plot.x(u64::MAX) - (WIDTH - RIGHT)).abs() < 1e-6);
    }
}
