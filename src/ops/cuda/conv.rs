//! Convolution: cuDNN where the build has it, else columns and products ("im2col", image by image), and the kernels around both.

use candle_core::{Result, Tensor, bail};

use super::super::graph::{kept2, kept3, placed1};
use super::super::unfold::Geometry;
use super::act::{Gradients, Maps, Source, epilogue, epilogue_back};
use super::launch::{Buffer, Launch};

/// One of the three products of a convolution from x [n, ci, h, w] with w [co, ci, kh, kw] to y [n, co, oh, ow].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Product {
    /// (x, w) -> y
    Forward,
    /// (gy, w) -> dx; forward of the transposed convolution
    BackwardData,
    /// (x, gy) -> dw
    BackwardFilter,
}

impl Product {
    pub(super) fn shape(self, g: &Geometry) -> [usize; 4] {
        match self {
            Product::Forward => [g.n, g.co, g.oh, g.ow],
            Product::BackwardData => [g.n, g.ci, g.h, g.w],
            Product::BackwardFilter => [g.co, g.ci, g.kh, g.kw],
        }
    }

    /// Of two contiguous tensors.
    fn of(self, g: &Geometry, a: &Tensor, b: &Tensor) -> Result<Buffer> {
        #[cfg(feature = "cudnn")]
        if a.device().is_cuda()
            && let Some(out) = super::cudnn::product(self, g, a, b)?
        {
            return Ok(out);
        }
        let out = match self {
            Product::Forward => columns_forward(g, a, b)?,
            Product::BackwardData => columns_backward_data(g, a, b)?,
            Product::BackwardFilter => columns_backward_filter(g, a, b)?,
        };
        Buffer::copy(&out)
    }
}

/// Image i of x [n, ci, h, w] as columns [ci * kh * kw, oh * ow].
fn columns(g: &Geometry, x: &Tensor, i: usize) -> Result<Tensor> {
    let (rows, places) = (g.ci * g.kh * g.kw, g.oh * g.ow);
    let image = x.detach().narrow(0, i, 1)?;
    if rows == g.ci && g.stride == 1 && g.pad == 0 {
        return image.reshape((rows, places));
    }
    let out = Buffer::new(rows * places, x)?;
    Launch::new("unfold")
        .long(rows * places)
        .ints([g.h, g.w, g.kh, g.kw, g.oh, g.ow, g.stride, g.pad])
        .tensor(&image)?
        .buffer(&out)?
        .each(rows * places, x.device())?;
    Ok(out.tensor((rows, places)))
}

fn columns_forward(g: &Geometry, x: &Tensor, w: &Tensor) -> Result<Tensor> {
    let w = w.detach().reshape((g.co, g.ci * g.kh * g.kw))?;
    let images = (0..g.n).map(|i| w.matmul(&columns(g, x, i)?)?.reshape((1, g.co, g.oh, g.ow))).collect::<Result<Vec<_>>>()?;
    Tensor::cat(&images, 0)
}

fn columns_backward_data(g: &Geometry, gy: &Tensor, w: &Tensor) -> Result<Tensor> {
    let w = w.detach().reshape((g.co, g.ci * g.kh * g.kw))?.t()?.contiguous()?;
    let size = g.ci * g.h * g.w;
    let image = |i: usize| {
        let columns = w.matmul(&gy.detach().narrow(0, i, 1)?.reshape((g.co, g.oh * g.ow))?)?;
        let out = Buffer::new(size, gy)?;
        Launch::new("fold")
            .long(size)
            .ints([g.h, g.w, g.kh, g.kw, g.oh, g.ow, g.stride, g.pad])
            .tensor(&columns)?
            .buffer(&out)?
            .each(size, gy.device())?;
        Ok(out.tensor((1, g.ci, g.h, g.w)))
    };
    Tensor::cat(&(0..g.n).map(image).collect::<Result<Vec<_>>>()?, 0)
}

