//! One full inversion by every method of Table III at its true size, with weights drawn from a seed: seconds and peak memory.
//!
//! `cargo bench --bench true_size_methods` measures each method in a process of its own and writes results/bench/true_size_methods.md
//! (`-- --out FILE` elsewhere; `-- METHOD ...` measures some; `-- --device cuda:0`). Optimisations of up to [`ALL`] steps run to their end. Of
//! longer ones the inversion and [`FEW`] steps are measured, and the time of the published number of steps is computed from the later half.

use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use mtv_bench::generators::{Generator, Stage, Synthesis, draw_noise};
use mtv_bench::inverters::indomain::{self, Optimisation};
use mtv_bench::inverters::refine::{Guided, Latents, Pass, Schedule, guided, refine};
use mtv_bench::inverters::{Inverter, alae, image2stylegan, psp};
use mtv_bench::machine;
use mtv_bench::objective::{self, Losses, Objective, Which};
use mtv_bench::optim::Optimizer;
use mtv_bench::params::Params;
use mtv_bench::perceptual::vgg16::Vgg16;
use mtv_bench::random::Stream;
use mtv_bench::spec::{Profile, Study};
use mtv_bench::stages::inversion::Inversion;
use mtv_bench::stages::open;
use mtv_bench::stages::reconstruct::relu4_3;
use mtv_bench::{Error, Result};
use serde::{Deserialize, Serialize};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Optimisations of at most so many steps are measured whole.
const ALL: u64 = 100;
/// Steps that are measured of a longer one; the first half warms up.
const FEW: u64 = 4;

struct Method {
    name: &'static str,
    title: &'static str,
    /// Seeded generator below `true/`.
    generator: &'static str,
    networks: &'static str,
    /// As published; 0 without optimisation.
    steps: u64,
    /// Memory that it was measured to need, rounded up, in bytes.
    estimate: u64,
}

impl Method {
    fn measured(&self) -> u64 {
        if self.steps <= ALL { self.steps } else { FEW }
    }
}

const METHODS: [Method; 8] = [
    Method { name: "alae", title: "ALAE", generator: "stylegan1_1024", networks: "E and G of 1024 px", steps: 0, estimate: 3 << 30 },
    Method {
        name: "psp",
        title: "pSp",
        generator: "stylegan2_1024",
        networks: "E of 256 px, StyleGANv2 of 1024 px",
        steps: 0,
        estimate: 4 << 30,
    },
    Method {
        name: "indomain_r",
        title: "In-Domain (R)",
        generator: "stylegan1_256",
        networks: "E and G of 256 px",
        steps: 0,
        estimate: 3 << 30,
    },
    Method {
        name: "indomain_i",
        title: "In-Domain (I)",
        generator: "stylegan1_256",
        networks: "E and G of 256 px, VGG16",
        steps: 100,
        estimate: 4 << 30,
    },
    Method {
        name: "image2stylegan",
        title: "Image2StyleGAN",
        generator: "stylegan1_1024",
        networks: "G of 1024 px, VGG16 at 256 px",
        steps: image2stylegan::STEPS,
        estimate: 4 << 30,
    },
    Method {
        name: "mtv_r",
        title: "MTV-TSA (R)",
        generator: "stylegan1_1024",
        networks: "E and G of 1024 px",
        steps: 0,
        estimate: 3 << 30,
    },
    Method {
        name: "mtv_w",
        title: "w+ after MTV-TSA",
        generator: "stylegan1_1024",
        networks: "E and G of 1024 px, VGG16 at 256 px",
        steps: 1500,
        estimate: 6 << 30,
    },
    Method {
        name: "mtv_oe",
        title: "MTV-TSA (OE)",
        generator: "stylegan1_1024",
        networks: "E and G of 1024 px, VGG16 at 256 px",
        steps: 1500,
        estimate: 9 << 30,
    },
];

const CARDS: [(&str, usize, &str, usize); 3] = [
    ("stylegan1_256", 256, "stylegan1", 16384),
    ("stylegan1_1024", 1024, "stylegan1", 16384),
    ("stylegan2_1024", 1024, "stylegan2", 32768),
];

