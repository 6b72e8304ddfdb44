//! The Inception v3 of FID: "Rethinking the Inception Architecture for Computer Vision" (Szegedy et al., CVPR 2016) as
//! TensorFlow's 2015-12-05 graph has it, under the tensor names of pytorch-fid's weight file.
//!
//! It differs from torchvision's network: the average pools of the Mixed blocks leave the padding out of the count, the
//! pool branch of Mixed_7c takes the maximum, there are 1008 classes and no auxiliary head. With torchvision's pools the
//! features are others, so FID values made with them are not FID.

use candle_core::{Result, Tensor, bail};

use crate::images::{Resample, Rgb8};
use crate::ops;
use crate::params::{Init, Params};

/// Side of the images that the network takes.
pub const SIDE: usize = 299;

/// How an 8-bit image becomes the network's input. The three packages differ, and so do their FID values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preprocessing {
    /// pytorch-fid 0.3: bilinear without antialias on [0, 1], then 2x - 1.
    PytorchFid,
    /// torch-fidelity 0.4: TensorFlow 1's bilinear on 0..255, then (x - 128) / 128.
    TorchFidelity,
    /// clean-fid 0.1.35: Pillow's antialiased bicubic in floats, clipped to 0..255, then (x - 128) / 128.
    CleanFid,
}

impl Preprocessing {
    pub const ALL: [Preprocessing; 3] = [Preprocessing::PytorchFid, Preprocessing::TorchFidelity, Preprocessing::CleanFid];

    /// The part of a metric's name.
    pub fn name(self) -> &'static str {
        match self {
            Preprocessing::PytorchFid => "pytorch",
            Preprocessing::TorchFidelity => "fidelity",
            Preprocessing::CleanFid => "clean",
        }
    }

    /// The input `[3, 299, 299]` of one image.
    pub fn apply(self, image: &Rgb8, device: &candle_core::Device) -> Result<Tensor> {
        let resize = |kind: Resample, planes: &[f32]| kind.planes(planes, (image.width(), image.height()), (SIDE, SIDE));
        let mut x = match self {
            Preprocessing::PytorchFid => resize(Resample::TorchBilinear { align_corners: false }, &image.planes(|v| v as f32 / 255.0)),
            Preprocessing::TorchFidelity => resize(Resample::Tf1Bilinear, &image.planes(f32::from)),
            Preprocessing::CleanFid => resize(Resample::CleanFidBicubic, &image.planes(f32::from)),
        };
        match self {
            Preprocessing::PytorchFid => x.iter_mut().for_each(|v| *v = 2.0 * *v - 1.0),
            Preprocessing::TorchFidelity => x.iter_mut().for_each(|v| *v = (*v - 128.0) / 128.0),
            Preprocessing::CleanFid => x.iter_mut().for_each(|v| *v = (v.clamp(0.0, 255.0) - 128.0) / 128.0),
        }
        Tensor::from_vec(x, (3, SIDE, SIDE), device)
    }
}

/// Convolution, batch normalisation in evaluation mode (folded into the weights), ReLU.
struct Conv {
    weight: Tensor,
    bias: Tensor,
    stride: usize,
    /// Zeros above and below, left and right.
    pad: (usize, usize),
}

