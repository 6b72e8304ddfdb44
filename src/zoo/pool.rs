//! The training pictures of one source, drawn once and kept as bytes.

use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;

use super::faces::{FACTORS, SIZE, Source, Split, tensor};
use crate::ops;
use crate::random::Stream;

const BYTES: usize = 3 * SIZE * SIZE;

/// Pictures 0 to n - 1 of one split.
pub struct Pool {
    rgb: Vec<u8>,
    factors: Vec<[f32; FACTORS.len()]>,
}

impl Pool {
    /// Draws `count` pictures on all threads: 12 kB and about a millisecond each.
    pub fn draw(source: &Source, split: Split, count: usize) -> Self {
        let mut rgb = vec![0; count * BYTES];
        let mut factors = vec![[0.0; FACTORS.len()]; count];
        rgb.par_chunks_mut(BYTES).zip(&mut factors).enumerate().for_each(|(i, (rgb, factors))| {
            let picture = source.draw(split, i as u64);
            rgb.copy_from_slice(&picture.rgb);
            *factors = picture.factors;
        });
        Pool { rgb, factors }
    }

    pub fn len(&self) -> usize {
        self.factors.len()
    }

    pub fn is_empty(&self) -> bool {
        self.factors.is_empty()
    }

    pub fn rgb(&self, index: usize) -> &[u8] {
        &self.rgb[index * BYTES..(index + 1) * BYTES]
    }

    pub fn factors(&self, index: usize) -> &[f32; FACTORS.len()] {
        &self.factors[index]
    }

    /// The picture that item `item` of `stream` picks, with replacement.
    pub fn pick(&self, stream: &Stream, item: u64) -> usize {
        stream.below(item, self.len() as u64) as usize
    }

    /// Pictures as `[n, 3, resolution, resolution]` in [-1, 1].
    pub fn images(&self, indices: &[usize], resolution: usize, device: &Device) -> Result<Tensor> {
        tensor(indices.iter().map(|&i| self.rgb(i)), resolution, device)
    }

    /// As [`Pool::images`], with the detail of the last doubling of resolution weighted by `blend`, as the generator has it while
    /// a resolution fades in.
    pub fn blended(&self, indices: &[usize], resolution: usize, blend: f64, device: &Device) -> Result<Tensor> {
        let images = self.images(indices, resolution, device)?;
        if blend >= 1.0 {
            return Ok(images);
        }
        let coarse = ops::upsample2(&ops::avg_pool2(&images)?)?;
        (images * blend)? + (coarse * (1.0 - blend))?
    }
}
