//! Pillow's 8-bit resize, bit for bit (`Image.resize`, and `torchvision.transforms.Resize` of a PIL image).
//!
//! Two passes, horizontal first; a pass whose size does not change is skipped; between the passes the values are rounded
//! and clipped to 8 bits; the weights are fixed-point numbers of 22 bits. Source of the algorithm: Pillow 13,
//! `src/libImaging/Resample.c` and `Geometry.c`, re-derived from its behaviour.

use super::Rgb8;

/// Pillow's resampling filters. `Image.resize` takes `Bicubic` by default, torchvision's `Resize` takes `Bilinear`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    Nearest,
    Box,
    Bilinear,
    Hamming,
    Bicubic,
    Lanczos,
}

impl Filter {
    /// Half the width of the filter, in source pixels when enlarging, and its value at `x`.
    pub(super) fn support(self) -> f64 {
        match self {
            Filter::Nearest => 0.0,
            Filter::Box => 0.5,
            Filter::Bilinear | Filter::Hamming => 1.0,
            Filter::Bicubic => 2.0,
            Filter::Lanczos => 3.0,
        }
    }

    pub(super) fn weight(self, x: f64) -> f64 {
        let sinc = |x: f64| if x == 0.0 { 1.0 } else { (std::f64::consts::PI * x).sin() / (std::f64::consts::PI * x) };
        match self {
            Filter::Nearest => 0.0,
            Filter::Box => ((-0.5 < x) && (x <= 0.5)) as u8 as f64,
            Filter::Bilinear => (1.0 - x.abs()).max(0.0),
            Filter::Hamming => {
                let x = x.abs();
                if x == 0.0 {
                    1.0
                } else if x >= 1.0 {
                    0.0
                } else {
                    sinc(x) * (0.54 + 0.46 * (std::f64::consts::PI * x).cos())
                }
            }
            Filter::Bicubic => cubic(x, -0.5),
            Filter::Lanczos => {
                if (-3.0..3.0).contains(&x) {
                    sinc(x) * sinc(x / 3.0)
                } else {
                    0.0
                }
            }
        }
    }
}

/// Keys' cubic kernel with parameter `a`.
pub(super) fn cubic(x: f64, a: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * a
    } else {
        0.0
    }
}

/// For each output position: its first source position and its weights, which sum to 1 (Pillow's windows).
pub(super) fn windows(input: usize, output: usize, filter: Filter) -> Vec<(usize, Vec<f64>)> {
    let scale = input as f64 / output as f64;
    let stretch = scale.max(1.0);
    let support = filter.support() * stretch;
    (0..output)
        .map(|i| {
            let centre = (i as f64 + 0.5) * scale;
            let low = ((centre - support + 0.5).trunc() as i64).max(0) as usize;
            let high = ((centre + support + 0.5).trunc() as usize).min(input);
            let inverse = 1.0 / stretch;
            let mut weights: Vec<f64> = (low..high).map(|x| filter.weight((x as f64 - centre + 0.5) * inverse)).collect();
            let sum: f64 = weights.iter().sum();
            if sum != 0.0 {
                weights.iter_mut().for_each(|w| *w /= sum);
            }
            (low, weights)
        })
        .collect()
}

/// Resizes to `width` x `height`, bit for bit as Pillow. A side of 0 is taken as 1.
pub fn resize(image: &Rgb8, width: usize, height: usize, filter: Filter) -> Rgb8 {
    let (width, height) = (width.max(1), height.max(1));
    let (w, h) = (image.width(), image.height());
    if (w, h) == (width, height) {
        return image.clone();
    }
    let data = if filter == Filter::Nearest {
        nearest(image, width, height)
    } else {
        let wide = if w == width { image.data().to_vec() } else { horizontal(image.data(), w, h, &fixed(w, width, filter)) };
        if h == height { wide } else { vertical(&wide, width, &fixed(h, height, filter)) }
    };
    Rgb8::new(width, height, data).expect("both passes fill the image")
}

const BITS: u32 = 22;

fn fixed(input: usize, output: usize, filter: Filter) -> Vec<(usize, Vec<i32>)> {
    let round = |w: f64| (w * (1 << BITS) as f64 + if w < 0.0 { -0.5 } else { 0.5 }) as i32;
    windows(input, output, filter).into_iter().map(|(low, w)| (low, w.into_iter().map(round).collect())).collect()
}

fn clip(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

fn horizontal(data: &[u8], w: usize, h: usize, taps: &[(usize, Vec<i32>)]) -> Vec<u8> {
    let mut out = Vec::with_capacity(h * taps.len() * 3);
    for row in data.chunks_exact(3 * w) {
        for (low, weights) in taps {
            let mut sum = [1i32 << (BITS - 1); 3];
            for (pixel, &weight) in row[3 * low..].chunks_exact(3).zip(weights) {
                for (s, &p) in sum.iter_mut().zip(pixel) {
                    *s += p as i32 * weight;
                }
            }
            out.extend(sum.map(clip));
        }
    }
    out
}

fn vertical(data: &[u8], w: usize, taps: &[(usize, Vec<i32>)]) -> Vec<u8> {
    let mut out = Vec::with_capacity(taps.len() * w * 3);
    let mut sums = vec![0i32; 3 * w];
    for (low, weights) in taps {
        sums.fill(1 << (BITS - 1));
        for (row, &weight) in data[3 * w * low..].chunks_exact(3 * w).zip(weights) {
            for (s, &p) in sums.iter_mut().zip(row) {
                *s += p as i32 * weight;
            }
        }
        out.extend(sums.iter().map(|&s| clip(s)));
    }
    out
}

/// Pillow finds the source pixel by adding the scale again and again: at exact ties the sum's rounding decides.
fn nearest(image: &Rgb8, width: usize, height: usize) -> Vec<u8> {
    let positions = |input: usize, output: usize| -> Vec<usize> {
        let scale = input as f64 / output as f64;
        let mut at = 0.5 * scale;
        (0..output)
            .map(|_| {
                let i = (at as usize).min(input - 1);
                at += scale;
                i
            })
            .collect()
    };
    let columns = positions(image.width(), width);
    let mut out = Vec::with_capacity(3 * width * height);
    for y in positions(image.height(), height) {
        let row = &image.data()[3 * image.width() * y..];
        for &x in &columns {
            out.extend_from_slice(&row[3 * x..3 * x + 3]);
        }
    }
    out
}
