//! Halving and doubling of maps: average pooling, max pooling, nearest upsampling.

use candle_core::{Result, Tensor, bail};

use super::graph::join1;
use super::node::{Scalar, by_dtype, data, fresh, on_cuda, pieces, tensor};

/// (tensor, [b, C], [H, W], [H/2, W/2])
type Halved = (Tensor, [usize; 2], [usize; 2], [usize; 2]);

fn halves(x: &Tensor) -> Result<Halved> {
    let (b, c, h, w) = x.dims4()?;
    if h < 2 || w < 2 {
        bail!("pooling by 2 needs maps of at least 2x2, got {:?}", x.dims())
    }
    Ok((x.contiguous()?, [b, c], [h, w], [h / 2, w / 2]))
}

fn avg<T: Scalar>(x: &Tensor) -> Result<Tensor> {
    let (x, [b, c], [h, w], [oh, ow]) = halves(x)?;
    on_cuda!(&x, avg_pool2(&x));
    let quarter = T::of(0.25);
    let out = {
        let xd = data::<T>(&x)?;
        let xd: &[T] = &xd;
        let mut out = fresh(b * c * oh * ow);
        pieces(&mut out, oh * ow, |i, o| {
            let x = &xd[i * h * w..(i + 1) * h * w];
            for (y, o) in o.chunks_exact_mut(ow).enumerate() {
                let (r0, r1) = x[2 * y * w..].split_at(w);
                for (o, (a, b)) in o.iter_mut().zip(r0.chunks_exact(2).zip(r1.chunks_exact(2))) {
                    *o = (a[0] + a[1] + b[0] + b[1]) * quarter;
                }
            }
        });
        out
    };
    join1("avg_pool2", &x, out, (b, c, oh, ow), move |g| {
        let gd = data::<T>(g)?;
        let gd: &[T] = &gd;
        let mut dx = vec![T::zero(); b * c * h * w];
        pieces(&mut dx, h * w, |i, d| {
            let g = &gd[i * oh * ow..(i + 1) * oh * ow];
            for (g, rows) in g.chunks_exact(ow).zip(d.chunks_exact_mut(2 * w)) {
                let (r0, r1) = rows.split_at_mut(w);
                for (g, d) in g.iter().zip(r0.chunks_exact_mut(2)) {
                    d.fill(*g * quarter);
                }
                r1.copy_from_slice(r0);
            }
        });
        Ok([Some(tensor(dx, (b, c, h, w))?)])
    })
}

/// Mean over 2x2 windows, stride 2; an odd last row or column is dropped.
pub fn avg_pool2(x: &Tensor) -> Result<Tensor> {
    by_dtype!(x, avg(x))
}

/// The largest of a window of two rows; NaN where there is one.
#[inline(always)]
fn largest<T: Scalar>(a: &[T], b: &[T]) -> T {
    let larger = |a: T, b: T| if b > a || b.is_nan() { b } else { a };
    larger(larger(a[0], a[1]), larger(b[0], b[1]))
}

fn max<T: Scalar>(x: &Tensor) -> Result<Tensor> {
    let (x, [b, c], [h, w], [oh, ow]) = halves(x)?;
    on_cuda!(&x, max_pool2(&x));
    let out = {
        let xd = data::<T>(&x)?;
        let xd: &[T] = &xd;
        let mut out = fresh(b * c * oh * ow);
        pieces(&mut out, oh * ow, |i, o| {
            let x = &xd[i * h * w..(i + 1) * h * w];
            for (y, o) in o.chunks_exact_mut(ow).enumerate() {
                let (r0, r1) = x[2 * y * w..].split_at(w);
                for (o, (a, b)) in o.iter_mut().zip(r0.chunks_exact(2).zip(r1.chunks_exact(2))) {
                    *o = largest(a, b);
                }
            }
        });
        out
    };
    let held = x.clone();
    join1("max_pool2", &x, out, (b, c, oh, ow), move |g| {
        let (x, gd) = (data::<T>(&held)?, data::<T>(g)?);
        let (x, gd): (&[T], &[T]) = (&x, &gd);
        let mut dx = vec![T::zero(); x.len()];
        pieces(&mut dx, h * w, |i, d| {
            let x = &x[i * h * w..(i + 1) * h * w];
            let g = &gd[i * oh * ow..(i + 1) * oh * ow];
            for ((x, d), g) in x.chunks_exact(2 * w).zip(d.chunks_exact_mut(2 * w)).zip(g.chunks_exact(ow)) {
                let ((x0, x1), (d0, d1)) = (x.split_at(w), d.split_at_mut(w));
                let pairs = x0.chunks_exact(2).zip(x1.chunks_exact(2)).zip(d0.chunks_exact_mut(2).zip(d1.chunks_exact_mut(2)));
                for (((x0, x1), (d0, d1)), g) in pairs.zip(g) {
                    // The first place of the window that holds the maximum, in reading order.
                    let top = largest(x0, x1);
                    let is_top = |v: T| v == top || v.is_nan();
                    let (a, b, c) = (is_top(x0[0]), is_top(x0[1]), is_top(x1[0]));
                    let give = |here: bool| if here { *g } else { T::zero() };
                    d0[0] = give(a);
                    d0[1] = give(!a & b);
                    d1[0] = give(!a & !b & c);
                    d1[1] = give(!a & !b & !c);
                }
            }
        });
        Ok([Some(tensor(dx, held.shape())?)])
    })
}

/// Maximum over 2x2 windows, stride 2; an odd last row or column is dropped. The gradient goes to the first maximum of a window.
pub fn max_pool2(x: &Tensor) -> Result<Tensor> {
    by_dtype!(x, max(x))
}

fn up<T: Scalar>(x: &Tensor) -> Result<Tensor> {
    let (b, c, h, w) = x.dims4()?;
    on_cuda!(x, upsample2(x));
    let x = x.contiguous()?;
    let out = {
        let xd = data::<T>(&x)?;
        let xd: &[T] = &xd;
        let mut out = fresh(4 * xd.len());
        pieces(&mut out, 4 * h * w, |i, o| {
            for (x, rows) in xd[i * h * w..(i + 1) * h * w].chunks_exact(w).zip(o.chunks_exact_mut(4 * w)) {
                let (r0, r1) = rows.split_at_mut(2 * w);
                for (x, o) in x.iter().zip(r0.chunks_exact_mut(2)) {
                    o[0] = *x;
                    o[1] = *x;
                }
                r1.copy_from_slice(r0);
            }
        });
        out
    };
    join1("upsample2", &x, out, (b, c, 2 * h, 2 * w), move |g| {
        let gd = data::<T>(g)?;
        let gd: &[T] = &gd;
        let mut dx = fresh(gd.len() / 4);
        pieces(&mut dx, h * w, |i, d| {
            let g = &gd[i * 4 * h * w..(i + 1) * 4 * h * w];
            for (d, rows) in d.chunks_exact_mut(w).zip(g.chunks_exact(4 * w)) {
                let (r0, r1) = rows.split_at(2 * w);
                for (d, (a, b)) in d.iter_mut().zip(r0.chunks_exact(2).zip(r1.chunks_exact(2))) {
                    *d = a[0] + a[1] + b[0] + b[1];
                }
            }
        });
        Ok([Some(tensor(dx, (b, c, h, w))?)])
    })
}

/// Nearest upsampling by 2: each value becomes a 2x2 block.
pub fn upsample2(x: &Tensor) -> Result<Tensor> {
    by_dtype!(x, up(x))
}
