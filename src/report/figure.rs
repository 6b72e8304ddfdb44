//! The image grid of a study, as the paper's Figs. 7 and 9 to 11 are: rows are the target and the arms, columns the same evaluation images.

use std::collections::BTreeMap;

use super::ink::{Anchor, BLACK, Figure, GREY, Sheet, text_width};
use super::{finding, info, number, sets, trained};
use crate::images::Rgb8;
use crate::record::summary::Grid;
use crate::record::{ArmInfo, Record, stats};
use crate::{Error, Result};

/// Pictures by "set/image id", as the stages store them.
pub type Pictures = BTreeMap<String, Rgb8>;

/// Side in pixels that a picture is enlarged to, at most, by a whole number.
const CELL: usize = 192;
const GAP: u32 = 6;
const GROUP_GAP: u32 = 30;
const MARGIN: u32 = 16;
const SIZE: f64 = 30.0;
const SMALL: f64 = 21.0;

/// The grid. `reconstructions` holds the pictures of an arm by its name; arms without any are left out, and so are images
/// that an arm of their set lacks. Sets that the same arms invert stand beside each other, the others (arms with a generator of their
/// own) below each other, as in Fig. 7.
///
/// Errors (internal): no image that the target and an arm share; pictures of different sizes in one set.
pub fn grid(record: &Record, targets: &Pictures, reconstructions: &BTreeMap<String, Pictures>) -> Result<Figure> {
    let mut blocks: Vec<Block> = Vec::new();
    for set in sets(record) {
        let of_set = |pictures: &&Pictures| pictures.keys().any(|key| key.strip_prefix(&set).is_some_and(|rest| rest.starts_with('/')));
        let arms: Vec<&ArmInfo> = trained(record).filter(|a| reconstructions.get(&a.name).as_ref().is_some_and(of_set)).collect();
        let shared = |key: &String| targets.contains_key(key) && arms.iter().all(|a| reconstructions[&a.name].contains_key(key));
        let ids = record.images.iter().filter(|i| i.set == set).map(|i| format!("{set}/{}", i.id));
        let keys: Vec<String> = ids.filter(shared).collect();
        if arms.is_empty() || keys.is_empty() {
            continue;
        }
        match blocks.iter_mut().find(|block| block.arms == arms) {
            Some(block) => block.groups.push((set, keys)),
            None => blocks.push(Block { arms, groups: vec![(set, keys)] }),
        }
    }
    if blocks.is_empty() {
        return Err(Error::internal("the image grid has no image that the target and every arm share"));
    }
    let laid = blocks.iter().map(|block| block.rows(record, targets, reconstructions)).collect::<Result<Vec<_>>>()?;
    let mut label_width: f64 = 0.0;
    for (label, note, _) in laid.iter().flatten() {
        label_width = label_width.max(text_width(label, SIZE, false)?).max(text_width(note, SMALL, false)?);
    }
    let left = MARGIN + label_width.ceil() as u32 + 18;
    let mut sheet = Sheet::default();
    for (block, rows) in blocks.iter().zip(&laid) {
        let gap = if sheet.height == 0 { 0 } else { GROUP_GAP - MARGIN };
        block.draw(&mut sheet, rows, left, gap)?;
    }
    sheet.render()
}

/// Sets of images that the same arms invert.
struct Block<'a> {
    arms: Vec<&'a ArmInfo>,
    /// Each set with the names of its pictures.
    groups: Vec<(String, Vec<String>)>,
}

/// Label, note and pictures of a row.
type GridRow<'a> = (String, String, &'a Pictures);

