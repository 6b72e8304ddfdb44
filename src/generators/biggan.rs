//! BigGAN-deep: Brock, Donahue, Simonyan, "Large Scale GAN Training for High Fidelity Natural Image Synthesis", ICLR 2019.
//!
//! The reference is huggingface/pytorch-pretrained-BigGAN, which MTV-TSA carries; the names are those of its `pytorch_model.bin`,
//! the configuration is its `config.json`. Spectral norms are folded into the weights of a frozen network; batch norms read the
//! row of the standing statistics that belongs to a truncation.
//!
//! Longer than other files: one paper, one file, with what opens its published files.

use candle_core::{Device, Result, Tensor, bail};
use rand::RngExt;
use rand_distr::StandardNormal;
use serde::Deserialize;

use super::checkpoint::{Target, Tensors};
use super::self_attention::Attention;
use super::spectral::{Conv, Scheme, Spectral};
use super::{Family, Generator, Layout, Mixing, Synthesis, TrainingMode, class_rows, draw_classes};
use crate::ops;
use crate::params::{Init, Params};
use crate::random::Stream;

/// z is drawn anew where it lies further out than this.
const FURTHEST_Z: f32 = 2.0;

/// Images of one pass over which standing statistics are taken, as many as a shard of the mini training has, and the number of passes.
const STANDING: (u64, u64) = (16, 32);

/// The shape of a BigGAN-deep: Hugging Face's `config.json`. A missing field has the value of the 128 px model.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct Config {
    pub output_dim: usize,
    pub z_dim: usize,
    pub class_embed_dim: usize,
    /// The unit of the channel counts.
    pub channel_width: usize,
    pub num_classes: usize,
    /// Of each block: does it double the resolution, channels in, channels out (in units of `channel_width`).
    pub layers: Vec<(bool, usize, usize)>,
    /// Self-attention stands before this block.
    pub attention_layer_position: usize,
    pub eps: f64,
    /// Rows of the standing statistics, for truncations 0 to 1.
    pub n_stats: usize,
    /// Fresh weights are orthogonal matrices, as published for training; else normal.
    #[serde(skip)]
    pub orthogonal: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config::paper(128)
    }
}

impl Config {
    /// The published network at 128, 256 or 512 px.
    pub fn paper(resolution: usize) -> Self {
        let widths: &[usize] = match resolution {
            128 => &[16, 16, 16, 16, 8, 8, 4, 4, 2, 2, 1],
            256 => &[16, 16, 16, 16, 8, 8, 8, 8, 4, 4, 2, 2, 1],
            _ => &[16, 16, 16, 16, 8, 8, 8, 8, 4, 4, 2, 2, 1, 1, 1],
        };
        Config {
            output_dim: resolution,
            z_dim: 128,
            class_embed_dim: 128,
            channel_width: 128,
            num_classes: 1000,
            layers: widths.windows(2).enumerate().map(|(i, w)| (i % 2 == 1, w[0], w[1])).collect(),
            attention_layer_position: 8,
            eps: 1e-4,
            n_stats: 51,
            orthogonal: false,
        }
    }

    /// A network of other channels, from those of the 4 px map on, block by block; every second block doubles the resolution, and the
    /// attention stands at 64 px, or at half the resolution where that is less.
    ///
    /// Errors: no pairs of blocks, or channels that are no multiple of the last ones.
    pub fn of_channels(channels: &[usize], z_dim: usize, num_classes: usize) -> Result<Self> {
        let unit = channels.last().copied().unwrap_or(0);
        if channels.len() < 3 || channels.len().is_multiple_of(2) || unit == 0 || channels.iter().any(|c| !c.is_multiple_of(unit)) {
            bail!("BigGAN: the channels {channels:?} must be of an even number of blocks, all multiples of the last")
        }
        let output_dim: usize = 4 << ((channels.len() - 1) / 2);
        let layers = channels.windows(2).enumerate().map(|(i, w)| (i % 2 == 1, w[0] / unit, w[1] / unit)).collect();
        let attention_layer_position = 2 * ((output_dim / 2).min(64) / 4).ilog2() as usize;
        let (class_embed_dim, channel_width) = (z_dim, unit);
        Ok(Config { output_dim, z_dim, class_embed_dim, channel_width, num_classes, layers, attention_layer_position, ..Self::paper(128) })
    }

