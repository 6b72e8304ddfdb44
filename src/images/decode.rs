//! From file bytes to [`Rgb8`]: what a picture file may hold, and by which rule it becomes 8-bit RGB.
//!
//! | file | rule |
//! |---|---|
//! | 8-bit RGB, PNG, JPEG or WebP | as it is; colour profiles and gamma are not applied (as Pillow) |
//! | grey, 1 to 8 bits | scaled to 0..255 and replicated to three channels |
//! | palette | each index becomes its colour |
//! | 16 bits per sample | the high byte (as Pillow's RGB from 16-bit PNG) |
//! | alpha, all opaque | alpha is dropped |
//! | alpha, anything transparent | refused: no background is the right one |
//! | EXIF orientation | applied, so that the picture stands as it is shown |
//! | CMYK or YCCK JPEG, 12-bit or lossless JPEG, cut JPEG, moving WebP, other formats | refused by name |

use std::io::Cursor;

use image::codecs::{jpeg::JpegDecoder, png::PngDecoder, webp::WebPDecoder};
use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageDecoder};

use super::Rgb8;
use crate::{Error, Result};

/// No more pixels than this are decoded (0.5 GB): what a picture of this field never has and a hostile file may.
pub const MAX_PIXELS: u64 = 178_956_970;

/// Decodes the bytes of a PNG, JPEG or WebP file, told apart by their first bytes, never by the file's name.
///
/// Errors (kind corrupt): what the file is instead, or what in it can't be turned into 8-bit RGB by the rules above.
pub fn decode(bytes: &[u8]) -> Result<Rgb8> {
    if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        let decoder = PngDecoder::new(Cursor::new(bytes)).map_err(|e| unreadable("PNG", e))?;
        return finish(decoder, "PNG");
    }
    if bytes.starts_with(&[0xff, 0xd8, 0xff]) {
        check_jpeg(bytes)?;
        let decoder = JpegDecoder::new(Cursor::new(bytes)).map_err(|e| unreadable("JPEG", e))?;
        return finish(decoder, "JPEG");
    }
    if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
        let decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(|e| unreadable("WebP", e))?;
        if decoder.has_animation() {
            return Err(Error::corrupt("a moving WebP: a picture is expected, take one of its frames"));
        }
        return finish(decoder, "WebP");
    }
    Err(Error::corrupt(format!("{}; PNG, JPEG and WebP are read", describe(bytes))))
}

fn unreadable(format: &str, error: image::ImageError) -> Error {
    let text = error.to_string();
    Error::corrupt(format!("unreadable {format}: {}", text.lines().next().unwrap_or("damaged")))
}

fn finish(mut decoder: impl ImageDecoder, format: &str) -> Result<Rgb8> {
    let (width, height) = decoder.dimensions();
    if width as u64 * height as u64 > MAX_PIXELS {
        return Err(Error::corrupt(format!("{width}x{height} pixels: more than the limit of {MAX_PIXELS}")));
    }
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let color = decoder.color_type();
    let mut samples = vec![0u8; decoder.total_bytes() as usize];
    decoder.read_image(&mut samples).map_err(|e| unreadable(format, e))?;
    let rgb = to_rgb(samples, color)?;
    if orientation == Orientation::NoTransforms {
        return Rgb8::new(width as usize, height as usize, rgb);
    }
    let buffer = image::RgbImage::from_raw(width, height, rgb).ok_or_else(|| Error::internal("image buffer"))?;
    let mut turned = DynamicImage::ImageRgb8(buffer);
    turned.apply_orientation(orientation);
    let turned = turned.into_rgb8();
    Rgb8::new(turned.width() as usize, turned.height() as usize, turned.into_raw())
}

