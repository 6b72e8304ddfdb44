//! A drawing of shapes, pictures and labels that becomes a PNG and an SVG.
//!
//! plotters draws the shapes, three times too large for the PNG, so that thick lines get smooth edges. Labels are set here,
//! glyph by glyph from the embedded DejaVu Sans, because plotters rounds glyph positions to whole pixels; in the SVG they are
//! real text in the reader's sans-serif font, whose widths may differ a little. "z_n" is set with its index lowered.

use ab_glyph::{Font, FontRef, PxScale, ScaleFont, point};
use plotters::prelude::*;

use super::html::{Picture, escaped};
use crate::images::Rgb8;
use crate::{Error, Result};

const REGULAR: &[u8] = include_bytes!("../../paper/fonts/DejaVuSans-subset.ttf");
const BOLD: &[u8] = include_bytes!("../../paper/fonts/DejaVuSans-Bold-subset.ttf");

/// Enlargement of the shapes before they are averaged down.
const FINE: u32 = 3;

pub type Rgb = [u8; 3];

pub const BLACK: Rgb = [26, 26, 26];
pub const GREY: Rgb = [110, 110, 110];
pub const LIGHT: Rgb = [222, 222, 222];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

/// A label; `y` is its baseline, `size` the em in pixels.
#[derive(Debug, Clone)]
pub struct Label {
    pub x: f64,
    pub y: f64,
    pub size: f64,
    pub bold: bool,
    pub anchor: Anchor,
    pub colour: Rgb,
    pub text: String,
}

#[derive(Debug, Clone)]
pub enum Shape {
    Line {
        points: Vec<(f64, f64)>,
        width: f64,
        colour: Rgb,
    },
    /// A filled polygon.
    Area {
        points: Vec<(f64, f64)>,
        colour: Rgb,
        opacity: f64,
    },
    Dot {
        at: (f64, f64),
        radius: f64,
        colour: Rgb,
    },
}

/// A white sheet of `width` x `height` pixels.
#[derive(Debug, Clone, Default)]
pub struct Sheet {
    pub width: u32,
    pub height: u32,
    pub shapes: Vec<Shape>,
    /// Pictures with their left upper corner and integer enlargement.
    pub pictures: Vec<(u32, u32, u32, Rgb8)>,
    pub labels: Vec<Label>,
}

/// A figure in both forms.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    pub png: Vec<u8>,
    pub svg: String,
}

impl Sheet {
    pub fn label(&mut self, x: f64, y: f64, size: f64, anchor: Anchor, colour: Rgb, text: impl Into<String>) -> &mut Label {
        self.labels.push(Label { x, y, size, bold: false, anchor, colour, text: text.into() });
        let last = self.labels.len() - 1;
        &mut self.labels[last]
    }

    pub fn line(&mut self, points: Vec<(f64, f64)>, width: f64, colour: Rgb) {
        self.shapes.push(Shape::Line { points, width, colour });
    }

    pub fn render(&self) -> Result<Figure> {
        Ok(Figure { png: self.png()?, svg: self.svg()? })
    }

    fn png(&self) -> Result<Vec<u8>> {
        let (w, h) = (self.width * FINE, self.height * FINE);
        let mut fine = vec![255u8; (w * h * 3) as usize];
        {
            let root = BitMapBackend::with_buffer(&mut fine, (w, h)).into_drawing_area();
            self.draw_shapes(&root)?;
        }
        let mut pixels = average(&fine, self.width as usize, self.height as usize);
        for (x, y, enlarged, picture) in &self.pictures {
            blit(&mut pixels, self.width as usize, (*x as usize, *y as usize), picture, *enlarged as usize);
        }
        for label in &self.labels {
            self.set_label(&mut pixels, label)?;
        }
        Rgb8::new(self.width as usize, self.height as usize, pixels)?.to_png()
    }

