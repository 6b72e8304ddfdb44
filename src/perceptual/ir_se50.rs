//! IR-SE50, the ArcFace network by which pSp and its successors compare identities: TreB1eN/InsightFace_Pytorch `model.py`
//! (`Backbone(50, mode="ir_se")`); the crop is that of pSp's `id_loss.py`. Its body is the one of [`crate::inverters::psp`].
//!
//! Not compared with the published network yet: no machine of this project had its weights.

use candle_core::{D, Result, Tensor};

use crate::inverters::BatchNorm;
use crate::inverters::psp::{Body, pool_to};
use crate::ops;
use crate::params::{Init, Params};

/// Side of the faces that the network takes.
pub const SIDE: usize = 112;
const WIDTHS: [usize; 4] = [64, 128, 256, 512];
const BLOCKS: [usize; 4] = [3, 4, 14, 3];
/// Side of the last map.
const LAST: usize = SIDE / 16;
const EMBEDDING: usize = 512;

/// The network.
pub struct IrSe50 {
    body: Body,
    norm: BatchNorm,
    linear: (Tensor, Tensor),
    last: BatchNorm,
}

impl IrSe50 {
    /// `p` has input_layer, body and output_layer (batch norm, dropout, flatten, linear, batch norm).
    pub fn new(p: &Params) -> Result<Self> {
        let out = p.pp("output_layer");
        let inputs = WIDTHS[3] * LAST * LAST;
        let linear = out.pp(3);
        let weight = linear.get("weight", (EMBEDDING, inputs), Init::Normal((1.0 / inputs as f64).sqrt()))?;
        Ok(IrSe50 {
            body: Body::new(p, WIDTHS, BLOCKS)?,
            norm: BatchNorm::new(&out.pp(0), WIDTHS[3])?,
            linear: (weight, linear.get("bias", EMBEDDING, Init::Const(0.0))?),
            last: BatchNorm::new(&out.pp(4), EMBEDDING)?,
        })
    }

    /// Aligned portraits `[n, 3, 256, 256]` in [-1, 1] (FFHQ, CelebA-HQ) to embeddings `[n, 512]` of length 1: the face is cut out
    /// as pSp does, rows 35 to 222 and columns 32 to 219, and averaged down to 112 px.
    pub fn embed(&self, portraits: &Tensor) -> Result<Tensor> {
        let faces = pool_to(&portraits.narrow(2, 35, 188)?.narrow(3, 32, 188)?.contiguous()?, SIDE)?;
        let maps = self.body.stages(&faces)?.swap_remove(3);
        let flat = self.norm.forward(&maps)?.flatten_from(1)?;
        let x = ops::linear(&flat, &self.linear.0, Some(&self.linear.1))?.unsqueeze(D::Minus1)?.unsqueeze(D::Minus1)?;
        let x = self.last.forward(&x)?.flatten_from(1)?;
        x.broadcast_div(&(x.sqr()?.sum_keepdim(D::Minus1)? + 1e-12)?.sqrt()?)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::random::Stream;

    #[test]
    fn embeddings_have_length_one_and_see_the_face_only() -> Result<()> {
        let device = Device::Cpu;
        let fresh = Params::fresh(1, DType::F32, &device);
        IrSe50::new(&fresh)?;
        let frozen = Params::frozen(fresh.snapshot()?, DType::F32, &device, "test");
        let net = IrSe50::new(&frozen)?;
        frozen.finish()?;
        let x = Stream::new(1, "portrait").normal_rows(&[0], &[3, 256, 256], &device)?;
        let e = net.embed(&x)?;
        assert_eq!(e.dims(), [1, 512]);
        assert!((e.sqr()?.sum_all()?.to_scalar::<f32>()? - 1.0).abs() < 1e-4);
        let inside = |top: usize, left: usize| -> Result<f32> {
            let spot =
                Tensor::ones((1, 3, 8, 8), DType::F32, &device)?.pad_with_zeros(2, top, 248 - top)?.pad_with_zeros(3, left, 248 - left)?;
            (net.embed(&(&x + (spot * 5.0)?)?)? - &e)?.abs()?.max_all()?.to_scalar()
        };
        assert_eq!(inside(10, 100)?, 0.0);
        assert_eq!(inside(100, 10)?, 0.0);
        assert!(inside(100, 100)? > 1e-4);
        Ok(())
    }
}
