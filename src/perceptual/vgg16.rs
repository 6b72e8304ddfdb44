//! VGG16: "Very Deep Convolutional Networks for Large-Scale Image Recognition" (Simonyan and Zisserman, ICLR 2015),
//! configuration D, under the tensor names of torchvision (`features.N`, `classifier.N`).
//!
//! Widths, depth of the blocks, classes and classifier head are free, so that the same code is the ImageNet network, the
//! narrow one of the mini zoo and the small ones of the tests. It serves LPIPS, the feature distance of Eq. 7, Grad-CAM
//! (cut at the last convolution, [`Vgg16::tail`]) and, with [`Params::fresh`], training a classifier.

use candle_core::{Result, Tensor, bail};

use crate::ops;
use crate::params::{Init, Params};

/// The shape of a network of this family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Per block, the width and the number of its 3x3 convolutions; a 2x2 max-pool stands between two blocks.
    pub blocks: Vec<(usize, usize)>,
    /// Side of the adaptive average pool before the classifier (torchvision: 7).
    pub pool: usize,
    /// Output widths of the fully connected layers, the last one the number of classes (torchvision: 4096, 4096, 1000).
    /// Empty: features only.
    pub classifier: Vec<usize>,
}

impl Config {
    /// Configuration D with these block widths.
    pub fn vgg16(widths: [usize; 5], pool: usize, classifier: &[usize]) -> Self {
        let depths = [2, 2, 3, 3, 3];
        Config { blocks: widths.into_iter().zip(depths).collect(), pool, classifier: classifier.to_vec() }
    }

    /// torchvision's ImageNet network.
    pub fn torchvision() -> Self {
        Self::vgg16([64, 128, 256, 512, 512], 7, &[4096, 4096, 1000])
    }

    /// Reads the shape from the tensors of a file: two convolutions two places apart share a block, three places apart
    /// stand on both sides of a max-pool.
    ///
    /// Errors: no `features.0.weight`, or a first classifier layer that fits no square pool.
    pub fn read(p: &Params) -> Result<Self> {
        let features = p.pp("features");
        let width = |i: usize| features.shape_of(&format!("{i}.weight")).map(|s| s[0]);
        let Some(first) = width(0) else { bail!("not a VGG network: the tensor \"features.0.weight\" is missing") };
        let mut blocks = vec![(first, 1)];
        let mut at = 0;
        loop {
            if let Some(w) = width(at + 2) {
                at += 2;
                let last = blocks.len() - 1;
                blocks[last] = (w, blocks[last].1 + 1);
            } else if let Some(w) = width(at + 3) {
                at += 3;
                blocks.push((w, 1));
            } else {
                break;
            }
        }
        let mut classifier = Vec::new();
        let mut pool = 0;
        while let Some(shape) = p.shape_of(&format!("classifier.{}.weight", 3 * classifier.len())) {
            let [out, input] = shape[..] else { bail!("classifier.{}.weight is not a matrix", 3 * classifier.len()) };
            if classifier.is_empty() {
                let channels = blocks[blocks.len() - 1].0;
                pool = (input as f64 / channels as f64).sqrt().round() as usize;
                if pool * pool * channels != input {
                    bail!("classifier.0.weight takes {input} values, which is no square of {channels} channels")
                }
            }
            classifier.push(out);
        }
        Ok(Config { blocks, pool, classifier })
    }
}

struct Layer {
    weight: Tensor,
    bias: Tensor,
}

/// How the gradient passes a ReLU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Backward {
    /// The derivative.
    #[default]
    Plain,
    /// The derivative, then negative values cut off: guided backpropagation (Springenberg et al., ICLR 2015).
    Guided,
}

/// The network. Inputs are `[n, 3, H, W]`; images in [-1, 1] go through [`scale_input`] first.
pub struct Vgg16 {
    config: Config,
    blocks: Vec<Vec<Layer>>,
    classifier: Vec<Layer>,
}