    fn svg(&self) -> Result<String> {
        let (w, h) = (self.width * FINE, self.height * FINE);
        let mut text = String::new();
        {
            let root = SVGBackend::with_string(&mut text, (w, h)).into_drawing_area();
            self.draw_shapes(&root)?;
        }
        let mut inside = String::new();
        let f = f64::from(FINE);
        for (x, y, enlarged, picture) in &self.pictures {
            let (pw, ph) = (picture.width() as u32 * enlarged * FINE, picture.height() as u32 * enlarged * FINE);
            let address = Picture::Png(&picture.to_png()?).address();
            inside.push_str(&format!(
                "<image x=\"{}\" y=\"{}\" width=\"{pw}\" height=\"{ph}\" style=\"image-rendering:pixelated\" href=\"{address}\"/>\n",
                x * FINE,
                y * FINE
            ));
        }
        for label in &self.labels {
            let anchor = match label.anchor {
                Anchor::Start => "start",
                Anchor::Middle => "middle",
                Anchor::End => "end",
            };
            let [r, g, b] = label.colour;
            let weight = if label.bold { " font-weight=\"bold\"" } else { "" };
            inside.push_str(&format!(
                "<text x=\"{:.1}\" y=\"{:.1}\" font-family=\"DejaVu Sans, Verdana, sans-serif\" font-size=\"{:.1}\" text-anchor=\"{anchor}\" fill=\"#{r:02x}{g:02x}{b:02x}\"{weight} xml:space=\"preserve\">{}</text>\n",
                label.x * f,
                label.y * f,
                label.size * f,
                svg_runs(&label.text)
            ));
        }
        let size = format!("width=\"{w}\" height=\"{h}\"");
        let shown = format!("width=\"{}\" height=\"{}\"", self.width, self.height);
        let text = text.replacen(&size, &shown, 1);
        let end = text.rfind("</svg>").ok_or_else(|| Error::internal("plotters wrote no SVG"))?;
        Ok(format!("{}{inside}</svg>\n", &text[..end]))
    }

    fn draw_shapes<DB: DrawingBackend>(&self, root: &DrawingArea<DB, plotters::coord::Shift>) -> Result<()> {
        let fault = |e: DrawingAreaErrorKind<DB::ErrorType>| Error::internal(format!("drawing a figure: {e}"));
        let f = f64::from(FINE);
        let at = |(x, y): (f64, f64)| ((x * f).round() as i32, (y * f).round() as i32);
        let paint = |[r, g, b]: Rgb| RGBColor(r, g, b);
        root.fill(&WHITE).map_err(fault)?;
        for shape in &self.shapes {
            match shape {
                Shape::Line { points, width, colour } => {
                    let style = paint(*colour).stroke_width((width * f).round().max(1.0) as u32);
                    root.draw(&PathElement::new(points.iter().map(|p| at(*p)).collect::<Vec<_>>(), style)).map_err(fault)?;
                }
                Shape::Area { points, colour, opacity } => {
                    let style = paint(*colour).mix(*opacity).filled();
                    root.draw(&Polygon::new(points.iter().map(|p| at(*p)).collect::<Vec<_>>(), style)).map_err(fault)?;
                }
                Shape::Dot { at: centre, radius, colour } => {
                    root.draw(&Circle::new(at(*centre), (radius * f).round() as i32, paint(*colour).filled())).map_err(fault)?;
                }
            }
        }
        root.present().map_err(fault)
    }

    fn set_label(&self, pixels: &mut [u8], label: &Label) -> Result<()> {
        let start = match label.anchor {
            Anchor::Start => label.x,
            Anchor::Middle => label.x - text_width(&label.text, label.size, label.bold)? / 2.0,
            Anchor::End => label.x - text_width(&label.text, label.size, label.bold)?,
        };
        let font = font(label.bold)?;
        let mut x = start as f32;
        for (run, lowered) in runs(&label.text) {
            let (size, drop) = if lowered { (label.size * INDEX_SIZE, label.size * INDEX_DROP) } else { (label.size, 0.0) };
            let scale = em(&font, size);
            let scaled = font.as_scaled(scale);
            let mut before = None;
            for c in run.chars() {
                let id = font.glyph_id(c);
                x += before.map_or(0.0, |b| scaled.kern(b, id));
                if let Some(outline) = font.outline_glyph(id.with_scale_and_position(scale, point(x, (label.y + drop) as f32))) {
                    let corner = outline.px_bounds().min;
                    outline.draw(|dx, dy, cover| {
                        self.mix(pixels, corner.x as i64 + i64::from(dx), corner.y as i64 + i64::from(dy), label.colour, cover)
                    });
                }
                x += scaled.h_advance(id);
                before = Some(id);
            }
        }
        Ok(())
    }

