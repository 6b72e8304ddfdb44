//! PGGAN: Karras, Aila, Laine, Lehtinen, "Progressive Growing of GANs for Improved Quality, Stability, and Variation", ICLR 2018.
//!
//! References: genforce's `pggan_generator.py`, which MTV-TSA runs, and akanimax/pro_gan_pytorch, which the paper's footnote names.
//! Names are genforce's; parameters are effective weights (see `stylegan1`), so genforce's raw weights are scaled when they are
//! loaded (a file with genforce's `lod` buffer is raw).
//!
//! Every layer is pixel norm, convolution, bias, leaky ReLU; the first of each resolution above 4 px doubles the map before its
//! convolution; toRGB is pixel norm and a linear 1x1 convolution. akanimax puts the norm behind the activation instead, which is
//! the same network but for two things: z is normalised once, not twice, and nothing stands between the two layers of the 4 px block.

use candle_core::{Result, Tensor, bail};

use super::checkpoint::{Target, Tensors, count, numbered, width_table};
use super::{Family, Generator, Layout, Stage, Synthesis, class_rows, width};
use crate::ops;
use crate::params::{Init, Params};

const SLOPE: f64 = 0.2;
const EPS: f64 = 1e-8;

/// The shape of a PGGAN.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Image size, a power of two from 8 up.
    pub resolution: usize,
    pub z_dim: usize,
    /// Length of the one-hot label that is joined to z; 0 for none.
    pub label_size: usize,
    /// Channels at resolution r are min(fmaps_base / r, fmaps_max).
    pub fmaps_base: usize,
    pub fmaps_max: usize,
    pub image_channels: usize,
    /// Upsampling convolutions are transposed ones.
    pub fused_scale: bool,
    pub final_tanh: bool,
    /// akanimax's place for the pixel norms.
    pub norm_after: bool,
}

impl Config {
    /// The paper's network at this resolution, as genforce has it.
    pub fn paper(resolution: usize) -> Self {
        Config {
            resolution,
            z_dim: 512,
            label_size: 0,
            fmaps_base: 16384,
            fmaps_max: 512,
            image_channels: 3,
            fused_scale: false,
            final_tanh: false,
            norm_after: false,
        }
    }

    fn layout(&self) -> Layout {
        let blocks = self.resolution.ilog2() as usize - 1;
        Layout {
            family: Family::Pggan,
            resolution: self.resolution,
            z_dim: self.z_dim,
            w_dim: self.z_dim + self.label_size,
            rows: 0,
            constant: None,
            noise: Vec::new(),
            channels: (0..blocks).map(|i| (4 << i, width(self.fmaps_base, self.fmaps_max, 4 << i))).collect(),
            classes: self.label_size,
        }
    }
}

struct Layer {
    weight: Tensor,
    bias: Tensor,
}

impl Layer {
    /// Leaky ReLU of the biased convolution result `x`.
    fn activate(&self, x: &Tensor) -> Result<Tensor> {
        ops::noise_bias_lrelu(x, None, Some(&self.bias.reshape((1, (), 1, 1))?), SLOPE)
    }
}

struct Block {
    first: Layer,
    second: Layer,
    rgb: Layer,
}

/// The network. Its latent is the pixel-normalised z, joined with the label where there is one: [n, z_dim + label_size].
pub struct Pggan {
    cfg: Config,
    layout: Layout,
    blocks: Vec<Block>,
}

