//! Parity of the baselines: ALAE, pSp, In-Domain, the operations under them, and the full key lists of the published checkpoints.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};
use mtv_bench::generators::{Generator, Stage, Synthesis, Target, Tensors, stylegan1, stylegan2};
use mtv_bench::inverters::{Inverter, alae, indomain, psp};
use mtv_bench::ops;
use mtv_bench::optim::{Optimizer, Rule};
use mtv_bench::params::{Param, Params};
use serde_json::Value;

use super::harness::{Check, Error, Fixture, Outcome};

pub const CHECKS: &[Check] = &[
    key_list,
    alae_model,
    alae_layers,
    psp_encoder,
    psp_decoder,
    psp_blocks,
    psp_rows,
    stylegan2_operations,
    indomain_encoder,
    indomain_generator,
    indomain_features,
    indomain_optimisation,
    lreq_adam,
    gradients,
];

fn is(f: &Fixture, name: &str) -> bool {
    f.area == "baselines" && f.file.starts_with(name) && f.file.ends_with(".safetensors")
}

/// Compares within the file's own tolerance.
fn near(f: &Fixture, o: &mut Outcome, t: &Tensors, name: &str, got: &Tensor) -> Result<(), Error> {
    let tolerance = |key: &str| f.entry["tolerance"][key].as_f64().ok_or(format!("the manifest gives no tolerance.{key}"));
    let want = t.get(name).ok_or(format!("the file has no tensor {name}"))?;
    o.close("forward", name, got, want, tolerance("atol")?, tolerance("rtol")?)
}

/// The tensors under `prefix`, without it.
fn under(t: &Tensors, prefix: &str) -> Tensors {
    t.iter().filter_map(|(name, t)| Some((name.strip_prefix(prefix)?.to_string(), t.clone()))).collect()
}

fn weights(t: &Tensors) -> Tensors {
    let data = ["in.", "out.", "trace."];
    t.iter().filter(|(name, _)| !data.iter().any(|p| name.starts_with(p))).map(|(name, t)| (name.clone(), t.clone())).collect()
}

fn target(f: &Fixture) -> Target {
    Target::new(DType::F32, &Device::Cpu, &f.file)
}

fn frozen(f: &Fixture, tensors: Tensors) -> Params {
    Params::frozen(tensors, DType::F32, &Device::Cpu, &f.file)
}

/// `prefix0`, `prefix1`, ... in order.
fn list(t: &Tensors, prefix: &str) -> Vec<Tensor> {
    (0..).map_while(|i| t.get(&format!("{prefix}{i}")).cloned()).collect()
}

fn scalar(t: &Tensor) -> Result<f64, Error> {
    Ok(t.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?[0])
}

