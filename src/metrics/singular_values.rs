//! Singular values of a dense matrix: Householder reflections to a bidiagonal one, whose values are the eigenvalues of a
//! symmetric tridiagonal matrix (Golub and Kahan 1965), found by the QL algorithm with implicit shifts. Backward stable:
//! each value is exact to rounding times the largest one.

use crate::{Error, Result};

/// The singular values of a row-major `[rows, columns]` matrix, min(rows, columns) of them, in descending order.
pub fn singular_values(matrix: Vec<f64>, rows: usize, columns: usize) -> Result<Vec<f64>> {
    if rows == 0 || columns == 0 {
        return Ok(Vec::new());
    }
    if rows < columns {
        let mut turned = vec![0f64; rows * columns];
        for (i, row) in matrix.chunks_exact(columns).enumerate() {
            row.iter().enumerate().for_each(|(j, &v)| turned[j * rows + i] = v);
        }
        return singular_values(turned, columns, rows);
    }
    // The bidiagonal matrix (d, e) has the singular values +-eigenvalues of the tridiagonal one with a zero diagonal and
    // d1, e1, d2, e2, ... beside it.
    let (d, e) = bidiagonal(matrix, columns);
    let beside = (0..2 * columns - 1).map(|k| if k % 2 == 0 { d[k / 2] } else { e[k / 2] }).collect();
    let mut values = tridiagonal_eigenvalues(vec![0.0; 2 * columns], beside)?;
    values.sort_by(|a, b| b.total_cmp(a));
    values.truncate(columns);
    Ok(values.into_iter().map(|v| v.max(0.0)).collect())
}

/// Householder vector of `x` in place of it; returns (scale, new first value) with H = 1 - scale v v^T.
fn reflector(x: &mut [f64]) -> (f64, f64) {
    let norm = x.iter().map(|v| v * v).sum::<f64>().sqrt();
    if norm == 0.0 {
        return (0.0, 0.0);
    }
    let value = -norm.copysign(if x[0] == 0.0 { 1.0 } else { x[0] });
    x[0] -= value;
    let square: f64 = x.iter().map(|v| v * v).sum();
    (2.0 / square, value)
}

/// Diagonal and superdiagonal of the bidiagonal form of a `[rows >= n, n]` matrix.
fn bidiagonal(mut a: Vec<f64>, n: usize) -> (Vec<f64>, Vec<f64>) {
    let (mut d, mut e) = (vec![0.0; n], vec![0.0; n.saturating_sub(1)]);
    let mut column = Vec::new();
    let mut w = vec![0f64; n];
    for k in 0..n {
        column.clear();
        column.extend(a[k * n..].chunks_exact(n).map(|row| row[k]));
        let (scale, value) = reflector(&mut column);
        d[k] = value;
        if k + 1 == n {
            break;
        }
        let w = &mut w[k + 1..];
        w.fill(0.0);
        for (row, &v) in a[k * n..].chunks_exact(n).zip(&column) {
            w.iter_mut().zip(&row[k + 1..]).for_each(|(w, r)| *w += v * r);
        }
        w.iter_mut().for_each(|w| *w *= scale);
        // The first row gives the reflection from the right; then both are applied to each other row in one pass.
        let (first, rest) = a[k * n..].split_at_mut(n);
        let right = &mut first[k + 1..];
        right.iter_mut().zip(w.iter()).for_each(|(r, w)| *r -= column[0] * w);
        let (right_scale, value) = reflector(right);
        e[k] = value;
        for (row, &v) in rest.chunks_exact_mut(n).zip(&column[1..]) {
            let row = &mut row[k + 1..];
            row.iter_mut().zip(w.iter()).for_each(|(r, w)| *r -= v * w);
            let dot = right_scale * super::lanes::dot(row, right);
            row.iter_mut().zip(right.iter()).for_each(|(r, u)| *r -= dot * u);
        }
    }
    (d, e)
}

/// The eigenvalues, in no order, of the symmetric tridiagonal matrix with this diagonal and these values beside it.
fn tridiagonal_eigenvalues(mut d: Vec<f64>, mut e: Vec<f64>) -> Result<Vec<f64>> {
    let n = d.len();
    e.push(0.0);
    for low in 0..n {
        let mut rounds = 0;
        loop {
            // The first negligible value beside the diagonal splits the matrix.
            let split = (low..n - 1).find(|&m| e[m].abs() <= f64::EPSILON * (d[m].abs() + d[m + 1].abs())).unwrap_or(n - 1);
            if split == low {
                break;
            }
            rounds += 1;
            if rounds > 100 {
                return Err(Error::internal("the singular values did not converge"));
            }
            let half = (d[low + 1] - d[low]) / (2.0 * e[low]);
            let shift = d[low] - e[low] / (half + half.hypot(1.0).copysign(half));
            let mut g = d[split] - shift;
            let (mut s, mut c, mut p) = (1.0, 1.0, 0.0);
            let mut early = false;
            for i in (low..split).rev() {
                let (f, b) = (s * e[i], c * e[i]);
                let r = f.hypot(g);
                e[i + 1] = r;
                if r == 0.0 {
                    d[i + 1] -= p;
                    e[split] = 0.0;
                    early = true;
                    break;
                }
                s = f / r;
                c = g / r;
                let h = d[i + 1] - p;
                let q = (d[i] - h) * s + 2.0 * c * b;
                p = s * q;
                d[i + 1] = h + p;
                g = c * q - b;
            }
            if !early {
                d[low] -= p;
                e[low] = g;
                e[split] = 0.0;
            }
        }
    }
    Ok(d)
}
