//! SSIM of Wang et al. 2004: Gaussian window of sigma 1.5 and 11 taps, population covariance, the 5 border pixels left
//! out, each RGB channel on its own. scikit-image calls it `structural_similarity(gaussian_weights=True, sigma=1.5,
//! use_sample_covariance=False, data_range=255, channel_axis=2)`. `gaussian_weights=True` alone keeps the sample covariance (factor
//! 121/120): another metric, [`ssim_gauss_sample`], for tables that were made so.

use super::lanes;
use crate::images::Rgb8;

/// Side of the window.
pub const WINDOW: usize = 11;
const HALF: usize = WINDOW / 2 + 1;

/// The taps exp(-i^2 / (2 sigma^2)) normalised in f64, from the outermost to the middle one.
pub fn taps() -> [f64; HALF] {
    let raw: [f64; HALF] = std::array::from_fn(|k| (-0.5 * (5 - k as i32).pow(2) as f64 / (1.5 * 1.5)).exp());
    let sum = 2.0 * raw[..HALF - 1].iter().sum::<f64>() + raw[HALF - 1];
    raw.map(|t| t / sum)
}

/// Mean of the SSIM map over positions and channels. Needs both sides of the (equally large) images to be 11 at least.
pub fn ssim_gauss_wang(a: &Rgb8, b: &Rgb8) -> f64 {
    mean(a, b, 1.0)
}

/// The same with the sample covariance of the window's 121 pixels: scikit-image's `gaussian_weights=True` without more.
pub fn ssim_gauss_sample(a: &Rgb8, b: &Rgb8) -> f64 {
    let n = (WINDOW * WINDOW) as f64;
    mean(a, b, n / (n - 1.0))
}

fn mean(a: &Rgb8, b: &Rgb8, covariance: f64) -> f64 {
    let (w, h) = (a.width(), a.height());
    let positions = 3 * (w - WINDOW + 1) * (h - WINDOW + 1);
    lanes::dispatch!(total(a.data(), b.data(), w, h, covariance)) / positions as f64
}

lanes::versions! {
    /// The sum of the map; variances and covariances are multiplied by `covariance`.
    fn total(a: &[u8], b: &[u8], w: usize, h: usize, covariance: f64) -> f64 {
        let taps = taps();
        let row = 3 * w;
        let out = row - 3 * (WINDOW - 1);
        // The last 11 rows of a, b, a^2 + b^2 and ab, side by side, in a ring.
        let mut ring = vec![vec![0f64; 4 * row]; WINDOW];
        let mut columns = vec![0f64; 4 * row];
        let mut means = vec![0f64; 4 * out];
        let mut values = vec![0f64; out];
        let mut total = 0.0;
        for y in 0..h {
            expand(&a[y * row..(y + 1) * row], &b[y * row..(y + 1) * row], &mut ring[y % WINDOW]);
            if y + 1 < WINDOW {
                continue;
            }
            // Rows y - 10 ..= y stand in the ring from (y + 1) % 11 on.
            let rows: [&[f64]; WINDOW] = std::array::from_fn(|k| &ring[(y + 1 + k) % WINDOW][..]);
            fold(rows, &taps, &mut columns);
            for (mean, column) in means.chunks_exact_mut(out).zip(columns.chunks_exact(row)) {
                fold(std::array::from_fn(|k| &column[3 * k..3 * k + out]), &taps, mean);
            }
            map(&means, covariance, &mut values);
            total += lanes::sum(&values);
        }
        total
    }
}

#[inline(always)]
fn expand(a: &[u8], b: &[u8], out: &mut [f64]) {
    let n = a.len();
    let (oa, rest) = out.split_at_mut(n);
    let (ob, rest) = rest.split_at_mut(n);
    let (op, oq) = rest.split_at_mut(n);
    let (b, oq) = (&b[..n], &mut oq[..n]);
    for i in 0..n {
        let (x, y) = (a[i] as i32, b[i] as i32);
        oa[i] = x as f64;
        ob[i] = y as f64;
        op[i] = (x * x + y * y) as f64;
        oq[i] = (x * y) as f64;
    }
}

/// out = the symmetric 11-tap sum of eleven equally long lines.
#[inline(always)]
fn fold(lines: [&[f64]; WINDOW], taps: &[f64; HALF], out: &mut [f64]) {
    let n = out.len();
    let l: [&[f64]; WINDOW] = lines.map(|line| &line[..n]);
    for i in 0..n {
        let outer = (l[0][i] + l[10][i]) * taps[0] + (l[1][i] + l[9][i]) * taps[1];
        let inner = (l[2][i] + l[8][i]) * taps[2] + (l[3][i] + l[7][i]) * taps[3];
        out[i] = outer + inner + ((l[4][i] + l[6][i]) * taps[4] + l[5][i] * taps[5]);
    }
}

#[inline(always)]
fn map(means: &[f64], covariance: f64, values: &mut [f64]) {
    let (c1, c2) = ((0.01f64 * 255.0).powi(2), (0.03f64 * 255.0).powi(2));
    let n = values.len();
    let (a, b, p, q) = (&means[..n], &means[n..2 * n], &means[2 * n..3 * n], &means[3 * n..4 * n]);
    for i in 0..n {
        let cross = a[i] * b[i];
        let squares = a[i] * a[i] + b[i] * b[i];
        let luminance = (2.0 * cross + c1, squares + c1);
        let structure = (2.0 * covariance * (q[i] - cross) + c2, covariance * (p[i] - squares) + c2);
        values[i] = (luminance.0 * structure.0) / (luminance.1 * structure.1);
    }
}
