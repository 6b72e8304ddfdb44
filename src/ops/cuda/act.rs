//! (Leaky) ReLU, noise + bias + leaky ReLU, log-softmax.

use candle_core::{Result, Tensor, bail};

use super::super::graph::{kept1, kept3, placed1};
use super::launch::{Buffer, Launch, chunks};

/// The gradient of a leaky ReLU with the result `res`, or any tangent through it.
fn masked(res: &Tensor, g: &Tensor, slope: f64) -> Result<Buffer> {
    let n = g.elem_count();
    let dx = Buffer::new(n, g)?;
    Launch::new("leaky_relu_back").long(n).float(slope).tensor(res)?.tensor(g)?.buffer(&dx)?.each(n, g.device())?;
    Ok(dx)
}

pub(in crate::ops) fn lrelu(x: &Tensor, slope: f64) -> Result<Tensor> {
    if !(0.0..=1.0).contains(&slope) {
        bail!("leaky_relu: slope {slope} is not in 0..1")
    }
    let x = x.contiguous()?;
    let n = x.elem_count();
    let out = Buffer::new(n, &x)?;
    Launch::new("leaky_relu").long(n).float(slope).tensor(&x)?.buffer(&out)?.each(n, x.device())?;
    kept1("leaky_relu", &x, out.into_storage(), x.shape(), move |res, g| Ok([Some(masked(res, g, slope)?.tensor(g.shape()))]))
}

/// `t` and `y` are contiguous and of one shape.
pub(in crate::ops) fn tangent(t: &Tensor, y: Tensor, slope: f64) -> Result<Tensor> {
    let out = masked(&y, t, slope)?;
    placed1("lrelu_tangent", t, out.into_storage(), t.shape(), move |g| Ok([Some(masked(&y, g, slope)?.tensor(g.shape()))]))
}

/// The shape of maps [n, c, plane], with one noise map per image or one for all.
#[derive(Clone, Copy)]
pub(super) struct Maps {
    pub n: usize,
    pub c: usize,
    pub plane: usize,
    pub noise_per_image: bool,
}

/// lrelu(x + strength * noise + bias) written to `out`, which may be `x`.
pub(super) fn epilogue(
    m: Maps,
    x: Source<'_>,
    noise: Option<(&Tensor, &Tensor)>,
    bias: Option<&Tensor>,
    slope: f64,
    out: &Buffer,
    like: &Tensor,
) -> Result<()> {
    let count = |t: Option<&Tensor>| t.map_or(1, Tensor::elem_count);
    let launch = Launch::new("noise_bias_lrelu")
        .ints([m.plane, chunks(m.plane), m.c, m.noise_per_image.into(), count(noise.map(|n| n.1)), count(bias)])
        .float(slope);
    let launch = match x {
        Source::Tensor(x) => launch.tensor(x)?,
        Source::InPlace => launch.buffer(out)?,
    };
    let launch = launch.optional(noise.map(|n| n.0))?.optional(noise.map(|n| n.1))?.optional(bias)?;
    launch.buffer(out)?.planes(m.n * m.c, m.plane, like.device())
}

/// What [`epilogue`] reads.
pub(super) enum Source<'a> {
    Tensor(&'a Tensor),
    InPlace,
}

/// What [`epilogue_back`] computes: the gradient of the sum before the activation, and per channel the sums of it [0] and of it times
/// the noise [1] as [2, c].
pub(super) struct Gradients {
    pub dx: Option<Buffer>,
    pub sums: Option<Tensor>,
}

