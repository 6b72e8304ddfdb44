//! The encoder and the objective beyond parity: Tables I and II, gradients for every family, recipes, what case 1 can't do.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use mtv_bench::error::Kind;
use mtv_bench::generators::{Family, Generator, Layout, NoiseSite, Target, biggan, pggan, stylegan1, stylegan2};
use mtv_bench::inverters::mtv::{Config, Encoder, Fused, Head, Input, Latents, Shortcut};
use mtv_bench::objective::{self, Batch, Group, Losses, Objective, Recipe, RecipePatch, Term, Types, Views, Which};
use mtv_bench::optim::Optimizer;
use mtv_bench::params::Params;
use mtv_bench::perceptual::Vgg16;
use mtv_bench::perceptual::vgg16;
use mtv_bench::random::Stream;

const CPU: &Device = &Device::Cpu;

fn normal(name: &str, shape: &[usize]) -> Tensor {
    Stream::new(11, name).normal(shape.to_vec(), CPU).unwrap()
}

/// The layout of a full-size generator.
fn layout(family: Family, resolution: usize) -> Layout {
    let blocks = resolution.ilog2() as usize - 1;
    // StyleGANv2 is twice as wide as the others at high resolutions; the encoder's table is the same for all.
    let base = if family == Family::StyleGan2 { 32768 } else { 16384 };
    let channels: Vec<_> = (0..blocks).map(|i| (4usize << i, (base / (4usize << i)).min(512))).collect();
    let style = matches!(family, Family::StyleGan1 | Family::StyleGan2);
    Layout {
        family,
        resolution,
        z_dim: if family == Family::BigGan { 128 } else { 512 },
        w_dim: if family == Family::BigGan { 256 } else { 512 },
        rows: if style { 2 * blocks } else { 0 },
        constant: style.then_some([512, 4, 4]),
        noise: if style {
            channels.iter().flat_map(|&(resolution, channels)| [NoiseSite { channels, resolution }; 2]).collect()
        } else {
            Vec::new()
        },
        channels: if family == Family::BigGan { vec![(4, 2048), (resolution, 128)] } else { channels },
        classes: if family == Family::BigGan { 1000 } else { 0 },
    }
}

#[test]
fn widths_are_those_of_tables_1_and_2() {
    for family in Family::ALL {
        for (resolution, first) in [(128, 128), (256, 64), (512, 32), (1024, 16)] {
            let config = Config::for_generator(&layout(family, resolution)).unwrap();
            let widths: Vec<usize> = (0..config.blocks).map(|i| config.width(i)).collect();
            assert_eq!((widths[0], widths[config.blocks - 1]), (first, 512), "{} at {resolution}", family.name());
            let head = match family {
                Family::Pggan => Head::ZFlat,
                Family::BigGan => Head::Conditional,
                _ => Head::W,
            };
            assert_eq!(config.head, head);
            // Section IV: the weights of w' and z_n' are removed for PGGAN and BigGAN.
            assert_eq!(config.noise, head == Head::W);
        }
    }
}

#[test]
fn parameter_count_of_case_1_is_that_of_the_release() {
    for (blocks, first, count) in [(7, 64, 24_140_544), (9, 16, 24_278_208)] {
        let p = Params::fresh(0, DType::F32, CPU);
        Encoder::new(&Config::case1(blocks, first, 512, 512), &p).unwrap();
        assert_eq!(p.vars().iter().map(|p| p.var.elem_count()).sum::<usize>(), count);
    }
}

#[test]
fn misfits_are_named() {
    let p = || Params::fresh(0, DType::F32, CPU);
    let message = |r: candle_core::Result<Encoder>| r.err().map(|e| e.to_string()).unwrap_or_default();
    assert!(message(Encoder::new(&Config::case1(3, 4, 64, 8), &p())).contains("do not reach the width 64"));
    assert!(message(Encoder::new(&Config::case1(1, 4, 4, 8), &p())).contains("at least two blocks"));
    let encoder = Encoder::new(&Config::case1(3, 4, 16, 8), &p()).unwrap();
    let error = encoder.forward(&normal("x", &[1, 3, 32, 32]), &Input::default()).err().unwrap().to_string();
    assert!(error.contains("takes images of [3, 16, 16]"), "{error}");
    let error = encoder.forward(&normal("x", &[1, 3, 16, 16]), &Input::default()).err().unwrap().to_string();
    assert!(error.contains("takes 5 noise maps, 0 were given"), "{error}");
}

