//! What stands beside the tables of scores: where the arms fail, and what their trainings cost.

use std::collections::BTreeSet;

use serde::Serialize;

use super::{drawn_sets, finding, info, number, trained};
use crate::Result;
use crate::record::summary::Grid;
use crate::record::{ArmInfo, Record, stats};

/// The mean score of every trained arm over the pictures that share something the generator never saw, or have nothing such.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Unseen {
    pub what: String,
    pub set: String,
    pub metric: String,
    pub images: usize,
    /// Labels and means, in the order of the arms.
    pub means: Vec<(String, String)>,
}

/// What an arm's training cost on the machine that the record names: the quickest of its seeds, each as first made, because other work on
/// the machine only adds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cost {
    pub label: String,
    pub steps: u64,
    /// Wall time of one training in seconds, with its curve's evaluations.
    pub seconds: String,
    pub milliseconds_per_step: String,
    /// Highest resident memory of the process in MB.
    pub peak_mb: String,
}

pub(super) fn unseen(record: &Record) -> Result<Vec<Unseen>> {
    let mut rows = vec![];
    for set in drawn_sets(record) {
        let Some(metric) = finding::metric_named(record, &set, "psnr") else { continue };
        let images: Vec<_> = record.images.iter().filter(|i| i.set == set).collect();
        let kinds: BTreeSet<&String> = images.iter().flat_map(|i| &i.unseen).collect();
        if kinds.is_empty() {
            continue;
        }
        let grids: Vec<(&ArmInfo, Grid)> = trained(record)
            .filter_map(|a| Grid::of(record, &a.name, &set, &metric).transpose().map(|g| Ok((a, g?))))
            .collect::<Result<_>>()?;
        for kind in std::iter::once(None).chain(kinds.into_iter().map(Some)) {
            let has = |i: usize| kind.map_or(images[i].unseen.is_empty(), |k| images[i].unseen.contains(k));
            let chosen: Vec<usize> = (0..images.len()).filter(|&i| has(i)).collect();
            let mean = |g: &Grid| {
                let scores = g.by_image();
                stats::mean(&chosen.iter().map(|&i| scores[i]).collect::<Vec<_>>())
            };
            rows.push(Unseen {
                what: kind.map_or_else(|| "nothing unseen".into(), |k| words(k)),
                set: set.clone(),
                metric: metric.clone(),
                images: chosen.len(),
                means: grids.iter().map(|(a, g)| (a.label.clone(), number(mean(g), info(&metric).map_or(2, |i| i.digits)))).collect(),
            });
        }
    }
    Ok(rows)
}

/// "FaceMask" as "face mask".
pub(super) fn words(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !out.is_empty() {
            out.push(' ');
        }
        out.extend(c.to_lowercase());
    }
    out
}

pub(super) fn costs(record: &Record) -> Vec<Cost> {
    let steps = |arm: &ArmInfo| {
        let arms = record.spec.get("arms").and_then(|a| a.as_array()).into_iter().flatten();
        arms.filter(|a| a.get("name").and_then(|n| n.as_str()) == Some(&arm.name)).find_map(|a| a.get("steps")?.as_u64())
    };
    let cost = |arm: &ArmInfo| {
        let start = format!("train {}, seed ", arm.label);
        let stages: Vec<_> = record.provenance.stages.iter().filter(|s| s.stage.starts_with(&start)).collect();
        let steps = steps(arm)?;
        let seconds = stages.iter().map(|s| s.seconds).min_by(f64::total_cmp)?;
        let peak = stages.iter().map(|s| s.peak_memory_bytes).max()?;
        Some(Cost {
            label: arm.label.clone(),
            steps,
            seconds: number(seconds, 0),
            milliseconds_per_step: number(1e3 * seconds / steps as f64, 1),
            peak_mb: number(peak as f64 / 1e6, 0),
        })
    };
    trained(record).filter_map(cost).collect()
}
