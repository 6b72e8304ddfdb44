//! `mtv-bench score` as a user runs it: what it prints, what it keeps, and what it says about files that do not fit.

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use mtv_bench::images::Rgb8;
use mtv_bench::random::Stream;
use mtv_bench::record::store::sha256_hex;

use crate::sandbox::{Output, Sandbox};

fn picture(side: usize, seed: u64, noise: f32) -> Vec<u8> {
    let values = Stream::new(seed, "score/noise").normal(3 * side * side, &Device::Cpu).unwrap().to_vec1::<f32>().unwrap();
    let at = |i: usize, v: f32| 50.0 + 8.0 * seed as f32 + 2.0 * noise + (i / 3 % side) as f32 + 2.0 * (i / (3 * side)) as f32 + noise * v;
    let data = values.iter().enumerate().map(|(i, v)| at(i, *v).clamp(0.0, 255.0) as u8).collect();
    Rgb8::new(side, side, data).unwrap().to_png().unwrap()
}

/// Two folders of `n` pictures; number 0 is the same in both.
fn sets(n: u64) -> Sandbox {
    let sandbox = Sandbox::new();
    for i in 0..n {
        sandbox.write(&format!("a/{i}.png"), picture(40, i, 0.0));
        sandbox.write(&format!("b/{i}.png"), picture(40, i, 5.0 * i as f32));
    }
    sandbox
}

#[track_caller]
fn holds(output: &Output, code: i32, stdout: &[&str], stderr: &[&str]) {
    assert_eq!(output.code, Some(code), "{output:?}");
    stdout.iter().for_each(|part| assert!(output.stdout.contains(part), "{part:?} is not in {output:?}"));
    stderr.iter().for_each(|part| assert!(output.stderr.contains(part), "{part:?} is not in {output:?}"));
    assert_eq!(output.stderr.matches("error:").count(), usize::from(code != 0), "{output:?}");
}

#[test]
fn one_row_per_pair_name_first_whatever_the_threads_and_the_cache() {
    let sandbox = sets(5);
    let args = |threads: &'static str| ["--quiet", "--threads", threads, "score", "a", "b", "--format", "csv"];
    let first = sandbox.run(&args("1"));
    holds(
        &first,
        0,
        &["name,psnr@native,ssim-uniform7@native,ssim-gauss-wang@native,mse@native,cosine@native,error\n0,inf,1,1,0,1,\n1,"],
        &[],
    );
    assert_eq!(first.stdout.lines().count(), 6);
    let again = sandbox.run(&args("2"));
    assert_eq!(first.stdout, again.stdout, "from the cache");
    holds(&sandbox.run(&["--quiet", "score", "a", "b"]), 0, &["5 of 5 pairs were taken from the cache", "not of another training"], &[]);
    let fresh = sandbox.run(&[&args("2")[..], &["--no-cache"]].concat());
    assert_eq!(first.stdout, fresh.stdout, "computed again");
    // Another file under the same name is another pair.
    sandbox.write("b/0.png", picture(40, 0, 9.0));
    let changed = sandbox.run(&args("1"));
    assert!(!changed.stdout.contains("0,inf") && changed.stdout.lines().nth(2) == first.stdout.lines().nth(2));
    sandbox.write("list.csv", "name,a,b\none,a/1.png,b/1.png\n");
    let listed = sandbox.run(&["--quiet", "score", "--pairs", "list.csv", "--format", "csv"]);
    let scores = |line: Option<&str>| line.and_then(|l| l.split_once(',')).map(|(_, rest)| rest.to_string());
    assert_eq!(scores(listed.stdout.lines().nth(1)), scores(first.stdout.lines().nth(2)));
}

