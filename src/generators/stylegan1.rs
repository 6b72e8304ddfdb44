//! StyleGAN: Karras, Laine, Aila, "A Style-Based Generator Architecture for Generative Adversarial Networks", CVPR 2019.
//!
//! The reference is the PyTorch port that MTV-TSA trains on (podgorskiy/StyleGan in its "Blobless" variant), and the names are
//! those of its files, `Gs.` for synthesis and `Gm.` for the mapping network. Parameters are *effective* weights: the equalised
//! learning rate of the paper is not a factor at run time but the learning-rate coefficient of the parameter
//! ([`Params::get_coef`]). Files with raw weights, and genforce's files, are converted when they are loaded.
//!
//! One synthesis layer is: nearest upsampling and 3x3 convolution (from 128 px on as one transposed convolution), blur (after
//! upsampling only), noise times strength, bias, leaky ReLU, instance norm, style `x * (s0 + 1) + s1`.
//!
//! Longer than other files: one paper, one file, with what opens files of other layouts.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};

use super::checkpoint::{Target, Tensors, count, numbered, width_table};
use super::{Family, Generator, Layout, NoiseSite, Stage, Synthesis, noise_of, width};
use crate::ops;
use crate::params::{Init, Params};

const SLOPE: f64 = 0.2;
const EPS: f64 = 1e-8;
/// The learning rate of the mapping network, relative to synthesis.
const MAPPING_LR: f64 = 0.01;

/// The paper fuses upsampling and convolution from this resolution on.
pub const FUSED_FROM: usize = 128;

/// The shape of a StyleGANv1.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Image size, a power of two from 8 up.
    pub resolution: usize,
    pub z_dim: usize,
    pub w_dim: usize,
    /// Channels at resolution r are min(fmaps_base / r, fmaps_max). podgorskiy's `startf` is fmaps_base / resolution.
    pub fmaps_base: usize,
    pub fmaps_max: usize,
    pub mapping_layers: usize,
    pub mapping_fmaps: usize,
    pub image_channels: usize,
    /// Upsampling convolutions are transposed ones from this resolution on (128 in the paper).
    pub fused_from: usize,
    /// The mapping network makes one w for all layers; otherwise one row for each (In-Domain inversion).
    pub repeat_w: bool,
    /// tanh behind toRGB (In-Domain inversion).
    pub final_tanh: bool,
}

impl Config {
    /// The paper's network at this resolution.
    pub fn paper(resolution: usize) -> Self {
        Config {
            resolution,
            z_dim: 512,
            w_dim: 512,
            fmaps_base: 16384,
            fmaps_max: 512,
            mapping_layers: 8,
            mapping_fmaps: 512,
            image_channels: 3,
            fused_from: FUSED_FROM,
            repeat_w: true,
            final_tanh: false,
        }
    }

    /// Number of blocks, one per resolution from 4 px.
    pub fn blocks(&self) -> usize {
        self.resolution.ilog2() as usize - 1
    }

    fn layout(&self) -> Layout {
        let channels: Vec<_> = (0..self.blocks()).map(|i| (4 << i, width(self.fmaps_base, self.fmaps_max, 4 << i))).collect();
        Layout {
            family: Family::StyleGan1,
            resolution: self.resolution,
            z_dim: self.z_dim,
            w_dim: self.w_dim,
            rows: 2 * self.blocks(),
            constant: Some([channels[0].1, 4, 4]),
            noise: channels.iter().flat_map(|&(resolution, channels)| [NoiseSite { channels, resolution }; 2]).collect(),
            channels,
            classes: 0,
        }
    }
}

/// The style of one layer and what stands between its convolution and its instance norm.
struct Epilogue {
    bias: Tensor,
    style_weight: Tensor,
    style_bias: Tensor,
}

