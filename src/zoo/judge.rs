//! The judge: a small network that reads the factors off a picture. It never takes part in another network's training. Its last
//! hidden layer is the feature space of `fd-mini` (a Fréchet distance, not FID) and of the diversity on the model cards.

use candle_core::{Result, Tensor};

use super::faces::FACTORS;
use super::supervised::Task;
use crate::ops;
use crate::params::{Init, Params};

const SLOPE: f64 = 0.2;
const WIDTHS: [usize; 5] = [24, 48, 64, 96, 96];

/// Length of the feature vector.
pub const FEATURES: usize = 128;

/// Five 3x3 convolutions, all but the first with stride 2, and two linear layers, for pictures of 64 px in [-1, 1].
pub struct Judge {
    convs: Vec<(Tensor, Tensor)>,
    hidden: (Tensor, Tensor),
    factors: (Tensor, Tensor),
}

impl Judge {
    pub fn new(p: &Params) -> Result<Self> {
        let mut convs = Vec::new();
        let mut inputs = 3;
        for (i, width) in WIDTHS.into_iter().enumerate() {
            let p = p.pp("conv").pp(i);
            let init = Init::Normal((2.0 / (9 * inputs) as f64).sqrt());
            convs.push((p.get("weight", (width, inputs, 3, 3), init)?, p.get("bias", width, Init::Const(0.0))?));
            inputs = width;
        }
        let linear = |name: &str, inputs: usize, outputs: usize, gain: f64| -> Result<(Tensor, Tensor)> {
            let p = p.pp(name);
            let init = Init::Normal((gain / inputs as f64).sqrt());
            Ok((p.get("weight", (outputs, inputs), init)?, p.get("bias", outputs, Init::Const(0.0))?))
        };
        Ok(Judge {
            convs,
            hidden: linear("hidden", inputs * 16, FEATURES, 2.0)?,
            factors: linear("factors", FEATURES, FACTORS.len(), 1.0)?,
        })
    }

    /// Pictures `[n, 3, 64, 64]` to features `[n, 128]`.
    pub fn features(&self, images: &Tensor) -> Result<Tensor> {
        let mut x = images.clone();
        for (i, (weight, bias)) in self.convs.iter().enumerate() {
            x = ops::leaky_relu(&ops::conv2d(&x, weight, Some(bias), if i == 0 { 1 } else { 2 }, 1)?, SLOPE)?;
        }
        ops::leaky_relu(&ops::linear(&x.flatten_from(1)?, &self.hidden.0, Some(&self.hidden.1))?, SLOPE)
    }

    /// Features to the factors `[n, 25]` in the order of [`FACTORS`].
    pub fn factors(&self, features: &Tensor) -> Result<Tensor> {
        ops::linear(features, &self.factors.0, Some(&self.factors.1))
    }
}

impl Task for Judge {
    fn build(p: &Params) -> Result<Self> {
        Judge::new(p)
    }

    /// The mean squared error of the factors.
    fn loss(&self, images: &Tensor, factors: &[[f32; FACTORS.len()]], _step: u64) -> Result<Tensor> {
        let wanted = Tensor::from_vec(factors.concat(), (factors.len(), FACTORS.len()), images.device())?;
        (self.factors(&self.features(images)?)? - wanted)?.sqr()?.mean_all()
    }
}
