//! The typed image: 8-bit RGB, and the one quantiser that makes it from a network's output.

use std::io::Write;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use image::ImageEncoder;
use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// An 8-bit RGB image: rows from top to bottom, three interleaved channels, 0..=255, never empty.
#[derive(Clone, PartialEq, Eq)]
pub struct Rgb8 {
    width: usize,
    height: usize,
    data: Vec<u8>,
}

impl std::fmt::Debug for Rgb8 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rgb8 {}x{}", self.width, self.height)
    }
}

impl Rgb8 {
    /// An image of `width` x `height` pixels from its `3 * width * height` samples.
    ///
    /// Errors: a side is 0, or the number of samples is another one.
    pub fn new(width: usize, height: usize, data: Vec<u8>) -> Result<Self> {
        let expected = width.checked_mul(height).and_then(|n| n.checked_mul(3));
        if width == 0 || height == 0 || expected != Some(data.len()) {
            return Err(Error::corrupt(format!("{} samples do not make a {width}x{height} RGB image", data.len())));
        }
        Ok(Rgb8 { width, height, data })
    }

    /// An image from one grey value per pixel, replicated to three channels.
    pub fn from_grey(width: usize, height: usize, grey: &[u8]) -> Result<Self> {
        Self::new(width, height, grey.iter().flat_map(|&v| [v, v, v]).collect())
    }

    pub fn width(&self) -> usize {
        self.width
    }

    pub fn height(&self) -> usize {
        self.height
    }

    /// The samples: row by row, `R G B R G B ...`.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// SHA-256 of the samples in hexadecimal: the identity of an image in a record.
    pub fn sha256(&self) -> String {
        Sha256::digest(&self.data).iter().map(|b| format!("{b:02x}")).collect()
    }

    /// `[3, height, width]` in `[-1, 1]` (value / 127.5 - 1), f32.
    pub fn to_tensor(&self, device: &Device) -> candle_core::Result<Tensor> {
        Tensor::from_vec(self.planes(|v| v as f32 / 127.5 - 1.0), (3, self.height, self.width), device)
    }

    /// The samples channel by channel, each mapped by `map`.
    pub(crate) fn planes(&self, map: impl Fn(u8) -> f32) -> Vec<f32> {
        let table: Vec<f32> = (0..=255).map(map).collect();
        let area = self.width * self.height;
        let mut out = vec![0f32; 3 * area];
        for (i, pixel) in self.data.chunks_exact(3).enumerate() {
            for (c, &v) in pixel.iter().enumerate() {
                out[c * area + i] = table[v as usize];
            }
        }
        out
    }

    /// `[images, 3, height, width]` in `[-1, 1]`. Errors: no image, or images of different sizes.
    pub fn to_batch(images: &[Rgb8], device: &Device) -> candle_core::Result<Tensor> {
        let rows = images.iter().map(|i| i.to_tensor(device)).collect::<candle_core::Result<Vec<_>>>()?;
        Tensor::stack(&rows, 0)
    }

    /// The quantiser: a network's `[3, height, width]` (or `[1, 3, height, width]`) is clamped to `[-1, 1]`, mapped by
    /// x 127.5 + 127.5 and rounded to the nearest integer (ties to even, as `torch.round`).
    ///
    /// Errors: another shape, or a value that is not a number (a metric of it would mean nothing).
    pub fn from_tensor(x: &Tensor) -> Result<Self> {
        let x = if x.rank() == 4 { x.squeeze(0)? } else { x.clone() };
        let (channels, height, width) = x.dims3()?;
        if channels != 3 {
            return Err(Error::internal(format!("an image needs 3 channels, got {channels}")));
        }
        let planes = x.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        if planes.iter().any(|v| v.is_nan()) {
            return Err(Error::new(crate::error::Kind::Diverged, "an image holds values that are not numbers (NaN)"));
        }
        let area = height * width;
        let mut data = vec![0u8; 3 * area];
        for (i, pixel) in data.chunks_exact_mut(3).enumerate() {
            for (c, v) in pixel.iter_mut().enumerate() {
                *v = (planes[c * area + i].clamp(-1.0, 1.0) * 127.5 + 127.5).round_ties_even() as u8;
            }
        }
        Self::new(width, height, data)
    }

    /// [`Rgb8::from_tensor`] of every image of a `[images, 3, height, width]` batch.
    pub fn from_batch(x: &Tensor) -> Result<Vec<Self>> {
        (0..x.dim(0)?).map(|i| Self::from_tensor(&x.get(i)?)).collect()
    }

    /// The image as PNG bytes.
    pub fn to_png(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        image::codecs::png::PngEncoder::new(&mut bytes)
            .write_image(&self.data, self.width as u32, self.height as u32, image::ExtendedColorType::Rgb8)
            .map_err(|e| Error::internal(format!("PNG encoding: {e}")))?;
        Ok(bytes)
    }

    /// Writes a PNG file: first under a temporary name in the same folder, then renamed, so that no half image stays.
    pub fn write_png(&self, path: &Path) -> Result<()> {
        let bytes = self.to_png()?;
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file =
            tempfile::Builder::new().prefix(".").suffix(".part").tempfile_in(folder).map_err(|e| Error::io(path, "writing", e))?;
        file.write_all(&bytes).map_err(|e| Error::io(path, "writing", e))?;
        file.persist(path).map_err(|e| Error::io(path, "writing", e.error))?;
        Ok(())
    }
}
