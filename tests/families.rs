//! Every GAN family through the whole study path: samples, training, scores, figure; classes and conditions of BigGAN; the generators'
//! training mode of the released scripts; released state dicts.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use mtv_bench::generators::{self, Family, Generator, Mixing, draw_classes};
use mtv_bench::inverters::mtv::{Encoder, Shortcut};
use mtv_bench::objective::Recipe;
use mtv_bench::params::Params;
use mtv_bench::random::Stream;
use mtv_bench::record::Record;
use mtv_bench::record::frechet::Between;
use mtv_bench::stages::{inversion, open};

use crate::sandbox::Sandbox;

const CPU: &Device = &Device::Cpu;

/// An arm of two families with the released recipe, long enough to be killed in the middle.
const RELEASED: &str = r#"name = "released"
version = 1
title = "Generators left in training mode"
paper = "none"

[cost]
tiny = "seconds"

[networks]
generator = "stylegan1_ffhq_1024"

[recipe]
preset = "released"
attention = { views = "none" }

[train.tiny]
steps = 60

[[arms]]
name = "stylegan2"
label = "StyleGANv2"
generator = "tiny/stylegan2"
latents = "w"

[[arms]]
name = "biggan"
label = "BigGAN"
generator = "tiny/biggan"
latents = "z"

[evaluate]
sets = ["synthesized"]
metrics = ["psnr"]

[report]
curves = ["psnr"]
figure_images = 1
"#;

fn results(record: &Record) -> String {
    serde_json::to_string(&(&record.images, &record.scores, &record.curves, &record.frechet, &record.factors)).unwrap()
}

