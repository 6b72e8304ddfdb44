//! Finds numbers that can't be true in a table of scores, whoever made it.
//!
//! The main check is Jensen's inequality: PSNR is convex in the squared error, so the mean of the images' PSNR is never below
//! the PSNR of their mean squared error. It holds whatever the images are, so a table that breaks it has a wrong peak, a
//! wrong range or mixed-up columns.

use super::table::aligned;
use crate::{Error, Result};

/// A table as printed.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    pub columns: Vec<Column>,
    pub rows: Vec<Row>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    pub head: String,
    pub quantity: Quantity,
    /// What a printed value is multiplied by, for example 100 for "MSE (e^2)".
    pub unit: f64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub label: String,
    /// One per column.
    pub cells: Vec<Option<Printed>>,
    /// The spread of the images' PSNR in dB, where a cell states it: "45.0 ± 9.8".
    pub psnr_sd: Option<f64>,
    /// The other fields, for example the set of images.
    pub texts: Vec<String>,
}

/// A number and half a unit of its last printed digit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Printed {
    pub value: f64,
    pub half: f64,
}

/// What a column holds, by its head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantity {
    Psnr,
    Ssim,
    Mse,
    Lpips,
    /// Cosine similarity of images or of identity features.
    Cosine,
    Fid,
    Count,
    Text,
}

impl Quantity {
    pub fn of(head: &str) -> Self {
        let head = head.to_lowercase();
        let word = |w: &str| head.split(|c: char| !c.is_alphanumeric()).any(|h| h == w);
        match () {
            // "w/o LPIPS" is an arm of an ablation.
            () if ["without ", "w/o "].iter().any(|start| head.starts_with(start)) => Quantity::Text,
            () if head.contains("psnr") => Quantity::Psnr,
            () if head.contains("ssim") => Quantity::Ssim,
            () if head.contains("lpips") => Quantity::Lpips,
            () if word("mse") || word("l2") => Quantity::Mse,
            () if word("cs") || word("id") || head.contains("cos") => Quantity::Cosine,
            () if word("fid") => Quantity::Fid,
            () if ["n", "count", "images"].iter().any(|w| word(w)) => Quantity::Count,
            () => Quantity::Text,
        }
    }

    /// The values that the quantity can take.
    fn range(self) -> (f64, f64) {
        match self {
            Quantity::Psnr | Quantity::Mse | Quantity::Fid | Quantity::Lpips => (0.0, f64::INFINITY),
            Quantity::Ssim | Quantity::Cosine => (-1.0, 1.0),
            Quantity::Count => (1.0, f64::INFINITY),
            Quantity::Text => (f64::NEG_INFINITY, f64::INFINITY),
        }
    }
}

/// The width of the value range behind an MSE: its square is the peak of the PSNR.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Peak(pub f64);

impl Peak {
    /// 0..255, [-1, 1] and [0, 1].
    pub const ALL: [Peak; 3] = [Peak(255.0), Peak(2.0), Peak(1.0)];

    fn words(self) -> &'static str {
        match self.0 {
            255.0 => "0..255",
            2.0 => "[-1, 1]",
            1.0 => "[0, 1]",
            _ => "the given range",
        }
    }

    fn psnr(self, mse: f64) -> f64 {
        10.0 * (self.0 * self.0 / mse).log10()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Can't be true in any reading: one range breaks the inequality, and so does, or needs a spread that images don't have,
    /// every other.
    Impossible,
    /// Could be, but most unlikely or unclear.
    Doubtful,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    pub severity: Severity,
    pub row: String,
    pub message: String,
}

/// A spread of the images' PSNR beyond this is not seen in tables of reconstructions (1.5 to 3 dB is usual).
const LARGEST_SD_DB: f64 = 4.5;

/// How far the implied spread may exceed a stated one: squared errors are not exactly log-normal.
const SLACK: f64 = 1.25;

/// 10 log10(2): a PSNR of images in [-1, 1] with the peak sqrt(2) in place of 2 is this much too low.
const HALVED_PEAK_DB: f64 = 3.0103;

/// The gap between mean PSNR and PSNR of the mean MSE, and what it implies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gap {
    /// PSNR of the mean MSE, and its ends when the printed MSE is rounded.
    pub psnr_of_mean: f64,
    pub from: f64,
    pub to: f64,
    /// Mean PSNR less PSNR of the mean.
    pub db: f64,
    /// Standard deviation of the images' PSNR that gives this gap when the MSE is log-normal; NaN for a negative gap.
    pub implied_sd_db: f64,
    /// False where even rounding can't save the inequality.
    pub possible: bool,
}

