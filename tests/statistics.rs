//! Statistics beyond the fixtures (those stand in parity): what must hold for any data, and the linter of tables.

use std::path::{Path, PathBuf};

use mtv_bench::commands::lint_table;
use mtv_bench::random::Stream;
use mtv_bench::record::stats::{self, Alternative, Bootstrap, Mode, Zeros, components, resamples, wilcoxon};
use mtv_bench::record::summary::Grid;
use mtv_bench::report::lint::{Finding, Peak, Severity, lint};

fn normals(index: u64, n: usize) -> Vec<f64> {
    let mut out = vec![0f32; n];
    Stream::new(3, "statistics").fill_normal(index, &mut out);
    out.into_iter().map(f64::from).collect()
}

#[test]
fn bca_intervals_cover_the_mean() {
    let index = resamples(&Stream::new(0, "coverage"), 40, 600);
    let covered = (0..300).filter(|&i| Bootstrap::of_mean(&normals(i, 40), &index).interval95().contains(0.0)).count();
    assert!((0.90..0.98).contains(&(covered as f64 / 300.0)), "{covered} of 300");
}

#[test]
fn welch_covers_the_difference_of_unlike_groups() {
    let (a, b) = ([1.0, 2.0, 3.0, 4.0, 5.0], [2.0, 4.0, 6.0, 8.0, 10.0]);
    let interval = stats::welch(&a, &b);
    // Six and a quarter over one and a sixteenth degrees of freedom: t = 2.459, times the root of 2.5.
    assert!((interval.low + 6.888).abs() < 2e-3 && (interval.high - 0.888).abs() < 2e-3, "{interval:?}");
    let group = |i: u64, n: usize, sd: f64| normals(5000 + i, n).into_iter().map(|v| sd * v).collect::<Vec<_>>();
    let covered = (0..300).filter(|&i| stats::welch(&group(2 * i, 8, 3.0), &group(2 * i + 1, 60, 1.0)).contains(0.0)).count();
    assert!((0.91..0.98).contains(&(covered as f64 / 300.0)), "{covered} of 300");
}

#[test]
fn resamples_are_uniform_and_repeatable() {
    let stream = Stream::new(5, "resamples");
    let drawn = resamples(&stream, 10, 2000);
    assert_eq!(drawn[7], resamples(&stream, 10, 8)[7], "a resample does not depend on how many are drawn");
    for item in 0..10 {
        let count = drawn.iter().flatten().filter(|&&i| i == item).count();
        assert!((1800..2200).contains(&count), "item {item} was drawn {count} times in 20000");
    }
}

#[test]
fn components_find_what_was_put_in() {
    // 40 seeds and 60 images, sd 0.5 between seeds, 2 between images, 0.3 of the rest.
    let (seeds, images) = (normals(900, 40), normals(901, 60));
    let scores: Vec<Vec<f64>> = (0..40)
        .map(|s| (0..60).zip(normals(1000 + s as u64, 60)).map(|(i, e)| 20.0 + 0.5 * seeds[s] + 2.0 * images[i] + 0.3 * e).collect())
        .collect();
    let c = components(&scores).unwrap();
    let near = |variance: f64, put: f64| (variance.sqrt() / put - 1.0).abs() < 0.25;
    assert!(near(c.seed, 0.5) && near(c.image, 2.0) && near(c.residual, 0.3), "{c:?}");
    assert!(components(&scores[..1]).is_none());
}

