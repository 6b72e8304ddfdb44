//! MTV-TSA as an inverter: the encoder E and the rule by which the generator decodes what E emits. Training and evaluation
//! share it, so that an arm is decoded in its table exactly as it was trained.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Result, Tensor, bail};

use super::EncoderMethod;
use super::sample::{self, Origin};
use crate::generators::{Family, Generator};
use crate::images::Rgb8;
use crate::inverters::mtv::{Config, Encoder, Head, Input, Latents, Shortcut};
use crate::objective::{self, BigGanCondition, EncoderNoise, Recipe, Types};
use crate::params::Params;
use crate::random::Stream;
use crate::record::ImageInfo;

/// An encoder for a frozen generator.
pub struct Inversion<'a> {
    pub generator: &'a dyn Generator,
    pub encoder: Encoder,
    pub recipe: Recipe,
    /// Sides of the noise maps that E takes.
    sides: Vec<usize>,
    device: Device,
}

impl<'a> Inversion<'a> {
    /// The encoder that the recipe and the generator ask for, its parameters from `params`.
    ///
    /// Errors: as [`Encoder::new`].
    pub fn new(generator: &'a dyn Generator, recipe: &Recipe, params: &Params) -> Result<Self> {
        let config = encoder_config(generator, recipe)?;
        let sides = config.noise_sides();
        let encoder = Encoder::new(&config, params)?;
        Ok(Inversion { generator, encoder, recipe: recipe.clone(), sides, device: params.device() })
    }

    /// A trained encoder.
    ///
    /// Errors: the tensors are not those of this encoder.
    pub fn trained(
        generator: &'a dyn Generator,
        method: &EncoderMethod,
        tensors: BTreeMap<String, Tensor>,
        device: &Device,
    ) -> Result<Self> {
        let params = Params::frozen(tensors, DType::F32, device, "encoder.safetensors");
        let inversion = Self::new(generator, &method.recipe, &params)?;
        params.finish()?;
        Ok(inversion)
    }

    /// Noise maps of E, one per item of the stream.
    pub fn encoder_noise(&self, stream: &Stream, ids: &[u64]) -> Result<Vec<Tensor>> {
        let map = |(i, &side): (usize, &usize)| {
            let items: Vec<u64> = ids.iter().map(|id| id.wrapping_mul(64).wrapping_add(i as u64)).collect();
            stream.normal_rows(&items, &[1, side, side], &self.device)
        };
        self.sides.iter().enumerate().map(map).collect()
    }

    /// E's latents of the images `x` [n, 3, r, r] in [-1, 1].
    pub fn encode(&self, x: &Tensor, noise: &[Tensor], condition: Option<&Tensor>) -> Result<Latents> {
        self.encoder.forward(x, &Input { noise, condition, train: false })
    }

    /// What the encoder of a BigGAN is told of images: [0; embed(y)] or, with the target in it, [z; embed(y)]. None for other encoders.
    ///
    /// Errors: the images have no class.
    pub fn condition(&self, origin: Option<&Origin>) -> Result<Option<Tensor>> {
        if self.encoder.config().condition == 0 {
            return Ok(None);
        }
        let Some(Origin { z, classes }) = origin else { bail!("the encoder of a BigGAN needs the class of each image") };
        let z = match self.recipe.latents.biggan_condition {
            BigGanCondition::Class => z.zeros_like()?,
            BigGanCondition::Full => z.clone(),
        };
        self.generator.map(&z, classes.as_ref()).map(Some)
    }

    /// The reconstructions of evaluation images of one set: noise of E and of G fixed by set and image number.
    pub fn reconstruct_images(&self, infos: &[&ImageInfo], targets: &[Rgb8], seed: u64) -> crate::Result<Vec<Rgb8>> {
        if infos.is_empty() {
            return Ok(Vec::new());
        }
        let inverted = self.invert_images(infos, targets, seed)?;
        Rgb8::from_batch(&self.render(&inverted, &inverted.w)?)
    }

    /// The latents of evaluation images of one set, with what they are decoded with.
    pub fn invert_images(&self, infos: &[&ImageInfo], targets: &[Rgb8], seed: u64) -> crate::Result<Inverted> {
        let Some(first) = infos.first() else { return Err(crate::Error::internal("no image to invert")) };
        let ids = infos.iter().map(|i| sample::number(&i.id)).collect::<crate::Result<Vec<_>>>()?;
        let stream = Stream::new(seed, &format!("evaluate/{}/noise of E", first.set));
        let origin = sample::conditional_origin(self.generator, infos, seed, &self.device)?;
        let condition = self.condition(origin.as_ref())?;
        let x = Rgb8::to_batch(targets, &self.device)?;
        let latents = self.encode(&x, &self.encoder_noise(&stream, &ids)?, condition.as_ref())?;
        let classes = origin.and_then(|o| o.classes);
        let noise = sample::evaluation_noise(self.generator, &first.set, seed, &ids, &self.device)?;
        let w = objective::decoded_latent(&self.recipe, self.generator, &latents, classes.as_ref())?;
        Ok(Inverted { w, latents, classes, noise })
    }

    /// The image of an inversion with its latent replaced by `w`, of the same shape.
    pub fn render(&self, inverted: &Inverted, w: &Tensor) -> Result<Tensor> {
        let latents = Latents { w: Some(w.clone()), ..inverted.latents.clone() };
        objective::decode(&self.recipe, &self.encoder, self.generator, &latents, inverted.classes.as_ref(), inverted.noise())
    }
}

/// Images in the generator's terms.
pub struct Inverted {
    /// What G takes: rows of w [n, rows, w_dim], or its flat latent [n, w_dim].
    pub w: Tensor,
    /// What E gave.
    pub latents: Latents,
    classes: Option<Tensor>,
    noise: Vec<Tensor>,
}

impl Inverted {
    /// Latents that no encoder made.
    pub fn of_w(w: Tensor, noise: Vec<Tensor>) -> Self {
        Inverted { w, latents: Latents::default(), classes: None, noise }
    }

    /// The noise that G is given.
    pub fn noise(&self) -> Option<&[Tensor]> {
        (!self.noise.is_empty()).then_some(&self.noise[..])
    }
}

/// The encoder's shape: mirrored from the generator, with the head of the arm's latents and the recipe's block.
pub fn encoder_config(generator: &dyn Generator, recipe: &Recipe) -> Result<Config> {
    let layout = generator.layout();
    let types = recipe.latents.types;
    let mut config = Config { blur: recipe.encoder.blur, fused: recipe.encoder.fused, ..Config::for_generator(layout)? };
    if layout.rows > 0 {
        config.head = match types {
            Types::Z => Head::Z,
            Types::WHalf => Head::WHalf,
            Types::W | Types::WZn | Types::WZnZc => Head::W,
        };
        if types == Types::Z {
            config.latent = layout.z_dim;
        }
        // The released ablation encoders of z, w/2 and w have no noise; with z_n it comes in.
        config.noise = matches!(types, Types::WZn | Types::WZnZc);
    } else {
        config.noise = recipe.encoder.noise == EncoderNoise::All;
    }
    if layout.family == Family::BigGan && recipe.encoder.released_biggan_block {
        config.shortcut = Shortcut::ConditionalReleased;
        config.plain_rgb = true;
    }
    Ok(config)
}
