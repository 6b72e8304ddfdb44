//! The figure of edits, as the paper's Fig. 12 is: rows are pictures, columns the picture itself and its reconstruction moved by alpha.

use std::collections::BTreeMap;

use super::edits::{names, variant_labels};
use super::figure::Pictures;
use super::ink::{Anchor, BLACK, Figure, GREY, Sheet};
use super::{number, sets, trained};
use crate::Result;
use crate::record::Record;
use crate::stages::edit::picture_name;

/// Side of a picture in the figure, at most.
const CELL: usize = 128;
const GAP: u32 = 4;
const BLOCK_GAP: u32 = 36;
const MARGIN: u32 = 16;
const SIZE: f64 = 26.0;
const TITLE: f64 = 32.0;
/// Pictures per direction.
const ROWS: usize = 4;
/// Directions beside each other.
const ACROSS: usize = 2;

/// The figure of the first arm's edits of real images in the first way; None without pictures. `targets` by "set/id"; `edited` by arm,
/// with the names that the stage gives.
pub fn grid(record: &Record, targets: &Pictures, edited: &BTreeMap<String, Pictures>) -> Result<Option<Figure>> {
    let Some(edits) = &record.edits else { return Ok(None) };
    let Some((arm, pictures)) = trained(record).find_map(|a| Some((a, edited.get(&a.name)?))) else { return Ok(None) };
    let Some(set) = sets(record).into_iter().rev().find(|s| s == "real").or_else(|| sets(record).pop()) else { return Ok(None) };
    let mut alphas: Vec<f64> = vec![0.0];
    for edit in &edits.curves {
        if !alphas.contains(&edit.alpha) {
            alphas.push(edit.alpha);
        }
    }
    alphas.sort_by(f64::total_cmp);
    let name = |id: &str, direction: &str, alpha: f64| match alpha {
        0.0 => format!("{set}/{id}"),
        _ => picture_name(&set, id, direction, alpha),
    };
    let directions = names(edits);
    let complete = |id: &&str| {
        targets.contains_key(&format!("{set}/{id}"))
            && directions.iter().all(|d| alphas.iter().all(|a| pictures.contains_key(&name(id, d, *a))))
    };
    let ids: Vec<&str> = record.images.iter().filter(|i| i.set == set).map(|i| i.id.as_str()).filter(complete).take(ROWS).collect();
    let Some(first) = ids.first().and_then(|id| targets.get(&format!("{set}/{id}"))) else { return Ok(None) };
    let (w, h) = (first.width(), first.height());
    let shrink = w.max(h).div_ceil(CELL).max(1);
    let enlarged = (CELL / w.max(h)).max(1) as u32;
    let (cell_w, cell_h) = ((w / shrink) as u32 * enlarged, (h / shrink) as u32 * enlarged);
    let columns = 1 + alphas.len() as u32;
    // A wider gap parts the original from what was made of it.
    let block_w = columns * (cell_w + GAP) - GAP + 3 * GAP;
    let head = (TITLE + SIZE) as u32 + 26;
    let block_h = head + ids.len() as u32 * (cell_h + GAP) - GAP;
    let across = directions.len().clamp(1, ACROSS) as u32;
    let down = (directions.len() as u32).div_ceil(across);
    let caption = (SIZE * 1.7) as u32;
    let mut sheet = Sheet {
        width: 2 * MARGIN + across * block_w + (across - 1) * BLOCK_GAP,
        height: 2 * MARGIN + down * block_h + (down - 1) * BLOCK_GAP + caption,
        ..Sheet::default()
    };
    for (n, direction) in directions.iter().enumerate() {
        let (left, top) = (MARGIN + (n as u32 % across) * (block_w + BLOCK_GAP), MARGIN + (n as u32 / across) * (block_h + BLOCK_GAP));
        let column = |c: u32| left + c * (cell_w + GAP) + if c > 0 { 3 * GAP } else { 0 };
        let middle = |c: u32| f64::from(column(c)) + f64::from(cell_w) / 2.0;
        let baseline = f64::from(top + head) - 10.0;
        sheet.label(f64::from(left), f64::from(top) + TITLE * 0.9, TITLE, Anchor::Start, BLACK, direction.as_str()).bold = true;
        sheet.label(middle(0), baseline, SIZE, Anchor::Middle, BLACK, "picture");
        for (c, alpha) in alphas.iter().enumerate() {
            let text = match *alpha {
                0.0 => "0".to_string(),
                a if a < 0.0 => format!("\u{2212}{}", number(-a, digits(a))),
                a => format!("+{}", number(a, digits(a))),
            };
            let text = if c == 0 { format!("α = {text}") } else { text };
            sheet.label(middle(1 + c as u32), baseline, SIZE, Anchor::Middle, BLACK, text);
        }
        for (r, id) in ids.iter().enumerate() {
            let y = top + head + r as u32 * (cell_h + GAP);
            let row = std::iter::once(&targets[&format!("{set}/{id}")]).chain(alphas.iter().map(|a| &pictures[&name(id, direction, *a)]));
            for (c, picture) in row.enumerate() {
                sheet.pictures.push((column(c as u32), y, enlarged, super::figure::smaller(picture, shrink)?));
            }
        }
    }
    let rows = variant_labels(record).into_iter().next().unwrap_or_default();
    let text = format!(
        "{set} images inverted by {}, {rows}; α = 0: the reconstruction; α in standard deviations of w along the direction",
        arm.label
    );
    sheet.label(f64::from(MARGIN), f64::from(sheet.height) - f64::from(MARGIN) - 4.0, SIZE * 0.85, Anchor::Start, GREY, text);
    sheet.render().map(Some)
}

fn digits(alpha: f64) -> usize {
    if alpha.fract() == 0.0 { 0 } else { 1 }
}
