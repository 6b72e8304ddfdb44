//! Metrics, one file each. A metric's name is a whole protocol and never changes its meaning; a new protocol gets a new name.
//!
//! A name is `measure@size`, for example `ssim-uniform7@512`. The measure ([`METRICS`]) fixes value range, window,
//! constants and network. The size fixes what is compared: `@512` brings both images to 512x512 pixels with Pillow's
//! 8-bit bilinear resize (`torchvision.transforms.Resize` of a PIL image, as the paper's script does), an image that has
//! that size already stays as it is; `@native` compares two images of equal size as they are.

use std::sync::Arc;

use candle_core::{Device, Tensor};

use crate::error::Kind as ErrorKind;
use crate::images::{Filter, Rgb8, resize};
use crate::{Error, Result};

mod cosine;
mod frechet;
pub mod identity;
mod kid;
mod lanes;
mod mse;
mod psnr;
pub mod scoring;
pub mod sets;
mod singular_values;
mod ssim_gauss_wang;
mod ssim_training;
mod ssim_uniform7;

pub use cosine::cosine;
pub use frechet::{Gaussian, Moments, frechet_distance};
pub use kid::kid;
pub use mse::{mse, squared_error};
pub use psnr::{of_mse, psnr};
pub use singular_values::singular_values;
pub use ssim_gauss_wang::{ssim_gauss_sample, ssim_gauss_wang};
pub use ssim_training::{Range, ssim_training};
pub use ssim_uniform7::ssim_uniform7;

/// How a measure is computed.
#[derive(Clone, Copy)]
pub enum Compute {
    /// From the pixels alone; the images have the same size and no side below `min_side`.
    Pixels { score: fn(&Rgb8, &Rgb8) -> f64, min_side: usize },
    /// By a network that the caller gives ([`Metric::with_network`]), from images in `[-1, 1]`.
    Network { min_side: usize },
    /// By a stage of a study, which sees the other images too.
    Stage,
}

/// What a measure is.
#[derive(Clone, Copy)]
pub struct Info {
    /// The part of the name before `@`.
    pub name: &'static str,
    /// Column head.
    pub title: &'static str,
    /// True where a larger value is the better one.
    pub higher_is_better: bool,
    /// The value for two identical images.
    pub identical: f64,
    /// Unit, or empty.
    pub unit: &'static str,
    /// Digits after the point in tables.
    pub digits: usize,
    /// One sentence: definition and source.
    pub about: &'static str,
    pub compute: Compute,
}

const fn pixels(score: fn(&Rgb8, &Rgb8) -> f64, min_side: usize) -> Compute {
    Compute::Pixels { score, min_side }
}

/// Every measure of a pair of images, in the order of the tables.
pub const METRICS: &[Info] = &[
    Info {
        name: "psnr",
        title: "PSNR",
        higher_is_better: true,
        identical: f64::INFINITY,
        unit: "dB",
        digits: 2,
        about: "10 log10(255^2 / MSE) over all RGB samples, no epsilon (scikit-image)",
        compute: pixels(psnr, 1),
    },
    Info {
        name: "ssim-uniform7",
        title: "SSIM",
        higher_is_better: true,
        identical: 1.0,
        unit: "",
        digits: 3,
        about: "SSIM, uniform 7x7 window, sample covariance, borders left out, per RGB channel (scikit-image's default; the paper's Table III)",
        compute: pixels(ssim_uniform7, ssim_uniform7::WINDOW),
    },
    Info {
        name: "ssim-gauss-wang",
        title: "SSIM (Wang)",
        higher_is_better: true,
        identical: 1.0,
        unit: "",
        digits: 3,
        about: "SSIM of Wang et al. 2004, Gaussian window of 11 taps, population covariance, borders left out, per RGB channel",
        compute: pixels(ssim_gauss_wang, ssim_gauss_wang::WINDOW),
    },
    Info {
        name: "ssim-gauss-sample",
        title: "SSIM (Gaussian)",
        higher_is_better: true,
        identical: 1.0,
        unit: "",
        digits: 3,
        about: "as ssim-gauss-wang, but with the sample covariance (scikit-image's gaussian_weights=True without more): not Wang's",
        compute: pixels(ssim_gauss_sample, ssim_gauss_wang::WINDOW),
    },
    Info {
        name: "ssim-training",
        title: "SSIM (training)",
        higher_is_better: true,
        identical: 1.0,
        unit: "",
        digits: 3,
        about: "SSIM of the released training loss, on [-1, 1] with the constants of a range of 1 and zero padding (pytorch_ssim)",
        compute: pixels(|a, b| ssim_training(a, b, Range::Signed), 1),
    },
    Info {
        name: "mse",
        title: "MSE",
        higher_is_better: false,
        identical: 0.0,
        unit: "",
        digits: 1,
        about: "mean squared error of the samples on 0..255",
        compute: pixels(mse, 1),
    },
    Info {
        name: "cosine",
        title: "CS",
        higher_is_better: true,
        identical: 1.0,
        unit: "",
        digits: 4,
        about: "cosine similarity of the flattened images on [-1, 1]",
        compute: pixels(cosine, 1),
    },
    Info {
        name: "lpips-vgg-v0.1",
        title: "LPIPS",
        higher_is_better: false,
        identical: 0.0,
        unit: "",
        digits: 3,
        about: "LPIPS 0.1 with the ImageNet VGG16 and its learned heads, on [-1, 1]",
        compute: Compute::Network { min_side: 16 },
    },
    Info {
        name: "lpips-mini",
        title: "LPIPS (mini)",
        higher_is_better: false,
        identical: 0.0,
        unit: "",
        digits: 3,
        about: "unit-normalised features of the mini zoo's narrow VGG16 with uniform heads, on [-1, 1]: not LPIPS, only its form",
        compute: Compute::Network { min_side: 16 },
    },
];

