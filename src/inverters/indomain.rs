//! In-Domain inversion: Zhu, Shen, Zhao, Zhou, "In-Domain GAN Inversion for Real Image Editing", ECCV 2020.
//! Reference: genforce/idinvert_pytorch.
//!
//! The encoder makes w+ of a StyleGANv1 (row "In-Domain (R)"); [`InDomain::optimise`] then moves that w+ for one image, with
//! pixels, VGG features and the encoder as regulariser ("In-Domain (I)", 100 steps).

use candle_core::{DType, Device, Result, Tensor, bail};

use super::refine::{Guided, Latents, Schedule, guided, refine};
use super::{BatchNorm, Inverter};
use crate::generators::stylegan1::{self, StyleGan1};
use crate::generators::{Generator, Synthesis, Target, Tensors};
use crate::ops;
use crate::params::{Init, Params};
use crate::perceptual::vgg16::{self, Vgg16};

const SLOPE: f64 = 0.2;

/// The shape of the encoder; its channels are read from the tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub resolution: usize,
    pub w_dim: usize,
    /// Channels behind the first convolution; they double per block up to `max_width`.
    pub first_width: usize,
    pub max_width: usize,
    /// Convolutions are scaled by sqrt(2 / fan in) at run time (false in the published model).
    pub use_wscale: bool,
    pub use_bn: bool,
}

/// Convolution, bias, batch norm, leaky ReLU; the second and the third may be absent.
struct Conv {
    weight: Tensor,
    bias: Option<Tensor>,
    norm: Option<BatchNorm>,
}

impl Conv {
    fn new(cfg: &Config, p: &Params, names: [&str; 3], (inputs, outputs, side): (usize, usize, usize)) -> Result<Self> {
        let [conv, bias, norm] = names;
        let std = (2.0 / (side * side * inputs) as f64).sqrt();
        let init = Init::Normal(if cfg.use_wscale { 1.0 } else { std });
        let weight = p.pp(conv).get("weight", (outputs, inputs, side, side), init)?;
        let weight = if cfg.use_wscale { (weight * std)? } else { weight };
        let bias = if bias.is_empty() { None } else { Some(p.pp(bias).get("bias", outputs, Init::Const(0.0))?) };
        let norm = if cfg.use_bn { Some(BatchNorm::new(&p.pp(norm).pp("bn"), outputs)?) } else { None };
        Ok(Conv { weight, bias, norm })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = ops::conv2d(x, &self.weight, self.bias.as_ref(), 1, self.weight.dim(2)? / 2)?;
        let x = match &self.norm {
            Some(norm) => norm.forward(&x)?,
            None => x,
        };
        ops::leaky_relu(&x, SLOPE)
    }
}

struct Residual {
    /// Where the channels change.
    shortcut: Option<Conv>,
    first: Conv,
    second: Conv,
}

/// The encoder: images [n, 3, r, r] in [-1, 1] to w+ [n, rows, w_dim].
pub struct Encoder {
    config: Config,
    enter: Conv,
    blocks: Vec<Residual>,
    weight: Tensor,
    norm: Option<BatchNorm>,
}

