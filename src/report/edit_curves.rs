//! The curves of edits over alpha: how far the attribute moves, and how far identity and the other attributes drift.

use super::curves::{Axis, COLOURS, Line, Panel, draw_panels};
use super::edits::{grid, names, variant_labels};
use super::ink::Figure;
use super::{sets, trained};
use crate::Result;
use crate::record::Record;
use crate::record::edit::MEASURES;

/// A row of panels for each measure, a column for each direction: on real images every way of the first arm and the first way of the
/// others. None where nothing was edited.
pub fn curves(record: &Record) -> Result<Option<Figure>> {
    let Some(edits) = &record.edits else { return Ok(None) };
    let Some(set) = sets(record).into_iter().rev().find(|s| s == "real").or_else(|| sets(record).pop()) else { return Ok(None) };
    let mut alphas: Vec<f64> = vec![];
    for edit in edits.curves.iter().filter(|e| e.alpha != 0.0) {
        if !alphas.contains(&edit.alpha) {
            alphas.push(edit.alpha);
        }
    }
    alphas.push(0.0);
    alphas.sort_by(f64::total_cmp);
    let variants = variant_labels(record);
    let several = trained(record).count() > 1;
    let mut kinds: Vec<(String, String, usize)> = vec![];
    for (n, arm) in trained(record).enumerate() {
        let shown = if n == 0 { variants.len() } else { variants.len().min(1) };
        let label = |v: usize| if several { format!("{}: {}", arm.label, variants[v]) } else { variants[v].clone() };
        kinds.extend((0..shown).map(|v| (arm.name.clone(), label(v), v)));
    }
    let directions = names(edits);
    let mut panels = vec![];
    for (measure, _) in MEASURES {
        let read = edits.curves.iter().any(|e| e.measure == "target");
        // LPIPS stands for the others where nothing reads them.
        if (measure == "lpips") == read {
            continue;
        }
        for direction in &directions {
            let mut lines = vec![];
            for (i, (arm, label, variant)) in kinds.iter().enumerate() {
                let point = |&alpha: &f64| {
                    if alpha == 0.0 {
                        return Some((0.0, 0.0, 0.0, 0.0));
                    }
                    let s = grid(edits, arm, &set, direction, *variant, measure, alpha)?.summary();
                    let (low, high) = s.interval.map_or((s.mean, s.mean), |i| (i.low, i.high));
                    Some((alpha, s.mean, low, high))
                };
                let points: Vec<_> = alphas.iter().filter_map(point).collect();
                if points.len() > 1 {
                    lines.push(Line { label: label.clone(), colour: COLOURS[i % COLOURS.len()], points });
                }
            }
            let title = match measure {
                "target" => format!("{direction}: the attribute"),
                "identity" => format!("{direction}: identity"),
                "others" => format!("{direction}: other attributes"),
                other => format!("{direction}: {other}"),
            };
            if !lines.is_empty() {
                panels.push(Panel { title, digits: 2, lines, axis: Axis::Alpha });
            }
        }
    }
    match panels.is_empty() {
        true => Ok(None),
        false => draw_panels(&panels, directions.len().min(4)).map(Some),
    }
}
