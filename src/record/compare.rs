//! The regression gate: a record against golden scores.
//!
//! Golden files (`results/golden/<study>.<profile>.json`) hold the scores per image of at least three trainings per arm that
//! differ in the seed alone. The images are the same for old and new, so differences are paired; the margin that a loss must
//! exceed comes from the spread over the seeds, because images say nothing about how another training would have ended.

use super::golden::{Golden, Run, incomparable, merged};
use super::stats::{self, Alternative, Bootstrap, Interval, Mode, Spread, Zeros};
use super::summary::{Grid, image_resamples};
use super::{ArmInfo, Record};
use crate::Result;
use crate::metrics::{self, Info};

/// Scores of the same seed on the same kind of machine count as equal within this share (absolute below 1).
const EQUAL: f64 = 1e-5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Better, and not by chance.
    Improved,
    /// No loss beyond the margin.
    Pass,
    /// A loss beyond the margin.
    Fail,
    /// The images can't tell whether the loss exceeds the margin: more images or seeds are needed.
    Inconclusive,
    /// Unlike things.
    NotComparable,
}

impl Verdict {
    /// From the 95 % interval of the improvement (positive is better) and the margin of tolerated loss.
    pub fn of(improvement: Interval, margin: f64) -> Self {
        let Interval { low, high } = improvement;
        match () {
            () if low > 0.0 => Verdict::Improved,
            () if low > -margin || (low == 0.0 && high == 0.0) => Verdict::Pass,
            () if high < -margin => Verdict::Fail,
            () => Verdict::Inconclusive,
        }
    }

    pub fn words(self) -> &'static str {
        match self {
            Verdict::Improved => "improved",
            Verdict::Pass => "pass",
            Verdict::Fail => "fail",
            Verdict::Inconclusive => "inconclusive",
            Verdict::NotComparable => "not comparable",
        }
    }
}

/// One arm, set and metric of a check.
#[derive(Debug, Clone, PartialEq)]
pub struct Cell {
    pub arm: ArmInfo,
    pub set: String,
    pub metric: String,
    /// Whether a failure here fails the check.
    pub gates: bool,
    pub verdict: Verdict,
    pub reason: String,
    pub golden: f64,
    pub new: f64,
    /// Wilcoxon's p-value of a loss, Holm-adjusted over the cells that do not gate; a second opinion.
    pub loss_p: Option<f64>,
}

/// The outcome for one study and profile.
#[derive(Debug, Clone, PartialEq)]
pub struct Check {
    pub name: String,
    pub seeds: Vec<u64>,
    pub golden_seeds: Vec<u64>,
    /// Why the two were not compared; empty if they were.
    pub refusals: Vec<String>,
    pub cells: Vec<Cell>,
}

impl Check {
    /// The worst verdict that counts.
    pub fn verdict(&self) -> Verdict {
        if !self.refusals.is_empty() {
            return Verdict::NotComparable;
        }
        let gates = |v: Verdict| self.cells.iter().any(|c| c.gates && c.verdict == v);
        [Verdict::Fail, Verdict::Inconclusive, Verdict::Pass, Verdict::Improved].into_iter().find(|v| gates(*v)).unwrap_or(Verdict::Pass)
    }
}

/// Compares records of one study and profile (one or several seeds) with golden scores.
///
/// Errors: Incomparable if the records are unlike each other; Corrupt if one is incomplete. Being unlike the golden scores is
/// no error here but a verdict.
pub fn check(golden: &Golden, records: &[Record]) -> Result<Check> {
    let record = merged(records)?;
    let mut check = Check {
        name: format!("{}.{}", record.study, record.profile),
        seeds: record.seeds.clone(),
        golden_seeds: golden.runs.iter().map(|r| r.seed).collect(),
        refusals: golden.refusals(&record),
        cells: vec![],
    };
    if !check.refusals.is_empty() {
        return Ok(check);
    }
    for set in golden.images.keys() {
        for metric in golden.metrics() {
            let info = info(metric)?;
            let trained = golden.arms.iter().filter(|a| !a.reference);
            let means: Vec<Vec<f64>> = trained.filter_map(|a| Some(golden.grid(&a.name, set, metric)?.by_seed())).collect();
            for arm in &golden.arms {
                let Some(old) = golden.grid(&arm.name, set, metric) else { continue };
                let new = Grid::of(&record, &arm.name, set, metric)?
                    .ok_or_else(|| incomparable(format!("{}: the arm \"{}\" has no {metric} on {set} images", check.name, arm.name)))?;
                let spread = if arm.reference { None } else { Some(Spread::pooled(&means)) };
                let mut cell = compare(golden, &record, info, &old, &new, spread);
                cell.arm = arm.clone();
                cell.set = set.clone();
                cell.metric = metric.clone();
                cell.gates = golden.gate.contains(metric);
                check.cells.push(cell);
            }
        }
    }
    let others: Vec<usize> = (0..check.cells.len()).filter(|&i| !check.cells[i].gates && check.cells[i].loss_p.is_some()).collect();
    let adjusted = stats::holm(&others.iter().filter_map(|&i| check.cells[i].loss_p).collect::<Vec<_>>());
    for (i, p) in others.into_iter().zip(adjusted) {
        check.cells[i].loss_p = Some(p);
    }
    Ok(check)
}

