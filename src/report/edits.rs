//! What the report says of edits: how well the directions separate, how far each edit moves what it should and what it should not.

use serde::Serialize;

use super::{number, sets, trained};
use crate::Result;
use crate::record::Record;
use crate::record::edit::{Edit, Edits, OWN};
use crate::record::stats;
use crate::record::summary::Grid;

/// The alpha of the table: this one where the study has it with both signs, else its largest.
const TABLE_ALPHA: f64 = 2.0;

/// The section of a study that edits.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Section {
    pub about: Vec<String>,
    /// What the rows say of the paper's sentence on the number of rows; one paragraph per arm.
    pub findings: Vec<String>,
    pub directions: Vec<Direction>,
    /// The alpha of the rows below, taken with both signs.
    pub alpha: String,
    /// Whether a network read the attributes; without one only the change of the picture is known.
    pub read: bool,
    pub images: usize,
    pub rows: Vec<Row>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Direction {
    pub name: String,
    pub train: String,
    pub validation: String,
    pub validation_accuracy: String,
    pub rest_accuracy: String,
    /// Length of one alpha in w, of the direction and of the one that is freed of the others.
    pub unit: String,
    pub conditional_unit: String,
    /// "smile 0.12, pose -0.03".
    pub cosines: String,
}

/// The edits of one direction in one way; texts with their intervals, empty where nothing was measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Row {
    pub set: String,
    /// The arm, or what stands for it.
    pub latents: String,
    /// Empty for what the inversion alone changes.
    pub direction: String,
    pub variant: String,
    pub target: String,
    pub identity: String,
    pub others: String,
    /// Only where nothing reads the attributes.
    pub lpips: String,
    /// Drift of the identity for one standard deviation of the attribute.
    pub per: String,
}

/// None for a study that edits nothing.
pub fn section(record: &Record) -> Result<Option<Section>> {
    let Some(edits) = record.edits.as_ref().filter(|e| !e.curves.is_empty()) else { return Ok(None) };
    let variants = variants(record);
    let names = names(edits);
    let read = edits.curves.iter().any(|e| e.measure == "target");
    let alpha = table_alpha(edits);
    let mut rows = Vec::new();
    for set in sets(record) {
        let latents: Vec<(String, String)> = std::iter::once((OWN.to_string(), "their own w".to_string()))
            .chain(trained(record).map(|a| (a.name.clone(), a.label.clone())))
            .filter(|(arm, _)| edits.curves.iter().any(|e| e.arm == *arm && e.set == set))
            .collect();
        for (arm, label) in &latents {
            let at = |direction: &str, variant: usize, measure: &str| pooled(edits, arm, &set, direction, variant, measure, alpha);
            let alone = |measure: &str| grid(edits, arm, &set, "", 0, measure, 0.0).map(|g| text(&g)).unwrap_or_default();
            let row = |direction: &str, variant: usize| Row {
                set: set.clone(),
                latents: label.clone(),
                direction: direction.into(),
                variant: variants[variant].clone(),
                target: at(direction, variant, "target").map(|g| text(&g)).unwrap_or_default(),
                identity: at(direction, variant, "identity").map(|g| text(&g)).unwrap_or_default(),
                others: at(direction, variant, "others").map(|g| text(&g)).unwrap_or_default(),
                lpips: at(direction, variant, "lpips").map(|g| text(&g)).unwrap_or_default(),
                per: per(at(direction, variant, "identity"), at(direction, variant, "target")),
            };
            for direction in &names {
                // The ways of editing are compared on real images; on generated ones the first shows what inversion costs.
                let shown = if set == "real" { variants.len() } else { 1 };
                rows.extend((0..shown).map(|variant| row(direction, variant)));
            }
            let inversion = Row {
                set: set.clone(),
                latents: label.clone(),
                variant: "none: the inversion alone".into(),
                identity: alone("identity"),
                others: alone("others"),
                ..Row::default()
            };
            rows.extend((!inversion.identity.is_empty()).then_some(inversion));
        }
    }
    let images = edits.curves.iter().map(|e| e.values.len()).max().unwrap_or(0);
    Ok(Some(Section {
        about: about(read),
        findings: findings(record, edits, &variants, alpha),
        directions: directions(edits, &names),
        alpha: number(alpha, 0),
        read,
        images,
        rows,
    }))
}

