//! The regression gate: the fixtures' verdicts stand in parity; here whole records, planted losses, reseeding and unlike things.

use std::path::Path;

use mtv_bench::record::Record;
use mtv_bench::record::compare::{Check, Verdict, check};
use mtv_bench::record::golden::Golden;
use mtv_bench::record::stats::Interval;
use mtv_bench::report::verdicts;
use mtv_bench::spec::Card;
use mtv_bench::spec::card::Source;

use crate::tables::sample;

const STEPS: [f64; 5] = [0.0, 0.8, 0.9, 0.1, -0.6];
const IMAGES: usize = 96;

fn golden() -> Golden {
    Golden::of(&[sample(&[1, 2, 3, 4, 5], IMAGES, STEPS)]).unwrap()
}

/// The record with every PSNR of one arm lowered.
fn planted(mut record: Record, arm: &str, loss: f64) -> Record {
    for s in record.scores.iter_mut().filter(|s| s.arm == arm && s.metric == "psnr@64") {
        s.value -= loss;
    }
    record
}

fn verdicts_of(check: &Check, arm: &str) -> Vec<Verdict> {
    check.cells.iter().filter(|c| c.gates && c.arm.name == arm).map(|c| c.verdict).collect()
}

#[test]
fn a_planted_loss_fails_and_names_its_arm() {
    let golden = golden();
    for arm in ["z", "w", "w_zn_zc"] {
        let check = check(&golden, &[planted(sample(&[11, 12, 13], IMAGES, STEPS), arm, 0.3)]).unwrap();
        assert_eq!(check.verdict(), Verdict::Fail, "{}", verdicts::terminal(&check));
        assert!(verdicts_of(&check, arm).contains(&Verdict::Fail));
        for other in golden.arms.iter().filter(|a| a.name != arm) {
            assert!(!verdicts_of(&check, &other.name).contains(&Verdict::Fail), "{} lost nothing", other.name);
        }
    }
}

#[test]
fn reseeding_alone_does_not_fail() {
    let golden = golden();
    let (mut open, mut all) = (0, 0);
    for seed in 20..50 {
        let check = check(&golden, &[sample(&[seed], IMAGES, STEPS)]).unwrap();
        assert_ne!(check.verdict(), Verdict::Fail, "seed {seed}: {}", verdicts::terminal(&check));
        open += check.cells.iter().filter(|c| c.gates && c.verdict == Verdict::Inconclusive).count();
        all += check.cells.iter().filter(|c| c.gates).count();
    }
    // One new training against 96 images leaves some comparisons open, but few.
    assert!(open * 6 < all, "{open} of {all} comparisons of fresh seeds were inconclusive");
}

/// The real part of a record whose PSNR was recorded from true trainings of the mini profile (tests/gate/recorded.txt), on another
/// machine than the golden scores, so that the band decides.
fn recorded(seeds: &[u64]) -> Record {
    let lines = include_str!("gate/recorded.txt").lines().filter(|l| !l.starts_with('#'));
    let mut values = std::collections::BTreeMap::new();
    for line in lines {
        let mut words = line.split(' ');
        let (arm, seed) = (words.next().unwrap().to_string(), words.next().unwrap().parse::<u64>().unwrap());
        values.insert((arm, seed), words.map(|w| w.parse::<f64>().unwrap()).collect::<Vec<_>>());
    }
    let images = values.values().next().unwrap().len();
    let mut record = sample(seeds, images, STEPS);
    record.arms.retain(|a| !a.reference);
    record.images.retain(|i| i.set == "real");
    record.curves.clear();
    record.scores.retain(|s| s.set == "real" && s.metric == "psnr@64" && values.contains_key(&(s.arm.clone(), s.seed)));
    for s in &mut record.scores {
        s.value = values[&(s.arm.clone(), s.seed)][s.image.parse::<usize>().unwrap()];
    }
    record
}

#[test]
fn on_recorded_trainings_a_planted_loss_fails_and_reseeding_does_not() {
    let golden = Golden::of(&[recorded(&[1, 2, 3])]).unwrap();
    let elsewhere = |seeds: &[u64]| {
        let mut record = recorded(seeds);
        record.provenance.cpu = "another".into();
        record
    };
    for seeds in [&[1][..], &[2], &[3], &[1, 2], &[1, 3], &[2, 3], &[1, 2, 3]] {
        let check = check(&golden, &[elsewhere(seeds)]).unwrap();
        assert!(matches!(check.verdict(), Verdict::Pass | Verdict::Improved), "seeds {seeds:?}: {}", verdicts::terminal(&check));
        assert!(check.cells.iter().all(|c| !c.reason.contains("same seed")), "the band was to decide");
    }
    for arm in ["z", "w_half", "w", "w_zn", "w_zn_zc"] {
        let check = check(&golden, &[planted(elsewhere(&[1, 2, 3]), arm, 0.3)]).unwrap();
        assert_eq!(verdicts_of(&check, arm), [Verdict::Fail], "{}", verdicts::terminal(&check));
        let failed: Vec<&str> = check.cells.iter().filter(|c| c.verdict == Verdict::Fail).map(|c| c.arm.name.as_str()).collect();
        assert_eq!(failed, [arm]);
    }
}

