//! Generators, one paper one file, and the one trait under which everything else sees them.
//!
//! Tensors are NCHW; images are RGB, nominally in [-1, 1]. The linear toRGB of PGGAN and both StyleGANs overshoots that range
//! and is not clamped here; BigGAN ends in tanh. All of it is differentiable with respect to the latent, the constant and the
//! noise strengths, whether the weights are frozen or not.

pub mod biggan;
mod checkpoint;
pub mod pggan;
pub(crate) mod self_attention;
pub(crate) mod spectral;
pub mod stylegan1;
pub mod stylegan2;
mod training;

pub use checkpoint::{Target, Tensors, family_of, open, paper};
pub use training::{Mixing, TrainingMode};

use candle_core::{Device, Result, Tensor, bail};

use crate::random::Stream;

/// The families of the paper (Table III).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    Pggan,
    StyleGan1,
    StyleGan2,
    BigGan,
}

impl Family {
    pub const ALL: [Family; 4] = [Family::Pggan, Family::StyleGan1, Family::StyleGan2, Family::BigGan];

    /// The name that studies and cards use.
    pub fn name(self) -> &'static str {
        match self {
            Family::Pggan => "pggan",
            Family::StyleGan1 => "stylegan1",
            Family::StyleGan2 => "stylegan2",
            Family::BigGan => "biggan",
        }
    }
}

/// One place where noise enters: a [n,1,r,r] map times a strength per channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoiseSite {
    pub channels: usize,
    pub resolution: usize,
}

/// What an encoder and a study must know about a generator.
#[derive(Debug, Clone, PartialEq)]
pub struct Layout {
    pub family: Family,
    /// Height and width of the images.
    pub resolution: usize,
    pub z_dim: usize,
    /// Width of one row of w+, or of the latent that [`Generator::synthesize`] takes.
    pub w_dim: usize,
    /// Rows of w+ (2L in the paper: two per resolution); 0 where the latent is one flat vector [n, w_dim].
    pub rows: usize,
    /// (channels, 4, 4) of the learned constant, where there is one.
    pub constant: Option<[usize; 3]>,
    /// Where noise enters, in call order.
    pub noise: Vec<NoiseSite>,
    /// (resolution, channels) of each block, from 4 px up.
    pub channels: Vec<(usize, usize)>,
    /// Number of classes; 0 where the generator is unconditional.
    pub classes: usize,
}

impl Layout {
    /// Shape of the latent of `n` images.
    pub fn latent(&self, n: usize) -> Vec<usize> {
        if self.rows == 0 { vec![n, self.w_dim] } else { vec![n, self.rows, self.w_dim] }
    }
}

/// A stage of progressive growth: synthesis ends at block `last` (0 = 4 px), whose image fades in with weight `blend` over the
/// nearest-upsampled image of the block before (1 = fully there). The image has 4 * 2^last pixels a side.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stage {
    pub last: usize,
    pub blend: f64,
}

/// What enters synthesis beside the latent. The default is the generator as its checkpoint has it.
#[derive(Default, Clone, Copy)]
pub struct Synthesis<'a> {
    /// One map per noise site in call order, each [n or 1, 1, r, r]. None: the maps that the checkpoint stores; an error where
    /// the generator has noise and its checkpoint stores none.
    pub noise: Option<&'a [Tensor]>,
    /// [n or 1, C, 4, 4], in place of the learned constant.
    pub constant: Option<&'a Tensor>,
    /// One strength per noise site, each [1, C, 1, 1], in place of the learned ones.
    pub strengths: Option<&'a [Tensor]>,
    /// None: the whole network.
    pub stage: Option<Stage>,
}

/// A generator. Errors of every method: tensors whose shapes do not fit the layout.
pub trait Generator {
    fn layout(&self) -> &Layout;

    /// z [n, z_dim] (and, for a conditional generator, class ids [n], u32) to the latent of [`Generator::synthesize`], without
    /// truncation: w+ with equal rows [n, rows, w_dim] for StyleGAN, the pixel-normalised z for PGGAN, [z; embed(y)] for BigGAN.
    fn map(&self, z: &Tensor, classes: Option<&Tensor>) -> Result<Tensor>;

    /// The z that images are made from, fixed by image id: standard normal rows [ids, z_dim], f32. BigGAN truncates them.
    fn draw_z(&self, stream: &Stream, ids: &[u64], device: &Device) -> Result<Tensor> {
        stream.normal_rows(ids, &[self.layout().z_dim], device)
    }

    /// The latent to an image [n, 3, r, r].
    fn synthesize(&self, latent: &Tensor, with: &Synthesis) -> Result<Tensor>;

    /// As [`Generator::synthesize`], in training: batch norms take mean and variance from the batch itself.
    fn synthesize_to_train(&self, latent: &Tensor, with: &Synthesis) -> Result<Tensor> {
        self.synthesize(latent, with)
    }

    /// One power iteration of every spectral norm, in place; in training it goes before each step.
    fn power_iteration(&self) -> Result<()> {
        Ok(())
    }

    /// What a checkpoint holds beside the learned tensors, measured on a trained network: the standing statistics of batch norms.
    fn standing_statistics(&self, _seed: u64) -> Result<Tensors> {
        Ok(Tensors::new())
    }

    /// The learned constant [1, C, 4, 4].
    fn constant(&self) -> Option<&Tensor> {
        None
    }

    /// The learned noise strengths in call order, each [1, C, 1, 1].
    fn noise_strengths(&self) -> Result<Vec<Tensor>> {
        Ok(Vec::new())
    }

    /// The noise maps that the checkpoint stores, in call order, each [1, 1, r, r]; empty where it stores none.
    fn stored_noise(&self) -> &[Tensor] {
        &[]
    }