impl Vgg16 {
    /// Fresh weights are He-normal with zero bias.
    pub fn new(config: &Config, p: &Params) -> Result<Self> {
        let mut blocks = Vec::with_capacity(config.blocks.len());
        let (mut channels, mut at) = (3, 0);
        for &(width, depth) in &config.blocks {
            let mut block = Vec::with_capacity(depth);
            for _ in 0..depth {
                let p = p.pp("features").pp(at);
                let weight = p.get("weight", (width, channels, 3, 3), Init::Normal((2.0 / (9 * channels) as f64).sqrt()))?;
                block.push(Layer { weight, bias: p.get("bias", width, Init::Const(0.0))? });
                channels = width;
                at += 2;
            }
            at += 1;
            blocks.push(block);
        }
        let mut classifier = Vec::with_capacity(config.classifier.len());
        let mut input = channels * config.pool * config.pool;
        for (i, &out) in config.classifier.iter().enumerate() {
            let p = p.pp("classifier").pp(3 * i);
            let gain = if i + 1 == config.classifier.len() { 1.0 } else { 2.0 };
            let weight = p.get("weight", (out, input), Init::Normal((gain / input as f64).sqrt()))?;
            classifier.push(Layer { weight, bias: p.get("bias", out, Init::Const(0.0))? });
            input = out;
        }
        Ok(Vgg16 { config: config.clone(), blocks, classifier })
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The activations after the last ReLU of every block: relu1_2, relu2_2, relu3_3, relu4_3, relu5_3 of VGG16,
    /// `[n, C, H / 2^k, W / 2^k]`.
    ///
    /// Errors: an image too small for the pools (VGG16 needs 16 pixels).
    pub fn taps(&self, x: &Tensor) -> Result<Vec<Tensor>> {
        self.taps_with(x, Backward::Plain)
    }

    /// As [`Vgg16::taps`], with a choice of the backward pass.
    pub fn taps_with(&self, x: &Tensor, backward: Backward) -> Result<Vec<Tensor>> {
        let least = 1 << (self.blocks.len() - 1);
        let (_, _, h, w) = x.dims4()?;
        if h < least || w < least {
            bail!("VGG: an image of {h}x{w} pixels is too small for {} blocks, {least} pixels are the least", self.blocks.len())
        }
        let mut x = x.clone();
        let mut taps = Vec::with_capacity(self.blocks.len());
        for (i, block) in self.blocks.iter().enumerate() {
            if i > 0 {
                x = ops::max_pool2(&x)?;
            }
            for layer in block {
                x = match backward {
                    Backward::Plain => ops::conv2d_lrelu(&x, &layer.weight, Some(&layer.bias), 1, 1, 0.0)?,
                    Backward::Guided => relu(&ops::conv2d(&x, &layer.weight, Some(&layer.bias), 1, 1)?, backward)?,
                };
            }
            taps.push(x.clone());
        }
        Ok(taps)
    }

    /// The activations after the ReLU of these convolutions, (block, place in the block) from 0 in ascending order.
    ///
    /// Errors: a convolution that this network does not have.
    pub fn layers(&self, x: &Tensor, wanted: &[(usize, usize)]) -> Result<Vec<Tensor>> {
        let mut out = Vec::with_capacity(wanted.len());
        let mut x = x.clone();
        'blocks: for (i, block) in self.blocks.iter().enumerate() {
            if i > 0 {
                x = ops::max_pool2(&x)?;
            }
            for (j, layer) in block.iter().enumerate() {
                x = ops::conv2d_lrelu(&x, &layer.weight, Some(&layer.bias), 1, 1, 0.0)?;
                if wanted.contains(&(i, j)) {
                    out.push(x.clone());
                }
                if out.len() == wanted.len() {
                    break 'blocks;
                }
            }
        }
        match out.len() == wanted.len() {
            true => Ok(out),
            false => bail!("VGG: the layers {wanted:?} are asked for, the network has {:?}", self.config.blocks),
        }
    }

