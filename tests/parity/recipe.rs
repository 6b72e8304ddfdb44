//! Parity with the paper's equations and text (paper_recipe): losses, views, z_n, Adam, whole training steps; float64 truth.
//!
//! Longer than other files: a function per kind of fixture, and the paper's recipe has many terms.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};
use mtv_bench::attention::{center, grad_cam};
use mtv_bench::generators::{Generator, NoiseSite, Synthesis};
use mtv_bench::inverters::mtv::{Config, Encoder, Fused, Latents, Strength};
use mtv_bench::objective::{
    self, Batch, Cosine, DecodeWith, Detach, Distance, Group, Kl, LatentsFrom, Losses, Objective, Recipe, Views, Which,
};
use mtv_bench::optim::{Optimizer, Rule};
use mtv_bench::params::{Param, Params};
use mtv_bench::perceptual::vgg16::{self, Backward, Vgg16, scale_input};
use serde_json::Value;

use super::encoders::{Gradients, Tensors, list, stylegan, under};
use super::harness::{Check, Error, Fixture, Outcome};

pub const CHECKS: &[Check] = &[companions, latents, images, centre_views, grad_cam_views, strengths, adam, samples, training, definitions];

fn mine(f: &Fixture, start: &str) -> bool {
    f.area == "paper_recipe" && f.file.starts_with(start)
}

/// (outputs, gradients, KL outputs)
fn tolerances(f: &Fixture) -> (f64, f64, f64) {
    let of = |key: &str| f.entry[key].as_f64();
    let outputs = of("tolerance_outputs").unwrap_or(1e-4);
    (outputs, of("tolerance_gradients").unwrap_or(1e-3), of("tolerance_kl_outputs").unwrap_or(outputs))
}

fn companions(f: &Fixture) -> Option<Outcome> {
    mine(f, "vgg_narrow").then(|| Outcome::companion("loss_images.safetensors and train_*.safetensors"))
}

fn vgg(tensors: &Tensors, dtype: DType) -> Result<Arc<Vgg16>, Error> {
    let p = Params::frozen(tensors.clone(), dtype, &Device::Cpu, "fixture");
    let net = Vgg16::new(&vgg16::Config::read(&p)?, &p)?;
    p.finish()?;
    Ok(Arc::new(net))
}

fn narrow_vgg(f: &Fixture, dtype: DType) -> Result<Arc<Vgg16>, Error> {
    vgg(&f.tensors_of("vgg_narrow.safetensors")?, dtype)
}

/// Compares a scalar with the tensor `name` [1].
fn scalar(o: &mut Outcome, t: &Tensors, name: &str, got: &Tensor, tolerance: f64) -> Result<(), Error> {
    o.relative("value", name, &got.reshape(1)?, t.get(name).ok_or(format!("no tensor {name}"))?, tolerance)
}

/// The gradient of a scalar with respect to one input in f32 or f64; zero where none arrives.
fn gradient(
    o: &mut Outcome,
    t: &Tensors,
    name: &str,
    at: &Tensor,
    tolerance: f64,
    run: impl Fn(DType, &Tensor) -> Result<Tensor, Error>,
) -> Result<(), Error> {
    let want = t.get(name).ok_or(format!("no tensor {name}"))?;
    // What is only the rounding of the reference's float64 is zero.
    let zero = want.abs()?.max_all()?.to_scalar::<f32>()? < 1e-12;
    let want = if zero { want.zeros_like()? } else { want.clone() };
    o.gradient(name, &want, tolerance, |dtype| {
        let at = Var::from_tensor(&at.to_dtype(dtype)?)?;
        let grads = run(dtype, &at)?.backward()?;
        Ok(grads.get(&at).cloned().unwrap_or(at.zeros_like()?))
    })
}

fn cases(t: &Tensors) -> std::collections::BTreeSet<String> {
    t.keys().filter_map(|k| k.split_once(".in.").map(|(case, _)| case.to_string())).collect()
}

fn latents(f: &Fixture) -> Option<Outcome> {
    if !mine(f, "loss_latents") {
        return None;
    }
    Some(Outcome::of(|o| {
        let t = f.tensors()?;
        let (tol, tol_grad, tol_kl) = tolerances(f);
        for case in cases(&t) {
            let (a, b) = (&t[&format!("{case}.in.target")], &t[&format!("{case}.in.pred")]);
            for (name, _) in under(&t, &format!("{case}.out.")) {
                let value = |dtype: DType, b: &Tensor| -> Result<Tensor, Error> {
                    let a = a.to_dtype(dtype)?;
                    use objective::vectors::{cosine, distance, kl};
                    Ok(match name.as_str() {
                        "norm_sample" => distance(Distance::NormSample, &a, b)?,
                        "norm_batch" => distance(Distance::NormBatch, &a, b)?,
                        "mse" => distance(Distance::Mse, &a, b)?,
                        "cos_sample" => cosine(Cosine::Sample, &a, b)?,
                        "cos_last" => cosine(Cosine::Last, &a, b)?,
                        "cos_batch" => cosine(Cosine::Batch, &a, b)?,
                        "kl_sample" => kl(Kl::ReverseSample, &a, b)?,
                        "kl_last" => kl(Kl::ReverseLast, &a, b)?,
                        "kl_forward_sample" => kl(Kl::ForwardSample, &a, b)?,
                        "total" => {
                            let mut losses = Losses::default();
                            objective::vector_terms(&Recipe::paper(), &mut losses.terms, Group::Latents, "x", 1.0, &a, b)?;
                            losses.total(&[Group::Latents])?.ok_or("no terms")?
                        }
                        other => return Err(format!("unknown loss {other}").into()),
                    })
                };
                let tol = if name.starts_with("kl") { tol_kl } else { tol };
                scalar(o, &t, &format!("{case}.out.{name}"), &value(DType::F32, b)?, tol)?;
                gradient(o, &t, &format!("{case}.grad.{name}"), b, tol_grad, value)?;
            }
        }
        Ok(())
    }))
}