    fn scheme(&self) -> Scheme {
        Scheme { eps: self.eps, orthogonal: self.orthogonal }
    }

    fn condition(&self) -> usize {
        self.z_dim + self.class_embed_dim
    }

    fn layout(&self) -> Layout {
        let mut channels = vec![(4, 0)];
        for &(up, _, out) in &self.layers {
            let (resolution, _) = channels[channels.len() - 1];
            if up {
                channels.push((2 * resolution, 0));
            }
            let last = channels.len() - 1;
            channels[last].1 = out * self.channel_width;
        }
        Layout {
            family: Family::BigGan,
            resolution: self.output_dim,
            z_dim: self.z_dim,
            w_dim: self.condition(),
            rows: 0,
            constant: None,
            noise: Vec::new(),
            channels,
            classes: self.num_classes,
        }
    }
}

/// A truncation in (0, 1]: the row of the standing statistics. It does not scale z.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Truncation {
    pub value: f64,
    /// Find the row in f32, as a caller does who passes the truncation as a tensor (MTV-TSA). Some values, such as 0.3, then
    /// fall just beyond a row.
    pub single: bool,
}

impl Truncation {
    /// MTV-TSA's truncation of BigGAN.
    pub const PAPER: Truncation = Truncation { value: 0.4, single: true };
    /// The last row.
    pub const NONE: Truncation = Truncation { value: 1.0, single: false };

    /// Row index and the share of that row; the rest is the next row's. These shares are swapped with respect to linear
    /// interpolation, as they are in the reference; a share of 0 means the row alone.
    fn row(self, n_stats: usize) -> Result<(usize, f64)> {
        if !(self.value > 0.0 && self.value <= 1.0) || n_stats < 2 {
            bail!("truncation {} must lie above 0 and not above 1", self.value)
        }
        let step = 1.0 / (n_stats - 1) as f64;
        let place = if self.single { (self.value as f32 / step as f32) as f64 } else { self.value / step };
        Ok((place.trunc() as usize, place.fract()))
    }
}

/// Where batch norms take mean and variance from.
enum Statistics<'a> {
    /// Row `index`, share `share` (see [`Truncation`]).
    Standing { index: usize, share: f64 },
    /// The batch itself; each norm's (mean, variance) is pushed, in call order.
    Batch(&'a mut Vec<(Tensor, Tensor)>),
}

/// Scale and offset of a batch norm: of the condition, or learned.
enum Affine {
    Conditional { scale: Spectral, offset: Spectral },
    Learned { weight: Tensor, bias: Tensor },
}

struct BatchNorm {
    means: Tensor,
    vars: Tensor,
    affine: Affine,
    eps: f64,
}

impl BatchNorm {
    fn new(p: &Params, channels: usize, cfg: &Config, conditional: bool) -> Result<Self> {
        let affine = if conditional {
            let map = |name: &str| Spectral::new(&p.pp(name), &[channels, cfg.condition()], cfg.scheme());
            Affine::Conditional { scale: map("scale")?, offset: map("offset")? }
        } else {
            Affine::Learned { weight: p.get("weight", channels, Init::Const(1.0))?, bias: p.get("bias", channels, Init::Const(0.0))? }
        };
        let means = p.get("running_means", (cfg.n_stats, channels), Init::Const(0.0))?;
        let vars = p.get("running_vars", (cfg.n_stats, channels), Init::Const(1.0))?;
        Ok(BatchNorm { means, vars, affine, eps: cfg.eps })
    }

