//! The forms of the mini generators: family and widths.

use candle_core::Result;

use super::gan;
use crate::generators::Family;
use crate::generators::biggan::{self, BigGan, Truncation};
use crate::generators::pggan::{self, Pggan};
use crate::generators::stylegan1::{self, StyleGan1};
use crate::generators::stylegan2::{self, StyleGan2};
use crate::params::Params;
use crate::spec::card;

/// A generator of the zoo before it has weights.
#[derive(Debug, Clone, PartialEq)]
pub enum Form {
    Pggan(pggan::Config),
    StyleGan1(stylegan1::Config),
    StyleGan2(stylegan2::Config),
    /// BigGAN-deep: its channels from the 4 px map on, block by block; z is as long as the embedding of a class.
    BigGan {
        widths: Vec<usize>,
        latent: usize,
        classes: usize,
    },
}

/// Rows of the standing statistics of a mini BigGAN: truncation 0, 0.1, ... 1.
const N_STATS: usize = 11;

impl Form {
    /// PGGAN with channels min(fmaps_base / r, 64) at resolution r.
    pub fn pggan(resolution: usize, latent: usize, fmaps_base: usize) -> Self {
        Form::Pggan(pggan::Config { z_dim: latent, fmaps_base, fmaps_max: 64, ..pggan::Config::paper(resolution) })
    }

    /// StyleGANv1 of such channels, w as long as z.
    pub fn stylegan1(resolution: usize, latent: usize, fmaps_base: usize, mapping_layers: usize) -> Self {
        Form::StyleGan1(stylegan1::Config {
            z_dim: latent,
            w_dim: latent,
            fmaps_base,
            fmaps_max: 64,
            mapping_layers,
            mapping_fmaps: latent,
            ..stylegan1::Config::paper(resolution)
        })
    }

    /// StyleGANv2 of such channels, w as long as z.
    pub fn stylegan2(resolution: usize, latent: usize, fmaps_base: usize) -> Self {
        Form::StyleGan2(stylegan2::Config {
            z_dim: latent,
            w_dim: latent,
            fmaps_base,
            fmaps_max: 64,
            mapping_fmaps: latent,
            ..stylegan2::Config::paper(resolution)
        })
    }

    /// The network with these parameters.
    pub fn build(&self, p: &Params) -> Result<Box<gan::Network>> {
        Ok(match self {
            Form::Pggan(config) => Box::new(Pggan::new(config, p)?),
            Form::StyleGan1(config) => Box::new(StyleGan1::new(config, p)?),
            Form::StyleGan2(config) => Box::new(StyleGan2::new(config, p)?),
            Form::BigGan { widths, latent, classes } => {
                let config = biggan::Config::of_channels(widths, *latent, *classes)?;
                let config = biggan::Config { n_stats: N_STATS, orthogonal: true, ..config };
                Box::new(BigGan::new(&config, Truncation::PAPER, p)?)
            }
        })
    }

    /// The name under which its family's files keep the mean w; the flat latents of the others have no rows to truncate.
    pub fn centre(&self) -> Option<&'static str> {
        match self {
            Form::Pggan(_) | Form::BigGan { .. } => None,
            Form::StyleGan1(_) => Some("center_tensor"),
            Form::StyleGan2(_) => Some("truncation.w_avg"),
        }
    }

    /// Height and width of its images.
    pub fn resolution(&self) -> usize {
        match self {
            Form::Pggan(config) => config.resolution,
            Form::StyleGan1(config) => config.resolution,
            Form::StyleGan2(config) => config.resolution,
            Form::BigGan { widths, .. } => 4 << (widths.len().saturating_sub(1) / 2),
        }
    }

    /// What its card says of its shape. The StyleGANs are truncated at 5 rows, as in the paper.
    pub fn card(&self) -> card::Network {
        let (family, latent, fmaps_base, fmaps_max, mapping_layers) = match self {
            Form::BigGan { widths, latent, classes } => {
                return card::Network {
                    family: Family::BigGan.name().into(),
                    layout: "native".into(),
                    latent: Some(*latent),
                    classes: Some(*classes),
                    widths: widths.clone(),
                    ..Default::default()
                };
            }
            Form::Pggan(c) => (Family::Pggan, c.z_dim, c.fmaps_base, c.fmaps_max, None),
            Form::StyleGan1(c) => (Family::StyleGan1, c.z_dim, c.fmaps_base, c.fmaps_max, Some(c.mapping_layers)),
            Form::StyleGan2(c) => (Family::StyleGan2, c.z_dim, c.fmaps_base, c.fmaps_max, Some(c.mapping_layers)),
        };
        card::Network {
            family: family.name().into(),
            layout: "native".into(),
            latent: Some(latent),
            fmaps_base: Some(fmaps_base),
            fmaps_max: Some(fmaps_max),
            mapping_layers,
            truncation_psi: mapping_layers.map(|_| 0.7),
            truncation_layers: mapping_layers.map(|_| 5.min(self.resolution().ilog2() as usize - 1)),
            ..Default::default()
        }
    }
}
