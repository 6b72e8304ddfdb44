//! Weighted sums, per-channel factors, the mean squared difference.

use candle_core::{Result, Tensor};

use super::super::graph::{placed1, placed2};
use super::launch::{Buffer, Launch, blocks_of, chunks};

fn scaled(g: &Tensor, factor: f64) -> Result<Tensor> {
    let n = g.elem_count();
    let out = Buffer::new(n, g)?;
    Launch::new("scaled").long(n).float(factor).tensor(g)?.buffer(&out)?.each(n, g.device())?;
    Ok(out.tensor(g.shape()))
}

/// `x` and `y` have one shape; so for [`mse`].
pub(in crate::ops) fn mix(x: &Tensor, a: f64, y: &Tensor, b: f64) -> Result<Tensor> {
    let (x, y) = (x.contiguous()?, y.contiguous()?);
    let n = x.elem_count();
    let out = Buffer::new(n, &x)?;
    Launch::new("mix").long(n).float(a).tensor(&x)?.float(b).tensor(&y)?.buffer(&out)?.each(n, x.device())?;
    let (tx, ty) = (x.track_op(), y.track_op());
    placed2("mix", &x, &y, out.into_storage(), x.shape(), move |g| {
        let dx = if tx { Some(scaled(g, a)?) } else { None };
        let dy = if ty { Some(scaled(g, b)?) } else { None };
        Ok([dx, dy])
    })
}

/// As many factors as channels.
pub(in crate::ops) fn channel_affine(x: &Tensor, scale: &[f64], shift: &[f64]) -> Result<Tensor> {
    let (b, c, h, w) = x.dims4()?;
    let x = x.contiguous()?;
    let factors: Vec<f32> = scale.iter().chain(shift).map(|v| *v as f32).collect();
    let factors = Tensor::from_vec(factors, 2 * c, x.device())?;
    let plane = h * w;
    let run = move |x: &Tensor, shifted: usize| {
        let out = Buffer::new(x.elem_count(), x)?;
        Launch::new("channel_affine").ints([plane, chunks(plane), c, shifted]).tensor(&factors)?.tensor(x)?.buffer(&out)?.planes(
            b * c,
            plane,
            x.device(),
        )?;
        Ok::<_, candle_core::Error>(out)
    };
    let out = run(&x, 1)?;
    placed1("channel_affine", &x, out.into_storage(), x.shape(), move |g| Ok([Some(run(g, 0)?.tensor(g.shape()))]))
}

pub(in crate::ops) fn mse(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let (x, y) = (x.contiguous()?, y.contiguous()?);
    let n = x.elem_count();
    let count = blocks_of(n);
    let parts = Buffer::new(2 * count, &x)?;
    Launch::new("squares_parts").long(n).tensor(&x)?.tensor(&y)?.buffer(&parts)?.run(count, x.device())?;
    let out = Buffer::new(1, &x)?;
    Launch::new("total_of_parts").int(count).float(1.0 / n as f64).buffer(&parts)?.buffer(&out)?.one_block(x.device())?;
    let (hx, hy) = (x.clone(), y.clone());
    placed2("mse", &x, &y, out.into_storage(), (), move |g| {
        let side = |factor: f64| {
            let d = Buffer::new(n, &hx)?;
            Launch::new("squares_back")
                .long(n)
                .float(factor / n as f64)
                .tensor(g)?
                .tensor(&hx)?
                .tensor(&hy)?
                .buffer(&d)?
                .each(n, g.device())?;
            Ok::<_, candle_core::Error>(d.tensor(hx.shape()))
        };
        let dx = if hx.track_op() { Some(side(2.0)?) } else { None };
        let dy = if hy.track_op() { Some(side(-2.0)?) } else { None };
        Ok([dx, dy])
    })
}