    /// ReLU of the normalised x. Everything but x is small, so it is one scale and one offset per image and channel.
    fn forward(&self, x: &Tensor, condition: &Tensor, statistics: &mut Statistics) -> Result<Tensor> {
        let (mean, var) = match statistics {
            Statistics::Standing { index, share } => {
                let row = |table: &Tensor| -> Result<Tensor> {
                    let at = |i: usize| table.detach().narrow(0, i, 1);
                    if *share == 0.0 { at(*index) } else { (at(*index)? * *share)? + (at(*index + 1)? * (1.0 - *share))? }
                };
                (row(&self.means)?, row(&self.vars)?)
            }
            Statistics::Batch(seen) => {
                // The moments of the batch from those of its maps: one pass over x.
                let (stats, c) = (ops::style_stats(x)?, x.dim(1)?);
                let (means, deviations) = (stats.narrow(1, 0, c)?, stats.narrow(1, c, c)?);
                let mean = means.mean_keepdim(0)?;
                let var = (deviations.sqr()? + means.broadcast_sub(&mean)?.sqr()?)?.mean_keepdim(0)?;
                seen.push((mean.detach().squeeze(0)?, var.detach().squeeze(0)?));
                (mean, var)
            }
        };
        let (gain, offset) = match &self.affine {
            Affine::Conditional { scale, offset } => {
                ((ops::linear(condition, &scale.weight()?, None)? + 1.0)?, ops::linear(condition, &offset.weight()?, None)?)
            }
            Affine::Learned { weight, bias } => (weight.unsqueeze(0)?, bias.unsqueeze(0)?),
        };
        let gain = gain.broadcast_div(&(var + self.eps)?.sqrt()?)?;
        let offset = offset.broadcast_sub(&gain.broadcast_mul(&mean)?)?;
        ops::relu(&ops::modulate(x, &gain, Some(&offset))?)
    }
}

struct Block {
    up: bool,
    outputs: usize,
    norms: [BatchNorm; 4],
    convs: [Conv; 4],
}

impl Block {
    fn new(p: &Params, (up, inputs, outputs): (bool, usize, usize), cfg: &Config) -> Result<Self> {
        let middle = inputs / 4;
        let norm = |i: usize, c: usize| BatchNorm::new(&p.pp(format!("bn_{i}")), c, cfg, true);
        let conv = |i: usize, from: usize, to: usize, side: usize| Conv::new(&p.pp(format!("conv_{i}")), from, to, side, cfg.scheme());
        Ok(Block {
            up,
            outputs,
            norms: [norm(0, inputs)?, norm(1, middle)?, norm(2, middle)?, norm(3, middle)?],
            convs: [conv(0, inputs, middle, 1)?, conv(1, middle, middle, 3)?, conv(2, middle, middle, 3)?, conv(3, middle, outputs, 1)?],
        })
    }

    fn forward(&self, x: &Tensor, condition: &Tensor, statistics: &mut Statistics) -> Result<Tensor> {
        let mut y = x.clone();
        for (i, (norm, conv)) in self.norms.iter().zip(&self.convs).enumerate() {
            y = norm.forward(&y, condition, statistics)?;
            if self.up && i == 1 {
                y = ops::upsample2(&y)?;
            }
            y = conv.forward(&y)?;
        }
        // Where the channels change the skip keeps the first half of them, whatever their number after the block.
        let inputs = x.dim(1)?;
        let skip = if inputs == self.outputs { x.clone() } else { x.narrow(1, 0, inputs / 2)?.contiguous()? };
        ops::mix(&y, 1.0, &if self.up { ops::upsample2(&skip)? } else { skip }, 1.0)
    }
}

/// What a synthesis went through.
pub struct Trace {
    /// The first linear layer's result, [n, 16 * 16 * channel_width], channels last.
    pub seed: Tensor,
    /// The map after each entry of the published `generator.layers`: blocks, and the attention among them.
    pub layers: Vec<Tensor>,
    pub image: Tensor,
}

