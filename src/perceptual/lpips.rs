//! LPIPS: "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (Zhang et al., CVPR 2018), version
//! 0.1 with the VGG16 network, as the `lpips` package defines it.

use candle_core::{Result, Tensor};

use super::vgg16::{Vgg16, scale_input};
use crate::images::Resample;
use crate::ops;
use crate::params::{Init, Params};

/// The learned 1x1 heads, one `[1, C, 1, 1]` per tap, or uniform ones.
pub struct Lpips {
    heads: Option<Vec<Tensor>>,
}

impl Lpips {
    /// The heads of the `lpips` package: `lin0.model.1.weight` to `lin4.model.1.weight`, each `[1, C, 1, 1]`.
    pub fn new(vgg: &Vgg16, p: &Params) -> Result<Self> {
        let heads = vgg.config().blocks.iter().enumerate();
        let heads = heads.map(|(i, &(width, _))| p.get(&format!("lin{i}.model.1.weight"), (1, width, 1, 1), Init::Const(1.0)));
        Ok(Lpips { heads: Some(heads.collect::<Result<_>>()?) })
    }

    /// Heads of ones: the plain sum over the channels of the unit-normalised difference, for networks (such as the mini
    /// zoo's) for which nobody has learned heads.
    pub fn uniform() -> Self {
        Lpips { heads: None }
    }

    /// Distances `[n]` of the images `a` and `b` `[n, 1|3, H, W]` in [-1, 1].
    pub fn distance(&self, vgg: &Vgg16, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        self.between(&vgg.taps(&scale_input(a)?)?, &vgg.taps(&scale_input(b)?)?)
    }

    /// Distances `[n]` of two images whose taps are at hand.
    pub fn between(&self, a: &[Tensor], b: &[Tensor]) -> Result<Tensor> {
        let layers = self.layers(a, b)?;
        let mut sum = layers[0].clone();
        for layer in &layers[1..] {
            sum = (sum + layer)?;
        }
        Ok(sum)
    }

    /// Where two images differ: `[n, 1, H, W]`, every tap's map brought to the images' size (bilinear, half-pixel centres) and summed, as
    /// the package's `spatial=True`. Its mean is near the distance, not equal to it.
    pub fn map(&self, vgg: &Vgg16, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        let (n, _, height, width) = a.dims4()?;
        let mut sum = Tensor::zeros((n, 1, height, width), a.dtype(), a.device())?;
        let (a, b) = (vgg.taps(&scale_input(a)?)?, vgg.taps(&scale_input(b)?)?);
        for (i, (a, b)) in a.iter().zip(&b).enumerate() {
            let d = (ops::unit_normalize(a, 1e-10)? - ops::unit_normalize(b, 1e-10)?)?.sqr()?;
            let d = match &self.heads {
                Some(heads) => ops::conv2d(&d, &heads[i], None, 1, 0)?,
                None => d.sum_keepdim(1)?,
            };
            let (_, _, h, w) = d.dims4()?;
            let matrix = |from: usize, to: usize| {
                Tensor::from_vec(Resample::TorchBilinear { align_corners: false }.matrix(from, to), (to, from), d.device())?
                    .to_dtype(d.dtype())
            };
            sum = (sum + ops::matmul_resize(&d, &matrix(h, height)?, &matrix(w, width)?)?)?;
        }
        Ok(sum)
    }

    /// The contribution `[n]` of every tap.
    pub fn layers(&self, a: &[Tensor], b: &[Tensor]) -> Result<Vec<Tensor>> {
        let mut layers = Vec::with_capacity(a.len());
        for (i, (a, b)) in a.iter().zip(b).enumerate() {
            let (n, c, h, w) = b.dims4()?;
            let d = (ops::unit_normalize(a, 1e-10)? - ops::unit_normalize(b, 1e-10)?)?.sqr()?;
            let per_channel = d.reshape((n, c, h * w))?.mean(2)?;
            let layer = match &self.heads {
                Some(heads) => per_channel.matmul(&heads[i].reshape((c, 1))?)?.squeeze(1)?,
                None => per_channel.sum(1)?,
            };
            layers.push(layer);
        }
        Ok(layers)
    }
}