/// The paper's image terms with live images.
fn image_recipe() -> Recipe {
    let mut recipe = Recipe::paper();
    recipe.attention.detach = Detach::Nothing;
    recipe.attention.views = Views::None;
    recipe
}

/// The names of the five terms of Eq. 7 in the fixtures and here.
const TERMS: [(&str, &str); 5] = [("norm", "distance"), ("cos", "cosine"), ("kl", "kl"), ("lpips", "perceptual"), ("ssim", "ssim")];

/// Eq. 7 of one pair: values and gradients at `pred` of each term and of their sum.
fn pair(
    o: &mut Outcome,
    t: &Tensors,
    case: &str,
    (a, b, range): (&Tensor, &Tensor, f64),
    tolerances: (f64, f64, f64),
    net: &dyn Fn(DType) -> Result<Arc<Vgg16>, Error>,
) -> Result<(), Error> {
    let (tol, tol_grad, tol_kl) = tolerances;
    let mut recipe = image_recipe();
    if !t.contains_key(&format!("{case}.out.lpips")) {
        recipe.weights.perceptual = 0.0;
    }
    let terms = |dtype: DType, b: &Tensor| -> Result<Losses, Error> {
        let a = a.to_dtype(dtype)?;
        let terms = Objective::new(&recipe, Some(net(dtype)?), None, &a)?.pair_terms(Group::Image, "x", 1.0, &a, b, range)?;
        Ok(Losses { terms })
    };
    let pick = |losses: &Losses, kind: &str| -> Result<Tensor, Error> {
        match kind {
            "total" => Ok(losses.total(&[Group::Image])?.ok_or("no terms")?),
            kind => Ok(losses.terms.iter().find(|t| t.name == format!("x/{kind}")).ok_or(format!("no term {kind}"))?.value.clone()),
        }
    };
    let found = terms(DType::F32, b)?;
    for (theirs, ours) in TERMS.into_iter().chain([("total", "total")]) {
        let tol = if theirs == "kl" { tol_kl } else { tol };
        if t.contains_key(&format!("{case}.out.{theirs}")) {
            scalar(o, t, &format!("{case}.out.{theirs}"), &pick(&found, ours)?, tol)?;
        }
        if t.contains_key(&format!("{case}.grad.{theirs}")) {
            gradient(o, t, &format!("{case}.grad.{theirs}"), b, tol_grad, |dtype, b| pick(&terms(dtype, b)?, ours))?;
        }
    }
    Ok(())
}

fn images(f: &Fixture) -> Option<Outcome> {
    if !mine(f, "loss_images") {
        return None;
    }
    Some(Outcome::of(|o| {
        let t = f.tensors()?;
        let net = |dtype| narrow_vgg(f, dtype);
        for case in cases(&t) {
            let (a, b) = (&t[&format!("{case}.in.target")], &t[&format!("{case}.in.pred")]);
            let range = if a.dim(1)? == 1 { 1.0 } else { 2.0 };
            pair(o, &t, &case, (a, b, range), tolerances(f), &net)?;
            if let Some(want) = t.get(&format!("{case}.out.lpips_layers")) {
                let vgg = net(DType::F32)?;
                let layers = objective::feature_mse_layers(&vgg.taps(&scale_input(a)?)?, &vgg.taps(&scale_input(b)?)?)?;
                let name = format!("{case}.out.lpips_layers");
                o.relative("value", &name, &Tensor::new(layers, &Device::Cpu)?, want, tolerances(f).0)?;
            }
            for (name, got) in [
                ("mse", objective::vectors::distance(Distance::Mse, a, b)?),
                ("cos_batch", objective::vectors::cosine(Cosine::Batch, a, b)?),
            ] {
                if t.contains_key(&format!("{case}.out.{name}")) {
                    scalar(o, &t, &format!("{case}.out.{name}"), &got, tolerances(f).0)?;
                }
            }
        }
        Ok(())
    }))
}

