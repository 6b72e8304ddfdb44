//! Halving and doubling of maps.

use candle_core::{Result, Tensor};

use super::super::graph::{kept1, placed1};
use super::launch::{Buffer, Launch, chunks};

/// `x` [planes, h, w] pooled to [planes, oh, ow] by `name`; the gradient comes from `back`.
struct Pool {
    planes: usize,
    sizes: [usize; 4],
}

impl Pool {
    fn of(x: &Tensor) -> Result<Self> {
        let (b, c, h, w) = x.dims4()?;
        Ok(Pool { planes: b * c, sizes: [h, w, h / 2, w / 2] })
    }

    fn forward(&self, name: &'static str, x: &Tensor) -> Result<Buffer> {
        let [_, _, oh, ow] = self.sizes;
        let out = Buffer::new(self.planes * oh * ow, x)?;
        Launch::new(name).ints(self.sizes).int(chunks(oh * ow)).tensor(x)?.buffer(&out)?.planes(self.planes, oh * ow, x.device())?;
        Ok(out)
    }

    /// `read`: what the kernel reads before the gradient.
    fn backward(&self, name: &'static str, read: &[&Tensor], g: &Tensor) -> Result<Buffer> {
        let [h, w, _, _] = self.sizes;
        let dx = Buffer::new(self.planes * h * w, g)?;
        let mut launch = Launch::new(name).ints(self.sizes).int(chunks(h * w));
        for t in read {
            launch = launch.tensor(t)?;
        }
        launch.tensor(g)?.buffer(&dx)?.planes(self.planes, h * w, g.device())?;
        Ok(dx)
    }
}

/// `x` is contiguous, with maps of at least 2x2; so for [`max_pool2`].
pub(in crate::ops) fn avg_pool2(x: &Tensor) -> Result<Tensor> {
    let (b, c, h, w) = x.dims4()?;
    let pool = Pool::of(x)?;
    let out = pool.forward("avg_pool2", x)?;
    placed1("avg_pool2", x, out.into_storage(), (b, c, h / 2, w / 2), move |g| {
        Ok([Some(pool.backward("avg_pool2_back", &[], g)?.tensor((b, c, h, w)))])
    })
}

pub(in crate::ops) fn max_pool2(x: &Tensor) -> Result<Tensor> {
    let (b, c, h, w) = x.dims4()?;
    let pool = Pool::of(x)?;
    let out = pool.forward("max_pool2", x)?;
    let held = x.clone();
    kept1("max_pool2", x, out.into_storage(), (b, c, h / 2, w / 2), move |res, g| {
        Ok([Some(pool.backward("max_pool2_back", &[&held, res], g)?.tensor((b, c, h, w)))])
    })
}

pub(in crate::ops) fn upsample2(x: &Tensor) -> Result<Tensor> {
    let (b, c, h, w) = x.dims4()?;
    let x = x.contiguous()?;
    let (small, large) = (h * w, 4 * h * w);
    let out = Buffer::new(b * c * large, &x)?;
    Launch::new("upsample2").ints([h, w, chunks(large)]).tensor(&x)?.buffer(&out)?.planes(b * c, large, x.device())?;
    placed1("upsample2", &x, out.into_storage(), (b, c, 2 * h, 2 * w), move |g| {
        let dx = Buffer::new(b * c * small, g)?;
        Launch::new("upsample2_back").ints([h, w, chunks(small)]).tensor(g)?.buffer(&dx)?.planes(b * c, small, g.device())?;
        Ok([Some(dx.tensor((b, c, h, w)))])
    })
}
