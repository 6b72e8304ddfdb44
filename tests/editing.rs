//! Editing end to end: the study edit_real in `tiny`, directions that really move what they are named after, and `invert`.

use candle_core::{DType, Device};
use mtv_bench::editing::svm::{Loss, Svm};
use mtv_bench::editing::{Rows, boundary, shift};
use mtv_bench::images::Rgb8;
use mtv_bench::record::edit::{Edits, MEASURES, OWN};
use mtv_bench::stages::{directions, open};
use mtv_bench::zoo::drawing::Split;
use mtv_bench::zoo::faces::{Factor, Source};
use mtv_bench::zoo::measure::Sampler;

use crate::sandbox::{Output, Sandbox};

const RUN: [&str; 5] = ["run", "edit_real", "--profile", "tiny", "--quiet"];

fn ok(output: &Output) {
    assert_eq!(output.code, Some(0), "{}\n{}", output.stdout, output.stderr);
}

fn refused(output: &Output, code: i32, parts: &[&str]) {
    assert_eq!(output.code, Some(code), "{}\n{}", output.stdout, output.stderr);
    for part in parts {
        assert!(output.stderr.contains(part), "\"{part}\" is not in: {}", output.stderr);
    }
}

fn edits(sandbox: &Sandbox, out: &str) -> Edits {
    sandbox.record(out, "edit_real.tiny").edits.expect("the record has edits")
}