impl Pggan {
    /// Fresh, trainable or frozen, as `p` is.
    ///
    /// Errors: a tensor is missing or has another shape; the resolution is no power of two from 8 up.
    pub fn new(cfg: &Config, p: &Params) -> Result<Self> {
        if cfg.resolution < 8 || !cfg.resolution.is_power_of_two() {
            bail!("PGGAN: resolution {} must be a power of two from 8 up", cfg.resolution)
        }
        let layout = cfg.layout();
        let layer = |name: String, dims: (usize, usize, usize, usize), outputs: usize, std: f64| -> Result<Layer> {
            let p = p.pp(name);
            Ok(Layer { weight: p.get_coef("weight", dims, Init::Normal(std), std)?, bias: p.get("bias", outputs, Init::Const(0.0))? })
        };
        let he = |fan_in: usize| (2.0 / fan_in as f64).sqrt();
        let mut blocks = Vec::new();
        let mut inputs = layout.w_dim;
        for (i, &(_, c)) in layout.channels.iter().enumerate() {
            let first = match i {
                0 => layer("layer0".into(), (c, inputs, 4, 4), c, he(16 * inputs))?,
                _ if cfg.fused_scale => layer(format!("layer{}", 2 * i), (inputs, c, 3, 3), c, he(9 * inputs))?,
                _ => layer(format!("layer{}", 2 * i), (c, inputs, 3, 3), c, he(9 * inputs))?,
            };
            let second = layer(format!("layer{}", 2 * i + 1), (c, c, 3, 3), c, he(9 * c))?;
            let rgb = layer(format!("output{i}"), (cfg.image_channels, c, 1, 1), cfg.image_channels, 1.0 / (c as f64).sqrt())?;
            blocks.push(Block { first, second, rgb });
            inputs = c;
        }
        Ok(Pggan { cfg: cfg.clone(), layout, blocks })
    }

    /// The feature map after each layer up to block `last`, two per block, before the next one's pixel norm.
    pub fn features(&self, latent: &Tensor, last: usize) -> Result<Vec<Tensor>> {
        let (n, dim) = latent.dims2()?;
        if dim != self.layout.w_dim || last >= self.blocks.len() {
            let blocks = self.blocks.len();
            bail!("latent {:?}, last block {last}: this generator takes {:?} and has {blocks} blocks", latent.dims(), self.layout.latent(n))
        }
        let mut features: Vec<Tensor> = Vec::new();
        let mut x = latent.reshape((n, dim, 1, 1))?;
        for (i, block) in self.blocks[..=last].iter().enumerate() {
            let early = i == 0 && self.cfg.norm_after;
            if !early {
                x = ops::pixel_norm(&x, EPS)?;
            }
            x = match i {
                0 => ops::conv2d(&x, &block.first.weight, None, 1, 3)?,
                _ if self.cfg.fused_scale => ops::conv_transpose2d(&x, &ops::fused_up_weight(&block.first.weight)?, None, 2, 1)?,
                _ => ops::conv2d(&ops::upsample2(&x)?, &block.first.weight, None, 1, 1)?,
            };
            x = block.first.activate(&x)?;
            features.push(x.clone());
            if !early {
                x = ops::pixel_norm(&x, EPS)?;
            }
            x = block.second.activate(&ops::conv2d(&x, &block.second.weight, None, 1, 1)?)?;
            features.push(x.clone());
        }
        Ok(features)
    }

    fn to_rgb(&self, block: usize, x: &Tensor) -> Result<Tensor> {
        let rgb = &self.blocks[block].rgb;
        ops::conv2d(&ops::pixel_norm(x, EPS)?, &rgb.weight, Some(&rgb.bias), 1, 0)
    }
}

impl Generator for Pggan {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn map(&self, z: &Tensor, classes: Option<&Tensor>) -> Result<Tensor> {
        let z = ops::pixel_norm(z, EPS)?;
        match self.layout.classes {
            0 => Ok(z),
            _ => Tensor::cat(&[&z, &class_rows(&self.layout, classes, &z)?], 1),
        }
    }

    fn synthesize(&self, latent: &Tensor, with: &Synthesis) -> Result<Tensor> {
        let Stage { last, blend } = with.stage.unwrap_or(Stage { last: self.blocks.len() - 1, blend: 1.0 });
        let features = self.features(latent, last)?;
        let mut image = self.to_rgb(last, &features[2 * last + 1])?;
        if last > 0 && blend < 1.0 {
            let before = ops::upsample2(&self.to_rgb(last - 1, &features[2 * last - 1])?)?;
            image = ((image * blend)? + (before * (1.0 - blend))?)?;
        }
        if self.cfg.final_tanh { image.tanh() } else { Ok(image) }
    }
}

/// What a state dict cannot tell.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    pub label_size: usize,
    pub fused_scale: bool,
    pub final_tanh: bool,
}

