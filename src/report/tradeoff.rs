//! Quality against seconds per image: what an optimisation buys over its encoder, and how two optimisations stand at equal seconds. The
//! paper compares 1,500 steps on an encoder with 100 on a latent; here both get the same time.

use std::collections::BTreeMap;

use serde::Serialize;

use super::curves::COLOURS;
use super::ink::{Anchor, BLACK, Figure, GREY, LIGHT, Rgb, Shape, Sheet, text_width};
use super::{info, number, trained};
use crate::Result;
use crate::record::stats::{self, Bootstrap};
use crate::record::summary::image_resamples;
use crate::record::{ArmInfo, Record};

/// The tables of one set of images.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tradeoff {
    pub set: String,
    /// Images that every arm has.
    pub images: usize,
    pub metrics: Vec<String>,
    pub rows: Vec<Row>,
    pub pairs: Vec<Pair>,
}

/// One arm at its last step, or after its encoder alone.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    pub label: String,
    pub steps: u64,
    /// Wall time per image in seconds: before the first step, per step in milliseconds, and all together.
    pub start: String,
    pub step_ms: String,
    pub total: String,
    pub side_by_side: usize,
    /// Mean scores by metric.
    pub means: Vec<String>,
}

/// `first` minus `second` on the same images, each as far as it gets in so many seconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pair {
    pub first: String,
    pub second: String,
    /// Wall time per image that both were given, in seconds.
    pub seconds: String,
    pub first_steps: u64,
    pub second_steps: u64,
    /// By metric: difference, and its 95 % interval (BCa over images).
    pub cells: Vec<(String, String, String)>,
}

/// The scores of one arm on one set: by step and metric, one number per image (the mean over seeds).
struct Course<'a> {
    arm: &'a ArmInfo,
    start: f64,
    step: f64,
    side_by_side: usize,
    scores: BTreeMap<u64, BTreeMap<&'a str, BTreeMap<&'a str, f64>>>,
}

impl Course<'_> {
    fn seconds(&self, steps: u64) -> f64 {
        self.start + self.step * steps as f64
    }

    fn last(&self) -> u64 {
        self.scores.keys().next_back().copied().unwrap_or(0)
    }

    /// The last look that fits into `seconds`.
    fn within(&self, seconds: f64) -> u64 {
        // A hundredth of tolerance: the arm that set the time is within it.
        self.scores.keys().copied().rfind(|s| self.seconds(*s) <= seconds * 1.01).unwrap_or(0)
    }

    fn values(&self, step: u64, metric: &str) -> Option<&BTreeMap<&str, f64>> {
        self.scores.get(&step)?.get(metric)
    }

    fn mean(&self, step: u64, metric: &str, images: &[&str]) -> Option<f64> {
        let values = self.values(step, metric)?;
        let all: Option<Vec<f64>> = images.iter().map(|i| values.get(i).copied()).collect();
        all.map(|v| stats::mean(&v))
    }
}

fn courses<'a>(record: &'a Record, set: &str, metrics: &[&'a str]) -> Vec<Course<'a>> {
    let mut all = Vec::new();
    for arm in trained(record) {
        let times: Vec<_> = record.provenance.timings.iter().filter(|t| t.arm == arm.name && t.set == set).collect();
        if times.is_empty() {
            continue;
        }
        let mean = |of: &dyn Fn(&crate::record::Timing) -> f64| times.iter().map(|t| of(t)).sum::<f64>() / times.len() as f64;
        let mut sums: BTreeMap<u64, BTreeMap<&str, BTreeMap<&str, (f64, f64)>>> = BTreeMap::new();
        let mut add = |step: u64, metric: &'a str, image: &'a str, value: f64| {
            let entry = sums.entry(step).or_default().entry(metric).or_default().entry(image).or_default();
            *entry = (entry.0 + value, entry.1 + 1.0);
        };
        let on_the_way = || record.traces.iter().filter(|p| p.arm == arm.name && p.set == set);
        for p in on_the_way() {
            add(p.step, &p.metric, &p.image, p.value);
        }
        if on_the_way().next().is_none() {
            // Without steps: the scores of the table, which hold all of its images.
            for s in record.scores.iter().filter(|s| s.arm == arm.name && s.set == set && metrics.contains(&s.metric.as_str())) {
                add(0, &s.metric, &s.image, s.value);
            }
        }
        let images = |m: BTreeMap<&'a str, (f64, f64)>| m.into_iter().map(|(i, (sum, n))| (i, sum / n)).collect();
        let scores = sums.into_iter().map(|(step, by)| (step, by.into_iter().map(|(m, v)| (m, images(v))).collect())).collect();
        all.push(Course {
            arm,
            start: mean(&|t| t.start_seconds),
            step: mean(&|t| t.step_seconds),
            side_by_side: times.iter().map(|t| t.side_by_side).max().unwrap_or(1),
            scores,
        });
    }
    all
}

/// The images that every arm has at its last step, in the order of the record.
fn shared<'a>(record: &'a Record, set: &str, metric: &str, courses: &[Course]) -> Vec<&'a str> {
    let has = |id: &str| courses.iter().all(|c| c.values(c.last(), metric).is_some_and(|v| v.contains_key(id)));
    record.images.iter().filter(|i| i.set == set && has(&i.id)).map(|i| i.id.as_str()).collect()
}

