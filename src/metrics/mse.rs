//! Mean squared error on 0..255: scikit-image `mean_squared_error`, over all channels together, exact.

use crate::images::Rgb8;

/// Sum of squared differences, exact; the two images have the same size.
pub fn squared_error(a: &Rgb8, b: &Rgb8) -> u64 {
    // 65,025 * 66,051 stays below 2^32, so a row of that many samples can be summed in 32 bits.
    let chunk = 1 << 16;
    let difference = |(&x, &y): (&u8, &u8)| {
        let d = x.abs_diff(y) as u32;
        d * d
    };
    a.data().chunks(chunk).zip(b.data().chunks(chunk)).map(|(x, y)| x.iter().zip(y).map(difference).sum::<u32>() as u64).sum()
}

/// Mean of (a - b)^2 over every sample, a and b in 0..=255.
pub fn mse(a: &Rgb8, b: &Rgb8) -> f64 {
    squared_error(a, b) as f64 / a.data().len() as f64
}
