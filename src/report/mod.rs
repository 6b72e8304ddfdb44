//! The report of a record: one model of numbers ([`Report`]) that every table is printed from, and the figures.
//!
//! Measured and published numbers never share a column, and a profile of the mini zoo is never called a reproduction.

use serde::Serialize;

use crate::metrics::{self, Info};
use crate::record::stats::{self, Alternative, Mode, Zeros};
use crate::record::summary::{Grid, Summary};
use crate::record::{ArmInfo, Record};
use crate::{Error, Result};

pub mod claims;
pub mod convergence;
pub mod curves;
pub mod details;
pub mod edit_curves;
pub mod edit_grid;
pub mod edits;
pub mod factors;
pub mod figure;
pub mod finding;
pub mod frechet;
pub mod gallery;
pub mod html;
pub mod ink;
pub mod lint;
pub mod published;
pub mod sheet;
pub mod table;
pub mod tradeoff;
pub mod verdicts;

use convergence::Convergence;
use details::{Cost, Unseen};
use published::Published;

/// Everything that the tables of a record print, as text with the right number of digits.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub title: String,
    pub study: String,
    pub profile: String,
    /// What the numbers are and are not, one sentence each.
    pub about: Vec<String>,
    /// What holds of the paper's claim, one paragraph per set of images.
    pub findings: Vec<String>,
    pub sets: Vec<Set>,
    /// Where the arms fail: the pictures apart by what they show that the generator never saw; empty where none does.
    pub unseen: Vec<Unseen>,
    /// How the scores depend on what the images show; empty where the record does not say what they show.
    pub by_factor: Vec<factors::ByFactor>,
    /// Distances of whole sets; empty where the study does not ask for them.
    pub frechet: Vec<frechet::Distances>,
    /// How soon the trainings converge; empty where the record has no curves.
    pub convergence: Vec<Convergence>,
    /// What the trainings cost; empty where the record has no times.
    pub costs: Vec<Cost>,
    /// Quality against seconds per image; empty where the study does not ask for it.
    pub tradeoffs: Vec<tradeoff::Tradeoff>,
    /// What edits did; absent where the study edits nothing.
    pub edits: Option<edits::Section>,
    /// The metrics' definitions: full name and one sentence.
    pub protocols: Vec<(String, String)>,
    /// Commit, device, weights and so on: name and value.
    pub provenance: Vec<(String, String)>,
}

/// The table of one set of images.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Set {
    /// "synthesized" or "real".
    pub name: String,
    pub images: usize,
    pub columns: Vec<Column>,
    pub rows: Vec<Row>,
    /// The label of the arm that the differences are taken to.
    pub first: String,
    /// Whether there are two seeds or more, so that `spread` is filled.
    pub several_seeds: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Column {
    /// The full protocol name.
    pub metric: String,
    pub title: String,
    pub unit: String,
    pub higher_is_better: bool,
    /// Where the published numbers of this column come from, or empty if it has none.
    pub published: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    pub name: String,
    pub label: String,
    pub reference: bool,
    pub seeds: usize,
    pub cells: Vec<Cell>,
}

/// One metric of one arm. Every text is empty where the number does not exist.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Cell {
    pub mean: String,
    /// Standard deviation over images.
    pub sd: String,
    pub low: String,
    pub high: String,
    /// The best mean among the trained arms.
    pub best: bool,
    pub published: String,
    /// Measured minus published with the interval of the mean; only where the profile is the paper's own.
    pub published_difference: String,
    /// Paired difference to the first arm, with sign; "equal" if every image scores the same.
    pub difference: String,
    pub difference_low: String,
    pub difference_high: String,
    /// The signed-rank test rejects "no difference" at 0.05, Holm-adjusted over the arms of this column.
    pub resolved: bool,
    /// Standard deviations between seeds, between images, and of the rest (two-way variance components).
    pub sd_seeds: String,
    pub sd_images: String,
    pub sd_rest: String,
}

