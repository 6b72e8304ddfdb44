//! What is measured on a trained generator for its model card, in the feature space of the judge.

use candle_core::{DType, Device, Result, Tensor};

use super::drawing::Split;
use super::judge::Judge;
use super::linear_algebra::{Symmetric, logistic};
use super::players::sites;
use super::source::Source;
use crate::editing::boundary;
use crate::editing::svm::{Loss, Svm};
use crate::generators::{Generator, Stage, Synthesis, draw_classes, draw_noise};
use crate::random::Stream;

const CHUNK: usize = 100;
/// Pictures on each side of the Fréchet distance.
pub const PICTURES: usize = 2000;
/// The probability of a class from which on the judge is sure.
const SURE: f32 = 0.9;
/// The seed of the samples that are measured; no training uses it.
pub const SAMPLE_SEED: u64 = 2023;

/// Features, regressed factors and pixels of a set of pictures.
pub struct Seen {
    /// One row of 128 per picture.
    pub features: Vec<Vec<f64>>,
    /// One row per picture, in the order of the source's factors.
    pub factors: Vec<Vec<f64>>,
    /// One per picture; 0 where the source has no classes.
    pub classes: Vec<u32>,
    /// How probable the judge finds each; 1 where the source has no classes.
    pub certainties: Vec<f32>,
}

impl Seen {
    /// What the judge sees in images `[n, 3, 64, 64]`, in chunks that `images(first, count)` gives; they are rounded to 8 bits.
    pub fn through(judge: &Judge, n: usize, images: impl Fn(usize, usize) -> Result<Tensor>) -> Result<Self> {
        let mut seen = Seen { features: Vec::new(), factors: Vec::new(), classes: Vec::new(), certainties: Vec::new() };
        for first in (0..n).step_by(CHUNK) {
            let images = quantized(&images(first, CHUNK.min(n - first))?)?;
            let features = judge.features(&images)?;
            seen.classes.extend(judge.classes(&features)?);
            seen.certainties.extend(judge.certainties(&features)?);
            seen.factors.extend(judge.factors(&features)?.to_dtype(DType::F64)?.to_vec2::<f64>()?);
            seen.features.extend(features.to_dtype(DType::F64)?.to_vec2::<f64>()?);
        }
        Ok(seen)
    }

    /// The first `n` held-out pictures from number `first` that wear nothing unseen.
    pub fn held_out(judge: &Judge, source: &Source, first: usize, n: usize, device: &Device) -> Result<Self> {
        Self::through(judge, n, |at, count| source.batch(Split::HeldOut, &source.plain_held_out(first + at, count), 64, device))
    }

    pub fn len(&self) -> usize {
        self.features.len()
    }

    pub fn is_empty(&self) -> bool {
        self.features.is_empty()
    }

    /// Mean distance of the features of picture i of the first half and picture i of the second.
    pub fn diversity(&self) -> f64 {
        let half = self.len() / 2;
        let pairs = self.features[..half].iter().zip(&self.features[half..]);
        pairs.map(|(a, b)| distance(a, b)).sum::<f64>() / half.max(1) as f64
    }

    /// Standard deviation of each regressed factor.
    pub fn spread(&self) -> Vec<f64> {
        moments(&self.factors).1
    }

    /// Share of the pictures with the factor of this place above 0.
    pub fn share(&self, factor: usize) -> f64 {
        self.factors.iter().filter(|f| f[factor] > 0.0).count() as f64 / self.len().max(1) as f64
    }

    /// Share of the pictures of each of `count` classes.
    pub fn class_shares(&self, count: usize) -> Vec<f64> {
        let share = |class: usize| self.classes.iter().filter(|&&c| c as usize == class).count() as f64 / self.len().max(1) as f64;
        (0..count).map(share).collect()
    }

    /// Share of the pictures of which the judge is sure what they show.
    pub fn recognized(&self) -> f64 {
        self.certainties.iter().filter(|c| **c >= SURE).count() as f64 / self.len().max(1) as f64
    }

