//! Single operations, forward and backward to every input that needs a gradient; `benches/peer/single.py` has the same list.

use candle_core::{Result, Tensor, Var};
use mtv_bench::ops;

use crate::{crop, formula};

type Run = Box<dyn Fn() -> Result<Tensor>>;

/// A tensor from the formula that needs a gradient.
fn leaf(seed: usize, shape: &[usize]) -> Result<Tensor> {
    Ok(Var::from_tensor(&formula(seed, shape, 1.0)?)?.into_inner())
}

/// (name, forward pass), in the order of the peer's list.
pub fn all() -> Result<Vec<(String, Run)>> {
    let mut list: Vec<(String, Run)> = Vec::new();
    for (n, i, o, side, k, frozen) in [
        (8, 16, 16, 64, 3, false),
        (8, 32, 32, 32, 3, false),
        (8, 64, 64, 16, 3, false),
        (8, 64, 64, 8, 3, false),
        (8, 64, 64, 4, 3, false),
        (8, 16, 32, 32, 1, false),
        (8, 8, 8, 64, 3, true),
        (8, 32, 32, 32, 3, true),
        (8, 64, 64, 16, 3, true),
        (1, 64, 32, 256, 3, true),
    ] {
        let x = leaf(1, &[n, i, side, side])?;
        let w = if frozen { formula(2, &[o, i, k, k], 0.1)? } else { leaf(2, &[o, i, k, k])? };
        let name = format!("conv {k}x{k} {n},{i}->{o},{side}px{}", if frozen { " frozen" } else { "" });
        list.push((name, Box::new(move || ops::conv2d(&x, &w, None, 1, k / 2))));
    }
    let (x, w) = (leaf(1, &[8, 32, 32, 32])?, leaf(2, &[32, 16, 4, 4])?);
    list.push(("transposed 4x4 stride 2 8,32->16,32px".into(), Box::new(move || ops::conv_transpose2d(&x, &w, None, 2, 1))));
    let (x, w, b) = (leaf(1, &[64, 512])?, leaf(2, &[512, 512])?, leaf(3, &[512])?);
    list.push(("linear 64,512->512".into(), Box::new(move || ops::linear(&x, &w, Some(&b)))));
    let map = || leaf(1, &[8, 32, 32, 32]);
    let x = map()?;
    list.push(("blur 8,32,32px".into(), Box::new(move || ops::blur3(&x))));
    let x = map()?;
    list.push(("instance norm 8,32,32px".into(), Box::new(move || ops::instance_norm(&x, 1e-5))));
    let (x, s) = (map()?, leaf(2, &[8, 64])?);
    list.push(("adain 8,32,32px".into(), Box::new(move || ops::adain(&x, &s, 1e-5))));
    let x = map()?;
    list.push(("style statistics 8,32,32px".into(), Box::new(move || ops::style_stats(&x))));
    let (x, z, s, b) = (map()?, formula(2, &[8, 1, 32, 32], 1.0)?, leaf(3, &[1, 32, 1, 1])?, leaf(4, &[1, 32, 1, 1])?);
    list.push(("noise + bias + lrelu 8,32,32px".into(), Box::new(move || ops::noise_bias_lrelu(&x, Some((&z, &s)), Some(&b), 0.2))));
    let x = map()?;
    list.push(("leaky relu 8,32,32px".into(), Box::new(move || ops::leaky_relu(&x, 0.2))));
    let x = map()?;
    list.push(("upsample 8,32,32px".into(), Box::new(move || ops::upsample2(&x))));
    let x = map()?;
    list.push(("average pool 8,32,32px".into(), Box::new(move || ops::avg_pool2(&x))));
    let x = map()?;
    list.push(("max pool 8,32,32px".into(), Box::new(move || ops::max_pool2(&x))));
    let x = map()?;
    list.push(("unit vectors 8,32,32px".into(), Box::new(move || ops::unit_normalize(&x, 1e-10))));
    let x = leaf(1, &[8, 3, 64, 64])?;
    let taps: Vec<f64> = (0..11).map(|i| 0.05 + i as f64 / 100.0).collect();
    list.push(("window 11x11 8,3,64px".into(), Box::new(move || ops::depthwise_window(&x, &taps, 0))));
    let x = leaf(1, &[8, 3, 64, 64])?;
    let r = crop(64, 48)?;
    list.push(("centre view 8,3,64px".into(), Box::new(move || ops::matmul_resize(&x, &r, &r))));
    let x = leaf(1, &[8, 12288])?;
    list.push(("log-softmax 8,12288".into(), Box::new(move || ops::log_softmax(&x))));
    Ok(list)
}
