//! The stage "edit" (Section V.D, Fig. 12): the latents of an inversion are moved along attribute directions, and a network that reads the
//! attributes says how far the wanted one moved and how far the others and the identity drifted. The same is done with the true w of
//! generated images, which shows what the directions do without any inversion.
//!
//! Identity is here the factors of a person that the reader sees, so that what drifts has a name; faces are not recognised.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::directions::{Scales, conditional_name, read, readable};
use super::evaluate::{open_metrics, picture, score_all};
use super::inversion::{Inversion, Inverted};
use super::{EditSource, EditStageSpec, StageContext, open, sample};
use crate::editing::Rows;
use crate::editing::shift::shift;
use crate::generators::{Generator, Synthesis};
use crate::images::Rgb8;
use crate::metrics::Metric;
use crate::record::ImageInfo;
use crate::record::edit::{Direction, Edit};
use crate::spec::Card;
use crate::zoo::faces::{FACTORS, Factor, IDENTITY_FACTORS};
use crate::zoo::judge::Judge;
use crate::{Error, Result};

/// What a checkpoint holds beside pictures.
#[derive(Serialize, Deserialize)]
struct Saved {
    edits: Vec<Edit>,
}

pub fn run(spec: &EditStageSpec, context: &mut StageContext) -> Result<()> {
    let device = context.device;
    let generator = open::generator(&spec.networks.generator, device)?;
    let generator = generator.as_ref();
    let source = match &spec.source {
        EditSource::Encoder(method) => {
            let trained = context.input("train")?.tensors("encoder.safetensors", device)?;
            Latents::Encoder(Inversion::trained(generator, method, trained, device)?)
        }
        EditSource::Own => Latents::Own(generator),
    };
    let measures = Measures::open(spec, context)?;
    let directions = context.input("directions")?.tensors("directions.safetensors", device)?;
    let infos: Vec<Direction> = context.input("directions")?.json("directions.json")?;
    let steps = steps(spec, &infos, &directions)?;
    let input = context.input("sample")?;
    let images: Vec<ImageInfo> = input.json("images.json")?;
    let pixels = input.tensors("images.safetensors", &Device::Cpu)?;
    let of_source = |info: &&[ImageInfo]| matches!(source, Latents::Encoder(_)) || sample::is_synthesized(&info[0].id);
    let first = |set: &'_ [ImageInfo]| set.len().min(spec.images);
    let sets: Vec<&[ImageInfo]> = images.chunk_by(|a, b| a.set == b.set).filter(of_source).map(|set| &set[..first(set)]).collect();
    let batches: Vec<(&[ImageInfo], usize)> =
        sets.iter().flat_map(|set| set.chunks(spec.batch.max(1)).enumerate().map(|(i, b)| (b, i * spec.batch.max(1)))).collect();

    let mut checkpoint = context.checkpoint();
    let (mut edits, mut kept, mut done) = (Vec::new(), BTreeMap::new(), 0);
    if let Some(saved) = checkpoint.load(&Device::Cpu)? {
        edits = serde_json::from_value::<Saved>(saved.state).map_err(|e| Error::corrupt(format!("the checkpoint's state: {e}")))?.edits;
        (kept, done) = (saved.tensors, saved.step as usize);
    }
    let total: usize = batches.iter().map(|(b, _)| b.len()).sum();
    let bar = context.progress.bar(total as u64, "edit");
    bar.resume(batches[..done].iter().map(|(b, _)| b.len() as u64).sum());
    for (n, (batch, at)) in batches.iter().enumerate().skip(done) {
        let targets = batch.iter().map(|info| picture(&pixels, info)).collect::<Result<Vec<_>>>()?;
        let base = source.invert(batch, &targets, spec.seed, device)?;
        let plain = source.render(&base, &base.w)?;
        let before = measures.of(&plain)?;
        let set = &batch[0].set;
        if let (Latents::Encoder(_), Some(now)) = (&source, &before) {
            let original = measures.of(&targets)?.unwrap_or_default();
            for (measure, values) in measures.drift(&original, now, None) {
                add(&mut edits, &Step::inversion(), set, measure, values);
            }
        }
        let mut keep = |name: &dyn Fn(&ImageInfo) -> String, pictures: &[Rgb8]| -> Result<()> {
            for (i, (info, picture)) in batch.iter().zip(pictures).enumerate() {
                if at + i < spec.figure_images {
                    kept.insert(name(info), sample::to_tensor(picture)?);
                }
            }
            Ok(())
        };
        keep(&|info| format!("{set}/{}", info.id), &plain)?;
        for step in &steps {
            let Some(direction) = &step.direction else { continue };
            let moved = shift(&base.w, direction, step.alpha * step.unit, &step.rows, None)?;
            let edited = source.render(&base, &moved)?;
            if let (Some(before), Some(after)) = (&before, &measures.of(&edited)?) {
                for (measure, values) in measures.drift(before, after, step.factor) {
                    add(&mut edits, step, set, measure, values);
                }
            }
            // Where nothing reads the picture, all that is known is how far it moved.
            if before.is_none() {
                let distance = score_all(std::slice::from_ref(&measures.lpips), &plain, &edited)?;
                add(&mut edits, step, set, "lpips", distance.into_iter().flatten().collect());
            }
            // The figure shows the first variant.
            if step.variant == 0 {
                keep(&|info| picture_name(set, &info.id, &step.name, step.alpha), &edited)?;
            }
        }
        bar.advance(batch.len() as u64, set);
        if checkpoint.due() && n + 1 < batches.len() {
            checkpoint.save(n as u64 + 1, &kept, &Saved { edits: edits.clone() })?;
        }
    }
    bar.finish();
    context.work.put_json("edits.json", &edits)?;
    context.work.put_tensors("edits.safetensors", &kept)
}

