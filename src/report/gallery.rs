//! The worst cases: for each set of images, those that the best arm reconstructs worst, with their scores and with what they show that
//! the generator never saw.

use std::collections::BTreeMap;

use super::figure::{Pictures, fitted};
use super::ink::{Anchor, BLACK, Figure, GREY, Sheet, text_width};
use super::{best_arm, details, info, number, sets};
use crate::record::{ArmInfo, Record};
use crate::{Error, Result};

const GAP: u32 = 6;
const MARGIN: u32 = 16;
const SIZE: f64 = 26.0;
const SMALL: f64 = 19.0;
/// Below each column: its score and what is unseen in it.
const CAPTION: u32 = 52;

/// One set of images with the arm that is best on it.
struct Block<'a> {
    arm: &'a ArmInfo,
    set: String,
    /// Name of the picture, its score, what it shows that the generator never saw; worst first.
    cases: Vec<(String, String, String)>,
}

/// The gallery; `worst` holds, by arm, the stored reconstructions of the first seed. `None` if there are none.
///
/// Errors: corrupt record; pictures of different sizes in one set.
pub fn worst(record: &Record, targets: &Pictures, worst: &BTreeMap<String, Pictures>) -> Result<Option<Figure>> {
    let blocks: Vec<Block> = sets(record).iter().filter_map(|set| block(record, set, targets, worst).transpose()).collect::<Result<_>>()?;
    if blocks.is_empty() {
        return Ok(None);
    }
    let mut left = 0.0_f64;
    for block in &blocks {
        left = left.max(text_width("target", SIZE, false)?).max(text_width(&block.arm.label, SIZE, false)?);
    }
    let left = MARGIN + left.ceil() as u32 + 18;
    let mut sheet = Sheet::default();
    for block in &blocks {
        block.draw(&mut sheet, left, targets, &worst[&block.arm.name])?;
    }
    sheet.height += MARGIN / 2;
    sheet.render().map(Some)
}

fn block<'a>(record: &'a Record, set: &str, targets: &Pictures, worst: &BTreeMap<String, Pictures>) -> Result<Option<Block<'a>>> {
    // The stage has chosen by the record's first metric.
    let Some(metric) = record.scores.iter().find(|s| s.set == set).map(|s| s.metric.clone()) else { return Ok(None) };
    let info = info(&metric)?;
    let sign = if info.higher_is_better { 1.0 } else { -1.0 };
    let Some((arm, grid)) = best_arm(record, set, &metric, |a| worst.contains_key(&a.name))? else { return Ok(None) };
    let mut cases: Vec<(f64, String, String)> = vec![];
    for (image, value) in record.images.iter().filter(|i| i.set == set).zip(&grid.values[0]) {
        let key = format!("{set}/{}", image.id);
        if worst[&arm.name].contains_key(&key) && targets.contains_key(&key) {
            cases.push((*value, key, image.unseen.iter().map(|u| details::words(u)).collect::<Vec<_>>().join(", ")));
        }
    }
    cases.sort_by(|a, b| (sign * a.0).total_cmp(&(sign * b.0)));
    let unit = if info.unit.is_empty() { String::new() } else { format!(" {}", info.unit) };
    let cases: Vec<_> = cases.into_iter().map(|(v, key, unseen)| (key, format!("{}{unit}", number(v, info.digits)), unseen)).collect();
    Ok((!cases.is_empty()).then(|| Block { arm, set: set.to_string(), cases }))
}

impl Block<'_> {
    fn draw(&self, sheet: &mut Sheet, left: u32, targets: &Pictures, reconstructions: &Pictures) -> Result<()> {
        let (cell_w, cell_h, _) = fitted(&targets[&self.cases[0].0])?;
        let top = sheet.height + MARGIN + SIZE as u32 + 14;
        let columns = self.cases.len() as u32;
        sheet.width = sheet.width.max(left + columns * (cell_w + GAP) - GAP + MARGIN);
        sheet.height = top + 2 * (cell_h + GAP) + CAPTION;
        let title = format!("{} images, the {columns} worst", self.set);
        sheet.label(f64::from(left), f64::from(top) - 16.0, SIZE, Anchor::Start, BLACK, title);
        for (row, (label, pictures)) in [("target", targets), (self.arm.label.as_str(), reconstructions)].into_iter().enumerate() {
            let y = top + row as u32 * (cell_h + GAP);
            sheet.label(f64::from(left) - 18.0, f64::from(y + cell_h / 2) + 0.36 * SIZE, SIZE, Anchor::End, BLACK, label);
            for (column, (key, _, _)) in self.cases.iter().enumerate() {
                let (w, h, (enlarged, picture)) = fitted(&pictures[key])?;
                if (w, h) != (cell_w, cell_h) {
                    return Err(Error::internal(format!("the gallery: {key} has another size than the first picture of its set")));
                }
                sheet.pictures.push((left + column as u32 * (cell_w + GAP), y, enlarged, picture));
            }
        }
        for (column, (_, score, unseen)) in self.cases.iter().enumerate() {
            let x = f64::from(left + column as u32 * (cell_w + GAP) + cell_w / 2);
            let y = f64::from(top + 2 * (cell_h + GAP)) + SMALL;
            sheet.label(x, y, SMALL, Anchor::Middle, BLACK, score.as_str());
            sheet.label(x, y + 1.2 * SMALL, SMALL, Anchor::Middle, GREY, unseen.as_str());
        }
        Ok(())
    }
}
