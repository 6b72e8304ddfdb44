//! Panels of lines. Convergence: a metric on held-out images against the training images seen, one line per arm.

use super::ink::{Anchor, BLACK, Figure, GREY, LIGHT, Rgb, Shape, Sheet, text_width};
use super::{info, trained};
use crate::Result;
use crate::record::Record;

/// Colours that remain apart for colour-blind readers (Okabe and Ito 2008, with grey for their yellow; black and grey last).
pub(crate) const COLOURS: [Rgb; 8] =
    [[0, 114, 178], [213, 94, 0], [0, 158, 115], [204, 121, 167], [86, 180, 233], [230, 159, 0], [40, 40, 40], [135, 135, 135]];

const WIDTH: f64 = 820.0;
const HEIGHT: f64 = 560.0;
const SIZE: f64 = 26.0;

/// One line: place on the axis, value, and the ends of its band (lowest and highest over the seeds, or an interval).
pub(crate) struct Line {
    pub label: String,
    pub colour: Rgb,
    pub points: Vec<(f64, f64, f64, f64)>,
}

pub(crate) struct Panel {
    pub title: String,
    pub digits: usize,
    pub lines: Vec<Line>,
    pub axis: Axis,
}

/// What a panel's lines run over.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Axis {
    /// From 0 on; the first point stands before any training.
    TrainingImages,
    Alpha,
}

/// The figure, a panel per set of images and metric in the order of the record; `None` if the record has no curves.
pub fn curves(record: &Record) -> Result<Option<Figure>> {
    let mut kinds: Vec<(&str, &str)> = vec![];
    for p in &record.curves {
        if !kinds.contains(&(&p.set, &p.metric)) {
            kinds.push((&p.set, &p.metric));
        }
    }
    let panels: Vec<Panel> =
        kinds.iter().map(|(set, metric)| panel(record, set, metric)).collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
    if panels.is_empty() {
        return Ok(None);
    }
    draw_panels(&panels, panels.len().min(2)).map(Some)
}

impl Axis {
    fn width(self) -> f64 {
        match self {
            Axis::TrainingImages => WIDTH,
            Axis::Alpha => 0.7 * WIDTH,
        }
    }
}

/// The panels in rows of `across`. Where they run over alpha, one legend above them all names their lines.
pub(crate) fn draw_panels(panels: &[Panel], across: usize) -> Result<Figure> {
    let down = panels.len().div_ceil(across);
    let (axis, longest) = panels.iter().max_by_key(|p| p.lines.len()).map_or((Axis::TrainingImages, &[][..]), |p| (p.axis, &p.lines[..]));
    let head = if axis == Axis::Alpha { 2.4 * SIZE } else { 0.0 };
    let (width, height) = ((axis.width() * across as f64) as u32, (head + HEIGHT * down as f64) as u32);
    let mut sheet = Sheet { width, height, ..Sheet::default() };
    if axis == Axis::Alpha {
        let mut x = 24.0;
        for line in longest {
            sheet.line(vec![(x, 1.5 * SIZE), (x + 44.0, 1.5 * SIZE)], 4.0, line.colour);
            sheet.label(x + 54.0, 1.86 * SIZE, SIZE, Anchor::Start, BLACK, line.label.as_str());
            x += 54.0 + text_width(&line.label, SIZE, false)? + 40.0;
        }
    }
    for (i, p) in panels.iter().enumerate() {
        draw(&mut sheet, p, ((i % across) as f64 * axis.width(), head + (i / across) as f64 * HEIGHT))?;
    }
    sheet.render()
}

