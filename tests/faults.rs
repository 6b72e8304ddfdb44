//! The tiny study twice, killed, resumed, with other threads: always the same scores.

use std::collections::HashMap;
use std::time::Duration;

use mtv_bench::images::Rgb8;
use mtv_bench::record::Record;
use mtv_bench::record::store::{Checkpoint, Ingredients, Store};

use crate::sandbox::{STUDY, Sandbox};

const RUN: [&str; 5] = ["run", "ablation_mtv", "--profile", "tiny", "--quiet"];

/// The part of a record that depends on the specification and the seeds only, as text: equal bytes or not equal.
fn results(record: &Record) -> String {
    let parts = (&record.images, &record.scores, &record.curves, &record.arms, &record.seeds, &record.spec);
    serde_json::to_string(&parts).expect("JSON")
}

fn run(sandbox: &Sandbox, more: &[&str]) {
    let output = sandbox.run(&[&RUN, more].concat());
    assert_eq!(output.code, Some(0), "{}", output.stderr);
}

#[test]
fn the_same_command_gives_the_same_bytes_and_a_second_one_does_no_work() {
    let sandbox = Sandbox::new();
    run(&sandbox, &["--out", "a"]);
    run(&sandbox, &["--out", "b", "--threads", "1"]);
    let (a, b) = (sandbox.record("a", "ablation_mtv.tiny"), sandbox.record("b", "ablation_mtv.tiny"));
    assert_eq!(results(&a), results(&b));
    assert_eq!(a.scores.iter().filter(|s| s.value.is_nan()).count(), 0);

    let before = std::fs::read(sandbox.path("a/runs/ablation_mtv.tiny/record.json")).expect("the record");
    let again = sandbox.run(&["run", "ablation_mtv", "--profile", "tiny", "--out", "a"]);
    assert_eq!(again.code, Some(0), "{}", again.stderr);
    assert!(again.stderr.contains("nothing to do, all 21 stages are cached"), "{}", again.stderr);
    assert!(again.stdout.trim_end().ends_with("a/runs/ablation_mtv.tiny/record.json"), "{}", again.stdout);
    assert_eq!(before, std::fs::read(sandbox.path("a/runs/ablation_mtv.tiny/record.json")).expect("the record"));
    assert!(sandbox.run(&["plan", "ablation_mtv", "--profile", "tiny", "--out", "a"]).stdout.contains("Nothing to do"));

    // A record of other stages, which another run has since made anew: no work, but it is written again.
    let path = sandbox.path("a/runs/ablation_mtv.tiny/record.json");
    let text = String::from_utf8(before.clone()).expect("text");
    std::fs::write(&path, text.replace(&a.provenance.stages[3].key, "another")).expect("written");
    let renewed = sandbox.run(&["run", "ablation_mtv", "--profile", "tiny", "--out", "a"]);
    assert!(renewed.code == Some(0) && renewed.stderr.contains("nothing to do"), "{}", renewed.stderr);
    assert_eq!(sandbox.record("a", "ablation_mtv.tiny").provenance.stages[3].key, a.provenance.stages[3].key);

    // Other words in the study: no work, but the table says them.
    sandbox.write(
        "experiments/ablation_mtv.toml",
        include_str!("../experiments/ablation_mtv.toml").replace("label = \"w/2\"", "label = \"half of w\""),
    );
    let worded = sandbox.run(&["run", "ablation_mtv", "--profile", "tiny", "--out", "a"]);
    assert!(worded.code == Some(0) && worded.stderr.contains("nothing to do"), "{}", worded.stderr);
    assert!(sandbox.record("a", "ablation_mtv.tiny").arms.iter().any(|arm| arm.label == "half of w"));
    let table = std::fs::read_to_string(sandbox.path("a/runs/ablation_mtv.tiny/report/table.md")).expect("the table");
    assert!(worded.stdout.contains("half of w") && table.contains("half of w"));
    std::fs::remove_file(sandbox.path("experiments/ablation_mtv.toml")).expect("removing the study");

    // Another seed: other numbers for every arm, the same images and reference rows.
    run(&sandbox, &["--out", "a", "--seed", "2"]);
    let other = sandbox.record("a", "ablation_mtv.tiny.seed2");
    assert_eq!(a.images, other.images);
    for arm in &a.arms {
        let of = |r: &Record| r.scores.iter().filter(|s| s.arm == arm.name).map(|s| s.value).collect::<Vec<_>>();
        assert_eq!(of(&a) == of(&other), arm.reference, "{}", arm.name);
    }
}

/// Every file below a folder with its size.
#[cfg(unix)]
fn files(folder: &std::path::Path) -> Vec<(std::path::PathBuf, u64)> {
    let mut found = vec![];
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(m) if m.is_dir() => found.extend(files(&entry.path())),
            Ok(m) => found.push((entry.path(), m.len())),
            Err(_) => {}
        }
    }
    found.sort();
    found
}

