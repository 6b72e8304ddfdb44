//! ALAE: Pidhorskyi, Adjeroh, Doretto, "Adversarial Latent Autoencoders", CVPR 2020. Reference: podgorskiy/ALAE.
//!
//! E emits one w for all layers: the sum of a linear map of the statistics of every half block. G and F are those of StyleGANv1
//! ([`stylegan1`]). The published files keep E under the name `discriminator_s` (there is no `encoder_s`), with effective weights.

use candle_core::{Result, Tensor, bail};

use super::Inverter;
use crate::generators::stylegan1::{self, StyleGan1};
use crate::generators::{Generator, Layout, Stage, Target, Tensors};
use crate::ops;
use crate::params::{Init, Params};

pub(crate) const SLOPE: f64 = 0.2;
/// Epsilon of E's instance norms; G's is 1e-8.
pub(crate) const EPS: f64 = 1e-5;
/// Blocks whose input has this many pixels a side or more reduce it inside their second convolution.
const FUSED_FROM: usize = 128;

/// What the published files call E.
pub const ENCODER: &str = "discriminator_s.";

/// The shape of E. Block i takes min(max_width, first_width * 2^i) channels and the last one ends at 2x2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub blocks: usize,
    pub first_width: usize,
    pub max_width: usize,
    pub latent: usize,
    pub channels: usize,
}

impl Config {
    /// E beside a generator of this layout, as wide as it.
    pub fn for_generator(layout: &Layout) -> Self {
        let width = |channels: Option<&(usize, usize)>| channels.map_or(0, |&(_, width)| width);
        let (widest, last) = (width(layout.channels.first()), width(layout.channels.last()));
        let blocks = (layout.resolution.max(4).ilog2() - 1) as usize;
        Config { blocks, first_width: last, max_width: widest, latent: layout.w_dim, channels: 3 }
    }

    fn width(&self, i: usize) -> usize {
        self.first_width.checked_shl(i as u32).unwrap_or(self.max_width).min(self.max_width)
    }

    /// Side of the images: 4 px for one block.
    pub fn resolution(&self) -> usize {
        2 << self.blocks
    }
}

pub(crate) struct Linear {
    pub(crate) weight: Tensor,
    pub(crate) bias: Tensor,
}

impl Linear {
    fn new(p: &Params, inputs: usize, outputs: usize) -> Result<Self> {
        Self::slower(p, inputs, outputs, 1.0)
    }

    /// With steps of this share.
    fn slower(p: &Params, inputs: usize, outputs: usize, lr: f64) -> Result<Self> {
        let std = (2.0 / inputs as f64).sqrt();
        Ok(Linear {
            weight: p.get_coef("weight", (outputs, inputs), Init::Normal(std), std * lr)?,
            bias: p.get_coef("bias", outputs, Init::Const(0.0), lr)?,
        })
    }

    fn detached(&self) -> Self {
        Linear { weight: self.weight.detach(), bias: self.bias.detach() }
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::linear(x, &self.weight, Some(&self.bias))
    }
}

pub(crate) struct Block {
    pub(crate) conv_1: Tensor,
    pub(crate) bias_1: Tensor,
    pub(crate) style_1: Linear,
    pub(crate) conv_2: Tensor,
    pub(crate) bias_2: Tensor,
    pub(crate) style_2: Linear,
    pub(crate) fused: bool,
}

/// What one block adds to w, and the map that it hands on.
pub struct Step {
    pub w1: Tensor,
    pub w2: Tensor,
    pub x: Tensor,
}

impl Block {
    fn new(cfg: &Config, i: usize, p: &Params) -> Result<Self> {
        let (inputs, outputs) = (cfg.width(i), cfg.width(i + 1));
        let std = (2.0 / (9 * inputs) as f64).sqrt();
        let conv = |name: &str, out: usize| p.pp(name).get_coef("weight", (out, inputs, 3, 3), Init::Normal(std), std);
        p.ignore("blur.weight");
        Ok(Block {
            conv_1: conv("conv_1", inputs)?,
            bias_1: p.get("bias_1", (1, inputs, 1, 1), Init::Const(0.0))?,
            style_1: Linear::new(&p.pp("style_1"), 2 * inputs, cfg.latent)?,
            conv_2: conv("conv_2", outputs)?,
            bias_2: p.get("bias_2", (1, outputs, 1, 1), Init::Const(0.0))?,
            style_2: Linear::new(&p.pp("style_2"), 2 * outputs, cfg.latent)?,
            fused: cfg.resolution() >> i >= FUSED_FROM,
        })
    }

    fn detached(&self) -> Self {
        Block {
            conv_1: self.conv_1.detach(),
            bias_1: self.bias_1.detach(),
            style_1: self.style_1.detached(),
            conv_2: self.conv_2.detach(),
            bias_2: self.bias_2.detach(),
            style_2: self.style_2.detached(),
            fused: self.fused,
        }
    }