    /// Of the pictures of each of `count` classes, the share of which the judge is sure and right; `classes`: that of each picture. NaN where
    /// there are none.
    pub fn recognized_as(&self, classes: &[u32], count: usize) -> Vec<f64> {
        let (mut pictures, mut right) = (vec![0usize; count], vec![0usize; count]);
        for ((&class, &found), &certainty) in classes.iter().zip(&self.classes).zip(&self.certainties) {
            pictures[class as usize] += 1;
            right[class as usize] += usize::from(found == class && certainty >= SURE);
        }
        right.iter().zip(&pictures).map(|(&right, &of)| right as f64 / of as f64).collect()
    }

    /// For each picture, the nearest of `others` and its distance.
    pub fn nearest(&self, others: &Seen) -> Vec<(usize, f64)> {
        let nearest = |a: &Vec<f64>| {
            let each = others.features.iter().enumerate().map(|(i, b)| (i, distance(a, b)));
            each.min_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((0, f64::NAN))
        };
        self.features.iter().map(nearest).collect()
    }
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt()
}

/// Images as 8-bit files would hold them, again in [-1, 1].
pub fn quantized(images: &Tensor) -> Result<Tensor> {
    (((images.clamp(-1f32, 1f32)? + 1.0)? * 127.5)?.round()? / 127.5)? - 1.0
}

/// The Fréchet distance of two normal distributions fitted to the rows: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^1/2).
pub fn frechet(a: &[Vec<f64>], b: &[Vec<f64>]) -> f64 {
    let moments = |rows: &[Vec<f64>]| {
        let (n, d) = (rows.len() as f64, rows.first().map_or(0, Vec::len));
        let mean: Vec<f64> = (0..d).map(|k| rows.iter().map(|r| r[k]).sum::<f64>() / n).collect();
        let mut cov = Symmetric::zeros(d);
        for row in rows {
            let off: Vec<f64> = row.iter().zip(&mean).map(|(v, m)| v - m).collect();
            cov.add_outer(&off, 1.0 / (n - 1.0));
        }
        (mean, cov)
    };
    let ((m1, c1), (m2, c2)) = (moments(a), moments(b));
    let root = c1.sqrt();
    let cross: f64 = root.sandwich(&c2).eigenvalues().iter().map(|v| v.max(0.0).sqrt()).sum();
    distance(&m1, &m2).powi(2) + c1.trace() + c2.trace() - 2.0 * cross
}

/// Shares of right answers.
pub struct Separable {
    /// On the last quarter of all samples, balanced between both signs, of a logistic regression fitted to the other three quarters: no sample
    /// is left out, however near to 0 its factor is.
    pub all: f64,
    /// As InterFaceGAN reports it: on held-out samples of the highest and the lowest tenth, of a linear SVM fitted to the others of these.
    pub extremes: f64,
}

/// Share of the samples at each end, as in `edit_real`, and the share of these that train.
const EXTREMES: f64 = 0.1;
const SPLIT: f64 = 0.7;

/// Samples of a generator: latents and noise of picture `id` are fixed by (seed, id).
pub struct Sampler<'a> {
    pub generator: &'a dyn Generator,
    pub seed: u64,
    pub device: &'a Device,
}