impl Report {
    /// Errors (corrupt): the record lacks scores, or names a metric that does not exist.
    pub fn of(record: &Record) -> Result<Report> {
        let published = Published::load()?;
        let mut metrics: Vec<&str> = vec![];
        for score in &record.scores {
            if !metrics.contains(&score.metric.as_str()) {
                metrics.push(&score.metric);
            }
        }
        let infos = metrics.iter().map(|m| info(m)).collect::<Result<Vec<_>>>()?;
        let sets = sets(record).into_iter().map(|set| table_of(record, &set, &metrics, &published)).collect::<Result<Vec<_>>>()?;
        Ok(Report {
            title: title(record),
            study: record.study.clone(),
            profile: record.profile.clone(),
            about: about(record, &published),
            findings: finding::findings(record, &published)?,
            sets,
            unseen: details::unseen(record)?,
            by_factor: factors::by_factor(record)?,
            frechet: frechet::distances(record),
            convergence: convergence::convergence(record)?,
            costs: details::costs(record),
            tradeoffs: tradeoff::tables(record)?,
            edits: edits::section(record)?,
            protocols: metrics.iter().zip(infos).map(|(name, i)| (name.to_string(), i.about.to_string())).collect(),
            provenance: provenance(record),
        })
    }
}

/// What the measure of a full metric name is.
///
/// Errors (corrupt): no such measure.
pub fn info(metric: &str) -> Result<&'static Info> {
    metrics::info(metric).ok_or_else(|| Error::corrupt(format!("the record names a metric that this version does not know: {metric}")))
}

/// The sets of images in the order of the record.
pub fn sets(record: &Record) -> Vec<String> {
    let mut sets: Vec<String> = vec![];
    for image in &record.images {
        if !sets.contains(&image.set) {
            sets.push(image.set.clone());
        }
    }
    sets
}

/// The first table of each drawn set: all of its images, by the first protocol. Tables beside the scores speak of these.
fn drawn_sets(record: &Record) -> Vec<String> {
    let mut drawn: Vec<String> = vec![];
    for set in sets(record) {
        let of = |name: &str| name.split(" (").next().unwrap_or_default().to_string();
        if drawn.iter().all(|other| of(other) != of(&set)) {
            drawn.push(set);
        }
    }
    drawn
}

/// The trained arms in the order of the study.
pub fn trained(record: &Record) -> impl Iterator<Item = &ArmInfo> {
    record.arms.iter().filter(|a| !a.reference)
}

/// The trained arm that is best on a set by the mean of a metric, of those that pass, with its scores.
fn best_arm<'a>(record: &'a Record, set: &str, metric: &str, pass: impl Fn(&ArmInfo) -> bool) -> Result<Option<(&'a ArmInfo, Grid)>> {
    let sign = if info(metric)?.higher_is_better { 1.0 } else { -1.0 };
    let mut best: Option<(f64, &ArmInfo, Grid)> = None;
    for arm in trained(record).filter(|a| pass(a)) {
        let Some(grid) = Grid::of(record, &arm.name, set, metric)? else { continue };
        let mean = sign * stats::mean(&grid.by_image());
        if best.as_ref().is_none_or(|(b, _, _)| mean > *b) {
            best = Some((mean, arm, grid));
        }
    }
    Ok(best.map(|(_, arm, grid)| (arm, grid)))
}

fn title(record: &Record) -> String {
    let counts: Vec<String> =
        sets(record).iter().map(|set| format!("{} {set}", record.images.iter().filter(|i| &i.set == set).count())).collect();
    format!("{}, profile {}, {}, {} images", record.study, record.profile, seeds_text(&record.seeds), counts.join(" + "))
}

fn seeds_text(seeds: &[u64]) -> String {
    let list: Vec<String> = seeds.iter().map(u64::to_string).collect();
    if list.len() == 1 { format!("seed {}", list[0]) } else { format!("seeds {}", list.join(", ")) }
}

fn about(record: &Record, published: &Published) -> Vec<String> {
    let mut about = vec![];
    if record.profile == "paper" {
        about.push("Profile paper: the paper's sizes and pretrained networks.".into());
    } else {
        about.push(format!(
            "Every measured number is of the profile {0} (small networks trained for this project); none reproduces a number of the paper.",
            record.profile
        ));
    }
    about.push(match record.seeds.len() {
        1 => format!(
            "One training per arm ({}): the 95 % intervals (BCa bootstrap over images) speak of these trainings only, not of what another seed would give.",
            seeds_text(&record.seeds)
        ),
        n => format!(
            "{n} trainings per arm ({}): the 95 % intervals are those of a two-level bootstrap that draws seeds and images anew; with {n} seeds they {}.",
            seeds_text(&record.seeds),
            if n < 5 { "are rather too narrow than too wide" } else { "hold about 95 %" }
        ),
    });
    about.push(match published.note(&record.study) {
        Some(note) => note.to_string(),
        None => "The paper publishes no numbers for this study.".into(),
    });
    about.extend(notes(record));
    about
}

