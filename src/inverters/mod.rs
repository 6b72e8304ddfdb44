//! Inverters: methods that turn an image into latents.

pub mod alae;
pub mod baseline;
pub mod image2stylegan;
pub mod indomain;
pub mod mtv;
pub mod psp;
pub mod refine;

use candle_core::{Result, Tensor, Var};

use crate::generators::{Generator, Synthesis};
use crate::ops;
use crate::params::{Init, Params};

/// A published method: an encoder with a decoder of its own.
pub trait Inverter {
    /// Height and width of the images that it takes, in [-1, 1].
    fn input_size(&self) -> usize;

    /// Images [n, 3, r, r] to the latents of its decoder.
    fn invert(&self, images: &Tensor) -> Result<Tensor>;

    fn decoder(&self) -> &dyn Generator;

    /// The image that the method shows for these latents.
    fn render(&self, latents: &Tensor, with: &Synthesis) -> Result<Tensor> {
        self.decoder().synthesize(latents, with)
    }
}

/// Batch norm. A network that is opened uses its running statistics, folded into one scale and one offset per channel; one that is
/// trained uses the batch's, and moves the running ones towards them.
pub(crate) struct BatchNorm {
    folded: Option<(Tensor, Tensor)>,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    var: Tensor,
}

impl BatchNorm {
    const EPS: f64 = 1e-5;
    /// Share of a batch in the running statistics.
    const MOMENTUM: f64 = 0.1;

    /// `p` has weight, bias, running_mean and running_var, each [channels].
    pub(crate) fn new(p: &Params, channels: usize) -> Result<Self> {
        let get = |name: &str, value: f64| p.get(name, channels, Init::Const(value));
        let (weight, bias) = (get("weight", 1.0)?, get("bias", 0.0)?);
        let (mean, var) = (get("running_mean", 0.0)?, get("running_var", 1.0)?);
        p.ignore("num_batches_tracked");
        let folded = match p.learns() {
            true => None,
            false => {
                let scale = (&weight / (&var + Self::EPS)?.sqrt()?)?;
                let offset = (&bias - (&mean * &scale)?)?;
                Some((scale.reshape((1, channels, 1, 1))?, offset.reshape((1, channels, 1, 1))?))
            }
        };
        Ok(BatchNorm { folded, weight, bias, mean, var })
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match &self.folded {
            Some((scale, offset)) => x.broadcast_mul(scale)?.broadcast_add(offset),
            None => self.of_batch(x),
        }
    }

    /// The statistics of a channel over the batch are those of one image whose channel lines up all places of all images.
    fn of_batch(&self, x: &Tensor) -> Result<Tensor> {
        let (n, c, h, w) = x.dims4()?;
        let count = n * h * w;
        let lined = x.transpose(0, 1)?.contiguous()?.reshape((1, c, n * h, w))?;
        let (normal, statistics) = ops::instance_norm_stats(&lined, Self::EPS)?;
        let normal = normal.reshape((c, n, h, w))?.transpose(0, 1)?;
        let (mean, std) = (statistics.detach().narrow(1, 0, c)?.squeeze(0)?, statistics.detach().narrow(1, c, c)?.squeeze(0)?);
        // PyTorch's running variance is the unbiased one.
        let var = (std.sqr()? * (count as f64 / (count.max(2) - 1) as f64))?;
        for (running, batch) in [(&self.mean, mean), (&self.var, var)] {
            let moved = ((running.detach() * (1.0 - Self::MOMENTUM))? + (batch * Self::MOMENTUM)?)?;
            Var::from_tensor(running)?.set(&moved)?;
        }
        let as_channels = |t: &Tensor| t.reshape((1, c, 1, 1));
        normal.contiguous()?.broadcast_mul(&as_channels(&self.weight)?)?.broadcast_add(&as_channels(&self.bias)?)
    }
}
