//! The fixtures of the metric networks: LPIPS, FID Inception, the Fréchet distance, KID, and the paper's script at 512
//! pixels. Full-width networks have pseudo-random weights that the manifest defines and no file holds.
//!
//! Longer than other files: a function per kind of fixture, with the weights that no file holds.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use candle_core::{DType, Device, Tensor, Var};
use mtv_bench::images::{Rgb8, decode};
use mtv_bench::metrics::{self, Gaussian, Moments};
use mtv_bench::objective;
use mtv_bench::params::Params;
use mtv_bench::perceptual::inception::{Inception, Preprocessing};
use mtv_bench::perceptual::lpips::Lpips;
use mtv_bench::perceptual::vgg16::{self, Vgg16};
use serde_json::Value;

use super::harness::{Check, Error, Fixture, Outcome};

pub const CHECKS: &[Check] = &[networks];

type Tensors = BTreeMap<String, Tensor>;

fn networks(f: &Fixture) -> Option<Outcome> {
    if f.area != "metrics" {
        return None;
    }
    Some(match f.file.as_str() {
        "fid/frechet.json" => Outcome::of(|o| frechet(o, f)),
        "fid/frechet.safetensors" => Outcome::companion("fid/frechet.json"),
        "images/ssim_mse_cos_grads.safetensors" => Outcome::of(|o| gradients(o, f)),
        "nets/lpips_div8_tensors.safetensors" => Outcome::of(|o| lpips_narrow(o, f)),
        "nets/lpips_vgg_div8_weights.safetensors" => Outcome::companion("nets/lpips_div8_tensors.safetensors"),
        "nets/lpips.json" => Outcome::of(|o| lpips_values(o, f)),
        "nets/lpips_v0.1_vgg_lin_heads.safetensors" => Outcome::companion("nets/lpips.json"),
        "nets/lpips_v0.1_alex_lin_heads.safetensors" | "nets/lpips_v0.1_squeeze_lin_heads.safetensors" => Outcome::of(|o| heads(o, f)),
        "nets/fid_inception_div8_tensors.safetensors" => Outcome::of(|o| inception_narrow(o, f)),
        "nets/fid_inception_div8_weights.safetensors" => Outcome::companion("nets/fid_inception_div8_tensors.safetensors"),
        "nets/fid_inception_full_prng_tensors.safetensors" => Outcome::of(|o| inception_full(o, f)),
        "nets/fid_inception.json" => Outcome::of(|o| inception_weights(o, f)),
        "nets/paper_script_512.json" => Outcome::of(|o| paper_script(o, f)),
        _ => return None,
    })
}

fn load(f: &Fixture, file: &str) -> Result<Tensors, Error> {
    Ok(candle_core::safetensors::load(f.folder.join(file), &Device::Cpu)?.into_iter().collect())
}

fn json(f: &Fixture, file: &str) -> Result<Value, Error> {
    Ok(serde_json::from_slice(&std::fs::read(f.folder.join(file))?)?)
}

fn scalar(t: &Tensor) -> Result<f64, Error> {
    Ok(t.to_dtype(DType::F64)?.sum_all()?.to_scalar::<f64>()?)
}

fn rgb(t: &Tensor) -> Result<Rgb8, Error> {
    let data = t.flatten_all()?.to_vec1::<u8>()?;
    let (h, w) = (t.dim(0)?, t.dim(1)?);
    Ok(if t.rank() == 3 { Rgb8::new(w, h, data)? } else { Rgb8::from_grey(w, h, &data)? })
}

/// An image of a pair: its PNG file, or the tensor where there is none. None where this folder holds neither.
fn image(f: &Fixture, small: &Tensors, pair: &str, side: &str) -> Result<Option<Rgb8>, Error> {
    if let Ok(bytes) = std::fs::read(f.folder.join(format!("images/{pair}_{side}.png"))) {
        return Ok(Some(decode(&bytes)?));
    }
    small.get(&format!("{pair}/{side}")).map(rgb).transpose()
}

fn pair(f: &Fixture, small: &Tensors, name: &str) -> Result<Option<(Rgb8, Rgb8)>, Error> {
    Ok(image(f, small, name, "a")?.zip(image(f, small, name, "b")?))
}

fn signed(image: &Rgb8, dtype: DType) -> Result<Tensor, Error> {
    Ok(image.to_tensor(&Device::Cpu)?.unsqueeze(0)?.to_dtype(dtype)?)
}

