//! StyleGANv2: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020 (configuration F, skip generator).
//!
//! References: genforce's `stylegan2_generator.py`, which MTV-TSA runs, and rosinality/stylegan2-pytorch, whose names pSp uses.
//! Names are genforce's; parameters are effective weights (see `stylegan1`), and the weight of an upsampling layer is that of its
//! transposed convolution, [in, out, 3, 3]. Published files are converted when they are loaded.
//!
//! A convolution is modulated by scaling its input channels by the style and its output channels by the demodulation factor, which
//! equals the modulated kernel of the paper (equations 1 to 3) without a kernel per image.

use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::{Result, Tensor, bail};

use super::checkpoint::{Target, Tensors, count, numbered, width_table};
use super::{Family, Generator, Layout, Mixing, NoiseSite, Stage, Synthesis, TrainingMode, class_rows, noise_of, width};
use crate::ops;
use crate::params::{Init, Params};

const SLOPE: f64 = 0.2;
const EPS: f64 = 1e-8;
/// The learning rate of the mapping network, relative to synthesis.
const MAPPING_LR: f64 = 0.01;
/// The filter of every upsampling, one axis, before normalisation.
const FILTER: [f64; 4] = [1.0, 3.0, 3.0, 1.0];
/// Decay of the running mean of w in training.
const CENTRE_DECAY: f64 = 0.995;

/// The shape of a StyleGANv2.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Image size, a power of two from 8 up.
    pub resolution: usize,
    pub z_dim: usize,
    pub w_dim: usize,
    /// Length of the one-hot label that the mapping network sees beside z; 0 for none.
    pub label_size: usize,
    /// Channels at resolution r are min(fmaps_base / r, fmaps_max).
    pub fmaps_base: usize,
    pub fmaps_max: usize,
    pub mapping_layers: usize,
    pub mapping_fmaps: usize,
    pub image_channels: usize,
}

impl Config {
    /// The paper's network (configuration F) at this resolution.
    pub fn paper(resolution: usize) -> Self {
        Config {
            resolution,
            z_dim: 512,
            w_dim: 512,
            label_size: 0,
            fmaps_base: 32768,
            fmaps_max: 512,
            mapping_layers: 8,
            mapping_fmaps: 512,
            image_channels: 3,
        }
    }

    fn layout(&self) -> Layout {
        let blocks = self.resolution.ilog2() as usize - 1;
        let channels: Vec<_> = (0..blocks).map(|i| (4 << i, width(self.fmaps_base, self.fmaps_max, 4 << i))).collect();
        let sites = channels.iter().flat_map(|&(resolution, channels)| [NoiseSite { channels, resolution }; 2]);
        Layout {
            family: Family::StyleGan2,
            resolution: self.resolution,
            z_dim: self.z_dim,
            w_dim: self.w_dim,
            rows: 2 * blocks,
            constant: Some([channels[0].1, 4, 4]),
            // The 4 px block has one layer only.
            noise: sites.skip(1).collect(),
            channels,
            classes: self.label_size,
        }
    }
}

/// Whether a tensor of this name, in the native layout, is a kernel whose length demodulation undoes.
pub(crate) fn is_demodulated_kernel(name: &str) -> bool {
    let layer = name.strip_prefix("synthesis.layer").and_then(|rest| rest.strip_suffix(".weight"));
    layer.is_some_and(|number| number.parse::<usize>().is_ok())
}

/// A weight and the affine map that makes its style, [n, inputs].
struct Modulated {
    weight: Tensor,
    bias: Tensor,
    style_weight: Tensor,
    style_bias: Tensor,
}

impl Modulated {
    fn new(p: &Params, dims: (usize, usize, usize, usize), inputs: usize, outputs: usize, w_dim: usize) -> Result<Self> {
        let gain = 1.0 / (w_dim as f64).sqrt();
        let std = 1.0 / ((inputs * dims.2 * dims.3) as f64).sqrt();
        Ok(Modulated {
            weight: p.get_coef("weight", dims, Init::Normal(std), std)?,
            bias: p.get("bias", outputs, Init::Const(0.0))?,
            style_weight: p.get_coef("style.weight", (inputs, w_dim), Init::Normal(gain), gain)?,
            style_bias: p.get("style.bias", inputs, Init::Const(0.0))?,
        })
    }

