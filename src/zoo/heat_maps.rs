//! Is a heat map on the object? The Grad-CAM maps of the classifier of the objects against their known masks: the share of a map's sum inside the
//! mask, beside the mask's share of the picture, what a fixed Gaussian in the middle of the frame has, and what a network of the same shape
//! with random weights has. Maps are those of the paper recipe ([`crate::attention::grad_cam`]), of the class that the network finds.

use std::io::Cursor;
use std::path::Path;

use candle_core::{DType, Device};
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder};

use super::card_numbers::Measured;
use super::drawing::{PIXELS, SIZE, Split, tensor};
use super::objects::CLASSES;
use super::source::{Drawn, Source};
use crate::attention::grad_cam;
use crate::images::{Rgb8, decode};
use crate::params::Params;
use crate::perceptual::Vgg16;
use crate::perceptual::vgg16::scale_input;
use crate::record::store::{create_folder, write_atomic};
use crate::report::ink::{Anchor, BLACK, GREY, Sheet, text_width};
use crate::{Error, Result};

/// Sides at which a classifier of the objects is measured; Grad-CAM looks at the larger one, where the last map is 8x8.
const SIDES: [usize; 2] = [64, 128];
/// Pictures of one forward pass.
const CHUNK: usize = 100;
/// Networks with random weights.
const RANDOM: u64 = 5;

/// A Gaussian in the middle of the frame, whose standard deviation is a quarter of its side.
fn centre_prior() -> Vec<f64> {
    let off = |i: usize| (i as f64 + 0.5) / 32.0 - 1.0;
    (0..PIXELS).map(|at| (-(off(at % SIZE).powi(2) + off(at / SIZE).powi(2)) / (2.0 * 0.25)).exp()).collect()
}

/// The network of this shape with initial weights.
fn random(shape: &Vgg16, seed: u64, device: &Device) -> Result<Vgg16> {
    let fresh = Params::fresh(seed, DType::F32, device);
    Vgg16::new(shape.config(), &fresh)?;
    Ok(Vgg16::new(shape.config(), &Params::frozen(fresh.snapshot()?, DType::F32, device, "random weights"))?)
}

/// The class that the network finds in each picture seen at `side` px, and its map at 64 px.
fn maps(vgg: &Vgg16, drawn: &[Drawn], side: usize, device: &Device) -> Result<Vec<(usize, Vec<f64>)>> {
    let mut images = tensor(drawn.iter().map(|p| p.rgb.as_slice()), SIZE, device)?;
    if side == 2 * SIZE {
        images = crate::ops::upsample2(&images)?;
    }
    let features = vgg.features(&scale_input(&images)?)?;
    let channels = grad_cam::channels(vgg, &features, None)?;
    let map = grad_cam::resize(&grad_cam::normalize(&grad_cam::raw_map(&features, &channels.alpha)?)?, SIZE, SIZE)?;
    let maps = map.flatten_from(1)?.to_dtype(DType::F64)?.to_vec2::<f64>()?;
    Ok(channels.classes.into_iter().map(|c| c as usize).zip(maps).collect())
}

/// The share of the weights' sum inside the mask; None of weights that are 0 everywhere.
fn share(weights: &[f64], mask: &[u8]) -> Option<f64> {
    let (inside, all) = weights.iter().zip(mask).fold((0.0, 0.0), |(inside, all), (w, m)| (inside + w * f64::from(*m) / 255.0, all + w));
    (all > 0.0).then(|| inside / all)
}

fn plain(source: &Source, pictures: usize) -> impl Iterator<Item = Vec<Drawn>> + '_ {
    (0..pictures)
        .step_by(CHUNK)
        .map(move |first| source.draw_all(Split::HeldOut, &source.plain_held_out(first, CHUNK.min(pictures - first))))
}