/// The network. Its latent is the condition vector [z ; embedding of the class], [n, z_dim + class_embed_dim].
pub struct BigGan {
    cfg: Config,
    layout: Layout,
    embeddings: Tensor,
    gen_z: Spectral,
    gen_z_bias: Tensor,
    blocks: Vec<Block>,
    attention: Attention,
    norm: BatchNorm,
    rgb: Conv,
    truncation: Truncation,
}

impl BigGan {
    /// Fresh, trainable or frozen, as `p` is.
    ///
    /// Errors: a tensor is missing or has another shape; the configuration contradicts itself.
    pub fn new(cfg: &Config, truncation: Truncation, p: &Params) -> Result<Self> {
        let layout = cfg.layout();
        let end = layout.channels.last().map_or(0, |c| c.0);
        let joined = cfg.layers.windows(2).all(|pair| pair[0].2 == pair[1].1);
        if cfg.layers.is_empty() || end != cfg.output_dim || !joined || cfg.attention_layer_position >= cfg.layers.len() {
            bail!(
                "BigGAN: {} blocks that end at {end} px, attention before block {}, do not make a {} px network",
                cfg.layers.len(),
                cfg.attention_layer_position,
                cfg.output_dim
            )
        }
        truncation.row(cfg.n_stats)?;
        let g = p.pp("generator");
        let mut blocks = Vec::new();
        let mut attention = None;
        for (i, &(up, from, to)) in cfg.layers.iter().enumerate() {
            let (from, to) = (from * cfg.channel_width, to * cfg.channel_width);
            if i == cfg.attention_layer_position {
                attention = Some(Attention::new(&g.pp(format!("layers.{i}")), from, cfg.scheme())?);
            }
            // The attention layer takes an index of its own.
            let index = i + attention.is_some() as usize;
            blocks.push(Block::new(&g.pp(format!("layers.{index}")), (up, from, to), cfg)?);
        }
        let Some(attention) = attention else { bail!("BigGAN: no attention layer") };
        let (first, last) = (cfg.layers[0].1 * cfg.channel_width, cfg.layers[cfg.layers.len() - 1].2 * cfg.channel_width);
        let gen_z = g.pp("gen_z");
        let embedding = if cfg.orthogonal { Init::Orthogonal } else { Init::Normal(1.0) };
        Ok(BigGan {
            // Orthogonal, as published, an embedding has norm 1, a small voice beside z. With normal values it has the norm of z, and a
            // mini training then drew each class in one place.
            embeddings: p.get("embeddings.weight", (cfg.class_embed_dim, cfg.num_classes), embedding)?,
            gen_z: Spectral::new(&gen_z, &[16 * first, cfg.condition()], cfg.scheme())?,
            gen_z_bias: gen_z.get("bias", 16 * first, Init::Const(0.0))?,
            blocks,
            attention,
            norm: BatchNorm::new(&g.pp("bn"), last, cfg, false)?,
            rgb: Conv::new(&g.pp("conv_to_rgb"), last, last, 3, cfg.scheme())?,
            truncation,
            cfg: cfg.clone(),
            layout,
        })
    }

    /// The same network at another truncation.
    pub fn with_truncation(self, truncation: Truncation) -> Result<Self> {
        truncation.row(self.cfg.n_stats)?;
        Ok(BigGan { truncation, ..self })
    }

    /// One power iteration of every spectral norm, in place. In training it goes before each pass; the released scripts do it too,
    /// because they leave the frozen network in training mode.
    pub fn power_iteration(&self) -> Result<()> {
        self.spectral().into_iter().try_for_each(|(_, s)| s.power_iteration())
    }

    /// The spectral norm sigma of every normalised weight, by its published name.
    pub fn sigmas(&self) -> Result<Vec<(String, Tensor)>> {
        self.spectral().into_iter().map(|(name, s)| Ok((name, s.sigma()?))).collect()
    }

