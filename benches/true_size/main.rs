//! One training step at the paper's true sizes, with weights drawn from a seed: seconds, peak memory, finite losses.
//!
//! `cargo bench --bench true_size` measures every cell of the paper profile of `gan_reconstruction`, and PGGAN at 256 px, each in a process
//! of its own, and writes results/bench/true_size.md (`-- --out FILE` elsewhere; `-- CELL ...` measures some; `-- --device cuda:0`;
//! `-- --recompute true` with inner maps computed again in the backward pass). A cell whose estimated memory exceeds what the machine has
//! free is not started; its row says the estimated bytes.
//!
//! The step is the loop body of `stages::train`: sample, E(x), G(E(x)), losses, optimizer. The first step of a process is measured, with
//! everything that it allocates.

use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use mtv_bench::generators::Family;
use mtv_bench::images::Rgb8;
use mtv_bench::inverters::mtv::Config;
use mtv_bench::machine;
use mtv_bench::metrics::to_square;
use mtv_bench::objective::{self, Detach, Objective, Recipe, Which};
use mtv_bench::optim::Optimizer;
use mtv_bench::params::Params;
use mtv_bench::record::ImageInfo;
use mtv_bench::spec::{Card, Profile, Study};
use mtv_bench::stages::inversion::{Inversion, encoder_config};
use mtv_bench::stages::open;
use mtv_bench::stages::train::Streams;
use mtv_bench::{Error, Result};
use serde::{Deserialize, Serialize};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Maps of the size of a block's output that a step holds at its peak, for every block that the gradient passes: measured, rounded up.
/// The blocks of PGGAN and BigGAN add their shortcut at the higher resolution.
fn kept_maps(family: Family) -> u64 {
    match family {
        Family::Pggan => 33,
        Family::BigGan => 40,
        Family::StyleGan1 | Family::StyleGan2 => 24,
    }
}

/// Bytes per parameter of E: value, gradient and second moment.
const ENCODER_COPIES: u64 = 12;

/// A network of the paper at its size and batch.
#[derive(Clone)]
struct Cell {
    name: String,
    title: String,
    family: Family,
    resolution: usize,
    batch: usize,
    recipe: Recipe,
}

/// What a step was measured to take.
#[derive(Serialize, Deserialize)]
struct Measured {
    step_seconds: f64,
    /// Encoding, decoding and comparing one image as an evaluation does (LPIPS at 512 px).
    image_seconds: f64,
    loaded_bytes: u64,
    peak_bytes: u64,
    terms: usize,
    finite: bool,
}

fn main() {
    mtv_bench::ops::one_pool();
    if let Err(error) = run(std::env::args().skip(1).filter(|a| a != "--bench").collect()) {
        eprintln!("error: {}", error.message);
        std::process::exit(error.kind.exit_code().into());
    }
}

fn run(mut args: Vec<String>) -> Result<()> {
    let mut option = |name: &str| {
        let at = args.iter().position(|a| a == name)?;
        args.remove(at);
        (at < args.len()).then(|| args.remove(at))
    };
    let one = option("--one");
    let recompute = option("--recompute").is_some_and(|v| v == "true");
    let device = option("--device").unwrap_or_else(|| "cpu".into());
    let out = option("--out").unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/results/bench/true_size.md").into());
    let cells = cells()?;
    if let Some(name) = one {
        let cell = cells.iter().find(|c| c.name == name).ok_or_else(|| Error::usage(format!("no cell is called {name}")))?;
        println!(
            "{}",
            serde_json::to_string(&measure(cell, &machine::device(&device)?, recompute)?).map_err(|e| Error::internal(e.to_string()))?
        );
        return Ok(());
    }
    let mut rows = Vec::new();
    for cell in cells.iter().filter(|c| args.is_empty() || args.contains(&c.name)) {
        let (estimate, available) = (cell.estimate()?, machine::available_memory().unwrap_or(u64::MAX));
        eprintln!("{}: about {:.1} GB estimated, {:.1} GB available", cell.name, gb(estimate), gb(available));
        let result = if device == "cpu" && estimate > available { None } else { Some(child(cell, &device, recompute)?) };
        let row = cell.row(estimate, available, result.as_ref());
        eprintln!("{row}");
        if let Some(m) = &result {
            println!("{}", cell.cost(m));
        }
        rows.push(row);
        std::fs::write(&out, page(&rows, &device)).map_err(|e| Error::io(out.as_ref(), "writing", e))?;
    }
    Ok(())
}

