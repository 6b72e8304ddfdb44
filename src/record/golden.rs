//! Golden scores: the committed scores per image of several trainings of one study and profile, and what may be compared
//! with them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::store::write_atomic;
use super::summary::Grid;
use super::{ArmInfo, ImageInfo, Record};
use crate::error::Kind;
use crate::{Error, Result};

/// Version of the golden files' format.
const FORMAT: u32 = 1;

/// Seeds below which no band can be had.
pub const LEAST_SEEDS: usize = 3;

/// One training behind the golden scores.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    pub seed: u64,
    pub version: String,
    pub commit: String,
    pub device: String,
    pub cpu: String,
}

type BySeed = BTreeMap<u64, Vec<Option<f64>>>;

/// The committed scores of one study and profile.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Golden {
    pub format: u32,
    pub record_format: u32,
    pub study: String,
    pub profile: String,
    /// The metrics whose loss fails the check; the others are reported.
    pub gate: Vec<String>,
    /// What was run, without seeds and texts.
    pub spec: Value,
    pub weights: BTreeMap<String, String>,
    pub runs: Vec<Run>,
    pub arms: Vec<ArmInfo>,
    /// SHA-256 of the pixels by id, by set, in the order of the scores.
    pub images: BTreeMap<String, Vec<(String, String)>>,
    /// Arm, set, metric, seed, one number per image to seven digits; null is infinity.
    pub scores: BTreeMap<String, BTreeMap<String, BTreeMap<String, BySeed>>>,
}

impl Golden {
    /// Golden scores from records of the same study that together have at least three seeds.
    ///
    /// Errors: Incomparable if the records differ in anything but the seeds, or have too few.
    pub fn of(records: &[Record]) -> Result<Golden> {
        let record = merged(records)?;
        if record.seeds.len() < LEAST_SEEDS {
            return Err(incomparable(format!(
                "golden scores of {}.{} need at least {LEAST_SEEDS} seeds for their band, these records have {}",
                record.study,
                record.profile,
                record.seeds.len()
            )));
        }
        let runs = records.iter().flat_map(|r| r.seeds.iter().map(move |&seed| (seed, &r.provenance)));
        let mut runs: Vec<Run> = runs
            .map(|(seed, p)| Run {
                seed,
                version: p.version.clone(),
                commit: p.git_commit.clone(),
                device: p.device.clone(),
                cpu: p.cpu.clone(),
            })
            .collect();
        runs.sort_by_key(|r| r.seed);
        let metrics = metrics(&record);
        let gate = metrics.iter().find(|m| m.starts_with("psnr")).or(metrics.first()).cloned().into_iter().collect();
        let mut scores: BTreeMap<String, BTreeMap<String, BTreeMap<String, BySeed>>> = BTreeMap::new();
        let images = images(&record.images);
        for arm in &record.arms {
            for set in images.keys() {
                for metric in &metrics {
                    let Some(grid) = Grid::of(&record, &arm.name, set, metric)? else { continue };
                    let rows = grid.seeds.iter().zip(&grid.values);
                    let by_seed = rows.map(|(&s, row)| (s, row.iter().map(|v| seven_digits(*v)).collect())).collect();
                    scores.entry(arm.name.clone()).or_default().entry(set.clone()).or_default().insert(metric.clone(), by_seed);
                }
            }
        }
        Ok(Golden {
            format: FORMAT,
            record_format: record.format,
            study: record.study.clone(),
            profile: record.profile.clone(),
            gate,
            spec: comparable_spec(&record.spec),
            weights: record.provenance.weights.clone(),
            runs,
            arms: record.arms.clone(),
            images,
            scores,
        })
    }