/// Accuracy on the first `pictures` held-out objects, and how much of the maps lies on the object.
pub fn measure(vgg: &Vgg16, source: &Source, pictures: usize, device: &Device) -> Result<Measured> {
    let mut m = Measured::default();
    let (centre, n) = (centre_prior(), pictures as f64);
    for side in SIDES {
        let (mut right, mut of_class) = (0usize, [(0usize, 0usize); CLASSES.len()]);
        let (mut energy, mut area, mut prior, mut flat) = (0.0, 0.0, 0.0, 0usize);
        for drawn in plain(source, pictures) {
            for (picture, (found, map)) in drawn.iter().zip(maps(vgg, &drawn, side, device)?) {
                let class = picture.label.class as usize;
                of_class[class].1 += 1;
                if found == class {
                    (right, of_class[class].0) = (right + 1, of_class[class].0 + 1);
                }
                area += picture.mask.iter().map(|&v| f64::from(v) / 255.0).sum::<f64>() / PIXELS as f64;
                prior += share(&centre, &picture.mask).unwrap_or(0.0);
                match share(&map, &picture.mask) {
                    Some(inside) => energy += inside,
                    // A map that is 0 everywhere points nowhere: it counts as no energy on the object.
                    None => flat += 1,
                }
            }
        }
        m.put(&format!("accuracy_{side}px"), right as f64 / n);
        m.put(&format!("cam_energy_in_mask_{side}px"), energy / n);
        m.put(&format!("cam_flat_maps_{side}px"), flat as f64 / n);
        m.put("mask_area", area / n);
        m.put("centre_prior_in_mask", prior / n);
        if side == SIDES[0] {
            for (name, (right, all)) in CLASSES.iter().zip(of_class) {
                m.put(&format!("accuracy_{name}"), right as f64 / all.max(1) as f64);
            }
            m.put("accuracy", right as f64 / n);
        }
    }
    measure_random(&mut m, vgg, source, pictures, device)?;
    let (energy, area, prior) = (m.numbers["cam_energy_in_mask_128px"], m.numbers["mask_area"], m.numbers["centre_prior_in_mask"]);
    m.bar("the share of Grad-CAM's energy on the object over the object's area", energy / area, energy >= 2.0 * area, "at least 2");
    m.bar("the share of Grad-CAM's energy on the object", energy, energy > prior, &format!("above a centre prior's {prior:.3}"));
    let untrained = m.numbers["cam_energy_in_mask_random_128px"];
    let wanted = format!("above {untrained:.3} with random weights");
    m.bar("the share of Grad-CAM's energy on the object", energy, energy > untrained, &wanted);
    let accuracy = m.numbers["accuracy"];
    m.bar("the accuracy", accuracy, accuracy >= 0.9, "at least 0.9");
    Ok(m)
}

/// The same at 128 px for networks with random weights: mean over the networks and its standard deviation. Their maps are often 0 everywhere; only the
/// others count, which is to their advantage.
fn measure_random(m: &mut Measured, vgg: &Vgg16, source: &Source, pictures: usize, device: &Device) -> Result<()> {
    let networks = (1..=RANDOM).map(|seed| random(vgg, seed, device)).collect::<Result<Vec<_>>>()?;
    let mut shares = vec![Vec::new(); networks.len()];
    for drawn in plain(source, pictures) {
        for (shares, network) in shares.iter_mut().zip(&networks) {
            let found = maps(network, &drawn, SIDES[1], device)?;
            shares.extend(found.iter().zip(&drawn).filter_map(|((_, map), picture)| share(map, &picture.mask)));
        }
    }
    let pointing: usize = shares.iter().map(Vec::len).sum();
    m.put("cam_flat_maps_random_128px", 1.0 - pointing as f64 / (pictures * networks.len()) as f64);
    let means: Vec<f64> = shares.iter().filter(|s| !s.is_empty()).map(|s| s.iter().sum::<f64>() / s.len() as f64).collect();
    let mean = means.iter().sum::<f64>() / means.len().max(1) as f64;
    m.put("cam_energy_in_mask_random_128px", mean);
    let spread = means.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / means.len().saturating_sub(1).max(1) as f64;
    m.put("cam_energy_in_mask_random_128px_sd", spread.sqrt());
    Ok(())
}

const CELL: u32 = 2 * SIZE as u32;
const GAP: u32 = 4;
const MARGIN: u32 = 12;
const TITLE: f64 = 19.0;
const SMALL: f64 = 15.0;
/// Below a row of maps: the share on the object.
const CAPTION: u32 = 22;