    fn style(&self, row: &Tensor) -> Result<Tensor> {
        ops::linear(row, &self.style_weight, Some(&self.style_bias))? + 1.0
    }

    /// toRGB: [n, inputs, r, r] to [n, outputs, r, r], no demodulation.
    fn to_rgb(&self, x: &Tensor, row: &Tensor) -> Result<Tensor> {
        let (n, inputs, h, w) = x.dims4()?;
        let outputs = self.weight.dim(0)?;
        let kernel = self.weight.reshape((1, outputs, inputs))?.broadcast_mul(&self.style(row)?.reshape((n, 1, inputs))?)?;
        let rgb = kernel.matmul(&x.reshape((n, inputs, h * w))?)?.reshape((n, outputs, h, w))?;
        rgb.broadcast_add(&self.bias.reshape((1, outputs, 1, 1))?)
    }
}

struct Layer {
    conv: Modulated,
    /// Doubles the resolution.
    up: bool,
    strength: Tensor,
}

impl Layer {
    /// The gain sqrt(2) behind the leaky ReLU is put on everything in front of it: leaky ReLU is positively homogeneous.
    fn forward(&self, x: &Tensor, noise: &(Tensor, Tensor), row: &Tensor) -> Result<Tensor> {
        let style = self.conv.style(row)?;
        let x = ops::modulate(x, &style, None)?;
        let energy = self.conv.weight.sqr()?.sum((2, 3))?;
        let (x, energy) = match self.up {
            true => (ops::fir(&ops::conv_transpose2d(&x, &self.conv.weight, None, 2, 0)?, &FILTER, 1, 1, 1, 1, 4.0)?, energy),
            false => (ops::conv2d(&x, &self.conv.weight, None, 1, 1)?, energy.t()?),
        };
        let norm = (style.sqr()?.matmul(&energy)? + EPS)?.sqrt()?;
        let gain = norm.recip()?.affine(2f64.sqrt(), 0.0)?;
        let x = ops::modulate(&x, &gain, None)?;
        let strength = noise.1.affine(2f64.sqrt(), 0.0)?;
        let bias = self.conv.bias.affine(2f64.sqrt(), 0.0)?.reshape((1, (), 1, 1))?;
        ops::noise_bias_lrelu(&x, Some((&noise.0, &strength)), Some(&bias), SLOPE)
    }
}

/// What a synthesis went through.
pub struct Trace {
    /// The feature map after each layer.
    pub layers: Vec<Tensor>,
    /// toRGB of each block; each is added to the upsampled sum of those before.
    pub rgb: Vec<Tensor>,
    pub image: Tensor,
}

/// The network. See [`Generator`] for its use.
pub struct StyleGan2 {
    layout: Layout,
    /// The embeddings of the classes [classes, z_dim], where there are any.
    labels: Option<Tensor>,
    mapping: Vec<(Tensor, Tensor)>,
    constant: Tensor,
    layers: Vec<Layer>,
    outputs: Vec<Modulated>,
    stored_noise: Vec<Tensor>,
    centre: Option<Tensor>,
    /// The mean w that drifts in training mode, [1, w_dim]; None before the first pass.
    drifting: Mutex<Option<Tensor>>,
}