/// A small generator of a family with random frozen weights.
fn small(family: Family) -> Box<dyn Generator> {
    let p = Params::fresh(3, DType::F32, CPU);
    match family {
        Family::StyleGan1 => {
            let cfg = stylegan1::Config {
                z_dim: 12,
                w_dim: 12,
                fmaps_base: 64,
                fmaps_max: 8,
                mapping_layers: 2,
                mapping_fmaps: 12,
                ..stylegan1::Config::paper(16)
            };
            Box::new(stylegan1::StyleGan1::new(&cfg, &p).unwrap())
        }
        Family::StyleGan2 => {
            let cfg = stylegan2::Config {
                z_dim: 12,
                w_dim: 12,
                fmaps_base: 64,
                fmaps_max: 8,
                mapping_layers: 2,
                mapping_fmaps: 12,
                ..stylegan2::Config::paper(16)
            };
            Box::new(stylegan2::StyleGan2::new(&cfg, &p).unwrap())
        }
        Family::Pggan => {
            let cfg = pggan::Config { z_dim: 12, fmaps_base: 64, fmaps_max: 8, ..pggan::Config::paper(16) };
            Box::new(pggan::Pggan::new(&cfg, &p).unwrap())
        }
        Family::BigGan => {
            // Fresh singular vectors say nothing of the weights' size, so this one comes from a fixture.
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/generators");
            let manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.join("MANIFEST.json")).unwrap()).unwrap();
            let file = "biggan_32px.safetensors";
            let entry = manifest["fixtures"].as_array().unwrap().iter().find(|e| e["file"] == file).unwrap();
            let cfg: biggan::Config = serde_json::from_value(entry["constructor"].clone()).unwrap();
            let mut tensors: BTreeMap<String, Tensor> =
                candle_core::safetensors::load(folder.join(file), CPU).unwrap().into_iter().collect();
            tensors.retain(|name, _| !["in.", "mid.", "out.", "train."].iter().any(|p| name.starts_with(p)));
            let target = Target::new(DType::F32, CPU, file);
            Box::new(biggan::open(tensors, &target, Some(cfg), biggan::Truncation::PAPER).unwrap())
        }
    }
}

fn vgg() -> Arc<Vgg16> {
    let config = vgg16::Config::vgg16([4, 4, 6, 6, 6], 2, &[8, 5]);
    Arc::new(Vgg16::new(&config, &Params::fresh(5, DType::F32, CPU)).unwrap())
}

/// One iteration with a fresh encoder, then the recipe's optimizer steps: the losses by name, the names of the parameters without
/// gradient, and the parameters after the steps.
fn iteration(family: Family, recipe: &Recipe, fused: Fused) -> (Vec<(String, f64)>, Vec<String>, BTreeMap<String, Tensor>) {
    let generator = small(family);
    let layout = generator.layout();
    let (n, side) = (2, layout.resolution);
    let mut config = Config { blur: recipe.encoder.blur, fused, ..Config::for_generator(layout).unwrap() };
    if layout.rows > 0 && recipe.latents.types == Types::Z {
        config.head = Head::Z;
        config.latent = layout.z_dim;
    }
    config.noise &= matches!(recipe.latents.types, Types::WZn | Types::WZnZc);
    let p = Params::fresh(1, DType::F32, CPU);
    let encoder = Encoder::new(&config, &p).unwrap();
    let maps = |name: &str, sides: &[usize]| -> Vec<Tensor> {
        sides.iter().enumerate().map(|(i, &s)| normal(&format!("{name}{i}"), &[n, 1, s, s])).collect()
    };
    let sites: Vec<usize> = layout.noise.iter().map(|s| s.resolution).collect();
    let (e1, e2, g2) = (maps("e1", &config.noise_sides()), maps("e2", &config.noise_sides()), maps("g2", &sites));
    let classes = (layout.classes > 0).then(|| Tensor::new(&[0u32, 2], CPU).unwrap());
    let z = normal("z", &[n, layout.z_dim]);
    let latent = generator.map(&z, classes.as_ref()).unwrap();
    let x = normal("x", &[n, 3, side, side]);
    let constant = generator.constant().map(|c| c.broadcast_as((n, c.dim(1).unwrap(), 4, 4)).unwrap().contiguous().unwrap());
    let c = (family == Family::BigGan).then(|| latent.clone());
    let target = Latents { w: (layout.rows > 0).then(|| latent.clone()), z: Some(z), c, constant };
    let condition = target.c.as_ref();
    let batch = Batch { x: &x, target: &target, classes: classes.as_ref(), condition, noise_e1: &e1, noise_g2: Some(&g2), noise_e2: &e2 };
    let loss = Objective::new(recipe, Some(vgg()), None, &x).unwrap();
    let pass = objective::forward(&loss, &encoder, generator.as_ref(), &batch, Which::All).unwrap();
    assert_eq!(pass.x_prime.dims(), x.dims());
    let values = pass.losses.checked(0).unwrap().into_iter().map(|(n, v)| (n.to_string(), v)).collect();
    let all = [Group::Image, Group::View1, Group::View2, Group::Latents];
    let grads = pass.losses.total(&all).unwrap().unwrap().backward().unwrap();
    let without = p.vars().into_iter().filter(|p| grads.get(p.var.as_tensor()).is_none()).map(|p| p.name).collect();
    let mut optimizer = Optimizer::new(recipe.rule(), p.vars());
    objective::steps(&loss, &pass.losses, &mut optimizer, recipe.optimizer.lr).unwrap();
    (values, without, p.snapshot().unwrap())
}