#[test]
fn the_study_measures_every_edit_and_goes_on_after_a_kill() {
    let sandbox = Sandbox::new();
    ok(&sandbox.run(&[&RUN[..], &["--out", "whole"]].concat()));
    let whole = edits(&sandbox, "whole");
    assert_eq!(whole.directions.iter().map(|d| d.name.as_str()).collect::<Vec<_>>(), ["smile", "glasses", "pose", "age"]);
    assert!(whole.directions.iter().all(|d| d.seed == 1 && d.train == 8 && d.unit > 0.0 && d.cosines.len() == 4));
    assert!(whole.directions.iter().all(|d| d.validation_accuracy.is_some_and(|a| (0.0..=1.0).contains(&a))));
    // 4 directions, 3 ways, 6 alphas, 3 measures: on both sets of two arms, on the generated images of their own w; and the inversion alone.
    assert_eq!(whole.curves.len(), 5 * (4 * 3 * 6 * 3) + 2 * 2 * 2);
    assert!(whole.curves.iter().all(|e| e.values.len() == 4 && e.values.iter().all(|v| v.is_finite())));
    assert!(whole.curves.iter().filter(|e| e.arm == OWN).all(|e| e.set == "synthesized"));
    // LPIPS only where nothing reads the attributes.
    for (measure, _) in MEASURES {
        assert_eq!(whole.curves.iter().any(|e| e.measure == measure), measure != "lpips", "{measure}");
    }
    let report = sandbox.path("whole/runs/edit_real.tiny/report");
    for file in ["edits.png", "edits.svg", "edit_curves.png", "edit_curves.svg"] {
        assert!(report.join(file).metadata().is_ok_and(|m| m.len() > 1000), "{file}");
    }
    let table = std::fs::read_to_string(report.join("table.md")).expect("the table");
    for part in ["## Edits", "| smile | 8 | 4 |", "rows 0-3, others held", "it is no face recognition", "their own w"] {
        assert!(table.contains(part), "\"{part}\" is not in the table");
    }
    let again = sandbox.run(&["run", "edit_real", "--profile", "tiny", "--out", "whole"]);
    assert!(again.stderr.contains("nothing to do"), "{}", again.stderr);

    // Killed in the edits, it goes on from its checkpoint to the same numbers.
    let mut child = sandbox.start(&[&RUN[..], &["--out", "killed", "--threads", "1"]].concat());
    let started = std::time::Instant::now();
    let work = sandbox.path("killed/cache/work");
    let editing = || {
        let folders = std::fs::read_dir(&work).into_iter().flatten().flatten();
        folders.map(|e| e.path()).any(|p| p.to_string_lossy().contains("edit-") && p.join("checkpoint.safetensors").exists())
    };
    while !editing() && child.try_wait().expect("the child").is_none() && started.elapsed().as_secs() < 300 {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    child.kill().expect("killing");
    child.wait().expect("waiting");
    ok(&sandbox.run(&[&RUN[..], &["--out", "killed"]].concat()));
    assert_eq!(serde_json::to_string(&whole).unwrap(), serde_json::to_string(&edits(&sandbox, "killed")).unwrap());
}

/// Directions learned on the shipped generator from a few hundred images move the factor that they are named after, by their own w.
#[test]
fn a_learned_direction_moves_its_attribute() {
    let device = Device::Cpu;
    let generator = open::generator("mini/stylegan1", &device).unwrap();
    let judge = open::judge("mini/judge", &device).unwrap();
    let sampler = Sampler { generator: generator.as_ref(), seed: 5, device: &device };
    let (samples, edited) = (400, 8);
    let (mut latents, mut factors) = (Vec::new(), Vec::new());
    for first in (0..samples).step_by(50) {
        let w = sampler.latents(first, 50).unwrap();
        latents.extend(w.narrow(1, 0, 1).unwrap().squeeze(1).unwrap().to_dtype(DType::F64).unwrap().to_vec2::<f64>().unwrap());
        let images = Rgb8::from_batch(&sampler.images_of(&w, first, 0).unwrap()).unwrap();
        factors.extend(directions::read(&judge, &images, &device).unwrap());
    }
    for factor in [Factor::Glasses, Factor::Yaw, Factor::Smile] {
        let scores: Vec<f64> = factors.iter().map(|f| f[factor as usize]).collect();
        let chosen = boundary::choose(&scores, 0.2, 0.7, 1).unwrap();
        let learned = boundary::learn(&latents, &scores, &chosen, &Svm { loss: Loss::Hinge, c: 1.0, tolerance: 1e-6 }).unwrap();
        assert!(learned.validation_accuracy > 0.75, "{factor:?}: {}", learned.validation_accuracy);
        let unit = directions::plain_spread(generator.as_ref(), &learned.direction, &device).unwrap();
        let d: Vec<f32> = learned.direction.iter().map(|v| *v as f32).collect();
        let d = candle_core::Tensor::from_vec(d, (1, latents[0].len()), &device).unwrap();
        let w = sampler.latents(samples, edited).unwrap();
        let read = |alpha: f64| -> f64 {
            let moved = shift::shift(&w, &d, alpha * unit, &Rows::All, None).unwrap();
            let images = Rgb8::from_batch(&sampler.images_of(&moved, samples, 0).unwrap()).unwrap();
            directions::read(&judge, &images, &device).unwrap().iter().map(|f| f[factor as usize]).sum::<f64>() / edited as f64
        };
        let (less, more) = (read(-2.0), read(2.0));
        assert!(more > less + 0.3, "{factor:?}: {less} to {more}");
    }
}

/// A finished tiny run, and pictures to invert.
fn trained() -> Sandbox {
    let sandbox = Sandbox::new();
    ok(&sandbox.run(&[&RUN[..], &["--out", "results"]].concat()));
    let source = Source::new(7);
    for i in 0..2 {
        let picture = Rgb8::new(64, 64, source.draw(Split::HeldOut, i).rgb).unwrap();
        picture.write_png(&sandbox.path(&format!("face{i}.png"))).unwrap();
    }
    sandbox
}

fn png(sandbox: &Sandbox, file: &str) -> Rgb8 {
    mtv_bench::images::decode(&std::fs::read(sandbox.path(file)).unwrap_or_else(|e| panic!("{file}: {e}"))).unwrap()
}

#[test]
fn pictures_of_ones_own_are_inverted_and_edited() {
    let sandbox = trained();
    // A picture that is not square: its middle is taken.
    let wide = Rgb8::new(40, 20, (0..40 * 20 * 3).map(|i| (i % 251) as u8).collect()).unwrap();
    wide.write_png(&sandbox.path("wide.png")).unwrap();
    let args =
        ["invert", "face0.png", "face1.png", "wide.png", "--edit", "smile=1.5", "--edit", "age=-1", "--out", "o", "--format", "json"];
    let output = sandbox.run(&args);
    ok(&output);
    assert!(output.stderr.contains("wide.png is 40x20: its middle 20x20 is taken"), "{}", output.stderr);
    let json: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(json["pictures"].as_array().map(Vec::len), Some(3));
    assert_eq!(json["pictures"][0]["edit"], "smile +1.5, age -1");
    assert!(json["pictures"][0]["psnr"].as_f64().is_some_and(|p| p > 0.0 && p < 60.0));
    for name in ["face0", "face1", "wide"] {
        let (plain, edited) = (png(&sandbox, &format!("o/{name}.reconstruction.png")), png(&sandbox, &format!("o/{name}.edited.png")));
        assert_eq!((plain.width(), plain.height()), (16, 16));
        assert_ne!(plain.data(), edited.data());
        let tensors = candle_core::safetensors::load(sandbox.path(&format!("o/{name}.latents.safetensors")), &Device::Cpu).unwrap();
        let moved = (&tensors["w edited"] - &tensors["w"]).unwrap().abs().unwrap().sum(1).unwrap().to_vec1::<f32>().unwrap();
        assert!(moved[..4].iter().all(|v| *v > 0.0) && moved[4..].iter().all(|v| *v == 0.0), "rows 0 to 3 are edited: {moved:?}");
    }
    assert!(png(&sandbox, "o/grid.png").width() > 100);
    // The same picture gives the same files under another name and beside others; a named arm and a folder of pictures are taken, too.
    std::fs::create_dir(sandbox.path("folder")).unwrap();
    std::fs::copy(sandbox.path("face1.png"), sandbox.path("folder/again.png")).unwrap();
    ok(&sandbox.run(&["invert", "folder", "--out", "p"]));
    assert_eq!(png(&sandbox, "p/again.reconstruction.png").data(), png(&sandbox, "o/face1.reconstruction.png").data());
    assert!(!sandbox.path("p/again.edited.png").exists());
    let other = sandbox.run(&["invert", "face0.png", "--out", "q", "--run", "edit_real.tiny", "--method", "z"]);
    ok(&other);
    assert!(other.stderr.contains("z of edit_real.tiny, seed 1"), "{}", other.stderr);
    // By the folder of its training, and a direction from a file.
    let training = std::fs::read_dir(sandbox.path("results/cache")).unwrap().flatten().map(|e| e.file_name().into_string().unwrap());
    let training = training.filter(|n| n.starts_with("train-")).map(|n| format!("results/cache/{n}/encoder.safetensors")).next().unwrap();
    let mut npy = b"\x93NUMPY\x01\x00\x76\x00{'descr': '<f4', 'fortran_order': False, 'shape': (1, 16), }".to_vec();
    npy.resize(127, b' ');
    npy.push(b'\n');
    npy.extend((0..16).flat_map(|i| (i as f32 - 10.0).to_le_bytes()));
    sandbox.write("mine.npy", &npy);
    ok(&sandbox.run(&[
        "invert",
        "face0.png",
        "--encoder",
        &training,
        "--edit",
        "mine=2",
        "--direction",
        "mine=mine.npy",
        "--rows",
        "all",
        "--out",
        "r",
    ]));
    assert!(sandbox.path("r/face0.edited.png").exists());
}

#[test]
fn what_a_person_gets_wrong_with_invert() {
    let nothing = Sandbox::new();
    nothing.write("a.png", b"x");
    refused(&nothing.run(&["invert", "a.png"]), 4, &["no trained encoder in results", "mtv-bench run ablation_mtv"]);
    refused(&nothing.run(&["invert", "a.png", "--encoder", "nowhere"]), 4, &["encoder.safetensors"]);

    let sandbox = trained();
    sandbox.write("text.png", b"I am no picture");
    Rgb8::new(1, 1, vec![1, 2, 3]).unwrap().write_png(&sandbox.path("dot.png")).unwrap();
    std::fs::create_dir(sandbox.path("empty")).unwrap();
    // Bad pictures are named, the good one is done, and the exit code tells.
    let output = sandbox.run(&["invert", "text.png", "face0.png", "dot.png", "empty", "gone.png", "--out", "o"]);
    refused(
        &output,
        5,
        &["FAIL  text.png", "FAIL  dot.png: is 1x1, smaller than 16x16", "no picture in it", "gone.png: there is no such file"],
    );
    assert!(output.stderr.contains("4 of 5 pictures could not be used") && sandbox.path("o/face0.reconstruction.png").exists());
    // With none left nothing is written.
    refused(&sandbox.run(&["invert", "text.png", "--out", "none"]), 5, &["none of the pictures could be used"]);
    assert!(!sandbox.path("none").exists());
    ok(&sandbox.run(&["invert", "dot.png", "--enlarge", "--out", "big"]));

    refused(
        &sandbox.run(&["invert", "face0.png", "--edit", "simle=1", "--out", "x"]),
        2,
        &["there is no edit \"simle\"", "smile", "--direction"],
    );
    refused(&sandbox.run(&["invert", "face0.png", "--edit", "smile", "--out", "x"]), 2, &["write NAME=ALPHA"]);
    refused(&sandbox.run(&["invert", "face0.png", "--edit", "smile=1e30", "--out", "x"]), 2, &["at most 20"]);
    refused(&sandbox.run(&["invert", "face0.png", "--edit", "smile=NaN", "--out", "x"]), 2, &["at most 20"]);
    refused(&sandbox.run(&["invert", "face0.png", "--rows", "0-9", "--edit", "smile=1", "--out", "x"]), 2, &["rows 0 to 5"]);
    refused(&sandbox.run(&["invert", "face0.png", "--method", "wzn", "--out", "x"]), 2, &["no method \"wzn\"", "w_zn"]);
    refused(&sandbox.run(&["invert", "face0.png", "--run", "edit_reel.tiny", "--out", "x"]), 4, &["edit_real.tiny"]);
    refused(&sandbox.run(&["invert", "face0.png", "--direction", "a=text.png", "--out", "x"]), 2, &["add --edit a=1"]);
    let bad = sandbox.run(&["invert", "face0.png", "--edit", "a=1", "--direction", "a=text.png", "--out", "x"]);
    assert!(matches!(bad.code, Some(5)), "{}", bad.stderr);
    std::fs::create_dir(sandbox.path("twice")).unwrap();
    std::fs::copy(sandbox.path("face1.png"), sandbox.path("twice/face0.png")).unwrap();
    refused(&sandbox.run(&["invert", "face0.png", "twice/face0.png", "--out", "x"]), 2, &["would both be written"]);
    std::fs::copy(sandbox.path("face1.png"), sandbox.path("twice/grid.png")).unwrap();
    refused(&sandbox.run(&["invert", "twice/grid.png", "--out", "twice"]), 2, &["would be overwritten"]);
    assert!(!sandbox.path("x").exists(), "nothing half done is left");
}
