//! Tables, figures and the paragraph of findings, from a made-up record whose numbers are known.
//!
//! Longer than other files: one made-up record, and every table and figure that is made of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mtv_bench::images::Rgb8;
use mtv_bench::random::Stream;
use mtv_bench::record::factors::{Factors, Origin};
use mtv_bench::record::frechet::{Between, Frechet};
use mtv_bench::record::{ArmInfo, CurvePoint, ImageInfo, Provenance, Record, Score, StageCost};
use mtv_bench::report::claims::Claim;
use mtv_bench::report::{Report, table};
use mtv_bench::spec::experiment::Study;
use mtv_bench::stages::render;

/// A made-up record: five arms whose quality grows by `steps` dB, two reference rows, two sets of images, one row of scores
/// per seed. The spread is that of the mini study: 2 dB between images, 0.05 dB between trainings, 0.4 dB of the rest.
pub fn sample(seeds: &[u64], images: usize, steps: [f64; 5]) -> Record {
    let arms = [("z", "z"), ("w_half", "w/2"), ("w", "w"), ("w_zn", "w + z_n"), ("w_zn_zc", "w + z_n + z_c")];
    let mut record = Record {
        format: 1,
        study: "ablation_mtv".into(),
        profile: "mini".into(),
        spec: serde_json::json!({ "name": "ablation_mtv", "version": 1, "seeds": seeds, "train": { "steps": 1000, "note": null },
            "report": { "claimed_order": ["z", "w_half", "w", "w_zn", "w_zn_zc"] } }),
        arms: arms.iter().map(|(n, l)| ArmInfo { name: n.to_string(), label: l.to_string(), reference: false }).collect(),
        seeds: seeds.to_vec(),
        images: vec![],
        scores: vec![],
        edits: None,
        frechet: vec![],
        factors: vec![],
        curves: vec![],
        traces: vec![],
        provenance: Provenance {
            version: "0.1.0".into(),
            git_commit: "0123456789abcdef".into(),
            device: "cpu".into(),
            cpu: "x86_64, AVX2 & FMA".into(),
            threads: 2,
            dtype: "f32".into(),
            date: "2026-01-01".into(),
            weights: BTreeMap::from([("mini/stylegan1".into(), "ab".repeat(32))]),
            image_list_sha256: "cd".repeat(32),
            ..Provenance::default()
        },
    };
    for (name, label) in [("mean_image", "mean image"), ("mean_w", "G(mean w)")] {
        record.arms.push(ArmInfo { name: name.into(), label: label.into(), reference: true });
    }
    for (set, base) in [("synthesized", 20.0), ("real", 17.0)] {
        for i in 0..images {
            let id = format!("{i:04}");
            record.images.push(ImageInfo { set: set.into(), id, sha256: format!("{i:064x}"), unseen: vec![] });
        }
        let image_part = normals(&format!("{set}/image"), 0, images);
        for (a, arm) in record.arms.clone().iter().enumerate() {
            let level = if arm.reference { base - 7.0 + a as f64 * 0.1 } else { base + steps[..=a].iter().sum::<f64>() };
            for &seed in seeds {
                let training = if arm.reference { 0.0 } else { 0.05 * normals(&format!("{set}/{}/seed", arm.name), seed, 1)[0] };
                let rest = normals(&format!("{set}/{}/rest", arm.name), seed, images);
                for i in 0..images {
                    let psnr = level + training + 2.0 * image_part[i] + if arm.reference { 0.0 } else { 0.4 * rest[i] };
                    let mse = 65025.0 / 10f64.powf(psnr / 10.0);
                    let ssim = 1.0 / (1.0 + (-(psnr - 16.0) / 5.0).exp());
                    let lpips = 0.9 * (-(psnr - 8.0) / 14.0).exp();
                    for (metric, value) in [("psnr@64", psnr), ("ssim-uniform7@64", ssim), ("lpips-mini@64", lpips), ("mse@64", mse)] {
                        record.scores.push(Score {
                            arm: arm.name.clone(),
                            seed,
                            set: set.into(),
                            image: format!("{i:04}"),
                            metric: metric.into(),
                            value,
                        });
                    }
                }
                if !arm.reference {
                    curve(&mut record, arm, seed, set, level + training);
                }
            }
        }
    }
    record
}

