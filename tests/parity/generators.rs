//! Parity of the generators: images and input gradients of every constructor in parity/generators.

use candle_core::{DType, Device, Tensor};
use mtv_bench::generators::{Generator, Stage, Synthesis, Target, Tensors, biggan, pggan, stylegan1, stylegan2};
use serde_json::Value;

use super::harness::{Check, Error, Fixture, Outcome};

pub const CHECKS: &[Check] = &[stylegan1_podgorskiy, stylegan1_genforce, pggan_genforce, pggan_akanimax, stylegan2_genforce, biggan_deep];

/// Tolerances of a file: (outputs, gradients), relative to the largest expected value.
fn tolerances(f: &Fixture) -> Result<(f64, f64), Error> {
    let of = |key: &str| f.entry["tolerance"][key].as_f64().ok_or(format!("the manifest gives no tolerance.{key}"));
    Ok((of("forward_rel_to_max_abs")?, of("grad_rel_to_max_abs")?))
}

/// The weights of a fixture: every tensor that is not an input or an expected value.
fn weights(tensors: &Tensors) -> Tensors {
    let is_data = |name: &str| ["in.", "mid.", "out.", "train."].iter().any(|p| name.starts_with(p));
    tensors.iter().filter(|(name, _)| !is_data(name)).map(|(name, t)| (name.clone(), t.clone())).collect()
}

fn target(f: &Fixture, dtype: DType) -> Target {
    Target::new(dtype, &Device::Cpu, &f.file)
}

/// `prefix.00`, `prefix.01`, ... in order.
fn list(tensors: &Tensors, prefix: &str) -> Vec<Tensor> {
    (0..).map_while(|i| tensors.get(&format!("{prefix}.{i:02}")).cloned()).collect()
}

/// Compares the gradient of sum(image(input) * in.grad_weight) with respect to the input with the tensor `name`.
fn input_gradient(
    o: &mut Outcome,
    t: &Tensors,
    (name, input): (&str, &str),
    tolerance: f64,
    image: impl Fn(DType, &Tensor) -> Result<Tensor, Error>,
) -> Result<(), Error> {
    o.gradient(name, &t[name], tolerance, |dtype| {
        let input = candle_core::Var::from_tensor(&t[input].to_dtype(dtype)?)?;
        let grads = (image(dtype, &input)? * t["in.grad_weight"].to_dtype(dtype)?)?.sum_all()?.backward()?;
        Ok(grads.get(&input).ok_or("no gradient reached the input")?.clone())
    })
}

fn of_dtype(tensors: &[Tensor], dtype: DType) -> Result<Vec<Tensor>, Error> {
    tensors.iter().map(|t| Ok(t.to_dtype(dtype)?)).collect()
}

fn stylegan1_podgorskiy(f: &Fixture) -> Option<Outcome> {
    let module = f.text("module");
    if f.area != "generators" || !module.starts_with("podgorskiy StyleGAN1") {
        return None;
    }
    Some(Outcome::of(|o| {
        let t = f.tensors()?;
        let (tol, tol_grad) = tolerances(f)?;
        let net = stylegan1::open(weights(&t), &target(f, DType::F32), stylegan1::Options::default())?;
        let layout = net.layout().clone();
        let blocks = layout.channels.len();
        let arg = |key: &str| f.arg("constructor", key);
        let (startf, maxf) = (arg("startf")?, arg("maxf")?);
        for (resolution, channels) in &layout.channels {
            o.equal("layout", "startf, maxf", *channels, (startf * layout.resolution / resolution).min(maxf))?;
        }
        o.equal("layout", "layer_count", blocks, arg("layer_count")?)?;
        o.equal("layout", "latent_size", (layout.z_dim, layout.w_dim), (arg("latent_size")?, arg("latent_size")?))?;

        let untruncated = net.map(&t["in.z"], None)?;
        o.relative("forward", "mid.w_no_truncation", &untruncated, &t["mid.w_no_truncation"], tol)?;
        let psi = f.entry["constructor"]["truncation_psi"].as_f64().unwrap_or(1.0);
        let wp = net.truncate(&untruncated, psi, arg("truncation_layers")?, None)?;
        o.relative("forward", "mid.wp", &wp, &t["mid.wp"], tol)?;

        let wp = &t["mid.wp"];
        let noise = list(&t, "in.noise");
        let with = Synthesis { noise: Some(&noise), ..Default::default() };
        o.relative("forward", "out.image", &net.synthesize(wp, &with)?, &t["out.image"], tol)?;
        input_gradient(o, &t, ("out.grad_wp", "mid.wp"), tol_grad, |dtype, wp| {
            let net = stylegan1::open(weights(&t), &target(f, dtype), stylegan1::Options::default())?;
            let noise = of_dtype(&noise, dtype)?;
            Ok(net.synthesize(wp, &Synthesis { noise: Some(&noise), ..Default::default() })?)
        })?;

        let features = net.features(wp, &with, blocks - 1)?;
        for (i, feature) in features.iter().enumerate() {
            if let Some(want) = t.get(&format!("mid.block{i}")) {
                let side = want.dim(2)?;
                let feature = feature.narrow(2, 0, side)?.narrow(3, 0, side)?;
                o.relative("forward", &format!("mid.block{i}"), &feature, want, tol)?;
            }
        }
        for name in t.keys().filter(|name| name.starts_with("out.image_lod")) {
            let (last, blend) = name["out.image_lod".len()..].split_once("_blend").unwrap_or((&name["out.image_lod".len()..], "1"));
            let stage = Stage { last: last.parse()?, blend: blend.parse()? };
            let prefix = if blend == "1" { format!("in.noise_lod{last}") } else { "in.noise_blend".into() };
            let noise = list(&t, &prefix);
            let image = net.synthesize(wp, &Synthesis { noise: Some(&noise), stage: Some(stage), ..Default::default() })?;
            o.relative("forward", name, &image, &t[name], tol)?;
        }
        Ok(())
    }))
}