/// The cells of the paper profile, and PGGAN at 256 px, so that all four families stand at one size.
fn cells() -> Result<Vec<Cell>> {
    let resolved = Study::load("gan_reconstruction")?.resolve(&Profile::load("paper")?, None)?;
    let mut cells: Vec<Cell> = Vec::new();
    for arm in &resolved.arms {
        // Two readings of one network cost the same.
        let same = |c: &Cell| arm.generator.as_ref().is_some_and(|g| g.card == c.name) && c.batch == arm.batch;
        if cells.iter().any(same) {
            continue;
        }
        let card = Card::load(arm.generator.as_ref().map_or(&resolved.networks.generator, |g| &g.card))?;
        let family = Family::ALL.into_iter().find(|f| card.network().is_ok_and(|n| n.family == f.name()));
        let (Some(family), Some(resolution)) = (family, card.resolution) else {
            return Err(Error::internal(format!("the card {} has no family or resolution", card.name)));
        };
        let (name, title, batch, recipe) = (card.name.clone(), arm.label.clone(), arm.batch, arm.recipe.clone());
        cells.push(Cell { name, title, family, resolution, batch, recipe });
    }
    if let Some(pggan) = cells.iter().find(|c| c.family == Family::Pggan).cloned() {
        let (name, title) = ("pggan_256".into(), "PGGAN (no cell of the paper profile)".into());
        cells.push(Cell { name, title, resolution: 256, batch: 8, ..pggan });
    }
    cells.sort_by_key(|c| c.resolution);
    Ok(cells)
}

impl Cell {
    fn case(&self) -> usize {
        if self.recipe.attention.detach == Detach::All { 1 } else { 2 }
    }

    /// The card of the paper's network with weights from a seed.
    fn card(&self) -> String {
        let shape = match self.family {
            Family::BigGan => {
                let mut widths = vec![2048];
                widths.extend(mtv_bench::generators::biggan::Config::paper(self.resolution).layers.iter().map(|l| l.2 * 128));
                format!("latent = 128\nclasses = 1000\nwidths = {widths:?}")
            }
            Family::StyleGan2 => "latent = 512\nfmaps_base = 32768\nfmaps_max = 512".to_string(),
            _ => "latent = 512\nfmaps_base = 16384\nfmaps_max = 512".to_string(),
        };
        format!(
            "name = \"true/g\"\nkind = \"generator\"\ntitle = \"t\"\nresolution = {}\n[source.seeded]\nseed = 1\n[network]\nfamily = \"{}\"\n{shape}\n\
             [licence]\nname = \"none\"\n",
            self.resolution,
            self.family.name()
        )
    }

    /// Bytes that a step is expected to need: parameters, and for every block that the gradient passes the maps that the graph keeps.
    fn estimate(&self) -> Result<u64> {
        let outline = Params::outline(DType::F32, &Device::Cpu);
        let generator = mtv_bench::generators::paper(self.family, self.resolution, &outline)?;
        let config = encoder_config(generator.as_ref(), &self.recipe)?;
        let p = Params::outline(DType::F32, &Device::Cpu);
        mtv_bench::inverters::mtv::Encoder::new(&config, &p)?;
        let count = |p: &Params| p.declared().iter().map(|d| d.shape.iter().product::<usize>() as u64).sum::<u64>();
        let mut maps = encoder_maps(&config);
        if self.case() == 2 {
            maps += generator.layout().channels.iter().map(|&(r, c)| (c * r * r) as u64).sum::<u64>();
        }
        Ok(count(&outline) * 4 + count(&p) * ENCODER_COPIES + self.batch as u64 * maps * 4 * kept_maps(self.family))
    }

