//! The two pointwise steps of SSIM.

use candle_core::{Result, Tensor};

use super::super::graph::placed2;
use super::launch::{Buffer, Launch};

/// `a` and `b` have one shape; `tripled` is it with three times the first dimension.
pub(in crate::ops) fn ssim_products(a: &Tensor, b: &Tensor, tripled: Vec<usize>) -> Result<Tensor> {
    let (a, b) = (a.contiguous()?, b.contiguous()?);
    let n = a.elem_count();
    let out = Buffer::new(3 * n, &a)?;
    Launch::new("ssim_products").long(n).tensor(&a)?.tensor(&b)?.buffer(&out)?.each(n, a.device())?;
    let (ha, hb) = (a.clone(), b.clone());
    placed2("ssim_products", &a, &b, out.into_storage(), tripled, move |g| {
        let side = |of_b: usize, own: &Tensor, other: &Tensor| {
            let d = Buffer::new(n, g)?;
            Launch::new("ssim_products_back").long(n).int(of_b).tensor(own)?.tensor(other)?.tensor(g)?.buffer(&d)?.each(n, g.device())?;
            Ok::<_, candle_core::Error>(d.tensor(own.shape()))
        };
        let da = if ha.track_op() { Some(side(0, &ha, &hb)?) } else { None };
        let db = if hb.track_op() { Some(side(1, &hb, &ha)?) } else { None };
        Ok([da, db])
    })
}

/// The shapes fit; both are contiguous.
pub(in crate::ops) fn ssim_map(a: &Tensor, means: &Tensor, c1: f64, c2: f64) -> Result<Tensor> {
    let n = a.elem_count();
    let out = Buffer::new(n, a)?;
    let start = move |name| Launch::new(name).long(n).float(c1).float(c2);
    start("ssim_map").tensor(a)?.tensor(means)?.buffer(&out)?.each(n, a.device())?;
    let (ha, hm) = (a.clone(), means.clone());
    placed2("ssim_map", a, means, out.into_storage(), a.shape(), move |g| {
        let da = if ha.track_op() { Some(Buffer::new(n, g)?) } else { None };
        let dm = if hm.track_op() { Some(Buffer::new(3 * n, g)?) } else { None };
        start("ssim_map_back")
            .tensor(&ha)?
            .tensor(&hm)?
            .tensor(g)?
            .optional_buffer(da.as_ref())?
            .optional_buffer(dm.as_ref())?
            .each(n, g.device())?;
        Ok([da.map(|d| d.tensor(ha.shape())), dm.map(|d| d.tensor(hm.shape()))])
    })
}
