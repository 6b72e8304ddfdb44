//! The pictures beside the card of a generator.

use std::path::Path;

use candle_core::Tensor;

use super::drawing::Split;
use super::measure::Sampler;
use super::sheet;
use super::source::Source;
use crate::Result;
use crate::generators::{Synthesis, draw_noise};
use crate::random::Stream;
use crate::record::store::create_folder;

/// Rows of a sheet of samples, and its columns where there are no classes.
const ROWS: usize = 8;

/// Samples in rows of 8, or 8 rows with a column for each class.
pub(super) fn save_samples(sampler: &Sampler, path: &Path) -> Result<()> {
    let classes = sampler.generator.layout().classes;
    let (columns, images) = match classes {
        0 => (ROWS, sampler.images(0, ROWS * ROWS)?),
        _ => {
            let count = ROWS * classes;
            let of = Tensor::from_vec((0..count).map(|i| (i % classes) as u32).collect(), count, sampler.device)?;
            (classes, sampler.images_of(&sampler.latents_of(0, count, Some(&of))?, 0, 0)?)
        }
    };
    sheet::save(path, &sheet::of_tensor(&images, columns, scale(sampler))?)
}

/// How large a pixel is drawn.
fn scale(sampler: &Sampler) -> usize {
    (64 / sampler.generator.layout().resolution).max(1)
}

/// samples.png; interpolation.png: five walks in w between two samples each, the noise fixed.
pub(super) fn draw_pictures(sampler: &Sampler, folder: &Path) -> Result<()> {
    create_folder(folder)?;
    save_samples(sampler, &folder.join("samples.png"))?;
    const STEPS: usize = 8;
    let ends = sampler.latents(100, 10)?;
    let mut rows = Vec::new();
    for walk in 0..5 {
        let (from, to) = (ends.narrow(0, 2 * walk, 1)?, ends.narrow(0, 2 * walk + 1, 1)?);
        for step in 0..STEPS {
            let t = step as f64 / (STEPS - 1) as f64;
            rows.push(((&from * (1.0 - t))? + (&to * t)?)?);
        }
    }
    let noise = draw_noise(&sampler.generator.layout().noise, &Stream::new(sampler.seed, "zoo/walk-noise"), &[0], sampler.device)?;
    let with = Synthesis { noise: Some(&noise), ..Default::default() };
    let images = sampler.generator.synthesize(&Tensor::cat(&rows, 0)?, &with)?;
    sheet::save(&folder.join("interpolation.png"), &sheet::of_tensor(&images, STEPS, scale(sampler))?)
}

/// nearest.png: eight samples, and below each the training picture nearest to it in the judge's features.
pub(super) fn nearest_sheet(sampler: &Sampler, source: &Source, nearest: &[(usize, f64)], folder: &Path) -> Result<()> {
    let pictures: Vec<u64> = nearest.iter().take(8).map(|(i, _)| *i as u64).collect();
    let below = source.batch(Split::Train, &pictures, 64, sampler.device)?;
    let both = Tensor::cat(&[&sampler.images(0, pictures.len())?, &below], 0)?;
    sheet::save(&folder.join("nearest.png"), &sheet::of_tensor(&both, 8, 1)?)
}