impl StyleGan2 {
    /// Fresh, trainable or frozen, as `p` is.
    ///
    /// Errors: a tensor is missing or has another shape; the resolution is no power of two from 8 up.
    pub fn new(cfg: &Config, p: &Params) -> Result<Self> {
        if cfg.resolution < 8 || !cfg.resolution.is_power_of_two() || cfg.mapping_layers == 0 {
            bail!("StyleGANv2: resolution {} must be a power of two from 8 up, with at least one mapping layer", cfg.resolution)
        }
        let layout = cfg.layout();
        let labels = match cfg.label_size {
            0 => None,
            count => Some(p.get("mapping.label_weight", (count, cfg.z_dim), Init::Normal(1.0))?),
        };
        let mut mapping = Vec::new();
        let mut inputs = cfg.z_dim * if labels.is_some() { 2 } else { 1 };
        for i in 0..cfg.mapping_layers {
            let outputs = if i + 1 == cfg.mapping_layers { cfg.w_dim } else { cfg.mapping_fmaps };
            let dense = p.pp(format!("mapping.dense{i}"));
            let std = 1.0 / (inputs as f64).sqrt();
            let weight = dense.get_coef("weight", (outputs, inputs), Init::Normal(std), std * MAPPING_LR)?;
            mapping.push((weight, dense.get_coef("bias", outputs, Init::Const(0.0), MAPPING_LR)?));
            inputs = outputs;
        }
        let synthesis = p.pp("synthesis");
        let (mut layers, mut outputs) = (Vec::new(), Vec::new());
        let mut inputs = layout.channels[0].1;
        for (block, &(_, c)) in layout.channels.iter().enumerate() {
            for up in [true, false] {
                if up && block == 0 {
                    continue;
                }
                let p = synthesis.pp(format!("layer{}", layers.len()));
                let dims = if up { (inputs, c, 3, 3) } else { (c, inputs, 3, 3) };
                let conv = Modulated::new(&p, dims, inputs, c, cfg.w_dim)?;
                layers.push(Layer { conv, up, strength: p.get("noise_strength", (), Init::Const(0.0))? });
                inputs = c;
            }
            let p = synthesis.pp(format!("output{block}"));
            outputs.push(Modulated::new(&p, (cfg.image_channels, c, 1, 1), c, cfg.image_channels, cfg.w_dim)?);
        }
        let constant = synthesis.get("early_layer.const", (1, layout.channels[0].1, 4, 4), Init::Normal(1.0))?;
        let (stored_noise, centre, drifting) = (Vec::new(), None, Mutex::new(None));
        Ok(StyleGan2 { layout, labels, mapping, constant, layers, outputs, stored_noise, centre, drifting })
    }

    /// The same network with this centre of truncation, [rows or 1, w_dim].
    pub fn with_centre(self, centre: Tensor) -> Self {
        StyleGan2 { centre: Some(centre), ..self }
    }

    /// The same network with these noise maps as the default ones, in call order, each [1, 1, r, r].
    pub fn with_noise(self, stored_noise: Vec<Tensor>) -> Self {
        StyleGan2 { stored_noise, ..self }
    }

    /// z [n, z_dim] to w [n, w_dim]; where there are labels, with the classes of the images, as in [`Generator::map`]: the embedding of each
    /// is joined to its z, then both are normalised.
    pub fn w(&self, z: &Tensor, classes: Option<&Tensor>) -> Result<Tensor> {
        let mut w = match &self.labels {
            None => ops::pixel_norm(z, EPS)?,
            Some(labels) => {
                let embedded = class_rows(&self.layout, classes, z)?.matmul(labels)?;
                ops::pixel_norm(&Tensor::cat(&[z, &embedded], 1)?, EPS)?
            }
        };
        for (weight, bias) in &self.mapping {
            w = ops::leaky_relu(&ops::linear(&w, weight, Some(bias))?, SLOPE)?.affine(2f64.sqrt(), 0.0)?;
        }
        Ok(w)
    }

    fn rows(&self, w: &Tensor) -> Result<Tensor> {
        let (n, dim) = w.dims2()?;
        w.unsqueeze(1)?.broadcast_as((n, self.layout.rows, dim))?.contiguous()
    }

    /// The latent and the new centre when the network is left in training mode, as the released scripts leave it: the centre moves
    /// towards the mean w of the batch, then, if `mix` gives another z and a cutoff, the rows before the cutoff come from that z,
    /// then the latent is truncated with the moved centre. `centre` is [1, w_dim]; `classes` are those of both z.
    pub fn map_in_training(
        &self,
        z: &Tensor,
        classes: Option<&Tensor>,
        mix: Option<(&Tensor, usize)>,
        (psi, layers): (f64, usize),
        centre: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let w = self.w(z, classes)?;
        let centre = ((centre * CENTRE_DECAY)? + (w.mean_keepdim(0)?.detach() * (1.0 - CENTRE_DECAY))?)?;
        let mut latent = self.rows(&w)?;
        if let Some((other, cutoff)) = mix {
            let rows = self.layout.rows;
            if cutoff == 0 || cutoff >= rows {
                bail!("style mixing: the cutoff is {cutoff}, it must lie between 1 and {}", rows - 1)
            }
            let other = self.rows(&self.w(other, classes)?)?;
            latent = Tensor::cat(&[other.narrow(1, 0, cutoff)?, latent.narrow(1, cutoff, rows - cutoff)?], 1)?;
        }
        Ok((self.truncate(&latent, psi, layers, Some(&centre))?, centre))
    }

