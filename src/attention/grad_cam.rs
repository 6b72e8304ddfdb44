//! Grad-CAM attention: "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization" (Selvaraju et al.,
//! ICCV 2017), for images whose object is not in the middle (section III.C of the MTV-TSA paper).
//!
//! The paper's form has a gradient to the encoder: the class and the channel weights are constants, the map is linear in the
//! features of the live graph, so no second-order gradient is needed. The released form (`metric/grad_cam.py`), whose
//! "Grad-CAM++" weights collapse to 0 or 1 and whose ReLUs are guided, has none: it is a value of the released recipe.

use candle_core::{D, DType, Result, Tensor, Var, bail};

use super::center::resize_matrix;
use crate::ops;
use crate::perceptual::vgg16::{Backward, Vgg16};

/// Maps whose values differ by no more than this are flat, and become 0.
const FLAT: f64 = 1e-8;

/// How strongly each channel of relu5_3 speaks for a class.
pub struct Channels {
    /// Spatial mean of d logit / d relu5_3, [n, C], a constant.
    pub alpha: Tensor,
    /// [n, classes], a constant.
    pub logits: Tensor,
    /// The class whose logit was taken, per image.
    pub classes: Vec<u32>,
}

/// The channel weights of the features `a` = relu5_3 [n, C, h, w] for `classes`, or for each image's own best class.
///
/// Errors: a network without classifier; a class it does not have.
pub fn channels(vgg: &Vgg16, a: &Tensor, classes: Option<&[u32]>) -> Result<Channels> {
    let a = Var::from_tensor(&a.detach().copy()?)?;
    let logits = vgg.tail(a.as_tensor())?;
    let classes = match classes {
        Some(classes) => classes.to_vec(),
        None => logits.detach().argmax(D::Minus1)?.to_vec1()?,
    };
    let gradient = gradient_of_logits(&logits, &classes, a.as_tensor())?;
    let alpha = gradient.flatten_from(2)?.mean(2)?;
    Ok(Channels { alpha, logits: logits.detach(), classes })
}

/// d (sum over the images of the logit of their class) / d `a`, a constant.
fn gradient_of_logits(logits: &Tensor, classes: &[u32], a: &Tensor) -> Result<Tensor> {
    let (n, count) = logits.dims2()?;
    if classes.len() != n || classes.iter().any(|&c| c as usize >= count) {
        bail!("Grad-CAM: {} class ids for {n} images of {count} classes", classes.len())
    }
    let ids = Tensor::from_slice(classes, (n, 1), logits.device())?;
    let gradients = logits.gather(&ids, 1)?.sum_all()?.backward()?;
    match gradients.get(a) {
        Some(g) => Ok(g.detach()),
        None => a.zeros_like(),
    }
}

/// ReLU of the weighted sum of the channels, [n, h, w]. The gradient reaches `a`.
pub fn raw_map(a: &Tensor, alpha: &Tensor) -> Result<Tensor> {
    let (n, c, h, w) = a.dims4()?;
    let sum = alpha.unsqueeze(1)?.matmul(&a.reshape((n, c, h * w))?)?;
    ops::relu(&sum.reshape((n, h, w))?)
}

/// Each map moved to [0, 1] by its own minimum and maximum, through which the gradient passes; a flat map becomes 0 with
/// gradient 0.
pub fn normalize(raw: &Tensor) -> Result<Tensor> {
    let (n, h, w) = raw.dims3()?;
    let flat = raw.reshape((n, h * w))?;
    let (low, high) = (flat.min_keepdim(1)?, flat.max_keepdim(1)?);
    let range = (high - &low)?;
    let ok = range.detach().gt(FLAT)?.to_dtype(raw.dtype())?;
    let range = (range + ok.affine(-1.0, 1.0)?)?;
    flat.broadcast_sub(&low)?.broadcast_div(&range)?.broadcast_mul(&ok)?.reshape((n, h, w))
}

/// View 1: the map [n, h, w] resized to the image, [n, 1, H, W] in [0, 1].
pub fn resize(map: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    let (_, h, w) = map.dims3()?;
    let matrix = |out: usize, n: usize| resize_matrix(out, n, 0, n, map.dtype(), map.device());
    ops::matmul_resize(&map.unsqueeze(1)?, &matrix(height, h)?, &matrix(width, w)?)
}

/// View 2: image times map, [n, 3, H, W]; what the map leaves out becomes 0, which is grey.
pub fn mask(view: &Tensor, image: &Tensor) -> Result<Tensor> {
    image.broadcast_mul(view)
}

/// Which weights the released code gives to the channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReleasedKind {
    /// Spatial mean of the gradient, ReLU on the sum.
    GradCam,
    /// "Grad-CAM++": 1 for a channel with any positive gradient, else 0.
    PlusPlus,
}

/// What the released code computes for a batch, all constants.
pub struct Released {
    pub logits: Tensor,
    /// The class whose logit was taken, per image.
    pub classes: Vec<u32>,
    /// Output of the last convolution after its ReLU, [n, C, h, w].
    pub features: Tensor,
    /// d (mean logit of those classes) / d (that output before its ReLU).
    pub gradient: Tensor,
    /// Weight per channel, [n, C].
    pub weights: Tensor,
    /// Weighted sum of the features, [n, h, w].
    pub raw: Tensor,
    /// The map, [n, 1, H, W]; 0/0 of a flat map is NaN, as released.
    pub mask: Tensor,
}