impl Encoder {
    /// Errors: a resolution that is no power of two from 8 up; a missing or misshapen tensor.
    pub fn new(config: &Config, p: &Params) -> Result<Self> {
        let cfg = config;
        if cfg.resolution < 8 || !cfg.resolution.is_power_of_two() {
            bail!("In-Domain: resolution {} must be a power of two from 8 up", cfg.resolution)
        }
        let count = cfg.resolution.ilog2() as usize;
        let width = |i: usize| (cfg.first_width << i).min(cfg.max_width);
        let enter = Conv::new(cfg, &p.pp("block0"), ["conv", "", "bn"], (3, cfg.first_width, 3))?;
        let block = |i: usize| -> Result<Residual> {
            let (p, inputs, outputs) = (p.pp(format!("block{i}")), width(i - 1), width(i));
            let middle = inputs.min(outputs);
            let shortcut = if inputs == outputs { None } else { Some(Conv::new(cfg, &p, ["conv", "", "bn"], (inputs, outputs, 1))?) };
            Ok(Residual {
                shortcut,
                first: Conv::new(cfg, &p, ["conv1", "wscale1", "bn1"], (inputs, middle, 3))?,
                second: Conv::new(cfg, &p, ["conv2", "wscale2", "bn2"], (middle, outputs, 3))?,
            })
        };
        let blocks = (1..count - 1).map(block).collect::<Result<_>>()?;
        let last = p.pp(format!("block{}", count - 1));
        let (inputs, outputs) = (16 * width(count - 2), (2 * count - 2) * cfg.w_dim);
        let weight = last.pp("fc").get("weight", (outputs, inputs), Init::Normal(1.0))?;
        let norm = if cfg.use_bn { Some(BatchNorm::new(&last.pp("bn.bn"), outputs)?) } else { None };
        Ok(Encoder { config: config.clone(), enter, blocks, weight, norm })
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The maps after each residual block, then the flat code [n, rows * w_dim].
    pub fn trace(&self, images: &Tensor) -> Result<Vec<Tensor>> {
        let r = self.config.resolution;
        if images.dims()[1..] != [3, r, r] {
            bail!("In-Domain's encoder takes images of [3, {r}, {r}], not {:?}", images.dims())
        }
        let mut x = self.enter.forward(images)?;
        let mut maps = Vec::new();
        for block in &self.blocks {
            x = ops::avg_pool2(&x)?;
            let shortcut = match &block.shortcut {
                Some(conv) => conv.forward(&x)?,
                None => x.clone(),
            };
            x = (shortcut + block.second.forward(&block.first.forward(&x)?)?)?;
            maps.push(x.clone());
        }
        // The last layer is always scaled by 1 / sqrt(fan in).
        let x = (x.flatten_from(1)? * (1.0 / (self.weight.dim(1)? as f64).sqrt()))?;
        let code = ops::linear(&x, &self.weight, None)?;
        let code = match &self.norm {
            Some(norm) => norm.forward(&code.unsqueeze(2)?.unsqueeze(3)?)?.flatten_from(1)?,
            None => code,
        };
        maps.push(code);
        Ok(maps)
    }

    pub fn forward(&self, images: &Tensor) -> Result<Tensor> {
        let maps = self.trace(images)?;
        maps[maps.len() - 1].reshape((images.dim(0)?, (), self.config.w_dim))
    }
}

/// VGG16 converted from Keras: BGR, 0 to 255, mean subtracted, no division.
pub struct Features {
    vgg: Vgg16,
}

impl Features {
    /// `layer{i}.weight|bias` of the reference's `vgg16.pth`; blocks behind relu4_3 are left out.
    pub fn open(tensors: Tensors, target: &Target) -> crate::Result<Self> {
        let renamed = tensors.into_iter().map(|(name, t)| match name.strip_prefix("layer") {
            Some(rest) => (format!("features.{rest}"), t),
            None => (name, t),
        });
        let p = Params::frozen(renamed.collect(), target.dtype, &target.device, &target.origin);
        let mut config = vgg16::Config::read(&p)?;
        config.blocks.truncate(4);
        Ok(Features { vgg: Vgg16::new(&config, &p)? })
    }

    /// Images [n, 3, r, r] in [-1, 1] as the network wants them.
    pub fn prepare(images: &Tensor) -> Result<Tensor> {
        let scaled = images.affine(127.5, 127.5)?;
        let bgr: Vec<Tensor> = [2, 1, 0].iter().map(|&c| scaled.narrow(1, c, 1)).collect::<Result<_>>()?;
        let mean = Tensor::new(&[103.939f64, 116.779, 123.68], images.device())?.to_dtype(images.dtype())?.reshape((1, 3, 1, 1))?;
        Tensor::cat(&bgr, 1)?.broadcast_sub(&mean)
    }

    /// relu1_2, relu2_2, relu3_3, relu4_3 of images in [-1, 1].
    pub fn taps(&self, images: &Tensor) -> Result<Vec<Tensor>> {
        self.vgg.taps(&Self::prepare(images)?)
    }

    /// relu4_3, which the optimisation compares.
    pub fn last(&self, images: &Tensor) -> Result<Tensor> {
        match self.taps(images)?.pop() {
            Some(tap) => Ok(tap),
            None => bail!("the feature network has no layers"),
        }
    }
}

/// Settings of the optimisation; the default is the reference's and the paper's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Optimisation {
    pub steps: usize,
    pub learning_rate: f64,
    /// Weights of the pixel, feature and encoder terms.
    pub pixels: f64,
    pub features: f64,
    pub regulariser: f64,
}

impl Default for Optimisation {
    fn default() -> Self {
        Optimisation { steps: 100, learning_rate: 0.01, pixels: 1.0, features: 5e-5, regulariser: 2.0 }
    }
}

/// One step of the optimisation, at the latent before its update.
pub struct Moment {
    /// Unweighted terms and their weighted sum.
    pub pixels: f64,
    pub features: f64,
    pub regulariser: f64,
    pub loss: f64,
    pub gradient: Tensor,
    /// The latent after the update.
    pub latent: Tensor,
}