#[derive(Serialize, Deserialize)]
struct Measured {
    /// Inversion and decoding.
    start_seconds: f64,
    /// All steps that were measured.
    steps_seconds: f64,
    /// The mean of the later half of them.
    step_seconds: f64,
    peak_bytes: u64,
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
    let device = option("--device").unwrap_or_else(|| "cpu".into());
    let out = option("--out").unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/results/bench/true_size_methods.md").into());
    if let Some(name) = one {
        let method = METHODS.iter().find(|m| m.name == name).ok_or_else(|| Error::usage(format!("no method is called {name}")))?;
        println!("{}", serde_json::to_string(&measure(method, &machine::device(&device)?)?).map_err(|e| Error::internal(e.to_string()))?);
        return Ok(());
    }
    let mut rows = Vec::new();
    for method in METHODS.iter().filter(|m| args.is_empty() || args.iter().any(|a| a == m.name)) {
        let available = machine::available_memory().unwrap_or(u64::MAX);
        let result = if device == "cpu" && method.estimate > available { None } else { Some(child(method, &device)?) };
        rows.push(row(method, result.as_ref(), available));
        eprintln!("{}", rows[rows.len() - 1]);
        std::fs::write(&out, page(&rows, &device)).map_err(|e| Error::io(out.as_ref(), "writing", e))?;
    }
    Ok(())
}

fn row(method: &Method, result: Option<&Measured>, available: u64) -> String {
    let head = format!("| {} | {} | {}", method.title, method.networks, method.steps);
    let Some(m) = result else { return format!("{head} | not run: {} bytes estimated, {available} available | | | | |", method.estimate) };
    let step = if method.steps == 0 { "–".into() } else { format!("{:.2}", m.step_seconds) };
    let full = match method.steps {
        ..=ALL => format!("{:.1} s, measured", m.start_seconds + m.steps_seconds),
        steps => format!("{:.1} h, computed", (m.start_seconds + m.step_seconds * steps as f64) / 3600.0),
    };
    let finite = if m.finite { "yes" } else { "**no**" };
    format!("{head} | {:.2} | {step} | {full} | {:.2} | {finite} |", m.start_seconds, m.peak_bytes as f64 / 1e9)
}

fn page(rows: &[String], device: &str) -> String {
    let load = std::fs::read_to_string("/proc/loadavg").ok().and_then(|t| t.split_whitespace().next().map(str::to_string));
    let load = load.map_or(String::new(), |l| format!(", load average {l}"));
    format!(
        "# One inversion by every method at its true size\n\n\
         Written by `cargo bench --bench true_size_methods` on {}: {}, {} threads, device {device}{load}. Weights are drawn from a seed: the pictures mean nothing,\n\
         times and memory do not depend on what the weights are. Each method has the sizes of its publication and works on one image. Optimisations of\n\
         up to {ALL} steps ran to their end; of longer ones {FEW} steps did, \"a step\" is the mean of the last {}, and the time of all steps is computed from it. MTV-TSA runs as in `compare_baselines --profile paper`.\n\n\
         | method | networks | steps | inversion, s | a step, s | a full inversion | peak GB | finite |\n\
         |---|---|---:|---:|---:|---:|---:|---|\n{}\n",
        machine::date(),
        machine::cpu(),
        rayon::current_num_threads(),
        FEW / 2,
        rows.join("\n")
    )
}

fn child(method: &Method, device: &str) -> Result<Measured> {
    let program = std::env::current_exe().map_err(|e| Error::internal(e.to_string()))?;
    let folder = tempfile::tempdir().map_err(|e| Error::internal(e.to_string()))?;
    let write = |file: &str, text: String| {
        let path = folder.path().join("baselines/true").join(file);
        std::fs::create_dir_all(path.parent().unwrap_or(&path))
            .and_then(|_| std::fs::write(&path, text))
            .map_err(|e| Error::io(&path, "writing", e))
    };
    for (name, resolution, family, base) in CARDS {
        write(
            &format!("{name}.toml"),
            format!(
                "name = \"true/{name}\"\nkind = \"generator\"\ntitle = \"t\"\nresolution = {resolution}\n[source.seeded]\nseed = 1\n[network]\n\
                 family = \"{family}\"\nlatent = 512\nfmaps_base = {base}\nfmaps_max = 512\n[licence]\nname = \"none\"\n"
            ),
        )?;
    }
    write(
        "vgg16.toml",
        "name = \"true/vgg16\"\nkind = \"classifier\"\ntitle = \"t\"\n[source.seeded]\nseed = 2\n[network]\nfamily = \"vgg16\"\n\
         widths = [64, 128, 256, 512, 512]\nclasses = 1000\n[licence]\nname = \"none\"\n"
            .into(),
    )?;
    let output = Command::new(program).args(["--one", method.name, "--device", device]).current_dir(folder.path()).output();
    let output = output.map_err(|e| Error::internal(e.to_string()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.trim())
        .map_err(|e| Error::internal(format!("{}: {e}: {text}{}", method.name, String::from_utf8_lossy(&output.stderr))))
}

/// An encoder of true size with a seeded generator.
struct Pair<'a> {
    size: usize,
    encode: Box<dyn Fn(&Tensor) -> candle_core::Result<Tensor>>,
    generator: &'a dyn Generator,
    /// pSp pools its image.
    pooled: bool,
}