fn centre_views(f: &Fixture) -> Option<Outcome> {
    if !mine(f, "centre_views") {
        return None;
    }
    Some(Outcome::of(|o| {
        let t = f.tensors()?;
        let (tol, tol_grad, _) = tolerances(f);
        for case in cases(&t) {
            let x = &t[&format!("{case}.in.x")];
            let (_, _, h, w) = x.dims4()?;
            for which in 0..2 {
                let at = format!("at{}", which + 1);
                let views = |dtype| center::Center::new(h, w, dtype, &Device::Cpu);
                o.relative("view", &format!("{case}.out.{at}"), &views(DType::F32)?.view(x, which)?, &t[&format!("{case}.out.{at}")], tol)?;
                gradient(o, &t, &format!("{case}.grad.{at}"), x, tol_grad, |dtype, x| {
                    Ok((views(dtype)?.view(x, which)? * t[&format!("{case}.cot.{at}")].to_dtype(dtype)?)?.sum_all()?)
                })?;
                for (axis, n) in [("h", h), ("w", w)] {
                    let (start, length) = center::span(n, center::RATIOS[which]);
                    let want = t[&format!("{case}.box.{at}.{axis}")].to_vec1::<i64>()?;
                    o.equal("box", &format!("{case}.box.{at}.{axis}"), vec![start as i64, length as i64], want)?;
                    let matrix = center::resize_matrix(n, n, start, length, DType::F32, &Device::Cpu)?;
                    let name = format!("{case}.matrix.{at}.{axis}");
                    o.relative("matrix", &name, &matrix, &t[&name], tol)?;
                }
            }
        }
        Ok(())
    }))
}

fn grad_cam_views(f: &Fixture) -> Option<Outcome> {
    if !mine(f, "grad_cam_views") {
        return None;
    }
    Some(Outcome::of(|o| {
        let t = f.tensors()?;
        let (tol, tol_grad, _) = tolerances(f);
        let weights = under(&t, "vgg.");
        let net = |dtype| vgg(&weights, dtype);
        let (x, x_prime) = (&t["in.x"], &t["in.x_prime"]);
        let (_, _, h, w) = x.dims4()?;
        let classes: Vec<u32> = t["in.class"].to_vec1::<i64>()?.into_iter().map(|c| c as u32).collect();
        let vgg32 = net(DType::F32)?;
        let own = grad_cam::channels(&vgg32, &vgg32.features(&scale_input(x)?)?, None)?;
        o.equal("class", "in.class", own.classes, classes.clone())?;
        for (name, image) in [("x", x), ("x_prime", x_prime)] {
            let a = vgg32.features(&scale_input(image)?)?;
            let channels = grad_cam::channels(&vgg32, &a, Some(&classes))?;
            let raw = grad_cam::raw_map(&a, &channels.alpha)?;
            let norm = grad_cam::normalize(&raw)?;
            let view_1 = grad_cam::resize(&norm, h, w)?;
            let view_2 = grad_cam::mask(&view_1, image)?;
            let found = [
                ("alpha", &channels.alpha),
                ("logits", &channels.logits),
                ("raw", &raw),
                ("norm", &norm),
                ("view_1", &view_1),
                ("view_2", &view_2),
            ];
            for (what, got) in found {
                let name = format!("out.{name}.{what}");
                o.relative("map", &name, got, &t[&name], tol)?;
            }
        }
        let views = |dtype: DType, image: &Tensor, detached: bool| -> Result<[Tensor; 2], Error> {
            let vgg = net(dtype)?;
            let a = vgg.features(&scale_input(image)?)?;
            let channels = grad_cam::channels(&vgg, &a, Some(&classes))?;
            let raw = grad_cam::raw_map(&a, &channels.alpha)?;
            let norm = if detached {
                // (raw - min) / (max - min) with min and max held constant.
                let (n, side, other) = raw.dims3()?;
                let flat = raw.detach().reshape((n, side * other))?;
                let (low, high) = (flat.min_keepdim(1)?.unsqueeze(2)?, flat.max_keepdim(1)?.unsqueeze(2)?);
                raw.broadcast_sub(&low)?.broadcast_div(&(high - &low)?)?
            } else {
                grad_cam::normalize(&raw)?
            };
            let view = grad_cam::resize(&norm, h, w)?;
            let masked = grad_cam::mask(&view, image)?;
            Ok([view, masked])
        };
        for (name, which, detached) in [("grad.view_1", 0, false), ("grad.view_2", 1, false), ("grad.view_1.minmax_detached", 0, true)] {
            gradient(o, &t, name, x_prime, tol_grad, |dtype, image| {
                let cotangent = t[["cot.1", "cot.2"][which]].to_dtype(dtype)?;
                Ok((&views(dtype, image, detached)?[which] * cotangent)?.sum_all()?)
            })?;
        }
        // Through the objective itself: the recipe's own views and their TSA.
        let mut recipe = image_recipe();
        recipe.attention.views = Views::GradCam;
        let losses = |dtype: DType, image: &Tensor| -> Result<Losses, Error> {
            let x = x.to_dtype(dtype)?;
            Ok(Losses { terms: Objective::new(&recipe, Some(net(dtype)?), None, &x)?.image_terms(&x, image, Which::All)? })
        };
        let found = losses(DType::F32, x_prime)?;
        for (view, group) in [("1", Group::View1), ("2", Group::View2)] {
            for (theirs, ours) in TERMS {
                let name = format!("out.tsa_{view}.{theirs}");
                let term = found.terms.iter().find(|t| t.name == format!("view_{view}/{ours}")).ok_or("no such term")?;
                scalar(o, &t, &name, &term.value, if theirs == "kl" { tolerances(f).2 } else { tol })?;
            }
            scalar(o, &t, &format!("out.tsa_{view}.total"), &found.total(&[group])?.ok_or("no terms")?, tol)?;
            gradient(o, &t, &format!("grad.tsa_{view}.total"), x_prime, tol_grad, |dtype, image| {
                Ok(losses(dtype, image)?.total(&[group])?.ok_or("no terms")?)
            })?;
        }
        let want = &t["degenerate.out.norm"];
        let flat = Var::from_tensor(&want.affine(0.0, 0.25)?)?;
        let norm = grad_cam::normalize(&flat)?;
        o.relative("map", "degenerate.out.norm", &norm, want, tol)?;
        let grads = norm.sum_all()?.backward()?;
        o.relative("grad", "degenerate.grad", &grads.get(&flat).cloned().unwrap_or(flat.zeros_like()?), &t["degenerate.grad"], tol_grad)
    }))
}

