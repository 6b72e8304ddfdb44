//! Tells the program which commit it was built from, rebuilds it when an embedded file changes, and compiles the CUDA kernels where a
//! feature asks for them.

use std::path::{Path, PathBuf};
use std::process::Command;

fn git(args: &[&str]) -> Option<String> {
    let out = Command::new("git").args(args).output().ok().filter(|o| o.status.success())?;
    Some(String::from_utf8_lossy(&out.stdout).trim().to_string())
}

const KERNELS: &str = "src/ops/cuda/kernels.cu";

fn feature(name: &str) -> bool {
    std::env::var_os(format!("CARGO_FEATURE_{name}")).is_some()
}

fn run(command: &mut Command) {
    match command.status() {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("{command:?}: {status}"),
        Err(e) => panic!("{command:?}: {e}; scripts/cuda-toolkit.sh fetches NVIDIA's compiler"),
    }
}

/// The kernels as PTX, which the driver compiles for its card.
fn kernels_for_cuda(out: &Path) {
    println!("cargo:rerun-if-env-changed=CUDA_COMPUTE_CAP");
    println!("cargo:rerun-if-env-changed=CUDA_HOME");
    let nvcc = std::env::var_os("CUDA_HOME").map(|home| PathBuf::from(home).join("bin/nvcc")).filter(|path| path.exists());
    let capability: String = std::env::var("CUDA_COMPUTE_CAP").unwrap_or_default().chars().filter(char::is_ascii_digit).collect();
    let capability = if capability.is_empty() { "80" } else { &capability };
    run(Command::new(nvcc.unwrap_or_else(|| "nvcc".into()))
        .args(["--ptx", "-O3", &format!("-arch=compute_{capability}"), KERNELS, "-o"])
        .arg(out.join("kernels.ptx")));
}

/// The same kernels for the CPU, with a table of their names.
fn kernels_for_tests(out: &Path) {
    // Flags of a sanitizer, say.
    println!("cargo:rerun-if-env-changed=MTV_EMULATOR_FLAGS");
    let source = std::fs::read_to_string(KERNELS).expect("the kernels");
    let names = source.lines().filter_map(|line| line.strip_prefix("KERNEL ")?.split('(').next());
    let table: String = names.map(|name| format!(" NAME({name})")).collect();
    std::fs::write(out.join("kernel_names.inc"), format!("#define KERNEL_NAMES{table}\n")).expect("a writable OUT_DIR");
    let flags = std::env::var("MTV_EMULATOR_FLAGS").unwrap_or_default();
    let (object, library) = (out.join("emulator.o"), out.join("libmtvemulator.a"));
    run(Command::new("g++")
        .args(["-std=c++17", "-O2", "-fPIC", "-Wall", "-Wextra", "-Werror"])
        .args(flags.split_whitespace())
        .arg("-I")
        .arg(out)
        .args(["-c", "src/ops/cuda/emulator.cpp", "-o"])
        .arg(&object));
    let _ = std::fs::remove_file(&library);
    run(Command::new("ar").arg("rcs").arg(&library).arg(&object));
    println!("cargo:rustc-link-search=native={}", out.display());
    println!("cargo:rustc-link-lib=static=mtvemulator");
    println!("cargo:rustc-link-lib=stdc++");
    if flags.contains("-fsanitize=address") {
        println!("cargo:rustc-link-lib=dylib=asan");
    }
}

fn main() {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    if feature("CUDA") {
        kernels_for_cuda(&out);
    }
    if feature("EMULATE_CUDA") {
        kernels_for_tests(&out);
    }
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
