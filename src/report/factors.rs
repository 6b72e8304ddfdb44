//! Beside the gallery of the worst cases: how the score depends on what the images show. The images of a group (glasses, a turned head, a class)
//! against the rest of their set, for the arm that the gallery shows.

use serde::Serialize;

use super::{best_arm, drawn_sets, finding, info, number};
use crate::Result;
use crate::record::factors::{Factors, Origin};
use crate::record::{Record, stats};
use crate::zoo::objects::CLASSES;

/// Smaller groups have a mean, but no interval of their difference.
const LEAST: usize = 5;

/// How the score of one set depends on what its images show.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ByFactor {
    pub set: String,
    pub arm: String,
    pub metric: String,
    /// Where the factors come from, in words.
    pub origin: String,
    /// The groups, that with the greatest loss first.
    pub rows: Vec<Row>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    pub what: String,
    pub images: usize,
    pub mean: String,
    pub rest: String,
    /// Mean of the group minus mean of the rest, with sign, and its 95 % interval (Welch); empty for a group that is too small.
    pub difference: String,
    pub low: String,
    pub high: String,
}

enum Rule {
    Above(f64),
    Below(f64),
    /// Far from 0 on either side.
    Beyond(f64),
}

use Rule::{Above, Below, Beyond};

/// Name, factor of [`crate::zoo::faces::FACTORS`], and where the group begins.
const FACES: [(&str, &str, Rule); 11] = [
    ("glasses", "glasses", Above(0.0)),
    ("head turned (yaw beyond 1/2)", "yaw", Beyond(0.5)),
    ("smile above 1/3", "smile", Above(1.0 / 3.0)),
    ("smile below -1/3", "smile", Below(-1.0 / 3.0)),
    ("beard", "beard", Above(0.25)),
    ("old (age above 1/2)", "age", Above(0.5)),
    ("long hair", "hair-length", Above(0.25)),
    ("fringe", "fringe", Above(0.25)),
    ("dark hair", "hair-lightness", Below(-1.0 / 3.0)),
    ("bright background", "background-lightness", Above(0.25)),
    ("light from the side", "light", Beyond(0.5)),
];

/// The same of [`crate::zoo::objects::FACTORS`]; the classes come on top.
const OBJECTS: [(&str, &str, Rule); 7] = [
    ("small (scale below -1/3)", "scale", Below(-1.0 / 3.0)),
    ("large (scale above 1/3)", "scale", Above(1.0 / 3.0)),
    ("far left or right", "x", Beyond(0.5)),
    ("far up or down", "y", Beyond(0.5)),
    ("tilted", "tilt", Beyond(0.5)),
    ("much clutter", "clutter", Above(1.0 / 3.0)),
    ("dark object", "lightness", Below(-1.0 / 3.0)),
];

/// One table per set whose factors the record has.
pub(super) fn by_factor(record: &Record) -> Result<Vec<ByFactor>> {
    let mut tables = vec![];
    for set in drawn_sets(record) {
        let drawn = set.split(" (").next().unwrap_or(&set);
        let Some(factors) = record.factors.iter().find(|f| f.set == drawn) else { continue };
        let Some(metric) = finding::metric_named(record, &set, "psnr") else { continue };
        let Some((arm, grid)) = best_arm(record, &set, &metric, |_| true)? else { continue };
        let (scores, digits) = (grid.by_image(), info(&metric)?.digits);
        let unseen: Vec<bool> = record.images.iter().filter(|i| i.set == set).map(|i| !i.unseen.is_empty()).collect();
        let mut rows: Vec<(f64, Row)> = groups(factors, &unseen)
            .into_iter()
            .filter_map(|(what, chosen)| {
                let part = |inside: bool| -> Vec<f64> {
                    scores.iter().zip(&chosen).filter(|(_, chosen)| **chosen == inside).map(|(score, _)| *score).collect()
                };
                row(what, &part(true), &part(false), digits)
            })
            .collect();
        let sign = if info(&metric)?.higher_is_better { 1.0 } else { -1.0 };
        rows.sort_by(|a, b| (sign * a.0).total_cmp(&(sign * b.0)));
        tables.push(ByFactor {
            set,
            arm: arm.label.clone(),
            metric,
            origin: match factors.origin {
                Origin::Known => format!("the factors from which {} drew the pictures", factors.data),
                Origin::Read => format!(
                    "no known factors, but what the judge of {} reads off the generator's images; factors that it reads badly are left out",
                    factors.data
                ),
            },
            rows: rows.into_iter().map(|(_, row)| row).collect(),
        });
    }
    Ok(tables)
}

/// The groups, and which images are in each.
fn groups(factors: &Factors, unseen: &[bool]) -> Vec<(String, Vec<bool>)> {
    let mut groups = vec![("an accessory (never seen by the generator)".to_string(), unseen.to_vec())];
    for (class, name) in CLASSES.iter().enumerate().filter(|_| !factors.classes.is_empty()) {
        groups.push((format!("class {name}"), factors.classes.iter().map(|c| *c as usize == class).collect()));
    }
    let listed: &[(&str, &str, Rule)] = if factors.classes.is_empty() { &FACES } else { &OBJECTS };
    for (what, factor, rule) in listed {
        let Some(place) = factors.names.iter().position(|n| n == factor) else { continue };
        let inside = |v: f64| match *rule {
            Above(limit) => v > limit,
            Below(limit) => v < limit,
            Beyond(limit) => v.abs() > limit,
        };
        groups.push((what.to_string(), factors.values.iter().map(|row| inside(row[place])).collect()));
    }
    groups
}

/// None for a group that holds nothing or everything; the difference comes first.
fn row(what: String, group: &[f64], rest: &[f64], digits: usize) -> Option<(f64, Row)> {
    if group.is_empty() || rest.is_empty() {
        return None;
    }
    let difference = stats::mean(group) - stats::mean(rest);
    let signed = |v: f64| if v.is_finite() { format!("{v:+.digits$}") } else { String::new() };
    let interval = (group.len().min(rest.len()) >= LEAST).then(|| stats::welch(group, rest));
    let row = Row {
        what,
        images: group.len(),
        mean: number(stats::mean(group), digits),
        rest: number(stats::mean(rest), digits),
        difference: interval.map(|_| signed(difference)).unwrap_or_default(),
        low: interval.map(|i| signed(i.low)).unwrap_or_default(),
        high: interval.map(|i| signed(i.high)).unwrap_or_default(),
    };
    Some((difference, row))
}