#[test]
#[cfg(unix)]
fn killed_at_any_moment_and_started_again_it_ends_with_the_same_bytes() {
    let sandbox = Sandbox::new();
    run(&sandbox, &["--out", "whole"]);
    let wanted = results(&sandbox.record("whole", "ablation_mtv.tiny"));
    // Ten kills, each soon after the run has changed something on disk: at once, or some milliseconds later, in the midst of a stage.
    // Each start goes on from where the one before was.
    let mut kills = 0;
    for i in 0..10 {
        let mut child = sandbox.start(&[&RUN[..], &["--out", "killed"]].concat());
        let before = files(&sandbox.path("killed"));
        while child.try_wait().expect("waiting").is_none() {
            if files(&sandbox.path("killed")) != before {
                std::thread::sleep(Duration::from_millis(3 * (i % 4)));
                kills += i32::from(child.kill().is_ok() && child.try_wait().expect("waiting").is_none_or(|status| !status.success()));
                break;
            }
        }
        child.wait().expect("waiting");
    }
    assert!(kills >= 5, "only {kills} of 10 starts were still running when they were to be killed");
    run(&sandbox, &["--out", "killed"]);
    assert_eq!(results(&sandbox.record("killed", "ablation_mtv.tiny")), wanted);
}

#[test]
fn changing_one_arm_retrains_that_arm_only() {
    let sandbox = Sandbox::new();
    sandbox.write("small.toml", STUDY);
    let args = ["run", "small.toml", "--profile", "tiny", "--device", "cpu"];
    assert_eq!(sandbox.run(&args).code, Some(0));
    sandbox.write("small.toml", STUDY.replace("latents = \"w+zn\"", "latents = \"w+zn\"\nrecipe = { terms = { distance = \"mse\" } }"));
    let second = sandbox.run(&args);
    assert_eq!(second.code, Some(0), "{}", second.stderr);
    let ran: Vec<&str> = second.stderr.lines().filter(|l| l.starts_with('[')).collect();
    assert_eq!(ran.len(), 2, "{}", second.stderr);
    assert!(ran[0].contains("train w + z_n, seed 1: never ran; the nearest cached one differs in recipe.terms.distance"), "{}", ran[0]);
    assert!(
        ran[1].contains("evaluate w + z_n, seed 1: its training runs") || ran[1].contains("evaluate w + z_n, seed 1: never ran"),
        "{}",
        ran[1]
    );
}

#[test]
fn a_damaged_cache_is_noticed_and_made_again() {
    let sandbox = Sandbox::new();
    sandbox.write("small.toml", STUDY);
    let args = ["run", "small.toml", "--profile", "tiny"];
    assert_eq!(sandbox.run(&args).code, Some(0));
    let wanted = results(&sandbox.record("results", "small.tiny"));
    let encoder = std::fs::read_dir(sandbox.path("results/cache"))
        .expect("the cache")
        .flatten()
        .map(|e| e.path().join("encoder.safetensors"))
        .find(|p| p.exists())
        .expect("a trained encoder");
    // Cut short, as by a bad disk: the stage is made again.
    let bytes = std::fs::read(&encoder).expect("the encoder");
    std::fs::write(&encoder, &bytes[..bytes.len() / 2]).expect("writing");
    let second = sandbox.run(&args);
    assert_eq!(second.code, Some(0), "{}", second.stderr);
    assert!(second.stderr.contains("its cached file encoder.safetensors is missing or has another size"), "{}", second.stderr);
    assert_eq!(results(&sandbox.record("results", "small.tiny")), wanted);
}

#[test]
fn scores_belong_to_their_images() {
    // The stored pictures, scored again by id, give the recorded numbers; under another image's id they give worse ones.
    let sandbox = Sandbox::new();
    let one_arm =
        format!("{}{}", &STUDY[..STUDY.find("[[arms]]\nname = \"w_zn\"").unwrap_or(0)], &STUDY[STUDY.find("[evaluate]").unwrap_or(0)..]);
    let longer = one_arm.replace("figure_images = 2", "figure_images = 8").replace("case = 2", "case = 2\noptimizer = { lr = 0.004 }");
    sandbox.write("small.toml", longer.replace("[evaluate]", "[train.tiny]\nsteps = 200\nbatch = 8\n\n[evaluate]"));
    assert_eq!(sandbox.run(&["run", "small.toml", "--profile", "tiny", "--quiet"]).code, Some(0));
    let record = sandbox.record("results", "small.tiny");
    let store = Store::new(sandbox.path("results"));
    let key = |stage: &str| record.provenance.stages.iter().find(|s| s.stage == stage).map(|s| s.key.clone()).expect("the stage");
    let folder = |kind: &str, stage: &str| store.root().join("cache").join(format!("{kind}-{}", &key(stage)[..20]));
    let targets = pictures(&folder("sample", "sample").join("images.safetensors"));
    let mine = pictures(&folder("evaluate", "evaluate w, seed 1").join("reconstructions.safetensors"));
    let psnr = mtv_bench::metrics::by_name("psnr@16").unwrap_or_else(|e| panic!("{e}"));
    let ids: Vec<&str> = record.images.iter().map(|i| i.id.as_str()).collect();
    let score = |target: &str, of: &str| {
        psnr.score(&targets[&format!("synthesized/{target}")], &mine[&format!("synthesized/{of}")]).unwrap_or_else(|e| panic!("{e}"))
    };
    for id in &ids {
        let recorded = record.scores.iter().find(|s| s.arm == "w" && s.metric == "psnr@16" && s.image == *id).expect("a score");
        assert_eq!(recorded.value, score(id, id), "{id}");
    }
    let matched: f64 = ids.iter().map(|id| score(id, id)).sum();
    let shifted: f64 = ids.iter().zip(ids.iter().cycle().skip(1)).map(|(a, b)| score(a, b)).sum();
    assert!(matched > shifted + 0.1 * ids.len() as f64, "by id {matched}, shifted {shifted}");
}

