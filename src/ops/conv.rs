//! Convolution and transposed convolution of [b, C, H, W] tensors, without groups: the graph side. Three kernels do the work: `direct`
//! (f32, stride 1), `strided` (f32, stride 2) and `unfold` (everything else).

use candle_core::{DType, Result, Shape, Tensor, bail};

use super::act::{act_in_place, masked};
use super::direct::{self, Epilogue, Plan};
use super::graph::{cpu, join, join1};
use super::node::{Scalar, by_dtype, data, fresh, gather, on_cuda, sum1, tensor};
use super::strided;
use super::unfold::{self, Geometry};

/// The direct kernel's plan for this convolution, where it serves it.
fn plan<T: Scalar>(g: &Geometry) -> Option<Plan> {
    let fits = T::DTYPE == DType::F32 && g.stride == 1 && g.kh == g.kw && g.pad < g.kh;
    fits.then_some(Plan { n: g.n, ci: g.ci, h: g.h, w: g.w, co: g.co, k: g.kh, pad: g.pad })
}

/// The plan over the phases of this convolution, where it serves it.
fn phases<T: Scalar>(g: &Geometry) -> Option<Plan> {
    if T::DTYPE == DType::F32 { strided::plan(g) } else { None }
}

/// Values of f32 as themselves; only called where T is f32.
fn own<T: Scalar>(v: Vec<f32>) -> Vec<T> {
    assert!(T::DTYPE == DType::F32);
    let mut v = std::mem::ManuallyDrop::new(v);
    // SAFETY: T is f32, and `v` gives its memory away.
    unsafe { Vec::from_raw_parts(v.as_mut_ptr().cast(), v.len(), v.capacity()) }
}

/// A slice of f32 as itself; only called where T is f32.
fn single<T: Scalar>(v: &[T]) -> &[f32] {
    assert!(T::DTYPE == DType::F32);
    // SAFETY: T is f32.
    unsafe { std::slice::from_raw_parts(v.as_ptr().cast(), v.len()) }
}

fn single_mut<T: Scalar>(v: &mut [T]) -> &mut [f32] {
    assert!(T::DTYPE == DType::F32);
    // SAFETY: T is f32.
    unsafe { std::slice::from_raw_parts_mut(v.as_mut_ptr().cast(), v.len()) }
}

/// max(v, slope * v) of conv(x, w) + bias.
fn forward<T: Scalar>(g: &Geometry, x: &[T], w: &[T], bias: Option<&[T]>, slope: f64) -> Vec<T> {
    if let Some(p) = phases::<T>(g) {
        return own(strided::forward(g, &p, single(x), single(w), Epilogue { bias: bias.map(single), slope: slope as f32 }));
    }
    let Some(p) = plan::<T>(g) else {
        let mut out = unfold::forward(g, x, w, bias);
        if slope != 1.0 {
            act_in_place(&mut out, T::of(slope));
        }
        return out;
    };
    let mut out = fresh::<T>(g.n * g.co * g.oh * g.ow);
    let packed = direct::pack(single(w), g.co, g.ci, g.kh * g.kw, false);
    let end = Epilogue { bias: bias.map(single), slope: slope as f32 };
    direct::forward(&p, single(x), None, &packed, end, single_mut(&mut out));
    out
}

/// The gradient of the input: with stride 1 a convolution by the flipped kernel. `mask` is the result whose leaky ReLU the gradient
/// passes first, with its slope.
fn backward_x<T: Scalar>(g: &Geometry, gy: &[T], mask: Option<(&[T], f64)>, w: &[T], bias: Option<&[T]>) -> Vec<T> {
    if let Some(p) = phases::<T>(g) {
        return own(strided::backward_x(g, &p, single(gy), single(w), bias.map(single)));
    }
    let Some(p) = plan::<T>(g) else { return unfold::backward_x(g, gy, w, bias) };
    let p = Plan { ci: p.co, co: p.ci, h: g.oh, w: g.ow, pad: p.k - 1 - p.pad, ..p };
    let mut out = fresh::<T>(g.n * g.ci * g.h * g.w);
    let packed = direct::pack(single(w), g.co, g.ci, g.kh * g.kw, true);
    let end = Epilogue { bias: bias.map(single), slope: 1.0 };
    direct::forward(&p, single(gy), mask.map(|(m, s)| (single(m), s as f32)), &packed, end, single_mut(&mut out));
    out
}

fn backward_w<T: Scalar>(g: &Geometry, x: &[T], gy: &[T]) -> Vec<T> {
    match plan::<T>(g).filter(direct::has_backward_w) {
        Some(p) => own(direct::backward_w(&p, single(x), single(gy))),
        None => unfold::backward_w(g, x, gy),
    }
}