fn strengths(f: &Fixture) -> Option<Outcome> {
    if !mine(f, "zn_loss") {
        return None;
    }
    Some(Outcome::of(|o| {
        let t = f.tensors()?;
        let (tol, tol_grad, tol_kl) = tolerances(f);
        let blocks = under(&t, "G.").len() / 2;
        let key = |i: usize, k: usize| format!("decode_block.{i}.noise_weight_{k}");
        let places: Vec<(usize, usize)> = (0..blocks).flat_map(|i| [(i, 1), (i, 2)]).collect();
        let g: Vec<Tensor> = places.iter().map(|&(i, k)| t[&format!("G.{}", key(i, k))].clone()).collect();
        let sites: Vec<NoiseSite> = places
            .iter()
            .zip(&g)
            .map(|(&(i, _), g)| Ok(NoiseSite { channels: g.dim(1)?, resolution: 4 << i }))
            .collect::<Result<_, Error>>()?;
        for case in cases(&t) {
            let vars = |dtype: DType| -> Result<BTreeMap<String, Var>, Error> {
                let own = under(&t, "E.").into_iter().map(|(name, value)| {
                    let value = if case == "zero_init" { value.zeros_like()? } else { value };
                    Ok((name, Var::from_tensor(&value.to_dtype(dtype)?)?))
                });
                own.collect()
            };
            let paired = |vars: &BTreeMap<String, Var>, dtype: DType| -> Result<(Tensor, Tensor), Error> {
                // The last block's second strength does not act.
                let own = places.iter().filter(|&&place| place != (blocks - 1, 2));
                let own =
                    own.map(|&(i, k)| Strength { resolution: (2 << blocks) >> i, place: k, weight: vars[&key(i, k)].as_tensor().clone() });
                let g = g.iter().map(|g| g.to_dtype(dtype)).collect::<Result<Vec<_>, _>>()?;
                Ok(objective::paired_strengths(&own.collect::<Vec<_>>(), &sites, &g)?.ok_or("nothing pairs")?)
            };
            let losses = |vars: &BTreeMap<String, Var>, dtype: DType| -> Result<Losses, Error> {
                let (a, b) = paired(vars, dtype)?;
                let mut losses = Losses::default();
                objective::vector_terms(&Recipe::paper(), &mut losses.terms, Group::Latents, "zn", 1.0, &a, &b)?;
                Ok(losses)
            };
            let own = vars(DType::F32)?;
            let (a, b) = paired(&own, DType::F32)?;
            o.relative("vectors", &format!("{case}.in.z_n"), &a, &t[&format!("{case}.in.z_n")], 0.0)?;
            o.relative("vectors", &format!("{case}.in.z_n_prime"), &b, &t[&format!("{case}.in.z_n_prime")], 0.0)?;
            let found = losses(&own, DType::F32)?;
            for (theirs, ours) in &TERMS[..3] {
                let term = found.terms.iter().find(|t| t.name == format!("zn/{ours}")).ok_or("no such term")?;
                scalar(o, &t, &format!("{case}.out.{theirs}"), &term.value, if *theirs == "kl" { tol_kl } else { tol })?;
            }
            scalar(o, &t, &format!("{case}.out.total"), &found.total(&[Group::Latents])?.ok_or("no terms")?, tol)?;
            let gradients = Gradients::new(|dtype| {
                let vars = vars(dtype)?;
                let grads = losses(&vars, dtype)?.total(&[Group::Latents])?.ok_or("no terms")?.backward()?;
                vars.iter().map(|(name, v)| Ok((name.clone(), grads.get(v).cloned().unwrap_or(v.zeros_like()?)))).collect()
            });
            for (name, want) in under(&t, &format!("{case}.grad.")) {
                o.gradient(&format!("{case}.grad.{name}"), &want, tol_grad, |dtype| gradients.get(&name, dtype))?;
            }
        }
        Ok(())
    }))
}

