//! The stage that trains a baseline's encoder on the study's generator: the rows "same G". The images are those that the paper's encoders
//! see (same z, same noise, same number); the losses are the method's own.
//!
//! | | losses | optimizer |
//! |---|---|---|
//! | ALAE | latent reciprocity (E(G(w)) - w)^2 on a frozen G; the joint training of E, G, F and D has no place here | LREQAdam 0.0015 |
//! | pSp | squared pixel differences + 0.8 LPIPS of the study's features; without the identity term: the identity network only judges | Adam 0.001 |
//! | In-Domain | squared pixel differences + features + 0.1 of a discriminator that learns beside it, with R1 | Adam 0.001 |
//!
//! Sources: eladrich/pixel2style2pixel `training/coach.py`; podgorskiy/ALAE `train_alae.py`; genforce/genforce
//! `runners/losses/encoder_loss.py`. The published encoders of pSp and In-Domain learned from real images, with 1e-4.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use super::reconstruct::{self, TORCHVISION_FEATURES};
use super::train::{Curve, Images, Saved, Streams, batch_items, check_finite, decay};
use super::{BaselineSpec, StageContext, open};
use crate::generators::{Generator, Stage, Synthesis, draw_noise};
use crate::inverters::baseline::{Baseline, Encoder, SameGenerator};
use crate::objective::{Group, Losses, Term};
use crate::ops;
use crate::optim::{Optimizer, Rule};
use crate::params::Params;
use crate::perceptual::lpips::Lpips;
use crate::perceptual::vgg16::{Vgg16, scale_input};
use crate::zoo::checkpoint::{part, prefixed};
use crate::zoo::discriminator::{Config, Discriminator, Dual, Penalty};
use crate::zoo::drawing::Split;
use crate::zoo::source::{self, Source};
use crate::{Error, Result};

/// Weight of pSp's LPIPS.
const LPIPS: f64 = 0.8;
/// Weight of In-Domain's discriminator, and of the gradient penalty of the discriminator itself.
const ADVERSARIAL: f64 = 0.1;
const R1: f64 = 10.0;
/// Samples per group of the discriminator's minibatch standard deviation, where the batch allows it.
const GROUP: usize = 4;
/// For what starts from random weights and has a few thousand steps.
const ADAM_RATE: f64 = 1e-3;
const LREQ_RATE: f64 = 1.5e-3;

/// The discriminator of In-Domain with its parameters.
struct Critic {
    params: Params,
    network: Discriminator,
    frozen: Discriminator,
    optimizer: Optimizer,
    stage: Stage,
}

impl Critic {
    fn new(params: Params, generator: &dyn Generator, batch: usize) -> Result<Self> {
        let layout = generator.layout();
        let group = (1..=GROUP.min(batch)).rev().find(|g| batch.is_multiple_of(*g)).unwrap_or(1);
        let network = Discriminator::new(&Config { channels: layout.channels.clone(), group }, &params)?;
        let rule = Rule::Adam { beta1: 0.9, beta2: 0.99, eps: 1e-8, equalized: true };
        let optimizer = Optimizer::new(rule, params.vars());
        let stage = Stage { last: layout.channels.len() - 1, blend: 1.0 };
        Ok(Critic { frozen: network.detached(), network, params, optimizer, stage })
    }

    /// mean softplus(-D(x')), for the encoder.
    fn fools(&self, x_prime: &Tensor) -> Result<Tensor> {
        Ok(softplus(&self.frozen.scores(&Dual::plain(x_prime), self.stage)?.value.neg()?)?.mean_all()?)
    }

    /// One step of D: reconstructions against images, R1 on the images.
    fn step(&mut self, x: &Tensor, x_prime: &Tensor, lr: f64) -> Result<()> {
        let score = |x: &Tensor| -> candle_core::Result<Tensor> { Ok(self.network.scores(&Dual::plain(&x.detach()), self.stage)?.value) };
        let loss = (softplus(&score(x_prime)?)?.mean_all()? + softplus(&score(x)?.neg()?)?.mean_all()?)?;
        let stage = self.stage;
        let penalty = Penalty::R1 { gamma: R1 };
        let (_, surrogate) = penalty.at(x, |x| self.network.scores(x, stage), |x| self.frozen.scores(x, stage))?;
        let grads = ops::backward(&(loss + surrogate)?)?;
        Ok(self.optimizer.step(&grads, lr)?)
    }
}