    fn drifting(&self) -> MutexGuard<'_, Option<Tensor>> {
        self.drifting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The style (scale) of each layer and of each toRGB, [n, C].
    pub fn styles(&self, latent: &Tensor) -> Result<(Vec<Tensor>, Vec<Tensor>)> {
        let row = |i: usize| latent.narrow(1, i, 1)?.squeeze(1)?.contiguous();
        let layers = self.layers.iter().enumerate().map(|(i, layer)| layer.conv.style(&row(i)?));
        let outputs = self.outputs.iter().enumerate().map(|(k, output)| output.style(&row(2 * k + 1)?));
        Ok((layers.collect::<Result<_>>()?, outputs.collect::<Result<_>>()?))
    }

    /// Synthesis up to block `last` (0 = 4 px).
    pub fn trace(&self, latent: &Tensor, with: &Synthesis, last: usize) -> Result<Trace> {
        let (n, rows, w_dim) = latent.dims3()?;
        if (rows, w_dim) != (self.layout.rows, self.layout.w_dim) || last >= self.outputs.len() {
            let blocks = self.outputs.len();
            bail!("latent {:?}, last block {last}: this generator takes {:?} and has {blocks} blocks", latent.dims(), self.layout.latent(n))
        }
        let row = |i: usize| latent.narrow(1, i, 1)?.squeeze(1)?.contiguous();
        let noise = noise_of(self, with, 2 * last + 1)?;
        let constant = with.constant.unwrap_or(&self.constant);
        let mut x = constant.broadcast_as((n, constant.dim(1)?, 4, 4))?.contiguous()?;
        let (mut layers, mut rgb): (Vec<Tensor>, Vec<Tensor>) = (Vec::new(), Vec::new());
        for (i, layer) in self.layers[..2 * last + 1].iter().enumerate() {
            x = layer.forward(&x, &noise[i], &row(i)?)?;
            layers.push(x.clone());
            if !layer.up {
                rgb.push(self.outputs[rgb.len()].to_rgb(&x, &row(2 * rgb.len() + 1)?)?);
            }
        }
        let mut image = rgb[0].clone();
        for next in &rgb[1..] {
            image = (ops::fir(&image, &FILTER, 2, 1, 2, 1, 4.0)? + next)?;
        }
        Ok(Trace { layers, rgb, image })
    }
}

impl Generator for StyleGan2 {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn map(&self, z: &Tensor, classes: Option<&Tensor>) -> Result<Tensor> {
        self.rows(&self.w(z, classes)?)
    }

    fn synthesize(&self, latent: &Tensor, with: &Synthesis) -> Result<Tensor> {
        let Stage { last, blend } = with.stage.unwrap_or(Stage { last: self.outputs.len() - 1, blend: 1.0 });
        let trace = self.trace(latent, with, last)?;
        match trace.rgb.last() {
            // A block fades in through its toRGB, the skip connection brings the image of the blocks before.
            Some(rgb) if blend < 1.0 => trace.image - (rgb * (1.0 - blend))?,
            _ => Ok(trace.image),
        }
    }

    fn constant(&self) -> Option<&Tensor> {
        Some(&self.constant)
    }

    fn noise_strengths(&self) -> Result<Vec<Tensor>> {
        let sites = self.layers.iter().zip(&self.layout.noise);
        sites.map(|(layer, site)| layer.strength.reshape((1, 1, 1, 1))?.broadcast_as((1, site.channels, 1, 1))?.contiguous()).collect()
    }

    fn stored_noise(&self) -> &[Tensor] {
        &self.stored_noise
    }

    fn centre(&self) -> Option<&Tensor> {
        self.centre.as_ref()
    }

    fn training_mode(&self) -> Option<&dyn TrainingMode> {
        Some(self)
    }
}