fn adam(f: &Fixture) -> Option<Outcome> {
    if !mine(f, "adam") {
        return None;
    }
    Some(Outcome::of(|o| {
        let t = f.tensors()?;
        let (tol, _, _) = tolerances(f);
        let Rule::Adam { beta1, beta2, eps, .. } = Recipe::paper().rule() else { return Err("the paper's rule is not Adam".into()) };
        let rule = Rule::Adam { beta1, beta2, eps, equalized: false };
        // The update is far smaller than the parameter: its digits are there in f64 only.
        for dtype in [DType::F32, DType::F64] {
            let var = Var::from_tensor(&t["in.param"].to_dtype(dtype)?)?;
            let mut opt = Optimizer::new(rule, vec![Param { name: "p".into(), var: var.clone(), coef: 1.0 }]);
            for i in 0.. {
                let Some(g) = t.get(&format!("in.grad.{i}")) else { break };
                let before = var.as_tensor().copy()?;
                opt.step_named(&BTreeMap::from([("p".to_string(), g.to_dtype(dtype)?)]), Recipe::paper().optimizer.lr)?;
                o.relative("update", &format!("out.param.{i}"), var.as_tensor(), &t[&format!("out.param.{i}")], tol)?;
                o.relative("update", &format!("out.v.{i}"), &opt.state()?["v/p"], &t[&format!("out.v.{i}")], tol)?;
                if dtype == DType::F64 {
                    // The file's update is the step before its sign is turned.
                    let (update, want) = ((&before - var.as_tensor())?, &t[&format!("out.update.{i}")]);
                    let same =
                        |x: &Tensor| -> Result<f64, Error> { Ok((x - want.to_dtype(dtype)?)?.abs()?.max_all()?.to_scalar::<f64>()?) };
                    let turned = update.neg()?;
                    let update = if same(&turned)? < same(&update)? { turned } else { update };
                    o.relative("update in f64", &format!("out.update.{i}"), &update, want, tol)?;
                }
            }
        }
        Ok(())
    }))
}

fn samples(f: &Fixture) -> Option<Outcome> {
    if !mine(f, "train_nets") {
        return None;
    }
    Some(Outcome::of(|o| {
        let t = f.tensors()?;
        let generator = stylegan(&t, DType::F32)?;
        for i in 0.. {
            let Some(w) = t.get(&format!("it{i}.w")) else { break };
            let noise = list(&t, &format!("it{i}.noise_G1."), 2, DType::F32)?;
            let x = generator.synthesize(w, &Synthesis { noise: Some(&noise), ..Default::default() })?;
            o.relative("forward", &format!("it{i}.x"), &x, &t[&format!("it{i}.x")], tolerances(f).0)?;
        }
        Ok(())
    }))
}

/// The recipe of a training fixture, from its manifest.
fn training_recipe(entry: &Value) -> Result<(Recipe, bool, Fused), Error> {
    let r = &entry["recipe"];
    let mut recipe = Recipe::paper();
    let pair = |key: &str| -> Result<[f64; 2], Error> {
        let of = |i: usize| r[key][i].as_f64().ok_or(format!("the recipe gives no {key}"));
        Ok([of(0)?, of(1)?])
    };
    recipe.attention.mu = pair("mu")?;
    [recipe.latents.nu_w, recipe.latents.nu_c] = pair("nu")?;
    recipe.attention.detach = if r["detach"].as_bool().ok_or("no detach")? { Detach::All } else { Detach::Nothing };
    recipe.latents.latents_from = match r["latents"].as_str() {
        Some("x") => LatentsFrom::X,
        Some("x_prime") => LatentsFrom::XPrime,
        Some("both") => LatentsFrom::Both,
        other => return Err(format!("latents from {other:?}").into()),
    };
    recipe.latents.decode_with = match r["decode"].as_str() {
        Some("w") => DecodeWith::W,
        Some("w+zc") => DecodeWith::WZc,
        Some("w+zc+zn") => DecodeWith::WZcZn,
        other => return Err(format!("decode with {other:?}").into()),
    };
    recipe.attention.views = match r["attention"].as_str() {
        Some("centre") => Views::Center,
        Some("grad_cam") => Views::GradCam,
        other => return Err(format!("attention {other:?}").into()),
    };
    let fused = match r["fused"].as_u64() {
        Some(0) => Fused::None,
        Some(4) => Fused::FirstFour,
        other => return Err(format!("fused {other:?}").into()),
    };
    Ok((recipe, r["blur"].as_bool().ok_or("no blur")?, fused))
}

