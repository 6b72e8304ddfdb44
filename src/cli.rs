//! The command line: what may be typed, and how an error leaves the program.

use std::process::ExitCode;
use std::sync::LazyLock;

use clap::{Parser, Subcommand};

use crate::commands::{self, check, claims, gpu_check, images, invert, lint_table, list, plan, run, score, weights, zoo};
use crate::{Error, Result};

/// Reproduces the study of MTV-TSA, "Adaptable GAN Encoders for Image Reconstruction via Multi-type Latent Vectors with
/// Two-scale Attentions".
///
/// Exit codes: 0 done, 1 fault of the program, 2 wrong command line or study, 3 regression, 4 missing weights, 5 corrupt
/// file, 6 disk, memory or device, 7 training diverged, 8 another process is at it, 9 not comparable, 10 a study's command failed.
#[derive(Parser)]
#[command(name = "mtv-bench", version, long_version = LONG_VERSION.as_str(), about, max_term_width = 110)]
pub struct Cli {
    /// No progress on stderr.
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// Processor threads; all cores by default. Results do not depend on it.
    #[arg(long, global = true, value_name = "N")]
    pub threads: Option<std::num::NonZeroUsize>,
    #[command(subcommand)]
    pub command: Command,
}

static LONG_VERSION: LazyLock<String> = LazyLock::new(|| {
    let changed = if env!("MTV_BENCH_DIRTY") == "true" { ", changed" } else { "" };
    format!("{}\ncommit {}{changed}\nbuilt for {}", env!("CARGO_PKG_VERSION"), env!("MTV_BENCH_COMMIT"), crate::machine::built_for())
});

#[derive(Subcommand)]
pub enum Command {
    /// Run a study, or go on with an interrupted run.
    Run(run::Args),
    /// Show what `run` would do, what is cached and why, and what it would cost.
    Plan(plan::Args),
    /// List the studies.
    List(list::Args),
    /// Compare a record with the committed golden scores.
    Check(check::Args),
    /// Set what the paper says in its text beside the records that test it.
    Claims(claims::Args),
    /// Look for mistakes in a table of published numbers.
    LintTable(lint_table::Args),
    /// Score a folder of reconstructions against a folder of originals.
    Score(score::Args),
    /// Fetch, verify and show pretrained weights.
    Weights(weights::Args),
    /// Reconstruct and edit pictures of your own.
    Invert(invert::Args),
    /// List, align or export sets of pictures.
    Images(images::Args),
    /// Train the mini networks, or draw their pictures.
    Zoo(zoo::Args),
    /// Show the layers of a network.
    Arch(commands::arch::Args),
    /// Compare a CUDA device with the CPU and measure training steps on it (see scripts/gpu-check).
    #[command(hide = true)]
    GpuCheck(gpu_check::Args),
}

fn dispatch(cli: Cli) -> Result<()> {
    let quiet = cli.quiet;
    match cli.command {
        Command::Run(args) => run::run(args, quiet),
        Command::Plan(args) => plan::run(args),
        Command::List(args) => list::run(args),
        Command::Check(args) => check::run(args),
        Command::Claims(args) => claims::run(args),
        Command::LintTable(args) => lint_table::run(args),
        Command::Weights(args) => weights::run(args, quiet),
        Command::Score(args) => score::run(args, quiet),
        Command::Invert(args) => invert::run(args, quiet),
        Command::Images(args) => images::run(args),
        Command::Zoo(args) => zoo::run(args),
        Command::Arch(args) => commands::arch::run(args),
        Command::GpuCheck(args) => gpu_check::run(args),
    }
}

/// candle frees a computation graph by recursion, which overflows the usual 8 MB stack.
const STACK_BYTES: usize = 256 << 20;

/// Parses the command line, runs the command, prints an error as one message and returns its exit code.
pub fn main() -> ExitCode {
    quiet_pipe();
    let cli = Cli::parse();
    if let Some(n) = cli.threads {
        // SAFETY: no other thread exists yet. rayon and candle both read this variable.
        unsafe { std::env::set_var("RAYON_NUM_THREADS", n.to_string()) }
    }
    crate::ops::one_pool();
    std::panic::set_hook(Box::new(|_| {}));
    let worker = std::thread::Builder::new().name("mtv-bench".into()).stack_size(STACK_BYTES).spawn(move || dispatch(cli));
    let result = match worker {
        Ok(thread) => thread.join().unwrap_or_else(|panic| Err(panicked(&*panic))),
        Err(e) => Err(Error::resource(format!("starting the main thread: {e}"))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.kind.exit_code())
        }
    }
}

fn panicked(payload: &(dyn std::any::Any + Send)) -> Error {
    let text = payload.downcast_ref::<String>().map(String::as_str).or(payload.downcast_ref::<&str>().copied()).unwrap_or("unknown");
    Error::internal(format!("this is a fault of mtv-bench, please report it with the command: {text}"))
}

/// A closed pipe (`mtv-bench list | head -1`) ends the program quietly, as it ends other tools.
fn quiet_pipe() {
    #[cfg(unix)]
    // SAFETY: called once before any thread starts; sets a signal's default action.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}
