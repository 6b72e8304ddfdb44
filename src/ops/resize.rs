//! Resizing by two matrices, one per axis: any linear resampling (bilinear, area, adaptive pooling) is such a pair.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::graph::join1;
use super::node::{Scalar, by_dtype, data, on_cuda, tensor};
use super::unfold::gemm;

/// out = a x b^T for every plane of x [planes, h, w]; a [oh, h] and b [ow, w] with (row, column) strides.
#[derive(Clone, Copy)]
struct Pair {
    oh: usize,
    h: usize,
    sa: (usize, usize),
    ow: usize,
    w: usize,
    sb: (usize, usize),
}

impl Pair {
    fn apply<T: Scalar>(&self, x: &[T], a: &[T], b: &[T]) -> Vec<T> {
        let Pair { oh, h, sa, ow, w, sb } = *self;
        let mut out = vec![T::zero(); x.len() / (h * w).max(1) * oh * ow];
        out.par_chunks_mut((oh * ow).max(1)).enumerate().for_each_init(
            || vec![T::zero(); oh * w],
            |half, (i, o)| {
                // SAFETY: the shapes of all five matrices were checked by `run`.
                unsafe {
                    gemm((oh, w, h), half.as_mut_ptr(), (w, 1), false, a.as_ptr(), sa, x[i * h * w..].as_ptr(), (w, 1));
                    gemm((oh, ow, w), o.as_mut_ptr(), (ow, 1), false, half.as_ptr(), (w, 1), b.as_ptr(), (sb.1, sb.0));
                }
            },
        );
        out
    }
}

fn run<T: Scalar>(x: &Tensor, rh: &Tensor, rw: &Tensor) -> Result<Tensor> {
    let (n, c, h, w) = x.dims4()?;
    let ((oh, ah), (ow, aw)) = (rh.dims2()?, rw.dims2()?);
    if (ah, aw) != (h, w) || h * w == 0 {
        bail!("matmul_resize: input {:?}, matrices {:?} and {:?} do not fit", x.dims(), rh.dims(), rw.dims())
    }
    let (x, rh, rw) = (x.contiguous()?, rh.detach().contiguous()?, rw.detach().contiguous()?);
    on_cuda!(&x, resize(&x, rh, rw));
    let pair = Pair { oh, h, sa: (h, 1), ow, w, sb: (w, 1) };
    let out = pair.apply(&data::<T>(&x)?, &data::<T>(&rh)?, &data::<T>(&rw)?);
    join1("matmul_resize", &x, out, (n, c, oh, ow), move |g| {
        let back = Pair { oh: h, h: oh, sa: (1, h), ow: w, w: ow, sb: (1, w) };
        Ok([Some(tensor(back.apply(&data::<T>(g)?, &data::<T>(&rh)?, &data::<T>(&rw)?), (n, c, h, w))?)])
    })
}

/// rh x rw^T for every plane of x [b, C, H, W], with constant rh [OH, H] and rw [OW, W]: [b, C, OH, OW].
///
/// Errors: shapes that do not fit.
pub fn matmul_resize(x: &Tensor, rh: &Tensor, rw: &Tensor) -> Result<Tensor> {
    by_dtype!(x, run(x, rh, rw))
}