fn panel(record: &Record, set: &str, metric: &str) -> Result<Option<Panel>> {
    let info = info(metric)?;
    let lines = trained(record).enumerate().map(|(i, arm)| {
        let mut at: std::collections::BTreeMap<u64, Vec<f64>> = Default::default();
        for p in record.curves.iter().filter(|p| p.arm == arm.name && p.set == set && p.metric == metric && p.value.is_finite()) {
            at.entry(p.images).or_default().push(p.value);
        }
        let most = at.values().map(Vec::len).max().unwrap_or(0);
        // A point that some seeds have not reached would make the mean jump.
        let points = at.into_iter().filter(|(_, v)| v.len() == most).map(|(images, v)| {
            let (low, high) = v.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), x| (l.min(*x), h.max(*x)));
            (images as f64, v.iter().sum::<f64>() / v.len() as f64, low, high)
        });
        Line { label: arm.label.clone(), colour: COLOURS[i % COLOURS.len()], points: points.collect() }
    });
    let lines: Vec<Line> = lines.filter(|l| l.points.len() > 1).collect();
    let unit = if info.unit.is_empty() { String::new() } else { format!(" ({})", info.unit) };
    let arrow = if info.higher_is_better { "↑" } else { "↓" };
    Ok((!lines.is_empty()).then(|| Panel {
        title: format!("{metric}{unit} {arrow}, {set} images"),
        digits: info.digits,
        lines,
        axis: Axis::TrainingImages,
    }))
}

fn draw(sheet: &mut Sheet, panel: &Panel, (x0, y0): (f64, f64)) -> Result<()> {
    let (low, high) = value_range(panel);
    let y_ticks = ticks(low, high, 5);
    let step = if y_ticks.len() > 1 { y_ticks[1] - y_ticks[0] } else { 1.0 };
    let digits = ((-step.log10()).ceil().max(0.0) as usize).min(panel.digits + 1);
    let mut y_width: f64 = 0.0;
    for t in &y_ticks {
        y_width = y_width.max(text_width(&format!("{t:.digits$}"), SIZE, false)?);
    }
    let mut end_width: f64 = 0.0;
    for l in panel.lines.iter().filter(|_| panel.axis == Axis::TrainingImages) {
        end_width = end_width.max(text_width(&l.label, SIZE, false)?);
    }
    let (left, right) = (x0 + 20.0 + y_width + 10.0, x0 + panel.axis.width() - 24.0 - end_width - if end_width > 0.0 { 34.0 } else { 0.0 });
    let (top, bottom) = (y0 + 74.0, y0 + HEIGHT - 92.0);
    let last = panel.lines.iter().flat_map(|l| &l.points).fold(0.0f64, |m, p| m.max(p.0));
    let start = match panel.axis {
        Axis::TrainingImages => 0.0,
        Axis::Alpha => panel.lines.iter().flat_map(|l| &l.points).fold(0.0f64, |m, p| m.min(p.0)),
    };
    let px = |x: f64| left + (right - left) * (x - start) / (last - start).max(1.0);
    let py = |v: f64| bottom - (bottom - top) * (v - low) / (high - low);

    for t in &y_ticks {
        sheet.line(vec![(left, py(*t)), (right, py(*t))], 1.0, LIGHT);
        sheet.label(left - 10.0, py(*t) + 0.36 * SIZE, SIZE, Anchor::End, BLACK, format!("{t:.digits$}"));
    }
    let room = ((right - left) / (4.2 * SIZE)) as usize;
    for t in ticks(start, last, room.clamp(2, 6)) {
        sheet.line(vec![(px(t), bottom), (px(t), bottom + 7.0)], 1.5, BLACK);
        sheet.label(px(t), bottom + 12.0 + SIZE, SIZE, Anchor::Middle, BLACK, thousands(t).replace('-', "\u{2212}"));
    }
    sheet.line(vec![(left, bottom), (right, bottom)], 1.5, BLACK);
    sheet.label(
        (left + right) / 2.0,
        bottom + 22.0 + 2.1 * SIZE,
        SIZE,
        Anchor::Middle,
        BLACK,
        if panel.axis == Axis::Alpha { "α" } else { "training images" },
    );
    sheet.label(left - y_width - 10.0, y0 + 42.0, SIZE, Anchor::Start, BLACK, panel.title.as_str()).bold = true;

    let clip = |v: f64| v.clamp(low, high);
    for line in &panel.lines {
        if line.points.iter().any(|p| p.3 > p.2) {
            let upper = line.points.iter().map(|p| (px(p.0), py(clip(p.3))));
            let lower = line.points.iter().rev().map(|p| (px(p.0), py(clip(p.2))));
            sheet.shapes.push(Shape::Area { points: upper.chain(lower).collect(), colour: line.colour, opacity: 0.18 });
        }
    }
    for line in &panel.lines {
        let points = clipped(&line.points.iter().map(|p| (p.0, p.1)).collect::<Vec<_>>(), low, high);
        sheet.line(points.into_iter().map(|(x, y)| (px(x), py(y))).collect(), 3.0, line.colour);
    }
    if panel.axis == Axis::Alpha {
        return Ok(());
    }
    let ends: Vec<f64> = panel.lines.iter().map(|l| py(clip(l.points[l.points.len() - 1].1))).collect();
    for ((line, end), place) in panel.lines.iter().zip(&ends).zip(spread(&ends, 1.15 * SIZE, top, bottom)) {
        let x = px(line.points[line.points.len() - 1].0);
        sheet.shapes.push(Shape::Dot { at: (x, *end), radius: 4.5, colour: line.colour });
        sheet.line(vec![(x + 8.0, *end), (right + 26.0, place)], 1.2, GREY);
        sheet.label(right + 32.0, place + 0.36 * SIZE, SIZE, Anchor::Start, line.colour, line.label.as_str());
    }
    Ok(())
}

