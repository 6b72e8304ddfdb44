//! Contact sheets: pictures in a grid, as PNG or JPEG.

use std::io::Cursor;
use std::path::Path;

use candle_core::{DType, Tensor};
use image::codecs::jpeg::JpegEncoder;
use image::{ImageFormat, Rgb, RgbImage};

use super::drawing::Split;
use super::source::Source;
use crate::images::Rgb8;
use crate::record::store::write_atomic;
use crate::report::ink::{Anchor, BLACK, Sheet, text_width};
use crate::{Error, Result};

/// Values of a factor on the sheet of all factors, from -1 to 1.
const VALUES: usize = 7;
/// Quality of a JPEG sheet.
const JPEG_QUALITY: u8 = 90;

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

/// A row per factor: one training picture with this factor from -1 to 1 and all else as it was.
///
/// Errors (internal): the text can't be drawn.
pub fn of_factors(source: &Source) -> Result<RgbImage> {
    const SIDE: u32 = 64;
    const GAP: u32 = 4;
    const MARGIN: u32 = 12;
    const SIZE: f64 = 15.0;
    let names = source.factors();
    let mut label: f64 = 0.0;
    for name in names {
        label = label.max(text_width(name, SIZE, false)?);
    }
    let label = label.ceil() as u32 + 10;
    let rows = names.len().div_ceil(2) as u32;
    let block = label + VALUES as u32 * (SIDE + GAP) + MARGIN;
    let mut sheet = Sheet { width: 2 * block + MARGIN, height: rows * (SIDE + GAP) + 2 * MARGIN, ..Sheet::default() };
    for (place, name) in names.iter().enumerate() {
        let (column, row) = (place as u32 / rows, place as u32 % rows);
        let (x, y) = (MARGIN + column * block, MARGIN + row * (SIDE + GAP));
        let middle = f64::from(y) + f64::from(SIDE) / 2.0 + 0.36 * SIZE;
        sheet.label(f64::from(x + label) - 8.0, middle, SIZE, Anchor::End, BLACK, name.replace('_', " "));
        for i in 0..VALUES {
            let value = 2.0 * i as f32 / (VALUES - 1) as f32 - 1.0;
            let drawn = source.draw_with(Split::Train, place as u64, Some((place, value)));
            sheet.pictures.push((x + label + i as u32 * (SIDE + GAP), y, 1, Rgb8::new(SIDE as usize, SIDE as usize, drawn.rgb)?));
        }
    }
    let drawn = image::load_from_memory(&sheet.render()?.png).map_err(|e| Error::internal(format!("the sheet: {e}")))?;
    Ok(drawn.into_rgb8())
}

/// Writes a PNG or, by the file's ending, a JPEG, whole or not at all.
pub fn save(path: &Path, sheet: &RgbImage) -> Result<()> {
    let mut bytes = Cursor::new(Vec::new());
    let ending = path.extension().map(|e| e.to_ascii_lowercase());
    let written = match ending.as_ref().and_then(|e| e.to_str()) {
        Some("jpg" | "jpeg") => sheet.write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY)),
        _ => sheet.write_to(&mut bytes, ImageFormat::Png),
    };
    written.map_err(|e| Error::internal(format!("{}: {e}", path.display())))?;
    write_atomic(path, bytes.get_ref())
}
