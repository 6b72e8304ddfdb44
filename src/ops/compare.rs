//! How two tensors of one shape differ, sample by sample: the sums behind distance and cosine (Eq. 3), and the Kullback-Leibler
//! divergence of softmaxes (Eq. 4). Each would be ten passes over both tensors as single operations.

use std::sync::Arc;

use candle_core::{Result, Tensor, WithDType, bail};

use super::graph::join2;
use super::node::{Scalar, by_dtype, data, fresh, gather, max1, on_cuda, pieces, sum1, sum2, tensor};

/// Elements that one task handles.
const CHUNK: usize = 1 << 14;

/// (samples, elements of each)
fn samples(name: &str, x: &Tensor, y: &Tensor) -> Result<(usize, usize)> {
    match x.dims().first() {
        Some(&n) if x.dims() == y.dims() && x.elem_count() > 0 => Ok((n, x.elem_count() / n)),
        _ => bail!("{name}: shapes {:?} and {:?}", x.dims(), y.dims()),
    }
}

/// Sum of f(x[i], y[i]) in f64: one minus a cosine loses the digits that sums in f32 lack.
#[inline(always)]
fn exact<T: Scalar>(x: &[T], y: &[T], f: impl Fn(f64, f64) -> f64) -> f64 {
    let mut acc = [0f64; 16];
    let (xs, ys) = (x.chunks_exact(16), y.chunks_exact(16));
    let rest = xs.remainder().iter().zip(ys.remainder());
    for (x, y) in xs.zip(ys) {
        for ((a, x), y) in acc.iter_mut().zip(x).zip(y) {
            *a += f(WithDType::to_f64(*x), WithDType::to_f64(*y));
        }
    }
    acc.iter().sum::<f64>() + rest.map(|(x, y)| f(WithDType::to_f64(*x), WithDType::to_f64(*y))).sum::<f64>()
}

fn products<T: Scalar>(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let (n, m) = samples("sample_products", x, y)?;
    on_cuda!(x, sample_products(x, y));
    let (x, y) = (x.contiguous()?, y.contiguous()?);
    let parts = m.div_ceil(CHUNK);
    let out = {
        let (xd, yd) = (data::<T>(&x)?, data::<T>(&y)?);
        let (xd, yd): (&[T], &[T]) = (&xd, &yd);
        let sums = gather(n * parts, 4 * xd.len(), |i| {
            let at = i / parts * m + i % parts * CHUNK..i / parts * m + m.min((i % parts + 1) * CHUNK);
            let (x, y) = (&xd[at.clone()], &yd[at]);
            [exact(x, y, |x, y| (x - y) * (x - y)), exact(x, y, |x, y| x * y), exact(x, x, |x, _| x * x), exact(y, y, |y, _| y * y)]
        });
        let mut out = vec![0f64; 4 * n];
        for (i, sums) in sums.iter().enumerate() {
            for (kind, s) in sums.iter().enumerate() {
                out[kind * n + i / parts] += *s;
            }
        }
        out.into_iter().map(T::of).collect()
    };
    let (hx, hy) = (x.clone(), y.clone());
    join2("sample_products", &x, &y, out, (4, n), move |g| {
        let (xd, yd, g) = (data::<T>(&hx)?, data::<T>(&hy)?, data::<T>(g)?);
        let (xd, yd, g): (&[T], &[T], &[T]) = (&xd, &yd, &g);
        let two = T::of(2.0);
        // By x: 2 g0 (x - y) + g1 y + 2 g2 x; by y the same with the roles exchanged.
        let side = |own: &[T], other: &[T], square: usize| {
            let mut d = fresh(own.len());
            pieces(&mut d, m, |i, d| {
                let (k, a, b) = (two * g[i], two * g[square * n + i], g[n + i]);
                let at = i * m..(i + 1) * m;
                d.iter_mut().zip(&own[at.clone()]).zip(&other[at]).for_each(|((d, x), y)| *d = k * (*x - *y) + a * *x + b * *y);
            });
            tensor(d, hx.shape())
        };
        let dx = if hx.track_op() { Some(side(xd, yd, 2)?) } else { None };
        let dy = if hy.track_op() { Some(side(yd, xd, 3)?) } else { None };
        Ok([dx, dy])
    })
}

/// For every sample of x and y [n, ..]: the squared distance, the inner product, and both squared lengths, [4, n].
///
/// Errors: shapes that differ, or nothing to compare.
pub fn sample_products(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    by_dtype!(x, products(x, y))
}

fn divergence<T: Scalar>(p: &Tensor, q: &Tensor) -> Result<Tensor> {
    let (n, m) = samples("softmax_kl", p, q)?;
    on_cuda!(p, softmax_kl(p, q));
    let (p, q) = (p.contiguous()?, q.contiguous()?);
    // Per sample: the divergence, and the logarithms of both sums.
    let rows = {
        let (pd, qd) = (data::<T>(&p)?, data::<T>(&q)?);
        let (pd, qd): (&[T], &[T]) = (&pd, &qd);
        gather(n, 8 * pd.len(), |i| {
            let (p, q) = (&pd[i * m..(i + 1) * m], &qd[i * m..(i + 1) * m]);
            let log_sum = |x: &[T]| {
                let top = max1(x);
                top + sum1(x, |x| (x - top).exp_down()).ln()
            };
            let (lp, lq) = (log_sum(p), log_sum(q));
            let kl = sum2(p, q, |p, q| {
                let p = p - lp;
                p.exp_down() * (p - (q - lq))
            });
            (kl, lp, lq)
        })
    };
    let rows = Arc::new(rows);
    let (hp, hq) = (p.clone(), q.clone());
    join2("softmax_kl", &p, &q, rows.iter().map(|r| r.0).collect(), n, move |g| {
        let (pd, qd, g) = (data::<T>(&hp)?, data::<T>(&hq)?, data::<T>(g)?);
        let (pd, qd, g): (&[T], &[T], &[T]) = (&pd, &qd, &g);
        let side = |of_p: bool| {
            let mut d = fresh(pd.len());
            pieces(&mut d, m, |i, d| {
                let (kl, lp, lq) = rows[i];
                let at = i * m..(i + 1) * m;
                for ((d, p), q) in d.iter_mut().zip(&pd[at.clone()]).zip(&qd[at]) {
                    let (p, q) = (*p - lp, *q - lq);
                    let share = p.exp_down();
                    *d = g[i] * if of_p { share * (p - q - kl) } else { q.exp_down() - share };
                }
            });
            tensor(d, hp.shape())
        };
        let dp = if hp.track_op() { Some(side(true)?) } else { None };
        let dq = if hq.track_op() { Some(side(false)?) } else { None };
        Ok([dp, dq])
    })
}

/// KL(softmax(p) || softmax(q)) of every sample of p and q [n, ..], flattened: [n].
///
/// Errors: shapes that differ, or nothing to compare.
pub fn softmax_kl(p: &Tensor, q: &Tensor) -> Result<Tensor> {
    by_dtype!(p, divergence(p, q))
}
