//! The discriminator on frozen features: "Projected GANs Converge Faster" (Sauer et al., NeurIPS 2021).
//!
//! A trained classifier of the source turns an image into maps of several scales; fixed random convolutions mix their channels (the paper's
//! CCM) and add each scale to the next finer one (CSM); a small network per scale scores the mixed map. G learns from the classifier what
//! D would otherwise have to find out, which is what a budget of a CPU is short of.
//!
//! Ours differs: the finest scale also has the pixels, because a narrow classifier sees little of their colours; no batch norm, no
//! augmentation; a class is projected onto the last map (Miyato and Koyama, ICLR 2018). Where the recipe says so, the last map of every head has
//! the minibatch standard deviation of PGGAN's D (Karras et al., ICLR 2018, section 3), over a shard, as one channel more.

use candle_core::{DType, Device, Result, Tensor};

use super::adversarial::Objective;
use super::discriminator::Dual;
use super::pool::Pool;
use super::schedule::Recipe;
use crate::Error;
use crate::generators::Layout;
use crate::generators::spectral::{Conv, Scheme, Spectral};
use crate::ops;
use crate::params::{Init, Params};
use crate::perceptual::Vgg16;
use crate::perceptual::vgg16::scale_input;
use crate::stages::open;

const SCHEME: Scheme = Scheme { eps: 1e-4, orthogonal: true };
const SLOPE: f64 = 0.2;
/// The last map of every head.
const LAST: usize = 4;
/// The taps of the classifier: the last convolutions of its first four blocks.
const TAPS: [(usize, usize); 4] = [(0, 1), (1, 1), (2, 2), (3, 2)];
/// Channels of the mixed maps, and of the first map inside a head, which doubles towards the last one up to [`WIDEST`].
const MIXED: [usize; 4] = [16, 24, 32, 64];
const WIDEST: usize = 64;
/// Pictures that tell the scale of a classifier's maps.
const EXAMPLES: usize = 64;
/// The random convolutions are the same in every training: they are no parameters.
const SEED: u64 = 0;

/// The frozen part: images to mixed maps.
pub struct Projection {
    vgg: Vgg16,
    /// One over the root mean square of each tap.
    scales: Vec<f64>,
    /// 1x1, of the taps.
    channels: Vec<Tensor>,
    /// 3x3, of a mixed map to the next finer one.
    scale_to_scale: Vec<Tensor>,
    resolution: usize,
}

impl Projection {
    /// `examples`: pictures of the source [n, 3, r, r] in [-1, 1], whose taps are brought to a mean square of 1.
    ///
    /// Errors: a classifier that is no VGG16.
    pub fn new(vgg: Vgg16, examples: &Tensor) -> Result<Self> {
        let (_, _, resolution, _) = examples.dims4()?;
        let mut projection =
            Projection { vgg, scales: vec![1.0; TAPS.len()], channels: Vec::new(), scale_to_scale: Vec::new(), resolution };
        let taps = projection.taps(examples)?;
        let root = |t: &Tensor| -> Result<f64> { Ok(t.sqr()?.mean_all()?.to_dtype(DType::F64)?.to_scalar::<f64>()?.sqrt()) };
        projection.scales = taps.iter().map(|t| Ok(1.0 / root(t)?.max(1e-6))).collect::<Result<_>>()?;
        let fixed = Params::fresh(SEED, examples.dtype(), examples.device());
        let conv = |name: String, from: usize, to: usize, side: usize| -> Result<Tensor> {
            Ok(fixed.get(&name, (to, from, side, side), Init::Normal(((from * side * side) as f64).sqrt().recip()))?.detach())
        };
        for (i, tap) in taps.iter().enumerate() {
            projection.channels.push(conv(format!("channels.{i}"), tap.dim(1)?, MIXED[i], 1)?);
            if i > 0 {
                projection.scale_to_scale.push(conv(format!("scales.{i}"), MIXED[i], MIXED[i - 1], 3)?);
            }
        }
        Ok(projection)
    }

    fn taps(&self, images: &Tensor) -> Result<Vec<Tensor>> {
        let mut taps = self.vgg.layers(&scale_input(images)?, &TAPS)?;
        taps[0] = Tensor::cat(&[&taps[0], images], 1)?;
        Ok(taps)
    }