/// The stored 8-bit pictures [height, width, 3] by "set/image id".
fn pictures(file: &std::path::Path) -> HashMap<String, Rgb8> {
    let tensors = candle_core::safetensors::load(file, &candle_core::Device::Cpu).expect("pictures");
    let picture = |t: candle_core::Tensor| {
        let (height, width, _) = t.dims3().expect("a picture");
        let bytes = t.flatten_all().and_then(|t| t.to_vec1()).expect("bytes");
        Rgb8::new(width, height, bytes).unwrap_or_else(|e| panic!("{e}"))
    };
    tensors.into_iter().map(|(name, t)| (name, picture(t))).collect()
}

fn ingredients(spec: &str) -> Ingredients {
    Ingredients { kind: "train".into(), code: 1, spec: spec.into(), inputs: Default::default() }
}

#[test]
fn a_torn_checkpoint_is_passed_over_for_the_one_before() {
    let sandbox = Sandbox::new();
    let store = Store::new(sandbox.path("results"));
    let work = store.begin(&ingredients("a")).unwrap_or_else(|e| panic!("{e}"));
    let mut checkpoint = Checkpoint::new(&work, Duration::ZERO);
    let cpu = candle_core::Device::Cpu;
    let tensors = |v: f32| std::collections::BTreeMap::from([("t".to_string(), candle_core::Tensor::new(&[v], &cpu).expect("a tensor"))]);
    assert!(checkpoint.load(&cpu).unwrap_or_else(|e| panic!("{e}")).is_none());
    checkpoint.save(1, &tensors(1.0), &"one").unwrap_or_else(|e| panic!("{e}"));
    checkpoint.save(2, &tensors(2.0), &"two").unwrap_or_else(|e| panic!("{e}"));
    let saved = checkpoint.load(&cpu).unwrap_or_else(|e| panic!("{e}")).expect("a checkpoint");
    assert_eq!((saved.step, saved.state.as_str()), (2, Some("two")));
    let file = work.folder().join("checkpoint.safetensors");
    let bytes = std::fs::read(&file).expect("the checkpoint");
    std::fs::write(&file, &bytes[..bytes.len() - 2]).expect("writing");
    let saved = checkpoint.load(&cpu).unwrap_or_else(|e| panic!("{e}")).expect("the one before");
    assert_eq!((saved.step, saved.state.as_str()), (1, Some("one")));
    assert_eq!(saved.tensors["t"].to_vec1::<f32>().expect("values"), [1.0]);
}

#[test]
fn a_stage_is_finished_only_as_a_whole_and_by_one_process() {
    let sandbox = Sandbox::new();
    let store = Store::new(sandbox.path("results"));
    let (a, b) = (ingredients("a"), ingredients("b"));
    let work = store.begin(&a).unwrap_or_else(|e| panic!("{e}"));
    let busy = store.begin(&a).expect_err("the stage is locked");
    assert_eq!(busy.kind, mtv_bench::error::Kind::Busy);
    assert!(busy.message.contains(&format!("process {}", std::process::id())), "{busy}");
    work.put("out.json", b"1").unwrap_or_else(|e| panic!("{e}"));
    assert!(matches!(store.find(&a), Err(None)));
    work.finish(0).unwrap_or_else(|e| panic!("{e}"));
    assert!(matches!(store.find(&b), Err(None)));
    let finished = store.find(&a).unwrap_or_else(|e| panic!("{e:?}"));
    assert_eq!(finished.json::<u32>("out.json").unwrap_or_else(|e| panic!("{e}")), 1);
    // Another value of the same size is caught by its hash.
    std::fs::write(finished.path("out.json"), b"2").expect("writing");
    assert_eq!(finished.bytes("out.json").expect_err("damaged").kind, mtv_bench::error::Kind::Corrupt);
}