fn normals(name: &str, index: u64, n: usize) -> Vec<f64> {
    let mut out = vec![0f32; n];
    Stream::new(9, name).fill_normal(index, &mut out);
    out.into_iter().map(f64::from).collect()
}

fn curve(record: &mut Record, arm: &ArmInfo, seed: u64, set: &str, end: f64) {
    let noise = normals(&format!("{set}/{}/curve", arm.name), seed, 25);
    for (i, n) in noise.iter().enumerate() {
        let images = i as u64 * 500;
        let psnr = end - (end - 9.0) * (-(images as f64) / 2500.0).exp() + 0.12 * n;
        for (metric, value) in [("psnr@64", psnr), ("lpips-mini@64", 0.9 * (-(psnr - 8.0) / 14.0).exp())] {
            record.curves.push(CurvePoint { arm: arm.name.clone(), seed, set: set.into(), images, metric: metric.into(), value });
        }
    }
}

/// A picture with a face-like disc; `blur` mixes it with its own mean.
fn picture(seed: u64, blur: f64) -> Rgb8 {
    let v = normals("picture", seed, 9);
    let size = 64;
    let mut data = vec![];
    for y in 0..size {
        for x in 0..size {
            let (dx, dy) = ((x as f64 - 32.0 - 3.0 * v[0]) / 18.0, (y as f64 - 32.0 - 3.0 * v[1]) / 24.0);
            let face = (1.0 / (1.0 + ((dx * dx + dy * dy - 1.0) * 8.0 * (1.0 - blur)).exp())).clamp(0.0, 1.0);
            let eye =
                [(-0.4, -0.2), (0.4, -0.2)].iter().map(|(ex, ey)| (-((dx - ex).powi(2) + (dy - ey).powi(2)) * 60.0).exp()).sum::<f64>();
            for c in 0..3 {
                let (skin, ground) = (190.0 + 25.0 * v[2 + c] - 40.0 * c as f64, 110.0 + 40.0 * v[5 + c] + y as f64);
                let value = face * skin + (1.0 - face) * ground - 120.0 * eye * (1.0 - blur);
                data.push(value.clamp(0.0, 255.0) as u8);
            }
        }
    }
    Rgb8::new(size, size, data).unwrap()
}

fn pictures(record: &Record, count: usize, blur: f64) -> BTreeMap<String, Rgb8> {
    let mut out = BTreeMap::new();
    for set in ["synthesized", "real"] {
        for (i, image) in record.images.iter().filter(|i| i.set == set).take(count).enumerate() {
            out.insert(format!("{set}/{}", image.id), picture(i as u64 + if set == "real" { 50 } else { 0 }, blur));
        }
    }
    out
}

/// For every arm, pictures of the `keep` images of each set with its lowest PSNR in the first seed.
fn worst(record: &Record, keep: usize) -> BTreeMap<String, BTreeMap<String, Rgb8>> {
    let all = pictures(record, 99, 0.5);
    let of = |arm: &str| {
        let mut out = BTreeMap::new();
        for set in ["synthesized", "real"] {
            let mine = |s: &&Score| s.arm == arm && s.seed == record.seeds[0] && s.set == set && s.metric.starts_with("psnr");
            let mut scores: Vec<_> = record.scores.iter().filter(mine).map(|s| (s.value, format!("{set}/{}", s.image))).collect();
            scores.sort_by(|a, b| a.0.total_cmp(&b.0));
            out.extend(scores.into_iter().take(keep).map(|(_, key)| (key.clone(), all[&key].clone())));
        }
        out
    };
    record.arms.iter().map(|a| (a.name.clone(), of(&a.name))).collect()
}

/// Renders the record with made-up pictures into a folder of the build directory and returns it with the terminal's table.
fn rendered(record: &Record, name: &str) -> (PathBuf, String) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("report").join(name);
    let _ = std::fs::remove_dir_all(&folder);
    let arms = record.arms.iter().filter(|a| !a.reference).enumerate();
    let reconstructions = arms.map(|(i, a)| (a.name.clone(), pictures(record, 5, 0.8 - 0.15 * i as f64))).collect();
    let shown = render::Shown { targets: pictures(record, 99, 0.0), reconstructions, worst: worst(record, 3), ..Default::default() };
    let text = render::run(record, &shown, &folder).unwrap();
    (folder, text)
}