/// The encoder that a full-size constructor asks for has the names and shapes of the published file.
fn key_list(f: &Fixture) -> Option<Outcome> {
    if f.area != "baselines" || !f.file.starts_with("keys_") {
        return None;
    }
    Some(Outcome::of(|o| {
        let keys: BTreeMap<String, Value> = serde_json::from_slice(&std::fs::read(f.path())?)?;
        let shape = |v: &Value| -> Vec<usize> {
            v["shape"].as_array().into_iter().flatten().filter_map(Value::as_u64).map(|d| d as usize).collect()
        };
        let p = Params::outline(DType::F32, &Device::Cpu);
        let prefix = match f.file.as_str() {
            name if name.contains("alae") => {
                let first = shape(&keys["models.discriminator_s.encode_block.0.bias_1"])[1];
                let blocks = (0..).take_while(|i| keys.contains_key(&format!("models.discriminator_s.encode_block.{i}.bias_1"))).count();
                let config = alae::Config { blocks, first_width: first, max_width: 512, latent: 512, channels: 3 };
                alae::Encoder::new(&config, &p)?;
                "models.discriminator_s."
            }
            name if name.contains("psp") => {
                let rows = (0..).take_while(|i| keys.contains_key(&format!("state_dict.encoder.styles.{i}.linear.weight"))).count();
                psp::Encoder::new(
                    &psp::Config { widths: [64, 128, 256, 512], blocks: [3, 4, 14, 3], inner: 512, rows, side: psp::SIDE },
                    &p,
                )?;
                "state_dict.encoder."
            }
            name if name.contains("encoder") => {
                let config =
                    indomain::Config { resolution: 256, w_dim: 512, first_width: 64, max_width: 1024, use_wscale: false, use_bn: true };
                indomain::Encoder::new(&config, &p)?;
                ""
            }
            name if name.contains("generator") => {
                let published = stylegan1::Config { repeat_w: false, final_tanh: true, ..stylegan1::Config::paper(256) };
                stylegan1::StyleGan1::new(&published, &p)?;
                let count =
                    |from: &dyn Fn(&str) -> bool| keys.keys().filter(|k| from(k)).map(|k| shape(&keys[k]).iter().product::<usize>()).sum();
                let buffers = ["noise", "kernel", "w_avg", "truncation.truncation", "lod"];
                let theirs: usize = count(&|k| !buffers.iter().any(|b| k.ends_with(b)));
                let ours: usize = p.declared().iter().map(|d| d.shape.iter().product::<usize>()).sum();
                return o.equal("keys", "parameters", ours, theirs);
            }
            _ => {
                let published = mtv_bench::perceptual::vgg16::Config::vgg16([64, 128, 256, 512, 512], 7, &[]);
                mtv_bench::perceptual::vgg16::Vgg16::new(&published, &p)?;
                "layer"
            }
        };
        let buffers = ["num_batches_tracked", "blur.weight"];
        let theirs: BTreeMap<String, Vec<usize>> = keys
            .iter()
            .filter_map(|(name, v)| Some((name.strip_prefix(prefix)?.to_string(), shape(v))))
            .filter(|(name, _)| !buffers.iter().any(|b| name.ends_with(b)))
            .collect();
        let ours = p.declared().into_iter().map(|d| (d.name.strip_prefix("features.").unwrap_or(&d.name).to_string(), d.shape));
        o.equal("keys", "names and shapes", ours.collect::<BTreeMap<_, _>>(), theirs)
    }))
}

fn alae_model(f: &Fixture) -> Option<Outcome> {
    if !is(f, "alae_model") {
        return None;
    }
    Some(Outcome::of(|o| {
        let t = f.tensors()?;
        let net = alae::open(weights(&t), &target(f))?;
        let (x, last) = (&t["in.x"], net.encoder.config().blocks - 1);
        o.equal("layout", "resolution", net.input_size(), f.arg("args", "resolution")?)?;
        let (w, steps) = net.encoder.trace(x, Stage { last, blend: 1.0 })?;
        near(f, o, &t, "out.Z", &w.unsqueeze(1)?)?;
        for (i, step) in steps.iter().enumerate() {
            near(f, o, &t, &format!("trace.encode_block.{i}.w1"), &step.w1)?;
            near(f, o, &t, &format!("trace.encode_block.{i}.w2"), &step.w2)?;
            near(f, o, &t, &format!("trace.encode_block.{i}.x_mean_abs"), &step.x.abs()?.mean_all()?)?;
            if t.contains_key(&format!("trace.encode_block.{i}.x")) {
                near(f, o, &t, &format!("trace.encode_block.{i}.x"), &step.x)?;
            }
        }
        near(f, o, &t, "out.d", &net.discriminator.forward(&w)?)?;
        let pick = Tensor::from_iter((0..x.dim(2)? as u32).step_by(2), &Device::Cpu)?;
        let half = x.index_select(&pick, 2)?.index_select(&pick, 3)?;
        near(f, o, &t, "out.Z_lodm1", &net.encoder.trace(&half, Stage { last: last - 1, blend: 1.0 })?.0.unsqueeze(1)?)?;
        let blend = scalar(&t["in.blend"])?;
        near(f, o, &t, "out.Z_blend", &net.encoder.trace(x, Stage { last, blend })?.0.unsqueeze(1)?)?;
        let rows = net.invert(x)?;
        near(f, o, &t, "out.W", &rows)?;

        let g = net.generator;
        let (plain, noise, shared) = (Synthesis::default(), list(&t, "in.noise."), list(&t, "in.noise_bc."));
        near(f, o, &t, "out.dec_noise", &g.synthesize(&rows, &Synthesis { noise: Some(&noise), ..plain })?)?;
        near(f, o, &t, "out.dec_noise_batch_constant", &g.synthesize(&rows, &Synthesis { noise: Some(&shared), ..plain })?)?;
        let g = g.with_bump();
        near(f, o, &t, "out.dec_nonoise", &g.synthesize(&rows, &plain)?)?;
        let stage = Some(Stage { last, blend });
        near(f, o, &t, "out.dec_blend_nonoise", &g.synthesize(&rows, &Synthesis { stage, ..plain })?)?;
        let mapped = g.map(&t["in.z"], None)?;
        near(f, o, &t, "out.F_z", &mapped)?;
        let psi = f.entry["args"]["truncation_psi"].as_f64().unwrap_or(1.0);
        let truncated = g.truncate(&mapped, psi, f.arg("args", "truncation_cutoff")?, None)?;
        near(f, o, &t, "out.F_z_truncated", &truncated)?;
        near(f, o, &t, "out.gen_truncated_nonoise", &g.synthesize(&truncated, &plain)?)
    }))
}