    /// Errors: Missing if there is no such file, Corrupt if it is no golden file.
    pub fn read(path: &Path) -> Result<Golden> {
        let bytes = std::fs::read(path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::missing(format!(
                "{}: no golden scores; `mtv-bench check --bless` with records of {LEAST_SEEDS} seeds writes them",
                path.display()
            )),
            _ => Error::io(path, "reading", e),
        })?;
        let golden: Golden =
            serde_json::from_slice(&bytes).map_err(|e| Error::corrupt(format!("{}: not a golden file: {e}", path.display())))?;
        if golden.format != FORMAT {
            return Err(incomparable(format!("{}: format {}, this version reads format {FORMAT}", path.display(), golden.format)));
        }
        Ok(golden)
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_vec(self).map_err(|e| Error::internal(format!("writing JSON: {e}")))?;
        text.push(b'\n');
        write_atomic(path, &text)
    }

    /// Reasons why a record can't be compared with these scores; empty if it can.
    pub fn refusals(&self, record: &Record) -> Vec<String> {
        let mut reasons = vec![];
        let mut same = |what: &str, golden: &str, new: &str| {
            if golden != new {
                reasons.push(format!("{what}: {new} instead of {golden}"));
            }
        };
        same("record format", &self.record_format.to_string(), &record.format.to_string());
        same("study", &self.study, &record.study);
        same("profile", &self.profile, &record.profile);
        if !reasons.is_empty() {
            return reasons;
        }
        differences("", &self.spec, &comparable_spec(&record.spec), &mut reasons);
        for (card, sha) in &self.weights {
            match record.provenance.weights.get(card) {
                Some(new) if new == sha => {}
                Some(new) => reasons.push(format!("weights {card}: {} instead of {}", short(new), short(sha))),
                None => reasons.push(format!("weights {card} are not used any more")),
            }
        }
        let ours = images(&record.images);
        for set in self.images.keys().chain(ours.keys()).collect::<BTreeSet<_>>() {
            if let Some(reason) = image_difference(set, self.images.get(set), ours.get(set)) {
                reasons.push(reason);
            }
        }
        let (golden, new): (BTreeSet<&String>, BTreeSet<String>) = (self.metrics(), metrics(record).into_iter().collect());
        for gone in golden.iter().filter(|m| !new.contains(**m)) {
            let measure = gone.split('@').next().unwrap_or_default();
            let like = new.iter().find(|n| n.starts_with(&format!("{measure}@")));
            reasons.push(match like {
                Some(other) => format!("protocol {other} instead of {gone}"),
                None => format!("no scores by {gone}"),
            });
        }
        for arm in self.arms.iter().filter(|a| !record.arms.iter().any(|b| b.name == a.name)) {
            reasons.push(format!("the arm \"{}\" is not in the record", arm.name));
        }
        reasons
    }

    pub(super) fn metrics(&self) -> BTreeSet<&String> {
        self.scores.values().flat_map(|sets| sets.values()).flat_map(|m| m.keys()).collect()
    }

    pub(super) fn grid(&self, arm: &str, set: &str, metric: &str) -> Option<Grid> {
        let by_seed = self.scores.get(arm)?.get(set)?.get(metric)?;
        let row = |values: &Vec<Option<f64>>| values.iter().map(|v| v.unwrap_or(f64::INFINITY)).collect();
        Some(Grid { seeds: by_seed.keys().copied().collect(), values: by_seed.values().map(row).collect() })
    }
}

/// Several records of the same thing with different seeds as one.
pub(super) fn merged(records: &[Record]) -> Result<Record> {
    let [first, rest @ ..] = records else { return Err(Error::usage("no record to compare")) };
    let mut all = first.clone();
    for record in rest {
        let name = format!("{}.{}", record.study, record.profile);
        let mut reasons = vec![];
        if (record.format, &record.study, &record.profile) != (first.format, &first.study, &first.profile) {
            reasons.push(format!("{name} beside {}.{}", first.study, first.profile));
        }
        differences("", &comparable_spec(&first.spec), &comparable_spec(&record.spec), &mut reasons);
        if images(&first.images) != images(&record.images) {
            reasons.push("other images".into());
        }
        if first.provenance.weights != record.provenance.weights {
            reasons.push("other weights".into());
        }
        reasons.extend(record.seeds.iter().filter(|s| all.seeds.contains(s)).map(|s| format!("seed {s} is there twice")));
        if !reasons.is_empty() {
            return Err(incomparable(format!("the records of {name} are unlike each other: {}", reasons.join("; "))));
        }
        let known: BTreeSet<(String, u64)> = all.scores.iter().map(|s| (s.arm.clone(), s.seed)).collect();
        all.scores.extend(record.scores.iter().filter(|s| !known.contains(&(s.arm.clone(), s.seed))).cloned());
        if let (Some(all), Some(more)) = (&mut all.edits, &record.edits) {
            all.directions.extend(more.directions.iter().cloned());
            all.curves.extend(more.curves.iter().cloned());
        }
        let measured: BTreeSet<(String, u64)> = all.frechet.iter().map(|f| (f.arm.clone(), f.seed)).collect();
        all.frechet.extend(record.frechet.iter().filter(|f| !measured.contains(&(f.arm.clone(), f.seed))).cloned());
        all.seeds.extend(&record.seeds);
    }
    all.seeds.sort_unstable();
    Ok(all)
}