/// log(1 + e^x) without overflow.
fn softplus(x: &Tensor) -> candle_core::Result<Tensor> {
    let positive = ops::relu(x)?;
    positive + ((x.abs()?.neg()?.exp()? + 1.0)?.log())?
}

/// The networks behind the losses.
struct Judges {
    vgg: Option<Vgg16>,
    lpips: Option<Lpips>,
}

impl Judges {
    fn open(spec: &BaselineSpec, device: &Device) -> Result<Self> {
        Ok(match spec.baseline {
            Baseline::Alae | Baseline::Image2stylegan => Judges { vgg: None, lpips: None },
            Baseline::Psp => {
                let (vgg, lpips) = open::lpips(&spec.networks.features, device)?;
                Judges { vgg: Some(vgg), lpips: Some(lpips) }
            }
            Baseline::Indomain => Judges { vgg: Some(open::vgg16(&spec.networks.features, device)?), lpips: None },
        })
    }

    /// The losses of one batch, and x' where the method decodes.
    fn losses(
        &self,
        encoder: &Encoder,
        generator: &dyn Generator,
        batch: &Batch,
        critic: Option<&Critic>,
    ) -> Result<(Losses, Option<Tensor>)> {
        let mut losses = Losses::default();
        let mut push = |name: &str, weight: f64, value: Tensor| {
            losses.terms.push(Term { group: Group::Image, name: format!("x/{name}"), weight, value });
        };
        let x = &batch.x;
        let w = encoder.forward(x)?;
        if let (Encoder::Alae { .. }, Some(made_from)) = (encoder, &batch.made_from) {
            push("reciprocity", 1.0, ops::mse(&w, made_from)?);
            return Ok((losses, None));
        }
        let noise = (!batch.noise.is_empty()).then_some(&batch.noise[..]);
        let x_prime = generator.synthesize(&w, &Synthesis { noise, ..Default::default() })?;
        push("pixels", 1.0, ops::mse(&x_prime, x)?);
        match (&self.vgg, &self.lpips) {
            (Some(vgg), Some(lpips)) => {
                let taps = |x: &Tensor| vgg.taps(&scale_input(x)?);
                push("lpips", LPIPS, lpips.between(&taps(x)?, &taps(&x_prime)?)?.mean_all()?);
            }
            (Some(vgg), None) => {
                let tap = |x: &Tensor| reconstruct::relu4_3(vgg, x);
                push("features", TORCHVISION_FEATURES, ops::mse(&tap(&x_prime)?, &tap(x)?.detach())?);
            }
            _ => {}
        }
        if let Some(critic) = critic {
            push("adversarial", ADVERSARIAL, critic.fools(&x_prime)?);
        }
        Ok((losses, Some(x_prime)))
    }
}

/// What one step sees.
struct Batch {
    x: Tensor,
    /// The w+ of images that the generator made.
    made_from: Option<Tensor>,
    /// With which x' is decoded.
    noise: Vec<Tensor>,
}

/// The pictures that stand in for the generator's images, where the training is on pictures.
fn pictures(spec: &BaselineSpec) -> Result<Option<Source>> {
    let Some(name) = &spec.pictures else { return Ok(None) };
    if spec.baseline == Baseline::Alae {
        return Err(Error::usage("latent reciprocity is learned on the generator's own images: a picture has no w"));
    }
    let source = Source::named(name, source::SEED);
    source
        .map(Some)
        .ok_or_else(|| Error::usage(format!("{name}: encoders learn from the pictures of mini/faces, mini/objects or mini/cars only")))
}

fn draw(
    spec: &BaselineSpec,
    streams: &Streams,
    source: Option<&Source>,
    generator: &dyn Generator,
    items: &[u64],
    device: &Device,
) -> Result<Batch> {
    let Some(source) = source else {
        let Images { x, latent, noise_g2, .. } = streams.images(generator, &spec.sampling, None, items, device)?;
        return Ok(Batch { x, made_from: Some(latent), noise: noise_g2 });
    };
    let layout = generator.layout();
    let noise = draw_noise(&layout.noise, &streams.noise_x_prime, items, device)?;
    Ok(Batch { x: source.batch(Split::Train, items, layout.resolution, device)?, made_from: None, noise })
}

fn rule(baseline: Baseline) -> (Rule, f64) {
    match baseline {
        Baseline::Alae => (Rule::RELEASED, LREQ_RATE),
        Baseline::Psp | Baseline::Image2stylegan => (Rule::Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, equalized: false }, ADAM_RATE),
        Baseline::Indomain => (Rule::Adam { beta1: 0.9, beta2: 0.99, eps: 1e-8, equalized: false }, ADAM_RATE),
    }
}

