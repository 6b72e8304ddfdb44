//! Sums and differences that would take several passes and graph nodes as single tensor operations.

use candle_core::{Result, Shape, Tensor, bail};

use super::graph::{join1, join2, join3};
use super::node::{Scalar, by_dtype, data, fresh, gather, on_cuda, pieces, sum1, sum2, tensor};

/// Elements that one task handles.
const CHUNK: usize = 1 << 14;

fn same(name: &str, x: &Tensor, y: &Tensor) -> Result<()> {
    if x.dims() != y.dims() {
        bail!("{name}: shapes {:?} and {:?} differ", x.dims(), y.dims())
    }
    Ok(())
}

/// factor * g.
fn scaled<T: Scalar>(g: &Tensor, factor: T) -> Result<Tensor> {
    let gd = data::<T>(g)?;
    let gd: &[T] = &gd;
    let mut out = fresh(gd.len());
    pieces(&mut out, CHUNK, |i, o| o.iter_mut().zip(&gd[i * CHUNK..]).for_each(|(o, g)| *o = factor * *g));
    tensor(out, g.shape())
}

fn mix_of<T: Scalar>(x: &Tensor, a: f64, y: &Tensor, b: f64) -> Result<Tensor> {
    same("mix", x, y)?;
    on_cuda!(x, mix(x, a, y, b));
    let (x, y) = (x.contiguous()?, y.contiguous()?);
    let (a, b) = (T::of(a), T::of(b));
    let out = {
        let (xd, yd) = (data::<T>(&x)?, data::<T>(&y)?);
        let (xd, yd): (&[T], &[T]) = (&xd, &yd);
        let mut out = fresh(xd.len());
        pieces(&mut out, CHUNK, |i, o| {
            o.iter_mut().zip(&xd[i * CHUNK..]).zip(&yd[i * CHUNK..]).for_each(|((o, x), y)| *o = a * *x + b * *y);
        });
        out
    };
    let (tx, ty) = (x.track_op(), y.track_op());
    join2("mix", &x, &y, out, x.shape(), move |g| {
        let dx = if tx { Some(scaled(g, a)?) } else { None };
        let dy = if ty { Some(scaled(g, b)?) } else { None };
        Ok([dx, dy])
    })
}

/// a x + b y for tensors of one shape.
pub fn mix(x: &Tensor, a: f64, y: &Tensor, b: f64) -> Result<Tensor> {
    by_dtype!(x, mix_of(x, a, y, b))
}

fn channel_affine_of<T: Scalar>(x: &Tensor, scale: &[f64], shift: &[f64]) -> Result<Tensor> {
    let (_, c, h, w) = x.dims4()?;
    if scale.len() != c || shift.len() != c {
        bail!("channel_affine: {} scales and {} shifts for {c} channels", scale.len(), shift.len())
    }
    on_cuda!(x, channel_affine(x, scale, shift));
    let x = x.contiguous()?;
    let factors: Vec<(T, T)> = scale.iter().zip(shift).map(|(a, b)| (T::of(*a), T::of(*b))).collect();
    let plane = h * w;
    let run = move |x: &[T], shifted: bool| {
        let mut out = fresh(x.len());
        pieces(&mut out, plane, |i, o| {
            let (a, b) = factors[i % c];
            let b = if shifted { b } else { T::zero() };
            o.iter_mut().zip(&x[i * plane..]).for_each(|(o, x)| *o = a * *x + b);
        });
        out
    };
    let out = run(&data::<T>(&x)?, true);
    join1("channel_affine", &x, out, x.shape(), move |g| Ok([Some(tensor(run(&data::<T>(g)?, false), g.shape())?)]))
}

/// scale[c] * x + shift[c] for every channel of x [b, C, H, W], with constant factors.
///
/// Errors: as many factors as channels are needed.
pub fn channel_affine(x: &Tensor, scale: &[f64], shift: &[f64]) -> Result<Tensor> {
    by_dtype!(x, channel_affine_of(x, scale, shift))
}

/// Per-sample factors [n or 1, C] as a contiguous matrix, and whether one row serves all samples.
fn factors(name: &str, p: &Tensor, n: usize, c: usize) -> Result<(Tensor, bool)> {
    match p.elem_count() {
        m if m == n * c && p.dims().first() == Some(&n) => Ok((p.contiguous()?, n == 1)),
        m if m == c && p.dims().iter().take(p.rank().saturating_sub(1)).all(|d| *d == 1 || *d == c) => Ok((p.contiguous()?, true)),
        _ => bail!("{name}: factors {:?} for {n} samples of {c} channels", p.dims()),
    }
}