impl TrainingMode for StyleGan2 {
    fn latent(&self, z: &Tensor, classes: Option<&Tensor>, mixing: &Mixing, psi: f64, layers: usize) -> Result<Tensor> {
        let start = match (&*self.drifting(), &self.centre) {
            (Some(centre), _) => centre.clone(),
            (None, Some(centre)) => centre.narrow(0, 0, 1)?,
            // As an untrained network of the reference starts.
            (None, None) => Tensor::zeros((1, self.layout.w_dim), z.dtype(), z.device())?,
        };
        let mix = mixing.cutoff.map(|cutoff| (&mixing.z, cutoff));
        let (latent, centre) = self.map_in_training(z, classes, mix, (psi, layers), &start)?;
        *self.drifting() = Some(centre.detach());
        Ok(latent)
    }

    fn begin_pass(&self) -> Result<()> {
        Ok(())
    }

    fn state(&self) -> Result<Tensors> {
        Ok(self.drifting().iter().map(|centre| ("centre".to_string(), centre.clone())).collect())
    }

    fn restore(&self, state: &Tensors) -> Result<()> {
        let centre = state.get("centre");
        if let Some(centre) = centre.filter(|c| c.dims() != [1, self.layout.w_dim]) {
            bail!("the drifted mean w has shape {:?}, it must be [1, {}]", centre.dims(), self.layout.w_dim)
        }
        *self.drifting() = centre.cloned();
        Ok(())
    }
}

/// The network of a checkpoint, frozen: genforce's files, rosinality's (the names of `g_ema`, or pSp's `decoder.`; a mean w under
/// "latent_avg"), or the effective weights of [`StyleGan2::new`].
pub fn open(tensors: Tensors, target: &Target) -> crate::Result<StyleGan2> {
    let mut noise = Vec::new();
    let rosinality = tensors.keys().any(|name| name.ends_with("conv1.conv.modulation.weight"));
    let raw = rosinality || tensors.contains_key("synthesis.upsample.kernel");
    let mut tensors = if rosinality { from_rosinality(tensors).map_err(|e| target.misfit(e))? } else { tensors };
    for i in 0.. {
        match tensors.remove(&format!("synthesis.layer{i}.noise")) {
            Some(map) => noise.push(map),
            None => break,
        }
    }
    tensors.retain(|name, _| !name.ends_with(".filter.kernel") && name != "synthesis.upsample.kernel");
    let centre = tensors.remove("truncation.w_avg");

    let blocks = count(&tensors, |i| format!("synthesis.output{i}.weight"));
    let mapping_layers = count(&tensors, |i| format!("mapping.dense{i}.weight"));
    if blocks < 2 || mapping_layers == 0 {
        return Err(target.corrupt(format!("{blocks} toRGB layers and {mapping_layers} mapping layers: not a whole StyleGANv2")));
    }
    let resolution = 2 << blocks;
    let channels = |k: usize| Ok((4 << k, target.dims::<4>(&tensors, &format!("synthesis.output{k}.weight"))?[1]));
    let (fmaps_base, fmaps_max) = width_table(&(0..blocks).map(channels).collect::<crate::Result<Vec<_>>>()?);
    let [mapping_fmaps, inputs] = target.dims(&tensors, "mapping.dense0.weight")?;
    let [label_size, z_dim] = match tensors.contains_key("mapping.label_weight") {
        true => target.dims(&tensors, "mapping.label_weight")?,
        false => [0, inputs],
    };
    let [w_dim, _] = target.dims(&tensors, &format!("mapping.dense{}.weight", mapping_layers - 1))?;
    let [image_channels, ..] = target.dims::<4>(&tensors, "synthesis.output0.weight")?;
    let cfg = Config { resolution, z_dim, w_dim, label_size, fmaps_base, fmaps_max, mapping_layers, mapping_fmaps, image_channels };

    let place = |t: Tensor| t.to_dtype(target.dtype)?.to_device(&target.device)?.contiguous();
    let build = || -> Result<StyleGan2> {
        if raw {
            for (name, tensor) in tensors.iter_mut() {
                *tensor = effective(name, tensor, !rosinality)?;
            }
        }
        let p = Params::frozen(tensors, target.dtype, &target.device, &target.origin);
        let mut net = StyleGan2::new(&cfg, &p)?;
        p.finish()?;
        net.stored_noise = noise.into_iter().map(place).collect::<Result<_>>()?;
        net.centre = centre.map(|t| place(t)?.reshape(((), cfg.w_dim))).transpose()?;
        Ok(net)
    };
    build().map_err(|e| target.misfit(e))
}

