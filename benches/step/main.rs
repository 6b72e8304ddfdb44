//! Whole training steps of case 2 (gradient through the frozen generator, both centre views, perceptual term on the VGG16 topology):
//! StyleGANv1 at 64 px with the mini widths and batch 8, and at 256 px with the true widths and batch 1; and single operations.
//!
//! `cargo bench --bench step` measures the mini step with criterion. `cargo bench --bench step -- --serve [mini|true256]` waits for lines on
//! standard input and answers each with the milliseconds of one step: `benches/peer/run.py` uses it to interleave with the same step in
//! PyTorch. Weights, latents and noise come from a formula that both sides share, so their losses must agree.

use std::alloc::{GlobalAlloc, Layout};
use std::io::{BufRead, Write};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use candle_core::{Device, Result, Tensor, Var};
use criterion::Criterion;
use mimalloc::MiMalloc;
use mtv_bench::objective::{Cosine, Distance, Kl, vectors};
use mtv_bench::optim::{Optimizer, Rule};
use mtv_bench::params::Param;
use mtv_bench::{machine, ops};

mod single;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SLOPE: f64 = 0.2;
/// Runs of a single operation per request.
const REPEAT: usize = 5;
/// The sizes of a step.
#[derive(Clone, Copy)]
struct Size {
    batch: usize,
    w_dim: usize,
    /// Channels of the generator from 4 px up, of the encoder from the image down, and width and depth of the feature network's blocks.
    generator: &'static [usize],
    encoder: &'static [usize],
    features: [(usize, usize); 5],
}

const MINI: Size = Size {
    batch: 8,
    w_dim: 128,
    generator: &[64, 64, 64, 32, 16],
    encoder: &[16, 32, 64, 64, 64],
    features: [(8, 2), (16, 2), (32, 3), (64, 3), (64, 3)],
};

const TRUE_256: Size = Size {
    batch: 1,
    w_dim: 512,
    generator: &[512, 512, 512, 512, 256, 128, 64],
    encoder: &[64, 128, 256, 512, 512, 512, 512],
    features: [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)],
};

/// Generator and encoder change the resolution inside a convolution from this one on.
const FUSED_FROM: usize = 128;

impl Size {
    fn side(&self) -> usize {
        2 << self.generator.len()
    }
}

/// The allocator, with a count of the bytes in use.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: hands everything on to mimalloc.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = IN_USE.fetch_add(layout.size(), Relaxed) + layout.size();
        MOST.fetch_max(now, Relaxed);
        unsafe { MiMalloc.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Relaxed);
        unsafe { MiMalloc.dealloc(at, layout) }
    }
}

/// Numbers of mean 0 and the given deviation from a formula: frac(sin(i) * 43758.5453), made uniform.
fn formula(seed: usize, shape: &[usize], std: f64) -> Result<Tensor> {
    let n: usize = shape.iter().product();
    let value = |i: usize| {
        let v = ((i + 1) as f64 * 12.9898 + seed as f64 * 78.233).sin() * 43758.5453;
        ((v - v.floor() - 0.5) * 12f64.sqrt() * std) as f32
    };
    Tensor::from_vec((0..n).map(value).collect::<Vec<_>>(), shape, &Device::Cpu)
}

/// Hands out parameters in order; the seed of each is its number.
struct Maker {
    count: usize,
    vars: Option<Vec<Param>>,
}

impl Maker {
    fn make(&mut self, shape: &[usize], std: f64) -> Result<Tensor> {
        self.count += 1;
        let t = formula(self.count, shape, std)?;
        let Some(vars) = &mut self.vars else { return Ok(t) };
        let var = Var::from_tensor(&t)?;
        let t = var.as_tensor().clone();
        vars.push(Param { name: format!("{:04}", self.count), var, coef: 1.0 });
        Ok(t)
    }
    fn conv(&mut self, o: usize, i: usize, k: usize) -> Result<Tensor> {
        self.make(&[o, i, k, k], (2.0 / (i * k * k) as f64).sqrt())
    }
    fn channels(&mut self, c: usize, std: f64) -> Result<Tensor> {
        self.make(&[1, c, 1, 1], std)
    }
    fn fc(&mut self, o: usize, i: usize) -> Result<(Tensor, Tensor)> {
        Ok((self.make(&[o, i], (1.0 / i as f64).sqrt())?, self.make(&[o], 0.1)?))
    }
}

