//! Results as SVG pictures that need nothing else.

mod compare;
mod svg;
mod timeline;

pub use compare::compare;
pub use timeline::{burst, warmth};

/// A colour and a shape for each policy, in the order of [`crate::policies::all`]. The colours are told
/// apart by the colour-blind too (Okabe and Ito).
const MARKS: [(&str, svg::Shape); 6] = [
    ("#777777", svg::Shape::Circle),
    ("#e69f00", svg::Shape::Square),
    ("#cc79a7", svg::Shape::Triangle),
    ("#56b4e9", svg::Shape::Square),
    ("#009e73", svg::Shape::Diamond),
    ("#d55e00", svg::Shape::Circle),
];