    /// The entry of the paper profile from which `plan` prices a study.
    fn cost(&self, m: &Measured) -> String {
        format!(
            "{} = {{ train_seconds = {:.3}, evaluate_seconds = {:.2}, memory_fixed_mb = {:.0}.0, memory_per_image_mb = {:.0}.0 }}",
            self.name,
            m.step_seconds / self.batch as f64,
            m.image_seconds,
            m.loaded_bytes as f64 / 1e6,
            m.peak_bytes.saturating_sub(m.loaded_bytes) as f64 / 1e6 / self.batch as f64
        )
    }

    fn row(&self, estimate: u64, available: u64, result: Option<&Measured>) -> String {
        let head = format!(
            "| {} | {} | {} | {} | {} | {}",
            self.title,
            self.family.name(),
            self.resolution,
            self.batch,
            self.case(),
            gb2(estimate)
        );
        match result {
            Some(m) => format!(
                "{head} | {:.1} | {} | {} | {:.2} | {} |",
                m.step_seconds,
                gb2(m.peak_bytes),
                gb2(m.loaded_bytes),
                m.image_seconds,
                if m.finite { format!("yes, all {}", m.terms) } else { "**no**".into() }
            ),
            None => format!("{head} | not run: {} bytes estimated, {available} available | | | | |", estimate),
        }
    }
}

/// Values of one map of every block of E, for one image.
fn encoder_maps(config: &Config) -> u64 {
    let side = 2usize << config.blocks;
    (0..config.blocks).map(|i| (config.width(i) * (side >> i).pow(2)) as u64).sum()
}

fn gb(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}

fn gb2(bytes: u64) -> String {
    format!("{:.2}", gb(bytes))
}

