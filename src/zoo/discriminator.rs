//! The discriminator of the mini networks, and gradient penalties without second-order autograd.
//!
//! A penalty on the gradient of D with respect to its input needs the gradient, over the weights, of a gradient. D is piecewise
//! linear, so this is the ordinary gradient of a directional derivative (a *tangent*): [`Dual`] carries a value and its tangent
//! through the network side by side; the masks of the leaky ReLU are constants. It is exact (paper_recipe: 3e-16 in f64), while a
//! finite difference is not, because the gradient of a leaky-ReLU network jumps.

use candle_core::{DType, Result, Tensor, Var, bail};

use crate::generators::Stage;
use crate::ops;
use crate::params::{Init, Params};

const SLOPE: f64 = 0.2;

/// A value and, where asked for, its derivative along one direction of the network's input.
#[derive(Clone)]
pub struct Dual {
    pub value: Tensor,
    pub tangent: Option<Tensor>,
}

impl Dual {
    /// A value alone.
    pub fn plain(value: &Tensor) -> Self {
        Dual { value: value.clone(), tangent: None }
    }

    /// A value and the direction in which it moves, of equal shapes.
    pub fn moving(value: &Tensor, tangent: &Tensor) -> Self {
        Dual { value: value.clone(), tangent: Some(tangent.clone()) }
    }

    /// Any linear map, such as a convolution without bias, pooling or blur.
    pub fn linear(&self, map: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Dual> {
        Ok(Dual { value: map(&self.value)?, tangent: self.tangent.as_ref().map(&map).transpose()? })
    }

    /// Adds a constant, broadcast.
    pub fn shift(&self, by: &Tensor) -> Result<Dual> {
        Ok(Dual { value: self.value.broadcast_add(by)?, tangent: self.tangent.clone() })
    }

    /// `leaky_relu(x + bias)`, bias `[1, C, 1, 1]`.
    pub fn bias_lrelu(&self, bias: Option<&Tensor>, slope: f64) -> Result<Dual> {
        self.after_lrelu(ops::noise_bias_lrelu(&self.value, None, bias, slope)?, slope)
    }

    /// `leaky_relu(x)` for any shape.
    pub fn lrelu(&self, slope: f64) -> Result<Dual> {
        self.after_lrelu(ops::leaky_relu(&self.value, slope)?, slope)
    }

    fn after_lrelu(&self, value: Tensor, slope: f64) -> Result<Dual> {
        let tangent = self.tangent.as_ref().map(|t| ops::lrelu_tangent(t, &value, slope)).transpose()?;
        Ok(Dual { value, tangent })
    }

    /// `(1 - t) * self + t * other`.
    pub fn lerp(&self, other: &Dual, t: f64) -> Result<Dual> {
        let mix = |a: &Tensor, b: &Tensor| (a * (1.0 - t))? + (b * t)?;
        let tangent = match (&self.tangent, &other.tangent) {
            (Some(a), Some(b)) => Some(mix(a, b)?),
            _ => None,
        };
        Ok(Dual { value: mix(&self.value, &other.value)?, tangent })
    }

    /// The sum of two.
    pub fn plus(&self, other: &Dual) -> Result<Dual> {
        let tangent = match (&self.tangent, &other.tangent) {
            (Some(a), Some(b)) => Some((a + b)?),
            _ => None,
        };
        Ok(Dual { value: (&self.value + &other.value)?, tangent })
    }

    /// Instance norm of `[n, C, h, w]`, and the mean and standard deviation of every plane `[n, 2C]`, as [`ops::instance_norm_stats`].
    pub fn instance_norm_stats(&self, eps: f64) -> Result<(Dual, Dual)> {
        let (value, statistics) = ops::instance_norm_stats(&self.value, eps)?;
        let Some(t) = &self.tangent else { return Ok((Dual { value, tangent: None }, Dual { value: statistics, tangent: None })) };
        let mean = |x: &Tensor| x.mean_keepdim(3)?.mean_keepdim(2);
        let (x, along) = (self.value.broadcast_sub(&mean(&self.value)?)?, mean(t)?);
        let moving = t.broadcast_sub(&along)?;
        let var = mean(&x.sqr()?)?;
        // Half of how the variance moves.
        let drift = mean(&(&x * &moving)?)?;
        let root = (&var + eps)?.sqrt()?;
        let scale = (&drift / (&var + eps)?)?;
        let tangent = (moving - x.broadcast_mul(&scale)?)?.broadcast_div(&root)?;
        // A flat plane has no slope.
        let of_deviation = (drift / (var + 1e-12)?.sqrt()?)?;
        let of_statistics = Tensor::cat(&[along, of_deviation], 1)?.flatten_from(1)?;
        Ok((Dual { value, tangent: Some(tangent) }, Dual { value: statistics, tangent: Some(of_statistics) }))
    }

    /// Appends one channel: the standard deviation over each group of `group` consecutive samples, averaged over channels and
    /// places. Consecutive groups (NVIDIA's are strided) let generated and real images share one pass without mixing.
    ///
    /// Errors: the batch is no multiple of `group`.
    pub fn minibatch_std(&self, group: usize) -> Result<Dual> {
        let (n, c, h, w) = self.value.dims4()?;
        if group == 0 || n % group != 0 {
            bail!("minibatch standard deviation: a batch of {n} can't be split into groups of {group}")
        }
        let grouped = |x: &Tensor| x.reshape((n / group, group, c * h * w));
        let centred = |x: &Tensor| x.broadcast_sub(&x.mean_keepdim(1)?);
        let as_channel = |s: &Tensor| s.mean_keepdim(2)?.broadcast_as((n / group, group, h * w))?.contiguous()?.reshape((n, 1, h, w));
        let y = centred(&grouped(&self.value)?)?;
        let std = (y.sqr()?.mean_keepdim(1)? + 1e-8)?.sqrt()?;
        let tangent = match &self.tangent {
            Some(t) => {
                let along = (&y * centred(&grouped(t)?)?)?.mean_keepdim(1)?.div(&std)?;
                Some(Tensor::cat(&[t, &as_channel(&along)?], 1)?)
            }
            None => None,
        };
        Ok(Dual { value: Tensor::cat(&[&self.value, &as_channel(&std)?], 1)?, tangent })
    }
}

/// A penalty on the gradient of D with respect to its input, over a batch of n images.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Penalty {
    /// `gamma / 2 * mean |dD/dx|^2` (Mescheder et al., ICML 2018).
    R1 { gamma: f64 },
    /// `lambda * mean (|dD/dx| - 1)^2` (Gulrajani et al., NeurIPS 2017).
    WganGp { lambda: f64 },
}