/// The name of an edited picture: "real/real00001 smile +2".
pub fn picture_name(set: &str, id: &str, direction: &str, alpha: f64) -> String {
    format!("{set}/{id} {direction} {alpha:+}")
}

/// One edit of every image.
struct Step {
    name: String,
    factor: Option<Factor>,
    variant: usize,
    alpha: f64,
    /// Length of one alpha.
    unit: f64,
    direction: Option<Tensor>,
    rows: Rows,
}

impl Step {
    /// No edit: what the inversion alone changed.
    fn inversion() -> Self {
        Step { name: String::new(), factor: None, variant: 0, alpha: 0.0, unit: 0.0, direction: None, rows: Rows::All }
    }
}

fn steps(spec: &EditStageSpec, infos: &[Direction], tensors: &BTreeMap<String, Tensor>) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    for (name, factor) in &spec.directions {
        let info = infos.iter().find(|i| i.name == *name);
        let missing = || Error::internal(format!("the directions lack \"{name}\""));
        for (variant, v) in spec.variants.iter().enumerate() {
            let tensor = tensors.get(&if v.conditional { conditional_name(name) } else { name.clone() }).ok_or_else(missing)?;
            let info = info.ok_or_else(missing)?;
            for &alpha in &spec.alphas {
                steps.push(Step {
                    name: name.clone(),
                    factor: factor.as_deref().and_then(Factor::named),
                    variant,
                    alpha,
                    unit: if v.conditional { info.conditional_unit } else { info.unit },
                    direction: Some(tensor.clone()),
                    rows: v.rows.clone(),
                });
            }
        }
    }
    Ok(steps)
}

/// Appends the values of a batch to the row that they belong to.
fn add(edits: &mut Vec<Edit>, step: &Step, set: &str, measure: &str, values: Vec<f64>) {
    let rounded = values.into_iter().map(|v| (v * 1e4).round() / 1e4);
    let same = |e: &&mut Edit| {
        e.set == set && e.direction == step.name && e.variant == step.variant && e.alpha == step.alpha && e.measure == measure
    };
    match edits.iter_mut().find(same) {
        Some(edit) => edit.values.extend(rounded),
        None => edits.push(Edit {
            arm: String::new(),
            seed: 0,
            set: set.into(),
            direction: step.name.clone(),
            variant: step.variant,
            alpha: step.alpha,
            measure: measure.into(),
            values: rounded.collect(),
        }),
    }
}