impl Epilogue {
    /// `which` is 1 or 2, the layer's place in its block.
    fn new(p: &Params, which: usize, channels: usize, w_dim: usize) -> Result<Self> {
        let gain = 1.0 / (w_dim as f64).sqrt();
        let style = p.pp(format!("style_{which}"));
        Ok(Epilogue {
            bias: p.get(&format!("bias_{which}"), (1, channels, 1, 1), Init::Const(0.0))?,
            style_weight: style.get_coef("weight", (2 * channels, w_dim), Init::Normal(gain), gain)?,
            style_bias: style.get("bias", 2 * channels, Init::Const(0.0))?,
        })
    }

    fn style(&self, row: &Tensor) -> Result<Tensor> {
        ops::linear(row, &self.style_weight, Some(&self.style_bias))
    }

    /// `row` is this layer's w, [n, w_dim].
    fn forward(&self, x: &Tensor, noise: Option<(&Tensor, &Tensor)>, row: &Tensor) -> Result<Tensor> {
        let x = ops::noise_bias_lrelu(x, noise, Some(&self.bias), SLOPE)?;
        ops::adain(&x, &self.style(row)?, EPS)
    }
}

/// x + 0.8 s exp(-x^2 / (2 s^2)) / sqrt(2 pi), s^2 = block + 1.
fn bumped(x: &Tensor, block: usize) -> Result<Tensor> {
    let variance = (block + 1) as f64;
    let height = 0.8 * variance.sqrt() / (2.0 * std::f64::consts::PI).sqrt();
    x + (x.sqr()? * (-0.5 / variance))?.exp()?.affine(height, 0.0)?
}

enum Up {
    /// Nearest upsampling, then this [out, in, 3, 3] convolution.
    Separate(Tensor),
    /// A stride-2 transposed convolution, [in, out, 3, 3].
    Fused(Tensor),
}

impl Up {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = match self {
            Up::Separate(weight) => ops::conv2d(&ops::upsample2(x)?, weight, None, 1, 1)?,
            Up::Fused(weight) => ops::conv_transpose2d(x, &ops::fused_up_weight(weight)?, None, 2, 1)?,
        };
        ops::blur3(&x)
    }
}

struct Block {
    /// None in the 4 px block, which starts from the constant.
    up: Option<Up>,
    first: Epilogue,
    conv: Tensor,
    second: Epilogue,
    rgb_weight: Tensor,
    rgb_bias: Tensor,
}

impl Block {
    /// `rows` are the w of both layers, `noise` their maps and strengths; without it, with `bump`, ALAE's stand-in for `place`.
    fn forward(&self, x: &Tensor, rows: [&Tensor; 2], noise: Option<[(&Tensor, &Tensor); 2]>, bump: Option<usize>) -> Result<Tensor> {
        let bumped = |x: Tensor| bump.map_or(Ok(x.clone()), |place| bumped(&x, place));
        let up = self.up.as_ref().map_or(Ok(x.clone()), |up| up.forward(x))?;
        let x = self.first.forward(&bumped(up)?, noise.map(|n| n[0]), rows[0])?;
        let x = bumped(ops::conv2d(&x, &self.conv, None, 1, 1)?)?;
        self.second.forward(&x, noise.map(|n| n[1]), rows[1])
    }
}

/// The network. See [`Generator`] for its use.
pub struct StyleGan1 {
    layout: Layout,
    mapping: Vec<(Tensor, Tensor)>,
    constant: Tensor,
    strengths: Vec<Tensor>,
    blocks: Vec<Arc<Block>>,
    stored_noise: Vec<Tensor>,
    centre: Option<Tensor>,
    final_tanh: bool,
    bump: bool,
}