#[test]
fn every_family_runs_through_a_study() {
    let sandbox = Sandbox::new();
    let run = |more: &[&str]| {
        let output = sandbox.run(&[&["run", "gan_reconstruction", "--profile", "tiny", "--device", "cpu", "--quiet"], more].concat());
        assert_eq!(output.code, Some(0), "{}", output.stderr);
        output.stdout
    };
    let text = run(&["--out", "a"]);
    let record = sandbox.record("a", "gan_reconstruction.tiny");
    let trained: Vec<_> = record.arms.iter().filter(|a| !a.reference).collect();
    assert_eq!(trained.len(), 5);
    for family in Family::ALL {
        let set = format!("tiny_{}", family.name());
        let images: Vec<_> = record.images.iter().filter(|i| i.set == set).collect();
        assert_eq!(images.len(), 8, "{set}");
        assert!(images.windows(2).any(|w| w[0].sha256 != w[1].sha256), "{set}: one and the same picture");
        // Its own arms (BigGAN has one that is told z) and the two reference rows, and nobody else.
        let arms = if family == Family::BigGan { 2 } else { 1 };
        let mut rows: Vec<&str> = record.scores.iter().filter(|s| s.set == set).map(|s| s.arm.as_str()).collect();
        rows.sort_unstable();
        rows.dedup();
        assert_eq!(rows.len(), 2 + arms, "{set}: {rows:?}");
        let scores: Vec<f64> = record.scores.iter().filter(|s| s.set == set).map(|s| s.value).collect();
        // Generators of faces have the identity's two, too.
        let metrics = if matches!(family, Family::StyleGan1 | Family::Pggan) { 7 } else { 5 };
        assert_eq!(scores.len(), rows.len() * 8 * metrics, "{set}");
        let factors = record.factors.iter().find(|f| f.set == set).unwrap_or_else(|| panic!("{set}: no factors"));
        assert!(factors.values.len() == 8 && factors.classes.len() == if metrics == 5 { 8 } else { 0 }, "{set}: {factors:?}");
        assert!(scores.iter().all(|v| v.is_finite()), "{set}: {scores:?}");
        let curve: Vec<f64> = record.curves.iter().filter(|p| p.set == set).map(|p| p.value).collect();
        assert!(curve.len() == 8 * arms && curve.iter().all(|v| v.is_finite()), "{set}: {curve:?}");
        assert!(curve.windows(2).any(|w| w[0] != w[1]), "{set}: training changed nothing");
        assert!(text.contains(&format!("{set} images (8)")), "{text}");
    }
    // Among eight targets one is the image's own.
    let first: Vec<f64> = record.scores.iter().filter(|s| s.metric == "identity-mini-first@8").map(|s| s.value).collect();
    assert!(first.len() == 2 * 3 * 8 && first.iter().all(|v| *v == 0.0 || *v == 1.0), "{first:?}");
    let same = |s: &&mtv_bench::record::Score| s.metric == "identity-mini-first@8" && s.arm == "mean_image" && s.value == 1.0;
    assert!(record.scores.iter().filter(same).count() <= 2, "the mean image is nearest to one target of each set at most");
    // Four distances per arm, the same floor for all that learned from the same pictures.
    assert_eq!(record.frechet.len(), 4 * 5);
    assert!(record.frechet.iter().all(|f| f.value > 0.0 && f.images == 24 && f.error.is_some()), "{:?}", record.frechet);
    for data in ["mini/faces", "mini/objects"] {
        let floors: Vec<f64> = record.frechet.iter().filter(|f| f.data == data && f.between == Between::Floor).map(|f| f.value).collect();
        assert!(floors.len() >= 2 && floors.iter().all(|v| *v == floors[0]), "{data}: {floors:?}");
    }
    // What an encoder is told of BigGAN's images matters, and the leak is never left unsaid.
    let of = |arm: &str| record.scores.iter().filter(|s| s.arm == arm).map(|s| s.value).collect::<Vec<_>>();
    assert_ne!(of("biggan_256"), of("biggan_256_full"));
    let table = std::fs::read_to_string(sandbox.path("a/runs/gan_reconstruction.tiny/report/table.md")).unwrap();
    assert!(table.contains("fd-mini/judge_objects@64") && table.contains("covariances are singular"), "{table}");
    assert!(table.contains("## What is hard, tiny_stylegan1 images"), "{table}");
    let leaks: Vec<&str> = table.lines().filter(|l| l.contains("its target leaks into it")).collect();
    assert!(leaks.len() == 1 && leaks[0].contains("BigGAN-deep (told z)"), "{table}");
    let report = sandbox.path("a/runs/gan_reconstruction.tiny/report");
    let picture = mtv_bench::images::decode(&std::fs::read(report.join("reconstructions.png")).unwrap()).unwrap();
    assert!(picture.height() > picture.width(), "the generators stand below each other: {picture:?}");
    // The thread count changes nothing.
    run(&["--out", "b", "--threads", "1"]);
    assert_eq!(results(&record), results(&sandbox.record("b", "gan_reconstruction.tiny")));
}

#[test]
fn mini_has_the_arms_whose_networks_exist() {
    let output = Sandbox::new().run(&["plan", "gan_reconstruction", "--profile", "mini", "--device", "cpu"]);
    assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""));
    assert!(output.stdout.contains("train StyleGANv1 (FFHQ), seed 1") && !output.stdout.contains("not here"), "{}", output.stdout);
}