enum Latents<'a> {
    Encoder(Inversion<'a>),
    Own(&'a dyn Generator),
}

impl Latents<'_> {
    fn invert(&self, infos: &[ImageInfo], targets: &[Rgb8], seed: u64, device: &Device) -> Result<Inverted> {
        match self {
            Latents::Encoder(inversion) => inversion.invert_images(&infos.iter().collect::<Vec<_>>(), targets, seed),
            Latents::Own(generator) => {
                let ids = infos.iter().map(|i| sample::number(&i.id)).collect::<Result<Vec<_>>>()?;
                let noise = sample::evaluation_noise(*generator, &infos[0].set, seed, &ids, device)?;
                Ok(Inverted::of_w(sample::synthesized_latents(*generator, seed, &ids, device)?, noise))
            }
        }
    }

    fn render(&self, inverted: &Inverted, w: &Tensor) -> Result<Vec<Rgb8>> {
        let image = match self {
            Latents::Encoder(inversion) => inversion.render(inverted, w)?,
            Latents::Own(generator) => generator.synthesize(w, &Synthesis { noise: inverted.noise(), ..Default::default() })?,
        };
        Rgb8::from_batch(&image)
    }
}

/// The reader of factors, if the profile has one, and LPIPS for the profiles without.
struct Measures {
    reader: Option<Reader>,
    lpips: Metric,
    device: Device,
}

struct Reader {
    judge: Judge,
    scales: Vec<f64>,
    /// Factors that the reader can read.
    readable: Vec<bool>,
}

impl Measures {
    fn open(spec: &EditStageSpec, context: &StageContext) -> Result<Self> {
        let device = context.device.clone();
        let mut metrics = open_metrics(std::slice::from_ref(&spec.lpips), &spec.networks, &device)?;
        let lpips = metrics.pop().ok_or_else(|| Error::internal("no LPIPS"))?;
        let reader = match &spec.reader {
            None => None,
            Some(name) => {
                let scales: Scales = context.input("directions")?.json("scales.json")?;
                Some(Reader {
                    judge: open::judge(name, &device)?,
                    scales: scales.factors,
                    readable: readable(&Card::load(name)?, &FACTORS),
                })
            }
        };
        Ok(Measures { reader, lpips, device })
    }

    /// The factors of pictures; None without a reader.
    fn of(&self, pictures: &[Rgb8]) -> Result<Option<Vec<Vec<f64>>>> {
        self.reader.as_ref().map(|r| read(&r.judge, pictures, &self.device)).transpose()
    }

    /// What changed from `before` to `after`, in standard deviations over generated images.
    fn drift(&self, before: &[Vec<f64>], after: &[Vec<f64>], target: Option<Factor>) -> Vec<(&'static str, Vec<f64>)> {
        let Some(reader) = &self.reader else { return Vec::new() };
        let change = |i: usize, k: usize| (after[i][k] - before[i][k]) / reader.scales[k].max(1e-6);
        let mean = |i: usize, factors: &dyn Fn(usize) -> bool| {
            let chosen: Vec<f64> = (0..FACTORS.len()).filter(|&k| reader.readable[k] && factors(k)).map(|k| change(i, k).abs()).collect();
            chosen.iter().sum::<f64>() / chosen.len().max(1) as f64
        };
        let images = || 0..before.len();
        let mut out = Vec::new();
        if let Some(target) = target {
            out.push(("target", images().map(|i| change(i, target as usize)).collect()));
        }
        let is_target = |k: usize| target.is_some_and(|t| t as usize == k);
        out.push(("others", images().map(|i| mean(i, &|k| k >= IDENTITY_FACTORS && !is_target(k))).collect()));
        out.push(("identity", images().map(|i| mean(i, &|k| k < IDENTITY_FACTORS && !is_target(k))).collect()));
        out
    }
}
