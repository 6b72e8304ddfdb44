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

    /// The solution v of (self + ridge) v = right, for a positive definite matrix, by Cholesky factorisation.
    pub fn solve(&self, ridge: f64, right: Vec<f64>) -> Vec<f64> {
        let n = self.n;
        // self + ridge = L L^T.
        let mut l = vec![0.0; n * n];
        for i in 0..n {
            for j in 0..=i {
                let dot: f64 = (0..j).map(|k| l[i * n + k] * l[j * n + k]).sum();
                let value = self.at(i, j) + if i == j { ridge } else { 0.0 } - dot;
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

/// Logistic regression: the weights v that minimise the mean of log(1 + exp(-y v . x)) for y = +1 or -1, both signs weighing the same,
/// with `penalty` times |v|^2 / 2; Newton's method. x should have about unit spread in every place.
pub fn logistic(rows: &[(Vec<f64>, f64)], penalty: f64) -> Vec<f64> {
    let n = rows.first().map_or(0, |(x, _)| x.len());
    let weights = balanced(rows);
    let loss = |v: &[f64]| {
        let of_row = |(x, y): &(Vec<f64>, f64)| {
            let margin = y * x.iter().zip(v).map(|(x, v)| x * v).sum::<f64>();
            weights(*y) * ((-margin.abs()).exp().ln_1p() + (-margin).max(0.0))
        };
        rows.iter().map(of_row).sum::<f64>() + 0.5 * penalty * v.iter().map(|v| v * v).sum::<f64>()
    };
    let mut v = vec![0.0; n];
    let mut before = loss(&v);
    for _step in 0..50 {
        let mut hessian = Symmetric::zeros(n);
        let mut down: Vec<f64> = v.iter().map(|v| -penalty * v).collect();
        for (x, y) in rows {
            let margin = y * x.iter().zip(&v).map(|(x, v)| x * v).sum::<f64>();
            let miss = 1.0 / (1.0 + margin.exp());
            hessian.add_outer(x, weights(*y) * miss * (1.0 - miss));
            down.iter_mut().zip(x).for_each(|(d, x)| *d += weights(*y) * miss * y * x);
        }
        let step = hessian.solve(penalty, down);
        // A full step may overshoot; half of it then does not.
        let mut size = 1.0;
        let moved = |size: f64| v.iter().zip(&step).map(|(v, s)| v + size * s).collect::<Vec<_>>();
        while size > 1e-4 && loss(&moved(size)) > before {
            size *= 0.5;
        }
        v = moved(size);
        let now = loss(&v);
        if before - now <= 1e-9 * before {
            break;
        }
        before = now;
    }
    v
}

/// The weight of a row by the sign of its y, so that each sign weighs 1/2 in all.
fn balanced(rows: &[(Vec<f64>, f64)]) -> impl Fn(f64) -> f64 {
    let positive = rows.iter().filter(|(_, y)| *y > 0.0).count().max(1) as f64;
    let negative = (rows.len() as f64 - positive).max(1.0);
    move |y| if y > 0.0 { 0.5 / positive } else { 0.5 / negative }
}
