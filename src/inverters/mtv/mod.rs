//! The encoder E of the paper: "Adaptable GAN Encoders for Image Reconstruction via Multi-type Latent Vectors with
//! Two-scale Attentions", section IV, Figs. 4 and 5, Tables I and II; released code `model/E/*.py`.
//!
//! One block ([`block`]) whose norm, noise, shortcut and statistics are values of the [`Config`], between a 1x1 convolution
//! from RGB and a head that fits the generator: rows of w for the StyleGANs, z' for PGGAN, (c', z') for BigGAN. Tensor names
//! are those of the released state dicts. Block i stands at `resolution / 2^i`: the narrow blocks are at full resolution
//! (the resolution column of Table I is upside down).

mod block;
mod conditional;

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};
use serde::{Deserialize, Serialize};

use crate::generators::{Family, Layout};
use crate::ops;
use crate::params::{Init, Params};

use block::Block;

/// What the encoder emits beside its 4x4 map z_c'.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Head {
    /// Two rows of w per block.
    W,
    /// One distinct row per block, written to both of its rows: the paper's w/2.
    WHalf,
    /// z by a 3x3 convolution, stride 2, on the 4x4 map (released `E_Blur_Z`).
    Z,
    /// z by one fully connected layer on the 4x4 map (PGGAN).
    ZFlat,
    /// c' by a fully connected layer on the 4x4 map, then z' by another on c' (BigGAN).
    Conditional,
}

/// Where the block normalises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Norm {
    /// Instance norm before each convolution.
    Before,
    /// Instance norm after each convolution (released `E_v1`).
    After,
    /// Conditional batch norm before each convolution (BigGAN).
    Conditional,
}

/// How the block's input joins its output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shortcut {
    /// 0.111 * output + 0.889 * input, at the lower resolution (the StyleGANs).
    Mix,
    /// leaky ReLU(output + input) at the higher resolution; an affine instance norm where the channels change (PGGAN).
    Sum,
    /// output + leaky ReLU(input) at the higher resolution (BigGAN as it was meant).
    Conditional,
    /// The released BigGAN block: where the channels change the leaky ReLU hits the output a second time instead of the input.
    ConditionalReleased,
}

/// Which blocks reduce the resolution inside their second convolution (a 4x4 kernel of stride 2) instead of pooling after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fused {
    None,
    /// Blocks of 128 px and more, as the StyleGANs do.
    From128,
    /// The first four blocks, whatever the resolution (released code).
    FirstFour,
}

/// What the rows of w are computed from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Statistics {
    /// Mean and biased standard deviation per channel.
    MeanStd,
    /// Unbiased standard deviation alone (released `E_v2_std`).
    Std,
}

/// The shape of an encoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// log2(resolution) - 1 blocks, the last one at 4x4.
    pub blocks: usize,
    /// Width of the first block; it doubles per block.
    pub first_width: usize,
    /// Widest block. The last block must be this wide.
    pub max_width: usize,
    /// Channels of the image.
    pub channels: usize,
    /// Width of a row of w, or of z'.
    pub latent: usize,
    /// Width of the condition c (BigGAN), else 0.
    pub condition: usize,
    pub head: Head,
    pub norm: Norm,
    pub shortcut: Shortcut,
    pub statistics: Statistics,
    /// Gain of the fully connected layers of w (1; released `E_v1`: sqrt 2).
    pub row_gain: f64,
    /// Whether noise enters, scaled by the learned strengths z_n'.
    pub noise: bool,
    /// Whether the second convolution is preceded by the [1, 2, 1] blur. Like `fused` it is of the StyleGANs' block, the one with
    /// [`Shortcut::Mix`]; the others ignore both.
    pub blur: bool,
    pub fused: Fused,
    /// Whether the RGB layer is a plain convolution without learning-rate coefficient (released BigGAN encoder).
    pub plain_rgb: bool,
}

