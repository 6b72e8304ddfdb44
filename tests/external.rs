//! Methods outside the program: the Python example gets a row, and what goes wrong with a command ends in one message.

use mtv_bench::record::Record;

use crate::sandbox::{Output, Sandbox};

/// A study of one external arm, `method` being its table.
fn study(sandbox: &Sandbox, name: &str, method: &str) {
    let text = format!(
        r#"name = "{name}"
version = 1
title = "A method from outside"
paper = "none"

[cost]
tiny = "seconds"

[networks]
generator = "stylegan1_ffhq_1024"

[[arms]]
name = "outside"
label = "outside"
method = {{ external = {method} }}

[evaluate]
sets = ["synthesized", "real"]
metrics = ["psnr", "lpips"]

[report]
curves = ["psnr"]
figure_images = 2
"#
    );
    sandbox.write(&format!("{name}.toml"), text);
}

fn run(sandbox: &Sandbox, name: &str, more: &[&str]) -> Output {
    sandbox.run(&[&["run", &format!("{name}.toml"), "--profile", "tiny", "--quiet"], more].concat())
}

fn refused(output: &Output, code: i32, parts: &[&str]) {
    assert_eq!(output.code, Some(code), "{}\n{}", output.stdout, output.stderr);
    for part in parts {
        assert!(output.stderr.contains(part), "\"{part}\" is not in: {}", output.stderr);
    }
}

/// The PSNR of every image of the arm.
fn psnr(record: &Record) -> Vec<f64> {
    record.scores.iter().filter(|s| s.arm == "outside" && s.metric == "psnr@16").map(|s| s.value).collect()
}

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/external_method.py");

#[test]
fn the_python_example_gets_a_row_and_runs_only_where_it_may() {
    let python = std::process::Command::new("python3").arg("--version").output();
    assert!(python.is_ok_and(|o| o.status.success()), "python3 is not on this machine; scripts/install-deps.sh installs it");
    let sandbox = Sandbox::new();
    study(&sandbox, "python", &format!(r#"{{ command = ["python3", "{SCRIPT}", "{{input}}", "{{output}}"] }}"#));
    let plan = sandbox.run(&["plan", "python.toml", "--profile", "tiny"]);
    assert!(plan.stdout.contains("evaluate outside, seed 1: runs `python3") && plan.stdout.contains("--allow-commands"), "{}", plan.stdout);
    refused(&run(&sandbox, "python", &[]), 2, &["evaluate outside", SCRIPT, "give --allow-commands if you trust it"]);
    let done = run(&sandbox, "python", &["--allow-commands"]);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let scores = psnr(&sandbox.record("results", "python.tiny"));
    // 8 x 8 squares of 16 px pictures: neither identical nor noise.
    assert!(scores.len() == 16 && scores.iter().all(|p| *p > 8.0 && *p < 60.0), "{scores:?}");
    assert!(done.stdout.contains("outside"), "{}", done.stdout);
    // What is cached needs no permission; a changed script is another method.
    let again = sandbox.run(&["run", "python.toml", "--profile", "tiny"]);
    assert!(again.code == Some(0) && again.stderr.contains("nothing to do"), "{}", again.stderr);
}

#[test]
fn a_folder_of_reconstructions_is_a_method() {
    let sandbox = Sandbox::new();
    // A command that keeps its input, and reconstructs perfectly.
    sandbox.write("keep.sh", "mkdir -p kept && cp -r \"$1\" kept/$3 && cp \"$1\"/* \"$2\"\n");
    study(&sandbox, "keep", r#"{ command = ["sh", "keep.sh", "{input}", "{output}", "{set}"] }"#);
    let done = run(&sandbox, "keep", &["--allow-commands"]);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(psnr(&sandbox.record("results", "keep.tiny")).iter().all(|p| p.is_infinite()));
    study(&sandbox, "folder", r#"{ folder = "kept/{set}" }"#);
    assert_eq!(run(&sandbox, "folder", &[]).code, Some(0));
    assert!(psnr(&sandbox.record("results", "folder.tiny")).iter().all(|p| p.is_infinite()));
    // Whatever does not pair is an error, by name.
    std::fs::rename(sandbox.path("kept/real/real00003.png"), sandbox.path("kept/real/other.png")).unwrap();
    refused(&run(&sandbox, "folder", &[]), 9, &["kept/real", "no reconstruction of real00003"]);
    std::fs::copy(sandbox.path("kept/real/other.png"), sandbox.path("kept/real/real00003.png")).unwrap();
    refused(&run(&sandbox, "folder", &[]), 9, &["reconstructions of no image of the set: other"]);
    std::fs::remove_file(sandbox.path("kept/real/other.png")).unwrap();
    sandbox.write("kept/real/real00003.png", b"no picture");
    refused(&run(&sandbox, "folder", &[]), 5, &["real00003.png"]);
    study(&sandbox, "gone", r#"{ folder = "nowhere" }"#);
    refused(&run(&sandbox, "gone", &[]), 4, &["the arm \"outside\"", "nowhere"]);
}

#[test]
fn a_command_that_fails_says_why() {
    let sandbox = Sandbox::new();
    let with = |name: &str, script: &str, more: &str| {
        sandbox.write(&format!("{name}.sh"), script);
        study(&sandbox, name, &format!(r#"{{ command = ["sh", "{name}.sh", "{{input}}", "{{output}}"]{more} }}"#));
        run(&sandbox, name, &["--allow-commands"])
    };
    refused(&with("fails", "echo out of memory >&2; exit 3", ""), 10, &["evaluate outside", "ended with exit code 3", "out of memory"]);
    refused(&with("sleeps", "exec sleep 60", ", timeout_seconds = 0.2"), 10, &["stopped after 0.2 s"]);
    refused(&with("idle", "exit 0", ""), 9, &["no reconstruction in it"]);
    let small = "for f in \"$1\"/*; do cp dot.png \"$2\"/$(basename $f); done";
    mtv_bench::images::Rgb8::new(2, 2, vec![0; 12]).unwrap().write_png(&sandbox.path("dot.png")).unwrap();
    refused(&with("small", small, ""), 9, &["is 2x2, the picture that it reconstructs 16x16"]);
    study(&sandbox, "absent", r#"{ command = ["no-such-program", "{input}", "{output}"] }"#);
    refused(&run(&sandbox, "absent", &["--allow-commands"]), 10, &["can't be started: no-such-program"]);
    study(&sandbox, "blind", r#"{ command = ["cp", "{input}"] }"#);
    refused(&run(&sandbox, "blind", &["--allow-commands"]), 2, &["blind.toml", "{output}"]);
    study(&sandbox, "both", r#"{ command = ["cp", "{input}", "{output}"], folder = "x" }"#);
    refused(&run(&sandbox, "both", &["--allow-commands"]), 2, &["not both"]);
}