/// ALAE's layers are operations of this crate on weights as stored ("implicit") or scaled at run time ("explicit").
fn alae_layers(f: &Fixture) -> Option<Outcome> {
    if !is(f, "alae_lreq_layers") {
        return None;
    }
    Some(Outcome::of(|o| {
        let t = f.tensors()?;
        let x = &t["conv.x"];
        for mode in ["implicit", "explicit"] {
            let get = |layer: &str, part: &str| t.get(&format!("{layer}.{mode}.{part}")).ok_or(format!("{layer}.{mode}.{part}"));
            let scaled = |layer: &str, fan_in: usize| -> Result<Tensor, Error> {
                let weight = get(layer, "weight")?;
                if mode == "implicit" { Ok(weight.clone()) } else { Ok((weight * (2.0 / fan_in as f64).sqrt())?) }
            };
            let (weight, bias) = (get("linear", "weight")?, get("linear", "bias")?);
            let (std, lrmul) = (scalar(get("linear", "std")?)?, f.entry["args"]["linear"]["lrmul"].as_f64().unwrap_or(1.0));
            let (weight, bias) = if mode == "implicit" { (weight.clone(), bias.clone()) } else { ((weight * std)?, (bias * lrmul)?) };
            near(f, o, &t, &format!("linear.{mode}.y"), &ops::linear(&t["linear.x"], &weight, Some(&bias))?)?;
            let fan_in = 9 * x.dim(1)?;
            let y = ops::conv2d(x, &scaled("conv", fan_in)?, Some(get("conv", "bias")?), 1, 1)?;
            near(f, o, &t, &format!("conv.{mode}.y"), &y)?;
            let y = ops::conv2d(x, &ops::fused_down_weight(&scaled("conv_fused_down", fan_in)?)?, None, 2, 1)?;
            near(f, o, &t, &format!("conv_fused_down.{mode}.y"), &y)?;
            let y = ops::conv_transpose2d(x, &ops::fused_up_weight(&scaled("conv_fused_up", fan_in)?)?, None, 2, 1)?;
            near(f, o, &t, &format!("conv_fused_up.{mode}.y"), &y)?;
        }
        near(f, o, &t, "blur.y", &ops::blur3(x)?)?;
        near(f, o, &t, "pixel_norm.y", &ops::pixel_norm(&t["linear.x"], 1e-8)?)?;
        near(f, o, &t, "upscale2d.y", &ops::upsample2(x)?)?;
        near(f, o, &t, "downscale2d.y", &ops::avg_pool2(x)?)?;
        near(f, o, &t, "instance_norm_1e-5.y", &ops::instance_norm(x, 1e-5)?)?;
        near(f, o, &t, "instance_norm_1e-8.y", &ops::instance_norm(x, 1e-8)?)
    }))
}

