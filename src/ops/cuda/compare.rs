//! Comparisons by sample and modulation, as compositions of candle's kernels.

use candle_core::{Result, Tensor};

/// `x` and `y` have one shape; so for [`softmax_kl`].
pub(in crate::ops) fn sample_products(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let rows = |t: &Tensor| t.reshape((t.dim(0)?, ()));
    let (x, y) = (rows(x)?, rows(y)?);
    Tensor::stack(&[(&x - &y)?.sqr()?.sum(1)?, (&x * &y)?.sum(1)?, x.sqr()?.sum(1)?, y.sqr()?.sum(1)?], 0)
}

pub(in crate::ops) fn softmax_kl(p: &Tensor, q: &Tensor) -> Result<Tensor> {
    let logs = |t: &Tensor| super::log_softmax(t)?.reshape((t.dim(0)?, ()));
    let (p, q) = (logs(p)?, logs(q)?);
    (p.exp()? * (p - q)?)?.sum(1)
}

/// `scale` and `shift` hold a value per map or per channel.
pub(in crate::ops) fn modulate(x: &Tensor, scale: &Tensor, shift: Option<&Tensor>) -> Result<Tensor> {
    let c = x.dim(1)?;
    let shaped = |t: &Tensor| t.reshape(((), c, 1, 1));
    let y = x.broadcast_mul(&shaped(scale)?)?;
    shift.map_or(Ok(y.clone()), |t| y.broadcast_add(&shaped(t)?))
}