impl StyleGan1 {
    /// Fresh, trainable or frozen, as `p` is.
    ///
    /// Errors: a tensor is missing or has another shape; the resolution is no power of two from 8 up.
    pub fn new(cfg: &Config, p: &Params) -> Result<Self> {
        if cfg.resolution < 8 || !cfg.resolution.is_power_of_two() || cfg.mapping_layers == 0 {
            bail!("StyleGANv1: resolution {} must be a power of two from 8 up, with at least one mapping layer", cfg.resolution)
        }
        let layout = cfg.layout();
        let (gs, gm) = (p.pp("Gs"), p.pp("Gm"));

        let mut mapping = Vec::new();
        let mut inputs = cfg.z_dim;
        for i in 1..=cfg.mapping_layers {
            let last = cfg.w_dim * if cfg.repeat_w { 1 } else { layout.rows };
            let outputs = if i == cfg.mapping_layers { last } else { cfg.mapping_fmaps };
            let fc = gm.pp(format!("block_{i}.fc"));
            let std = (2.0 / inputs as f64).sqrt();
            let weight = fc.get_coef("weight", (outputs, inputs), Init::Normal(std), std * MAPPING_LR)?;
            mapping.push((weight, fc.get_coef("bias", outputs, Init::Const(0.0), MAPPING_LR)?));
            inputs = outputs;
        }

        let conv = |p: &Params, dims: (usize, usize, usize, usize), inputs: usize| {
            let std = (2.0 / (9 * inputs) as f64).sqrt();
            p.get_coef("weight", dims, Init::Normal(std), std)
        };
        let mut blocks = Vec::new();
        let mut strengths = Vec::new();
        let mut inputs = layout.channels[0].1;
        for (i, &(resolution, c)) in layout.channels.iter().enumerate() {
            let p = gs.pp(format!("decode_block.{i}"));
            for which in 1..=2 {
                strengths.push(p.get(&format!("noise_weight_{which}"), (1, c, 1, 1), Init::Const(0.0))?);
            }
            p.ignore("blur.weight");
            let up = match i {
                0 => None,
                _ if resolution >= cfg.fused_from => Some(Up::Fused(conv(&p.pp("conv_1"), (inputs, c, 3, 3), inputs)?)),
                _ => Some(Up::Separate(conv(&p.pp("conv_1"), (c, inputs, 3, 3), inputs)?)),
            };
            let rgb = gs.pp(format!("to_rgb.{i}.to_rgb"));
            let gain = 1.0 / (c as f64).sqrt();
            blocks.push(Arc::new(Block {
                up,
                first: Epilogue::new(&p, 1, c, cfg.w_dim)?,
                conv: conv(&p.pp("conv_2"), (c, c, 3, 3), c)?,
                second: Epilogue::new(&p, 2, c, cfg.w_dim)?,
                rgb_weight: rgb.get_coef("weight", (cfg.image_channels, c, 1, 1), Init::Normal(gain), gain)?,
                rgb_bias: rgb.get("bias", cfg.image_channels, Init::Const(0.0))?,
            }));
            inputs = c;
        }
        let constant = gs.get("const", (1, layout.channels[0].1, 4, 4), Init::Const(1.0))?;
        let (stored_noise, final_tanh) = (Vec::new(), cfg.final_tanh);
        Ok(StyleGan1 { layout, mapping, constant, strengths, blocks, stored_noise, centre: None, final_tanh, bump: false })
    }

    /// The same network with this centre of truncation, [rows or 1, w_dim].
    pub fn with_centre(self, centre: Tensor) -> Self {
        StyleGan1 { centre: Some(centre), ..self }
    }

    /// The same network with these noise maps as the default ones, in call order, each [1, 1, r, r].
    pub fn with_noise(self, stored_noise: Vec<Tensor>) -> Self {
        StyleGan1 { stored_noise, ..self }
    }

    /// The same network with ALAE's stand-in for noise where none is given: a fixed function of the map itself.
    pub fn with_bump(self) -> Self {
        StyleGan1 { bump: true, ..self }
    }

    /// z [n, z_dim] to w [n, w_dim] (or one row per layer, [n, rows * w_dim]): pixel norm, then the mapping layers.
    pub fn w(&self, z: &Tensor) -> Result<Tensor> {
        let mut w = ops::pixel_norm(z, EPS)?;
        for (weight, bias) in &self.mapping {
            w = ops::leaky_relu(&ops::linear(&w, weight, Some(bias))?, SLOPE)?;
        }
        Ok(w)
    }

