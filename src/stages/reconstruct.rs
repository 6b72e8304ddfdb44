//! From evaluation images to their reconstructions, by any method: what the stage "evaluate" scores.
//!
//! A method that optimises works through the images in groups; the numbers of an image do not depend on the group. Encoders (OE) and the
//! image loss of a recipe move for one image at a time, several of them on threads of their own.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};

use super::external::ExternalMethod;
use super::inversion::Inversion;
use super::train::open_objective;
use super::{BaselineMethod, EncoderRefinement, Features, LatentRefinement, LatentTerms, Method, Networks, Refinement, open, sample};
use crate::generators::{Generator, Synthesis, Target};
use crate::images::Rgb8;
use crate::inverters::baseline::{Baseline, Encoder, SameGenerator};
use crate::inverters::indomain::{self, Optimisation};
use crate::inverters::refine::{Guided, Latents, Pass, Schedule, guided, refine};
use crate::inverters::{Inverter, alae, image2stylegan, psp};
use crate::objective::{self, Objective, Which};
use crate::optim::Optimizer;
use crate::params::Params;
use crate::perceptual::vgg16::{Vgg16, scale_input};
use crate::random::Stream;
use crate::record::ImageInfo;
use crate::record::store::Finished;
use crate::spec::Card;
use crate::zoo::encoders;
use crate::{Error, Result};

/// How many generated images the mean image is the mean of.
const MEAN_IMAGE_OF: u64 = 512;

/// The weight of In-Domain's features where the network takes torchvision's input: its values are smaller by 255 times the mean of the three
/// standard deviations (0.226), and so, a ReLU network being nearly homogeneous, are its features.
pub const TORCHVISION_FEATURES: f64 = 5e-5 * (255.0 * 0.226) * (255.0 * 0.226);

/// What a method gives for a group of images.
#[derive(Default)]
pub struct Reconstruction {
    pub images: Vec<Rgb8>,
    /// The reconstructions after so many updates, if asked for.
    pub trace: Vec<(u64, Vec<Rgb8>)>,
    /// Wall time of the inversion with its decoding, and of all updates.
    pub start: Duration,
    pub steps: Duration,
}

/// The updates after which an optimisation is looked at: 1, 2, 5, 10, 20, ... and the last.
pub fn looks(steps: u64) -> Vec<u64> {
    let decades = (0..).map(|e| 10u64.pow(e)).take_while(|d| *d <= steps);
    let mut all: Vec<u64> = decades.flat_map(|d| [d, 2 * d, 5 * d]).filter(|s| *s <= steps).collect();
    all.push(steps);
    all.dedup();
    all
}

/// Whether a method takes one image at a time.
pub fn one_by_one(refinement: Option<&Refinement>) -> bool {
    match refinement {
        Some(Refinement::Encoder(_)) => true,
        Some(Refinement::Latent(l)) => l.terms == LatentTerms::Recipe,
        None => false,
    }
}

/// relu4_3 of images in [-1, 1].
pub fn relu4_3(vgg: &Vgg16, images: &Tensor) -> candle_core::Result<Tensor> {
    Ok(vgg.layers(&scale_input(images)?, &[(3, 2)])?.swap_remove(0))
}

enum Kind<'a> {
    Mtv(Inversion<'a>),
    Baseline(Box<dyn Inverter + 'a>),
    MeanImage(Rgb8),
    MeanLatent,
    External(&'a ExternalMethod),
}

/// What is inverted how; `seed` is that of the evaluation images, whose noise enters the reconstruction too.
#[derive(Clone, Copy)]
pub struct Inverting<'a> {
    pub networks: &'a Networks,
    pub method: &'a Method,
    pub seed: u64,
}

/// A method with its networks.
pub struct Reconstructor<'a> {
    spec: Inverting<'a>,
    generator: &'a dyn Generator,
    device: Device,
    kind: Kind<'a>,
    /// Whether the method decodes with a generator that is not the study's, whose noise means nothing to it.
    own_decoder: bool,
    /// The trained encoder, from which OE starts for every image.
    trained: BTreeMap<String, Tensor>,
    objective: Option<Objective>,
    vgg: Option<Vgg16>,
    keras: Option<indomain::Features>,
}