    /// The singular vectors (u, v) of the first layer.
    pub fn first_vectors(&self) -> (Tensor, Tensor) {
        self.gen_z.vectors()
    }

    /// Errors: a stage at which the network is not whole.
    fn check_grown(&self, with: &Synthesis) -> Result<()> {
        match with.stage {
            Some(stage) if (4 << stage.last, stage.blend) != (self.cfg.output_dim, 1.0) => bail!("BigGAN does not grow"),
            _ => Ok(()),
        }
    }

    fn spectral(&self) -> Vec<(String, &Spectral)> {
        let mut all = vec![("generator.gen_z".to_string(), &self.gen_z), ("generator.conv_to_rgb".to_string(), &self.rgb.kernel)];
        for (i, block) in self.blocks.iter().enumerate() {
            let place = format!("generator.layers.{}", i + (i >= self.cfg.attention_layer_position) as usize);
            for (k, (norm, conv)) in block.norms.iter().zip(&block.convs).enumerate() {
                all.push((format!("{place}.conv_{k}"), &conv.kernel));
                if let Affine::Conditional { scale, offset } = &norm.affine {
                    all.push((format!("{place}.bn_{k}.scale"), scale));
                    all.push((format!("{place}.bn_{k}.offset"), offset));
                }
            }
        }
        for (name, s) in self.attention.spectral() {
            all.push((format!("generator.layers.{}.snconv1x1_{name}", self.cfg.attention_layer_position), s));
        }
        all
    }

    /// Synthesis with everything on its way.
    pub fn trace(&self, latent: &Tensor) -> Result<Trace> {
        let (index, share) = self.truncation.row(self.cfg.n_stats)?;
        self.run(latent, &mut Statistics::Standing { index, share })
    }

    /// Synthesis in training: batch norms use the batch itself. The second value is each norm's (mean, variance) [C] in call order;
    /// averaged over many batches at one truncation they are a row of the standing statistics.
    pub fn synthesize_in_training(&self, latent: &Tensor) -> Result<(Tensor, Vec<(Tensor, Tensor)>)> {
        let mut seen = Vec::new();
        let image = self.run(latent, &mut Statistics::Batch(&mut seen))?.image;
        Ok((image, seen))
    }

    /// Every batch norm by its published name, in call order.
    fn norms(&self) -> Vec<String> {
        let place = |i: usize| i + (i >= self.cfg.attention_layer_position) as usize;
        let of_blocks = (0..self.blocks.len()).flat_map(|i| (0..4).map(move |k| format!("generator.layers.{}.bn_{k}", place(i))));
        of_blocks.chain(["generator.bn".to_string()]).collect()
    }

    /// z of `scale` times a standard normal value that is drawn anew until it lies within 2.
    fn truncated_z(&self, scale: f32, stream: &Stream, ids: &[u64], device: &Device) -> Result<Tensor> {
        let mut data = Vec::with_capacity(ids.len() * self.cfg.z_dim);
        for &id in ids {
            let mut rng = stream.at(id);
            let mut value = || loop {
                let v: f32 = rng.sample(StandardNormal);
                if v.abs() <= FURTHEST_Z {
                    return scale * v;
                }
            };
            data.extend((0..self.cfg.z_dim).map(|_| value()));
        }
        Tensor::from_vec(data, (ids.len(), self.cfg.z_dim), device)
    }