impl Penalty {
    /// The value of the penalty at `x` `[n, ...]`, and a scalar whose gradient over the weights is the penalty's (its own value
    /// means nothing): add it to the loss. `scores` is D; `frozen` is D with detached weights, for the gradient at `x`.
    pub fn at(self, x: &Tensor, scores: impl Fn(&Dual) -> Result<Dual>, frozen: impl Fn(&Dual) -> Result<Dual>) -> Result<(f64, Tensor)> {
        let n = x.dim(0)? as f64;
        let gradient = input_gradient(x, frozen)?;
        let norm = gradient.flatten_from(1)?.sqr()?.sum_keepdim(1)?.sqrt()?;
        let (value, direction) = match self {
            Penalty::R1 { gamma } => ((norm.sqr()?.mean_all()? * (gamma / 2.0))?, (&gradient * (gamma / n))?),
            Penalty::WganGp { lambda } => {
                let off = (&norm - 1.0)?;
                let seed = ((&off * (2.0 * lambda / n))? / (&norm + 1e-12)?)?;
                let rank = gradient.rank();
                let seed = seed.reshape([vec![gradient.dim(0)?], vec![1; rank - 1]].concat())?;
                ((off.sqr()?.mean_all()? * lambda)?, gradient.broadcast_mul(&seed)?)
            }
        };
        let moved = scores(&Dual::moving(x, &direction))?;
        let Some(tangent) = moved.tangent else { bail!("the discriminator dropped the tangent") };
        Ok((value.to_dtype(DType::F64)?.to_scalar()?, tangent.sum_all()?))
    }
}

/// The gradient of the sum of all scores with respect to `x`.
pub fn input_gradient(x: &Tensor, frozen: impl Fn(&Dual) -> Result<Dual>) -> Result<Tensor> {
    let input = Var::from_tensor(x)?;
    let grads = ops::backward(&frozen(&Dual::plain(input.as_tensor()))?.value.sum_all()?)?;
    match grads.get(input.as_tensor()) {
        Some(gradient) => Ok(gradient.detach()),
        None => bail!("the scores do not depend on the images"),
    }
}

/// The shape of a discriminator.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// (resolution, channels) of each block from 4 px up, as in the generator's layout.
    pub channels: Vec<(usize, usize)>,
    /// Samples per group of the minibatch standard deviation.
    pub group: usize,
}

#[derive(Clone)]
struct Conv {
    weight: Tensor,
    bias: Tensor,
}

