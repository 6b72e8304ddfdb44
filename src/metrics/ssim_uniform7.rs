//! SSIM with a uniform 7x7 window: scikit-image's default `structural_similarity(data_range=255, channel_axis=2)`, the
//! variant of the paper's Table III script. Sample covariance (factor 49/48), the 3 border pixels left out.
//!
//! All window sums are exact integers: running column sums, then seven columns in three additions.

use super::lanes;
use crate::images::Rgb8;

/// Side of the window.
pub const WINDOW: usize = 7;
const N: i32 = (WINDOW * WINDOW) as i32;

/// Mean of the SSIM map over positions and channels. Needs both sides of the (equally large) images to be 7 at least.
pub fn ssim_uniform7(a: &Rgb8, b: &Rgb8) -> f64 {
    let (w, h) = (a.width(), a.height());
    let positions = 3 * (w - WINDOW + 1) * (h - WINDOW + 1);
    lanes::dispatch!(total(a.data(), b.data(), w, h)) / positions as f64
}

lanes::versions! {
    /// The sum of the map.
    fn total(a: &[u8], b: &[u8], w: usize, h: usize) -> f64 {
        let row = 3 * w;
        let out = row - 3 * (WINDOW - 1);
        // Column sums over 7 rows of a, b, a^2 + b^2 and ab.
        let mut columns = [vec![0i32; row], vec![0i32; row], vec![0i32; row], vec![0i32; row]];
        let mut sums = [vec![0i32; out], vec![0i32; out], vec![0i32; out], vec![0i32; out]];
        let mut values = vec![0f64; out];
        let mut total = 0.0;
        for y in 0..h {
            let (new_a, new_b) = (&a[y * row..(y + 1) * row], &b[y * row..(y + 1) * row]);
            add(&mut columns, new_a, new_b, 1);
            if y + 1 < WINDOW {
                continue;
            }
            for (sum, column) in sums.iter_mut().zip(&columns) {
                seven(column, sum);
            }
            map(&sums, &mut values);
            total += lanes::sum(&values);
            let old = (y + 1 - WINDOW) * row;
            add(&mut columns, &a[old..old + row], &b[old..old + row], -1);
        }
        total
    }
}

#[inline(always)]
fn add(columns: &mut [Vec<i32>; 4], a: &[u8], b: &[u8], sign: i32) {
    let [ca, cb, cp, cq] = columns;
    let n = a.len();
    let (ca, cb, cp, cq, b) = (&mut ca[..n], &mut cb[..n], &mut cp[..n], &mut cq[..n], &b[..n]);
    for i in 0..n {
        let (x, y) = (a[i] as i32, b[i] as i32);
        ca[i] += sign * x;
        cb[i] += sign * y;
        cp[i] += sign * (x * x + y * y);
        cq[i] += sign * (x * y);
    }
}

/// out[i] = sum of the seven columns from i on, one channel apart.
#[inline(always)]
fn seven(column: &[i32], out: &mut [i32]) {
    let n = out.len();
    let at = |k: usize| &column[3 * k..3 * k + n];
    let (c0, c1, c2, c3, c4, c5, c6) = (at(0), at(1), at(2), at(3), at(4), at(5), at(6));
    for i in 0..n {
        out[i] = c0[i] + c1[i] + c2[i] + c3[i] + c4[i] + c5[i] + c6[i];
    }
}

/// The SSIM of each position from its four window sums; every number before the division is exact.
#[inline(always)]
fn map(sums: &[Vec<i32>; 4], values: &mut [f64]) {
    let c1 = (0.01f64 * 255.0).powi(2) * (N * N) as f64;
    let c2 = (0.03f64 * 255.0).powi(2) * (N * (N - 1)) as f64;
    let n = values.len();
    let (a, b, p, q) = (&sums[0][..n], &sums[1][..n], &sums[2][..n], &sums[3][..n]);
    for i in 0..n {
        let cross = a[i] * b[i];
        let squares = a[i] * a[i] + b[i] * b[i];
        let luminance = ((2 * cross) as f64 + c1, squares as f64 + c1);
        let structure = ((2 * (N * q[i] - cross)) as f64 + c2, (N * p[i] - squares) as f64 + c2);
        values[i] = (luminance.0 * structure.0) / (luminance.1 * structure.1);
    }
}