#[test]
fn every_family_trains_in_case_2() {
    for family in Family::ALL {
        let recipe = Recipe::paper().case2();
        let (values, without, after) = iteration(family, &recipe, Fused::FirstFour);
        let names: Vec<&str> = values.iter().map(|(n, _)| n.as_str()).collect();
        let has = |prefix: &str| names.iter().any(|n| n.starts_with(prefix));
        assert!(has("x/ssim") && has("view_1/") && has("view_2/"), "{names:?}");
        let style = matches!(family, Family::StyleGan1 | Family::StyleGan2);
        assert_eq!((has("w/"), has("zc/"), has("zn/")), (style, style, style), "{}", family.name());
        assert_eq!((has("z/"), has("c/")), (!style, family == Family::BigGan), "{}", family.name());
        // What the release stores and never uses: the second noise and bias of the last block, and the vectors of the spectral norms.
        let last = (0..).take_while(|i| after.contains_key(&format!("decode_block.{i}.bias_1"))).count() - 1;
        let unused = |name: &String| {
            name.starts_with(&format!("decode_block.{last}.")) && (name.contains("_2") || name.contains("batch_norm_2"))
                || name.ends_with("weight_u")
                || name.ends_with("weight_v")
        };
        let surprising: Vec<&String> = without.iter().filter(|n| !unused(n)).collect();
        assert!(surprising.is_empty(), "{}: no gradient for {surprising:?}", family.name());
        assert!(after.values().all(|t| t.sum_all().unwrap().to_scalar::<f32>().unwrap().is_finite()));
    }
}

#[test]
fn the_attention_changes_nothing_in_case_1() {
    let run = |views| {
        let mut recipe = Recipe::paper();
        recipe.attention.views = views;
        recipe.attention.cam_side = 32;
        iteration(Family::StyleGan1, &recipe, Fused::None).2
    };
    let reference = run(Views::None);
    for views in [Views::Center, Views::GradCam] {
        for (name, tensor) in run(views) {
            let bits =
                |t: &Tensor| -> Vec<u32> { t.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().map(|v| v.to_bits()).collect() };
            assert_eq!(bits(&tensor), bits(&reference[&name]), "{name} with {}", views.name());
        }
    }
}

#[test]
fn the_attention_changes_the_encoder_in_case_2() {
    let run = |views| {
        let mut recipe = Recipe::paper().case2();
        recipe.attention.views = views;
        recipe.attention.cam_side = 32;
        iteration(Family::StyleGan1, &recipe, Fused::None).2
    };
    let (center, cam) = (run(Views::Center), run(Views::GradCam));
    let off = |name: &str| (&center[name] - &cam[name]).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    assert!(center.keys().any(|name| off(name) > 1e-6));
}

#[test]
fn grad_cam_of_too_small_images_is_refused() {
    let mut recipe = Recipe::paper();
    recipe.attention.views = Views::GradCam;
    let error = Objective::new(&recipe, Some(vgg()), None, &normal("x", &[1, 3, 16, 16])).err().unwrap().to_string();
    assert!(error.contains("cam_side = 32"), "{error}");
}

