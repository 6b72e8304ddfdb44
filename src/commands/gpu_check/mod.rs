//! `mtv-bench gpu-check`: compares a CUDA device with the CPU, operation by operation and over whole training steps, looks whether it gives
//! the same bits twice, and measures the time and memory of training steps. For `scripts/gpu-check`, on a machine that needs no Rust.

pub mod cases;
pub mod step;

use std::path::PathBuf;

use serde::Serialize;

use crate::error::Kind;
use crate::machine;
use crate::record::store::write_atomic;
use crate::{Error, Result};
use cases::{Outcome, difference, identical};
use step::{Cell, Timing};

#[derive(clap::Args)]
pub struct Args {
    /// "cuda:N", or "cpu" to try the command itself.
    #[arg(long, default_value = "cuda:0")]
    device: String,
    /// "f32" or "tf32".
    #[arg(long, default_value = "f32")]
    precision: String,
    /// Narrow networks instead of the paper's.
    #[arg(long)]
    narrow: bool,
    /// Steps to measure; 0 compares only.
    #[arg(long, default_value_t = 20)]
    steps: usize,
    /// File for the result, JSON.
    #[arg(long)]
    out: Option<PathBuf>,
}

/// The largest difference that counts as rounding, relative to the largest value of a tensor: sums of a few thousand products in another
/// order (f32), or of products rounded to 10 bits (tf32). A step's gradient has passed some dozen layers.
#[derive(Serialize, Clone, Copy)]
struct Limits {
    operation: f64,
    step: f64,
}

impl Limits {
    fn of(precision: &str) -> Self {
        match precision {
            "f32" => Limits { operation: 2e-5, step: 2e-3 },
            _ => Limits { operation: 5e-3, step: 1e-1 },
        }
    }
}

/// A comparison of the device with the CPU, and of the device with itself.
#[derive(Serialize)]
struct Compared {
    name: String,
    difference: f64,
    repeatable: bool,
    good: bool,
}

#[derive(Serialize)]
struct Outcomes {
    version: &'static str,
    git_commit: &'static str,
    git_dirty: bool,
    date: String,
    device: String,
    precision: &'static str,
    cpu: String,
    limits: Limits,
    operations: Vec<Compared>,
    steps: Vec<Compared>,
    timings: Vec<Timing>,
}

fn compare(name: &str, limit: f64, cpu: &Outcome, mut device: impl FnMut() -> Result<Outcome>) -> Result<Compared> {
    let (first, second) = (device()?, device()?);
    let (difference, repeatable) = (difference(&first, cpu)?, identical(&first, &second)?);
    let good = difference <= limit && repeatable;
    eprintln!(
        "{} {name}: {difference:.1e}{}",
        if good { "ok  " } else { "BAD " },
        if repeatable { "" } else { ", other bits the second time" }
    );
    Ok(Compared { name: name.into(), difference, repeatable, good })
}

/// Errors: no such device, a file that can't be written; `Regression` if a comparison is not within its limit.
pub fn run(args: Args) -> Result<()> {
    let device = machine::device(&args.device)?;
    machine::set_precision(&args.precision, &device)?;
    let limits = Limits::of(machine::precision());
    let cpu = &candle_core::Device::Cpu;
    let mut operations = Vec::new();
    for case in cases::all()? {
        operations.push(compare(&case.name, limits.operation, &case.outcome(cpu)?, || Ok(case.outcome(&device)?))?);
    }
    let mut steps = Vec::new();
    for cell in Cell::compared() {
        let expected = cell.with(cpu, |step| step.gradients())?;
        // Built anew: weights, images and noise are made on the device as well.
        steps.push(compare(&format!("step, {}", cell.name()), limits.step, &expected, || cell.with(&device, |step| step.gradients()))?);
    }
    let mut timings = Vec::new();
    for cell in Cell::timed(args.narrow).iter().filter(|_| args.steps > 0) {
        let timing = cell.with(&device, |step| step.time(args.steps))?;
        eprintln!("{}: {:.1} ms a step, {:.2} GB", timing.cell, timing.median_ms, timing.peak_bytes as f64 / 1e9);
        timings.push(timing);
    }
    let bad = operations.iter().chain(&steps).filter(|c| !c.good).count();
    let outcomes = Outcomes {
        version: env!("CARGO_PKG_VERSION"),
        git_commit: env!("MTV_BENCH_COMMIT"),
        git_dirty: env!("MTV_BENCH_DIRTY") == "true",
        date: machine::date(),
        device: machine::describe(&device),
        precision: machine::precision(),
        cpu: machine::cpu(),
        limits,
        operations,
        steps,
        timings,
    };
    let text = serde_json::to_string_pretty(&outcomes).map_err(|e| Error::internal(e.to_string()))? + "\n";
    match &args.out {
        Some(path) => write_atomic(path, text.as_bytes())?,
        None => print!("{text}"),
    }
    match bad {
        0 => Ok(()),
        n => Err(Error { kind: Kind::Regression, message: format!("{n} comparisons with the CPU are not within their limits") }),
    }
}