struct Styled {
    strength: Tensor,
    bias: Tensor,
    fc: (Tensor, Tensor),
}

struct Generator {
    mapping: Vec<(Tensor, Tensor)>,
    constant: Tensor,
    blocks: Vec<(Option<Tensor>, Styled, Tensor, Styled)>,
    rgb: (Tensor, Tensor),
}

impl Generator {
    fn new(m: &mut Maker, size: &Size) -> Result<Self> {
        let mapping = (0..8).map(|_| m.fc(size.w_dim, size.w_dim)).collect::<Result<_>>()?;
        let constant = m.make(&[1, size.generator[0], 4, 4], 1.0)?;
        let mut blocks = Vec::new();
        let mut from = size.generator[0];
        for (i, &c) in size.generator.iter().enumerate() {
            let up = match 4 << i {
                4 => None,
                // [in, out, 3, 3] of a transposed convolution.
                FUSED_FROM.. => Some(m.make(&[from, c, 3, 3], (2.0 / (9 * from) as f64).sqrt())?),
                _ => Some(m.conv(c, from, 3)?),
            };
            let layer = |m: &mut Maker| -> Result<Styled> {
                Ok(Styled { strength: m.channels(c, 0.1)?, bias: m.channels(c, 0.1)?, fc: m.fc(2 * c, size.w_dim)? })
            };
            let first = layer(m)?;
            blocks.push((up, first, m.conv(c, c, 3)?, layer(m)?));
            from = c;
        }
        let rgb = (m.make(&[3, from, 1, 1], (0.3 / from as f64).sqrt())?, m.make(&[3], 0.1)?);
        Ok(Generator { mapping, constant, blocks, rgb })
    }

    fn map(&self, z: &Tensor) -> Result<Tensor> {
        let mut w = ops::pixel_norm(z, 1e-8)?;
        for (weight, bias) in &self.mapping {
            w = ops::leaky_relu(&ops::linear(&w, weight, Some(bias))?, SLOPE)?;
        }
        Tensor::stack(&vec![w; 2 * self.blocks.len()], 1)
    }

    fn image(&self, w: &Tensor, noise: &[Tensor]) -> Result<Tensor> {
        let n = w.dim(0)?;
        let row = |i: usize| w.narrow(1, i, 1)?.squeeze(1)?.contiguous();
        let layer = |x: &Tensor, l: &Styled, i: usize| -> Result<Tensor> {
            let x = ops::noise_bias_lrelu(x, Some((&noise[i], &l.strength)), Some(&l.bias), SLOPE)?;
            ops::adain(&x, &ops::linear(&row(i)?, &l.fc.0, Some(&l.fc.1))?, 1e-8)
        };
        let mut x = self.constant.broadcast_as((n, self.constant.dim(1)?, 4, 4))?.contiguous()?;
        for (i, (up, first, conv, second)) in self.blocks.iter().enumerate() {
            if let Some(up) = up {
                x = match 4 << i {
                    FUSED_FROM.. => ops::conv_transpose2d(&x, &ops::fused_up_weight(up)?, None, 2, 1)?,
                    _ => ops::conv2d(&ops::upsample2(&x)?, up, None, 1, 1)?,
                };
                x = ops::blur3(&x)?;
            }
            x = layer(&x, first, 2 * i)?;
            x = layer(&ops::conv2d(&x, conv, None, 1, 1)?, second, 2 * i + 1)?;
        }
        ops::conv2d(&x, &self.rgb.0, Some(&self.rgb.1), 1, 0)
    }
}

struct EncoderBlock {
    first: Styled,
    conv: Tensor,
    fc2: (Tensor, Tensor),
    second: Option<(Tensor, Tensor, Tensor)>,
    skip: Option<(Tensor, Tensor)>,
}

