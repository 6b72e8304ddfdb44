//! The SSIM term of Eq. 7: "Image quality assessment: from error visibility to structural similarity" (Wang et al., 2004),
//! with the 11x11 Gaussian window of standard deviation 1.5, differentiable. For evaluation see the SSIM metrics, which
//! have other protocols.

use candle_core::{Result, Tensor, bail};

use super::recipe::SsimKind;
use crate::ops;

const SIDE: usize = 11;

fn window() -> [f64; SIDE] {
    let mut taps: [f64; SIDE] = std::array::from_fn(|i| (-(i as f64 - 5.0).powi(2) / (2.0 * 1.5 * 1.5)).exp());
    let sum: f64 = taps.iter().sum();
    taps.iter_mut().for_each(|t| *t /= sum);
    taps
}

/// Mean SSIM over everything, a scalar. `range` is the width of the data's range (2 for images in [-1, 1], 1 for maps in
/// [0, 1]); the released kind takes 1 whatever the data.
///
/// Errors: an image smaller than the window where nothing is padded.
pub fn ssim(kind: SsimKind, target: &Tensor, pred: &Tensor, range: f64) -> Result<Tensor> {
    map(kind, target, pred, range)?.mean_all()
}

/// The map of which [`ssim`] is the mean, [n, C, H', W'].
pub fn map(kind: SsimKind, target: &Tensor, pred: &Tensor, range: f64) -> Result<Tensor> {
    let (_, _, h, w) = target.dims4()?;
    let (pad, range) = match kind {
        SsimKind::Valid if h < SIDE || w < SIDE => bail!("SSIM: an image of {h}x{w} pixels is smaller than its {SIDE}x{SIDE} window"),
        SsimKind::Valid => (0, range),
        SsimKind::ZeroPad => (SIDE / 2, 1.0),
    };
    let (c1, c2) = ((0.01 * range).powi(2), (0.03 * range).powi(2));
    let taps = window();
    let mean_a = ops::depthwise_window(target, &taps, pad)?;
    let means = ops::depthwise_window(&ops::ssim_products(target, pred)?, &taps, pad)?;
    ops::ssim_map(&mean_a, &means, c1, c2)
}
