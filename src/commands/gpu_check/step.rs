//! One training step of every family with weights from a seed: its gradients on two devices, its time and memory on one.

use std::sync::Arc;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use serde::Serialize;

use super::cases::Outcome;
use crate::generators::{Family, Generator, Target, biggan};
use crate::machine;
use crate::objective::{self, Objective, Recipe, Which};
use crate::optim::Optimizer;
use crate::params::Params;
use crate::perceptual::vgg16::{self, Vgg16};
use crate::spec::Card;
use crate::stages::inversion::Inversion;
use crate::stages::open;
use crate::stages::train::Streams;
use crate::{Error, Result};

/// A network, its size and its batch.
#[derive(Clone)]
pub struct Cell {
    pub family: Family,
    pub resolution: usize,
    pub batch: usize,
    /// Widths of 16 channels at most, for a check of the machinery.
    pub narrow: bool,
}

impl Cell {
    const fn new(family: Family, resolution: usize, batch: usize, narrow: bool) -> Self {
        Cell { family, resolution, batch, narrow }
    }

    /// The cells whose time is compared with PyTorch's (benches/peer/gpu.py has the same list).
    pub fn timed(narrow: bool) -> [Cell; 3] {
        let sizes = if narrow { [(32, 2), (32, 2), (32, 2)] } else { [(1024, 2), (256, 8), (256, 8)] };
        let families = [Family::StyleGan1, Family::StyleGan2, Family::BigGan];
        std::array::from_fn(|i| Cell::new(families[i], sizes[i].0, sizes[i].1, narrow))
    }

    /// Small networks of all families, whose gradients are compared with the CPU's.
    pub fn compared() -> [Cell; 4] {
        [Family::Pggan, Family::StyleGan1, Family::StyleGan2, Family::BigGan].map(|f| Cell::new(f, 32, 2, true))
    }

    pub fn name(&self) -> String {
        format!("{} {} px, batch {}{}", self.family.name(), self.resolution, self.batch, if self.narrow { ", narrow" } else { "" })
    }

    /// A card of the paper's network, or of a narrow one, with weights from a seed.
    fn card(&self) -> Result<Card> {
        let shape = match (self.family, self.narrow) {
            (Family::BigGan, true) => "latent = 16\nclasses = 10\nwidths = [32, 32, 32, 32, 16, 16, 8]".to_string(),
            (Family::BigGan, false) => {
                let mut widths = vec![2048];
                widths.extend(biggan::Config::paper(self.resolution).layers.iter().map(|l| l.2 * 128));
                format!("latent = 128\nclasses = 1000\nwidths = {widths:?}")
            }
            (_, true) => "latent = 32\nfmaps_base = 128\nfmaps_max = 16".into(),
            (Family::StyleGan2, false) => "latent = 512\nfmaps_base = 32768\nfmaps_max = 512".into(),
            (_, false) => "latent = 512\nfmaps_base = 16384\nfmaps_max = 512".into(),
        };
        let text = format!(
            "name = \"seeded\"\nkind = \"generator\"\ntitle = \"seeded\"\nresolution = {}\n[source.seeded]\nseed = 1\n\
             [network]\nfamily = \"{}\"\n{shape}\n[licence]\nname = \"none\"\n",
            self.resolution,
            self.family.name()
        );
        toml::from_str(&text).map_err(|e| Error::internal(e.to_string()))
    }

