//! Parity with the authors' released code (mtv_tsa): encoders, losses, attention, optimizer, training and embedding steps.
//!
//! Longer than other files: a function per kind of fixture, and the reference has many kinds.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use candle_core::{D, DType, Device, Tensor, Var};
use mtv_bench::attention::{center, grad_cam};
use mtv_bench::generators::stylegan1::{Config as GeneratorConfig, StyleGan1};
use mtv_bench::generators::{Generator, Synthesis};
use mtv_bench::images::Rgb8;
use mtv_bench::inverters::mtv::{Config, Encoder, Fused, Head, Input, Latents, Norm, Shortcut, Statistics};
use mtv_bench::metrics;
use mtv_bench::objective::{self, Batch, Detach, Group, Losses, NoGradient, Objective, Recipe, SsimKind, Term, Types, Views, Which};
use mtv_bench::ops;
use mtv_bench::optim::Optimizer;
use mtv_bench::params::Params;
use mtv_bench::perceptual::lpips::Lpips;
use mtv_bench::perceptual::vgg16::{self, Backward, Vgg16, scale_input};
use mtv_bench::random::Stream;
use serde_json::Value;

use super::harness::{Check, Error, Fixture, Outcome};

pub const CHECKS: &[Check] =
    &[encoder, biggan_encoder, primitives, optimizer, crops, ssim, lpips, space_loss, released_grad_cam, training, embedding, evaluation];

pub type Tensors = BTreeMap<String, Tensor>;

/// The tensors whose names start with `prefix`, without it.
pub fn under(tensors: &Tensors, prefix: &str) -> Tensors {
    tensors.iter().filter_map(|(name, t)| Some((name.strip_prefix(prefix)?.to_string(), t.clone()))).collect()
}

/// `prefix` followed by consecutive numbers of `digits` digits, in the given dtype.
pub fn list(tensors: &Tensors, prefix: &str, digits: usize, dtype: DType) -> Result<Vec<Tensor>, Error> {
    let found = (0..).map_while(|i| tensors.get(&format!("{prefix}{i:0digits$}")));
    Ok(found.map(|t| t.to_dtype(dtype)).collect::<candle_core::Result<_>>()?)
}

