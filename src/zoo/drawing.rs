//! What the procedural sources draw with: colours, signed distances, random fields, and pictures as tensors.

use candle_core::{Device, Result, Tensor};
use rand::RngExt;
use rand_distr::StandardNormal;
use rayon::prelude::*;

/// Width and height of a picture in pixels.
pub const SIZE: usize = 64;

/// Pixels of a picture.
pub const PIXELS: usize = SIZE * SIZE;

/// Which pictures: the generators learn from `Train` and never see a person or an accessory of `HeldOut`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    Train,
    HeldOut,
}

impl Split {
    pub fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::HeldOut => "held-out",
        }
    }
}

/// Pictures of 64x64 RGB bytes as a tensor `[n, 3, resolution, resolution]` in [-1, 1]; a smaller resolution averages squares.
///
/// Errors: `resolution` does not divide 64.
pub fn tensor<'a>(pictures: impl IntoIterator<Item = &'a [u8]>, resolution: usize, device: &Device) -> Result<Tensor> {
    if resolution == 0 || !SIZE.is_multiple_of(resolution) {
        candle_core::bail!("pictures are drawn at 64 px and averaged down: {resolution} px does not divide 64")
    }
    let pictures: Vec<&[u8]> = pictures.into_iter().collect();
    let area = resolution * resolution;
    let mut data = vec![0f32; pictures.len() * 3 * area];
    data.par_chunks_mut(3 * area).zip(&pictures).for_each(|(out, rgb)| planar(rgb, resolution, out));
    Tensor::from_vec(data, (pictures.len(), 3, resolution, resolution), device)
}

fn planar(rgb: &[u8], resolution: usize, out: &mut [f32]) {
    let step = SIZE / resolution;
    let area = resolution * resolution;
    let scale = 1.0 / (127.5 * (step * step) as f32);
    for y in 0..resolution {
        for x in 0..resolution {
            let mut sum = [0u32; 3];
            for row in y * step..(y + 1) * step {
                let line = (row * SIZE + x * step) * 3;
                for pixel in rgb[line..line + 3 * step].chunks_exact(3) {
                    (0..3).for_each(|c| sum[c] += u32::from(pixel[c]));
                }
            }
            (0..3).for_each(|c| out[c * area + y * resolution + x] = sum[c] as f32 * scale - 1.0);
        }
    }
}

/// The random fields of one picture, which no factor explains.
pub struct Texture {
    /// Three independent standard normal fields.
    pub white: Vec<[f32; 3]>,
    /// An 8x8 standard normal field, enlarged: unevenness of the background, blotches of old skin.
    pub low: Vec<f32>,
    /// White noise averaged over 7 pixels of a column: strands of hair.
    pub strands: Vec<f32>,
    /// White noise averaged over 3x3 pixels: skin grain, cloth.
    pub grain: Vec<f32>,
}

impl Texture {
    pub fn draw(rng: &mut impl rand::Rng) -> Self {
        let white: Vec<[f32; 3]> = (0..PIXELS).map(|_| std::array::from_fn(|_| rng.sample(StandardNormal))).collect();
        let coarse: [f32; 64] = std::array::from_fn(|_| rng.sample(StandardNormal));
        let mut low = vec![0.0; PIXELS];
        let place = |i: usize| {
            let at = ((i as f32 + 0.5) / 8.0 - 0.5).clamp(0.0, 7.0);
            let left = (at as usize).min(6);
            (left, at - left as f32)
        };
        for y in 0..SIZE {
            let (top, fy) = place(y);
            for x in 0..SIZE {
                let (left, fx) = place(x);
                let at = |dy: usize, dx: usize| coarse[(top + dy) * 8 + left + dx];
                low[y * SIZE + x] = lerp(lerp(at(0, 0), at(0, 1), fx), lerp(at(1, 0), at(1, 1), fx), fy);
            }
        }
        let strands = averaged(&white, 1, 3, 0).into_iter().map(|v| v * 2.2).collect();
        let grain = averaged(&white, 0, 1, 1).into_iter().map(|v| v * 1.6).collect();
        Texture { white, low, strands, grain }
    }
}

/// The mean of one channel over (2 dy + 1) x (2 dx + 1) pixels, cut at the border.
fn averaged(white: &[[f32; 3]], channel: usize, dy: usize, dx: usize) -> Vec<f32> {
    let mut out = vec![0.0; PIXELS];
    for y in 0..SIZE {
        let rows = y.saturating_sub(dy)..(y + dy + 1).min(SIZE);
        for x in 0..SIZE {
            let columns = x.saturating_sub(dx)..(x + dx + 1).min(SIZE);
            let count = rows.len() * columns.len();
            let mut sum = 0.0;
            for row in rows.clone() {
                for pixel in &white[row * SIZE + columns.start..row * SIZE + columns.end] {
                    sum += pixel[channel];
                }
            }
            out[y * SIZE + x] = sum / count as f32;
        }
    }
    out
}

/// Red, green and blue, nominally in [0, 1].
pub type Colour = [f32; 3];

/// Approximate signed distance to an ellipse around the origin with half axes `a` and `b`.
pub fn ellipse(x: f32, y: f32, a: f32, b: f32) -> f32 {
    (((x / a).powi(2) + (y / b).powi(2)).sqrt() - 1.0) * a.min(b)
}

/// From `a` at t = 0 to `b` at t = 1.
pub fn lerp(a: f32, b: f32, t: f32) -> f32 {
    a + (b - a) * t
}

/// [`lerp`] of each channel.
pub fn mix(a: Colour, b: Colour, t: f32) -> Colour {
    std::array::from_fn(|c| lerp(a[c], b[c], t))
}

/// A colour k times as bright.
pub fn times(a: Colour, k: f32) -> Colour {
    a.map(|v| v * k)
}

/// A bump of height 1 and this width around 0; exactly 0 beyond 4 widths, which saves most exponentials.
pub fn bump(x: f32, width: f32) -> f32 {
    let t = x / width;
    if t.abs() > 4.0 { 0.0 } else { (-t * t).exp() }
}

/// A smooth step from 0 to 1 around 0.
pub fn step(x: f32) -> f32 {
    match x {
        x if x > 16.0 => 1.0,
        x if x < -16.0 => 0.0,
        _ => 1.0 / (1.0 + (-x).exp()),
    }
}

/// Hue in turns, saturation and value in [0, 1].
pub fn hsv(hue: f32, saturation: f32, value: f32) -> Colour {
    [5.0f32, 3.0, 1.0].map(|offset| {
        let k = (hue.rem_euclid(1.0) * 6.0 + offset).rem_euclid(6.0);
        value - value * saturation * k.min(4.0 - k).clamp(0.0, 1.0)
    })
}