/// The figure: of each class the first held-out picture, its mask, and the three maps over it, each with its share on the object.
pub fn draw(vgg: &Vgg16, source: &Source, file: &Path, device: &Device) -> Result<()> {
    let drawn = source.draw_all(Split::HeldOut, &source.plain_held_out(0, 20 * CLASSES.len()));
    let first = |class: usize| drawn.iter().position(|p| p.label.class as usize == class);
    let missing = || Error::internal("a class without a picture");
    let places = (0..CLASSES.len()).map(|class| first(class).ok_or_else(missing)).collect::<Result<Vec<_>>>()?;
    let trained = maps(vgg, &drawn, SIDES[1], device)?;
    let untrained = maps(&random(vgg, 1, device)?, &drawn, SIDES[1], device)?;
    let centre = centre_prior();
    let rows = ["picture", "mask", "Grad-CAM", "centre prior", "random weights"];
    let mut left: f64 = 0.0;
    for row in rows {
        left = left.max(text_width(row, TITLE, false)?);
    }
    let left = MARGIN + left.ceil() as u32 + 12;
    let top = MARGIN + TITLE as u32 + 8;
    let height = |row: usize| CELL + GAP + if row < 2 { 0 } else { CAPTION };
    let y_of = |row: usize| top + (0..row).map(height).sum::<u32>();
    let mut sheet = Sheet {
        width: left + CLASSES.len() as u32 * (CELL + GAP) - GAP + MARGIN,
        height: y_of(rows.len()) + MARGIN / 2,
        ..Default::default()
    };
    for (row, label) in rows.iter().enumerate() {
        sheet.label(f64::from(left) - 10.0, f64::from(y_of(row) + CELL / 2) + 0.36 * TITLE, TITLE, Anchor::End, BLACK, *label);
    }
    for (class, &place) in places.iter().enumerate() {
        let (picture, x) = (&drawn[place], left + class as u32 * (CELL + GAP));
        let middle = f64::from(x + CELL / 2);
        sheet.label(middle, f64::from(top) - 8.0, TITLE, Anchor::Middle, BLACK, CLASSES[class]);
        let cells = [
            Rgb8::new(SIZE, SIZE, coarse(&picture.rgb))?,
            outlined(coarse(&picture.rgb), &picture.mask, Some(0.35))?,
            over(picture, &trained[place].1)?,
            over(picture, &centre)?,
            over(picture, &untrained[place].1)?,
        ];
        let captions = [None, None, Some(&trained[place].1), Some(&centre), Some(&untrained[place].1)];
        for (row, (cell, map)) in cells.into_iter().zip(captions).enumerate() {
            sheet.pictures.push((x, y_of(row), 2, cell));
            let Some(map) = map else { continue };
            let found = if row == 2 && trained[place].0 != class { format!(" ({})", CLASSES[trained[place].0]) } else { String::new() };
            let text = share(map, &picture.mask).map_or_else(|| "no map".to_string(), |s| format!("{:.0} %{found}", 100.0 * s));
            sheet.label(middle, f64::from(y_of(row) + CELL) + SMALL + 1.0, SMALL, Anchor::Middle, GREY, text);
        }
    }
    let figure = decode(&sheet.render()?.png)?;
    let mut bytes = Cursor::new(Vec::new());
    PngEncoder::new_with_quality(&mut bytes, CompressionType::Best, FilterType::Adaptive)
        .write_image(figure.data(), figure.width() as u32, figure.height() as u32, ExtendedColorType::Rgb8)
        .map_err(|e| Error::internal(format!("{}: {e}", file.display())))?;
    create_folder(file.parent().unwrap_or(Path::new(".")))?;
    write_atomic(file, bytes.get_ref())
}

/// 32 levels per channel: the sensor noise would otherwise be most of the file.
fn coarse(rgb: &[u8]) -> Vec<u8> {
    rgb.iter().map(|v| (v & !7) | 4).collect()
}

/// The picture with the outline of its mask; what lies outside is `dimmed` to this share of its brightness.
fn outlined(mut rgb: Vec<u8>, mask: &[u8], dimmed: Option<f64>) -> Result<Rgb8> {
    let inside = |x: usize, y: usize| mask[y * SIZE + x] > 127;
    for y in 0..SIZE {
        for x in 0..SIZE {
            let pixel = &mut rgb[(y * SIZE + x) * 3..][..3];
            let edge = inside(x, y) && ((x > 0 && !inside(x - 1, y)) || (x + 1 < SIZE && !inside(x + 1, y)))
                || inside(x, y) && ((y > 0 && !inside(x, y - 1)) || (y + 1 < SIZE && !inside(x, y + 1)));
            if edge {
                pixel.fill(255);
            } else if let (Some(share), false) = (dimmed, inside(x, y)) {
                pixel.iter_mut().for_each(|v| *v = (f64::from(*v) * share) as u8);
            }
        }
    }
    Rgb8::new(SIZE, SIZE, rgb)
}

/// The map as colours over the picture in grey, with the outline of the mask.
fn over(picture: &Drawn, map: &[f64]) -> Result<Rgb8> {
    let most = map.iter().copied().fold(1e-9, f64::max);
    let rgb: Vec<u8> = (picture.rgb.chunks_exact(3).zip(map))
        .flat_map(|(pixel, level)| {
            let grey = pixel.iter().map(|v| f64::from(*v)).sum::<f64>() / 3.0;
            grad_cam::jet((255.0 * level / most) as u8).map(|v| (0.45 * grey + 0.55 * f64::from(v)) as u8)
        })
        .collect();
    outlined(coarse(&rgb), &picture.mask, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_a_uniform_map_is_the_area() {
        let mask: Vec<u8> = (0..PIXELS).map(|i| if i % 4 == 0 { 255 } else { 0 }).collect();
        assert!(share(&vec![0.3; PIXELS], &mask).is_some_and(|s| (s - 0.25).abs() < 1e-12));
        assert_eq!(share(&vec![0.0; PIXELS], &mask), None);
    }

    #[test]
    fn the_outline_runs_inside_the_mask() -> Result<()> {
        let mask: Vec<u8> =
            (0..PIXELS).map(|i| if (20..40).contains(&(i % SIZE)) && (20..40).contains(&(i / SIZE)) { 255 } else { 0 }).collect();
        let out = outlined(vec![100; 3 * PIXELS], &mask, Some(0.5))?;
        let at = |x: usize, y: usize| out.data()[(y * SIZE + x) * 3];
        assert_eq!((at(20, 30), at(39, 30), at(30, 20), at(30, 30), at(19, 30)), (255, 255, 255, 100, 50));
        Ok(())
    }
}