impl<'a> Reconstructor<'a> {
    /// `train` is the finished training, for the methods that have one.
    ///
    /// Errors: missing or misshapen networks.
    pub fn open(spec: Inverting<'a>, train: Option<&Finished>, generator: &'a dyn Generator, device: &Device) -> Result<Self> {
        let trained = || -> Result<BTreeMap<String, Tensor>> {
            let train = train.ok_or_else(|| Error::internal("the stage was started without its input \"train\""))?;
            train.tensors("encoder.safetensors", device)
        };
        let mut out = Reconstructor {
            spec,
            generator,
            device: device.clone(),
            kind: Kind::MeanLatent,
            own_decoder: false,
            trained: BTreeMap::new(),
            objective: None,
            vgg: None,
            keras: None,
        };
        out.kind = match spec.method {
            Method::MeanLatent => Kind::MeanLatent,
            Method::External(method) => Kind::External(method),
            Method::MeanImage => Kind::MeanImage(out.mean_image()?),
            Method::Encoder(method) => {
                out.trained = trained()?;
                Kind::Mtv(Inversion::trained(generator, method, out.trained.clone(), device)?)
            }
            Method::Baseline(method) if !method.published.is_empty() => match shipped(method)? {
                Some((card, decoder)) if decoder == spec.networks.generator => {
                    let encoder = encoders::open_shipped(&card, (&decoder, generator), device)?;
                    Kind::Baseline(Box::new(SameGenerator { encoder, generator }))
                }
                Some((card, _)) => {
                    out.own_decoder = true;
                    Kind::Baseline(Box::new(encoders::open_native(&card, device)?))
                }
                None => {
                    out.own_decoder = true;
                    Kind::Baseline(published(method, device)?)
                }
            },
            Method::Baseline(method) => {
                let tensors = if method.baseline == Baseline::Image2stylegan { BTreeMap::new() } else { trained()? };
                let params = Params::frozen(tensors, DType::F32, device, "encoder.safetensors");
                let encoder = Encoder::new(method.baseline, None, generator.layout(), generator.centre(), &params)?;
                params.finish()?;
                Kind::Baseline(Box::new(SameGenerator { encoder, generator }))
            }
        };
        match spec.method.refine() {
            Some(Refinement::Encoder(e)) => out.objective = Some(open_objective(&e.recipe, spec.networks, generator, device)?),
            Some(Refinement::Latent(l)) => match (l.terms, spec.method) {
                (LatentTerms::Recipe, Method::Encoder(m)) => {
                    out.objective = Some(open_objective(&m.recipe, spec.networks, generator, device)?);
                }
                (LatentTerms::Guided(Features::Keras), Method::Baseline(m)) => {
                    let card = Card::load(m.published.get("features").map_or("", String::as_str))?;
                    let target = Target::new(DType::F32, device, &card.name);
                    out.keras = Some(indomain::Features::open(open::tensors(&card)?, &target)?);
                }
                _ => out.vgg = Some(open::vgg16(&spec.networks.features, device)?),
            },
            None => {}
        }
        Ok(out)
    }

    /// The side of the pictures that it takes.
    pub fn input_size(&self) -> usize {
        match &self.kind {
            Kind::Baseline(inverter) => inverter.input_size(),
            _ => self.generator.layout().resolution,
        }
    }

    /// The reconstructions of images of one set, `inputs` in the method's size; `look` keeps what it looks like on the way.
    pub fn run(&self, infos: &[&ImageInfo], inputs: &[Rgb8], look: bool) -> Result<Reconstruction> {
        let Some(first) = infos.first() else { return Ok(Reconstruction::default()) };
        let began = Instant::now();
        if self.spec.method.refine().is_none() {
            let images = self.plain(infos, inputs)?;
            return Ok(Reconstruction { images, start: began.elapsed(), ..Default::default() });
        }
        let ids = infos.iter().map(|i| sample::number(&i.id)).collect::<Result<Vec<_>>>()?;
        let x = Rgb8::to_batch(inputs, &self.device)?;
        let noise = self.noise(&first.set, &ids)?;
        let with = Synthesis { noise: (!noise.is_empty()).then_some(&noise[..]), ..Default::default() };
        let mut film = Film::new(look, self.spec.method.refine().map_or(0, Refinement::steps));
        match (self.spec.method.refine(), &self.kind) {
            (Some(Refinement::Latent(l)), Kind::Baseline(inverter)) => self.move_latents(l, inverter.as_ref(), &x, &with, &mut film)?,
            (Some(Refinement::Latent(l)), Kind::Mtv(inversion)) => self.move_w(l, inversion, (&first.set, &ids), &x, &with, &mut film)?,
            (Some(Refinement::Encoder(e)), Kind::Mtv(_)) => self.move_encoder(e, (&first.set, &ids), &x, &with, &mut film)?,
            _ => return Err(Error::internal("this method has nothing to optimise")),
        }
        film.end()
    }