    fn mix(&self, pixels: &mut [u8], x: i64, y: i64, colour: Rgb, cover: f32) {
        if (0..i64::from(self.width)).contains(&x) && (0..i64::from(self.height)).contains(&y) {
            let at = (y as usize * self.width as usize + x as usize) * 3;
            for (p, c) in pixels[at..at + 3].iter_mut().zip(colour) {
                *p = (f32::from(*p) * (1.0 - cover) + f32::from(c) * cover).round() as u8;
            }
        }
    }
}

const INDEX_SIZE: f64 = 0.72;
const INDEX_DROP: f64 = 0.2;

fn font(bold: bool) -> Result<FontRef<'static>> {
    FontRef::try_from_slice(if bold { BOLD } else { REGULAR }).map_err(|e| Error::internal(format!("the embedded font: {e}")))
}

/// The scale at which one em has `size` pixels (ab_glyph scales by the height from ascender to descender).
fn em(font: &FontRef, size: f64) -> PxScale {
    PxScale::from(size as f32 * font.height_unscaled() / font.units_per_em().unwrap_or(1.0))
}

/// Width in pixels.
pub fn text_width(text: &str, size: f64, bold: bool) -> Result<f64> {
    let font = font(bold)?;
    let mut width = 0.0;
    for (run, lowered) in runs(text) {
        let scaled = font.as_scaled(em(&font, if lowered { size * INDEX_SIZE } else { size }));
        let mut before = None;
        for c in run.chars() {
            let id = font.glyph_id(c);
            width += scaled.h_advance(id) + before.map_or(0.0, |b| scaled.kern(b, id));
            before = Some(id);
        }
    }
    Ok(f64::from(width))
}

/// Pieces of a label and whether they are an index: "w + z_n" is "w + z" and, lowered, "n". Only a single letter has an index.
fn runs(text: &str) -> Vec<(String, bool)> {
    let letters: Vec<char> = text.chars().collect();
    let single = |i: usize| i > 0 && letters[i - 1].is_ascii_lowercase() && (i < 2 || !letters[i - 2].is_alphanumeric());
    let (mut out, mut plain, mut i) = (vec![], String::new(), 0);
    while i < letters.len() {
        let index: String = letters[i + 1..].iter().take_while(|c| c.is_ascii_alphanumeric()).collect();
        if letters[i] == '_' && single(i) && (1..=2).contains(&index.len()) {
            out.push((std::mem::take(&mut plain), false));
            i += 1 + index.len();
            out.push((index, true));
        } else {
            plain.push(letters[i]);
            i += 1;
        }
    }
    out.push((plain, false));
    out
}

fn svg_runs(text: &str) -> String {
    let mut out = String::new();
    let mut lowered_before = false;
    for (run, lowered) in runs(text) {
        let run = escaped(&run);
        if lowered {
            out.push_str(&format!("<tspan dy=\"{:.3}em\" font-size=\"{INDEX_SIZE}em\">{run}</tspan>", INDEX_DROP / INDEX_SIZE));
        } else if lowered_before && !run.is_empty() {
            out.push_str(&format!("<tspan dy=\"-{INDEX_DROP}em\">{run}</tspan>"));
        } else {
            out.push_str(&run);
        }
        lowered_before = lowered;
    }
    out
}

fn average(fine: &[u8], width: usize, height: usize) -> Vec<u8> {
    let f = FINE as usize;
    let mut out = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        for x in 0..width {
            for c in 0..3 {
                let sum: usize = (0..f * f).map(|k| usize::from(fine[((y * f + k / f) * width * f + x * f + k % f) * 3 + c])).sum();
                out.push(((sum + f * f / 2) / (f * f)) as u8);
            }
        }
    }
    out
}

fn blit(pixels: &mut [u8], width: usize, (left, top): (usize, usize), picture: &Rgb8, enlarged: usize) {
    let (w, h) = (picture.width(), picture.height());
    for y in 0..h * enlarged {
        for x in 0..w * enlarged {
            let to = ((top + y) * width + left + x) * 3;
            let from = ((y / enlarged) * w + x / enlarged) * 3;
            if left + x < width && to + 3 <= pixels.len() {
                pixels[to..to + 3].copy_from_slice(&picture.data()[from..from + 3]);
            }
        }
    }
}
