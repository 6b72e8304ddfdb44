//! The stage "directions": one direction in w per attribute, for one generator.
//!
//! As InterFaceGAN learns them: images of many w are scored by a network that reads the attribute, an SVM tells the w of the highest scores
//! from those of the lowest, and its normal is the direction; or the direction comes from a file. Every direction also comes freed of
//! the other ones. Alpha is counted in standard deviations of w along the direction, so that one alpha means the same for all of them.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use super::{DirectionSource, DirectionsSpec, StageContext, open};
use crate::editing::svm::Svm;
use crate::editing::{boundary, condition, dot, unit};
use crate::generators::Generator;
use crate::images::{Filter, Rgb8, resize};
use crate::record::edit::Direction;
use crate::spec::Card;
use crate::zoo::drawing::SIZE;
use crate::zoo::faces::{FACTORS, Factor};
use crate::zoo::judge::Judge;
use crate::zoo::measure::{Sampler, quantized};
use crate::{Error, Result};

/// A factor counts where the reader explains at least this much of its variance (its card says how much).
const LEAST_R2: f64 = 0.5;

/// Which of these factors the network of this card reads well enough to be counted.
pub fn readable(card: &Card, factors: &[&str]) -> Vec<bool> {
    let measured = card.training.as_ref().map(|t| &t.measured);
    let r2 = |name: &&str| measured.and_then(|m| m.get(&format!("r2_{}", name.replace('-', "_")))).copied();
    factors.iter().map(|name| r2(name).is_none_or(|r2| r2 >= LEAST_R2)).collect()
}

/// Images per forward pass; the result does not depend on it.
const BATCH: usize = 32;

/// Latents over which the spread along a direction is taken where no images are drawn.
const SPREAD_OF: u64 = 4096;

/// Where the SVM stops.
const TOLERANCE: f64 = 1e-6;

/// What the reader says of the generated images: standard deviation of each factor. Empty without a reader.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Scales {
    pub factors: Vec<f64>,
}

/// What a killed run had read already.
#[derive(Serialize, Deserialize)]
struct Saved {
    factors: Vec<Vec<f64>>,
}

pub fn run(spec: &DirectionsSpec, context: &mut StageContext) -> Result<()> {
    let device = context.device;
    let generator = open::generator(&spec.generator, device)?;
    let generator = generator.as_ref();
    let layout = generator.layout();
    if layout.rows == 0 {
        return Err(Error::usage(format!("the generator {} has no w to edit", spec.generator)));
    }
    let sampler = Sampler { generator, seed: spec.seed, device };
    let learned = spec.learn.as_ref().map(|l| l.samples).unwrap_or(0);
    let latents = plain_latents(&sampler, learned.max(if learned == 0 { SPREAD_OF } else { 0 }))?;
    let factors = match reader_of(spec)? {
        Some(reader) => read_all(&open::judge(reader, device)?, &sampler, learned as usize, context)?,
        None => Vec::new(),
    };
    let mut found = Vec::new();
    for wanted in &spec.directions {
        found.push(match (&wanted.source, &spec.learn) {
            (DirectionSource::Card(card), _) => Found { direction: from_card(card, layout.w_dim)?, boundary: None },
            (DirectionSource::Learned { factor, .. }, Some(learn)) => {
                let factor = Factor::named(factor).ok_or_else(|| Error::usage(format!("there is no factor \"{factor}\"")))?;
                let scores: Vec<f64> = factors.iter().map(|f| f[factor as usize]).collect();
                let chosen = boundary::choose(&scores, learn.ratio, learn.split, spec.seed).map_err(|e| e.at(&wanted.name))?;
                let svm = Svm { loss: learn.loss, c: learn.c, tolerance: TOLERANCE };
                let boundary = boundary::learn(&latents, &scores, &chosen, &svm).map_err(|e| e.at(&wanted.name))?;
                Found { direction: boundary.direction.clone(), boundary: Some((chosen, boundary)) }
            }
            (DirectionSource::Learned { .. }, None) => return Err(Error::internal("a direction is to be learned from no samples")),
        });
    }
    let mut tensors = BTreeMap::new();
    let mut infos = Vec::new();
    for (i, (wanted, one)) in spec.directions.iter().zip(&found).enumerate() {
        let others: Vec<&[f64]> = found.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, f)| f.direction.as_slice()).collect();
        let alone = condition::project(&one.direction, &others);
        let boundary = one.boundary.as_ref();
        infos.push(Direction {
            name: wanted.name.clone(),
            seed: 0,
            train: boundary.map_or(0, |(c, _)| c.train.len()),
            validation: boundary.map_or(0, |(c, _)| c.validation.len()),
            train_accuracy: boundary.map(|(_, b)| b.train_accuracy),
            validation_accuracy: boundary.map(|(_, b)| b.validation_accuracy),
            rest_accuracy: boundary.and_then(|(_, b)| b.rest_accuracy),
            unit: spread(&latents, &one.direction),
            conditional_unit: spread(&latents, &alone),
            cosines: found.iter().map(|f| dot(&f.direction, &one.direction)).collect(),
        });
        for (name, direction) in [(wanted.name.clone(), &one.direction), (conditional_name(&wanted.name), &alone)] {
            let values: Vec<f32> = direction.iter().map(|v| *v as f32).collect();
            tensors.insert(name, Tensor::from_vec(values, (1, layout.w_dim), &Device::Cpu)?);
        }
    }
    context.work.put_json("directions.json", &infos)?;
    context.work.put_json("scales.json", &Scales { factors: scales(&factors) })?;
    context.work.put_tensors("directions.safetensors", &tensors)
}