impl Gap {
    pub fn of(psnr: Printed, mse: Printed, peak: Peak) -> Self {
        let (psnr_of_mean, from) = (peak.psnr(mse.value), peak.psnr(mse.value + mse.half));
        let to = peak.psnr((mse.value - mse.half).max(f64::MIN_POSITIVE));
        let db = psnr.value - psnr_of_mean;
        // Mean over geometric mean of a log-normal is exp(variance / 2).
        let ln_sd = (2.0 * db * std::f64::consts::LN_10 / 10.0).sqrt();
        let possible = psnr.value + psnr.half >= from;
        Gap { psnr_of_mean, from, to, db, implied_sd_db: ln_sd * 10.0 / std::f64::consts::LN_10, possible }
    }

    /// Whether the images' PSNR would have to spread more than it does in any table of reconstructions, and more than the row states.
    fn strained(&self, stated: Option<f64>) -> bool {
        self.implied_sd_db > stated.map_or(LARGEST_SD_DB, |sd| (SLACK * sd).max(LARGEST_SD_DB))
    }
}

/// Everything suspicious in the table. `peak` fixes the range of its MSE; without it any usual range will do, if it is the
/// same for all rows.
pub fn lint(table: &Table, peak: Option<Peak>) -> Vec<Finding> {
    let mut found = vec![];
    ranges(table, &mut found);
    identical(table, &mut found);
    jensen(table, peak, &mut found);
    mixed(table, &mut found);
    found.sort_by_key(|f| f.severity);
    found
}

fn ranges(table: &Table, found: &mut Vec<Finding>) {
    for (row, column, cell) in cells(table) {
        let (low, high) = column.quantity.range();
        let mut add = |severity, message| found.push(Finding { severity, row: row.label.clone(), message });
        if cell.value.is_nan() || cell.value + cell.half < low || cell.value - cell.half > high {
            let high = if high.is_finite() { format!("{high}") } else { "infinity".into() };
            add(Severity::Impossible, format!("{}: {} is outside {low} to {high}", column.head, cell.value));
        } else if column.quantity == Quantity::Count && cell.value.fract() != 0.0 {
            add(Severity::Impossible, format!("{}: {} is not a whole number", column.head, cell.value));
        } else if column.quantity == Quantity::Psnr && cell.value > 80.0 && cell.value.is_finite() {
            add(
                Severity::Doubtful,
                format!("{}: {} dB is beyond 8-bit images that differ in more than a few samples", column.head, cell.value),
            );
        } else if column.quantity == Quantity::Lpips && cell.value > 1.5 && !column.head.contains("lpips-mini") {
            add(Severity::Doubtful, format!("{}: {} is larger than LPIPS of unrelated images", column.head, cell.value));
        }
    }
}

fn cells(table: &Table) -> impl Iterator<Item = (&Row, &Column, Printed)> {
    table.rows.iter().flat_map(|row| {
        let typed = table.columns.iter().zip(&row.cells).filter(|(c, _)| c.quantity != Quantity::Text);
        typed.filter_map(move |(column, cell)| Some((row, column, (*cell)?)))
    })
}

/// Infinite PSNR goes with no error at all.
fn identical(table: &Table, found: &mut Vec<Finding>) {
    for row in &table.rows {
        let of =
            |q: Quantity| table.columns.iter().zip(&row.cells).filter(move |(c, _)| c.quantity == q).filter_map(|(c, v)| Some((c, (*v)?)));
        if !of(Quantity::Psnr).any(|(_, p)| p.value == f64::INFINITY) {
            continue;
        }
        let zero = [Quantity::Mse, Quantity::Lpips].into_iter().flat_map(of).map(|(c, v)| (c, v, 0.0));
        let one = [Quantity::Ssim, Quantity::Cosine].into_iter().flat_map(of).map(|(c, v)| (c, v, 1.0));
        for (column, cell, wanted) in zero.chain(one).filter(|(_, cell, wanted)| (cell.value - wanted).abs() > cell.half) {
            let message = format!("PSNR is infinite, so the images are equal, but {} is {} and not {wanted}", column.head, cell.value);
            found.push(Finding { severity: Severity::Impossible, row: row.label.clone(), message });
        }
    }
}

