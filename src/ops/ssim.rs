//! The two pointwise steps of SSIM (Wang et al., 2004), before and after its local means.

use candle_core::{Result, Tensor, bail};

use super::graph::join2;
use super::node::{Scalar, Shared, by_dtype, data, fresh, gather, on_cuda, tensor};

const CHUNK: usize = 1 << 13;

/// Runs `f(from, to)` over fixed ranges of 0..n.
fn ranges(n: usize, work: usize, f: impl Fn(usize, usize) + Sync + Send) {
    gather(n.div_ceil(CHUNK), work * n, |i| f(i * CHUNK, n.min((i + 1) * CHUNK)));
}

fn tripled(x: &Tensor) -> Result<Vec<usize>> {
    let mut dims = x.dims().to_vec();
    match dims.first_mut() {
        Some(n) => *n *= 3,
        None => bail!("SSIM of a scalar"),
    }
    Ok(dims)
}

fn products<T: Scalar>(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.dims() != b.dims() {
        bail!("ssim_products: shapes {:?} and {:?} differ", a.dims(), b.dims())
    }
    on_cuda!(a, ssim_products(a, b, tripled(a)?));
    let (a, b) = (a.contiguous()?, b.contiguous()?);
    let n = a.elem_count();
    let out = {
        let (ad, bd) = (data::<T>(&a)?, data::<T>(&b)?);
        let (ad, bd): (&[T], &[T]) = (&ad, &bd);
        let mut out = fresh(3 * n);
        let shared = Shared::new(&mut out);
        ranges(n, 4, |from, to| {
            // SAFETY: ranges are disjoint within each third.
            let [v, q, p] = [0, 1, 2].map(|i| unsafe { shared.part(i * n + from, to - from) });
            for ((((v, q), p), a), b) in v.iter_mut().zip(q).zip(p).zip(&ad[from..to]).zip(&bd[from..to]) {
                *v = *b;
                *q = *a * *a + *b * *b;
                *p = *a * *b;
            }
        });
        out
    };
    let (ha, hb) = (a.clone(), b.clone());
    let two = T::of(2.0);
    join2("ssim_products", &a, &b, out, tripled(&a)?, move |g| {
        let (ad, bd, gd) = (data::<T>(&ha)?, data::<T>(&hb)?, data::<T>(g)?);
        let (ad, bd, gd): (&[T], &[T], &[T]) = (&ad, &bd, &gd);
        let side = |of_b: bool| {
            let (own, other) = if of_b { (bd, ad) } else { (ad, bd) };
            let mut d = fresh(n);
            let shared = Shared::new(&mut d);
            ranges(n, 4, |from, to| {
                // SAFETY: ranges are disjoint.
                let d = unsafe { shared.part(from, to - from) };
                let (gv, gq, gp) = (&gd[from..to], &gd[n + from..n + to], &gd[2 * n + from..2 * n + to]);
                for (((((d, x), y), gv), gq), gp) in d.iter_mut().zip(&own[from..to]).zip(&other[from..to]).zip(gv).zip(gq).zip(gp) {
                    let direct = if of_b { *gv } else { T::zero() };
                    *d = direct + two * *x * *gq + *y * *gp;
                }
            });
            tensor(d, ha.shape())
        };
        let da = if ha.track_op() { Some(side(false)?) } else { None };
        let db = if hb.track_op() { Some(side(true)?) } else { None };
        Ok([da, db])
    })
}

/// [b; a^2 + b^2; ab] stacked along dimension 0: what the window of SSIM averages, beside `a` itself.
///
/// Errors: shapes that differ.
pub fn ssim_products(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    by_dtype!(a, products(a, b))
}

