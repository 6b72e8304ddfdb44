//! Peak signal-to-noise ratio in dB: scikit-image `peak_signal_noise_ratio(data_range=255)`.

use crate::images::Rgb8;

/// 10 log10(255^2 / MSE) over all channels, without any epsilon: +infinity for identical images.
pub fn psnr(a: &Rgb8, b: &Rgb8) -> f64 {
    of_mse(super::mse::mse(a, b))
}

/// The PSNR that belongs to a mean squared error on 0..255.
pub fn of_mse(mse: f64) -> f64 {
    10.0 * (255.0 * 255.0 / mse).log10()
}