    /// The mean (mean, variance) of every norm over many batches of one truncation, in call order.
    fn standing_row(&self, truncation: f32, seed: u64) -> Result<Vec<(Tensor, Tensor)>> {
        let (images, passes) = STANDING;
        let (of_z, of_class) = (Stream::new(seed, "standing/z"), Stream::new(seed, "standing/class"));
        let device = self.embeddings.device();
        let mut sums: Vec<(Tensor, Tensor)> = Vec::new();
        for pass in 0..passes {
            let ids: Vec<u64> = (pass * images..(pass + 1) * images).collect();
            let z = self.truncated_z(truncation, &of_z, &ids, device)?.to_dtype(self.embeddings.dtype())?;
            let classes = draw_classes(&self.layout, &of_class, &ids, device)?;
            let (_, seen) = self.synthesize_in_training(&self.map(&z, classes.as_ref())?)?;
            sums = match sums.is_empty() {
                true => seen,
                false => sums.iter().zip(&seen).map(|(a, b)| Ok(((&a.0 + &b.0)?, (&a.1 + &b.1)?))).collect::<Result<_>>()?,
            };
        }
        sums.into_iter().map(|(mean, var)| Ok(((mean / passes as f64)?, (var / passes as f64)?))).collect()
    }

    fn run(&self, latent: &Tensor, statistics: &mut Statistics) -> Result<Trace> {
        let (n, dim) = latent.dims2()?;
        if dim != self.layout.w_dim {
            bail!("latent {:?}: this generator takes {:?}", latent.dims(), self.layout.latent(n))
        }
        let seed = ops::linear(latent, &self.gen_z.weight()?, Some(&self.gen_z_bias))?;
        let mut x = seed.reshape((n, 4, 4, ()))?.permute((0, 3, 1, 2))?.contiguous()?;
        let mut layers = Vec::new();
        for (i, block) in self.blocks.iter().enumerate() {
            if i == self.cfg.attention_layer_position {
                x = self.attention.forward(&x)?;
                layers.push(x.clone());
            }
            x = block.forward(&x, latent, statistics)?;
            layers.push(x.clone());
        }
        let x = self.norm.forward(&x, latent, statistics)?;
        // The published layer has as many outputs as inputs and uses three of them.
        let weight = self.rgb.kernel.weight()?.narrow(0, 0, 3)?.contiguous()?;
        let bias = self.rgb.bias.narrow(0, 0, 3)?.contiguous()?;
        let image = ops::conv2d(&x, &weight, Some(&bias), 1, 1)?.tanh()?;
        Ok(Trace { seed, layers, image })
    }
}

impl Generator for BigGan {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn map(&self, z: &Tensor, classes: Option<&Tensor>) -> Result<Tensor> {
        let embedded = ops::linear(&class_rows(&self.layout, classes, z)?, &self.embeddings, None)?;
        Tensor::cat(&[z, &embedded], 1)
    }

    /// The truncation times a standard normal value that is drawn anew until it lies within 2 (the reference's `truncated_noise_sample`).
    fn draw_z(&self, stream: &Stream, ids: &[u64], device: &Device) -> Result<Tensor> {
        self.truncated_z(self.truncation.value as f32, stream, ids, device)
    }

    fn synthesize(&self, latent: &Tensor, with: &Synthesis) -> Result<Tensor> {
        self.check_grown(with)?;
        Ok(self.trace(latent)?.image)
    }

    fn synthesize_to_train(&self, latent: &Tensor, with: &Synthesis) -> Result<Tensor> {
        self.check_grown(with)?;
        Ok(self.synthesize_in_training(latent)?.0)
    }

    fn power_iteration(&self) -> Result<()> {
        BigGan::power_iteration(self)
    }

    /// The running means and variances: a row for each truncation.
    fn standing_statistics(&self, seed: u64) -> Result<Tensors> {
        let last = (self.cfg.n_stats - 1) as f32;
        let rows = (0..self.cfg.n_stats).map(|row| self.standing_row(row as f32 / last, seed)).collect::<Result<Vec<_>>>()?;
        let mut tables = Tensors::new();
        for (i, name) in self.norms().into_iter().enumerate() {
            let table = |of: fn(&(Tensor, Tensor)) -> &Tensor| Tensor::stack(&rows.iter().map(|row| of(&row[i])).collect::<Vec<_>>(), 0);
            tables.insert(format!("{name}.running_means"), table(|row| &row.0)?);
            tables.insert(format!("{name}.running_vars"), table(|row| &row.1)?);
        }
        Ok(tables)
    }