/// What the measure of a full metric name (`psnr@64`) is, of a pair or of a stage.
pub fn info(metric: &str) -> Option<&'static Info> {
    let measure = metric.split('@').next().unwrap_or(metric);
    METRICS.iter().chain(&identity::ALL).find(|m| m.name == measure)
}

/// A distance by a network: two `[1, 3, height, width]` tensors in `[-1, 1]` to one number.
pub type Network = Arc<dyn Fn(&Tensor, &Tensor) -> candle_core::Result<f64> + Send + Sync>;

/// The size at which two images are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// As they are; both must have the same size.
    Native,
    /// Square, by Pillow's bilinear resize where needed.
    Square(usize),
}

/// A measure at a size: a protocol that scores pairs.
#[derive(Clone)]
pub struct Metric {
    pub info: &'static Info,
    pub size: Size,
    network: Option<(Network, Device)>,
}

impl std::fmt::Debug for Metric {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name())
    }
}

/// The metric of this name. A metric that needs a network must be given one before it scores.
///
/// Errors (kind usage): no such measure, with the nearest name; a size that is no number of pixels.
pub fn by_name(name: &str) -> Result<Metric> {
    let Some((measure, size)) = name.split_once('@') else {
        return Err(Error::usage(format!("metric \"{name}\": a name ends in its size, for example {name}@512 or {name}@native")));
    };
    let Some(info) = METRICS.iter().find(|m| m.name == measure) else {
        let nearest = METRICS.iter().max_by(|a, b| strsim::jaro(a.name, measure).total_cmp(&strsim::jaro(b.name, measure)));
        let names = METRICS.iter().map(|m| m.name).collect::<Vec<_>>().join(", ");
        let hint = nearest.filter(|m| strsim::jaro(m.name, measure) > 0.7).map_or(String::new(), |m| format!("; did you mean {}?", m.name));
        return Err(Error::usage(format!("metric \"{name}\": no measure \"{measure}\"{hint} (there are: {names})")));
    };
    let size = match size {
        "native" => Size::Native,
        digits => match digits.parse::<usize>() {
            Ok(side) if (info.min_side()..=8192).contains(&side) && digits == side.to_string() => Size::Square(side),
            _ => {
                let least = info.min_side();
                return Err(Error::usage(format!("metric \"{name}\": the size must be native or a side of {least} to 8192 pixels")));
            }
        },
    };
    Ok(Metric { info, size, network: None })
}

impl Info {
    fn min_side(&self) -> usize {
        match self.compute {
            Compute::Pixels { min_side, .. } | Compute::Network { min_side } => min_side,
            Compute::Stage => 1,
        }
    }
}

impl Metric {
    /// The full name, `measure@size`.
    pub fn name(&self) -> String {
        match self.size {
            Size::Native => format!("{}@native", self.info.name),
            Size::Square(side) => format!("{}@{side}", self.info.name),
        }
    }

    /// The side at which it compares; None where it takes images as they are.
    pub fn side(&self) -> Option<usize> {
        match self.size {
            Size::Native => None,
            Size::Square(side) => Some(side),
        }
    }

    /// Whether a network must be given before [`Metric::score`].
    pub fn needs_network(&self) -> bool {
        matches!(self.info.compute, Compute::Network { .. })
    }

    /// The same metric computed by `network` on `device`.
    pub fn with_network(mut self, network: Network, device: &Device) -> Self {
        self.network = Some((network, device.clone()));
        self
    }

    /// The score of one pair; the order of the two matters to no metric here.
    ///
    /// Errors: images of different sizes under `@native`, or smaller than the measure's window; the network is missing.
    pub fn score(&self, a: &Rgb8, b: &Rgb8) -> Result<f64> {
        match self.size {
            Size::Native => self.score_prepared(a, b),
            Size::Square(side) => self.score_prepared(&to_square(a, side), &to_square(b, side)),
        }
    }

    /// The score of two images that have the metric's size already (see [`to_square`]).
    pub(crate) fn score_prepared(&self, a: &Rgb8, b: &Rgb8) -> Result<f64> {
        let name = self.name();
        if (a.width(), a.height()) != (b.width(), b.height()) {
            return Err(Error::new(
                ErrorKind::Incomparable,
                format!(
                    "{name}: the images differ in size ({a:?} and {b:?}): choose a metric of a fixed size, such as {}@512",
                    self.info.name
                ),
            ));
        }
        let least = self.info.min_side();
        if a.width().min(a.height()) < least {
            return Err(Error::new(ErrorKind::Incomparable, format!("{name}: needs sides of {least} pixels at least, {a:?} is smaller")));
        }
        match (self.info.compute, &self.network) {
            (Compute::Pixels { score, .. }, _) => Ok(score(a, b)),
            (Compute::Network { .. }, Some((network, device))) => {
                let x = a.to_tensor(device)?.unsqueeze(0)?;
                let y = b.to_tensor(device)?.unsqueeze(0)?;
                Ok(network(&x, &y)?)
            }
            (Compute::Stage, _) => Err(Error::internal(format!("{name} is not computed from a pair"))),
            (Compute::Network { .. }, None) => Err(Error::missing(format!("{name}: its network is not loaded"))),
        }
    }
}

/// The image at `side` x `side` pixels: itself, or Pillow's bilinear resize of it.
pub fn to_square(image: &Rgb8, side: usize) -> std::borrow::Cow<'_, Rgb8> {
    if (image.width(), image.height()) == (side, side) {
        std::borrow::Cow::Borrowed(image)
    } else {
        std::borrow::Cow::Owned(resize(image, side, side, Filter::Bilinear))
    }
}