/// genforce's level of detail (0 = full size, 1.5 = halfway between 1/4 and 1/2) as a stage, and how often its image is doubled.
fn stage_of(lod: f64, blocks: usize) -> (Stage, usize) {
    let doublings = lod.floor() as usize;
    let blend = if lod.fract() == 0.0 { 1.0 } else { lod.ceil() - lod };
    (Stage { last: blocks - 1 - doublings, blend }, doublings)
}

fn doubled(mut image: Tensor, times: usize) -> Result<Tensor, Error> {
    for _ in 0..times {
        image = mtv_bench::ops::upsample2(&image)?;
    }
    Ok(image)
}

/// genforce's constructor arguments that its tensors do not tell.
fn options(f: &Fixture) -> stylegan1::Options {
    let constructor = &f.entry["constructor"];
    let fused_from = match &constructor["fused_scale"] {
        Value::Bool(true) => 0,
        Value::Bool(false) => usize::MAX,
        _ => stylegan1::FUSED_FROM,
    };
    stylegan1::Options { fused_from, final_tanh: constructor["final_tanh"].as_bool().unwrap_or(false) }
}

fn stylegan1_genforce(f: &Fixture) -> Option<Outcome> {
    if f.area != "generators" || !f.text("module").starts_with("genforce StyleGANGenerator") {
        return None;
    }
    Some(Outcome::of(|o| {
        let t = f.tensors()?;
        let (tol, tol_grad) = tolerances(f)?;
        let net = stylegan1::open(weights(&t), &target(f, DType::F32), options(f))?;
        widths(f, o, net.layout())?;
        o.relative("forward", "mid.w", &net.w(&t["in.z"])?, &t["mid.w"], tol)?;
        if let Some(want) = t.get("mid.z_normed") {
            o.relative("forward", "mid.z_normed", &mtv_bench::ops::pixel_norm(&t["in.z"], 1e-8)?, want, tol)?;
        }
        if let Some(wp) = t.get("in.wp") {
            let image = net.synthesize(wp, &Synthesis::default())?;
            return o.relative("forward", "out.image_from_wp", &image, &t["out.image_from_wp"], tol);
        }
        let untruncated = net.map(&t["in.z"], None)?;
        let call = &f.entry["call"];
        let (psi, layers) = (call["trunc_psi"].as_f64().unwrap_or(1.0), call["trunc_layers"].as_u64().unwrap_or(0) as usize);
        o.relative("forward", "mid.wp", &net.truncate(&untruncated, psi, layers, None)?, &t["mid.wp"], tol)?;
        let plain = net.synthesize(&untruncated, &Synthesis::default())?;
        o.relative("forward", "out.image_no_truncation", &plain, &t["out.image_no_truncation"], tol)?;

        let wp = &t["mid.wp"];
        o.relative("forward", "out.image", &net.synthesize(wp, &Synthesis::default())?, &t["out.image"], tol)?;
        input_gradient(o, &t, ("out.grad_wp", "mid.wp"), tol_grad, |dtype, wp| {
            let net = stylegan1::open(weights(&t), &target(f, dtype), options(f))?;
            Ok(net.synthesize(wp, &Synthesis::default())?)
        })?;
        let noise = list(&t, "in.noise_randomize");
        let image = net.synthesize(wp, &Synthesis { noise: Some(&noise), ..Default::default() })?;
        o.relative("forward", "out.image_randomize_noise", &image, &t["out.image_randomize_noise"], tol)?;
        for (i, style) in net.styles(wp)?.iter().enumerate() {
            let name = format!("mid.style{i:02}");
            if let Some(want) = t.get(&name) {
                o.relative("forward", &name, style, want, tol)?;
            }
        }
        for name in t.keys().filter(|name| name.starts_with("out.image_lod")) {
            let (stage, doublings) = stage_of(name["out.image_lod".len()..].parse()?, net.layout().channels.len());
            let image = net.synthesize(wp, &Synthesis { stage: Some(stage), ..Default::default() })?;
            o.relative("forward", name, &doubled(image, doublings)?, &t[name], tol)?;
        }
        Ok(())
    }))
}

