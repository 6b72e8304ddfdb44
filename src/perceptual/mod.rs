//! Perceptual networks: VGG16 and LPIPS.

pub mod lpips;
pub mod vgg16;

pub use vgg16::Vgg16;
