//! The Fréchet distance of two sets of features (Heusel et al., NIPS 2017), by a route that needs no matrix square root.
//!
//! For the centred feature matrices X1, X2 with triangular factors R1, R2 (X = QR), tr (S1 S2)^(1/2) is the sum of the
//! singular values of R1 R2^T divided by sqrt((n1 - 1)(n2 - 1)). This stays exact to rounding where the covariances are
//! singular (fewer images than features), where `scipy.linalg.sqrtm` of the product is off by 1e-7.

use super::singular_values::singular_values;
use crate::{Error, Result};

/// Mean and triangular factor of a set of features, built up row by row in memory that does not grow with the rows.
///
/// The factor is kept for the rows with a 1 in front, `[1 x]`: its first row is then sqrt(n) (1, mean), the rest the
/// factor of the centred rows.
pub struct Moments {
    width: usize,
    rows: usize,
    /// Subtracted from every row first, so that a constant feature has no variance at all: the first row.
    shift: Vec<f64>,
    /// Upper triangular, `(width + 1)^2`, row-major.
    factor: Vec<f64>,
    /// Rows not yet in the factor.
    waiting: Vec<f64>,
}

/// Rows that enter the factor together; such a block stays in the cache.
const BLOCK: usize = 48;

impl Moments {
    /// For rows of `width` features.
    pub fn new(width: usize) -> Self {
        let side = width + 1;
        Moments { width, rows: 0, shift: Vec::new(), factor: vec![0.0; side * side], waiting: Vec::with_capacity(BLOCK * side) }
    }

    /// Of all rows of a row-major `[n, width]` matrix.
    pub fn of(features: &[f32], width: usize) -> Result<Self> {
        let mut moments = Self::new(width);
        features.chunks_exact(width.max(1)).try_for_each(|row| moments.add(row))?;
        Ok(moments)
    }

    /// Adds one row. Errors: another width, or a value that is not finite.
    pub fn add(&mut self, row: &[f32]) -> Result<()> {
        if row.len() != self.width {
            return Err(Error::internal(format!("a row of {} features instead of {}", row.len(), self.width)));
        }
        if row.iter().any(|v| !v.is_finite()) {
            return Err(Error::new(crate::error::Kind::Diverged, "a feature is not a finite number"));
        }
        if self.rows == 0 {
            self.shift = row.iter().map(|&v| v as f64).collect();
        }
        self.waiting.push(1.0);
        self.waiting.extend(row.iter().zip(&self.shift).map(|(&v, s)| v as f64 - s));
        self.rows += 1;
        if self.waiting.len() >= BLOCK * (self.width + 1) {
            self.absorb();
        }
        Ok(())
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Householder reflections of the factor's row j and the waiting rows, for every column j.
    fn absorb(&mut self) {
        let side = self.width + 1;
        let mut w = vec![0f64; side];
        for j in 0..side {
            let below: f64 = self.waiting.chunks_exact(side).map(|r| r[j] * r[j]).sum();
            if below == 0.0 {
                continue;
            }
            let top = &mut self.factor[j * side..(j + 1) * side];
            let head = top[j];
            let norm = (head * head + below).sqrt();
            // v = (first, waiting column), with the sign that avoids cancellation.
            let first = head + norm.copysign(if head == 0.0 { 1.0 } else { head });
            let scale = 2.0 / (first * first + below);
            let w = &mut w[j..];
            w.iter_mut().zip(&top[j..]).for_each(|(w, t)| *w = first * t);
            for row in self.waiting.chunks_exact(side) {
                let v = row[j];
                w.iter_mut().zip(&row[j..]).for_each(|(w, r)| *w += v * r);
            }
            w.iter_mut().for_each(|w| *w *= scale);
            top[j..].iter_mut().zip(w.iter()).for_each(|(t, w)| *t -= first * w);
            for row in self.waiting.chunks_exact_mut(side) {
                let v = row[j];
                row[j..].iter_mut().zip(w.iter()).for_each(|(r, w)| *r -= v * w);
                row[j] = 0.0;
            }
        }
        self.waiting.clear();
    }

    /// Mean and centred factor of the rows so far. Errors: fewer than two rows.
    pub fn gaussian(mut self) -> Result<Gaussian> {
        if self.rows < 2 {
            return Err(Error::usage(format!("a covariance needs two images at least, there are {}", self.rows)));
        }
        self.absorb();
        let side = self.width + 1;
        let root = self.factor[0];
        let mean = self.factor[1..side].iter().zip(&self.shift).map(|(v, s)| v / root + s).collect();
        let rank = self.width.min(self.rows - 1);
        let factor = (0..rank).flat_map(|i| self.factor[(i + 1) * side + 1..(i + 2) * side].iter().copied()).collect();
        Ok(Gaussian { count: self.rows, mean, factor })
    }
}

/// Mean and covariance of a set of features; the covariance (divisor n - 1) as factor^T factor / (n - 1).
#[derive(Debug, Clone, PartialEq)]
pub struct Gaussian {
    /// Images.
    pub count: usize,
    pub mean: Vec<f64>,
    /// `[min(width, count - 1), width]`, row-major.
    factor: Vec<f64>,
}

impl Gaussian {
    pub fn width(&self) -> usize {
        self.mean.len()
    }

