//! The stage "train": Algorithm 1 of the paper, one encoder for one arm and seed.
//!
//! Everything random is drawn by name and image number, so neither the batch split of a resumed run nor the number of threads
//! changes a bit: all arms of a seed see the same z, and the same noise where they have it.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use super::inversion::Inversion;
use super::sample::{Drawn, Origin};
use super::{CurveRow, CurveSpec, Networks, StageContext, TrainSpec, evaluate, open, sample};
use crate::generators::{Family, Generator, Mixing, Synthesis, TrainingMode, draw_classes, draw_noise};
use crate::images::Rgb8;
use crate::inverters::mtv::Latents;
use crate::metrics::Metric;
use crate::objective::{self, Batch, NoisePolicy, Objective, Perceptual, Recipe, SamplingTable, Which};
use crate::ops;
use crate::optim::Optimizer;
use crate::params::Params;
use crate::random::Stream;
use crate::record::ImageInfo;
use crate::zoo::checkpoint::{part, prefixed};
use crate::{Error, Result};

/// Power iterations of a fresh encoder's spectral norms (BigGAN).
const SPECTRAL_PASSES: usize = 5;

/// What a checkpoint holds beside tensors.
#[derive(Serialize, Deserialize)]
pub(super) struct Saved {
    pub(super) curve: Vec<CurveRow>,
}

pub fn run(spec: &TrainSpec, context: &mut StageContext) -> Result<()> {
    let (recipe, device) = (&spec.recipe, context.device);
    let generator = open::generator(&spec.networks.generator, device)?;
    let generator = generator.as_ref();
    let mut checkpoint = context.checkpoint();
    let saved = checkpoint.load(device)?;
    let params = match &saved {
        Some(saved) => Params::trainable(part(&saved.tensors, "encoder/"), DType::F32, device, "the checkpoint"),
        None => Params::fresh(spec.seed, DType::F32, device),
    };
    let inversion = Inversion::new(generator, recipe, &params)?;
    let loss = open_objective(recipe, &spec.networks, generator, device)?;
    let mut optimizer = Optimizer::new(recipe.rule(), params.vars());
    let mut curve = Curve::new(&spec.curve, &spec.networks, (spec.steps, spec.batch), generator, device)?;
    // The released scripts leave the generator in training mode.
    let mode = if recipe.sampling.generator_in_training { generator.training_mode() } else { None };
    let mut first = 0;
    if saved.is_none() {
        // Fresh singular vectors are random: the curve's first point, before any training, needs better ones.
        (0..SPECTRAL_PASSES).try_for_each(|_| inversion.encoder.power_iteration())?;
    }
    if let Some(saved) = saved {
        if let Some(mode) = mode {
            mode.restore(&part(&saved.tensors, "generator/"))?;
        }
        optimizer.load_state(part(&saved.tensors, "optimizer/"))?;
        curve.rows =
            serde_json::from_value::<Saved>(saved.state).map_err(|e| Error::corrupt(format!("the checkpoint's state: {e}")))?.curve;
        first = saved.step;
    }
    let streams = Streams::new(spec.seed);
    let bar = context.progress.bar(spec.steps, &format!("train {}, seed {}", recipe.latents.types.name(), spec.seed));
    bar.resume(first);
    for step in first..spec.steps {
        curve.point(step, &|infos, targets, seed| inversion.reconstruct_images(infos, targets, seed))?;
        // Lines 3 to 5: a batch of samples x = G(w), without gradient.
        let items = batch_items(&recipe.sampling, step, spec.batch);
        let sampled = streams.sample(&inversion, mode, &items, device)?;
        // Lines 6 to 11: E(x), x' = G(E(x)), the losses of images and latents.
        begin_pass(mode)?;
        let forward = || objective::forward(&loss, &inversion.encoder, generator, &sampled.batch(), Which::Live);
        let pass = ops::recomputing(context.recompute, forward)?;
        let losses = pass.losses.checked(step)?;
        bar.advance(1, &summary(&losses));
        // Line 12: one step of the optimizer on their gradient (several in the released code).
        objective::steps(&loss, &pass.losses, &mut optimizer, recipe.optimizer.lr * decay(spec.decay, step, spec.steps))?;
        if checkpoint.due() {
            check_finite(&optimizer, step)?;
            let mut tensors: BTreeMap<String, Tensor> = prefixed("encoder/", params.snapshot()?).collect();
            tensors.extend(prefixed("optimizer/", optimizer.state()?));
            if let Some(mode) = mode {
                tensors.extend(prefixed("generator/", mode.state()?));
            }
            checkpoint.save(step + 1, &tensors, &Saved { curve: curve.rows.clone() })?;
        }
    }
    check_finite(&optimizer, spec.steps)?;
    curve.point(spec.steps, &|infos, targets, seed| inversion.reconstruct_images(infos, targets, seed))?;
    bar.finish();
    context.work.put_json("curves.json", &curve.rows)?;
    context.work.put_tensors("encoder.safetensors", &params.snapshot()?)
}