    /// The noise that the method decodes with: fixed by set and image number, unless it has a decoder of its own whose files store some.
    fn noise(&self, set: &str, ids: &[u64]) -> Result<Vec<Tensor>> {
        let decoder = match &self.kind {
            Kind::Baseline(inverter) if self.own_decoder => inverter.decoder(),
            _ => self.generator,
        };
        match decoder.stored_noise() {
            stored @ [_, ..] if self.own_decoder => Ok(stored.to_vec()),
            _ => sample::evaluation_noise(decoder, set, self.spec.seed, ids, &self.device),
        }
    }

    /// Without optimisation.
    fn plain(&self, infos: &[&ImageInfo], inputs: &[Rgb8]) -> Result<Vec<Rgb8>> {
        match &self.kind {
            Kind::Mtv(inversion) => inversion.reconstruct_images(infos, inputs, self.spec.seed),
            Kind::Baseline(inverter) => {
                let Some(first) = infos.first() else { return Ok(Vec::new()) };
                let ids = infos.iter().map(|i| sample::number(&i.id)).collect::<Result<Vec<_>>>()?;
                shown(inverter.as_ref(), inputs, &self.noise(&first.set, &ids)?, &self.device)
            }
            Kind::MeanImage(mean) => Ok(vec![mean.clone(); infos.len()]),
            Kind::MeanLatent => self.mean_latent(infos),
            Kind::External(method) => method.reconstruct(infos, inputs),
        }
    }

    fn move_latents(&self, l: &LatentRefinement, inverter: &dyn Inverter, x: &Tensor, with: &Synthesis, film: &mut Film) -> Result<()> {
        let Latents { var, mut optimizer } = Latents::new(&inverter.invert(x)?)?;
        let schedule = Schedule::plain(l.steps, l.lr);
        let settings = Optimisation::default();
        match (l.terms, &self.vgg, &self.keras) {
            (LatentTerms::Image2stylegan, Some(vgg), _) => {
                let wanted: Vec<Tensor> = image2stylegan::features(vgg, x)?.iter().map(Tensor::detach).collect();
                let forward = || image2stylegan::pass(inverter.decoder(), &var, with, vgg, (x, &wanted));
                refine(&mut optimizer, &schedule, forward, |step, pass, _| film.see(step, pass))?;
            }
            (LatentTerms::Guided(features), vgg, keras) => {
                let tap = |x: &Tensor| match (vgg, keras) {
                    (_, Some(keras)) => keras.last(x),
                    (Some(vgg), None) => relu4_3(vgg, x),
                    (None, None) => candle_core::bail!("the feature network is missing"),
                };
                let scale = if features == Features::Keras { settings.features } else { TORCHVISION_FEATURES };
                let weights = Guided { pixels: settings.pixels, features: scale, regulariser: settings.regulariser };
                let wanted = tap(x)?.detach();
                let forward = || guided(inverter, &var, with, (x, &wanted), &tap, &weights);
                refine(&mut optimizer, &schedule, forward, |step, pass, _| film.see(step, pass))?;
            }
            _ => return Err(Error::internal("the loss of this optimisation needs a network that is not open")),
        }
        film.last(&inverter.render(&var.as_tensor().detach(), with)?)
    }

    /// w+ of one image from where the paper's encoder puts it, by the image loss of the recipe.
    fn move_w(
        &self,
        l: &LatentRefinement,
        inversion: &Inversion,
        (set, ids): (&str, &[u64]),
        x: &Tensor,
        with: &Synthesis,
        film: &mut Film,
    ) -> Result<()> {
        let objective = self.objective.as_ref().ok_or_else(|| Error::internal("the recipe's loss is not open"))?;
        let noise = inversion.encoder_noise(&Stream::new(self.spec.seed, &format!("evaluate/{set}/noise of E")), ids)?;
        let found = inversion.encode(x, &noise, None)?;
        let Some(start) = &found.w else { return Err(Error::usage("only encoders that predict w can be optimised in w+")) };
        let Latents { var, mut optimizer } = Latents::new(start)?;
        let decode = |w: &Tensor| {
            let latents = crate::inverters::mtv::Latents { w: Some(w.clone()), ..found.clone() };
            objective::decode(&inversion.recipe, &inversion.encoder, self.generator, &latents, None, with.noise)
        };
        let forward = || {
            let image = decode(&var)?;
            let losses = objective::Losses { terms: objective.image_terms(x, &image, Which::Live)? };
            Ok(Pass { image, losses })
        };
        refine(&mut optimizer, &Schedule::plain(l.steps, l.lr), forward, |step, pass, _| film.see(step, pass))?;
        film.last(&decode(&var.as_tensor().detach())?)
    }