    /// The activations after the last ReLU (relu5_3), where Grad-CAM cuts the network.
    pub fn features(&self, x: &Tensor) -> Result<Tensor> {
        Ok(self.taps(x)?.swap_remove(self.blocks.len() - 1))
    }

    /// From relu5_3 `[n, C, h, w]` to the logits `[n, classes]`: max-pool, adaptive average pool, classifier; dropout is
    /// the identity.
    ///
    /// Errors: the network has no classifier.
    pub fn tail(&self, features: &Tensor) -> Result<Tensor> {
        self.tail_with(features, Backward::Plain)
    }

    /// As [`Vgg16::tail`], with a choice of the backward pass.
    pub fn tail_with(&self, features: &Tensor, backward: Backward) -> Result<Tensor> {
        let Some((last, hidden)) = self.classifier.split_last() else { bail!("this VGG network has no classifier") };
        let x = ops::max_pool2(features)?;
        let mut x = adaptive_avg_pool(&x, self.config.pool)?.flatten_from(1)?;
        for layer in hidden {
            x = relu(&ops::linear(&x, &layer.weight, Some(&layer.bias))?, backward)?;
        }
        ops::linear(&x, &last.weight, Some(&last.bias))
    }

    /// The logits `[n, classes]`.
    pub fn logits(&self, x: &Tensor) -> Result<Tensor> {
        self.tail(&self.features(x)?)
    }
}

fn relu(x: &Tensor, backward: Backward) -> Result<Tensor> {
    let y = ops::relu(x)?;
    match backward {
        Backward::Plain => Ok(y),
        Backward::Guided => y.contiguous()?.apply_op1(PositiveGradient),
    }
}

/// Images in [-1, 1] as the network wants them, `(x - shift) / scale` per channel, with the constants of LPIPS, which are
/// ImageNet's mean and standard deviation moved to that range. One-channel maps are repeated to three channels.
pub fn scale_input(x: &Tensor) -> Result<Tensor> {
    let (shift, scale) = ([-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]);
    if x.dim(1)? == 1 {
        let x = Tensor::cat(&[x, x, x], 1)?;
        return scale_input(&x);
    }
    ops::channel_affine(x, &scale.map(|s| 1.0 / s), &std::array::from_fn::<f64, 3, _>(|c| -shift[c] / scale[c]))
}

/// Average pool to `side` x `side` cells; cell i covers rows floor(i H / side) to ceil((i + 1) H / side).
fn adaptive_avg_pool(x: &Tensor, side: usize) -> Result<Tensor> {
    let (_, _, h, w) = x.dims4()?;
    if (h, w) == (side, side) {
        return Ok(x.clone());
    }
    let means = |n: usize| {
        let mut m = vec![0f64; side * n];
        for i in 0..side {
            let (from, to) = (i * n / side, ((i + 1) * n).div_ceil(side));
            m[i * n + from..i * n + to].fill(1.0 / (to - from) as f64);
        }
        Tensor::from_vec(m, (side, n), x.device())?.to_dtype(x.dtype())
    };
    ops::matmul_resize(x, &means(h)?, &means(w)?)
}

/// The identity whose backward pass drops negative gradients.
struct PositiveGradient;

impl candle_core::CustomOp1 for PositiveGradient {
    fn name(&self) -> &'static str {
        "positive-gradient"
    }

    fn cpu_fwd(&self, s: &candle_core::CpuStorage, l: &candle_core::Layout) -> Result<(candle_core::CpuStorage, candle_core::Shape)> {
        use candle_core::backend::BackendStorage;
        Ok((s.try_clone(l)?, l.shape().clone()))
    }

    fn cuda_fwd(&self, s: &candle_core::CudaStorage, l: &candle_core::Layout) -> Result<(candle_core::CudaStorage, candle_core::Shape)> {
        use candle_core::backend::BackendStorage;
        Ok((s.try_clone(l)?, l.shape().clone()))
    }

    fn bwd(&self, _arg: &Tensor, _res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(grad.relu()?))
    }
}