/// The losses of a recipe with the networks that they need.
pub(super) fn open_objective(recipe: &Recipe, networks: &Networks, generator: &dyn Generator, device: &Device) -> Result<Objective> {
    let side = generator.layout().resolution;
    let like = Tensor::zeros((1, 3, side, side), DType::F32, device)?;
    let (vgg, lpips) = match recipe.terms.perceptual {
        Perceptual::FeatureMse => (open::vgg16(&networks.features, device)?, None),
        Perceptual::Lpips => {
            let (vgg, lpips) = open::lpips(&networks.features, device)?;
            (vgg, Some(Arc::new(lpips)))
        }
    };
    Ok(Objective::new(recipe, Some(Arc::new(vgg)), lpips, &like)?)
}

fn begin_pass(mode: Option<&dyn TrainingMode>) -> Result<()> {
    Ok(mode.map_or(Ok(()), TrainingMode::begin_pass)?)
}

/// The numbers of the images of this iteration: always new ones, or the same batches again after `distinct_batches`.
pub(super) fn batch_items(sampling: &SamplingTable, step: u64, batch: usize) -> Vec<u64> {
    let distinct = sampling.distinct_batches;
    let step = if distinct == 0 { step } else { step % distinct };
    (0..batch as u64).map(|i| step * batch as u64 + i).collect()
}

/// The factor of the learning rate: 1, then linearly to 0 over the last `share` of the steps.
pub(super) fn decay(share: f64, step: u64, steps: u64) -> f64 {
    let left = (steps - step) as f64 / steps as f64;
    if share > 0.0 { (left / share).min(1.0) } else { 1.0 }
}

/// The named sources of everything random in a training.
pub struct Streams {
    z: Stream,
    classes: Stream,
    mixed_z: Stream,
    mixing: Stream,
    noise_x: Stream,
    pub(super) noise_x_prime: Stream,
    noise_e1: Stream,
    noise_e2: Stream,
}

/// What an iteration starts from.
pub struct Sampled {
    x: Tensor,
    target: Latents,
    classes: Option<Tensor>,
    condition: Option<Tensor>,
    noise_g2: Vec<Tensor>,
    noise_e1: Vec<Tensor>,
    noise_e2: Vec<Tensor>,
}

impl Sampled {
    pub fn batch(&self) -> Batch<'_> {
        Batch {
            x: &self.x,
            target: &self.target,
            classes: self.classes.as_ref(),
            condition: self.condition.as_ref(),
            noise_e1: &self.noise_e1,
            noise_g2: Some(&self.noise_g2),
            noise_e2: &self.noise_e2,
        }
    }
}

impl Streams {
    pub fn new(seed: u64) -> Self {
        let stream = |name: &str| Stream::new(seed, &format!("train/{name}"));
        Streams {
            z: stream("z"),
            classes: stream("class"),
            mixed_z: stream("z that is mixed in"),
            mixing: stream("style mixing"),
            noise_x: stream("noise of G for x"),
            noise_x_prime: stream("noise of G for x'"),
            noise_e1: stream("noise of E for x"),
            noise_e2: stream("noise of E for x'"),
        }
    }

    /// Lines 3 to 5 of Algorithm 1: the images of these numbers, and what E should find in them. `mode`: the generator in training mode.
    pub fn sample(&self, inversion: &Inversion, mode: Option<&dyn TrainingMode>, items: &[u64], device: &Device) -> Result<Sampled> {
        let (generator, recipe) = (inversion.generator, &inversion.recipe);
        let layout = generator.layout();
        let Images { x, latent, origin, noise_g2, ids } = self.images(generator, &recipe.sampling, mode, items, device)?;
        let e2 = match recipe.sampling.noise {
            NoisePolicy::Fresh => &self.noise_e2,
            NoisePolicy::Shared | NoisePolicy::Fixed => &self.noise_e1,
        };
        let n = items.len();
        let repeat = |c: &Tensor| c.broadcast_as((n, c.dim(1)?, c.dim(2)?, c.dim(3)?))?.contiguous();
        let constant = generator.constant().map(repeat).transpose()?;
        Ok(Sampled {
            x,
            target: Latents {
                w: (layout.rows > 0).then(|| latent.clone()),
                z: Some(origin.z.clone()),
                c: (layout.family == Family::BigGan).then_some(latent),
                constant,
            },
            condition: inversion.condition(Some(&origin))?,
            classes: origin.classes,
            noise_g2,
            noise_e1: inversion.encoder_noise(&self.noise_e1, &ids)?,
            noise_e2: inversion.encoder_noise(e2, &ids)?,
        })
    }