    /// MTV-TSA (OE): a copy of the encoder for each image. The loss is that of the image, and E(x) against E(x') for the latents, as released:
    /// a real image has no others.
    fn move_encoder(&self, e: &EncoderRefinement, (set, ids): (&str, &[u64]), x: &Tensor, with: &Synthesis, film: &mut Film) -> Result<()> {
        let objective = self.objective.as_ref().ok_or_else(|| Error::internal("the recipe's loss is not open"))?;
        let params = Params::trainable(self.trained.clone(), DType::F32, &self.device, "encoder.safetensors");
        let own = Inversion::new(self.generator, &e.recipe, &params)?;
        let mut optimizer = Optimizer::new(e.recipe.rule(), params.vars());
        let schedule =
            Schedule { steps: e.steps, lr: e.lr, groups: e.recipe.optimizer.steps.clone(), no_gradient: e.recipe.optimizer.no_gradient };
        let noise = own.encoder_noise(&Stream::new(self.spec.seed, &format!("evaluate/{set}/noise of E")), ids)?;
        let types = e.recipe.latents.types;
        let family = self.generator.layout().family;
        let invert = || -> candle_core::Result<_> {
            let latents = own.encode(x, &noise, None)?;
            let image = objective::decode(&e.recipe, &own.encoder, self.generator, &latents, None, with.noise)?;
            Ok((latents, image))
        };
        let forward = || {
            let (latents, image) = invert()?;
            let again = objective::compared(types, family, &own.encode(&image, &noise, None)?)?;
            let mut terms = objective.image_terms(x, &image, Which::Live)?;
            terms.extend(objective.latent_terms(&objective::compared(types, family, &latents)?, &[&again], None)?);
            Ok(Pass { image, losses: objective::Losses { terms } })
        };
        refine(&mut optimizer, &schedule, forward, |step, pass, _| film.see(step, pass))?;
        film.last(&invert()?.1)
    }

    fn mean_image(&self) -> Result<Rgb8> {
        let ids: Vec<u64> = (0..MEAN_IMAGE_OF).map(|i| u64::MAX / 2 + i).collect();
        let mut sum: Option<Tensor> = None;
        for ids in ids.chunks(16) {
            let part = sample::synthesized(self.generator, "synthesized", self.spec.seed, ids, &self.device)?.sum_keepdim(0)?;
            sum = Some(match sum {
                Some(sum) => (sum + part)?,
                None => part,
            });
        }
        let sum = sum.ok_or_else(|| Error::internal("the mean of no image"))?;
        Rgb8::from_tensor(&(sum / MEAN_IMAGE_OF as f64)?)
    }

    fn mean_latent(&self, infos: &[&ImageInfo]) -> Result<Vec<Rgb8>> {
        let (generator, layout, seed) = (self.generator, self.generator.layout(), self.spec.seed);
        let ids = infos.iter().map(|i| sample::number(&i.id)).collect::<Result<Vec<_>>>()?;
        let noise = sample::evaluation_noise(generator, &infos[0].set, seed, &ids, &self.device)?;
        let latent = match generator.centre() {
            Some(centre) => centre.unsqueeze(0)?.broadcast_as((ids.len(), layout.rows, layout.w_dim))?.contiguous()?,
            // Without w: z = 0, the mean z, with the image's own class.
            None if layout.rows == 0 => {
                let origin = sample::conditional_origin(generator, infos, seed, &self.device)?;
                let z = Tensor::zeros((ids.len(), layout.z_dim), DType::F32, &self.device)?;
                generator.map(&z, origin.as_ref().and_then(|o| o.classes.as_ref()))?
            }
            None => return Err(Error::usage(format!("the generator {} has no mean w", self.spec.networks.generator))),
        };
        let image = generator.synthesize(&latent, &Synthesis { noise: Some(&noise), ..Default::default() })?;
        Rgb8::from_batch(&image)
    }
}

/// The reconstructions of images of one set by an inverter on the study's generator: its noise is fixed by set and image number.
pub fn feed_forward(inverter: &dyn Inverter, infos: &[&ImageInfo], inputs: &[Rgb8], seed: u64, device: &Device) -> Result<Vec<Rgb8>> {
    let Some(first) = infos.first() else { return Ok(Vec::new()) };
    let ids = infos.iter().map(|i| sample::number(&i.id)).collect::<Result<Vec<_>>>()?;
    shown(inverter, inputs, &sample::evaluation_noise(inverter.decoder(), &first.set, seed, &ids, device)?, device)
}