impl Block<'_> {
    fn rows<'a>(
        &self,
        record: &Record,
        targets: &'a Pictures,
        reconstructions: &'a BTreeMap<String, Pictures>,
    ) -> Result<Vec<GridRow<'a>>> {
        let mut rows: Vec<GridRow> = vec![("target".into(), String::new(), targets)];
        let scored: Vec<String> = self.groups.iter().map(|(set, _)| scored_set(record, &self.arms, set)).collect();
        // "first 24": the images of the means, where they are not all of the set.
        let part =
            |(table, (set, _)): (&String, &(String, _))| Some(table.strip_prefix(set.as_str())?.trim_matches([' ', '(', ')']).to_string());
        let part = scored.iter().zip(&self.groups).filter_map(part).find(|p| !p.is_empty()).map_or(String::new(), |p| format!(", {p}"));
        for arm in &self.arms {
            let mean = mean_psnr(record, &arm.name, &scored)?;
            rows.push((arm.label.clone(), if mean.is_empty() { mean } else { mean + &part }, &reconstructions[&arm.name]));
        }
        Ok(rows)
    }

    /// Below what the sheet already shows, `gap` further down.
    fn draw(&self, sheet: &mut Sheet, rows: &[GridRow], left: u32, gap: u32) -> Result<()> {
        let first = &rows[0].2[&self.groups[0].1[0]];
        let (w, h) = (first.width(), first.height());
        let (cell_w, cell_h, _) = fitted(first)?;
        let top = sheet.height + gap + MARGIN + SIZE as u32 + 14;
        let columns: u32 = self.groups.iter().map(|(_, keys)| keys.len() as u32).sum();
        let width = left + columns * (cell_w + GAP) - GAP + (self.groups.len() as u32 - 1) * (GROUP_GAP - GAP) + MARGIN;
        sheet.width = sheet.width.max(width);
        sheet.height = top + rows.len() as u32 * (cell_h + GAP) - GAP + MARGIN;
        for (r, (label, note, _)) in rows.iter().enumerate() {
            let middle = f64::from(top + r as u32 * (cell_h + GAP)) + f64::from(cell_h) / 2.0;
            let x = f64::from(left) - 18.0;
            let lift = if note.is_empty() { 0.36 * SIZE } else { -0.1 * SIZE };
            sheet.label(x, middle + lift, SIZE, Anchor::End, BLACK, label.as_str());
            if !note.is_empty() {
                sheet.label(x, middle + 0.95 * SIZE, SMALL, Anchor::End, GREY, note.as_str());
            }
        }
        let mut x = left;
        for (set, keys) in &self.groups {
            let width = keys.len() as u32 * (cell_w + GAP) - GAP;
            sheet.label(f64::from(x) + f64::from(width) / 2.0, f64::from(top) - 16.0, SIZE, Anchor::Middle, BLACK, format!("{set} images"));
            for key in keys {
                for (r, (_, _, pictures)) in rows.iter().enumerate() {
                    let picture = &pictures[key];
                    if (picture.width(), picture.height()) != (w, h) {
                        return Err(Error::internal(format!("the image grid: {key} has another size in row {}", rows[r].0)));
                    }
                    let (_, _, (enlarged, picture)) = fitted(picture)?;
                    sheet.pictures.push((x, top + r as u32 * (cell_h + GAP), enlarged, picture));
                }
                x += cell_w + GAP;
            }
            x = x - GAP + GROUP_GAP;
        }
        Ok(())
    }
}

/// "21.3 / 18.2 dB": the arm's mean PSNR on each set of the grid.
fn mean_psnr(record: &Record, arm: &str, scored: &[String]) -> Result<String> {
    let mut parts = vec![];
    for set in scored {
        let Some(metric) = finding::metric_named(record, set, "psnr") else { continue };
        if let Some(grid) = Grid::of(record, arm, set, &metric)? {
            parts.push(number(stats::mean(&grid.by_image()), info(&metric)?.digits));
        }
    }
    Ok(if parts.is_empty() { String::new() } else { format!("{} dB", parts.join(" / ")) })
}

/// The table that has the means of all these arms on this set: where one of them inverts the first images only, that of those images.
fn scored_set(record: &Record, arms: &[&ArmInfo], set: &str) -> String {
    let all_in = |table: &str| arms.iter().all(|a| record.scores.iter().any(|s| s.arm == a.name && s.set == table));
    let part = format!("{set} (first ");
    if all_in(set) { None } else { sets(record).into_iter().find(|s| s.starts_with(&part) && all_in(s)) }.unwrap_or_else(|| set.into())
}

/// Width and height of a picture on the sheet, and the picture itself with its enlargement: large ones are averaged down, small ones
/// enlarged by a whole number.
pub(super) fn fitted(picture: &Rgb8) -> Result<(u32, u32, (u32, Rgb8))> {
    let (w, h) = (picture.width(), picture.height());
    let shrink = w.max(h).div_ceil(CELL + CELL / 3).max(1);
    let enlarged = (CELL / w.max(h)).max(1) as u32;
    Ok(((w / shrink) as u32 * enlarged, (h / shrink) as u32 * enlarged, (enlarged, smaller(picture, shrink)?)))
}

/// The mean of every `factor` x `factor` block.
pub(super) fn smaller(picture: &Rgb8, factor: usize) -> Result<Rgb8> {
    let (w, h) = (picture.width() / factor, picture.height() / factor);
    let mut data = Vec::with_capacity(w * h * 3);
    for y in 0..h {
        for x in 0..w {
            for c in 0..3 {
                let at = |k: usize| ((y * factor + k / factor) * picture.width() + x * factor + k % factor) * 3 + c;
                let sum: usize = (0..factor * factor).map(|k| usize::from(picture.data()[at(k)])).sum();
                data.push(((sum + factor * factor / 2) / (factor * factor)) as u8);
            }
        }
    }
    Rgb8::new(w, h, data)
}