/// The released maps of `x` [n, 3, H, W], given to the network as they are. `classes` None: for all images the most frequent
/// best class of the batch, the smallest on ties.
pub fn released(vgg: &Vgg16, x: &Tensor, kind: ReleasedKind, backward: Backward, classes: Option<&[u32]>) -> Result<Released> {
    let (n, _, height, width) = x.dims4()?;
    let features = vgg.features(&x.detach())?.detach();
    let a = Var::from_tensor(&features.copy()?)?;
    let logits = vgg.tail_with(a.as_tensor(), backward)?;
    let classes = match classes {
        Some(classes) => classes.to_vec(),
        None => vec![majority(&logits.detach().argmax(D::Minus1)?.to_vec1()?); n],
    };
    let after = gradient_of_logits(&logits, &classes, a.as_tensor())?.affine(1.0 / n as f64, 0.0)?;
    let mut gradient = (after * features.gt(0.0)?.to_dtype(features.dtype())?)?;
    if backward == Backward::Guided {
        gradient = gradient.relu()?;
    }
    let (_, c, h, w) = features.dims4()?;
    let flat = gradient.flatten_from(2)?;
    let weights = match kind {
        ReleasedKind::GradCam => flat.mean(2)?,
        ReleasedKind::PlusPlus => {
            let sum = flat.relu()?.sum(2)?;
            sum.gt(0.0)?.to_dtype(flat.dtype())?
        }
    };
    let sum = weights.unsqueeze(1)?.matmul(&features.reshape((n, c, h * w))?)?.reshape((n, h * w))?;
    let raw = if kind == ReleasedKind::GradCam { sum.relu()? } else { sum };
    let low = raw.broadcast_sub(&raw.min_keepdim(1)?)?;
    let norm = low.broadcast_div(&low.max_keepdim(1)?)?.reshape((n, h, w))?;
    let mask = resize(&norm, height, width)?.detach();
    Ok(Released { logits: logits.detach(), classes, features, gradient, weights, raw: raw.reshape((n, h, w))?, mask })
}

fn majority(classes: &[u32]) -> u32 {
    let count = |c: u32| classes.iter().filter(|&&other| other == c).count();
    // max_by_key keeps the last of equals: in descending order that is the smallest class.
    let mut sorted = classes.to_vec();
    sorted.sort_unstable_by(|a, b| b.cmp(a));
    sorted.into_iter().max_by_key(|&c| count(c)).unwrap_or(0)
}

/// The released overlay: (heat [n, 3, H, W], cam [n, 3, H, W]) of maps [n, 1, H, W] over images [n, 3, H, W]. Image by image
/// the heat map is added, then the minimum of the *whole* batch as it stands is subtracted and the image divided by its own
/// maximum, so the result depends on the order of the batch.
pub fn overlay(mask: &Tensor, images: &Tensor) -> Result<(Tensor, Tensor)> {
    let (n, channels, h, w) = images.dims4()?;
    if channels != 3 || mask.dims() != [n, 1, h, w] {
        bail!("overlay: maps {:?} do not fit images {:?}", mask.dims(), images.dims())
    }
    let host = |t: &Tensor| t.detach().to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
    let (levels, mut cam) = (host(mask)?, host(images)?);
    let mut heat = vec![0f32; cam.len()];
    let plane = h * w;
    for i in 0..n {
        for at in 0..plane {
            // As NumPy's cast to u8 of a value in [0, 255]; NaN gives 0.
            let rgb = jet((255.0 * levels[i * plane + at]) as u8);
            for (k, level) in rgb.into_iter().enumerate() {
                heat[(3 * i + k) * plane + at] = f32::from(level) / 255.0;
            }
        }
        let own = 3 * i * plane..3 * (i + 1) * plane;
        for at in own.clone() {
            cam[at] += heat[at];
        }
        let low = cam.iter().copied().fold(f32::INFINITY, f32::min);
        cam[own.clone()].iter_mut().for_each(|v| *v -= low);
        let high = cam[own.clone()].iter().copied().fold(f32::NEG_INFINITY, f32::max);
        cam[own].iter_mut().for_each(|v| *v /= high);
    }
    let tensor = |v: Vec<f32>| Tensor::from_vec(v, (n, 3, h, w), images.device())?.to_dtype(images.dtype());
    Ok((tensor(heat)?, tensor(cam)?))
}

/// OpenCV's COLORMAP_JET, RGB: ramps of slope 4, a quarter of the range apart.
pub fn jet(level: u8) -> [u8; 3] {
    let v = i32::from(level);
    let red = match v {
        ..96 => 0,
        96..160 => 4 * v - 382,
        160..224 => 255,
        _ => 1148 - 4 * v,
    };
    let green = match v {
        ..32 => 0,
        32..96 => 4 * v - 128,
        96..160 => 255,
        160..224 => 892 - 4 * v,
        _ => 0,
    };
    let blue = match v {
        ..32 => 4 * v + 128,
        32..96 => 255,
        159 => 1,
        96..159 => 638 - 4 * v,
        _ => 0,
    };
    [red as u8, green as u8, blue as u8]
}
