//! Activations: (leaky) ReLU, bias + noise + leaky ReLU in one pass, log-softmax.

use candle_core::{Result, Tensor, bail};

use super::graph::{cpu, join, join1};
use super::node::{Scalar, Shared, by_dtype, data, fresh, gather, max1, on_cuda, pieces, sum1, sum2, tensor};

/// Elements that one task handles.
const CHUNK: usize = 1 << 14;

/// g where the result is positive, else slope * g: the gradient of a leaky ReLU. The sign of the result is that of the input because
/// slope >= 0.
fn masked_values<T: Scalar>(res: &Tensor, g: &Tensor, slope: T) -> Result<Vec<T>> {
    let (r, gd) = (data::<T>(res)?, data::<T>(g)?);
    let (r, gd): (&[T], &[T]) = (&r, &gd);
    let mut dx = fresh(r.len());
    pieces(&mut dx, CHUNK, |i, d| {
        let at = i * CHUNK..i * CHUNK + d.len();
        for ((d, r), g) in d.iter_mut().zip(&r[at.clone()]).zip(&gd[at]) {
            let low = slope * *g;
            *d = if *r > T::zero() { *g } else { low };
        }
    });
    Ok(dx)
}

pub(super) fn masked<T: Scalar>(res: &Tensor, g: &Tensor, slope: T) -> Result<Tensor> {
    tensor(masked_values(res, g, slope)?, res.shape())
}

/// v = max(v, slope * v).
pub(super) fn act_in_place<T: Scalar>(out: &mut [T], slope: T) {
    pieces(out, CHUNK, |_, o| {
        for v in o {
            let low = slope * *v;
            *v = if *v > low { *v } else { low };
        }
    });
}

fn lrelu<T: Scalar>(x: &Tensor, slope: f64) -> Result<Tensor> {
    if !(0.0..=1.0).contains(&slope) {
        bail!("leaky_relu: slope {slope} is not in 0..1")
    }
    let x = x.contiguous()?;
    let slope = T::of(slope);
    let out = {
        let xd = data::<T>(&x)?;
        let xd: &[T] = &xd;
        let mut out = fresh(xd.len());
        pieces(&mut out, CHUNK, |i, o| {
            for (o, x) in o.iter_mut().zip(&xd[i * CHUNK..]) {
                let low = slope * *x;
                *o = if *x > low { *x } else { low };
            }
        });
        out
    };
    join("leaky_relu", [&x], cpu(out), x.shape(), true, move |res, g| Ok([Some(masked::<T>(res, g, slope)?)]))
}

/// max(x, 0); the gradient at 0 is 0.
pub fn relu(x: &Tensor) -> Result<Tensor> {
    on_cuda!(x, lrelu(x, 0.0));
    by_dtype!(x, lrelu(x, 0.0))
}

/// max(x, slope x) for 0 <= slope <= 1; the gradient at 0 is `slope`, as in PyTorch.
pub fn leaky_relu(x: &Tensor, slope: f64) -> Result<Tensor> {
    on_cuda!(x, lrelu(x, slope));
    by_dtype!(x, lrelu(x, slope))
}

fn tangent<T: Scalar>(t: &Tensor, y: &Tensor, slope: f64) -> Result<Tensor> {
    if t.dims() != y.dims() {
        bail!("lrelu_tangent: shapes {:?} and {:?} differ", t.dims(), y.dims())
    }
    let (t, y) = (t.contiguous()?, y.detach().contiguous()?);
    on_cuda!(&t, tangent(&t, y, slope));
    let slope = T::of(slope);
    let out = masked_values(&y, &t, slope)?;
    join1("lrelu_tangent", &t, out, t.shape(), move |g| Ok([Some(masked(&y, g, slope)?)]))
}

/// The derivative of [`leaky_relu`] along a direction: t where its result `y` is positive, else slope * t. `y` is a constant.
///
/// Errors: shapes that differ.
pub fn lrelu_tangent(t: &Tensor, y: &Tensor, slope: f64) -> Result<Tensor> {
    by_dtype!(t, tangent(t, y, slope))
}

/// A per-channel parameter as a contiguous vector of `c`; one value serves all channels.
fn per_channel(p: Option<&Tensor>, c: usize, like: &Tensor) -> Result<Tensor> {
    match p {
        None => Tensor::zeros(c, like.dtype(), like.device()),
        Some(p) => match p.elem_count() {
            n if n == c => p.flatten_all()?.contiguous(),
            1 => p.flatten_all()?.broadcast_as(c)?.contiguous(),
            _ => bail!("noise_bias_lrelu: parameter {:?} for {c} channels", p.dims()),
        },
    }
}