/// `kept`: the result, where the slope is not 1.
pub(super) fn epilogue_back(
    m: Maps,
    kept: Option<&Tensor>,
    g: &Tensor,
    noise: Option<&Tensor>,
    slope: f64,
    want: (bool, bool),
) -> Result<Gradients> {
    let blocks = m.n * m.c * chunks(m.plane);
    let dx = if want.0 { Some(Buffer::new(g.elem_count(), g)?) } else { None };
    let parts = if want.1 { Some(Buffer::new(2 * blocks, g)?) } else { None };
    Launch::new("noise_bias_lrelu_back")
        .ints([m.plane, chunks(m.plane), m.c, m.noise_per_image.into()])
        .float(slope)
        .optional(kept)?
        .tensor(g)?
        .optional(noise)?
        .optional_buffer(dx.as_ref())?
        .optional_buffer(parts.as_ref())?
        .planes(m.n * m.c, m.plane, g.device())?;
    let sums = match parts {
        Some(parts) => {
            let sums = Buffer::new(2 * m.c, g)?;
            Launch::new("channel_sums").ints([m.n, m.c, chunks(m.plane)]).buffer(&parts)?.buffer(&sums)?.each(m.c, g.device())?;
            Some(sums.tensor((2, m.c)))
        }
        None => None,
    };
    Ok(Gradients { dx, sums })
}

/// `x`, `noise` and the flattened `strength` and `bias` were checked by the caller; all are contiguous.
pub(in crate::ops) fn fused(x: &Tensor, map: Option<&Tensor>, strength: &Tensor, bias: &Tensor, slope: f64) -> Result<Tensor> {
    let (n, c, h, w) = x.dims4()?;
    let noise_per_image = map.is_some_and(|z| z.elem_count() != h * w);
    let maps = Maps { n, c, plane: h * w, noise_per_image };
    let out = Buffer::new(x.elem_count(), x)?;
    epilogue(maps, Source::Tensor(x), map.map(|z| (z, strength)), Some(bias), slope, &out, x)?;
    let (tx, ts, tb) = (x.track_op(), strength.track_op(), bias.track_op());
    let map = map.cloned();
    kept3("noise_bias_lrelu", x, strength, bias, out.into_storage(), x.shape(), move |res, g| {
        let kept = (slope != 1.0).then_some(res);
        let back = epilogue_back(maps, kept, g, map.as_ref(), slope, (tx, ts || tb))?;
        let row = |i: usize| back.sums.as_ref().map(|s| s.get(i)?.contiguous()).transpose();
        let dx = back.dx.map(|d| d.tensor((n, c, h, w)));
        let ds = if ts { row(1)? } else { None };
        let db = if tb { row(0)? } else { None };
        Ok([dx, ds, db])
    })
}

pub(in crate::ops) fn log_softmax(x: &Tensor) -> Result<Tensor> {
    let x = x.contiguous()?;
    let Some(&rows) = x.dims().first() else { bail!("log_softmax: the input is a scalar") };
    let row = x.elem_count() / rows.max(1);
    let k = chunks(row);
    let device = x.device();
    let parts = Buffer::new(2 * rows * k, &x)?;
    Launch::new("softmax_parts").ints([row, k]).tensor(&x)?.buffer(&parts)?.planes(rows, row, device)?;
    let lse = Buffer::new(rows, &x)?;
    Launch::new("softmax_join").ints([rows, k]).buffer(&parts)?.buffer(&lse)?.each(rows, device)?;
    let out = Buffer::new(x.elem_count(), &x)?;
    Launch::new("log_softmax").ints([row, k]).tensor(&x)?.buffer(&lse)?.buffer(&out)?.planes(rows, row, device)?;
    kept1("log_softmax", &x, out.into_storage(), x.shape(), move |res, g| {
        let device = g.device();
        let parts = Buffer::new(2 * rows * k, g)?;
        Launch::new("noise_bias_lrelu_back")
            .ints([row, k, rows, 0])
            .float(1.0)
            .null()
            .tensor(g)?
            .null()
            .null()
            .buffer(&parts)?
            .planes(rows, row, device)?;
        let sums = Buffer::new(2 * rows, g)?;
        Launch::new("row_sums").ints([rows, k]).buffer(&parts)?.buffer(&sums)?.each(rows, device)?;
        let dx = Buffer::new(g.elem_count(), g)?;
        Launch::new("log_softmax_back").ints([row, k]).tensor(res)?.tensor(g)?.buffer(&sums)?.buffer(&dx)?.planes(rows, row, device)?;
        Ok([Some(dx.tensor(res.shape()))])
    })
}