/// genforce's constructor arguments against the layout that was read from the tensors.
fn widths(f: &Fixture, o: &mut Outcome, layout: &mtv_bench::generators::Layout) -> Result<(), Error> {
    let (base, max) = (f.arg("constructor", "fmaps_base")?, f.arg("constructor", "fmaps_max")?);
    for (resolution, channels) in &layout.channels {
        o.equal("layout", "fmaps_base, fmaps_max", *channels, (base / resolution).min(max))?;
    }
    o.equal("layout", "resolution", layout.resolution, f.arg("constructor", "resolution")?)?;
    o.equal("layout", "z_space_dim", layout.z_dim, f.arg("constructor", "z_space_dim")?)
}

fn pggan_genforce(f: &Fixture) -> Option<Outcome> {
    if f.area != "generators" || !f.text("module").contains("pggan_generator.py") {
        return None;
    }
    Some(Outcome::of(|o| {
        let t = f.tensors()?;
        let (tol, tol_grad) = tolerances(f)?;
        let flag = |key: &str| f.entry["constructor"][key].as_bool().unwrap_or(false);
        let label_size = f.opt("constructor", "label_size").unwrap_or(0);
        let options = pggan::Options { label_size, fused_scale: flag("fused_scale"), final_tanh: flag("final_tanh") };
        let net = pggan::open(weights(&t), &target(f, DType::F32), options)?;
        widths(f, o, net.layout())?;

        let latent = net.map(&t["in.z"], t.get("in.label"))?;
        o.relative("forward", "out.z_normed", &latent, &t["out.z_normed"], tol)?;
        let image = net.synthesize(&latent, &Synthesis::default())?;
        o.relative("forward", "out.image", &image, &t["out.image"], tol)?;
        input_gradient(o, &t, ("out.grad_z", "in.z"), tol_grad, |dtype, z| {
            let net = pggan::open(weights(&t), &target(f, dtype), options)?;
            Ok(net.synthesize(&net.map(z, t.get("in.label"))?, &Synthesis::default())?)
        })?;
        let blocks = net.layout().channels.len();
        for (i, feature) in net.features(&latent, blocks - 1)?.iter().enumerate() {
            if let Some(want) = t.get(&format!("mid.layer{i}")) {
                o.relative("forward", &format!("mid.layer{i}"), feature, want, tol)?;
            }
        }
        for name in t.keys().filter(|name| name.starts_with("out.image_lod")) {
            let (stage, doublings) = stage_of(name["out.image_lod".len()..].parse()?, blocks);
            let image = net.synthesize(&latent, &Synthesis { stage: Some(stage), ..Default::default() })?;
            o.relative("forward", name, &doubled(image, doublings)?, &t[name], tol)?;
        }
        Ok(())
    }))
}

