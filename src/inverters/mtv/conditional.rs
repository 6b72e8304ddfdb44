//! The conditional batch norm of the BigGAN encoder (section IV.D; released `model/biggan_generator.py`): mean 0 and variance
//! 1 are constants, scale and offset are spectral-normalised linear maps of the condition, so that
//! `y = x (1 + S c) + O c`.

use candle_core::{Result, Tensor, Var};

use crate::ops;
use crate::params::{Init, Params};

/// Added to the variance 1: BN(x) = x / sqrt(1 + 1e-12).
const EPS: f64 = 1e-12;

pub(super) struct ConditionalNorm {
    scale: SpectralLinear,
    offset: SpectralLinear,
}

impl ConditionalNorm {
    pub(super) fn new(channels: usize, condition: usize, p: &Params) -> Result<Self> {
        // Buffers of the release that are never filled: 51 rows of zeros and of ones.
        p.ignore("running_means");
        p.ignore("running_vars");
        Ok(ConditionalNorm {
            scale: SpectralLinear::new(channels, condition, &p.pp("scale"))?,
            offset: SpectralLinear::new(channels, condition, &p.pp("offset"))?,
        })
    }

    pub(super) fn power_iteration(&self) -> Result<()> {
        self.scale.power_iteration()?;
        self.offset.power_iteration()
    }

    pub(super) fn forward(&self, x: &Tensor, c: &Tensor, train: bool) -> Result<Tensor> {
        let root = (1.0 + EPS).sqrt().recip();
        let scale = self.scale.forward(c, train)?.affine(root, root)?;
        ops::modulate(x, &scale, Some(&self.offset.forward(c, train)?))
    }
}

/// `x W^T / sigma`, sigma = u . (W v) with the stored singular vectors ("Spectral Normalization for Generative Adversarial
/// Networks", Miyato et al., ICLR 2018, in the legacy form of PyTorch).
struct SpectralLinear {
    weight: Tensor,
    u: Tensor,
    v: Tensor,
}

impl SpectralLinear {
    fn new(out: usize, input: usize, p: &Params) -> Result<Self> {
        let unit = |n: usize| Init::Normal((n as f64).sqrt().recip());
        Ok(SpectralLinear {
            weight: p.get("weight_orig", (out, input), Init::Normal((input as f64).sqrt().recip()))?,
            u: p.get("weight_u", out, unit(out))?,
            v: p.get("weight_v", input, unit(input))?,
        })
    }

    /// Renews u and v, [.., 1] each.
    fn renewed(&self) -> Result<(Tensor, Tensor)> {
        let weight = self.weight.detach();
        let v = unit(&weight.t()?.matmul(&self.u.detach().unsqueeze(1)?)?)?;
        let u = unit(&weight.matmul(&v)?)?;
        store(&self.u, &u)?;
        store(&self.v, &v)?;
        Ok((u, v))
    }

    fn power_iteration(&self) -> Result<()> {
        self.renewed().map(|_| ())
    }

    /// In training one power iteration renews u and v first.
    fn forward(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let (u, v) = match train {
            true => self.renewed()?,
            // The graph must not see a later power iteration.
            false => (self.u.detach().unsqueeze(1)?.copy()?, self.v.detach().unsqueeze(1)?.copy()?),
        };
        let sigma = (self.weight.matmul(&v)? * u)?.sum_all()?;
        ops::linear(x, &self.weight, None)?.broadcast_div(&sigma)
    }
}

fn unit(x: &Tensor) -> Result<Tensor> {
    let norm = x.sqr()?.sum_all()?.sqrt()?;
    x.broadcast_div(&norm.maximum(1e-12)?)
}

/// Writes a vector into a trainable store; a frozen one keeps what its file has.
fn store(slot: &Tensor, value: &Tensor) -> Result<()> {
    if slot.is_variable() {
        Var::from_tensor(slot)?.set(&value.flatten_all()?)?;
    }
    Ok(())
}