fn measured(record: &Record) -> (Vec<&str>, Vec<&str>) {
    let (mut sets, mut metrics): (Vec<&str>, Vec<&str>) = (vec![], vec![]);
    for p in &record.traces {
        if !sets.contains(&p.set.as_str()) {
            sets.push(&p.set);
        }
        if !metrics.contains(&p.metric.as_str()) {
            metrics.push(&p.metric);
        }
    }
    (sets, metrics)
}

/// A time with three digits.
fn seconds(value: f64) -> String {
    let digits = (2 - value.max(1e-9).log10().floor() as i64).clamp(0, 5) as usize;
    format!("{value:.digits$}")
}

/// The tables, one per set; empty where the record has no courses.
pub fn tables(record: &Record) -> Result<Vec<Tradeoff>> {
    let (sets, metrics) = measured(record);
    let mut out = Vec::new();
    for set in sets {
        let courses = courses(record, set, &metrics);
        let Some(first) = metrics.first() else { continue };
        let images = shared(record, set, first, &courses);
        let digits = metrics.iter().map(|m| Ok(info(m)?.digits)).collect::<Result<Vec<_>>>()?;
        let row = |c: &Course| Row {
            label: c.arm.label.clone(),
            steps: c.last(),
            start: seconds(c.start),
            step_ms: if c.last() == 0 { String::new() } else { seconds(c.step * 1e3) },
            total: seconds(c.seconds(c.last())),
            side_by_side: c.side_by_side,
            means: metrics
                .iter()
                .zip(&digits)
                .map(|(m, d)| c.mean(c.last(), m, &images).map_or(String::new(), |v| number(v, *d)))
                .collect(),
        };
        let rows = courses.iter().map(row).collect();
        out.push(Tradeoff {
            set: set.into(),
            images: images.len(),
            metrics: metrics.iter().map(|m| m.to_string()).collect(),
            rows,
            pairs: pairs(record, &courses, &metrics, &digits, &images),
        });
    }
    Ok(out)
}

/// Every two optimisations at the time of the quicker one, and each against its own start with all of its time.
fn pairs(record: &Record, courses: &[Course], metrics: &[&str], digits: &[usize], images: &[&str]) -> Vec<Pair> {
    let moving: Vec<&Course> = courses.iter().filter(|c| c.last() > 0).collect();
    let mut out = Vec::new();
    let mut compare = |a: &Course, b: &Course, time: f64, (of_a, of_b): (u64, u64)| {
        let cell = |(metric, digits): (&&str, &usize)| {
            let (Some(va), Some(vb)) = (a.values(of_a, metric), b.values(of_b, metric)) else { return Default::default() };
            let differences: Option<Vec<f64>> = images.iter().map(|i| Some(va.get(i)? - vb.get(i)?)).collect();
            let Some(d) = differences.filter(|d| d.len() > 1) else { return Default::default() };
            let interval = Bootstrap::of_mean(&d, &image_resamples(d.len())).interval95();
            let signed = |v: f64| format!("{v:+.*}", *digits);
            (signed(stats::mean(&d)), signed(interval.low), signed(interval.high))
        };
        out.push(Pair {
            first: a.arm.label.clone(),
            second: b.arm.label.clone(),
            seconds: seconds(time),
            first_steps: of_a,
            second_steps: of_b,
            cells: metrics.iter().zip(digits).map(cell).collect(),
        });
    };
    // The optimised encoder is the paper's claim: it stands first.
    let is_encoder = |c: &Course| {
        let arms = record.spec.get("arms").and_then(|a| a.as_array()).into_iter().flatten();
        arms.filter(|a| a.get("name").and_then(|n| n.as_str()) == Some(&c.arm.name)).any(|a| a.pointer("/refine/encoder").is_some())
    };
    for a in moving.iter().filter(|c| is_encoder(c)) {
        for b in courses.iter().filter(|b| b.arm.name != a.arm.name) {
            let time = if b.last() > 0 { a.seconds(a.last()).min(b.seconds(b.last())) } else { a.seconds(a.last()) };
            compare(a, b, time, (a.within(time), b.within(time)));
        }
    }
    for a in &moving {
        compare(a, a, a.seconds(a.last()), (a.last(), 0));
    }
    out
}

/// Where the axis of time begins: less is not told apart.
const LEAST_SECONDS: f64 = 1e-3;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 560.0;
const SIZE: f64 = 24.0;