#[test]
fn plan_lists_every_missing_network_of_the_paper_and_run_ends_with_that_list() {
    let sandbox = Sandbox::new();
    let study = ["gan_reconstruction", "--profile", "paper", "--offline", "--device", "cpu"];
    let at_home = |args: &[&str]| {
        let mut command = sandbox.command(args);
        command.env("HF_HOME", sandbox.path("hub")).env_remove("MTV_BENCH_WEIGHTS");
        crate::sandbox::finish(command)
    };
    let plan = at_home(&[&["plan"], &study[..]].concat());
    assert_eq!(plan.code, Some(0), "{}", plan.stderr);
    let list = plan.stdout[plan.stdout.find("12 of the files needed are not here").expect(&plan.stdout)..].trim();
    let cards = [
        ("biggan_deep_256", "s3.amazonaws.com", "about 224.0 MB", "not verified"),
        ("biggan_deep_512", "s3.amazonaws.com", "MB", "not verified"),
        ("ir_se50", "huggingface.co/matbee/model_ir_se50_pytorch", "about 175.0 MB", "MIT (code)"),
        ("pggan_celebahq_1024", "huggingface.co/huggan/pggan-celebahq-1024", "about 92.3 MB", "CC BY-NC 4.0"),
        ("stylegan1_car_512", "huggingface.co/huggan/stylegan_car512", "about 108.0 MB", "CC BY-NC 4.0"),
        ("stylegan1_cat_256", "huggingface.co/huggan/stylegan_cat256", "about 105.0 MB", "CC BY-NC 4.0"),
        ("stylegan1_ffhq_1024", "dropbox.com", "not known", "CC BY-NC 4.0"),
        ("stylegan2_cat_256", "huggingface.co/aaronb/StyleGAN2", "about 121.0 MB", "NVIDIA Source Code License-NC"),
        ("stylegan2_ffhq_1024", "huggingface.co/wmpscc/StyleGene", "132.7 MB", "NVIDIA Source Code License-NC"),
        ("stylegan2_horse_256", "huggingface.co/aaronb/StyleGAN2", "about 121.0 MB", "NVIDIA Source Code License-NC"),
    ];
    for (card, from, size, licence) in cards {
        let block = list.split(&format!("\n  {card}\n")).nth(1).unwrap_or_else(|| panic!("{card} is not in\n{list}"));
        let block: String = block.lines().take(4).collect::<Vec<_>>().join("\n");
        for want in [from, size, licence] {
            assert!(block.contains(want), "{card}: {want} is not in\n{block}");
        }
    }
    let run = at_home(&[&["run"], &study[..]].concat());
    assert_eq!(run.code, Some(4), "{}", run.stderr);
    assert!(run.stderr.contains(list), "{}\n---\n{list}", run.stderr);
    assert!(!sandbox.path("results/runs").exists(), "nothing may be started");
}

#[test]
fn a_generator_or_profile_of_an_arm_that_is_not_there() {
    let sandbox = Sandbox::new();
    let refused = |old: &str, new: &str, want: &str| {
        assert!(RELEASED.contains(old));
        sandbox.write("released.toml", RELEASED.replacen(old, new, 1));
        let output = sandbox.run(&["plan", "released.toml", "--profile", "tiny"]);
        assert_eq!(output.code, Some(2), "{}", output.stderr);
        assert!(output.stderr.contains(want), "{want} is not in {}", output.stderr);
    };
    refused("\"tiny/biggan\"", "\"tiny/bigan\"", "there is no card \"tiny/bigan\" below baselines/; did you mean \"tiny/biggan\"?");
    refused("\"tiny/biggan\"", "\"tiny/vgg16\"", "the card \"tiny/vgg16\" is not of the kind needed here");
    refused("latents = \"z\"", "latents = \"w\"", "the generator tiny/biggan (biggan) has no latents \"w\"; it has: z");
    refused("latents = \"z\"", "latents = \"z\"\nprofiles = [\"tinny\"]", "there is no profile \"tinny\"; did you mean \"tiny\"?");
    refused("latents = \"z\"", "latents = \"z\"\nprofile = [\"tiny\"]", "unknown key \"profile\"; did you mean \"profiles\"?");
    refused("[\"synthesized\"]", "[\"synthesized\", \"real\"]", "nobody knows the class of a real picture");
    let elsewhere = RELEASED.replace("latents", "profiles = [\"paper\"]\nlatents");
    sandbox.write("released.toml", elsewhere);
    let output = sandbox.run(&["plan", "released.toml", "--profile", "tiny"]);
    assert!(output.stderr.contains("no arm of this study runs in the profile tiny"), "{}", output.stderr);
}