fn pggan_akanimax(f: &Fixture) -> Option<Outcome> {
    if f.area != "generators" || !f.text("module").starts_with("akanimax pro_gan_pytorch") {
        return None;
    }
    Some(Outcome::of(|o| {
        let t = f.tensors()?;
        let (tol, tol_grad) = tolerances(f)?;
        let net = pggan::open(weights(&t), &target(f, DType::F32), pggan::Options::default())?;
        o.equal("layout", "depth", net.layout().channels.len() + 1, f.arg("constructor", "depth")?)?;
        o.equal("layout", "latent_size", net.layout().z_dim, f.arg("constructor", "latent_size")?)?;
        let latent = net.map(&t["in.z"], None)?;
        let image = net.synthesize(&latent, &Synthesis::default())?;
        o.relative("forward", "out.image", &image, &t["out.image"], tol)?;
        input_gradient(o, &t, ("out.grad_z", "in.z"), tol_grad, |dtype, z| {
            let net = pggan::open(weights(&t), &target(f, dtype), pggan::Options::default())?;
            Ok(net.synthesize(&net.map(z, None)?, &Synthesis::default())?)
        })?;
        for name in t.keys().filter(|name| name.starts_with("out.image_depth")) {
            let (depth, blend) = name["out.image_depth".len()..].split_once("_alpha").unwrap_or((&name["out.image_depth".len()..], "1"));
            let stage = Stage { last: depth.parse::<usize>()? - 2, blend: blend.parse()? };
            let image = net.synthesize(&latent, &Synthesis { stage: Some(stage), ..Default::default() })?;
            o.relative("forward", name, &image, &t[name], tol)?;
        }
        Ok(())
    }))
}

fn stylegan2_genforce(f: &Fixture) -> Option<Outcome> {
    if f.area != "generators" || !f.text("module").contains("stylegan2_generator.py") {
        return None;
    }
    Some(Outcome::of(|o| {
        let t = f.tensors()?;
        let (tol, tol_grad) = tolerances(f)?;
        let net = stylegan2::open(weights(&t), &target(f, DType::F32))?;
        widths(f, o, net.layout())?;
        let label = t.get("in.label");
        o.equal("layout", "label_size", net.layout().classes, f.opt("constructor", "label_size").unwrap_or(0))?;
        if label.is_none() {
            o.relative("forward", "mid.z_normed", &mtv_bench::ops::pixel_norm(&t["in.z"], 1e-8)?, &t["mid.z_normed"], tol)?;
        }
        o.relative("forward", "mid.w", &net.w(&t["in.z"], label)?, &t["mid.w"], tol)?;
        let untruncated = net.map(&t["in.z"], label)?;
        let call = &f.entry["call"];
        let truncation = (call["trunc_psi"].as_f64().unwrap_or(1.0), call["trunc_layers"].as_u64().unwrap_or(0) as usize);
        o.relative("forward", "mid.wp", &net.truncate(&untruncated, truncation.0, truncation.1, None)?, &t["mid.wp"], tol)?;

        let wp = &t["mid.wp"];
        let plain = Synthesis::default();
        let noise = list(&t, "in.noise_randomize");
        let random = Synthesis { noise: Some(&noise), ..plain };
        let images = [
            ("out.image", wp, plain),
            ("out.image_no_truncation", &untruncated, plain),
            ("out.image_randomize_noise", wp, random),
            ("out.image_wp_rows", &t["in.wp_rows"], plain),
        ];
        for (name, latent, with) in images {
            o.relative("forward", name, &net.synthesize(latent, &with)?, &t[name], tol)?;
        }
        input_gradient(o, &t, ("out.grad_wp", "mid.wp"), tol_grad, |dtype, wp| {
            Ok(stylegan2::open(weights(&t), &target(f, dtype))?.synthesize(wp, &Synthesis::default())?)
        })?;
        let trace = net.trace(wp, &plain, net.layout().channels.len() - 1)?;
        let (styles, output_styles) = net.styles(wp)?;
        let named = |prefix: &str, width: usize, tensors: Vec<Tensor>| -> Vec<(String, Tensor)> {
            tensors.into_iter().enumerate().map(|(i, t)| (format!("{prefix}{i:0width$}"), t)).collect()
        };
        let inner = [
            named("mid.layer", 1, trace.layers),
            named("mid.output", 1, trace.rgb),
            named("mid.style", 2, styles),
            named("mid.output_style", 1, output_styles),
        ];
        for (name, got) in inner.concat() {
            if let Some(want) = t.get(&name) {
                o.relative("forward", &name, &got, want, tol)?;
            }
        }
        if let Some(mixing) = t.get("train.in.uniform_and_cutoff") {
            let mixing = mixing.to_vec1::<f32>()?;
            let mix = (mixing[0] < 0.9).then_some((&t["train.in.new_z"], mixing[1] as usize));
            let before = t["train.in.w_avg_before"].unsqueeze(0)?;
            let (wp, after) = net.map_in_training(&t["in.z"], label, mix, truncation, &before)?;
            o.relative("training", "train.out.w_avg_after", &after.squeeze(0)?, &t["train.out.w_avg_after"], tol)?;
            o.relative("training", "train.out.wp", &wp, &t["train.out.wp"], tol)?;
            o.relative("training", "train.out.image", &net.synthesize(&wp, &plain)?, &t["train.out.image"], tol)?;
        }
        Ok(())
    }))
}