fn child(cell: &Cell, device: &str, recompute: bool) -> Result<Measured> {
    let program = std::env::current_exe().map_err(|e| Error::internal(e.to_string()))?;
    let folder = tempfile::tempdir().map_err(|e| Error::internal(e.to_string()))?;
    let write = |file: &str, text: String| {
        let path = folder.path().join("baselines").join(file);
        std::fs::create_dir_all(path.parent().unwrap_or(&path))
            .and_then(|_| std::fs::write(&path, text))
            .map_err(|e| Error::io(&path, "writing", e))
    };
    write("true/g.toml", cell.card())?;
    write(
        "true/vgg16.toml",
        "name = \"true/vgg16\"\nkind = \"classifier\"\ntitle = \"t\"\n[source.seeded]\nseed = 2\n[network]\nfamily = \"vgg16\"\n\
         widths = [64, 128, 256, 512, 512]\nclasses = 1000\n[licence]\nname = \"none\"\n"
            .into(),
    )?;
    let output = Command::new(program)
        .args(["--one", &cell.name, "--device", device, "--recompute", &recompute.to_string()])
        .current_dir(folder.path())
        .output();
    let output = output.map_err(|e| Error::internal(e.to_string()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.trim())
        .map_err(|e| Error::internal(format!("{}: {e}: {text}{}", cell.name, String::from_utf8_lossy(&output.stderr))))
}

fn measure(cell: &Cell, device: &Device, recompute: bool) -> Result<Measured> {
    let generator = open::generator("true/g", device)?;
    let generator = generator.as_ref();
    let vgg = open::vgg16("true/vgg16", device)?;
    let params = Params::fresh(3, DType::F32, device);
    let inversion = Inversion::new(generator, &cell.recipe, &params)?;
    (0..5).try_for_each(|_| inversion.encoder.power_iteration())?;
    let like = Tensor::zeros((1, 3, cell.resolution, cell.resolution), DType::F32, device)?;
    let loss = Objective::new(&cell.recipe, Some(Arc::new(vgg)), None, &like)?;
    let mut optimizer = Optimizer::new(cell.recipe.rule(), params.vars());
    let streams = Streams::new(4);
    machine::reset_peak_memory();
    let loaded_bytes = machine::peak_memory();
    let start = Instant::now();
    let items: Vec<u64> = (0..cell.batch as u64).collect();
    let sampled = streams.sample(&inversion, None, &items, device)?;
    let forward = || objective::forward(&loss, &inversion.encoder, generator, &sampled.batch(), Which::Live);
    let pass = mtv_bench::ops::recomputing(recompute, forward)?;
    let values: Vec<f64> = pass.losses.values()?.into_iter().map(|(_, v)| v).collect();
    objective::steps(&loss, &pass.losses, &mut optimizer, cell.recipe.optimizer.lr)?;
    let mut finite = values.iter().all(|v| v.is_finite());
    for param in optimizer.params() {
        finite &= param.var.as_tensor().sum_all()?.to_dtype(DType::F64)?.to_scalar::<f64>()?.is_finite();
    }
    let step_seconds = start.elapsed().as_secs_f64();
    let peak_bytes = machine::peak_memory();
    drop(pass);
    let target = Rgb8::from_batch(&sampled.batch().x.narrow(0, 0, 1)?)?;
    let info = ImageInfo { set: "synthesized".into(), id: "synth00000".into(), sha256: String::new(), unseen: Vec::new() };
    let (judge, lpips) = open::lpips("true/vgg16", device)?;
    let start = Instant::now();
    let shown = inversion.reconstruct_images(&[&info], &target, 1)?;
    let at_512 = |image: &Rgb8| Ok::<_, Error>(to_square(image, 512).to_tensor(device)?.unsqueeze(0)?);
    lpips.distance(&judge, &at_512(&target[0])?, &at_512(&shown[0])?)?.flatten_all()?.to_vec1::<f32>()?;
    let image_seconds = start.elapsed().as_secs_f64();
    Ok(Measured { step_seconds, image_seconds, loaded_bytes, peak_bytes, terms: values.len(), finite })
}

fn page(rows: &[String], device: &str) -> String {
    let load =
        std::fs::read_to_string("/proc/loadavg").ok().and_then(|t| t.split_whitespace().next().map(|l| format!(", load average {l}")));
    let load = load.unwrap_or_default();
    let memory = machine::available_memory().map_or(String::new(), |b| format!(", {:.1} GB of memory free", gb(b)));
    format!(
        "# One training step at the paper's true sizes\n\n\
         Written by `cargo bench --bench true_size` on {}: {}, {} threads, device {device}{memory}{load}. Weights are drawn from a seed, so that losses mean\n\
         nothing but that they are finite; shapes, batch, recipe and code are those of `gan_reconstruction --profile paper`. The step is the first of its\n\
         process: sampling, E and G forward, all losses, backward, optimizer. VGG16 has its convolutions and a narrow classifier (the real one: 0.5 GB more).\n\
         \"Loaded\" is what the process holds before the step, \"an image\" the seconds to encode, decode and compare one (LPIPS at 512 px) without\n\
         gradient. What it prints beside this file is the table `[cost.cpu]` of experiments/profiles/paper.toml, from which `plan` prices a study on the CPU.\n\n\
         | network | family | px | batch | case | estimated GB | seconds a step | peak GB | loaded GB | an image, s | finite losses and weights |\n\
         |---|---|---:|---:|---:|---:|---:|---:|---:|---:|---|\n{}\n",
        machine::date(),
        machine::cpu(),
        rayon::current_num_threads(),
        rows.join("\n")
    )
}