struct Encoder {
    rgb: (Tensor, Tensor),
    blocks: Vec<EncoderBlock>,
}

impl Encoder {
    fn new(m: &mut Maker, size: &Size) -> Result<Self> {
        let rgb = (m.make(&[size.encoder[0], 3, 1, 1], 0.8)?, m.make(&[size.encoder[0]], 0.1)?);
        let mut blocks = Vec::new();
        for (i, &c) in size.encoder.iter().enumerate() {
            let first = Styled { strength: m.channels(c, 0.1)?, bias: m.channels(c, 0.1)?, fc: m.fc(size.w_dim, 2 * c)? };
            let (conv, fc2) = (m.conv(c, c, 3)?, m.fc(size.w_dim, 2 * c)?);
            let (mut second, mut skip) = (None, None);
            if let Some(&to) = size.encoder.get(i + 1) {
                second = Some((m.conv(to, c, 3)?, m.channels(to, 0.1)?, m.channels(to, 0.1)?));
                if to != c {
                    skip = Some((m.conv(to, c, 1)?, m.make(&[to], 0.1)?));
                }
            }
            blocks.push(EncoderBlock { first, conv, fc2, second, skip });
        }
        Ok(Encoder { rgb, blocks })
    }

    fn forward(&self, image: &Tensor, noise: &[Tensor]) -> Result<(Tensor, Tensor)> {
        let mut x = ops::conv2d_lrelu(image, &self.rgb.0, Some(&self.rgb.1), 1, 0, SLOPE)?;
        let mut rows = Vec::new();
        for (i, b) in self.blocks.iter().enumerate() {
            let (y, stats) = ops::instance_norm_stats(&x, 1e-5)?;
            let w1 = ops::linear(&stats, &b.first.fc.0, Some(&b.first.fc.1))?;
            let mut r = x;
            let y = ops::conv2d(&y, &b.conv, None, 1, 1)?;
            let y = ops::noise_bias_lrelu(&y, Some((&noise[2 * i], &b.first.strength)), Some(&b.first.bias), SLOPE)?;
            let (mut y, stats) = ops::instance_norm_stats(&y, 1e-5)?;
            let w2 = ops::linear(&stats, &b.fc2.0, Some(&b.fc2.1))?;
            if let Some((conv, strength, bias)) = &b.second {
                let fused = y.dim(2)? >= FUSED_FROM;
                y = ops::blur3(&y)?;
                y = match fused {
                    true => ops::conv2d(&y, &ops::fused_down_weight(conv)?, None, 2, 1)?,
                    false => ops::conv2d(&y, conv, None, 1, 1)?,
                };
                y = ops::noise_bias_lrelu(&y, Some((&noise[2 * i + 1], strength)), Some(bias), SLOPE)?;
                y = if fused { y } else { ops::avg_pool2(&y)? };
                r = ops::avg_pool2(&r)?;
            }
            if let Some((w, bias)) = &b.skip {
                r = ops::conv2d(&r, w, Some(bias), 1, 0)?;
            }
            x = ops::mix(&y, 0.111, &r, 0.889)?;
            rows.push(w1);
            rows.push(w2);
        }
        rows.reverse();
        Ok((Tensor::stack(&rows, 1)?, x))
    }
}

struct Features(Vec<Vec<(Tensor, Tensor)>>);

impl Features {
    fn new(m: &mut Maker, size: &Size) -> Result<Self> {
        let mut from = 3;
        let mut all = Vec::new();
        for (c, layers) in size.features {
            let mut block = Vec::new();
            for _ in 0..layers {
                block.push((m.conv(c, from, 3)?, m.make(&[c], 0.1)?));
                from = c;
            }
            all.push(block);
        }
        Ok(Features(all))
    }

    fn forward(&self, image: &Tensor) -> Result<Vec<Tensor>> {
        let mut x = image.clone();
        let mut taps = Vec::new();
        for (i, block) in self.0.iter().enumerate() {
            if i > 0 {
                x = ops::max_pool2(&x)?;
            }
            for (w, b) in block {
                x = ops::conv2d_lrelu(&x, w, Some(b), 1, 1, 0.0)?;
            }
            taps.push(x.clone());
        }
        Ok(taps)
    }
}

