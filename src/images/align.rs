//! Alignment of faces as in FFHQ: "A Style-Based Generator Architecture for Generative Adversarial Networks" (Karras et
//! al., CVPR 2019, appendix C of the PGGAN paper has the same crop), from 68 landmarks that a detector found before.
//!
//! The crop's orientation and size follow the published rule. Outside the picture the edge is mirrored; FFHQ also blurs and
//! fades there, which is left out, so crops that leave the picture differ near their border.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::{Filter, Rgb8, resize};
use crate::{Error, Result};

/// The 68 landmarks of dlib's face model, in pixels: 36..42 the left eye in the picture, 42..48 the right one, 48 and 54
/// the corners of the mouth.
pub type Landmarks = [[f64; 2]; 68];

/// Samples per output pixel and axis before the last downscale.
const OVERSAMPLE: usize = 4;

/// Landmarks by picture id from a JSON file: `{"id": [[x, y] x 68]}`, or FFHQ's own file, whose entries keep them under
/// `in_the_wild.face_landmarks`.
///
/// Errors: no such file, no JSON, an entry without 68 finite points (named).
pub fn read_landmarks(path: &Path) -> Result<BTreeMap<String, Landmarks>> {
    let bytes = std::fs::read(path).map_err(|e| Error::missing(format!("{}: {e}", path.display())))?;
    let wrong = |what: &str| Error::corrupt(format!("{}: {what}", path.display()));
    let json: Value = serde_json::from_slice(&bytes).map_err(|e| wrong(&e.to_string()))?;
    let entries = json.as_object().ok_or_else(|| wrong("a JSON object of ids is expected"))?;
    entries
        .iter()
        .map(|(id, entry)| {
            let list = entry.pointer("/in_the_wild/face_landmarks").unwrap_or(entry);
            points(list).map(|p| (id.clone(), p)).ok_or_else(|| wrong(&format!("\"{id}\" has no 68 points [x, y]")))
        })
        .collect()
}

fn points(list: &Value) -> Option<Landmarks> {
    let list = list.as_array().filter(|l| l.len() == 68)?;
    let mut out = [[0f64; 2]; 68];
    for (point, value) in out.iter_mut().zip(list) {
        *point = [value.get(0)?.as_f64()?, value.get(1)?.as_f64()?];
    }
    Some(out)
}

/// The corners of the crop in the picture: upper left, lower left, lower right, upper right.
///
/// Errors: landmarks that span nothing.
pub fn quad(points: &Landmarks) -> Result<[[f64; 2]; 4]> {
    let mean = |list: &[[f64; 2]]| [0, 1].map(|k| list.iter().map(|p| p[k]).sum::<f64>() / list.len() as f64);
    let (left, right) = (mean(&points[36..42]), mean(&points[42..48]));
    let (eyes, mouth) = (mean(&[left, right]), mean(&[points[48], points[54]]));
    let between = [right[0] - left[0], right[1] - left[1]];
    let down = [mouth[0] - eyes[0], mouth[1] - eyes[1]];
    // The crop's half width: along the eyes, corrected by the direction to the mouth, which is less sure of itself alone.
    let axis = [between[0] + down[1], between[1] - down[0]];
    let length = axis[0].hypot(axis[1]);
    let half = (2.0 * between[0].hypot(between[1])).max(1.8 * down[0].hypot(down[1]));
    if !(length.is_finite() && half.is_finite() && length > 1e-6 && half > 0.5) {
        return Err(Error::corrupt("the landmarks span no face"));
    }
    let x = axis.map(|v| v / length * half);
    let y = [-x[1], x[0]];
    let centre = [eyes[0] + 0.1 * down[0], eyes[1] + 0.1 * down[1]];
    let corner = |sx: f64, sy: f64| [0, 1].map(|k| centre[k] + sx * x[k] + sy * y[k]);
    Ok([corner(-1.0, -1.0), corner(-1.0, 1.0), corner(1.0, 1.0), corner(1.0, -1.0)])
}