/// The study's own remarks on its arms.
fn notes(record: &Record) -> Vec<String> {
    let arms = record.spec.get("arms").and_then(|a| a.as_array()).into_iter().flatten();
    let text = |arm: &serde_json::Value, key: &str| arm.get(key).and_then(|v| v.as_str()).unwrap_or_default().to_string();
    arms.filter(|a| !text(a, "note").is_empty()).map(|a| format!("{}: {}", text(a, "label"), text(a, "note"))).collect()
}

fn provenance(record: &Record) -> Vec<(String, String)> {
    let p = &record.provenance;
    let short = |s: &str| s.chars().take(12).collect::<String>();
    let commit = format!("{}{}", short(&p.git_commit), if p.git_dirty { " with local changes" } else { "" });
    let mut rows = vec![
        ("mtv-bench".to_string(), p.version.clone()),
        ("commit".into(), commit),
        ("device".into(), p.device.clone()),
        ("CPU".into(), p.cpu.clone()),
        ("threads".into(), p.threads.to_string()),
        ("type".into(), p.dtype.clone()),
        ("image list".into(), short(&p.image_list_sha256)),
    ];
    rows.extend(p.weights.iter().map(|(card, sha)| (format!("weights {card}"), short(sha))));
    rows.extend(p.licences.iter().map(|(card, licence)| (format!("licence {card}"), licence.clone())));
    rows.retain(|(_, value)| !value.is_empty());
    rows
}

fn table_of(record: &Record, set: &str, metrics: &[&str], published: &Published) -> Result<Set> {
    // Where arms have generators of their own, each set of images belongs to some of them.
    let here = |a: &ArmInfo| record.scores.iter().any(|s| s.arm == a.name && s.set == set);
    let nowhere = |a: &ArmInfo| !record.scores.iter().any(|s| s.arm == a.name);
    let arms: Vec<ArmInfo> = record.arms.iter().filter(|a| here(a) || nowhere(a)).cloned().collect();
    let first = arms.iter().find(|a| !a.reference);
    let published_set = published_set(record, set);
    let mut rows: Vec<Row> = arms
        .iter()
        .map(|a| Row { name: a.name.clone(), label: a.label.clone(), reference: a.reference, seeds: 0, cells: vec![] })
        .collect();
    let mut columns = vec![];
    for &metric in metrics {
        let info = info(metric)?;
        let grids = arms.iter().map(|a| Grid::of(record, &a.name, set, metric)).collect::<Result<Vec<_>>>()?;
        if grids.iter().all(Option::is_none) {
            continue;
        }
        let base = first.and_then(|f| arms.iter().position(|a| a.name == f.name)).and_then(|i| grids[i].as_ref());
        let resolved = resolved(&grids, base);
        let mut source = "";
        let best = best(&grids, &arms, info.higher_is_better);
        for (i, (row, grid)) in rows.iter_mut().zip(&grids).enumerate() {
            let Some(grid) = grid else {
                row.cells.push(Cell::default());
                continue;
            };
            row.seeds = row.seeds.max(grid.seeds.len());
            let is_base = base.is_some_and(|b| std::ptr::eq(b, grid));
            let difference = if is_base { None } else { base.and_then(|b| grid.minus(b)).map(|d| d.summary()) };
            let mut cell = cell(&grid.summary(), difference.as_ref(), info.digits);
            // Arms that differ in nothing that reaches the encoder (case 1: the attention) are equal, not just close.
            if !is_base && base.and_then(|b| grid.minus(b)).is_some_and(|d| d.values.iter().flatten().all(|v| *v == 0.0)) {
                cell = Cell { difference: "equal".into(), difference_low: String::new(), difference_high: String::new(), ..cell };
            }
            cell.best = best == Some(i);
            cell.resolved = resolved[i];
            match published.value(&record.study, &published_set, &arms[i], info.name) {
                Some((value, item)) => {
                    cell.published = format!("{value:.*}", info.digits);
                    if record.profile == "paper" {
                        cell.published_difference = against(&grid.summary(), value, info.digits);
                    }
                    source = item;
                }
                None if published.prints(&record.study) && !arms[i].reference => cell.published = "not reported".into(),
                None => {}
            }
            row.cells.push(cell);
        }
        columns.push(Column {
            metric: metric.into(),
            title: info.title.into(),
            unit: info.unit.into(),
            higher_is_better: info.higher_is_better,
            published: source.into(),
        });
    }
    Ok(Set {
        name: set.into(),
        images: record.images.iter().filter(|i| i.set == set).count(),
        columns,
        several_seeds: rows.iter().any(|r| r.seeds > 1),
        rows,
        first: first.map(|a| a.label.clone()).unwrap_or_default(),
    })
}