/// The networks of one run.
struct Run {
    p: Params,
    encoder: Encoder,
    generator: mtv_bench::generators::stylegan1::StyleGan1,
    objective: Objective,
}

impl Run {
    fn new(f: &Fixture, nets: &Tensors, setting: &(Recipe, bool, Fused), dtype: DType) -> Result<Self, Error> {
        let (recipe, blur, fused) = setting;
        let generator = stylegan(nets, dtype)?;
        let layout = generator.layout();
        let (_, first) = layout.channels[layout.channels.len() - 1];
        let config =
            Config { blur: *blur, fused: *fused, ..Config::case1(layout.channels.len(), first, layout.channels[0].1, layout.w_dim) };
        let p = Params::trainable(under(nets, "E."), dtype, &Device::Cpu, &f.file);
        let encoder = Encoder::new(&config, &p)?;
        p.finish()?;
        let objective = Objective::new(recipe, Some(narrow_vgg(f, dtype)?), None, &nets["it0.x"].to_dtype(dtype)?)?;
        Ok(Run { p, encoder, generator, objective })
    }

    fn forward(&self, i: usize, nets: &Tensors, t: &Tensors, dtype: DType) -> Result<(objective::Iteration, Latents), Error> {
        let noise = |name: &str| list(t, &format!("it{i}.noise_{name}."), 2, dtype);
        let x = nets[&format!("it{i}.x")].to_dtype(dtype)?;
        let constant = self.generator.constant().ok_or("no constant")?;
        let target = Latents {
            w: Some(nets[&format!("it{i}.w")].to_dtype(dtype)?),
            constant: Some(constant.broadcast_as((x.dim(0)?, constant.dim(1)?, 4, 4))?.contiguous()?),
            ..Default::default()
        };
        let (e1, g2, e2) = (noise("E1")?, noise("G2")?, noise("E2")?);
        let batch = Batch { x: &x, target: &target, classes: None, condition: None, noise_e1: &e1, noise_g2: Some(&g2), noise_e2: &e2 };
        let found = objective::forward(&self.objective, &self.encoder, &self.generator, &batch, Which::All)?;
        Ok((found, target))
    }
}

const L1: [Group; 3] = [Group::Image, Group::View1, Group::View2];
const ALL: [Group; 4] = [Group::Image, Group::View1, Group::View2, Group::Latents];