    /// The style of each layer, [n, 2C] (scale less 1, then shift), in call order.
    pub fn styles(&self, latent: &Tensor) -> Result<Vec<Tensor>> {
        let layers = self.blocks.iter().flat_map(|b| [&b.first, &b.second]).enumerate();
        layers.map(|(i, layer)| layer.style(&latent.narrow(1, i, 1)?.squeeze(1)?.contiguous()?)).collect()
    }

    /// The feature map after each block up to `last`, the first at 4 px.
    pub fn features(&self, latent: &Tensor, with: &Synthesis, last: usize) -> Result<Vec<Tensor>> {
        let mut features = Vec::new();
        self.walk(latent, with, last, |x| features.push(x.clone()))?;
        Ok(features)
    }

    /// Runs the blocks up to `last` and shows each one's feature map to `each`.
    fn walk(&self, latent: &Tensor, with: &Synthesis, last: usize, mut each: impl FnMut(&Tensor)) -> Result<()> {
        let (n, rows, w_dim) = latent.dims3()?;
        if (rows, w_dim) != (self.layout.rows, self.layout.w_dim) || last >= self.blocks.len() {
            bail!(
                "latent {:?}, last block {last}: this generator takes {:?} and has {} blocks",
                latent.dims(),
                self.layout.latent(n),
                self.blocks.len()
            )
        }
        let row = |i: usize| latent.narrow(1, i, 1)?.squeeze(1)?.contiguous();
        let bump = self.bump && with.noise.is_none();
        let noise = if bump { Vec::new() } else { noise_of(self, with, 2 * (last + 1))? };
        let constant = with.constant.unwrap_or(&self.constant);
        let mut x = constant.broadcast_as((n, constant.dim(1)?, 4, 4))?.contiguous()?;
        for (i, block) in self.blocks[..=last].iter().enumerate() {
            let rows = [row(2 * i)?, row(2 * i + 1)?];
            x = match noise.get(2 * i..2 * i + 2) {
                Some([(map, strength), (map_2, strength_2)]) => {
                    let (block, maps) = (block.clone(), [map.clone(), map_2.clone()]);
                    let run = move |t: &[Tensor]| {
                        let noise = [(&maps[0], &t[3]), (&maps[1], &t[4])];
                        Ok(vec![block.forward(&t[0], [&t[1], &t[2]], Some(noise), None)?])
                    };
                    ops::segment(&[&x, &rows[0], &rows[1], strength, strength_2], run)?.swap_remove(0)
                }
                _ => block.forward(&x, [&rows[0], &rows[1]], None, bump.then_some(i))?,
            };
            each(&x);
        }
        Ok(())
    }

    fn to_rgb(&self, block: usize, x: &Tensor) -> Result<Tensor> {
        ops::conv2d(x, &self.blocks[block].rgb_weight, Some(&self.blocks[block].rgb_bias), 1, 0)
    }
}

impl Generator for StyleGan1 {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn map(&self, z: &Tensor, _classes: Option<&Tensor>) -> Result<Tensor> {
        let w = self.w(z)?;
        let (n, dim) = w.dims2()?;
        if dim != self.layout.w_dim {
            return w.reshape((n, self.layout.rows, self.layout.w_dim));
        }
        w.unsqueeze(1)?.broadcast_as((n, self.layout.rows, dim))?.contiguous()
    }

    fn synthesize(&self, latent: &Tensor, with: &Synthesis) -> Result<Tensor> {
        let Stage { last, blend } = with.stage.unwrap_or(Stage { last: self.blocks.len() - 1, blend: 1.0 });
        // The two last maps; no other is held for longer than it is needed.
        let mut maps = [None, None];
        self.walk(latent, with, last, |x| maps = [maps[1].take(), Some(x.clone())])?;
        let [before, Some(x)] = maps else { bail!("StyleGANv1: a network without blocks") };
        let mut image = self.to_rgb(last, &x)?;
        if let (Some(before), true) = (before, blend < 1.0) {
            let before = ops::upsample2(&self.to_rgb(last - 1, &before)?)?;
            image = ((image * blend)? + (before * (1.0 - blend))?)?;
        }
        if self.final_tanh { image.tanh() } else { Ok(image) }
    }

