//! Tensor operations with hand-written gradients, for [b, C, H, W] tensors in f32 on the CPU or on CUDA, and in f64 on the CPU.
//!
//! candle's own versions of several of these are slow, or have a wrong gradient at the awkward points (max pooling, average pooling of
//! odd sizes, nearest upsampling, ReLU at 0), so the networks of this crate use these. Rules that hold for all of them:
//!
//! - An input that needs no gradient (`track_op()` is false) costs nothing in the backward pass.
//! - Inputs may be strided; they are made contiguous first.
//! - The result does not depend on the number of threads: work is split into fixed pieces and sums are combined in a fixed order.
//! - A tensor on another device, or in another dtype, is an error, not a slow path.
//!
//! Every public function has its CPU form in its own file and its CUDA form in `cuda`; `on_cuda!` chooses by the tensor's device.

mod act;
mod compare;
mod conv;
#[cfg(any(feature = "cuda", feature = "emulate-cuda"))]
pub mod cuda;
mod direct;
mod filter;
mod graph;
mod linear;
mod memory;
mod node;
mod norm;
mod pointwise;
mod pool;
mod recompute;
mod resize;
mod ssim;
mod strided;
mod unfold;

pub use act::{leaky_relu, log_softmax, lrelu_tangent, noise_bias_lrelu, relu};
pub use compare::{sample_products, softmax_kl};
pub use conv::{conv_transpose2d, conv2d, conv2d_lrelu, fused_down_weight, fused_up_weight};
pub use filter::{blur3, depthwise_window, fir};
pub use graph::backward;
pub use linear::linear;
pub use memory::one_pool;
pub use norm::{adain, instance_norm, instance_norm_stats, pixel_norm, style_stats, unit_normalize};
pub use pointwise::{channel_affine, mix, modulate, mse};
pub use pool::{avg_pool2, max_pool2, upsample2};
pub use recompute::{recompute, recomputing, segment};
pub use resize::matmul_resize;
pub use ssim::{ssim_map, ssim_products};
