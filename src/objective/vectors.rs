//! Losses between vectors: Eq. 3 (distance, cosine), Eq. 4 (KL divergence) and the pixel part of Eq. 6.
//!
//! `target` and `pred` have one shape [n, ...]; one "vector" of the paper is one whole sample, flattened, unless a kind says
//! otherwise. Every function gives a scalar. Gradients reach both arguments.

use candle_core::{CpuStorage, CudaStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::recipe::{Cosine, Distance, Kl};
use crate::ops;

/// Squared lengths up to this count as zero.
const ZERO: f64 = 1e-20;

/// The distance term. The norm of a zero difference has value and gradient 0.
pub fn distance(kind: Distance, target: &Tensor, pred: &Tensor) -> Result<Tensor> {
    let n = target.dim(0)? as f64;
    let squares = ops::sample_products(target, pred)?.get(0)?;
    match kind {
        Distance::Mse => squares.sum_all()?.affine(1.0 / target.elem_count() as f64, 0.0),
        Distance::NormBatch => safe_sqrt(&squares.sum_all()?)?.affine(1.0 / n, 0.0),
        Distance::NormSample => safe_sqrt(&squares)?.mean_all(),
    }
}

/// 1 - cosine. Where one of the vectors is zero the term is 1 with gradient 0: z_n' starts at zero, and an eps in the
/// denominator would give it a gradient of 1e6 and more.
pub fn cosine(kind: Cosine, target: &Tensor, pred: &Tensor) -> Result<Tensor> {
    let shaped = |x: &Tensor| match kind {
        Cosine::Sample => Ok(x.clone()),
        Cosine::Last => last_rows(x),
        Cosine::Batch => x.reshape((1, x.elem_count())),
    };
    let products = ops::sample_products(&shaped(target)?, &shaped(pred)?)?;
    let (dot, aa, bb) = (products.get(1)?, products.get(2)?, products.get(3)?);
    let ok = (aa.detach().gt(ZERO)?.to_dtype(aa.dtype())? * bb.detach().gt(ZERO)?.to_dtype(aa.dtype())?)?;
    let fill = ok.affine(-1.0, 1.0)?;
    let lengths = ((aa + &fill)?.sqrt()? * (bb + &fill)?.sqrt()?)?;
    ((dot * ok)? / lengths)?.affine(-1.0, 1.0)?.mean_all()
}

/// The KL divergence of the softmaxes.
pub fn kl(kind: Kl, target: &Tensor, pred: &Tensor) -> Result<Tensor> {
    match kind {
        Kl::ReverseSample => ops::softmax_kl(pred, target)?.mean_all(),
        Kl::ReverseLast => ops::softmax_kl(&last_rows(pred)?, &last_rows(target)?)?.mean_all(),
        Kl::ForwardSample => ops::softmax_kl(target, pred)?.mean_all(),
        Kl::Released => released_kl(target, pred),
    }
}

/// The released form: logarithms of softmaxes, so that a probability of 0 gives NaN or infinity, which then is replaced.
fn released_kl(target: &Tensor, pred: &Tensor) -> Result<Tensor> {
    let axis = if matches!(target.rank(), 1 | 3) { 0 } else { 1 };
    let softmax = |x: &Tensor| -> Result<Tensor> {
        let e = x.broadcast_sub(&x.detach().max_keepdim(axis)?)?.exp()?;
        e.broadcast_div(&e.sum_keepdim(axis)?)
    };
    let (p, q) = (softmax(target)?, softmax(pred)?);
    // p log p is 0 at p = 0.
    let entropy = (&p * p.maximum(f32::MIN_POSITIVE)?.log()?)?;
    (entropy - (p * q.log()?)?)?.mean_all()?.apply_op1(ReplaceNonFinite)
}

/// sqrt(s) for s >= 0 with value and gradient 0 at 0.
fn safe_sqrt(s: &Tensor) -> Result<Tensor> {
    let ok = s.detach().gt(ZERO)?.to_dtype(s.dtype())?;
    (s + ok.affine(-1.0, 1.0)?)?.sqrt()? * ok
}

/// [everything else, last axis].
fn last_rows(x: &Tensor) -> Result<Tensor> {
    let last = x.dim(candle_core::D::Minus1)?;
    x.reshape((x.elem_count() / last.max(1), last))
}

/// NaN becomes 0 and infinity 1, both with gradient 0 (which a probability of 0 further back turns into NaN, as released).
struct ReplaceNonFinite;

impl ReplaceNonFinite {
    fn on(storage: &CpuStorage, layout: &Layout) -> Result<CpuStorage> {
        fn replace<T: num_traits::Float>(v: T) -> T {
            match v {
                v if v.is_nan() => T::zero(),
                v if v.is_infinite() => T::one(),
                v => v,
            }
        }
        let at = layout.start_offset();
        match storage {
            CpuStorage::F32(v) => Ok(CpuStorage::F32(vec![replace(v[at])])),
            CpuStorage::F64(v) => Ok(CpuStorage::F64(vec![replace(v[at])])),
            _ => candle_core::bail!("the losses know f32 and f64"),
        }
    }
}

impl CustomOp1 for ReplaceNonFinite {
    fn name(&self) -> &'static str {
        "replace-non-finite"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((Self::on(storage, layout)?, layout.shape().clone()))
    }

    fn cuda_fwd(&self, storage: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        use candle_core::backend::{BackendDevice, BackendStorage};
        let host = Self::on(&storage.to_cpu_storage()?, layout)?;
        Ok((storage.device().storage_from_cpu_storage(&host)?, layout.shape().clone()))
    }

    fn bwd(&self, arg: &Tensor, res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some((grad * arg.eq(res)?.to_dtype(grad.dtype())?)?))
    }
}