/// The values shown: all after the first point, which stands before any training and is far off; it is shown if it is near.
fn value_range(panel: &Panel) -> (f64, f64) {
    let over = |skip: usize| {
        let values = panel.lines.iter().flat_map(move |l| l.points.iter().skip(skip.min(l.points.len() - 2))).flat_map(|p| [p.2, p.3]);
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)))
    };
    let (all, later) = (over(0), over(1));
    let (low, high) = if panel.axis == Axis::Alpha || all.1 - all.0 <= 2.0 * (later.1 - later.0) { all } else { later };
    let pad = ((high - low) * 0.06).max(1e-6 * high.abs()).max(1e-9);
    (low - pad, high + pad)
}

/// The polyline cut at the levels `low` and `high`.
fn clipped(points: &[(f64, f64)], low: f64, high: f64) -> Vec<(f64, f64)> {
    let mut out = vec![];
    for (i, &(x, y)) in points.iter().enumerate() {
        let inside = (low..=high).contains(&y);
        if let Some(&(px, py)) = i.checked_sub(1).and_then(|p| points.get(p))
            && inside != (low..=high).contains(&py)
        {
            let level = if y.min(py) < low { low } else { high };
            out.push((px + (x - px) * (level - py) / (y - py), level));
        }
        if inside {
            out.push((x, y));
        }
    }
    out
}

/// Round numbers from `low` to `high`, about `count` of them.
pub(super) fn ticks(low: f64, high: f64, count: usize) -> Vec<f64> {
    let rough = (high - low) / count as f64;
    let power = 10f64.powf(rough.log10().floor());
    let apart = |step: f64| (step / rough).ln().abs();
    let steps = [1.0, 2.0, 5.0, 10.0].map(|m| m * power);
    let step = steps.into_iter().min_by(|a, b| apart(*a).total_cmp(&apart(*b))).unwrap_or(power);
    let first = (low / step).ceil() as i64;
    (first..).map(|i| i as f64 * step).take_while(|t| *t <= high + step * 1e-9).take(50).collect()
}

fn thousands(images: f64) -> String {
    match images {
        v if v >= 1e6 => format!("{}M", v / 1e6),
        v if v >= 1e3 => format!("{}k", v / 1e3),
        v => format!("{v}"),
    }
}

/// Heights near `wanted`, in the same order, at least `least` apart and within `top` and `bottom` where there is room.
pub(super) fn spread(wanted: &[f64], least: f64, top: f64, bottom: f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by(|&i, &j| wanted[i].total_cmp(&wanted[j]));
    let mut place: Vec<f64> = order.iter().map(|&i| wanted[i]).collect();
    for _ in 0..200 {
        for k in 1..place.len() {
            let lack = least - (place[k] - place[k - 1]);
            if lack > 0.0 {
                place[k - 1] -= lack / 2.0;
                place[k] += lack / 2.0;
            }
        }
        if let Some(p) = place.first_mut() {
            *p = p.max(top);
        }
        if let Some(p) = place.last_mut() {
            *p = p.min(bottom);
        }
    }
    let mut out = vec![0.0; wanted.len()];
    for (&i, p) in order.iter().zip(place) {
        out[i] = p;
    }
    out
}