fn read(folder: &Path, name: &str) -> String {
    std::fs::read_to_string(folder.join(name)).unwrap()
}

const STEPS: [f64; 5] = [0.0, 0.8, 0.9, 0.0, -0.6];

/// Mean, sd over images and plain differences, computed here from the scores in the simplest way.
fn by_hand(record: &Record, arm: &str, set: &str, metric: &str) -> (f64, f64) {
    let of = |id: &str| {
        let values: Vec<f64> =
            record.scores.iter().filter(|s| s.arm == arm && s.set == set && s.metric == metric && s.image == id).map(|s| s.value).collect();
        values.iter().sum::<f64>() / values.len() as f64
    };
    let means: Vec<f64> = record.images.iter().filter(|i| i.set == set).map(|i| of(&i.id)).collect();
    let mean = means.iter().sum::<f64>() / means.len() as f64;
    (mean, (means.iter().map(|m| (m - mean) * (m - mean)).sum::<f64>() / (means.len() - 1) as f64).sqrt())
}

#[test]
fn tables_hold_the_numbers_of_the_record() {
    let record = sample(&[1, 2, 3], 24, STEPS);
    let (folder, terminal) = rendered(&record, "three-seeds");
    let (markdown, latex, html) = (read(&folder, "table.md"), read(&folder, "table.tex"), read(&folder, "report.html"));
    let (first, _) = by_hand(&record, "z", "real", "psnr@64");
    for arm in &record.arms {
        let (mean, sd) = by_hand(&record, &arm.name, "real", "psnr@64");
        for (text, wanted) in [
            (&markdown, format!("{mean:.2}")),
            (&markdown, format!("± {sd:.2}")),
            (&latex, format!("{mean:.2}")),
            (&html, format!("{mean:.2}")),
            (&terminal, format!("{mean:.2}  {sd:.2}")),
        ] {
            assert!(text.contains(&wanted), "{}: {wanted} is missing", arm.name);
        }
        if arm.name != "z" {
            let difference = format!("{:+.2}", mean - first);
            assert!(markdown.contains(&difference) && terminal.contains(&difference), "{}: {difference} is missing", arm.name);
        }
    }
    assert!(markdown.contains("_mean image_") && markdown.contains("_G(mean w)_"), "both reference rows");
    for text in [&markdown, &html, &terminal] {
        assert!(text.contains("ablation_mtv, profile mini, seeds 1, 2, 3, 24 synthesized + 24 real images"));
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains("none reproduces a number of the paper"));
        assert!(text.contains("psnr@64") && text.contains("lpips-mini@64"));
        assert!(!text.contains("One training") && text.contains("3 trainings per arm"));
    }
    assert!(terminal.trim_end().lines().last().unwrap().starts_with("G(mean w)"), "the terminal ends with the table");
    assert!(markdown.contains("x86_64, AVX2 & FMA") && markdown.contains("deviation between trainings"));
}

#[test]
fn latex_and_html_are_escaped_and_self_contained() {
    let mut record = sample(&[1], 12, STEPS);
    record.arms[1].label = "50% <b>_&_".into();
    let (folder, _) = rendered(&record, "escaped");
    let (latex, html) = (read(&folder, "table.tex"), read(&folder, "report.html"));
    assert!(latex.contains(r"50\% \textless{}b\textgreater{}\_\&\_") && !latex.contains("50% <b>"));
    assert!(latex.contains(r"$w$ $+$ $z_n$") && latex.contains(r"\toprule") && latex.contains(r"ablation\_mtv"));
    let rows = latex.lines().filter(|l| l.ends_with(r"\\"));
    for row in rows {
        let columns = row.replace(r"\&", "").matches('&').count();
        assert_eq!(columns, 4, "a row of the LaTeX table has another number of columns: {row}");
    }
    assert_eq!(latex.matches('{').count() - latex.matches(r"\{").count(), latex.matches('}').count() - latex.matches(r"\}").count());
    assert!(html.contains("50% &lt;b&gt;_&amp;_") && !html.contains("<b>_&_"));
    assert!(html.contains("<i>z</i><sub>n</sub>"));
    let sources: Vec<&str> = html.split("src=\"").skip(1).map(|s| &s[..s.len().min(11)]).collect();
    assert!(sources.len() == 3 && sources.iter().all(|s| *s == "data:image/"), "every picture is inside: {sources:?}");
    assert!(!html.contains("http://") && !html.contains("https://") && !html.contains("<script"));
    assert!(html.contains("speak of these trainings only"), "one training is labelled as such");
}