    /// The mixed maps of images [n, 3, s, s], from the finest on; images of a resolution below the full one are enlarged.
    pub fn maps(&self, images: &Tensor) -> Result<Vec<Tensor>> {
        let mut images = images.clone();
        while images.dim(3)? < self.resolution {
            images = ops::upsample2(&images)?;
        }
        let mut maps: Vec<Tensor> = Vec::with_capacity(TAPS.len());
        for (i, tap) in self.taps(&images)?.iter().enumerate().rev() {
            let mixed = ops::conv2d(&(tap * self.scales[i])?, &self.channels[i], None, 1, 0)?;
            maps.push(match maps.last() {
                None => mixed,
                Some(coarser) => {
                    let coarser = ops::upsample2(&ops::conv2d(coarser, &self.scale_to_scale[i], None, 1, 1)?)?;
                    ops::mix(&mixed, 0.5f64.sqrt(), &coarser, 0.5f64.sqrt())?
                }
            });
        }
        maps.reverse();
        Ok(maps)
    }
}

/// What D sees instead of the images, where the recipe says so.
pub(super) fn projection(recipe: &Recipe, pool: &Pool, layout: &Layout, device: &Device) -> crate::Result<Option<Projection>> {
    let Some(card) = &recipe.projected_on else {
        return match layout.classes {
            0 if recipe.minibatch_std => {
                Err(Error::usage("minibatch_std is of D on the features of a classifier (projected_on); a D of images has it"))
            }
            0 => Ok(None),
            _ => Err(Error::usage("a generator with classes needs D on the features of a classifier (projected_on)")),
        };
    };
    if recipe.objective != Objective::Hinge {
        return Err(Error::usage(format!("D on the features of {card} needs the hinge loss")));
    }
    let examples: Vec<usize> = (0..EXAMPLES.min(pool.len())).collect();
    Ok(Some(Projection::new(open::vgg16(card, device)?, &pool.images(&examples, layout.resolution, device)?)?))
}

/// What scores one mixed map: 4x4 convolutions of stride 2 down to 4 px, then one of 3x3 with a score per place, and one per class more.
struct Head {
    down: Vec<Conv>,
    last: Conv,
    minibatch_std: bool,
}

impl Head {
    fn new(p: &Params, scale: usize, side: usize, classes: usize, minibatch_std: bool) -> Result<Self> {
        let mut down = Vec::new();
        let (mut from, mut side) = (MIXED[scale], side);
        while side > LAST {
            let to = if down.is_empty() { MIXED[scale] } else { (2 * from).min(WIDEST) };
            down.push(Conv::new(&p.pp("down").pp(down.len()), from, to, 4, SCHEME)?);
            (from, side) = (to, side / 2);
        }
        from += usize::from(minibatch_std);
        Ok(Head { down, last: Conv::new(&p.pp("last"), from, 1 + classes, 3, SCHEME)?, minibatch_std })
    }

    /// [n, 16]
    fn scores(&self, map: &Tensor, classes: Option<&Tensor>) -> Result<Tensor> {
        let mut x = map.clone();
        for conv in &self.down {
            x = ops::conv2d_lrelu(&x, &conv.kernel.weight()?, Some(&conv.bias), 2, 1, SLOPE)?;
        }
        if self.minibatch_std {
            x = Dual::plain(&x).minibatch_std(x.dim(0)?)?.value;
        }
        let scores = self.last.forward(&x)?.flatten_from(2)?;
        let plain = scores.narrow(1, 0, 1)?.squeeze(1)?;
        match classes {
            None => Ok(plain),
            Some(rows) => plain + scores.narrow(1, 1, rows.dim(1)?)?.broadcast_mul(&rows.unsqueeze(2)?)?.sum(1)?,
        }
    }

    fn spectral(&self) -> impl Iterator<Item = &Spectral> {
        self.down.iter().chain([&self.last]).map(|conv| &conv.kernel)
    }
}

/// The part that learns: mixed maps to scores.
pub struct Heads(Vec<Head>);

impl Heads {
    /// For images of this resolution and so many classes (0: none).
    pub fn new(resolution: usize, classes: usize, minibatch_std: bool, p: &Params) -> Result<Self> {
        let head = |scale: usize| Head::new(&p.pp("heads").pp(scale), scale, resolution >> scale, classes, minibatch_std);
        Ok(Heads((0..TAPS.len()).map(head).collect::<Result<_>>()?))
    }

    /// The scores [n, 16 per scale] of mixed maps, of images of the classes whose rows [n, classes] these are.
    pub fn scores(&self, maps: &[Tensor], classes: Option<&Tensor>) -> Result<Tensor> {
        let scores: Vec<Tensor> = self.0.iter().zip(maps).map(|(head, map)| head.scores(map, classes)).collect::<Result<_>>()?;
        Tensor::cat(&scores, 1)
    }

    /// One power iteration of every spectral norm, in place.
    pub fn power_iteration(&self) -> Result<()> {
        self.0.iter().flat_map(Head::spectral).try_for_each(Spectral::power_iteration)
    }
}