fn modulate_of<T: Scalar>(x: &Tensor, scale: &Tensor, shift: Option<&Tensor>) -> Result<Tensor> {
    let (n, c, h, w) = x.dims4()?;
    let plane = h * w;
    let x = x.contiguous()?;
    let (scale, one_scale) = factors("modulate", scale, n, c)?;
    let (shift, one_shift) = match shift {
        Some(shift) => factors("modulate", shift, n, c)?,
        None => (Tensor::zeros(c, x.dtype(), x.device())?, true),
    };
    on_cuda!(&x, modulate(&x, &scale, Some(&shift)));
    // The factor of plane i.
    let at = move |i: usize, one: bool| if one { i % c } else { i };
    let out = {
        let (xd, sd, td) = (data::<T>(&x)?, data::<T>(&scale)?, data::<T>(&shift)?);
        let (xd, sd, td): (&[T], &[T], &[T]) = (&xd, &sd, &td);
        let mut out = fresh(xd.len());
        pieces(&mut out, plane.max(1), |i, o| {
            let (s, t) = (sd[at(i, one_scale)], td[at(i, one_shift)]);
            o.iter_mut().zip(&xd[i * plane..]).for_each(|(o, x)| *o = *x * s + t);
        });
        out
    };
    // The map is kept for the gradient of the factors alone.
    let held = scale.track_op().then(|| x.clone());
    let (tx, tt, shape, hs, ht) = (x.track_op(), shift.track_op(), x.shape().clone(), scale.detach(), shift.shape().clone());
    join3("modulate", &x, &scale, &shift, out, x.shape(), move |g| {
        let (sd, gd) = (data::<T>(&hs)?, data::<T>(g)?);
        let (sd, gd): (&[T], &[T]) = (&sd, &gd);
        let dx = if tx {
            let mut dx = fresh(gd.len());
            pieces(&mut dx, plane.max(1), |i, d| {
                let s = sd[at(i, one_scale)];
                d.iter_mut().zip(&gd[i * plane..]).for_each(|(d, g)| *d = *g * s);
            });
            Some(tensor(dx, &shape)?)
        } else {
            None
        };
        let summed = |planes: Vec<T>, one: bool, shape: &Shape| {
            let mut sums = vec![T::zero(); if one { c } else { n * c }];
            planes.into_iter().enumerate().for_each(|(i, v)| sums[at(i, one)] += v);
            tensor(sums, shape)
        };
        let part = |i: usize| i * plane..(i + 1) * plane;
        let ds = match &held {
            Some(x) => {
                let x = data::<T>(x)?;
                let x: &[T] = &x;
                Some(summed(gather(n * c, gd.len(), |i| sum2(&gd[part(i)], &x[part(i)], |g, x| g * x)), one_scale, hs.shape())?)
            }
            None => None,
        };
        let dt = if tt { Some(summed(gather(n * c, gd.len(), |i| sum1(&gd[part(i)], |g| g)), one_shift, &ht)?) } else { None };
        Ok([dx, ds, dt])
    })
}

/// x [n, C, H, W] times `scale` plus `shift`, a factor and an offset for every map: [n or 1, C], or any shape of as many values such as
/// [n, C, 1, 1]. Modulation and demodulation of StyleGANv2, conditional and affine norms.
///
/// Errors: factors of another number.
pub fn modulate(x: &Tensor, scale: &Tensor, shift: Option<&Tensor>) -> Result<Tensor> {
    by_dtype!(x, modulate_of(x, scale, shift))
}

fn mse_of<T: Scalar>(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    same("mse", x, y)?;
    on_cuda!(x, mse(x, y));
    let (x, y) = (x.contiguous()?, y.contiguous()?);
    let n = x.elem_count();
    let value = {
        let (xd, yd) = (data::<T>(&x)?, data::<T>(&y)?);
        let (xd, yd): (&[T], &[T]) = (&xd, &yd);
        let part = |i: usize| {
            let at = i * CHUNK..n.min((i + 1) * CHUNK);
            sum2(&xd[at.clone()], &yd[at], |x, y| (x - y) * (x - y))
        };
        gather(n.div_ceil(CHUNK), n, part).into_iter().sum::<T>() / T::of(n as f64)
    };
    let (hx, hy) = (x.clone(), y.clone());
    join2("mse", &x, &y, vec![value], (), move |g| {
        let (xd, yd) = (data::<T>(&hx)?, data::<T>(&hy)?);
        let (xd, yd): (&[T], &[T]) = (&xd, &yd);
        let k = data::<T>(g)?[0] * T::of(2.0 / n as f64);
        let side = |k: T| {
            let mut d = fresh(n);
            pieces(&mut d, CHUNK, |i, d| {
                d.iter_mut().zip(&xd[i * CHUNK..]).zip(&yd[i * CHUNK..]).for_each(|((d, x), y)| *d = k * (*x - *y));
            });
            tensor(d, hx.shape())
        };
        let dx = if hx.track_op() { Some(side(k)?) } else { None };
        let dy = if hy.track_op() { Some(side(-k)?) } else { None };
        Ok([dx, dy])
    })
}

/// The mean of (x - y)^2 over everything, a scalar.
pub fn mse(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    by_dtype!(x, mse_of(x, y))
}
