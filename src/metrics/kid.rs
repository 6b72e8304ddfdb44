//! Kernel Inception Distance: "Demystifying MMD GANs" (Bińkowski et al., ICLR 2018), the unbiased estimate of the squared
//! maximum mean discrepancy with the kernel (x.y / d + 1)^3, over the whole sets (torch-fidelity averages it over random
//! subsets; the expectation is the same, the whole sets give the smaller error and no random choice).

use crate::{Error, Result};

/// Rows of one block of a kernel matrix.
const BLOCK: usize = 256;

/// The estimate from two row-major `[n, width]` feature matrices; it may be below 0. f64 throughout, blocks in a fixed order.
///
/// Errors: fewer than two rows in one of them.
pub fn kid(x: &[f32], y: &[f32], width: usize) -> Result<f64> {
    let (n, m) = (x.len() / width.max(1), y.len() / width.max(1));
    if n < 2 || m < 2 || x.len() != n * width || y.len() != m * width {
        return Err(Error::usage(format!("KID needs two images at least on each side, there are {n} and {m}")));
    }
    let within = |z: &[f32], k: usize| kernel_sum(z, z, width, true) / (k as f64 * (k - 1) as f64);
    Ok(within(x, n) + within(y, m) - 2.0 * kernel_sum(x, y, width, false) / (n as f64 * m as f64))
}

/// The sum of the kernel over all pairs of rows; without the pairs of a row with itself if `off_diagonal`.
fn kernel_sum(x: &[f32], y: &[f32], width: usize, off_diagonal: bool) -> f64 {
    use rayon::prelude::*;
    let wide = |z: &[f32]| z.iter().map(|&v| v as f64).collect::<Vec<f64>>();
    let strip = |(i, a): (usize, &[f32])| -> f64 {
        let (a, rows) = (wide(a), a.len() / width);
        let mut total = 0.0;
        for (j, b) in y.chunks(BLOCK * width).enumerate() {
            let (b, columns) = (wide(b), b.len() / width);
            let mut product = vec![0f64; rows * columns];
            // SAFETY: the three matrices have the sizes and strides that are given.
            unsafe {
                gemm::gemm(
                    rows,
                    columns,
                    width,
                    product.as_mut_ptr(),
                    1,
                    columns as isize,
                    false,
                    a.as_ptr(),
                    1,
                    width as isize,
                    b.as_ptr(),
                    width as isize,
                    1,
                    0.0,
                    1.0,
                    false,
                    false,
                    false,
                    gemm::Parallelism::None,
                );
            }
            product.iter_mut().for_each(|v| *v = (*v / width as f64 + 1.0).powi(3));
            if off_diagonal && i == j {
                (0..rows).for_each(|k| product[k * columns + k] = 0.0);
            }
            total += super::lanes::sum(&product);
        }
        total
    };
    let strips: Vec<f64> = x.par_chunks(BLOCK * width).enumerate().map(strip).collect();
    strips.iter().sum()
}