fn about(read: bool) -> Vec<String> {
    let mut about = vec![
        "w' = w + α d; α counts standard deviations of the generator's own w along d, so that one α means the same for every direction."
            .into(),
    ];
    if read {
        about.push(
            "A network that read the 25 known factors off pictures (mini/judge, trained with no other network) measures the edits, against the unedited reconstruction and in standard deviations of its readings on generated images: 1 is the usual difference between two faces divided by √2.".into(),
        );
        about.push(
            "Identity: the mean absolute change of those of a person's 17 factors that this network reads with R² ≥ 0.5. It says what of a person drifts; it is no face recognition.".into(),
        );
    } else {
        about.push("No network here reads attributes of real faces: only the change of the picture (LPIPS) is measured, and nothing says what changed.".into());
    }
    about
}

/// Labels of the variants, as the study names them.
fn variants(record: &Record) -> Vec<String> {
    let list = record.spec.pointer("/edit/variants").and_then(|v| v.as_array());
    let labels: Vec<String> =
        list.into_iter().flatten().map(|v| v.get("label").and_then(|l| l.as_str()).unwrap_or_default().to_string()).collect();
    let most = record.edits.iter().flat_map(|e| &e.curves).map(|e| e.variant + 1).max().unwrap_or(0);
    (0..most).map(|i| labels.get(i).cloned().unwrap_or_else(|| format!("variant {i}"))).collect()
}

/// The directions in the order of the study.
pub(super) fn names(edits: &Edits) -> Vec<String> {
    let mut names: Vec<String> = vec![];
    for edit in edits.curves.iter().filter(|e| !e.direction.is_empty()) {
        if !names.contains(&edit.direction) {
            names.push(edit.direction.clone());
        }
    }
    names
}

pub(super) fn variant_labels(record: &Record) -> Vec<String> {
    variants(record)
}

fn table_alpha(edits: &Edits) -> f64 {
    let both = |a: f64| [a, -a].iter().all(|v| edits.curves.iter().any(|e| e.alpha == *v));
    let largest = edits.curves.iter().map(|e| e.alpha.abs()).fold(0.0, f64::max);
    if both(TABLE_ALPHA) { TABLE_ALPHA } else { largest }
}

/// The values of one edit: a row per seed.
pub(super) fn grid(edits: &Edits, arm: &str, set: &str, direction: &str, variant: usize, measure: &str, alpha: f64) -> Option<Grid> {
    let wanted = |e: &&Edit| {
        e.arm == arm && e.set == set && e.direction == direction && e.variant == variant && e.measure == measure && e.alpha == alpha
    };
    let found: Vec<&Edit> = edits.curves.iter().filter(wanted).collect();
    let same = found.first().is_some_and(|f| !f.values.is_empty() && found.iter().all(|e| e.values.len() == f.values.len()));
    same.then(|| Grid { seeds: found.iter().map(|e| e.seed).collect(), values: found.iter().map(|e| e.values.clone()).collect() })
}

/// Both signs of alpha together: half the way from the one to the other for what has a sign, the mean for the rest.
fn pooled(edits: &Edits, arm: &str, set: &str, direction: &str, variant: usize, measure: &str, alpha: f64) -> Option<Grid> {
    let of = |a: f64| grid(edits, arm, set, direction, variant, measure, a);
    let (Some(up), Some(down)) = (of(alpha), of(-alpha)) else { return of(alpha).or_else(|| of(-alpha)) };
    let sign = if measure == "target" { -1.0 } else { 1.0 };
    combined(&up, &down, |a, b| (a + sign * b) / 2.0)
}

fn combined(a: &Grid, b: &Grid, with: impl Fn(f64, f64) -> f64) -> Option<Grid> {
    let same = a.seeds == b.seeds && a.values.iter().zip(&b.values).all(|(a, b)| a.len() == b.len());
    let row = |(a, b): (&Vec<f64>, &Vec<f64>)| a.iter().zip(b).map(|(a, b)| with(*a, *b)).collect();
    same.then(|| Grid { seeds: a.seeds.clone(), values: a.values.iter().zip(&b.values).map(row).collect() })
}

/// "1.23 [1.10, 1.36]".
fn text(grid: &Grid) -> String {
    let s = grid.summary();
    let interval = s.interval.map(|i| format!(" [{}, {}]", number(i.low, 2), number(i.high, 2))).unwrap_or_default();
    format!("{}{interval}", number(s.mean, 2))
}