fn psp_encoder(f: &Fixture) -> Option<Outcome> {
    if !is(f, "psp_encoder") {
        return None;
    }
    Some(Outcome::of(|o| {
        let t = f.tensors()?;
        let encoder = psp::open_encoder(under(&t, "encoder."), &target(f))?;
        let trace = encoder.trace(&t["in.x"])?;
        near(f, o, &t, "trace.c2", &trace.stages[1])?;
        near(f, o, &t, "trace.c3", &trace.stages[2])?;
        near(f, o, &t, "out.codes", &trace.rows)
    }))
}

fn psp_decoder(f: &Fixture) -> Option<Outcome> {
    if !is(f, "psp_decoder") {
        return None;
    }
    Some(Outcome::of(|o| {
        let t = f.tensors()?;
        let net = stylegan2::open(weights(&t), &target(f))?;
        o.equal("layout", "size", net.layout().resolution, f.arg("args", "size")?)?;
        o.equal("layout", "style_dim", net.layout().w_dim, f.arg("args", "style_dim")?)?;
        let plain = Synthesis::default();
        let (w, w2) = (net.w(&t["in.z"], None)?, net.map(&t["in.z2"], None)?);
        near(f, o, &t, "out.w", &w)?;
        let rows = net.map(&t["in.z"], None)?;
        near(f, o, &t, "out.latent_z", &rows)?;
        near(f, o, &t, "out.image_z", &net.synthesize(&rows, &plain)?)?;
        near(f, o, &t, "out.image_wplus", &net.synthesize(&t["in.wplus"], &plain)?)?;
        let noise = list(&t, "in.noise.");
        let given = net.synthesize(&t["in.wplus"], &Synthesis { noise: Some(&noise), ..plain })?;
        near(f, o, &t, "out.image_wplus_noise_given", &given)?;
        let truncated = net.truncate(&rows, 0.5, net.layout().rows, Some(&t["in.truncation_latent"]))?;
        near(f, o, &t, "out.image_w_trunc0.5", &net.synthesize(&truncated, &plain)?)?;
        let count = net.layout().rows - 4;
        let mixed = Tensor::cat(&[rows.narrow(1, 0, 4)?, w2.narrow(1, 4, count)?], 1)?;
        near(f, o, &t, "out.latent_mix_inject4", &mixed)?;
        near(f, o, &t, "out.image_mix_inject4", &net.synthesize(&mixed, &plain)?)
    }))
}

fn psp_blocks(f: &Fixture) -> Option<Outcome> {
    if !is(f, "psp_bottleneck") {
        return None;
    }
    Some(Outcome::of(|o| {
        let t = f.tensors()?;
        let x = &t["in.x32"];
        for (name, depth, stride) in [("i32_o64_s2", 64, 2), ("i32_o32_s2", 32, 2), ("i32_o32_s1", 32, 1)] {
            let block = psp::Bottleneck::new(&frozen(f, under(&t, &format!("{name}."))), 32, depth, stride)?;
            near(f, o, &t, &format!("{name}.y"), &block.forward(x)?)?;
        }
        near(f, o, &t, "se.y", &psp::Squeeze::new(&frozen(f, under(&t, "se.")), 32)?.forward(x)?)
    }))
}

fn psp_rows(f: &Fixture) -> Option<Outcome> {
    if !is(f, "psp_style_block") {
        return None;
    }
    Some(Outcome::of(|o| {
        let t = f.tensors()?;
        let (inputs, outputs) = (f.arg("args", "in_c")?, f.arg("args", "out_c")?);
        for side in [16, 32, 64] {
            let row = psp::ToRow::new(&frozen(f, under(&t, &format!("sp{side}."))), inputs, outputs, outputs, side)?;
            near(f, o, &t, &format!("sp{side}.y"), &row.forward(&t[&format!("sp{side}.x")])?)?;
        }
        near(f, o, &t, "fpn.y", &psp::upsample_add(&t["fpn.top"], &t["fpn.lateral"])?)?;
        near(f, o, &t, "fpn.y_odd", &psp::upsample_add(&t["fpn.top"], &t["fpn.lateral_odd"])?)?;
        near(f, o, &t, "face_pool.y8", &psp::pool_to(&t["face_pool.x"], 8)?)?;
        near(f, o, &t, "face_pool.y12", &psp::pool_to(&t["face_pool.x"], 12)?)
    }))
}