    /// E, G, VGG16 and everything else that a step needs.
    pub fn with<R>(&self, device: &Device, f: impl FnOnce(&mut Step) -> Result<R>) -> Result<R> {
        let generator = open::seeded(&self.card()?, 1, &Target::new(DType::F32, device, "seeded"))?;
        let recipe = Recipe::paper().case2();
        let widths = if self.narrow { [8, 8, 16, 16, 16] } else { [64, 128, 256, 512, 512] };
        let config = vgg16::Config::vgg16(widths, 1, &[10]);
        let fresh = Params::fresh(2, DType::F32, device);
        Vgg16::new(&config, &fresh)?;
        let vgg = Vgg16::new(&config, &Params::frozen(fresh.snapshot()?, DType::F32, device, "seeded"))?;
        let params = Params::fresh(3, DType::F32, device);
        let inversion = Inversion::new(generator.as_ref(), &recipe, &params)?;
        (0..5).try_for_each(|_| inversion.encoder.power_iteration())?;
        let like = Tensor::zeros((1, 3, self.resolution, self.resolution), DType::F32, device)?;
        let objective = Objective::new(&recipe, Some(Arc::new(vgg)), None, &like)?;
        let optimizer = Optimizer::new(recipe.rule(), params.vars());
        f(&mut Step {
            cell: self,
            device,
            generator: generator.as_ref(),
            inversion,
            objective,
            optimizer,
            streams: Streams::new(4),
            items: 0,
        })
    }
}

/// The loop body of a training (`stages::train`): sample, E(x), G(E(x)), losses, backward, optimizer.
pub struct Step<'a> {
    cell: &'a Cell,
    device: &'a Device,
    generator: &'a dyn Generator,
    inversion: Inversion<'a>,
    objective: Objective,
    optimizer: Optimizer,
    streams: Streams,
    items: u64,
}

/// What some steps took.
#[derive(Serialize)]
pub struct Timing {
    pub cell: String,
    /// Wall time of each step in milliseconds, without the first ones.
    pub milliseconds: Vec<f64>,
    pub median_ms: f64,
    /// The most memory in use at a time: on a card that of tensors and workspaces, on the CPU that of the process.
    pub peak_bytes: u64,
    pub finite: bool,
}

impl Step<'_> {
    /// The losses' sum and, without an update, the gradient of every parameter of E.
    pub fn gradients(&self) -> Result<Outcome> {
        let items: Vec<u64> = (0..self.cell.batch as u64).collect();
        let sampled = self.streams.sample(&self.inversion, None, &items, self.device)?;
        let pass = objective::forward(&self.objective, &self.inversion.encoder, self.generator, &sampled.batch(), Which::Live)?;
        let mut out = Vec::new();
        for groups in &self.objective.recipe().optimizer.steps {
            let Some(total) = pass.losses.total(groups)? else { continue };
            let grads = total.backward()?;
            out.push(total.detach());
            for param in self.optimizer.params() {
                if let Some(grad) = grads.get(param.var.as_tensor()) {
                    out.push(grad.detach());
                }
            }
        }
        Ok(out.into_iter().map(|t| t.to_device(&Device::Cpu)).collect::<candle_core::Result<_>>()?)
    }

    fn run(&mut self) -> Result<bool> {
        let batch = self.cell.batch as u64;
        let items: Vec<u64> = (self.items..self.items + batch).collect();
        self.items += batch;
        let sampled = self.streams.sample(&self.inversion, None, &items, self.device)?;
        let pass = objective::forward(&self.objective, &self.inversion.encoder, self.generator, &sampled.batch(), Which::Live)?;
        objective::steps(&self.objective, &pass.losses, &mut self.optimizer, self.objective.recipe().optimizer.lr)?;
        // Reading the losses waits for the card.
        let finite = pass.losses.values()?.iter().all(|(_, v)| v.is_finite());
        self.device.synchronize()?;
        Ok(finite)
    }

    /// `count` steps after two that are not counted.
    pub fn time(&mut self, count: usize) -> Result<Timing> {
        let mut finite = self.run()? && self.run()?;
        machine::reset_peak_memory_of(self.device);
        let mut milliseconds = Vec::new();
        for _ in 0..count.max(1) {
            let start = Instant::now();
            finite &= self.run()?;
            milliseconds.push(start.elapsed().as_secs_f64() * 1e3);
        }
        let mut sorted = milliseconds.clone();
        sorted.sort_by(f64::total_cmp);
        let peak_bytes = machine::peak_memory_of(self.device);
        Ok(Timing { cell: self.cell.name(), median_ms: sorted[sorted.len() / 2], milliseconds, peak_bytes, finite })
    }
}
