//! Inverters: methods that turn an image into latents.

pub mod alae;
pub mod indomain;
pub mod mtv;
pub mod psp;

use candle_core::{Result, Tensor};

use crate::generators::{Generator, Synthesis};
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

/// Batch norm with its running statistics: one scale and one offset per channel.
struct BatchNorm {
    scale: Tensor,
    offset: Tensor,
}

impl BatchNorm {
    const EPS: f64 = 1e-5;

    /// `p` has weight, bias, running_mean and running_var, each [channels].
    fn new(p: &Params, channels: usize) -> Result<Self> {
        let get = |name: &str, value: f64| p.get(name, channels, Init::Const(value));
        let (weight, bias) = (get("weight", 1.0)?, get("bias", 0.0)?);
        let (mean, var) = (get("running_mean", 0.0)?, get("running_var", 1.0)?);
        p.ignore("num_batches_tracked");
        let scale = (weight / (var + Self::EPS)?.sqrt()?)?;
        let offset = (bias - (mean * &scale)?)?;
        Ok(BatchNorm { scale: scale.reshape((1, channels, 1, 1))?, offset: offset.reshape((1, channels, 1, 1))? })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.broadcast_mul(&self.scale)?.broadcast_add(&self.offset)
    }
}