#[test]
fn the_same_record_gives_the_same_bytes() {
    let record = sample(&[1, 2], 12, STEPS);
    let mut later = record.clone();
    later.provenance.date = "2031-05-05".into();
    let (a, _) = rendered(&record, "same-a");
    let (b, _) = rendered(&later, "same-b");
    let mut names: Vec<_> = std::fs::read_dir(&a).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let expected = [
        "curves.png",
        "curves.svg",
        "provenance.json",
        "reconstructions.png",
        "reconstructions.svg",
        "report.html",
        "spec.toml",
        "table.md",
        "table.tex",
        "worst.png",
        "worst.svg",
    ];
    assert_eq!(names, expected);
    for name in names.iter().filter(|n| *n != "provenance.json") {
        assert!(std::fs::read(a.join(name)).unwrap() == std::fs::read(b.join(name)).unwrap(), "{name} differs");
    }
    let spec: toml::Table = read(&a, "spec.toml").parse().unwrap();
    assert_eq!(spec["train"]["steps"].as_integer(), Some(1000));
}

#[test]
fn figures_show_every_arm_and_image() {
    let record = sample(&[1, 2], 12, STEPS);
    let (folder, _) = rendered(&record, "figures");
    let grid = read(&folder, "reconstructions.svg");
    assert_eq!(grid.matches("<image ").count(), 6 * 10, "target and five arms, five images of each set");
    assert!(grid.contains("target</text>") && grid.contains("w/2</text>") && grid.contains("synthesized images</text>"));
    assert!(grid.contains(">n</tspan>") && grid.contains(">c</tspan>"), "indices are lowered");
    let png = mtv_bench::images::decode(&std::fs::read(folder.join("reconstructions.png")).unwrap()).unwrap();
    // The first target stands in the grid, every pixel enlarged to 3 x 3.
    let target = &pictures(&record, 5, 0.0)["synthesized/0000"];
    let pixel = |x: usize, y: usize| &png.data()[(y * png.width() + x) * 3..][..3];
    let found = (0..png.width() - 192).any(|left| {
        (0..192).step_by(7).all(|dy| {
            (0..192).step_by(5).all(|dx| {
                let from = ((dy / 3) * 64 + dx / 3) * 3;
                pixel(left + dx, 60 + dy) == &target.data()[from..from + 3]
            })
        })
    });
    assert!(found, "the first target is in the grid, enlarged without interpolation");
    let curves = read(&folder, "curves.svg");
    for arm in ["z", "w/2", "w"] {
        assert_eq!(curves.matches(&format!(">{arm}</text>")).count(), 4, "{arm} is labelled in each of the four panels");
    }
    assert!(curves.contains("training images") && curves.contains("psnr@64 (dB)"));
}

#[test]
fn convergence_is_read_from_the_curves() {
    let report = Report::of(&sample(&[1, 2], 12, STEPS)).unwrap();
    assert_eq!(report.convergence.len(), 2 * 5, "five arms on two sets");
    for row in &report.convergence {
        // The made-up curves approach their end with a time constant of 2,500 of 12,000 images: 90 % after 2.3 of them.
        let most: f64 = row.most.parse().unwrap();
        assert!((4_500.0..7_500.0).contains(&most), "{row:?}");
        let nearly: f64 = row.nearly_all.parse().unwrap();
        assert!(nearly > most, "{row:?}");
        assert!(row.last_third.parse::<f64>().unwrap().abs() < 8.0, "{row:?}");
    }
}

