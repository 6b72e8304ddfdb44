//! The fully connected layer and resizing by two matrices: cuBLAS's products (through candle), and kernels for what is around them.

use candle_core::{Result, Tensor};

use super::super::graph::{placed1, placed2, placed3};
use super::launch::{Buffer, Launch};

/// A product's result as a buffer, without copying where candle allows it.
fn owned(t: Tensor) -> Result<Buffer> {
    Buffer::copy(&t)
}

/// `x` [.., in] of `rows` rows and `w` [out, in], contiguous, `bias` [out].
pub(in crate::ops) fn linear(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, shape: Vec<usize>) -> Result<Tensor> {
    let (out_dim, in_dim) = w.dims2()?;
    let rows = x.elem_count() / in_dim;
    let flat = x.detach().reshape((rows, in_dim))?;
    let y = owned(flat.matmul(&w.detach().t()?)?)?;
    if let Some(b) = bias {
        Launch::new("add_row").long(rows * out_dim).int(out_dim).tensor(b)?.buffer(&y)?.each(rows * out_dim, x.device())?;
    }
    let (hx, hw) = (x.clone(), w.clone());
    let back = move |g: &Tensor, bias: bool| -> Result<[Option<Tensor>; 3]> {
        let g = g.reshape((rows, out_dim))?;
        let dx = match hx.track_op() {
            true => Some(g.matmul(&hw.detach())?.reshape(hx.shape())?),
            false => None,
        };
        let dw = match hw.track_op() {
            true => Some(g.t()?.matmul(&hx.detach().reshape((rows, in_dim))?)?),
            false => None,
        };
        let db = if bias {
            let db = Buffer::new(out_dim, &g)?;
            Launch::new("column_sums").ints([rows, out_dim]).tensor(&g)?.buffer(&db)?.each(out_dim, g.device())?;
            Some(db.tensor(out_dim))
        } else {
            None
        };
        Ok([dx, dw, db])
    };
    match bias {
        Some(b) => {
            let tracked = b.track_op();
            placed3("linear", x, w, b, y.into_storage(), shape, move |g| back(&g.detach(), tracked))
        }
        None => placed2("linear", x, w, y.into_storage(), shape, move |g| {
            let [dx, dw, _] = back(&g.detach(), false)?;
            Ok([dx, dw])
        }),
    }
}

/// a x b^T for every plane of x [n, c, h, w], with a [oh, h] and b [ow, w] that may be strided.
fn resized(x: &Tensor, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (n, c, h, w) = x.dims4()?;
    let ((oh, _), (ow, _)) = (a.dims2()?, b.dims2()?);
    let half = x.reshape((n * c * h, w))?.matmul(&b.t()?)?.reshape((n * c, h, ow))?;
    a.broadcast_as((n * c, oh, h))?.contiguous()?.matmul(&half)?.reshape((n, c, oh, ow))
}

/// `x`, `rh` [oh, h] and `rw` [ow, w] are contiguous and fit; the matrices are constants.
pub(in crate::ops) fn resize(x: &Tensor, rh: Tensor, rw: Tensor) -> Result<Tensor> {
    let y = resized(&x.detach(), &rh, &rw)?;
    let shape = y.shape().clone();
    placed1("matmul_resize", x, owned(y)?.into_storage(), shape, move |g| {
        Ok([Some(resized(&g.detach(), &rh.t()?, &rw.t()?)?.contiguous()?)])
    })
}