/// Encoder and generator.
pub struct InDomain {
    pub encoder: Encoder,
    pub generator: StyleGan1,
}

/// The published encoder and generator (two bare state dicts). `use_wscale` and `final_tanh` are not in the tensors; the published
/// models have false and true.
pub fn open(encoder: Tensors, generator: Tensors, target: &Target, use_wscale: bool, final_tanh: bool) -> crate::Result<InDomain> {
    let generator = stylegan1::open(generator, target, stylegan1::Options { final_tanh, ..Default::default() })?;
    let encoder = open_encoder(encoder, target, generator.layout().w_dim, use_wscale)?;
    if encoder.config.resolution != generator.layout().resolution {
        let (e, g) = (encoder.config.resolution, generator.layout().resolution);
        return Err(crate::Error::corrupt(format!("{}: the encoder takes {e} px, its generator makes {g} px", target.origin)));
    }
    Ok(InDomain { encoder, generator })
}

/// The published encoder, frozen.
pub fn open_encoder(tensors: Tensors, target: &Target, w_dim: usize, use_wscale: bool) -> crate::Result<Encoder> {
    let corrupt = |what: String| crate::Error::corrupt(format!("{}: {what}", target.origin));
    let last = (1..).take_while(|i| tensors.contains_key(&format!("block{i}.conv1.weight"))).count();
    let width = |name: String| -> crate::Result<usize> {
        let dims = tensors.get(&name).map(|t| t.dims().to_vec());
        dims.and_then(|d| d.first().copied()).ok_or_else(|| corrupt(format!("the tensor \"{name}\" is missing")))
    };
    if last == 0 || last > 16 {
        return Err(corrupt(format!("{last} residual blocks: not an In-Domain encoder")));
    }
    let config = Config {
        resolution: 1 << (last + 2),
        w_dim,
        first_width: width("block0.conv.weight".into())?,
        max_width: width(format!("block{last}.conv2.weight"))?,
        use_wscale,
        use_bn: tensors.contains_key("block0.bn.bn.weight"),
    };
    let build = || -> Result<Encoder> {
        let p = Params::frozen(tensors, target.dtype, &target.device, &target.origin);
        let encoder = Encoder::new(&config, &p)?;
        p.finish()?;
        Ok(encoder)
    };
    build().map_err(|e| {
        let text = e.to_string();
        crate::Error::corrupt(text.lines().next().unwrap_or("tensor error"))
    })
}

impl InDomain {
    /// Moves the latents of `images` [n, 3, r, r] with Adam, from E's own; every step goes to `seen`. Each term is a mean over one image;
    /// the terms that `seen` gets are means over the batch too, so use one image to have the reference's numbers.
    pub fn optimise(
        &self,
        images: &Tensor,
        features: &Features,
        settings: &Optimisation,
        mut seen: impl FnMut(usize, &Moment) -> Result<()>,
    ) -> Result<Tensor> {
        let Latents { var: latent, mut optimizer } = Latents::new(&self.encoder.forward(images)?)?;
        let weights = Guided { pixels: settings.pixels, features: settings.features, regulariser: settings.regulariser };
        let tap = |x: &Tensor| features.last(x);
        let wanted = tap(images)?.detach();
        let value = |t: &Tensor| t.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_scalar::<f64>();
        let schedule = Schedule::plain(settings.steps as u64, settings.learning_rate);
        let forward = || guided(self, &latent, &Synthesis::default(), (images, &wanted), &tap, &weights);
        refine(&mut optimizer, &schedule, forward, |step, pass, grads| {
            let Some(gradient) = grads.get(&latent).cloned() else { bail!("no gradient reached the latent") };
            let mut values = [0.0; 3];
            let mut loss = 0.0;
            for (v, term) in values.iter_mut().zip(&pass.losses.terms) {
                *v = value(&term.value)?;
                loss += term.weight * *v / images.dim(0)? as f64;
            }
            let [pixels, features, regulariser] = values;
            let latent = latent.as_tensor().detach().copy()?;
            seen(step as usize, &Moment { pixels, features, regulariser, loss, gradient, latent })
        })?;
        latent.as_tensor().detach().copy()
    }
}

impl Inverter for InDomain {
    fn input_size(&self) -> usize {
        self.encoder.config.resolution
    }

    fn invert(&self, images: &Tensor) -> Result<Tensor> {
        self.encoder.forward(images)
    }

    fn decoder(&self) -> &dyn Generator {
        &self.generator
    }
}
