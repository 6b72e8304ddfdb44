//! The classifiers: VGG16 topology, narrow, trained on the pictures. LPIPS and Grad-CAM of the mini profile read their features.
//!
//! That of the objects has their ten classes, and averages over the whole map in front of its linear layers, because an object may
//! be anywhere. Of the faces' the classes are grouped: each factor is cut into three equally likely bins (glasses into two), and each group has its own
//! softmax. Logit 3 f + b is bin b of the f-th factor without glasses; the last two are no glasses, glasses.

use candle_core::{D, Result, Tensor};

use super::faces::{FACTORS, Factor, tertile};
use super::judge::cross_entropy;
use super::objects;
use super::source::Label;
use super::supervised::Task;
use crate::ops;
use crate::params::Params;
use crate::perceptual::vgg16::{Config, Vgg16, scale_input};

const BINS: usize = 3;
const GROUPS: usize = FACTORS.len() - 1;

/// Number of logits: three bins of each factor but glasses, and two for glasses.
pub const CLASSES: usize = BINS * GROUPS + 2;

/// Widths of the five blocks.
pub const WIDTHS: [usize; 5] = [8, 16, 32, 64, 64];

/// One step in this many sees the pictures at 128 px, the size at which Grad-CAM looks at them.
const LARGE_EVERY: u64 = 4;

/// As [`LARGE_EVERY`], for the objects, whose Grad-CAM is what their classifier is for.
const LARGE_OBJECT_EVERY: u64 = 3;

/// The network of the faces.
pub struct Classifier(pub Vgg16);

/// The network of the objects.
pub struct ObjectClassifier(pub Vgg16);

/// The shape of the faces' classifier.
pub fn config() -> Config {
    Config::vgg16(WIDTHS, 2, &[128, CLASSES])
}

/// The shape of the objects' classifier.
pub fn object_config() -> Config {
    Config::vgg16(WIDTHS, 1, &[128, objects::CLASSES.len()])
}

/// The bins of a picture: one per factor but glasses, then 0 or 1 for glasses.
pub fn bins(factors: &[f32]) -> Vec<usize> {
    let bin = |(i, &v): (usize, &f32)| (v > -tertile(i)) as usize + (v > tertile(i)) as usize;
    let glasses = Factor::Glasses as usize;
    let others = factors.iter().enumerate().filter(|(i, _)| *i != glasses).map(bin);
    others.chain([(factors[glasses] > 0.0) as usize]).collect()
}

/// The logits `[n, 74]` as log-probabilities, one softmax per group.
pub fn log_probabilities(logits: &Tensor) -> Result<Tensor> {
    let n = logits.dim(0)?;
    let grouped = |from: usize, groups: usize, size: usize| -> Result<Tensor> {
        let x = logits.narrow(1, from, groups * size)?.contiguous()?.reshape((n, groups, size))?;
        let x = x.broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?;
        x.broadcast_sub(&x.exp()?.sum_keepdim(D::Minus1)?.log()?)?.reshape((n, groups * size))
    };
    Tensor::cat(&[grouped(0, GROUPS, BINS)?, grouped(GROUPS * BINS, 1, 2)?], 1)
}

impl Task for Classifier {
    fn build(p: &Params) -> Result<Self> {
        Ok(Classifier(Vgg16::new(&config(), p)?))
    }

    /// Cross-entropy, the mean over groups.
    fn loss(&self, images: &Tensor, labels: &[&Label], step: u64) -> Result<Tensor> {
        let images = if step % LARGE_EVERY == LARGE_EVERY - 1 { ops::upsample2(images)? } else { images.clone() };
        let mut wanted = vec![0f32; labels.len() * CLASSES];
        for (row, label) in wanted.chunks_exact_mut(CLASSES).zip(labels) {
            bins(&label.factors).into_iter().enumerate().for_each(|(group, bin)| row[group * BINS + bin] = 1.0);
        }
        let wanted = Tensor::from_vec(wanted, (labels.len(), CLASSES), images.device())?;
        let found = log_probabilities(&self.0.logits(&scale_input(&images)?)?)?;
        (found * wanted)?.sum_all()? * (-1.0 / (labels.len() * (GROUPS + 1)) as f64)
    }
}

impl Task for ObjectClassifier {
    fn build(p: &Params) -> Result<Self> {
        Ok(ObjectClassifier(Vgg16::new(&object_config(), p)?))
    }

    /// Cross-entropy of the class.
    fn loss(&self, images: &Tensor, labels: &[&Label], step: u64) -> Result<Tensor> {
        let images = if step % LARGE_OBJECT_EVERY == LARGE_OBJECT_EVERY - 1 { ops::upsample2(images)? } else { images.clone() };
        cross_entropy(&self.0.logits(&scale_input(&images)?)?, labels)
    }
}