impl Config {
    /// Case 1 (released `E.py`): no blur, no fused block.
    pub fn case1(blocks: usize, first_width: usize, max_width: usize, latent: usize) -> Self {
        Config {
            blocks,
            first_width,
            max_width,
            channels: 3,
            latent,
            condition: 0,
            head: Head::W,
            norm: Norm::Before,
            shortcut: Shortcut::Mix,
            statistics: Statistics::MeanStd,
            row_gain: 1.0,
            noise: true,
            blur: false,
            fused: Fused::None,
            plain_rgb: false,
        }
    }

    /// Case 2 (released `E_Blur.py`).
    pub fn case2(blocks: usize, first_width: usize, max_width: usize, latent: usize, fused: Fused) -> Self {
        Config { blur: true, fused, ..Self::case1(blocks, first_width, max_width, latent) }
    }

    /// PGGAN (released `E_PG.py`).
    pub fn pggan(blocks: usize, first_width: usize, max_width: usize, latent: usize) -> Self {
        Config { head: Head::ZFlat, shortcut: Shortcut::Sum, ..Self::case1(blocks, first_width, max_width, latent) }
    }

    /// BigGAN (released `E_BIG.py`): condition and c' are `condition` wide, z' half of it.
    pub fn biggan(blocks: usize, first_width: usize, max_width: usize, condition: usize) -> Self {
        Config {
            condition,
            head: Head::Conditional,
            norm: Norm::Conditional,
            shortcut: Shortcut::Conditional,
            ..Self::case1(blocks, first_width, max_width, condition / 2)
        }
    }

    /// The encoder that fits a generator (Tables I and II): as many blocks as the generator has resolutions, as wide as it at 4 px
    /// (up to 512), from 16384 / r channels at full resolution where the generator is that wide, or less in proportion. The head
    /// follows the family.
    ///
    /// Errors: a generator that is not square with a power of two from 8 px up.
    pub fn for_generator(layout: &Layout) -> Result<Self> {
        let r = layout.resolution;
        if !r.is_power_of_two() || r < 8 {
            bail!("an encoder needs images of 8, 16, 32, ... pixels a side, the generator makes {r}")
        }
        let blocks = r.ilog2() as usize - 1;
        let widest = layout.channels.first().map_or(512, |&(_, c)| c).min(512);
        let last = layout.channels.last().map_or(widest, |&(_, c)| c);
        let first = last.min(32 * widest / r).max(4 * widest / r).max(1);
        Ok(match layout.family {
            Family::StyleGan1 | Family::StyleGan2 => Self::case1(blocks, first, widest, layout.w_dim),
            Family::Pggan => Config { noise: false, ..Self::pggan(blocks, first, widest, layout.z_dim) },
            Family::BigGan => Config { noise: false, latent: layout.z_dim, ..Self::biggan(blocks, first, widest, layout.w_dim) },
        })
    }

    /// Input width of block `i`.
    pub fn width(&self, i: usize) -> usize {
        self.first_width.checked_shl(i as u32).unwrap_or(self.max_width).min(self.max_width)
    }

    fn is_fused(&self, i: usize, resolution: usize) -> bool {
        match self.fused {
            _ if self.shortcut != Shortcut::Mix => false,
            Fused::None => false,
            Fused::From128 => resolution >> i >= 128,
            Fused::FirstFour => i < 4,
        }
    }

    /// Sides of the noise maps in the order in which [`Input::noise`] wants them: two per block, one for the last.
    pub fn noise_sides(&self) -> Vec<usize> {
        if !self.noise {
            return Vec::new();
        }
        let resolution = 2 << self.blocks;
        let mut sides = Vec::with_capacity(2 * self.blocks);
        for i in 0..self.blocks {
            let side = resolution >> i;
            sides.push(side);
            if i + 1 < self.blocks {
                sides.push(if self.is_fused(i, resolution) { side / 2 } else { side });
            }
        }
        sides
    }
}

/// What enters the encoder beside the image.
#[derive(Default, Clone, Copy)]
pub struct Input<'a> {
    /// Standard normal maps [n or 1, 1, r, r] with the sides of [`Config::noise_sides`]; empty for an encoder without noise.
    pub noise: &'a [Tensor],
    /// c [n, condition] of BigGAN.
    pub condition: Option<&'a Tensor>,
    /// Whether the spectral norms take their power iteration (in training, one per call).
    pub train: bool,
}