/// What the gradients of a convolution need: its geometry, its kernel, its input (for the gradient of the kernel alone), whether it is
/// the transposed one, and the slope of the leaky ReLU behind it (1: none).
struct Backward {
    g: Geometry,
    x: Option<Tensor>,
    shape: Shape,
    wants_x: bool,
    w: Tensor,
    transposed: bool,
    slope: f64,
}

impl Backward {
    fn run<T: Scalar>(&self, res: &Tensor, grad: &Tensor, bias: bool) -> Result<[Option<Tensor>; 3]> {
        let (g, wants_w) = (&self.g, self.x.is_some());
        // A frozen layer applies the slope while it copies the gradient; where others read the gradient too it is made first.
        let while_copying = self.slope != 1.0 && !wants_w && !bias && !self.transposed && plan::<T>(g).is_some();
        let sloped = if self.slope == 1.0 || while_copying { grad.clone() } else { masked::<T>(res, grad, T::of(self.slope))? };
        let gy = data::<T>(&sloped)?;
        let res = while_copying.then(|| data::<T>(res)).transpose()?;
        let mask = res.as_ref().map(|r| (&**r, self.slope));
        let w = data::<T>(&self.w)?;
        let dx = self.wants_x.then(|| match self.transposed {
            true => forward(g, &gy, &w, None, 1.0),
            false => backward_x(g, &gy, mask, &w, None),
        });
        let dw = if let Some(x) = &self.x {
            let x = data::<T>(x)?;
            Some(if self.transposed { backward_w(g, &gy, &x) } else { backward_w(g, &x, &gy) })
        } else {
            None
        };
        let dx = dx.map(|v| tensor(v, &self.shape)).transpose()?;
        let dw = dw.map(|v| tensor(v, self.w.shape())).transpose()?;
        let c = grad.dim(1)?;
        let db = if bias { Some(tensor(bias_gradient(&gy, g.n, c), c)?) } else { None };
        Ok([dx, dw, db])
    }
}

fn conv<T: Scalar>(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, g: Geometry, transposed: bool, slope: f64) -> Result<Tensor> {
    let c = if transposed { g.ci } else { g.co };
    let bias = bias.map(|b| b.flatten_all()?.contiguous()).transpose()?;
    if let Some(b) = &bias
        && b.elem_count() != c
    {
        bail!("conv: bias {:?} for {c} channels", b.dims())
    }
    let (x, w) = (x.contiguous()?, w.contiguous()?);
    on_cuda!(&x, conv(&x, &w, bias.as_ref(), g, transposed, slope));
    let out = {
        let (x, w) = (data::<T>(&x)?, data::<T>(&w)?);
        let bias = bias.as_ref().map(data::<T>).transpose()?;
        let bias = bias.as_deref();
        if transposed { backward_x(&g, &x, None, &w, bias) } else { forward(&g, &x, &w, bias, slope) }
    };
    let shape = if transposed { (g.n, g.ci, g.h, g.w) } else { (g.n, g.co, g.oh, g.ow) };
    let held = w.track_op().then(|| x.clone());
    let back = Backward { g, x: held, shape: x.shape().clone(), wants_x: x.track_op(), w: w.clone(), transposed, slope };
    let keep = slope != 1.0;
    match bias {
        Some(b) => {
            let tracked = b.track_op();
            join("conv2d", [&x, &w, &b], cpu(out), shape, keep, move |res, g| back.run::<T>(res, g, tracked))
        }
        None => join("conv2d", [&x, &w], cpu(out), shape, keep, move |res, g| {
            let [dx, dw, _] = back.run::<T>(res, g, false)?;
            Ok([dx, dw])
        }),
    }
}

/// Sum over images and places of g [n, c, plane]: the gradient of a bias.
pub(super) fn bias_gradient<T: Scalar>(g: &[T], n: usize, c: usize) -> Vec<T> {
    let plane = g.len() / (n * c).max(1);
    let planes = gather(n * c, g.len(), |i| sum1(&g[i * plane..(i + 1) * plane], |g| g));
    let mut out = vec![T::zero(); c];
    for row in planes.chunks_exact(c) {
        out.iter_mut().zip(row).for_each(|(o, v)| *o += *v);
    }
    out
}

fn geometry(x: &Tensor, w: &Tensor, stride: usize, pad: usize) -> Result<Geometry> {
    let (n, ci, h, wd) = x.dims4()?;
    let (co, wi, kh, kw) = w.dims4()?;
    if wi != ci || ci * co * kh * kw * h * wd * n * stride == 0 || h + 2 * pad < kh || wd + 2 * pad < kw {
        bail!("conv2d: input {:?}, kernel {:?}, stride {stride}, pad {pad} do not fit", x.dims(), w.dims())
    }
    let (oh, ow) = ((h + 2 * pad - kh) / stride + 1, (wd + 2 * pad - kw) / stride + 1);
    Ok(Geometry { n, ci, h, w: wd, co, kh, kw, oh, ow, stride, pad })
}