/// What of rosinality's operations this crate has as operations of its own; the modulated convolutions are judged in the decoder.
fn stylegan2_operations(f: &Fixture) -> Option<Outcome> {
    if !is(f, "psp_stylegan2_ops") {
        return None;
    }
    Some(Outcome::of(|o| {
        let t = f.tensors()?;
        let (x, taps) = (&t["in.x"], [1.0, 3.0, 3.0, 1.0]);
        near(f, o, &t, "upsample", &ops::fir(x, &taps, 2, 1, 2, 1, 4.0)?)?;
        near(f, o, &t, "upfirdn2d.up2_pad21", &ops::fir(x, &taps, 2, 1, 2, 1, 4.0)?)?;
        near(f, o, &t, "downsample", &ops::fir(x, &taps, 1, 2, 1, 1, 1.0)?)?;
        near(f, o, &t, "upfirdn2d.down2_pad11", &ops::fir(x, &taps, 1, 2, 1, 1, 1.0)?)?;
        near(f, o, &t, "upfirdn2d.blur_pad11", &ops::fir(x, &taps, 1, 1, 1, 1, 4.0)?)?;
        near(f, o, &t, "pixel_norm", &ops::pixel_norm(&t["in.x2"], 1e-8)?)?;
        let biased = ops::noise_bias_lrelu(x, None, Some(&t["in.b"].reshape((1, (), 1, 1))?), 0.2)?;
        near(f, o, &t, "fused_leaky_relu.4d", &(biased * 2f64.sqrt())?)?;
        for (name, lr, act) in [("plain", 1.0, false), ("lrmul", 0.01, false), ("lrmul_act", 0.01, true)] {
            let (weight, bias) = (&t[&format!("equal_linear.{name}.weight")], &t[&format!("equal_linear.{name}.bias")]);
            let scale = lr / (weight.dim(1)? as f64).sqrt();
            let y = ops::linear(&t["in.x2"], &(weight * scale)?, Some(&(bias * lr)?))?;
            let y = if act { (ops::leaky_relu(&y, 0.2)? * 2f64.sqrt())? } else { y };
            near(f, o, &t, &format!("equal_linear.{name}.y"), &y)?;
        }
        Ok(())
    }))
}

fn indomain_encoder(f: &Fixture) -> Option<Outcome> {
    if !is(f, "idinvert_encoder") {
        return None;
    }
    Some(Outcome::of(|o| {
        let t = f.tensors()?;
        let flag = |key: &str| f.entry["args"][key].as_bool().unwrap_or(false);
        let w_dim = f.arg("args", "w_space_dim")?;
        let encoder = indomain::open_encoder(weights(&t), &target(f), w_dim, flag("use_wscale"))?;
        o.equal("layout", "resolution", encoder.config().resolution, f.arg("args", "resolution")?)?;
        o.equal("layout", "use_bn", encoder.config().use_bn, flag("use_bn"))?;
        let maps = encoder.trace(&t["in.x"])?;
        for (i, map) in maps.iter().enumerate() {
            near(f, o, &t, &format!("trace.block{}", i + 1), map)?;
        }
        near(f, o, &t, "out.code", &maps[maps.len() - 1])?;
        near(f, o, &t, "out.code_view", &encoder.forward(&t["in.x"])?)
    }))
}