impl Sampler<'_> {
    fn ids(first: usize, count: usize) -> Vec<u64> {
        (first as u64..(first + count) as u64).collect()
    }

    /// The class of each picture `[count]`, every class equally often; None where the generator has no classes.
    pub fn classes(&self, first: usize, count: usize) -> Result<Option<Tensor>> {
        draw_classes(self.generator.layout(), &Stream::new(self.seed, "zoo/measure-class"), &Self::ids(first, count), self.device)
    }

    /// w+ `[count, rows, w_dim]`, or the latents `[count, w_dim]` of a generator without rows.
    pub fn latents(&self, first: usize, count: usize) -> Result<Tensor> {
        self.latents_of(first, count, self.classes(first, count)?.as_ref())
    }

    /// As [`Sampler::latents`], of these classes `[count]`.
    pub fn latents_of(&self, first: usize, count: usize, classes: Option<&Tensor>) -> Result<Tensor> {
        let z = self.generator.draw_z(&Stream::new(self.seed, "zoo/measure-z"), &Self::ids(first, count), self.device)?;
        self.generator.map(&z, classes)
    }

    /// Images of w+; `draw` numbers independent draws of the noise.
    pub fn images_of(&self, latents: &Tensor, first: usize, draw: u64) -> Result<Tensor> {
        self.synthesize(latents, None, first, draw)
    }

    fn synthesize(&self, latents: &Tensor, stage: Option<Stage>, first: usize, draw: u64) -> Result<Tensor> {
        let layout = self.generator.layout();
        let all = stage.map_or(layout.noise.clone(), |stage| sites(layout, stage));
        let stream = Stream::new(self.seed, &format!("zoo/measure-noise-{draw}"));
        let noise = draw_noise(&all, &stream, &Self::ids(first, latents.dim(0)?), self.device)?;
        self.generator.synthesize(latents, &Synthesis { noise: Some(&noise), stage, ..Default::default() })
    }

    /// Images of a stage of growth.
    pub fn images_at(&self, stage: Stage, first: usize, count: usize) -> Result<Tensor> {
        self.synthesize(&self.latents(first, count)?, Some(stage), first, 0)
    }

    pub fn images(&self, first: usize, count: usize) -> Result<Tensor> {
        self.images_of(&self.latents(first, count)?, first, 0)
    }

    /// PSNR in dB over `n` samples: of two noise draws of the same w (what no encoder can beat without the noise), and of each
    /// sample to the mean sample.
    pub fn ceiling_and_mean_psnr(&self, n: usize) -> Result<(f64, f64)> {
        let latents = self.latents(0, n)?;
        let a = quantized(&self.images_of(&latents, 0, 0)?)?;
        let b = quantized(&self.images_of(&latents, 0, 1)?)?;
        Ok((psnr(&a, &b)?, psnr(&a, &a.mean_keepdim(0)?)?))
    }

    /// How well linear rules on the first row of the latents tell the signs of regressed factors, for each place in `factors`.
    pub fn separability(&self, judge: &Judge, n: usize, factors: &[usize]) -> Result<Vec<Separable>> {
        let seen = Seen::through(judge, n, |first, count| self.images(first, count))?;
        let mut latents: Vec<Vec<f64>> = Vec::with_capacity(n);
        for first in (0..n).step_by(CHUNK) {
            let latent = self.latents(first, CHUNK.min(n - first))?;
            let w = if latent.rank() == 2 { latent } else { latent.narrow(1, 0, 1)?.squeeze(1)? };
            latents.extend(w.to_dtype(DType::F64)?.to_vec2::<f64>()?);
        }
        let fitted = n * 3 / 4;
        let (mean, spread) = moments(&latents[..fitted]);
        let scaled = |w: &Vec<f64>| w.iter().zip(&mean).zip(&spread).map(|((w, m), s)| (w - m) / s.max(1e-9)).chain([1.0]).collect();
        let of = |&factor: &usize| {
            let row = |(w, f): (&Vec<f64>, &Vec<f64>)| -> (Vec<f64>, f64) { (scaled(w), if f[factor] > 0.0 { 1.0 } else { -1.0 }) };
            let rows: Vec<_> = latents.iter().zip(&seen.factors).map(row).collect();
            let rule = logistic(&rows[..fitted], 1e-3);
            let right = |sign: f64| {
                let of_sign: Vec<_> = rows[fitted..].iter().filter(|(_, s)| *s == sign).collect();
                let score = |w: &[f64]| w.iter().zip(&rule).map(|(a, b)| a * b).sum::<f64>();
                of_sign.iter().filter(|(w, _)| score(w) * sign > 0.0).count() as f64 / of_sign.len().max(1) as f64
            };
            let scores: Vec<f64> = seen.factors.iter().map(|f| f[factor]).collect();
            let extremes = boundary::choose(&scores, EXTREMES, SPLIT, self.seed).and_then(|chosen| {
                let svm = Svm { loss: Loss::Hinge, c: 1.0, tolerance: 1e-3 };
                boundary::learn(&latents, &scores, &chosen, &svm)
            });
            let extremes = extremes.map_err(|e| candle_core::Error::Msg(e.message))?.validation_accuracy;
            Ok(Separable { all: (right(1.0) + right(-1.0)) / 2.0, extremes })
        };
        factors.iter().map(of).collect()
    }
}