fn biggan_deep(f: &Fixture) -> Option<Outcome> {
    if f.area != "generators" || !f.text("module").contains("BigGAN") {
        return None;
    }
    Some(Outcome::of(|o| {
        let t = f.tensors()?;
        let (tol, tol_grad) = tolerances(f)?;
        let cfg: biggan::Config = serde_json::from_value(f.entry["constructor"].clone())?;
        let open =
            |dtype: DType, truncation: biggan::Truncation| biggan::open(weights(&t), &target(f, dtype), Some(cfg.clone()), truncation);
        let usual = biggan::Truncation { value: 0.4, single: false };
        let net = open(DType::F32, usual)?;
        let latent = net.map(&t["in.z"], Some(&t["in.class_label"]))?;
        o.relative("forward", "mid.cond_vector", &latent, &t["mid.cond_vector"], tol)?;

        for name in t.keys().filter(|name| name.starts_with("out.image_t")) {
            let entry = &f.entry["truncations"][&name["out.image_".len()..]];
            let single = entry["kind"].as_str().is_some_and(|kind| kind.starts_with("float32"));
            let truncation = biggan::Truncation { value: entry["value"].as_f64().unwrap_or(usual.value), single };
            let image = open(DType::F32, truncation)?.synthesize(&latent, &Synthesis::default())?;
            o.relative("forward", name, &image, &t[name], tol)?;
        }
        input_gradient(o, &t, ("out.grad_z_t0.4", "in.z"), tol_grad, |dtype, z| {
            let net = open(dtype, usual)?;
            Ok(net.synthesize(&net.map(z, Some(&t["in.class_label"]))?, &Synthesis::default())?)
        })?;

        let trace = net.trace(&latent)?;
        o.relative("forward", "mid.gen_z", &trace.seed, &t["mid.gen_z"], tol)?;
        for (i, layer) in trace.layers.iter().enumerate() {
            let attention = cfg.attention_layer_position;
            let names = [format!("mid.layers.{i}"), ["mid.attn_in", "mid.attn_out"][(i >= attention) as usize].to_string()];
            let shown = if i + 1 == attention || i == attention { &names[..] } else { &names[..1] };
            for name in shown.iter().filter(|name| t.contains_key(*name)) {
                o.relative("forward", name, layer, &t[name], tol)?;
            }
        }
        let sigmas: std::collections::BTreeMap<_, _> = net.sigmas()?.into_iter().collect();
        let order = f.entry["sigma_order"].as_array().ok_or("no sigma_order")?;
        let ordered = order.iter().map(|name| sigmas.get(name.as_str().unwrap_or("")).ok_or(format!("no sigma of {name}")));
        let ordered: Vec<&Tensor> = ordered.collect::<Result<_, _>>()?;
        o.relative("forward", "mid.sigma", &Tensor::stack(&ordered, 0)?, &t["mid.sigma"], tol)?;

        for name in ["train.out.image_first", "train.out.image_second"] {
            if let Some(want) = t.get(name) {
                net.power_iteration()?;
                o.relative("training", name, &net.synthesize(&latent, &Synthesis::default())?, want, tol)?;
            }
        }
        if let (Some(u), Some(v)) = (t.get("train.gen_z.weight_u_after"), t.get("train.gen_z.weight_v_after")) {
            let (got_u, got_v) = net.first_vectors();
            o.relative("training", "train.gen_z.weight_u_after", &got_u, u, tol)?;
            o.relative("training", "train.gen_z.weight_v_after", &got_v, v, tol)?;
        }
        Ok(())
    }))
}