fn fused<T: Scalar>(x: &Tensor, noise: Option<(&Tensor, &Tensor)>, bias: Option<&Tensor>, slope: f64) -> Result<Tensor> {
    if !(0.0..=1.0).contains(&slope) {
        bail!("noise_bias_lrelu: slope {slope} is not in 0..1")
    }
    let (n, c, h, w) = x.dims4()?;
    let plane = h * w;
    if let Some((z, strength)) = noise
        && z.track_op()
    {
        // Three differentiable inputs are candle's limit; a noise map with a gradient is added beforehand.
        let x = x.broadcast_add(&z.broadcast_mul(&strength.reshape((1, strength.elem_count(), 1, 1))?)?)?;
        return fused::<T>(&x, None, bias, slope);
    }
    let x = x.contiguous()?;
    let map = match noise {
        Some((z, _)) => {
            let (zn, zc, zh, zw) = z.dims4()?;
            if (zn != 1 && zn != n) || zc != 1 || (zh, zw) != (h, w) {
                bail!("noise_bias_lrelu: noise {:?} for input {:?}", z.dims(), x.dims())
            }
            Some(z.contiguous()?)
        }
        None => None,
    };
    let one_map = map.as_ref().is_some_and(|z| z.elem_count() == plane);
    let strength = per_channel(noise.map(|z| z.1), c, &x)?;
    let bias = per_channel(bias, c, &x)?;
    on_cuda!(&x, fused(&x, map.as_ref(), &strength, &bias, slope));
    let slope = T::of(slope);
    let out = {
        let (xd, sd, bd) = (data::<T>(&x)?, data::<T>(&strength)?, data::<T>(&bias)?);
        let (xd, sd, bd): (&[T], &[T], &[T]) = (&xd, &sd, &bd);
        let zd = map.as_ref().map(data::<T>).transpose()?;
        let zd: Option<&[T]> = zd.as_deref();
        let mut out = fresh(xd.len());
        pieces(&mut out, plane, |i, o| {
            let (b, s) = (bd[i % c], sd[i % c]);
            let x = &xd[i * plane..(i + 1) * plane];
            let act = |v: T| {
                let low = slope * v;
                if v > low { v } else { low }
            };
            match zd {
                Some(z) => {
                    let z = &z[if one_map { 0 } else { i / c * plane }..][..plane];
                    o.iter_mut().zip(x).zip(z).for_each(|((o, x), z)| *o = act(*x + s * *z + b));
                }
                None => o.iter_mut().zip(x).for_each(|(o, x)| *o = act(*x + b)),
            }
        });
        out
    };
    let (tx, ts, tb) = (x.track_op(), strength.track_op(), bias.track_op());
    let map = map.filter(|_| ts);
    join("noise_bias_lrelu", [&x, &strength, &bias], cpu(out), x.shape(), true, move |res, g| {
        let (r, gd) = (data::<T>(res)?, data::<T>(g)?);
        let (r, gd): (&[T], &[T]) = (&r, &gd);
        let zd = map.as_ref().map(data::<T>).transpose()?;
        let zd: Option<&[T]> = zd.as_deref();
        let mut dx = fresh(r.len());
        let shared = Shared::new(&mut dx);
        let sums = gather(n * c, r.len(), |i| {
            let at = i * plane..(i + 1) * plane;
            // SAFETY: every task has its own plane.
            let d = unsafe { shared.part(i * plane, plane) };
            for ((d, r), g) in d.iter_mut().zip(&r[at.clone()]).zip(&gd[at]) {
                let low = slope * *g;
                *d = if *r > T::zero() { *g } else { low };
            }
            let db = if tb { sum1(d, |d| d) } else { T::zero() };
            let ds = match zd {
                Some(z) if ts => {
                    let z = &z[if one_map { 0 } else { i / c * plane }..][..plane];
                    sum2(d, z, |d, z| d * z)
                }
                _ => T::zero(),
            };
            (ds, db)
        });
        let mut ds = vec![T::zero(); c];
        let mut db = vec![T::zero(); c];
        for (i, (s, b)) in sums.into_iter().enumerate() {
            ds[i % c] += s;
            db[i % c] += b;
        }
        let dx = if tx { Some(tensor(dx, (n, c, h, w))?) } else { None };
        let ds = if ts { Some(tensor(ds, c)?) } else { None };
        let db = if tb { Some(tensor(db, c)?) } else { None };
        Ok([dx, ds, db])
    })
}

/// lrelu(x + strength * noise + bias): x [b, C, H, W], noise [b or 1, 1, H, W], strength and bias [1, C, 1, 1] (or one value for all
/// channels), 0 <= slope <= 1 (1: no activation). The end of every layer of StyleGAN.
///
/// Errors: shapes that do not fit.
pub fn noise_bias_lrelu(x: &Tensor, noise: Option<(&Tensor, &Tensor)>, bias: Option<&Tensor>, slope: f64) -> Result<Tensor> {
    by_dtype!(x, fused(x, noise, bias, slope))
}

fn log_softmax_of<T: Scalar>(x: &Tensor) -> Result<Tensor> {
    let x = x.contiguous()?;
    let Some(&b) = x.dims().first() else { bail!("log_softmax: the input is a scalar") };
    let m = x.elem_count() / b.max(1);
    let out = {
        let xd = data::<T>(&x)?;
        let xd: &[T] = &xd;
        let mut out = fresh(xd.len());
        pieces(&mut out, m, |i, o| {
            let x = &xd[i * m..(i + 1) * m];
            let top = max1(x);
            let lse = top + sum1(x, |x| (x - top).exp_down()).ln();
            o.iter_mut().zip(x).for_each(|(o, x)| *o = *x - lse);
        });
        out
    };
    join("log_softmax", [&x], cpu(out), x.shape(), true, move |res, g| {
        let (r, gd) = (data::<T>(res)?, data::<T>(g)?);
        let (r, gd): (&[T], &[T]) = (&r, &gd);
        let mut dx = fresh(r.len());
        pieces(&mut dx, m, |i, d| {
            let (r, g) = (&r[i * m..(i + 1) * m], &gd[i * m..(i + 1) * m]);
            let total = sum1(g, |g| g);
            for ((d, r), g) in d.iter_mut().zip(r).zip(g) {
                *d = *g - r.exp_down() * total;
            }
        });
        Ok([Some(tensor(dx, res.shape())?)])
    })
}

/// Log-softmax over everything but the first dimension: each sample, flattened, is one distribution. Shape kept.
pub fn log_softmax(x: &Tensor) -> Result<Tensor> {
    on_cuda!(x, log_softmax(x));
    by_dtype!(x, log_softmax_of(x))
}
