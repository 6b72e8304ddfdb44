//! Self-attention over the positions of a map: "Self-Attention Generative Adversarial Networks", Zhang et al., ICML 2019, with the names of
//! the published BigGAN.

use candle_core::{D, Result, Tensor};

use super::spectral::{Scheme, Spectral};
use crate::ops;
use crate::params::{Init, Params};

/// Every position looks at the 2x2-pooled map.
pub(crate) struct Attention {
    theta: Spectral,
    phi: Spectral,
    g: Spectral,
    out: Spectral,
    gamma: Tensor,
}

impl Attention {
    pub fn new(p: &Params, channels: usize, scheme: Scheme) -> Result<Self> {
        let map = |name: &str, from: usize, to: usize| Spectral::new(&p.pp(format!("snconv1x1_{name}")), &[to, from, 1, 1], scheme);
        Ok(Attention {
            theta: map("theta", channels, channels / 8)?,
            phi: map("phi", channels, channels / 8)?,
            g: map("g", channels, channels / 2)?,
            out: map("o_conv", channels / 2, channels)?,
            gamma: p.get("gamma", 1, Init::Const(0.0))?,
        })
    }

    /// The normalised weights by name.
    pub fn spectral(&self) -> [(&'static str, &Spectral); 4] {
        [("theta", &self.theta), ("phi", &self.phi), ("g", &self.g), ("o_conv", &self.out)]
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (n, _, h, w) = x.dims4()?;
        let map = |s: &Spectral| ops::conv2d(x, &s.weight()?, None, 1, 0);
        let theta = map(&self.theta)?.flatten_from(2)?;
        let phi = ops::max_pool2(&map(&self.phi)?)?.flatten_from(2)?;
        let g = ops::max_pool2(&map(&self.g)?)?.flatten_from(2)?;
        let scores = theta.transpose(1, 2)?.contiguous()?.matmul(&phi)?;
        let shares = candle_nn::ops::softmax(&scores, D::Minus1)?;
        let seen = shares.matmul(&g.transpose(1, 2)?)?.transpose(1, 2)?.contiguous()?.reshape((n, (), h, w))?;
        let seen = ops::conv2d(&seen, &self.out.weight()?, None, 1, 0)?;
        x + seen.broadcast_mul(&self.gamma.reshape((1, 1, 1, 1))?)?
    }
}