fn jensen(table: &Table, peak: Option<Peak>, found: &mut Vec<Finding>) {
    let at = |q: Quantity| table.columns.iter().position(|c| c.quantity == q);
    let (Some(psnr), Some(mse)) = (at(Quantity::Psnr), at(Quantity::Mse)) else { return };
    let unit = table.columns[mse].unit;
    let pairs: Vec<(&Row, Printed, Printed)> = table
        .rows
        .iter()
        .filter_map(|row| Some((row, row.cells[psnr]?, row.cells[mse]?)))
        .map(|(row, p, m)| (row, p, Printed { value: m.value * unit, half: m.half * unit }))
        .filter(|(_, p, m)| p.value.is_finite() && m.value > 0.0)
        .collect();
    // An MSE can't exceed the square of its range, and reconstructions are never within a level of 255.
    let fits = |peak: &Peak| pairs.iter().all(|(_, _, m)| m.value - m.half <= peak.0 * peak.0 && (peak.0 < 255.0 || m.value > 1.0));
    let candidates: Vec<Peak> = peak.map_or_else(|| Peak::ALL.into_iter().filter(fits).collect(), |p| vec![p]);
    let sound = |peak: &Peak| {
        pairs.iter().all(|(row, p, m)| {
            let gap = Gap::of(*p, *m, *peak);
            gap.possible && !gap.strained(row.psnr_sd)
        })
    };
    if pairs.is_empty() || candidates.iter().any(sound) {
        return;
    }
    for (row, p, m) in &pairs {
        let judged: Vec<(Peak, Gap)> = candidates.iter().map(|peak| (*peak, Gap::of(*p, *m, *peak))).collect();
        let readings: Vec<String> = judged.iter().filter_map(|(peak, gap)| reading(*p, row.psnr_sd, *peak, gap)).collect();
        // Sound by itself in some range, though that range does not suit the other rows.
        if judged.is_empty() || readings.len() < judged.len() {
            continue;
        }
        let severity = if judged.iter().any(|(_, g)| !g.possible) { Severity::Impossible } else { Severity::Doubtful };
        let halved = judged.iter().any(|(_, g)| !g.possible && (0.0..1.5).contains(&(g.db + HALVED_PEAK_DB)));
        let hint = if halved { "; a PSNR whose squared peak is halved (3.01 dB less) would explain it" } else { "" };
        found.push(Finding { severity, row: row.label.clone(), message: format!("{}{hint}", readings.join("; ")) });
    }
}

/// What is wrong with this gap; `None` if nothing is.
fn reading(psnr: Printed, stated: Option<f64>, peak: Peak, gap: &Gap) -> Option<String> {
    let (on, mean, of_mean) = (peak.words(), psnr.value, gap.psnr_of_mean);
    if !gap.possible {
        let below = -gap.db;
        return Some(format!(
            "MSE on {on}: the mean PSNR {mean:.2} dB is {below:.2} dB below the PSNR of the mean MSE, {of_mean:.2} dB, which can't be"
        ));
    }
    let (above, spread) = (gap.db, gap.implied_sd_db);
    gap.strained(stated).then(|| {
        format!("MSE on {on}: the mean PSNR is {above:.2} dB above the PSNR of the mean MSE, {of_mean:.2} dB, so images would spread by {spread:.1} dB")
    })
}

/// Sizes in the heads ("psnr@64") and numbers of images that differ within one table.
fn mixed(table: &Table, found: &mut Vec<Finding>) {
    // The number of a rank ("identity-mini-first@100") is a number of rivals, not a size.
    let heads = table.columns.iter().filter_map(|c| c.head.split_once('@')).filter(|(metric, _)| !metric.ends_with("-first"));
    let sizes: Vec<&str> = heads.map(|(_, s)| size(s)).collect();
    if let Some(other) = sizes.iter().find(|s| **s != sizes[0]) {
        let message = format!("mixed protocols: columns at {} and at {other}", sizes[0]);
        found.push(Finding { severity: Severity::Doubtful, row: "all".into(), message });
    }
    for (i, column) in table.columns.iter().enumerate().filter(|(_, c)| c.quantity == Quantity::Count) {
        let mut first: Vec<(&[String], f64)> = vec![];
        for row in &table.rows {
            let Some(cell) = row.cells[i] else { continue };
            match first.iter().find(|(texts, _)| *texts == row.texts) {
                Some((_, n)) if *n != cell.value => {
                    let message = format!("mixed protocols: {} is {} here and {n} in another row of the same set", column.head, cell.value);
                    found.push(Finding { severity: Severity::Doubtful, row: row.label.clone(), message });
                }
                Some(_) => {}
                None => first.push((&row.texts, cell.value)),
            }
        }
    }
    for (i, column) in table.columns.iter().enumerate() {
        let protocol = ["protocol", "metric"].contains(&column.head.to_lowercase().as_str());
        let values: std::collections::BTreeSet<&String> = table.rows.iter().filter_map(|r| r.texts.get(text_index(table, i))).collect();
        if protocol && values.len() > 1 {
            let message = format!("mixed protocols: {}", values.into_iter().cloned().collect::<Vec<_>>().join(", "));
            found.push(Finding { severity: Severity::Doubtful, row: "all".into(), message });
        }
    }
}

/// The size at the start of what follows an "@": of "64, dB ↑" it is "64".
fn size(text: &str) -> &str {
    let text = text.trim();
    text.find(|c: char| !c.is_alphanumeric()).map_or(text, |end| &text[..end])
}