impl Conv {
    /// Reads `name.conv.weight` and the four tensors of `name.bn`; the widths are the file's.
    fn new(p: &Params, name: &str, kernel: (usize, usize), stride: usize, pad: (usize, usize)) -> Result<Self> {
        let (conv, bn) = (p.pp(name).pp("conv"), p.pp(name).pp("bn"));
        let Some(&[out, input, kh, kw]) = conv.shape_of("weight").as_deref().and_then(|s| s.first_chunk::<4>()) else {
            bail!("FID Inception: the tensor \"{name}.conv.weight\" is missing or has not four dimensions")
        };
        if (kh, kw) != kernel {
            bail!("FID Inception: \"{name}.conv.weight\" has a {kh}x{kw} kernel instead of {}x{}", kernel.0, kernel.1)
        }
        let get = |key: &str| bn.get(key, out, Init::Const(1.0));
        bn.ignore("num_batches_tracked");
        let scale = (get("weight")? / (get("running_var")? + 1e-3)?.sqrt()?)?;
        let weight = conv.get("weight", (out, input, kh, kw), Init::Const(0.0))?.broadcast_mul(&scale.reshape((out, 1, 1, 1))?)?;
        let bias = (get("bias")? - get("running_mean")? * scale)?;
        Ok(Conv { weight, bias, stride, pad })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (h, w) = self.pad;
        let y = if h == w {
            ops::conv2d(x, &self.weight, Some(&self.bias), self.stride, h)?
        } else {
            let x = x.pad_with_zeros(2, h, h)?.pad_with_zeros(3, w, w)?;
            ops::conv2d(&x, &self.weight, Some(&self.bias), self.stride, 0)?
        };
        ops::relu(&y)
    }
}

/// What stands at the end of a block's last branch.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pool {
    /// 3x3 mean, stride 1, the padding not counted, then a 1x1 convolution.
    Average,
    /// 3x3 maximum, stride 1, then a 1x1 convolution.
    Max,
    /// 3x3 maximum, stride 2, nothing after it.
    Reduce,
}

/// A block: chains of convolutions side by side, their outputs concatenated, the pool branch last. A chain may end in a
/// fork of two convolutions, whose outputs are concatenated.
struct Block {
    chains: Vec<(Vec<Conv>, Vec<Conv>)>,
    pool: Pool,
    after_pool: Option<Conv>,
}

impl Block {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut parts = Vec::new();
        for (chain, fork) in &self.chains {
            let mut y = x.clone();
            for conv in chain {
                y = conv.forward(&y)?;
            }
            if fork.is_empty() {
                parts.push(y);
            } else {
                for conv in fork {
                    parts.push(conv.forward(&y)?);
                }
            }
        }
        let pooled = match self.pool {
            Pool::Average => pool3(x, 1, 1, true)?,
            Pool::Max => pool3(x, 1, 1, false)?,
            Pool::Reduce => pool3(x, 2, 0, false)?,
        };
        parts.push(self.after_pool.as_ref().map_or(Ok(pooled.clone()), |c| c.forward(&pooled))?);
        Tensor::cat(&parts, 1)
    }
}

/// The network.
pub struct Inception {
    stem: Vec<Conv>,
    blocks: Vec<(&'static str, Block)>,
    fc: (Tensor, Tensor),
}

/// Spatial means of the four layers that FID implementations offer, and the logits; widths of the published network.
pub struct Taps {
    /// `[n, 64]`, after the first max-pool.
    pub pool1: Tensor,
    /// `[n, 192]`, after the second.
    pub pool2: Tensor,
    /// `[n, 768]`, Mixed_6e.
    pub mixed_6e: Tensor,
    /// `[n, 2048]`, the features of FID and KID.
    pub pool3: Tensor,
    /// `[n, 1008]` without the bias of the last layer.
    pub logits_unbiased: Tensor,
    pub logits: Tensor,
}

impl Inception {
    /// Reads the network from a weight file of pytorch-fid's names; the widths are the file's, so a narrow copy works too.
    pub fn new(p: &Params) -> Result<Self> {
        let stem = vec![
            Conv::new(p, "Conv2d_1a_3x3", (3, 3), 2, (0, 0))?,
            Conv::new(p, "Conv2d_2a_3x3", (3, 3), 1, (0, 0))?,
            Conv::new(p, "Conv2d_2b_3x3", (3, 3), 1, (1, 1))?,
            Conv::new(p, "Conv2d_3b_1x1", (1, 1), 1, (0, 0))?,
            Conv::new(p, "Conv2d_4a_3x3", (3, 3), 1, (0, 0))?,
        ];
        const NAMES: [&str; 11] = [
            "Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e", "Mixed_7a", "Mixed_7b",
            "Mixed_7c",
        ];
        let blocks = NAMES.iter().map(|&name| Ok((name, block(&p.pp(name), name)?))).collect::<Result<Vec<_>>>()?;
        let Some(&[classes, width]) = p.shape_of("fc.weight").as_deref().and_then(|s| s.first_chunk::<2>()) else {
            bail!("FID Inception: the tensor \"fc.weight\" is missing or no matrix")
        };
        let fc = (p.get("fc.weight", (classes, width), Init::Const(0.0))?, p.get("fc.bias", classes, Init::Const(0.0))?);
        Ok(Inception { stem, blocks, fc })
    }