/// The network of a checkpoint, frozen: genforce's names (with or without raw weights), or akanimax's.
pub fn open(tensors: Tensors, target: &Target, options: Options) -> crate::Result<Pggan> {
    let norm_after = tensors.contains_key("layers.0.conv_1.weight");
    let mut tensors = match norm_after {
        true => from_akanimax(tensors).map_err(|e| target.misfit(e))?,
        false => tensors,
    };
    if let Some(lod) = tensors.remove("lod") {
        target.check_grown(&lod)?;
        for (name, tensor) in tensors.iter_mut().filter(|(name, _)| name.ends_with(".weight")) {
            *tensor = (&*tensor * runtime_scale(name, tensor.dims(), options.fused_scale)).map_err(|e| target.misfit(e))?;
        }
    }
    let layers = count(&tensors, |i| format!("layer{i}.weight"));
    if layers < 4 || layers % 2 == 1 {
        return Err(target.corrupt(format!("{layers} layers: a PGGAN has two per resolution, from 8 px up")));
    }
    let blocks = layers / 2;
    let resolution = 2 << blocks;
    let [_, inputs, ..] = target.dims::<4>(&tensors, "layer0.weight")?;
    let channels = |i: usize| Ok((4 << i, target.dims::<1>(&tensors, &format!("layer{}.bias", 2 * i + 1))?[0]));
    let (fmaps_base, fmaps_max) = width_table(&(0..blocks).map(channels).collect::<crate::Result<Vec<_>>>()?);
    let [image_channels, ..] = target.dims::<4>(&tensors, "output0.weight")?;
    let Some(z_dim) = inputs.checked_sub(options.label_size).filter(|z| *z > 0) else {
        return Err(target.corrupt(format!("its input has {inputs} entries, fewer than a label of {} needs", options.label_size)));
    };
    let cfg = Config {
        resolution,
        z_dim,
        label_size: options.label_size,
        fmaps_base,
        fmaps_max,
        image_channels,
        fused_scale: options.fused_scale,
        final_tanh: options.final_tanh,
        norm_after,
    };
    let p = Params::frozen(tensors, target.dtype, &target.device, &target.origin);
    let net = Pggan::new(&cfg, &p).map_err(|e| target.misfit(e))?;
    p.finish().map_err(|e| target.misfit(e))?;
    Ok(net)
}

/// The factor that turns genforce's raw weight into an effective one.
fn runtime_scale(name: &str, dims: &[usize], fused_scale: bool) -> f64 {
    let at = |axis: usize| dims.get(axis).copied().unwrap_or(1) as f64;
    if name.starts_with("output") {
        return 1.0 / at(1).sqrt();
    }
    let layer = name.strip_prefix("layer").and_then(numbered).map_or(0, |(i, _)| i);
    let inputs = if fused_scale && layer >= 2 && layer.is_multiple_of(2) { at(0) } else { at(1) };
    (2.0 / (at(2) * at(3) * inputs)).sqrt()
}

/// akanimax's tensors under the names of [`Pggan::new`], effective. Its first layer is a transposed convolution of a 1x1 map, which
/// is the padded convolution with the kernel turned round; its fan-in counts the latent only. Its toRGB has gain sqrt(2).
fn from_akanimax(tensors: Tensors) -> Result<Tensors> {
    let convert = |(name, t): (String, Tensor)| -> Result<(String, Tensor)> {
        let new = match (name.strip_prefix("layers.").and_then(numbered), name.strip_prefix("rgb_converters.").and_then(numbered)) {
            (Some((i, rest)), _) if rest.starts_with("conv_1.") => format!("layer{}.{}", 2 * i, &rest[7..]),
            (Some((i, rest)), _) if rest.starts_with("conv_2.") => format!("layer{}.{}", 2 * i + 1, &rest[7..]),
            (_, Some((i, rest))) => format!("output{i}.{rest}"),
            _ => name,
        };
        let fan_in = t.elem_count() as f64 / t.dim(0)? as f64;
        let scaled = match new.as_str() {
            "layer0.weight" => (t.transpose(0, 1)?.contiguous()?.flip(&[2, 3])? * (2.0 / t.dim(0)? as f64).sqrt())?,
            _ if new.ends_with(".weight") => (t * (2.0 / fan_in).sqrt())?,
            _ => t,
        };
        Ok((new, scaled))
    };
    tensors.into_iter().map(convert).collect()
}