/// A tensor of the manifest's hash formula.
fn formula(name: &str, shape: &[usize], std: f64, offset: f64) -> Result<Tensor, Error> {
    let start = name.bytes().fold(0x811c9dc5u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    let value = |i: usize| {
        let mut x = start.wrapping_add(i as u32);
        x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
        x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
        x ^= x >> 16;
        (offset + std * 12f64.sqrt() * ((f64::from(x) + 0.5) / 4294967296.0 - 0.5)) as f32
    };
    Ok(Tensor::from_vec((0..shape.iter().product()).map(value).collect(), shape, &Device::Cpu)?)
}

/// Every tensor of the entry's table of formula tensors, after a comparison with the stored first values.
fn formula_tensors(entry: &Value, checks: &Tensors) -> Result<Tensors, Error> {
    let mut out = Tensors::new();
    for row in entry["formula_tensors"].as_array().ok_or("the manifest gives no formula_tensors")? {
        let name = row[0].as_str().ok_or("a formula tensor has no name")?;
        let shape: Vec<usize> = row[1].as_array().ok_or("no shape")?.iter().filter_map(|v| v.as_u64().map(|v| v as usize)).collect();
        let tensor = formula(name, &shape, row[2].as_f64().ok_or("no std")?, row[3].as_f64().ok_or("no offset")?)?;
        if let Some(first) = checks.get(&format!("check.{name}")) {
            let own = tensor.flatten_all()?.narrow(0, 0, first.elem_count())?;
            if (own - first)?.abs()?.max_all()?.to_scalar::<f32>()? > 1e-6 {
                return Err(format!("the formula tensor {name} differs from its check values").into());
            }
        }
        out.insert(name.to_string(), tensor);
    }
    Ok(out)
}

/// The gradients by name of one scalar, in f32 and, only when asked for, in f64 (see `Outcome::gradient`).
pub struct Gradients<F> {
    run: F,
    single: OnceCell<Tensors>,
    double: OnceCell<Tensors>,
}

impl<F: Fn(DType) -> Result<Tensors, Error>> Gradients<F> {
    pub fn new(run: F) -> Self {
        Gradients { run, single: OnceCell::new(), double: OnceCell::new() }
    }

    pub fn get(&self, name: &str, dtype: DType) -> Result<Tensor, Error> {
        let cell = if dtype == DType::F32 { &self.single } else { &self.double };
        if cell.get().is_none() {
            let _ = cell.set((self.run)(dtype)?);
        }
        let found = cell.get().and_then(|g| g.get(name));
        found.cloned().ok_or_else(|| format!("no gradient reached {name}").into())
    }
}

fn config(f: &Fixture, sd: &Tensors) -> Result<Option<Config>, Error> {
    let Some(file) = f.text("module").strip_prefix("model/E/") else { return Ok(None) };
    let name = file.trim_start_matches("Ablation_Study/").split(".py").next().unwrap_or("");
    let (blocks, startf, maxf) = (f.arg("ctor", "layer_count")?, f.arg("ctor", "startf")?, f.arg("ctor", "maxf")?);
    let latent = f.arg("ctor", "latent_size")?;
    let case1 = Config::case1(blocks, startf, maxf, latent);
    let case2 = Config::case2(blocks, startf, maxf, latent, Fused::FirstFour);
    let shape = |name: &str| sd.get(name).map(|t| t.dims().to_vec()).ok_or(format!("no tensor {name}"));
    let mut config = match name {
        "E" => case1,
        "E_Blur" => case2,
        "E_Blur_W" => Config { noise: false, ..case2 },
        "E_Blur_W_2" => Config { noise: false, head: Head::WHalf, ..case2 },
        "E_Blur_Z" => Config { noise: false, head: Head::Z, latent: shape("out_z.weight")?[0], ..case2 },
        "E_v1" => Config { norm: Norm::After, shortcut: Shortcut::Sum, row_gain: 2f64.sqrt(), ..case1 },
        "E_v2_std" => Config { statistics: Statistics::Std, ..case2 },
        "E_PG" => Config::pggan(blocks, startf, maxf, latent),
        "E_BIG" => {
            let [condition, _] = shape("new_final_1.weight")?[..] else { return Err("new_final_1 is no matrix".into()) };
            let config = Config::biggan(blocks, startf, maxf, condition);
            let latent = shape("new_final_2.weight")?[0];
            Config { shortcut: Shortcut::ConditionalReleased, plain_rgb: true, latent, ..config }
        }
        _ => return Ok(None),
    };
    config.channels = f.opt("ctor", "channels").unwrap_or(3);
    Ok(Some(config))
}

fn trainable(tensors: &Tensors, dtype: DType, origin: &str) -> Params {
    Params::trainable(tensors.clone(), dtype, &Device::Cpu, origin)
}

fn encoder(f: &Fixture) -> Option<Outcome> {
    if f.area != "mtv_tsa" || !f.text("module").starts_with("model/E/") || f.text("module").contains("E_BIG") {
        return None;
    }
    Some(Outcome::of(|o| {
        let mut t = f.tensors()?;
        let mut sd = under(&t, "sd.");
        let by_formula = sd.is_empty();
        if by_formula {
            sd = formula_tensors(&f.entry, &t)?;
            let r = f.entry["resolution"].as_u64().ok_or("no resolution")? as usize;
            let n = f.entry["batch"].as_u64().ok_or("no batch")? as usize;
            t.insert("in.x".into(), formula("input", &[n, f.opt("ctor", "channels").unwrap_or(3), r, r], 0.5, 0.0)?);
        }
        let (tol, tol_grad) = if by_formula { (1e-3, 1e-3) } else { (1e-4, 1e-3) };
        let config = config(f, &sd)?.ok_or("an encoder that this project does not have")?;
        let run = |dtype: DType| -> Result<(Params, Var, Tensors), Error> {
            let p = trainable(&sd, dtype, &f.file);
            let net = Encoder::new(&config, &p)?;
            p.finish()?;
            let noise = match by_formula {
                true => config.noise_sides().iter().map(|&s| Tensor::zeros((1, 1, s, s), dtype, &Device::Cpu)).collect::<Result<_, _>>()?,
                false => list(&t, "noise.", 3, dtype)?,
            };
            let x = Var::from_tensor(&t["in.x"].to_dtype(dtype)?)?;
            let (out, blocks) = net.forward_blocks(&x, &Input { noise: &noise, ..Default::default() })?;
            let mut found = Tensors::new();
            for (name, value) in [("const", out.constant), ("w", out.w), ("z", out.z)] {
                if let (Some(value), Some(want)) = (value, t.get(&format!("out.{name}"))) {
                    found.insert(name.to_string(), value.reshape(want.shape())?);
                }
            }
            found.extend(blocks.into_iter().enumerate().map(|(i, b)| (format!("block{i}"), b)));
            Ok((p, x, found))
        };
        let (_, _, found) = run(DType::F32)?;
        for (name, want) in under(&t, "out.") {
            let got = found.get(&name).ok_or(format!("the encoder gives no {name}"))?;
            o.relative("forward", &format!("out.{name}"), got, &want, tol)?;
        }
        let cotangents = under(&t, "cot.");
        if cotangents.is_empty() {
            return Ok(());
        }
        let gradients = Gradients::new(|dtype| {
            let (p, x, found) = run(dtype)?;
            let mut scalar = Tensor::zeros((), dtype, &Device::Cpu)?;
            for (name, cotangent) in &cotangents {
                scalar = (scalar + (&found[name] * cotangent.to_dtype(dtype)?)?.sum_all()?)?;
            }
            let grads = scalar.backward()?;
            let mut out = Tensors::new();
            out.extend(grads.get(&x).map(|g| ("grad.in.x".to_string(), g.clone())));
            out.extend(p.vars().iter().filter_map(|p| Some((format!("grad.sd.{}", p.name), grads.get(p.var.as_tensor())?.clone()))));
            Ok(out)
        });
        for (name, want) in t.iter().filter(|(name, _)| name.starts_with("grad.")) {
            let norm = name.replace("conv_3.bias", "instance_norm_3.weight");
            if name.ends_with("conv_3.bias") && t.contains_key(&norm) {
                // An instance norm follows and takes this bias out: its gradient is the rounding of zero on both sides, small
                // beside that of the convolution.
                let scale = |x: &Tensor| -> Result<f64, Error> { Ok(f64::from(x.abs()?.max_all()?.to_scalar::<f32>()?)) };
                let largest = scale(&t[&name.replace("bias", "weight")])?;
                o.number("grad that is zero", name, scale(&(gradients.get(name, DType::F32)? - want)?)? / largest, 0.0, tol_grad)?;
                continue;
            }
            o.gradient(name, want, tol_grad, |dtype| gradients.get(name, dtype))?;
        }
        Ok(())
    }))
}

fn biggan_encoder(f: &Fixture) -> Option<Outcome> {
    if f.area != "mtv_tsa" || !f.text("module").starts_with("model/E/E_BIG") {
        return None;
    }
    Some(Outcome::of(|o| {
        let t = f.tensors()?;
        let sd = under(&t, "sd.");
        let config = config(f, &sd)?.ok_or("no such encoder")?;
        let noise = list(&t, "noise.", 3, DType::F32)?;
        for (mode, train) in [("eval", false), ("train", true)] {
            let p = trainable(&sd, DType::F32, &f.file);
            let net = Encoder::new(&config, &p)?;
            p.finish()?;
            let out = net.forward(&t["in.x"], &Input { noise: &noise, condition: Some(&t["in.cond"]), train })?;
            for (name, value) in [("c", out.c), ("z", out.z)] {
                let name = format!("out.{mode}.{name}");
                if let Some(want) = t.get(&name) {
                    o.relative("forward", &name, &value.ok_or("missing output")?, want, 1e-4)?;
                }
            }
            let after = p.snapshot()?;
            if train {
                for (name, want) in under(&t, "after_train.") {
                    o.relative("singular vectors", &format!("after_train.{name}"), &after[&name], &want, 1e-4)?;
                }
            }
        }
        Ok(())
    }))
}

fn primitives(f: &Fixture) -> Option<Outcome> {
    if f.area != "mtv_tsa" || !f.file.starts_with("primitives") {
        return None;
    }
    Some(Outcome::of(|o| {
        let t = f.tensors()?;
        let tol = 1e-5;
        let mut check = |name: &str, got: Tensor| o.relative("value", name, &got, &t[name], tol);
        check("blur.y", ops::blur3(&t["blur.x"])?)?;
        check("fused_up.y", ops::conv_transpose2d(&t["fused_up.x"], &ops::fused_up_weight(&t["fused_up.weight"])?, None, 2, 1)?)?;
        check("down2.y", ops::avg_pool2(&t["down2.x"])?)?;
        let up = t.get("up2.x").unwrap_or(&t["down2.x"]);
        check("up2.y", ops::upsample2(up)?)?;
        check("pixel_norm.y", ops::pixel_norm(&t["pixel_norm.x"], 1e-8)?)?;
        let x = t.get("style_mod.x").unwrap_or(&t["down2.x"]);
        // AdaIN is instance norm, then the style: undone here by normalising first would hide the style, so compare on IN(x).
        let style = &t["style_mod.style"];
        let channels = x.dim(1)?;
        let scale = (style.narrow(1, 0, channels)? + 1.0)?.reshape((style.dim(0)?, channels, 1, 1))?;
        let shift = style.narrow(1, channels, channels)?.reshape((style.dim(0)?, channels, 1, 1))?;
        let normed = ops::instance_norm(x, 1e-8)?;
        let styled = normed.broadcast_mul(&scale)?.broadcast_add(&shift)?;
        o.relative("value", "style_mod (on the normalised input)", &ops::adain(x, style, 1e-8)?, &styled, tol)?;
        let plain = x.broadcast_mul(&scale)?.broadcast_add(&shift)?;
        o.relative("value", "style_mod.y", &plain, &t["style_mod.y"], tol)?;

        let (x, w) = (Var::from_tensor(&t["fused_down.x"])?, Var::from_tensor(&t["fused_down.weight"])?);
        let y = ops::conv2d(&x, &ops::fused_down_weight(&w)?, None, 2, 1)?;
        o.relative("value", "fused_down.y", &y, &t["fused_down.y"], tol)?;
        let grads = (y * &t["fused_down.cot"])?.sum_all()?.backward()?;
        for (name, var) in [("fused_down.grad_x", &x), ("fused_down.grad_weight", &w)] {
            o.relative("grad", name, grads.get(var).ok_or("no gradient")?, &t[name], tol)?;
        }
        let x = Var::from_tensor(&t["inorm.x"])?;
        let y = ops::instance_norm(&x, 1e-8)?;
        o.relative("value", "inorm.y", &y, &t["inorm.y"], tol)?;
        let grads = (y * &t["inorm.cot"])?.sum_all()?.backward()?;
        o.relative("grad", "inorm.grad_x", grads.get(&x).ok_or("no gradient")?, &t["inorm.grad_x"], tol)
    }))
}

fn optimizer(f: &Fixture) -> Option<Outcome> {
    if f.area != "mtv_tsa" || !f.file.starts_with("lreqadam") {
        return None;
    }
    Some(Outcome::of(|o| {
        let t = f.tensors()?;
        let lr = f.entry["ctor"]["lr"].as_f64().ok_or("no lr")?;
        let rule = Recipe::released().rule();
        let kinds: std::collections::BTreeSet<&str> =
            t.keys().filter_map(|k| k.strip_prefix("coef")?.rsplit_once('.').map(|(a, _)| a)).collect();
        for kind in kinds {
            let tensor = |what: &str| t.get(&format!("coef{kind}.{what}"));
            let coef = kind.parse().unwrap_or(1.0);
            let var = Var::from_tensor(tensor("p0").ok_or("no p0")?)?;
            let mut opt = Optimizer::new(rule, vec![mtv_bench::params::Param { name: "p".into(), var: var.clone(), coef }]);
            for i in 1..=6 {
                if let Some(g) = tensor(&format!("g{i}")) {
                    opt.step_named(&BTreeMap::from([("p".to_string(), g.clone())]), lr)?;
                }
                let state = opt.state()?;
                for (what, got) in [("p", var.as_tensor()), ("v", &state["v/p"])] {
                    let name = format!("coef{kind}.{what}{i}");
                    o.relative("update", &name, got, &t[&name], 1e-6)?;
                }
                let count = state["t/p"].to_scalar::<i64>()?;
                o.equal("count", "count", count, t[&format!("coef{kind}.count{i}")].to_vec1::<i64>()?[0])?;
            }
        }
        Ok(())
    }))
}

fn crops(f: &Fixture) -> Option<Outcome> {
    if f.area != "mtv_tsa" || !f.file.starts_with("tsa_crops") {
        return None;
    }
    Some(Outcome::of(|o| {
        for (name, want) in f.tensors()? {
            let (side, view) = name.strip_prefix('H').and_then(|n| n.split_once(".at")).ok_or("unknown name")?;
            let side: usize = side.parse()?;
            let which = usize::from(view.starts_with('2'));
            let x = Tensor::arange(0f32, (side * side) as f32, &Device::Cpu)?.reshape((1, 1, side, side))?;
            let crop = center::crop(&x, which)?;
            let (_, _, h, w) = crop.dims4()?;
            let values = crop.flatten_all()?.to_vec1::<f32>()?;
            let got = vec![h as i64, w as i64, values[0] as i64, values[values.len() - 1] as i64];
            o.equal("crop", &name, got, want.to_vec1::<i64>()?)?;
        }
        Ok(())
    }))
}

fn ssim(f: &Fixture) -> Option<Outcome> {
    if f.area != "mtv_tsa" || !f.file.starts_with("ssim_loss") {
        return None;
    }
    Some(Outcome::of(|o| {
        let t = f.tensors()?;
        for i in 0.. {
            let tensor = |what: &str| t.get(&format!("c{i}.{what}"));
            let (Some(a), Some(b)) = (tensor("a"), tensor("b")) else { break };
            let b = Var::from_tensor(b)?;
            let map = objective::ssim_map(SsimKind::ZeroPad, a, &b, 2.0)?;
            let value = objective::ssim(SsimKind::ZeroPad, a, &b, 2.0)?;
            o.relative("value", &format!("c{i}.ssim"), &value.reshape(1)?, &t[&format!("c{i}.ssim")], 1e-5)?;
            o.relative(
                "value",
                &format!("c{i}.ssim_per_image"),
                &map.flatten_from(1)?.mean(1)?,
                &t[&format!("c{i}.ssim_per_image")],
                1e-5,
            )?;
            let grads = value.backward()?;
            o.relative("grad", &format!("c{i}.grad_b"), grads.get(&b).ok_or("no gradient")?, &t[&format!("c{i}.grad_b")], 1e-3)?;
        }
        Ok(())
    }))
}

/// The LPIPS network of the lpips package with formula weights, under torchvision's names; built once.
fn formula_lpips(f: &Fixture, dtype: DType) -> Result<(Arc<Vgg16>, Arc<Lpips>), Error> {
    static WEIGHTS: OnceLock<Tensors> = OnceLock::new();
    if WEIGHTS.get().is_none() {
        let files = f.manifest["files"].as_array().ok_or("no files")?;
        let entry = files.iter().find(|e| e["file"] == "lpips_vgg.safetensors").ok_or("no entry lpips_vgg.safetensors")?;
        let _ = WEIGHTS.set(formula_tensors(entry, &f.tensors_of("lpips_vgg.safetensors").unwrap_or_default())?);
    }
    let (mut net, mut heads) = (Tensors::new(), Tensors::new());
    for (name, tensor) in WEIGHTS.get().ok_or("no weights")? {
        let name = name.strip_prefix("lpips.").ok_or("unknown name")?;
        match name.strip_prefix("net.slice") {
            Some(rest) => net.insert(format!("features{}", &rest[1..]), tensor.clone()),
            None => heads.insert(name.to_string(), tensor.clone()),
        };
    }
    let frozen = |tensors| Params::frozen(tensors, dtype, &Device::Cpu, "lpips_vgg.safetensors");
    let p = frozen(net);
    let vgg = Vgg16::new(&vgg16::Config::read(&p)?, &p)?;
    p.finish()?;
    let p = frozen(heads);
    let lpips = Lpips::new(&vgg, &p)?;
    p.finish()?;
    Ok((Arc::new(vgg), Arc::new(lpips)))
}

fn lpips(f: &Fixture) -> Option<Outcome> {
    if f.area != "mtv_tsa" || !f.file.starts_with("lpips_vgg") {
        return None;
    }
    Some(Outcome::of(|o| {
        let t = f.tensors()?;
        let (vgg, lpips) = formula_lpips(f, DType::F32)?;
        let b = Var::from_tensor(&t["b"])?;
        let (taps_a, taps_b) = (vgg.taps(&scale_input(&t["a"])?)?, vgg.taps(&scale_input(&b)?)?);
        for (k, tap) in taps_a.iter().enumerate() {
            let name = format!("feat_mean_std.{k}");
            let v = tap.flatten_all()?.to_dtype(DType::F64)?;
            let n = v.elem_count() as f64;
            let mean = v.mean_all()?;
            let biased = v.broadcast_sub(&mean)?.sqr()?.mean_all()?.to_scalar::<f64>()?;
            let want = t[&name].to_vec1::<f32>()?;
            let unbiased = (biased * n / (n - 1.0)).sqrt();
            o.number("taps", &name, mean.to_scalar::<f64>()? / f64::from(want[0]) - 1.0, 0.0, 1e-3)?;
            o.number("taps", &name, unbiased / f64::from(want[1]) - 1.0, 0.0, 1e-3)?;
        }
        let shaped = |x: &Tensor| x.reshape(((), 1, 1, 1));
        for (k, layer) in lpips.layers(&taps_a, &taps_b)?.iter().enumerate() {
            o.relative("value", &format!("layer{k}"), &shaped(layer)?, &t[&format!("layer{k}")], 1e-3)?;
        }
        let distance = lpips.distance(&vgg, &t["a"], &b)?;
        o.relative("value", "lpips", &shaped(&distance)?, &t["lpips"], 1e-3)?;
        let uniform = Lpips::uniform().between(&taps_a, &taps_b)?;
        let name = "lpips_without_lin(unit weights)";
        o.relative("value", name, &shaped(&uniform)?, &t[name], 1e-3)?;
        let grads = distance.sum_all()?.backward()?;
        o.relative("grad", "grad_b_of_sum", grads.get(&b).ok_or("no gradient")?, &t["grad_b_of_sum"], 1e-3)
    }))
}

/// The released recipe with live images and without views.
fn released() -> Recipe {
    let mut recipe = Recipe::released();
    recipe.attention.detach = Detach::Nothing;
    recipe.attention.views = Views::None;
    recipe
}

/// [mse, (skipped), (skipped), kl, cosine, 1 - ssim, lpips] as the release logs them.
fn compare_terms(o: &mut Outcome, name: &str, terms: &[Term], prefix: &str, want: &Tensor, tolerance: f64) -> Result<(), Error> {
    let want = want.to_vec1::<f32>()?;
    let scale = want.iter().fold(0f32, |m, v| m.max(v.abs()));
    for (kind, place) in [("distance", 0), ("kl", 3), ("cosine", 4), ("ssim", 5), ("perceptual", 6)] {
        let found = terms.iter().find(|t| t.name == format!("{prefix}/{kind}"));
        let got = found.map_or(Ok(0.0), |t| t.value.flatten_all()?.to_dtype(DType::F64)?.get(0)?.to_scalar::<f64>())?;
        let want = f64::from(want[place]);
        // Relative to the term itself, or, for terms that rounding makes of larger ones, to a thousandth of the largest.
        let unit = want.abs().max(1e-3 * f64::from(scale)).max(1e-12);
        o.number("terms", &format!("{name}.{kind}"), (got - want) / unit, 0.0, tolerance)?;
    }
    Ok(())
}

fn space_loss(f: &Fixture) -> Option<Outcome> {
    if f.area != "mtv_tsa" || !f.file.starts_with("space_loss") {
        return None;
    }
    Some(Outcome::of(|o| {
        let t = f.tensors()?;
        let images = f.text("module").contains("image_space=True");
        let cases: std::collections::BTreeSet<&str> = t.keys().filter_map(|k| k.split('.').next()).filter(|k| *k != "check").collect();
        for case in cases {
            let (a, b) = (&t[&format!("{case}.a")], &t[&format!("{case}.b")]);
            for kind in ["nolpips", "full"] {
                let Some(want_total) = t.get(&format!("{case}.{kind}.total")) else { continue };
                let group = if images { Group::Image } else { Group::Latents };
                let losses_at = |b: &Tensor| -> Result<Losses, Error> {
                    let (mut recipe, a) = (released(), a.to_dtype(b.dtype())?);
                    let mut losses = Losses::default();
                    if images {
                        let nets = if kind == "full" { Some(formula_lpips(f, b.dtype())?) } else { None };
                        recipe.weights.perceptual *= f64::from(u8::from(nets.is_some()));
                        let (vgg, lpips) = nets.unzip();
                        losses.terms = Objective::new(&recipe, vgg, lpips, &a)?.image_terms(&a, b, Which::All)?;
                    } else {
                        objective::vector_terms(&recipe, &mut losses.terms, group, "x", 1.0, &a, b)?;
                    }
                    Ok(losses)
                };
                let gradient_at = |b: &Tensor| -> Result<Tensor, Error> {
                    let b = Var::from_tensor(&b.copy()?)?;
                    let grads = losses_at(&b)?.total(&[group])?.ok_or("no terms")?.backward()?;
                    Ok(grads.get(&b).ok_or("no gradient")?.clone())
                };
                let losses = losses_at(b)?;
                if kind == "full" || !images {
                    compare_terms(o, &format!("{case}.terms"), &losses.terms, "x", &t[&format!("{case}.terms")], 1e-4)?;
                }
                let total = losses.total(&[group])?.ok_or("no terms")?;
                o.relative("value", &format!("{case}.{kind}.total"), &total.reshape(1)?, want_total, 1e-4)?;
                let name = format!("{case}.{kind}.grad_b");
                let (got, want) = (gradient_at(b)?, &t[&name]);
                let nan = |x: &Tensor| -> Result<Vec<bool>, Error> {
                    Ok(x.flatten_all()?.to_vec1::<f32>()?.iter().map(|v| v.is_nan()).collect())
                };
                let (nan_got, nan_want) = (nan(&got)?, nan(want)?);
                if nan_want.contains(&true) {
                    o.equal("nan", &name, nan_got == nan_want, true)?;
                }
                let filled = |x: &Tensor| -> Result<Tensor, Error> {
                    let v = x.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?.into_iter();
                    let v = v.map(|v| if v.is_nan() { 0.0 } else { v }).collect();
                    Ok(Tensor::from_vec(v, x.shape(), &Device::Cpu)?)
                };
                // In float32 a ReLU or a max-pool of VGG whose inputs lie within rounding of a tie goes one way here and may have
                // gone the other in the reference: inputs moved by rounding errors try both.
                let want = filled(want)?;
                let miss = |got: &Tensor| -> Result<f64, Error> {
                    let largest = want.abs()?.max_all()?.to_scalar::<f64>()?;
                    Ok((got - &want)?.abs()?.max_all()?.to_scalar::<f64>()? / largest)
                };
                let (mut best, mut kind) = (filled(&got)?, "grad");
                for seed in 0..12 {
                    if miss(&best)? <= 1e-3 {
                        break;
                    }
                    let moved = (b + (Stream::new(seed, "rounding").normal(b.shape(), &Device::Cpu)? * 1e-6)?)?;
                    let moved = filled(&gradient_at(&moved)?)?;
                    if miss(&moved)? < miss(&best)? {
                        (best, kind) = (moved, "grad beside a kink");
                    }
                }
                o.relative(kind, &name, &best, &want, 1e-3)?;
            }
        }
        Ok(())
    }))
}

fn released_grad_cam(f: &Fixture) -> Option<Outcome> {
    if f.area != "mtv_tsa" || f.text("module") != "metric/grad_cam.py" {
        return None;
    }
    Some(Outcome::of(|o| {
        let t = f.tensors()?;
        let p = Params::frozen(under(&t, "sd."), DType::F32, &Device::Cpu, &f.file);
        let vgg = Vgg16::new(&vgg16::Config::read(&p)?, &p)?;
        p.finish()?;
        let x = &t["in.x"];
        let (n, _, h, w) = x.dims4()?;
        o.relative("forward", "logits", &vgg.logits(x)?, &t["logits"], 1e-4)?;
        let ids = |name: &str| -> Result<Vec<i64>, Error> { Ok(t[name].to_vec1::<i64>()?) };
        let own = vgg.logits(x)?.argmax(D::Minus1)?.to_vec1::<u32>()?;
        o.equal("class", "argmax", own.iter().map(|&c| i64::from(c)).collect(), ids("argmax")?)?;
        for (kind, name) in [(grad_cam::ReleasedKind::GradCam, "gradcam"), (grad_cam::ReleasedKind::PlusPlus, "gradcampp")] {
            for (backward, mode) in [(Backward::Plain, "plain"), (Backward::Guided, "guided")] {
                let r = grad_cam::released(&vgg, x, kind, backward, None)?;
                o.equal("class", "index_used", i64::from(r.classes[0]), ids("index_used")?[0])?;
                let found = [
                    ("mask", &r.mask),
                    ("feature", &r.features),
                    ("gradient", &r.gradient),
                    ("channel_weights", &r.weights),
                    ("cam_raw", &r.raw),
                ];
                for (what, got) in found {
                    let name = format!("{name}.{mode}.{what}");
                    if let Some(want) = t.get(&name) {
                        o.relative("map", &name, got, want, 1e-4)?;
                    }
                }
                let single = format!("{name}.{mode}.per_image_mask");
                if let Some(want) = t.get(&single) {
                    let maps = (0..n).map(|i| grad_cam::released(&vgg, &x.narrow(0, i, 1)?, kind, backward, None)?.mask.reshape((1, h, w)));
                    let got = Tensor::cat(&maps.collect::<Result<Vec<_>, _>>()?, 0)?;
                    // Each image alone, or with the batch's class? The stored map decides which the file holds.
                    let batch = r.mask.reshape((n, h, w))?;
                    let closer = |g: &Tensor| -> Result<f32, Error> { Ok((g - want)?.abs()?.max_all()?.to_scalar::<f32>()?) };
                    let got = if closer(&got)? <= closer(&batch)? { got } else { batch };
                    o.relative("map", &single, &got, want, 1e-4)?;
                }
            }
        }
        for (mode, backward) in [("plain", Backward::Plain), ("guided", Backward::Guided)] {
            let image = Var::from_tensor(x)?;
            let taps = vgg.taps_with(&image, backward)?;
            let logits = vgg.tail_with(&taps[taps.len() - 1], backward)?;
            let index = ids("index_used")?[0] as usize;
            let grads = logits.narrow(1, index, 1)?.mean_all()?.backward()?;
            let name = format!("{mode}.grad_x");
            o.relative("grad", &name, grads.get(&image).ok_or("no gradient")?, &t[&name], 1e-3)?;
        }
        let lut: Vec<u8> = (0..=255).flat_map(grad_cam::jet).collect();
        o.equal("colours", "jet_lut_rgb_u8", lut, t["jet_lut_rgb_u8"].flatten_all()?.to_vec1::<u8>()?)?;
        let resized = grad_cam::resize(&t["resize.in"].unsqueeze(0)?, t["resize.out"].dim(0)?, t["resize.out"].dim(1)?)?;
        o.relative("map", "resize.out", &resized.reshape(t["resize.out"].shape())?, &t["resize.out"], 1e-4)?;
        let reversed = |x: &Tensor| x.index_select(&Tensor::from_vec((0..n as u32).rev().collect::<Vec<_>>(), n, &Device::Cpu)?, 0);
        for (name, mask, images) in [
            ("mask2cam", t["gradcampp.guided.mask"].clone(), x.clone()),
            ("mask2cam_plain", t["gradcampp.plain.mask"].clone(), x.clone()),
            ("mask2cam_rev", reversed(&t["gradcampp.guided.mask"])?, reversed(x)?),
        ] {
            let (heat, cam) = grad_cam::overlay(&mask, &images)?;
            for (what, got) in [("heatmap", &heat), ("cam", &cam)] {
                let name = format!("{name}.{what}");
                let (got, want) = (got.flatten_all()?.to_vec1::<f32>()?, t[&name].flatten_all()?.to_vec1::<f32>()?);
                let off = got.iter().zip(&want).filter(|(a, b)| (*a - *b).abs() > 1e-3).count();
                o.number("share of values off by 1e-3", &name, off as f64 / want.len() as f64, 0.0, 0.005)?;
            }
        }
        Ok(())
    }))
}

/// StyleGAN1 from `Gs.` (and, where the file has it, `Gm.`), the unused parts of the network filled with zeros.
pub fn stylegan(t: &Tensors, dtype: DType) -> Result<StyleGan1, Error> {
    let mut gs = under(t, "Gs.");
    let mut gm = under(t, "Gm.");
    let blocks = (0..).take_while(|i| gs.contains_key(&format!("decode_block.{i}.bias_1"))).count();
    let dim = |t: &Tensors, name: &str, axis: usize| -> Result<usize, Error> { Ok(t.get(name).ok_or(format!("no {name}"))?.dim(axis)?) };
    let w_dim = dim(&gs, "decode_block.0.style_1.weight", 1)?;
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu);
    if gm.is_empty() {
        gm.insert("block_1.fc.weight".into(), zeros(&[w_dim, w_dim])?);
        gm.insert("block_1.fc.bias".into(), zeros(&[w_dim])?);
    }
    let mapping_layers = (1..).take_while(|i| gm.contains_key(&format!("block_{i}.fc.weight"))).count();
    let fmaps_max = dim(&gs, "decode_block.0.bias_1", 1)?;
    let resolution = 2 << blocks;
    let cfg = GeneratorConfig {
        resolution,
        z_dim: dim(&gm, "block_1.fc.weight", 1)?,
        w_dim,
        fmaps_base: dim(&gs, &format!("decode_block.{}.bias_1", blocks - 1), 1)? * resolution,
        fmaps_max,
        mapping_layers,
        mapping_fmaps: dim(&gm, "block_1.fc.weight", 0)?,
        ..GeneratorConfig::paper(resolution)
    };
    for i in 0..blocks {
        let channels = dim(&gs, &format!("decode_block.{i}.bias_1"), 1)?;
        gs.entry(format!("to_rgb.{i}.to_rgb.weight")).or_insert(zeros(&[3, channels, 1, 1])?);
        gs.entry(format!("to_rgb.{i}.to_rgb.bias")).or_insert(zeros(&[3])?);
    }
    let all = gs.into_iter().map(|(k, v)| (format!("Gs.{k}"), v)).chain(gm.into_iter().map(|(k, v)| (format!("Gm.{k}"), v)));
    let p = Params::frozen(all.collect(), dtype, &Device::Cpu, "fixture");
    Ok(StyleGan1::new(&cfg, &p)?)
}

