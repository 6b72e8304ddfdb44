//! The fully connected layer.

use candle_core::{Result, Tensor, bail};

use super::graph::{join2, join3};
use super::node::{Scalar, Shared, by_dtype, data, fresh, gather, on_cuda, tensor};
use super::unfold::gemm;

/// Columns (or rows) of a matrix product that one task computes.
const BLOCK: usize = 128;

/// out[m, n] = a[m, k] b[k, n], strides (row, column); split over blocks of n.
fn product<T: Scalar>((m, n, k): (usize, usize, usize), a: &[T], sa: (usize, usize), b: &[T], sb: (usize, usize)) -> Vec<T> {
    let mut out = fresh(m * n);
    let shared = Shared::new(&mut out);
    gather(n.div_ceil(BLOCK), m * n * k / 16, |i| {
        let (at, len) = (i * BLOCK, BLOCK.min(n - i * BLOCK));
        // SAFETY: the block's columns at..at+len are written by this task only, and all pointers are in bounds.
        unsafe {
            let dst = shared.part(at, 1).as_mut_ptr();
            gemm((m, len, k), dst, (n, 1), false, a.as_ptr(), sa, b.as_ptr().add(at * sb.1), sb)
        }
    });
    out
}

fn run<T: Scalar>(x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (out_dim, in_dim) = w.dims2()?;
    let Some(&last) = x.dims().last() else { bail!("linear: the input is a scalar") };
    if last != in_dim || in_dim == 0 || out_dim == 0 {
        bail!("linear: input {:?}, weight {:?} do not fit", x.dims(), w.dims())
    }
    let rows = x.elem_count() / in_dim.max(1);
    let (x, w) = (x.contiguous()?, w.contiguous()?);
    let mut shape = x.dims().to_vec();
    if let Some(l) = shape.last_mut() {
        *l = out_dim;
    }
    let bias = bias.map(|b| b.flatten_all()?.contiguous()).transpose()?;
    if let Some(b) = &bias
        && b.elem_count() != out_dim
    {
        bail!("linear: bias {:?} for {out_dim} outputs", b.dims())
    }
    on_cuda!(&x, linear(&x, &w, bias.as_ref(), shape));
    let mut y = product((rows, out_dim, in_dim), &data::<T>(&x)?, (in_dim, 1), &data::<T>(&w)?, (1, in_dim));
    if let Some(b) = &bias {
        let b = data::<T>(b)?;
        y.chunks_exact_mut(out_dim).for_each(|y| y.iter_mut().zip(b.iter()).for_each(|(y, b)| *y += *b));
    }
    // The input is kept for the gradient of the weights alone.
    let (shape_x, wants_x, held_x, held_w) = (x.shape().clone(), x.track_op(), w.track_op().then(|| x.clone()), w.clone());
    let back = move |g: &Tensor, bias: bool| -> Result<[Option<Tensor>; 3]> {
        let g = data::<T>(g)?;
        let dx = if wants_x {
            let dx = product((rows, in_dim, out_dim), &g, (out_dim, 1), &data::<T>(&held_w)?, (in_dim, 1));
            Some(tensor(dx, &shape_x)?)
        } else {
            None
        };
        let dw = if let Some(x) = &held_x {
            let dw = product((out_dim, in_dim, rows), &g, (1, out_dim), &data::<T>(x)?, (in_dim, 1));
            Some(tensor(dw, (out_dim, in_dim))?)
        } else {
            None
        };
        let db = if bias {
            let mut db = vec![T::zero(); out_dim];
            g.chunks_exact(out_dim).for_each(|g| db.iter_mut().zip(g).for_each(|(d, g)| *d += *g));
            Some(tensor(db, out_dim)?)
        } else {
            None
        };
        Ok([dx, dw, db])
    };
    match bias {
        Some(b) => {
            let tracked = b.track_op();
            join3("linear", &x, &w, &b, y, shape, move |g| back(g, tracked))
        }
        None => join2("linear", &x, &w, y, shape, move |g| {
            let [dx, dw, _] = back(g, false)?;
            Ok([dx, dw])
        }),
    }
}

/// x [.., in] times the transpose of w [out, in], plus bias [out]: [.., out].
///
/// Errors: shapes that do not fit.
pub fn linear(x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    by_dtype!(x, run(x, w, bias))
}