fn metrics(record: &Record) -> Vec<String> {
    let mut metrics: Vec<String> = vec![];
    for s in &record.scores {
        if !metrics.contains(&s.metric) {
            metrics.push(s.metric.clone());
        }
    }
    metrics
}

fn images(list: &[ImageInfo]) -> BTreeMap<String, Vec<(String, String)>> {
    let mut sets: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for image in list {
        sets.entry(image.set.clone()).or_default().push((image.id.clone(), image.sha256.clone()));
    }
    sets
}

fn image_difference(set: &str, golden: Option<&Vec<(String, String)>>, new: Option<&Vec<(String, String)>>) -> Option<String> {
    let (Some(golden), Some(new)) = (golden, new) else { return Some(format!("the set of {set} images is on one side only")) };
    if golden.len() != new.len() {
        return Some(format!("{} {set} images instead of {}", new.len(), golden.len()));
    }
    let (old, now) = golden.iter().zip(new).find(|(a, b)| a != b)?;
    Some(match old.0 == now.0 {
        true => format!("the {set} image \"{}\" has other pixels", now.0),
        false => format!("the {set} image \"{}\" instead of \"{}\"", now.0, old.0),
    })
}

/// What decides whether two runs are alike: the resolved study without seeds and without what only people read.
fn comparable_spec(spec: &Value) -> Value {
    // What is measured besides changes no score.
    const IGNORED: [&str; 10] = ["seed", "seeds", "title", "label", "note", "paper", "cost", "report", "claimed_order", "besides"];
    match spec {
        Value::Object(map) => map
            .iter()
            .filter(|(k, v)| !v.is_null() && !IGNORED.contains(&k.as_str()))
            .map(|(k, v)| (k.clone(), comparable_spec(v)))
            .collect(),
        Value::Array(items) => items.iter().map(comparable_spec).collect(),
        other => other.clone(),
    }
}

fn differences(path: &str, old: &Value, new: &Value, found: &mut Vec<String>) {
    let join = |key: &str| if path.is_empty() { key.to_string() } else { format!("{path}.{key}") };
    match (old, new) {
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().chain(b.keys().filter(|k| !a.contains_key(*k))) {
                differences(&join(key), a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null), found);
            }
        }
        // Arms by their names, in any order.
        (Value::Array(a), Value::Array(b)) if a.iter().chain(b).all(|item| name(item).is_some()) => {
            for item in a.iter().chain(b.iter().filter(|item| named(a, item).is_none())) {
                let path = join(name(item).unwrap_or_default());
                match (named(a, item), named(b, item)) {
                    (Some(a), Some(b)) => differences(&path, a, b, found),
                    (None, _) => found.push(format!("{path} is new")),
                    (_, None) => found.push(format!("{path} is gone")),
                }
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().for_each(|(i, (a, b))| differences(&join(&i.to_string()), a, b, found));
        }
        (a, b) if a == b => {}
        (a, b) => found.push(format!("{path}: {b} instead of {a}")),
    }
}

fn name(item: &Value) -> Option<&str> {
    item.get("name").and_then(Value::as_str)
}

/// The item of a list that has the name of this one.
fn named<'a>(list: &'a [Value], item: &Value) -> Option<&'a Value> {
    list.iter().find(|other| name(other) == name(item))
}

pub(super) fn incomparable(message: String) -> Error {
    Error::new(Kind::Incomparable, message)
}

fn short(sha: &str) -> String {
    sha.chars().take(12).collect()
}

fn seven_digits(value: f64) -> Option<f64> {
    value.is_finite().then(|| format!("{value:.6e}").parse().unwrap_or(value))
}