#[test]
#[cfg(unix)]
fn the_training_mode_of_the_release_reaches_the_samples_and_survives_a_kill() {
    let sandbox = Sandbox::new();
    let run = |study: &str, out: &str| {
        sandbox.write("released.toml", study);
        let start = std::time::Instant::now();
        let output = sandbox.run(&["run", "released.toml", "--profile", "tiny", "--device", "cpu", "--quiet", "--out", out]);
        assert_eq!(output.code, Some(0), "{}", output.stderr);
        (sandbox.record(out, "released.tiny"), start.elapsed())
    };
    let still = RELEASED.replace("attention =", "sampling = { generator_in_training = false }\nattention =");
    let (eval, _) = run(&still, "eval");
    let (whole, time) = run(RELEASED, "whole");
    for arm in ["stylegan2", "biggan"] {
        let of = |r: &Record| r.scores.iter().filter(|s| s.arm == arm).map(|s| s.value).collect::<Vec<_>>();
        assert!(of(&whole).iter().all(|v| v.is_finite()));
        assert_ne!(of(&eval), of(&whole), "{arm}: the training mode changes nothing");
    }
    assert_eq!(eval.images, whole.images, "the evaluation images are not drawn in training mode");
    // What drifts in the generator is part of the checkpoint.
    let mut kills = 0;
    for i in 0..6 {
        let mut child = sandbox.start(&["run", "released.toml", "--profile", "tiny", "--device", "cpu", "--quiet", "--out", "killed"]);
        std::thread::sleep(time.mul_f64(0.1 + 0.06 * i as f64));
        if child.try_wait().expect("waiting").is_none() {
            child.kill().expect("killing");
            kills += 1;
        }
        child.wait().expect("waiting");
    }
    assert!(kills >= 3, "only {kills} of 6 starts were still running when they were to be killed");
    assert_eq!(results(&run(RELEASED, "killed").0), results(&whole));
}

fn tiny(family: Family) -> Box<dyn Generator> {
    open::generator(&format!("tiny/{}", family.name()), CPU).unwrap()
}