/// One place: the SSIM value, and its derivatives by mean_a, mean_b, the mean square and the mean product.
#[inline(always)]
fn place<T: Scalar>(ma: T, mb: T, q: T, p: T, c1: T, c2: T) -> (T, [T; 4]) {
    let two = T::of(2.0);
    let lengths = ma * ma + mb * mb;
    let (l_top, l_bottom) = (two * ma * mb + c1, lengths + c1);
    let (s_top, s_bottom) = (two * (p - ma * mb) + c2, q - lengths + c2);
    let (l, s) = (l_top / l_bottom, s_top / s_bottom);
    // l = l_top / l_bottom, s = s_top / s_bottom; the same rule for both means, their roles exchanged.
    let by_mean = |x: T, y: T| s * (two * y - l * two * x) / l_bottom + l * (s * two * x - two * y) / s_bottom;
    (l * s, [by_mean(ma, mb), by_mean(mb, ma), -(l * s / s_bottom), l * two / s_bottom])
}

fn map_of<T: Scalar>(mean_a: &Tensor, means: &Tensor, c1: f64, c2: f64) -> Result<Tensor> {
    if means.dims() != tripled(mean_a)? {
        bail!("ssim_map: means {:?} for {:?}", means.dims(), mean_a.dims())
    }
    let (a, means) = (mean_a.contiguous()?, means.contiguous()?);
    on_cuda!(&a, ssim_map(&a, &means, c1, c2));
    let (c1, c2) = (T::of(c1), T::of(c2));
    let n = a.elem_count();
    let out = {
        let (ad, md) = (data::<T>(&a)?, data::<T>(&means)?);
        let (ad, md): (&[T], &[T]) = (&ad, &md);
        let mut out = fresh(n);
        let shared = Shared::new(&mut out);
        ranges(n, 8, |from, to| {
            // SAFETY: ranges are disjoint.
            let o = unsafe { shared.part(from, to - from) };
            let (mb, q, p) = (&md[from..to], &md[n + from..n + to], &md[2 * n + from..2 * n + to]);
            for ((((o, a), b), q), p) in o.iter_mut().zip(&ad[from..to]).zip(mb).zip(q).zip(p) {
                *o = place(*a, *b, *q, *p, c1, c2).0;
            }
        });
        out
    };
    let (ha, hm) = (a.clone(), means.clone());
    join2("ssim_map", &a, &means, out, a.shape(), move |g| {
        let (ad, md, gd) = (data::<T>(&ha)?, data::<T>(&hm)?, data::<T>(g)?);
        let (ad, md, gd): (&[T], &[T], &[T]) = (&ad, &md, &gd);
        let (want_a, want_m) = (ha.track_op(), hm.track_op());
        let mut da = fresh(if want_a { n } else { 0 });
        let mut dm = fresh(if want_m { 3 * n } else { 0 });
        let (sa, sm) = (Shared::new(&mut da), Shared::new(&mut dm));
        ranges(n, 16, |from, to| {
            let (mb, q, p) = (&md[from..to], &md[n + from..n + to], &md[2 * n + from..2 * n + to]);
            // SAFETY: ranges are disjoint within each third.
            if want_m {
                let [db, dq, dp] = [0, 1, 2].map(|i| unsafe { sm.part(i * n + from, to - from) });
                for (j, g) in gd[from..to].iter().enumerate() {
                    let (_, d) = place(ad[from + j], mb[j], q[j], p[j], c1, c2);
                    (db[j], dq[j], dp[j]) = (*g * d[1], *g * d[2], *g * d[3]);
                }
            }
            if want_a {
                let da = unsafe { sa.part(from, to - from) };
                for (j, g) in gd[from..to].iter().enumerate() {
                    da[j] = *g * place(ad[from + j], mb[j], q[j], p[j], c1, c2).1[0];
                }
            }
        });
        let da = if want_a { Some(tensor(da, ha.shape())?) } else { None };
        let dm = if want_m { Some(tensor(dm, hm.shape())?) } else { None };
        Ok([da, dm])
    })
}

/// The SSIM value of every place from the local means of `a` [n, ..] and of [`ssim_products`] [3n, ..]:
/// (2 ma mb + c1) (2 (E[ab] - ma mb) + c2) / ((ma^2 + mb^2 + c1) (E[a^2 + b^2] - ma^2 - mb^2 + c2)).
///
/// Errors: shapes that do not fit.
pub fn ssim_map(mean_a: &Tensor, means: &Tensor, c1: f64, c2: f64) -> Result<Tensor> {
    by_dtype!(mean_a, map_of(mean_a, means, c1, c2))
}