#[test]
fn the_gallery_shows_the_worst_images_of_the_best_arm_in_order() {
    let mut record = sample(&[1, 2], 12, [0.0, 0.8, 0.9, 1.5, -0.6]);
    let real: Vec<usize> = (0..record.images.len()).filter(|&i| record.images[i].set == "real").collect();
    for i in real {
        record.images[i].unseen = vec!["FaceMask".into()];
    }
    let (folder, _) = rendered(&record, "gallery");
    let gallery = read(&folder, "worst.svg");
    assert_eq!(gallery.matches("<image ").count(), 2 * 2 * 3, "target and reconstruction of three images of each set");
    assert!(gallery.contains("real images, the 3 worst</text>"));
    assert_eq!(gallery.matches("face mask</text>").count(), 3, "what only the real images show");
    // The best arm is "w + z_n"; its three lowest scores of each set stand below the columns, the lowest first.
    let mut expected = vec![];
    for set in ["synthesized", "real"] {
        let mine = |s: &&Score| s.arm == "w_zn" && s.seed == 1 && s.set == set && s.metric.starts_with("psnr");
        let mut scores: Vec<f64> = record.scores.iter().filter(mine).map(|s| s.value).collect();
        scores.sort_by(f64::total_cmp);
        expected.extend(scores[..3].iter().map(|v| format!("{v:.2} dB")));
    }
    let places: Vec<Option<usize>> = expected.iter().map(|text| gallery.find(text.as_str())).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{expected:?} at {places:?}");
}

#[test]
fn a_run_without_pictures_or_curves_has_tables_all_the_same() {
    let mut record = sample(&[1], 8, STEPS);
    let (folder, _) = rendered(&record, "then-less");
    assert!(folder.join("reconstructions.png").exists() && folder.join("curves.svg").exists());
    record.curves.clear();
    render::run(&record, &Default::default(), &folder).unwrap();
    assert!(!folder.join("reconstructions.png").exists() && !folder.join("curves.svg").exists(), "no figure of an older record stays");
    assert!(read(&folder, "table.md").contains("psnr@64"));
}

#[test]
fn the_finding_says_what_holds_and_what_does_not() {
    let findings = Report::of(&sample(&[1, 2, 3], 48, [0.0, 0.8, 0.9, 0.0, -0.6])).unwrap().findings;
    assert_eq!(findings.len(), 2);
    let synthesized = &findings[0];
    for wanted in [
        "On synthesized images. Fig. 9 claims the order z < w/2 < w < w + z_n < w + z_n + z_c.",
        "z < w/2 holds (improvement +0.",
        "w/2 < w holds",
        "w < w + z_n not resolved",
        "w + z_n < w + z_n + z_c does not hold (reversed) (improvement -0.",
        "By psnr@64, 2 of its 4 steps hold, 1 is reversed, 1 is not resolved:",
        "By lpips-mini@64, 2 of its 4 steps hold",
        "Every arm is at least 3 dB above every reference row; the smallest lead is z over G(mean w): +6.",
    ] {
        assert!(synthesized.contains(wanted), "{wanted:?} is not in {synthesized}");
    }
    let near = Report::of(&sample(&[1], 48, [-5.0, 0.1, 0.1, 0.1, 0.1])).unwrap().findings;
    assert!(near[1].contains("Not every arm is 3 dB above every reference row: z over mean image: +1."), "{}", near[1]);
}

#[test]
fn published_numbers_stand_in_their_own_column() {
    let mut record = sample(&[1], 12, STEPS);
    let none = table::render(&Report::of(&record).unwrap(), "table.md", &Default::default()).unwrap();
    assert!(!none.contains("published (") && none.contains("prints no number for this ablation"));
    record.study = "compare_baselines".into();
    record.profile = "paper".into();
    record.arms[0].label = "pSp".into();
    let report = Report::of(&record).unwrap();
    let text = table::render(&report, "table.md", &Default::default()).unwrap();
    assert!(
        text.contains("| PSNR, published (Table III) |") && text.contains("| 21.38<br>") && text.contains("| not reported |"),
        "{text}"
    );
    assert!(!text.contains("none reproduces"));
    // Table III's LPIPS is not the mini networks': no published number may stand beside it.
    let columns = &report.sets[1].columns;
    let published: Vec<&str> = columns.iter().filter(|c| !c.published.is_empty()).map(|c| c.metric.as_str()).collect();
    assert_eq!(published, ["psnr@64", "ssim-uniform7@64", "mse@64"]);
    assert_eq!(report.sets[1].rows[0].cells[3].published, "512.0");
}