/// Mean and standard deviation of each column.
fn moments(rows: &[Vec<f64>]) -> (Vec<f64>, Vec<f64>) {
    let (n, width) = (rows.len().max(1) as f64, rows.first().map_or(0, Vec::len));
    let mean: Vec<f64> = (0..width).map(|k| rows.iter().map(|r| r[k]).sum::<f64>() / n).collect();
    let spread = (0..width).map(|k| (rows.iter().map(|r| (r[k] - mean[k]).powi(2)).sum::<f64>() / n).sqrt()).collect();
    (mean, spread)
}

/// Mean over pictures of the PSNR in dB, range [-1, 1].
fn psnr(a: &Tensor, b: &Tensor) -> Result<f64> {
    let mse = a.broadcast_sub(b)?.sqr()?.flatten_from(1)?.mean(1)?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
    Ok(mse.iter().map(|m| 10.0 * (4.0 / m.max(1e-12)).log10()).sum::<f64>() / mse.len().max(1) as f64)
}

/// The mean w `[1, w_dim]` over `count` latents, of all classes where there are any.
pub fn mean_w(generator: &dyn Generator, seed: u64, count: usize, device: &Device) -> Result<Tensor> {
    let mut sum: Option<Tensor> = None;
    for first in (0..count).step_by(1000) {
        let ids: Vec<u64> = (first as u64..(first + 1000).min(count) as u64).collect();
        let z = Stream::new(seed, "zoo/centre").normal_rows(&ids, &[generator.layout().z_dim], device)?;
        let classes = draw_classes(generator.layout(), &Stream::new(seed, "zoo/centre-class"), &ids, device)?;
        let w = generator.map(&z, classes.as_ref())?.narrow(1, 0, 1)?.squeeze(1)?.to_dtype(DType::F64)?.sum_keepdim(0)?;
        sum = Some(match sum {
            Some(sum) => (sum + w)?,
            None => w,
        });
    }
    match sum {
        Some(sum) => (sum / count as f64)?.to_dtype(DType::F32),
        None => candle_core::bail!("a mean w needs at least one latent"),
    }
}

/// Mean absolute noise strength per site.
pub fn noise_strengths(generator: &dyn Generator) -> Result<Vec<f64>> {
    generator.noise_strengths()?.iter().map(|s| s.abs()?.mean_all()?.to_dtype(DType::F64)?.to_scalar()).collect()
}

/// Coefficient of determination of each factor on the first `n` plain held-out pictures, and the accuracy of the class.
pub fn judge_r2(judge: &Judge, source: &Source, n: usize, device: &Device) -> Result<(Vec<f64>, f64)> {
    let seen = Seen::held_out(judge, source, 0, n, device)?;
    let pictures = source.draw_all(Split::HeldOut, &source.plain_held_out(0, n));
    let of = |k: usize| {
        let mean = pictures.iter().map(|p| f64::from(p.label.factors[k])).sum::<f64>() / n as f64;
        let total: f64 = pictures.iter().map(|p| (f64::from(p.label.factors[k]) - mean).powi(2)).sum();
        let left: f64 = pictures.iter().zip(&seen.factors).map(|(p, f)| (f64::from(p.label.factors[k]) - f[k]).powi(2)).sum();
        1.0 - left / total
    };
    let right = pictures.iter().zip(&seen.classes).filter(|(p, class)| p.label.class == **class).count();
    Ok(((0..source.factors().len()).map(of).collect(), right as f64 / n as f64))
}