fn flat(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn only_stylegan2_and_biggan_have_a_training_mode() {
    for family in Family::ALL {
        assert_eq!(tiny(family).training_mode().is_some(), matches!(family, Family::StyleGan2 | Family::BigGan), "{}", family.name());
    }
}

#[test]
fn style_mixing_replaces_the_first_rows_in_nine_of_ten_passes() {
    let stream = Stream::new(1, "mixing");
    let z = Tensor::zeros((1, 4), DType::F32, CPU).unwrap();
    let cutoffs: Vec<Option<usize>> = (0..4000).map(|pass| Mixing::draw(&stream, pass, 6, z.clone()).cutoff).collect();
    let mixed = cutoffs.iter().flatten().count();
    assert!((3500..3700).contains(&mixed), "{mixed} of 4000");
    for cutoff in 1..6 {
        let share = cutoffs.iter().flatten().filter(|c| **c == cutoff).count() as f64 / mixed as f64;
        assert!((share - 0.2).abs() < 0.03, "cutoff {cutoff}: {share}");
    }
    assert!(cutoffs.iter().flatten().all(|c| (1..6).contains(c)));
}

#[test]
fn the_mean_w_of_stylegan2_drifts_and_goes_on_from_its_state() {
    let generator = tiny(Family::StyleGan2);
    let layout = generator.layout();
    let z = |name: &str| Stream::new(2, name).normal_rows(&[0, 1, 2], &[layout.z_dim], CPU).unwrap();
    let mode = generator.training_mode().unwrap();
    assert!(mode.state().unwrap().is_empty());
    let mixing = || Mixing { z: z("other"), cutoff: Some(2) };
    let half = layout.rows / 2;
    let first = mode.latent(&z("a"), None, &mixing(), 0.7, half).unwrap();
    // 0.995 of the old centre and 0.005 of the batch's mean, before the truncation.
    let w = |name: &str| generator.map(&z(name), None).unwrap();
    let mean = w("a").narrow(1, 0, 1).unwrap().mean(0).unwrap();
    let centre = ((generator.centre().unwrap() * 0.995).unwrap() + (mean * 0.005).unwrap()).unwrap();
    let state = mode.state().unwrap();
    let off = flat(&(&state["centre"] - &centre).unwrap()).iter().fold(0f32, |m, v| m.max(v.abs()));
    assert!(off < 1e-6, "{off}");
    let mixed = Tensor::cat(&[w("other").narrow(1, 0, 2).unwrap(), w("a").narrow(1, 2, layout.rows - 2).unwrap()], 1).unwrap();
    let wanted = generator.truncate(&mixed, 0.7, half, Some(&state["centre"])).unwrap();
    assert_eq!(flat(&first), flat(&wanted));
    let second = mode.latent(&z("b"), None, &mixing(), 0.7, half).unwrap();
    let other = tiny(Family::StyleGan2);
    other.training_mode().unwrap().restore(&state).unwrap();
    assert_eq!(flat(&second), flat(&other.training_mode().unwrap().latent(&z("b"), None, &mixing(), 0.7, half).unwrap()));
}

#[test]
fn biggan_takes_a_power_iteration_per_pass_and_goes_on_from_its_state() {
    let generator = tiny(Family::BigGan);
    let latent = Stream::new(3, "latent").normal_rows(&[0, 1], &[generator.layout().w_dim], CPU).unwrap();
    let image = |g: &dyn Generator| flat(&g.synthesize(&latent, &Default::default()).unwrap());
    let before = image(generator.as_ref());
    let mode = generator.training_mode().unwrap();
    mode.begin_pass().unwrap();
    let state = mode.state().unwrap();
    let after = image(generator.as_ref());
    assert_ne!(before, after);
    mode.begin_pass().unwrap();
    let other = tiny(Family::BigGan);
    other.training_mode().unwrap().restore(&state).unwrap();
    assert_eq!(image(other.as_ref()), after);
    other.training_mode().unwrap().begin_pass().unwrap();
    assert_eq!(image(other.as_ref()), image(generator.as_ref()));
    let error = other.training_mode().unwrap().restore(&BTreeMap::new()).unwrap_err().to_string();
    assert!(error.contains("generator.gen_z.weight_u"), "{error}");
}

#[test]
fn z_and_class_of_biggan_are_fixed_by_id_and_truncated() {
    let generator = tiny(Family::BigGan);
    let stream = Stream::new(4, "z");
    let ids: Vec<u64> = (0..500).collect();
    let z = flat(&generator.draw_z(&stream, &ids, CPU).unwrap());
    assert!(z.iter().all(|v| v.abs() <= 0.8), "0.4 times a value within 2");
    // The variance of a standard normal value within 2 is 0.7737.
    let variance = z.iter().map(|v| (v * v) as f64).sum::<f64>() / z.len() as f64;
    assert!((variance / (0.16 * 0.7737) - 1.0).abs() < 0.05, "{variance}");
    let one = flat(&generator.draw_z(&stream, &[7], CPU).unwrap());
    assert_eq!(one, z[7 * one.len()..8 * one.len()]);
    let classes = draw_classes(generator.layout(), &stream, &ids, CPU).unwrap().unwrap().to_vec1::<u32>().unwrap();
    assert!((0..10).all(|class| classes.iter().filter(|c| **c == class).count() > 20), "{classes:?}");
    assert!(draw_classes(tiny(Family::Pggan).layout(), &stream, &ids, CPU).unwrap().is_none());
}

/// The names and shapes of a released encoder's state dict, as the release writes them (`model/E/E.py`, `E_Blur.py`, `E_PG.py`,
/// `E_BIG.py` at e56a63d), for 256 px.
fn released_state(family: Family, blur: bool) -> BTreeMap<String, Tensor> {
    let mut dict: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    let mut put = |name: String, shape: &[usize]| drop(dict.insert(name, shape.to_vec()));
    let width = |i: usize| (64usize << i).min(512);
    put("FromRGB.from_rgb.weight".into(), &[64, 3, 1, 1]);
    put("FromRGB.from_rgb.bias".into(), &[64]);
    for i in 0..7 {
        let (from, to, last) = (width(i), width(i + 1), i == 6);
        let p = format!("decode_block.{i}");
        for (k, c) in [(1, from), (2, to)] {
            put(format!("{p}.noise_weight_{k}"), &[1, c, 1, 1]);
            put(format!("{p}.bias_{k}"), &[1, c, 1, 1]);
        }
        put(format!("{p}.conv_1.weight"), &[from, from, 3, 3]);
        if !last {
            put(format!("{p}.conv_2.weight"), &[to, from, 3, 3]);
        }
        if from != to {
            put(format!("{p}.conv_3.weight"), &[to, from, 1, 1]);
            put(format!("{p}.conv_3.bias"), &[to]);
        }
        match family {
            Family::StyleGan1 | Family::StyleGan2 => {
                for k in 1..=2 {
                    put(format!("{p}.inver_mod{k}.weight"), &[512, 2 * from]);
                    put(format!("{p}.inver_mod{k}.bias"), &[512]);
                }
                if blur {
                    put(format!("{p}.blur.weight"), &[from, 1, 3, 3]);
                }
            }
            Family::Pggan if from != to => {
                put(format!("{p}.instance_norm_3.weight"), &[to]);
                put(format!("{p}.instance_norm_3.bias"), &[to]);
            }
            Family::Pggan => {}
            Family::BigGan => {
                for k in if from == to { 1..=2 } else { 1..=3 } {
                    let norm = format!("{p}.batch_norm_{k}");
                    put(format!("{norm}.running_means"), &[51, from]);
                    put(format!("{norm}.running_vars"), &[51, from]);
                    for map in ["scale", "offset"] {
                        put(format!("{norm}.{map}.weight_orig"), &[from, 256]);
                        put(format!("{norm}.{map}.weight_u"), &[from]);
                        put(format!("{norm}.{map}.weight_v"), &[256]);
                    }
                }
            }
        }
    }
    let heads: &[(&str, [usize; 2])] = match family {
        Family::Pggan => &[("new_final", [512, 8192])],
        Family::BigGan => &[("new_final_1", [256, 8192]), ("new_final_2", [128, 256])],
        _ => &[],
    };
    for (name, [out, input]) in heads {
        put(format!("{name}.weight"), &[*out, *input]);
        put(format!("{name}.bias"), &[*out]);
    }
    dict.into_iter().map(|(name, shape)| (name, Tensor::zeros(shape, DType::F32, CPU).unwrap())).collect()
}

#[test]
fn released_encoder_state_dicts_fit_the_encoders_of_the_released_recipe() {
    for family in Family::ALL {
        let generator = generators::paper(family, 256, &Params::outline(DType::F32, CPU)).unwrap();
        for blur in [false, true] {
            let recipe = if blur { Recipe::released().released_case2() } else { Recipe::released() };
            let config = inversion::encoder_config(generator.as_ref(), &recipe).unwrap();
            assert_eq!(config.plain_rgb, family == Family::BigGan);
            assert_eq!(config.shortcut == Shortcut::ConditionalReleased, family == Family::BigGan);
            let state = released_state(family, blur);
            if family == Family::StyleGan1 && !blur {
                assert_eq!(state.len(), 77, "the release has 77 entries at 256 px");
            }
            let params = Params::frozen(state.clone(), DType::F32, CPU, "released");
            Encoder::new(&config, &params).and_then(|_| params.finish()).unwrap_or_else(|e| panic!("{}: {e}", family.name()));
            // Nothing is silently left out.
            let mut short = state;
            short.remove("decode_block.2.conv_1.weight");
            let params = Params::frozen(short, DType::F32, CPU, "released");
            let error = Encoder::new(&config, &params).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains("decode_block.2.conv_1.weight"), "{error}");
        }
        // The paper's encoder of BigGAN has neither the release's noise nor its block.
        let paper = inversion::encoder_config(generator.as_ref(), &Recipe::paper()).unwrap();
        assert!(paper.shortcut != Shortcut::ConditionalReleased && !paper.plain_rgb);
    }
}
