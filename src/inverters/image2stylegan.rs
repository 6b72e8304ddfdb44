//! Image2StyleGAN: Abdal, Qin, Wonka, "Image2StyleGAN: How to Embed Images Into the StyleGAN Latent Space?", ICCV 2019.
//!
//! No encoder: w+ starts at the mean w and moves for 5,000 steps of Adam (0.01), by squared pixel differences and those of VGG16's
//! conv1_1, conv1_2, conv3_2 and conv4_2, each over its number of entries. Written from the paper's text; no code was released with it.

use candle_core::{Result, Tensor};

use super::refine::Pass;
use crate::generators::{Generator, Synthesis};
use crate::objective::{Group, Losses, Term};
use crate::ops;
use crate::perceptual::vgg16::{Vgg16, scale_input};

/// Steps and learning rate of the paper.
pub const STEPS: u64 = 5000;
pub const LEARNING_RATE: f64 = 0.01;

/// (block, convolution) from 0 of conv1_1, conv1_2, conv3_2, conv4_2.
const LAYERS: [(usize, usize); 4] = [(0, 0), (0, 1), (2, 1), (3, 1)];

/// Images taller than this are halved before VGG sees them.
const MAX_HEIGHT: usize = 256;

/// The four layers of images in [-1, 1].
pub fn features(vgg: &Vgg16, images: &Tensor) -> Result<Vec<Tensor>> {
    let mut x = images.clone();
    while x.dim(2)? > MAX_HEIGHT {
        x = ops::avg_pool2(&x)?;
    }
    vgg.layers(&scale_input(&x)?, &LAYERS)
}

/// One pass: means within an image and sums over images, so that images optimised side by side do not change each other. `wanted` are the
/// [`features`] of `images`.
pub fn pass(
    generator: &dyn Generator,
    latent: &Tensor,
    with: &Synthesis,
    vgg: &Vgg16,
    (images, wanted): (&Tensor, &[Tensor]),
) -> Result<Pass> {
    let image = generator.synthesize(latent, with)?;
    let n = images.dim(0)? as f64;
    let term = |name: &str, value: Tensor| Term { group: Group::Image, name: name.into(), weight: n, value };
    let mut losses = Losses { terms: vec![term("pixels", ops::mse(&image, images)?)] };
    for (i, (a, b)) in features(vgg, &image)?.iter().zip(wanted).enumerate() {
        losses.terms.push(term(&format!("features {}", i + 1), ops::mse(a, b)?));
    }
    Ok(Pass { image, losses })
}