/// The paper's set whose numbers belong beside this table: its protocol is "paper-table3", where the record has it.
fn published_set(record: &Record, set: &str) -> String {
    const PROTOCOL: &str = " (paper-table3";
    let (name, this) = set.split_once(" (").map_or((set, false), |(name, rest)| (name, rest.starts_with("paper-table3")));
    let any = record.images.iter().any(|i| i.set.contains(PROTOCOL));
    if any && !this { String::new() } else { name.to_string() }
}

/// "+0.35 [+0.10, +0.61]".
fn against(s: &Summary, published: f64, digits: usize) -> String {
    let signed = |v: f64| format!("{:+.digits$}", v - published);
    let interval = s.interval.map(|i| format!(" [{}, {}]", signed(i.low), signed(i.high))).unwrap_or_default();
    format!("{}{interval}", signed(s.mean))
}

fn cell(s: &Summary, difference: Option<&Summary>, digits: usize) -> Cell {
    let number = |v: f64| number(v, digits);
    let signed = |v: f64| if v.is_finite() { format!("{v:+.digits$}") } else { number(v) };
    let deviation = |variance: f64| number(variance.sqrt());
    Cell {
        mean: number(s.mean),
        sd: s.sd.map(number).unwrap_or_default(),
        low: s.interval.map(|i| number(i.low)).unwrap_or_default(),
        high: s.interval.map(|i| number(i.high)).unwrap_or_default(),
        difference: difference.map(|d| signed(d.mean)).unwrap_or_default(),
        difference_low: difference.and_then(|d| d.interval).map(|i| signed(i.low)).unwrap_or_default(),
        difference_high: difference.and_then(|d| d.interval).map(|i| signed(i.high)).unwrap_or_default(),
        sd_seeds: s.components.map(|c| deviation(c.seed)).unwrap_or_default(),
        sd_images: s.components.map(|c| deviation(c.image)).unwrap_or_default(),
        sd_rest: s.components.map(|c| deviation(c.residual)).unwrap_or_default(),
        ..Cell::default()
    }
}

/// A number for a table; infinity as the sign.
pub(crate) fn number(value: f64, digits: usize) -> String {
    match value {
        v if v == f64::INFINITY => "∞".into(),
        v if v == f64::NEG_INFINITY => "-∞".into(),
        v if v.is_nan() => "–".into(),
        v => {
            let text = format!("{v:.digits$}");
            if text.trim_matches(['-', '0', '.']).is_empty() { text.trim_start_matches('-').into() } else { text }
        }
    }
}

fn best(grids: &[Option<Grid>], arms: &[ArmInfo], higher: bool) -> Option<usize> {
    let sign = if higher { 1.0 } else { -1.0 };
    let mean = |g: &Grid| sign * stats::mean(&g.by_image());
    let candidates = grids.iter().enumerate().filter(|(i, _)| !arms[*i].reference).filter_map(|(i, g)| Some((i, mean(g.as_ref()?))));
    let best = candidates.max_by(|a, b| a.1.total_cmp(&b.1));
    best.filter(|_| arms.iter().filter(|a| !a.reference).count() > 1).map(|(i, _)| i)
}

/// Which rows differ from the first by the signed-rank test at 0.05 (zeros split, Holm over the rows).
fn resolved(grids: &[Option<Grid>], base: Option<&Grid>) -> Vec<bool> {
    let p: Vec<Option<f64>> = grids
        .iter()
        .map(|g| {
            let differences = g.as_ref()?.minus(base?)?.by_image();
            let usable = differences.iter().all(|d| d.is_finite()) && differences.iter().any(|d| *d != 0.0);
            usable.then(|| stats::wilcoxon(&differences, Zeros::Split, Alternative::TwoSided, Mode::Auto).p)
        })
        .collect();
    let adjusted = stats::holm(&p.iter().flatten().copied().collect::<Vec<_>>());
    let mut adjusted = adjusted.into_iter();
    p.iter().map(|p| p.is_some_and(|_| adjusted.next().is_some_and(|a| a < 0.05))).collect()
}
