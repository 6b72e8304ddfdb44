//! A folder of its own in which the `mtv-bench` binary is run as a user runs it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use mtv_bench::record::Record;

/// A temporary current folder; gone when dropped.
pub struct Sandbox {
    folder: tempfile::TempDir,
}

/// What a command left.
#[derive(Debug, PartialEq)]
pub struct Output {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Sandbox {
    pub fn new() -> Self {
        Sandbox { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// Writes a file, with its folders.
    pub fn write(&self, file: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(file);
        std::fs::create_dir_all(path.parent().expect("a file has a folder")).expect("creating folders");
        std::fs::write(path, bytes).expect("writing a file");
    }

    /// The command, with no terminal and none of the environment's own settings.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mtv-bench"));
        command.args(args).current_dir(self.folder.path()).stdin(Stdio::null());
        for name in ["RUST_BACKTRACE", "RAYON_NUM_THREADS", "MTV_PARITY_DIR"] {
            command.env_remove(name);
        }
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        finish(self.command(args))
    }

    /// Starts the command and leaves it running, silent.
    pub fn start(&self, args: &[&str]) -> Child {
        self.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starting mtv-bench")
    }

    /// The record of a run below `out`.
    pub fn record(&self, out: &str, run: &str) -> Record {
        let path = self.path(out).join("runs").join(run).join("record.json");
        read_record(&path)
    }
}

pub fn read_record(path: &Path) -> Record {
    let text = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Runs a command to its end.
pub fn finish(mut command: Command) -> Output {
    let output = command.output().expect("starting mtv-bench");
    Output {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A small valid study: one arm on the tiny networks. The tests break it.
pub const STUDY: &str = r#"name = "small"
version = 1
title = "A small study"
paper = "none"

[cost]
tiny = "seconds"

[networks]
generator = "stylegan1_ffhq_1024"

[recipe]
case = 2
attention = { views = "none" }

[[arms]]
name = "w"
label = "w"
latents = "w"

[[arms]]
name = "w_zn"
label = "w + z_n"
latents = "w+zn"

[evaluate]
sets = ["synthesized"]
metrics = ["psnr", "lpips"]

[report]
curves = ["psnr"]
figure_images = 2
"#;
