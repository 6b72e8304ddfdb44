//! SSIM as the released training code computes it (MTV-TSA `metric/pytorch_ssim.py`): Gaussian window, zero padding, the
//! constants of a range of 1 whatever the range is, here on images in `[-1, 1]` as in the loss. Its values are not
//! comparable with those of the other two variants.

use super::lanes;
use crate::images::Rgb8;

const WINDOW: usize = 11;
const PAD: usize = WINDOW / 2;
const HALF: usize = PAD + 1;

/// The value range that the 8-bit samples are mapped to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// value / 255, in `[0, 1]`.
    Unit,
    /// value / 127.5 - 1, in `[-1, 1]`, as in training.
    Signed,
}

/// A quarter of the symmetric 11x11 window: the outer product of the f32-normalised 1-D window, rounded to f32. Because of
/// that rounding it is not quite separable.
fn window() -> [[f64; HALF]; HALF] {
    let raw: [f32; WINDOW] = std::array::from_fn(|k| (-((k as f64 - PAD as f64).powi(2)) / (2.0 * 1.5f64.powi(2))).exp() as f32);
    // torch's vectorised sum happens to be the correctly rounded one.
    let sum = raw.iter().map(|&t| t as f64).sum::<f64>() as f32;
    let line = raw.map(|t| t / sum);
    std::array::from_fn(|i| std::array::from_fn(|j| (line[i] * line[j]) as f64))
}

/// Mean of the SSIM map over all positions, borders included, and channels. Any size.
pub fn ssim_training(a: &Rgb8, b: &Rgb8, range: Range) -> f64 {
    let table: Vec<f64> = (0..=255u8)
        .map(|v| match range {
            Range::Unit => v as f64 / 255.0,
            Range::Signed => v as f64 / 127.5 - 1.0,
        })
        .collect();
    lanes::dispatch!(total(a.data(), b.data(), a.width(), a.height(), &table)) / a.data().len() as f64
}

lanes::versions! {
    /// The sum of the map.
    fn total(a: &[u8], b: &[u8], w: usize, h: usize, table: &[f64]) -> f64 {
        let weights = window();
        let row = 3 * w;
        let wide = row + 6 * PAD;
        // The 11 rows around the current one, zero outside the image; x, y, x^2 + y^2 and xy side by side, in a ring.
        let mut ring = vec![vec![0f64; 4 * wide]; WINDOW];
        let mut folded = vec![vec![0f64; 4 * wide]; HALF];
        let mut means = vec![0f64; 4 * row];
        let mut values = vec![0f64; row];
        let mut total = 0.0;
        for y in 0..h + PAD {
            let line = &mut ring[y % WINDOW];
            line.fill(0.0);
            if y < h {
                expand(&a[y * row..(y + 1) * row], &b[y * row..(y + 1) * row], table, line, wide);
            }
            if y < PAD {
                continue;
            }
            for (k, out) in folded.iter_mut().enumerate() {
                let (up, down) = (&ring[(y + 1 + k) % WINDOW][..], &ring[(y + WINDOW - k) % WINDOW][..]);
                let (up, down) = (&up[..out.len()], &down[..out.len()]);
                // The middle row stands alone.
                if k == PAD {
                    out.copy_from_slice(up);
                } else {
                    out.iter_mut().zip(up.iter().zip(down)).for_each(|(o, (u, d))| *o = u + d);
                }
            }
            means.fill(0.0);
            for (lines, weights) in folded.iter().zip(&weights) {
                for (mean, line) in means.chunks_exact_mut(row).zip(lines.chunks_exact(wide)) {
                    accumulate(std::array::from_fn(|k| &line[3 * k..3 * k + row]), weights, mean);
                }
            }
            map(&means, &mut values);
            total += lanes::sum(&values);
        }
        total
    }
}

#[inline(always)]
fn expand(a: &[u8], b: &[u8], table: &[f64], line: &mut [f64], wide: usize) {
    for (i, (&a, &b)) in a.iter().zip(b).enumerate() {
        let (x, y) = (table[a as usize], table[b as usize]);
        let at = 3 * PAD + i;
        line[at] = x;
        line[wide + at] = y;
        line[2 * wide + at] = x * x + y * y;
        line[3 * wide + at] = x * y;
    }
}

/// out += the symmetric 11-tap sum of eleven equally long lines.
#[inline(always)]
fn accumulate(lines: [&[f64]; WINDOW], weights: &[f64; HALF], out: &mut [f64]) {
    let n = out.len();
    let l: [&[f64]; WINDOW] = lines.map(|line| &line[..n]);
    for i in 0..n {
        let outer = (l[0][i] + l[10][i]) * weights[0] + (l[1][i] + l[9][i]) * weights[1];
        let inner = (l[2][i] + l[8][i]) * weights[2] + (l[3][i] + l[7][i]) * weights[3];
        out[i] += outer + inner + ((l[4][i] + l[6][i]) * weights[4] + l[5][i] * weights[5]);
    }
}

#[inline(always)]
fn map(means: &[f64], values: &mut [f64]) {
    let (c1, c2) = (0.01f64.powi(2), 0.03f64.powi(2));
    let n = values.len();
    let (x, y, p, q) = (&means[..n], &means[n..2 * n], &means[2 * n..3 * n], &means[3 * n..4 * n]);
    for i in 0..n {
        let cross = x[i] * y[i];
        let squares = x[i] * x[i] + y[i] * y[i];
        let luminance = (2.0 * cross + c1, squares + c1);
        let structure = (2.0 * (q[i] - cross) + c2, (p[i] - squares) + c2);
        values[i] = (luminance.0 * structure.0) / (luminance.1 * structure.1);
    }
}