/// Samples as the decoder gives them (16-bit ones in native byte order) to interleaved 8-bit RGB.
fn to_rgb(samples: Vec<u8>, color: ColorType) -> Result<Vec<u8>> {
    let samples = match color {
        ColorType::Rgb8 => return Ok(samples),
        ColorType::L16 | ColorType::La16 | ColorType::Rgb16 | ColorType::Rgba16 => {
            samples.chunks_exact(2).map(|s| (u16::from_ne_bytes([s[0], s[1]]) >> 8) as u8).collect()
        }
        ColorType::L8 | ColorType::La8 | ColorType::Rgba8 => samples,
        other => return Err(Error::corrupt(format!("samples of type {other:?} are not read"))),
    };
    let channels = color.channel_count() as usize;
    if color.has_alpha() {
        let transparent = samples.chunks_exact(channels).filter(|p| p[channels - 1] != 255).count();
        if transparent > 0 {
            let pixels = samples.len() / channels;
            return Err(Error::corrupt(format!(
                "{transparent} of {pixels} pixels are transparent: lay the picture over a background first"
            )));
        }
    }
    let rgb = |p: &[u8]| if channels < 3 { [p[0], p[0], p[0]] } else { [p[0], p[1], p[2]] };
    Ok(samples.chunks_exact(channels).flat_map(rgb).collect())
}

/// Refuses what the JPEG decoder would read only by guessing: four ink colours, other processes, a file that was cut.
fn check_jpeg(bytes: &[u8]) -> Result<()> {
    let mut at = 2;
    while let Some(&[0xff, marker]) = bytes.get(at..at + 2).and_then(|m| m.first_chunk::<2>()) {
        if marker == 0xff {
            at += 1;
            continue;
        }
        let Some(length) = bytes.get(at + 2..at + 4).map(|l| u16::from_be_bytes([l[0], l[1]]) as usize) else { break };
        match marker {
            0xc0..=0xc2 => {
                let Some(frame) = bytes.get(at + 4..at + 10) else { break };
                let (bits, components) = (frame[0], frame[5]);
                if components == 4 {
                    return Err(Error::corrupt("a CMYK or YCCK JPEG: its inks need a colour profile, convert it to RGB first"));
                }
                if bits != 8 {
                    return Err(Error::corrupt(format!("a JPEG of {bits} bits per sample: only 8 are read")));
                }
            }
            0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => {
                return Err(Error::corrupt("a JPEG of an uncommon kind (lossless, hierarchical or arithmetic): convert it first"));
            }
            0xda => {
                let body = &bytes[at..];
                if !body.windows(2).rev().any(|m| m == [0xff, 0xd9]) {
                    return Err(Error::corrupt("the JPEG is cut: its end marker is missing"));
                }
                return Ok(());
            }
            _ => {}
        }
        at += 2 + length;
    }
    Err(Error::corrupt("the JPEG is cut or damaged: no image data follows its headers"))
}

/// What a file that is no picture most likely is.
fn describe(bytes: &[u8]) -> String {
    let head = &bytes[..bytes.len().min(512)];
    let text = String::from_utf8_lossy(head).trim_start().to_ascii_lowercase();
    let known: &[(&[u8], &str)] = &[
        (b"GIF8", "a GIF file"),
        (b"BM", "a BMP file"),
        (b"II*\0", "a TIFF file"),
        (b"MM\0*", "a TIFF file"),
        (b"PK\x03\x04", "a zip archive"),
        (b"%PDF", "a PDF file"),
        (b"\0\0\0\x0cJXL ", "a JPEG XL file"),
        (b"\x1f\x8b", "a gzip file"),
    ];
    if bytes.is_empty() {
        "the file is empty".into()
    } else if text.starts_with("<!doctype html") || text.starts_with("<html") {
        "an HTML page, not a picture (a download that ended on a login or error page?)".into()
    } else if text.starts_with("version https://git-lfs") {
        "a git-lfs pointer, not the picture itself (run git lfs pull)".into()
    } else if head.get(4..8) == Some(b"ftyp") {
        "a HEIF or AVIF file".into()
    } else if let Some((_, name)) = known.iter().find(|(magic, _)| head.starts_with(magic)) {
        (*name).into()
    } else {
        "not a picture".into()
    }
}