fn training(f: &Fixture) -> Option<Outcome> {
    if !mine(f, "train_") {
        return None;
    }
    Some(Outcome::of(|o| {
        let t = f.tensors()?;
        let nets = f.tensors_of("train_nets.safetensors")?;
        // *_eq files hold the same run with the equalised optimizer and refer to the plain one for the rest.
        let equalized = f.file.contains("_eq.");
        let base_file = f.file.replace("_eq.", ".");
        let base = if equalized { f.tensors_of(&base_file)? } else { t.clone() };
        let files = f.manifest["files"].as_array().ok_or("no files")?;
        let entry = files.iter().find(|e| e["file"] == base_file.as_str()).ok_or(format!("no entry {base_file}"))?;
        let mut setting = training_recipe(entry)?;
        setting.0.optimizer.equalized = equalized;
        let recipe = &setting.0;
        let (tol, tol_grad, _) = tolerances(f);
        let run = Run::new(f, &nets, &setting, DType::F32)?;
        let mut opt = Optimizer::new(recipe.rule(), run.p.vars());
        let coefs: BTreeMap<String, f64> = run.p.vars().into_iter().map(|p| (p.name, p.coef)).collect();
        // Entries whose gradient was never close to zero: the first steps are sign-like.
        let mut sure: BTreeMap<String, Vec<bool>> = BTreeMap::new();
        for i in 0.. {
            let at = format!("it{i}.");
            if !t.contains_key(&format!("{at}out.loss")) {
                break;
            }
            let tol = if i == 0 { tol } else { 1e-3 };
            let (found, target) = run.forward(i, &nets, &base, DType::F32)?;
            let losses = &found.losses;
            let second = found.latents_2.clone().unwrap_or_default();
            for (name, got) in [
                ("w_prime", &found.latents.w),
                ("zc_prime", &found.latents.constant),
                ("w_prime2", &second.w),
                ("zc_prime2", &second.constant),
                ("x_prime", &Some(found.x_prime.clone())),
            ] {
                let name = format!("{at}out.{name}");
                if let Some(want) = t.get(&name) {
                    o.relative("forward", &name, got.as_ref().ok_or("no such latent")?, want, tol)?;
                }
            }
            for (name, prefix) in [("tsa_x", "x"), ("tsa_1", "view_1"), ("tsa_2", "view_2")] {
                let values = TERMS.iter().map(|(_, ours)| {
                    let term = losses.terms.iter().find(|t| t.name == format!("{prefix}/{ours}")).ok_or("no such term")?;
                    Ok(term.value.to_scalar::<f32>()?)
                });
                let values = values.collect::<Result<Vec<f32>, Error>>()?;
                let name = format!("{at}out.{name}");
                o.relative("terms", &name, &Tensor::new(values, &Device::Cpu)?, &t[&name], tol)?;
            }
            // The unweighted MTV losses of either pass, whether the recipe uses them or not.
            for (name, a, b) in [
                ("mtv_w", &target.w, &found.latents.w),
                ("mtv_zc", &target.constant, &found.latents.constant),
                ("mtv_w_2", &target.w, &second.w),
                ("mtv_zc_2", &target.constant, &second.constant),
            ] {
                let name = format!("{at}out.{name}");
                if let (Some(_), Some(a), Some(b)) = (t.get(&name), a, b) {
                    let mut sum = Losses::default();
                    objective::vector_terms(recipe, &mut sum.terms, Group::Latents, "x", 1.0, a, b)?;
                    scalar(o, &t, &name, &sum.total(&[Group::Latents])?.ok_or("no terms")?, tol)?;
                }
            }
            if t.contains_key(&format!("{at}out.mtv_zn")) {
                let terms = losses.terms.iter().filter(|t| t.name.starts_with("zn/")).cloned().collect();
                let sum = Losses { terms }.total(&[Group::Latents])?.ok_or("no z_n term")?;
                scalar(o, &t, &format!("{at}out.mtv_zn"), &sum, tol)?;
            }
            for (name, groups) in [("L1", &L1[..]), ("L2", &[Group::Latents][..]), ("loss", &ALL[..])] {
                scalar(o, &t, &format!("{at}out.{name}"), &losses.total(groups)?.ok_or("no terms")?, tol)?;
            }
            if let Some(want) = t.get(&format!("{at}out.class")) {
                let vgg = narrow_vgg(f, DType::F32)?;
                let own = grad_cam::channels(&vgg, &vgg.features(&scale_input(&nets[&format!("{at}x")])?)?, None)?;
                o.equal("class", &format!("{at}out.class"), own.classes.iter().map(|&c| i64::from(c)).collect(), want.to_vec1::<i64>()?)?;
            }
            let grads = losses.total(&ALL)?.ok_or("no terms")?.backward()?;
            for param in run.p.vars() {
                let own = grads.get(param.var.as_tensor());
                let reference = base.get(&format!("{at}grad.{}", param.name));
                let Some(g) = reference.or(own) else { continue };
                let g = g.flatten_all()?.to_vec1::<f32>()?;
                let largest = g.iter().fold(0f32, |m, v| m.max(v.abs()));
                let entry = sure.entry(param.name).or_insert_with(|| vec![true; g.len()]);
                entry.iter_mut().zip(&g).for_each(|(s, g)| *s &= g.abs() > 1e-3 * largest);
            }
            let wanted = under(&t, &format!("{at}grad."));
            if !wanted.is_empty() {
                let without = run.p.vars().iter().filter(|p| grads.get(p.var.as_tensor()).is_none()).count();
                if let Some(count) = t.get("params_without_grad") {
                    o.equal("count", "params_without_grad", without as i64, count.to_vec1::<i64>()?[0])?;
                }
                let gradients = Gradients::new(|dtype| {
                    let run = Run::new(f, &nets, &setting, dtype)?;
                    let grads = run.forward(i, &nets, &base, dtype)?.0.losses.total(&ALL)?.ok_or("no terms")?.backward()?;
                    let named = run.p.vars().into_iter().filter_map(|p| grads.get(p.var.as_tensor()).map(|g| (p.name, g.clone())));
                    Ok(named.collect())
                });
                for (name, want) in &wanted {
                    o.gradient(&format!("{at}grad.{name}"), want, tol_grad, |dtype| gradients.get(name, dtype))?;
                }
            }
            objective::steps(&run.objective, losses, &mut opt, recipe.optimizer.lr)?;
            let now = run.p.snapshot()?;
            for (name, want) in under(&t, &format!("{at}after.")) {
                let (got, want) = (now[&name].flatten_all()?.to_vec1::<f32>()?, want.flatten_all()?.to_vec1::<f32>()?);
                let all = vec![true; got.len()];
                let sure = sure.get(&name).unwrap_or(&all);
                let off = got.iter().zip(&want).zip(sure).filter(|(_, sure)| **sure).fold(0f32, |m, ((a, b), _)| m.max((a - b).abs()));
                let coef = if equalized { coefs[&name] } else { 1.0 };
                o.number("updated weights", &format!("{at}after.{name}"), f64::from(off) / coef, 0.0, 2e-5)?;
            }
        }
        Ok(())
    }))
}