fn compare(golden: &Golden, record: &Record, info: &Info, old: &Grid, new: &Grid, spread: Option<Spread>) -> Cell {
    let sign = if info.higher_is_better { 1.0 } else { -1.0 };
    let differences: Vec<f64> =
        new.by_image().iter().zip(old.by_image()).map(|(n, o)| if *n == o { 0.0 } else { sign * (n - o) }).collect();
    let loss_p = (differences.iter().all(|d| d.is_finite()) && differences.iter().any(|d| *d != 0.0))
        .then(|| stats::wilcoxon(&differences, Zeros::Split, Alternative::Less, Mode::Auto).p);
    let (verdict, reason) = judge(golden, record, info, old, new, spread, &differences);
    Cell {
        arm: ArmInfo { name: String::new(), label: String::new(), reference: false },
        set: String::new(),
        metric: String::new(),
        gates: false,
        verdict,
        reason,
        golden: stats::mean(&old.by_image()),
        new: stats::mean(&new.by_image()),
        loss_p,
    }
}

fn judge(
    golden: &Golden,
    record: &Record,
    info: &Info,
    old: &Grid,
    new: &Grid,
    spread: Option<Spread>,
    differences: &[f64],
) -> (Verdict, String) {
    if let Some(equal) = equal_runs(golden, record, old, new) {
        return (Verdict::Pass, equal);
    }
    if differences.iter().any(|d| !d.is_finite()) {
        return (Verdict::Inconclusive, "an infinite score on one side only: no mean difference exists".into());
    }
    let boot = Bootstrap::of_mean(differences, &image_resamples(differences.len()));
    let improvement = boot.interval95();
    let rounding = least_margin(info);
    let margin = spread.map_or(rounding, |s| s.margin99(new.seeds.len()).max(rounding));
    let digits = info.digits + 1;
    let found = format!(
        "improvement {:+.digits$} [{:+.digits$}, {:+.digits$}], tolerated loss {margin:.digits$}",
        boot.estimate, improvement.low, improvement.high
    );
    let verdict = Verdict::of(improvement, margin);
    let why = match verdict {
        Verdict::Improved => "the whole interval is above zero",
        Verdict::Pass => "the interval does not reach the tolerated loss",
        Verdict::Fail => "the whole interval is beyond the tolerated loss",
        _ => "the interval holds the tolerated loss: more images or seeds would decide",
    };
    (verdict, format!("{found}: {why}"))
}

/// The deterministic path: all runs have a golden twin of the same seed on the same kind of machine, and equal scores.
fn equal_runs(golden: &Golden, record: &Record, old: &Grid, new: &Grid) -> Option<String> {
    let p = &record.provenance;
    for (seed, row) in new.seeds.iter().zip(&new.values) {
        let twin = old.seeds.iter().position(|s| s == seed)?;
        let same_machine = |r: &Run| r.cpu == p.cpu && r.device == p.device;
        // The rows that no training made carry a seed that is in no list of runs.
        let known = golden.runs.iter().find(|r| r.seed == *seed);
        if !known.map_or_else(|| golden.runs.iter().any(same_machine), same_machine) {
            return None;
        }
        let equal = |(a, b): (&f64, &f64)| a == b || (a - b).abs() <= EQUAL * b.abs().max(1.0);
        if !row.iter().zip(&old.values[twin]).all(equal) {
            return None;
        }
    }
    Some("every image scores as in the golden run of the same seed on the same kind of machine".into())
}

/// Losses below this are rounding, not quality.
fn least_margin(info: &Info) -> f64 {
    match info.name {
        "psnr" => 0.01,
        "mse" => 0.1,
        _ => 0.001,
    }
}

fn info(metric: &str) -> Result<&'static Info> {
    metrics::info(metric).ok_or_else(|| incomparable(format!("this version does not know the metric {metric}")))
}
