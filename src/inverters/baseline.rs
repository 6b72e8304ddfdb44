//! The encoders of the compared methods on a generator that is not theirs: the same topology, narrow enough for a small generator.
//! This is what the rows "same G" are; the published networks, each with its own decoder, are in the files of their papers.

use candle_core::{Result, Tensor, bail};
use serde::{Deserialize, Serialize};

use super::{Inverter, alae, indomain, psp};
use crate::generators::{Generator, Layout, Stage};
use crate::params::Params;

/// A method that the paper compares with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Baseline {
    Alae,
    Psp,
    Indomain,
    /// Has no encoder: it starts at the mean w.
    Image2stylegan,
}

impl Baseline {
    /// Every method that has an encoder.
    pub const ENCODERS: [Baseline; 3] = [Baseline::Alae, Baseline::Psp, Baseline::Indomain];

    /// The family of its encoder on a card.
    pub fn family(self) -> &'static str {
        match self {
            Baseline::Alae => "alae",
            Baseline::Psp => "psp",
            Baseline::Indomain => "in_domain",
            Baseline::Image2stylegan => "image2stylegan",
        }
    }

    /// The method's own name.
    pub fn title(self) -> &'static str {
        match self {
            Baseline::Alae => "ALAE",
            Baseline::Psp => "pSp",
            Baseline::Indomain => "In-Domain",
            Baseline::Image2stylegan => "Image2StyleGAN",
        }
    }
}

/// An encoder that makes w+ [n, rows, w_dim] of a generator's images [n, 3, r, r] in [-1, 1].
pub enum Encoder {
    /// One w for every row.
    Alae { encoder: alae::Encoder, rows: usize },
    /// Rows relative to the mean w.
    Psp { encoder: psp::Encoder, mean: Tensor },
    /// As pSp: the published encoder learns the mean in its last norm, which a short training has no time for.
    Indomain { encoder: indomain::Encoder, mean: Tensor },
    /// The mean w for every image.
    Image2stylegan { mean: Tensor },
}

impl Encoder {
    /// Widths follow the generator's: its last block's channels at full resolution, doubling from there (pSp and In-Domain from 16 at
    /// least, which their squeeze layers need). `width` bounds the layers that hold most of the parameters: those of pSp that make the rows,
    /// and the last maps of In-Domain; ALAE has none such. `centre` is the generator's mean w, [w_dim] in any shape.
    ///
    /// Errors: a generator without rows of w; a missing mean w or tensor.
    pub fn new(baseline: Baseline, width: Option<usize>, layout: &Layout, centre: Option<&Tensor>, p: &Params) -> Result<Self> {
        if layout.rows == 0 || layout.channels.is_empty() {
            bail!("{} needs a generator with rows of w", baseline.title())
        }
        let (r, rows, w_dim) = (layout.resolution, layout.rows, layout.w_dim);
        let last = layout.channels[layout.channels.len() - 1].1;
        let mean = || match centre {
            Some(c) => c.reshape((1, (), w_dim))?.broadcast_as((1, rows, w_dim))?.contiguous(),
            None => bail!("{} starts from the mean w, which this generator's files lack", baseline.title()),
        };
        let first_width = last.max(16);
        let bounded = |own: usize| width.map_or(own, |width| own.min(width));
        Ok(match baseline {
            Baseline::Alae => Encoder::Alae { encoder: alae::Encoder::new(&alae::Config::for_generator(layout), p)?, rows },
            Baseline::Psp => {
                let widths = [first_width, 2 * first_width, 4 * first_width, w_dim];
                let config = psp::Config { widths, blocks: [1, 1, 2, 1], inner: bounded(w_dim), rows, side: r };
                Encoder::Psp { encoder: psp::Encoder::new(&config, p)?, mean: mean()? }
            }
            Baseline::Indomain => {
                let config = indomain::Config {
                    resolution: r,
                    w_dim,
                    first_width,
                    max_width: bounded((8 * first_width).min(2 * w_dim)),
                    use_wscale: false,
                    use_bn: true,
                };
                Encoder::Indomain { encoder: indomain::Encoder::new(&config, p)?, mean: mean()? }
            }
            Baseline::Image2stylegan => Encoder::Image2stylegan { mean: mean()? },
        })
    }

    /// Images [n, 3, r, r] in [-1, 1] to w+ [n, rows, w_dim].
    pub fn forward(&self, images: &Tensor) -> Result<Tensor> {
        match self {
            Encoder::Alae { encoder, rows } => {
                let (w, _) = encoder.trace(images, Stage { last: encoder.config().blocks - 1, blend: 1.0 })?;
                let (n, dim) = w.dims2()?;
                w.unsqueeze(1)?.broadcast_as((n, *rows, dim))?.contiguous()
            }
            Encoder::Psp { encoder, mean } => encoder.trace(images)?.rows.broadcast_add(mean),
            Encoder::Indomain { encoder, mean } => encoder.forward(images)?.broadcast_add(mean),
            Encoder::Image2stylegan { mean } => {
                let (_, rows, dim) = mean.dims3()?;
                mean.broadcast_as((images.dim(0)?, rows, dim))?.contiguous()
            }
        }
    }
}

/// Such an encoder with its generator.
pub struct SameGenerator<'a> {
    pub encoder: Encoder,
    pub generator: &'a dyn Generator,
}

impl Inverter for SameGenerator<'_> {
    fn input_size(&self) -> usize {
        self.generator.layout().resolution
    }

    fn invert(&self, images: &Tensor) -> Result<Tensor> {
        self.encoder.forward(images)
    }

    fn decoder(&self) -> &dyn Generator {
        self.generator
    }
}
