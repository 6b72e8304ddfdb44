//! Inverters: methods that turn an image into latents.

pub mod mtv;