/// Updated weights: d = after - before must agree to 2e-2 in relative L2 norm, and at most 1 % of its entries may be off by more
/// than 5e-3 of its largest.
fn compare_update(o: &mut Outcome, name: &str, before: &Tensor, got: &Tensor, want: &Tensor) -> Result<(), Error> {
    let flat = |x: &Tensor| -> Result<Vec<f64>, Error> { Ok((x - before)?.flatten_all()?.to_dtype(DType::F64)?.to_vec1()?) };
    let (a, b) = (flat(got)?, flat(want)?);
    let norm = b.iter().map(|v| v * v).sum::<f64>().sqrt();
    let off = a.iter().zip(&b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
    o.number("update L2", name, off / if norm > 0.0 { norm } else { 1.0 }, 0.0, 2e-2)?;
    let largest = b.iter().fold(0f64, |m, v| m.max(v.abs()));
    let wrong = a.iter().zip(&b).filter(|(a, b)| (*a - *b).abs() > 5e-3 * largest).count();
    o.number("share of entries", name, wrong as f64 / a.len() as f64, 0.0, 1e-2)
}

fn compare_updates(o: &mut Outcome, p: &Params, before: &Tensors, t: &Tensors, prefix: &str) -> Result<(), Error> {
    let now = p.snapshot()?;
    for (name, want) in under(t, prefix) {
        let got = now.get(&name).ok_or(format!("no parameter {name}"))?;
        compare_update(o, &format!("{prefix}{name}"), &before[&name], got, &want)?;
    }
    Ok(())
}

fn compare_moments(o: &mut Outcome, opt: &Optimizer, t: &Tensors, prefix: &str) -> Result<(), Error> {
    let state = opt.state()?;
    for (name, want) in under(t, prefix) {
        let got = state.get(&format!("v/{name}")).ok_or(format!("no second moment of {name}"))?;
        o.relative("moments", &format!("{prefix}{name}"), got, &want, 1e-3)?;
    }
    Ok(())
}

/// The gradients of the groups' sum, compared with `prefix` + parameter.
fn compare_gradients(o: &mut Outcome, losses: &Losses, groups: &[Group], p: &Params, t: &Tensors, prefix: &str) -> Result<(), Error> {
    let wanted = under(t, prefix);
    if wanted.is_empty() {
        return Ok(());
    }
    let grads = losses.total(groups)?.ok_or("no terms")?.backward()?;
    for param in p.vars() {
        match (grads.get(param.var.as_tensor()), wanted.get(&param.name)) {
            (Some(got), Some(want)) => o.relative("grad", &format!("{prefix}{}", param.name), got, want, 1e-3)?,
            (None, None) => {}
            (got, _) => o.fail(format!("{prefix}{}: gradient {}", param.name, if got.is_some() { "not expected" } else { "missing" })),
        }
    }
    Ok(())
}

fn training(f: &Fixture) -> Option<Outcome> {
    if f.area != "mtv_tsa" || !f.file.starts_with("train_") {
        return None;
    }
    Some(Outcome::of(|o| {
        let t = f.tensors()?;
        // One file stores only what differs from another.
        let base = if t.keys().any(|k| k.starts_with("Gs.")) { t.clone() } else { f.tensors_of("train_s1_zero.safetensors")? };
        let get = |name: &str| t.get(name).or_else(|| base.get(name)).ok_or_else(|| Error::from(format!("no tensor {name}")));
        let generator = stylegan(&base, DType::F32)?;
        let before = under(&base, "before.E.");
        let ctor = |key: &str| f.entry["ctor"]["E"][key].as_u64().map(|v| v as usize).ok_or(format!("no ctor.E.{key}"));
        let config = Config::case1(ctor("layer_count")?, ctor("startf")?, ctor("maxf")?, ctor("latent_size")?);
        let p = trainable(&before, DType::F32, &f.file);
        let encoder = Encoder::new(&config, &p)?;
        let mut recipe = Recipe::released();
        recipe.latents.types = Types::W;
        if f.text("module").contains("E_align_s2") {
            recipe.attention.mu = [5.0, 9.0];
            recipe.attention.detach = Detach::Nothing;
        }
        let skip = f.entry["zero_grad_set_to_none"].as_bool().ok_or("no zero_grad_set_to_none")?;
        recipe.optimizer.no_gradient = if skip { NoGradient::Skip } else { NoGradient::Zero };
        let mut opt = Optimizer::new(recipe.rule(), p.vars());
        let (vgg, lpips) = formula_lpips(f, DType::F32)?;
        let objective = Objective::new(&recipe, Some(vgg), Some(lpips), get("it0.imgs1")?)?;
        let rows = generator.layout().rows;
        let iterations = f.entry["iterations"].as_u64().ok_or("no iterations")?;
        for i in 0..iterations {
            let it = |name: &str| format!("it{i}.{name}");
            let noise = |name: &str| list(&base, &format!("it{i}.noise_{name}."), 2, DType::F32);
            let w1 =
                generator.truncate(&generator.map(get(&it("z"))?, None)?, recipe.sampling.psi, rows / 2, Some(get("center_tensor")?))?;
            o.relative("forward", &it("w1"), &w1, get(&it("w1"))?, 1e-4)?;
            let g1 = noise("G1")?;
            let x = generator.synthesize(&w1, &Synthesis { noise: Some(&g1), ..Default::default() })?;
            o.relative("forward", &it("imgs1"), &x, get(&it("imgs1"))?, 1e-4)?;
            let constant = generator.constant().ok_or("no constant")?;
            let constant = constant.broadcast_as((x.dim(0)?, constant.dim(1)?, 4, 4))?.contiguous()?;
            let target = Latents { w: Some(w1), constant: Some(constant.clone()), ..Default::default() };
            let (e, g2) = (noise("E")?, noise("G2")?);
            let batch = Batch { x: &x, target: &target, classes: None, condition: None, noise_e1: &e, noise_g2: Some(&g2), noise_e2: &[] };
            let found = objective::forward(&objective, &encoder, &generator, &batch, Which::All)?;
            let w2 = found.latents.w.as_ref().ok_or("no w")?;
            let own_constant = found.latents.constant.as_ref().ok_or("no constant")?;
            for (name, got) in [("w2", w2), ("const2", own_constant), ("imgs2", &found.x_prime)] {
                // From the second iteration on they follow the sign-like first update.
                let tolerance = if i == 0 { 1e-4 } else { 1e-3 };
                o.relative("forward", &it(name), got, get(&it(name))?, tolerance)?;
            }
            let loose = if i == 0 { 1e-4 } else { 1e-3 };
            for (name, prefix) in [("imgs", "x"), ("medium", "view_1"), ("small", "view_2"), ("w", "w")] {
                compare_terms(o, &it(&format!("terms_{name}")), &found.losses.terms, prefix, get(&it(&format!("terms_{name}")))?, loose)?;
            }
            let mut of_constant = Vec::new();
            objective::vector_terms(&recipe, &mut of_constant, Group::Latents, "zc", 1.0, &constant, own_constant)?;
            compare_terms(o, &it("terms_c"), &of_constant, "zc", get(&it("terms_c"))?, loose)?;

            if i == 0 {
                compare_gradients(o, &found.losses, &[Group::Latents], &p, &t, &it("fresh_grad_mtv."))?;
            }
            for (groups, name) in [(&[Group::Image, Group::View1, Group::View2][..], "tsa"), (&[Group::Latents][..], "mtv")] {
                let total = found.losses.total(groups)?.ok_or("no terms")?;
                let loss = it(&format!("loss_{name}"));
                o.relative("value", &loss, &total.reshape(1)?, get(&loss)?, loose)?;
                compare_gradients(o, &found.losses, groups, &p, &t, &it(&format!("grad_{name}.")))?;
                objective::step(&found.losses, groups, recipe.optimizer.no_gradient, &mut opt, recipe.optimizer.lr)?;
                compare_updates(o, &p, &before, &t, &it(&format!("after_{name}.E.")))?;
                compare_moments(o, &opt, &t, &it(&format!("after_{name}.v.")))?;
            }
        }
        let count = opt
            .state()?
            .iter()
            .filter(|(k, _)| k.starts_with("t/"))
            .map(|(_, t)| t.to_scalar::<i64>())
            .max_by_key(|c| c.as_ref().map_or(0, |c| *c));
        o.equal("count", "optimizer_step_count", count.ok_or("no step")??, t["optimizer_step_count"].to_vec1::<i64>()?[0])
    }))
}

fn embedding(f: &Fixture) -> Option<Outcome> {
    if f.area != "mtv_tsa" || !f.file.starts_with("embed_oe") {
        return None;
    }
    Some(Outcome::of(|o| {
        let t = f.tensors()?;
        let generator = stylegan(&t, DType::F32)?;
        let before = under(&t, "before.E.");
        let layout = generator.layout();
        let (_, startf) = layout.channels[layout.channels.len() - 1];
        let config = Config::case2(layout.channels.len(), startf, layout.channels[0].1, layout.w_dim, Fused::FirstFour);
        let p = trainable(&before, DType::F32, &f.file);
        let encoder = Encoder::new(&config, &p)?;
        let mut recipe = Recipe::released();
        recipe.attention.mu = [0.125, 0.125];
        recipe.attention.detach = Detach::Views;
        let lr = 0.01;
        let mut opt = Optimizer::new(recipe.rule(), p.vars());
        let (vgg, lpips) = formula_lpips(f, DType::F32)?;
        let x = &t["in.img"];
        let objective = Objective::new(&recipe, Some(vgg), Some(lpips), x)?;
        for i in 0..2 {
            let it = |name: &str| format!("it{i}.{name}");
            let noise = |name: &str| list(&t, &format!("it{i}.noise_{name}."), 2, DType::F32);
            let (e1, g, e2) = (noise("E1")?, noise("G")?, noise("E2")?);
            let first = encoder.forward(x, &Input { noise: &e1, ..Default::default() })?;
            let image = objective::decode(&recipe, &encoder, &generator, &first, None, Some(&g))?;
            let second = encoder.forward(&image, &Input { noise: &e2, ..Default::default() })?;
            let loose = if i == 0 { 1e-4 } else { 1e-3 };
            let of = |x: &Option<Tensor>| x.clone().ok_or("missing latent");
            for (name, got) in [
                ("w1", of(&first.w)?),
                ("imgs2", image.clone()),
                ("w2", of(&second.w)?),
                ("const2", of(&first.constant)?),
                ("const3", of(&second.constant)?),
            ] {
                o.relative("forward", &it(name), &got, &t[&it(name)], loose)?;
            }
            let mut losses = Losses { terms: objective.image_terms(x, &image, Which::All)? };
            losses.terms.extend(objective.latent_terms(&first, &[&second], None)?);
            for (name, prefix) in [("imgs", "x"), ("medium", "view_1"), ("small", "view_2"), ("w", "w"), ("c1", "zc")] {
                compare_terms(o, &it(&format!("terms_{name}")), &losses.terms, prefix, &t[&it(&format!("terms_{name}"))], loose)?;
            }
            for (groups, name) in [(&[Group::Image, Group::View1, Group::View2][..], "msiv"), (&[Group::Latents][..], "mslv")] {
                let loss = it(&format!("loss_{name}"));
                o.relative("value", &loss, &losses.total(groups)?.ok_or("no terms")?.reshape(1)?, &t[&loss], loose)?;
                compare_gradients(o, &losses, groups, &p, &t, &it(&format!("grad_{name}.")))?;
                objective::step(&losses, groups, NoGradient::Skip, &mut opt, lr)?;
                compare_updates(o, &p, &before, &t, &it(&format!("after_{name}.E.")))?;
            }
        }
        Ok(())
    }))
}

fn evaluation(f: &Fixture) -> Option<Outcome> {
    if f.area != "mtv_tsa" || !f.file.starts_with("eval_metrics") {
        return None;
    }
    Some(Outcome::of(|o| {
        let t = f.tensors()?;
        let picture = |x: &Tensor| -> Result<Rgb8, Error> {
            let (_, h, w) = x.dims3()?;
            let bytes = x.permute((1, 2, 0))?.flatten_all()?.to_vec1::<f32>()?.into_iter().map(|v| v as u8).collect();
            Ok(Rgb8::new(w, h, bytes)?)
        };
        let (a, b) = (picture(&t["a"])?, picture(&t["b"])?);
        for (name, got) in [
            ("psnr", metrics::psnr(&a, &b)),
            ("ssim", metrics::ssim_uniform7(&a, &b)),
            ("mse", metrics::mse(&a, &b)),
            ("cos", metrics::cosine(&a, &b)),
        ] {
            o.relative("value", name, &Tensor::new(&[got], &Device::Cpu)?, &t[name], 1e-5)?;
        }
        let (vgg, lpips) = formula_lpips(f, DType::F32)?;
        let signed = |x: &Tensor| x.affine(2.0 / 255.0, -1.0)?.unsqueeze(0);
        let name = "lpips_formula_vgg";
        o.relative("value", name, &lpips.distance(&vgg, &signed(&t["a"])?, &signed(&t["b"])?)?, &t[name], 1e-3)
    }))
}