fn text_index(table: &Table, column: usize) -> usize {
    // The first text column is the row's label.
    let before = table.columns[..column].iter().filter(|c| c.quantity == Quantity::Text).count();
    before.checked_sub(1).unwrap_or(usize::MAX)
}

/// A table from heads and rows of text. `unit` overrides the unit that a head of an MSE column gives.
///
/// Errors (usage): no column that holds scores, or a score that is no number.
pub fn table(heads: &[String], lines: &[Vec<String>], unit: Option<f64>) -> Result<Table> {
    let columns: Vec<Column> = heads
        .iter()
        .map(|head| {
            let quantity = Quantity::of(head);
            let unit = if quantity == Quantity::Mse { unit.unwrap_or_else(|| unit_of(head)) } else { 1.0 };
            Column { head: head.clone(), quantity, unit }
        })
        .collect();
    if columns.iter().all(|c| matches!(c.quantity, Quantity::Text | Quantity::Count)) {
        return Err(Error::usage(format!(
            "no column of scores among {}; known are PSNR, SSIM, MSE, LPIPS, CS or ID, FID and numbers of images",
            heads.join(", ")
        )));
    }
    let mut rows = vec![];
    for line in lines {
        let mut row = Row { label: String::new(), cells: vec![], psnr_sd: None, texts: vec![] };
        let mut labels = vec![];
        for (column, text) in columns.iter().zip(line) {
            let cell = if column.quantity == Quantity::Text { None } else { printed(text, &column.head)? };
            match column.quantity {
                Quantity::Text => labels.push(text.trim().to_string()),
                Quantity::Psnr => row.psnr_sd = row.psnr_sd.or_else(|| spread(text)),
                _ => {}
            }
            row.cells.push(cell);
        }
        row.cells.resize(columns.len(), None);
        row.label = labels.join(" ").trim().to_string();
        row.texts = labels.split_off(1.min(labels.len()));
        // A line of text alone is a heading within the table.
        if row.cells.iter().any(Option::is_some) {
            rows.push(row);
        }
    }
    if rows.is_empty() {
        return Err(Error::usage("the table has no row with a score"));
    }
    Ok(Table { columns, rows })
}

/// The unit in a head such as "MSE (e^2)", "MSE x10^-3" or "MSE (1e-2)".
fn unit_of(head: &str) -> f64 {
    let head = head.to_lowercase().replace(' ', "");
    for mark in ["10^", "1e", "(e^", "(e", "10"] {
        let Some((_, after)) = head.split_once(mark) else { continue };
        let sign = after.starts_with(['-', '−']);
        let digits: String = after.trim_start_matches(['^', '{', '-', '−']).chars().take_while(char::is_ascii_digit).collect();
        if let Ok(power) = digits.parse::<i32>() {
            return 10f64.powi(if sign { -power } else { power });
        }
    }
    1.0
}

/// The leading number of a cell such as "**21.53** ± 2.1" or "∞"; `None` for an empty cell or a dash.
fn printed(text: &str, head: &str) -> Result<Option<Printed>> {
    let text = text.split("<br>").next().unwrap_or(text);
    let bare: String = text.replace(['*', '_', '`', '$', '~'], "").replace('−', "-").trim().to_string();
    let word = bare.split([' ', '±', '[', '(']).find(|w| !w.is_empty()).unwrap_or("").trim_end_matches('%');
    match word.to_lowercase().as_str() {
        // The last is "not reported".
        "" | "-" | "–" | "—" | "n/a" | "na" | "not" => return Ok(None),
        "∞" | "inf" | "infinity" | "\\infty" => return Ok(Some(Printed { value: f64::INFINITY, half: 0.0 })),
        _ => {}
    }
    let value: f64 = word.parse().map_err(|_| Error::usage(format!("column \"{head}\": \"{}\" is not a number", text.trim())))?;
    let (mantissa, exponent) = word.split_once(['e', 'E']).unwrap_or((word, "0"));
    let decimals = mantissa.split_once('.').map_or(0, |(_, d)| d.len() as i32);
    let half = 0.5 * 10f64.powi(exponent.parse::<i32>().unwrap_or(0) - decimals);
    Ok(Some(Printed { value, half }))
}

/// The number behind the "±" of a cell.
fn spread(text: &str) -> Option<f64> {
    let after = text.split("<br>").next()?.split_once('±')?.1.trim();
    after.split([' ', '[', '(']).next()?.parse().ok()
}

/// The findings as aligned text.
pub fn terminal(found: &[Finding]) -> String {
    let mut out = String::new();
    let rows: Vec<Vec<String>> = found
        .iter()
        .map(|f| vec![if f.severity == Severity::Impossible { "impossible" } else { "doubtful" }.into(), f.row.clone()])
        .collect();
    for (line, finding) in aligned(&rows).lines().zip(found) {
        out.push_str(&format!("{line}: {}\n", finding.message));
    }
    out
}