fn columns_backward_filter(g: &Geometry, x: &Tensor, gy: &Tensor) -> Result<Tensor> {
    let image = |i: usize| gy.detach().narrow(0, i, 1)?.reshape((g.co, g.oh * g.ow))?.matmul(&columns(g, x, i)?.t()?);
    let first = image(0)?;
    (1..g.n).try_fold(first, |sum, i| sum + image(i)?)?.reshape((g.co, g.ci, g.kh, g.kw))
}

/// max(v, slope * v) of the convolution plus bias; `bias` is flattened and fits.
pub(in crate::ops) fn conv(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, g: Geometry, transposed: bool, slope: f64) -> Result<Tensor> {
    let product = if transposed { Product::BackwardData } else { Product::Forward };
    let shape = product.shape(&g);
    let maps = Maps { n: shape[0], c: shape[1], plane: shape[2] * shape[3], noise_per_image: false };
    let out = product.of(&g, x, w)?;
    if bias.is_some() || slope != 1.0 {
        epilogue(maps, Source::InPlace, None, bias, slope, &out, x)?;
    }
    let (hx, hw) = (x.clone(), w.clone());
    let back = move |res: &Tensor, gy: &Tensor, bias: bool| -> Result<[Option<Tensor>; 3]> {
        let kept = (slope != 1.0).then_some(res);
        let Gradients { dx: sloped, sums } = match slope != 1.0 || bias {
            true => epilogue_back(maps, kept, gy, None, slope, (slope != 1.0, bias))?,
            false => Gradients { dx: None, sums: None },
        };
        let gy = sloped.map_or_else(|| gy.clone(), |s| s.tensor(gy.shape()));
        let dx = match (hx.track_op(), transposed) {
            (false, _) => None,
            (true, false) => Some(Product::BackwardData.of(&g, &gy, &hw)?.tensor(hx.shape())),
            (true, true) => Some(Product::Forward.of(&g, &gy, &hw)?.tensor(hx.shape())),
        };
        let dw = match (hw.track_op(), transposed) {
            (false, _) => None,
            (true, false) => Some(Product::BackwardFilter.of(&g, &hx, &gy)?.tensor(hw.shape())),
            (true, true) => Some(Product::BackwardFilter.of(&g, &gy, &hx)?.tensor(hw.shape())),
        };
        Ok([dx, dw, sums.map(|s| s.get(0)?.contiguous()).transpose()?])
    };
    let Some((b, shape)) = bias.map(|b| (b, shape.to_vec())) else {
        return kept2("conv2d", x, w, out.into_storage(), shape.to_vec(), move |res, g| {
            let [dx, dw, _] = back(res, g, false)?;
            Ok([dx, dw])
        });
    };
    let tracked = b.track_op();
    kept3("conv2d", x, w, b, out.into_storage(), shape, move |res, g| back(res, g, tracked))
}

/// w [a, b, kh, kw], contiguous, spread to [a, b, kh + 1, kw + 1].
pub(in crate::ops) fn spread(w: &Tensor, scale: f64) -> Result<Tensor> {
    let (a, b, kh, kw) = w.dims4()?;
    let (small, large) = (a * b * kh * kw, a * b * (kh + 1) * (kw + 1));
    if small == 0 {
        bail!("fused kernel of an empty tensor")
    }
    let out = Buffer::new(large, w)?;
    Launch::new("spread").long(large).ints([kh, kw]).float(scale).tensor(w)?.buffer(&out)?.each(large, w.device())?;
    placed1("fused_weight", w, out.into_storage(), (a, b, kh + 1, kw + 1), move |g| {
        let dw = Buffer::new(small, g)?;
        Launch::new("spread_back").long(small).ints([kh, kw]).float(scale).tensor(g)?.buffer(&dw)?.each(small, g.device())?;
        Ok([Some(dw.tensor((a, b, kh, kw)))])
    })
}