impl Conv {
    fn new(p: &Params, inputs: usize, outputs: usize, size: usize) -> Result<Self> {
        let std = (2.0 / (inputs * size * size) as f64).sqrt();
        Ok(Conv {
            weight: p.get_coef("weight", (outputs, inputs, size, size), Init::Normal(std), std)?,
            bias: p.get("bias", (1, outputs, 1, 1), Init::Const(0.0))?,
        })
    }

    fn apply(&self, x: &Dual) -> Result<Dual> {
        let pad = self.weight.dim(2)? / 2;
        x.linear(|x| ops::conv2d(x, &self.weight, None, 1, pad))
    }

    fn lrelu(&self, x: &Dual) -> Result<Dual> {
        self.apply(x)?.bias_lrelu(Some(&self.bias), SLOPE)
    }

    fn detached(&self) -> Self {
        Conv { weight: self.weight.detach(), bias: self.bias.detach() }
    }
}

/// Per resolution one 1x1 convolution from RGB and a block (3x3 convolution, average pool, 3x3 convolution: the pool stands before
/// the second convolution, which is then four times cheaper); at 4 px minibatch standard deviation, 3x3 convolution, two linear
/// layers. Leaky ReLU 0.2, effective weights with the coefficients of the equalised learning rate.
#[derive(Clone)]
pub struct Discriminator {
    group: usize,
    /// From RGB by block, 4 px first.
    rgb: Vec<Conv>,
    /// The two convolutions of each block from 8 px up.
    blocks: Vec<(Conv, Conv)>,
    last: Conv,
    hidden: (Tensor, Tensor),
    score: (Tensor, Tensor),
}

impl Discriminator {
    pub fn new(config: &Config, p: &Params) -> Result<Self> {
        let widths: Vec<usize> = config.channels.iter().map(|&(_, c)| c).collect();
        let rgb = |(i, &c): (usize, &usize)| Conv::new(&p.pp("from_rgb").pp(i), 3, c, 1);
        let block = |i: usize| {
            let p = p.pp("block").pp(i);
            Ok((Conv::new(&p.pp("conv_1"), widths[i], widths[i], 3)?, Conv::new(&p.pp("conv_2"), widths[i], widths[i - 1], 3)?))
        };
        let c = widths[0];
        let linear = |name: &str, inputs: usize, outputs: usize, gain: f64| -> Result<(Tensor, Tensor)> {
            let p = p.pp(name);
            let std = (gain / inputs as f64).sqrt();
            Ok((p.get_coef("weight", (outputs, inputs), Init::Normal(std), std)?, p.get("bias", outputs, Init::Const(0.0))?))
        };
        Ok(Discriminator {
            group: config.group,
            rgb: widths.iter().enumerate().map(rgb).collect::<Result<_>>()?,
            blocks: (1..widths.len()).map(block).collect::<Result<_>>()?,
            last: Conv::new(&p.pp("last"), c + 1, c, 3)?,
            hidden: linear("hidden", c * 16, c, 2.0)?,
            score: linear("score", c, 1, 1.0)?,
        })
    }

    /// The scores `[n, 1]` of images `[n, 3, r, r]` with r = 4 * 2^stage.last.
    pub fn scores(&self, images: &Dual, stage: Stage) -> Result<Dual> {
        let mut x = self.rgb[stage.last].lrelu(images)?;
        for i in (1..=stage.last).rev() {
            let (first, second) = &self.blocks[i - 1];
            x = second.lrelu(&first.lrelu(&x)?.linear(ops::avg_pool2)?)?;
            if i == stage.last && stage.blend < 1.0 {
                let before = self.rgb[i - 1].lrelu(&images.linear(ops::avg_pool2)?)?;
                x = before.lerp(&x, stage.blend)?;
            }
        }
        let x = self.last.lrelu(&x.minibatch_std(self.group)?)?.linear(|x| x.flatten_from(1))?;
        let x = x.linear(|x| ops::linear(x, &self.hidden.0, None))?.shift(&self.hidden.1)?.lrelu(SLOPE)?;
        x.linear(|x| ops::linear(x, &self.score.0, None))?.shift(&self.score.1)
    }

    /// The same network, sharing its weights, as constants.
    pub fn detached(&self) -> Self {
        let pair = |(weight, bias): &(Tensor, Tensor)| (weight.detach(), bias.detach());
        Discriminator {
            group: self.group,
            rgb: self.rgb.iter().map(Conv::detached).collect(),
            blocks: self.blocks.iter().map(|(a, b)| (a.detached(), b.detached())).collect(),
            last: self.last.detached(),
            hidden: pair(&self.hidden),
            score: pair(&self.score),
        }
    }
}