/// What the encoder emits. Absent is what its head does not have.
#[derive(Clone, Default)]
pub struct Latents {
    /// w' [n, 2L, w], row 0 for the generator's first layer at 4x4.
    pub w: Option<Tensor>,
    /// z' [n, z].
    pub z: Option<Tensor>,
    /// c' [n, condition].
    pub c: Option<Tensor>,
    /// z_c' [n, C, 4, 4], the counterpart of the generator's constant.
    pub constant: Option<Tensor>,
}

/// One learned noise strength of E.
#[derive(Clone)]
pub struct Strength {
    /// Resolution of the block, and which of its two places (1 or 2).
    pub resolution: usize,
    pub place: usize,
    /// [1, C, 1, 1]
    pub weight: Tensor,
}

enum Tail {
    None,
    Conv { weight: Tensor, bias: Tensor },
    Flat { weight: Tensor, bias: Tensor },
    Pair { first: (Tensor, Tensor), second: (Tensor, Tensor) },
}

/// The encoder.
pub struct Encoder {
    config: Config,
    rgb: (Tensor, Tensor),
    blocks: Vec<Arc<Block>>,
    tail: Tail,
}

impl Encoder {
    /// Errors: widths that do not end at `max_width`; a missing or misshapen tensor.
    pub fn new(config: &Config, p: &Params) -> Result<Self> {
        let c = config;
        if c.blocks < 2 {
            bail!("an encoder needs at least two blocks (8 px), not {}", c.blocks)
        }
        if c.width(c.blocks - 1) != c.max_width {
            bail!("{} blocks from width {} do not reach the width {} of the last block", c.blocks, c.first_width, c.max_width)
        }
        let q = p.pp("FromRGB").pp("from_rgb");
        let rgb_coef = (2.0 / c.channels as f64).sqrt();
        let (rgb_std, rgb_coef) = if c.plain_rgb { ((3.0 * c.channels as f64).sqrt().recip(), 1.0) } else { (rgb_coef, rgb_coef) };
        let weight = q.get_coef("weight", (c.first_width, c.channels, 1, 1), Init::Normal(rgb_std), rgb_coef)?;
        let rgb = (weight, q.get("bias", c.first_width, Init::Const(0.0))?);
        let resolution = 2 << c.blocks;
        let blocks = (0..c.blocks)
            .map(|i| Ok(Arc::new(Block::new(c, i, c.is_fused(i, resolution), &p.pp("decode_block").pp(i))?)))
            .collect::<Result<_>>()?;
        let flat = 16 * c.max_width;
        let tail = match c.head {
            Head::W | Head::WHalf => Tail::None,
            Head::Z => {
                let (p, coef) = (p.pp("out_z"), (2.0 / (9 * c.max_width) as f64).sqrt());
                let weight = p.get_coef("weight", (c.latent, c.max_width, 3, 3), Init::Normal(coef), coef)?;
                Tail::Conv { weight, bias: p.get("bias", c.latent, Init::Const(0.0))? }
            }
            Head::ZFlat => {
                let (weight, bias) = fully_connected(&p.pp("new_final"), flat, c.latent, 1.0)?;
                Tail::Flat { weight, bias }
            }
            Head::Conditional => Tail::Pair {
                first: fully_connected(&p.pp("new_final_1"), flat, c.condition, 1.0)?,
                second: fully_connected(&p.pp("new_final_2"), c.condition, c.latent, 1.0)?,
            },
        };
        Ok(Encoder { config: config.clone(), rgb, blocks, tail })
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// One power iteration of every spectral norm, as a forward pass in training takes it. A fresh BigGAN encoder, whose singular vectors
    /// are random, needs some before it is used outside of training.
    pub fn power_iteration(&self) -> Result<()> {
        self.blocks.iter().try_for_each(|b| b.power_iteration())
    }

    /// The latents of the images `x` [n, channels, r, r], r = 2^(blocks + 1), nominally in [-1, 1].
    ///
    /// Errors: an image of another size, a wrong number of noise maps, a missing condition.
    pub fn forward(&self, x: &Tensor, input: &Input) -> Result<Latents> {
        self.run(x, input, |_| {})
    }

    /// As [`Encoder::forward`], with the output of every block, from the image side.
    pub fn forward_blocks(&self, x: &Tensor, input: &Input) -> Result<(Latents, Vec<Tensor>)> {
        let mut outputs = Vec::with_capacity(self.blocks.len());
        let latents = self.run(x, input, |x| outputs.push(x.clone()))?;
        Ok((latents, outputs))
    }

    fn run(&self, x: &Tensor, input: &Input, mut each: impl FnMut(&Tensor)) -> Result<Latents> {
        let (n, channels, h, w) = x.dims4()?;
        let side = 2usize << self.config.blocks;
        if (channels, h, w) != (self.config.channels, side, side) {
            bail!("the encoder takes images of [{}, {side}, {side}], not [{channels}, {h}, {w}]", self.config.channels)
        }
        let wanted = if self.config.noise { 2 * self.config.blocks - 1 } else { 0 };
        if input.noise.len() != wanted {
            bail!("the encoder takes {wanted} noise maps, {} were given", input.noise.len())
        }
        if self.config.condition > 0 && input.condition.is_none() {
            bail!("this encoder needs the condition vectors")
        }
        let mut x = ops::conv2d_lrelu(x, &self.rgb.0, Some(&self.rgb.1), 1, 0, block::SLOPE)?;
        // Row 0 belongs to the last block's second convolution, the last row to the first block's first.
        let mut rows: Vec<Tensor> = Vec::with_capacity(2 * self.blocks.len());
        for (i, block) in self.blocks.iter().enumerate() {
            let noise = if self.config.noise { &input.noise[2 * i..(2 * i + 2).min(wanted)] } else { &[] };
            let mut results = if block.renews(input) { block.results(&x, noise, input)? } else { block.segment(&x, noise, input)? };
            x = results.remove(0);
            rows.extend(results);
            each(&x);
        }
        rows.reverse();
        let mut out = Latents::default();
        if !rows.is_empty() {
            out.w = Some(Tensor::stack(&rows, 1)?);
        }
        match &self.tail {
            Tail::None => {}
            Tail::Conv { weight, bias } => out.z = Some(ops::conv2d(&x, weight, Some(bias), 2, 0)?.reshape((n, self.config.latent))?),
            Tail::Flat { weight, bias } => out.z = Some(ops::linear(&x.flatten_from(1)?, weight, Some(bias))?),
            Tail::Pair { first, second } => {
                let c = ops::linear(&x.flatten_from(1)?, &first.0, Some(&first.1))?;
                out.z = Some(ops::linear(&c, &second.0, Some(&second.1))?);
                out.c = Some(c);
            }
        }
        out.constant = Some(x);
        Ok(out)
    }

    /// The learned noise strengths z_n' that act, in the order of the forward pass.
    pub fn noise_strengths(&self) -> Vec<Strength> {
        let mut out = Vec::new();
        for (i, block) in self.blocks.iter().enumerate() {
            let resolution = (2usize << self.config.blocks) >> i;
            let weights = block.noise_strengths().into_iter().enumerate();
            out.extend(weights.map(|(k, weight)| Strength { resolution, place: k + 1, weight: weight.clone() }));
        }
        out
    }
}

/// An equalised fully connected layer: weight [out, input] with coefficient gain / sqrt(input), bias [out].
fn fully_connected(p: &Params, input: usize, out: usize, gain: f64) -> Result<(Tensor, Tensor)> {
    let coef = gain / (input as f64).sqrt();
    let weight = p.get_coef("weight", (out, input), Init::Normal(coef), coef)?;
    Ok((weight, p.get("bias", out, Init::Const(0.0))?))
}