#[test]
fn nothing_is_left_out_in_silence() {
    let sandbox = sets(3);
    sandbox.write("a/alone.png", picture(40, 7, 0.0));
    let run = |more: &[&str]| sandbox.run(&[&["--quiet", "score", "a", "b"], more].concat());
    holds(&run(&[]), 9, &["psnr@native"], &["only in the first set (1): alone", "1 picture without a partner"]);
    holds(&run(&["--allow-unmatched"]), 0, &["psnr@native"], &["only in the first set (1): alone"]);
    sandbox.write("b/1.png", "<html>");
    sandbox.write("b/notes.txt", "x");
    let broken = run(&["--json", "all.json"]);
    holds(&broken, 5, &[], &["not scored: 1: b/1.png: an HTML page", "1 file left alone", "error: 1 pair or picture could not be scored"]);
    let all: serde_json::Value = serde_json::from_slice(&std::fs::read(sandbox.path("all.json")).unwrap()).unwrap();
    assert_eq!((all["unmatched"]["a"][0].as_str(), all["summary"][0]["n"].as_u64()), (Some("alone"), Some(2)));
    assert!(all["pairs"][0]["infinite"] == true && all["pairs"][0]["scores"]["psnr@native"].is_null());
    assert!(all["pairs"][1]["error"].as_str().unwrap().contains("HTML"));
    sandbox.write("b/2.png", picture(41, 2, 0.0));
    holds(&run(&["--metrics", "mse"]), 5, &[], &["not scored: 2: mse@native: the images differ in size", "2 pairs or pictures could not"]);
    holds(
        &run(&["--metrics", "fid"]),
        2,
        &[],
        &["fid is several measures with different values: choose fid-pytorch@299, fid-fidelity@299"],
    );
    holds(&run(&["--metrics", "ssim"]), 2, &[], &["choose ssim-uniform7, ssim-gauss-wang, ssim-gauss-sample, ssim-training"]);
    holds(&run(&["--metrics", "fid-clean"]), 4, &[], &["inception_fid", "weights fetch inception_fid"]);
}

/// A network of Inception's topology with two channels everywhere, as its card names it.
fn small_inception(sandbox: &Sandbox) {
    let mut tensors = HashMap::new();
    let mut conv = |name: &str, input: usize, (kh, kw): (usize, usize)| {
        let draw = |what: &str, shape: &[usize]| {
            let n = shape.iter().product::<usize>();
            Stream::new(3, &format!("{name}.{what}")).normal(n, &Device::Cpu).unwrap().reshape(shape).unwrap()
        };
        // Means of the inputs with positive weights: no channel of so few dies, and brighter pictures have larger features.
        let gain = if input == 3 { 12.0 } else { 1.25 };
        let weight = draw("w", &[2, input, kh, kw]).abs().unwrap().affine(gain / (input * kh * kw) as f64, 0.0).unwrap();
        tensors.insert(format!("{name}.conv.weight"), weight);
        for (key, value) in [("weight", 1.0f32), ("bias", 0.1), ("running_mean", 0.0), ("running_var", 1.0)] {
            tensors.insert(format!("{name}.bn.{key}"), Tensor::full(value, 2, &Device::Cpu).unwrap());
        }
    };
    let (one, three) = ((1, 1), (3, 3));
    conv("Conv2d_1a_3x3", 3, three);
    for (name, kernel) in [("Conv2d_2a_3x3", three), ("Conv2d_2b_3x3", three), ("Conv2d_3b_1x1", one), ("Conv2d_4a_3x3", three)] {
        conv(name, 2, kernel);
    }
    let mut input = 2;
    for block in ["5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"] {
        let (wide, tall) = ((1, 7), (7, 1));
        // Each branch starts at the block's input; what follows has two channels.
        let branches: &[&[(&str, (usize, usize))]] = match &block[..1] {
            "5" => &[
                &[("branch1x1", one)],
                &[("branch5x5_1", one), ("branch5x5_2", (5, 5))],
                &[("branch3x3dbl_1", one), ("branch3x3dbl_2", three), ("branch3x3dbl_3", three)],
                &[("branch_pool", one)],
            ],
            "6" if block == "6a" => {
                &[&[("branch3x3", three)], &[("branch3x3dbl_1", one), ("branch3x3dbl_2", three), ("branch3x3dbl_3", three)]]
            }
            "6" => &[
                &[("branch1x1", one)],
                &[("branch7x7_1", one), ("branch7x7_2", wide), ("branch7x7_3", tall)],
                &[
                    ("branch7x7dbl_1", one),
                    ("branch7x7dbl_2", tall),
                    ("branch7x7dbl_3", wide),
                    ("branch7x7dbl_4", tall),
                    ("branch7x7dbl_5", wide),
                ],
                &[("branch_pool", one)],
            ],
            _ if block == "7a" => &[
                &[("branch3x3_1", one), ("branch3x3_2", three)],
                &[("branch7x7x3_1", one), ("branch7x7x3_2", wide), ("branch7x7x3_3", tall), ("branch7x7x3_4", three)],
            ],
            _ => &[
                &[("branch1x1", one)],
                &[("branch3x3_1", one), ("branch3x3_2a", (1, 3)), ("branch3x3_2b", (3, 1))],
                &[("branch3x3dbl_1", one), ("branch3x3dbl_2", three), ("branch3x3dbl_3a", (1, 3)), ("branch3x3dbl_3b", (3, 1))],
                &[("branch_pool", one)],
            ],
        };
        for branch in branches {
            for (i, (name, kernel)) in branch.iter().enumerate() {
                conv(&format!("Mixed_{block}.{name}"), if i == 0 { input } else { 2 }, *kernel);
            }
        }
        input = match block {
            "6a" | "7a" => input + 4,
            "7b" | "7c" => 12,
            _ => 8,
        };
    }
    let normal = |n: usize| Stream::new(4, "fc").normal(n, &Device::Cpu).unwrap();
    tensors.insert("fc.weight".into(), normal(3 * input).reshape((3, input)).unwrap());
    tensors.insert("fc.bias".into(), normal(3));
    sandbox.write("baselines/inception_fid.safetensors", "");
    let path = sandbox.path("baselines/inception_fid.safetensors");
    candle_core::safetensors::save(&tensors, &path).unwrap();
    let sha = sha256_hex(&std::fs::read(path).unwrap());
    sandbox.write(
        "baselines/inception_fid.toml",
        format!(
            "name = \"inception_fid\"\nkind = \"metric_network\"\ntitle = \"t\"\nsha256 = \"{sha}\"\nresolution = 299\n[source.embedded]\n\
             file = \"inception_fid.safetensors\"\n[network]\nfamily = \"inception\"\nlayout = \"pytorch_fid\"\n[licence]\nname = \"MIT\"\n"
        ),
    );
}