/// What an inverter shows for these images, decoded with this noise.
fn shown(inverter: &dyn Inverter, inputs: &[Rgb8], noise: &[Tensor], device: &Device) -> Result<Vec<Rgb8>> {
    let latents = inverter.invert(&Rgb8::to_batch(inputs, device)?)?;
    let noise = (!noise.is_empty()).then_some(noise);
    Rgb8::from_batch(&inverter.render(&latents, &Synthesis { noise, ..Default::default() })?)
}

/// The card of an encoder that ships with the mini networks, if that is what the method names, and that of its generator.
fn shipped(method: &BaselineMethod) -> Result<Option<(Card, String)>> {
    let Some(name) = method.published.get("weights") else { return Ok(None) };
    let card = Card::load(name)?;
    let Some(own) = encoders::shape(&card).map(|shape| shape.generator.to_string()) else { return Ok(None) };
    match method.published.get("decoder").filter(|decoder| **decoder != own) {
        Some(decoder) => Err(Error::usage(format!("{name}: its decoder is {own}, not {decoder}"))),
        None => Ok(Some((card, own))),
    }
}

/// The published networks of a baseline, each with its own decoder.
fn published(method: &BaselineMethod, device: &Device) -> Result<Box<dyn Inverter>> {
    let card = |key: &str| -> Result<(crate::generators::Tensors, Target)> {
        let name =
            method.published.get(key).ok_or_else(|| Error::internal(format!("{}: no card for its {key}", method.baseline.title())))?;
        Ok((open::tensors(&Card::load(name)?)?, Target::new(DType::F32, device, name)))
    };
    let (encoder, target) = card("weights")?;
    Ok(match method.baseline {
        Baseline::Alae => Box::new(alae::open(encoder, &target)?),
        Baseline::Psp => Box::new(psp::open(encoder, &target)?),
        Baseline::Indomain => {
            let (decoder, _) = card("decoder")?;
            Box::new(indomain::open(encoder, decoder, &target, false, true)?)
        }
        Baseline::Image2stylegan => return Err(Error::internal("Image2StyleGAN has no published networks")),
    })
}

/// The way of an optimisation: looks at some of its images, and keeps the time, its own looking left out.
struct Film {
    looks: Vec<u64>,
    trace: Vec<(u64, Vec<Rgb8>)>,
    images: Vec<Rgb8>,
    began: Instant,
    start: Option<Duration>,
    looking: Duration,
    steps: u64,
    total: Duration,
}

impl Film {
    fn new(look: bool, steps: u64) -> Self {
        let looks = if look { looks(steps) } else { Vec::new() };
        Film {
            looks,
            trace: Vec::new(),
            images: Vec::new(),
            began: Instant::now(),
            start: None,
            looking: Duration::ZERO,
            steps,
            total: Duration::ZERO,
        }
    }

    /// A pass whose image has `step` updates behind it; the update that follows it is done.
    fn see(&mut self, step: u64, pass: &Pass) -> candle_core::Result<()> {
        let at = Instant::now();
        if step == 0 {
            // What came before is the inversion, and one step; the steps alone are measured from here on.
            self.start = Some(at - self.began);
        }
        if (step == 0 && !self.looks.is_empty()) || self.looks.contains(&step) {
            let images = Rgb8::from_batch(&pass.image.detach()).map_err(|e| candle_core::Error::Msg(e.message))?;
            self.trace.push((step, images));
        }
        self.looking += at.elapsed();
        Ok(())
    }

    fn last(&mut self, image: &Tensor) -> Result<()> {
        self.total = self.began.elapsed() - self.looking;
        self.images = Rgb8::from_batch(&image.detach())?;
        if !self.looks.is_empty() {
            self.trace.push((self.steps, self.images.clone()));
        }
        Ok(())
    }

    fn end(self) -> Result<Reconstruction> {
        // The first pass holds the inversion and one step: with the mean step taken off, the inversion is left.
        let before = self.start.unwrap_or(self.total);
        let rest = self.total.saturating_sub(before);
        let step = if self.steps > 1 { rest / (self.steps - 1) as u32 } else { Duration::ZERO };
        let start = before.saturating_sub(step);
        Ok(Reconstruction { images: self.images, trace: self.trace, start, steps: step * self.steps as u32 })
    }
}
