//! Separable filters: blur, FIR resampling, the window of SSIM.

use candle_core::{Result, Tensor, bail};

use super::super::graph::placed1;
use super::launch::{Buffer, Launch, chunks};

/// Per axis: insert `up` - 1 zeros after each sample, pad, correlate with `taps`, keep every `down`-th; then `gain`.
pub(in crate::ops) fn filter(x: &Tensor, taps: &[f64], up: usize, down: usize, pad: (usize, usize), gain: f64) -> Result<Tensor> {
    let (b, c, h, w) = x.dims4()?;
    let size = |n: usize| (n * up + pad.0 + pad.1).checked_sub(taps.len()).map(|m| m / down + 1);
    let (Some(oh), Some(ow)) = (size(h), size(w)) else { bail!("filter: a map of {h}x{w} is too small") };
    let x = x.contiguous()?;
    let kernel = Tensor::from_vec(taps.iter().map(|t| *t as f32).collect::<Vec<_>>(), taps.len(), x.device())?;
    let taps = taps.len();
    let start = move |name, written: usize| {
        Launch::new(name).ints([h, w, oh, ow, taps, up, down, pad.0]).float(gain).int(chunks(written)).tensor(&kernel)
    };
    let out = Buffer::new(b * c * oh * ow, &x)?;
    start("filter", oh * ow)?.tensor(&x)?.buffer(&out)?.planes(b * c, oh * ow, x.device())?;
    placed1("filter", &x, out.into_storage(), (b, c, oh, ow), move |g| {
        let dx = Buffer::new(b * c * h * w, g)?;
        start("filter_back", h * w)?.tensor(g)?.buffer(&dx)?.planes(b * c, h * w, g.device())?;
        Ok([Some(dx.tensor((b, c, h, w)))])
    })
}
