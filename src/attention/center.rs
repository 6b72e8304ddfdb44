//! Center-aligned attention (section III.C, Fig. 3): for aligned data the middle of the image is the object. View 1 is the
//! middle 0.75, view 2 the middle 0.6875 of both sides.

use candle_core::{DType, Device, Result, Tensor, bail};

use crate::ops;

/// Sides of the two views relative to the image.
pub const RATIOS: [f64; 2] = [0.75, 0.6875];

/// The views resized back to the image ("resized to match", section IV) by two matrix products, bilinear with half-pixel
/// centers, edges clamped at the border of the crop.
pub struct Center {
    /// Per view: [H, H] for the rows, [W, W] for the columns.
    matrices: [(Tensor, Tensor); 2],
}

impl Center {
    /// For images of `height` x `width`.
    pub fn new(height: usize, width: usize, dtype: DType, device: &Device) -> Result<Self> {
        let matrix = |n: usize, ratio: f64| {
            let (start, length) = span(n, ratio);
            resize_matrix(n, n, start, length, dtype, device)
        };
        let of = |ratio: f64| -> Result<(Tensor, Tensor)> { Ok((matrix(height, ratio)?, matrix(width, ratio)?)) };
        Ok(Center { matrices: [of(RATIOS[0])?, of(RATIOS[1])?] })
    }

    /// View 0 or 1 of `x` [n, C, H, W], same shape.
    pub fn view(&self, x: &Tensor, which: usize) -> Result<Tensor> {
        let (rows, columns) = &self.matrices[which];
        ops::matmul_resize(x, rows, columns)
    }
}

/// (start, length) of the middle part of `n` pixels: length = round(ratio n), start = floor((n - length) / 2).
pub fn span(n: usize, ratio: f64) -> (usize, usize) {
    let length = (ratio * n as f64 + 0.5).floor() as usize;
    (start_of(n, length), length)
}

fn start_of(n: usize, length: usize) -> usize {
    n.saturating_sub(length) / 2
}

/// [out, n]: enlarges the `length` pixels from `start` of an axis of `n` to `out`; row i interpolates at
/// u = (i + 0.5) length / out - 0.5, clamped to the part.
pub fn resize_matrix(out: usize, n: usize, start: usize, length: usize, dtype: DType, device: &Device) -> Result<Tensor> {
    if length == 0 || start + length > n {
        bail!("can't resize {length} pixels from {start} of {n}")
    }
    let mut m = vec![0f64; out * n];
    for i in 0..out {
        let u = ((i as f64 + 0.5) * length as f64 / out as f64 - 0.5).max(0.0);
        let j = (u.floor() as usize).min(length - 1);
        let part = u - j as f64;
        m[i * n + start + j] += 1.0 - part;
        m[i * n + start + (j + 1).min(length - 1)] += part;
    }
    Tensor::from_vec(m, (out, n), device)?.to_dtype(dtype)
}

/// The released crops, not resized: view 0 keeps all rows and cuts an eighth of the columns on both sides, view 1 cuts 5/32
/// on all sides. Sizes that 8 does not divide lose one pixel more at the far side.
pub fn crop(x: &Tensor, which: usize) -> Result<Tensor> {
    let (_, _, h, w) = x.dims4()?;
    if which == 0 {
        let start = w / 8;
        return x.narrow(3, start, w - w.div_ceil(8) - start);
    }
    let cut = |n: usize| (n / 8 + n / 32, n.div_ceil(8) + n / 32);
    let ((top, bottom), (left, right)) = (cut(h), cut(w));
    x.narrow(2, top, h - bottom - top)?.narrow(3, left, w - right - left)
}