#[test]
fn the_signed_rank_test_is_symmetric_and_exact_for_ties_in_few_pairs() {
    let d: Vec<f64> = normals(5, 30).iter().map(|v| v + 0.3).collect();
    let flipped: Vec<f64> = d.iter().map(|v| -v).collect();
    for zeros in [Zeros::Drop, Zeros::Pratt, Zeros::Split] {
        let greater = wilcoxon(&d, zeros, Alternative::Greater, Mode::Auto).p;
        assert!((greater - wilcoxon(&flipped, zeros, Alternative::Less, Mode::Auto).p).abs() < 1e-14);
    }
    // Ties of 1, 1, 2, -2 have the ranks 1.5, 1.5, 3.5, 3.5 and the positive rank sum 6.5. Of the 16 sign patterns 10, 8.5 (two),
    // 7 and 6.5 (two) reach it.
    let tied = wilcoxon(&[1.0, 1.0, 2.0, -2.0], Zeros::Drop, Alternative::Greater, Mode::Auto);
    assert_eq!((tied.statistic, tied.p), (6.5, 6.0 / 16.0));
}

#[test]
fn one_training_says_nothing_of_another_and_two_do() {
    let grid = |seeds: usize| Grid {
        seeds: (1..=seeds as u64).collect(),
        values: (0..seeds).map(|s| normals(70, 50).iter().map(|v| 20.0 + v * 0.1 + s as f64).collect()).collect(),
    };
    let (one, three) = (grid(1).summary(), grid(3).summary());
    let width = |s: &mtv_bench::record::summary::Summary| s.interval.map(|i| i.high - i.low).unwrap();
    assert!(one.components.is_none() && width(&one) < 0.1);
    assert!(width(&three) > 0.8, "seeds that differ by 1 dB must widen the interval");
    assert!((three.components.unwrap().seed.sqrt() - 1.0).abs() < 0.05);
    let difference = grid(3).minus(&grid(1)).unwrap();
    assert_eq!(difference.seeds, [1, 2, 3], "a row without seeds is paired with every seed");
    assert!((stats::mean(&difference.by_image()) - 1.0).abs() < 1e-12);
}

fn linted(name: &str, text: &str, peak: Option<Peak>) -> Vec<Finding> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    lint_table::read(&path).unwrap().iter().flat_map(|t| lint(t, peak)).collect()
}

fn in_project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[test]
fn table_three_of_the_paper_is_possible() {
    let tables = lint_table::read(&in_project("paper/published.toml")).unwrap();
    assert_eq!(tables.iter().map(|t| t.rows.len()).sum::<usize>(), 10);
    for table in &tables {
        assert_eq!(lint(table, None), []);
        assert_eq!(lint(table, Some(Peak(255.0))), []);
    }
    // With the two columns of one row exchanged between sets it would be seen.
    let wrong = std::fs::read_to_string(in_project("paper/published.toml")).unwrap().replace("mse = 20.24", "mse = 1.24");
    let found = linted("wrong.toml", &wrong, None);
    assert!(found.len() == 1 && found[0].row.contains("ALAE") && found[0].severity == Severity::Impossible, "{found:?}");
}

#[test]
fn our_own_committed_tables_are_possible() {
    let files = std::fs::read_dir(in_project("paper/tables")).unwrap().map(|e| e.unwrap().path());
    let files: Vec<PathBuf> = files.filter(|p| p.to_string_lossy().ends_with(".standard.md")).collect();
    assert!(files.len() >= 6, "{files:?}");
    for file in files {
        let tables = lint_table::read(&file).unwrap_or_else(|e| panic!("{e}"));
        // "## Synthesized images (256)": a table for every set.
        let text = std::fs::read_to_string(&file).unwrap();
        let sets = text.lines().filter(|l| l.starts_with("## ") && l.contains(" images (")).count();
        assert!(sets > 0 && sets <= tables.len(), "{}: {sets} sets, {} tables", file.display(), tables.len());
        for set in &tables[..sets] {
            assert!(set.rows.len() > 2 && set.columns.iter().any(|c| c.head.starts_with("psnr@64")), "{}: {set:?}", file.display());
        }
        assert_eq!(tables.iter().flat_map(|t| lint(t, None)).collect::<Vec<_>>(), [], "{}", file.display());
    }
    // An arm that leaves a metric out is no column of it, and an arm's name may begin with a plus.
    let text = "| what | all | without SSIM |\n|:--|--:|--:|\n| hat | 18.10 | 18.11 |\n\n| arm | PSNR |\n|:--|--:|\n| + AT1 | 20.1 |\n";
    assert_eq!(linted("arms.md", text, None), []);
}

