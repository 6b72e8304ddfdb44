//! Toy GAN: a constant, scaled by w, doubled twice.

use candle_core::{Result, Tensor};
use mtv_bench::generators::{Family, Generator, Layout, Synthesis};
use mtv_bench::ops;
use mtv_bench::params::{Init, Params};

pub struct Toy {
    layout: Layout,
    constant: Tensor,
    style: Tensor,
    rgb: Tensor,
}

impl Toy {
    /// Fresh, trainable or frozen, as `p` is: every tensor is asked for by name, shape and initial distribution.
    pub fn new(p: &Params) -> Result<Self> {
        let layout = Layout {
            family: Family::StyleGan1, // the kind of its latents: rows of w
            resolution: 16,
            z_dim: 16,
            w_dim: 16,
            rows: 6,
            constant: Some([16, 4, 4]),
            noise: Vec::new(),
            channels: vec![(4, 16), (8, 16), (16, 16)],
            classes: 0,
        };
        Ok(Toy {
            layout,
            constant: p.get("const", (1, 16, 4, 4), Init::Normal(1.0))?,
            style: p.get("style.weight", (16, 16), Init::Normal(0.25))?,
            rgb: p.get("rgb.weight", (3, 16, 3, 3), Init::Normal(0.1))?,
        })
    }
}

impl Generator for Toy {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn map(&self, z: &Tensor, _classes: Option<&Tensor>) -> Result<Tensor> {
        let w = ops::pixel_norm(z, 1e-8)?;
        w.unsqueeze(1)?.broadcast_as((w.dim(0)?, self.layout.rows, self.layout.w_dim))?.contiguous()
    }

    fn synthesize(&self, latent: &Tensor, with: &Synthesis) -> Result<Tensor> {
        let style = ops::linear(&latent.mean(1)?, &self.style, None)?.reshape(((), 16, 1, 1))?;
        let x = with.constant.unwrap_or(&self.constant).broadcast_mul(&style)?;
        let x = ops::upsample2(&ops::upsample2(&ops::leaky_relu(&x, 0.2)?)?)?;
        ops::conv2d(&x, &self.rgb, None, 1, 1)?.tanh()
    }

    fn constant(&self) -> Option<&Tensor> {
        Some(&self.constant)
    }
}