    fn training_mode(&self) -> Option<&dyn TrainingMode> {
        Some(self)
    }
}

impl TrainingMode for BigGan {
    fn latent(&self, z: &Tensor, classes: Option<&Tensor>, _mixing: &Mixing, _psi: f64, _layers: usize) -> Result<Tensor> {
        self.map(z, classes)
    }

    fn begin_pass(&self) -> Result<()> {
        self.power_iteration()
    }

    fn state(&self) -> Result<Tensors> {
        let mut state = Tensors::new();
        for (name, spectral) in self.spectral() {
            let (u, v) = spectral.vectors();
            state.insert(format!("{name}.weight_u"), u);
            state.insert(format!("{name}.weight_v"), v);
        }
        Ok(state)
    }

    fn restore(&self, state: &Tensors) -> Result<()> {
        for (name, spectral) in self.spectral() {
            let get = |which: &str, old: &Tensor| match state.get(&format!("{name}.weight_{which}")) {
                Some(t) if t.dims() == old.dims() => Ok(t.clone()),
                _ => bail!("the state of the spectral norms has no fitting {name}.weight_{which}"),
            };
            let (u, v) = spectral.vectors();
            spectral.set_vectors(get("u", &u)?, get("v", &v)?);
        }
        Ok(())
    }
}

/// The network of a checkpoint, frozen. Without a configuration the sizes are read from the tensors, and every second block is
/// taken to double the resolution, as in every published model (the tensors do not tell).
pub fn open(tensors: Tensors, target: &Target, cfg: Option<Config>, truncation: Truncation) -> crate::Result<BigGan> {
    let cfg = match cfg {
        Some(cfg) => cfg,
        None => Config::of(&tensors, target)?,
    };
    let p = Params::frozen(tensors, target.dtype, &target.device, &target.origin);
    let net = BigGan::new(&cfg, truncation, &p).map_err(|e| target.misfit(e))?;
    p.finish().map_err(|e| target.misfit(e))?;
    Ok(net)
}

impl Config {
    fn of(tensors: &Tensors, target: &Target) -> crate::Result<Self> {
        let [class_embed_dim, num_classes] = target.dims(tensors, "embeddings.weight")?;
        let [_, condition] = target.dims(tensors, "generator.gen_z.weight_orig")?;
        let [n_stats, channel_width] = target.dims(tensors, "generator.bn.running_means")?;
        let mut layers = Vec::new();
        let mut attention_layer_position = None;
        for i in 0.. {
            let place = format!("generator.layers.{i}");
            if tensors.contains_key(&format!("{place}.gamma")) {
                attention_layer_position = Some(i);
            } else if tensors.contains_key(&format!("{place}.conv_0.weight_orig")) {
                let [_, from, ..] = target.dims::<4>(tensors, &format!("{place}.conv_0.weight_orig"))?;
                let [to, ..] = target.dims::<4>(tensors, &format!("{place}.conv_3.weight_orig"))?;
                layers.push((layers.len() % 2 == 1, from / channel_width.max(1), to / channel_width.max(1)));
            } else {
                break;
            }
        }
        let (Some(attention_layer_position), Some(z_dim)) = (attention_layer_position, condition.checked_sub(class_embed_dim)) else {
            return Err(target.corrupt("no attention layer, or a condition vector shorter than the class embedding: not a BigGAN-deep"));
        };
        let output_dim = 4 << (layers.len() / 2);
        let eps = Config::default().eps;
        Ok(Config {
            output_dim,
            z_dim,
            class_embed_dim,
            channel_width,
            num_classes,
            layers,
            attention_layer_position,
            eps,
            n_stats,
            orthogonal: false,
        })
    }
}
