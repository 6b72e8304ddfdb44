//! Gradient penalties in the tangent form against double backward in float64 (paper_recipe, section 9): the released StyleGAN1
//! discriminator at 16 px, R1 with its minibatch standard deviation and WGAN-GP without.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Result, Tensor};
use mtv_bench::ops;
use mtv_bench::params::{Init, Params};
use mtv_bench::zoo::discriminator::{Dual, Penalty, input_gradient};

use super::harness::{Check, Fixture, Outcome};

pub const CHECKS: &[Check] = &[r1_discriminator];

/// The released discriminator of the fixture: three blocks of 8, 16, 16 channels.
struct Released {
    rgb: (Tensor, Tensor),
    /// conv_1, bias_1, conv_2, bias_2
    blocks: Vec<[Tensor; 4]>,
    last: (Tensor, Tensor),
    dense: (Tensor, Tensor),
    score: (Tensor, Tensor),
    minibatch_std: bool,
}

impl Released {
    fn new(p: &Params, minibatch_std: bool) -> Result<Self> {
        let get = |name: &str, shape: &[usize]| p.get(name, shape, Init::Const(0.0));
        let block = |i: usize, c: usize, out: usize| -> Result<[Tensor; 4]> {
            let name = |what: &str| format!("encode_block.{i}.{what}");
            Ok([
                get(&name("conv_1.weight"), &[c, c, 3, 3])?,
                get(&name("bias_1"), &[1, c, 1, 1])?,
                get(&name("conv_2.weight"), &[out, c, 3, 3])?,
                get(&name("bias_2"), &[1, out, 1, 1])?,
            ])
        };
        Ok(Released {
            rgb: (get("from_rgb.0.from_rgb.weight", &[8, 3, 1, 1])?, get("from_rgb.0.from_rgb.bias", &[8])?.reshape((1, 8, 1, 1))?),
            blocks: vec![block(0, 8, 16)?, block(1, 16, 16)?],
            last: (get("encode_block.2.conv_1.weight", &[16, 17, 3, 3])?, get("encode_block.2.bias_1", &[1, 16, 1, 1])?),
            dense: (get("encode_block.2.dense.weight", &[16, 256])?, get("encode_block.2.dense.bias", &[16])?),
            score: (get("fc2.weight", &[1, 16])?, get("fc2.bias", &[1])?),
            minibatch_std,
        })
    }

    fn scores(&self, x: &Dual) -> Result<Dual> {
        let conv = |x: &Dual, w: &Tensor| x.linear(|x| ops::conv2d(x, w, None, 1, w.dim(2)? / 2));
        let mut x = conv(x, &self.rgb.0)?.bias_lrelu(Some(&self.rgb.1), 0.2)?.lrelu(0.2)?;
        for [w1, b1, w2, b2] in &self.blocks {
            x = conv(&x, w1)?.bias_lrelu(Some(b1), 0.2)?.linear(ops::blur3)?;
            x = conv(&x, w2)?.linear(ops::avg_pool2)?.bias_lrelu(Some(b2), 0.2)?;
        }
        let x =
            if self.minibatch_std { x.minibatch_std(4)? } else { x.linear(|x| Tensor::cat(&[x, &x.narrow(1, 0, 1)?.zeros_like()?], 1))? };
        let x = conv(&x, &self.last.0)?.bias_lrelu(Some(&self.last.1), 0.2)?.linear(|x| x.flatten_from(1))?;
        let x = x.linear(|x| ops::linear(x, &self.dense.0, None))?.shift(&self.dense.1)?.lrelu(0.2)?;
        x.linear(|x| ops::linear(x, &self.score.0, None))?.shift(&self.score.1)
    }
}

fn r1_discriminator(f: &Fixture) -> Option<Outcome> {
    if f.area != "paper_recipe" || f.file != "r1_discriminator.safetensors" {
        return None;
    }
    Some(Outcome::of(|o| {
        let t = f.tensors()?;
        let weights: BTreeMap<String, Tensor> =
            t.iter().filter_map(|(name, t)| Some((name.strip_prefix("D.")?.to_string(), t.clone()))).collect();
        let trained = Params::trainable(weights.clone(), DType::F32, &Device::Cpu, "fixture");
        let frozen = Params::frozen(weights, DType::F32, &Device::Cpu, "fixture");

        let (d, constant) = (Released::new(&trained, true)?, Released::new(&frozen, true)?);
        let x = &t["in.x"];
        o.relative("forward", "out.scores", &d.scores(&Dual::plain(x))?.value, &t["out.scores"], 1e-4)?;
        let v = input_gradient(x, |x| constant.scores(x))?;
        o.relative("forward", "out.v", &v, &t["out.v"], 1e-4)?;
        let moved = d.scores(&Dual::moving(x, &v))?.tangent.ok_or("no tangent")?;
        o.relative("forward", "out.tangent", &moved, &t["out.tangent"], 1e-4)?;
        let (value, surrogate) = Penalty::R1 { gamma: 10.0 }.at(x, |x| d.scores(x), |x| constant.scores(x))?;
        o.number("forward", "out.r1", value, f64::from(t["out.r1"].to_vec1::<f32>()?[0]), 1e-4)?;
        compare(o, &trained, &surrogate, &t, "grad.r1.")?;

        let (d, constant) = (Released::new(&trained, false)?, Released::new(&frozen, false)?);
        let mix = &t["in.mix"];
        let between = (x.broadcast_mul(mix)? + t["in.fake"].broadcast_mul(&mix.affine(-1.0, 1.0)?)?)?;
        let (value, surrogate) = Penalty::WganGp { lambda: 10.0 }.at(&between, |x| d.scores(x), |x| constant.scores(x))?;
        o.number("forward", "out.gp_no_mbstd", value, f64::from(t["out.gp_no_mbstd"].to_vec1::<f32>()?[0]), 1e-4)?;
        compare(o, &trained, &surrogate, &t, "grad.gp_no_mbstd.")
    }))
}

/// Every stored gradient; a parameter that the penalty does not reach has the gradient 0.
fn compare(
    o: &mut Outcome,
    trained: &Params,
    surrogate: &Tensor,
    t: &BTreeMap<String, Tensor>,
    prefix: &str,
) -> std::result::Result<(), super::harness::Error> {
    let grads = surrogate.backward()?;
    let vars = trained.vars();
    for (name, want) in t.iter().filter(|(name, _)| name.starts_with(prefix)) {
        let var = vars.iter().find(|p| p.name == name[prefix.len()..]);
        let got = match var.and_then(|p| grads.get(p.var.as_tensor())) {
            Some(grad) => grad.clone(),
            None => want.zeros_like()?,
        };
        o.relative("grad", name, &got, want, 1e-3)?;
    }
    Ok(())
}