fn indomain_generator(f: &Fixture) -> Option<Outcome> {
    if !is(f, "idinvert_generator") {
        return None;
    }
    Some(Outcome::of(|o| {
        let t = f.tensors()?;
        let args = &f.entry["args"];
        let final_tanh = args["final_tanh"].as_bool().unwrap_or(false);
        let net = stylegan1::open(weights(&t), &target(f), stylegan1::Options { final_tanh, ..Default::default() })?;
        o.equal("layout", "resolution", net.layout().resolution, f.arg("args", "resolution")?)?;
        near(f, o, &t, "out.w", &net.w(&t["in.z"])?)?;
        let psi = args["truncation_psi"].as_f64().unwrap_or(1.0);
        let rows = net.truncate(&net.map(&t["in.z"], None)?, psi, f.arg("args", "truncation_layers")?, None)?;
        near(f, o, &t, "out.wp_truncated", &rows)?;
        near(f, o, &t, "out.image_from_z", &net.synthesize(&rows, &Synthesis::default())?)?;
        near(f, o, &t, "out.image_from_wp", &net.synthesize(&t["in.wp"], &Synthesis::default())?)
    }))
}

fn indomain_features(f: &Fixture) -> Option<Outcome> {
    if !is(f, "idinvert_vgg") {
        return None;
    }
    Some(Outcome::of(|o| {
        let t = f.tensors()?;
        near(f, o, &t, "out.preprocessed", &indomain::Features::prepare(&t["in.x"])?)?;
        let taps = indomain::Features::open(weights(&t), &target(f))?.taps(&t["in.x"])?;
        for (tap, index) in taps.iter().zip([4, 9, 16, 23]) {
            near(f, o, &t, &format!("out.feat_idx{index}"), tap)?;
        }
        Ok(())
    }))
}

fn indomain_optimisation(f: &Fixture) -> Option<Outcome> {
    if !is(f, "idinvert_optim") {
        return None;
    }
    Some(Outcome::of(|o| {
        let t = f.tensors()?;
        let args = &f.entry["args"];
        let number = |key: &str| f.entry["tolerance"][key].as_f64().ok_or(format!("the manifest gives no tolerance.{key}"));
        let (rtol, atol) = (number("loss_rtol")?, number("z_atol")?);
        let (wscale, tanh) = (args["encoder"]["use_wscale"].as_bool().unwrap_or(false), args["final_tanh"].as_bool().unwrap_or(false));
        let net = indomain::open(under(&t, "E."), under(&t, "G."), &target(f), wscale, tanh)?;
        let features = indomain::Features::open(under(&t, "F."), &target(f))?;
        let start = net.invert(&t["in.x"])?;
        o.close("forward", "out.z_init", &start, &t["out.z_init"], atol, 0.0)?;
        o.close("forward", "out.x_rec_init", &net.render(&start, &Synthesis::default())?, &t["out.x_rec_init"], atol, rtol)?;
        let weight = |key: &str| args["weights"][key].as_f64().ok_or(format!("the manifest gives no weight {key}"));
        let settings = indomain::Optimisation {
            steps: (0..).take_while(|s| t.contains_key(&format!("step{s}.loss"))).count(),
            learning_rate: args["learning_rate"].as_f64().unwrap_or(0.01),
            pixels: weight("pix")?,
            features: weight("feat")?,
            regulariser: weight("reg")?,
        };
        let mut moments = Vec::new();
        net.optimise(&t["in.x"], &features, &settings, |_, moment| {
            moments.push((moment.loss, moment.pixels, moment.features, moment.regulariser, moment.gradient.clone(), moment.latent.clone()));
            Ok(())
        })?;
        for (s, (loss, pixels, features, regulariser, gradient, latent)) in moments.iter().enumerate() {
            let terms = [("loss", loss), ("loss_pix", pixels), ("loss_feat", features), ("loss_reg", regulariser)];
            for (name, got) in terms {
                let want = scalar(&t[&format!("step{s}.{name}")])?;
                o.number("loss", &format!("step{s}.{name}"), *got, want, rtol * want.abs())?;
            }
            o.relative("grad", &format!("step{s}.grad"), gradient, &t[&format!("step{s}.grad")], rtol)?;
            o.close("latent", &format!("step{s}.z_after"), latent, &t[&format!("step{s}.z_after")], atol, 0.0)?;
        }
        Ok(())
    }))
}