    fn forward(&self, x: &Tensor) -> Result<Step> {
        let x = ops::conv2d(x, &self.conv_1, None, 1, 1)?;
        let x = ops::noise_bias_lrelu(&x, None, Some(&self.bias_1), SLOPE)?;
        let (x, statistics) = ops::instance_norm_stats(&x, EPS)?;
        let w1 = self.style_1.forward(&statistics)?;
        let x = ops::blur3(&x)?;
        let x = match self.fused {
            true => ops::conv2d(&x, &ops::fused_down_weight(&self.conv_2)?, None, 2, 1)?,
            false => ops::avg_pool2(&ops::conv2d(&x, &self.conv_2, None, 1, 1)?)?,
        };
        let x = ops::noise_bias_lrelu(&x, None, Some(&self.bias_2), SLOPE)?;
        let (x, statistics) = ops::instance_norm_stats(&x, EPS)?;
        Ok(Step { w1, w2: self.style_2.forward(&statistics)?, x })
    }
}

/// E.
pub struct Encoder {
    config: Config,
    from_rgb: Vec<Linear>,
    blocks: Vec<Block>,
}

impl Encoder {
    pub fn new(config: &Config, p: &Params) -> Result<Self> {
        let from_rgb = |i: usize| -> Result<Linear> {
            let (p, std) = (p.pp(format!("from_rgb.{i}.from_rgb")), (2.0 / config.channels as f64).sqrt());
            let width = config.width(i);
            Ok(Linear {
                weight: p.get_coef("weight", (width, config.channels, 1, 1), Init::Normal(std), std)?,
                bias: p.get("bias", width, Init::Const(0.0))?,
            })
        };
        let block = |i: usize| Block::new(config, i, &p.pp(format!("encode_block.{i}")));
        Ok(Encoder {
            config: config.clone(),
            from_rgb: (0..config.blocks).map(from_rgb).collect::<Result<_>>()?,
            blocks: (0..config.blocks).map(block).collect::<Result<_>>()?,
        })
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// The entry of images at this level, 0 being the full resolution.
    pub(crate) fn rgb(&self, level: usize) -> &Linear {
        &self.from_rgb[level]
    }

    /// The same network, sharing its weights, as constants.
    pub(crate) fn detached(&self) -> Self {
        Encoder {
            config: self.config.clone(),
            from_rgb: self.from_rgb.iter().map(Linear::detached).collect(),
            blocks: self.blocks.iter().map(Block::detached).collect(),
        }
    }

    /// The reference applies the leaky ReLU twice, which makes one of slope 0.04.
    fn enter(&self, x: &Tensor, i: usize) -> Result<Tensor> {
        let rgb = &self.from_rgb[i];
        ops::leaky_relu(&ops::conv2d(x, &rgb.weight, Some(&rgb.bias), 1, 0)?, SLOPE * SLOPE)
    }

    /// Images [n, channels, r, r] in [-1, 1], r = 4 * 2^last, to w [n, latent], with each block's share of it.
    pub fn trace(&self, images: &Tensor, Stage { last, blend }: Stage) -> Result<(Tensor, Vec<Step>)> {
        let (side, channels) = (4 << last, self.config.channels);
        if last >= self.blocks.len() || images.dims()[1..] != [channels, side, side] {
            bail!("ALAE's encoder of {} blocks takes images of [{channels}, {side}, {side}], not {:?}", self.blocks.len(), images.dims())
        }
        let start = self.blocks.len() - 1 - last;
        let mut x = self.enter(images, start)?;
        let mut steps = Vec::new();
        for (i, block) in self.blocks.iter().enumerate().skip(start) {
            let mut step = block.forward(&x)?;
            if i == start && blend < 1.0 && last > 0 {
                let before = self.enter(&ops::avg_pool2(images)?, start + 1)?;
                step = Step { w1: (step.w1 * blend)?, w2: (step.w2 * blend)?, x: ((step.x * blend)? + (before * (1.0 - blend))?)? };
            }
            x = step.x.clone();
            steps.push(step);
        }
        let shares = steps.iter().flat_map(|s| [&s.w1, &s.w2]);
        let w = Tensor::stack(&shares.collect::<Vec<_>>(), 0)?.sum(0)?;
        Ok((w, steps))
    }
}

/// D's head on w: three linear layers without activation; the logit is the middle entry.
pub struct Discriminator {
    layers: Vec<Linear>,
}

/// Learning rate of F and D relative to that of E and G.
const SLOWER: f64 = 0.1;

impl Discriminator {
    /// As published: two layers as wide as w, then one of twice its width.
    pub fn new(latent: usize, p: &Params) -> Result<Self> {
        let layer = |(i, outputs)| Linear::slower(&p.pp(format!("map_blocks.{i}")), latent, outputs, SLOWER);
        Ok(Discriminator { layers: [latent, latent, 2 * latent].into_iter().enumerate().map(layer).collect::<Result<_>>()? })
    }

    pub(crate) fn layers(&self) -> &[Linear] {
        &self.layers
    }

    /// The same network, sharing its weights, as constants.
    pub(crate) fn detached(&self) -> Self {
        Discriminator { layers: self.layers.iter().map(Linear::detached).collect() }
    }