pub fn run(spec: &BaselineSpec, context: &mut StageContext) -> Result<()> {
    let device = context.device;
    let generator = open::generator(&spec.networks.generator, device)?;
    let generator = generator.as_ref();
    let layout = generator.layout();
    let source = pictures(spec)?;
    let mut checkpoint = context.checkpoint();
    let saved = checkpoint.load(device)?;
    let restored = |prefix: &str, seed: u64| match &saved {
        Some(saved) => Params::trainable(part(&saved.tensors, prefix), DType::F32, device, "the checkpoint"),
        None => Params::fresh(seed, DType::F32, device),
    };
    let params = restored("encoder/", spec.seed);
    let encoder = Encoder::new(spec.baseline, spec.width, layout, generator.centre(), &params)?;
    let judges = Judges::open(spec, device)?;
    let (rule, lr) = rule(spec.baseline);
    let mut optimizer = Optimizer::new(rule, params.vars());
    let mut critic = match spec.baseline {
        Baseline::Indomain => Some(Critic::new(restored("critic/", spec.seed), generator, spec.batch)?),
        _ => None,
    };
    let mut curve = Curve::new(&spec.curve, &spec.networks, (spec.steps, spec.batch), generator, device)?;
    let mut first = 0;
    if let Some(saved) = saved {
        optimizer.load_state(part(&saved.tensors, "optimizer/"))?;
        if let Some(critic) = &mut critic {
            critic.optimizer.load_state(part(&saved.tensors, "critic optimizer/"))?;
        }
        curve.rows =
            serde_json::from_value::<Saved>(saved.state).map_err(|e| Error::corrupt(format!("the checkpoint's state: {e}")))?.curve;
        first = saved.step;
    }
    let streams = Streams::new(spec.seed);
    let bar = context.progress.bar(spec.steps, &format!("train {}, seed {}", spec.baseline.title(), spec.seed));
    bar.resume(first);
    for at in first..spec.steps {
        point(&mut curve, at, spec, generator, &params)?;
        let items = batch_items(&spec.sampling, at, spec.batch);
        let batch = draw(spec, &streams, source.as_ref(), generator, &items, device)?;
        let (losses, x_prime) = judges.losses(&encoder, generator, &batch, critic.as_ref())?;
        let values = losses.checked(at)?;
        bar.advance(1, &values.iter().map(|(name, v)| format!("{} {v:.3}", &name[2..])).collect::<Vec<_>>().join(" "));
        let rate = decay(spec.decay, at, spec.steps);
        if let Some(total) = losses.total(&[Group::Image])? {
            optimizer.step(&ops::backward(&total)?, lr * rate)?;
        }
        if let (Some(critic), Some(x_prime)) = (&mut critic, &x_prime) {
            critic.step(&batch.x, x_prime, ADAM_RATE * rate)?;
        }
        if checkpoint.due() {
            check_finite(&optimizer, at)?;
            let mut tensors: BTreeMap<String, Tensor> = prefixed("encoder/", params.snapshot()?).collect();
            tensors.extend(prefixed("optimizer/", optimizer.state()?));
            if let Some(critic) = &critic {
                tensors.extend(prefixed("critic/", critic.params.snapshot()?));
                tensors.extend(prefixed("critic optimizer/", critic.optimizer.state()?));
            }
            checkpoint.save(at + 1, &tensors, &Saved { curve: curve.rows.clone() })?;
        }
    }
    check_finite(&optimizer, spec.steps)?;
    point(&mut curve, spec.steps, spec, generator, &params)?;
    bar.finish();
    context.work.put_json("curves.json", &curve.rows)?;
    context.work.put_tensors("encoder.safetensors", &params.snapshot()?)
}

/// A point of the curve if one is due: by a frozen copy, whose norms use their running statistics.
fn point(curve: &mut Curve, at: u64, spec: &BaselineSpec, generator: &dyn Generator, params: &Params) -> Result<()> {
    if !curve.due(at) {
        return Ok(());
    }
    let frozen = Params::frozen(params.snapshot()?, DType::F32, &params.device(), "the encoder in training");
    let encoder = Encoder::new(spec.baseline, spec.width, generator.layout(), generator.centre(), &frozen)?;
    let inverter = SameGenerator { encoder, generator };
    let device = params.device();
    curve.point(at, &|infos, targets, seed| reconstruct::feed_forward(&inverter, infos, targets, seed, &device))
}
