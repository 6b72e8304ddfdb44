//! The report as one HTML file: no script, no network, figures inside it as data addresses.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{Report, table};
use crate::Result;

/// A figure to embed.
pub enum Picture<'a> {
    Png(&'a [u8]),
    Svg(&'a str),
}

impl Picture<'_> {
    /// The picture as a data address (RFC 2397).
    pub fn address(&self) -> String {
        match self {
            Picture::Png(bytes) => format!("data:image/png;base64,{}", STANDARD.encode(bytes)),
            Picture::Svg(text) => format!("data:image/svg+xml;base64,{}", STANDARD.encode(text)),
        }
    }
}

/// The page; `figures` by the names that the template uses ("reconstructions", "curves").
pub fn page(report: &Report, figures: &[(&'static str, Picture)]) -> Result<String> {
    let figures: HashMap<&str, String> = figures.iter().map(|(name, p)| (*name, p.address())).collect();
    table::render(report, "report.html", &figures)
}

/// Text as it may stand in HTML and SVG, between tags or in quotes.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