impl Inverter for Pair<'_> {
    fn input_size(&self) -> usize {
        self.size
    }

    fn invert(&self, images: &Tensor) -> candle_core::Result<Tensor> {
        (self.encode)(images)
    }

    fn decoder(&self) -> &dyn Generator {
        self.generator
    }

    fn render(&self, latents: &Tensor, with: &Synthesis) -> candle_core::Result<Tensor> {
        let image = self.generator.synthesize(latents, with)?;
        if self.pooled { psp::pool_to(&image, psp::SIDE) } else { Ok(image) }
    }
}

/// A network with frozen values from a seed.
fn seeded<T>(device: &Device, build: impl Fn(&Params) -> candle_core::Result<T>) -> Result<T> {
    let fresh = Params::fresh(3, DType::F32, device);
    build(&fresh)?;
    Ok(build(&Params::frozen(fresh.snapshot()?, DType::F32, device, "a seed"))?)
}

fn pair<'a>(method: &Method, generator: &'a dyn Generator, device: &Device) -> Result<Pair<'a>> {
    let layout = generator.layout();
    let (rows, w_dim) = (layout.rows, layout.w_dim);
    let repeat = move |w: &Tensor| -> candle_core::Result<Tensor> {
        let (n, dim) = w.dims2()?;
        w.unsqueeze(1)?.broadcast_as((n, rows, dim))?.contiguous()
    };
    let mut pooled = false;
    let (size, encode): (usize, Box<dyn Fn(&Tensor) -> candle_core::Result<Tensor>>) = match method.name {
        "alae" => {
            let config = alae::Config { blocks: 9, first_width: 16, max_width: 512, latent: w_dim, channels: 3 };
            let encoder = seeded(device, |p| alae::Encoder::new(&config, p))?;
            (1024, Box::new(move |x| repeat(&encoder.trace(x, Stage { last: 8, blend: 1.0 })?.0)))
        }
        "psp" => {
            let config = psp::Config { widths: [64, 128, 256, 512], blocks: [3, 4, 14, 3], inner: 512, rows, side: psp::SIDE };
            let encoder = seeded(device, |p| psp::Encoder::new(&config, p))?;
            pooled = true;
            (psp::SIDE, Box::new(move |x| Ok(encoder.trace(x)?.rows)))
        }
        "indomain_r" | "indomain_i" => {
            let config = indomain::Config { resolution: 256, w_dim, first_width: 64, max_width: 1024, use_wscale: false, use_bn: true };
            let encoder = seeded(device, |p| indomain::Encoder::new(&config, p))?;
            (256, Box::new(move |x| encoder.forward(x)))
        }
        _ => {
            // Not 0: there the maps of an untrained network are constant, and instance norms of those have gradients without bound.
            let mean = Stream::new(8, "mean w").normal((1, 1, w_dim), device)?;
            (layout.resolution, Box::new(move |x| mean.broadcast_as((x.dim(0)?, rows, w_dim))?.contiguous()))
        }
    };
    Ok(Pair { size, encode, generator, pooled })
}

fn vgg(device: &Device) -> Result<Vgg16> {
    open::vgg16("true/vgg16", device)
}

/// Whether every value is finite; also waits for the device.
fn finite(x: &Tensor) -> candle_core::Result<bool> {
    Ok(x.sum_all()?.to_dtype(DType::F64)?.to_scalar::<f64>()?.is_finite())
}

fn measure(method: &Method, device: &Device) -> Result<Measured> {
    let generator = open::generator(&format!("true/{}", method.generator), device)?;
    let generator = generator.as_ref();
    let noise = draw_noise(&generator.layout().noise, &Stream::new(5, "noise"), &[0], device)?;
    let with = Synthesis { noise: Some(&noise), ..Default::default() };
    if method.name.starts_with("mtv") {
        return measure_mtv(method, generator, &noise, device);
    }
    let pair = pair(method, generator, device)?;
    let x = (Stream::new(6, "image").normal((1, 3, pair.size, pair.size), device)? * 0.3)?;
    let vgg = if method.steps > 0 { Some(vgg(device)?) } else { None };
    machine::reset_peak_memory();
    let began = Instant::now();
    let start = pair.invert(&x)?;
    let mut good = finite(&pair.render(&start, &with)?)?;
    let start_seconds = began.elapsed().as_secs_f64();
    let mut clock = Clock::default();
    if let Some(vgg) = &vgg {
        let Latents { var, mut optimizer } = Latents::new(&start)?;
        let schedule = Schedule::plain(method.measured(), 0.01);
        if method.name == "image2stylegan" {
            let wanted = image2stylegan::features(vgg, &x)?;
            clock.start();
            let forward = || image2stylegan::pass(generator, &var, &with, vgg, (&x, &wanted));
            refine(&mut optimizer, &schedule, forward, |_, _, _| clock.tick())?;
        } else {
            let settings = Optimisation::default();
            let weights = Guided { pixels: settings.pixels, features: settings.features, regulariser: settings.regulariser };
            let tap = |x: &Tensor| relu4_3(vgg, x);
            let wanted = tap(&x)?;
            clock.start();
            let forward = || guided(&pair, &var, &with, (&x, &wanted), &tap, &weights);
            refine(&mut optimizer, &schedule, forward, |_, _, _| clock.tick())?;
        }
        good &= finite(var.as_tensor())?;
    }
    Ok(clock.measured(start_seconds, good))
}

