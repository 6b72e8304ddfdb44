//! From a picture of any size to the square that a network takes.

use super::{Filter, Rgb8, resize};
use crate::{Error, Result};

/// What becomes of a picture that is not square.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// It is refused: a stretched picture is another picture.
    Square,
    /// The largest square in its middle is taken (StyleGAN's LSUN preparation, `dataset_tool.py` of NVlabs/stylegan).
    Crop,
}

/// `image` as a square of `side` pixels, resized in 8 bits as Pillow does.
///
/// Errors (kind corrupt): not square where `shape` asks for it; smaller than `side`, unless `enlarge`.
pub fn fit(image: &Rgb8, side: usize, filter: Filter, shape: Shape, enlarge: bool) -> Result<Rgb8> {
    let (w, h) = (image.width(), image.height());
    let short = w.min(h);
    if w != h && shape == Shape::Square {
        return Err(Error::corrupt(format!("is {w}x{h}, not square: crop it first (--crop takes its middle)")));
    }
    if short < side && !enlarge {
        return Err(Error::corrupt(format!(
            "is {w}x{h}, smaller than {side}x{side}: an enlarged picture is no original (--enlarge allows it)"
        )));
    }
    let (left, top) = ((w - short) / 2, (h - short) / 2);
    let row = |y: usize| &image.data()[3 * ((top + y) * w + left)..][..3 * short];
    let square = if w == h { image.clone() } else { Rgb8::new(short, short, (0..short).flat_map(row).copied().collect())? };
    Ok(resize(&square, side, side, filter))
}