/// The pseudo-random values of the manifest: u in [0, 1) number i of the stream `name`.
fn uniform(name: &str, count: usize) -> impl Iterator<Item = f64> {
    let state = name.bytes().fold(0xcbf29ce484222325u64, |h, b| (h ^ b as u64).wrapping_mul(0x100000001b3));
    (0..count as u64).map(move |i| {
        let mut z = state.wrapping_add((i + 1).wrapping_mul(0x9E3779B97F4A7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58476D1CE4E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D049BB133111EB);
        z ^= z >> 31;
        (z >> 11) as f64 / (1u64 << 53) as f64
    })
}

/// One tensor of a full-width network by the manifest's rules.
fn drawn(name: &str, shape: &[usize]) -> Result<Tensor, Error> {
    let fan_in: usize = shape.iter().skip(1).product();
    let bn = name.contains(".bn.");
    let value = |u: f64| match name.rsplit('.').next() {
        Some("weight" | "running_var") if bn => 0.5 + u,
        Some("bias" | "running_mean") if bn => (2.0 * u - 1.0) * 0.2,
        Some("bias") => (2.0 * u - 1.0) * 0.1,
        _ => (2.0 * u - 1.0) * (6.0 / fan_in as f64).sqrt(),
    };
    let values: Vec<f32> = uniform(name, shape.iter().product()).map(|u| value(u) as f32).collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

fn frechet(o: &mut Outcome, f: &Fixture) -> Result<(), Error> {
    let t = load(f, "fid/frechet.safetensors")?;
    for case in json(f, &f.file)?["cases"].as_array().ok_or("no cases")? {
        let name = case["name"].as_str().ok_or("a case without a name")?;
        let expected = &case["expected"];
        let d = case["d"].as_u64().ok_or("no width")? as usize;
        let features = |side: &str| -> Result<Vec<f32>, Error> { Ok(t[&format!("{name}/{side}")].flatten_all()?.to_vec1()?) };
        let (x, y) = (features("x")?, features("y")?);
        let (a, b) = (Moments::of(&x, d)?.gaussian()?, Moments::of(&y, d)?.gaussian()?);
        let traces = a.trace() + b.trace();
        for (side, g) in [("x", &a), ("y", &b)] {
            let want = |what: &str| -> Result<Vec<f64>, Error> { Ok(t[&format!("{name}/{what}_{side}")].flatten_all()?.to_vec1()?) };
            let worst = |got: &[f64], want: &[f64]| {
                let scale = want.iter().fold(1e-300f64, |m, v| m.max(v.abs()));
                got.iter().zip(want).map(|(g, w)| (g - w).abs() / scale).fold(0.0, f64::max)
            };
            o.number("mean", name, worst(&g.mean, &want("mu")?), 0.0, 1e-12)?;
            o.number("covariance", name, worst(&g.covariance(), &want("cov")?), 0.0, 1e-12)?;
            // From mean and covariance alone: exact to 1e-8 of the scale where the covariance is singular.
            let again = Gaussian::from_covariance(g.count, want("mu")?, &want("cov")?)?;
            let distance = metrics::frechet_distance(&again, g)?;
            o.number("from the covariance, to itself", name, distance, 0.0, 1e-6 * traces)?;
        }
        let got = metrics::frechet_distance(&a, &b)?;
        let means: f64 = a.mean.iter().zip(&b.mean).map(|(x, y)| (x - y).powi(2)).sum();
        // What scipy's square root did on the way (sqrtm_*, its warnings, sqrtm_real) and torch-fidelity's f32 mean (mu_f32_maxdiff) are
        // measurements of those packages: no square root is taken here, and means are f64.
        for (kind, value, key, tolerance) in [
            ("term of the means", means, "mean_term", 1e-12 * means.max(1.0)),
            ("trace", a.trace(), "trace_x", 1e-12 * traces.max(1.0)),
            ("trace", b.trace(), "trace_y", 1e-12 * traces.max(1.0)),
            ("trace of the root", (means + traces - got) / 2.0, "tr_sqrt_svd", 1e-9 * traces + 1e-9),
            ("trace of the root", (means + traces - got) / 2.0, "mpmath_tr_sqrt", 1e-9 * traces + 1e-9),
            ("trace of the root", (means + traces - got) / 2.0, "tr_sqrt_eigh", 1e-6 * traces + 1e-9),
            ("symmetric eigenvalues", got, "eigh_symmetric", 1e-6 * traces + 1e-9),
        ] {
            if let Some(want) = expected[key].as_f64() {
                o.number(kind, name, value, want, tolerance)?;
            }
        }
        for (kind, key, tolerance) in [
            ("svd", "svd_of_features", 1e-9 * traces + 1e-9),
            ("mpmath", "mpmath_fid", 1e-9 * traces + 1e-9),
            ("pytorch-fid", "pytorch_fid", 1e-6 * traces + 1e-9),
            ("clean-fid", "clean_fid", 1e-6 * traces + 1e-9),
            ("torch-fidelity", "torch_fidelity", 1e-6 * traces + 1e-9),
        ] {
            // One feature: pytorch-fid and clean-fid fail, and the fixture records their error instead of a number.
            if let Some(want) = expected[key].as_f64() {
                o.number(kind, name, got, want, tolerance)?;
            }
        }
        if let Some(want) = expected["kid_unbiased_poly3_full"].as_f64() {
            let scale = want.abs().max(1.0);
            o.number("KID", name, metrics::kid(&x, &y, d)? / scale, want / scale, 1e-9)?;
        }
    }
    Ok(())
}

/// Gradients of the training objective's SSIM; values of the metrics on the same pictures.
fn gradients(o: &mut Outcome, f: &Fixture) -> Result<(), Error> {
    let t = load(f, &f.file)?;
    batched(o, &t)?;
    for name in ["chelsea17x23", "astronaut32"] {
        if !t.contains_key(&format!("{name}/ssim_grad_y_f32")) {
            continue;
        }
        let (a, b) = (rgb(&t[&format!("{name}/x_u8")])?, rgb(&t[&format!("{name}/y_u8")])?);
        let want = |key: &str| scalar(&t[&format!("{name}/{key}")]);
        o.number("SSIM", name, metrics::ssim_training(&a, &b, metrics::Range::Signed), want("ssim_f32")?, 5e-5)?;
        o.number("cosine", name, metrics::cosine(&a, &b), want("cos_f32")?, 2e-5)?;
        o.number("MSE", name, metrics::mse(&a, &b) / (127.5 * 127.5), want("mse_f32")?, 1e-6)?;
        let x = &t[&format!("{name}/x_pm1_f32")];
        o.relative("quantiser's inverse", name, &signed(&a, DType::F32)?, x, 0.0)?;
        o.number("SSIM", name, metrics::ssim_training(&a, &b, metrics::Range::Signed), want("ssim_f64")?, 1e-10)?;
        o.number("cosine", name, metrics::cosine(&a, &b), want("cos_f64")?, 1e-12)?;
        o.number("MSE", name, metrics::mse(&a, &b) / (127.5 * 127.5), want("mse_f64")?, 1e-12)?;
        other_gradients(o, name, &t, &a, &b)?;
        let y = Var::from_tensor(&t[&format!("{name}/y_pm1_f32")])?;
        let value = objective::ssim(objective::SsimKind::ZeroPad, x, y.as_tensor(), 1.0)?;
        let grads = value.backward()?;
        let got = grads.get(y.as_tensor()).ok_or("no gradient")?;
        o.relative("SSIM gradient", name, got, &t[&format!("{name}/ssim_grad_y_f32")], 2e-4)?;
    }
    Ok(())
}

/// Gradients of the objective's MSE and cosine in f32 and f64, and of its SSIM in f64. The released window is rounded to f32 (its sum is
/// 1 - 7e-8) and the objective's is not, which the f64 tolerance allows for.
fn other_gradients(o: &mut Outcome, name: &str, t: &Tensors, a: &Rgb8, b: &Rgb8) -> Result<(), Error> {
    for (dtype, kind, tolerance) in [(DType::F32, "f32", 1e-6), (DType::F64, "f64", 1e-10)] {
        let (x, y) = (signed(a, DType::F32)?.to_dtype(dtype)?, Var::from_tensor(&exact(b, dtype)?)?);
        let x = if dtype == DType::F64 { exact(a, dtype)? } else { x };
        let distance = objective::vectors::distance(objective::Distance::Mse, &x, y.as_tensor())?;
        // The objective takes 1 - cosine.
        let cosine = objective::vectors::cosine(objective::Cosine::Batch, &x, y.as_tensor())?.affine(-1.0, 1.0)?;
        let ssim = objective::ssim(objective::SsimKind::ZeroPad, &x, y.as_tensor(), 1.0)?;
        for (what, value, tolerance) in
            [("mse", distance, tolerance), ("cos", cosine, tolerance * 10.0), ("ssim", ssim, if dtype == DType::F64 { 1e-5 } else { 2e-4 })]
        {
            if let Some(want) = t.get(&format!("{name}/{what}_grad_y_{kind}")) {
                let grads = value.backward()?;
                let got = grads.get(y.as_tensor()).ok_or("no gradient")?;
                o.relative("gradients of MSE, cosine and SSIM", &format!("{name}/{what}_{kind}"), got, want, tolerance)?;
            }
        }
    }
    Ok(())
}

/// value / 127.5 - 1 in this dtype; [`signed`] computes it in f32.
fn exact(image: &Rgb8, dtype: DType) -> Result<Tensor, Error> {
    let hwc = Tensor::from_slice(image.data(), (1, image.height(), image.width(), 3), &Device::Cpu)?;
    Ok(hwc.permute((0, 3, 1, 2))?.contiguous()?.to_dtype(dtype)?.affine(1.0 / 127.5, -1.0)?)
}

/// The SSIM of each picture of a batch, and their mean.
fn batched(o: &mut Outcome, t: &Tensors) -> Result<(), Error> {
    let (Some(x), Some(y)) = (t.get("batch2/x_u8"), t.get("batch2/y_u8")) else { return Ok(()) };
    let each = (0..x.dim(0)?).map(|i| Ok(metrics::ssim_training(&rgb(&x.get(i)?)?, &rgb(&y.get(i)?)?, metrics::Range::Signed)));
    let each = each.collect::<Result<Vec<f64>, Error>>()?;
    for (got, want) in each.iter().zip(t["batch2/ssim_each_f32"].to_vec1::<f32>()?) {
        o.number("SSIM", "batch2", *got, f64::from(want), 5e-5)?;
    }
    let mean = each.iter().sum::<f64>() / each.len() as f64;
    o.number("SSIM", "batch2", mean, scalar(&t["batch2/ssim_mean_f32"])?, 5e-5)
}

/// What the narrow LPIPS network of the fixtures sees. Its scaling layer was filled with pseudo-random numbers together with the weights
/// (shift = scale = `FILLED`, which no file holds; recovered from the taps), so that the picture is brought to where our layer, which has
/// LPIPS's constants, undoes the difference.
fn as_narrow(x: &Tensor) -> Result<Tensor, Error> {
    const FILLED: [f64; 3] = [0.018158685, 0.044547327, 0.08495561];
    let (shift, scale) = ([-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]);
    let factor = std::array::from_fn::<f64, 3, _>(|c| scale[c] / FILLED[c]);
    let offset = std::array::from_fn::<f64, 3, _>(|c| shift[c] - scale[c]);
    let row = |v: [f64; 3]| Tensor::new(&v, x.device())?.reshape((1, 3, 1, 1))?.to_dtype(x.dtype());
    Ok(x.broadcast_mul(&row(factor)?)?.broadcast_add(&row(offset)?)?)
}

fn narrow_lpips(f: &Fixture, dtype: DType) -> Result<(Vgg16, Lpips), Error> {
    let p = Params::frozen(load(f, "nets/lpips_vgg_div8_weights.safetensors")?, dtype, &Device::Cpu, "div8");
    let vgg = Vgg16::new(&vgg16::Config::read(&p)?, &p)?;
    let lpips = Lpips::new(&vgg, &p)?;
    p.finish()?;
    Ok((vgg, lpips))
}

fn lpips_narrow(o: &mut Outcome, f: &Fixture) -> Result<(), Error> {
    let t = load(f, &f.file)?;
    let small = load(f, "images/pairs_small_u8.safetensors")?;
    for name in ["chelsea33x47_jpeg50", "rocket16_noise10", "astronaut64_noise50"] {
        if let Some(want) = t.get(&format!("{name}/space_loss")) {
            space_loss(o, f, name, want, &t[&format!("{name}/space_loss_grad_y")])?;
        }
        if let Some(want) = t.get(&format!("{name}/spatial_map")) {
            let (a, b) = pair(f, &small, name)?.ok_or("the pair is not here")?;
            let (vgg, lpips) = narrow_lpips(f, DType::F32)?;
            let got = lpips.map(&vgg, &as_narrow(&signed(&a, DType::F32)?)?, &as_narrow(&signed(&b, DType::F32)?)?)?;
            o.relative("LPIPS map", name, &got, want, 2e-5)?;
        }
    }
    for name in ["chelsea33x47_jpeg50", "rocket16_noise10"] {
        let (a, b) = pair(f, &small, name)?.ok_or("the pair is not here")?;
        for (dtype, kind, relative, of_gradient) in [(DType::F32, "f32", 2e-5, 1e-4), (DType::F64, "f64", 1e-6, 5e-6)] {
            let (vgg, lpips) = narrow_lpips(f, dtype)?;
            let x = signed(&a, dtype)?;
            let y = Var::from_tensor(&signed(&b, dtype)?)?;
            let value = lpips.distance(&vgg, &as_narrow(&x)?, &as_narrow(y.as_tensor())?)?;
            let want = scalar(&t[&format!("{name}/lpips_{kind}")])?;
            o.number("LPIPS", name, scalar(&value)? / want, 1.0, relative)?;
            let grads = value.sum_all()?.backward()?;
            let got = grads.get(y.as_tensor()).ok_or("no gradient")?;
            o.relative("LPIPS gradient", name, got, &t[&format!("{name}/lpips_grad_y_{kind}")], of_gradient)?;
            if dtype == DType::F32 {
                for (i, tap) in vgg.taps(&vgg16::scale_input(&as_narrow(&x)?)?)?.iter().enumerate() {
                    if let Some(want) = t.get(&format!("{name}/a/relu{}", i + 1)) {
                        o.relative("taps", name, tap, want, 1e-5)?;
                    }
                }
            }
        }
    }
    Ok(())
}

/// The released training loss, 5 MSE + KL + 3 (1 - cosine) + (1 - SSIM) + 2 LPIPS, its parts and its gradient.
fn space_loss(o: &mut Outcome, f: &Fixture, name: &str, want: &Tensor, gradient: &Tensor) -> Result<(), Error> {
    let (a, b) = pair(f, &load(f, "images/pairs_small_u8.safetensors")?, name)?.ok_or("the pair is not here")?;
    let (vgg, lpips) = narrow_lpips(f, DType::F32)?;
    let (x, y) = (signed(&a, DType::F32)?, Var::from_tensor(&signed(&b, DType::F32)?)?);
    let recipe = objective::Recipe::released();
    let mut terms = Vec::new();
    objective::vector_terms(&recipe, &mut terms, objective::Group::Image, "x", 1.0, &x, y.as_tensor())?;
    let mut parts: Vec<(f64, Tensor)> = terms.into_iter().map(|t| (t.weight, t.value)).collect();
    parts.push((recipe.weights.ssim, objective::ssim(recipe.terms.ssim, &x, y.as_tensor(), 2.0)?.affine(-1.0, 1.0)?));
    // The narrow network's own scaling stands before its LPIPS; the objective itself would feed it the picture as it is.
    let distance = lpips.distance(&vgg, &as_narrow(&x)?, &as_narrow(y.as_tensor())?)?.mean_all()?;
    parts.push((recipe.weights.perceptual, distance));
    let stated = &json(f, "nets/lpips.json")?["reduced_div8"][name]["space_loss_terms"];
    for (key, (_, value)) in ["mse", "one_minus_cos", "kl", "one_minus_ssim", "lpips"].into_iter().zip(&parts) {
        if let Some(want) = stated[key].as_f64() {
            o.number("terms of the training loss", key, scalar(value)?, want, 2e-5 * want + 2e-6)?;
        }
    }
    let mut sum = Tensor::zeros((), DType::F32, &Device::Cpu)?;
    for (weight, value) in &parts {
        sum = (sum + value.affine(*weight, 0.0)?)?;
    }
    o.number("training loss", name, scalar(&sum)?, scalar(want)?, 5e-5 * scalar(want)?)?;
    let grads = sum.backward()?;
    o.relative("gradient of the training loss", name, grads.get(y.as_tensor()).ok_or("no gradient")?, gradient, 2e-4)
}

/// The values of the narrow network before the last ReLU of every block, which the library does not keep.
fn before_relu(f: &Fixture, x: &Tensor) -> Result<Vec<Tensor>, Error> {
    let t = load(f, "nets/lpips_vgg_div8_weights.safetensors")?;
    let (mut x, mut at, mut out) = (vgg16::scale_input(x)?, 0, Vec::new());
    for (block, depth) in [2, 2, 3, 3, 3].into_iter().enumerate() {
        if block > 0 {
            x = mtv_bench::ops::max_pool2(&x)?;
            at += 1;
        }
        for layer in 0..depth {
            let y = mtv_bench::ops::conv2d(&x, &t[&format!("features.{at}.weight")], Some(&t[&format!("features.{at}.bias")]), 1, 1)?;
            x = mtv_bench::ops::relu(&y)?;
            if layer + 1 == depth {
                out.push(y);
            }
            at += 2;
        }
    }
    Ok(out)
}

fn full_lpips(f: &Fixture) -> Result<(Vgg16, Lpips), Error> {
    let mut tensors = load(f, "nets/lpips_v0.1_vgg_lin_heads.safetensors")?;
    let config = vgg16::Config::vgg16([64, 128, 256, 512, 512], 7, &[]);
    let (mut input, mut at) = (3, 0);
    for &(width, depth) in &config.blocks {
        for _ in 0..depth {
            for (key, shape) in [("weight", vec![width, input, 3, 3]), ("bias", vec![width])] {
                let name = format!("features.{at}.{key}");
                tensors.insert(name.clone(), drawn(&name, &shape)?);
            }
            input = width;
            at += 2;
        }
        at += 1;
    }
    let p = Params::frozen(tensors, DType::F32, &Device::Cpu, "PRNG");
    let vgg = Vgg16::new(&config, &p)?;
    let lpips = Lpips::new(&vgg, &p)?;
    Ok((vgg, lpips))
}

fn lpips_values(o: &mut Outcome, f: &Fixture) -> Result<(), Error> {
    let values = json(f, &f.file)?;
    for (name, check) in values["full_vgg16_weight_checks"].as_object().into_iter().flatten() {
        let shape: Vec<usize> = check["shape"].as_array().into_iter().flatten().filter_map(Value::as_u64).map(|v| v as usize).collect();
        let want = check["sum_f64"].as_f64().ok_or("no sum")?;
        o.number("drawn weights, sum", name, scalar(&drawn(name, &shape)?)?, want, 1e-9 * want.abs().max(1.0))?;
    }
    let small = load(f, "images/pairs_small_u8.safetensors")?;
    for (group, kind, (vgg, lpips)) in
        [("reduced_div8", "narrow", narrow_lpips(f, DType::F32)?), ("full_vgg16", "full width", full_lpips(f)?)]
    {
        for (name, want) in values[group].as_object().ok_or("no values")? {
            let Some((a, b)) = pair(f, &small, name)? else { continue };
            let (mut x, mut y) = (signed(&a, DType::F32)?, signed(&b, DType::F32)?);
            if kind == "narrow" {
                (x, y) = (as_narrow(&x)?, as_narrow(&y)?);
            }
            let raw = if kind == "narrow" { Some((before_relu(f, &x)?, before_relu(f, &y)?)) } else { None };
            let (x, y) = (vgg.taps(&vgg16::scale_input(&x)?)?, vgg.taps(&vgg16::scale_input(&y)?)?);
            let number = |v: &Value| v.as_f64().ok_or("not a number");
            let total = number(&want["lpips"])?;
            o.number(kind, name, scalar(&lpips.between(&x, &y)?)?, total, 2e-5 * total + 1e-7)?;
            // The package's other input range, [0, 1] with normalize=True: the typed image has one range, and the value is the same.
            o.number(kind, name, scalar(&lpips.between(&x, &y)?)?, number(&want["lpips_normalize_true"])?, 2e-5 * total + 1e-7)?;
            let layers = |key: &str| -> Result<Vec<f64>, Error> {
                Ok(want[key].as_array().ok_or("no layers")?.iter().filter_map(Value::as_f64).collect())
            };
            for (got, want) in lpips.layers(&x, &y)?.iter().zip(layers("lpips_per_layer")?) {
                o.number(kind, name, scalar(got)?, want, 2e-5 * want + 1e-7)?;
            }
            for (got, want) in Lpips::uniform().layers(&x, &y)?.iter().zip(layers("baseline_unit_norm_sum")?) {
                o.number("uniform heads", name, scalar(got)?, want, 2e-5 * want + 1e-7)?;
            }
            for (got, want) in objective::feature_mse_layers(&x, &y)?.into_iter().zip(layers("feat_mse_post_relu")?) {
                o.number("feature MSE", name, got, want, 1e-4 * want + 1e-12)?;
            }
            if let Some((x, y)) = raw {
                for (got, want) in objective::feature_mse_layers(&x, &y)?.into_iter().zip(layers("feat_mse_pre_relu")?) {
                    o.number("feature MSE before the ReLU", name, got, want, 1e-4 * want + 1e-12)?;
                }
            }
            for (x, want) in x.iter().zip(layers("feat_mean_abs")?) {
                o.number("mean feature", name, scalar(&x.abs()?.to_dtype(DType::F64)?.mean_all()?)?, want, 1e-5 * want)?;
            }
        }
    }
    Ok(())
}

/// Heads of networks that are not built here: that the file holds what lpips.json says.
fn heads(o: &mut Outcome, f: &Fixture) -> Result<(), Error> {
    let kind = if f.file.contains("alex") { "alex" } else { "squeeze" };
    let values = json(f, "nets/lpips.json")?;
    for (name, head) in load(f, &f.file)? {
        let want = values["heads"][kind][&name][3].as_f64().ok_or("no sum")?;
        o.number("sum of the head", &name, scalar(&head)?, want, 1e-9 * want.abs())?;
    }
    Ok(())
}

/// |a - b| / |b| over everything.
fn l2(got: &Tensor, want: &Tensor) -> Result<f64, Error> {
    let (got, want) = (got.flatten_all()?.to_dtype(DType::F64)?, want.flatten_all()?.to_dtype(DType::F64)?);
    Ok((scalar(&(got - &want)?.sqr()?)? / scalar(&want.sqr()?)?).sqrt())
}

fn features(o: &mut Outcome, f: &Fixture, net: &Inception, t: &Tensors) -> Result<(), Error> {
    let small = load(f, "images/pairs_small_u8.safetensors")?;
    let stated = json(f, "nets/fid_inception.json")?;
    let pairs: std::collections::BTreeSet<&str> = t.keys().filter_map(|k| k.split('/').next()).collect();
    for name in pairs.into_iter().filter(|n| t.contains_key(&format!("{n}/clean_fid/2048"))) {
        let a = image(f, &small, name, "a")?.ok_or("the picture is not here")?;
        let mut first: Option<Tensor> = None;
        for (way, folder, keys) in [
            (Preprocessing::PytorchFid, "pytorch_fid", ["block0", "block1", "block2", "block3", "", ""]),
            (Preprocessing::TorchFidelity, "torch_fidelity", ["64", "192", "768", "2048", "logits_unbiased", "logits"]),
            (Preprocessing::CleanFid, "clean_fid", ["", "", "", "2048", "", ""]),
        ] {
            let x = way.apply(&a, &Device::Cpu)?.unsqueeze(0)?;
            let taps = net.taps(&x)?;
            if let Some(first) = &first {
                // How far the preprocessings move the features.
                let key =
                    if way == Preprocessing::CleanFid { "rel_l2_cleanfid_vs_pytorch_fid" } else { "rel_l2_torch_fidelity_vs_pytorch_fid" };
                let group = if net.width() == 2048 { "full_prng" } else { "div8" };
                if let Some(want) = stated[group][name][key].as_f64() {
                    o.number("distance between preprocessings", name, l2(&taps.pool3, first)?, want, 1e-4)?;
                }
            } else {
                first = Some(taps.pool3.clone());
            }
            let got = [&taps.pool1, &taps.pool2, &taps.mixed_6e, &taps.pool3, &taps.logits_unbiased, &taps.logits];
            for (key, got) in keys.iter().zip(got).filter(|(k, _)| !k.is_empty()) {
                let key = format!("{name}/{folder}/{key}");
                o.number(folder, &key, l2(got, &t[&key])?, 0.0, 1e-5)?;
            }
        }
    }
    Ok(())
}

fn inception_narrow(o: &mut Outcome, f: &Fixture) -> Result<(), Error> {
    let t = load(f, &f.file)?;
    let p = Params::frozen(load(f, "nets/fid_inception_div8_weights.safetensors")?, DType::F32, &Device::Cpu, "div8");
    let net = Inception::new(&p)?;
    p.finish()?;
    for name in ["5b", "5d", "6a", "6b", "6e", "7a", "7b", "7c"].map(|n| format!("Mixed_{n}")) {
        let Some(input) = t.get(&format!("block/{name}/in")) else { continue };
        let got = net.block(&name, input)?;
        o.relative("blocks", &name, &got, &t[&format!("block/{name}/out")], 1e-4)?;
        if let Some(other) = t.get(&format!("block/{name}/out_torchvision_unpatched"))
            && l2(&got, other)? < 1e-3
        {
            o.fail(format!("{name} pools as torchvision's network, which is not FID's"));
        }
    }
    // Mean, standard deviation, maximum, first and last value of every stage.
    let small = load(f, "images/pairs_small_u8.safetensors")?;
    let a = image(f, &small, "chelsea96_vs_coffee96", "a")?.ok_or("the picture is not here")?;
    let x = Preprocessing::PytorchFid.apply(&a, &Device::Cpu)?.unsqueeze(0)?;
    let mut seen: Vec<(&str, Tensor)> = Vec::new();
    net.walk(&x, |name, y| {
        seen.push((name, y.clone()));
        Ok(())
    })?;
    for (name, y) in seen {
        let flat = y.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
        let n = flat.len() as f64;
        let mean = flat.iter().sum::<f64>() / n;
        let sd = (flat.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
        let max = flat.iter().fold(f64::MIN, |a, &v| a.max(v));
        let got = Tensor::new(&[mean, sd, max, flat[0], flat[flat.len() - 1]], &Device::Cpu)?;
        o.relative("stages", name, &got, &t[&format!("stage_stats/{name}")], 1e-5)?;
        if let Some(want) = t.get(&format!("stage/{name}")) {
            o.relative("stages", name, &y, want, 1e-5)?;
        }
    }
    features(o, f, &net, &t)
}

/// The full-width network with the manifest's weights; 95 MB, made once.
fn full_inception(f: &Fixture) -> Result<&'static Tensors, Error> {
    static TENSORS: OnceLock<Tensors> = OnceLock::new();
    if let Some(tensors) = TENSORS.get() {
        return Ok(tensors);
    }
    let mut tensors = Tensors::new();
    for (name, check) in json(f, "nets/fid_inception.json")?["full_weight_checks"].as_object().ok_or("no weights")? {
        let shape: Vec<usize> =
            check["shape"].as_array().ok_or("no shape")?.iter().filter_map(|v| v.as_u64()).map(|v| v as usize).collect();
        tensors.insert(name.clone(), drawn(name, &shape)?);
    }
    Ok(TENSORS.get_or_init(|| tensors))
}

fn inception_weights(o: &mut Outcome, f: &Fixture) -> Result<(), Error> {
    // Every tensor of the published file is drawn (and used: reading the network ends with `finish`), but for the counters of the norms.
    let listed = json(f, &f.file)?;
    let names: Vec<&str> = listed["full_state_dict_keys"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let all = names.len();
    let names: Vec<&str> = names.into_iter().filter(|n| !n.ends_with("num_batches_tracked")).collect();
    let mut drawn_names: Vec<&str> = full_inception(f)?.keys().map(String::as_str).collect();
    let mut sorted = names.clone();
    sorted.sort_unstable();
    drawn_names.sort_unstable();
    o.equal("names of the published file", "state dict", drawn_names, sorted)?;
    // The stated count has the counters in it, one number each.
    let count: usize = full_inception(f)?.values().map(Tensor::elem_count).sum::<usize>() + all - names.len();
    o.equal("number of values", "state dict", Some(count as u64), listed["full_param_count"].as_u64())?;
    for (name, check) in json(f, &f.file)?["full_weight_checks"].as_object().ok_or("no weights")? {
        let tensor = &full_inception(f)?[name];
        let want = check["sum_f64"].as_f64().ok_or("no sum")?;
        o.number("drawn weights, sum", name, scalar(tensor)?, want, 1e-9 * want.abs().max(1.0))?;
        let first = tensor.flatten_all()?.narrow(0, 0, 3)?.to_vec1::<f32>()?;
        let want: Vec<f32> = check["first3"].as_array().ok_or("no values")?.iter().filter_map(Value::as_f64).map(|v| v as f32).collect();
        o.equal("drawn weights, first three", name, first, want)?;
    }
    Ok(())
}

fn inception_full(o: &mut Outcome, f: &Fixture) -> Result<(), Error> {
    let p = Params::frozen(full_inception(f)?.clone(), DType::F32, &Device::Cpu, "PRNG");
    let net = Inception::new(&p)?;
    p.finish()?;
    features(o, f, &net, &load(f, &f.file)?)
}

/// The paper's evaluation script: both pictures to 512x512, then its five metrics (LPIPS by pseudo-random networks).
fn paper_script(o: &mut Outcome, f: &Fixture) -> Result<(), Error> {
    let small = load(f, "images/pairs_small_u8.safetensors")?;
    let (narrow, full) = (narrow_lpips(f, DType::F32)?, full_lpips(f)?);
    for (name, want) in json(f, &f.file)?.as_object().ok_or("no pairs")? {
        let Some((a, b)) = pair(f, &small, name)? else { continue };
        let (x, y) = (metrics::to_square(&a, 512), metrics::to_square(&b, 512));
        let score = |metric: &str| -> Result<f64, Error> { Ok(metrics::by_name(metric)?.score(&a, &b)?) };
        let wanted = |key: &str| want[key].as_f64().ok_or("no number");
        // Square pictures are not resized, the hash is then that of the original.
        for (key, image) in [("resized_sha256_a", &x), ("resized_sha256_b", &y)] {
            o.equal("resized pixels", name, image.sha256(), want[key].as_str().unwrap_or_default().to_string())?;
        }
        o.number("PSNR", name, score("psnr@512")?, wanted("psnr")?, 1e-10)?;
        o.number("PSNR", name, score("psnr@512")?, wanted("psnr_f64")?, 1e-10)?;
        o.number("SSIM in f32", name, score("ssim-uniform7@512")?, wanted("ssim_f32")?, 5e-6)?;
        o.number("SSIM", name, score("ssim-uniform7@512")?, wanted("ssim_f64")?, 1e-10)?;
        o.number("MSE", name, score("mse@512")?, wanted("mse")?, 1e-6 * wanted("mse")?)?;
        o.number("cosine", name, score("cosine@512")?, wanted("cos")?, 2e-5)?;
        let (x, y) = (signed(&x, DType::F32)?, signed(&y, DType::F32)?);
        let brought = (as_narrow(&x)?, as_narrow(&y)?);
        for (key, (vgg, lpips), (x, y)) in [("lpips_div8", &narrow, brought), ("lpips_full_prng", &full, (x, y))] {
            o.number("LPIPS", name, scalar(&lpips.distance(vgg, &x, &y)?)?, wanted(key)?, 2e-5 * wanted(key)? + 1e-7)?;
        }
    }
    Ok(())
}