    /// Line 3: x = G(w) for the images of these numbers.
    pub fn images(
        &self,
        generator: &dyn Generator,
        sampling: &SamplingTable,
        mode: Option<&dyn TrainingMode>,
        items: &[u64],
        device: &Device,
    ) -> Result<Images> {
        let layout = generator.layout();
        let (psi, half) = (sampling.psi, layout.rows / 2);
        let z = generator.draw_z(&self.z, items, device)?;
        let classes = draw_classes(layout, &self.classes, items, device)?;
        let latent = match mode {
            None => generator.truncate(&generator.map(&z, classes.as_ref())?, psi, half, None)?,
            Some(mode) => {
                let other = generator.draw_z(&self.mixed_z, items, device)?;
                mode.latent(&z, classes.as_ref(), &Mixing::draw(&self.mixing, items[0], layout.rows, other), psi, half)?
            }
        };
        // The maps of item 0 for every image, where they are fixed.
        let ids = if sampling.noise == NoisePolicy::Fixed { vec![0; items.len()] } else { items.to_vec() };
        let noise_x = draw_noise(&layout.noise, &self.noise_x, &ids, device)?;
        let noise_g2 = match sampling.noise {
            NoisePolicy::Fresh => draw_noise(&layout.noise, &self.noise_x_prime, &ids, device)?,
            NoisePolicy::Shared | NoisePolicy::Fixed => noise_x.clone(),
        };
        begin_pass(mode)?;
        let x = generator.synthesize(&latent, &Synthesis { noise: Some(&noise_x), ..Default::default() })?.detach();
        Ok(Images { x, latent, origin: Origin { z, classes }, noise_g2, ids })
    }
}

/// Sampled images and what they were made from.
pub struct Images {
    pub x: Tensor,
    pub latent: Tensor,
    pub origin: Origin,
    /// Noise of the generator that makes x'.
    pub noise_g2: Vec<Tensor>,
    /// The numbers that choose the noise.
    pub ids: Vec<u64>,
}

/// The three largest parts of an image loss, for the progress line.
fn summary(losses: &[(&str, f64)]) -> String {
    let shown = losses.iter().filter(|(name, _)| name.starts_with("x/")).map(|(name, v)| format!("{} {v:.3}", &name[2..]));
    shown.collect::<Vec<_>>().join(" ")
}

pub(super) fn check_finite(optimizer: &Optimizer, step: u64) -> Result<()> {
    for param in optimizer.params() {
        let sum = param.var.as_tensor().sum_all()?.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        if !sum.is_finite() {
            return Err(Error::new(
                crate::error::Kind::Diverged,
                format!("the parameter \"{}\" is no longer finite after step {step}: training stopped", param.name),
            ));
        }
    }
    Ok(())
}

/// The convergence curve: mean scores on a few held-out images of each set, the same for every arm.
pub(super) struct Curve<'a> {
    spec: &'a CurveSpec,
    steps: u64,
    batch: usize,
    metrics: Vec<Metric>,
    sets: Vec<Vec<Drawn>>,
    pub(super) rows: Vec<CurveRow>,
}

/// From the infos and pictures of one set and the evaluation seed to reconstructions.
pub(super) type Reconstruct<'a> = &'a dyn Fn(&[&ImageInfo], &[Rgb8], u64) -> Result<Vec<Rgb8>>;

impl<'a> Curve<'a> {
    pub(super) fn new(
        spec: &'a CurveSpec,
        networks: &Networks,
        (steps, batch): (u64, usize),
        generator: &dyn Generator,
        device: &Device,
    ) -> Result<Self> {
        let metrics = evaluate::open_metrics(&spec.metrics, networks, device)?;
        let sets = spec.sample.sets.iter().map(|set| sample::draw(set, spec.sample.seed, generator, device));
        Ok(Curve { spec, steps, batch, metrics, sets: sets.collect::<Result<_>>()?, rows: Vec::new() })
    }

    /// Whether a point is due before `step` (or at the end) and not there yet.
    pub(super) fn due(&self, step: u64) -> bool {
        let images = step * self.batch as u64;
        (step.is_multiple_of(self.spec.every.max(1)) || step == self.steps) && !self.rows.iter().any(|r| r.images == images)
    }

    /// Measures if a point is due.
    pub(super) fn point(&mut self, step: u64, reconstruct: Reconstruct) -> Result<()> {
        if !self.due(step) {
            return Ok(());
        }
        let images = step * self.batch as u64;
        let seed = self.spec.sample.seed;
        for drawn in self.sets.iter().filter(|set| !set.is_empty()) {
            let (infos, targets): (Vec<_>, Vec<_>) = drawn.iter().map(|d| (&d.info, d.image.clone())).unzip();
            let reconstructions = reconstruct(&infos, &targets, seed)?;
            let scores = evaluate::score_all(&self.metrics, &targets, &reconstructions)?;
            for (i, metric) in self.metrics.iter().enumerate() {
                let value = scores.iter().map(|s| s[i]).sum::<f64>() / scores.len() as f64;
                self.rows.push(CurveRow { set: infos[0].set.clone(), images, metric: metric.name(), value });
            }
        }
        Ok(())
    }
}
