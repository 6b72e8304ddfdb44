//! Normalisation: instance norm with the style statistics of the same pass, AdaIN, pixel norm, the unit vectors of LPIPS.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};

use super::graph::{join1, join2};
use super::node::{Scalar, Shared, by_dtype, data, fresh, gather, on_cuda, pieces, pieces_work, sum1, sum2, tensor};

/// Mean and biased variance of every plane.
fn moments<T: Scalar>(x: &[T], plane: usize) -> Vec<(T, T)> {
    let n = T::of(plane as f64);
    gather(x.len() / plane.max(1), x.len(), |i| {
        let x = &x[i * plane..(i + 1) * plane];
        let mean = sum1(x, |x| x) / n;
        (mean, sum1(x, |x| (x - mean) * (x - mean)) / n)
    })
}

/// IN(x) * (scale + 1) + shift with the `style` of [b, 2C] (scales, then shifts); without a style, IN(x).
fn normalise<T: Scalar>(x: &[T], moments: &[(T, T)], style: Option<&[T]>, c: usize, eps: T) -> Vec<T> {
    let plane = x.len() / moments.len().max(1);
    let mut out = fresh(x.len());
    pieces(&mut out, plane, |i, o| {
        let (mean, var) = moments[i];
        let r = T::one() / (var + eps).sqrt();
        let (scale, shift) = match style {
            Some(s) => (s[i / c * 2 * c + i % c] + T::one(), s[i / c * 2 * c + c + i % c]),
            None => (T::one(), T::zero()),
        };
        let k = r * scale;
        o.iter_mut().zip(&x[i * plane..(i + 1) * plane]).for_each(|(o, x)| *o = (*x - mean) * k + shift);
    });
    out
}

/// Gradients of [`normalise`]: of x, and of the style if `want_style`.
fn normalise_back<T: Scalar>(
    x: &[T],
    g: &[T],
    moments: &[(T, T)],
    style: Option<&[T]>,
    c: usize,
    eps: T,
    want: (bool, bool),
) -> (Vec<T>, Vec<T>) {
    let planes = moments.len();
    let plane = x.len() / planes.max(1);
    let n = T::of(plane as f64);
    let mut dx = fresh(if want.0 { x.len() } else { 0 });
    let shared = Shared::new(&mut dx);
    let sums = gather(planes, x.len(), |i| {
        let (x, g) = (&x[i * plane..(i + 1) * plane], &g[i * plane..(i + 1) * plane]);
        let (mean, var) = moments[i];
        let r = T::one() / (var + eps).sqrt();
        let sum_g = sum1(g, |g| g);
        let sum_gx = sum2(x, g, |x, g| g * (x - mean)) * r;
        if want.0 {
            let k = r * style.map_or(T::one(), |s| s[i / c * 2 * c + i % c] + T::one());
            let (a, b) = (sum_g / n, sum_gx / n * r);
            // SAFETY: every task has its own plane.
            let d = unsafe { shared.part(i * plane, plane) };
            for ((d, x), g) in d.iter_mut().zip(x).zip(g) {
                *d = k * (*g - a - (*x - mean) * b);
            }
        }
        (sum_gx, sum_g)
    });
    let mut ds = vec![T::zero(); if want.1 { 2 * planes } else { 0 }];
    if want.1 {
        for (i, (scale, shift)) in sums.into_iter().enumerate() {
            ds[i / c * 2 * c + i % c] = scale;
            ds[i / c * 2 * c + c + i % c] = shift;
        }
    }
    (dx, ds)
}

fn planes(x: &Tensor) -> Result<(Tensor, usize, usize)> {
    let (b, c, h, w) = x.dims4()?;
    if h * w == 0 {
        bail!("normalisation of empty maps {:?}", x.dims())
    }
    Ok((x.contiguous()?, b, c))
}

fn norm_node<T: Scalar>(x: &Tensor, m: Arc<Vec<(T, T)>>, c: usize, eps: f64) -> Result<Tensor> {
    let eps = T::of(eps);
    let out = normalise(&data::<T>(x)?, &m, None, c, eps);
    let held = x.clone();
    join1("instance_norm", x, out, x.shape(), move |g| {
        let (dx, _) = normalise_back(&data::<T>(&held)?, &data::<T>(g)?, &m, None, c, eps, (true, false));
        Ok([Some(tensor(dx, held.shape())?)])
    })
}