    /// Number of features (2048 in the published network).
    pub fn width(&self) -> usize {
        self.fc.0.dims()[1]
    }

    /// The stages by name, in order, for tests of the inner layers: called with each stage's output.
    pub fn walk(&self, x: &Tensor, mut see: impl FnMut(&'static str, &Tensor) -> Result<()>) -> Result<Tensor> {
        let names = ["Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3"];
        let mut x = x.clone();
        for (i, (name, conv)) in names.into_iter().zip(&self.stem).enumerate() {
            x = conv.forward(&x)?;
            see(name, &x)?;
            if i == 2 || i == 4 {
                x = pool3(&x, 2, 0, false)?;
                see(if i == 2 { "maxpool1" } else { "maxpool2" }, &x)?;
            }
        }
        for (name, block) in &self.blocks {
            x = block.forward(&x)?;
            see(name, &x)?;
        }
        Ok(x)
    }

    /// One block alone, by its name ("Mixed_5b").
    pub fn block(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        match self.blocks.iter().find(|(n, _)| *n == name) {
            Some((_, block)) => block.forward(x),
            None => bail!("FID Inception has no block {name}"),
        }
    }

    /// The features of FID: `[n, 3, 299, 299]` from [`Preprocessing::apply`] to `[n, 2048]`.
    pub fn features(&self, x: &Tensor) -> Result<Tensor> {
        mean(&self.walk(x, |_, _| Ok(()))?)
    }

    /// Every tap of a batch.
    pub fn taps(&self, x: &Tensor) -> Result<Taps> {
        let mut seen = Vec::new();
        let last = self.walk(x, |name, y| {
            if ["maxpool1", "maxpool2", "Mixed_6e"].contains(&name) {
                seen.push(mean(y)?);
            }
            Ok(())
        })?;
        let pool3 = mean(&last)?;
        let logits_unbiased = ops::linear(&pool3, &self.fc.0, None)?;
        let logits = logits_unbiased.broadcast_add(&self.fc.1)?;
        let [pool1, pool2, mixed_6e] = <[Tensor; 3]>::try_from(seen).map_err(|_| candle_core::Error::Msg("a tap is missing".into()))?;
        Ok(Taps { pool1, pool2, mixed_6e, pool3, logits_unbiased, logits })
    }
}

/// Spatial mean, accumulated in f64.
fn mean(x: &Tensor) -> Result<Tensor> {
    let (n, c, h, w) = x.dims4()?;
    let data = x.flatten_all()?.to_vec1::<f32>()?;
    let means: Vec<f32> = data.chunks_exact(h * w).map(|p| (p.iter().map(|&v| v as f64).sum::<f64>() / (h * w) as f64) as f32).collect();
    Tensor::from_vec(means, (n, c), x.device())
}

fn block(p: &Params, name: &str) -> Result<Block> {
    let conv = |name: &str, kernel: (usize, usize)| Conv::new(p, name, kernel, 1, (kernel.0 / 2, kernel.1 / 2));
    let down = |name: &str| Conv::new(p, name, (3, 3), 2, (0, 0));
    let one = |name: &str| conv(name, (1, 1));
    let three = |name: &str| conv(name, (3, 3));
    let straight = |chain: Vec<Conv>| (chain, Vec::new());
    let kind = name.trim_start_matches("Mixed_");
    let chains = match kind {
        "5b" | "5c" | "5d" => vec![
            straight(vec![one("branch1x1")?]),
            straight(vec![one("branch5x5_1")?, conv("branch5x5_2", (5, 5))?]),
            straight(vec![one("branch3x3dbl_1")?, three("branch3x3dbl_2")?, three("branch3x3dbl_3")?]),
        ],
        "6a" => vec![
            straight(vec![down("branch3x3")?]),
            straight(vec![one("branch3x3dbl_1")?, three("branch3x3dbl_2")?, down("branch3x3dbl_3")?]),
        ],
        "7a" => vec![
            straight(vec![one("branch3x3_1")?, down("branch3x3_2")?]),
            straight(vec![one("branch7x7x3_1")?, conv("branch7x7x3_2", (1, 7))?, conv("branch7x7x3_3", (7, 1))?, down("branch7x7x3_4")?]),
        ],
        "7b" | "7c" => vec![
            straight(vec![one("branch1x1")?]),
            (vec![one("branch3x3_1")?], vec![conv("branch3x3_2a", (1, 3))?, conv("branch3x3_2b", (3, 1))?]),
            (
                vec![one("branch3x3dbl_1")?, three("branch3x3dbl_2")?],
                vec![conv("branch3x3dbl_3a", (1, 3))?, conv("branch3x3dbl_3b", (3, 1))?],
            ),
        ],
        _ => vec![
            straight(vec![one("branch1x1")?]),
            straight(vec![one("branch7x7_1")?, conv("branch7x7_2", (1, 7))?, conv("branch7x7_3", (7, 1))?]),
            straight(vec![
                one("branch7x7dbl_1")?,
                conv("branch7x7dbl_2", (7, 1))?,
                conv("branch7x7dbl_3", (1, 7))?,
                conv("branch7x7dbl_4", (7, 1))?,
                conv("branch7x7dbl_5", (1, 7))?,
            ]),
        ],
    };
    let pool = match kind {
        "6a" | "7a" => Pool::Reduce,
        "7c" => Pool::Max,
        _ => Pool::Average,
    };
    let after_pool = if pool == Pool::Reduce { None } else { Some(one("branch_pool")?) };
    Ok(Block { chains, pool, after_pool })
}

/// 3x3 pooling of `[n, c, h, w]`: the mean of the values inside the image, or the maximum. No gradient.
fn pool3(x: &Tensor, stride: usize, pad: usize, average: bool) -> Result<Tensor> {
    let (n, c, h, w) = x.dims4()?;
    if h + 2 * pad < 3 || w + 2 * pad < 3 {
        bail!("FID Inception: a map of {h}x{w} is too small to be pooled")
    }
    let (oh, ow) = ((h + 2 * pad - 3) / stride + 1, (w + 2 * pad - 3) / stride + 1);
    let data = x.flatten_all()?.to_vec1::<f32>()?;
    let mut out = Vec::with_capacity(n * c * oh * ow);
    let span = |i: usize, size: usize| ((i * stride).saturating_sub(pad), (i * stride + 3 - pad).min(size));
    let columns: Vec<(usize, usize)> = (0..ow).map(|i| span(i, w)).collect();
    let mut line = vec![0f32; w];
    for plane in data.chunks_exact(h * w) {
        for y in 0..oh {
            let (top, bottom) = span(y, h);
            line.copy_from_slice(&plane[top * w..(top + 1) * w]);
            for row in plane[(top + 1) * w..bottom * w].chunks_exact(w) {
                for (l, &v) in line.iter_mut().zip(row) {
                    *l = if average { *l + v } else { l.max(v) };
                }
            }
            out.extend(columns.iter().map(|&(left, right)| {
                let cells = line[left..right].iter().copied();
                if average {
                    cells.sum::<f32>() / ((right - left) * (bottom - top)) as f32
                } else {
                    cells.fold(f32::NEG_INFINITY, f32::max)
                }
            }));
        }
    }
    Tensor::from_vec(out, (n, c, oh, ow), x.device())
}
