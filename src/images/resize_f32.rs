//! The float resizes of the field: the same name means another filter in every package, so each is named after its package.
//!
//! Every one of them is linear and separable: a window of weights per output position and axis ([`Resample::windows`]),
//! which also gives the two matrices of a differentiable resize ([`Resample::matrix`]).

use super::resize_u8::{Filter, cubic, windows};

/// A float resize. Coordinates are computed in f32 where the package does so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resample {
    /// `torch.nn.functional.interpolate(mode="bilinear")` without antialias.
    TorchBilinear { align_corners: bool },
    /// The same with `antialias=True`: a triangle as wide as the scale.
    TorchBilinearAntialias,
    /// `interpolate(mode="bicubic")` without antialias: Keys' kernel with a = -0.75.
    TorchBicubic { align_corners: bool },
    /// The same with `antialias=True`: a = -0.5.
    TorchBicubicAntialias,
    /// `interpolate(mode="nearest")`: source floor(i scale).
    TorchNearest,
    /// `interpolate(mode="nearest-exact")`: source floor((i + 0.5) scale).
    TorchNearestExact,
    /// `interpolate(mode="area")`: the mean of every source pixel that the output pixel touches.
    TorchArea,
    /// TensorFlow 1's bilinear, no half-pixel centre: torch-fidelity's way to 299 pixels.
    Tf1Bilinear,
    /// Pillow's bicubic in mode "F", clipped to 0..255 at the end by the caller: clean-fid's way to 299 pixels.
    CleanFidBicubic,
    /// OpenCV `INTER_LINEAR`.
    Cv2Linear,
    /// OpenCV `INTER_AREA`: exact overlaps when both sides shrink, a variant of bilinear otherwise.
    Cv2Area,
}

/// For each output position: the first source position and the weights from there on.
pub type Windows = Vec<(usize, Vec<f64>)>;

impl Resample {
    /// The windows of one axis. `shrink` says whether no side grows (only [`Resample::Cv2Area`] asks).
    pub fn windows(self, input: usize, output: usize, shrink: bool) -> Windows {
        match self {
            Resample::TorchBilinear { align_corners } => {
                (0..output).map(|i| two(torch_source(i, input, output, align_corners).max(0.0), input)).collect()
            }
            Resample::TorchBilinearAntialias => windows(input, output, Filter::Bilinear),
            Resample::TorchBicubic { align_corners } => {
                (0..output).map(|i| four(torch_source(i, input, output, align_corners), input)).collect()
            }
            Resample::TorchBicubicAntialias | Resample::CleanFidBicubic => windows(input, output, Filter::Bicubic),
            Resample::TorchNearest => (0..output).map(|i| one((i as f32 * scale(input, output)) as usize, input)).collect(),
            Resample::TorchNearestExact => (0..output).map(|i| one(((i as f32 + 0.5) * scale(input, output)) as usize, input)).collect(),
            Resample::TorchArea => (0..output)
                .map(|i| {
                    let low = i * input / output;
                    let high = ((i + 1) * input).div_ceil(output);
                    (low, vec![1.0 / (high - low) as f64; high - low])
                })
                .collect(),
            Resample::Tf1Bilinear => (0..output).map(|i| two(i as f32 * scale(input, output), input)).collect(),
            Resample::Cv2Linear => (0..output)
                .map(|i| {
                    let source = ((i as f64 + 0.5) * (input as f64 / output as f64) - 0.5) as f32;
                    two(source.clamp(0.0, (input - 1) as f32), input)
                })
                .collect(),
            Resample::Cv2Area if shrink => (0..output).map(|i| overlap(i, input, output)).collect(),
            Resample::Cv2Area => (0..output)
                .map(|i| {
                    let scale = input as f64 / output as f64;
                    let low = (i as f64 * scale).floor();
                    let past = ((i + 1) as f64 - (low + 1.0) / scale) as f32;
                    let part = if past <= 0.0 { 0.0 } else { past - past.floor() };
                    two((low as usize).min(input - 1) as f32 + part, input)
                })
                .collect(),
        }
    }