/// The figure: a panel per set and metric, mean score over wall time per image (logarithmic); a line per optimisation, a dot per encoder.
pub fn figure(record: &Record) -> Result<Option<Figure>> {
    let (sets, metrics) = measured(record);
    if sets.is_empty() {
        return Ok(None);
    }
    let across = metrics.len().min(2);
    let down = (sets.len() * metrics.len()).div_ceil(across);
    let mut sheet = Sheet { width: (WIDTH * across as f64) as u32, height: (HEIGHT * down as f64) as u32, ..Sheet::default() };
    for (s, set) in sets.iter().enumerate() {
        let courses = courses(record, set, &metrics);
        for (m, metric) in metrics.iter().enumerate() {
            let place = s * metrics.len() + m;
            let corner = ((place % across) as f64 * WIDTH, (place / across) as f64 * HEIGHT);
            let images = shared(record, set, metric, &courses);
            panel(&mut sheet, corner, (set, metric), &courses, &images)?;
        }
    }
    sheet.render().map(Some)
}

fn panel(sheet: &mut Sheet, (x0, y0): (f64, f64), (set, metric): (&str, &str), courses: &[Course], images: &[&str]) -> Result<()> {
    let info = info(metric)?;
    let lines: Vec<(&str, Rgb, Vec<(f64, f64)>)> = courses
        .iter()
        .enumerate()
        .map(|(i, c)| {
            let point = |s: &u64| c.mean(*s, metric, images).map(|v| (c.seconds(*s).max(LEAST_SECONDS).log10(), v));
            (c.arm.label.as_str(), COLOURS[i % COLOURS.len()], c.scores.keys().filter_map(point).collect::<Vec<_>>())
        })
        .filter(|(.., points)| !points.is_empty())
        .collect();
    let all = || lines.iter().flat_map(|(.., points)| points.iter());
    let range = |of: &dyn Fn(&(f64, f64)) -> f64| all().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), p| (l.min(of(p)), h.max(of(p))));
    let ((first, last), (low, high)) = (range(&|p| p.0), range(&|p| p.1));
    if !(first.is_finite() && low.is_finite()) {
        return Ok(());
    }
    let (first, last) = (first.floor(), last.ceil().max(first.floor() + 1.0));
    let pad = ((high - low) * 0.07).max(1e-9);
    let (low, high) = (low - pad, high + pad);
    let mut end_width: f64 = 0.0;
    for (label, ..) in &lines {
        end_width = end_width.max(text_width(label, SIZE, false)?);
    }
    let (left, right) = (x0 + 96.0, x0 + WIDTH - end_width - 64.0);
    let (top, bottom) = (y0 + 74.0, y0 + HEIGHT - 92.0);
    let px = |v: f64| left + (right - left) * (v - first) / (last - first);
    let py = |v: f64| bottom - (bottom - top) * (v - low) / (high - low);
    let marks = super::curves::ticks(low, high, 5);
    let apart = if marks.len() > 1 { marks[1] - marks[0] } else { 1.0 };
    let digits = ((-apart.log10()).ceil().max(0.0) as usize).min(info.digits + 1);
    for v in marks {
        sheet.line(vec![(left, py(v)), (right, py(v))], 1.0, LIGHT);
        sheet.label(left - 10.0, py(v) + 0.36 * SIZE, SIZE, Anchor::End, BLACK, number(v, digits));
    }
    for decade in first as i64..=last as i64 {
        let x = px(decade as f64);
        sheet.line(vec![(x, bottom), (x, bottom + 7.0)], 1.5, BLACK);
        let text = if decade >= 0 {
            format!("{}", 10f64.powi(decade as i32))
        } else {
            format!("{:.*}", -decade as usize, 10f64.powi(decade as i32))
        };
        sheet.label(x, bottom + 12.0 + SIZE, SIZE, Anchor::Middle, BLACK, text);
    }
    sheet.line(vec![(left, bottom), (right, bottom)], 1.5, BLACK);
    sheet.label((left + right) / 2.0, bottom + 22.0 + 2.1 * SIZE, SIZE, Anchor::Middle, BLACK, "seconds per image");
    let arrow = if info.higher_is_better { "↑" } else { "↓" };
    let unit = if info.unit.is_empty() { String::new() } else { format!(" ({})", info.unit) };
    sheet.label(x0 + 16.0, y0 + 42.0, SIZE, Anchor::Start, BLACK, format!("{metric}{unit} {arrow}, {} {set} images", images.len())).bold =
        true;
    for (_, colour, points) in &lines {
        sheet.line(points.iter().map(|p| (px(p.0), py(p.1))).collect(), 3.0, *colour);
        for p in points {
            sheet.shapes.push(Shape::Dot { at: (px(p.0), py(p.1)), radius: if points.len() == 1 { 7.0 } else { 4.0 }, colour: *colour });
        }
    }
    let ends: Vec<f64> = lines.iter().map(|(.., points)| py(points[points.len() - 1].1)).collect();
    for (((label, colour, points), end), place) in lines.iter().zip(&ends).zip(super::curves::spread(&ends, 1.15 * SIZE, top, bottom)) {
        sheet.line(vec![(px(points[points.len() - 1].0) + 8.0, *end), (right + 26.0, place)], 1.0, GREY);
        sheet.label(right + 32.0, place + 0.36 * SIZE, SIZE, Anchor::Start, *colour, *label);
    }
    Ok(())
}
