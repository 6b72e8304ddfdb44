//! How a picture gets to a method, and a reconstruction to the metrics.
//!
//! The paper's scripts treat the methods unequally (Table III): pSp's reconstructions are pooled to 256 px and saved as JPEG, In-Domain's
//! are 256 px and come from targets that were shrunk without antialiasing, those of ALAE and MTV-TSA are 1024 px PNG; all are then brought to
//! 512 px. "matched" treats all alike.

use super::{Method, Protocol};
use crate::images::{Filter, Resample, Rgb8, decode, resize};
use crate::inverters::baseline::Baseline;
use crate::{Error, Result};

/// The quality of PIL's JPEG when none is given, which pSp's script uses.
const JPEG_QUALITY: u8 = 75;

fn baseline(method: &Method) -> Option<Baseline> {
    match method {
        Method::Baseline(m) => Some(m.baseline),
        _ => None,
    }
}

/// The picture at the side that the method's network takes. `protocol` None: as matched.
pub fn input(method: &Method, protocol: Option<Protocol>, picture: &Rgb8, side: usize) -> Result<Rgb8> {
    if (picture.width(), picture.height()) == (side, side) {
        return Ok(picture.clone());
    }
    match (protocol, baseline(method)) {
        (Some(Protocol::PaperTable3), Some(Baseline::Alae)) => Ok(resize(picture, side, side, Filter::Bicubic)),
        (Some(Protocol::PaperTable3), Some(Baseline::Indomain)) => cv2(picture, side),
        _ => Ok(resize(picture, side, side, Filter::Bilinear)),
    }
}

/// Whether the method sees another input under this protocol than when matched.
pub fn own_input(method: &Method, protocol: Protocol, picture: &Rgb8, side: usize) -> bool {
    protocol == Protocol::PaperTable3
        && (picture.width(), picture.height()) != (side, side)
        && matches!(baseline(method), Some(Baseline::Alae | Baseline::Indomain))
}

/// A reconstruction as the metrics get it. `side` is that of the metrics: the paper's 512. pSp and In-Domain are stored at half of it,
/// whatever their generator makes. `common`: the side at which every method is stored when matched, where their own sizes differ.
pub fn stored(method: &Method, protocol: Protocol, image: &Rgb8, side: usize, common: Option<usize>) -> Result<Rgb8> {
    let at_most = |side: usize, filter: Filter| match image.width() > side {
        true => resize(image, side, side, filter),
        false => image.clone(),
    };
    match (protocol, baseline(method)) {
        (Protocol::Matched, _) => Ok(common.map_or_else(|| image.clone(), |side| at_most(side, Filter::Bilinear))),
        (Protocol::PaperTable3, Some(Baseline::Psp)) => through_jpeg(&at_most(side / 2, Filter::Box)),
        (Protocol::PaperTable3, Some(Baseline::Indomain)) => Ok(at_most(side / 2, Filter::Box)),
        (Protocol::PaperTable3, _) => Ok(image.clone()),
    }
}

/// A target as the metrics get it.
pub fn target(protocol: Protocol, image: &Rgb8, common: Option<usize>) -> Rgb8 {
    match (protocol, common) {
        (Protocol::Matched, Some(side)) if image.width() > side => resize(image, side, side, Filter::Bilinear),
        _ => image.clone(),
    }
}

/// OpenCV's bilinear resize, which skips pixels when it shrinks.
fn cv2(picture: &Rgb8, side: usize) -> Result<Rgb8> {
    let (w, h) = (picture.width(), picture.height());
    let mut data = vec![0u8; side * side * 3];
    for c in 0..3 {
        let plane: Vec<f32> = picture.data().iter().skip(c).step_by(3).map(|&v| f32::from(v)).collect();
        for (i, v) in Resample::Cv2Linear.plane(&plane, (w, h), (side, side)).into_iter().enumerate() {
            data[3 * i + c] = v.round().clamp(0.0, 255.0) as u8;
        }
    }
    Rgb8::new(side, side, data)
}

fn through_jpeg(image: &Rgb8) -> Result<Rgb8> {
    let fault = |e: image::ImageError| Error::internal(format!("a reconstruction as JPEG: {e}"));
    let mut bytes = Vec::new();
    let mut encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY);
    encoder.encode(image.data(), image.width() as u32, image.height() as u32, image::ExtendedColorType::Rgb8).map_err(fault)?;
    decode(&bytes)
}