/// The times of the steps.
#[derive(Default)]
struct Clock {
    at: Option<Instant>,
    steps: Vec<f64>,
}

impl Clock {
    fn start(&mut self) {
        self.at = Some(Instant::now());
    }

    fn tick(&mut self) -> candle_core::Result<()> {
        self.steps.extend(self.at.map(|at| at.elapsed().as_secs_f64()));
        self.start();
        Ok(())
    }

    fn measured(&self, start_seconds: f64, finite: bool) -> Measured {
        let later = &self.steps[self.steps.len() / 2..];
        Measured {
            start_seconds,
            steps_seconds: self.steps.iter().sum(),
            step_seconds: later.iter().sum::<f64>() / later.len().max(1) as f64,
            peak_bytes: machine::peak_memory(),
            finite,
        }
    }
}

/// MTV-TSA with the recipe of the study: (R), w+ after it, and (OE).
fn measure_mtv(method: &Method, generator: &dyn Generator, noise: &[Tensor], device: &Device) -> Result<Measured> {
    let resolved = Study::load("compare_baselines")?.resolve(&Profile::load("paper")?, None)?;
    let recipe = &resolved.arms.iter().find(|a| a.name == method.name).ok_or_else(|| Error::internal("the study lacks the arm"))?.recipe;
    let frozen = method.name != "mtv_oe";
    let params = Params::fresh(3, DType::F32, device);
    let mut inversion = Inversion::new(generator, recipe, &params)?;
    let params = if frozen { Params::frozen(params.snapshot()?, DType::F32, device, "a seed") } else { params };
    if frozen {
        inversion = Inversion::new(generator, recipe, &params)?;
    }
    let side = generator.layout().resolution;
    let x = (Stream::new(6, "image").normal((1, 3, side, side), device)? * 0.3)?;
    let like = Tensor::zeros((1, 3, side, side), DType::F32, device)?;
    let loss = if method.steps > 0 { Some(Objective::new(recipe, Some(Arc::new(vgg(device)?)), None, &like)?) } else { None };
    let of_e = inversion.encoder_noise(&Stream::new(7, "noise of E"), &[0])?;
    machine::reset_peak_memory();
    let began = Instant::now();
    let invert = || -> candle_core::Result<_> {
        let latents = inversion.encode(&x, &of_e, None)?;
        let image = objective::decode(recipe, &inversion.encoder, generator, &latents, None, Some(noise))?;
        Ok((latents, image))
    };
    let (latents, image) = invert()?;
    let mut good = finite(&image)?;
    let start_seconds = began.elapsed().as_secs_f64();
    drop(image);
    let mut clock = Clock::default();
    if let Some(loss) = &loss {
        let schedule = Schedule::plain(method.measured(), recipe.optimizer.lr);
        clock.start();
        if frozen {
            let Some(w) = &latents.w else { return Err(Error::internal("the encoder made no w")) };
            let Latents { var, mut optimizer } = Latents::new(w)?;
            let forward = || {
                let moved = mtv_bench::inverters::mtv::Latents { w: Some(var.as_tensor().clone()), ..latents.clone() };
                let image = objective::decode(recipe, &inversion.encoder, generator, &moved, None, Some(noise))?;
                Ok(Pass { losses: Losses { terms: loss.image_terms(&x, &image, Which::Live)? }, image })
            };
            refine(&mut optimizer, &schedule, forward, |_, _, _| clock.tick())?;
            good &= finite(var.as_tensor())?;
        } else {
            drop(latents);
            let mut optimizer = Optimizer::new(recipe.rule(), params.vars());
            let (types, family) = (recipe.latents.types, generator.layout().family);
            let forward = || {
                let (latents, image) = invert()?;
                let again = objective::compared(types, family, &inversion.encode(&image, &of_e, None)?)?;
                let mut terms = loss.image_terms(&x, &image, Which::Live)?;
                terms.extend(loss.latent_terms(&objective::compared(types, family, &latents)?, &[&again], None)?);
                Ok(Pass { image, losses: Losses { terms } })
            };
            refine(&mut optimizer, &schedule, forward, |_, _, _| clock.tick())?;
            for param in optimizer.params() {
                good &= finite(param.var.as_tensor())?;
            }
        }
    }
    Ok(clock.measured(start_seconds, good))
}