#[test]
fn distances_of_sets_print_their_count_warn_and_reuse_saved_features() {
    let sandbox = sets(5);
    small_inception(&sandbox);
    let run = |metrics: &str| sandbox.run(&["--quiet", "score", "a", "b", "--metrics", metrics]);
    let values = |output: &Output| {
        let lines = output.stdout.lines().filter(|l| l.contains("@299"));
        lines.map(|l| l.split([':', '(']).nth(1).unwrap().trim().to_string()).collect::<Vec<_>>()
    };
    let all = "fid-pytorch,fid-fidelity,fid-clean,kid-pytorch,kid-fidelity,kid-clean";
    let first = run(all);
    holds(
        &first,
        0,
        &[
            "(5 and 5 pictures)",
            "warning: 5 pictures for 12 features: the covariance is singular",
            "KID is unbiased but its error is large",
        ],
        &[],
    );
    let found = values(&first);
    assert_eq!(found.len(), 6);
    assert!(found[0] != found[1] && found[1] != found[2] && found[3] != found[5], "the preprocessings differ: {found:?}");
    let second = run(all);
    assert_eq!(second.stdout.matches("saved features").count(), 6, "{}", second.stdout);
    assert_eq!(values(&second), found);
    // A changed picture is a changed set; the other set's features stay.
    sandbox.write("b/3.png", picture(40, 3, 90.0));
    let third = run("fid-pytorch");
    assert!(!third.stdout.contains("saved features") && values(&third)[0] != found[0], "{}", third.stdout);
    assert_eq!(std::fs::read_dir(sandbox.path("results/cache/features")).unwrap().count(), 7);
    // A picture that can't be read is named, in the next run as well.
    sandbox.write("b/3.png", "no picture");
    for _ in 0..2 {
        holds(&run("kid-clean"), 5, &["(5 and 4 pictures)"], &["not scored: 3: b/3.png: not a picture"]);
    }
}
