//! The exponential moving average of a generator's parameters.

use candle_core::{CpuStorage, InplaceOp2, Layout, Tensor, bail};

/// a += weight * (b - a), in place.
pub(super) struct Towards {
    pub weight: f64,
}

impl Towards {
    pub(super) fn apply(&self, a: &Tensor, b: &Tensor) -> candle_core::Result<()> {
        #[cfg(any(feature = "cuda", feature = "emulate-cuda"))]
        if crate::ops::cuda::serves(a)? {
            return crate::ops::cuda::towards(a, &b.contiguous()?, self.weight);
        }
        a.inplace_op2(b, self)
    }
}

impl InplaceOp2 for Towards {
    fn name(&self) -> &'static str {
        "moving-average"
    }

    fn cpu_fwd(&self, a: &mut CpuStorage, la: &Layout, b: &CpuStorage, lb: &Layout) -> candle_core::Result<()> {
        match (a, b, la.contiguous_offsets(), lb.contiguous_offsets()) {
            (CpuStorage::F32(a), CpuStorage::F32(b), Some((a0, a1)), Some((b0, b1))) => {
                let weight = self.weight as f32;
                a[a0..a1].iter_mut().zip(&b[b0..b1]).for_each(|(a, b)| *a += weight * (b - *a));
                Ok(())
            }
            _ => bail!("the moving average works on contiguous f32 tensors"),
        }
    }
}