#[test]
fn incomplete_records_are_refused() {
    let mut record = sample(&[1], 8, STEPS);
    record.scores.remove(3);
    let error = Report::of(&record).unwrap_err();
    assert!(error.message.contains("1 of 8 images have no mse@64"), "{error}");
    let mut record = sample(&[1], 8, STEPS);
    let again = record.scores[0].clone();
    record.scores.push(again);
    assert!(Report::of(&record).unwrap_err().message.contains("scored twice"));
    let mut record = sample(&[1], 8, STEPS);
    record.scores[0].value = f64::INFINITY;
    let report = Report::of(&record).unwrap();
    let cell = &report.sets[0].rows[0].cells[0];
    assert!(cell.mean == "∞" && cell.low.is_empty() && cell.sd.is_empty(), "a mean of infinity has no interval");
}

#[test]
fn equal_arms_and_the_studys_remarks_are_told() {
    let mut record = sample(&[1], 12, STEPS);
    let of_z: Vec<Score> = record.scores.iter().filter(|s| s.arm == "z").cloned().collect();
    record.scores.retain(|s| s.arm != "w");
    record.scores.extend(of_z.into_iter().map(|s| Score { arm: "w".into(), ..s }));
    record.spec["arms"] = serde_json::json!([{ "name": "w", "label": "w", "note": "learns nothing from images" }, { "name": "z" }]);
    let report = Report::of(&record).unwrap();
    let row = report.sets[0].rows.iter().find(|r| r.name == "w").unwrap();
    assert!(row.cells.iter().all(|c| c.difference == "equal" && c.difference_low.is_empty() && !c.resolved));
    let text = table::render(&report, "table.md", &Default::default()).unwrap();
    assert!(text.contains("- w: learns nothing from images") && text.contains("| w | equal | equal | equal | equal |"), "{text}");
}

/// Every value in which the two presets, or the two cases, differ has its place in paper/reading.md.
#[test]
fn the_reading_of_the_paper_names_every_value_that_differs() {
    use mtv_bench::objective::Recipe;
    let reading = include_str!("../paper/reading.md");
    let tables = |recipe: Recipe| serde_json::to_value(recipe).unwrap();
    let paper = tables(Recipe::paper());
    let mut checked = 0;
    for other in [Recipe::released(), Recipe::paper().case2(), Recipe::released().released_case2()].map(tables) {
        for (table, values) in paper.as_object().unwrap() {
            for (key, value) in values.as_object().unwrap().iter().filter(|(k, v)| other[table][k] != **v) {
                assert!(
                    reading.contains(&format!("`{table}.{key}")),
                    "{table}.{key} ({value} or {}) is not in reading.md",
                    other[table][key]
                );
                checked += 1;
            }
        }
    }
    assert!(checked > 20);
}

#[test]
fn every_claim_is_judged_or_says_why_not() {
    let studies: Vec<_> = Study::names().iter().map(|n| Study::load(n).unwrap_or_else(|e| panic!("{e}")).experiment).collect();
    for claim in Claim::all().unwrap() {
        let says = &claim.says;
        let Some(study) = &claim.study else {
            assert!(claim.untested.is_some(), "{says}: neither a study nor a reason");
            continue;
        };
        assert!(claim.untested.is_none() && claim.better.is_some() != claim.cheaper.is_some(), "{says}");
        let study = studies.iter().find(|s| s.name == *study).unwrap_or_else(|| panic!("{says}: no study {study}"));
        for name in [claim.better.as_ref().or(claim.cheaper.as_ref()), claim.than.as_ref()] {
            assert!(study.arms.iter().any(|a| Some(&a.name) == name), "{says}: {} has no arm {name:?}", study.name);
        }
    }
}

