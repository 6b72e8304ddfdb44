//! The operations on CUDA, in f32: the kernels of `kernels.cu`, cuDNN's convolutions and cuBLAS's products, joined to candle's graph as
//! the CPU's results are.
//!
//! With the feature `emulate-cuda` the same code, from the public function to the kernel, runs on the CPU inside [`emulate`]: every
//! index and formula is tested without a GPU. What only a GPU can show (cuDNN, the driver, speed) is the part of `scripts/gpu-check`.

mod act;
mod compare;
mod conv;
#[cfg(feature = "cudnn")]
mod cudnn;
#[cfg(feature = "cuda")]
mod device;
#[cfg(feature = "emulate-cuda")]
mod emulator;
mod filter;
mod in_place;
mod launch;
mod linear;
mod norm;
mod pointwise;
mod pool;
mod ssim;

use candle_core::{DType, Device, Result, Tensor, bail};

pub(super) use act::{fused, log_softmax, lrelu, tangent};
pub(super) use compare::{modulate, sample_products, softmax_kl};
pub(super) use conv::{conv, spread};
#[cfg(feature = "cuda")]
pub use device::{Card, exact, open, set_exact};
#[cfg(feature = "emulate-cuda")]
pub use emulator::{emulate, launches};
pub(super) use filter::filter;
pub use in_place::{accumulate, optimizer_step, towards};
pub(super) use linear::{linear, resize};
pub(super) use norm::{Length, adain, by_length, instance_norm, instance_norm_stats, style_stats};
pub(super) use pointwise::{channel_affine, mix, mse};
pub(super) use pool::{avg_pool2, max_pool2, upsample2};
pub(super) use ssim::{ssim_map, ssim_products};

/// Whether an operation on `x` runs here. Errors: a CUDA tensor that is not f32.
pub(crate) fn serves(x: &Tensor) -> Result<bool> {
    match x.device() {
        Device::Cuda(_) if x.dtype() != DType::F32 => bail!("the operations know f32 on CUDA, got {:?}", x.dtype()),
        Device::Cuda(_) => Ok(true),
        #[cfg(feature = "emulate-cuda")]
        Device::Cpu => Ok(x.dtype() == DType::F32 && emulator::on()),
        _ => Ok(false),
    }
}