/// Convolution (cross-correlation, as in every network library) of x [b, I, H, W] with w [O, I, kh, kw] and bias [O], zero padding
/// `pad` on each side: [b, O, (H + 2 pad - kh) / stride + 1, ...].
///
/// Errors: shapes that do not fit, or a map smaller than the kernel.
pub fn conv2d(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, stride: usize, pad: usize) -> Result<Tensor> {
    let g = geometry(x, w, stride, pad)?;
    by_dtype!(x, conv(x, w, bias, g, false, 1.0))
}

/// [`conv2d`], then [`super::leaky_relu`] with this slope (0: ReLU), in one pass.
///
/// Errors: shapes that do not fit, or a slope outside 0..1.
pub fn conv2d_lrelu(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, stride: usize, pad: usize, slope: f64) -> Result<Tensor> {
    if !(0.0..=1.0).contains(&slope) {
        bail!("conv2d_lrelu: slope {slope} is not in 0..1")
    }
    let g = geometry(x, w, stride, pad)?;
    by_dtype!(x, conv(x, w, bias, g, false, slope))
}

/// Transposed convolution of x [b, I, H, W] with w [I, O, kh, kw] and bias [O]: [b, O, (H - 1) stride + kh - 2 pad, ...].
///
/// Errors: shapes that do not fit.
pub fn conv_transpose2d(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, stride: usize, pad: usize) -> Result<Tensor> {
    let (n, ci, h, wd) = x.dims4()?;
    let (wi, co, kh, kw) = w.dims4()?;
    let size = |s: usize, k: usize| (s.max(1) - 1) * stride + k;
    if wi != ci || ci * co * kh * kw * h * wd * n * stride == 0 || size(h, kh) <= 2 * pad || size(wd, kw) <= 2 * pad {
        bail!("conv_transpose2d: input {:?}, kernel {:?}, stride {stride}, pad {pad} do not fit", x.dims(), w.dims())
    }
    // It is the gradient of the convolution that leads from the larger map back to x.
    let g = Geometry { n, ci: co, h: size(h, kh) - 2 * pad, w: size(wd, kw) - 2 * pad, co: ci, kh, kw, oh: h, ow: wd, stride, pad };
    by_dtype!(x, conv(x, w, bias, g, true, 1.0))
}

/// w [a, b, k, k] spread to [a, b, k+1, k+1]: the sum of its four shifts, times `scale`.
fn spread<T: Scalar>(w: &Tensor, scale: f64) -> Result<Tensor> {
    let (a, b, kh, kw) = w.dims4()?;
    let w = w.contiguous()?;
    on_cuda!(&w, spread(&w, scale));
    let s = T::of(scale);
    let mut out = vec![T::zero(); a * b * (kh + 1) * (kw + 1)];
    for (o, src) in out.chunks_exact_mut((kh + 1) * (kw + 1)).zip(data::<T>(&w)?.chunks_exact(kh * kw)) {
        for (i, v) in src.iter().enumerate() {
            let (y, x) = (i / kw, i % kw);
            for at in [(y, x), (y, x + 1), (y + 1, x), (y + 1, x + 1)] {
                o[at.0 * (kw + 1) + at.1] += *v * s;
            }
        }
    }
    join1("fused_weight", &w, out, (a, b, kh + 1, kw + 1), move |g| {
        let mut dw = vec![T::zero(); a * b * kh * kw];
        for (d, g) in dw.chunks_exact_mut(kh * kw).zip(data::<T>(g)?.chunks_exact((kh + 1) * (kw + 1))) {
            for (i, d) in d.iter_mut().enumerate() {
                let at = i / kw * (kw + 1) + i % kw;
                *d = (g[at] + g[at + 1] + g[at + kw + 1] + g[at + kw + 2]) * s;
            }
        }
        Ok([Some(tensor(dw, (a, b, kh, kw))?)])
    })
}

/// The 4x4 kernel that convolves and halves in one step with stride 2, pad 1: the mean of the four shifts of a 3x3 kernel (PGGAN,
/// "conv2d_downscale2d" of the reference code).
pub fn fused_down_weight(w: &Tensor) -> Result<Tensor> {
    by_dtype!(w, spread(w, 0.25))
}

/// The 4x4 kernel that doubles and convolves in one step, for [`conv_transpose2d`] with stride 2, pad 1: the sum of the four shifts of
/// a 3x3 kernel (PGGAN, "upscale2d_conv2d" of the reference code). The kernel keeps its layout; transposed convolution wants [I, O, ..].
pub fn fused_up_weight(w: &Tensor) -> Result<Tensor> {
    by_dtype!(w, spread(w, 1.0))
}
