//! The curve of a training: from the steps, through the state and `curve.json` beside the weights, to the card and its picture.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Device;
use serde::{Deserialize, Serialize};

use super::encoders::CURVE_IMAGES;
use super::judge::Judge;
use super::measure::{PICTURES, SAMPLE_SEED, Sampler, Seen, frechet};
use super::source::Source;
use crate::generators::{Generator, Stage};
use crate::record::store::write_atomic;
use crate::report::curves::{Axis, COLOURS, Line, Panel, draw_panels};
use crate::spec::card::Curve;
use crate::stages::CurveRow;
use crate::{Error, Result};

/// The curve in the folder of a finished training.
pub const FILE: &str = "curve.json";
/// Points of a curve, at most.
const POINTS: u64 = 20;
/// Least images between two points: a distance is measured at each.
const APART: u64 = 500;

pub const FRECHET: &str = "frechet_distance";
pub const CRITIC_REAL: &str = "critic_real";
pub const CRITIC_FAKE: &str = "critic_fake";
pub const LOSS: &str = "loss";

/// A curve in the making. It is part of a training's state, so that one that was stopped has the same curve.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Meter {
    pub curve: Curve,
    sums: BTreeMap<String, f64>,
    steps: u64,
}

impl Meter {
    /// Counts what a step gave.
    pub fn count<const N: usize>(&mut self, values: [(&str, f64); N]) {
        for (name, value) in values {
            *self.sums.entry(name.into()).or_default() += value;
        }
        self.steps += 1;
    }

    /// A point after `images`: means since the last one, and what was measured at this one.
    pub fn point(&mut self, images: u64, measured: Option<(&str, f64)>) {
        let steps = self.steps.max(1) as f64;
        let means = std::mem::take(&mut self.sums).into_iter().map(|(name, sum)| (name, sum / steps));
        self.curve.push(images, means.chain(measured.map(|(name, value)| (name.into(), value))));
        self.steps = 0;
    }
}

/// Whether a point of the curve lies on the way from `before` to `after` images, of `total`. The last one lies at the end.
pub fn due(before: u64, after: u64, total: u64) -> bool {
    let place = |images: u64| images * (total / APART).clamp(1, POINTS) / total.max(1);
    place(before) < place(after)
}

/// Writes the curve beside the weights; one without points, of a state from before there were curves, is none.
pub fn write(curve: &Curve, folder: &Path) -> Result<()> {
    if curve.images.is_empty() {
        return Ok(());
    }
    let json = serde_json::to_vec(curve).map_err(|e| Error::internal(e.to_string()))?;
    write_atomic(&folder.join(FILE), &json)
}

/// The curve in `folder`, if one is there. Errors: a damaged file.
pub fn read(folder: &Path) -> Result<Option<Curve>> {
    let path = folder.join(FILE);
    match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|e| Error::corrupt(format!("{}: damaged ({e}); train again, or delete it to have no curve", path.display()))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(&path, "reading", e)),
    }
}

/// The curve of an encoder's training, from that of its stage: `psnr_real`, `lpips_synthesized` and so on.
pub fn of_stage(rows: &[CurveRow]) -> Curve {
    let mut at: BTreeMap<u64, Vec<(String, f64)>> = BTreeMap::new();
    for row in rows {
        let metric = row.metric.split(['@', '-']).next().unwrap_or_default();
        at.entry(row.images).or_default().push((format!("{metric}_{}", row.set), row.value));
    }
    let mut curve = Curve::default();
    at.into_iter().for_each(|(images, values)| curve.push(images, values));
    curve
}

/// What measures the images of a generator in training, as its card does.
pub struct Gauge<'a> {
    source: Source,
    judge: Judge,
    device: &'a Device,
    real: OnceCell<Seen>,
}

impl<'a> Gauge<'a> {
    pub fn new(source: Source, judge: Judge, device: &'a Device) -> Self {
        Gauge { source, judge, device, real: OnceCell::new() }
    }

    /// Whether the judge knows such images, and the training is long enough for what measuring costs.
    pub fn is_worth(resolution: usize, total: u64) -> bool {
        resolution == 64 && total >= APART
    }

    /// The Fréchet distance of the generator's images to held-out pictures; those of a smaller stage are enlarged.
    pub fn distance(&self, generator: &dyn Generator, stage: Stage) -> Result<f64> {
        let sampler = Sampler { generator, seed: SAMPLE_SEED, device: self.device };
        let images = |first, count| sampler.images_at(stage, first, count)?.upsample_nearest2d(64, 64);
        let seen = Seen::through(&self.judge, PICTURES, images)?;
        if self.real.get().is_none() {
            let _ = self.real.set(Seen::held_out(&self.judge, &self.source, 0, PICTURES, self.device)?);
        }
        Ok(self.real.get().map_or(f64::NAN, |real| frechet(&seen.features, &real.features)))
    }
}

/// curve.png: what the card lists, a panel for each kind of value.
pub fn draw(curve: &Curve, path: &Path) -> Result<()> {
    let of_first = |metric: &str| format!("{metric}, the first {CURVE_IMAGES} images of each set");
    let kinds: [(String, usize, &[(&str, &str)]); 5] = [
        ("Fréchet distance to held-out pictures ↓".into(), 1, &[(FRECHET, "averaged G")]),
        ("output of D, mean since the last point".into(), 2, &[(CRITIC_REAL, "pictures"), (CRITIC_FAKE, "images of G")]),
        ("training loss, mean since the last point ↓".into(), 2, &[(LOSS, "loss")]),
        (of_first("PSNR (dB) ↑"), 1, &[("psnr_synthesized", "images of G"), ("psnr_real", "pictures")]),
        (of_first("LPIPS ↓"), 2, &[("lpips_synthesized", "images of G"), ("lpips_real", "pictures")]),
    ];
    let mut panels = Vec::new();
    for (title, digits, lines) in kinds {
        let line = |(k, (name, label)): (usize, &(&str, &str))| {
            let points = curve.images.iter().zip(curve.values.get(*name)?).map(|(&images, &v)| (images as f64, v, v, v));
            Some(Line { label: label.to_string(), colour: COLOURS[k], points: points.collect() })
        };
        let lines: Vec<Line> = lines.iter().enumerate().filter_map(line).filter(|l| l.points.len() > 1).collect();
        if !lines.is_empty() {
            panels.push(Panel { title, digits, lines, axis: Axis::TrainingImages });
        }
    }
    match panels.len() {
        0 => Ok(()),
        count => write_atomic(path, &draw_panels(&panels, count.min(2))?.png),
    }
}