/// The aligned face of `side` x `side` pixels.
///
/// Errors: landmarks that span nothing, or a crop that does not meet the picture.
pub fn ffhq(image: &Rgb8, points: &Landmarks, side: usize) -> Result<Rgb8> {
    let mut corners = quad(points)?;
    let (w, h) = (image.width() as f64, image.height() as f64);
    if corners.iter().all(|c| c[0] < 0.0)
        || corners.iter().all(|c| c[0] > w)
        || corners.iter().all(|c| c[1] < 0.0)
        || corners.iter().all(|c| c[1] > h)
    {
        return Err(Error::corrupt("the landmarks lie outside the picture: are they another picture's?"));
    }
    // A face far larger than the output is shrunk first, by whole steps.
    let width = (corners[3][0] - corners[0][0]).hypot(corners[3][1] - corners[0][1]);
    let shrink = (width / side.max(1) as f64 * 0.5).floor();
    let shrunk = if shrink > 1.0 {
        let small = resize(image, (w / shrink).round() as usize, (h / shrink).round() as usize, Filter::Lanczos);
        corners = corners.map(|c| [c[0] * small.width() as f64 / w, c[1] * small.height() as f64 / h]);
        small
    } else {
        image.clone()
    };
    let fine = side * OVERSAMPLE;
    let mut data = Vec::with_capacity(3 * fine * fine);
    let [upper_left, lower_left, _, upper_right] = corners;
    for i in 0..fine {
        for j in 0..fine {
            let (u, v) = ((j as f64 + 0.5) / fine as f64, (i as f64 + 0.5) / fine as f64);
            let place = [0, 1].map(|k| upper_left[k] + u * (upper_right[k] - upper_left[k]) + v * (lower_left[k] - upper_left[k]));
            data.extend(sample(&shrunk, place[0] - 0.5, place[1] - 0.5));
        }
    }
    Ok(resize(&Rgb8::new(fine, fine, data)?, side, side, Filter::Lanczos))
}

/// How far the corners of the FFHQ crop are from the corners of the picture, as a share of its side: about 0 for a picture
/// that is aligned already.
pub fn misalignment(points: &Landmarks, width: usize, height: usize) -> Result<f64> {
    let (w, h) = (width as f64, height as f64);
    let want = [[0.0, 0.0], [0.0, h], [w, h], [w, 0.0]];
    let distance = quad(points)?.iter().zip(want).map(|(c, t)| (c[0] - t[0]).hypot(c[1] - t[1])).sum::<f64>() / 4.0;
    Ok(distance / w.max(h))
}

/// A crop that is off by more than this share of the picture's side is not the one that FFHQ's networks saw in training.
const ALIGNED: f64 = 0.05;

/// Why a picture of a face is probably not aligned as FFHQ's; `None` where nothing speaks against it. Without landmarks only
/// the shape can tell: whoever sees no warning then has not been told that the picture is aligned.
pub fn looks_unaligned(width: usize, height: usize, points: Option<&Landmarks>) -> Option<String> {
    let off = points.map(|p| misalignment(p, width, height));
    match off {
        _ if width != height => Some(format!("is {width}x{height}, an aligned face is square")),
        Some(Ok(off)) if off > ALIGNED => Some(format!("its landmarks are {:.0} % of its side off those of an aligned face", off * 100.0)),
        Some(Err(e)) => Some(e.message),
        _ => None,
    }
}

/// The landmarks of the picture `id`: under its id, under its name without the folder, or under its number, as FFHQ's file has
/// them ("in-the-wild/00042" under "42").
pub fn of<'a>(all: &'a BTreeMap<String, Landmarks>, id: &str) -> Option<&'a Landmarks> {
    let name = id.rsplit('/').next().unwrap_or(id);
    let number = || name.parse::<u64>().ok().and_then(|n| all.get(&n.to_string()));
    all.get(id).or_else(|| all.get(name)).or_else(number)
}

/// Bilinear sample; outside, the picture is mirrored.
fn sample(image: &Rgb8, x: f64, y: f64) -> [u8; 3] {
    let mirror = |i: f64, n: usize| {
        let period = 2 * n as i64;
        let i = (i as i64).rem_euclid(period);
        (if i < n as i64 { i } else { period - 1 - i }) as usize
    };
    let (fx, fy) = (x.floor(), y.floor());
    let (tx, ty) = (x - fx, y - fy);
    let columns = [mirror(fx, image.width()), mirror(fx + 1.0, image.width())];
    let rows = [mirror(fy, image.height()), mirror(fy + 1.0, image.height())];
    [0, 1, 2].map(|c| {
        let at = |row: usize, column: usize| image.data()[3 * (row * image.width() + column) + c] as f64;
        let line = |row: usize| at(row, columns[0]) * (1.0 - tx) + at(row, columns[1]) * tx;
        (line(rows[0]) * (1.0 - ty) + line(rows[1]) * ty).round() as u8
    })
}