/// A raw tensor made effective. The weight of an upsampling layer gets its input channels first; genforce's is also turned round,
/// because it stores the kernel of a convolution.
fn effective(name: &str, t: &Tensor, turn: bool) -> Result<Tensor> {
    let layer = name.strip_prefix("synthesis.layer").and_then(numbered);
    let fan_in = |t: &Tensor| t.elem_count() as f64 / t.dim(0).unwrap_or(1) as f64;
    match (layer, name) {
        (_, "mapping.label_weight") => Ok(t.clone()),
        (_, name) if name.starts_with("mapping.") && name.ends_with(".weight") => t * (MAPPING_LR / fan_in(t).sqrt()),
        (_, name) if name.starts_with("mapping.") => t * MAPPING_LR,
        (Some((i, "weight")), _) if i % 2 == 1 => {
            let scaled = (t / fan_in(t).sqrt())?.transpose(0, 1)?.contiguous()?;
            if turn { scaled.flip(&[2, 3]) } else { Ok(scaled) }
        }
        (_, name) if name.ends_with(".weight") => t / fan_in(t).sqrt(),
        _ => Ok(t.clone()),
    }
}

/// rosinality's tensors under genforce's names, still raw.
fn from_rosinality(tensors: Tensors) -> Result<Tensors> {
    let convert = |(name, t): (String, Tensor)| -> Result<(String, Tensor)> {
        let name = name.strip_prefix("decoder.").unwrap_or(&name).to_string();
        let Some(new) = genforce_name(&name) else { return Ok((name, t)) };
        let t = match new.rsplit('.').next().unwrap_or("") {
            // A modulated weight has a leading axis of 1.
            "weight" if t.rank() == 5 => t.squeeze(0)?,
            // Here the stored bias of a style includes the 1.
            "bias" if new.ends_with("style.bias") => (t - 1.0)?,
            "bias" => t.flatten_all()?,
            "noise_strength" => t.reshape(())?,
            _ => t,
        };
        Ok((new, t))
    };
    tensors.into_iter().map(convert).collect()
}

/// genforce's name of a rosinality tensor, None where it has none.
fn genforce_name(name: &str) -> Option<String> {
    match name {
        "latent_avg" => return Some("truncation.w_avg".into()),
        "input.input" => return Some("synthesis.early_layer.const".into()),
        _ => {}
    }
    if let Some((i, kind)) = name.strip_prefix("style.").and_then(numbered) {
        return Some(format!("mapping.dense{}.{kind}", i.checked_sub(1)?));
    }
    if let Some(i) = name.strip_prefix("noises.noise_") {
        return Some(format!("synthesis.layer{i}.noise"));
    }
    if let Some((k, kind)) = name.strip_prefix("to_rgb1.").map(|kind| (0, kind)).or_else(|| {
        let (k, kind) = name.strip_prefix("to_rgbs.").and_then(numbered)?;
        Some((k + 1, kind))
    }) {
        let own = match kind {
            "upsample.kernel" => return Some("synthesis.upsample.kernel".into()),
            _ => kind.strip_prefix("conv.").unwrap_or(kind).replace("modulation.", "style."),
        };
        return Some(format!("synthesis.output{k}.{own}"));
    }
    let (i, kind) = name.strip_prefix("conv1.").map(|kind| (0, kind)).or_else(|| {
        let (i, kind) = name.strip_prefix("convs.").and_then(numbered)?;
        Some((i + 1, kind))
    })?;
    let own = match kind {
        "conv.weight" => "weight",
        "conv.modulation.weight" => "style.weight",
        "conv.modulation.bias" => "style.bias",
        "conv.blur.kernel" => "filter.kernel",
        "noise.weight" => "noise_strength",
        "activate.bias" => "bias",
        _ => return None,
    };
    Some(format!("synthesis.layer{i}.{own}"))
}