#[test]
fn the_same_run_again_is_equal_and_another_machine_is_judged_by_the_band() {
    let golden = golden();
    let again = sample(&[2], IMAGES, STEPS);
    let equal = check(&golden, std::slice::from_ref(&again)).unwrap();
    assert!(equal.cells.iter().all(|c| c.verdict == Verdict::Pass && c.reason.contains("same seed")), "{}", verdicts::terminal(&equal));
    let mut elsewhere = again;
    elsewhere.provenance.cpu = "another".into();
    let banded = check(&golden, &[elsewhere]).unwrap();
    assert_ne!(banded.verdict(), Verdict::Fail);
    assert!(banded.cells.iter().filter(|c| !c.arm.reference).all(|c| !c.reason.contains("same seed")));
}

#[test]
fn an_improvement_is_told() {
    let check = check(&golden(), &[planted(sample(&[11], IMAGES, STEPS), "w", -1.0)]).unwrap();
    assert_eq!(verdicts_of(&check, "w"), [Verdict::Improved, Verdict::Improved]);
    assert_ne!(check.verdict(), Verdict::Fail);
}

#[test]
fn metrics_that_do_not_decide_are_reported_only() {
    let mut record = sample(&[11, 12, 13], IMAGES, STEPS);
    record.scores.iter_mut().filter(|s| s.arm == "w" && s.metric == "lpips-mini@64").for_each(|s| s.value += 0.2);
    let check = check(&golden(), &[record]).unwrap();
    let lpips = check.cells.iter().find(|c| c.arm.name == "w" && c.metric == "lpips-mini@64").unwrap();
    assert!(lpips.verdict == Verdict::Fail && !lpips.gates && lpips.loss_p.unwrap() < 0.001);
    assert_ne!(check.verdict(), Verdict::Fail);
    assert!(verdicts::terminal(&check).contains("lpips-mini@64"), "a loss is shown even where it does not decide");
}

#[test]
fn unlike_things_are_refused_by_name() {
    let golden = golden();
    let fresh = || sample(&[11], IMAGES, STEPS);
    let refused = |change: &dyn Fn(&mut Record), wanted: &str| {
        let mut record = fresh();
        change(&mut record);
        let check = check(&golden, &[record]).unwrap();
        assert_eq!(check.verdict(), Verdict::NotComparable, "{wanted}");
        assert!(check.refusals.iter().any(|r| r.contains(wanted)), "{wanted:?} is not in {:?}", check.refusals);
    };
    assert!(check(&golden, &[fresh()]).unwrap().refusals.is_empty());
    refused(&|r| r.profile = "standard".into(), "profile: standard instead of mini");
    refused(&|r| r.study = "other".into(), "study: other");
    refused(&|r| r.format = 2, "record format: 2 instead of 1");
    refused(&|r| r.spec["version"] = 2.into(), "version: 2 instead of 1");
    refused(&|r| r.spec["train"]["steps"] = 999.into(), "train.steps: 999 instead of 1000");
    refused(&|r| r.images[3].sha256 = "ff".repeat(32), "image \"0003\" has other pixels");
    refused(&|r| r.provenance.weights.values_mut().for_each(|v| *v = "00".repeat(32)), "weights mini/stylegan1: 000000000000 instead of");
    refused(
        &|r| r.scores.iter_mut().filter(|s| s.metric == "psnr@64").for_each(|s| s.metric = "psnr@128".into()),
        "protocol psnr@128 instead of psnr@64",
    );
    refused(
        &|r| {
            r.images.retain(|i| i.id != "0005");
            r.scores.retain(|s| s.image != "0005");
        },
        "95 real images instead of 96",
    );
    refused(&|r| r.arms.retain(|a| a.name != "w"), "the arm \"w\" is not in the record");
    // Seeds and what only people read make no difference.
    let mut same = fresh();
    same.spec["seeds"] = serde_json::json!([99]);
    same.spec["title"] = "another title".into();
    // What is measured in stages of its own changes no score.
    same.spec["besides"] = serde_json::json!({ "identity": "mini/identity", "factors": true });
    assert!(check(&golden, &[same]).unwrap().refusals.is_empty());
}

