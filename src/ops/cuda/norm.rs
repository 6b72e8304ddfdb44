//! Instance norm, style statistics, AdaIN, and the norms over channels.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::super::graph::{placed1, placed2};
use super::super::norm::vectors;
use super::launch::{Buffer, Launch, chunks};

/// Planes of one tensor [b, c, h, w] with their moments [planes, 2] (mean, biased variance).
struct Planes {
    b: usize,
    c: usize,
    plane: usize,
    moments: Buffer,
}

impl Planes {
    /// `x` is contiguous and not empty.
    fn of(x: &Tensor) -> Result<Arc<Self>> {
        let (b, c, h, w) = x.dims4()?;
        let (planes, plane) = (b * c, h * w);
        let k = chunks(plane);
        let parts = Buffer::new(2 * planes * k, x)?;
        Launch::new("moments_parts").ints([plane, k]).tensor(x)?.buffer(&parts)?.planes(planes, plane, x.device())?;
        let moments = Buffer::new(2 * planes, x)?;
        Launch::new("moments_join").ints([planes, plane, k]).buffer(&parts)?.buffer(&moments)?.each(planes, x.device())?;
        Ok(Arc::new(Planes { b, c, plane, moments }))
    }

    fn count(&self) -> usize {
        self.b * self.c
    }

    /// IN(x), scaled and shifted by the style if there is one.
    fn normalise(&self, x: &Tensor, style: Option<&Tensor>, eps: f64) -> Result<Buffer> {
        let out = Buffer::new(x.elem_count(), x)?;
        Launch::new("normalise")
            .ints([self.plane, chunks(self.plane), self.c])
            .float(eps)
            .tensor(x)?
            .buffer(&self.moments)?
            .optional(style)?
            .buffer(&out)?
            .planes(self.count(), self.plane, x.device())?;
        Ok(out)
    }

    /// The gradients of x and of the style, as wanted.
    fn normalise_back(&self, x: &Tensor, g: &Tensor, style: Option<&Tensor>, eps: f64, want: (bool, bool)) -> Result<[Option<Tensor>; 2]> {
        let (planes, k, device) = (self.count(), chunks(self.plane), x.device());
        let parts = Buffer::new(2 * planes * k, x)?;
        Launch::new("normalise_parts")
            .ints([self.plane, k])
            .tensor(x)?
            .tensor(g)?
            .buffer(&self.moments)?
            .buffer(&parts)?
            .planes(planes, self.plane, device)?;
        let sums = Buffer::new(2 * planes, x)?;
        Launch::new("row_sums").ints([planes, k]).buffer(&parts)?.buffer(&sums)?.each(planes, device)?;
        let dx = if want.0 {
            let dx = Buffer::new(x.elem_count(), x)?;
            Launch::new("normalise_back")
                .ints([self.plane, k, self.c])
                .float(eps)
                .tensor(x)?
                .tensor(g)?
                .buffer(&self.moments)?
                .buffer(&sums)?
                .optional(style)?
                .buffer(&dx)?
                .planes(planes, self.plane, device)?;
            Some(dx.tensor(x.shape()))
        } else {
            None
        };
        let ds = match style {
            Some(style) if want.1 => {
                let ds = Buffer::new(2 * planes, x)?;
                Launch::new("style_back")
                    .ints([planes, self.c])
                    .float(eps)
                    .buffer(&self.moments)?
                    .buffer(&sums)?
                    .buffer(&ds)?
                    .each(planes, device)?;
                Some(ds.tensor(style.shape()))
            }
            _ => None,
        };
        Ok([dx, ds])
    }
}

fn norm_node(x: &Tensor, planes: Arc<Planes>, eps: f64) -> Result<Tensor> {
    let out = planes.normalise(x, None, eps)?;
    let held = x.clone();
    placed1("instance_norm", x, out.into_storage(), x.shape(), move |g| {
        let [dx, _] = planes.normalise_back(&held, g, None, eps, (true, false))?;
        Ok([dx])
    })
}

fn stats_node(x: &Tensor, planes: Arc<Planes>) -> Result<Tensor> {
    let out = Buffer::new(2 * planes.count(), x)?;
    Launch::new("style_stats").ints([planes.count(), planes.c]).buffer(&planes.moments)?.buffer(&out)?.each(planes.count(), x.device())?;
    let held = x.clone();
    placed1("style_stats", x, out.into_storage(), (planes.b, 2 * planes.c), move |g| {
        let dx = Buffer::new(held.elem_count(), &held)?;
        Launch::new("style_stats_back")
            .ints([planes.plane, chunks(planes.plane), planes.c])
            .tensor(&held)?
            .tensor(g)?
            .buffer(&planes.moments)?
            .buffer(&dx)?
            .planes(planes.count(), planes.plane, g.device())?;
        Ok([Some(dx.tensor(held.shape()))])
    })
}

pub(in crate::ops) fn instance_norm(x: &Tensor, eps: f64) -> Result<Tensor> {
    norm_node(x, Planes::of(x)?, eps)
}

pub(in crate::ops) fn style_stats(x: &Tensor) -> Result<Tensor> {
    stats_node(x, Planes::of(x)?)
}

pub(in crate::ops) fn instance_norm_stats(x: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
    let planes = Planes::of(x)?;
    Ok((norm_node(x, planes.clone(), eps)?, stats_node(x, planes)?))
}

/// `x` and `style` are contiguous and fit.
pub(in crate::ops) fn adain(x: &Tensor, style: &Tensor, eps: f64) -> Result<Tensor> {
    let planes = Planes::of(x)?;
    let out = planes.normalise(x, Some(style), eps)?;
    let (hx, hs) = (x.clone(), style.clone());
    placed2("adain", x, style, out.into_storage(), x.shape(), move |g| {
        planes.normalise_back(&hx, g, Some(&hs), eps, (hx.track_op(), hs.track_op()))
    })
}

/// The two norms over channels.
#[derive(Clone, Copy)]
pub(in crate::ops) enum Length {
    /// x / sqrt(mean square + eps)
    Pixel,
    /// x / (length + eps)
    Unit,
}

/// Over dimension 1 of `x` [b, c, ..].
pub(in crate::ops) fn by_length(kind: Length, x: &Tensor, eps: f64) -> Result<Tensor> {
    let (c, s) = vectors(x)?;
    let x = x.contiguous()?;
    let places = x.elem_count() / c;
    let out = Buffer::new(x.elem_count(), &x)?;
    let start = move |name| Launch::new(name).int(kind as usize).long(places).ints([c, s]).float(eps);
    start("by_length").tensor(&x)?.buffer(&out)?.places(places, x.device())?;
    let held = x.clone();
    placed1("norm over channels", &x, out.into_storage(), x.shape(), move |g| {
        let dx = Buffer::new(held.elem_count(), &held)?;
        start("by_length_back").tensor(&held)?.tensor(g)?.buffer(&dx)?.places(places, g.device())?;
        Ok([Some(dx.tensor(held.shape()))])
    })
}
