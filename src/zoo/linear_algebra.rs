//! The little dense linear algebra that the model cards need, in f64: symmetric matrices of a few hundred rows.

/// A symmetric matrix, stored whole, row by row.
#[derive(Debug, Clone, PartialEq)]
pub struct Symmetric {
    n: usize,
    data: Vec<f64>,
}

impl Symmetric {
    pub fn zeros(n: usize) -> Self {
        Symmetric { n, data: vec![0.0; n * n] }
    }

    fn at(&self, i: usize, j: usize) -> f64 {
        self.data[i * self.n + j]
    }

    /// self += weight * v v^T.
    pub fn add_outer(&mut self, v: &[f64], weight: f64) {
        for (row, &a) in self.data.chunks_exact_mut(self.n).zip(v) {
            row.iter_mut().zip(v).for_each(|(m, &b)| *m += weight * a * b);
        }
    }

    pub fn trace(&self) -> f64 {
        (0..self.n).map(|i| self.at(i, i)).sum()
    }

    /// self * inner * self, symmetrised.
    pub fn sandwich(&self, inner: &Symmetric) -> Symmetric {
        let product = |a: &[f64], b: &[f64]| {
            let mut out = vec![0.0; self.n * self.n];
            for (out, a) in out.chunks_exact_mut(self.n).zip(a.chunks_exact(self.n)) {
                for (&a, b) in a.iter().zip(b.chunks_exact(self.n)) {
                    out.iter_mut().zip(b).for_each(|(o, b)| *o += a * b);
                }
            }
            out
        };
        let data = product(&product(&self.data, &inner.data), &self.data);
        let mut out = Symmetric { n: self.n, data };
        for i in 0..self.n {
            for j in 0..i {
                let mean = (out.at(i, j) + out.at(j, i)) / 2.0;
                out.data[i * self.n + j] = mean;
                out.data[j * self.n + i] = mean;
            }
        }
        out
    }

    pub fn eigenvalues(&self) -> Vec<f64> {
        self.eigen().0
    }

    /// The symmetric square root; negative eigenvalues (rounding) count as 0.
    pub fn sqrt(&self) -> Symmetric {
        let (values, vectors) = self.eigen();
        let mut root = Symmetric::zeros(self.n);
        for (value, vector) in values.iter().zip(vectors.chunks_exact(self.n)) {
            root.add_outer(vector, value.max(0.0).sqrt());
        }
        root
    }

    /// Eigenvalues and, row by row, eigenvectors, by cyclic Jacobi rotations.
    fn eigen(&self) -> (Vec<f64>, Vec<f64>) {
        let n = self.n;
        let mut a = self.data.clone();
        let mut vectors = Symmetric::zeros(n).data;
        (0..n).for_each(|i| vectors[i * n + i] = 1.0);
        let scale: f64 = a.iter().map(|v| v * v).sum();
        for _sweep in 0..60 {
            let off: f64 = (0..n).map(|i| (0..i).map(|j| a[i * n + j].powi(2)).sum::<f64>()).sum();
            if off <= 1e-26 * scale {
                break;
            }
            for p in 0..n {
                for q in p + 1..n {
                    let apq = a[p * n + q];
                    if apq == 0.0 {
                        continue;
                    }
                    let theta = (a[q * n + q] - a[p * n + p]) / (2.0 * apq);
                    let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
                    let c = 1.0 / (t * t + 1.0).sqrt();
                    let s = t * c;
                    for k in 0..n {
                        let (x, y) = (a[k * n + p], a[k * n + q]);
                        a[k * n + p] = c * x - s * y;
                        a[k * n + q] = s * x + c * y;
                    }
                    rotate(&mut a, n, p, q, c, s);
                    rotate(&mut vectors, n, p, q, c, s);
                }
            }
        }
        ((0..n).map(|i| a[i * n + i]).collect(), vectors)
    }
}

/// Rotates rows p and q (p < q).
fn rotate(m: &mut [f64], n: usize, p: usize, q: usize, c: f64, s: f64) {
    let (upper, lower) = m.split_at_mut(q * n);
    for (x, y) in upper[p * n..(p + 1) * n].iter_mut().zip(&mut lower[..n]) {
        (*x, *y) = (c * *x - s * *y, s * *x + c * *y);
    }
}

/// The weights v that minimise the mean of (v . x - y)^2, both signs of y weighing the same, with `penalty` times the mean square of
/// x on |v|^2; by Cholesky factorisation.
pub fn ridge(rows: &[(Vec<f64>, f64)], penalty: f64) -> Vec<f64> {
    let n = rows.first().map_or(0, |(x, _)| x.len());
    let positive = rows.iter().filter(|(_, y)| *y > 0.0).count().max(1) as f64;
    let negative = (rows.len() as f64 - positive).max(1.0);
    let mut normal = Symmetric::zeros(n);
    let mut right = vec![0.0; n];
    for (x, y) in rows {
        let weight = if *y > 0.0 { 0.5 / positive } else { 0.5 / negative };
        normal.add_outer(x, weight);
        right.iter_mut().zip(x).for_each(|(r, x)| *r += weight * x * y);
    }
    let ridge = penalty * normal.trace() / n.max(1) as f64;
    // normal + ridge = L L^T.
    let mut l = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..=i {
            let dot: f64 = (0..j).map(|k| l[i * n + k] * l[j * n + k]).sum();
            let value = normal.at(i, j) + if i == j { ridge } else { 0.0 } - dot;
            l[i * n + j] = if i == j { value.max(f64::MIN_POSITIVE).sqrt() } else { value / l[j * n + j] };
        }
    }
    let mut v = right;
    for i in 0..n {
        let dot: f64 = (0..i).map(|k| l[i * n + k] * v[k]).sum();
        v[i] = (v[i] - dot) / l[i * n + i];
    }
    for i in (0..n).rev() {
        let dot: f64 = (i + 1..n).map(|k| l[k * n + i] * v[k]).sum();
        v[i] = (v[i] - dot) / l[i * n + i];
    }
    v
}