#[test]
fn the_rivals_published_row_is_not_possible() {
    for (name, text) in [
        ("rival.csv", "Method,PSNR,MSE,LPIPS\npSp,18.0348,0.0345,0.1591\n"),
        ("rival.md", "| Method | PSNR $\\uparrow$ | MSE $\\downarrow$ |\n|:--|--:|--:|\n| **pSp** | 18.03 | 0.0345 |\n"),
    ] {
        let found = linted(name, text, None);
        assert!(found.len() == 1 && found[0].severity == Severity::Impossible, "{found:?}");
        let message = &found[0].message;
        assert!(message.contains("20.64 dB, which can't be") && message.contains("3.01 dB less"), "{message}");
        assert_eq!(linted(name, text, Some(Peak(2.0))).len(), 1);
    }
    // The same row with the right peak is fine.
    assert_eq!(linted("right.csv", "Method,PSNR,MSE\npSp,21.05,0.0345\n", None), []);
}

#[test]
fn impossible_values_counts_and_mixed_protocols_are_found() {
    let one = |text: &str| {
        let found = linted("t.csv", text, None);
        assert_eq!(found.len(), 1, "{text}: {found:?}");
        (found[0].severity, found[0].message.clone())
    };
    for text in ["m,SSIM\na,1.02\n", "m,LPIPS\na,-0.1\n", "m,CS\na,-1.2\n", "m,FID\na,-3\n", "m,PSNR\na,nan\n"] {
        let (severity, message) = one(text);
        assert!(severity == Severity::Impossible && message.contains("outside"), "{message}");
    }
    assert!(one("m,PSNR,images\na,20,10.5\n").1.contains("not a whole number"));
    assert!(one("m,PSNR,images\na,20,100\nb,21,200\n").1.contains("mixed protocols"));
    assert!(one("m,psnr@64,ssim-uniform7@512\na,20,0.5\n").1.contains("mixed protocols: columns at 64 and at 512"));
    assert!(one("m,PSNR,MSE\na,inf,3.0\n").1.contains("the images are equal, but MSE is 3"));
    assert!(one("m,PSNR\na,95\n").0 == Severity::Doubtful);
    // 1.00 may be 1.004 rounded; sets may differ in size; a mean may lie a rounding below.
    assert_eq!(linted("t.csv", "m,set,SSIM,n\na,x,1.00,100\na,y,0.5,200\nIdentical,y,1.000,200\n", None), []);
    assert_eq!(linted("t.csv", "m,PSNR,MSE\na,20.12,632\nb,-,-\n", None), []);
    assert_eq!(linted("t.csv", "m,PSNR,MSE (e^2)\na,20.5,6.67\n", None), []);
}

#[test]
fn files_that_hold_no_table_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |name: &str, text: &str, code: u8, wanted: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        let error = lint_table::read(&path).unwrap_err();
        assert!(error.kind.exit_code() == code && error.message.contains(wanted), "{error}");
    };
    refused("a.csv", "x,y\n1,2\n", 2, "no column of scores among x, y");
    refused("b.csv", "m,PSNR\na,twenty\n", 2, "\"twenty\" is not a number");
    refused("c.md", "no table\n", 2, "no Markdown table");
    refused("d.toml", "a = 1\n", 2, "no [[table]]");
    refused("e.txt", "", 2, ".csv, .md or .toml");
    refused("f.csv", "m,PSNR\n", 2, "no row with a score");
    assert_eq!(lint_table::read(&folder.path().join("absent.csv")).unwrap_err().kind.exit_code(), 4);
}