    fn constant(&self) -> Option<&Tensor> {
        Some(&self.constant)
    }

    fn noise_strengths(&self) -> Result<Vec<Tensor>> {
        Ok(self.strengths.clone())
    }

    fn stored_noise(&self) -> &[Tensor] {
        &self.stored_noise
    }

    fn centre(&self) -> Option<&Tensor> {
        self.centre.as_ref()
    }
}

/// What a state dict cannot tell.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// [`FUSED_FROM`] for every published file: fused and separate layers have the same names.
    pub fused_from: usize,
    pub final_tanh: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { fused_from: FUSED_FROM, final_tanh: false }
    }
}

/// The network of a checkpoint, frozen. Formats: podgorskiy (`Gs.`, `Gm.`, `center_tensor`; or a whole checkpoint with
/// `models.generator_s` and so on, which is ALAE's as well), effective or raw; genforce; genforce's idinvert_pytorch.
pub fn open(tensors: Tensors, target: &Target, Options { fused_from, final_tanh }: Options) -> crate::Result<StyleGan1> {
    let genforce = tensors.contains_key("synthesis.layer0.const");
    let mut noise = Vec::new();
    let (mut tensors, raw) = if genforce {
        let tensors = from_genforce(tensors, target, fused_from, &mut noise)?;
        (tensors, true)
    } else {
        let tensors: Tensors = tensors.into_iter().map(|(name, t)| (published_name(&name), t)).collect();
        let raw = is_raw(&tensors, target)?;
        (tensors, raw)
    };
    let centre = tensors.remove("center_tensor").or_else(|| tensors.remove("Gm.buffer1"));
    let cfg = Config { final_tanh, ..Config::of(&tensors, target, fused_from)? };
    let place = |t: Tensor| t.to_dtype(target.dtype)?.to_device(&target.device)?.contiguous();
    let build = || -> Result<StyleGan1> {
        if raw {
            for (name, tensor) in tensors.iter_mut() {
                *tensor = (&*tensor * runtime_scale(name, tensor.dims(), fused_from))?;
            }
        }
        let p = Params::frozen(tensors, target.dtype, &target.device, &target.origin);
        let mut net = StyleGan1::new(&cfg, &p)?;
        p.finish()?;
        net.stored_noise = noise.into_iter().map(place).collect::<Result<_>>()?;
        net.centre = centre.map(place).transpose()?;
        Ok(net)
    };
    let net = build().map_err(|e| target.misfit(e))?;
    match &net.centre {
        Some(c) if c.dims() != [cfg.layout().rows, cfg.w_dim] && c.dims() != [1, cfg.w_dim] => {
            Err(target.corrupt(format!("the mean w has shape {:?}, the network needs [{}, {}]", c.dims(), cfg.layout().rows, cfg.w_dim)))
        }
        _ => Ok(net),
    }
}