fn lreq_adam(f: &Fixture) -> Option<Outcome> {
    if !is(f, "lreq_adam") {
        return None;
    }
    Some(Outcome::of(|o| {
        let t = f.tensors()?;
        let args = &f.entry["args"];
        let rule = Rule::LreqAdam { beta2: args["beta_2"].as_f64().unwrap_or(0.99), eps: args["eps"].as_f64().unwrap_or(1e-8) };
        let lr = args["lreq"]["lr"].as_f64().ok_or("no lr")?;
        let coef = |name: &str| args["lreq"][format!("{name}_coef")].as_f64().unwrap_or(1.0);
        for (name, coef) in [("p", coef("p")), ("q", coef("q"))] {
            let var = Var::from_tensor(&t[&format!("lreq.{name}0")])?;
            let mut adam = Optimizer::new(rule, vec![Param { name: name.into(), var: var.clone(), coef }]);
            for step in 0..3 {
                let grads = BTreeMap::from([(name.to_string(), t[&format!("lreq.g{name}{step}")].clone())]);
                adam.step_named(&grads, lr)?;
                near(f, o, &t, &format!("lreq.{name}{}", step + 1), &var.as_tensor().copy()?)?;
            }
        }
        let var = Var::from_tensor(&t["in.w_start"])?;
        let mut adam = Optimizer::new(rule, vec![Param { name: "w".into(), var: var.clone(), coef: 1.0 }]);
        for step in 0.. {
            let Some(grad) = t.get(&format!("step{step}.grad")) else { break };
            adam.step_named(&BTreeMap::from([("w".to_string(), grad.clone())]), args["lr_w"].as_f64().ok_or("no lr_w")?)?;
            near(f, o, &t, &format!("step{step}.w_after"), &var.as_tensor().copy()?)?;
        }
        Ok(())
    }))
}

/// Values and gradients of the primitive operations.
fn gradients(f: &Fixture) -> Option<Outcome> {
    if !is(f, "ops_gradients") {
        return None;
    }
    Some(Outcome::of(|o| {
        let t = f.tensors()?;
        type Case<'a> = (&'a str, Option<&'a str>, &'a dyn Fn(&Tensor, &Tensor) -> candle_core::Result<Tensor>);
        let cases: [Case; 10] = [
            ("maxpool2", None, &|x, _| ops::max_pool2(x)),
            ("relu_maxpool2", None, &|x, _| ops::max_pool2(&ops::relu(x)?)),
            ("avgpool2", None, &|x, _| ops::avg_pool2(x)),
            ("up_nearest", None, &|x, _| ops::upsample2(x)),
            ("relu", None, &|x, _| ops::relu(x)),
            ("maximum_lrelu", None, &|x, _| ops::leaky_relu(x, 0.2)),
            ("conv_s1", Some("w"), &|x, w| ops::conv2d(x, w, None, 1, 1)),
            ("conv_s2", Some("w"), &|x, w| ops::conv2d(x, w, None, 2, 1)),
            ("conv4_s2", Some("w4"), &|x, w| ops::conv2d(x, w, None, 2, 1)),
            ("convT4_s2p1", Some("wt4"), &|x, w| ops::conv_transpose2d(x, w, None, 2, 1)),
        ];
        let up_transposed: Case = ("convT3_s2p0", Some("wt3"), &|x, w| ops::conv_transpose2d(x, w, None, 2, 0));
        for (name, weight, run) in cases.into_iter().chain([up_transposed]) {
            let x = Var::from_tensor(&t["x"])?;
            let w = Var::from_tensor(weight.map_or(&t["x"], |w| &t[w]))?;
            let y = run(&x, &w)?;
            near(f, o, &t, &format!("{name}.y"), &y)?;
            let grads = (y * &t[&format!("{name}.gy")])?.sum_all()?.backward()?;
            let gradient = |v: &Var| grads.get(v).cloned().ok_or(format!("{name}: no gradient"));
            near(f, o, &t, &format!("{name}.g_x"), &gradient(&x)?)?;
            if let Some(weight) = weight {
                near(f, o, &t, &format!("{name}.g_{weight}"), &gradient(&w)?)?;
            }
        }
        Ok(())
    }))
}