    /// The resize of one axis as a row-major `[output, input]` matrix.
    pub fn matrix(self, input: usize, output: usize) -> Vec<f32> {
        let mut out = vec![0f32; input * output];
        for (i, (low, weights)) in self.windows(input, output, output <= input).into_iter().enumerate() {
            for (j, w) in weights.into_iter().enumerate() {
                out[i * input + low + j] = w as f32;
            }
        }
        out
    }

    /// Resizes one row-major plane `[height, width]` to `[new.1, new.0]`; sizes are (width, height), none 0.
    pub fn plane(self, data: &[f32], size: (usize, usize), new: (usize, usize)) -> Vec<f32> {
        let shrink = new.0 <= size.0 && new.1 <= size.1;
        let mut wide = Vec::with_capacity(new.0 * size.1);
        let columns = self.windows(size.0, new.0, shrink);
        for row in data.chunks_exact(size.0) {
            for (low, weights) in &columns {
                wide.push(row[*low..].iter().zip(weights).map(|(&p, w)| p as f64 * w).sum::<f64>() as f32);
            }
        }
        let mut out = Vec::with_capacity(new.0 * new.1);
        let mut sums = vec![0f64; new.0];
        for (low, weights) in self.windows(size.1, new.1, shrink) {
            sums.fill(0.0);
            for (row, w) in wide[low * new.0..].chunks_exact(new.0).zip(weights) {
                for (s, &p) in sums.iter_mut().zip(row) {
                    *s += p as f64 * w;
                }
            }
            out.extend(sums.iter().map(|&s| s as f32));
        }
        out
    }

    /// [`Resample::plane`] of each of the channels of a `[channels, height, width]` array.
    pub fn planes(self, data: &[f32], size: (usize, usize), new: (usize, usize)) -> Vec<f32> {
        data.chunks_exact(size.0 * size.1).flat_map(|p| self.plane(p, size, new)).collect()
    }
}

fn scale(input: usize, output: usize) -> f32 {
    input as f32 / output as f32
}

/// torch's source coordinate of output position `i`, in f32 as its CPU kernels.
fn torch_source(i: usize, input: usize, output: usize, align_corners: bool) -> f32 {
    if align_corners {
        let scale = if output > 1 { (input - 1) as f32 / (output - 1) as f32 } else { 0.0 };
        scale * i as f32
    } else {
        scale(input, output) * (i as f32 + 0.5) - 0.5
    }
}

fn one(at: usize, input: usize) -> (usize, Vec<f64>) {
    (at.min(input - 1), vec![1.0])
}

/// Linear interpolation at `at` >= 0.
fn two(at: f32, input: usize) -> (usize, Vec<f64>) {
    let low = (at as usize).min(input - 1);
    if low + 1 == input {
        return (low, vec![1.0]);
    }
    let part = (at - low as f32) as f64;
    (low, vec![1.0 - part, part])
}

/// Cubic interpolation at `at`; positions outside take the edge's value.
fn four(at: f32, input: usize) -> (usize, Vec<f64>) {
    let floor = at.floor();
    let part = (at - floor) as f64;
    let place = |k: i64| (floor as i64 - 1 + k).clamp(0, input as i64 - 1) as usize;
    let low = place(0);
    let mut weights = vec![0.0; place(3) - low + 1];
    for k in 0..4 {
        weights[place(k) - low] += cubic(part + 1.0 - k as f64, -0.75);
    }
    (low, weights)
}

/// The overlaps of output cell `i` with the source cells, as shares of the cell.
fn overlap(i: usize, input: usize, output: usize) -> (usize, Vec<f64>) {
    let scale = input as f64 / output as f64;
    let (from, to) = (i as f64 * scale, ((i + 1) as f64 * scale).min(input as f64));
    // OpenCV leaves out slivers below a thousandth of a pixel.
    let low = if from.ceil() - from > 1e-3 { from.floor() } else { from.ceil() } as usize;
    let high = if to - to.floor() > 1e-3 { to.ceil() } else { to.floor() } as usize;
    let cell = scale.min(input as f64 - from);
    (low, (low..high).map(|x| (to.min((x + 1) as f64) - from.max(x as f64)) / cell).collect())
}
