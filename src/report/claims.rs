//! What the paper says (paper/claims.toml) beside what the records say.

use serde::{Deserialize, Serialize};

use super::finding::{Standing, amount, improvement, metric_named};
use super::{Report, info, number, sets};
use crate::record::{ArmInfo, Record};
use crate::{Error, Result};

/// A sentence of the paper and the test of it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// Where the paper says it.
    pub item: String,
    /// What it says, in our words.
    pub says: String,
    pub study: Option<String>,
    /// The arm that the claim favours, and the one it is set against.
    pub better: Option<String>,
    pub cheaper: Option<String>,
    pub than: Option<String>,
    /// Why no record can tell.
    pub untested: Option<String>,
}

#[derive(Deserialize)]
struct File {
    claim: Vec<Claim>,
}

/// One row of the table of claims.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    pub item: String,
    pub says: String,
    pub verdict: String,
    /// Numbers, or the reason why there are none.
    pub numbers: String,
    /// "study.profile" of the record, or empty.
    pub record: String,
}

impl Claim {
    /// The claims of paper/claims.toml.
    pub fn all() -> Result<Vec<Claim>> {
        let file: File =
            toml::from_str(include_str!("../../paper/claims.toml")).map_err(|e| Error::internal(format!("paper/claims.toml: {e}")))?;
        Ok(file.claim)
    }

    /// The claim against the record of its study, if that is among `records`.
    ///
    /// Errors (corrupt): a record that lacks scores.
    pub fn judge(&self, records: &[Record]) -> Result<Row> {
        let row = |verdict: &str, numbers: String, record: String| Row {
            item: self.item.clone(),
            says: self.says.clone(),
            verdict: verdict.into(),
            numbers,
            record,
        };
        if let Some(reason) = &self.untested {
            return Ok(row("not testable here", reason.clone(), String::new()));
        }
        let study = self.study.as_deref().unwrap_or_default();
        let Some(record) = records.iter().find(|r| r.study == study) else {
            return Ok(row("no record", format!("`mtv-bench run {study} --profile standard` makes it"), String::new()));
        };
        let name = format!("{}.{}", record.study, record.profile);
        let arm = |key: &Option<String>| record.arms.iter().find(|a| Some(&a.name) == key.as_ref());
        let (Some(favoured), Some(other)) = (arm(&self.better).or(arm(&self.cheaper)), arm(&self.than)) else {
            return Err(Error::corrupt(format!("{name}: the record lacks an arm of the claim \"{}\"", self.says)));
        };
        let (verdict, numbers) = match self.cheaper {
            Some(_) => cheaper(record, favoured, other)?,
            None => better(record, favoured, other)?,
        };
        Ok(row(verdict, numbers, name))
    }
}

/// Supported where every set and both measures agree, not supported where none does or one is reversed and none holds.
fn better(record: &Record, favoured: &ArmInfo, other: &ArmInfo) -> Result<(&'static str, String)> {
    let (mut holds, mut reversed, mut texts) = (0, 0, vec![]);
    for set in sets(record) {
        for metric in ["psnr", "lpips"].iter().filter_map(|m| metric_named(record, &set, m)) {
            let info = info(&metric)?;
            let Some(d) = improvement(record, &set, &metric, info, favoured, other)? else { continue };
            let Some(interval) = d.interval else { continue };
            match Standing::of(interval) {
                Standing::Holds => holds += 1,
                Standing::Reversed => reversed += 1,
                Standing::NotResolved => {}
            }
            texts.push(format!("{set}, {metric}: {}", amount(&d, interval, info)));
        }
    }
    let verdict = match (holds, reversed, texts.len()) {
        (_, _, 0) => "no record",
        (h, 0, n) if h == n => "supported",
        (0, r, _) if r > 0 => "not supported (reversed)",
        (0, 0, _) => "not supported (no difference resolved)",
        (_, 0, _) => "supported in part",
        _ => "mixed",
    };
    Ok((verdict, texts.join("; ")))
}

fn cheaper(record: &Record, favoured: &ArmInfo, other: &ArmInfo) -> Result<(&'static str, String)> {
    let costs = Report::of(record)?.costs;
    let step = |arm: &ArmInfo| costs.iter().find(|c| c.label == arm.label).and_then(|c| c.milliseconds_per_step.parse::<f64>().ok());
    let (Some(a), Some(b)) = (step(favoured), step(other)) else { return Ok(("no record", "the record has no times".into())) };
    let verdict = if a < b { "supported" } else { "not supported" };
    let text = format!("{}: {} ms a step; {}: {} ms", favoured.label, number(a, 1), other.label, number(b, 1));
    Ok((verdict, text))
}
