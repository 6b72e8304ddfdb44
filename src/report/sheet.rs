//! A plain table of pictures: a name per row, a title per column.

use super::figure::smaller;
use super::ink::{Anchor, BLACK, GREY, Sheet, text_width};
use crate::Result;
use crate::images::Rgb8;

/// A column of pictures of one size.
pub struct Column {
    pub title: String,
    pub pictures: Vec<Rgb8>,
}

const CELL: usize = 256;
const GAP: u32 = 6;
const MARGIN: u32 = 16;
const SIZE: f64 = 24.0;
const SMALL: f64 = 18.0;
/// Letters of a row's name that are shown.
const NAME: usize = 40;

/// The table as PNG.
pub fn table(names: &[String], columns: &[Column]) -> Result<Vec<u8>> {
    let side = columns.iter().flat_map(|c| &c.pictures).map(|p| p.width().max(p.height())).max().unwrap_or(1);
    let shrink = side.div_ceil(CELL).max(1);
    let enlarged = (CELL / side).max(1) as u32;
    let picture = (side / shrink) as u32 * enlarged;
    let mut widths = Vec::new();
    for column in columns {
        widths.push((text_width(&column.title, SIZE, false)?.ceil() as u32 + 12).max(picture));
    }
    let top = MARGIN + SIZE as u32 + 12;
    let line = SMALL as u32 + 14;
    let width = 2 * MARGIN + widths.iter().map(|w| w + GAP).sum::<u32>() - GAP;
    let mut sheet = Sheet { width, height: top + names.len() as u32 * (picture + line) + MARGIN, ..Sheet::default() };
    let mut x = MARGIN;
    for (column, width) in columns.iter().zip(&widths) {
        let middle = f64::from(x) + f64::from(*width) / 2.0;
        sheet.label(middle, f64::from(top) - 12.0, SIZE, Anchor::Middle, BLACK, column.title.as_str());
        for (r, one) in column.pictures.iter().enumerate() {
            sheet.pictures.push((x + (width - picture) / 2, top + r as u32 * (picture + line), enlarged, smaller(one, shrink)?));
        }
        x += width + GAP;
    }
    for (r, name) in names.iter().enumerate() {
        let short: String = if name.chars().count() > NAME { name.chars().take(NAME - 1).chain(['…']).collect() } else { name.clone() };
        let y = f64::from(top + r as u32 * (picture + line) + picture) + SMALL + 1.0;
        sheet.label(f64::from(MARGIN), y, SMALL, Anchor::Start, GREY, short);
    }
    Ok(sheet.render()?.png)
}
