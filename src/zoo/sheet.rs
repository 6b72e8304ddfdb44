//! Contact sheets: pictures in a grid, as PNG.

use std::io::Cursor;
use std::path::Path;

use candle_core::{DType, Tensor};
use image::{ImageFormat, Rgb, RgbImage};

use crate::record::store::write_atomic;
use crate::{Error, Result};

/// Images `[n, 3, r, r]`, nominally in [-1, 1], in rows of `columns`, each pixel drawn `scale` times as wide.
pub fn of_tensor(images: &Tensor, columns: usize, scale: usize) -> Result<RgbImage> {
    let (n, _, height, width) = images.dims4()?;
    let planes = images.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    let byte = |v: f32| ((v.clamp(-1.0, 1.0) + 1.0) * 127.5).round() as u8;
    Ok(grid(n, columns, width, height, scale, |i, x, y| {
        let at = |c: usize| byte(planes[((i * 3 + c) * height + y) * width + x]);
        Rgb([at(0), at(1), at(2)])
    }))
}

/// Pictures of `side` x `side` RGB bytes.
pub fn of_bytes(pictures: &[&[u8]], side: usize, columns: usize, scale: usize) -> RgbImage {
    grid(pictures.len(), columns, side, side, scale, |i, x, y| {
        let at = (y * side + x) * 3;
        Rgb([pictures[i][at], pictures[i][at + 1], pictures[i][at + 2]])
    })
}

fn grid(n: usize, columns: usize, width: usize, height: usize, scale: usize, pixel: impl Fn(usize, usize, usize) -> Rgb<u8>) -> RgbImage {
    let rows = n.div_ceil(columns);
    RgbImage::from_fn((columns * width * scale) as u32, (rows * height * scale) as u32, |x, y| {
        let (x, y) = (x as usize / scale, y as usize / scale);
        let i = y / height * columns + x / width;
        if i < n { pixel(i, x % width, y % height) } else { Rgb([0; 3]) }
    })
}

/// Writes a PNG, whole or not at all.
pub fn save(path: &Path, sheet: &RgbImage) -> Result<()> {
    let mut bytes = Cursor::new(Vec::new());
    sheet.write_to(&mut bytes, ImageFormat::Png).map_err(|e| Error::internal(format!("{}: {e}", path.display())))?;
    write_atomic(path, bytes.get_ref())
}