fn mean(grid: &Grid) -> f64 {
    stats::mean(&grid.by_image())
}

fn per(identity: Option<Grid>, target: Option<Grid>) -> String {
    match (identity, target) {
        (Some(identity), Some(target)) if mean(&target) > 0.05 => number(mean(&identity) / mean(&target), 2),
        (Some(_), Some(_)) => "–".into(),
        _ => String::new(),
    }
}

fn directions(edits: &Edits, names: &[String]) -> Vec<Direction> {
    let of = |name: &String| {
        let found: Vec<_> = edits.directions.iter().filter(|d| d.name == *name).collect();
        let average = |f: &dyn Fn(&crate::record::edit::Direction) -> Option<f64>| {
            let values: Vec<f64> = found.iter().filter_map(|d| f(d)).collect();
            (!values.is_empty()).then(|| stats::mean(&values))
        };
        let percent = |v: Option<f64>| v.map(|v| format!("{} %", number(100.0 * v, 1))).unwrap_or_else(|| "–".into());
        let plain = |v: Option<f64>| v.map(|v| number(v, 2)).unwrap_or_default();
        let count = |n: usize| if n == 0 { "–".into() } else { n.to_string() };
        let cosines = names.iter().enumerate().filter(|(_, other)| *other != name);
        Some(Direction {
            name: name.clone(),
            train: count(found.first()?.train),
            validation: count(found.first()?.validation),
            validation_accuracy: percent(average(&|d| d.validation_accuracy)),
            rest_accuracy: percent(average(&|d| d.rest_accuracy)),
            unit: plain(average(&|d| Some(d.unit))),
            conditional_unit: plain(average(&|d| Some(d.conditional_unit))),
            cosines: cosines
                .map(|(i, other)| format!("{other} {}", plain(average(&|d| d.cosines.get(i).copied()))))
                .collect::<Vec<_>>()
                .join(", "),
        })
    };
    names.iter().filter_map(of).collect()
}

/// The paper's sentence: the more rows are changed the more obvious the edit, and the identity can change, too.
fn findings(record: &Record, edits: &Edits, variants: &[String], alpha: f64) -> Vec<String> {
    let Some(set) = sets(record).into_iter().rev().find(|s| s == "real").or_else(|| sets(record).pop()) else { return vec![] };
    let names = names(edits);
    let over_directions = |arm: &str, variant: usize, measure: &str| -> Option<Grid> {
        let grids = names.iter().map(|d| pooled(edits, arm, &set, d, variant, measure, alpha)).collect::<Option<Vec<_>>>()?;
        let n = grids.len() as f64;
        let sum = grids.into_iter().reduce(|a, b| combined(&a, &b, |x, y| x + y).unwrap_or(a))?;
        combined(&sum, &sum, |x, _| x / n)
    };
    let mut out = vec![];
    for arm in trained(record) {
        let mut sentences = vec![];
        let of = |variant: usize| Some((over_directions(&arm.name, variant, "target")?, over_directions(&arm.name, variant, "identity")?));
        let Some((target, identity)) = of(0) else { continue };
        sentences.push(format!(
            "Inverted by {}, {} images, mean over the {} directions at α = ±{}: {} moves the attribute by {} and the identity by {}.",
            arm.label,
            set,
            names.len(),
            number(alpha, 0),
            variants[0],
            text(&target),
            text(&identity)
        ));
        for variant in 1..variants.len() {
            let Some((t, i)) = of(variant) else { continue };
            let (Some(dt), Some(di)) = (t.minus(&target), i.minus(&identity)) else { continue };
            sentences.push(format!(
                "{}, against that: attribute {:+.2}{}, identity {:+.2}{}; identity per unit of attribute {} instead of {}.",
                capitalised(&variants[variant]),
                mean(&dt),
                interval(&dt),
                mean(&di),
                interval(&di),
                per(Some(i), Some(t)),
                per(Some(identity.clone()), Some(target.clone()))
            ));
        }
        out.push(sentences.join(" "));
    }
    out
}

fn interval(grid: &Grid) -> String {
    grid.summary().interval.map(|i| format!(" (95 % interval {:+.2} to {:+.2})", i.low, i.high)).unwrap_or_default()
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|c| c.to_uppercase().chain(letters).collect()).unwrap_or_default()
}