/// Arms are compared by name, so that a reason names what differs and not all arms.
#[test]
fn unlike_arms_are_refused_by_name() {
    let with = |arms: serde_json::Value, seeds: &[u64]| {
        let mut record = sample(seeds, 8, STEPS);
        record.spec["arms"] = arms;
        record
    };
    let (z, w) = (serde_json::json!({ "name": "z", "steps": 9 }), serde_json::json!({ "name": "w" }));
    let golden = Golden::of(&[with([z.clone(), w.clone()].into(), &[1, 2, 3])]).unwrap();
    let refusals = |arms: serde_json::Value| check(&golden, &[with(arms, &[11])]).unwrap().refusals;
    assert!(refusals([w.clone(), z.clone()].into()).is_empty());
    let other = [serde_json::json!({ "name": "z", "steps": 8 }), serde_json::json!({ "name": "v" })];
    assert_eq!(refusals(other.as_slice().into()), ["arms.z.steps: 8 instead of 9", "arms.w is gone", "arms.v is new"]);
}

#[test]
fn golden_scores_need_three_seeds_and_like_records() {
    let error = Golden::of(&[sample(&[1, 2], 8, STEPS)]).unwrap_err();
    assert!(error.kind.exit_code() == 9 && error.message.contains("at least 3 seeds"), "{error}");
    let parts = [sample(&[1], 8, STEPS), sample(&[2], 8, STEPS), sample(&[3], 8, STEPS)];
    let together = Golden::of(&parts).unwrap();
    assert_eq!(together.scores, Golden::of(&[sample(&[1, 2, 3], 8, STEPS)]).unwrap().scores);
    let twice = Golden::of(&[sample(&[1, 2], 8, STEPS), sample(&[2, 3], 8, STEPS)]).unwrap_err();
    assert!(twice.message.contains("seed 2 is there twice"), "{twice}");
    let unlike = Golden::of(&[sample(&[1, 2], 8, STEPS), sample(&[3], 9, STEPS)]).unwrap_err();
    assert!(unlike.message.contains("other images"), "{unlike}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("golden.json");
    together.write(&path).unwrap();
    assert_eq!(Golden::read(&path).unwrap(), together);
    std::fs::write(&path, b"{}").unwrap();
    assert_eq!(Golden::read(&path).unwrap_err().kind.exit_code(), 5);
}

#[test]
fn infinite_scores_are_never_averaged() {
    let mut record = sample(&[1, 2, 3], 8, STEPS);
    record.scores.iter_mut().filter(|s| s.arm == "w" && s.image == "0001" && s.metric == "psnr@64").for_each(|s| s.value = f64::INFINITY);
    let with = Golden::of(&[record.clone()]).unwrap();
    assert_eq!(check(&with, &[record]).unwrap().verdict(), Verdict::Pass, "infinite on both sides is equal");
    let check = check(&with, &[sample(&[7], 8, STEPS)]).unwrap();
    assert!(verdicts_of(&check, "w").iter().all(|v| *v == Verdict::Inconclusive));
}

#[test]
fn the_rule_at_its_corners() {
    let of = |low, high, margin| Verdict::of(Interval { low, high }, margin);
    assert_eq!(of(0.0, 0.0, 0.0), Verdict::Pass);
    assert_eq!(of(0.01, 0.2, 0.1), Verdict::Improved);
    assert_eq!(of(-0.05, 0.2, 0.1), Verdict::Pass);
    assert_eq!(of(-0.3, -0.2, 0.1), Verdict::Fail);
    assert_eq!(of(-0.3, -0.05, 0.1), Verdict::Inconclusive);
}

#[test]
fn junit_and_markdown_say_the_same() {
    let golden = golden();
    let failed = check(&golden, &[planted(sample(&[11, 12, 13], IMAGES, STEPS), "w_zn", 0.5)]).unwrap();
    let mut unlike = sample(&[11], IMAGES, STEPS);
    unlike.profile = "a<b".into();
    let refused = check(&golden, &[unlike]).unwrap();
    let xml = verdicts::junit(&[failed.clone(), refused.clone()]);
    assert_eq!(xml.matches("<failure ").count(), failed.cells.iter().filter(|c| c.gates && c.verdict == Verdict::Fail).count());
    assert!(xml.contains("<testcase classname=\"ablation_mtv.mini\" name=\"w_zn synthesized psnr@64\"><failure"));
    assert!(xml.contains("ablation_mtv.a&lt;b") && xml.contains("<error message=\"profile: a&lt;b instead of mini\"/>"));
    assert_eq!(xml.matches("<testcase ").count(), xml.matches("</testcase>").count());
    let markdown = verdicts::markdown(&[failed, refused]);
    assert!(markdown.contains("### ablation_mtv.mini: fail") && markdown.contains("| **fail** | w + z_n |"));
    assert!(markdown.contains("### ablation_mtv.a<b: not comparable"));
}

/// Runs the program in `folder`; its exit code and everything it said.
fn program(folder: &std::path::Path, args: &[&str]) -> (i32, String) {
    let out = std::process::Command::new(env!("CARGO_BIN_EXE_mtv-bench")).current_dir(folder).args(args).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    (out.status.code().unwrap(), text)
}

#[test]
fn exit_codes_tell_a_script_what_happened() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let write = |name: &str, record: &Record| {
        let run = at.join("results/runs").join(name);
        std::fs::create_dir_all(&run).unwrap();
        std::fs::write(run.join("record.json"), serde_json::to_vec(record).unwrap()).unwrap();
        format!("results/runs/{name}")
    };
    let expect = |args: &[&str], code: i32, wanted: &str| {
        let (got, text) = program(at, args);
        assert!(got == code && text.contains(wanted), "{args:?} gave {got}: {text}");
    };
    expect(&["check"], 4, "results/runs holds no record");
    let good = write("good", &sample(&[1, 2, 3], IMAGES, STEPS));
    expect(&["check", &good], 4, "no golden scores; `mtv-bench check --bless`");
    expect(&["check", &good, "--bless"], 0, "results/golden/ablation_mtv.mini.json");
    expect(&["check", &good, "--junit", "j.xml", "--markdown", "m.md"], 0, "ablation_mtv.mini: pass");
    assert!(std::fs::read_to_string(at.join("j.xml")).unwrap().contains("failures=\"0\""));
    assert!(std::fs::read_to_string(at.join("m.md")).unwrap().contains("### ablation_mtv.mini: pass"));
    let bad = write("bad", &planted(sample(&[11, 12, 13], IMAGES, STEPS), "w", 1.0));
    expect(&["check", &bad], 3, "error: ablation_mtv.mini: scores got worse than the spread over the golden seeds allows");
    let mut other = sample(&[11], IMAGES, STEPS);
    other.spec["version"] = 7.into();
    let unlike = write("unlike", &other);
    expect(&["check", &unlike], 9, "version: 7 instead of 1");
    expect(&["check", "absent.json"], 4, "absent.json: no such record");
    std::fs::write(at.join("broken.json"), b"{").unwrap();
    expect(&["check", "broken.json"], 5, "broken.json: not a record");
    expect(&["check", &unlike, "--bless"], 9, "need at least 3 seeds");

    std::fs::write(at.join("rival.csv"), "Method,PSNR,MSE\npSp,18.03,0.0345\n").unwrap();
    expect(&["lint-table", "rival.csv"], 5, "impossible  pSp: MSE on [-1, 1]: the mean PSNR 18.03 dB is 2.61 dB below");
    let table3 = concat!(env!("CARGO_MANIFEST_DIR"), "/paper/published.toml");
    expect(&["lint-table", table3], 0, "10 rows, 0 impossible, 0 doubtful");
    // Images may spread as much as the table itself says, and no more.
    std::fs::write(at.join("spread.csv"), "Method,PSNR,MSE\nw+,45.03 ± 9.78,22.0\n").unwrap();
    expect(&["lint-table", "spread.csv"], 0, "1 rows, 0 impossible, 0 doubtful");
    std::fs::write(at.join("narrow.csv"), "Method,PSNR,MSE\nw+,45.03 ± 2.00,22.0\n").unwrap();
    expect(&["lint-table", "narrow.csv"], 0, "10.32 dB above the PSNR of the mean MSE");
    expect(&["lint-table", "rival.csv", "--mse-range", "0"], 2, "is not the width of a range");
    expect(&["lint-table", "absent.csv"], 4, "absent.csv: no such file");
}

/// A network that was trained anew makes all scores that stand on it stale: they are to be measured again with it.
#[test]
fn committed_scores_are_of_the_networks_that_ship() -> mtv_bench::Result<()> {
    let mut compared = 0;
    for folder in ["results/golden", "results/records"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        for path in std::fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            let packed = path.extension().is_some_and(|end| end == "gz");
            let weights = if packed { Record::read(&path)?.provenance.weights } else { Golden::read(&path)?.weights };
            for (name, sha256) in weights {
                let card = Card::load(&name)?;
                if !matches!(card.source, Source::Seeded(_)) {
                    assert_eq!(card.sha256, Some(sha256), "{}: {name}", path.display());
                    compared += 1;
                }
            }
        }
    }
    assert!(compared >= 100, "{compared}");
    Ok(())
}
