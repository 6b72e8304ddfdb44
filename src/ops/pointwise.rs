//! Sums and differences that would take several passes and graph nodes as single tensor operations.

use candle_core::{Result, Tensor, bail};

use super::node::{Scalar, by_dtype, data, fresh, gather, join1, join2, on_cuda, pieces, sum2, tensor};

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
    join2("mix", &x, &y, out, x.shape(), move |_, g| {
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
    join1("channel_affine", &x, out, x.shape(), move |_, g| Ok([Some(tensor(run(&data::<T>(g)?, false), g.shape())?)]))
}

/// scale[c] * x + shift[c] for every channel of x [b, C, H, W], with constant factors.
///
/// Errors: as many factors as channels are needed.
pub fn channel_affine(x: &Tensor, scale: &[f64], shift: &[f64]) -> Result<Tensor> {
    by_dtype!(x, channel_affine_of(x, scale, shift))
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
    join2("mse", &x, &y, vec![value], (), move |_, g| {
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