#[test]
fn the_verdict_of_a_claim_follows_the_record() {
    let claim = |better: &str, than: &str| Claim {
        item: "Fig. 9".into(),
        says: "one is better".into(),
        study: Some("ablation_mtv".into()),
        better: Some(better.into()),
        cheaper: None,
        than: Some(than.into()),
        untested: None,
    };
    let mut record = sample(&[1, 2, 3], 48, [0.0, 0.8, 0.9, 0.0, -0.6]);
    let verdict = |record: &Record, claim: &Claim| claim.judge(std::slice::from_ref(record)).unwrap().verdict;
    assert_eq!(verdict(&record, &claim("w", "w_half")), "supported");
    assert_eq!(verdict(&record, &claim("w_zn_zc", "w_zn")), "not supported (reversed)");
    assert_eq!(verdict(&record, &claim("w_zn", "w")), "not supported (no difference resolved)");
    assert_eq!(claim("w", "z").judge(&[]).unwrap().verdict, "no record");
    assert_eq!(claim("w", "none").judge(std::slice::from_ref(&record)).unwrap_err().kind, mtv_bench::error::Kind::Corrupt);
    let faster = Claim { better: None, cheaper: Some("w".into()), ..claim("", "z") };
    assert_eq!(verdict(&record, &faster), "no record");
    record.spec["arms"] = serde_json::json!([{ "name": "z", "steps": 100 }, { "name": "w", "steps": 100 }]);
    for (arm, seconds) in [("z", 4.0), ("w", 3.0)] {
        let stage = format!("train {arm}, seed 1");
        record.provenance.stages.push(StageCost { stage, seconds, ..StageCost::default() });
    }
    let row = faster.judge(std::slice::from_ref(&record)).unwrap();
    assert_eq!((row.verdict.as_str(), row.numbers.as_str()), ("supported", "w: 30.0 ms a step; z: 40.0 ms"));
    assert!(table::render(&Report::of(&record).unwrap(), "table.md", &Default::default()).unwrap().contains("| w | 100 | 3 | 30.0 | 0 |"));
}

#[test]
fn a_packed_record_reads_as_the_plain_one() {
    use std::io::Write;
    let record = sample(&[1], 2, STEPS);
    let folder = tempfile::tempdir().unwrap();
    let text = serde_json::to_vec(&record).unwrap();
    let mut packed = flate2::write::GzEncoder::new(vec![], flate2::Compression::default());
    packed.write_all(&text).unwrap();
    let (plain, gz, cut) = (folder.path().join("a.json"), folder.path().join("a.json.gz"), folder.path().join("cut.json.gz"));
    let bytes = packed.finish().unwrap();
    std::fs::write(&plain, &text).unwrap();
    std::fs::write(&gz, &bytes).unwrap();
    std::fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    assert_eq!(Record::read(&plain).unwrap(), record);
    assert_eq!(Record::read(&gz).unwrap(), record);
    assert_eq!(Record::read(&cut).unwrap_err().kind, mtv_bench::error::Kind::Corrupt);
    assert_eq!(Record::read(&folder.path().join("none")).unwrap_err().kind, mtv_bench::error::Kind::Missing);
}

#[test]
fn failures_are_told_by_what_the_generator_never_saw() {
    let mut record = sample(&[1, 2], 4, STEPS);
    assert!(Report::of(&record).unwrap().unseen.is_empty());
    for image in record.images.iter_mut().filter(|i| i.set == "real" && i.id == "0003") {
        image.unseen = vec!["FaceMask".into()];
    }
    let rows = Report::of(&record).unwrap().unseen;
    assert_eq!(rows.iter().map(|r| (r.what.as_str(), r.images)).collect::<Vec<_>>(), [("nothing unseen", 3), ("face mask", 1)]);
    // The same pictures in another table are no other pictures.
    let again = |set: &str| set.replace("real", "real (first 2)");
    let images: Vec<_> = record.images.iter().filter(|i| i.set == "real").cloned().collect();
    let scores: Vec<_> = record.scores.iter().filter(|s| s.set == "real").cloned().collect();
    record.images.extend(images.into_iter().map(|i| ImageInfo { set: again(&i.set), ..i }));
    record.scores.extend(scores.into_iter().map(|s| Score { set: again(&s.set), ..s }));
    assert_eq!(Report::of(&record).unwrap().unseen, rows);
    let of_z = |s: &&Score| s.arm == "z" && s.set == "real" && s.image == "0003" && s.metric == "psnr@64";
    let values: Vec<f64> = record.scores.iter().filter(of_z).map(|s| s.value).collect();
    assert_eq!(rows[1].means[0], ("z".to_string(), format!("{:.2}", (values[0] + values[1]) / 2.0)));
}

