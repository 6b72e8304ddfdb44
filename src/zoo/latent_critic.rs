//! ALAE's discriminator of images, D(E(x)): a score of the w that the encoder finds (Pidhorskyi et al., CVPR 2020, section 4.2).
//!
//! R1 needs tangents through E ([`Dual`]), instance norms included: they are no piecewise linear map, so their tangent is a function of the
//! weights in its own right and is differentiated like one.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Result, Tensor};

use super::checkpoint::prefixed;
use super::discriminator::Dual;
use super::schedule::Start;
use crate::generators::{Layout, Stage};
use crate::inverters::alae::{Block, Config, Discriminator, EPS, Encoder, Linear, SLOPE};
use crate::ops;
use crate::params::Params;
use crate::spec::Card;
use crate::stages::open;

/// E with D behind it.
pub struct LatentCritic {
    encoder: Encoder,
    head: Discriminator,
}

impl LatentCritic {
    /// For a generator of this layout.
    pub fn new(layout: &Layout, p: &Params) -> Result<Self> {
        let encoder = Encoder::new(&Config::for_generator(layout), &p.pp("encoder"))?;
        Ok(LatentCritic { encoder, head: Discriminator::new(layout.w_dim, &p.pp("head"))? })
    }

    /// E(x) [n, latent] of images [n, 3, r, r] in [-1, 1].
    pub fn encode(&self, images: &Tensor, stage: Stage) -> Result<Tensor> {
        Ok(self.encoder.trace(images, stage)?.0)
    }

    /// The scores `[n, 1]` of images `[n, 3, r, r]` with r = 4 * 2^stage.last.
    pub fn scores(&self, images: &Dual, Stage { last, blend }: Stage) -> Result<Dual> {
        let blocks = self.encoder.blocks();
        let start = blocks.len() - 1 - last;
        let enter = |images: &Dual, level: usize| -> Result<Dual> {
            let rgb = self.encoder.rgb(level);
            let bias = rgb.bias.reshape((1, (), 1, 1))?;
            images.linear(|x| ops::conv2d(x, &rgb.weight, None, 1, 0))?.bias_lrelu(Some(&bias), SLOPE * SLOPE)
        };
        let mut x = enter(images, start)?;
        let mut w: Option<Dual> = None;
        for (i, block) in blocks.iter().enumerate().skip(start) {
            let (mut share, mut next) = through(block, &x)?;
            if i == start && blend < 1.0 && last > 0 {
                share = share.linear(|w| w * blend)?;
                next = enter(&images.linear(ops::avg_pool2)?, start + 1)?.lerp(&next, blend)?;
            }
            w = Some(match w {
                None => share,
                Some(w) => w.plus(&share)?,
            });
            x = next;
        }
        let Some(mut x) = w else { candle_core::bail!("an encoder without blocks") };
        for layer in self.head.layers() {
            x = affine(layer, &x)?;
        }
        let middle = x.value.dim(1)? / 2;
        x.linear(|x| x.narrow(1, middle, 1))
    }

    /// The same network, sharing its weights, as constants.
    pub fn detached(&self) -> Self {
        LatentCritic { encoder: self.encoder.detached(), head: self.head.detached() }
    }
}

fn affine(layer: &Linear, x: &Dual) -> Result<Dual> {
    x.linear(|x| ops::linear(x, &layer.weight, None))?.shift(&layer.bias)
}

/// What a block adds to w, and the map that it hands on.
fn through(block: &Block, x: &Dual) -> Result<(Dual, Dual)> {
    let x = x.linear(|x| ops::conv2d(x, &block.conv_1, None, 1, 1))?.bias_lrelu(Some(&block.bias_1), SLOPE)?;
    let (x, statistics) = x.instance_norm_stats(EPS)?;
    let w1 = affine(&block.style_1, &statistics)?;
    let x = x.linear(ops::blur3)?.linear(|x| match block.fused {
        true => ops::conv2d(x, &ops::fused_down_weight(&block.conv_2)?, None, 2, 1),
        false => ops::avg_pool2(&ops::conv2d(x, &block.conv_2, None, 1, 1)?),
    })?;
    let (x, statistics) = x.bias_lrelu(Some(&block.bias_2), SLOPE)?.instance_norm_stats(EPS)?;
    Ok((w1.plus(&affine(&block.style_2, &statistics)?)?, x))
}

/// The tensors of both players, and of their averages, where a training starts from networks of the zoo; D itself is drawn from the seed.
///
/// Errors: a card that is missing or says no latent.
pub fn started(start: &Start, seed: u64, device: &Device) -> crate::Result<BTreeMap<String, Tensor>> {
    let (generator, encoder) = (Card::load(&start.generator)?, Card::load(&start.encoder)?);
    let mut of_generator = open::tensors(&generator)?;
    of_generator.remove("center_tensor");
    let fresh = Params::fresh(seed, DType::F32, device);
    let latent = generator.network()?.latent.unwrap_or_default();
    Discriminator::new(latent, &fresh.pp("head"))?;
    let mut of_critic = fresh.snapshot()?;
    of_critic.extend(prefixed("encoder.", open::tensors(&encoder)?));
    let mut all = BTreeMap::new();
    for (part, tensors) in
        [("generator/", &of_generator), ("average/", &of_generator), ("critic/", &of_critic), ("critic-average/", &of_critic)]
    {
        all.extend(prefixed(part, tensors.clone()));
    }
    Ok(all)
}
