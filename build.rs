//! Tells the program which commit it was built from, and rebuilds it when an embedded file changes.

use std::process::Command;

fn git(args: &[&str]) -> Option<String> {
    let out = Command::new("git").args(args).output().ok().filter(|o| o.status.success())?;
    Some(String::from_utf8_lossy(&out.stdout).trim().to_string())
}

fn main() {
    for embedded in ["experiments", "baselines", "paper", "src", "Cargo.toml"] {
        println!("cargo:rerun-if-changed={embedded}");
    }
    // HEAD changes with the branch, the branch's own file with every commit.
    for name in [Some("HEAD".to_string()), git(&["symbolic-ref", "-q", "HEAD"])].into_iter().flatten() {
        if let Some(file) = git(&["rev-parse", "--git-path", &name]).filter(|f| std::path::Path::new(f).exists()) {
            println!("cargo:rerun-if-changed={file}");
        }
    }
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".into());
    // Results and local notes do not change the program; its sources, studies and weights do.
    let dirty =
        git(&["status", "--porcelain", "--untracked-files=no", "--", "src", "experiments", "baselines", "Cargo.toml", "Cargo.lock"]);
    println!("cargo:rustc-env=MTV_BENCH_COMMIT={commit}");
    println!("cargo:rustc-env=MTV_BENCH_DIRTY={}", dirty.is_some_and(|d| !d.is_empty()));
}