#[test]
fn what_is_hard_is_told_by_what_the_pictures_show() {
    let mut record = sample(&[1, 2], 12, STEPS);
    assert!(Report::of(&record).unwrap().by_factor.is_empty());
    let glasses = |i: usize| i.is_multiple_of(2);
    // Glasses cost 3 dB.
    for score in record.scores.iter_mut().filter(|s| s.set == "real" && s.metric == "psnr@64") {
        if glasses(score.image.parse().unwrap()) {
            score.value -= 3.0;
        }
    }
    for image in record.images.iter_mut().filter(|i| i.set == "real" && i.id == "0003") {
        image.unseen = vec!["Hat".into()];
    }
    let factors = |set: &str, data: &str, origin, names: [&str; 2], classes: Vec<u32>| Factors {
        set: set.into(),
        data: data.into(),
        origin,
        names: names.map(str::to_string).to_vec(),
        values: (0..12).map(|i| vec![if glasses(i) { 1.0 } else { -1.0 }, 0.0]).collect(),
        classes,
    };
    record.factors = vec![
        factors("real", "mini/faces", Origin::Known, ["glasses", "yaw"], vec![]),
        factors("synthesized", "mini/objects", Origin::Read, ["scale", "x"], (0..12).map(|i| i % 3).collect()),
    ];
    let report = Report::of(&record).unwrap();
    let [synthesized, real] = &report.by_factor[..] else { panic!("{:?}", report.by_factor) };
    assert_eq!((real.set.as_str(), real.metric.as_str()), ("real", "psnr@64"));
    // No head is turned, so that there is no such row; one picture alone has no interval.
    assert_eq!(real.rows.len(), 2, "{:?}", real.rows);
    let row = |what: &str| real.rows.iter().find(|r| r.what.starts_with(what)).unwrap();
    assert_eq!((row("an accessory").images, row("an accessory").difference.as_str()), (1, ""));
    let glasses = row("glasses");
    let number = |text: &str| text.parse::<f64>().unwrap();
    assert_eq!(glasses.images, 6);
    assert!((number(&glasses.difference) - (number(&glasses.mean) - number(&glasses.rest))).abs() < 0.011, "{glasses:?}");
    assert!(
        number(&glasses.low) < number(&glasses.difference)
            && number(&glasses.difference) < number(&glasses.high)
            && number(&glasses.low) < -3.0
    );
    let gap = |place: usize| number(&real.rows[place].mean) - number(&real.rows[place].rest);
    assert!(gap(0) <= gap(1), "the greatest loss stands first: {real:?}");
    let named: Vec<&str> = synthesized.rows.iter().map(|r| r.what.as_str()).collect();
    for what in ["class cup", "class car", "class house", "large (scale above 1/3)", "small (scale below -1/3)"] {
        assert!(named.contains(&what), "{named:?}");
    }
    assert_eq!(named.len(), 5);
    let text = table::render(&report, "table.md", &Default::default()).unwrap();
    assert!(text.contains("## What is hard, real images") && text.contains("| glasses | 6 |"), "{text}");
    assert!(text.contains("what the judge of mini/objects reads off"), "{text}");
}

#[test]
fn distances_of_sets_stand_beside_their_floor() {
    let mut record = sample(&[1, 2], 4, STEPS);
    for (seed, shift) in [(1, 0.0), (2, 0.2)] {
        for (between, value) in [
            (Between::Floor, 0.1),
            (Between::GeneratedSource, 5.0),
            (Between::ReconstructedSource, 6.0 + shift),
            (Between::ReconstructedGenerated, 1.0 + shift),
        ] {
            record.frechet.push(Frechet {
                arm: "w".into(),
                seed,
                set: "synthesized".into(),
                between,
                data: "mini/faces".into(),
                features: "fd-mini/judge@64".into(),
                width: 128,
                images: 2000,
                value,
                error: Some(0.05),
            });
        }
    }
    let tables = Report::of(&record).unwrap().frechet;
    assert_eq!(tables.len(), 1);
    let row = &tables[0].rows[0];
    assert_eq!(row.cells, ["0.100 ± 0.050", "5.000 ± 0.050", "6.100 ± 0.050 (seeds ± 0.141)", "1.100 ± 0.050 (seeds ± 0.141)"]);
    assert!(tables[0].about.iter().any(|l| l.contains("2000 images are few for 128 features")), "{:?}", tables[0].about);
    record.frechet.iter_mut().for_each(|f| f.images = 24);
    assert!(Report::of(&record).unwrap().frechet[0].about.iter().any(|l| l.contains("covariances are singular")));
    for template in ["table.md", "table.tex", "report.html"] {
        let text = table::render(&Report::of(&record).unwrap(), template, &Default::default()).unwrap();
        assert!(text.contains("1.100") && text.contains("fd-mini"), "{text}");
    }
}