    /// w [n, latent] to logits [n].
    pub fn forward(&self, w: &Tensor) -> Result<Tensor> {
        let mut x = w.clone();
        for layer in &self.layers {
            x = layer.forward(&x)?;
        }
        x.narrow(1, x.dim(1)? / 2, 1)?.squeeze(1)
    }
}

/// E, G with F, and D of one checkpoint.
pub struct Alae {
    pub encoder: Encoder,
    pub generator: StyleGan1,
    pub discriminator: Discriminator,
}

/// The tensors of a checkpoint in the names of the published ones, from those of G with F and the mean w ([`StyleGan1::new`]), and of E
/// ("encoder.") and D ("head.").
pub fn published(generator: Tensors, critic: Tensors) -> Tensors {
    let of_generator = |name: &str| -> String {
        if let Some((i, rest)) = name.strip_prefix("Gm.block_").and_then(|rest| rest.split_once('.')) {
            return format!("mapping_fl_s.map_blocks.{}.{rest}", i.parse::<usize>().map_or(0, |i| i.saturating_sub(1)));
        }
        name.strip_prefix("Gs.").map_or("dlatent_avg.buff".into(), |rest| format!("generator_s.{rest}"))
    };
    let of_critic = |name: &str| match name.strip_prefix("encoder.") {
        Some(rest) => format!("{ENCODER}{rest}"),
        None => format!("mapping_tl_s.{}", name.trim_start_matches("head.")),
    };
    let generator = generator.into_iter().map(|(name, t)| (of_generator(&name), t));
    generator.chain(critic.into_iter().map(|(name, t)| (of_critic(&name), t))).collect()
}

/// The smoothed networks of a published checkpoint (`models.discriminator_s.*` and so on; without `models.` too). The others in it
/// are left out.
pub fn open(tensors: Tensors, target: &Target) -> crate::Result<Alae> {
    let (mut e, mut d, mut g) = (Tensors::new(), Tensors::new(), Tensors::new());
    for (name, tensor) in tensors {
        let name = name.strip_prefix("models.").unwrap_or(&name);
        if let Some(rest) = name.strip_prefix(ENCODER) {
            e.insert(rest.into(), tensor);
        } else if let Some(rest) = name.strip_prefix("mapping_tl_s.") {
            d.insert(rest.into(), tensor);
        } else if ["generator_s.", "mapping_fl_s.", "dlatent_avg."].iter().any(|p| name.starts_with(p)) {
            g.insert(name.into(), tensor);
        }
    }
    let blocks = (0..).take_while(|i| e.contains_key(&format!("encode_block.{i}.bias_1"))).count();
    let shape = |t: &Tensors, name: &str| -> crate::Result<Vec<usize>> {
        let missing = || crate::Error::corrupt(format!("{}: ALAE's tensor \"{name}\" is missing", target.origin));
        t.get(name).map(|t| t.dims().to_vec()).ok_or_else(missing)
    };
    let axis = |dims: Vec<usize>, i: usize| dims.get(i).copied().unwrap_or(0);
    let last = blocks.saturating_sub(1);
    let config = Config {
        blocks,
        first_width: axis(shape(&e, "encode_block.0.bias_1")?, 1),
        max_width: axis(shape(&e, &format!("encode_block.{last}.bias_2"))?, 1),
        latent: axis(shape(&e, "encode_block.0.style_1.bias")?, 0),
        channels: axis(shape(&e, "from_rgb.0.from_rgb.weight")?, 1),
    };
    let depth = (0..).take_while(|i| d.contains_key(&format!("map_blocks.{i}.weight"))).count();
    let widths = (0..depth).map(|i| shape(&d, &format!("map_blocks.{i}.weight"))).collect::<crate::Result<Vec<_>>>()?;
    let build = || -> Result<(Encoder, Discriminator)> {
        let p = Params::frozen(e, target.dtype, &target.device, &target.origin);
        let encoder = Encoder::new(&config, &p)?;
        p.finish()?;
        let p = Params::frozen(d, target.dtype, &target.device, &target.origin);
        let layer =
            |(i, dims): (usize, &Vec<usize>)| Linear::new(&p.pp(format!("map_blocks.{i}")), axis(dims.clone(), 1), axis(dims.clone(), 0));
        let layers = widths.iter().enumerate().map(layer).collect::<Result<_>>()?;
        p.finish()?;
        Ok((encoder, Discriminator { layers }))
    };
    let (encoder, discriminator) = build().map_err(|e| target.misfit(e))?;
    let generator = stylegan1::open(g, target, stylegan1::Options::default())?;
    Ok(Alae { encoder, generator, discriminator })
}

impl Inverter for Alae {
    fn input_size(&self) -> usize {
        self.encoder.config.resolution()
    }

    /// One w, repeated for every layer.
    fn invert(&self, images: &Tensor) -> Result<Tensor> {
        let (w, _) = self.encoder.trace(images, Stage { last: self.encoder.blocks.len() - 1, blend: 1.0 })?;
        let (n, dim) = w.dims2()?;
        w.unsqueeze(1)?.broadcast_as((n, self.generator.layout().rows, dim))?.contiguous()
    }

    fn decoder(&self) -> &dyn Generator {
        &self.generator
    }
}