fn stats_node<T: Scalar>(x: &Tensor, m: Arc<Vec<(T, T)>>, b: usize, c: usize) -> Result<Tensor> {
    let mut out = vec![T::zero(); 2 * b * c];
    for (i, (mean, var)) in m.iter().enumerate() {
        out[i / c * 2 * c + i % c] = *mean;
        out[i / c * 2 * c + c + i % c] = var.sqrt();
    }
    let held = x.clone();
    join1("style_stats", x, out, (b, 2 * c), move |g| {
        let (x, g) = (data::<T>(&held)?, data::<T>(g)?);
        let (x, g): (&[T], &[T]) = (&x, &g);
        let plane = x.len() / m.len().max(1);
        let n = T::of(plane as f64);
        let mut dx = fresh(x.len());
        pieces(&mut dx, plane, |i, d| {
            let (mean, var) = m[i];
            let gm = g[i / c * 2 * c + i % c] / n;
            // sqrt has no slope at 0; a flat plane has every x equal to its mean, and gets none.
            let gs = if var > T::zero() { g[i / c * 2 * c + c + i % c] / (n * var.sqrt()) } else { T::zero() };
            d.iter_mut().zip(&x[i * plane..(i + 1) * plane]).for_each(|(d, x)| *d = gm + gs * (*x - mean));
        });
        Ok([Some(tensor(dx, held.shape())?)])
    })
}

fn instance_norm_of<T: Scalar>(x: &Tensor, eps: f64) -> Result<Tensor> {
    let (x, b, c) = planes(x)?;
    let m = moments(&data::<T>(&x)?, x.elem_count() / (b * c).max(1));
    norm_node::<T>(&x, Arc::new(m), c, eps)
}

/// Instance norm without parameters: (x - mean) / sqrt(var + eps) of every plane, with the biased variance.
pub fn instance_norm(x: &Tensor, eps: f64) -> Result<Tensor> {
    on_cuda!(x, instance_norm(&planes(x)?.0, eps));
    by_dtype!(x, instance_norm_of(x, eps))
}

fn style_stats_of<T: Scalar>(x: &Tensor) -> Result<Tensor> {
    let (x, b, c) = planes(x)?;
    let m = moments(&data::<T>(&x)?, x.elem_count() / (b * c).max(1));
    stats_node::<T>(&x, Arc::new(m), b, c)
}

/// The style of every channel: x [b, C, H, W] -> [b, 2C], the C means, then the C standard deviations (biased, no epsilon; the
/// gradient of a flat plane's deviation is 0).
pub fn style_stats(x: &Tensor) -> Result<Tensor> {
    on_cuda!(x, style_stats(&planes(x)?.0));
    by_dtype!(x, style_stats_of(x))
}

fn both<T: Scalar>(x: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
    let (x, b, c) = planes(x)?;
    let m = Arc::new(moments(&data::<T>(&x)?, x.elem_count() / (b * c).max(1)));
    Ok((norm_node::<T>(&x, m.clone(), c, eps)?, stats_node::<T>(&x, m, b, c)?))
}

/// ([`instance_norm`], [`style_stats`]) of x, the statistics computed once.
pub fn instance_norm_stats(x: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
    on_cuda!(x, instance_norm_stats(&planes(x)?.0, eps));
    by_dtype!(x, both(x, eps))
}

fn adain_of<T: Scalar>(x: &Tensor, style: &Tensor, eps: f64) -> Result<Tensor> {
    let (x, b, c) = planes(x)?;
    let style = style.contiguous()?;
    if style.elem_count() != 2 * b * c || style.dims().first() != Some(&b) {
        bail!("adain: style {:?} for input {:?}", style.dims(), x.dims())
    }
    on_cuda!(&x, adain(&x, &style, eps));
    let eps = T::of(eps);
    let m = moments(&data::<T>(&x)?, x.elem_count() / (b * c).max(1));
    let out = normalise(&data::<T>(&x)?, &m, Some(&data::<T>(&style)?), c, eps);
    let (hx, hs) = (x.clone(), style.clone());
    join2("adain", &x, &style, out, x.shape(), move |g| {
        let want = (hx.track_op(), hs.track_op());
        let (dx, ds) = normalise_back(&data::<T>(&hx)?, &data::<T>(g)?, &m, Some(&data::<T>(&hs)?), c, eps, want);
        let dx = if want.0 { Some(tensor(dx, hx.shape())?) } else { None };
        let ds = if want.1 { Some(tensor(ds, hs.shape())?) } else { None };
        Ok([dx, ds])
    })
}

/// Adaptive instance norm as in StyleGAN: IN(x) * (style[:, :C] + 1) + style[:, C:], x [b, C, H, W], style [b, 2C].
///
/// Errors: shapes that do not fit.
pub fn adain(x: &Tensor, style: &Tensor, eps: f64) -> Result<Tensor> {
    by_dtype!(x, adain_of(x, style, eps))
}