impl Config {
    /// The sizes, from a checkpoint in the names of [`StyleGan1::new`].
    fn of(tensors: &Tensors, target: &Target, fused_from: usize) -> crate::Result<Self> {
        let blocks = count(tensors, |i| format!("Gs.decode_block.{i}.bias_1"));
        let mapping_layers = count(tensors, |i| format!("Gm.block_{}.fc.weight", i + 1));
        if blocks < 2 || mapping_layers == 0 {
            return Err(target.corrupt(format!(
                "{blocks} synthesis blocks (Gs.decode_block) and {mapping_layers} mapping layers (Gm.block): the files of both networks are needed"
            )));
        }
        let resolution = 2 << blocks;
        let channels = |i: usize| Ok((4 << i, target.dims::<4>(tensors, &format!("Gs.decode_block.{i}.bias_1"))?[1]));
        let (fmaps_base, fmaps_max) = width_table(&(0..blocks).map(channels).collect::<crate::Result<Vec<_>>>()?);
        let [mapping_fmaps, z_dim] = target.dims(tensors, "Gm.block_1.fc.weight")?;
        let [mapped, _] = target.dims(tensors, &format!("Gm.block_{mapping_layers}.fc.weight"))?;
        let [_, w_dim] = target.dims(tensors, "Gs.decode_block.0.style_1.weight")?;
        let [image_channels, ..] = target.dims::<4>(tensors, "Gs.to_rgb.0.to_rgb.weight")?;
        let repeat_w = mapped == w_dim;
        Ok(Config {
            resolution,
            z_dim,
            w_dim,
            fmaps_base,
            fmaps_max,
            mapping_layers,
            mapping_fmaps,
            image_channels,
            fused_from,
            repeat_w,
            final_tanh: false,
        })
    }
}

/// The name of a whole podgorskiy checkpoint's tensor in the terms of its separate files.
fn published_name(name: &str) -> String {
    let name = name.strip_prefix("models.").unwrap_or(name);
    // ALAE's F.
    if let Some((i, rest)) = name.strip_prefix("mapping_fl_s.map_blocks.").and_then(numbered) {
        return format!("Gm.block_{}.{rest}", i + 1);
    }
    let known = [("generator_s.", "Gs."), ("mapping_fl_s.", "Gm."), ("mapping_s.", "Gm."), ("dlatent_avg.buff", "center_tensor")];
    let found = known.iter().find_map(|(theirs, ours)| name.strip_prefix(theirs).map(|rest| format!("{ours}{rest}")));
    found.unwrap_or_else(|| name.to_string())
}

/// The factor that turns a raw weight into an effective one: the equalised learning rate's.
fn runtime_scale(name: &str, dims: &[usize], fused_from: usize) -> f64 {
    let fan_in = |axis: usize| dims.get(axis).copied().unwrap_or(1) as f64;
    let block = name.strip_prefix("Gs.decode_block.").and_then(numbered);
    let fused = name.ends_with(".conv_1.weight") && block.is_some_and(|(i, _)| 4 << i >= fused_from);
    match () {
        _ if name.starts_with("Gm.") && name.ends_with(".weight") => (2.0 / fan_in(1)).sqrt() * MAPPING_LR,
        _ if name.starts_with("Gm.") => MAPPING_LR,
        _ if !name.ends_with(".weight") || name.ends_with("blur.weight") => 1.0,
        _ if name.contains(".conv_") => (2.0 / (9.0 * fan_in(if fused { 0 } else { 1 }))).sqrt(),
        _ => 1.0 / fan_in(1).sqrt(),
    }
}