    /// The centre of truncation (mean w) [rows or 1, w_dim], where the checkpoint has one.
    fn centre(&self) -> Option<&Tensor> {
        None
    }

    /// Truncation towards the centre: row l of the result is `centre + psi * (w - centre)` for the first `layers` rows and w for
    /// the others. A flat latent and psi = 1 pass through. `centre` (default: the checkpoint's own) is [rows or 1, w_dim].
    fn truncate(&self, latent: &Tensor, psi: f64, layers: usize, centre: Option<&Tensor>) -> Result<Tensor> {
        let rows = self.layout().rows;
        if rows == 0 || psi == 1.0 || layers == 0 {
            return Ok(latent.clone());
        }
        let Some(centre) = centre.or(self.centre()) else { bail!("truncation needs the mean w, which this generator's files lack") };
        let coefs: Vec<f32> = (0..rows).map(|row| if row < layers { psi as f32 } else { 1.0 }).collect();
        let coefs = Tensor::from_vec(coefs, (1, rows, 1), latent.device())?.to_dtype(latent.dtype())?;
        latent.broadcast_sub(centre)?.broadcast_mul(&coefs)?.broadcast_add(centre)
    }

    /// What the network does when it is left in training mode, where that is anything.
    fn training_mode(&self) -> Option<&dyn TrainingMode> {
        None
    }
}

/// The class of each image, fixed by image id: ids [n] (u32), every class equally often; None where the generator has no classes.
pub fn draw_classes(layout: &Layout, stream: &Stream, ids: &[u64], device: &Device) -> Result<Option<Tensor>> {
    if layout.classes == 0 {
        return Ok(None);
    }
    let classes: Vec<u32> = ids.iter().map(|&id| stream.below(id, layout.classes as u64) as u32).collect();
    Tensor::from_vec(classes, ids.len(), device).map(Some)
}

/// Noise maps [ids, 1, r, r] for each site, standard normal, f32, fixed by image id: the map of one id at one site does not depend
/// on the other ids. Pass `&layout.noise`, or its first sites when a stage of growth needs no more.
pub fn draw_noise(sites: &[NoiseSite], stream: &Stream, ids: &[u64], device: &Device) -> Result<Vec<Tensor>> {
    let map = |(i, site): (usize, &NoiseSite)| {
        let items: Vec<u64> = ids.iter().map(|id| id.wrapping_mul(64).wrapping_add(i as u64)).collect();
        stream.normal_rows(&items, &[1, site.resolution, site.resolution], device)
    };
    sites.iter().enumerate().map(map).collect()
}

/// Whether a tensor of this name, in the native layout of either StyleGAN, is a noise strength.
pub(crate) fn is_noise_strength(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    ["noise_strength", "noise_weight_1", "noise_weight_2"].contains(&last)
}

/// (map, strength) of the first `sites` noise sites under `with`, checked against the layout.
pub(crate) fn noise_of(generator: &dyn Generator, with: &Synthesis, sites: usize) -> Result<Vec<(Tensor, Tensor)>> {
    let own = generator.noise_strengths()?;
    let (maps, strengths) = (with.noise.unwrap_or(generator.stored_noise()), with.strengths.unwrap_or(&own));
    if maps.len() < sites || strengths.len() < sites {
        bail!("{} noise maps and {} strengths given, the generator needs {sites} of each", maps.len(), strengths.len())
    }
    let pairs = maps.iter().zip(strengths).zip(&generator.layout().noise).enumerate().take(sites);
    let check = |(i, ((map, strength), site)): (usize, ((&Tensor, &Tensor), &NoiseSite))| {
        let (_, c, h, w) = map.dims4()?;
        if (c, h, w) != (1, site.resolution, site.resolution) {
            bail!("noise of site {i} is {:?}, it must be [n, 1, {r}, {r}]", map.dims(), r = site.resolution)
        }
        if strength.dims() != [1, site.channels, 1, 1] {
            bail!("noise strength of site {i} is {:?}, it must be [1, {}, 1, 1]", strength.dims(), site.channels)
        }
        Ok((map.clone(), strength.clone()))
    };
    pairs.map(check).collect()
}

/// The class of each image as rows [n, classes] in the dtype of `like` [n, ..]: `classes` are ids [n] (u32) or such rows already.
pub(crate) fn class_rows(layout: &Layout, classes: Option<&Tensor>, like: &Tensor) -> Result<Tensor> {
    let (n, count) = (like.dim(0)?, layout.classes);
    let Some(classes) = classes else { bail!("this generator is class-conditional ({count} classes): give the class of each image") };
    match classes.dims() {
        &[rows, width] if (rows, width) == (n, count) => classes.to_dtype(like.dtype()),
        &[rows] if rows == n => {
            let ids = classes.to_dtype(candle_core::DType::U32)?.to_vec1::<u32>()?;
            if let Some(id) = ids.iter().find(|&&id| id as usize >= count) {
                bail!("class {id}: this generator has {count} classes, from 0")
            }
            let mut rows = vec![0f32; n * count];
            for (i, id) in ids.iter().enumerate() {
                rows[i * count + *id as usize] = 1.0;
            }
            Tensor::from_vec(rows, (n, count), like.device())?.to_dtype(like.dtype())
        }
        other => bail!("classes {other:?}: give {n} ids or rows [{n}, {count}]"),
    }
}

/// Channels of the block that outputs `resolution`: min(base / resolution, max), the width table of all NVIDIA generators.
pub(crate) fn width(base: usize, max: usize, resolution: usize) -> usize {
    (base / resolution).clamp(1, max)
}
