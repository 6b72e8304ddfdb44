//! Perceptual networks: VGG16, LPIPS and the Inception of FID.

pub mod inception;
pub mod ir_se50;
pub mod lpips;
pub mod vgg16;

pub use inception::Inception;
pub use vgg16::Vgg16;