/// Whether the weights are raw, to be multiplied by the equalised scale. Both conventions share names and shapes; raw mapping
/// weights start with a standard deviation of 100 and effective ones below 1, raw convolutions with 1 and effective ones near 0.05.
fn is_raw(tensors: &Tensors, target: &Target) -> crate::Result<bool> {
    let std = |t: &Tensor| -> Result<f64> {
        let v = t.to_dtype(candle_core::DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
        let mean = v.iter().sum::<f64>() / v.len().max(1) as f64;
        Ok((v.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / v.len().max(1) as f64).sqrt())
    };
    let Some(first) = tensors.get("Gm.block_1.fc.weight") else {
        return Err(target.corrupt("the tensor \"Gm.block_1.fc.weight\" is missing: the file of the mapping network is needed"));
    };
    let mapping = std(first).map_err(|e| target.misfit(e))? > 3.0;
    let convs = tensors.iter().filter(|(name, _)| name.starts_with("Gs.") && name.ends_with(".conv_2.weight"));
    let mut stds = convs.map(|(_, t)| std(t)).collect::<Result<Vec<_>>>().map_err(|e| target.misfit(e))?;
    stds.sort_by(f64::total_cmp);
    let synthesis = stds.get(stds.len() / 2).is_some_and(|&s| s > 0.4);
    if mapping != synthesis {
        let kind = |raw: bool| if raw { "raw" } else { "already scaled" };
        return Err(target.corrupt(format!(
            "the mapping network's weights are {}, those of synthesis are {}: the two files do not belong together",
            kind(mapping),
            kind(synthesis)
        )));
    }
    Ok(mapping)
}

/// genforce's or idinvert_pytorch's tensors under podgorskiy's names, still raw; the noise maps go to `noise`. A fused layer's weight, which genforce
/// stores output channels first, gets its first two axes swapped.
fn from_genforce(mut tensors: Tensors, target: &Target, fused_from: usize, noise: &mut Vec<Tensor>) -> crate::Result<Tensors> {
    if let Some(lod) = tensors.remove("synthesis.lod") {
        target.check_grown(&lod)?;
    }
    let shape = |name: &str, t: &Tensor| -> Result<Tensor> {
        let block = name.strip_prefix("Gs.decode_block.").and_then(numbered).map_or(0, |(i, _)| i);
        match name.rsplit('.').next().unwrap_or(name) {
            "bias_1" | "bias_2" | "noise_weight_1" | "noise_weight_2" => t.reshape((1, t.elem_count(), 1, 1)),
            "weight" if name.ends_with("conv_1.weight") && 4 << block >= fused_from => match t.dims() {
                // idinvert_pytorch keeps the order of TensorFlow, [3, 3, in, out].
                [3, 3, ..] => t.permute((2, 3, 0, 1))?.contiguous(),
                _ => t.transpose(0, 1)?.contiguous(),
            },
            "center_tensor" => t.reshape((1, t.elem_count())),
            _ => Ok(t.clone()),
        }
    };
    for i in 0.. {
        let names = ["", "epilogue."].map(|own| format!("synthesis.layer{i}.{own}apply_noise.noise"));
        match names.iter().find_map(|name| tensors.remove(name)) {
            Some(map) => noise.push(map),
            None => break,
        }
    }
    // idinvert_pytorch stores the strength of truncation per row; it is an argument here.
    tensors.remove("truncation.truncation");
    let renamed = tensors.into_iter().map(|(name, t)| {
        let name = podgorskiy_name(&name).unwrap_or(name);
        Ok((name.clone(), shape(&name, &t)?))
    });
    renamed.collect::<Result<_>>().map_err(|e| target.misfit(e))
}

/// podgorskiy's name of a genforce tensor, None where it has none.
fn podgorskiy_name(name: &str) -> Option<String> {
    if name == "truncation.w_avg" {
        return Some("center_tensor".into());
    }
    if let Some((i, kind)) = name.strip_prefix("mapping.dense").and_then(numbered) {
        let kind = kind.strip_prefix("fc.").or(kind.strip_prefix("wscale.")).unwrap_or(kind);
        return Some(format!("Gm.block_{}.fc.{kind}", i + 1));
    }
    if let Some((i, kind)) = name.strip_prefix("synthesis.output").and_then(numbered) {
        return Some(format!("Gs.to_rgb.{i}.to_rgb.{}", kind.strip_prefix("conv.").unwrap_or(kind)));
    }
    let (layer, kind) = name.strip_prefix("synthesis.layer").and_then(numbered)?;
    let (block, which) = (layer / 2, layer % 2 + 1);
    let own = match kind.strip_prefix("epilogue.").unwrap_or(kind) {
        "const" => return Some("Gs.const".into()),
        "bias" => format!("bias_{which}"),
        "apply_noise.weight" => format!("noise_weight_{which}"),
        "blur.kernel" => "blur.weight".into(),
        "weight" | "conv.weight" => format!("conv_{which}.weight"),
        "style.weight" | "style_mod.dense.fc.weight" => format!("style_{which}.weight"),
        "style.bias" | "style_mod.dense.wscale.bias" => format!("style_{which}.bias"),
        _ => return None,
    };
    Some(format!("Gs.decode_block.{block}.{own}"))
}