/// [b, C, S]: what a norm over dimension 1 sees.
pub(super) fn vectors(x: &Tensor) -> Result<(usize, usize)> {
    match x.dims() {
        [_, c, rest @ ..] if *c > 0 => Ok((*c, rest.iter().product())),
        _ => bail!("a norm over dimension 1 needs [b, C, ..], got {:?}", x.dims()),
    }
}

/// For every place: the sum over channels of x * y, both [c, s].
#[inline(always)]
fn over_channels<T: Scalar>(s: usize, x: &[T], y: &[T]) -> Vec<T> {
    if s == 1 {
        return vec![sum2(x, y, |x, y| x * y)];
    }
    let mut sum = vec![T::zero(); s];
    for (x, y) in x.chunks_exact(s).zip(y.chunks_exact(s)) {
        sum.iter_mut().zip(x).zip(y).for_each(|((v, x), y)| *v += *x * *y);
    }
    sum
}

/// y = x * factor(sum of squares); dx = g * factor + x * (g . x) * slope(sum of squares), where slope = 2 factor'.
fn by_length<T: Scalar>(
    name: &'static str,
    x: &Tensor,
    factor: impl Fn(T) -> T + Copy + Send + Sync + 'static,
    slope: impl Fn(T) -> (T, T) + Copy + Send + Sync + 'static,
) -> Result<Tensor> {
    let (c, s) = vectors(x)?;
    let x = x.contiguous()?;
    let out = {
        let xd = data::<T>(&x)?;
        let xd: &[T] = &xd;
        let mut out = fresh(xd.len());
        pieces(&mut out, c * s, |b, o| {
            let x = &xd[b * c * s..(b + 1) * c * s];
            let mut f = over_channels(s, x, x);
            f.iter_mut().for_each(|v| *v = factor(*v));
            for (o, x) in o.chunks_exact_mut(s).zip(x.chunks_exact(s)) {
                o.iter_mut().zip(x).zip(&f).for_each(|((o, x), f)| *o = *x * *f);
            }
        });
        out
    };
    let held = x.clone();
    join1(name, &x, out, x.shape(), move |g| {
        let (x, g) = (data::<T>(&held)?, data::<T>(g)?);
        let (x, g): (&[T], &[T]) = (&x, &g);
        let mut dx = fresh(x.len());
        let work = 2 * dx.len();
        pieces_work(&mut dx, c * s, work, |b, d| {
            let at = b * c * s..(b + 1) * c * s;
            let (x, g) = (&x[at.clone()], &g[at]);
            let mut f = over_channels(s, x, x);
            let mut k = over_channels(s, g, x);
            for (f, k) in f.iter_mut().zip(&mut k) {
                let (a, b) = slope(*f);
                (*f, *k) = (a, *k * b);
            }
            for ((d, x), g) in d.chunks_exact_mut(s).zip(x.chunks_exact(s)).zip(g.chunks_exact(s)) {
                for ((((d, x), g), f), k) in d.iter_mut().zip(x).zip(g).zip(&f).zip(&k) {
                    *d = *g * *f + *x * *k;
                }
            }
        });
        Ok([Some(tensor(dx, held.shape())?)])
    })
}

fn pixel_norm_of<T: Scalar>(x: &Tensor, eps: f64) -> Result<Tensor> {
    on_cuda!(x, by_length(super::cuda::Length::Pixel, x, eps));
    let (n, eps) = (T::of(vectors(x)?.0 as f64), T::of(eps));
    let factor = move |q: T| T::one() / (q / n + eps).sqrt();
    by_length("pixel_norm", x, factor, move |q| {
        let f = factor(q);
        (f, -(f * f * f) / n)
    })
}

/// x / sqrt(mean over dimension 1 of x^2 + eps), for any rank of at least 2 (PGGAN).
pub fn pixel_norm(x: &Tensor, eps: f64) -> Result<Tensor> {
    by_dtype!(x, pixel_norm_of(x, eps))
}

fn unit<T: Scalar>(x: &Tensor, eps: f64) -> Result<Tensor> {
    on_cuda!(x, by_length(super::cuda::Length::Unit, x, eps));
    let eps = T::of(eps);
    by_length(
        "unit_normalize",
        x,
        move |q: T| T::one() / (q.sqrt() + eps),
        move |q| {
            let len = q.sqrt();
            if len == T::zero() {
                return (T::zero(), T::zero());
            }
            let f = T::one() / (len + eps);
            (f, -(f * f) / len)
        },
    )
}

/// x / (length over dimension 1 + eps): the unit feature vectors of LPIPS. An all-zero vector stays 0 and gets no gradient (the true
/// slope there is 1 / eps, and such vectors come out of a ReLU that is off in every channel).
pub fn unit_normalize(x: &Tensor, eps: f64) -> Result<Tensor> {
    by_dtype!(x, unit(x, eps))
}
