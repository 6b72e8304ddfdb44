//! The paragraph that says what holds, and what does not hold, of the order that the paper's figure shows.

use super::published::Published;
use super::{info, number, sets, trained};
use crate::Result;
use crate::metrics::Info;
use crate::record::stats::Interval;
use crate::record::summary::{Grid, Summary};
use crate::record::{ArmInfo, Record};

/// The lead in dB that a trained arm must have over the mean image and G(mean w) to count as having learned anything.
const LEAD_DB: f64 = 3.0;

/// How a claim "b is better than a" stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Holds,
    Reversed,
    NotResolved,
}

impl Standing {
    /// From the interval of the improvement (positive = better).
    pub fn of(improvement: Interval) -> Self {
        match improvement {
            i if i.low > 0.0 => Standing::Holds,
            i if i.high < 0.0 => Standing::Reversed,
            _ => Standing::NotResolved,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Standing::Holds => "holds",
            Standing::Reversed => "does not hold (reversed)",
            Standing::NotResolved => "not resolved",
        }
    }
}

/// One paragraph per set of images: the order of the arms by PSNR and by LPIPS, then the lead over the reference rows.
pub fn findings(record: &Record, published: &Published) -> Result<Vec<String>> {
    let mut paragraphs = vec![];
    for set in sets(record) {
        let mut sentences = vec![];
        let arms = claimed(record);
        if arms.len() > 1 {
            let chain: Vec<&str> = arms.iter().map(|a| a.label.as_str()).collect();
            let item = published.claim(&record.study).map_or_else(|| "the study".into(), |c| c.item.clone());
            sentences.push(format!("{item} claims the order {}.", chain.join(" < ")));
            for metric in ["psnr", "lpips"].iter().filter_map(|m| metric_named(record, &set, m)) {
                sentences.extend(order(record, &set, &metric, &arms)?);
            }
        }
        if let Some(psnr) = metric_named(record, &set, "psnr") {
            sentences.extend(lead(record, &set, &psnr)?);
        }
        if !sentences.is_empty() {
            paragraphs.push(format!("On {set} images. {}", sentences.join(" ")));
        }
    }
    Ok(paragraphs)
}

/// The arms of the study's claimed order (`report.claimed_order`, by name), without those that the record lacks.
fn claimed(record: &Record) -> Vec<&ArmInfo> {
    let names = record.spec.pointer("/report/claimed_order").and_then(|o| o.as_array()).into_iter().flatten();
    names.filter_map(|n| n.as_str()).filter_map(|n| trained(record).find(|a| a.name == n)).collect()
}

/// The first metric of the record, for this set, whose measure begins with `start`.
pub(super) fn metric_named(record: &Record, set: &str, start: &str) -> Option<String> {
    record.scores.iter().find(|s| s.set == set && s.metric.starts_with(start)).map(|s| s.metric.clone())
}

fn order(record: &Record, set: &str, metric: &str, arms: &[&ArmInfo]) -> Result<Option<String>> {
    let info = info(metric)?;
    let mut steps = vec![];
    let mut counts = [0usize; 3];
    for pair in arms.windows(2) {
        let Some(d) = improvement(record, set, metric, info, pair[1], pair[0])? else { continue };
        let Some(interval) = d.interval else { continue };
        let standing = Standing::of(interval);
        counts[standing as usize] += 1;
        steps.push(format!("{} < {} {} ({})", pair[0].label, pair[1].label, standing.words(), amount(&d, interval, info)));
    }
    let counted = |n: usize, what: &str| format!("{n} {} {what}", if n == 1 { "is" } else { "are" });
    Ok((!steps.is_empty()).then(|| {
        format!(
            "By {metric}, {} of its {} steps {}, {}, {}: {}.",
            counts[0],
            steps.len(),
            if counts[0] == 1 { "holds" } else { "hold" },
            counted(counts[1], "reversed"),
            counted(counts[2], "not resolved"),
            steps.join("; ")
        )
    }))
}

/// By how much `better` improves on `than`; positive is better whatever the metric's direction.
pub(super) fn improvement(
    record: &Record,
    set: &str,
    metric: &str,
    info: &Info,
    better: &ArmInfo,
    than: &ArmInfo,
) -> Result<Option<Summary>> {
    let (a, b) = (Grid::of(record, &better.name, set, metric)?, Grid::of(record, &than.name, set, metric)?);
    let (Some(a), Some(b)) = (a, b) else { return Ok(None) };
    let difference = if info.higher_is_better { a.minus(&b) } else { b.minus(&a) };
    Ok(difference.map(|d| d.summary()))
}

pub(super) fn amount(d: &Summary, interval: Interval, info: &Info) -> String {
    let signed = |v: f64| format!("{v:+.*}", info.digits + 1);
    let unit = if info.unit.is_empty() { String::new() } else { format!(" {}", info.unit) };
    format!("improvement {}{unit}, 95 % interval {} to {}", signed(d.mean), signed(interval.low), signed(interval.high))
}

fn lead(record: &Record, set: &str, psnr: &str) -> Result<Option<String>> {
    let info = info(psnr)?;
    let (mut short, mut least): (Vec<String>, Option<(f64, String)>) = (vec![], None);
    for arm in trained(record) {
        for reference in record.arms.iter().filter(|a| a.reference) {
            let Some(d) = improvement(record, set, psnr, info, arm, reference)? else { continue };
            let Some(interval) = d.interval else { continue };
            let text = format!("{} over {}: {}", arm.label, reference.label, amount(&d, interval, info).replace("improvement ", ""));
            if d.mean < LEAD_DB {
                short.push(text.clone());
            }
            if least.as_ref().is_none_or(|(mean, _)| d.mean < *mean) {
                least = Some((d.mean, text));
            }
        }
    }
    Ok(least.map(|(_, text)| match short.len() {
        0 => format!("Every arm is at least {} dB above every reference row; the smallest lead is {text}.", number(LEAD_DB, 0)),
        _ => format!("Not every arm is {} dB above every reference row: {}.", number(LEAD_DB, 0), short.join("; ")),
    }))
}
