//! The training pictures of one source, drawn once and kept as bytes with their labels.

use std::collections::BTreeMap;

use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;

use super::drawing::{PIXELS, Split, tensor};
use super::source::{Label, Source};
use crate::ops;
use crate::random::Stream;

const BYTES: usize = 3 * PIXELS;

/// Pictures 0 to n - 1 of one split.
pub struct Pool {
    rgb: Vec<u8>,
    labels: Vec<Label>,
    /// The pictures of each class.
    classes: BTreeMap<u32, Vec<usize>>,
}

impl Pool {
    /// Draws `count` pictures on all threads: 12 kB each, and half a millisecond of one thread.
    pub fn draw(source: &Source, split: Split, count: usize) -> Self {
        let mut rgb = vec![0; count * BYTES];
        let mut labels = vec![Label { class: 0, factors: Vec::new() }; count];
        rgb.par_chunks_mut(BYTES).zip(&mut labels).enumerate().for_each(|(i, (rgb, label))| {
            let picture = source.draw(split, i as u64);
            rgb.copy_from_slice(&picture.rgb);
            *label = picture.label;
        });
        let mut classes: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        labels.iter().enumerate().for_each(|(i, label)| classes.entry(label.class).or_default().push(i));
        Pool { rgb, labels, classes }
    }

    pub fn len(&self) -> usize {
        self.labels.len()
    }

    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    pub fn rgb(&self, index: usize) -> &[u8] {
        &self.rgb[index * BYTES..(index + 1) * BYTES]
    }

    pub fn label(&self, index: usize) -> &Label {
        &self.labels[index]
    }

    /// The picture that item `item` of `stream` picks, with replacement.
    pub fn pick(&self, stream: &Stream, item: u64) -> usize {
        stream.below(item, self.len() as u64) as usize
    }

    /// Another picture of the same class as picture `index`, by item `item` of `stream`; the same one where there is no other.
    pub fn mate(&self, index: usize, stream: &Stream, item: u64) -> usize {
        let same = &self.classes[&self.labels[index].class];
        let others = same.len() as u64 - 1;
        if others == 0 {
            return index;
        }
        let picked = same[stream.below(item, others) as usize];
        // The last one stands in for the picture itself.
        if picked == index { same[others as usize] } else { picked }
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