    /// From a mean and a covariance, as other tools save them: the factor comes from a Cholesky decomposition with
    /// pivots, which also takes singular covariances. It is exact to 1e-8 only where the covariance is singular.
    ///
    /// Errors: sizes that do not fit, fewer than two images, a matrix that is no covariance.
    pub fn from_covariance(count: usize, mean: Vec<f64>, covariance: &[f64]) -> Result<Self> {
        let d = mean.len();
        if count < 2 || covariance.len() != d * d || mean.iter().chain(covariance).any(|v| !v.is_finite()) {
            return Err(Error::corrupt("mean and covariance do not fit together, or hold values that are not finite"));
        }
        let mut left = covariance.to_vec();
        let largest = (0..d).map(|i| left[i * d + i]).fold(0.0, f64::max);
        let mut factor: Vec<f64> = Vec::new();
        for _ in 0..d {
            let Some(pivot) = (0..d).max_by(|&i, &j| left[i * d + i].total_cmp(&left[j * d + j])) else { break };
            let head = left[pivot * d + pivot];
            if head <= largest * d as f64 * f64::EPSILON {
                break;
            }
            let row: Vec<f64> = left[pivot * d..(pivot + 1) * d].iter().map(|v| v / head.sqrt()).collect();
            for i in 0..d {
                let v = row[i];
                left[i * d..(i + 1) * d].iter_mut().zip(&row).for_each(|(l, r)| *l -= v * r);
            }
            factor.extend(row);
        }
        if (0..d).any(|i| left[i * d + i] < -1e-8 * largest) {
            return Err(Error::corrupt("the matrix is no covariance: it has negative variances"));
        }
        let scale = ((count - 1) as f64).sqrt();
        factor.iter_mut().for_each(|v| *v *= scale);
        Ok(Gaussian { count, mean, factor })
    }

    /// The covariance, `[width, width]`, divisor n - 1.
    pub fn covariance(&self) -> Vec<f64> {
        let d = self.width();
        let mut out = vec![0.0; d * d];
        for row in self.factor.chunks_exact(d) {
            for i in 0..d {
                let v = row[i] / (self.count - 1) as f64;
                out[i * d..(i + 1) * d].iter_mut().zip(row).for_each(|(o, r)| *o += v * r);
            }
        }
        out
    }

    /// The sum of the variances.
    pub fn trace(&self) -> f64 {
        self.factor.iter().map(|v| v * v).sum::<f64>() / (self.count - 1) as f64
    }
}

/// |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2). Its expectation falls with the number of images (about as 1 / n), so
/// two values compare only at equal numbers.
///
/// Errors: features of different widths.
pub fn frechet_distance(a: &Gaussian, b: &Gaussian) -> Result<f64> {
    let d = a.width();
    if b.width() != d {
        return Err(Error::new(crate::error::Kind::Incomparable, format!("features of {d} and {} dimensions", b.width())));
    }
    let means: f64 = a.mean.iter().zip(&b.mean).map(|(x, y)| (x - y) * (x - y)).sum();
    let (rows, columns) = (a.factor.len() / d, b.factor.len() / d);
    let mut product = vec![0f64; rows * columns];
    // SAFETY: the three matrices have the sizes and strides that are given.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            d,
            product.as_mut_ptr(),
            1,
            columns as isize,
            false,
            a.factor.as_ptr(),
            1,
            d as isize,
            b.factor.as_ptr(),
            d as isize,
            1,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
    let sum: f64 = singular_values(product, rows, columns)?.iter().sum();
    let root = sum / (((a.count - 1) as f64) * ((b.count - 1) as f64)).sqrt();
    Ok(means + a.trace() + b.trace() - 2.0 * root)
}