#[test]
fn a_term_of_weight_0_is_not_there() {
    let mut recipe = Recipe::paper().case2();
    recipe.weights.ssim = 0.0;
    recipe.attention.mu = [5.0, 0.0];
    recipe.latents.types = Types::W;
    let (values, _, _) = iteration(Family::StyleGan1, &recipe, Fused::None);
    let names: Vec<&str> = values.iter().map(|(n, _)| n.as_str()).collect();
    assert!(!names.iter().any(|n| n.contains("ssim") || n.starts_with("view_2") || n.starts_with("z")), "{names:?}");
}

#[test]
fn nan_names_its_term_and_step() {
    let term =
        |name: &str, value: f32| Term { group: Group::Image, name: name.into(), weight: 1.0, value: Tensor::new(value, CPU).unwrap() };
    let losses = Losses { terms: vec![term("x/distance", 1.0), term("view_1/kl", f32::NAN)] };
    let error = losses.checked(17).unwrap_err();
    assert_eq!(error.kind, Kind::Diverged);
    assert!(error.message.contains("view_1/kl") && error.message.contains("17"), "{}", error.message);
}

#[test]
fn an_unknown_key_of_a_recipe_has_a_place() {
    let error = toml::from_str::<RecipePatch>("[terms]\ndistance = \"mse\"\ncosines = \"batch\"\n").unwrap_err();
    assert!(error.message().contains("unknown field `cosines`"), "{error}");
    assert!(error.to_string().contains("line 3, column 1"), "{error}");
    let error = toml::from_str::<RecipePatch>("[latents]\ntypes = \"w+\"\n").unwrap_err();
    assert!(error.to_string().contains("`w/2`") && error.to_string().contains("line 2"), "{error}");
}

#[test]
fn a_patch_replaces_what_it_gives_and_nothing_else() {
    let patch: RecipePatch = toml::from_str("[terms]\ndistance = \"mse\"\n[attention]\nmu = [2.0, 3.0]\n").unwrap();
    let mut recipe = Recipe::paper();
    patch.apply(&mut recipe);
    let mut expected = Recipe::paper();
    expected.terms.distance = objective::Distance::Mse;
    expected.attention.mu = [2.0, 3.0];
    assert_eq!(recipe, expected);
    // A recipe written out and read back is the same; every preset differs from the others.
    let presets = [Recipe::paper(), Recipe::paper().case2(), Recipe::released(), Recipe::released().released_case2()];
    for (i, preset) in presets.iter().enumerate() {
        assert_eq!(&toml::from_str::<Recipe>(&toml::to_string(preset).unwrap()).unwrap(), preset);
        assert!(presets[..i].iter().all(|other| other != preset));
    }
}

#[test]
fn spectral_norms_take_one_power_iteration_per_training_call() {
    let config = Config { shortcut: Shortcut::Conditional, noise: false, ..Config::biggan(3, 4, 8, 10) };
    let p = Params::fresh(2, DType::F32, CPU);
    let encoder = Encoder::new(&config, &p).unwrap();
    let (x, c) = (normal("x", &[1, 3, 16, 16]), normal("c", &[1, 10]));
    let run = |train| encoder.forward(&x, &Input { condition: Some(&c), train, ..Default::default() }).unwrap().z.unwrap();
    let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let before = p.snapshot().unwrap();
    run(false);
    let name = "decode_block.0.batch_norm_1.scale.weight_u";
    assert_eq!(flat(&p.snapshot().unwrap()[name]), flat(&before[name]), "evaluation must not move the vectors");
    (0..60).for_each(|_| drop(run(true)));
    let state = p.snapshot().unwrap();
    assert_ne!(flat(&state[name]), flat(&before[name]));
    // After enough iterations sigma is the largest singular value: W v has its length along u.
    let weight = &state["decode_block.0.batch_norm_1.scale.weight_orig"];
    let v = state["decode_block.0.batch_norm_1.scale.weight_v"].unsqueeze(1).unwrap();
    let product = weight.matmul(&v).unwrap().squeeze(1).unwrap();
    let along: f32 = flat(&product).iter().zip(flat(&state[name])).map(|(a, b)| a * b).sum();
    let length = flat(&product).iter().map(|a| a * a).sum::<f32>().sqrt();
    assert!((along / length - 1.0).abs() < 1e-4, "{along} {length}");
    // A saved state gives the same latents.
    let restored = Params::frozen(state, DType::F32, CPU, "saved");
    let other = Encoder::new(&config, &restored).unwrap();
    restored.finish().unwrap();
    let again = other.forward(&x, &Input { condition: Some(&c), ..Default::default() }).unwrap().z.unwrap();
    assert_eq!(flat(&again), flat(&run(false)));
}