/// metrics/gradcam: Grad-CAM's definition on post-ReLU features, and the released code's maps, for given classes.
fn definitions(f: &Fixture) -> Option<Outcome> {
    if f.area != "metrics" || !f.file.starts_with("gradcam/") {
        return None;
    }
    if !f.file.ends_with("gradcam_tensors.safetensors") {
        return Some(Outcome::companion("gradcam/gradcam_tensors.safetensors"));
    }
    Some(Outcome::of(|o| {
        let t = f.tensors()?;
        let weights = f.tensors_of("gradcam/tiny_vgg_weights.safetensors")?;
        // Its classifier has no dropout, so the second layer comes one place earlier than torchvision's.
        let vgg = vgg(&weights.into_iter().map(|(k, v)| (k.replace("classifier.2", "classifier.3"), v)).collect(), DType::F32)?;
        let x = &t["x_pm1"];
        let (n, _, h, w) = x.dims4()?;
        let logits = vgg.logits(x)?;
        o.relative("forward", "logits", &logits, &t["logits"], 1e-4)?;
        let a = vgg.features(x)?;
        for class in 0..logits.dim(1)? {
            let channels = grad_cam::channels(&vgg, &a, Some(&vec![class as u32; n]))?;
            let raw = grad_cam::raw_map(&a, &channels.alpha)?;
            let norm = grad_cam::normalize(&raw)?;
            for (name, got) in [
                ("def/post/gradcam_weights_f64", &channels.alpha),
                ("def/post/gradcam_norm16_f64", &norm),
                ("def/post/gradcam_norm64_f32", &grad_cam::resize(&norm, h, w)?.squeeze(1)?),
            ] {
                o.relative("definition", name, got, &t[name].narrow(1, class, 1)?.squeeze(1)?, 1e-4)?;
            }
            let want = t["def/post/gradcam_prerelu_f64"].narrow(1, class, 1)?.squeeze(1)?;
            o.relative("definition", "def/post/gradcam_prerelu_f64", &raw, &want.relu()?, 1e-4)?;
        }
        // Not compared: features taken before the ReLU (def/pre, repo/notinplace; the released code's network has in-place ReLUs, so it
        // never sees them), pytorch-grad-cam (it normalises again after resizing), Grad-CAM++ by its paper's weights (the released class
        // of that name is another thing, and the one that trains), mixed classes, which the fixture does not name, and hooked_gradient_last, the
        // gradient that the hook of the fixture's last call happened to leave (the maps made of such gradients are compared).
        o.relative("forward", "repo/inplace/hooked_feature", &a, &t["repo/inplace/hooked_feature"], 1e-4)?;
        let best: Vec<u32> = logits.argmax(candle_core::D::Minus1)?.to_vec1()?;
        for (kind, name) in [(grad_cam::ReleasedKind::GradCam, "gradcam"), (grad_cam::ReleasedKind::PlusPlus, "gradcampp")] {
            for (choice, classes) in [("class3", Some(vec![3; n])), ("argmax", None)] {
                let maps = grad_cam::released(&vgg, x, kind, Backward::Plain, classes.as_deref())?;
                let key = format!("repo/inplace/{name}_call/{choice}");
                o.close("released map", &key, &maps.mask, &t[&key], 1e-4, 0.0)?;
                let own = classes.unwrap_or(best.clone());
                let maps = grad_cam::released(&vgg, x, kind, Backward::Plain, Some(&own))?;
                let key = format!("repo/inplace/{name}_per_img/{choice}");
                o.close("released map", &key, &maps.mask.squeeze(1)?, &t[&key], 1e-4, 0.0)?;
            }
        }
        // Guided backpropagation: the gradient of the mean of the chosen logits on the image, every ReLU's cut off below zero.
        let y = Var::from_tensor(x)?;
        let guided = vgg.tail_with(&vgg.taps_with(y.as_tensor(), Backward::Guided)?.pop().ok_or("no taps")?, Backward::Guided)?;
        for (choice, classes) in [("class3", vec![3; n]), ("argmax", best.clone())] {
            let ids = Tensor::from_vec(classes, (n, 1), x.device())?;
            let grads = guided.gather(&ids, 1)?.mean_all()?.backward()?;
            let got = grads.get(y.as_tensor()).ok_or("no gradient")?;
            for way in ["inplace", "notinplace"] {
                let key = format!("repo/{way}/guided_backprop_{choice}");
                o.relative("guided backpropagation", &key, got, &t[&key], 1e-4)?;
            }
        }
        let (heat, cam) = grad_cam::overlay(&t["repo/inplace/gradcampp_call/class3"], x)?;
        for (name, got) in [("mask2cam/heatmap", heat), ("mask2cam/cam", cam)] {
            let (got, want) = (got.flatten_all()?.to_vec1::<f32>()?, t[name].flatten_all()?.to_vec1::<f32>()?);
            let off = got.iter().zip(&want).filter(|(a, b)| (*a - *b).abs() > 1e-3).count();
            o.number("share of values off by 1e-3", name, off as f64 / want.len() as f64, 0.0, 1e-3)?;
        }
        let bgr: Vec<u8> = (0..=255)
            .flat_map(|level| {
                let [r, g, b] = grad_cam::jet(level);
                [b, g, r]
            })
            .collect();
        o.equal("colours", "opencv_jet_lut_bgr_u8", bgr, t["opencv_jet_lut_bgr_u8"].flatten_all()?.to_vec1::<u8>()?)
    }))
}