/// Distance + cosine + KL of Eq. 3 and 4, per sample.
fn compared(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let distance = vectors::distance(Distance::NormSample, a, b)?;
    (distance + vectors::cosine(Cosine::Sample, a, b)?)? + vectors::kl(Kl::ReverseSample, a, b)?
}

fn ssim(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let taps: Vec<f64> = (0..11).map(|i| (-((i as f64 - 5.0) / 1.5).powi(2) / 2.0).exp()).collect();
    let sum: f64 = taps.iter().sum();
    let taps: Vec<f64> = taps.iter().map(|t| t / sum).collect();
    let means = ops::depthwise_window(&ops::ssim_products(a, b)?, &taps, 0)?;
    let map = ops::ssim_map(&ops::depthwise_window(a, &taps, 0)?, &means, 0.02f64.powi(2), 0.06f64.powi(2))?;
    1.0 - map.mean_all()?
}

/// The resize of a centred crop back to `n` (paper recipe, section 6).
fn crop(n: usize, m: usize) -> Result<Tensor> {
    let s = (n - m) / 2;
    let mut r = vec![0f32; n * n];
    for i in 0..n {
        let u = ((i as f64 + 0.5) * m as f64 / n as f64 - 0.5).max(0.0);
        let j = (u.floor() as usize).min(m - 1);
        let l = (u - j as f64) as f32;
        r[i * n + s + j] += 1.0 - l;
        r[i * n + s + (j + 1).min(m - 1)] += l;
    }
    Tensor::from_vec(r, (n, n), &Device::Cpu)
}

struct Step {
    generator: Generator,
    encoder: Encoder,
    features: Features,
    optimizer: Optimizer,
    crops: Vec<Tensor>,
    z: Tensor,
    noise: Vec<Vec<Tensor>>,
}

impl Step {
    fn new(size: &Size) -> Result<Self> {
        let mut frozen = Maker { count: 0, vars: None };
        let generator = Generator::new(&mut frozen, size)?;
        let features = Features::new(&mut frozen, size)?;
        let mut trained = Maker { count: 1000, vars: Some(Vec::new()) };
        let encoder = Encoder::new(&mut trained, size)?;
        let noise = |seed: usize, sizes: Vec<usize>| -> Result<Vec<Tensor>> {
            sizes.into_iter().enumerate().map(|(i, r)| formula(seed + i, &[size.batch, 1, r, r], 1.0)).collect()
        };
        let (side, blocks) = (size.side(), size.generator.len());
        let up: Vec<usize> = (0..blocks).flat_map(|i| [4 << i; 2]).collect();
        let halved = |r: usize| if r >= FUSED_FROM { r / 2 } else { r };
        let down: Vec<usize> = (0..blocks).flat_map(|i| [side >> i, halved(side >> i)]).collect();
        Ok(Step {
            generator,
            encoder,
            features,
            optimizer: Optimizer::new(Rule::PAPER, trained.vars.unwrap_or_default()),
            crops: vec![crop(side, side * 3 / 4)?, crop(side, side * 11 / 16)?],
            z: formula(9000, &[size.batch, size.w_dim], 1.0)?,
            noise: vec![noise(9100, up.clone())?, noise(9200, down)?, noise(9300, up)?],
        })
    }

    fn attention(&self, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        let mut loss = (compared(x, y)? + ssim(x, y)?)?;
        for (a, b) in self.features.forward(x)?.iter().zip(&self.features.forward(y)?) {
            loss = (loss + ops::mse(a, b)?)?;
        }
        Ok(loss)
    }

    fn loss(&self) -> Result<Tensor> {
        let w = self.generator.map(&self.z)?;
        let x = self.generator.image(&w, &self.noise[0])?;
        let (latent, constant) = self.encoder.forward(&x, &self.noise[1])?;
        let y = self.generator.image(&latent, &self.noise[2])?;
        let mut loss = self.attention(&x, &y)?;
        for (r, mu) in self.crops.iter().zip([5.0, 9.0]) {
            loss = (loss + (self.attention(&ops::matmul_resize(&x, r, r)?, &ops::matmul_resize(&y, r, r)?)? * mu)?)?;
        }
        let target = self.generator.constant.broadcast_as(constant.shape())?.contiguous()?;
        (loss + (compared(&w, &latent)? * 0.01)?)? + (compared(&target, &constant)? * 0.01)?
    }

