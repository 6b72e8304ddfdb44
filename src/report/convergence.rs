//! How soon the trainings converge: from the curve of every arm, the training images after which it has made most of its improvement
//! (paper: "within 7 epochs, BigGAN 5", sections I and V.A).

use std::collections::BTreeMap;

use serde::Serialize;

use super::{info, number, sets, trained};
use crate::Result;
use crate::record::Record;

/// The share of a curve's whole improvement that counts as having converged, and an earlier mark.
const MARKS: [f64; 2] = [0.9, 0.98];

/// One curve, the mean over the seeds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Convergence {
    pub label: String,
    pub set: String,
    pub metric: String,
    /// Before the training and after it.
    pub start: String,
    pub end: String,
    /// Training images after which 90 % and 98 % of the improvement were made; empty where the training made none.
    pub most: String,
    pub nearly_all: String,
    /// The part of the improvement that the last third of the training brought, in per cent.
    pub last_third: String,
}

/// One row per set and arm, by the first measure of the curves.
///
/// Errors (corrupt): a measure that this version does not know.
pub(super) fn convergence(record: &Record) -> Result<Vec<Convergence>> {
    let Some(metric) = record.curves.first().map(|c| c.metric.clone()) else { return Ok(vec![]) };
    let digits = info(&metric)?.digits;
    let mut rows = vec![];
    for set in sets(record) {
        for arm in trained(record) {
            let mut at: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
            for c in record.curves.iter().filter(|c| c.arm == arm.name && c.set == set && c.metric == metric && c.value.is_finite()) {
                at.entry(c.images).or_default().push(c.value);
            }
            let seeds = at.values().map(Vec::len).max().unwrap_or(0);
            let points: Vec<(f64, f64)> = at
                .into_iter()
                .filter(|(_, v)| v.len() == seeds)
                .map(|(images, v)| (images as f64, v.iter().sum::<f64>() / v.len() as f64))
                .collect();
            let [first, .., last] = points[..] else { continue };
            let gain = last.1 - first.1;
            let better = gain != 0.0 && (gain > 0.0) == info(&metric)?.higher_is_better;
            let reached = |share: f64| match better {
                true => crossing(&points, first.1 + share * gain).map_or(String::new(), |x| number(x, 0)),
                false => String::new(),
            };
            let third = value_at(&points, first.0 + (last.0 - first.0) * 2.0 / 3.0);
            rows.push(Convergence {
                label: arm.label.clone(),
                set: set.clone(),
                metric: metric.clone(),
                start: number(first.1, digits),
                end: number(last.1, digits),
                most: reached(MARKS[0]),
                nearly_all: reached(MARKS[1]),
                last_third: if better { number(100.0 * (last.1 - third) / gain, 0) } else { String::new() },
            });
        }
    }
    Ok(rows)
}

/// Where the curve, straight between its points, stays beyond `level` from.
fn crossing(points: &[(f64, f64)], level: f64) -> Option<f64> {
    let last = points.last()?;
    let beyond = |y: f64| if last.1 >= points[0].1 { y >= level } else { y <= level };
    let from = points.iter().rposition(|p| !beyond(p.1))?;
    let (a, b) = (points[from], points.get(from + 1)?);
    Some(a.0 + (b.0 - a.0) * (level - a.1) / (b.1 - a.1))
}

fn value_at(points: &[(f64, f64)], x: f64) -> f64 {
    let next = points.iter().position(|p| p.0 >= x).unwrap_or(points.len() - 1);
    if next == 0 {
        return points[0].1;
    }
    let (a, b) = (points[next - 1], points[next]);
    a.1 + (b.1 - a.1) * (x - a.0) / (b.0 - a.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_has_converged_where_it_stays_beyond_the_level() {
        let up = [(0.0, 10.0), (100.0, 19.5), (200.0, 18.0), (300.0, 20.0)];
        // 19 is passed at once, lost again, and held from the middle of the last piece on.
        assert_eq!(crossing(&up, 19.0), Some(250.0));
        let down = [(0.0, 4.0), (100.0, 2.0), (200.0, 1.0)];
        assert_eq!(crossing(&down, 3.0), Some(50.0));
        assert_eq!(value_at(&down, 150.0), 1.5);
    }
}