/// The tensor of a direction that is freed of the others.
pub fn conditional_name(name: &str) -> String {
    format!("{name}, others held")
}

struct Found {
    direction: Vec<f64>,
    boundary: Option<(boundary::Chosen, boundary::Boundary)>,
}

/// The one network that every learned direction is read with.
fn reader_of(spec: &DirectionsSpec) -> Result<Option<&str>> {
    let mut readers = spec.directions.iter().filter_map(|d| match &d.source {
        DirectionSource::Learned { reader, .. } => Some(reader.as_str()),
        DirectionSource::Card(_) => None,
    });
    let first = readers.next();
    match readers.all(|r| Some(r) == first) {
        true => Ok(first),
        false => Err(Error::usage("all directions must be learned with one network")),
    }
}

/// w of the first samples: before it is repeated or truncated.
fn plain_latents(sampler: &Sampler, count: u64) -> Result<Vec<Vec<f64>>> {
    let mut out = Vec::with_capacity(count as usize);
    for first in (0..count as usize).step_by(1024) {
        let w = sampler.latents(first, 1024.min(count as usize - first))?.narrow(1, 0, 1)?.squeeze(1)?;
        out.extend(w.to_dtype(DType::F64)?.to_vec2::<f64>()?);
    }
    Ok(out)
}

fn read_all(judge: &Judge, sampler: &Sampler, count: usize, context: &mut StageContext) -> Result<Vec<Vec<f64>>> {
    let mut checkpoint = context.checkpoint();
    let mut factors = match checkpoint.load(context.device)? {
        Some(saved) => {
            serde_json::from_value::<Saved>(saved.state).map_err(|e| Error::corrupt(format!("the checkpoint's state: {e}")))?.factors
        }
        None => Vec::new(),
    };
    let bar = context.progress.bar(count as u64, "images for the directions");
    bar.resume(factors.len() as u64);
    while factors.len() < count {
        let first = factors.len();
        let n = BATCH.min(count - first);
        let images = quantized(&sampler.images(first, n)?)?;
        factors.extend(read(judge, &Rgb8::from_batch(&images)?, context.device)?);
        bar.advance(n as u64, "");
        if checkpoint.due() {
            checkpoint.save(factors.len() as u64, &BTreeMap::new(), &Saved { factors: factors.clone() })?;
        }
    }
    bar.finish();
    Ok(factors)
}

/// The factors that the judge reads off pictures.
pub fn read(judge: &Judge, images: &[Rgb8], device: &Device) -> Result<Vec<Vec<f64>>> {
    let factors = judge.factors(&judge.features(&as_batch(images, device)?)?)?;
    Ok(factors.to_dtype(DType::F64)?.to_vec2()?)
}

/// Pictures as the zoo's networks take them, of 64 px; others are resized.
pub fn as_batch(images: &[Rgb8], device: &Device) -> Result<Tensor> {
    let fitted: Vec<Rgb8> = images.iter().map(|i| resize(i, SIZE, SIZE, Filter::Bilinear)).collect();
    Ok(Rgb8::to_batch(&fitted, device)?)
}

fn scales(factors: &[Vec<f64>]) -> Vec<f64> {
    if factors.is_empty() {
        return Vec::new();
    }
    (0..FACTORS.len()).map(|k| deviation(&factors.iter().map(|f| f[k]).collect::<Vec<_>>())).collect()
}

fn spread(latents: &[Vec<f64>], direction: &[f64]) -> f64 {
    deviation(&latents.iter().map(|w| dot(w, direction)).collect::<Vec<_>>())
}

/// The standard deviation of a generator's w along a unit vector.
pub fn plain_spread(generator: &dyn Generator, direction: &[f64], device: &Device) -> Result<f64> {
    Ok(spread(&plain_latents(&Sampler { generator, seed: 0, device }, SPREAD_OF)?, direction))
}

fn deviation(values: &[f64]) -> f64 {
    let n = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / n;
    (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt()
}

/// The direction of a card's file: [1, w_dim], or the rows of a w+ boundary, of which the mean is taken.
fn from_card(name: &str, w_dim: usize) -> Result<Vec<f64>> {
    let card = Card::load(name)?;
    of_tensors(open::tensors(&card)?, w_dim).map_err(|e| e.at(format!("baselines/{name}")))
}

/// The one vector of `w_dim` numbers in these tensors, at length 1.
///
/// Errors (corrupt): none, several, or of another size.
pub fn of_tensors(tensors: BTreeMap<String, Tensor>, w_dim: usize) -> Result<Vec<f64>> {
    let floats: Vec<&Tensor> = tensors.values().filter(|t| t.dtype().is_float() && t.elem_count() > 1).collect();
    let [tensor] = floats[..] else {
        return Err(Error::corrupt(format!("a direction is one array of numbers, this has {}", floats.len())));
    };
    if tensor.elem_count() % w_dim != 0 || tensor.dims().last() != Some(&w_dim) {
        return Err(Error::corrupt(format!("its shape is {:?}, the generator's w has {w_dim} numbers", tensor.dims())));
    }
    let rows: Vec<Vec<f64>> = tensor.reshape(((), w_dim))?.to_dtype(DType::F64)?.to_vec2()?;
    let mean: Vec<f64> = (0..w_dim).map(|k| rows.iter().map(|r| r[k]).sum::<f64>() / rows.len() as f64).collect();
    match dot(&mean, &mean) > 0.0 {
        true => Ok(unit(&mean)),
        false => Err(Error::corrupt("the direction is zero")),
    }
}