    fn run(&mut self) -> Result<f32> {
        let loss = self.loss()?;
        let grads = ops::backward(&loss)?;
        self.optimizer.step(&grads, 0.0015)?;
        loss.to_scalar()
    }
}

/// One line per line of input: "loss" the loss before any step, "step" wall and processor milliseconds of one step, "memory" what five steps
/// need above what is there before them, in megabytes: resident, and in use at one time; "peak" the megabytes of the whole process; "op 3" the
/// times of the fourth single operation, forward and backward, and its name.
fn serve(size: &Size) -> Result<()> {
    let mut step = Step::new(size)?;
    let mut out = std::io::stdout();
    let single = single::all()?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (start, cpu) = (Instant::now(), cpu_ms());
        match line.trim() {
            "loss" => writeln!(out, "{}", step.loss()?.to_scalar::<f32>()?)?,
            "step" => {
                step.run()?;
                writeln!(out, "{} {}", start.elapsed().as_secs_f64() * 1e3, cpu_ms() - cpu)?
            }
            "memory" => {
                machine::reset_peak_memory();
                let (resident, used) = (machine::peak_memory(), IN_USE.load(Relaxed));
                MOST.store(used, Relaxed);
                (0..5).try_for_each(|_| step.run().map(|_| ()))?;
                let mb = |bytes: u64| bytes as f64 / 1e6;
                writeln!(out, "{} {}", mb(machine::peak_memory() - resident), mb((MOST.load(Relaxed) - used) as u64))?
            }
            "peak" => writeln!(out, "{}", machine::peak_memory() as f64 / 1e6)?,
            "ops" => writeln!(out, "{}", single.len())?,
            other => match other.strip_prefix("op ").and_then(|i| single.get(i.parse::<usize>().ok()?)) {
                Some((name, forward)) => {
                    for _ in 0..REPEAT {
                        forward()?.sum_all()?.backward()?;
                    }
                    let per = |ms: f64| ms / REPEAT as f64;
                    writeln!(out, "{} {} {name}", per(start.elapsed().as_secs_f64() * 1e3), per(cpu_ms() - cpu))?
                }
                None => candle_core::bail!("unknown request {other:?}"),
            },
        }
        out.flush()?;
    }
    Ok(())
}

/// Processor time of this process so far, all threads.
fn cpu_ms() -> f64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is a valid place for the answer.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut t) };
    t.tv_sec as f64 * 1e3 + t.tv_nsec as f64 / 1e6
}

fn measure() -> Result<()> {
    let mut step = Step::new(&MINI)?;
    step.run()?;
    let mut c = Criterion::default().sample_size(20).configure_from_args();
    c.bench_function("mini step, StyleGANv1 64 px, case 2, AT1 AT2 LPIPS, batch 8", |b| b.iter(|| step.run().expect("the step runs")));
    for (name, forward) in single::all()? {
        let run = || forward().and_then(|y| y.sum_all()?.backward()).expect("the operation runs");
        c.bench_function(&name, |b| b.iter(run));
    }
    c.final_summary();
    Ok(())
}

fn main() {
    ops::one_pool();
    let args: Vec<String> = std::env::args().collect();
    let serving = args.iter().any(|a| a == "--serve");
    let size = if args.iter().any(|a| a == "true256") { TRUE_256 } else { MINI };
    // candle walks its graph recursively: give it a large stack.
    let work = move || if serving { serve(&size) } else { measure() };
    let done = std::thread::Builder::new().stack_size(256 << 20).spawn(work).map(|t| t.join());
    match done {
        Ok(Ok(Ok(()))) => {}
        other => {
            eprintln!("{other:?}");
            std::process::exit(1)
        }
    }
}
